"""The champion of each registered model: promoted if the gate passes, or by force with a reason; and rolled back."""

import dataclasses
import json
import time
from typing import TypedDict

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.core.contracts import SCORES
from kmed_bench.core.errors import KmedError
from kmed_bench.core.run_contracts import SPEAKER_ERRORS, GateDecision
from kmed_bench.scoring.gate import EVIDENCE_NAME, Evidence, describe, judge
from kmed_bench.tracking.store import read_artifact

_PREVIOUS = "kmed.previous_champion"
_NONE = "none"


Rollback = TypedDict("Rollback", {"name": str, "from": str, "version": str, "rolled_back": bool})
"""Which version the alias was taken from, and which has it now; a class can't have a field called ``from``."""


def promote(
    uri: str, name: str, version: str | int, *, dry_run: bool = False, force: bool = False, reason: str = ""
) -> GateDecision:
    """Return the gate's decision on making a version the champion, after carrying it out.

    Every check and its figures are kept as tags ``kmed.gate.…`` of the version, whether it passed or not.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    dry_run : bool
        Only decide: no alias and no tag is changed.
    force : bool
        Promote even if the gate fails; needs a reason, which is kept.

    Raises
    ------
    KmedError
        When the version does not exist, or ``force`` comes without a reason.
    """
    if force and not reason.strip():
        raise KmedError(f"Promoting {name} version {version} by force needs a reason; state it with --reason.")
    client = MlflowClient(tracking_uri=uri)
    challenger, champion = _version(client, name, version), _champion(client, name)
    held = None if champion is None else _evidence(client, champion)
    checks = judge(_evidence(client, challenger), held)
    passed = all(check.passed is not False for check in checks)
    decision: GateDecision = {
        "name": name,
        "version": str(challenger.version),
        "champion": None if champion is None else str(champion.version),
        "passed": passed,
        "forced": force and not passed,
        "promoted": (passed or force) and not dry_run,
        "reasons": describe(checks),
        "checks": {c.name: {"passed": c.passed, "text": c.text, "figures": c.figures} for c in checks},
    }
    if not dry_run:
        _apply(client, decision, reason)
    return decision


def rollback(uri: str, name: str, *, reason: str, dry_run: bool = False) -> Rollback:
    """Return which version is champion again, after moving the alias back to the previous champion.

    Raises
    ------
    KmedError
        When there is no champion or no previous one, when that version was deleted, or when no reason is given.
    """
    if not reason.strip():
        raise KmedError(f"Rolling back {name} needs a reason; state it with --reason.")
    client = MlflowClient(tracking_uri=uri)
    champion = _champion(client, name)
    previous = _NONE if champion is None else champion.tags.get(_PREVIOUS, _NONE)
    if champion is None or previous == _NONE:
        state = "has no champion" if champion is None else f"has no champion before version {champion.version}"
        raise KmedError(f"{name} {state}, so there is none to go back to; promote a version instead.")
    current, restored = str(champion.version), str(_version(client, name, previous).version)
    if not dry_run:
        note = json.dumps({"at": _now(), "to": restored, "reason": reason}, ensure_ascii=False)
        client.set_model_version_tag(name, current, "kmed.rolled_back", note)
        client.set_registered_model_alias(name, "champion", restored)
    return {"name": name, "from": current, "version": restored, "rolled_back": not dry_run}


def _apply(client: MlflowClient, decision: GateDecision, reason: str) -> None:
    """Tag the version with the decision, then move the alias: a champion always has its reasons."""
    name, version = decision["name"], decision["version"]
    tags = {
        f"kmed.gate.{check.replace(' ', '_')}": json.dumps(result, ensure_ascii=False)
        for check, result in decision["checks"].items()
    }
    failed = "failed, promoted by force" if decision["forced"] else "failed"
    tags |= {"kmed.gate": "passed" if decision["passed"] else failed, "kmed.gate_at": _now()}
    if reason:
        tags["kmed.gate_reason"] = reason
    if decision["promoted"] and decision["champion"] != version:
        tags[_PREVIOUS] = decision["champion"] or _NONE
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    if decision["promoted"]:
        client.set_registered_model_alias(name, "champion", version)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _version(client: MlflowClient, name: str, version: str | int) -> ModelVersion:
    try:
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        versions = [str(other.version) for other in client.search_model_versions(f"name = '{name}'")]
        raise KmedError(
            f"{name} version {version} is not in the registry ({error.message}); its versions are: "
            f"{', '.join(versions) or 'none'}."
        ) from None


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, "champion")
    except MlflowException:
        return None  # MLflow raises the same for a model without the alias and for a missing model


def _evidence(client: MlflowClient, version: ModelVersion) -> Evidence:
    """Return what the run behind a version measured; a version without a run has only its tags."""
    evidence = Evidence(
        version=str(version.version),
        split_sha256=version.tags.get("kmed.split_sha256", ""),
        metrics={},
        scores=None,
        speakers=None,
    )
    if not version.run_id:
        return evidence
    try:
        run = client.get_run(version.run_id)
    except MlflowException:
        return evidence  # the run was deleted; the checks say what is missing
    return dataclasses.replace(
        evidence,
        metrics=dict(run.data.metrics),
        scores=read_artifact(client, run, "scores.json", SCORES),
        speakers=read_artifact(client, run, EVIDENCE_NAME, SPEAKER_ERRORS),
    )
