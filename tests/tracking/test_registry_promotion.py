"""The gate between challenger and champion, and the way back."""

import dataclasses
import http.server
import json
import math
import re
import shlex
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from kmed_bench.cli import main
from kmed_bench.config import Config, GateConfig, load_config
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


def speakers_of(given: list[Prediction], sha: str) -> Any:
    counts = count_utterances(given, "pronunciation")
    summed = gate.summarise_speakers(counts, split_sha256=sha, scores=score_counts(counts, split_sha256=sha))
    return json.loads(json.dumps(summed))


def evidence(
    version: str,
    given: list[Prediction],
    sha: str = SHA,
    *,
    untouched: list[Prediction] | None = None,
    clip_s_p95: float = 0.5,
) -> gate.Evidence:
    """What a training on real, disjoint data leaves behind; without `untouched` that model was worse than any here."""
    worst = predictions({"강원도": 8, "경상도": 10}, n_speakers=len({each.speaker_id for each in given}))
    clips = {each.utterance_id for each in given}
    return gate.Evidence(
        version=version,
        split_sha256=sha,
        split_label="disjoint",
        synthetic=False,
        metrics={"latency/clip_s_p95": clip_s_p95, "latency/others_load": 0.02},
        scores=score_counts(count_utterances(given, "pronunciation"), split_sha256=sha),
        speakers=speakers_of(given, sha),
        untouched=speakers_of(untouched or [each for each in worst if each.utterance_id in clips], sha),
    )


OLD = predictions({"강원도": 4, "경상도": 4})
BETTER = predictions({"강원도": 2, "경상도": 2})
MIXED = predictions({"강원도": 0, "경상도": 5})


def judged(*arguments: Any) -> dict[str, gate.Check]:
    return {check.name: check for check in gate.judge(*arguments)}


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
    accuracy = judged(evidence("2", MIXED), evidence("1", OLD))["accuracy"]
    assert accuracy.figures == pytest.approx({key: whole.get(key, 0.05) for key in accuracy.figures})


def test_speakers_are_numbered_alike_whatever_the_order() -> None:
    assert evidence("1", OLD).speakers == evidence("1", OLD[::-1]).speakers
    assert evidence("1", OLD).speakers["speakers"] != evidence("1", OLD, sha="cd" * 32).speakers["speakers"]


def test_a_better_challenger_passes() -> None:
    checks = gate.judge(evidence("2", BETTER), evidence("1", OLD))
    assert verdicts(checks) == {
        "data": True,
        "untouched": True,
        "test": True,
        "accuracy": True,
        "subgroups": True,
        "elderly gap": True,
        "latency": True,
    }
    accuracy = {check.name: check for check in checks}["accuracy"]
    assert accuracy.figures["delta"] == pytest.approx(accuracy.figures["b"] - accuracy.figures["a"])
    assert accuracy.figures["delta_high"] < 0
    low, delta, high = (100 * accuracy.figures[f"delta{end}"] for end in ("_low", "", "_high"))
    assert f"difference {delta:+.2f} points ({low:+.2f} to {high:+.2f}), p 0.000; its interval must" in accuracy.text


def test_an_equal_challenger_does_not_pass() -> None:
    accuracy = judged(evidence("2", OLD), evidence("1", OLD))["accuracy"]
    assert accuracy.passed is False
    assert "difference +0.00 points, no interval" in accuracy.text


def test_a_subgroup_that_gets_worse_stands_in_the_way() -> None:
    old, new = (predictions({"강원도": a, "경상도": b}, n_speakers=24) for a, b in ((4, 4), (0, 7)))
    checks = judged(evidence("2", new), evidence("1", old))
    assert checks["subgroups"].passed is False
    assert checks["subgroups"].text.startswith("1 of 4 significantly worse, 1 worse at all: dialect 경상도 by ")
    assert checks["subgroups"].figures["dialect 강원도"]["delta"] < 0


