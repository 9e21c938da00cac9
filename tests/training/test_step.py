"""What a step reads from the device, and what a faulty one leaves behind."""

import dataclasses
import itertools
import sys

import pytest
import torch
from host_reads import HostReads, Uploads, move_to_meta

from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.config import TrainConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.training import adapt, cuda, fit, step
from kmed_bench.training.batches import IGNORED, LEARNED_STEP, batch_window, label_tensors, make_batch
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.sources import LogMelSource
from kmed_bench.training.step import Stepper
from kmed_bench.training.step_results import Sums

CONFIG = TrainConfig(batch_size=3, lr=1e-3, precision="fp32", audio_context="dynamic")


@pytest.fixture
def stepper_of(tiny_checkpoint):
    def build(**options):
        torch.manual_seed(0)
        model, config = load_weights(tiny_checkpoint), dataclasses.replace(CONFIG, **options)
        trained = adapt.prepare(model, config)
        optimizer = torch.optim.AdamW(trained, lr=config.lr, fused=True)
        network = LossNetwork(model, config.precision, recompute=config.gradient_checkpointing)
        return model, Stepper(model, network, optimizer, config, config.precision, Parallel())

    return build


def maker(store, prepared=None):
    """Return what makes batches, beforehand for the parts in ``prepared``."""

    def make(examples):
        window = batch_window(examples, "dynamic")
        return make_batch(examples, store.window([e.utterance_id for e in examples], window.n_frames), window)

    made = {tuple(part): make(part) for part in prepared or ()}
    return lambda examples: made.get(tuple(examples)) or make(examples)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16"},
        {"micro_batches": 3},
        {"grad_clip": 0.5},
        {"lora_rank": 4},
        {"freeze_encoder": True},
        {"gradient_checkpointing": True},
        {"precision": "fp16", "grad_clip": 0.5},
    ],
    ids=str,
)
def test_a_step_reads_nothing_from_the_device(stepper_of, examples, store, options):
    _, stepper = stepper_of(**options)
    batches = list(chunks(examples[:9], 3))
    pieces = [part for batch in batches for part in chunks(batch, 3 // stepper.micro_batches)]
    make, reads = maker(store, pieces), HostReads()
    with reads.watching():
        for number, batch in enumerate(batches):
            stepper.take(batch, make, lr=1e-3, where=f"step {number}")
    assert reads.found == []
    assert stepper.n_waiting == 3
    with reads.watching():
        stepper.collect()
    # All losses and norms at once, then all tokens at once, which the CPU decodes.
    assert reads.found[:2] == ["tolist", "cpu"]
    assert set(reads.found[2:]) == {"tolist"}
    assert stepper.n_waiting == 0


READS = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "__bool__": lambda x: 1 if x[0] else 2,
    "__float__": lambda x: float(x.sum()),
    "__int__": lambda x: int(x[0]),
    "__index__": lambda x: x[: x[1].long()],
    "index": lambda x: x[x > 1],
    "index_put_": lambda x: x.__setitem__(x > 1, 0.0),
    "nonzero": lambda x: torch.where(x > 1),
    "masked_select": lambda x: x.masked_select(x > 1),
    "equal": lambda x: torch.equal(x, x),
    "_unique2": torch.unique,
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x.long()),
}


@pytest.mark.parametrize("name", READS)
def test_the_counter_sees_every_kind_of_read(name):
    reads = HostReads()
    with reads.watching():
        READS[name](torch.arange(4.0))
    assert name in reads.found


def test_the_counter_sees_nothing_else():
    reads, x = HostReads(), torch.arange(4.0)
    with reads.watching():
        torch.where(x > 1, x, 0).sum() + x[torch.tensor([0, 1])].max() + x.masked_fill(x > 1, 0).argmax()
    assert reads.found == []


MODES = [
    {},
    {"audio_context": "full"},
    {"micro_batches": 2, "grad_clip": 0.5},
    {"lora_rank": 4},
    {"freeze_encoder": True},
    {"gradient_checkpointing": True},
    {"spec_augment": True},
    {"schedule": "cosine", "warmup_steps": 2},
]


