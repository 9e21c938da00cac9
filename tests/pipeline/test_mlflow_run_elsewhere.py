"""`mlflow run` from git and from another folder: results beside the caller, resumed by the same command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from random_whisper import save_random_whisper
from small_bench import SETTINGS

from kmed_bench.core.callers_folder import project_folder

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

# In the clone only: the command line with a Whisper tiny that is smaller still.
SMALLER = """
import os
from pathlib import Path
from kmed_bench.asr.model import weights
found = weights._read_checkpoint(Path(os.environ["SMALLER"]))[0]
weights.dimensions = lambda size: found
"""


def git(folder: Path, *words: str) -> None:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)


def make_bare_clone(folder: Path) -> None:
    """Make a bare repository ``clone.git`` that has this project in a subfolder."""
    project = folder / "work" / "speech" / "bench"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kmed_bench", project / "kmed_bench", ignore=ignored)
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, project)
    main = project / "kmed_bench" / "__main__.py"
    main.write_text(SMALLER + main.read_text(encoding="utf-8"), encoding="utf-8")
    git(folder / "work", "init", "-q", "-b", "main")
    git(folder / "work", "add", "-A")
    git(folder / "work", "commit", "-q", "-m", "a project in a subfolder")
    git(folder, "clone", "-q", "--bare", "work", "clone.git")
    shutil.rmtree(folder / "work")


def test_a_project_from_git_leaves_its_results_beside_the_caller(tmp_path: Path) -> None:
    make_bare_clone(tmp_path)
    ward = tmp_path / "3 병동 (a)"
    ward.mkdir()
    save_random_whisper(ward / "tiny.pt")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_EXPERIMENT_NAME": "kmed-bench", "OMP_NUM_THREADS": "1"}
    env |= {"KMED_CACHE": str(tmp_path / "cache"), "SMALLER": str(ward / "tiny.pt")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # MLflow takes an existing file:// path for a folder. Git itself turns this address into the clone's.
    address = "https://git.example.org/clone.git#speech/bench"
    env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/.insteadOf"}
    env |= {"GIT_CONFIG_VALUE_0": "https://git.example.org/"}
    settings = {**SETTINGS, "seeds": "0", "epochs": 1, "weights": "tiny.pt", "out": "results"}
    command = ["mlflow", "run", address, "--version", "main", "--env-manager", "local"]
    command += [word for key, value in settings.items() for word in ("-P", f"{key}={value}")]

    def run(*more: str) -> str:
        done = subprocess.run(
            [*command, *more], cwd=ward, env=env, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
        return done.stderr

    run()
    assert {path.name for path in ward.iterdir()} == {"tiny.pt", "results", "mlflow.db", "mlruns"}
    (folder,) = (ward / "results").glob("bench-demo-*")
    assert (folder / "report" / "index.html").is_file()
    assert "train-tiny-seed0: done before, not run again." in run("-P", "resume=true")
    assert list((ward / "results").glob("bench-demo-*")) == [folder]
    client = MlflowClient(tracking_uri=f"sqlite:///{ward}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'kmed-bench'")
    kinds = [run.data.tags.get("kmed.kind", "none") for run in client.search_runs([experiment.experiment_id])]
    assert sorted(kinds) == ["bench", "continuation", "report", "split", "train"]


def test_without_mlflow_run_the_working_folder_stays(tmp_path: Path) -> None:
    shutil.copy(ROOT / "MLproject", tmp_path)
    program = "import os; from kmed_bench import cli; cli.enter_callers_folder(); print(os.getcwd())"
    for variable in ({}, {"MLFLOW_RUN_ID": "0" * 32}):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **variable}
        # A person's shell, whose variable is a leftover: its own parent is no business of ours.
        done = subprocess.run(
            ["bash", "--norc"], input=f"{sys.executable} -c '{program}'\n", cwd=tmp_path, env=env,
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.split() == [str(tmp_path)]
    assert project_folder() == Path.cwd()
