"""Baselines of every kind behind one reader: packages, predictions, and the files beside them."""

from pathlib import Path

import pytest
from packaged import OPTIONS, REPORT, SYSTEMS, changed, system

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.scoring import ScoringOptions, compare_predictions, holm
from kmed_bench.scoring.baselines import check_same_speech, compare_with, read_baseline
from kmed_bench.scoring.package import write_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package", REPORT, "test", SYSTEMS, OPTIONS).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_predictions(tmp_path / "base" / "predictions.jsonl", SYSTEMS["base"])
    write_json(tmp_path / "base" / "scores.json", {})
    return tmp_path / "base"


def test_a_package_compares_with_each_of_its_systems(package: Path) -> None:
    new = system(0.1, 3)
    baseline = read_baseline(package, OPTIONS)
    assert baseline.split_sha256 == REPORT["sha256"]
    rows = compare_with(baseline, new[::-1], OPTIONS)
    alone = [compare_predictions(other, new, OPTIONS) for other in SYSTEMS.values()]
    corrected = holm([comparison["p_value"] for comparison in alone])
    assert [row["baseline"] for row in rows] == list(SYSTEMS)
    for row, comparison, p in zip(rows, alone, corrected, strict=True):
        assert row == {"baseline": row["baseline"], **comparison, "p_holm": p}
    assert rows[0]["delta"] < 0 < rows[1]["delta"]


@pytest.mark.parametrize("name", [".", "predictions.jsonl", "scores.json"])
def test_predictions_are_read_by_any_path_to_them(folder: Path, name: str) -> None:
    baseline = read_baseline(folder / name, OPTIONS)
    (row,) = compare_with(baseline, SYSTEMS["small-tuned"], OPTIONS)
    expected = compare_predictions(*SYSTEMS.values(), OPTIONS)
    assert row == {"baseline": str(folder / name), **expected, "p_holm": expected["p_value"]}
    assert baseline.split_sha256 is None


def test_a_package_of_the_other_side_is_refused_with_the_setting(package: Path) -> None:
    message = "scored on the pronunciation side, .* is spelling; give --data.transcript_side pronunciation"
    with pytest.raises(KmedError, match=message):
        read_baseline(package, ScoringOptions(transcript_side="spelling"))


@pytest.mark.parametrize("name", ["nothing", "nothing/scores.json"])
def test_a_baseline_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(KmedError, match=f"{name} does not exist, or no predictions.jsonl is in it; --against takes"):
        read_baseline(tmp_path / name, OPTIONS)


OTHER_SPEECH = [
    (SYSTEMS["base"][1:], "0 of these 59 are missing in it and 1 of its 60 are missing here, such as 'u00'"),
    (changed(SYSTEMS["base"], utterance_id="v"), "1 of these 60 are missing in it and 1 of its 60 are missing here"),
    (changed(SYSTEMS["base"], reference="다른 말"), "references or speakers are not those of the baseline"),
    (changed(SYSTEMS["base"], speaker_id="other"), "references or speakers are not those of the baseline"),
]


@pytest.mark.parametrize("kind", ["package", "folder"])
@pytest.mark.parametrize(("predictions", "message"), OTHER_SPEECH)
def test_other_utterances_or_references_are_refused(
    kind: str, predictions: list[Prediction], message: str, request: pytest.FixtureRequest
) -> None:
    baseline = read_baseline(request.getfixturevalue(kind), OPTIONS)
    with pytest.raises(KmedError, match=message):
        check_same_speech(baseline, predictions, OPTIONS)
    with pytest.raises(KmedError, match=message):
        compare_with(baseline, predictions, OPTIONS)
