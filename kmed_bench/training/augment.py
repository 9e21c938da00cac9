"""Training data varied anew in each epoch: masked bands of frequency and time, changed speeds.

Nothing here keeps or moves a random state: the caller's generator, or seed and epoch, say what is drawn, so
that a resumed run draws the same.
"""

import hashlib
from collections.abc import Sequence

import torch
from torchaudio.functional import mask_along_axis_iid

# Policy "LibriSpeech basic" of Park et al. 2019 (SpecAugment, table 1): one mask of up to 27 of 80 mel
# channels, one of up to 100 frames of 10 ms. Its clips last 12 s on average, ours a few: the bound on the
# time mask, p of the clip's own frames, is that of their policies for the shorter calls of Switchboard.
# Time warping is left out; the paper's section 5 finds that it adds least for its cost.
_MAX_CHANNELS = 27
_MAX_FRAMES = 100
_MAX_SHARE_OF_TIME = 0.2


def spec_augment(mel: torch.Tensor, n_frames: Sequence[int] | torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return clips with one random band of mel channels and one of time set to the clip's mean.

    The mean of the clip's own frames is what the paper's value of 0 is in its features, which are
    normalised to mean 0; the window's silence would look like a pause in speech that is not one. The
    padding beyond a clip's own frames stays as it is. The window makes no difference to what is drawn.

    Parameters
    ----------
    mel : torch.Tensor
        Log-mel in a window, shape (batch, 80, frames), on the CPU; it is not changed.
    n_frames : sequence of int, or torch.Tensor
        Each clip's own frames, shape (batch,).
    generator : torch.Generator
        One of the CPU; all that is drawn follows from its state.

    Raises
    ------
    ValueError
        When the clips lie on another device, whose random numbers would not repeat.
    """
    if mel.device.type != "cpu":
        raise ValueError(f"mel lies on {mel.device}; mask it on the CPU, before it goes to the device.")
    masked = mel.clone()
    seeds = torch.randint(2**63 - 1, (len(mel),), generator=generator).tolist()
    # torchaudio draws from the global generator; it gets its state back, so that nothing else moves.
    with torch.random.fork_rng(devices=[]):
        for clip, frames, seed in zip(masked, map(int, n_frames), seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            # Contiguous, so that the order of summation, and the mean's last bit, is the same in any window.
            own = clip[None, :, :frames].contiguous()
            mean = float(own.mean())
            own = mask_along_axis_iid(own, _MAX_CHANNELS, mean, axis=1)
            clip[:, :frames] = mask_along_axis_iid(own, _MAX_FRAMES, mean, axis=2, p=_MAX_SHARE_OF_TIME)[0]
    return masked


def choose_speeds(utterance_ids: Sequence[str], factors: Sequence[float], seed: int, epoch: int) -> list[float]:
    """Return each clip's speed in an epoch, all factors being equally likely; 1 where there are none.

    A clip's speed follows from (seed, epoch, utterance id) alone, not from the clips beside it.
    """
    if not factors:
        return [1.0] * len(utterance_ids)
    return [factors[_draw(f"{seed}\n{epoch}\n{name}") % len(factors)] for name in utterance_ids]


def _draw(name: str) -> int:
    """Return a uniform number of 0 to 2**64 - 1 that the name determines on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
