import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import compare_predictions, holm, score_predictions
from kmed_bench.scoring.compare import compare_counts
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.package import hash_references, read_package, score_against, write_package

CONFIG = EvalConfig(bootstrap_draws=200)
SENTENCES = ("머리가 (3)/(삼) 일째 아파요.", "약을 먹었는데 토했어요", "네", "…", "혈압이 높대요")
REPORT = {"sha256": "ab" * 32, "counts": {"train": 9, "valid": 9, "test": 60}, "discarded": 2, "source": "/home/me"}


def system(wrong: float, seed: int) -> list[Prediction]:
    noise = np.random.default_rng(seed)
    made = []
    for number in range(60):
        reference = SENTENCES[number % 5]
        heard = reference.replace("(3)/(삼)", "삼")
        made.append(
            Prediction(
                utterance_id=f"u{number:02}",
                speaker_id=f"0{number % 9}",
                sentence_id=f"sentence{number % 5}",
                reference=reference,
                hypothesis="".join("헉" if noise.random() < wrong else sign for sign in heard),
                duration_s=1.1 + number / 7,
                decode_s=0.1 + number / 70,
                gender="Female",
                age="N/A",
                dialect="경상",
                region="NA",
                role="patient",
            )
        )
    return made


SYSTEMS = {"base": system(0.2, 1), "small-tuned": system(0.05, 2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_package(tmp_path / "package", REPORT, "test", SYSTEMS, CONFIG)
    return tmp_path / "package"


def test_no_text_and_no_path_is_published(folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["package.json", "systems/base.csv", "systems/small-tuned.csv"]
    whole = "".join((folder / name).read_text(encoding="utf-8") for name in files)
    for secret in ("머리", "혈압", "먹었", "네,", "헉", "/home/me", "sentence"):
        assert secret not in whole


def test_a_package_scores_and_compares_like_its_predictions(folder: Path) -> None:
    package = read_package(folder)
    assert package.policy == "pronunciation"
    for name, predictions in SYSTEMS.items():
        scores = score_predictions(predictions, CONFIG, split_sha256=REPORT["sha256"])
        assert package.head["scores"][name] == json.loads(json.dumps(scores))
        assert score_counts(package.systems[name], CONFIG, split_sha256=REPORT["sha256"]) == scores
    from_counts = compare_counts(*package.systems.values(), CONFIG)
    assert from_counts == compare_predictions(*SYSTEMS.values(), CONFIG)


def test_a_new_system_is_measured_on_the_same_standard(folder: Path) -> None:
    new = system(0.1, 3)
    found = score_against(read_package(folder), new[::-1], EvalConfig(bootstrap_draws=200, policy="spelling"))
    assert found["scores"] == score_predictions(new, CONFIG, split_sha256=REPORT["sha256"])
    assert [entry["baseline"] for entry in found["comparisons"]] == ["base", "small-tuned"]
    alone = [compare_predictions(baseline, new, CONFIG) for baseline in SYSTEMS.values()]
    corrected = holm([comparison["p_value"] for comparison in alone])
    for entry, comparison, p in zip(found["comparisons"], alone, corrected, strict=True):
        assert entry == {"baseline": entry["baseline"], **comparison, "p_holm": p}
    assert found["comparisons"][0]["delta"] < 0 < found["comparisons"][1]["delta"]


def test_references_are_hashed_as_scored_and_in_any_order() -> None:
    given = SYSTEMS["base"]
    said = hash_references(given, "pronunciation")
    assert said == hash_references(given[::-1], "pronunciation") == hash_references(system(0.9, 9), "pronunciation")
    assert said != hash_references(given, "spelling")
    assert said != hash_references(given[1:], "pronunciation")


def changed(predictions: list[Prediction], **fields: Any) -> list[Prediction]:
    return [Prediction(**{**vars(predictions[0]), **fields}), *predictions[1:]]


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
        write_package(tmp_path, REPORT, part, systems, CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (SYSTEMS["base"][1:], "lack 1 of the package's 60 utterances and have 0 others, such as 'u00'"),
        (changed(SYSTEMS["base"], utterance_id="v"), "lack 1 of the package's 60 utterances and have 1 others"),
        (changed(SYSTEMS["base"], reference="다른 말"), "references or speakers"),
        (changed(SYSTEMS["base"], speaker_id="other"), "references or speakers"),
    ],
)
def test_other_utterances_or_references_are_refused(folder: Path, predictions: list[Prediction], message: str) -> None:
    with pytest.raises(KmedError, match=message):
        score_against(read_package(folder), predictions, CONFIG)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "package format 99"),
        ("normaliser_version", "0", "normaliser_version '0'"),
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
