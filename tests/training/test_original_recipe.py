"""The original's loss and CER: golden values, an independent computation, and its training step."""

import pytest
import torch

from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import TrainConfig
from kmed_bench.training.batches import build_examples
from kmed_bench.training.original_recipe import (
    original_batch,
    original_cer,
    original_loss,
    original_losses,
    original_optimizer,
    original_step,
    texts_of,
)

CONFIG = TrainConfig(batch_size=4, max_len=80)
TOKENIZER = korean_tokenizer()
GOLDEN_LOSS, GOLDEN_CER = 10.966047, 83.558824


@pytest.fixture(scope="module")
def store(tone_part, tmp_path_factory):
    return build_features(tone_part, tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def examples(tone_part, store):
    found, _ = build_examples(tone_part, store, policy="pronunciation", max_len=80, tokenizer=TOKENIZER)
    return found[:6]  # a batch of four and one of two


@pytest.fixture
def model(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


def test_a_batch_is_the_originals(examples, store):
    mel = store.window([e.utterance_id for e in examples], 3000)
    batch = original_batch(examples, mel, 80, TOKENIZER)
    assert batch.inputs.shape == batch.labels.shape == (6, 80)
    eot, sot = TOKENIZER.eot, TOKENIZER.sot
    for example, inputs, labels in zip(examples, batch.inputs.tolist(), batch.labels.tolist(), strict=True):
        n = len(example.tokens)
        assert labels == [*example.tokens, *[eot] * (80 - n)]
        assert inputs == [eot, *labels[:-1]]
        assert inputs[:2] == [eot, sot]
        assert n < 30  # most of what the loss averages over is padding
    wide = original_batch(examples, mel, 8, TOKENIZER)
    assert wide.labels.shape == (6, max(len(e.tokens) for e in examples))


def test_golden_values(model, examples, store):
    loss, cer = original_losses(model, examples, store, CONFIG)
    assert loss == pytest.approx(GOLDEN_LOSS, abs=1e-4)
    assert cer == pytest.approx(GOLDEN_CER, rel=0.01)  # the most likely of nearly equal tokens may differ by machine


def test_the_loss_is_the_mean_over_batches_of_unmasked_means(model, examples, store):
    """Clip by clip with openai-whisper's own forward, every position weighed alike within its batch."""
    means = []
    for batch in (examples[:4], examples[4:]):
        losses = []
        for example in batch:
            labels = torch.tensor([*example.tokens, *[TOKENIZER.eot] * (80 - len(example.tokens))])
            inputs = torch.cat([torch.tensor([TOKENIZER.eot]), labels[:-1]])[None]
            with torch.inference_mode():
                logits = model(store.window([example.utterance_id], 3000), inputs)[0]
            losses.append(-logits.log_softmax(dim=-1)[torch.arange(80), labels])
        means.append(torch.stack(losses).mean())
    loss, _ = original_losses(model, examples, store, CONFIG)
    assert loss == pytest.approx(torch.stack(means).mean().item(), abs=1e-5)
    assert loss != pytest.approx(torch.stack([means[0], means[0], means[1]]).mean().item(), abs=1e-6)


def test_nothing_is_trained_and_no_gradient_kept(model, examples, store):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    original_losses(model, examples, store, CONFIG)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_texts_leave_special_tokens_out_wherever_they_stand(examples):
    rows = torch.tensor([[TOKENIZER.eot, *TOKENIZER.encode(" 열이"), TOKENIZER.sot, *TOKENIZER.encode(" 나요")]])
    assert texts_of(rows, TOKENIZER) == ["열이 나요"]
    assert texts_of(torch.tensor([examples[0].tokens]), TOKENIZER) == [examples[0].text]


def test_the_cer_counts_spaces_and_punctuation_over_all_clips():
    assert original_cer(["열이 나요.", "네"], ["열이나요", "네네"]) == pytest.approx((2 + 1) / (6 + 1))


@pytest.mark.slow
def test_a_step_is_adamw_on_the_unmasked_loss(model, tiny_checkpoint, examples, store):
    examples = examples[:2]
    batch = original_batch(examples, store.window([e.utterance_id for e in examples], 3000), 80, TOKENIZER)
    twin = load_weights(tiny_checkpoint)
    loss, best = original_step(model, original_optimizer(model, 1e-3), batch)
    twin_loss, twin_best = original_loss(twin, batch)
    assert loss == pytest.approx(twin_loss.item())
    assert torch.equal(best, twin_best)
    twin_loss.backward()
    # The first step of Adam moves each weight by lr times the gradient's sign, as far as epsilon lets it; no decay.
    for (name, after), before in zip(model.named_parameters(), twin.parameters(), strict=True):
        gradient = before.grad
        expected = before - 1e-3 * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(after, expected, atol=1e-6), name
    assert original_loss(model, batch)[0].item() < loss


@pytest.mark.slow
def test_training_on_padding_is_learned_first(model, examples, store):
    """Why the original's loss is no measure of words: a few steps and the padding is known."""
    examples = examples[:2]
    optimizer = original_optimizer(model, 1e-2)
    batch = original_batch(examples, store.window([e.utterance_id for e in examples], 3000), 80, TOKENIZER)
    for _ in range(8):
        loss, best = original_step(model, optimizer, batch)
    padding = torch.stack([torch.arange(80) >= len(e.tokens) for e in examples])
    assert (best[padding] == TOKENIZER.eot).float().mean() > 0.95
    assert (best[~padding] == batch.labels[~padding]).float().mean() < 0.7
    assert loss < 4
