"""The results paragraphs, in English and Korean: what the verdicts say, and nothing beyond."""

import math
from collections.abc import Iterator, Mapping

from kmed_bench.core.language import Language
from kmed_bench.core.records import BenchRecord
from kmed_bench.core.run_contracts import Outcome, WorsePart
from kmed_bench.report.paper.facts import FIELD_WORDS, GROUP_WORDS, ROLE_WORDS
from kmed_bench.report.paper.wording import (
    Facts,
    Say,
    count,
    equals,
    is_known,
    points,
    points_in_words,
    rate,
    tell,
)
from kmed_bench.scoring.measures import MEASURES
from kmed_bench.scoring.recommendation import MAX_USEFUL_CER, Recommendation, SizeVerdict

OUTCOMES: dict[Outcome, Say] = {
    "better": Say("Fine-tuning lowered the CER of {size}", "{size}: 미세 조정으로 CER이 낮아졌다"),
    "no evidence": Say(
        "For {size} there is no evidence that fine-tuning changes the CER",
        "{size}: 미세 조정에 따른 CER의 차이는 확인되지 않았다",
    ),
    "kept untouched": Say(
        "For {size} training did not lower the CER of the validation part, so the untouched model is kept",
        "{size}: 학습으로 검증 세트의 CER이 낮아지지 않아 미세 조정 전 모델을 유지한다",
    ),
    "worse": Say("Fine-tuning raised the CER of {size}", "{size}: 미세 조정으로 CER이 높아졌다"),
}
_FIGURES = (
    Say(
        " (test part: {untouched}% untouched, {tuned}% fine-tuned, difference {delta} percentage points, 95% CI "
        "{low} to "
        "{high}, p {p}{corrected})",
        "(평가 세트: 미세 조정 전 {untouched}%, 미세 조정 후 {tuned}%, 차이 {delta}%p, 95% 신뢰구간 [{low}, {high}], p "
        "{p}{corrected})",
    ),
    Say(
        " (test part: {untouched}% untouched, {tuned}% fine-tuned, difference {delta} percentage points, p "
        "{p}{corrected}; no interval)",
        "(평가 세트: 미세 조정 전 {untouched}%, 미세 조정 후 {tuned}%, 차이 {delta}%p, p {p}{corrected}; "
        "신뢰구간 없음)",
        ("no_interval",),
    ),
)
_WORDS = {
    **FIELD_WORDS,
    **GROUP_WORDS,
    **ROLE_WORDS,
    MEASURES["number_exact"].label: Say(MEASURES["number_exact"].label, "숫자 정확도"),
    MEASURES["term_recall"].label: Say(MEASURES["term_recall"].label, "의학 용어 재현율"),
}
_CORRECTED = Say("; p {p_holm} after Holm's correction", "; Holm 보정 후 p {p_holm}")
_SIZE = (
    Say("{outcome}{figures}.", "{outcome}{figures}."),
    Say("Of its {n_seeds} seeds: {seeds}.", "시드 {n_seeds}개의 판정: {seeds}."),
    Say("Shown to be worse: {worse}.", "나빠진 것으로 확인된 항목: {worse}."),
    Say("Worse by figures that may be chance: {maybe_worse}.", "나빠졌으나 우연일 수 있는 항목: {maybe_worse}."),
)
_SEED_WORDS = {
    "better": Say("better", "개선"),
    "no evidence": Say("no evidence", "차이 확인되지 않음"),
    "kept untouched": Say("kept untouched", "미세 조정 전 모델 유지"),
    "worse": Say("worse", "악화"),
}
_WHOLE = (
    Say(
        "The speech was synthetic, so the figures say nothing about patients.",
        "합성 음성에 대한 결과이므로 환자 음성에 대해서는 아무것도 말해 주지 않는다.",
        ("synthetic",),
    ),
    Say("No training finished, so there is no result.", "완료된 학습이 없어 결과가 없다.", ("nothing",)),
    Say("{sizes_text}", "{sizes_text}"),
    Say(
        "The model with the lowest validation CER among those to be recommended was {best}, with a test CER of {cer}%.",
        "권장할 수 있는 모델 가운데 검증 CER이 가장 낮은 것은 {best}이며, 평가 세트의 CER은 {cer}%이다.",
        ("fit",),
    ),
    Say(
        "No model is called fit for use: that with the lowest validation CER, {best}, had a test CER of {cer}%, above "
        "{limit}%.",
        "검증 CER이 가장 낮은 {best}의 평가 세트 CER이 {cer}%로 {limit}%를 넘으므로, 사용에 적합한 모델은 없다.",
        ("unfit",),
    ),
    Say(
        "Of {n_gaps} gaps between a group of speakers and the others, these had a corrected p below 0.05: {gaps}.",
        "화자 집단과 나머지의 차이 {n_gaps}건 중 보정된 p값이 0.05 미만인 것은 다음과 같다: {gaps}.",
    ),
    Say(
        "None of {n_gaps} gaps between a group of speakers and the others had a corrected p below 0.05, which does not "
        "show that the groups are equal.",
        "화자 집단과 나머지의 차이 {n_gaps}건 중 보정된 p값이 0.05 미만인 것은 없었다. 이는 집단 간에 차이가 없음을 "
        "뜻하지 "
        "않는다.",
        ("no_gap",),
    ),
    Say(
        "The parts of the split overlap, so these figures do not measure performance on new speakers or sentences.",
        "분할된 세트가 서로 중복되므로, 이 결과는 새로운 화자나 문장에 대한 성능을 나타내지 않는다.",
        ("leaks",),
    ),
)
SIGNIFICANCE = 0.05