def test_small_subgroups_are_not_judged() -> None:
    few = [predictions({"강원도": n, "경상도": n}, n_speakers=4, clips=2) for n in (2, 4)]
    checks = gate.judge(evidence("2", few[0]), evidence("1", few[1]))
    assert verdicts(checks)["subgroups"] is None
    assert verdicts(checks)["elderly gap"] is None


def test_the_elderly_gap_and_the_latency_are_limits_even_for_the_first() -> None:
    slow = evidence("1", OLD)
    assert slow.scores is not None
    for gap, seconds, passed in ((0.05, 5.0, True), (0.0501, 5.01, False)):
        scores = {**slow.scores, "elderly_gap": {**slow.scores["elderly_gap"], "cer_gap": gap}}
        metrics = {"latency/clip_s_p95": seconds, "latency/others_load": 0.1}
        checks = judged(dataclasses.replace(slow, scores=scores, metrics=metrics), None)
        assert (checks["elderly gap"].passed, checks["latency"].passed) == (passed, passed)
        assert (checks["untouched"].passed, checks["accuracy"].passed) == (True, None)
    assert "is 5.0 % above the rest's, limit 5.0 %" in checks["elderly gap"].text
    assert "take at most 5.01 s one at a time, limit 5 s, load of other processes 10.0 %" in checks["latency"].text


def test_limits_are_settings() -> None:
    better, slow = evidence("2", BETTER, clip_s_p95=2.0), evidence("1", OLD)
    accuracy = judged(better, slow)["accuracy"]
    stricter = GateConfig(significance=accuracy.figures["p_value"], max_elderly_gap=0.0, max_latency_s=1.0)
    assert judged(better, slow, stricter)["accuracy"].passed is False
    assert judged(better, slow, stricter)["latency"].passed is False
    assert judged(better, slow, GateConfig(max_latency_s=2.0))["latency"].passed is True
    assert "none: not judged" in judged(better, None, GateConfig(max_latency_s=None))["latency"].text


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, "the run did not measure it: not judged"),
        ({"latency/clip_s_p95": 99.0}, "load of other processes meanwhile is unknown: not judged"),
        (
            {"latency/clip_s_p95": 99.0, "latency/others_load": 0.4},
            "load of other processes meanwhile was 40.0 %, over 10.0 %: not judged",
        ),
    ],
)
def test_latency_on_a_busy_machine_is_left_open_and_says_why(metrics: dict[str, float], said: str) -> None:
    latency = judged(dataclasses.replace(evidence("1", OLD), metrics=metrics), None)["latency"]
    assert latency.passed is None
    assert latency.text.endswith(said)


def test_a_first_version_must_beat_the_untouched_model() -> None:
    for given, before, passed in ((BETTER, OLD, True), (OLD, OLD, False), (OLD, BETTER, False)):
        untouched = judged(evidence("1", given, untouched=before), None)["untouched"]
        assert untouched.passed is passed
        whole = compare_predictions(before, given)
        assert untouched.figures == pytest.approx({key: whole.get(key, 0.05) for key in untouched.figures})
    bare = judged(dataclasses.replace(evidence("1", BETTER), untouched=None), None)["untouched"]
    assert (bare.passed, "version 1 has no speaker_errors_untouched.json" in bare.text) == (False, True)


def test_logged_figures_that_are_worse_than_before_do_not_pass() -> None:
    metrics = {"test/cer": 0.2, "untouched/test_cer": 0.2}
    untouched = judged(dataclasses.replace(evidence("1", BETTER), metrics=metrics), None)["untouched"]
    assert (untouched.passed, untouched.figures) == (False, {"a": 0.2, "b": 0.2})


@pytest.mark.parametrize(("verdict", "passed"), [("kept untouched", False), ("better", True), ("", True)])
def test_a_version_that_the_valid_part_did_not_choose_does_not_pass(verdict: str, passed: bool) -> None:
    """Its test part, on which it is better by chance or not, was there to measure, not to choose."""
    checks = judged(dataclasses.replace(evidence("1", BETTER), verdict=verdict), None)
    assert checks["untouched"].passed is passed
    assert ("did not lower the valid CER" in checks["untouched"].text) is not passed


