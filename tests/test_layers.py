"""Imports point one way, and the heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kmed_bench"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room may import of the package; the chain of the contract.
BASE = {"records", "config", "text"}
ALLOWED = {
    "records": set(),
    "config": {"records"},
    "text": BASE,
    "corpus": BASE | {"corpus"},
    "scoring": BASE | {"scoring"},
    "asr": BASE | {"corpus", "scoring", "asr"},
    "training": BASE | {"corpus", "scoring", "asr", "training"},
    "tracking": BASE | {"scoring", "tracking"},
    "report": BASE | {"scoring", "report"},
    "progress": set(),
}


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


def test_there_are_files_to_check():
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = {name.split(".")[1] for name in imported(path) if name.startswith("kmed_bench.")} - {"__version__"}
    allowed = ALLOWED.get(room(path))
    if allowed is not None:
        assert own <= allowed | {room(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path):
    tops = {name.split(".")[0] for name in imported(path)}
    if room(path) != "tracking":
        assert "mlflow" not in tops
    if room(path) != "tuning":
        assert "optuna" not in tops
    if room(path) in ("corpus", "text", "scoring", "report", "records", "config"):
        assert not tops & {"torch", "torchaudio", "whisper"}


def test_corpus_text_and_scoring_never_load_torch():
    code = (
        "import sys, kmed_bench.corpus.manifest, kmed_bench.corpus.split, kmed_bench.corpus.demo, "
        "kmed_bench.text.marks, kmed_bench.scoring; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
