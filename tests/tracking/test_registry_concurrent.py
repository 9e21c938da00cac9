"""The challenger when several processes register at the same moment, against real stores."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from postgres_server import database  # noqa: F401 (a fixture)

from kmed_bench.config import load_config
from kmed_bench.tracking.registry.challenger import BENCH_TAG, CER_TAG, set_challenger
from kmed_bench.tracking.registry.promotion import promote
from kmed_bench.tracking.store import open_store

WORKER = Path(__file__).parents[1] / "registering_worker.py"
NAME = "kmed-whisper-base"
SPLIT = {"kmed.split_sha256": "ab" * 32, "kmed.eval_context": "full"}


def make_store(uri: str) -> str:
    return open_store(load_config("demo", {"tracking.uri": uri}).tracking)


def check_at_once(uri: str, n_processes: int, repetitions: int) -> None:
    command = [sys.executable, str(WORKER), make_store(uri), str(n_processes), str(repetitions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2_000:]
    pairs = [line.split() for line in done.stdout.splitlines()]
    assert len(pairs) == repetitions
    assert [alias for alias, _ in pairs] == [best for _, best in pairs]


@pytest.mark.slow
def test_nine_processes_at_once_in_sqlite(tmp_path: Path) -> None:
    check_at_once(f"sqlite:///{tmp_path}/mlflow.db", 9, 6)


@pytest.mark.slow
def test_nine_processes_at_once_in_postgresql(database: str) -> None:  # noqa: F811
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    check_at_once(database, 9, 6)


def register(client: MlflowClient, cer: float | None, tags: Mapping[str, str]) -> str:
    version = client.create_model_version(NAME, source="file:///none").version
    for key, value in {**tags, **({} if cer is None else {CER_TAG: repr(cer)})}.items():
        client.set_model_version_tag(NAME, version, key, value)
    return set_challenger(client, NAME, str(version))


@pytest.mark.slow
def test_which_versions_are_compared(tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=make_store(f"sqlite:///{tmp_path}/mlflow.db"))
    client.create_registered_model(NAME)
    seen = [
        register(client, cer, tags)
        for cer, tags in (
            (0.3, SPLIT),  # 1
            (0.2, SPLIT | {BENCH_TAG: "a"}),  # 2: better, by another benchmark on the same split
            (0.25, SPLIT),  # 3: finished last, and worse
            (0.2, SPLIT),  # 4: equal, and later
            (0.9, SPLIT | {"kmed.split_sha256": "cd" * 32}),  # 5: another split, so its own best
            (0.1, SPLIT | {"kmed.eval_context": "dynamic"}),  # 6: decoded in another way
            (0.4, {BENCH_TAG: "b"}),  # 7: measured on a split that nobody knows
            (0.5, {BENCH_TAG: "b"}),  # 8: its sibling
            (0.6, {}),  # 9
            (0.7, SPLIT),  # 10: of the first four, 2 is still the best
            (None, SPLIT),  # 11: no valid CER, and newer than all others
        )
    ]
    assert seen == ["1", "2", "2", "2", "5", "6", "7", "7", "9", "2", "11"]
    assert str(client.get_model_version_by_alias(NAME, "challenger").version) == "11"


@pytest.mark.slow
def test_a_verdict_does_not_decide_who_is_a_candidate(tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=make_store(f"sqlite:///{tmp_path}/mlflow.db"))
    client.create_registered_model(NAME)
    seen = [
        register(client, cer, SPLIT | ({"kmed.verdict": verdict} if verdict else {}))
        for cer, verdict in (
            (0.30, "better"),
            (0.20, "no evidence"),
            (0.25, "better"),
            (0.10, "worse"),
            (0.15, "kept untouched"),
            (0.08, "kept untouched"),
            (0.07, ""),  # of a release without verdicts
            (0.09, ""),
        )
    ]
    assert seen == ["1", "2", "2", "4", "4", "6", "7", "7"]


@pytest.mark.slow
def test_a_promotion_mends_what_a_dead_process_left(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process sees its version alone, waits, and dies between writing the alias and looking again."""
    shutil.copy(empty_database, tmp_path)
    client = MlflowClient(tracking_uri=make_store(f"sqlite:///{tmp_path}/mlflow.db"))
    client.create_registered_model(NAME)
    write = MlflowClient.set_registered_model_alias

    def overtaken(dying: MlflowClient, name: str, alias: str, version: str) -> None:
        monkeypatch.undo()
        assert register(client, 0.2, SPLIT) == "2"
        write(dying, name, alias, version)
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", overtaken)
    with pytest.raises(KeyboardInterrupt):
        register(client, 0.3, SPLIT)
    assert str(client.get_model_version_by_alias(NAME, "challenger").version) == "1"
    assert promote(client.tracking_uri, NAME, 1, dry_run=True)["promoted"] is False
    assert str(client.get_model_version_by_alias(NAME, "challenger").version) == "1"
    assert promote(client.tracking_uri, NAME, 1)["promoted"] is False
    assert str(client.get_model_version_by_alias(NAME, "challenger").version) == "2"
    assert "the challenger is version 2, not 1, which has a higher valid CER" in caplog.text
