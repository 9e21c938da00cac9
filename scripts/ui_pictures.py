"""Takes the pictures of docs/ that show MLflow's UI and Optuna's dashboard, from a small benchmark and a small study.

Both are real runs of the command line on the generated corpus, with a random model: the figures mean nothing.
Usage: python scripts/ui_pictures.py [--folder FOLDER] [--out docs]; it needs the extras `test` and `dashboard` and an
installed Chromium. A folder that has the runs already is used as it is.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import sleep

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Page, open_browser  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from small_bench import PROGRAM, SETTINGS, Place  # noqa: E402

from kmed_bench.tracking.views import CURVES, TABLE, view_link  # noqa: E402

EXPERIMENT, STUDY = "kmed-bench", "demo"
MORE = {
    "seeds": "0,1,2", "epochs": 8, "batch_size": 4, "data.demo_speakers": 12, "data.demo_sentences": 48,
    "split.train": 64, "split.valid": 12, "split.test": 12, "tracking.step_interval": 4,
    "tracking.experiment": EXPERIMENT,
}  # fmt: skip
SEARCH = {
    "profile": "demo", "size": "tiny", "trials": 16, "study": STUDY, "epochs": 5, "batch_size": 4,
    "audio_context": "dynamic", "eval.audio_context": "dynamic", "eval.max_new_tokens": 8,
    "tune.sampler": "random", "tune.pruner": "successive_halving",
    "tune.space": "{train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}, train.schedule: [constant, cosine], "
    "train.weight_decay: {low: 1.0e-4, high: 0.1, log: true}}",
}  # fmt: skip
_QUIET = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
_HIDDEN = (
    "[...document.querySelectorAll('button')].filter(button => /assistant.chat_panel.close|shared_view.dismiss/"
    ".test(button.dataset.componentId)).forEach(button => button.click())"
)
# The button that opens the assistant and the tools of the charts lie over the page.
_UNCOVERED = (
    "document.elementFromPoint(innerWidth - 35, innerHeight - 37)?.closest('button')?.remove(), "
    "document.querySelectorAll('.modebar-container').forEach(tools => tools.remove())"
)


def make_runs(place: Place) -> None:
    """Run a benchmark, a study on its split, and a benchmark with the study's best settings."""
    store, weights = f"sqlite:///{place.folder}/optuna.db", str(place.folder / "tiny.pt")
    first = [word for key, value in MORE.items() for word in (f"--{key}", str(value))]
    _run(place, [*place.words, *first])
    (split,) = (place.folder / "out").glob("bench-demo-*/split")
    search = [word for key, value in SEARCH.items() for word in (f"--{key}", str(value))]
    out = str(place.folder / "tune")
    _run(place, ["tune", str(split), "--out", out, "--weights", weights, "--tune.storage", store, *search])
    best = ["run", "--from-study", STUDY, "--out", str(place.folder / "out"), "--weights", weights]
    given = {**SETTINGS, **MORE}
    kept = [key for key in given if key.startswith(("data.", "tracking."))] + ["seeds", "epochs"]
    _run(place, best + [word for key in kept for word in (f"--{key}", str(given[key]))])


def _run(place: Place, words: list[str]) -> None:
    # MLflow shows who made a run: not the name of whoever runs this script.
    env = place.env | {"LOGNAME": "researcher", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=place.folder, env=env, check=True)


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """Yield the address at which a server, started with a free port of this machine, answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(Path(sys.executable).with_name(command[0])), *command[1:], "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                break
            sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=30)


async def take_mlflow(page: Page, address: str, client: MlflowClient, out: Path) -> None:
    """Write the pictures of MLflow's UI."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    train = client.search_runs([experiment], "tags.`kmed.kind` = 'train'")[0].info.run_id
    listed = "document.body.innerText.includes('6 matching runs')"
    drawn = "document.querySelectorAll('.js-plotly-plot .trace').length >= 6"
    # A click at each look until the drawer is there: the page is shown before it listens.
    opened = (
        "document.querySelector('[role=dialog]') !== null || ([...document.querySelectorAll('*')].findLast(part => "
        "/^demo corpus/.test(part.textContent.trim()))?.click(), false)"
    )
    pages = [
        ("mlflow-runs", view_link(experiment, TABLE), (1840, 600), listed),
        ("mlflow-charts", view_link(experiment, CURVES), (1500, 1320), drawn),
        ("mlflow-model", "#/models/kmed-whisper-tiny?workflowType=machine_learning", (2000, 1900, 0.75), "true"),
        (
            "mlflow-dataset",
            f"#/experiments/{experiment}/runs/{train}?workflowType=machine_learning",
            (1500, 800),
            opened,
        ),
    ]
    for name, link, size, ready in pages:
        await page.open(address + link, *size)
        await page.until("document.body && document.body.innerText.includes('Settings')")
        await page.evaluate(_QUIET)
        await page.evaluate(_HIDDEN)
        await page.until(ready)
        await asyncio.sleep(8)  # charts and tables are drawn after their data has come
        await page.evaluate(_HIDDEN)
        await asyncio.sleep(1)
        await page.evaluate(_UNCOVERED)
        await page.picture(out / f"{name}.png")


async def take_dashboard(page: Page, address: str, out: Path) -> None:
    """Write the picture of Optuna's dashboard."""
    await page.open(f"{address}dashboard/studies/1", 1500, 1250)
    await page.until("document.querySelectorAll('.js-plotly-plot .trace').length >= 3")
    await asyncio.sleep(6)
    await page.picture(out / "tuning-dashboard.png")


async def take_all(place: Place, out: Path) -> None:
    """Start both servers and the browser, and write all pictures."""
    with serving(["mlflow", "ui", "--workers", "1", "--backend-store-uri", place.uri]) as address:
        async with open_browser() as page:
            await take_mlflow(page, address, place.client, out)
    with serving(["optuna-dashboard", f"sqlite:///{place.folder}/optuna.db"]) as address:
        async with open_browser() as page:
            await take_dashboard(page, address, out)


def main() -> None:
    """Make the runs unless they are there, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the runs are, or are made (a temporary folder)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the pictures (docs)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not (folder / "optuna.db").exists()
        place = Place(folder)
        if is_new:
            make_runs(place)
        asyncio.run(take_all(place, args.out))


if __name__ == "__main__":
    main()
