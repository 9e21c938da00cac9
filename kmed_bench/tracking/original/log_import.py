"""Logs of the original benchmark imported into the store: one finished run per repetition, its figures labelled."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
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
from kmed_bench.tracking.processes import PROCESS_TAG, this_process
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import experiment_id, search_runs

HISTORY_METRICS = (
    "train/loss",
    "train/cer_teacher_forced",
    "imported/valid_loss",
    "imported/valid_cer_teacher_forced",
)
_TIME_METRIC = "imported/time_s"
_FINISHED = RunStatus.to_string(RunStatus.FINISHED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOutcome:
    """What was imported from one log.

    Attributes
    ----------
    created, present : tuple of str
        Names of the runs created now, and of those that an earlier import of the same content created.
    left_out : dict
        Version to the reason why it has no run.
    """

    created: tuple[str, ...]
    present: tuple[str, ...]
    left_out: dict[str, str]


def import_log(uri: str, path: Path, experiment: str) -> ImportOutcome:
    """Import each repetition of an original log as a finished run, all of them or none.

    Importing the same content again creates no second runs; incomplete runs of a killed import are replaced.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    experiment : str
        The experiment that gets the runs.

    Raises
    ------
    KmedError
        When the log is faulty, names no size of Whisper, or was written by kmed-bench itself.
    """
    log = read_log(path)
    size, sha256 = _size(log, path), _content_hash(log)
    client = MlflowClient(tracking_uri=uri)
    experiment_key = experiment_id(client, uri, experiment)
    names = {int(n): f"imported-{size}-v{n}" for n, version in log.versions.items() if version.epochs}
    present = _present(client, experiment_key, sha256)
    missing = [number for number in names if number not in present]
    tags = {"kmed.kind": "imported", "kmed.size": size, "kmed.imported_sha256": sha256, "kmed.imported_file": path.name}
    tags[PROCESS_TAG] = this_process()
    created: list[str] = []
    try:
        for number in missing:
            run = client.create_run(experiment_key, run_name=names[number], tags=tags | {"kmed.version": str(number)})
            created.append(run.info.run_id)
            _fill(TrackedRun(client, created[-1]), log, size, number)
        for run_id in created:
            client.set_terminated(run_id, _FINISHED)
    except BaseException:
        with contextlib.suppress(MlflowException):  # a server may not let this user delete; the cause matters more
            for run_id in created:
                client.delete_run(run_id)
        raise
    return ImportOutcome(
        created=tuple(names[number] for number in missing),
        present=tuple(name for number, name in names.items() if number in present),
        left_out={name: "it has no epochs" for name, version in log.versions.items() if not version.epochs},
    )


def read_imported(uri: str) -> list[ImportedRecord]:
    """Return the store's imported repetitions by size, log and version; empty if there are none."""
    client = MlflowClient(tracking_uri=uri)
    runs = search_runs(client, f"tags.`kmed.kind` = 'imported' and attributes.status = '{_FINISHED}'")
    records = [_record(client, run) for run in runs]
    return sorted(records, key=lambda r: (SIZES.index(r.size), r.file, r.sha256, r.version))


def _fill(run: TrackedRun, log: OriginalLog, size: str, number: int) -> None:
    version = log.versions[str(number)]
    run.log_params({name: _shareable(value) for name, value in log.metadata.items()})
    for epoch in version.epochs:
        # In our runs, step 0 is the untouched model, which the original never scored: its first epoch is step 1.
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
        "- No transcript was decoded. At each position the model saw the true text so far and predicted the next "
        "token: errors do not accumulate, and the length is known.\n"
        "- The log's validation pass used the *training* clips: a low value shows that they were memorised and says "
        "nothing about new speech. It is therefore named `imported/valid_cer_teacher_forced`.\n"
        "- Both losses are means over positions including the padding up to `max_len`, which is easy to predict: they "
        "are lower than a loss over words only, and `train/loss` is lower than ours.\n"
        "- `lr` is what the log states; the published script trains with 1e-5 regardless.\n"
        "- A version is a repetition, not a seed. Step 1 is the log's epoch 0. CER is a fraction here, not per cent.\n"
    )


def _size(log: OriginalLog, path: Path) -> str:
    if OWN_KEY in log.notes:
        raise KmedError(
            f"{path} was written by kmed-bench (bench {log.notes[OWN_KEY].get('bench', 'unknown')}), not by the "
            "original benchmark: the store already has its figures under their own names; import an original log."
        )
    name = str(log.metadata["model_name"])
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SIZES]
    if len(words) != 1:
        raise KmedError(
            f"model_name in mata_data of {path} is {name!r}, which does not name exactly one size of "
            f"{', '.join(SIZES)}; correct it, for instance to whisper-base."
        )
    return words[0]


def _content_hash(log: OriginalLog) -> str:
    """Return the SHA-256 of the log's content, independent of its layout."""
    text = json.dumps(to_tree(log), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _shareable(value: Any) -> Any:
    """Return a setting; a path is reduced to its last name, or to ~ if that is a person's folder."""
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return value
    parts = PureWindowsPath(value).parts  # splits at slashes and backslashes
    if len(parts) > 1 and parts[-2].lower() in ("home", "users"):
        return "~"
    return PureWindowsPath(value).name or "none"


def _present(client: MlflowClient, experiment: str, sha256: str) -> set[int]:
    """Return the versions of a log that an experiment has; incomplete runs are deleted."""
    complete = set()
    for run in search_runs(client, f"tags.`kmed.kind` = 'imported' and tags.`kmed.imported_sha256` = '{sha256}'"):
        if run.info.experiment_id != experiment:
            continue
        if run.info.status == _FINISHED:
            complete.add(int(run.data.tags["kmed.version"]))
        else:
            client.delete_run(run.info.run_id)
    return complete


def _record(client: MlflowClient, run: Run) -> ImportedRecord:
    tags: Mapping[str, str] = run.data.tags
    rows = [
        (name, point.step, point.value)
        for name in HISTORY_METRICS
        for point in sorted(client.get_metric_history(run.info.run_id, name), key=lambda point: point.step)
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