def test_a_version_better_than_the_champion_must_beat_the_untouched_model_too() -> None:
    champion, challenger = evidence("1", OLD), evidence("2", BETTER, untouched=BETTER)
    checks = judged(challenger, champion)
    assert (checks["untouched"].passed, checks["accuracy"].passed) == (False, True)


@pytest.mark.parametrize(
    ("changes", "final", "said"),
    [
        ({"synthetic": True}, True, "the generated demo corpus"),
        ({"split_label": "leaking speakers, sentences"}, True, "(leaking speakers, sentences)"),
        ({"synthetic": None}, False, "does not record whether the speech is synthetic"),
        ({"split_label": ""}, False, "does not record whether the split leaks"),
    ],
)
def test_the_data_must_be_real_and_must_not_leak(changes: dict[str, Any], final: bool, said: str) -> None:
    data = judged(dataclasses.replace(evidence("1", BETTER), **changes), None)["data"]
    assert (data.passed, data.final) == (False, final)
    assert said in data.text


def test_other_splits_and_other_rules_can_not_be_compared() -> None:
    champion = evidence("1", OLD)
    assert verdicts(gate.judge(evidence("2", BETTER, sha="cd" * 32), champion))["test"] is False
    newer = evidence("2", BETTER)
    newer = dataclasses.replace(newer, speakers={**newer.speakers, "normaliser_version": "99"})
    check = judged(newer, champion)["test"]
    assert (check.passed, "normaliser_version 99" in check.text) == (False, True)


def test_without_evidence_nothing_passes() -> None:
    bare = dataclasses.replace(evidence("1", OLD), speakers=None)
    checks = judged(evidence("2", BETTER), bare)
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
        "synthetic": (BETTER, SHA),
        "leaking": (BETTER, SHA),
        "nan": (BETTER, SHA),
    }
    made = {}
    with runs.bench_run(config, code_version="x") as bench:
        client = MlflowClient(tracking_uri=uri)
        client.create_registered_model(NAME)
        for case, (given, sha) in cases.items():
            tags = {
                "kmed.synthetic": str(case == "synthetic").lower(),
                "kmed.split_label": "leaking sentences" if case == "leaking" else "disjoint",
            }
            with bench.child("train", case, tags=tags) as run:
                found = evidence(case, given, sha)
                for key, value in found.metrics.items():
                    client.log_metric(run.run_id, key, math.nan if case == "nan" else value)
                run.log_json(found.scores, "scores.json")
                run.log_json(found.speakers, gate.EVIDENCE_NAME)
                run.log_json(found.untouched, gate.UNTOUCHED_NAME)
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

    first = promote(uri, NAME, old)
    assert first["reasons"][2] == "accuracy open: there is no champion yet; the untouched model is the one to beat"
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
    assert client.get_model_version(NAME, other).tags == tags  # and its tags still say how it became that
    assert rollback(uri, NAME, reason="looped on silence", dry_run=True)["rolled_back"] is False
    assert rollback(uri, NAME, reason="looped on silence")["version"] == better
    assert champion_in(uri) == better
    assert rollback(uri, NAME, reason="again")["version"] == old
    noted = json.loads(client.get_model_version(NAME, other).tags["kmed.rolled_back"])
    assert (noted["to"], noted["reason"]) == (better, "looped on silence")


def test_a_metric_that_is_no_number_was_not_measured(uri: str, versions: dict[str, str]) -> None:
    decision = promote(uri, NAME, versions["nan"], dry_run=True)
    assert decision["checks"]["latency"] == {
        "passed": None,
        "text": "the run did not measure it: not judged",
        "figures": {},
    }


@pytest.mark.usefixtures("versions")
def test_unknown_versions_and_models_are_named(uri: str) -> None:
    with pytest.raises(KmedError, match=r"version 99 is not in the registry .* its versions are: 7, 6, 5, 4, 3, 2, 1"):
        promote(uri, NAME, 99)
    with pytest.raises(KmedError, match="kmed-whisper-none has no champion, so there is none to go back to"):
        rollback(uri, "kmed-whisper-none", reason="x")


