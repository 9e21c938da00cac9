"""The learning curve of a size: CER by amount of training speech, and a power law through it with its interval.

Each amount is compared with the untouched model as two systems on one part are. The interval of the power law is the
percentile interval of a bootstrap over the speakers of the part: all amounts decode the same clips, so one sample of
speakers gives one sample of the whole curve. Where an amount has several trainings, these are resampled too. It holds
for other speakers of the same kind; sentences, the choice of the formula, and how much other subsets and seeds would
give at amounts that were trained once have no part in it.

Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 (percentiles) and 9 (curves).
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from kmed_bench.core.curve_contracts import (
    CurveAmount,
    CurveExtension,
    CurveFit,
    CurveParameter,
    CurveRate,
    CurveResults,
    CurveTraining,
)
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import N_
from kmed_bench.core.quantities import percent
from kmed_bench.scoring.compare import holm, pair_counts, paired_p_value
from kmed_bench.scoring.intervals import ALPHA, difference_interval, too_few_speakers
from kmed_bench.scoring.measures import MEASURES, SENTENCE
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.power_law import STEEPEST, PowerLaws, fit_power_laws
from kmed_bench.scoring.seeds import seeds_interval
from kmed_bench.scoring.spread import Clips, clips_of

Floats = npt.NDArray[np.float64]
_CER = MEASURES["cer"]
_WITH_FLOOR = 4
"""Fewest amounts for three parameters: one more than parameters, so that the fit can miss a point."""
_WIDEST = 2.0
"""Largest ratio of the bounds of an extrapolated CER."""
_AT_LIMIT = 0.05
"""Largest share of samples whose exponent is at a limit of the search."""
_N_LINE = 60


@dataclasses.dataclass(frozen=True)
class _Part:
    """The scored clips of the part, in one order for all models.

    Attributes
    ----------
    untouched : numpy.ndarray
        (n_clips,) errors of the untouched model.
    amounts : list of numpy.ndarray
        (n_trainings, n_clips) errors of the trainings on each amount.
    """

    rows: pd.DataFrame
    untouched: Floats
    amounts: list[Floats]

    def clips(self, errors: Floats) -> Clips:
        """Return the clips of a ratio of these errors over the reference's characters."""
        return clips_of(self.rows["speaker_id"], errors, self.rows[_CER.bottom], self.rows[SENTENCE])


def trace_curve(
    untouched: pd.DataFrame,
    trained: Sequence[tuple[CurveTraining, pd.DataFrame]],
    options: ScoringOptions,
    *,
    extrapolate: float,
) -> CurveResults:
    """Return the curve of a size's trainings, its fit, and how far that is extended.

    Parameters
    ----------
    untouched : pandas.DataFrame
        The part decoded by the model before training, as ``measures.count_utterances`` returns it.
    trained : sequence of (CurveTraining, pandas.DataFrame)
        Each training, whose ``cer`` is filled in here, with the same part decoded by its best epoch.
    extrapolate : float
        The multiple of the largest amount up to which the fit is extended; 1: not at all.

    Raises
    ------
    KmedError
        When the models decoded different clips, or none of them can be scored.
    """
    groups = [
        list(group) for _, group in itertools.groupby(sorted(trained, key=_by_amount), key=lambda t: t[0]["fraction"])
    ]
    part = _align(untouched, [[counts for _, counts in group] for group in groups])
    length = float(part.rows[_CER.bottom].sum())
    if not length:
        raise KmedError("No clip of the part can be scored; draw a split whose transcripts have no masks.")
    trainings: list[CurveTraining] = []
    for group, errors in zip(groups, part.amounts, strict=True):
        trainings += [{**one, "cer": float(row.sum() / length)} for (one, _), row in zip(group, errors, strict=True)]
    amounts = _amounts(part, [[one for one, _ in group] for group in groups], options)
    fit, no_fit, laws = _fit(part, amounts, options)
    clips = part.clips(part.untouched)
    return {
        "untouched": _rate(part, part.untouched[None]),
        "amounts": amounts,
        "trainings": trainings,
        "fit": fit,
        "no_fit": no_fit,
        "extension": _extend(fit, laws, amounts, extrapolate),
        "n_clips": len(part.rows),
        "n_speakers": clips.n_known_speakers,
    }


