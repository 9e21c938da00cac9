"""What counts as better, no evidence, kept untouched and worse; what got worse; and that the gate agrees."""

from typing import Any

import pandas as pd
import pytest

from kmed_bench.core.predictions import Prediction
from kmed_bench.core.quantities import OVER_WHOLE
from kmed_bench.core.run_contracts import VERDICT, Verdict
from kmed_bench.scoring import ScoringOptions, gate
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.verdict import decide, judge_training, least_speakers, say_verdict, verdict_tags

SENTENCE = "머리가 아프고 열이 나서 왔습니다"
OPTIONS = ScoringOptions(min_group_clips=10, min_group_speakers=5)


def comparison(low: float | None, high: float | None, p_value: float) -> Any:
    return {"delta_low": low, "delta_high": high, "p_value": p_value}


@pytest.mark.parametrize(
    ("valid", "low", "high", "p_value", "outcome"),
    [
        ((0.3, 0.2), -0.10, -0.02, 0.01, "better"),
        ((0.3, 0.2), -0.10, 0.01, 0.01, "no evidence"),  # the interval holds zero
        ((0.3, 0.2), -0.10, -0.02, 0.06, "no evidence"),  # 5 speakers who all improve
        ((0.3, 0.2), None, None, 0.001, "no evidence"),  # too few speakers for an interval
        ((0.3, 0.3), -0.10, -0.02, 0.01, "kept untouched"),
        ((0.3, 0.4), -0.10, -0.02, 0.01, "kept untouched"),  # a gain on the test part alone is luck
        ((0.3, 0.4), -0.01, 0.02, 0.50, "kept untouched"),
        ((0.3, 0.2), 0.01, 0.05, 0.01, "worse"),
        ((0.3, 0.4), 0.01, 0.05, 0.01, "worse"),
        ((0.3, 0.2), 0.01, 0.05, 0.06, "no evidence"),
        ((0.3, float("nan")), -0.10, -0.02, 0.01, "kept untouched"),
    ],
)
def test_the_outcome_needs_the_valid_part_and_evidence_on_the_test_part(
    valid: tuple[float, float], low: float | None, high: float | None, p_value: float, outcome: str
) -> None:
    assert decide(*valid, comparison(low, high, p_value), 0.05) == outcome


