"""Imports point one way, every room is named, and the heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kmed_bench"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room may import of the package beside itself; the chain of docs/decisions/015-rooms.md.
CORE = {"__init__", "core"}
BASE = CORE | {"config", "text"}
DOMAIN = BASE | {"corpus", "scoring"}
MODEL = DOMAIN | {"asr", "tracking", "report"}
ROOMS = {
    "__init__": set(),
    "core": CORE,
    "text": CORE,
    "config": CORE | {"text"},
    "corpus": BASE,
    "scoring": BASE,
    "asr": DOMAIN,
    "tracking": BASE | {"scoring"},
    "report": BASE | {"scoring"},
    "training": DOMAIN | {"asr"},
    "tuning": MODEL | {"training"},
    "pipeline": MODEL | {"training"},
    "commands": MODEL | {"training", "tuning", "pipeline"},
    "cli": CORE | {"config", "commands"},
    "__main__": {"cli"},
}
HOME = {"mlflow": "tracking", "optuna": "tuning", "submitit": "pipeline/launch"}
LIGHT = ("core", "text", "config", "corpus", "scoring", "report")  # rooms without torch


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports; a name of the package itself counts as its ``__init__``."""
    own = {name.split(".")[1] for name in imported(path) if name.startswith("kmed_bench.")}
    return {name if name in ROOMS else "__init__" for name in own} - {room(path)}


def test_every_room_is_named_and_no_module_stands_outside():
    assert {room(path) for path in FILES} == set(ROOMS)
    assert len(FILES) > 100


def test_rooms_form_no_circle():
    graph = {name: allowed - {name} for name, allowed in ROOMS.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    assert rooms_of(path) <= ROOMS[room(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path):
    tops = {name.split(".")[0] for name in imported(path)}
    place = path.relative_to(PACKAGE).as_posix()
    assert all(place.startswith(f"{home}/") for library, home in HOME.items() if library in tops)
    if room(path) in LIGHT:
        assert not tops & {"torch", "torchaudio", "whisper"}


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Each unit's height: 1 for one that imports no other."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[below] for below in graph.get(name, ())), default=0)
    return found


def test_files_import_without_a_circle():
    modules = {".".join(("kmed_bench", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        names = {name for name in imported(path) if name.startswith("kmed_bench")}
        graph[module] = {m for m in modules if any(n == m or n.startswith(m + ".") for n in names)} - {module}
    list(TopologicalSorter(graph).static_order())  # raises CycleError
    rooms = {name: {r for path in FILES if room(path) == name for r in rooms_of(path)} for name in ROOMS}
    assert max(levels(rooms).values()) <= 10


@pytest.mark.slow
def test_light_rooms_never_load_torch():
    modules = [
        "corpus.ingest.manifest",
        "corpus.splitting.split",
        "corpus.demo.demo",
        "text.marks",
        "scoring",
        "report.data_page",
    ]
    wanted = ", ".join(f"kmed_bench.{module}" for module in modules)
    code = f"import sys, {wanted}; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
