"""Which model of a benchmark is recommended: a fine-tuned one only with evidence, and none at a useless CER."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Sequence

from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.quantities import explain_rates, percent
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.run_contracts import Outcome, Verdict
from kmed_bench.core.schema import SIZES
from kmed_bench.scoring.verdict import judge_comparison, say_verdict

MAX_USEFUL_CER = 0.3
"""Test CER above which no model is called fit for use.

People who correct a transcript are slower than people who type it from scratch when its WER is over 30 % (Y. Gaur,
W. Lasecki, F. Metze and J. Bigham, The effects of automatic speech recognition quality on human transcription latency,
W4A 2016).
A word with one wrong character is a wrong word, so a transcript with this CER has a higher WER.
"""
UNFIT = N_(
    "Over {limit} no transcript is fit for use: correcting one whose WER is over 30 % takes longer than typing it from "
    "scratch (Gaur et al., W4A 2016), and WER is higher than CER."
).format(limit=percent(MAX_USEFUL_CER, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeVerdict:
    """One size: its chosen run, the one with the lowest valid CER, and what that run's training changed.

    Attributes
    ----------
    verdict : dict or None
        None where the run has no comparison with the untouched model.
    seeds : dict
        Number of the size's finished runs by outcome.
    valid_cer, test_cer : float
        Of the recommended model: fine-tuned (valid: mean over seeds) or untouched; NaN where unknown.
    text : str
        The verdict in sentences.
    """

    size: str
    run_id: str
    seed: int
    verdict: Verdict | None
    seeds: dict[str, int]
    valid_cer: float
    test_cer: float
    text: str

    @property
    def tuned(self) -> bool:
        """Whether the fine-tuned model is recommended over the untouched one."""
        return self.verdict is not None and self.verdict["recommended"]

    @property
    def state(self) -> str:
        """``fine-tuned`` or ``untouched``."""
        return "fine-tuned" if self.tuned else "untouched"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What a benchmark shows.

    Attributes
    ----------
    sizes : tuple of SizeVerdict
        From small to large.
    best : SizeVerdict or None
        The size whose recommended model has the lowest valid CER; None without finished runs.
    headline, reason : str
        The recommendation in a sentence each.
    """

    sizes: tuple[SizeVerdict, ...]
    best: SizeVerdict | None
    headline: str
    reason: str = ""

    def lines(self) -> list[str]:
        """Return headline, reason and the verdict of each size, a line each."""
        return [self.headline, *filter(None, [self.reason]), *(size.text for size in self.sizes)]


def recommend(record: BenchRecord) -> Recommendation:
    """Return the verdict of every size with finished runs, and which model to use."""
    done = [run for run in record.trains if run.status == "FINISHED" and "best/valid_cer" in run.metrics]
    names = sorted({run.size for run in done}, key=lambda size: (SIZES.index(size) if size in SIZES else 9, size))
    sizes = tuple(_judge_size(record, [run for run in done if run.size == name]) for name in names)
    if not sizes:
        return Recommendation(
            sizes=(),
            best=None,
            headline=gettext("No train run finished with a valid CER, so there is no size to recommend."),
        )
    known = [size for size in sizes if not math.isnan(size.valid_cer)]
    best = min(known or sizes, key=lambda size: size.valid_cer)
    model = translate_stored(f"{best.size} {best.state}")
    cer = percent(None if math.isnan(best.test_cer) else best.test_cer)
    reason = " ".join(filter(None, [_why(best), explain_rates(best.test_cer)]))
    if best.test_cer > MAX_USEFUL_CER:
        # The fine-tuned one may have a lower CER all the same; it is not shown.
        said = (
            N_("No model here is fit for use: the best, {model}, has a test CER of {cer}.")
            if best.tuned
            else N_("No model here is shown to be fit for use: {model} has a test CER of {cer}.")
        )
        headline = gettext(said, model=model, cer=cer)
        return Recommendation(sizes=sizes, best=best, headline=headline, reason=f"{translate_stored(UNFIT)} {reason}")
    headline = gettext("Use {model}: test CER {cer}.", model=model, cer=cer)
    return Recommendation(sizes=sizes, best=best, headline=headline, reason=reason)


def _why(best: SizeVerdict) -> str:
    if best.tuned:
        return gettext(
            "Its gain over the untouched model is more than chance, and nothing is shown to have become worse."
        )
    if best.verdict is None:
        return gettext("No comparison shows that its fine-tuned model is better.")
    reasons: dict[Outcome, str] = {
        "better": N_("Its fine-tuned model has a lower CER, but is shown to be worse elsewhere."),
        "no evidence": N_("The paired comparison does not show that its fine-tuned model is better."),
        "kept untouched": N_("Training did not lower its valid CER."),
        "worse": N_("Training made it worse."),
    }
    return gettext(reasons[best.verdict["outcome"]])


def _judge_size(record: BenchRecord, runs: Sequence[TrainRecord]) -> SizeVerdict:
    chosen = min(runs, key=lambda run: (run.metrics["best/valid_cer"], run.seed))
    verdicts = {run.run_id: _verdict_of(record, run, chosen) for run in runs}
    verdict = verdicts[chosen.run_id]
    name = gettext("{size}, seed {seed}", size=chosen.size, seed=chosen.seed)
    earlier = gettext(
        "{name}: the run has no verdict and no comparison with the untouched model; train it again with this release.",
        name=name,
    )
    text = earlier if verdict is None else say_verdict(verdict, name)
    seeds = Counter(found["outcome"] for found in verdicts.values() if found is not None)
    if sum(seeds.values()) > 1:
        counts = ", ".join(
            gettext("{n} {outcome}", n=n, outcome=gettext(outcome)) for outcome, n in seeds.most_common()
        )
        text += " " + gettext("Of {n} seeds: {counts}.", n=len(runs), counts=counts)
    tuned = verdict is not None and verdict["recommended"]
    untouched_valid = _valid_before(chosen)
    return SizeVerdict(
        size=chosen.size,
        run_id=chosen.run_id,
        seed=chosen.seed,
        verdict=verdict,
        seeds={str(outcome): n for outcome, n in seeds.items()},
        valid_cer=statistics.fmean(run.metrics["best/valid_cer"] for run in runs) if tuned else untouched_valid,
        test_cer=chosen.metrics.get("test/cer" if tuned else "untouched/test_cer", math.nan),
        text=text,
    )


def _verdict_of(record: BenchRecord, run: TrainRecord, chosen: TrainRecord) -> Verdict | None:
    """Return a run's verdict; without a file, the chosen run has the comparison that the benchmark logged."""
    if run.run_id in record.verdicts or run is not chosen:
        return record.verdicts.get(run.run_id)
    names = (f"{run.size} untouched", f"{run.size} fine-tuned")
    compared = next((row for row in record.comparisons if (row["a_name"], row["b_name"]) == names), None)
    before = _valid_before(run)
    if compared is None or math.isnan(before):
        return None
    return judge_comparison(compared, valid=(before, run.metrics["best/valid_cer"]))


def _valid_before(run: TrainRecord) -> float:
    """Return the untouched model's valid CER, which is logged at step 0; NaN where it is not."""
    first = run.history[(run.history["metric"] == "valid/cer") & (run.history["step"] == 0)]["value"]
    return float(first.iloc[0]) if len(first) else math.nan
