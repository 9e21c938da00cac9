"""What a step reads from the device, and what a faulty one leaves behind."""

import contextlib
import dataclasses
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.config import TrainConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.training import adapt
from kmed_bench.training.batches import IGNORED, LEARNED_STEP, batch_window, label_tensors, make_batch
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.step import Stepper

CONFIG = TrainConfig(batch_size=3, lr=1e-3, precision="fp32", audio_context="dynamic")

# Each of these makes the host wait for a GPU: it needs a value, or a shape that depends on values.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")
METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


class HostReads(TorchDispatchMode):
    """Counts what reads a tensor's values, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in READS or any(i is not None and i.dtype == torch.bool for i in indices):
            self.found.append(name)
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count operations, and the methods of tensors that are none."""

        def noted(name):
            method = getattr(torch.Tensor, name)

            def call(tensor, *args, **kwargs):
                self.found.append(name)
                return method(tensor, *args, **kwargs)

            return mock.patch.object(torch.Tensor, name, call)

        with contextlib.ExitStack() as stack:
            for name in METHODS:
                stack.enter_context(noted(name))
            stack.enter_context(self)
            yield


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


def test_the_counter_sees_what_it_should():
    reads, x = HostReads(), torch.arange(4.0)
    with reads.watching():
        x[x > 1], float(x[0]), x.nonzero(), bool(x.any()), x.cpu()
        torch.where(x > 1, x, 0).sum()
    assert {"index", "__float__", "nonzero", "__bool__", "cpu"} <= set(reads.found)


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
