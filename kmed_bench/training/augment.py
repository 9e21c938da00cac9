"""Training data varied in each epoch: masked bands of frequency and time, changed speeds.

Nothing here keeps or changes a random state: the caller's generator, or seed and epoch, determine what is drawn, so a
resumed training draws the same.
"""

import hashlib
from collections.abc import Sequence

import torch

from kmed_bench.asr.features.resampling import import_torchaudio

# Policy "LibriSpeech basic" of Park et al. 2019 (SpecAugment, table 1): one mask of up to 27 of 80 mel channels, one of
# up to 100 frames of 10 ms. LibriSpeech's clips last 12 s on average, ours a few; so a time mask is also limited to a
# share of the clip's frames, as in their policies for the shorter calls of Switchboard. There is no time warping, which
# by the paper's section 5 adds least for its cost.
_MAX_CHANNELS = 27
_MAX_FRAMES = 100
_MAX_SHARE_OF_TIME = 0.2


def spec_augment(mel: torch.Tensor, n_frames: Sequence[int] | torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return clips with one random band of mel channels and one of time set to the clip's mean.

    The paper sets masks to 0, which is the mean of its normalized features; the clip's mean is the same here, whereas
    the window's silence would look like a pause. The padding after a clip is not masked, and the window's length does
    not change what is drawn.

    Parameters
    ----------
    mel : torch.Tensor
        Log-mel in a window, shape (batch, 80, frames), on the CPU; it is not changed.
    n_frames : sequence of int, or torch.Tensor
        Each clip's length without padding, shape (batch,).
    generator : torch.Generator
        A CPU generator, whose state determines all that is drawn.

    Raises
    ------
    ValueError
        When the clips are on another device, whose random numbers would not repeat.
    """
    if mel.device.type != "cpu":
        raise ValueError(f"mel is on {mel.device}; mask it on the CPU, before it is moved to the device.")
    masked = mel.clone()
    seeds = torch.randint(2**63 - 1, (len(mel),), generator=generator).tolist()
    mask_along_axis_iid = import_torchaudio().functional.mask_along_axis_iid
    # torchaudio draws from the global generator, whose state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        for clip, frames, seed in zip(masked, map(int, n_frames), seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            # Contiguous: then the order of summation, and so the mean's last bit, is the same in any window.
            speech = clip[None, :, :frames].contiguous()
            mean = float(speech.mean())
            speech = mask_along_axis_iid(speech, _MAX_CHANNELS, mean, axis=1)
            clip[:, :frames] = mask_along_axis_iid(speech, _MAX_FRAMES, mean, axis=2, p=_MAX_SHARE_OF_TIME)[0]
    return masked


def choose_speeds(utterance_ids: Sequence[str], factors: Sequence[float], seed: int, epoch: int) -> list[float]:
    """Return each clip's speed in an epoch, all factors being equally likely.

    Only seed, epoch and utterance id determine a clip's speed, not the clips it is drawn with.
    """
    return [factors[_draw(f"{seed}\n{epoch}\n{name}") % len(factors)] for name in utterance_ids]


def _draw(name: str) -> int:
    """Return a uniformly distributed number from 0 to 2**64 - 1, the same for a name on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
