"""What benchmarks/gpu.py measures and keeps, on the CPU with models of one layer."""

import dataclasses
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kmed_bench.training.batches import epoch_order

PEERS = ("transformers", "accelerate", "ctranslate2")
FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def models():
    return importlib.import_module("gpu_models")


@pytest.fixture
def bench(models, tmp_path):
    return models.Bench(torch.device("cpu"), tmp_path, ("tiny",), True, None, None, time.perf_counter() + 60)


def rates(train, validated, decode):
    found = {}
    for size in ("tiny", "base", "small"):
        found[f"training {size} full"] = {"clips_per_s": train, "validated_clips_per_s": validated}
        found[f"decoding {size} bf16"] = {"clips_per_s": decode}
    return found


def test_the_prediction_is_the_published_experiments_clips_over_the_rates():
    predict = importlib.import_module("gpu").predict
    predicted = predict(rates(100.0, 500.0, 250.0))
    # 3 seeds of 20 epochs: 600,000 clips trained and 300,000 validated and decoded for each size
    assert predicted["tiny"] == {"train_s": 6000.0, "validate_s": 600.0, "decode_s": 1200.0}
    assert predicted["one_after_the_other_s"] == pytest.approx(3 * 7800)
    assert "training_of_three_seeds_at_once_s" not in predicted
    at_once = {"seeds slots": {"over_one_alone": 1.5}, "seeds slots, MPS": {"over_one_alone": 2.0}}
    gained = predict(rates(100.0, 500.0, 250.0) | at_once)
    assert gained["three_at_once"] == "slots, MPS"
    assert gained["training_of_three_seeds_at_once_s"] == pytest.approx(3 * 4800)


def test_the_prediction_names_the_sizes_that_were_not_measured():
    found = rates(100.0, 500.0, 250.0)
    found["decoding small bf16"] = {"error": "out of memory"}
    predicted = importlib.import_module("gpu").predict(found)
    assert predicted["missing"] == ["small"]
    assert "one_after_the_other_s" not in predicted


def test_targets_are_missed_met_or_not_measured():
    found = {"training base full": {"clips_per_s": 569.0}, "decoding base bf16": {"clips_per_s": 999.0}}
    found["peers transformers"] = {"over_ours": {"median": 6.0, "low": 5.0, "high": 7.0}}
    judged = importlib.import_module("gpu").judge(found)
    assert {name: target["met"] for name, target in judged.items()} == {
        "training base full": True,
        "decoding base bf16": False,
        "peers transformers": True,
        "peers transformers compiled": None,
    }


def test_each_section_has_its_share_and_what_was_left():
    gpu = importlib.import_module("gpu")
    assert sum(gpu.SHARES.values()) == pytest.approx(1)
    assert gpu.limit_of("machine", gpu.SECTIONS, 480, 480) == pytest.approx(0.06 * 480)
    assert gpu.limit_of("training", gpu.SECTIONS, 480, 478) == pytest.approx(0.31 * 480 - 2)
    assert gpu.limit_of("peers", ["training", "peers"], 100, 60) == pytest.approx(60)
    # The section after the slowest possible ones still has its share.
    left = 480.0
    for name in gpu.SECTIONS:
        limit_s = gpu.limit_of(name, gpu.SECTIONS, 480, left)
        assert limit_s == pytest.approx(gpu.SHARES[name] * 480)
        left -= limit_s


def test_a_peer_that_is_not_installed_is_left_out_with_a_word(bench, models, monkeypatch):
    assert models.left_out("torch") is None
    here = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name in PEERS else here(name))
    peers, decoding = importlib.import_module("gpu_peers"), importlib.import_module("gpu_decoding")
    found = [
        peers.compare(bench, None, "transformers"),
        decoding.by_transformers(bench, None, [], None, 1),
        decoding.by_ctranslate2(bench, None, [], 1),
    ]
    assert [each["left_out"] for each in found] == [
        "transformers, accelerate: not installed",
        "transformers: not installed",
        "ctranslate2, transformers: not installed",
    ]


def test_noise_has_labels_and_lengths_of_speech(models, bench):
    clips = models.load_clips(bench)
    assert clips.source == "noise"
    assert len(clips.examples) == 12
    assert all(2 <= seconds <= 12 for seconds in clips.part["duration_s"])
    assert all(0 < len(e.tokens) - 5 <= 40 for e in clips.examples)
    assert clips.part["text"].nunique() > 6


def test_repeated_clips_have_the_features_of_their_originals(models, bench):
    clips = models.load_clips(bench)
    examples = clips.repeated(30)
    assert len({e.utterance_id for e in examples}) == 30
    features, first = models.Repeated(clips.store), examples[13]
    original = first.utterance_id.partition("#")[0]
    assert features.n_frames(first.utterance_id) == first.n_frames == clips.store.n_frames(original)
    assert torch.equal(features.window([first.utterance_id], 400), clips.store.window([original], 400))
    fewer = clips.repeated(4)
    assert [e.n_frames for e in fewer] == sorted(e.n_frames for e in fewer)