def test_five_speakers_cannot_promote_however_alike_they_improve() -> None:
    """All 5 improve, and the interval is below zero; that happens by chance one time in 16."""
    old, new = (predictions({"강원도": a, "경상도": b}, n_speakers=5, clips=8) for a, b in ((5, 5), (1, 2)))
    accuracy = judged(evidence("2", new), evidence("1", old))["accuracy"]
    assert accuracy.figures["delta_high"] < 0
    assert accuracy.figures["p_value"] == 2 / 2**5
    assert accuracy.passed is False
    assert "which 5 speakers can't show" in accuracy.text


def test_evidence_without_sentences_does_not_decide() -> None:
    old, new = evidence("1", OLD), evidence("2", BETTER)
    assert old.speakers is not None
    columns = {name: column for name, column in old.speakers["speakers"].items() if name != "sentence"}
    earlier = dataclasses.replace(old, speakers={**old.speakers, "speakers": columns})
    accuracy = judged(new, earlier)["accuracy"]
    assert accuracy.passed is False
    assert "did not record which speakers read one sentence" in accuracy.text


@pytest.mark.parametrize("case", ["synthetic", "leaking"])
def test_not_even_force_makes_such_a_version_champion(uri: str, versions: dict[str, str], case: str) -> None:
    before = champion_in(uri)
    decision = promote(uri, NAME, versions[case], force=True, reason="for a demonstration")
    assert (decision["passed"], decision["forced"], decision["promoted"]) == (False, False, False)
    assert champion_in(uri) == before
    tags = MlflowClient(tracking_uri=uri).get_model_version(NAME, versions[case]).tags
    assert (tags["kmed.gate"], tags["kmed.gate_reason"]) == ("failed", "for a demonstration")


