"""Runs of single stages: what they read and wrote, and what came of it."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.config import Config
from kmed_bench.core.callers_folder import OWN_RUN
from kmed_bench.core.contracts import EvaluatedScores
from kmed_bench.core.corpus_contracts import QualityReport, SplitReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.core.finished import content_sha256
from kmed_bench.core.quantities import percent
from kmed_bench.core.version import code_version
from kmed_bench.tracking.endings import FAILURE_TAG
from kmed_bench.tracking.metric_names import ingest_metrics, score_metrics, split_metrics
from kmed_bench.tracking.origin import hide_origin
from kmed_bench.tracking.own_run import has_random_name, refuse_run
from kmed_bench.tracking.privacy import describe_failure, without_ids
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.run_notes import describe_ingest, describe_split
from kmed_bench.tracking.runs import standalone_run
from kmed_bench.tracking.store import resolve_uri, search_runs

_UPSTREAM = "kmed.upstream_run_ids"
_LOCAL = ("comparisons", "joined", "runtime")
"""Parts of scores.json that may name folders or utterances."""


@contextlib.contextmanager
def stage_run(config: Config, *, kind: str, params: Mapping[str, Any]) -> Iterator["StageRun"]:
    """Yield the run of a stage that runs alone; see `runs.standalone_run`."""
    name = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    started_s = time.perf_counter()
    with standalone_run(config, kind=kind, name=name, code_version=code_version(), params=params) as run:
        yield StageRun(run)
        run.log_metrics({f"time/{kind}_s": time.perf_counter() - started_s})


def tag_own_run(command: str, error: BaseException | None = None) -> None:
    """Tag the run that `mlflow run` made for this process with its command, unless the command tracked its work there.

    Parameters
    ----------
    error : BaseException, optional
        Why the command failed; None if it did not.
    """
    run_id = os.environ.get(OWN_RUN, "")
    with contextlib.suppress(MlflowException, KmedError, OSError):
        client = MlflowClient(tracking_uri=resolve_uri())
        if refuse_run(client, run_id) is not None:
            return
        hide_origin(client, run_id)
        run = TrackedRun(client, run_id)
        run.set_tags({"kmed.kind": "call"} | ({} if error is None else {FAILURE_TAG: describe_failure(error)}))
        run.set_note(f"`mlflow run` made this run to call `kmed-bench {command}`, which logged nothing to it.\n")
        if has_random_name(client.get_run(run_id)):
            client.update_run(run_id, name=f"call-{command.replace(' --', '-')}")


class StageRun:
    """The run of a stage, with a method for each kind of thing that stages read and write."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self._upstream: list[str] = []

    def _link(self, query: str) -> None:
        """Tag the run with the latest other run that matches: the one that wrote what this one read."""
        for found in search_runs(self.run.client, query, limit=2):
            if found.info.run_id != self.run.run_id:
                self._add_upstream(found.info.run_id)
                return

    def _add_upstream(self, run_id: str) -> None:
        self._upstream.append(run_id)
        self.run.set_tags({_UPSTREAM: ",".join(self._upstream)})

    def log_ingest(self, quality: QualityReport, manifest: Path, corpus: str) -> None:
        """Log a manifest that was written; its digest is what later stages name as their input."""
        sha256 = sha256_of(manifest)
        self.run.set_tags({"kmed.manifest_sha256": sha256})
        self.run.log_dataset(
            sha256=sha256, counts={"usable": quality["usable"]}, context="ingest", name=corpus, kind="manifest"
        )
        self.run.log_metrics(ingest_metrics(quality))
        self.run.log_json(without_ids(quality), "quality.json")
        self.run.set_note(describe_ingest(quality))

    def log_manifest(self, manifest: Path, n_clips: int, corpus: str) -> None:
        """Log a manifest that was read, and the run that wrote it."""
        sha256 = sha256_of(manifest)
        self.run.set_tags({"kmed.manifest_sha256": sha256})
        self.run.log_dataset(sha256=sha256, counts={"usable": n_clips}, context="split", name=corpus, kind="manifest")
        self._link(f"tags.`kmed.manifest_sha256` = '{sha256}' and tags.`kmed.kind` = 'ingest'")

    def log_split(self, report: SplitReport, file: Path) -> None:
        """Log a split that was written."""
        self.run.set_tags({"kmed.split_sha256": report["sha256"]})
        self.run.log_metrics(split_metrics(report))
        self.run.log_file(file)
        self.run.set_note(describe_split(report) + "\n")

    def read_split(self, report: SplitReport, part: str, corpus: str) -> None:
        """Log a part of a split that was read, and the run that wrote the split."""
        sha256 = report["sha256"]
        self.run.set_tags({"kmed.split_sha256": sha256})
        self.run.log_dataset(sha256=sha256, counts=report["counts"], context="evaluation", name=corpus, part=part)
        self._link(f"tags.`kmed.split_sha256` = '{sha256}' and tags.`kmed.kind` = 'split'")

    def read_predictions(self, file: Path, n_clips: int) -> None:
        """Log predictions that were read, a file or a folder, and the run that wrote them if the store has one."""
        sha256 = content_sha256(file)
        counts = {"clips": n_clips}
        self.run.log_dataset(sha256=sha256, counts=counts, context="scoring", name="predictions", kind="predictions")
        self._link(f"tags.`kmed.predictions_sha256` = '{sha256}'")

    def wrote_predictions(self, file: Path) -> None:
        """Log the digest of predictions that were written; they hold transcripts and stay where they are."""
        self.run.set_tags({"kmed.predictions_sha256": sha256_of(file)})

    def read_model(self, shown: str, path: Path | None) -> None:
        """Log which model was read: by its name, its digest, and, if the store has it, as the run's input.

        Parameters
        ----------
        shown : str
            Its name without folders.
        path : Path or None
            Its checkpoint; None for a folder of another library.
        """
        self.run.set_tags({"kmed.model": shown})
        if path is None:
            return
        sha256 = sha256_of(path)
        self.run.set_tags({"kmed.checkpoint_sha256": sha256})
        client = self.run.client
        experiments = [found.experiment_id for found in client.search_experiments()]
        query = f"tags.`kmed.checkpoint_sha256` = '{sha256}'"
        models = list(client.search_logged_models(experiments, query, max_results=10))
        if models:
            client.log_inputs(self.run.run_id, models=[LoggedModelInput(model.model_id) for model in models])
            if source := models[0].source_run_id:
                self._add_upstream(source)

    def log_scores(self, scores: EvaluatedScores, prefix: str) -> None:
        """Log scores, comparisons with a baseline, and files without transcripts."""
        metrics = score_metrics(scores, prefix)
        speed = scores.get("speed") or {}
        metrics |= {f"speed/{name}": float(v) for name, v in speed.items() if isinstance(v, (int, float))}
        for number, row in enumerate(
            scores.get("comparisons", ()), start=1
        ):  # names of baselines may be those of folders
            figures = {name: row[name] for name in ("delta", "delta_low", "delta_high", "p_holm")}
            metrics |= {f"against/{number}/{name}": float(v) for name, v in figures.items() if v is not None}
        self.run.log_metrics(metrics)
        self.run.log_json({key: value for key, value in scores.items() if key not in _LOCAL}, "scores.json")
        overall = scores["overall"]
        self.run.set_note(
            f"CER **{percent(overall['cer'])}** on {overall['n_clips']} clips of {overall['n_speakers']} speakers; "
            "all figures are in `scores.json`.\n"
        )

    def log_shards(self, wall_s: Sequence[float]) -> None:
        """Log how long each shard took: its time at the step of its number, and their number, sum and longest."""
        now_ms = int(time.time() * 1000)
        self.run.log_points(("shard/wall_s", shard, taken_s, now_ms) for shard, taken_s in enumerate(wall_s))
        sums = {"n": len(wall_s), "wall_s_sum": sum(wall_s), "wall_s_max": max(wall_s)}
        self.run.log_metrics({f"shards/{name}": float(value) for name, value in sums.items()})

    def log_export(self, record: Mapping[str, Any]) -> None:
        """Log what an export measured and what it wrote: digests and sizes of files."""
        drift, files = record["drift"] or {}, record["files"]
        metrics = {f"export/{name}": float(v) for name, v in drift.items() if isinstance(v, (int, float))}
        metrics |= {"export/bytes": float(sum(file["bytes"] for file in files.values()))}
        metrics |= {"export/files": float(len(files)), "export/parameters": float(record["parameters"])}
        self.run.log_metrics(metrics)
        shown = {key: value for key, value in record.items() if key != "runtime"}
        self.run.log_json(shown, "export.json")
        measured = f"CER {drift['cer_exported']:.4f}, drift {drift['drift']:+.4f}" if drift else "drift not measured"
        self.run.set_note(f"Exported as {record['format']}, {record['quantization']}: {measured}.\n")
