"""The built wheel holds all of the package and runs outside a checkout, in an environment of its own."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow

SMALL = {
    "sizes": "base", "epochs": 1, "batch_size": 2, "audio_context": "dynamic",
    "data.demo_speakers": 4, "data.demo_sentences": 16, "data.roles": "patient,nurse,doctor",
    "split.train": 8, "split.valid": 2, "split.test": 2, "split.disjoint": "none",
    "eval.audio_context": "dynamic", "eval.max_new_tokens": 8, "eval.bootstrap_draws": 100,
}  # fmt: skip


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    done = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and this one's libraries without its editable package."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", symlinks=True)
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    # A path in a .pth file is searched, and .pth files in it are not read: the checkout stays out.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "venv" / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
        cwd=folder,
    )
    return python


def test_the_wheel_holds_every_tracked_file_of_the_package(wheel: Path) -> None:
    listed = run("git", "-C", str(ROOT), "ls-files", "kmed_bench", cwd=ROOT).stdout.split()
    assert set(listed) <= set(zipfile.ZipFile(wheel).namelist())


def test_it_runs_a_benchmark_outside_a_checkout(clean: Path, tmp_path: Path) -> None:
    where = run(str(clean), "-c", "import kmed_bench; print(kmed_bench.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(clean.parents[1])
    words = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    done = run(
        str(clean.with_name("kmed-bench")), "run", "--profile", "demo", *words,
        cwd=tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
    )  # fmt: skip
    report = next(line.removeprefix("Report: ") for line in done.stdout.splitlines() if line.startswith("Report: "))
    assert Path(report).read_text(encoding="utf-8").count("<table") > 3
    scores = json.loads(next(tmp_path.glob("kmed-output/*/base/seed0/scores.json")).read_text(encoding="utf-8"))
    assert scores["overall"]["n_clips"] == 2
