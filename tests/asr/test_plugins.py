"""Systems of other packages: found by their entry points, evaluated, and refused with their names."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from exported import write_thirds

from kmed_bench.cli import main
from kmed_bench.core.files import read_json
from kmed_bench.core.predictions import read_predictions

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
BROKEN = """
import echo_system

def open_wrong(argument, config):
    return argument

def open_bare(argument, config):
    bare = object.__new__(echo_system.Echo)
    return bare

def open_torn(argument, config):
    raise OSError("no such device")

def open_short(argument, config):
    short = echo_system.Echo(argument, 3)
    short.transcribe = lambda clips: ["네"]
    return short
"""


def install(folder: Path, name: str, systems: dict[str, str]) -> None:
    """Lay out a package's metadata as an installer does."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"{system} = {target}\n" for system, target in systems.items()]
    (info / "entry_points.txt").write_text("[kmed_bench.systems]\n" + "".join(lines), encoding="utf-8")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The documented package and one whose systems are wrong, installed in a folder on the path."""
    folder = tmp_path / "site"
    section = DOCUMENT[DOCUMENT.index("## A system of your own") :]
    toml, code = re.search(r"```toml\n(.*?)```\n\n```python\n(.*?)```", section, re.DOTALL).groups()
    install(folder, "echo", dict(re.findall(r'(\w+) = "(.*)"', toml)))
    (folder / "echo_system.py").write_text(code, encoding="utf-8")
    wrong = {name: f"broken:open_{name}" for name in ("wrong", "bare", "torn", "short")}
    install(folder, "broken", wrong | {"gone": "not_there:open"})
    (folder / "broken.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield folder
    for module in ("echo_system", "broken"):
        sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def split(tone_part, tmp_path_factory):
    return write_thirds(tone_part, tmp_path_factory.mktemp("thirds"))


def evaluate(model: str, split: Path, out: Path) -> int:
    return main(["evaluate", model, str(split), str(out), "--part", "valid", "--eval.batch_size", "3"])


def test_the_documented_system_is_evaluated(packages, split, tmp_path, capsys):
    assert evaluate("echo:네", split, tmp_path / "out") == 0
    predictions = read_predictions(tmp_path / "out" / "predictions.jsonl")
    assert [clip.hypothesis for clip in predictions] == [f"네 {int(clip.duration_s)}" for clip in predictions]
    scores = read_json(tmp_path / "out" / "scores.json")
    assert scores["runtime"]["name"] == "echo"
    assert scores["runtime"]["settings"] == {"word": "네"}
    made = (tmp_path / "out" / "scores.json").stat().st_mtime_ns
    assert evaluate("echo:네", split, tmp_path / "out") == 0
    assert (tmp_path / "out" / "scores.json").stat().st_mtime_ns == made, "found, not decoded again"
    assert evaluate("echo:아니요", split, tmp_path / "out") == 2
    assert "of another model" in capsys.readouterr().err


def test_files_that_a_system_is_given_are_part_of_what_it_is(packages, split, tmp_path, capsys):
    given = tmp_path / "words.txt"
    given.write_text("하나", encoding="utf-8")
    assert evaluate(f"echo:{given}", split, tmp_path / "out") == 0
    given.write_text("둘", encoding="utf-8")
    assert evaluate(f"echo:{given}", split, tmp_path / "out") == 2
    assert "of another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("echo:", r"echo needs a word"),
        ("wrong:x", r"System 'wrong' of broken 1\.0 is a str, not a kmed_bench\.SampleBackend"),
        ("bare:x", r"'bare' of broken 1\.0 lacks settings"),
        ("torn:x", r"'torn' of broken 1\.0 can't be opened with 'x' \(OSError: no such device\)"),
        ("gone:x", r"'gone' of broken 1\.0 can't be opened .*ModuleNotFoundError: No module named 'not_there'"),
        ("short:x", r"echo returned 1 values of type str for 3 clips"),
        ("nobody:x", r"Model nobody:x does not exist.*bare:…, echo:…, gone:…"),
    ],
)
def test_systems_that_do_not_work_are_named(packages, split, tmp_path, capsys, model, said):
    assert evaluate(model, split, tmp_path / "out") == 2
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "out" / "scores.json").exists()


def test_a_name_of_two_packages_is_refused(packages, split, tmp_path, capsys):
    install(packages, "other", {"echo": "echo_system:open_echo"})
    assert evaluate("echo:네", split, tmp_path / "out") == 2
    assert "announced by several packages (echo 1.0, other 1.0)" in capsys.readouterr().err


def test_a_system_is_not_exported(packages, tmp_path, capsys):
    assert main(["export", "echo:네", str(tmp_path / "out"), "--format", "hf"]) == 2
    assert "can be evaluated and not exported" in capsys.readouterr().err
