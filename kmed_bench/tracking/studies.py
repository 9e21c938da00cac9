"""From a study to the benchmarks that run with its best settings, and back."""

import dataclasses
import json
import logging

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import StudyRecord, StudyTrial
from kmed_bench.core.run_contracts import STUDY
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.store import read_artifact, read_artifact_text, search_runs

BENCHES_TAG = "kmed.bench_run_ids"
_SHOWN = 5
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestOfStudy:
    """The best trial of a study in the store.

    Attributes
    ----------
    run_id : str
        The study's run.
    split_sha256 : str
        Split that the study searched on.
    profile : str
        The profile with the trial's settings, as YAML.
    """

    run_id: str
    record: StudyRecord
    trial: StudyTrial
    split_sha256: str
    profile: str


def find_best(uri: str, study: str) -> BestOfStudy:
    """Return the best trial of a study that ``tune`` recorded in a store.

    Parameters
    ----------
    uri : str
        The tracking URI that `open_store` returned.
    study : str
        The study's name, or the id of its run.

    Raises
    ------
    KmedError
        When the store has no such study, several of this name, or one without a complete trial.
    """
    client = MlflowClient(tracking_uri=uri)
    run = _find_run(client, study)
    content = read_artifact(client, run, "report/study.json", STUDY)
    profile = read_artifact_text(client, run, "report/best.yaml")
    record = StudyRecord.from_fields(content["study"]) if content else None
    best = record.best() if record else None
    if record is None or best is None or profile is None:
        raise KmedError(
            f"Study {study!r} has no complete trial on record; let `kmed-bench tune` end once, which records the best "
            "one, and try again."
        )
    split = run.data.tags.get("kmed.split_sha256", "")
    return BestOfStudy(run_id=run.info.run_id, record=record, trial=best, split_sha256=split, profile=profile)


def _find_run(client: MlflowClient, study: str) -> Run:
    studies = search_runs(client, "tags.`kmed.kind` = 'study'")
    found = [run for run in studies if study in (run.info.run_id, run.data.tags.get("kmed.study"))]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(run.info.run_id for run in found)
        raise KmedError(f"{len(found)} studies are named {study!r}; give the id of one's run: {listed}.")
    listed = ", ".join(run.data.tags.get("kmed.study", "") for run in studies[:_SHOWN]) or "none"
    raise KmedError(
        f"The tracking store {without_password(str(client.tracking_uri))} has no study {study!r}; its latest are: "
        f"{listed}. Name one of them, or the store that has it with tracking.uri."
    )


def link_study(bench: TrackedRun, best: BestOfStudy, split_sha256: str) -> None:
    """Tag a benchmark with the trial that its settings come from, and the study's run with the benchmark's id.

    Parameters
    ----------
    split_sha256 : str
        The benchmark's split; on another split than the study's, what chose the settings may be tested on.
    """
    same = split_sha256 == best.split_sha256
    if not same:
        log.warning(
            f"Study {best.record.name} searched on another split ({best.split_sha256[:12]}, this one is "
            f"{split_sha256[:12]}): utterances that chose the settings may be in this test part."
        )
    values = {"cer": best.trial.cer, "seconds_per_clip": best.trial.seconds_per_clip}
    bench.set_tags(
        {
            "kmed.study": best.record.name,
            "kmed.study_run_id": best.run_id,
            "kmed.study_trial": best.trial.number,
            "kmed.study_trial_run_id": best.trial.run_id,
            "kmed.study_values": json.dumps({name: value for name, value in values.items() if value is not None}),
            "kmed.study_params": json.dumps(dict(best.trial.params)),
            "kmed.study_split": "same" if same else "other",
            "kmed.study_confirmed": best.record.confirmation.verdict if best.record.confirmation else "not tested",
        }
    )
    known = bench.client.get_run(best.run_id).data.tags.get(BENCHES_TAG, "")
    ids = dict.fromkeys([*filter(None, known.split(",")), bench.run_id])
    bench.client.set_tag(best.run_id, BENCHES_TAG, ",".join(ids))