def results(record: BenchRecord, advice: Recommendation, language: Language) -> str:
    """Return the results as one paragraph, from the benchmark's verdicts."""
    return tell(_WHOLE, dict(_whole_facts(record, advice, language)), language)


def _whole_facts(record: BenchRecord, advice: Recommendation, language: Language) -> Iterator[tuple[str, str]]:
    if record.synthetic:
        yield "synthetic", ""
    if any(record.split.get("leakage", {}).get(name) for name in ("speakers", "sentences", "utterances")):
        yield "leaks", ""
    if advice.best is None:
        yield "nothing", ""
        return
    yield "sizes_text", " ".join(_tell_size(record, size, language) for size in advice.sizes)
    if is_known(advice.best.test_cer):
        state = Say(advice.best.state, "미세 조정 후" if advice.best.tuned else "미세 조정 전").words(language)
        yield "best", f"{advice.best.size} ({state})"
        yield "cer", rate(advice.best.test_cer)
        yield "limit", f"{100 * MAX_USEFUL_CER:g}"
        yield ("unfit" if advice.best.test_cer > MAX_USEFUL_CER else "fit"), ""
    yield from _gap_facts(record, language)


def _gap_facts(record: BenchRecord, language: Language) -> Iterator[tuple[str, str]]:
    tested = [(gap, p) for gap in record.gaps if (p := gap["p_holm"]) is not None]
    shown = [
        f"{gap['size']}, {_translated(gap['group'], language)} "
        f"({points_in_words(gap['cer_gap'], language)}, p {equals(p)})"
        for gap, p in tested
        if p < SIGNIFICANCE
    ]
    if tested:
        yield "n_gaps", count(len(tested))
        yield ("gaps", "; ".join(shown)) if shown else ("no_gap", "")


def _tell_size(record: BenchRecord, size: SizeVerdict, language: Language) -> str:
    if size.verdict is None:
        without = Say(
            "For {size} there is no comparison with the untouched model.",
            "{size}: 미세 조정 전 모델과 비교한 결과가 없다.",
        )
        return without.words(language).format(size=size.size)
    facts: dict[str, str | Say] = {
        "outcome": OUTCOMES[size.verdict["outcome"]].words(language).format(size=size.size),
        "figures": tell(_FIGURES, _figure_facts(record, size, language), language),
    }
    if sum(size.seeds.values()) > 1:
        facts["n_seeds"] = count(sum(size.seeds.values()))
        facts["seeds"] = ", ".join(f"{_SEED_WORDS[name].words(language)} {n}" for name, n in size.seeds.items())
    for name, shown in (("worse", True), ("maybe_worse", False)):
        if parts := [part for part in size.verdict["worse"] if part["shown"] == shown]:
            facts[name] = ", ".join(_tell_part(part, language) for part in parts)
    return tell(_SIZE, facts, language)


def _tell_part(part: WorsePart, language: Language) -> str:
    what = " ".join(_translated(word, language) for word in part["what"].split(" ", 1))
    what = _translated(part["what"], language) if part["what"] in _WORDS else what
    return f"{what} ({points_in_words(part['delta'], language)}, p {equals(part['p_value'])})"


def _translated(word: str, language: Language) -> str:
    return _WORDS[word].words(language) if word in _WORDS else word


def _figure_facts(record: BenchRecord, size: SizeVerdict, language: Language) -> Facts:
    """Return the figures of a size's comparison with its untouched model; empty where nothing was scored."""
    if size.verdict is None or size.verdict["cer"].get("a") is None or size.verdict["cer"].get("b") is None:
        return {}
    cer = size.verdict["cer"]
    facts: dict[str, str | Say] = {
        "untouched": rate(cer["a"]),
        "tuned": rate(cer["b"]),
        "delta": points(cer["delta"]),
        "p": equals(cer["p_value"]),
    }
    holm = holm_p_values(record).get(size.size, math.nan)
    facts["corrected"] = _CORRECTED.words(language).format(p_holm=equals(holm)) if is_known(holm) else ""
    low, high = cer.get("delta_low"), cer.get("delta_high")
    if low is None or high is None:
        return facts | {"no_interval": ""}
    return facts | {"low": points(low), "high": points(high)}


def holm_p_values(record: BenchRecord) -> Mapping[str, float]:
    """Return the corrected p-value of each size's comparison with its untouched model, where there is one."""
    names = {(f"{run.size} untouched", f"{run.size} fine-tuned"): run.size for run in record.trains}
    rows = {names.get((row["a_name"], row["b_name"])): row["p_holm"] for row in record.comparisons}
    return {size: p for size, p in rows.items() if size is not None}
