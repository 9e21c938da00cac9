"""The trainings of one benchmark, wherever they ran: by parts of a `run`, by `train`, on other machines.

They share the tag ``kmed.series``, a digest of the split and of all settings that decide a training and its figures,
except the sizes, the seeds and the weights. A benchmark's plan says which of them it consists of.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.core.language import N_
from kmed_bench.core.records import TrainRecord
from kmed_bench.core.run_contracts import PLAN
from kmed_bench.tracking.resume import FINISHED
from kmed_bench.tracking.seal import PLAN_FILE
from kmed_bench.tracking.store import read_artifact, search_runs

SERIES_TAG = "kmed.series"
Key = tuple[str, int]


def name_training(size: str, seed: int) -> str:
    """Return what a training is called in messages and tables."""
    return f"{size}, seed {seed}"


def gather_trains(client: MlflowClient, bench: Run, own: Sequence[Run]) -> list[Run]:
    """Return a benchmark's train runs by their start: its own, and finished ones of its series elsewhere.

    A training that its own process has not finished is replaced by a finished one of the same size, seed and weights.
    Of several the one that started first counts, so a later one changes no report.

    Parameters
    ----------
    bench : mlflow.entities.Run
        A benchmark, or a training without one, which then stands for all of its series.
    """
    if SERIES_TAG not in bench.data.tags:
        return list(own)
    planned, weights = planned_trainings(bench), _weights(client, bench)
    there = {_key(run): run for run in own if run.info.status == FINISHED}
    query = f"{series_query(bench)} and attributes.status = '{FINISHED}'"
    for run in reversed(search_runs(client, query)):
        size, sha256 = _key(run)[0], run.data.tags.get("kmed.weights_sha256", "")
        if (planned is None or _key(run) in planned) and weights.get(size, sha256) == sha256:
            there.setdefault(_key(run), run)
    kept = [run for run in own if _key(run) not in there]
    return sorted([*kept, *there.values()], key=lambda run: int(run.info.start_time))


def series_query(bench: Run) -> str | None:
    """Return the query of all train runs of a benchmark's series, wherever they ran; None for older benchmarks."""
    series = bench.data.tags.get(SERIES_TAG)
    return None if series is None else f"tags.`kmed.kind` = 'train' and tags.`{SERIES_TAG}` = '{series}'"


def find_finished(client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
    """Return the latest finished run with these tags; None if there is none.

    Parameters
    ----------
    tags : mapping
        With the identity of a training, which those of `train`, of benchmarks and of learning curves share.
    """
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = search_runs(client, f"{query} and attributes.status = '{FINISHED}'", limit=1)
    return found[0] if found else None


def absent_trainings(bench: Run, trains: Sequence[Run], skipped: Mapping[str, str]) -> dict[str, str]:
    """Return the planned trainings without a run in the store, name to reason; none for older benchmarks."""
    planned = planned_trainings(bench) if SERIES_TAG in bench.data.tags else None
    there = {_key(run) for run in trains}
    text = N_("no run of it is in the store; train it with `run --only {training}`")
    return {
        name_training(size, seed): text.format(training=f"{size}:{seed}")
        for size, seed in planned or ()
        if (size, seed) not in there and size not in skipped
    }


def planned_trainings(bench: Run) -> list[Key] | None:
    """Return (size, seed) of each training that a benchmark consists of; None for a single training."""
    if bench.data.tags.get("kmed.kind") != "bench":
        return None
    sizes, seeds = (bench.data.params.get(name, "").split(",") for name in ("model.sizes", "train.seeds"))
    return [(size.strip(), int(seed)) for size, seed in itertools.product(sizes, seeds) if seed.strip().isdigit()]


def _key(train: Run) -> Key:
    return train.data.tags.get("kmed.size", ""), int(train.data.tags.get("kmed.seed", "0"))


def _weights(client: MlflowClient, bench: Run) -> dict[str, str]:
    """Return the SHA-256 of the weights by size, as far as the plan has them."""
    plan = read_artifact(client, bench, PLAN_FILE, PLAN)
    settings = plan["settings"] if plan else {}
    return {name.removeprefix("weights."): value for name, value in settings.items() if name.startswith("weights.")}


def parent_of(train: TrainRecord) -> str | None:
    """Return the id of the benchmark's run that a training was started by; None if it was started alone."""
    return train.tags.get(MLFLOW_PARENT_RUN_ID)


def fetch_files(client: MlflowClient, run_id: str, names: Sequence[str], folder: Path) -> list[Path] | None:
    """Return the paths of a run's files, downloaded into a folder; None if the run lacks one."""
    if not set(names) <= {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    return [Path(client.download_artifacts(run_id, name, str(folder))) for name in names]