def test_the_clock_measures_whole_blocks_after_the_warm_up(bench):
    training, turns = (importlib.import_module(name) for name in ("gpu_training", "turns"))
    clock = training.Clock(bench, training.Steps(warm_up=2, block=3, blocks=2), time.perf_counter() + 60)
    for _ in range(7):
        time.sleep(0.01)
        clock()
    time.sleep(0.01)
    with pytest.raises(turns.Enough):  # after the eighth step, and not before
        clock()
    assert len(clock.seconds) == 2
    assert all(0.03 <= seconds < 0.3 for seconds in clock.seconds)


@pytest.mark.slow
def test_training_is_measured_and_its_share_of_the_product(models, bench):
    training = importlib.import_module("gpu_training")
    clips, steps = models.load_clips(bench), training.Steps(warm_up=1, block=1, blocks=2)
    found = training.measure(bench, clips, "tiny", "dynamic", steps, 60)
    assert found["blocks"] == 2
    assert 0 < found["low"] <= found["clips_per_s"] <= found["high"]
    examples = clips.repeated((steps.measured + steps.profiled) * 4)
    done = [
        importlib.import_module("train").operations(batch, models.ONE_LAYER, "dynamic")
        for batch in epoch_order(examples, 4, seed=0, epoch=1)[1:3]
    ]
    peak = found["matmul_tflops"] * 1e12
    assert min(done) / 4 * found["low"] / peak <= found["share_of_matmul"] <= max(done) / 4 * found["high"] / peak


@pytest.mark.slow
def test_trainings_at_once_are_measured_together_and_learn_as_alone(bench, models):
    seeds, training = importlib.import_module("gpu_seeds"), importlib.import_module("gpu_training")
    bench = dataclasses.replace(bench, ends_s=time.perf_counter() + 600)
    models.load_clips(bench)
    found = seeds.at_once(bench, [0, 1], training.Steps(1, 1, 1))
    assert len(found["of_each"]) == 2
    assert found["clips_per_s"] == pytest.approx(sum(found["of_each"]))
    assert found["losses"][0] != found["losses"][1]
    assert found["losses"][1] == seeds.first_losses(bench, models.load_clips(bench), 1)
    assert "left_out" in seeds.compare(bench, training.Steps(1, 1, 1), found, mps=True)  # no daemon on a CPU


@pytest.mark.slow
def test_a_steps_operations_are_counted_without_its_views(bench, models):
    counts = importlib.import_module("gpu_counts")
    watched, x = counts.Counts(), torch.ones(4, 4)
    with watched:
        y = x.t() @ x  # a view and a product
        y += 1
        float(y.sum())  # a sum, and a read
    assert watched.found() == {
        "operations": 3,
        "views": 1,
        "reads": 1,
        "copies": 0,
        "allocations": 2,
        "allocated_bytes": 16 * 4 + 4,
    }
    clips = models.load_clips(bench)
    training, decoding = (count(bench, clips, "tiny") for count in (counts.count_training, counts.count_decoding))
    assert training["reads"] == decoding["reads"] == 0
    # 280 and 75 with torch 2.14: a layer more or a cast for each token would be seen.
    assert 200 < training["operations"] < 320
    assert 50 < decoding["operations"] < 90


@pytest.mark.slow
def test_losses_are_the_cpus_and_equal_texts_are_counted(models, bench):
    quality, decode = importlib.import_module("gpu_quality"), importlib.import_module("kmed_bench.asr.decoding.decode")
    clips = models.load_clips(bench)
    assert quality.losses(bench, clips, "fp32")[0] == pytest.approx(10.86, abs=0.3)  # the logarithm of the vocabulary
    names = clips.part["utterance_id"].tolist()[:3]
    decoded = decode.decode_clips(bench.model("base"), clips.store, names, decode.DecodingOptions())
    texts = {clip.utterance_id: clip.text for clip in decoded}
    two = {names[0]: "another text", names[1]: texts[names[1]]}
    found = quality.compare_texts(bench, clips, {"all": texts | {"elsewhere": "another corpus"}, "two": two})
    assert found["clips"] == {"all": 3, "two": 2}
    assert found["fp32, batch 8"] == {"all": 3, "two": 1}


@pytest.mark.slow
def test_a_section_that_fails_or_runs_late_keeps_what_it_found_and_the_others(tmp_path):
    path = tmp_path / "result.json"
    command = [
        sys.executable,
        FOLDER / "gpu.py",
        "--device=cpu",
        "--tiny",
        "--only",
        "machine",
        "quality",
        "prediction",
    ]
    run = subprocess.run([*command, f"--texts={tmp_path}/none.json", f"--json={path}"], capture_output=True, text=True)
    found = json.loads(path.read_text())
    assert run.returncode == 1
    assert found["machine"]["matmul_tflops"] > 0
    assert len(found["quality losses"]["bf16"]) == 8
    assert "exit status 1" in found["quality"]["error"]  # the file of texts is not there
    assert found["prediction"]["missing"] == ["tiny", "base", "small"]
    late = {}
    assert not importlib.import_module("gpu").run_section("training", ["--device=cpu", "--folder=x"], 0.01, late)
    assert late["training"] == {"error": "stopped after 0 s"}
