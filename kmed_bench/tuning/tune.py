"""`tune`: a study of one size that any number of processes join by the same command."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, adjust, to_yaml
from kmed_bench.core.console import log_file
from kmed_bench.core.files import write_text_atomically
from kmed_bench.core.language import use_language
from kmed_bench.core.records import StudyRecord
from kmed_bench.report.study import STUDY_NAME, study_section, write_study
from kmed_bench.tracking import trials as tracked
from kmed_bench.tuning.callbacks import Callback
from kmed_bench.tuning.confirm import check_seeds, confirm_best
from kmed_bench.tuning.plots import draw_study
from kmed_bench.tuning.search import Search
from kmed_bench.tuning.storage import quiet_optuna


@dataclasses.dataclass(frozen=True)
class StudyOutcome:
    """Results of a study.

    Attributes
    ----------
    profile : Path or None
        ``best.yaml``; None if no trial is complete.
    """

    record: StudyRecord
    report: Path
    profile: Path | None
    run_id: str
    tracking_uri: str


def tune(
    config: Config,
    weights: Weights,
    split_folder: Path,
    out: Path,
    *,
    name: str | None = None,
    confirm: tuple[int, ...] = (),
    code_version: str,
    callbacks: Sequence[Callback] = (),
) -> StudyOutcome:
    """Run or join a study and return its results; all files are written under ``out``.

    Parameters
    ----------
    name : str, optional
        Name of the study; None derives it from the size and everything that makes trials comparable, so the same
        command continues the same study.
    confirm : tuple of int
        Seeds with which the default and the best settings are trained again and compared.
    callbacks : sequence of callable
        Called after each trial of this process with the study and the finished trial, beside those that
        ``tune.callbacks`` names. An error of one is logged and doesn't end the study; ``study.stop()`` does.

    Raises
    ------
    KmedError
        Before any training; see `Search` and `confirm.check_seeds`.
    """
    check_seeds(config, confirm)
    with log_file(out), quiet_optuna():
        search = Search(
            config, weights, split_folder, name=name, code_version=code_version, callbacks=callbacks, out=out
        )
        with tracked.study_process(search.parent):
            try:
                search.run()
                if confirm:
                    confirm_best(search, confirm)
                return write_outcome(search, out)
            finally:
                search.leave()
                search.queue.close()


def write_outcome(search: Search, out: Path) -> StudyOutcome:
    """Return the study's results, after writing its page and, if there is a best trial, ``best.yaml``."""
    with search.queue.lock():  # several processes may end at once and write to the same folder
        record = search.record()
        with use_language(search.config.report.lang):
            report = write_study(record, draw_study(search.queue.study), out)
        profile = _write_profile(search, record, out / "best.yaml")
        for path in (report, out / STUDY_NAME, *([profile] if profile else [])):
            search.parent.log_file(path, "report")
        search.parent.log_summary(_figures(record))
        search.parent.set_note(study_section(record, ()).lead + "\n")
    return StudyOutcome(record, report, profile, search.parent.run_id, search.uri)


def _figures(record: StudyRecord) -> dict[str, float]:
    """Return what sums up a study: its trials by state, and the valid CER of the best and the default settings."""
    states = Counter(trial.state for trial in record.slots())
    named = {"best/valid_cer": record.best(), "default/valid_cer": record.default()}
    cers = {name: trial.cer for name, trial in named.items() if trial is not None and trial.cer is not None}
    return {f"trials/{state}": float(n) for state, n in states.items()} | cers


def _write_profile(search: Search, record: StudyRecord, path: Path) -> Path | None:
    best = record.best()
    if best is None:
        return None
    # Storage locations, and how a cluster runs jobs, belong to a machine, not to a recipe.
    tree = yaml.safe_load(to_yaml(adjust(search.config, best.params)))
    kept = {key: value for key, value in tree.items() if key not in ("tune", "tracking", "slurm")}
    kept["data"]["source"] = kept["model"]["weights"] = None
    # The settings of the split that was searched on: `run` draws the same one, whose test part chose nothing.
    drawn = search.split.report.get("config", {})
    kept["split"] |= {key: value for key, value in drawn.items() if key in kept["split"]}
    head = f"# kmed-bench run --profile {path.name}\n# Trial {best.number} of study {record.name}.\n"
    write_text_atomically(path, head + yaml.safe_dump(kept, allow_unicode=True, sort_keys=False))
    return path
