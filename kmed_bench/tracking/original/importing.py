"""Logs of the original benchmark in the store: each repetition a finished run, labelled for what its figures are."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
from mlflow.entities import Run, RunStatus
from mlflow.tracking import MlflowClient

from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import ImportedRecord
from kmed_bench.core.schema import SIZES
from kmed_bench.tracking.original.log_format import (
    OWN_KEY,
    OriginalEpoch,
    OriginalLog,
    OriginalVersion,
    read_log,
    to_tree,
)
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import experiment_id

HISTORY_METRICS = (
    "train/loss",
    "train/cer_teacher_forced",
    "imported/valid_loss",
    "imported/valid_cer_teacher_forced",
)
_TIME_METRIC = "imported/time_s"
_PAGE = 1_000
_FINISHED = RunStatus.to_string(RunStatus.FINISHED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOutcome:
    """What became of one log.

    Attributes
    ----------
    made, known : tuple of str
        Names of the runs made now, and of those that an earlier import of the same content had made.
    left_out : dict
        Version to the reason why it has no run.
    """

    made: tuple[str, ...]
    known: tuple[str, ...]
    left_out: dict[str, str]


def import_log(uri: str, path: Path, experiment: str) -> ImportOutcome:
    """Make each repetition of an original log a finished run, all of them or none.

    The same content imported again makes no second runs; runs that a killed import left half-made are replaced.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    experiment : str
        Where the runs go.

    Raises
    ------
    KmedError
        When the log is faulty, names no size of Whisper, or was written by kmed-bench itself.
    """
    log = read_log(path)
    size, sha256 = _size(log, path), _content_hash(log)
    client = MlflowClient(tracking_uri=uri)
    place = experiment_id(client, uri, experiment)
    present = _present(client, place, sha256)
    kept = {int(number): version for number, version in log.versions.items() if version.epochs}
    missing = {number: version for number, version in kept.items() if number not in present}
    made: list[str] = []
    names: list[str] = []
    try:
        for number, version in missing.items():
            name = f"imported-{size}-v{number}"
            tags = {
                "kmed.kind": "imported",
                "kmed.size": size,
                "kmed.version": str(number),
                "kmed.imported_sha256": sha256,
                "kmed.imported_file": path.name,
            }
            made.append(client.create_run(place, run_name=name, tags=tags).info.run_id)
            names.append(name)
            _fill(TrackedRun(client, made[-1]), log, size, number, version)
        for run_id in made:
            client.set_terminated(run_id, _FINISHED)
    except BaseException:
        for run_id in made:
            client.delete_run(run_id)
        raise
    left_out = {name: "it holds no epochs" for name, version in log.versions.items() if not version.epochs}
    known = tuple(f"imported-{size}-v{number}" for number in kept if number in present)
    return ImportOutcome(made=tuple(names), known=known, left_out=left_out)


def read_imported(uri: str) -> list[ImportedRecord]:
    """Return the store's imported repetitions by size, log and version; empty where there are none."""
    client = MlflowClient(tracking_uri=uri)
    places = [found.experiment_id for found in client.search_experiments()]
    records = [_record(client, run) for run in _search(client, places, f"attributes.status = '{_FINISHED}'")]
    return sorted(records, key=lambda r: (SIZES.index(r.size), r.file, r.sha256, r.version))


def _fill(run: TrackedRun, log: OriginalLog, size: str, number: int, version: OriginalVersion) -> None:
    run.log_params({name: _shareable(value) for name, value in log.metadata.items()})
    for epoch in version.epochs:
        # Step 0 is the untouched model in our runs, which the original never scored: its first epoch is step 1.
        run.log_epoch(epoch.epoch + 1, dict(zip(HISTORY_METRICS, _figures(epoch), strict=True)))
    if version.time is not None:
        hours, minutes, seconds = map(int, version.time.split(":"))
        run.log_metrics({_TIME_METRIC: 3600 * hours + 60 * minutes + seconds})
    run.set_note(_note(size, number, version))


