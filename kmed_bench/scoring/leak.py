"""Where a gain comes from: CER by cell of the split's design, and the part of the gain that a leaking split adds.

The gain of a cell is the untouched model's CER minus the fine-tuned one's on the same clips. The leak is the gain on
seen speakers and seen sentences minus the gain on unseen ones: what training on the test's own speakers and sentences
adds to a benchmark's figure without helping a new patient.
"""

import math
from collections.abc import Mapping, Sequence

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.run_contracts import LEAK, Leak, LeakCell, LeakCer, LeakDifference
from kmed_bench.core.schema import CELLS, UNSEEN
from kmed_bench.scoring.compare import scored_pair
from kmed_bench.scoring.intervals import Interval, difference_interval, rate_interval
from kmed_bench.scoring.measures import cer_clips, count_utterances, versions
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.spread import Clips
from kmed_bench.text.marks import Policy

DIFFERENCES = {"leak": "seen_seen", "speakers": "seen_unseen", "sentences": "unseen_seen"}
"""Name of a difference to the cell whose gain is compared with that of ``UNSEEN``."""
_DEFAULT = ScoringOptions()
_NONE_DECODED = "no clip counts"


def score_leak(
    cells: Mapping[str, str],
    tuned: Sequence[Prediction],
    untouched: Sequence[Prediction] | None,
    options: ScoringOptions = _DEFAULT,
    *,
    left_out: Mapping[str, int],
    limit: int,
    seed: int,
    split_sha256: str,
) -> Leak:
    """Return the content of ``leak.json``.

    ``cells`` has for each cell the CER of both models with intervals, the gain with its interval, and how many
    utterances there are and were decoded. ``differences`` has three gains minus the gain of ``UNSEEN``: ``leak`` (seen
    speakers and seen sentences), ``speakers`` (only the speakers seen), ``sentences`` (only the sentences seen).

    Parameters
    ----------
    cells : mapping
        Utterance id to cell, of all predictions: the test part and the sample of what was left out.
    untouched : sequence of Prediction or None
        The model before training on the same utterances. None: there is no gain, only the CER of ``tuned``.
    left_out : mapping
        Cell to the utterances that the split left out.
    limit, seed : int
        Of the sample: most utterances per cell, and the seed of the draw.

    Raises
    ------
    KmedError
        When a prediction has no cell, or the two models' utterances differ.
    """
    unknown = [p.utterance_id for p in tuned if p.utterance_id not in cells]
    if unknown:
        raise KmedError(
            f"{len(unknown)} predictions are neither of the test part nor of the left-out sample, such as "
            f"{unknown[0]!r}; decode this split again."
        )
    after, before = (_by_cell(side, cells) for side in (tuned, untouched or ()))
    gains = {} if untouched is None else {cell: _gains(after[cell], before[cell], options) for cell in CELLS}
    scored: dict[str, LeakCell] = {}
    for cell in CELLS:
        n_decoded = len(after[cell])
        scored[cell] = {
            "tuned": _cer(after[cell], options.transcript_side),
            "untouched": None if untouched is None else _cer(before[cell], options.transcript_side),
            **_gain(gains.get(cell)),
            "n_available": n_decoded if cell == UNSEEN else left_out.get(cell, 0),
            "n_decoded": n_decoded,
        }
    return {
        **LEAK.head,
        "cells": scored,
        "differences": {
            name: _difference(gains[cell], gains[UNSEEN]) for name, cell in DIFFERENCES.items() if cell in gains
        },
        "left_out": dict(left_out),
        "sample": {"limit": limit, "seed": seed},
        "split_sha256": split_sha256,
        "transcript_policy": options.transcript_side,
        **versions(),
    }


def leak_interval(seen: Clips, unseen: Clips) -> Interval:
    """Return the 95 % interval of ``seen.ratio - unseen.ratio``, two sets of paired differences.

    The distances from the two gains to their own bounds are combined as those of independent estimates, so loops and
    few differing clips are allowed for as in each gain. For the leak the two sets share neither speakers nor sentences.
    In the other two differences they share sentences or speakers. This common variation is not removed, so these
    intervals are somewhat too wide.

    Source: G. Zou and A. Donner, Construction of confidence limits about effect measures: a general approach, Stat.
    Med. 27 (2008) 1693-1702.
    """
    one, other = difference_interval(seen), difference_interval(unseen)
    if one.low is None or one.high is None:
        return one  # its reason
    if other.low is None or other.high is None:
        return other
    gain = seen.ratio - unseen.ratio
    return Interval(
        low=gain - math.hypot(seen.ratio - one.low, other.high - unseen.ratio),
        high=gain + math.hypot(one.high - seen.ratio, unseen.ratio - other.low),
    )


def _by_cell(predictions: Sequence[Prediction], cells: Mapping[str, str]) -> dict[str, list[Prediction]]:
    return {cell: [p for p in predictions if cells.get(p.utterance_id) == cell] for cell in CELLS}


def _gains(tuned: list[Prediction], untouched: list[Prediction], options: ScoringOptions) -> Clips:
    """Return the clips whose ratio is the gain: errors of the untouched model minus those of the tuned one."""
    return scored_pair(tuned, untouched, options.transcript_side)


def _cer(predictions: list[Prediction], policy: Policy) -> LeakCer:
    counts = count_utterances(predictions, policy)
    rows = counts[counts["excluded"] == ""]
    clips = cer_clips(rows)
    interval = rate_interval(clips)
    return {
        "cer": clips.ratio if len(clips.top) else None,
        "cer_low": interval.low,
        "cer_high": interval.high,
        "n_clips": len(rows),
        "n_speakers": clips.n_known_speakers,
        "no_interval": interval.reason,
    }


def _gain(clips: Clips | None) -> LeakDifference:
    if clips is None or not len(clips.top):
        return {"gain": None, "gain_low": None, "gain_high": None, "no_interval": _NONE_DECODED}
    return _describe(clips.ratio, difference_interval(clips))


def _difference(seen: Clips, unseen: Clips) -> LeakDifference:
    if not len(seen.top) or not len(unseen.top):
        return _gain(None)
    return _describe(seen.ratio - unseen.ratio, leak_interval(seen, unseen))


def _describe(gain: float, interval: Interval) -> LeakDifference:
    return {"gain": gain, "gain_low": interval.low, "gain_high": interval.high, "no_interval": interval.reason}
