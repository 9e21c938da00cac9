import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.config import TrainConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.training.batches import make_batch
from kmed_bench.training.fit import fit, mean_loss
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.sources import LogMelSource

CONFIG = TrainConfig(epochs=3, batch_size=4, lr=1e-3, precision="fp32", audio_context="dynamic")


def run(checkpoint, examples, store, config=CONFIG, seed=0):
    model = load_weights(checkpoint)
    return model, list(fit(model, examples[:8], LogMelSource(store), examples[8:], store, config, seed=seed))


@pytest.mark.slow
def test_training_lowers_the_loss_and_counts_epochs(tiny_checkpoint, examples, store):
    _, results = run(tiny_checkpoint, examples, store)
    assert [r.epoch for r in results] == [1, 2, 3]
    assert results[0].train_loss > results[1].train_loss > results[2].train_loss
    assert results[0].valid_loss > results[2].valid_loss
    assert results[0].train_cer_teacher_forced > results[2].train_cer_teacher_forced > 0


@pytest.mark.slow
def test_one_seed_is_one_result_bit_for_bit(tiny_checkpoint, examples, store):
    first, results = run(tiny_checkpoint, examples, store)
    second, again = run(tiny_checkpoint, examples, store)
    assert [r.train_loss for r in results] == [r.train_loss for r in again]
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    others = [run(tiny_checkpoint, examples, store, seed=seed)[1][0].train_loss for seed in (1, 2, 3)]
    assert set(others) != {results[0].train_loss}


def test_the_loss_is_one_division_over_words_and_ends(tiny_checkpoint, examples, store):
    """The reported mean equals cross-entropy computed clip by clip, unpadded, with openai-whisper's own forward."""
    model = load_weights(tiny_checkpoint)
    total, n_tokens = 0.0, 0
    for example in examples:
        mel = store.window([example.utterance_id], 3000)
        tokens = torch.tensor([example.tokens])
        with torch.inference_mode():
            logits = model(mel, tokens[:, :-1])
        learned = tokens[0, 4:]
        total += F.cross_entropy(logits[0, 3:], learned, reduction="sum").item()
        n_tokens += len(learned)
    full = TrainConfig(precision="fp32", audio_context="full", batch_size=5)
    assert mean_loss(model, examples, store, full, "fp32") == pytest.approx(total / n_tokens, abs=1e-5)


def test_an_untrained_model_is_as_good_as_chance(tiny_checkpoint, examples, store):
    model = load_weights(tiny_checkpoint)
    assert mean_loss(model, examples, store, CONFIG, "fp32") == pytest.approx(math.log(51865), rel=0.35)


def test_warm_up_starts_small(tiny_checkpoint, examples, store):
    """In the first epoch of a warm-up of five steps AdamW moves no weight by more than the steps' rates."""
    slow = TrainConfig(**{**vars(CONFIG), "warmup_steps": 5, "lr": 1e-4, "weight_decay": 0.0})
    model = load_weights(tiny_checkpoint)
    next(fit(model, examples[:8], LogMelSource(store), examples[8:], store, slow, seed=0))
    start = load_weights(tiny_checkpoint)
    moved = max((a - b).abs().max().item() for a, b in zip(model.parameters(), start.parameters(), strict=True))
    assert 0 < moved < 1e-4 * (1 / 5 + 2 / 5) * 1.01


def test_a_loss_that_is_not_finite_names_step_and_clips(tiny_checkpoint, examples, store):
    wild = TrainConfig(**{**vars(CONFIG), "lr": 1e30})
    with pytest.raises(
        KmedError, match=r"The loss is (nan|inf) and its gradient's norm .+ at epoch \d+, step \d+ \(utterances PA_"
    ):
        run(tiny_checkpoint, examples, store, wild)


def test_batches_pad_without_effect_on_the_loss(tiny_checkpoint, examples, store):
    """Label padding changes nothing: the batch's summed loss is the sum of its clips'."""
    model = load_weights(tiny_checkpoint)
    with torch.inference_mode():
        network = LossNetwork(model, "fp32")

        def loss(chosen):
            mel = store.window([e.utterance_id for e in chosen], FULL_WINDOW.n_frames)
            batch = make_batch(chosen, mel, FULL_WINDOW)
            return network(*batch.tensors())[0].item()

    assert loss(examples[:4]) == pytest.approx(sum(loss([e]) for e in examples[:4]), abs=1e-3)
