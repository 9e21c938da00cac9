"""Every option of training, against what it must be equal to."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.config import TrainConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.training.batches import build_examples
from kmed_bench.training.encoder_outputs import build_encoder_outputs
from kmed_bench.training.fit import fit, mean_loss
from kmed_bench.training.sources import EncoderOutputSource, LogMelSource, SpeedPerturbedSource
from kmed_bench.training.state import StateKeeper
from kmed_bench.training.step import FAULTY_BATCH_NAME

CONFIG = TrainConfig(epochs=2, batch_size=4, lr=1e-3, precision="fp32", audio_context="dynamic")


@pytest.fixture(scope="module")
def train(tiny_checkpoint, examples, store):
    def run(source=None, seed=0, **options):
        model = load_weights(tiny_checkpoint)
        config = dataclasses.replace(CONFIG, **options)
        results = list(fit(model, examples[:9], source or LogMelSource(store), examples[9:], store, config, seed=seed))
        return model, results

    return run


def assert_close(ours, theirs, tolerance):
    (model, results), (other, expected) = ours, theirs
    for one, two in zip(results, expected, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, abs=tolerance)
        assert one.valid_loss == pytest.approx(two.valid_loss, abs=tolerance)
        assert one.train_cer_teacher_forced == pytest.approx(two.train_cer_teacher_forced, abs=1e-9)
    worst = max((a - b).abs().max().item() for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert worst < tolerance


@pytest.mark.slow
def test_golden_losses(train):
    """A change of these is a change of what training computes, and needs a reason in the log."""
    _, dynamic = train()
    _, full = train(audio_context="full")
    assert [r.train_loss for r in dynamic] == pytest.approx(GOLDEN["dynamic"], abs=1e-4)
    assert [r.train_loss for r in full] == pytest.approx(GOLDEN["full"], abs=1e-4)


GOLDEN = {"dynamic": [10.621389, 9.887438], "full": [10.620794, 9.878736]}


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [2, 4])
def test_a_batch_in_pieces_is_the_batch(train, pieces):
    assert_close(train(micro_batches=pieces), train(), 2e-5)


@pytest.mark.slow
def test_recomputed_activations_change_nothing(train):
    assert_close(train(gradient_checkpointing=True), train(), 1e-6)


def test_every_window_is_full_on_a_clip_of_30_s(tmp_path, tone_part, tiny_checkpoint):
    path = tmp_path / "PA_0001-0001.wav"
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal(30 * 16_000), 16_000)
    row = {**tone_part.iloc[0].to_dict(), "utterance_id": path.stem, "audio": str(path), "duration_s": 30.0}
    part = tone_part.iloc[:0].copy()
    part.loc[0] = row
    store = build_features(part, tmp_path / "cache")
    chosen = build_examples(part, store, policy="pronunciation", max_len=80, tokenizer=korean_tokenizer())[0]
    model = load_weights(tiny_checkpoint)
    losses = [
        mean_loss(model, chosen, store, dataclasses.replace(CONFIG, audio_context=context), "fp32")
        for context in ("full", "dynamic")
    ]
    assert losses[1] == losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["full", "dynamic"])
def test_a_frozen_encoder_is_encoded_once(train, tiny_checkpoint, examples, store, cache, context):
    """Training on stored encoder output is training with a frozen encoder, and leaves the encoder alone."""
    start = load_weights(tiny_checkpoint)
    names = [e.utterance_id for e in examples[:9]]
    encoded = build_encoder_outputs(start, store, names, cache, context=context)
    model, results = train(EncoderOutputSource(encoded), freeze_encoder=True, audio_context=context)
    for name, value in start.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    assert results[1].train_loss < results[0].train_loss
    if context == "full":  # dynamic batches are of one bucket, so that their order differs: test_encoder_outputs.py
        assert encoded.load(names[:1], FULL_WINDOW).features.shape == (1, 1500, 64)
        assert_close((model, results), train(freeze_encoder=True, audio_context="full"), 1e-5)


def test_adapters_train_few_weights(train, tiny_checkpoint):
    model, results = train(lora_rank=4, lr=1e-2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < trained < 0.01 * sum(p.numel() for p in model.parameters())
    assert results[1].train_loss < results[0].train_loss


@pytest.mark.slow
def test_masks_and_speeds_depend_on_the_seed_alone(train, tone_part, cache, store):
    speeds = {
        1.0: store,
        0.9: build_features(tone_part, cache, speed=0.9),
        1.1: build_features(tone_part, cache, speed=1.1),
    }
    plain, _ = train()
    for options in ({"spec_augment": True}, {"source": SpeedPerturbedSource(speeds)}):
        first, second = train(**options), train(**options)
        assert_close(first, second, 1e-9)
        assert_close(train(micro_batches=2, **options), first, 2e-5)
        moved = max((a - b).abs().max().item() for a, b in zip(first[0].parameters(), plain.parameters(), strict=True))
        assert moved > 1e-4


@pytest.mark.slow
def test_schedules_reach_the_optimizer(train):
    """With a linear descent the weights move less than with a level rate, and with a cosine's otherwise."""
    runs = {schedule: train(schedule=schedule)[0] for schedule in ("constant", "linear", "cosine")}
    states = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in runs.values()]
    assert len({float(s.double().sum()) for s in states}) == 3


