"""A tuning study in the report: a section for the bench's page, and a page of its own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json, write_text_atomically
from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.quantities import percent
from kmed_bench.core.records import STATES, StudyRecord, StudyTrial
from kmed_bench.core.run_contracts import STUDY, StudyFile
from kmed_bench.report.rendering import render
from kmed_bench.report.sections import ExtraFigure, ExtraSection, save_sections
from kmed_bench.report.table_view import Column, Kind, View, format_value

STUDY_NAME = "study.json"


def study_section(record: StudyRecord, figures: Sequence[ExtraFigure]) -> ExtraSection:
    """Return a study as a section: what was searched, the best trial, and whether it is better by more than chance."""
    return ExtraSection(
        title=gettext("Tuning of {size}", size=record.size),
        lead="\n\n".join([_describe_counts(record), _describe_best(record), _describe_confirmation(record)]),
        figures=[_translate(figure) for figure in figures],
        tables=[_trial_view(record), _setting_view(record)],
    )


def _translate(figure: ExtraFigure) -> ExtraFigure:
    return dataclasses.replace(figure, alt=translate_stored(figure.alt), caption=translate_stored(figure.caption))


def _describe_counts(record: StudyRecord) -> str:
    states = [trial.state for trial in record.trials]
    counts = ", ".join(
        gettext("{n} {outcome}", n=states.count(state), outcome=gettext(state)) for state in STATES if state in states
    )
    saved = percent(record.saved_epochs(), 0)
    pruned = gettext(
        "Pruning ({pruner}) saved {share} of the epochs of finished trials.", pruner=record.pruner, share=saved
    )
    if len(record.objectives) > 1:
        pruned = gettext(
            "With two objectives no trial is pruned: Optuna compares unfinished trials by one value alone."
        )
    drawn = gettext(
        "Study {name}: {n} of {of} trials drawn ({counts}), {sampler} sampler, {epochs} epochs each.",
        name=record.name,
        n=len(record.slots()),
        of=record.n_trials,
        counts=counts,
        sampler=record.sampler,
        epochs=record.epochs,
    )
    compared = gettext("Trials are compared by the lowest decoded CER of the valid part; no trial sees the test part.")
    return f"{drawn} {pruned} {compared}"


def _describe_best(record: StudyRecord) -> str:
    best, default = record.best(), record.default()
    if best is None or best.cer is None:
        return gettext("No trial is complete, so there is no best one.")
    lowest = {"cer": percent(best.cer, 2), "trial": best.number}
    if default is None or default.cer is None:
        text = N_(
            "Lowest valid CER: {cer}, trial {trial}. The default settings have no complete trial to compare with."
        )
    elif best.number == default.number:
        text = N_(
            "Lowest valid CER: {cer}, trial {trial}, which has the default settings: the search found nothing better."
        )
    else:
        lowest["default"] = percent(default.cer, 2)
        text = N_(
            "Lowest valid CER: {cer}, trial {trial}; the default settings reached {default}. The best of many trials "
            "looks better than it is, because chance helped to choose it."
        )
    return gettext(text, **lowest)


def _describe_confirmation(record: StudyRecord) -> str:
    confirmation = record.confirmation
    if confirmation is None:
        return gettext("Whether the best trial is better than the default settings was not tested on other seeds.")
    return gettext(
        "Trained again with seeds {seeds}, best minus default in valid CER, mean and 95 % interval over seeds: "
        "{difference} ({low} to {high}). The best settings are {verdict}.",
        seeds=", ".join(map(str, confirmation.seeds)),
        difference=format_value(confirmation.delta, "points"),
        low=format_value(confirmation.low, "points"),
        high=format_value(confirmation.high, "points"),
        verdict=gettext(confirmation.verdict),
    )


def _trial_view(record: StudyRecord) -> View:
    names = list(dict.fromkeys(name for trial in record.trials for name in trial.params))
    kinds = {name: _kind_of([trial.params.get(name) for trial in record.trials]) for name in names}
    best = record.best()
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "cer": trial.cer,
            "seconds_per_clip": trial.seconds_per_clip,
            "epochs": trial.epochs,
            **{name: _shown(trial.params.get(name), kinds[name]) for name in names},
            "note": _note(trial),
            "run_id": trial.run_id,
            "is_best": best is not None and trial.number == best.number,
            "is_lost": trial.state == "lost",
        }
        for trial in record.trials
    ]
    seconds = [Column(key="seconds_per_clip", label=gettext("decoding of a clip"), kind="seconds")]
    return View(
        name="trials",
        caption=gettext(
            "Trials in order. In bold: the lowest valid CER. In grey: lost with their process, and repeated."
        ),
        columns=[
            Column(key="number", label=gettext("trial"), kind="count"),
            Column(key="state", label=gettext("state"), words=True),
            Column(key="cer", label=gettext("valid CER"), kind="percent"),
            *(seconds if len(record.objectives) > 1 else []),
            Column(key="epochs", label=gettext("epochs"), kind="count"),
            *(Column(key=name, label=name.removeprefix("train."), kind=kinds[name]) for name in names),
            Column(key="note", label=gettext("note"), words=True),
        ],
        rows=pd.DataFrame(rows),
        strong="is_best",
        weak="is_lost",
    )


def _note(trial: StudyTrial) -> str:
    """Return the notes on a trial in English, as a table for programs has them."""
    notes = [N_("default settings")] if trial.is_default else []
    notes += [N_("repeats trial {trial}").format(trial=trial.retry_of)] if trial.retry_of is not None else []
    return "; ".join([*notes, *([trial.reason] if trial.reason else [])])


def _setting_view(record: StudyRecord) -> View:
    best, default = record.best(), record.default()
    rows = [
        {"setting": name, "default": _short(default.params.get(name)) if default else "–", "best": _short(value)}
        for name, value in (best.params.items() if best else ())
    ]
    return View(
        name="settings",
        caption=gettext("The best trial's settings beside the default ones."),
        columns=[
            Column(key="setting", label=gettext("setting")),
            Column(key="default", label=gettext("default")),
            Column(key="best", label=gettext("best")),
        ],
        rows=pd.DataFrame(rows),
    )


def _kind_of(values: Sequence[Any]) -> Kind:
    """Return how the values of a setting are shown: as numbers if all of them are."""
    return (
        "number" if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) else "text"
    )


def _shown(value: Any, kind: Kind) -> Any:
    return _short(value) if kind == "text" else value


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


def refuse_another_study(folder: Path, name: str) -> None:
    """Raise KmedError if a folder holds the results of another study; a damaged file of results is written again."""
    path = folder / STUDY_NAME
    if not path.exists():
        return
    try:
        held = STUDY.read(path)["study"].get("name")
    except KmedError:
        return
    if held != name:
        raise KmedError(
            f"{folder} holds the results of study {held}, and those of {name} do not overwrite them; name another "
            "folder with --out."
        )


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
