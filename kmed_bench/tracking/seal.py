"""The seal on a test part: plans kept before training, and a record of each opening, in one experiment of the store.

An opening is a run. Runs are only added, and benchmarks of all experiments find them by the split's SHA-256, so
processes that open a test part at the same time do not affect each other's records.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from mlflow.tracking import MlflowClient

from kmed_bench.config import digest
from kmed_bench.core.files import write_json
from kmed_bench.core.records import differing_settings
from kmed_bench.core.run_contracts import PLAN, Plan
from kmed_bench.core.version import code_version
from kmed_bench.tracking.endings import begun
from kmed_bench.tracking.openings import PLAN_TAG
from kmed_bench.tracking.run import TrackedRun, start_run
from kmed_bench.tracking.store import experiment_id, read_artifact

EXPERIMENT = "kmed-openings"
PLAN_FILE = "plan.json"
_NOTE = (
    "One run for each opening of a test part: a decoding of it for scores, by an untouched model or a fine-tuned one. "
    "`kmed-bench openings SPLIT` lists them. Runs are only added; a deleted one still counts until `mlflow gc` "
    "removes it.\n"
)
log = logging.getLogger(__name__)


class Seal:
    """A test part and the plan, if any, under which a run may open it.

    Parameters
    ----------
    uri : str
        The store, as `open_store` returned it.
    run : TrackedRun or None
        The run that keeps the plan; None for a command without one.
    """

    def __init__(
        self,
        uri: str,
        *,
        command: str,
        split_sha256: str,
        settings: Mapping[str, str],
        plan: Plan | None = None,
        run: TrackedRun | None = None,
    ) -> None:
        self._uri, self._settings, self._plan = uri, settings, plan
        self._tags = {
            "kmed.kind": "opening",
            "kmed.split_sha256": split_sha256,
            "kmed.opened_by": command,
            PLAN_TAG: plan["sha256"] if plan else "",
            "kmed.opened_for": run.run_id if run else "",
        }

    def record_opening(self, model: str, *, untouched: bool = False, identity: str = "") -> None:
        """Add the record of an opening that is about to begin.

        Under a plan, a second record of the same model by the same run and code counts as the same opening: an
        interrupted run that continues decodes again what it had lost.

        Parameters
        ----------
        model : str
            What will decode, such as ``base, seed 0``; no path.
        identity : str
            Digest of what decides the model's weights.
        """
        client, key = MlflowClient(tracking_uri=self._uri), ""
        if self._plan is not None:
            made_by = self._tags["kmed.opened_for"], self._plan["sha256"], self._plan["code_version"]
            key = digest([*made_by, model, untouched, identity])
        own = {"kmed.model": model, "kmed.untouched": str(untouched).lower(), "kmed.opening_key": key}
        experiment = experiment_id(client, self._uri, EXPERIMENT, _NOTE)
        name = f"open-{model}".replace(", ", "-")
        with begun(lambda: start_run(client, experiment, name, self._tags | own)) as run:
            run.log_params(self._settings)
            under = f"under the plan `{self._plan['sha256'][:12]}`" if self._plan else "without a plan"
            run.set_note(f"`{self._tags['kmed.opened_by']}` opened the test part {under}, to decode it: {model}.\n")


def seal_plan(run: TrackedRun, plan: Plan, folder: Path, *, command: str, begun: bool = False) -> Seal:
    """Store a plan with a run and in its results folder, before the first training step, and return the seal.

    A run that is continued under the same plan keeps its first plan. A changed plan replaces it: the log names what
    changed, and the tag ``kmed.plan_replaced`` has the hash of the plan before.

    Parameters
    ----------
    begun : bool
        Whether the run trained before. If it has no plan yet, the tag ``kmed.plan_late`` says so.
    """
    stored = run.client.get_run(run.run_id)
    before = read_artifact(run.client, stored, PLAN_FILE, PLAN)
    if before is not None and before["sha256"] == plan["sha256"]:
        plan = {**before, "code_version": plan["code_version"]}
        write_json(folder / PLAN_FILE, before)
    else:
        if before is not None:
            changed = ", ".join(
                f"{name} {a} → {b}" for name, a, b in differing_settings(before["settings"], plan["settings"])
            )
            log.warning(f"The plan sealed at {before['sealed_at']} has changed: {changed}.")
            run.set_tags({"kmed.plan_replaced": before["sha256"]})
        elif begun:
            run.set_tags({"kmed.plan_late": "true"})
        write_json(folder / PLAN_FILE, plan)
        run.log_json(plan, PLAN_FILE)
        run.set_tags({PLAN_TAG: plan["sha256"], "kmed.plan_sealed_at": plan["sealed_at"]})
    return _seal_of(run, plan, command)


def reopen_seal(run: TrackedRun, folder: Path, *, command: str) -> Seal:
    """Return the seal that `seal_plan` made in the process that started this one.

    Raises
    ------
    KmedError
        When the folder holds no plan.
    """
    return _seal_of(run, {**PLAN.read(folder / PLAN_FILE), "code_version": code_version()}, command)


def _seal_of(run: TrackedRun, plan: Plan, command: str) -> Seal:
    settings, split_sha256 = plan["settings"], plan["settings"]["split.sha256"]
    return Seal(run.uri, command=command, split_sha256=split_sha256, settings=settings, plan=plan, run=run)
