"""The champion of each registered model: set when the gate holds, or by force with a reason; and taken back."""

import dataclasses
import json
import time
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.core.contracts import SCORES, SPEAKER_ERRORS, GateDecision
from kmed_bench.core.errors import KmedError
from kmed_bench.scoring.gate import EVIDENCE_NAME, Evidence, describe, judge
from kmed_bench.tracking.store import read_json_artifact

_PREVIOUS = "kmed.previous_champion"
_NONE = "none"


def promote(
    name: str,
    version: str | int,
    *,
    dry_run: bool = False,
    force: bool = False,
    reason: str = "",
) -> GateDecision:
    """Return the gate's decision on making a version the champion, and carry it out.

    Every check with its figures is kept as tags ``kmed.gate.…`` of the version, whether it passed or not.

    Parameters
    ----------
    dry_run : bool
        Decide alone: neither the alias nor a tag changes.
    force : bool
        Promote although the gate does not hold; needs a reason, which is kept.

    Returns
    -------
    dict
        ``name``, ``version``, ``champion`` (the version before, or None), ``passed``, ``forced``, ``promoted``,
        ``reasons`` (one line per check) and ``checks`` (name to passed, text and figures).

    Raises
    ------
    KmedError
        When the version does not exist, or ``force`` comes without a reason.
    """
    if force and not reason.strip():
        raise KmedError(f"Promoting {name} version {version} by force needs a reason; say why with --reason.")
    client = MlflowClient()
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
        _keep(client, decision, reason)
    return decision


def rollback(name: str, *, reason: str, dry_run: bool = False) -> dict[str, Any]:
    """Return which version is champion again, after giving the alias back to the one before.

    Raises
    ------
    KmedError
        When there is no champion, none before it, that one was deleted, or no reason is given.
    """
    if not reason.strip():
        raise KmedError(f"Rolling back {name} needs a reason; say why with --reason.")
    client = MlflowClient()
    champion = _champion(client, name)
    previous = _NONE if champion is None else champion.tags.get(_PREVIOUS, _NONE)
    if champion is None or previous == _NONE:
        state = "has no champion" if champion is None else f"has no champion before version {champion.version}"
        raise KmedError(f"{name} {state}, so there is none to go back to; promote a version instead.")
    restored = _version(client, name, previous)
    if not dry_run:
        note = {"at": _now(), "to": str(restored.version), "reason": reason}
        client.set_model_version_tag(
            name, str(champion.version), "kmed.rolled_back", json.dumps(note, ensure_ascii=False)
        )
        client.set_registered_model_alias(name, "champion", str(restored.version))
    return {"name": name, "from": str(champion.version), "version": str(restored.version), "rolled_back": not dry_run}


def _keep(client: MlflowClient, decision: GateDecision, reason: str) -> None:
    """Store the decision on the version, then move the alias: a champion without reasons can't come about."""
    name, version = decision["name"], decision["version"]
    tags = {
        f"kmed.gate.{key.replace(' ', '_')}": json.dumps(c, ensure_ascii=False) for key, c in decision["checks"].items()
    }
    tags["kmed.gate"] = (
        "passed" if decision["passed"] else "failed, promoted by force" if decision["forced"] else "failed"
    )
    tags["kmed.gate_at"] = _now()
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
        versions = [found.version for found in client.search_model_versions(f"name = '{name}'")]
        held = ", ".join(map(str, versions)) or "none"
        raise KmedError(
            f"{name} version {version} is not in the registry ({error.message}); its versions are: {held}."
        ) from None


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, "champion")
    except MlflowException:
        return None  # MLflow raises alike for a model without the alias and for no such model


def _evidence(client: MlflowClient, version: ModelVersion) -> Evidence:
    """Collect what the run behind a version measured; a version without a run has its tags alone."""
    known = Evidence(
        version=str(version.version),
        split_sha256=version.tags.get("kmed.split_sha256", ""),
        metrics={},
        scores=None,
        speakers=None,
    )
    if not version.run_id:
        return known
    try:
        run = client.get_run(version.run_id)
    except MlflowException:
        return known  # the run was deleted; the checks say what is missing
    scores, speakers = (read_json_artifact(client, run, name) for name in ("scores.json", EVIDENCE_NAME))
    return dataclasses.replace(
        known,
        metrics=dict(run.data.metrics),
        scores=SCORES.check(scores, f"scores.json of run {version.run_id}") if scores else None,
        speakers=SPEAKER_ERRORS.check(speakers, f"{EVIDENCE_NAME} of run {version.run_id}") if speakers else None,
    )