def system(
    wrong: dict[str, int],
    *,
    n_speakers: int = 12,
    clips: int = 4,
    looping: int = 0,
    step: int = 1,
    text: str = SENTENCE,
) -> list[Prediction]:
    """Speakers by turns of two genders, who lose ``wrong`` characters or up to two more at the end of a clip.

    ``step`` changes who loses more.
    """
    made = []
    for speaker in range(n_speakers):
        gender = ("Female", "Male")[speaker % 2]
        for clip in range(clips):
            lost = wrong[gender] + (speaker // 2 * step + clip // 2) % 3
            made.append(
                Prediction(
                    utterance_id=f"u{speaker:02}-{clip}",
                    speaker_id=f"s{speaker:02}",
                    sentence_id=str(clip),
                    reference=text,
                    hypothesis=text[: len(text) - lost] + "아" * looping,
                    duration_s=3.0,
                    decode_s=0.5,
                    gender=gender,
                    age="20~29",
                    dialect="경상",
                    region="",
                    role="patient",
                )
            )
    return made


def counts(predictions: list[Prediction]) -> pd.DataFrame:
    return count_utterances(predictions, "pronunciation")


def judged(before: list[Prediction], after: list[Prediction], valid: tuple[float, float] = (0.4, 0.2)) -> Verdict:
    found = judge_training(counts(before), counts(after), valid=valid, options=OPTIONS, level=0.05)
    return VERDICT.check(found, "verdict.json")


OLD = {"Female": 6, "Male": 6}


@pytest.mark.parametrize(
    ("after", "n_speakers", "outcome", "recommended"),
    [
        ({"Female": 3, "Male": 3}, 12, "better", True),
        ({"Female": 9, "Male": 9}, 12, "worse", False),
        ({"Female": 7, "Male": 5}, 12, "no evidence", False),
        ({"Female": 3, "Male": 3}, 4, "no evidence", False),
        ({"Female": 0, "Male": 8}, 30, "better", False),  # better on the whole and worse for one gender
        (OLD, 12, "no evidence", False),
    ],
)
def test_verdicts_of_systems(after: dict[str, int], n_speakers: int, outcome: str, recommended: bool) -> None:
    verdict = judged(system(OLD, n_speakers=n_speakers), system(after, n_speakers=n_speakers, step=2))
    assert (verdict["outcome"], verdict["recommended"]) == (outcome, recommended)
    text = say_verdict(verdict, "base, seed 0")
    assert ("takes at least 6 speakers" in text) == (n_speakers == 4)
    tags = verdict_tags(verdict, "base, seed 0")
    assert tags == {
        "kmed.verdict": outcome,
        "kmed.recommended": str(recommended).lower(),
        "kmed.verdict_text": text,
    }


def test_a_group_that_got_worse_is_named_with_its_figures() -> None:
    sides = system(OLD, n_speakers=30), system({"Female": 0, "Male": 8}, n_speakers=30, step=2)
    verdict = judged(*sides)
    (part,) = [part for part in verdict["worse"] if part["what"].startswith("gender")]
    assert (part["what"], part["shown"], part["n_speakers"]) == ("gender Male", True, 15)
    old, new = (score_counts(counts(side))["groups"]["gender"]["Male"]["cer"] for side in sides)
    assert old is not None
    assert new is not None
    assert part["delta"] == pytest.approx(new - old)
    assert f"gender Male ({100 * (new - old):+.2f} points, p " in say_verdict(verdict, "base")


def test_numbers_that_are_lost_prevent_the_recommendation() -> None:
    """The fine-tuned model hears all but the number, which the untouched one gets right."""
    said = "혈압약은 하루에 세 번 식후에 드세요"
    before = [
        Prediction(**{**vars(p), "hypothesis": "혈압 하루에 세 번" + " 식후" * (int(p.speaker_id[1:]) % 3)})
        for p in system({"Female": 0, "Male": 0}, text=said)
    ]
    after = [Prediction(**{**vars(p), "hypothesis": "혈압약은 하루에 네 번 식후에 드세요"}) for p in before]
    verdict = judged(before, after)
    assert (verdict["outcome"], verdict["recommended"]) == ("better", False)
    assert [(part["what"], part["delta"], part["shown"]) for part in verdict["worse"]] == [
        ("numbers reproduced", -1.0, True)
    ]


def test_speakers_are_in_the_order_of_their_cer_and_unnamed() -> None:
    before, after = system(OLD, n_speakers=6), system({"Female": 3, "Male": 9}, n_speakers=6)
    speakers = judged(before, after)["speakers"]
    assert list(speakers) == ["untouched", "tuned", "n_clips", "n_characters"]
    assert speakers["untouched"] == sorted(speakers["untouched"])
    assert sum(speakers["tuned"]) / 6 == pytest.approx(score_counts(counts(after))["overall"]["cer"])
    assert speakers["n_clips"] == [4] * 6
    assert sum(speakers["n_characters"]) == counts(before)["cer_length"].sum()


def test_rates_over_the_whole_are_explained_where_they_occur() -> None:
    looping = judged(system(OLD), system(OLD, looping=30))
    assert looping["cer"]["b"] is not None
    assert looping["cer"]["b"] > 1
    assert say_verdict(looping, "base").endswith(OVER_WHOLE)
    assert OVER_WHOLE not in say_verdict(judged(system(OLD), system(OLD)), "base")


@pytest.mark.parametrize(
    "after", [{"Female": n, "Male": m} for n, m in ((3, 3), (9, 9), (7, 5), (5, 6), (6, 6), (2, 5))]
)
def test_better_is_what_the_gate_lets_through(after: dict[str, int]) -> None:
    sides = {}
    before, tuned = system(OLD), system(after, step=2)
    for name, predictions in (("untouched", before), ("speakers", tuned)):
        table = counts(predictions)
        sides[name] = gate.summarise_speakers(table, split_sha256="ab", scores=score_counts(table))
    evidence = gate.Evidence(version="1", split_sha256="ab", split_label="disjoint", synthetic=False, **sides)
    (check,) = [check for check in gate.judge(evidence, None) if check.name == "untouched"]
    assert (judged(before, tuned)["outcome"] == "better") == check.passed


def test_how_many_speakers_a_level_takes() -> None:
    for level in (0.05, 0.04, 0.01, 0.001):
        least = least_speakers(level)
        assert 2 / 2**least < level <= 2 / 2 ** (least - 1)
