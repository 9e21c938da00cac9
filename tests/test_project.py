"""MLproject, conda.yaml, the lock and the README agree with the command line."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from long_files import LONGEST
from subcommands import commands

from kmed_bench.cli import parse
from kmed_bench.commands.options import ALIASES, AS_PROFILE, PROFILE, resolve
from kmed_bench.config import Config, flatten, load_config
from kmed_bench.config.describe import setting_keys

ROOT = Path(__file__).resolve().parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ENTRIES = {
    "curve",
    "main",
    "ingest",
    "split",
    "train",
    "evaluate",
    "score",
    "export",
    "report",
    "promote",
    "import-log",
    "history",
    "tune",
}

OF_MAIN = {"profile", "out", "only", "from_study", "slots", "threads", "launcher", "plan", "resume"}
"""Its parameters that are no settings."""


def test_entry_points_are_the_contracts():
    assert set(PROJECT["entry_points"]) == ENTRIES
    assert PROJECT["conda_env"] == "conda.yaml"


def words_of(name: str, **given: str) -> list[str]:
    """The words that `mlflow run -e NAME -P …` starts, undeclared parameters behind the declared ones."""
    entry = PROJECT["entry_points"][name]
    values = {key: spec.get("default", "1") for key, spec in entry["parameters"].items()}
    words = shlex.split(entry["command"].format(**values | {"size": "base"}))
    assert words[:3] == ["python", "-m", "kmed_bench"]
    return words[3:] + [word for key, value in given.items() for word in (f"--{key}", value)]


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_declared_parameter_is_used_and_parsed(name):
    entry = PROJECT["entry_points"][name]
    # A declared name that the command does not use would be dropped in silence.
    assert set(entry["parameters"]) == set(re.findall(r"{(\w+)}", entry["command"]))
    args = parse(words_of(name))
    assert callable(args.command)
    assert args.command_name == {"main": "run"}.get(name, name)
    given = {key for key, spec in entry["parameters"].items() if spec.get("default") not in (None, AS_PROFILE)}
    # A profile decides unless someone gives a value: what MLproject names by itself is no setting's value.
    assert set(args.overrides) <= {"model.sizes"} | ({"data.source", "model.weights"} if name == "main" else set())
    assert name != "main" or given <= {"source", "weights", *OF_MAIN}
    if args.command_name != "run" and "profile" in vars(args):
        assert args.profile == PROFILE
        assert resolve(args).profile == PROFILE


@pytest.mark.parametrize("name", ["main", "train", "tune"])
def test_every_other_setting_is_an_undeclared_parameter(name):
    args = parse(words_of(name, **{"train.warmup_steps": "100", "train.lr": "1e-5", "eval.beam_size": AS_PROFILE}))
    assert args.overrides["train.warmup_steps"] == "100"
    assert args.overrides["train.lr"] == "1e-5"
    assert "eval.beam_size" not in args.overrides
    args.profile = "demo"
    assert resolve(args).train.lr == 1e-5


_OWN_MEANING = {"sizes": {"offline-kit"}}  # whose weights it copies, which is no setting of a run


def flags_of_commands() -> dict[str, set[str]]:
    """Each command's option strings."""
    return {name: set(command._option_string_actions) for name, command in commands().items()}


def test_a_flag_that_is_a_setting_has_one_spelling_everywhere():
    """A setting is --group.field in each command that reads it, and its short name is the same one in all of them."""
    keys = set(setting_keys())
    assert keys == {key for key in flatten(Config()) if "." in key}
    offered = {key: {name for name, flags in flags_of_commands().items() if f"--{key}" in flags} for key in keys}
    assert {key for key in keys if not offered[key]} == set()  # a setting that no command takes is dead
    for short, key in ALIASES.items():
        takers = {name for name, flags in flags_of_commands().items() if f"--{short}" in flags} - _OWN_MEANING.get(
            short, set()
        )
        single = {"sizes": {"train", "tune", "curve"}, "seeds": {"train"}}.get(
            short, set()
        )  # --size and --seed: one of them
        assert takers == offered[key] - single, short
    for name in {"train", "tune", "curve"}:
        assert "--size" in flags_of_commands()[name]


def test_mains_parameters_are_the_headline_settings():
    assert set(PROJECT["entry_points"]["main"]["parameters"]) == {*ALIASES, *OF_MAIN}


def test_mains_defaults_are_written_once():
    """MLproject names no value of its own: what a profile says must not stand in two places."""
    parameters = PROJECT["entry_points"]["main"]["parameters"]
    assert parse(["run"]).out == Path(parameters["out"]["default"])  # no setting, so no profile says it
    defaults = {spec.get("default") for name, spec in parameters.items() if name != "out"}
    # Plan, resume and launcher are no settings: false and here, unless asked for.
    assert defaults <= {AS_PROFILE, "none", "auto", "false", "here"}


def test_profiles_name_settings_of_the_tree():
    for path in (ROOT / "kmed_bench" / "profiles").glob("*.yaml"):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = {f"{group}.{name}" for group, fields in tree.items() for name in fields}
        assert named <= set(setting_keys())
        assert load_config(path.stem) == load_config(str(path))


def test_conda_installs_the_lock():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    assert "python=3.11" in conda["dependencies"]
    (pip,) = [item["pip"] for item in conda["dependencies"] if isinstance(item, dict)]
    assert pip == ["-r requirements.lock"]


def test_no_uv_lock_overrides_conda_yaml():
    assert not (ROOT / "uv.lock").exists()


def test_the_lock_pins_every_dependency_exactly_and_by_its_hashes():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 50
    pinned = re.compile(r"([\w.\-]+)==[\w.!+\-]+( ;[^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [line[:60] for line in lines if not pinned.fullmatch(line)] == []
    names = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = project[project.index("dependencies = [") : project.index("[project.optional-dependencies]")]
    needed = set(re.findall(r'^    "([\w\-]+)', block, flags=re.MULTILINE))
    assert len(needed) > 10
    assert needed <= names


@pytest.mark.slow
def test_the_page_of_faults_is_what_the_tests_say():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fault_table.py"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") == done.stdout


@pytest.mark.parametrize(
    ("torch", "torchaudio", "cuda", "said"),
    [
        ("2.14.1", "2.11.0", "13.0.2", ""),
        ("2.15.0", "2.11.0", "13.2.2", "torch brings CUDA 13.2, torchaudio 2.11 was built with 13.0"),
        ("2.14.1", "2.12.0", "13.0.2", "torch brings CUDA 13.0, torchaudio 2.12 was built with an unknown one"),
        ("2.13.0", "2.11.0", "13.0.2", "torch 2.13 with torchaudio 2.11 is not a tested pair"),
    ],
)
def test_a_resolution_is_judged_by_its_cuda(monkeypatch, torch, torchaudio, cuda, said):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_resolution

    assert check_resolution.fault({"torch": torch, "torchaudio": torchaudio, "cuda-toolkit": cuda}) == said


def test_the_lock_is_a_tested_pair(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_resolution

    pinned = dict(
        re.findall(r"^(torch|torchaudio)==(\d+\.\d+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    assert check_resolution.TESTED[pinned["torch"]] == pinned["torchaudio"]


def test_the_files_that_begin_first_exist():
    assert {name for name in LONGEST if not list((ROOT / "tests").rglob(name))} == set()
