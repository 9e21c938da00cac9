import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import ScoringOptions, compare_predictions, holm, score_predictions
from kmed_bench.scoring.compare import judge_margin
from kmed_bench.scoring.spread import Clips, clips_of

OPTIONS = ScoringOptions(bootstrap_draws=400)


def system(wrong: float, seed: int, n_clips: int = 120) -> list[Prediction]:
    """A system that gets this share of characters wrong, on clips that are the same for every system."""
    texts, noise = np.random.default_rng(1), np.random.default_rng(seed)
    made = []
    for number in range(n_clips):
        reference = "".join(texts.choice(list("가나다라마바사 "), size=20)) + "."
        hits = noise.random(len(reference)) < wrong
        made.append(
            Prediction(
                utterance_id=f"u{number}",
                speaker_id=f"s{number % 20}",
                sentence_id="",
                reference=reference,
                hypothesis="".join("하" if hit and c != " " else c for hit, c in zip(hits, reference, strict=True)),
                duration_s=4.0,
                decode_s=0.5,
                gender="Female",
                age="20~29",
                dialect="경상",
                region="",
                role="patient",
            )
        )
    return made


def test_a_better_system_has_a_negative_significant_difference() -> None:
    a, b = system(0.2, 1), system(0.1, 2)
    found = compare_predictions(a, b, OPTIONS)
    json.dumps(found, allow_nan=False)
    cers = [score_predictions(side, OPTIONS)["overall"]["cer"] for side in (a, b)]
    assert (found["a"], found["b"]) == tuple(cers)
    assert found["delta"] == pytest.approx(cers[1] - cers[0])
    assert found["delta_low"] < found["delta"] < found["delta_high"] < 0
    assert found["p_value"] < 0.01
    assert (found["n_clips"], found["n_speakers"], found["n_excluded"]) == (120, 20, 0)


def test_exchanging_the_systems_exchanges_the_sign() -> None:
    a, b = system(0.2, 1), system(0.18, 2)
    there, back = compare_predictions(a, b, OPTIONS), compare_predictions(b, a, OPTIONS)
    assert there["delta"] == -back["delta"]
    assert there["p_value"] == back["p_value"]
    assert there["delta_low"] == pytest.approx(-back["delta_high"])


def test_a_system_against_itself_differs_by_nothing() -> None:
    a = system(0.2, 1)
    found = compare_predictions(a, a[::-1], OPTIONS)
    assert (found["delta"], found["delta_low"], found["p_value"], found["p_value_floor"]) == (0, None, 1, 1)


def test_few_speakers_cannot_be_significant_and_the_floor_says_so() -> None:
    few = [[p for p in system(wrong, seed) if p.speaker_id in ("s0", "s1", "s2")] for wrong, seed in ((0.9, 1), (0, 2))]
    found = compare_predictions(few[0], few[1], OPTIONS)
    assert found["n_speakers"] == 3
    assert found["p_value"] == found["p_value_floor"] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cer_raw", "wer", "wer_respaced", "jer", "empty_rate", "hallucination_rate"])
def test_other_metrics_are_compared_likewise(metric: str) -> None:
    a, b = system(0.3, 1), system(0.1, 2)
    found = compare_predictions(a, b, OPTIONS, metric=metric)
    scores = [score_predictions(side, OPTIONS)["overall"][metric] for side in (a, b)]
    assert [found["a"], found["b"]] == scores
    assert (found["metric"], found["better"]) == (metric, "lower")


@pytest.mark.parametrize("metric", ["insertion_share", "accuracy"])
def test_metrics_without_a_shared_denominator_are_refused(metric: str) -> None:
    with pytest.raises(KmedError, match=f"'{metric}' cannot be compared"):
        compare_predictions(system(0.1, 1), system(0.1, 2), OPTIONS, metric=metric)


def test_utterances_of_only_one_system_are_an_error() -> None:
    message = "1 of the first system's 118 utterances are missing in the second and 2 of the second's 119 in the first"
    with pytest.raises(KmedError, match=message):
        compare_predictions(system(0.2, 1)[:-2], system(0.1, 2)[1:], OPTIONS)


BREAKS: list[tuple[str, Callable[[Prediction], dict[str, str]]]] = [
    ("speaker_id", lambda p: {"speaker_id": "other"}),
    ("excluded", lambda p: {"reference": ""}),
    ("reference", lambda p: {"reference": p.reference + "가"}),
    ("reference", lambda p: {"reference": p.reference[:-2] + "허."}),
]