def test_clipping_bounds_the_step_and_names_no_fault(train):
    _, results = train(grad_clip=1e-6, lr=1e-3)
    assert [r.epoch for r in results] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(train, precision):
    """fp16 runs with a loss scaler; its first steps may be left out while the scale comes down."""
    _, half = train(precision=precision)
    _, whole = train()
    assert half[0].train_loss == pytest.approx(whole[0].train_loss, rel=0.1)
    assert half[1].train_loss < half[0].train_loss


def test_a_faulty_batch_is_kept_on_this_machine(tiny_checkpoint, examples, store, tmp_path):
    model = load_weights(tiny_checkpoint)
    with torch.no_grad():
        model.decoder.ln.weight[0] = float("nan")
    states = StateKeeper(tmp_path, "f", resume=False)
    with pytest.raises(KmedError, match=r"The loss is nan .* at epoch 1, step 1 .*kept in") as caught:
        list(fit(model, examples[:8], LogMelSource(store), examples[8:], store, CONFIG, seed=0, states=states))
    kept = torch.load(tmp_path / FAULTY_BATCH_NAME, weights_only=True)
    assert len(kept["utterance_ids"]) == 4
    assert all(name in str(caught.value) for name in kept["utterance_ids"])
    assert kept["audio"].shape[:2] == (4, 80)
    assert (tmp_path / FAULTY_BATCH_NAME).stat().st_mode & 0o777 == 0o600


class Hungry:
    """A frame store that asks the real allocator for a petabyte when it is to give more than so many clips."""

    def __init__(self, store, most):
        self.store, self.most = store, most

    def n_frames(self, utterance_id):
        return self.store.n_frames(utterance_id)

    def window(self, utterance_ids, n_frames):
        if len(utterance_ids) > self.most:
            torch.empty(2**50, dtype=torch.uint8)
        return self.store.window(utterance_ids, n_frames)


def test_lack_of_memory_names_the_remedy(train, store):
    with pytest.raises(KmedError, match=r"Memory ran out at epoch 1, step 2, .*train.micro_batches=2 \(the batch of 4"):
        train(LogMelSource(Hungry(store, 1)))
    with pytest.raises(KmedError, match=r"with 1 clips at once. Set train.gradient_checkpointing"):
        train(LogMelSource(Hungry(store, 0)), micro_batches=4)


@pytest.mark.slow
def test_lack_of_memory_makes_smaller_pieces_of_the_same_batch(tiny_checkpoint, examples, store, train, caplog):
    config = dataclasses.replace(CONFIG, out_of_memory="halve")
    model = load_weights(tiny_checkpoint)
    source = LogMelSource(Hungry(store, 1))
    results = list(fit(model, examples[:9], source, examples[9:], store, config, seed=0))
    assert [line.split(": ")[1] for line in caplog.messages] == [
        f"each batch is computed in {pieces} pieces from here on." for pieces in (2, 4)
    ]
    assert_close((model, results), train(), 2e-5)


@pytest.mark.slow
def test_two_processes_are_one(tone_part, cache, store, tiny_checkpoint, train, tmp_path):
    table, out = tmp_path / "part.parquet", tmp_path / "result.pt"
    tone_part.to_parquet(table)
    worker = Path(__file__).resolve().parents[1] / "data_parallel_worker.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    words = [str(worker), str(tiny_checkpoint), str(table), str(cache), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "--master-port=29511", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = torch.load(out, weights_only=True)
    assert together["world"] == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two has: sums over threads round otherwise
    try:
        alone, results = train()
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(together["results"], results, strict=True):
        for key in ("train_loss", "valid_loss", "train_cer_teacher_forced"):
            assert one[key] == pytest.approx(getattr(two, key), abs=2e-5)
    for name, value in alone.state_dict().items():
        assert (together["model"][name] - value).abs().max() < 2e-5, name