def test_the_command_takes_what_mlproject_gives(
    uri: str, versions: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["promote", NAME, versions["worse"], "--tracking.uri", uri, "--dry-run", "true", "--rollback", "false"]
    assert main([*words, "--force", "false", "--reason", "none"]) == 1
    assert json.loads(capsys.readouterr().out)["promoted"] is False
    assert main([*words, "--force", "true", "--reason", "none"]) == 2
    assert "needs a reason" in capsys.readouterr().err
    assert main(["promote", NAME, "none", "--tracking.uri", uri]) == 2
    assert "needs a version" in capsys.readouterr().err


@pytest.fixture
def own(uri: str, versions: dict[str, str]) -> tuple[str, list[str]]:
    """A registered model of its own, with versions of the runs old and better and another copy of better."""
    client = MlflowClient(tracking_uri=uri)
    name = f"{NAME}-{uuid.uuid4().hex[:6]}"
    client.create_registered_model(name)
    made = []
    for case in ("old", "better", "better"):
        source = client.get_model_version(NAME, versions[case])
        tags = {"kmed.split_sha256": SHA}
        made.append(str(client.create_model_version(name, "file:///nowhere", source.run_id, tags=tags).version))
    return name, made


def test_a_deleted_champion_is_not_gone_back_to(uri: str, own: tuple[str, list[str]]) -> None:
    client = MlflowClient(tracking_uri=uri)
    name, (old, better, _) = own
    assert promote(uri, name, old)["promoted"] is True
    assert promote(uri, name, better)["promoted"] is True
    with pytest.raises(KmedError, match=r"Rolling back .* needs a reason"):
        rollback(uri, name, reason=" ")
    client.delete_model_version(name, old)
    with pytest.raises(KmedError, match=f"version {old} is not in the registry"):
        rollback(uri, name, reason="looped")
    assert str(client.get_model_version_by_alias(name, "champion").version) == better
    assert "kmed.rolled_back" not in client.get_model_version(name, better).tags


def test_tags_of_an_earlier_decision_do_not_stay(uri: str, own: tuple[str, list[str]]) -> None:
    client = MlflowClient(tracking_uri=uri)
    name, (old, better, again) = own
    for version in (old, better):
        promote(uri, name, version)
    refused = promote(uri, name, again, reason="looks better to me")
    assert refused["passed"] is False
    tags = client.get_model_version(name, again).tags
    assert tags["kmed.gate_reason"] == "looks better to me"
    assert tags["kmed.gate_by"]
    rollback(uri, name, reason="looped")
    assert promote(uri, name, again)["promoted"] is True
    tags = client.get_model_version(name, again).tags
    assert (tags["kmed.gate"], tags["kmed.previous_champion"]) == ("passed", old)
    assert not {"kmed.gate_reason", "kmed.gate_by"} & tags.keys()


def receiver(status: int = 200) -> tuple[http.server.HTTPServer, list[bytes]]:
    """A server on a free port that keeps what is posted to it."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, bodies


def test_a_webhook_and_a_command_are_told_of_promotion_and_rollback(
    uri: str, own: tuple[str, list[str]], tmp_path: Path
) -> None:
    name, (old, better, again) = own
    server, bodies = receiver()
    program = f"import sys; open({str(tmp_path / 'told')!r}, 'a').write(sys.stdin.read() + chr(10)); print('; rm')"
    told = GateConfig(
        webhook=f"http://127.0.0.1:{server.server_port}/hooks/secret",
        command=shlex.join([sys.executable, "-c", program]),
    )
    try:
        assert promote(uri, name, old, gate=told, dry_run=True).get("notified") is None
        assert promote(uri, name, old, gate=told)["notified"] == {"command": "done", "webhook": "done"}
        assert promote(uri, name, old, gate=told).get("notified") is None  # it is the champion already
        assert promote(uri, name, better, gate=told)["promoted"] is True
        assert promote(uri, name, again, gate=told)["promoted"] is False
        rollback(uri, name, reason="private: looped", gate=told, dry_run=True)
        assert rollback(uri, name, reason="private: looped", gate=told)["notified"]["webhook"] == "done"
    finally:
        server.shutdown()
        server.server_close()
    notices = [json.loads(body) for body in bodies]
    assert [(n["event"], n["version"], n["previous"]) for n in notices] == [
        ("promotion", old, None),
        ("promotion", better, old),
        ("rollback", old, better),
    ]
    assert all(notice.keys() == {"event", "name", "version", "previous", "metrics"} for notice in notices)
    assert [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()] == notices


@pytest.mark.parametrize(
    ("status", "command", "timeout_s", "said"),
    [
        (302, ["/nowhere/program", "secret"], 5.0, "failed: No such file or directory"),
        (500, [sys.executable, "-c", "import time; time.sleep(60)", "secret"], 0.5, "failed: no end within 0.5 s"),
    ],
)
def test_a_failed_notice_is_reported_and_the_champion_stays(
    uri: str,
    own: tuple[str, list[str]],
    status: int,
    command: list[str],
    timeout_s: float,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, (old, *_) = own
    server, bodies = receiver(status)
    webhook = f"http://127.0.0.1:{server.server_port}/hooks/secret"
    told = GateConfig(webhook=webhook, command=shlex.join(command), notify_timeout_s=timeout_s)
    try:
        decision = promote(uri, name, old, gate=told)
    finally:
        server.shutdown()
        server.server_close()
    assert decision["promoted"] is True
    assert decision["notified"] == {"command": said, "webhook": f"failed: 127.0.0.1 answered {status}"}
    assert str(MlflowClient(tracking_uri=uri).get_model_version_by_alias(name, "champion").version) == old
    assert len(bodies) == 1
    assert "that should be told failed" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("gate.webhook", "file:///etc/passwd", "begins with http:// or https://"),
        ("gate.webhook", "http://", "begins with http:// or https://"),
        ("gate.command", "'", "No closing quotation"),
        ("gate.command", "''", "names no program"),
        ("gate.significance", "0.1", "gate.significance is '0.1'"),
    ],
)
def test_invalid_settings_of_the_gate_are_refused(key: str, value: str, said: str) -> None:
    with pytest.raises(KmedError, match=re.escape(said)):
        load_config("sound", {key: value})
