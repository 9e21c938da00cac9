"""`evaluate --shards`: the same texts and scores for any number of shards, and what the merge refuses."""

import importlib.util
import json
import os
import shutil
import signal
import sys
import textwrap
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fault_table import fault
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper

from kmed_bench.cli import main
from kmed_bench.config import Config, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json
from kmed_bench.core.predictions import Prediction, prediction_of, read_predictions
from kmed_bench.core.schema import PARTS, write_manifest
from kmed_bench.core.sharding import shard_of
from kmed_bench.corpus.splitting.split import build_split, sort_manifest, write_split
from kmed_bench.corpus.splitting.whole import read_speech
from kmed_bench.pipeline.evaluate import evaluate_model
from kmed_bench.pipeline.shards import decode, evaluate, files, merge
from kmed_bench.pipeline.shards.evaluate import decode_chosen, evaluate_in_shards
from kmed_bench.pipeline.shards.files import SHARDS_FOLDER, find_shard_files, shard_path, write_shard_file
from kmed_bench.scoring import long_counts
from kmed_bench.tracking.openings import read_openings

SETTINGS = {"eval.max_new_tokens": 8, "eval.batch_size": 3}
WORDS = ["--eval.max_new_tokens", "8", "--eval.batch_size", "3"]
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "shards.py"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A random model that hears well: most of the clips have a text of their own."""
    path = save_random_whisper(tmp_path_factory.mktemp("model") / "tiny.pt")
    checkpoint = torch.load(path, weights_only=True)
    for name, weights in checkpoint["model_state_dict"].items():
        if "cross_attn" in name and name.endswith(("query.weight", "key.weight", "out.weight")):
            weights.mul_(10)
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture(scope="module")
def clips(tone_part, tmp_path_factory) -> pd.DataFrame:
    """Rows of twelve clips of noise, each in a band of its own."""
    folder = tmp_path_factory.mktemp("clips")
    rows = tone_part.copy()
    for i, name in enumerate(rows["utterance_id"]):
        n, center_hz = int(16_000 * rows["duration_s"][i]), 200 * 1.4**i
        spectrum = np.fft.rfft(np.random.default_rng(i).standard_normal(n))
        band = np.exp(-(((np.fft.rfftfreq(n, 1 / 16_000) - center_hz) / (0.3 * center_hz)) ** 2))
        samples = np.fft.irfft(spectrum * band, n) * (1 + np.sin(2 * np.pi * (1 + i) * np.arange(n) / 16_000))
        soundfile.write(folder / f"{name}.wav", 0.3 * samples / np.abs(samples).max(), 16_000)
        rows.loc[i, "audio"] = str(folder / f"{name}.wav")
    return rows


@pytest.fixture(scope="module")
def split(clips, tmp_path_factory) -> Path:
    """A split whose valid part has ten of the twelve clips: no opening of a test part is recorded for it."""
    return write_parts(clips, tmp_path_factory.mktemp("split"))


def write_parts(rows: pd.DataFrame, out: Path) -> Path:
    table = sort_manifest(rows)
    ends = {"train": (0, 1), "valid": (1, len(table) - 1), "test": (len(table) - 1, len(table))}
    parts = {name: table.iloc[slice(*ends[name])].reset_index(drop=True) for name in PARTS}
    config = {"train": 1, "valid": 10, "test": 1, "by": ("gender",), "disjoint": (), "seed": 0, "tolerance": 0.005}
    write_split(build_split(table, parts, config, {"method": "ten"}), out)
    return out


def settings(**more: str) -> Config:
    return load_config("sound", {**SETTINGS, **{name.replace("__", "."): value for name, value in more.items()}})


@pytest.fixture(scope="module")
def whole(model, split, tmp_path_factory) -> Path:
    """What `evaluate` writes without shards."""
    out = tmp_path_factory.mktemp("whole")
    evaluate_model(settings(), model, split, "valid", out)
    return out


def texts(out: Path) -> list[dict[str, Any]]:
    """The predictions, but for the time that each took."""
    lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "decode_s"} for line in lines]


def figures(out: Path) -> dict[str, Any]:
    """The scores, but for what times and memory decide."""
    return {key: value for key, value in read_json(out / "scores.json").items() if key not in ("decode", "speed")}


@pytest.mark.parametrize("context", ["full", "dynamic"])
def test_any_number_of_shards_gives_what_none_gives(model, split, tmp_path, monkeypatch, context):
    monkeypatch.setattr(decode, "BLOCK_CLIPS", 3)
    config = settings(eval__audio_context=context)
    evaluate_model(config, model, split, "valid", tmp_path / "whole")
    for n_shards in ("1", "3", "16"):
        out = tmp_path / n_shards
        evaluate_in_shards(config, model, split, "valid", out, shards=n_shards)
        assert texts(out) == texts(tmp_path / "whole")
        assert figures(out) == figures(tmp_path / "whole")
        speed, alone = (read_json(folder / "scores.json")["speed"] for folder in (out, tmp_path / "whole"))
        assert speed.keys() == alone.keys()
        assert {key: speed[key] for key in ("parameters", "model_bytes", "machine")} == {
            key: alone[key] for key in ("parameters", "model_bytes", "machine")
        }
        assert not (out / SHARDS_FOLDER).exists()
    assert len({one["hypothesis"] for one in texts(tmp_path / "whole")}) > 4  # a text depends on what is heard


def test_shards_are_private_kept_and_divided_by_the_ids_hashes(model, split, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    said = decode_chosen(settings(), model, split, "valid", out, shards="4", chosen="1-2")
    assert said.startswith("Shards 1-2 of 4: 2 decoded, 0 kept")
    names = {one["utterance_id"] for one in texts(whole)}
    files = {file.head["shard"]: file for file in find_shard_files(out)}
    assert list(files) == [1, 2]
    for shard, file in files.items():
        held = [line.prediction.utterance_id for line in file.lines()]
        assert held == sorted(name for name in names if shard_of(name, 4) == shard)
        assert file.head["n_clips"] == len(held)
        assert file.path.stat().st_mode & 0o777 == 0o600
    assert (out / SHARDS_FOLDER).stat().st_mode & 0o777 == 0o700
    assert not (out / "predictions.jsonl").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / SHARDS_FOLDER).glob("*.jsonl")}
    evaluate_settings = settings(eval__min_group_clips="3")  # scoring may change between the shards and their merge
    monkeypatch.setattr("kmed_bench.pipeline.shards.evaluate.remove_shards", lambda _: None)
    evaluate_in_shards(evaluate_settings, model, split, "valid", out, shards="4")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert texts(out) == texts(whole)
    said = decode_chosen(evaluate_settings, model, split, "valid", out, shards="4", chosen="0")
    assert "holds this evaluation already" in said


def spoil_gap(out: Path) -> None:
    path = shard_path(out, 1, 3)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def spoil_end(out: Path) -> None:
    path = shard_path(out, 1, 3)
    path.write_bytes(path.read_bytes()[:-10])


def spoil_short(out: Path) -> None:
    """A shard of a part that has grown since: its own first line agrees with what it holds."""
    path = shard_path(out, 1, 3)
    (file,) = [one for one in find_shard_files(out) if one.path == path]
    *lines, _ = list(file.lines())
    write_shard_file(out, file.head, [line.prediction for line in lines])


def spoil_duplicate(out: Path) -> None:
    path = shard_path(out, 1, 3)
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def spoil_foreign(out: Path) -> None:
    ours, other = shard_path(out, 1, 3), shard_path(out, 2, 3)
    lines = ours.read_bytes().splitlines(keepends=True)
    ours.write_bytes(b"".join([lines[0], other.read_bytes().splitlines(keepends=True)[1]]))


def spoil_copied(out: Path) -> None:
    shard_path(out, 1, 3).write_bytes(shard_path(out, 2, 3).read_bytes())


def spoil_text(out: Path) -> None:
    path = shard_path(out, 1, 3)
    path.write_bytes(path.read_bytes().replace(b'"role": "patient"', b'"role": "doctors"', 1))


def spoil_head(out: Path) -> None:
    path = shard_path(out, 1, 3)
    path.write_bytes(path.read_bytes()[5:])


def spoil_runtime(out: Path) -> None:
    change_head(out, lambda head: head["runtime"]["settings"].update(device="cuda"))


def spoil_release(out: Path) -> None:
    change_head(out, lambda head: head["made_of"].update(release="0.1"))


def spoil_missing(out: Path) -> None:
    shard_path(out, 1, 3).unlink()


def change_head(out: Path, change, shard: int = 1) -> None:
    path = shard_path(out, shard, 3)
    line, rest = path.read_bytes().split(b"\n", 1)
    head = json.loads(line)
    change(head)
    path.write_bytes(json.dumps(head).encode() + b"\n" + rest)


WHOLE_SHARDS = "the other shards; no predictions are written"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            spoil_missing,
            r"1 of 3 shards \(1\) are not in .*; decode them with --shard 1, or leave --merge-only out",
            marks=fault(
                "a shard is missing in `--merge-only`", sees="its number and how to decode it", survives="the others"
            ),
        ),
        (spoil_end, r"00001-of-00003.jsonl, line \d+ is damaged; remove it, and the same"),
        pytest.param(
            spoil_gap,
            r"00001-of-00003.jsonl is not what its first line says .*; remove it, and the same",
            marks=fault("a shard's file lost a line", sees="its name, and to remove it", survives=WHOLE_SHARDS),
        ),
        (spoil_short, r"00001-of-00003.jsonl holds \d utterances, and .*valid.parquet has \d of shard 1, or others"),
        pytest.param(
            spoil_duplicate,
            r"00001-of-00003.jsonl, line \d+ has utterance '.*' again; remove it",
            marks=fault("a shard has an utterance twice", sees="file, line and utterance", survives=WHOLE_SHARDS),
        ),
        (spoil_foreign, r"00001-of-00003.jsonl, line 2 has utterance '.*', which is of shard 2"),
        (spoil_copied, r"00001-of-00003.jsonl says that it is shard 2 of 3: it was renamed or copied"),
        (spoil_text, r"00001-of-00003.jsonl is not what its first line says"),
        (spoil_head, r"00001-of-00003.jsonl, line 1 is damaged; remove it, and the same"),
        pytest.param(
            spoil_runtime,
            r"00001-of-00003.jsonl was decoded with device 'cuda', and 00000-of-00003.jsonl with 'cpu'",
            marks=fault(
                "shards were decoded by unlike devices", sees="what differs, in which file", survives=WHOLE_SHARDS
            ),
        ),
        (spoil_release, r"00001-of-00003.jsonl is of another release of kmed-bench, and shards that are joined must"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(joinable, split, model, tmp_path, spoil, message):
    out = tmp_path / "out"
    for file in find_shard_files(joinable):
        target = out / SHARDS_FOLDER / file.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.path.read_bytes())
    spoil(out)
    with pytest.raises(KmedError, match=message):
        evaluate_in_shards(settings(), model, split, "valid", out, shards="3", merge_only=True)
    assert {path.name for path in out.iterdir()} == {SHARDS_FOLDER, "kmed-bench.log"}


def test_processes_may_have_other_numbers_of_threads(joinable, model, split, whole, tmp_path):
    """As runtimes state it that are not torch's: the share of the cores that a slot, or another machine, has."""
    out = tmp_path / "out"
    shutil.copytree(joinable / SHARDS_FOLDER, out / SHARDS_FOLDER)
    for shard, threads in enumerate((2, 8, 2)):
        change_head(out, lambda head, n=threads: head["runtime"]["settings"].update(threads=n), shard)
    scores = evaluate_in_shards(settings(), model, split, "valid", out, shards="3", merge_only=True)
    assert texts(out) == texts(whole)
    assert scores["runtime"]["settings"]["threads"] == "2, 8"


