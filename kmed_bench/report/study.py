"""A tuning study in the report: a section for the bench's page, and a page of its own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json, write_text_atomically
from kmed_bench.core.quantities import percent
from kmed_bench.core.records import STATES, StudyRecord, StudyTrial
from kmed_bench.core.run_contracts import STUDY, StudyFile
from kmed_bench.report.rendering import render
from kmed_bench.report.sections import ExtraFigure, ExtraSection, save_sections
from kmed_bench.report.table_view import Column, View, format_value

STUDY_NAME = "study.json"


def study_section(record: StudyRecord, figures: Sequence[ExtraFigure]) -> ExtraSection:
    """Return a study as a section: what was searched, the best trial, and whether it is better by more than chance."""
    return ExtraSection(
        title=f"Tuning of {record.size}",
        lead="\n\n".join([_describe_counts(record), _describe_best(record), _describe_confirmation(record)]),
        figures=figures,
        tables=[_trial_view(record), _setting_view(record)],
    )


def _describe_counts(record: StudyRecord) -> str:
    states = [trial.state for trial in record.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    pruned = f"Pruning ({record.pruner}) saved {percent(record.saved_epochs(), 0)} of the epochs of finished trials."
    if len(record.objectives) > 1:
        pruned = "With two objectives no trial is pruned: Optuna compares unfinished trials by one value alone."
    return (
        f"Study {record.name}: {len(record.slots())} of {record.n_trials} trials drawn ({counts}), {record.sampler} "
        f"sampler, {record.epochs} epochs each. {pruned} Trials are compared by the lowest decoded CER of the valid "
        "part; no trial sees the test part."
    )


def _describe_best(record: StudyRecord) -> str:
    best, default = record.best(), record.default()
    if best is None or best.cer is None:
        return "No trial is complete, so there is no best one."
    lowest = f"Lowest valid CER: {percent(best.cer, 2)}, trial {best.number}"
    if default is None or default.cer is None:
        return f"{lowest}. The default settings have no complete trial to compare with."
    if best.number == default.number:
        return f"{lowest}, which has the default settings: the search found nothing better."
    return (
        f"{lowest}; the default settings reached {percent(default.cer, 2)}. The best of many trials looks better than "
        "it is, because chance helped to choose it."
    )


def _describe_confirmation(record: StudyRecord) -> str:
    confirmation = record.confirmation
    if confirmation is None:
        return "Whether the best trial is better than the default settings was not tested on other seeds."
    shift = f"{format_value(confirmation.delta, 'points')} ({format_value(confirmation.low, 'points')} to "
    shift += f"{format_value(confirmation.high, 'points')})"
    return (
        f"Trained again with seeds {', '.join(map(str, confirmation.seeds))}, best minus default in valid CER, mean "
        f"and 95 % interval over seeds: {shift}. The best settings are {confirmation.verdict}."
    )


def _trial_view(record: StudyRecord) -> View:
    names = list(dict.fromkeys(name for trial in record.trials for name in trial.params))
    best = record.best()
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "cer": trial.cer,
            "seconds_per_clip": trial.seconds_per_clip,
            "epochs": trial.epochs,
            **{name: _short(trial.params.get(name)) for name in names},
            "note": _note(trial),
            "run_id": trial.run_id,
            "is_best": best is not None and trial.number == best.number,
            "is_lost": trial.state == "lost",
        }
        for trial in record.trials
    ]
    seconds = [Column(key="seconds_per_clip", label="decoding of a clip", kind="seconds")]
    return View(
        name="trials",
        caption="Trials in order. In bold: the lowest valid CER. In grey: lost with their process, and repeated.",
        columns=[
            Column(key="number", label="trial", kind="count"),
            Column(key="state", label="state"),
            Column(key="cer", label="valid CER", kind="percent"),
            *(seconds if len(record.objectives) > 1 else []),
            Column(key="epochs", label="epochs", kind="count"),
            *(Column(key=name, label=name.removeprefix("train.").replace("_", " ")) for name in names),
            Column(key="note", label="note"),
        ],
        rows=pd.DataFrame(rows),
        strong="is_best",
        weak="is_lost",
    )


def _note(trial: StudyTrial) -> str:
    notes = ["default settings"] if trial.is_default else []
    notes += [f"repeats trial {trial.retry_of}"] if trial.retry_of is not None else []
    return "; ".join([*notes, *([trial.reason] if trial.reason else [])])


def _setting_view(record: StudyRecord) -> View:
    best, default = record.best(), record.default()
    rows = [
        {"setting": name, "default": _short(default.params.get(name)) if default else "–", "best": _short(value)}
        for name, value in (best.params.items() if best else ())
    ]
    return View(
        name="settings",
        caption="The best trial's settings beside the default ones.",
        columns=[Column(key=key, label=key) for key in ("setting", "default", "best")],
        rows=pd.DataFrame(rows),
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write_study(record: StudyRecord, figures: Sequence[ExtraFigure], out: Path) -> Path:
    """Write a study's own page with its pictures and tables, and return the path of its ``index.html``.

    ``study.json`` beside it has all that `read_section` needs for another page.
    """
    out.mkdir(parents=True, exist_ok=True)
    captions = [{"name": figure.name, "alt": figure.alt, "caption": figure.caption} for figure in figures]
    content: StudyFile = {**STUDY.head, "study": dataclasses.asdict(record), "figures": captions}
    write_json(out / STUDY_NAME, content)
    (section,) = save_sections([study_section(record, figures)], out, {"index"})
    write_text_atomically(out / "index.html", render("study.html", record=record, section=section))
    return out / "index.html"


def read_section(folder: Path) -> ExtraSection:
    """Return the section of a study that `write_study` wrote into a folder, for the report of a bench.

    Raises
    ------
    KmedError
        When the folder has no study that this release reads.
    """
    content = STUDY.read(folder / STUDY_NAME)
    try:
        record = StudyRecord.from_fields(content["study"])
        figures = [_read_figure(folder, **figure) for figure in content["figures"]]
    except (KeyError, TypeError, OSError) as error:
        raise KmedError(
            f"{folder / STUDY_NAME} is incomplete, or a picture beside it is missing ({error}); {STUDY.remedy}."
        ) from None
    return study_section(record, figures)


def _read_figure(folder: Path, name: str, alt: str, caption: str) -> ExtraFigure:
    png, svg = ((folder / f"{name}.{ending}").read_bytes() for ending in ("png", "svg"))
    return ExtraFigure(name=name, alt=alt, caption=caption, png=png, svg=svg)