def _figures(epoch: OriginalEpoch) -> tuple[float, float, float, float]:
    return epoch.train_loss, epoch.train_cer / 100, epoch.valid_loss, epoch.valid_cer / 100


def _note(size: str, number: int, version: OriginalVersion) -> str:
    last = version.epochs[-1]
    return (
        f"Whisper **{size}**, repetition {number} of an original benchmark's log: {len(version.epochs)} epochs, the "
        f"last with a teacher-forced CER of {last.train_cer:.3g} % in training and {last.valid_cer:.3g} % in what the "
        "log calls validation.\n\n"
        "**These figures can't be compared with our `valid/cer` or `test/cer`.**\n\n"
        "- No transcript was decoded. At each position the model saw the true text so far, and its most likely next "
        "token was taken: mistakes never carry on, and the length is given.\n"
        "- The log's validation pass ran over the *training* clips: a low value shows that they were memorised, "
        "and says nothing about new speech. So it stands under `imported/valid_cer_teacher_forced`.\n"
        "- Both losses are means over positions that include the padding up to `max_len`, which is easy to predict: "
        "they are lower than a loss over words alone, also `train/loss` against our own.\n"
        "- `lr` is what the log states; the published script trains with 1e-5 whatever it says.\n"
        "- A version is a repetition, no seed. Step 1 is the log's epoch 0. CER is a fraction here, per cent there.\n"
    )


def _size(log: OriginalLog, path: Path) -> str:
    if OWN_KEY in log.notes:
        raise KmedError(
            f"{path} was written by kmed-bench (bench {log.notes[OWN_KEY].get('bench', 'unknown')}), not by the "
            "original benchmark: its figures stand in the store already under their own names, and are not imported."
        )
    name = str(log.metadata["model_name"])
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SIZES]
    if len(words) != 1:
        raise KmedError(
            f"model_name in mata_data of {path} is {name!r}, which names no one size of {', '.join(SIZES)}; "
            "correct it, for instance to whisper-base."
        )
    return words[0]


def _content_hash(log: OriginalLog) -> str:
    """Return the SHA-256 of what the log says, whatever its layout."""
    text = json.dumps(to_tree(log), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _shareable(value: Any) -> Any:
    """Return a setting with a path reduced to its last name, and to ~ where that is a person's folder."""
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return value
    parts = PureWindowsPath(value).parts  # splits at either kind of stroke
    if len(parts) > 1 and parts[-2].lower() in ("home", "users"):
        return "~"
    return PureWindowsPath(value).name or "none"


def _present(client: MlflowClient, place: str, sha256: str) -> set[int]:
    """Return the versions of a log that stand whole in an experiment; half-made runs are deleted."""
    whole = set()
    for run in _search(client, [place], f"tags.`kmed.imported_sha256` = '{sha256}'"):
        if run.info.status == _FINISHED:
            whole.add(int(run.data.tags["kmed.version"]))
        else:
            client.delete_run(run.info.run_id)
    return whole


def _search(client: MlflowClient, places: list[str], query: str) -> list[Run]:
    runs: list[Run] = []
    token: str | None = None
    while True:
        wanted = f"tags.`kmed.kind` = 'imported' and {query}"
        page = client.search_runs(places, wanted, max_results=_PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _record(client: MlflowClient, run: Run) -> ImportedRecord:
    tags: Mapping[str, str] = run.data.tags
    rows = [
        (name, point.step, point.value)
        for name in HISTORY_METRICS
        for point in sorted(client.get_metric_history(run.info.run_id, name), key=lambda found: found.step)
    ]
    return ImportedRecord(
        run_id=run.info.run_id,
        name=run.info.run_name,
        size=tags["kmed.size"],
        version=int(tags["kmed.version"]),
        sha256=tags["kmed.imported_sha256"],
        file=tags["kmed.imported_file"],
        params=dict(run.data.params),
        time_s=run.data.metrics.get(_TIME_METRIC),
        history=pd.DataFrame(rows, columns=["metric", "step", "value"]),
    )
