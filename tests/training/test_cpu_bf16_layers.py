"""Training's layers for bf16 on a CPU: the same arithmetic as openai-whisper's."""

import ctypes
import dataclasses
import math
import os
import re
import resource
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from learned_positions import learned_positions

from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.device import gpu_kernels
from kmed_bench.asr.model.execution import STANDARD, torch_attention
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import TrainConfig
from kmed_bench.training import cpu_bf16
from kmed_bench.training.batches import IGNORED, LEARNED_STEP, build_examples
from kmed_bench.training.cpu_bf16.layers import Attention, Normalization, attention
from kmed_bench.training.fit import fit
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.sources import LogMelSource
from kmed_bench.training.state import StateKeeper
from kmed_bench.training.step import total_norm


def batch(n_frames=500):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randint(0, 50_000, (3, 12), generator=generator)
    targets = inputs.roll(-1, dims=1)
    targets[:, :3], targets[1, 8:] = IGNORED, IGNORED
    return torch.randn(3, 80, n_frames, generator=generator), inputs, targets, learned_positions(targets)


def gradients(model, precision, given, execution=None, **options):
    model.zero_grad()
    network = LossNetwork(model, precision, **options)
    network._execution = execution or network._execution
    loss, _ = network(*given)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), loss.item()


# 21 heads of 400 × 400 scores: three groups of seven; the others in one group.
@pytest.mark.parametrize("shape", [(2, 6, 50, 50, 64), (3, 7, 400, 400, 16), (1, 3, 33, 120, 16), (1, 1, 1, 1, 8)])
@pytest.mark.parametrize("bias", ["none", "keys", "causal"])
def test_attention_and_its_gradients_are_torchs(shape, bias):
    generator = torch.Generator().manual_seed(5)
    *heads, n_queries, n_keys, d = shape
    q, k, v = (
        torch.randn(*heads, n, d, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (n_queries, n_keys, n_keys)
    )
    added = {
        "none": None,
        "keys": torch.rand(1, n_keys, generator=generator, dtype=torch.float64),
        "causal": torch.full((n_queries, n_keys), -torch.inf, dtype=torch.float64).triu(1),
    }[bias]
    grad = torch.randn(q.shape, generator=generator, dtype=torch.float64)
    ours, theirs = Attention.apply(q, k, v, added), F.scaled_dot_product_attention(q, k, v, added)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), grad), torch.autograd.grad(theirs, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def kinds_of(model, gradient):
    """Return the gradient of each kind of parameter: a small kind's fault would not show in the whole."""
    kinds, start = {}, 0
    for name, parameter in model.named_parameters():
        kind = re.search(r"ln(?=[._])|attn|mlp|conv|embedding", name.replace("attn_ln", "ln").replace("mlp_ln", "ln"))[
            0
        ]
        kinds.setdefault(kind, []).append(gradient[start : start + parameter.numel()])
        start += parameter.numel()
    return {kind: torch.cat(parts) for kind, parts in kinds.items()}


def test_training_layers_stand_as_near_to_fp32_as_autocast_does(tiny_checkpoint):
    model, given = load_weights(tiny_checkpoint), batch()
    exact, loss = gradients(model, "fp32", given)
    plain, plain_loss = gradients(model, "bf16", given, STANDARD)
    ours, our_loss = gradients(model, "bf16", given)
    assert not torch.equal(ours, plain)  # they did compute otherwise
    exact, plain, ours = (kinds_of(model, found) for found in (exact, plain, ours))
    assert set(exact) == {"ln", "attn", "mlp", "conv", "embedding"}
    for kind, true in exact.items():
        error, plain_error = ((found[kind] - true).norm() / true.norm() for found in (ours, plain))
        assert error < 1.3 * plain_error, kind
    assert our_loss == pytest.approx(loss, rel=2e-3)
    assert plain_loss == pytest.approx(loss, rel=2e-3)


def test_layer_norm_sums_its_weights_gradients_in_fp32():
    generator = torch.Generator().manual_seed(5)
    x, grad = (torch.randn(2, 1700, 64, generator=generator, dtype=torch.bfloat16) for _ in range(2))
    weight, bias = (torch.randn(64, generator=generator).requires_grad_() for _ in range(2))
    found = torch.autograd.grad(Normalization.apply(x.requires_grad_(), weight, bias, 1e-5), (x, weight, bias), grad)
    wide = x.detach().float().requires_grad_()
    expected = torch.autograd.grad(F.layer_norm(wide, (64,), weight, bias), (wide, weight, bias), grad.float())
    torch.testing.assert_close(found[0].float(), expected[0], atol=2e-2, rtol=1e-2)  # rounded once, to bf16
    torch.testing.assert_close(found[1:], expected[1:], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("n_learned", [1, 32, 33])
def test_padded_learned_tokens_count_for_nothing(tiny_checkpoint, n_learned):
    model, (mel, inputs, *_) = load_weights(tiny_checkpoint), batch(128)
    inputs, targets = inputs.repeat(1, 2), torch.full((3, 24), IGNORED)
    targets.view(-1)[-n_learned:] = torch.arange(100, 100 + n_learned)
    logits = model.decoder(inputs, model.encode(mel).features).flatten(0, 1)[-n_learned:]
    expected = F.cross_entropy(logits, targets.view(-1)[-n_learned:], reduction="sum")
    learned = F.pad(learned_positions(targets), (0, -n_learned % LEARNED_STEP))
    loss, likeliest = LossNetwork(model, "fp32")(mel, inputs, targets, learned)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(likeliest[:n_learned], logits.argmax(dim=-1))
    found, true = (torch.autograd.grad(each, model.decoder.ln.bias)[0] for each in (loss, expected))
    torch.testing.assert_close(found, true)


_CAPACITY = "import os, kmed_bench.asr.model.device; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"


@pytest.mark.slow
@pytest.mark.parametrize(("given", "kept"), [({}, "8192"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}, "512")])
def test_compiled_products_are_kept_unless_told_otherwise(given, kept):
    usual = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    ran = subprocess.run(
        [sys.executable, "-c", _CAPACITY], env={**usual, **given}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == kept


def test_only_bf16_on_a_cpu_is_computed_by_them(tiny_checkpoint):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert cpu_bf16.applies("bf16", cpu)
    assert not any(cpu_bf16.applies(*other) for other in (("fp32", cpu), ("fp16", cpu), ("bf16", gpu), ("fp32", gpu)))
    network = LossNetwork(load_weights(tiny_checkpoint), "fp32")
    assert network._execution == STANDARD


@pytest.mark.parametrize("causal", [False, True])
def test_without_a_backward_attention_is_torchs_kernel(causal):
    q, k, v = torch.randn(3, 1, 2, 6, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(attention(q, k, v, None, causal), torch_attention(q, k, v, None, causal))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_the_same_gradients(tiny_checkpoint, precision):
    model, given = load_weights(tiny_checkpoint), batch()
    plain, _ = gradients(model, precision, given)
    recomputed, _ = gradients(model, precision, given, recompute=True)
    torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)


def test_learned_tokens_alone_give_whispers_own_loss_and_gradients(tiny_checkpoint):
    """The output layer on learned tokens, and one gradient of the embedding's two uses, change nothing."""
    model, (mel, inputs, targets, learned) = load_weights(tiny_checkpoint), batch()
    ours, loss = gradients(model, "fp32", (mel, inputs, targets, learned))
    _, best = LossNetwork(model, "fp32")(mel, inputs, targets, learned)
    model.zero_grad()
    logits = model.decoder(inputs, model.encode(mel).features)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    expected.backward()
    theirs = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert best.tolist() == logits.argmax(dim=-1)[targets != IGNORED].tolist()


def test_decoder_states_are_the_decoders(tiny_checkpoint):
    model, (mel, inputs, *_) = load_weights(tiny_checkpoint), batch()
    with torch.inference_mode():
        audio = model.encode(mel)
        states = model.decoder_states(model.decoder.token_embedding(inputs), audio)
        logits = model.decoder.ln(states) @ model.decoder.token_embedding.weight.T
        torch.testing.assert_close(logits, model.decoder(inputs, audio.features), atol=1e-4, rtol=1e-4)


def test_a_gpu_leaves_cudnns_attention_out_and_only_meanwhile():
    def flags():
        cuda = torch.backends.cuda
        return (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        )

    assert flags() == (True, True, True, True)
    with gpu_kernels(torch.device("cuda")):
        assert flags() == (True, True, True, False)
    with gpu_kernels(torch.device("cpu")):
        assert flags() == (True, True, True, True)
    assert flags() == (True, True, True, True)


def test_the_norm_of_gradients_is_theirs_together():
    gradients = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([12.0]), torch.zeros(2, 2, 2)]
    assert total_norm(gradients).item() == pytest.approx(13.0)
    assert math.isnan(total_norm([*gradients, torch.tensor([math.nan])]).item())
    assert total_norm([torch.tensor([math.inf])]).item() == math.inf


COUNT_FAULTS = """
import resource, torch
from kmed_bench.training.cpu_bf16.malloc import retain_freed_memory

def faults(megabytes=64):
    # Tensors of 64 MB, each of which glibc asks the system for.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

plain = faults()
with retain_freed_memory(torch.device("cpu")):
    torch.ones(16 * 2**20)
    kept, held = faults(), resident()
print(plain, kept, held - resident(), faults(16))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_used_again_inside_and_given_back_afterwards():
    """In a process of its own: what other tests left in the heap would count."""
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    plain, kept, given_back, smaller = map(int, done.stdout.split())
    pages = 64 * 2**20 // resource.getpagesize()
    assert plain >= 18 * pages
    assert kept < plain / 2
    assert given_back > pages / 2
    assert smaller < 10 * pages / 4  # tensors of 16 MB are kept, as in a process that never trained: not all 20 are new


@pytest.mark.slow
def test_training_in_bf16_resumes_bit_for_bit(tiny_checkpoint, tone_part, tmp_path):
    store = build_features(tone_part, tmp_path / "frames")
    examples, _ = build_examples(tone_part, store, policy="pronunciation", max_len=80, tokenizer=korean_tokenizer())
    config = TrainConfig(epochs=2, batch_size=4, lr=1e-3, precision="bf16", audio_context="dynamic", checkpoint_steps=1)

    def run(folder, *, resume=False, stop_at=None):
        def progress(step, _steps):
            if step == stop_at:
                raise RuntimeError("killed")

        model, states = load_weights(tiny_checkpoint), StateKeeper(folder, "f", resume=resume)
        results = fit(
            model, examples, LogMelSource(store), examples[:4], store, config, seed=0, states=states, progress=progress
        )
        return model, [dataclasses.replace(result, epoch_s=0.0) for result in results]

    whole, expected = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "killed", stop_at=5)
    resumed, found = run(tmp_path / "killed", resume=True)
    assert found == expected[1:]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
