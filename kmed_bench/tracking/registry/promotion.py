"""The champion of each registered model: promoted if the gate passes, or by force with a reason; and rolled back."""

import contextlib
import dataclasses
import getpass
import json
import math
import time
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.config import GateConfig
from kmed_bench.core.contracts import SCORES
from kmed_bench.core.errors import KmedError
from kmed_bench.core.run_contracts import SPEAKER_ERRORS, GateDecision
from kmed_bench.scoring.gate import EVIDENCE_NAME, UNTOUCHED_NAME, Evidence, describe, judge
from kmed_bench.scoring.verdict import VERDICT_TAG
from kmed_bench.tracking.refusals import check_refused
from kmed_bench.tracking.registry.challenger import mend_challenger
from kmed_bench.tracking.registry.notify import METRICS, Notice, notify
from kmed_bench.tracking.store import read_artifact

_PREVIOUS = "kmed.previous_champion"
_NONE = "none"


Rollback = TypedDict(
    "Rollback",
    {"name": str, "from": str, "version": str, "rolled_back": bool, "notified": NotRequired[dict[str, str]]},
)
"""Which version the alias was taken from, and which has it now; a class can't have a field called ``from``."""


def promote(
    uri: str,
    name: str,
    version: str | int,
    *,
    gate: GateConfig | None = None,
    dry_run: bool = False,
    force: bool = False,
    reason: str = "",
) -> GateDecision:
    """Return the gate's decision on making a version the champion, after carrying it out.

    Every check and its figures are kept as tags ``kmed.gate.…`` of the version, whether it passed or not. Nothing is
    changed for a version that is the champion already: its tags say how it became that.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    gate : GateConfig, optional
        Limits, and who is told of a new champion; None: the defaults.
    dry_run : bool
        Only decide: no alias and no tag is changed, and nobody is told.
    force : bool
        Promote even if the gate fails; needs a reason, which is kept. A version of synthetic speech or of a leaking
        split is refused all the same.

    Raises
    ------
    KmedError
        When the version does not exist, or ``force`` comes without a reason.
    """
    if force and not reason.strip():
        raise KmedError(f"Promoting {name} version {version} by force needs a reason; state it with --reason.")
    gate, client = gate or GateConfig(), MlflowClient(tracking_uri=uri)
    challenger, champion = _version(client, name, version), _champion(client, name)
    if not dry_run:
        mend_challenger(client, name)
    held = None if champion is None else _evidence(client, champion)
    evidence = _evidence(client, challenger)
    checks = judge(evidence, held, gate)
    passed = all(check.passed is not False for check in checks)
    barred = any(check.final and check.passed is False for check in checks)
    decision: GateDecision = {
        "name": name,
        "version": str(challenger.version),
        "champion": None if champion is None else str(champion.version),
        "passed": passed,
        "forced": force and not passed and not barred,
        "promoted": (passed or force) and not barred and not dry_run,
        "reasons": describe(checks),
        "checks": {c.name: {"passed": c.passed, "text": c.text, "figures": c.figures} for c in checks},
    }
    if not dry_run and decision["champion"] != decision["version"]:
        _apply(client, decision, reason)
        if decision["promoted"]:
            decision["notified"] = notify(_notice("promotion", decision["champion"], evidence, name), gate)
    return decision


def rollback(uri: str, name: str, *, reason: str, gate: GateConfig | None = None, dry_run: bool = False) -> Rollback:
    """Return which version is champion again, after moving the alias back to the previous champion.

    Parameters
    ----------
    gate : GateConfig, optional
        Who is told; None: nobody.

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
    before = _version(client, name, previous)
    current, restored = str(champion.version), str(before.version)
    undone: Rollback = {"name": name, "from": current, "version": restored, "rolled_back": not dry_run}
    if not dry_run:
        note = json.dumps({"at": _now(), "to": restored, "reason": reason}, ensure_ascii=False)
        client.set_model_version_tag(name, current, "kmed.rolled_back", note)
        client.set_registered_model_alias(name, "champion", restored)
        undone["notified"] = notify(_notice("rollback", current, _evidence(client, before), name), gate or GateConfig())
    return undone


def _notice(event: str, previous: str | None, evidence: Evidence, name: str) -> Notice:
    metrics = {key: evidence.metrics[key] for key in METRICS if key in evidence.metrics}
    return {"event": event, "name": name, "version": evidence.version, "previous": previous, "metrics": metrics}


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
        tags |= {"kmed.gate_reason": reason, "kmed.gate_by": _person()}
    if decision["promoted"]:
        tags[_PREVIOUS] = decision["champion"] or _NONE
    for key in client.get_model_version(name, version).tags.keys() - tags.keys():
        if key.startswith("kmed.gate"):  # of an earlier decision
            client.delete_model_version_tag(name, version, key)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    if decision["promoted"]:
        client.set_registered_model_alias(name, "champion", version)


def _person() -> str:
    """Return who signs a reason off: the user of this machine, as MLflow records it for runs."""
    with contextlib.suppress(Exception):  # an account without a name, as in some containers
        return getpass.getuser()
    return "unknown"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _version(client: MlflowClient, name: str, version: str | int) -> ModelVersion:
    try:
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        check_refused(error, str(client.tracking_uri))
        versions = [str(other.version) for other in client.search_model_versions(f"name = '{name}'")]
        raise KmedError(
            f"{name} version {version} is not in the registry ({error.message}); its versions are: "
            f"{', '.join(versions) or 'none'}."
        ) from None


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, "champion")
    except MlflowException as error:
        check_refused(error, str(client.tracking_uri))
        return None  # MLflow raises the same for a model without the alias and for a missing model


def _evidence(client: MlflowClient, version: ModelVersion) -> Evidence:
    """Return what the run behind a version measured; a version without a run has only its tags."""
    evidence = Evidence(version=str(version.version), **_provenance(version.tags))
    if not version.run_id:
        return evidence
    try:
        run = client.get_run(version.run_id)
    except MlflowException as error:
        check_refused(error, str(client.tracking_uri))
        return evidence  # the run was deleted; the checks say what is missing
    return dataclasses.replace(
        evidence,
        **_provenance({**run.data.tags, **version.tags}),
        metrics={key: value for key, value in run.data.metrics.items() if math.isfinite(value)},  # NaN: not measured
        scores=read_artifact(client, run, "scores.json", SCORES),
        speakers=read_artifact(client, run, EVIDENCE_NAME, SPEAKER_ERRORS),
        untouched=read_artifact(client, run, UNTOUCHED_NAME, SPEAKER_ERRORS),
    )


def _provenance(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return what the tags say of the data."""
    return {
        "split_sha256": tags.get("kmed.split_sha256", ""),
        "split_label": tags.get("kmed.split_label", ""),
        "synthetic": {"true": True, "false": False}.get(tags.get("kmed.synthetic", "")),
        "verdict": tags.get(VERDICT_TAG, ""),
    }