@pytest.mark.parametrize("options", MODES, ids=str)
def test_a_training_reads_its_device_once_an_interval(monkeypatch, tiny_checkpoint, examples, store, options):
    """`fit` with a GPU's layers on the meta device, where a copy to the host fails, which is nothing on a CPU."""
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(fit, "mean_loss", lambda *_, **__: 0.0)
    monkeypatch.setattr(cuda, "applies", lambda *_: True)
    monkeypatch.setattr(step, "_GPU_READ_EVERY", 3)
    collected, uploads = [], []

    def collect(stepper):
        collected.append(stepper.n_waiting)
        stepper._waiting.clear()
        stepper.collected = []
        return Sums(1.0, 1, 0, 1)

    monkeypatch.setattr(step.Stepper, "collect", collect)
    model = load_weights(tiny_checkpoint)
    move_to_meta(model)
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=2, **options)
    clips = examples[:10]
    with Uploads() as device:

        def tick(*_counts):
            uploads.append(device.n_uploads)

        assert len(list(fit.fit(model, clips, LogMelSource(store), clips, store, config, seed=0, progress=tick))) == 1
    assert device.n_updates == 5
    assert collected == [3, 2]
    # The audio, inputs, targets and learned positions of each micro-batch; a new window's two tensors, which are kept.
    for before, after in itertools.pairwise(uploads):
        assert after - before - 4 * config.micro_batches in ((0,) if "audio_context" in options else (0, 2))


def test_steps_collected_together_are_the_same(stepper_of, examples, store):
    """When results are read changes neither the sums nor the weights."""
    batches, make = list(chunks(examples[:9], 3)), maker(store)
    (each, one_by_one), (whole, at_once) = stepper_of(), stepper_of()
    loss, tokens, errors = 0.0, 0, 0
    for batch in batches:
        one_by_one.take(batch, make, lr=1e-3, where="")
        sums = one_by_one.collect()
        loss, tokens, errors = loss + sums.loss, tokens + sums.tokens, errors + sums.errors
        at_once.take(batch, make, lr=1e-3, where="")
    together = at_once.collect()
    assert (together.loss, together.tokens, together.errors) == (loss, tokens, errors)
    assert tokens == sum(len(e.tokens) - 4 for e in examples[:9])
    assert all(torch.equal(a, b) for a, b in zip(each.parameters(), whole.parameters(), strict=True))
    assert at_once.collect().tokens == 0  # nothing is counted twice


def test_a_faulty_step_is_named_later_and_never_reaches_the_weights(stepper_of, examples, store):
    batches, make = list(chunks(examples[:9], 3)), maker(store)

    def spoilt(examples):
        batch = make(examples)
        return dataclasses.replace(batch, audio=torch.full_like(batch.audio, torch.nan))

    model, stepper = stepper_of()
    for number, batch in enumerate(batches, start=1):
        stepper.take(batch, spoilt if number == 2 else make, lr=1e-3, where=f"step {number}")
    clips = ", ".join(e.utterance_id for e in batches[1])
    with pytest.raises(KmedError, match=rf"The loss is nan .* at step 2 \(utterances {clips}\)"):
        stepper.collect()
    other, without = stepper_of()
    for batch in (batches[0], batches[2]):
        without.take(batch, make, lr=1e-3, where="")
    for ours, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_padded_batches_have_the_shapes_of_their_tokens(examples):
    tokenizer = korean_tokenizer()
    shapes = set()
    for n in (1, 2, 3):
        for chosen in chunks(examples, n):
            inputs, targets, learned = label_tensors(chosen, tokenizer, pad_to=3)
            shapes.add((inputs.shape, learned.shape))
            assert len(inputs) == len(targets) == 3
            assert len(learned) % LEARNED_STEP == 0
            wanted = [token for clip in chosen for token in clip.tokens[4:]]
            found = targets.flatten()[learned]
            assert found[: len(wanted)].tolist() == wanted
            assert (found[len(wanted) :] == IGNORED).all()
            assert (targets[len(chosen) :] == IGNORED).all()
    assert len(shapes) == len({inputs for inputs, _ in shapes})


@pytest.mark.parametrize("pad_to", [3, 5])
def test_padding_changes_neither_loss_nor_gradients(tiny_checkpoint, examples, store, pad_to):
    found = []
    for padded in (None, pad_to):
        model = load_weights(tiny_checkpoint)
        mel = store.window([e.utterance_id for e in examples[:3]], 1000)
        batch = make_batch(examples[:3], mel, FULL_WINDOW, pad_to=padded)
        assert len(batch.tensors()[0]) == len(batch.inputs) == (padded or 3)
        loss, best = LossNetwork(model, "fp32")(*batch.tensors())
        loss.backward()
        n_learned = sum(len(e.tokens) - 4 for e in examples[:3])
        found.append((loss, best[:n_learned], [p.grad for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