def _by_amount(trained: tuple[CurveTraining, pd.DataFrame]) -> tuple[float, int, int]:
    one = trained[0]
    return one["fraction"], one["draw"], one["seed"]


def _align(untouched: pd.DataFrame, groups: Sequence[Sequence[pd.DataFrame]]) -> _Part:
    """Return the scored clips of all models in one order."""
    tables = [[pair_counts(untouched, counts, _CER.bottom)[1] for counts in group] for group in groups]
    rows = pair_counts(untouched, untouched, _CER.bottom)[0]
    scored = ((rows["excluded"] == "") & (rows[_CER.bottom] > 0)).to_numpy()
    errors = [np.array([table[_CER.top].to_numpy(dtype=float)[scored] for table in group]) for group in tables]
    return _Part(rows[scored], rows[_CER.top].to_numpy(dtype=float)[scored], errors)


def _rate(part: _Part, errors: Floats) -> CurveRate:
    """Return the mean CER of (n_trainings, n_clips) errors with its interval."""
    clips = part.clips(errors.mean(axis=0))
    interval = seeds_interval(clips, [float(row.sum() / clips.bottom.sum()) for row in errors])
    return {"cer": clips.ratio, "cer_low": interval.low, "cer_high": interval.high, "cer_reason": interval.reason}


def _amounts(part: _Part, groups: Sequence[Sequence[CurveTraining]], options: ScoringOptions) -> list[CurveAmount]:
    compared = [part.clips(errors.mean(axis=0) - part.untouched) for errors in part.amounts]
    corrected = holm([paired_p_value(clips, options) for clips in compared])
    found: list[CurveAmount] = []
    for group, errors, clips, p_holm in zip(groups, part.amounts, compared, corrected, strict=True):
        interval = difference_interval(clips)
        shown = p_holm < ALPHA
        better = shown and interval.high is not None and interval.high < 0
        worse = shown and interval.low is not None and interval.low > 0
        found.append(
            {
                "fraction": group[0]["fraction"],
                "hours": float(np.mean([one["hours"] for one in group])),
                "n_speakers": float(np.mean([one["n_speakers"] for one in group])),
                "n_clips": float(np.mean([one["n_clips"] for one in group])),
                "n_trainings": len(group),
                **_rate(part, errors),
                "delta": clips.ratio,
                "delta_low": interval.low,
                "delta_high": interval.high,
                "delta_reason": interval.reason,
                "p_holm": p_holm,
                "outcome": "better" if better else "worse" if worse else "not shown",
            }
        )
    return found


def _fit(
    part: _Part, amounts: Sequence[CurveAmount], options: ScoringOptions
) -> tuple[CurveFit | None, str, PowerLaws | None]:
    """Return the fit, or in words why there is none, and its laws: of the rates, then of the bootstrap's samples."""
    hours, cers = [one["hours"] for one in amounts], [one["cer"] for one in amounts]
    if len(amounts) < 2:
        return None, N_("one amount shows no curve; name further fractions"), None
    if not min(cers) > 0:
        return None, N_("an amount has no error at all, and a power law has some at every amount"), None
    with_floor = len(amounts) >= _WITH_FLOOR
    samples, reason = _resample(part, options)
    laws = fit_power_laws(hours, np.vstack([cers, samples]), with_floor=with_floor)
    ends = part.clips(part.amounts[-1].mean(axis=0) - part.amounts[0].mean(axis=0))
    high = difference_interval(ends).high
    line = np.geomspace(hours[0], hours[-1], _N_LINE)
    fit: CurveFit = {
        "with_floor": with_floor,
        "scale": _parameter(laws.scale),
        "exponent": _parameter(laws.exponent),
        "floor": _parameter(laws.floor),
        "reason": reason,
        "falls": high is not None and high < 0,
        "draws": len(samples),
        "line": [_place(hour, rates) for hour, rates in zip(line, laws.at(line).T, strict=True)],
    }
    return fit, "", laws


