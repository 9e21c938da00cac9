import json
from pathlib import Path
from typing import Any

import pytest
from packaged import OPTIONS, REPORT, SYSTEMS, changed, system

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import compare_predictions, score_predictions
from kmed_bench.scoring.compare import compare_counts
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.package import COLUMNS, hash_references, read_package, write_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_package(tmp_path / "package", REPORT, "test", SYSTEMS, OPTIONS)
    return tmp_path / "package"


def test_no_text_and_no_path_is_published(folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["package.json", "systems/base.csv", "systems/small-tuned.csv"]
    whole = "".join((folder / name).read_text(encoding="utf-8") for name in files)
    for secret in ("머리", "혈압", "먹었", "네,", "헉", "/home/me", "sentence_id", "sentence0", "sentence1"):
        assert secret not in whole


def test_a_package_scores_and_compares_like_its_predictions(folder: Path) -> None:
    package = read_package(folder)
    assert package.policy == "pronunciation"
    for name, predictions in SYSTEMS.items():
        scores = score_predictions(predictions, OPTIONS, split_sha256=REPORT["sha256"])
        assert package.head["scores"][name] == json.loads(json.dumps(scores))
        assert score_counts(package.systems[name], OPTIONS, split_sha256=REPORT["sha256"]) == scores
    from_counts = compare_counts(*package.systems.values(), OPTIONS)
    assert from_counts == compare_predictions(*SYSTEMS.values(), OPTIONS)


def test_references_are_hashed_as_scored_and_in_any_order() -> None:
    given = SYSTEMS["base"]
    said = hash_references(given, "pronunciation")
    assert said == hash_references(given[::-1], "pronunciation") == hash_references(system(0.9, 9), "pronunciation")
    assert said != hash_references(given, "spelling")
    assert said != hash_references(given[1:], "pronunciation")


@pytest.mark.parametrize(
    ("systems", "part", "message"),
    [
        ({}, "test", "at least one baseline"),
        ({"../x": SYSTEMS["base"]}, "test", "'../x' cannot name"),
        ({"base": SYSTEMS["base"]}, "valid", "valid has 9 utterances, and base predicts 60"),
        ({"base": SYSTEMS["base"]}, "testing", "testing has None utterances"),
        ({"a": SYSTEMS["base"], "b": SYSTEMS["base"][1:]}, "test", "a and b differ"),
        ({"a": SYSTEMS["base"], "b": changed(SYSTEMS["base"], reference="다른 말")}, "test", "a and b differ"),
    ],
)
def test_unfit_baselines_are_refused(
    tmp_path: Path, systems: dict[str, list[Prediction]], part: str, message: str
) -> None:
    with pytest.raises(KmedError, match=message):
        write_package(tmp_path, REPORT, part, systems, OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format 2, version 5; 'kmed-package' is needed here.*or make the package again"),
        ("version", 2, "version 2 of kmed-package, and this release reads 3 to 5; make the package again"),
        ("version", 9, "version 9 of kmed-package, and this release reads up to 5; install"),
        ("normaliser_version", "0", "normaliser_version '0'"),
        ("columns", [*COLUMNS[1:], "bleu"], "differ in the counts bleu, utterance_id; install the release"),
        ("files_sha256", {"../x": "00"}, "no file name"),
        ("files_sha256", {"gone": "00"}, "missing from the package"),
        ("files_sha256", {"base": "00"}, "not what package.json says"),
    ],
)
def test_a_spoilt_package_is_refused(folder: Path, key: str, value: Any, message: str) -> None:
    head = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    (folder / "package.json").write_text(json.dumps({**head, key: value}), encoding="utf-8")
    with pytest.raises(KmedError, match=message):
        read_package(folder)


def test_a_package_of_the_release_before_takes_its_sentences_from_the_other_side(folder: Path) -> None:
    package = read_package(folder)
    old = package.systems["base"].drop(columns="sentence")
    assert compare_counts(old, package.systems["small-tuned"], OPTIONS) == compare_counts(
        *package.systems.values(), OPTIONS
    )