@pytest.fixture(scope="module")
def joinable(model, split, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("joinable")
    decode_chosen(settings(), model, split, "valid", out, shards="3", chosen="0-2")
    return out


def test_shards_of_another_evaluation_are_not_gone_on_with(joinable, model, split):
    for config, part, shards, message in (
        (settings(eval__beam_size="2"), "valid", "3", "is of other settings of decoding, and shards"),
        (settings(), "train", "3", "is of another file of utterances|is of the part valid"),
        (settings(), "valid", "4", r"holds shards of 3 .*, and these are 4; go on with --shards 3"),
    ):
        with pytest.raises(KmedError, match=message):
            evaluate_in_shards(config, model, split, part, joinable, shards=shards)
        with pytest.raises(KmedError, match=message):
            decode_chosen(config, model, split, part, joinable, shards=shards, chosen="0")


def test_processes_that_are_given_the_same_shards_divide_them(model, split, whole, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []
    write = decode.write_shard_file

    def write_with_company(out, head, predictions):
        """While shard 0 is at work here, another process begins with all that it may have."""
        written.append(head["shard"])
        if head["shard"] == 0:
            said = decode_chosen(settings(), model, split, "valid", out, shards="4", chosen="1-2")
            assert said.startswith("Shards 1-2 of 4: 2 decoded")
        return write(out, head, predictions)

    monkeypatch.setattr(decode, "write_shard_file", write_with_company)
    evaluate_in_shards(settings(), model, split, "valid", out, shards="4")
    assert written == [0, 1, 2, 3]
    assert texts(out) == texts(whole)


@pytest.mark.parametrize("first", ["the other process", "this process"])
@fault(
    "two processes join the same shards",
    sees="nothing: the one that waited finds them joined",
    survives="the results, written once; no shard is decoded again",
)
def test_shards_are_joined_once(model, split, whole, tmp_path, monkeypatch, first):
    out, finish, calls = tmp_path / "out", evaluate.decode_shards, []
    words = (settings(), model, split, "valid", out)

    def finish_with_company(*given: Any) -> dict[int, str]:
        """The other process decodes what is missing, joins all and removes the shards."""
        calls.append(given)
        if len(calls) > 1:
            return finish(*given)
        failed = finish(*given) if first == "this process" else {}
        evaluate_in_shards(*words, shards="3")
        return failed or finish(*given)

    monkeypatch.setattr(evaluate, "decode_shards", finish_with_company)
    evaluate_in_shards(*words, shards="3")
    assert texts(out) == texts(whole)
    assert figures(out) == figures(whole)
    calls.clear()
    (out / "scores.json").unlink()
    assert decode_chosen(*words, shards="3", chosen="0").startswith("Shards 0 of 3")
    assert sorted(path.name for path in out.iterdir()) == ["kmed-bench.log", "predictions.jsonl", "scores.json"]


@fault(
    "a process that decodes a shard is killed",
    sees="the same command goes on with the blocks that are missing",
    survives="every block that was finished",
)
def test_a_killed_process_loses_one_block(model, split, whole, tmp_path, monkeypatch):
    program = textwrap.dedent("""
        import os, signal, sys
        from kmed_bench.cli import main
        from kmed_bench.pipeline.shards import decode

        write = decode.write_shard_file
        def write_and_die(out, head, predictions):
            written = write(out, head, predictions)
            if head["block"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return written

        decode.BLOCK_CLIPS, decode.write_shard_file = 3, write_and_die
        main(sys.argv[1:])
    """)
    out = tmp_path / "out"
    words = ["evaluate", model, str(split), str(out), "--part", "valid", "--shards", "1", *WORDS]
    died = forked.run(program, words, cwd=tmp_path, env=dict(os.environ))
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    names = sorted(path.name for path in (out / SHARDS_FOLDER).glob("*.jsonl"))
    assert names == ["00000-of-00001.block-00000.jsonl", "00000-of-00001.block-00001.jsonl"]
    monkeypatch.setattr(decode, "BLOCK_CLIPS", 3)
    decoded: list[int] = []
    write = decode.write_shard_file
    monkeypatch.setattr(
        decode, "write_shard_file", lambda out, head, p: decoded.append(head["block"]) or write(out, head, p)
    )
    evaluate_in_shards(settings(), model, split, "valid", out, shards="1")
    assert decoded == [2, 3]
    assert texts(out) == texts(whole)


@fault(
    "a clip of one shard can't be read",
    sees="the shard and the clip's reason at the end",
    survives="the other shards; once the clip is there, the same command decodes the one shard",
)
def test_a_clip_that_can_t_be_read_fails_its_shard_alone(model, clips, tmp_path):
    rows = clips.copy()
    moved = tmp_path / "moved.wav"
    rows.loc[3, "audio"] = str(moved)
    whole_audio = Path(clips["audio"][3]).read_bytes()
    moved.write_bytes(whole_audio)
    split, out = write_parts(rows, tmp_path / "split"), tmp_path / "out"
    moved.unlink()
    shard = shard_of(rows["utterance_id"][3], 3)
    with pytest.raises(KmedError, match=rf"1 of 3 shards \({shard}\) could not be decoded, .*moved.wav"):
        evaluate_in_shards(settings(), model, split, "valid", out, shards="3")
    assert {file.head["shard"] for file in find_shard_files(out)} == {0, 1, 2} - {shard}
    moved.write_bytes(whole_audio)
    evaluate_in_shards(settings(), model, split, "valid", out, shards="3")
    assert len(texts(out)) == 10


def test_the_run_of_the_whole_has_the_shards_times_and_one_opening(model, clips, tmp_path, capsys):
    manifest = tmp_path / "manifest.parquet"
    write_manifest(sort_manifest(clips), manifest)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = ["evaluate", model, str(manifest), str(tmp_path / "out"), "--shards", "3", "--tracking.uri", uri, *WORDS]
    assert main([*words, "--shard", "0,2"]) == 0
    assert "Shards 0,2 of 3: 2 decoded, 0 kept" in capsys.readouterr().out
    assert main(words) == 0
    client = MlflowClient(uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    (run,) = [run for run in runs if run.data.tags.get("kmed.kind") == "evaluate"]
    times = client.get_metric_history(run.info.run_id, "shard/wall_s")
    assert [point.step for point in times] == [0, 1, 2]
    assert run.data.metrics["shards/n"] == 3
    assert run.data.metrics["shards/wall_s_sum"] == pytest.approx(sum(point.value for point in times))
    assert len(read_openings(uri, read_speech(manifest).sha256)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "0"], "--shard 0 needs --shards N"),
        (["--shards", "0"], "--shards is '0'; give auto"),
        (["--shards", "two"], "--shards is 'two'; give auto"),
        (["--shards", "9999"], "or a number from 1 to 4,096"),
        (["--shards", "3", "--shard", "3"], "--shard is '3', and 3 shards are numbered 0 to 2"),
        (["--shards", "3", "--shard", "-1"], "--shard is '-1'; give numbers from 0"),
        (["--shards", "3", "--shard", "0-1", "--slots", "2"], "--shard 0-1 is done by one process, and --slots is 2"),
        (["--merge-only"], "--merge-only joins shards: give it with --shards N"),
        (["--shards", "3", "--eval.leak_clips", "5"], "leave one of the two out"),
    ],
)
def test_wrong_words_are_named(split, tmp_path, capsys, words, message):
    assert main(["evaluate", "base", str(split), str(tmp_path / "out"), "--part", "valid", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_processes_of_slots_share_the_shards(model, split, whole, tmp_path):
    out = tmp_path / "out"
    words = ["evaluate", model, str(split), str(out), "--part", "valid", "--shards", "3", *WORDS]
    program = "import sys; from kmed_bench.cli import main; sys.exit(main())"
    done = forked.run(program, [*words, "--slots", "2", "--threads", "1"], cwd=tmp_path, env=dict(os.environ))
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert "shards 0,2 begins in slot 1." in said
    assert "shards 1 begins in slot 2." in said
    assert texts(out) == texts(whole)
    processes = {line.split()[2] for line in (out / "kmed-bench.log").read_text().splitlines() if "Shard " in line}
    assert len(processes) == 2


@pytest.fixture(scope="module")
def stub() -> ModuleType:
    """benchmarks/shards.py, whose model writes texts that depend on the id alone."""
    spec = importlib.util.spec_from_file_location("benchmark_shards", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_many_clips_give_equal_files_and_are_never_held(stub, tmp_path, monkeypatch):
    """Of a clip only its counts are kept; benchmarks/shards.py measures whole processes of 100,000."""
    monkeypatch.setattr(decode, "BLOCK_CLIPS", 300)
    monkeypatch.setattr(long_counts, "_AT_A_TIME", 200)
    speech, n_clips = tmp_path / "clips" / "manifest.parquet", 2_000
    stub.write_corpus(speech, n_clips, 50)
    whole = stub.evaluate(speech, tmp_path / "whole", stub.WHOLE)
    alive: weakref.WeakSet[Prediction] = weakref.WeakSet()
    most, tables = [0], []

    def watch_line(row: Any, place: str) -> Prediction:
        prediction = prediction_of(row, place)
        alive.add(prediction)
        most[0] = max(most[0], len(alive))
        return prediction

    def watch_table(*given: Any) -> pd.DataFrame:
        tables.append(long_counts.count_sorted(*given))
        return tables[-1]

    monkeypatch.setattr(files, "prediction_of", watch_line)
    monkeypatch.setattr(merge, "count_sorted", watch_table)
    for n_shards in (1, 4, 16):
        found = stub.evaluate(speech, tmp_path / str(n_shards), n_shards)
        assert (found["predictions"], found["scores"]) == (whole["predictions"], whole["scores"])
    assert len(read_predictions(tmp_path / "16" / "predictions.jsonl")) == n_clips
    assert 0 < most[0] <= 2 * 200 + 16  # two chunks that are counted, and a line of each shard
    for table in tables:
        assert len(table) == n_clips
        assert table.memory_usage(deep=True).sum() < 200 * n_clips
