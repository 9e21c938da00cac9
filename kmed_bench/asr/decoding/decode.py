"""Decoding of clips and whole parts in batches."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from kmed_bench.asr.decoding.beam import decode_beam
from kmed_bench.asr.decoding.continuous import decode_in_slots, decoding_on, slots_for
from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.logit_filters import DecodedTokens
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import FeatureSource
from kmed_bench.asr.model.device import autocast
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.model.windows import DECODING, Window
from kmed_bench.core.batching import chunks
from kmed_bench.core.predictions import Prediction


@dataclasses.dataclass(frozen=True)
class DecodingResult:
    """One clip's transcript.

    Attributes
    ----------
    decode_s : float
        Its share of the time of the clips decoded with it, encoder included.
    ngram_blocked : bool
        As in `DecodedTokens`.
    """

    utterance_id: str
    text: str
    decode_s: float
    ngram_blocked: bool


def decode_clips(
    model: Whisper, features: FeatureSource, utterance_ids: Sequence[str], options: DecodingOptions
) -> Iterator[DecodingResult]:
    """Yield each clip's transcript; clips of similar length are decoded together, the longest first.

    On a GPU, greedy decoding in the full window replaces clips that have ended by waiting ones; `decode_in_slots` says
    what ``decode_s`` is then. Otherwise batches of ``options.batch_size`` follow one another.
    """
    tokenizer = korean_tokenizer()
    ordered = sorted(utterance_ids, key=lambda name: (-features.n_frames(name), name))
    if model.device.type == "cuda" and options.beam_size == 1 and options.context == "full":
        decoded = decode_in_slots(model, features, ordered, options, slots_for(model, options, len(ordered)))
    else:
        decoded = _decode_in_batches(model, features, ordered, options)
    for name, clip, decode_s in decoded:
        yield DecodingResult(name, tokenizer.decode(clip.tokens).strip(), decode_s, clip.ngram_blocked)


def _decode_in_batches(
    model: Whisper, features: FeatureSource, ordered: Sequence[str], options: DecodingOptions
) -> Iterator[tuple[str, DecodedTokens, float]]:
    device = model.device
    search = decode_greedy if options.beam_size == 1 else decode_beam
    windows = {name: Window.for_clips(options.context, features.n_frames(name), DECODING) for name in ordered}
    # A clip's window is its own length's, so that its text does not depend on which clips are decoded with it.
    alike = [list(names) for _, names in itertools.groupby(ordered, windows.__getitem__)]
    for names in itertools.chain.from_iterable(chunks(names, options.batch_size) for names in alike):
        started = time.perf_counter()
        window = windows[names[0]]
        mel = features.window(names, window.n_frames).to(device)
        with decoding_on(device):
            with autocast(options.precision, device):
                audio = model.encode(mel, window)
            decoded = search(model, audio, options)
        decode_s = (time.perf_counter() - started) / len(names)
        yield from ((name, clip, decode_s) for name, clip in zip(names, decoded, strict=True))


def predict_part(
    model: Whisper,
    part: pd.DataFrame,
    features: FeatureSource,
    options: DecodingOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Return a part's predictions in the part's order, references as labelled.

    Parameters
    ----------
    progress : callable
        Called with (clips done, clips in all).
    """
    was_training = model.training
    model.eval()
    results: dict[str, DecodingResult] = {}
    for result in decode_clips(model, features, part["utterance_id"].tolist(), options):
        results[result.utterance_id] = result
        if progress:
            progress(len(results), len(part))
    model.train(was_training)
    ordered = [(row, results[row["utterance_id"]]) for row in part.to_dict("records")]
    return [Prediction.from_row(row, r.text, r.decode_s, r.ngram_blocked) for row, r in ordered]