@pytest.mark.parametrize(("column", "change"), BREAKS)
def test_other_references_or_speakers_are_an_error(column: str, change: Callable[[Prediction], dict[str, str]]) -> None:
    a = system(0.1, 1)
    b = [Prediction(**{**vars(a[0]), **change(a[0])}), *a[1:]]
    assert b != a
    with pytest.raises(KmedError, match=f"1 utterances have another {column}"):
        compare_predictions(a, b, OPTIONS)


def test_systems_on_different_clips_cannot_be_compared() -> None:
    other = [Prediction(**{**vars(p), "utterance_id": f"x{p.utterance_id}"}) for p in system(0.1, 1)]
    with pytest.raises(KmedError, match="120 of the first system's 120 utterances are missing"):
        compare_predictions(system(0.1, 1), other, OPTIONS)


HOLM = [
    ([], []),
    ([0.03], [0.03]),
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.5, 0.9, 0.6], [1.0, 1.0, 1.0]),
    ([0.01, 0.01], [0.02, 0.02]),
]


@pytest.mark.parametrize(("given", "expected"), HOLM)
def test_holm(given: list[float], expected: list[float]) -> None:
    assert holm(given) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(values: list[float]) -> None:
    corrected = holm(values)
    assert all(value <= new <= min(1, value * len(values)) for value, new in zip(values, corrected, strict=True))
    pairs = sorted(zip(values, corrected, strict=True))
    assert [new for _, new in pairs] == sorted(corrected)


def paired(delta: float, n_speakers: int = 30, spread: float = 0.01) -> Clips:
    """Differences of one clip a speaker around a mean."""
    rates = delta + spread * np.linspace(-1, 1, n_speakers)
    return clips_of(np.arange(n_speakers), 100 * rates, np.full(n_speakers, 100.0))


@pytest.mark.parametrize(
    ("delta", "better", "equivalent", "non_inferior"),
    [
        (0.0, "lower", True, True),
        (0.009, "lower", False, False),
        (0.02, "lower", False, False),
        (-0.02, "lower", False, True),
        (-0.02, "higher", False, False),
        (0.02, "higher", False, True),
    ],
)
def test_margins_know_the_direction_of_the_measure(
    delta: float, better: str, equivalent: bool, non_inferior: bool
) -> None:
    found = judge_margin(paired(delta), 0.01, OPTIONS, better=better)
    assert (found["equivalent"], found["non_inferior"]) == (equivalent, non_inferior)
    assert found["verdict"].split(":")[0] == (
        "equivalent" if equivalent else "not worse" if non_inferior else "not shown"
    )
    assert found["p_equivalence"] >= found["p_non_inferiority"]


def test_the_p_values_of_a_margin_are_those_of_two_one_sided_tests() -> None:
    clips = paired(0.002, spread=0.02)
    differences = clips.top / 100
    below = ttest_1samp(differences, 0.01, alternative="less").pvalue
    above = ttest_1samp(differences, -0.01, alternative="greater").pvalue
    found = judge_margin(clips, 0.01, ScoringOptions(bootstrap_draws=20_000))
    assert below > above
    # Sign flips, which the p-value is the larger of, are near Student's test for 30 speakers.
    assert found["p_non_inferiority"] == pytest.approx(below, rel=0.5)
    assert found["p_non_inferiority"] >= below * 0.98
    assert found["p_equivalence"] == found["p_non_inferiority"]


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_equivalence_needs_six_speakers_even_of_equal_transcripts(spread: float) -> None:
    five, six = (judge_margin(paired(0.0, n, spread), 0.05, OPTIONS) for n in (5, 6))
    assert five["p_equivalence"] >= 1 / 32
    assert (five["equivalent"], six["equivalent"]) == (False, True)


def test_a_margin_is_in_the_result_only_when_asked_for() -> None:
    a, b = system(0.1, 1), system(0.1, 2)
    assert "margin" not in compare_predictions(a, b, OPTIONS)
    found = compare_predictions(a, b, OPTIONS, margin=0.2)
    assert found["margin"]["equivalent"]
    assert found["margin"]["margin"] == 0.2
    for margin in (0.0, -0.1, 1.0):
        with pytest.raises(KmedError, match="above 0 and below 1"):
            compare_predictions(a, b, OPTIONS, margin=margin)
