import collections

import pytest
import torch

from kmed_bench.training.augment import choose_speeds, spec_augment

FACTORS = (0.9, 1.0, 1.1)


def clips(n_frames: list[int], window: int) -> torch.Tensor:
    mel = torch.randn(len(n_frames), 80, window, generator=torch.Generator().manual_seed(3))
    for clip, frames in zip(mel, n_frames, strict=True):
        clip[:, frames:] = -1.5
    return mel


def drawing(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000 + epoch)


def names(n: int) -> list[str]:
    return [f"PA_{i:04d}" for i in range(n)]


def bands(clip: torch.Tensor, before: torch.Tensor, frames: int) -> tuple[list[int], list[int]]:
    """Mel channels masked over all of the clip's frames, and frames masked in every channel."""
    changed = (clip != before)[:, :frames]
    return changed.all(dim=1).nonzero().flatten().tolist(), changed.all(dim=0).nonzero().flatten().tolist()


def test_one_band_of_each_kind_within_the_policys_bounds():
    n_frames = [300] * 400
    mel = clips(n_frames, 300)
    masked = spec_augment(mel, n_frames, drawing(1, 1))
    widths, lengths = [], []
    for clip, before in zip(masked, mel, strict=True):
        channels, times = bands(clip, before, 300)
        assert channels == list(range(channels[0], channels[-1] + 1)) if channels else True
        assert times == list(range(times[0], times[-1] + 1)) if times else True
        expected = torch.zeros(80, 300, dtype=torch.bool)
        expected[channels] = True
        expected[:, times] = True
        assert torch.equal(clip != before, expected)
        assert torch.allclose(clip[expected], before.mean())
        widths.append(len(channels))
        lengths.append(len(times))
    # Uniform up to 27 channels and up to a fifth of 300 frames.
    assert max(widths) == 26
    assert 11 < sum(widths) / 400 < 15
    assert 56 <= max(lengths) < 60
    assert 26 < sum(lengths) / 400 < 33
    assert min(widths) == min(lengths) == 0


def test_a_long_clips_mask_stays_under_a_second_and_padding_is_left():
    n_frames = [2_000] * 100 + [120] * 20
    mel = clips(n_frames, 3_000)
    masked = spec_augment(mel, n_frames, drawing(0, 2))
    lengths = [len(bands(clip, before, n)[1]) for clip, before, n in zip(masked, mel, n_frames, strict=True)]
    assert 90 < max(lengths[:100]) < 100
    assert max(lengths[100:]) < 24
    for clip, frames in zip(masked, n_frames, strict=True):
        assert (clip[:, frames:] == -1.5).all()


def test_masks_do_not_depend_on_the_window():
    n_frames = [200, 150, 90]
    mel = clips(n_frames, 3_000)
    full = spec_augment(mel, torch.tensor(n_frames), drawing(4, 1))
    assert torch.equal(spec_augment(mel[:, :, :200], n_frames, drawing(4, 1)), full[:, :, :200])
    # As a frame store gives its windows: frame by frame in memory.
    by_frame = mel.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(spec_augment(by_frame, n_frames, drawing(4, 1)), full)


def test_masks_follow_seed_and_epoch_and_leave_the_global_generator():
    n_frames = [200] * 8
    mel = clips(n_frames, 200)
    kept = mel.clone()
    state = torch.get_rng_state()
    drawn = {(s, e): spec_augment(mel, n_frames, drawing(s, e)) for s in (0, 1) for e in (1, 2)}
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mel, kept)
    torch.manual_seed(99)
    assert torch.equal(spec_augment(mel, n_frames, drawing(0, 2)), drawn[0, 2])
    pairs = [(a, b) for a in drawn for b in drawn if a < b]
    assert not any(torch.equal(drawn[a], drawn[b]) for a, b in pairs)


def test_a_clip_of_hardly_any_frames_passes():
    mel = clips([2], 4)
    masked = spec_augment(mel, [2], drawing(0, 1))
    assert torch.equal(masked[:, :, 2:], mel[:, :, 2:])


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="mask it on the CPU"):
        spec_augment(torch.empty(1, 80, 10, device="meta"), [10], drawing(0, 1))


def test_speeds_are_equally_likely_and_follow_seed_epoch_and_clip():
    many = names(3_000)
    chosen = choose_speeds(many, FACTORS, seed=0, epoch=1)
    counts = collections.Counter(chosen)
    # 1,000 expected each, standard deviation 26.
    assert all(abs(counts[factor] - 1_000) < 110 for factor in FACTORS)
    assert choose_speeds(many, FACTORS, seed=0, epoch=1) == chosen
    assert choose_speeds(many[::-1], FACTORS, seed=0, epoch=1) == chosen[::-1]
    assert [choose_speeds([name], FACTORS, seed=0, epoch=1)[0] for name in many[:50]] == chosen[:50]
    for seed, epoch in ((0, 2), (1, 1)):
        same = sum(a == b for a, b in zip(choose_speeds(many, FACTORS, seed=seed, epoch=epoch), chosen, strict=True))
        assert abs(same - 1_000) < 110


def test_speeds_are_fixed_across_versions_and_machines():
    assert choose_speeds(names(6), FACTORS, seed=7, epoch=3) == [0.9, 1.1, 1.1, 1.0, 1.0, 1.0]
