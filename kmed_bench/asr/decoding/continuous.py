"""Decoding of many clips in the slots of a cache: ended ones are replaced by waiting ones while the others go on."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

import torch
from whisper.audio import N_FRAMES

from kmed_bench.asr.decoding.logit_filters import DecodedTokens
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.decoding.slots import Slots, text_capacity
from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.device import Precision, autocast, gpu_kernels, send
from kmed_bench.asr.model.gpu_layers import GPU
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError

log = logging.getLogger(__name__)

# Steps between two looks at which texts have ended. The host's look, and what it launches next, leave a GPU idle for
# about a tenth of a step; a slot whose text has ended idles for half of these steps, of some 30 that a sentence takes.
# On an H200, 8 steps and 64 clips gave 974 clips/s of base, 4 and 32 gave 849 (docs/LOG.md).
STEPS_PER_LOOK = 8

# Clips the encoder takes at a time: 96,000 positions are enough for a GPU's matrix units, and more would leave more
# slots empty until as many are free.
ENCODER_BATCH = 64

# At 256 slots cross-attention's keys take most of a step's time, and that grows with the slots: more gain nothing.
MAX_SLOTS = 256

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def decode_in_slots(
    model: Whisper, features: FeatureSource, utterance_ids: Sequence[str], options: DecodingOptions, n_slots: int
) -> Iterator[tuple[str, DecodedTokens, float]]:
    """Yield each clip's name, tokens and share of the time, as its text ends; greedy, in the full window.

    The time is that since the last texts were handed over, the caller's own included since the GPU works meanwhile,
    divided equally among those that ended in it. All shares together are the time from the start to the last text.

    Parameters
    ----------
    utterance_ids : sequence of str
        In the order in which they start; no id twice. Neighbors of similar length are padded least.
    n_slots : int
        Clips decoded at a time; halved when the device's memory does not suffice.

    Raises
    ------
    KmedError
        When memory does not suffice for a single clip.
    """
    left = dict.fromkeys(utterance_ids)
    started = time.perf_counter()
    while left:
        lacks_memory = False
        try:
            for ended in _rounds(model, features, list(left), options, n_slots):
                now = time.perf_counter()
                share, started = (now - started) / len(ended), now
                for name, decoded in ended:
                    del left[name]
                    yield name, decoded, share
        except torch.OutOfMemoryError:
            lacks_memory = True  # the error refers to what takes the memory, so it must be gone before the next try
        if lacks_memory:
            n_slots = _halved(n_slots)


def _halved(n_slots: int) -> int:
    if n_slots == 1:
        raise KmedError(
            "The GPU's free memory does not suffice to decode a single clip; end what else uses the GPU, or choose a "
            "smaller model or eval.precision=bf16."
        )
    torch.cuda.empty_cache()
    log.warning(f"Memory does not suffice to decode {n_slots} clips at a time; {n_slots // 2} from here on.")
    return n_slots // 2


def _rounds(
    model: Whisper, features: FeatureSource, names: list[str], options: DecodingOptions, n_slots: int
) -> Iterator[list[tuple[str, DecodedTokens]]]:
    """Yield the clips that have ended, some at a time; the GPU has its next steps by then."""
    n_slots = min(n_slots, len(names))
    # Small next to the slots, of which it leaves as many empty as a batch lacks, unless all clips start at once.
    size = min(ENCODER_BATCH, n_slots if n_slots == len(names) else max(1, n_slots // 4))
    batches = _batches(features, names, size, model.device)
    with decoding_on(model.device):
        slots = Slots(model, options, n_slots, _DTYPES[options.precision])
    waiting = next(batches, None)
    ended: list[tuple[str, DecodedTokens]] = []
    while waiting or slots.n_live:
        while waiting and len(slots.free) >= len(waiting[0]):
            _start(model, slots, waiting, options.precision)
            waiting = next(batches, None)  # read while the GPU encodes
        with decoding_on(model.device):
            slots.advance(STEPS_PER_LOOK)
        if ended:
            yield ended
        with decoding_on(model.device):
            ended = slots.collect()
    if ended:
        yield ended


def _start(model: Whisper, slots: Slots, batch: tuple[list[str], torch.Tensor], precision: Precision) -> None:
    names, mel = batch
    with decoding_on(model.device):
        with autocast(precision, model.device):
            silence = mel[:, :, -1:].expand(-1, -1, N_FRAMES - mel.shape[-1])
            audio = model.encode(torch.cat([mel, silence], dim=-1), FULL_WINDOW, GPU)
        slots.fill(names, audio)


def _batches(
    features: FeatureSource, names: list[str], size: int, device: torch.device
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield clips and their frames on the device, to which the silence is added there: most of 30 s is silence."""
    for batch in chunks(names, size):
        # One frame more than the longest clip has: the last one is silence in every clip.
        n_frames = min(max(map(features.n_frames, batch)) + 1, N_FRAMES)
        yield batch, send(features.window(batch, n_frames), device)


@contextlib.contextmanager
def decoding_on(device: torch.device) -> Iterator[None]:
    """Enter what all work on the device runs in, the recording of graphs too; never left open while the caller runs."""
    with torch.inference_mode(), gpu_kernels(device):
        yield


def slots_for(model: Whisper, options: DecodingOptions, n_clips: int) -> int:
    """Return how many slots to decode clips in on a GPU: as many as clips, as memory holds, or `MAX_SLOTS`.

    Slots take ``slot_bytes`` each, and the encoder about 24 values a position and state of its batch: 4 each of the
    MLP's hidden layer before and after the activation, those of projections and residuals, the decoder's keys and
    values, and fp32 copies in normalization. A tenth of the memory is left for libraries and fragments.
    """
    dims, device = model.dims, model.device
    per_value = _DTYPES[options.precision].itemsize
    encoder_bytes = 24 * min(ENCODER_BATCH, n_clips) * dims.n_audio_ctx * dims.n_audio_state * per_value
    # What torch holds without using it is free for us too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = 0.9 * (torch.cuda.mem_get_info(device)[0] + unused)
    return max(1, min(int((free - encoder_bytes) / slot_bytes(model, options)), MAX_SLOTS, n_clips))


def slot_bytes(model: Whisper, options: DecodingOptions) -> int:
    """Return the memory that a slot takes: 2 L d (A b + 4 T) + 16 V bytes.

    The keys and values of L decoder layers of width d, for A positions of audio in b bytes a value and T of text in
    fp32; and a step's logits of V tokens in fp32, their copy in 16 bits, and the search of the likeliest ones.
    """
    dims = model.dims
    audio_bytes = dims.n_audio_ctx * _DTYPES[options.precision].itemsize
    text_bytes = text_capacity(model, options) * torch.float32.itemsize
    return 2 * dims.n_text_layer * dims.n_text_state * (audio_bytes + text_bytes) + 16 * dims.n_vocab
