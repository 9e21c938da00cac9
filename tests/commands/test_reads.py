"""A command reads the settings that it takes, and takes those that it reads: none is accepted and ignored."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from mlflow.tracking import MlflowClient
from recordings import tone
from subcommands import commands

from kmed_bench import cli
from kmed_bench.commands import options
from kmed_bench.config import Config
from kmed_bench.config.load import load_config

SMALL = ["--split.train", "40", "--split.valid", "8", "--split.test", "8", "--by", "gender"]
QUICK = ["--eval.max_new_tokens", "8"]


class Recorder:
    """Notes which of a command's settings are looked at once they are loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: set[str] = set()
        self._watched: dict[int, object] = {}  # the groups of the command's own settings, not of defaults elsewhere
        for field in dataclasses.fields(Config):
            if field.name != "profile":
                self._watch(type(getattr(Config(), field.name)), field.name, monkeypatch)

        def load(*arguments: Any) -> Config:
            self._watched = {}  # checks of the tree look at some settings whichever command it is for
            config = load_config(*arguments)
            self._watched = {id(group): group for group in vars(config).values()}
            return config

        monkeypatch.setattr(options, "load_config", load)

    def _watch(self, cls: type, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
        names = {field.name for field in dataclasses.fields(cls)}

        def look(node: object, name: str) -> object:
            # `replace` and `flatten` look at every field, whichever of them is used.
            copying = sys._getframe(1).f_globals["__name__"] in ("dataclasses", "kmed_bench.config.load")
            if name in names and id(node) in self._watched and not copying:
                self.read.add(f"{group}.{name}")
            return object.__getattribute__(node, name)

        monkeypatch.setattr(cls, "__getattribute__", look)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # stages alone make no store
    return Recorder(monkeypatch)


def declared(command: str) -> set[str]:
    parser = commands()[command]
    assert isinstance(parser, options.CommandParser)
    return set(parser.flags)


@pytest.mark.slow
def test_commands_read_what_they_say(recorder: Recorder, tiny_checkpoint: Path) -> None:
    model, predictions = str(tiny_checkpoint), "decoded/predictions.jsonl"
    read: dict[str, set[str]] = {}
    soundfile.write("visit.wav", tone(0.5, 16_000), 16_000)
    Path("list.csv").write_text("audio,text\nvisit.wav,열이 나요\n", encoding="utf-8")
    for words in (
        ["demo-corpus", "corpus", "--speakers", "12", "--sentences", "60"],
        ["ingest", "corpus", "manifest"],
        ["import-corpus", "list.csv", "imported"],
        ["split", "manifest/manifest.parquet", "split", *SMALL],
        ["evaluate", model, "split", "decoded", *QUICK],
        ["evaluate", model, "split", "again", "--against", predictions, *QUICK],
        ["evaluate", model, "split", "jobs", "--launcher", "slurm", "--plan"],
        ["export", model, "exported", "--format", "openai", "--split", "split", "--limit-clips", "3", *QUICK],
        ["transcribe", "visit.wav", "--model", model, *QUICK],
        ["score", predictions, "scored", "--split", "split"],
        ["compare", predictions, "again/predictions.jsonl"],
        ["errors", predictions, "errors", "--split", "split"],
        ["package", predictions, "package", "--split", "split"],
        ["score", "again/predictions.jsonl", "against", "--against", "package"],
    ):
        recorder.read.clear()
        assert cli.main(words) == 0
        read[words[0]] = read.get(words[0], set()) | recorder.read
    for command, keys in read.items():
        # One object carries the settings of scoring to all commands that score; `compare` has no groups.
        carried = {"eval.min_group_clips", "eval.min_group_speakers"} if command == "compare" else set()
        assert keys - carried <= declared(command), command
        unread = {"tracking.uri"} if command == "transcribe" else set()  # which a model of the store needs
        assert declared(command) - unread <= keys, command
    client = MlflowClient()
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
    params = [key for run in runs if run.data.tags["kmed.kind"] == "evaluate" for key in run.data.params]
    assert params.count("eval.beam_size") == 2
    assert not [key for key in params if key.startswith("slurm.")]  # which may name a folder, or a person
