"""The gate between challenger and champion, and the way back."""

import dataclasses
import json
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from kmed_bench.config import Config, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import gate
from kmed_bench.scoring.compare import compare_predictions
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry.promotion import promote, rollback

pytestmark = pytest.mark.slow

SHA = "ab" * 32
NAME = "kmed-whisper-small"
SENTENCE = "머리가 아프고 열이 나서 왔습니다"


def predictions(wrong: dict[str, int], n_speakers: int = 12, clips: int = 5) -> list[Prediction]:
    """Clips of speakers by turns of each dialect and age; ``wrong`` says how many characters a dialect loses."""
    made = []
    for speaker in range(n_speakers):
        dialect, age = ("강원도", "경상도")[speaker % 2], ("20~29", "over70")[speaker // 2 % 2]
        for clip in range(clips):
            lost = wrong[dialect] + (speaker + clip) % 2
            made.append(
                Prediction(
                    utterance_id=f"u{speaker:02}-{clip}",
                    speaker_id=f"person-{speaker:02}",
                    sentence_id=str(clip),
                    reference=SENTENCE,
                    hypothesis=SENTENCE[: len(SENTENCE) - lost],
                    duration_s=3.0,
                    decode_s=0.5,
                    gender="남성",
                    age=age,
                    dialect=dialect,
                    region="",
                    role="patient",
                )
            )
    return made


def evidence(version: str, given: list[Prediction], sha: str = SHA, decode_s_p95: float = 0.5) -> gate.Evidence:
    counts = count_utterances(given, "pronunciation")
    scores = score_counts(counts, split_sha256=sha)
    return gate.Evidence(
        version=version,
        split_sha256=sha,
        metrics={"speed/test_decode_s_p95": decode_s_p95},
        scores=scores,
        speakers=json.loads(json.dumps(gate.summarise_speakers(counts, split_sha256=sha, scores=scores))),
    )


OLD = predictions({"강원도": 4, "경상도": 4})
BETTER = predictions({"강원도": 2, "경상도": 2})
MIXED = predictions({"강원도": 0, "경상도": 5})


def verdicts(checks: list[gate.Check]) -> dict[str, bool | None]:
    return {check.name: check.passed for check in checks}


def test_the_evidence_names_nobody_and_holds_no_utterance() -> None:
    text = json.dumps(evidence("1", OLD).speakers, ensure_ascii=False)
    assert "person" not in text
    assert "u00" not in text
    assert SENTENCE[:3] not in text
    columns = evidence("1", OLD).speakers["speakers"]
    assert sorted(set(columns["speaker"])) == list(range(12))
    assert sorted(set(columns["sentence"])) == list(range(5))


def test_the_evidence_gives_the_comparison_that_predictions_give() -> None:
    whole = compare_predictions(OLD, MIXED)
    (_, accuracy, *_) = gate.judge(evidence("2", MIXED), evidence("1", OLD))
    assert {key: whole[key] for key in accuracy.figures} == pytest.approx(accuracy.figures)


def test_speakers_are_numbered_alike_whatever_the_order() -> None:
    assert evidence("1", OLD).speakers == evidence("1", OLD[::-1]).speakers
    assert evidence("1", OLD).speakers["speakers"] != evidence("1", OLD, sha="cd" * 32).speakers["speakers"]


def test_a_better_challenger_passes() -> None:
    checks = gate.judge(evidence("2", BETTER), evidence("1", OLD))
    assert verdicts(checks) == {
        "test": True,
        "accuracy": True,
        "subgroups": True,
        "elderly gap": True,
        "latency": True,
    }
    accuracy = checks[1]
    assert accuracy.figures["delta"] == pytest.approx(accuracy.figures["b"] - accuracy.figures["a"])
    assert accuracy.figures["delta_high"] < 0
    low, delta, high = (100 * accuracy.figures[f"delta{end}"] for end in ("_low", "", "_high"))
    assert f"difference {delta:+.2f} points ({low:+.2f} to {high:+.2f}), p 0.000; its interval must" in accuracy.text


def test_an_equal_challenger_does_not_pass() -> None:
    accuracy = gate.judge(evidence("2", OLD), evidence("1", OLD))[1]
    assert accuracy.passed is False
    assert "difference +0.00 points, no interval" in accuracy.text


def test_a_subgroup_that_gets_worse_stands_in_the_way() -> None:
    old, new = (predictions({"강원도": a, "경상도": b}, n_speakers=24) for a, b in ((4, 4), (0, 7)))
    checks = {check.name: check for check in gate.judge(evidence("2", new), evidence("1", old))}
    assert checks["subgroups"].passed is False
    assert checks["subgroups"].text.startswith("1 of 4 significantly worse, 1 worse at all: dialect 경상도 by ")
    assert checks["subgroups"].figures["dialect 강원도"]["delta"] < 0


def test_small_subgroups_are_not_judged() -> None:
    few = [predictions({"강원도": n, "경상도": n}, n_speakers=4, clips=2) for n in (2, 4)]
    checks = gate.judge(evidence("2", few[0]), evidence("1", few[1]))
    assert verdicts(checks)["subgroups"] is None
    assert verdicts(checks)["elderly gap"] is None


def test_the_elderly_gap_and_the_latency_are_limits_even_for_the_first() -> None:
    slow = evidence("1", OLD, decode_s_p95=9.0)
    assert slow.scores is not None
    for gap, seconds, passed in ((0.05, 5.0, True), (0.0501, 5.01, False)):
        scores = {**slow.scores, "elderly_gap": {**slow.scores["elderly_gap"], "cer_gap": gap}}
        first = dataclasses.replace(slow, scores=scores, metrics={"speed/test_decode_s_p95": seconds})
        checks = gate.judge(first, None)
        assert verdicts(checks) == {"accuracy": True, "elderly gap": passed, "latency": passed}
    assert "is 5.0 % above the rest's, limit 5.0 %" in checks[1].text
    assert "take at most 5.01 s, limit 5 s" in checks[2].text


def test_other_splits_and_other_rules_can_not_be_compared() -> None:
    champion = evidence("1", OLD)
    assert verdicts(gate.judge(evidence("2", BETTER, sha="cd" * 32), champion))["test"] is False
    newer = evidence("2", BETTER)
    newer = dataclasses.replace(newer, speakers={**newer.speakers, "normaliser_version": "99"})
    (check, *_) = gate.judge(newer, champion)
    assert (check.passed, "normaliser_version 99" in check.text) == (False, True)


def test_without_evidence_nothing_passes() -> None:
    bare = dataclasses.replace(evidence("1", OLD), speakers=None)
    checks = {check.name: check for check in gate.judge(evidence("2", BETTER), bare)}
    assert checks["accuracy"].passed is False
    assert "version 1 has no speaker_errors.json" in checks["accuracy"].text


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def versions(uri: str) -> dict[str, str]:
    """Runs with what training logs, each with a version: old, better, worse, other split."""
    config: Config = load_config("demo", {"tracking.uri": uri})
    cases: dict[str, tuple[list[Prediction], str]] = {
        "old": (OLD, SHA),
        "better": (BETTER, SHA),
        "worse": (predictions({"강원도": 6, "경상도": 6}), SHA),
        "other": (BETTER, "cd" * 32),
    }
    made = {}
    with runs.bench_run(config, code_version="x") as bench:
        client = MlflowClient(tracking_uri=uri)
        client.create_registered_model(NAME)
        for case, (given, sha) in cases.items():
            with bench.child("train", case) as run:
                found = evidence(case, given, sha)
                run.log_metrics(found.metrics)
                run.log_json(found.scores, "scores.json")
                run.log_json(found.speakers, gate.EVIDENCE_NAME)
                version = client.create_model_version(
                    NAME, "file:///nowhere", run.run_id, tags={"kmed.split_sha256": sha}
                )
                made[case] = str(version.version)
    return made


def champion_in(uri: str) -> str | None:
    aliases: dict[str, Any] = MlflowClient(tracking_uri=uri).get_registered_model(NAME).aliases
    return str(aliases["champion"]) if "champion" in aliases else None


def test_promotion_and_the_way_back(uri: str, versions: dict[str, str]) -> None:
    client = MlflowClient(tracking_uri=uri)
    old, better, worse, other = (versions[case] for case in ("old", "better", "worse", "other"))
    tried = promote(uri, NAME, old, dry_run=True)
    assert (tried["passed"], tried["promoted"], champion_in(uri)) == (True, False, None)
    assert not [tag for tag in client.get_model_version(NAME, old).tags if "gate" in tag]

    assert promote(uri, NAME, old)["reasons"][0] == "accuracy holds: there is no champion yet: first of its kind"
    assert champion_in(uri) == old
    with pytest.raises(KmedError, match=f"has no champion before version {old}"):
        rollback(uri, NAME, reason="none to go back to")

    refused = promote(uri, NAME, worse)
    assert (refused["promoted"], champion_in(uri)) == (False, old)
    tags = client.get_model_version(NAME, worse).tags
    assert tags["kmed.gate"] == "failed"
    assert json.loads(tags["kmed.gate.accuracy"])["figures"]["delta"] > 0

    assert promote(uri, NAME, better)["promoted"] is True
    tags = client.get_model_version(NAME, better).tags
    assert (champion_in(uri), tags["kmed.gate"], tags["kmed.previous_champion"]) == (better, "passed", old)

    with pytest.raises(KmedError, match="needs a reason"):
        promote(uri, NAME, other, force=True)
    forced = promote(uri, NAME, other, force=True, reason="trial in one ward")
    assert (forced["passed"], forced["forced"], forced["promoted"]) == (False, True, True)
    tags = client.get_model_version(NAME, other).tags
    assert (tags["kmed.gate"], tags["kmed.gate_reason"]) == ("failed, promoted by force", "trial in one ward")

    assert promote(uri, NAME, other)["checks"]["accuracy"]["text"] == "it is the champion already"
    assert rollback(uri, NAME, reason="looped on silence", dry_run=True)["rolled_back"] is False
    assert rollback(uri, NAME, reason="looped on silence")["version"] == better
    assert champion_in(uri) == better
    assert rollback(uri, NAME, reason="again")["version"] == old
    noted = json.loads(client.get_model_version(NAME, other).tags["kmed.rolled_back"])
    assert (noted["to"], noted["reason"]) == (better, "looped on silence")


@pytest.mark.usefixtures("versions")
def test_unknown_versions_and_models_are_named(uri: str) -> None:
    with pytest.raises(KmedError, match=r"version 99 is not in the registry .* its versions are: 4, 3, 2, 1"):
        promote(uri, NAME, 99)
    with pytest.raises(KmedError, match="kmed-whisper-none has no champion, so there is none to go back to"):
        rollback(uri, "kmed-whisper-none", reason="x")


def test_five_speakers_cannot_promote_however_alike_they_improve() -> None:
    """All 5 improve, and the interval is below zero; that happens by chance one time in 16."""
    old, new = (predictions({"강원도": a, "경상도": b}, n_speakers=5, clips=8) for a, b in ((5, 5), (1, 2)))
    accuracy = gate.judge(evidence("2", new), evidence("1", old))[1]
    assert accuracy.figures["delta_high"] < 0
    assert accuracy.figures["p_value"] == 2 / 2**5
    assert accuracy.passed is False
    assert "which 5 speakers can't show" in accuracy.text


def test_evidence_without_sentences_does_not_decide() -> None:
    old, new = evidence("1", OLD), evidence("2", BETTER)
    assert old.speakers is not None
    columns = {name: column for name, column in old.speakers["speakers"].items() if name != "sentence"}
    earlier = dataclasses.replace(old, speakers={**old.speakers, "speakers": columns})
    accuracy = gate.judge(new, earlier)[1]
    assert accuracy.passed is False
    assert "did not record which speakers read one sentence" in accuracy.text
