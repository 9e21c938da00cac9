"""The smallest difference between two systems that a test part can show, and the speakers that a difference needs.

The variance of a paired difference is that of ``scoring.spread``: from a pilot, the predictions of two systems, or
from assumed standard deviations of what speakers, sentences and clips add to the difference.

Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2, for the sum of quantiles.
"""

import dataclasses
import math
from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from kmed_bench.core.corpus_contracts import SplitPower
from kmed_bench.core.errors import KmedError
from kmed_bench.core.quantities import percent
from kmed_bench.scoring.intervals import LEVEL
from kmed_bench.scoring.spread import Clips, Codes, Floats, Spread, unknown_speakers
from kmed_bench.text.marks import Policy, resolve_marks
from kmed_bench.text.normalise import normalise

POWER = 0.80
MIN_SPEAKERS = 6
"""Fewer speakers cannot reach p < 0.05 by sign flips, however large the difference is."""
MAX_SPEAKERS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deviations:
    """Standard deviations of a paired difference in CER; fractions.

    The defaults are an assumption: two systems with a CER of 10 % in ``benchmarks/intervals.py``, whose effects of
    speakers and sentences vary by 20 % and 30 % in each system. The one real pilot (``benchmarks/pilot.py``: base,
    untouched and after three epochs, 303 clips of 25 speakers) has 0.006, 0.029 and 0.067. It trained too little to
    change the CER and has few speakers, so the larger defaults are kept. Your own pilot is better than either.
    """

    speaker: float = 0.03
    sentence: float = 0.04
    clip: float = 0.10


DEFAULT = Deviations()
ASSUMED = "assumed deviations, not measured: give a pilot to `kmed-bench power SPLIT --predictions A B`"
GIVEN = "deviations as given"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """Who reads what in a part of a split, clips without text left out.

    Attributes
    ----------
    speaker, sentence : numpy.ndarray
        (n_clips,) codes from 0 on; all speakers are -1 if any is not known.
    length : numpy.ndarray
        (n_clips,) characters of the reference, as CER counts them.
    """

    speaker: Codes
    sentence: Codes
    length: Floats

    @property
    def n_speakers(self) -> int:
        """Number of speakers."""
        return int(self.speaker.max()) + 1 if len(self.speaker) else 0


def design_of(part: pd.DataFrame, policy: Policy) -> Design:
    """Return the design of a part of a split, whose references are on one side of the dual notation."""
    length = np.array([len(normalise(resolve_marks(text, policy))) for text in part["text"]], dtype=np.float64)
    spoken = part[length > 0]
    speaker, sentence = (pd.factorize(spoken[name])[0].astype(np.int64) for name in ("speaker_id", "sentence_id"))
    if unknown_speakers(spoken["speaker_id"]).any():
        speaker = np.full_like(speaker, -1)
    return Design(speaker=speaker, sentence=sentence, length=length[length > 0])


def plan_part(part: pd.DataFrame, name: str, policy: Policy, deviations: Deviations = DEFAULT) -> SplitPower:
    """Return what a part can show before anything runs: the entry ``power`` of split.json.

    ``smallest_difference`` is None where no difference can be shown: fewer than six speakers.
    """
    design = design_of(part, policy)
    enough = design.n_speakers >= MIN_SPEAKERS
    return {
        "part": name,
        "n_clips": len(design.length),
        "n_speakers": design.n_speakers,
        "smallest_difference": detectable(assumed_spread(design, deviations)) if enough else None,
        "power": POWER,
        "level": round(1 - LEVEL, 6),
        "deviations": dataclasses.asdict(deviations),
        "source": ASSUMED,
    }


def assumed_spread(design: Design, deviations: Deviations) -> Spread:
    """Return the variance of a difference on these clips, if its parts vary as assumed."""
    speaker, sentence, length = design.speaker, design.sentence, design.length
    speakers = _part(speaker, length, deviations.speaker)
    sentences = _part(sentence, length, deviations.sentence)
    clips = _part(np.arange(len(length)), length, deviations.clip)
    # Clips are drawn with their speaker, and so are sentences that are read once.
    clips = dataclasses.replace(clips, df=speakers.df)
    if sentence.max() + 1 == len(sentence):
        sentences = dataclasses.replace(sentences, df=speakers.df)
    parts = [part for part in (speakers, sentences, clips) if part.variance]
    variance = sum(part.variance for part in parts)
    # Parts of one source vary together, so they share its degrees of freedom.
    of_speakers = sum(part.variance for part in parts if part.df == speakers.df)
    rest = sum(part.variance**2 / part.df for part in parts if part.df != speakers.df)
    return Spread(variance=variance, df=variance**2 / (of_speakers**2 / speakers.df + rest))


def _part(codes: npt.NDArray[np.int64], length: Floats, deviation: float) -> Spread:
    weights = (np.bincount(codes, weights=length) / length.sum()) ** 2
    df = max(float(weights.sum() ** 2 / np.sum(weights**2)) - 1, 0.1)
    return Spread(variance=deviation**2 * float(weights.sum()), df=df)