def _parameter(values: Floats) -> CurveParameter:
    low, high = _bounds(values)
    return {"value": float(values[0]), "low": low, "high": high}


def _place(hours: float, rates: Floats) -> dict[str, float | None]:
    low, high = _bounds(rates)
    return {"hours": float(hours), "cer": float(rates[0]), "low": low, "high": high}


def _bounds(values: Floats) -> tuple[float | None, float | None]:
    """Return the percentile interval of all values but the first, which is the estimate; none without samples."""
    if len(values) == 1:
        return None, None
    low, high = np.quantile(values[1:], [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _resample(part: _Part, options: ScoringOptions) -> tuple[Floats, str]:
    """Return (n_samples, n_amounts) CERs of samples of speakers, or no sample and the reason."""
    none = np.empty((0, len(part.amounts)))
    clips = part.clips(part.untouched)
    if reason := too_few_speakers(clips):
        return none, reason
    noise, n = np.random.default_rng(options.bootstrap_seed), clips.n_speakers
    drawn = noise.multinomial(n, np.full(n, 1 / n), size=options.bootstrap_draws).astype(np.float64)
    lengths = drawn @ np.bincount(clips.speaker, weights=clips.bottom, minlength=n)
    columns = []
    for errors in part.amounts:
        sums = np.array([np.bincount(clips.speaker, weights=row, minlength=n) for row in errors])
        rates = drawn @ sums.T
        if len(errors) > 1:  # the trainings are a sample, too
            chosen = noise.multinomial(len(errors), np.full(len(errors), 1 / len(errors)), size=len(drawn))
            columns.append((rates * chosen).sum(axis=1) / len(errors) / lengths)
        else:
            columns.append(rates[:, 0] / lengths)
    samples = np.stack(columns, axis=1)
    if not (samples > 0).all():
        return none, N_("some samples of speakers have no error at an amount")
    return samples, ""


def _extend(
    fit: CurveFit | None, laws: PowerLaws | None, amounts: Sequence[CurveAmount], factor: float
) -> CurveExtension:
    """Return the fit at a multiple of the largest amount, or in words why it says nothing there."""
    hours = factor * amounts[-1]["hours"]
    refused: CurveExtension = {
        "factor": factor,
        "hours": hours,
        "cer": None,
        "low": None,
        "high": None,
        "reason": "",
        "line": [],
    }
    if fit is None or laws is None or factor == 1:
        return {**refused, "reason": "" if fit else N_("there is no fit")}
    if len(amounts) < 3:
        text = N_("{n} amounts are as many as the fit has parameters, so nothing shows whether it holds")
        return {**refused, "reason": text.format(n=len(amounts))}
    if not fit["falls"]:
        return {**refused, "reason": N_("CER is not shown to fall from the smallest to the largest amount")}
    rates = laws.at([hours])[:, 0]
    low, high = _bounds(rates)
    if low is None or high is None:
        return {**refused, "reason": N_("the fit has no interval: {reason}").format(reason=fit["reason"])}
    steepness = laws.exponent[1:]
    at_limit = float(((steepness == 0) | (steepness == STEEPEST) | (laws.scale[1:] == 0)).mean())
    if at_limit > _AT_LIMIT:
        text = N_("the exponent is not identified: {share} of the bootstrap's samples have it at a limit of the search")
        return {**refused, "reason": text.format(share=percent(at_limit, 0))}
    if high > _WIDEST * low:
        text = N_("its interval would be from {low} to {high}, more than a factor of {factor:g}")
        return {**refused, "reason": text.format(low=percent(low), high=percent(high), factor=_WIDEST)}
    beyond = np.geomspace(amounts[-1]["hours"], hours, _N_LINE)[1:]
    line = [_place(hour, column) for hour, column in zip(beyond, laws.at(beyond).T, strict=True)]
    return {**refused, "cer": float(rates[0]), "low": low, "high": high, "line": line}
