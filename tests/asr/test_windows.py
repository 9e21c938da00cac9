import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.whisper import attend, encode, encode_thinned, split_heads
from kmed_bench.asr.model.windows import DECODING, TRAINING
from kmed_bench.training.cpu_bf16.layers import training_layers
from kmed_bench.training.loss import LossNetwork


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


@pytest.mark.parametrize("n_frames", [2, 500, 2892, 2944, 2962, 2966, 3000])
@pytest.mark.parametrize("thinning", [TRAINING, DECODING])
def test_every_position_is_stood_for_once(n_frames, thinning):
    chosen, counts = thinning.positions(n_frames)
    assert sum(counts) == 1500
    assert chosen == sorted(set(chosen))
    n_whole = min(n_frames // 2 + thinning.margin, 1500)
    assert chosen[:n_whole] == list(range(n_whole))
    assert len(chosen) <= n_whole + thinning.groups
    assert counts[:n_whole] == [1] * n_whole
    assert len(set(counts[n_whole:-1])) <= 1
    torch.testing.assert_close(thinning.bias(n_frames).exp(), torch.tensor(counts).float())
    starts = [sum(counts[:i]) for i in range(len(counts))]
    assert all(s <= c < s + n for s, c, n in zip(starts, chosen, counts, strict=True))


def test_a_key_that_counts_n_times_is_n_keys(tiny):
    attention = tiny.encoder.blocks[0].attn
    torch.manual_seed(0)
    x, keys, values = torch.randn(2, 5, 64), torch.randn(2, 2, 3, 32), torch.randn(2, 2, 3, 32)
    counts = torch.tensor([1, 8, 3])
    with torch.inference_mode():
        found = attend(attention, x, keys, values, bias=counts.log())
        repeated = [t.repeat_interleave(counts, dim=2) for t in (keys, values)]
        torch.testing.assert_close(found, attend(attention, x, *repeated), atol=1e-5, rtol=1e-5)


def test_a_clip_that_fills_the_window_is_encoded_whole(tiny):
    mel = torch.randn(2, 80, 3000)
    with torch.inference_mode():
        features, bias = encode_thinned(tiny, mel, 3000, TRAINING)
        torch.testing.assert_close(features, encode(tiny, mel), atol=1e-5, rtol=1e-5)
    assert bias.tolist() == [0.0] * 1500


@pytest.mark.parametrize("thinning", [TRAINING, DECODING])
@pytest.mark.parametrize("n_frames", [1, 201, 900, 2879, 2893, 2894, 2961, 2999])
def test_the_first_frames_are_enough(tiny, n_frames, thinning):
    """What the convolutions would hear of the rest is what they hear of the silence after the clip."""
    mel = torch.full((1, 80, 3000), -1.5)
    mel[:, :, :n_frames] = torch.randn(80, n_frames, generator=torch.Generator().manual_seed(2))
    encoder = tiny.encoder
    with torch.inference_mode():
        short, bias = encode_thinned(tiny, mel[:, :, : thinning.frames(n_frames)], n_frames, thinning)
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        whole = thinning.frames(n_frames) == 3000
        chosen, counts = thinning.positions(n_frames)
        x = x[:, chosen] + encoder.positional_embedding[chosen]
        for block in encoder.blocks:
            normed, attention = block.attn_ln(x), block.attn
            keys, values = (split_heads(linear(normed), 2) for linear in (attention.key, attention.value))
            x = x + attend(attention, normed, keys, values, bias=torch.tensor(counts).log())
            x = x + block.mlp(block.mlp_ln(x))
        expected = encoder.ln_post(x)
    torch.testing.assert_close(bias, torch.tensor(counts).log())
    # The window's last position borders on nothing, and stands for a group of its own where the rest is short.
    n = len(chosen) - (chosen[-1] == 1499 and not whole)
    torch.testing.assert_close(short[:, :n], expected[:, :n], atol=2e-3 if n < len(chosen) else 1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_it_teaches_is_the_full_windows(tiny, precision):
    """Gradients are far nearer to those of the 30 s window than those of a window cut to the clip."""
    generator = torch.Generator().manual_seed(4)
    mel = torch.full((2, 80, 3000), -1.5)
    mel[:, :, :240] = torch.randn(2, 80, 240, generator=generator)
    inputs = torch.randint(0, 50_000, (2, 9), generator=generator)
    model = copy.deepcopy(tiny)

    def gradient(frames, thin_after=None):
        model.zero_grad()
        with training_layers(model, precision):
            LossNetwork(model, precision)(frames, inputs, inputs.roll(-1, dims=1), thin_after=thin_after)[0].backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    full = gradient(mel)
    thinned, cut = gradient(mel[:, :, : TRAINING.frames(240)], 240), gradient(mel[:, :, :240])
    assert (thinned - full).norm() < 0.3 * (cut - full).norm()


def test_afterwards_attention_is_whispers_again(tiny):
    with torch.inference_mode():
        encode_thinned(tiny, torch.randn(1, 80, 3000), 200, DECODING)
    assert not any("qkv_attention" in vars(module) for module in tiny.modules())


@pytest.mark.parametrize(("thinning", "most", "worst"), [(TRAINING, 0.2, 0.25), (DECODING, 0.02, 0.02)])
def test_silence_is_thinned_and_the_clip_is_not(tiny, thinning, most, worst):
    """What a constant silence would add is kept: the clip's own positions come out nearly as in the full window."""
    torch.manual_seed(1)
    mel = torch.full((1, 80, 3000), -1.5)
    mel[:, :, :200] = torch.randn(80, 200)
    with torch.inference_mode():
        features, bias = encode_thinned(tiny, mel, 200, thinning)
        whole = encode(tiny, mel)
        n_whole = 100 + thinning.margin
        cut = encode(tiny, mel[:, :, : 2 * n_whole])
    group = math.ceil((1500 - n_whole) / thinning.groups)
    assert features.shape == (1, n_whole + math.ceil((1500 - n_whole) / group), 64)
    assert bias[:n_whole].tolist() == [0.0] * n_whole
    assert bias[n_whole].item() == pytest.approx(math.log(group))
    error, of_cutting = features[:, :n_whole] - whole[:, :n_whole], cut - whole[:, :n_whole]
    assert error.norm() < most * of_cutting.norm()
    assert error.abs().max() < worst * of_cutting.abs().max()


def test_split_heads_keeps_every_number():
    x = torch.arange(24.0).reshape(1, 3, 8)
    assert split_heads(x, 2)[0, 1, 2].tolist() == x[0, 2, 4:].tolist()


def test_decoding_takes_it_as_a_context(tiny, tone_part, tmp_path):
    store = build_features(tone_part, tmp_path)
    names = tone_part["utterance_id"].tolist()
    clips = list(decode_clips(tiny, store, names, batch_size=5, context="dynamic", precision="fp32", max_new_tokens=8))
    assert sorted(clip.utterance_id for clip in clips) == sorted(names)
