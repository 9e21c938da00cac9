"""A tuning study in the report: a section for the bench's page, and a page of its own."""

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench import __version__
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, write_json, write_text_atomically
from kmed_bench.core.records import STATES, Confirmation, StudyRecord, StudyTrial
from kmed_bench.report import page
from kmed_bench.report.fonts import subset_font
from kmed_bench.report.sections import ExtraFigure, ExtraSection, save_sections
from kmed_bench.report.table_view import Column, View, format_value

STUDY_NAME = "study.json"
_FORMAT = {"format": "kmed-bench study", "version": 2}


def study_section(record: StudyRecord, figures: Sequence[ExtraFigure]) -> ExtraSection:
    """Return the study for a report: what was searched, what came of it, and whether that is more than chance."""
    return ExtraSection(
        title=f"Tuning of {record.size}",
        lead="\n\n".join([_say_counts(record), _say_best(record), _say_confirmed(record)]),
        figures=figures,
        tables=[_trial_view(record), _setting_view(record)],
    )


def _say_counts(record: StudyRecord) -> str:
    states = [trial.state for trial in record.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    pruned = f"Pruning ({record.pruner}) saved {record.saved_epochs():.0%} of the epochs of finished trials."
    if len(record.objectives) > 1:
        pruned = "With two objectives no trial is pruned: Optuna compares unfinished trials by one value alone."
    return (
        f"Study {record.name}: {len(record.slots())} of {record.n_trials} trials drawn ({counts}), {record.sampler} "
        f"sampler, {record.epochs} epochs each. {pruned} Trials are compared by the lowest decoded CER of the valid "
        "part; no trial sees the test part."
    )


def _say_best(record: StudyRecord) -> str:
    best, default = record.best(), record.default()
    if best is None or best.cer is None:
        return "No trial is complete, so there is no best one."
    said = f"Lowest valid CER: {_percent(best.cer)}, trial {best.number}"
    if default is None or default.cer is None:
        return f"{said}. The default settings have no complete trial to compare with."
    if best.number == default.number:
        return f"{said}, which has the default settings: the search found nothing better."
    return (
        f"{said}; the default settings reached {_percent(default.cer)}. The best of many trials looks better than it "
        "is, because chance helped to choose it."
    )


def _say_confirmed(record: StudyRecord) -> str:
    found = record.confirmation
    if found is None:
        return "Whether the best trial is better than the default settings was not tested on other seeds."
    shift = f"{format_value(found.delta, 'points')} ({format_value(found.low, 'points')} to "
    shift += f"{format_value(found.high, 'points')})"
    return (
        f"Trained again with seeds {', '.join(map(str, found.seeds))}, best minus default in valid CER, mean and 95 % "
        f"interval over seeds: {shift}. The best settings are {found.verdict}."
    )


def _percent(value: float) -> str:
    return format_value(value, "percent")


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


_BODY = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ record.name }}: tuning Whisper {{ record.size }}</title>
{{ style | safe_svg }}
</head>
<body>
<header><h1>{{ section.title }}</h1><p class="soft">{{ record.name }}</p></header>
<main>
{% if record.synthetic %}
<p class="notice" role="note">Demo corpus: synthetic speech says nothing about patients.</p>
{% endif %}
{% for text in section.paragraphs %}<p>{{ text }}</p>
{% endfor %}
{% for plot in section.plots %}{{ figure(plot) }}{% endfor %}
{% for view in section.views %}{{ table(view) }}{% endfor %}
</main>
<footer class="soft"><p>kmed-bench {{ version }}</p></footer>
</body>
</html>
"""


def write_study(record: StudyRecord, figures: Sequence[ExtraFigure], out: Path) -> Path:
    """Return the path of the study's own self-contained ``index.html``, written with its pictures and tables.

    ``study.json`` beside it holds all that `read_section` needs for another page.
    """
    out.mkdir(parents=True, exist_ok=True)
    captions = [{"name": figure.name, "alt": figure.alt, "caption": figure.caption} for figure in figures]
    write_json(out / STUDY_NAME, {**_FORMAT, "study": dataclasses.asdict(record), "figures": captions})
    (section,) = save_sections([study_section(record, figures)], out, {"index"})
    # The bench page's own macros and style, so that both look alike.
    source = (resources.files("kmed_bench.report") / "templates" / "page.html").read_text(encoding="utf-8")
    macros, _, rest = source.partition("<!doctype html>")
    style = rest[rest.index("<style>") : rest.index("</style>") + len("</style>")]
    template = page._template().environment.from_string(macros + _BODY)
    html = template.render(record=record, section=section, style=style, version=__version__)
    html = html.replace("/*hangul*/", page._font_rule(subset_font(html)))
    write_text_atomically(out / "index.html", html)
    return out / "index.html"


def read_section(folder: Path) -> ExtraSection:
    """Return the section of a study that `write_study` wrote into a folder, for the report of a bench.

    Raises
    ------
    KmedError
        When the folder has no study, or another release wrote it.
    """
    found = read_json(folder / STUDY_NAME)
    try:
        if any(found.get(key) != value for key, value in _FORMAT.items()):
            raise TypeError("expected " + ", ".join(f"{key} {value}" for key, value in _FORMAT.items()))
        study = found["study"]
        trials = tuple(StudyTrial(**trial) for trial in study.pop("trials"))
        confirmation = study.pop("confirmation")
        if confirmation is not None:
            by_seed: dict[str, Any] = {key: tuple(confirmation.pop(key)) for key in ("seeds", "default", "best")}
            confirmation = Confirmation(**by_seed, **confirmation)
        objectives = tuple(study.pop("objectives"))
        record = StudyRecord(**study, objectives=objectives, trials=trials, confirmation=confirmation)
        figures = [ExtraFigure(**figure, **_read_picture(folder, figure["name"])) for figure in found["figures"]]
    except (KeyError, TypeError, OSError) as error:
        raise KmedError(
            f"{folder / STUDY_NAME} is not the record of a study ({error}); run the same `kmed-bench tune` again, "
            "which rewrites it."
        ) from None
    return study_section(record, figures)


def _read_picture(folder: Path, name: str) -> dict[str, Any]:
    return {ending: (folder / f"{name}.{ending}").read_bytes() for ending in ("png", "svg")}
