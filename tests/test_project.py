"""MLproject, conda.yaml, the lock and the README agree with the command line."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from kmed_bench.cli import _parser, _read_overrides
from kmed_bench.commands.options import ALIASES, AS_PROFILE
from kmed_bench.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ENTRIES = {
    "main",
    "ingest",
    "split",
    "train",
    "evaluate",
    "export",
    "report",
    "promote",
    "import-log",
    "history",
    "tune",
}


def test_entry_points_are_the_contracts():
    assert set(PROJECT["entry_points"]) == ENTRIES
    assert PROJECT["conda_env"] == "conda.yaml"


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_declared_parameter_is_used_and_parsed(name):
    entry = PROJECT["entry_points"][name]
    declared = set(entry["parameters"])
    # A declared name that the command does not use would be dropped in silence.
    assert declared == set(re.findall(r"{(\w+)}", entry["command"]))
    values = {key: spec.get("default", "1") for key, spec in entry["parameters"].items()}
    words = shlex.split(entry["command"].format(**values))
    assert words[:3] == ["python", "-m", "kmed_bench"]
    known, rest = _parser().parse_known_args(words[3:])
    assert callable(known.command)
    overrides = {key: value for key, value in _read_overrides(rest).items() if value != AS_PROFILE}
    load_config("demo", overrides)


def test_mains_parameters_are_the_headline_settings():
    assert set(PROJECT["entry_points"]["main"]["parameters"]) == {*ALIASES, "profile", "resume"}


def test_defaults_are_written_once():
    """MLproject names no value of its own: what a profile says must not stand in two places."""
    defaults = {spec.get("default") for spec in PROJECT["entry_points"]["main"]["parameters"].values()}
    assert defaults <= {AS_PROFILE, "none", "auto", "false"}  # resume is no setting: false, unless asked for


def test_conda_installs_the_lock_and_the_package():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    assert "python=3.11" in conda["dependencies"]
    (pip,) = [item["pip"] for item in conda["dependencies"] if isinstance(item, dict)]
    assert pip == ["-r requirements.lock", "-e ."]


def test_no_uv_lock_overrides_conda_yaml():
    assert not (ROOT / "uv.lock").exists()


def test_the_lock_pins_every_dependency_exactly():
    lines = [
        line.split(";")[0].strip()
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert len(lines) > 50
    assert all(re.fullmatch(r"[\w.\-]+==[\w.!+\-]+", line) for line in lines)
    names = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = project[project.index("dependencies = [") : project.index("[project.optional-dependencies]")]
    needed = set(re.findall(r'^    "([\w\-]+)', block, flags=re.MULTILINE))
    assert len(needed) > 10
    assert needed <= names
