"""The layers of training on a GPU, computed here on the CPU: they are torch's own up to rounding."""

import pytest
import torch
from learned_positions import learned_positions

from kmed_bench.asr.model.execution import project
from kmed_bench.asr.model.gpu_layers import fused_projections, project_audio
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import TrainConfig
from kmed_bench.training import adapt, cuda
from kmed_bench.training.batches import IGNORED
from kmed_bench.training.cuda.compiled import compile_function
from kmed_bench.training.loss import LossNetwork, output_loss


@pytest.mark.parametrize("names", [("query",), ("key", "value"), ("query", "key", "value")])
def test_one_product_gives_every_projection_and_its_gradients(tiny_checkpoint, names):
    attention = load_weights(tiny_checkpoint).decoder.blocks[0].attn
    found = []
    for way in (fused_projections, project):
        attention.zero_grad()
        x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        parts = way(attention, x, *names)
        sum((part * (i + 1)).square().sum() for i, part in enumerate(parts)).backward()
        found.append((parts, x.grad, [p.grad for p in attention.parameters() if p.grad is not None]))
    assert [part.shape for part in found[0][0]] == [(2, 2, 5, 32)] * len(names)
    torch.testing.assert_close(found[0], found[1])


def test_the_audio_of_all_blocks_is_each_ones(tiny_checkpoint):
    model = load_weights(tiny_checkpoint)
    features = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(1))
    found = project_audio(model.decoder.blocks, features)
    wanted = [project(block.cross_attn, features, "key", "value") for block in model.decoder.blocks]
    torch.testing.assert_close(found, wanted)


def test_adapted_projections_are_their_own(tiny_checkpoint):
    """An adapter changes what its layer computes, so weights alone must not be used."""
    torch.manual_seed(0)
    model = load_weights(tiny_checkpoint)
    adapt.prepare(model, TrainConfig(lora_rank=2))
    attention = model.decoder.blocks[0].attn
    torch.nn.init.normal_(attention.query.lora_B["default"].weight)
    x = torch.randn(1, 4, 64)
    found = fused_projections(attention, x, "query", "key", "value")
    torch.testing.assert_close(found, project(attention, x, "query", "key", "value"), atol=0, rtol=0)


@pytest.mark.parametrize("n_vocab", [51865, 128])
def test_a_padded_vocabulary_is_the_vocabulary(n_vocab):
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, n_vocab, (32,), generator=generator)
    labels[20:] = IGNORED
    found = []
    for way in (cuda.output_loss, output_loss):
        # No logit above 0, where a padded token's would be: it must neither be chosen nor count.
        rows = (torch.rand(32, 16, generator=torch.Generator().manual_seed(3)) + 0.1).requires_grad_()
        weight = (-torch.rand(n_vocab, 16, generator=torch.Generator().manual_seed(4)) - 0.1).requires_grad_()
        loss, best = way(rows, weight, labels)
        found.append((loss, best, *torch.autograd.grad(loss, (rows, weight))))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_the_networks_own(tiny_checkpoint, precision):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randint(0, 50_000, (2, 16), generator=generator)
    targets = inputs.roll(-1, dims=1)
    targets[:, :3] = IGNORED
    mel = torch.randn(2, 80, 3000, generator=generator)
    found = []
    for on_gpu in (False, True):
        model = load_weights(tiny_checkpoint)
        network = LossNetwork(model, precision)
        if on_gpu:
            network._execution, network._output_loss = cuda.execution(compiled=False), cuda.output_loss
        loss, _ = network(mel, inputs, targets, learned_positions(targets))
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (loss, gradient), (expected, whole) = found
    assert loss == pytest.approx(expected, rel=1e-6 if precision == "fp32" else 2e-3)
    assert (gradient - whole).norm() < (1e-5 if precision == "fp32" else 2e-2) * whole.norm()


def test_what_does_not_compile_runs_as_written(caplog):
    def block(x):
        return x + 1

    class Failing(torch._dynamo.exc.TorchDynamoException):
        pass

    run = compile_function(block)

    def fail(*_given):
        raise Failing("no compiler")

    # The compiled function is what the wrapper calls first.
    cell = next(c for c in run.__closure__ if callable(c.cell_contents) and c.cell_contents is not block)
    cell.cell_contents = fail
    assert run(torch.zeros(2)).tolist() == [1, 1]
    assert run(torch.ones(2)).tolist() == [2, 2]
    assert len([m for m in caplog.messages if "torch.compile failed (Failing)" in m]) == 1