def pilot_deviations(clips: Clips) -> Deviations:
    """Return the standard deviations that a pilot's paired differences show, for planning another test part.

    Products of two clips' centred differences have the speakers' variance as their mean if the clips share the speaker
    only, the sentences' if they share the sentence only, and the sum of all three if they are the same clip. Clips
    are weighted by the length of their reference; a negative variance is set to 0. The variance of the mean, which
    centring removes, is added.

    Raises
    ------
    KmedError
        As in `pilot_spread`.

    Source: S. Searle, G. Casella and C. McCulloch, Variance Components (1992), chapter 5, for estimates by moments.
    """
    centred = pilot_spread(clips).variance
    residual = clips.top - clips.ratio * clips.bottom

    def total(values: Floats, codes: Codes) -> float:
        return float(np.sum(np.bincount(codes, weights=values) ** 2))

    own = np.arange(len(residual))
    cell = clips.speaker * (int(clips.sentence.max()) + 1) + clips.sentence
    cell = np.unique(cell, return_inverse=True)[1]
    names = {"speaker": clips.speaker, "sentence": clips.sentence, "cell": cell, "clip": own}
    products = {name: total(residual, codes) for name, codes in names.items()}
    weights = {name: total(clips.bottom, codes) for name, codes in names.items()}

    def variance(shared: str, but: str) -> float:
        weight = weights[shared] - (weights[but] if but else 0.0)
        product = products[shared] - (products[but] if but else 0.0)
        return max(product / weight + centred, 0.0) if weight > 0 else 0.0

    speaker, sentence = variance("speaker", "cell"), variance("sentence", "cell")
    clip = max(variance("clip", "") - speaker - sentence, 0.0)
    return Deviations(speaker=math.sqrt(speaker), sentence=math.sqrt(sentence), clip=math.sqrt(clip))


def detectable(spread: Spread, power: float = POWER) -> float:
    """Return the smallest true difference that the paired test finds with this power at its level of 0.05."""
    quantiles = float(stdtrit(spread.df, (1 + LEVEL) / 2) + stdtrit(spread.df, power))
    return quantiles * math.sqrt(spread.variance)


def speakers_needed(spread: Spread, n_speakers: int, difference: float, power: float = POWER) -> int:
    """Return how many speakers like these show a difference, each with as many clips, sentences growing alike.

    Raises
    ------
    KmedError
        When the difference is not above zero, or needs over 100,000 speakers.
    """
    if not difference > 0:
        raise KmedError(
            f"A difference of {difference:g} in CER cannot be planned for; it must be above 0, such as 0.01."
        )
    for count in range(MIN_SPEAKERS, MAX_SPEAKERS + 1):
        if detectable(grow(spread, n_speakers, count), power) <= difference:
            return count
    raise KmedError(
        f"A difference of {difference:g} in CER needs over {MAX_SPEAKERS} speakers; choose a larger one, or a pilot "
        "whose systems differ less from speaker to speaker."
    )


def grow(spread: Spread, n_speakers: int, count: int) -> Spread:
    """Return the variance with ``count`` speakers like the ``n_speakers`` that were measured."""
    return Spread(variance=spread.variance * n_speakers / count, df=spread.df * (count - 1) / (n_speakers - 1))


def find_part(utterances: Set[str], parts: Mapping[str, Set[str]]) -> str:
    """Return the part that has all of a pilot's utterances, or an empty text where the split has none of them.

    Raises
    ------
    KmedError
        When they are in several parts, or only some are in one.
    """
    shared = {name: len(utterances & part) for name, part in parts.items()}
    whole = [name for name, n in shared.items() if n == len(utterances)]
    if whole or not any(shared.values()):
        return whole[0] if whole else ""
    counted = ", ".join(f"{n} are in {name}" for name, n in shared.items())
    raise KmedError(
        f"The pilot's {len(utterances)} utterances are not all of one part of this split ({counted}); give "
        "predictions of one part, or of another corpus."
    )


def describe_power(smallest: float | None, n_speakers: int, n_clips: int, source: str) -> str:
    """Return the smallest difference in words, or that none can be shown (None, or too few speakers)."""
    if not n_speakers:
        return f"The speakers of the {n_clips} clips are not all known, so no difference can be shown."
    if smallest is None or n_speakers < MIN_SPEAKERS:
        return f"{n_speakers} speakers cannot show any difference: at least {MIN_SPEAKERS} must differ for p < 0.05."
    return (
        f"{n_clips} clips of {n_speakers} speakers show a difference in CER of {smallest:.4f} or more with a "
        f"power of {percent(POWER, 0)} at p < {1 - LEVEL:.2f} ({source})."
    )


def pilot_spread(clips: Clips) -> Spread:
    """Return the variance that a pilot measured.

    Raises
    ------
    KmedError
        When the pilot has fewer than two speakers, or its systems differ nowhere or everywhere alike.
    """
    if not clips.spread.variance:
        raise KmedError(
            f"The two systems of the pilot differ nowhere or everywhere alike ({clips.n_speakers} speakers), which "
            "gives no variance; take other systems, or assumed deviations without --predictions."
        )
    return clips.spread
