import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from learned_positions import learned_positions

from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.execution import split_heads, torch_attention
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.windows import (
    DECODING,
    FULL_WINDOW,
    TRAINING,
    Window,
    bucket_frames,
    pooled_window,
)
from kmed_bench.training.loss import LossNetwork


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


CPU = torch.device("cpu")


@pytest.mark.parametrize("n_frames", [2, 500, 2892, 2944, 2962, 2966, 3000])
@pytest.mark.parametrize("pooling", [TRAINING, DECODING])
def test_every_position_is_represented_once(n_frames, pooling):
    window = pooled_window(n_frames, pooling)
    counts, positions = window.counts, window.positions(CPU).tolist()
    assert sum(counts) == 1500
    assert positions == sorted(set(positions))
    n_whole = min(n_frames // 2 + pooling.margin, 1500)
    assert positions[:n_whole] == list(range(n_whole))
    assert len(positions) == len(counts) <= n_whole + pooling.groups
    assert set(counts[:n_whole]) == {1}
    assert len(set(counts[n_whole:-1])) <= 1
    starts = [sum(counts[:i]) for i in range(len(counts))]
    assert all(s <= p < s + n for s, p, n in zip(starts, positions, counts, strict=True))
    if window == FULL_WINDOW:
        assert window.log_counts(CPU) is None
    else:
        assert window.n_frames < 3000
        torch.testing.assert_close(window.log_counts(CPU).exp(), torch.tensor(counts).float())


def test_a_batch_is_computed_in_its_longest_clips_bucket_or_in_30_s():
    assert Window.for_clips("full", 100, DECODING) is FULL_WINDOW
    assert Window.for_clips("dynamic", 2999, TRAINING) is FULL_WINDOW
    assert Window.for_clips("dynamic", 130, TRAINING) == pooled_window(bucket_frames(130), TRAINING)
    assert Window.for_clips("dynamic", 130, TRAINING).n_frames == 192 + 2 * 16 + 4
    assert Window.for_clips("dynamic", 130, DECODING).n_frames == 192 + 2 * 50 + 4


def test_a_window_that_decoding_used_first_can_be_trained_in(tiny):
    window = pooled_window(66, TRAINING)
    mel = torch.randn(1, 80, window.n_frames)
    with torch.inference_mode():
        tiny.encode(mel, window)
    tiny.encode(mel, window).features.sum().backward()
    tiny.zero_grad()


def test_a_key_that_counts_n_times_is_n_keys():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(2, 2, 5, 32), torch.randn(2, 2, 3, 32), torch.randn(2, 2, 3, 32)
    counts = torch.tensor([1, 8, 3])
    found = torch_attention(queries, keys, values, counts.log()[None], False)
    repeated = [t.repeat_interleave(counts, dim=2) for t in (keys, values)]
    torch.testing.assert_close(found, torch_attention(queries, *repeated, None, False), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", [TRAINING, DECODING])
@pytest.mark.parametrize("n_frames", [1, 201, 900, 2879, 2893, 2894, 2961, 2999])
def test_the_first_frames_are_enough(tiny, n_frames, pooling):
    """Instead of the window's last frames, the convolutions can take the silence right after the clip."""
    mel = torch.full((1, 80, 3000), -1.5)
    mel[:, :, :n_frames] = torch.randn(80, n_frames, generator=torch.Generator().manual_seed(2))
    encoder, window = tiny.encoder, pooled_window(n_frames, pooling)
    with torch.inference_mode():
        short = tiny.encode(mel[:, :, : window.n_frames], window).features
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        positions, counts = window.positions(CPU), torch.tensor(window.counts)
        x = x[:, positions] + encoder.positional_embedding[positions]
        for block in encoder.blocks:
            normed, attention = block.attn_ln(x), block.attn
            q, k, v = (split_heads(linear(normed), 2) for linear in (attention.query, attention.key, attention.value))
            weights = (q @ k.mT / math.sqrt(32) + counts.log()).softmax(-1)
            x = x + attention.out((weights @ v).transpose(1, 2).flatten(2))
            x = x + block.mlp(block.mlp_ln(x))
        expected = encoder.ln_post(x)
    # The window's last position borders on nothing, and is a group of its own where the rest is short.
    n = len(positions) - (positions[-1].item() == 1499 and not window.is_full)
    torch.testing.assert_close(short[:, :n], expected[:, :n], atol=2e-3 if n < len(positions) else 1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_it_teaches_is_the_full_windows(tiny, precision):
    """Gradients are far nearer to those of the 30 s window than those of a window cut to the clip."""
    generator = torch.Generator().manual_seed(4)
    mel = torch.full((2, 80, 3000), -1.5)
    mel[:, :, :240] = torch.randn(2, 80, 240, generator=generator)
    inputs = torch.randint(0, 50_000, (2, 9), generator=generator)
    model = copy.deepcopy(tiny)

    def gradient(frames, window=FULL_WINDOW):
        model.zero_grad()
        targets = inputs.roll(-1, dims=1)
        LossNetwork(model, precision)(frames, inputs, targets, learned_positions(targets), window)[0].backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    full, pooled, cut = gradient(mel), gradient(mel, pooled_window(240, TRAINING)), gradient(mel[:, :, :240])
    assert (pooled - full).norm() < 0.3 * (cut - full).norm()


@pytest.mark.parametrize(("pooling", "most", "worst"), [(TRAINING, 0.2, 0.25), (DECODING, 0.02, 0.02)])
def test_silence_is_pooled_and_the_clip_is_not(tiny, pooling, most, worst):
    """The silence's influence is kept: the clip's positions are nearly those of the full window."""
    torch.manual_seed(1)
    mel = torch.full((1, 80, 3000), -1.5)
    mel[:, :, :200] = torch.randn(80, 200)
    with torch.inference_mode():
        audio = tiny.encode(mel, pooled_window(200, pooling))
        features, log_counts = audio.features, audio.log_counts
        whole = tiny.encode(mel).features
        n_whole = 100 + pooling.margin
        cut = tiny.encode(mel[:, :, : 2 * n_whole]).features
    group = math.ceil((1500 - n_whole) / pooling.groups)
    assert features.shape == (1, n_whole + math.ceil((1500 - n_whole) / group), 64)
    assert log_counts[:n_whole].tolist() == [0.0] * n_whole
    assert log_counts[n_whole].item() == pytest.approx(math.log(group))
    error, of_cutting = features[:, :n_whole] - whole[:, :n_whole], cut - whole[:, :n_whole]
    assert error.norm() < most * of_cutting.norm()
    assert error.abs().max() < worst * of_cutting.abs().max()


def test_split_heads_keeps_every_number():
    x = torch.arange(24.0).reshape(1, 3, 8)
    assert split_heads(x, 2)[0, 1, 2].tolist() == x[0, 2, 4:].tolist()


def test_decoding_takes_it_as_a_context(tiny, tone_part, tmp_path):
    store = build_features(tone_part, tmp_path)
    names = tone_part["utterance_id"].tolist()
    options = DecodingOptions(batch_size=5, context="dynamic", max_new_tokens=8)
    clips = list(decode_clips(tiny, store, names, options))
    assert sorted(clip.utterance_id for clip in clips) == sorted(names)
