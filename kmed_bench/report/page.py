"""The report: one self-contained HTML page, with its pictures and tables beside it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from kmed_bench.core.contracts import NamedComparison
from kmed_bench.core.files import write_text_atomically
from kmed_bench.core.language import N_, current_language, gettext, use_language
from kmed_bench.core.records import BenchRecord
from kmed_bench.core.spreadsheets import csv_text
from kmed_bench.report import tables
from kmed_bench.report.figures import save_plots
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.leak_tables import leak_text
from kmed_bench.report.page_tables import make_frames, make_views, size_costs
from kmed_bench.report.plots import Plot, save_plot
from kmed_bench.report.rendering import render
from kmed_bench.report.seal_tables import count_plans, describe_openings
from kmed_bench.report.sections import ExtraSection, PlacedSection, save_sections
from kmed_bench.report.table_view import View
from kmed_bench.scoring.intervals import MIN_SPEAKERS
from kmed_bench.scoring.recommendation import recommend

_EXAMPLES = "quality_examples"
"""The table of utterance ids: with it, page and table can be opened by their owner only."""
_SHARED = (N_("speakers"), N_("sentences"), N_("utterances"))
"""What the parts of a leaking split may share, as split.json has it."""


def write_report(
    record: BenchRecord,
    out: Path,
    *,
    comparisons: Sequence[NamedComparison] = (),
    extra: Sequence[ExtraSection] = (),
) -> Path:
    """Write the report of a benchmark with its PNG, SVG and CSV files, and return the path of its ``index.html``.

    Page and figures are in the language in use (``core.language``); the CSV files are the same in every language.

    Parameters
    ----------
    record : BenchRecord
        A benchmark and its train runs as read from the store. What it lacks is left out or shown as missing; no
        figure is estimated.
    comparisons : sequence of mapping
        What ``scoring.significance.compare_systems`` returned; empty: the page has no significance table.
    extra : sequence of ExtraSection
        Shown at the end, before the provenance.
    """
    out.mkdir(parents=True, exist_ok=True)
    judged = dataclasses.replace(record, comparisons=tuple(comparisons))
    advice = recommend(judged)
    frames = make_frames(record, comparisons, advice)
    written = frames
    if current_language() != "en":  # tables for programs are the same in every language
        with use_language("en"):
            written = make_frames(record, comparisons, recommend(judged))
    rows = {str(row["run_id"]): row for row in size_costs(frames).to_dict("records")}
    best = [run for run in record.trains if advice.best is not None and run.run_id == advice.best.run_id]
    gaps = [row for row in frames["elderly"].to_dict("records") if best and row["run_id"] == best[0].run_id]
    for name, frame in written.items():
        write_text_atomically(out / f"{name}.csv", csv_text(frame), private=name == _EXAMPLES)
    with plot_style():
        plots = save_plots(frames, advice.best, functools.partial(save_plot, out))
    drawn = [plot.name for section in plots.values() for plot in section]
    sections = save_sections(extra, out, {*frames, *drawn, "index"})
    views = make_views(frames)
    html = render(
        "page.html",
        record=record,
        profile=record.params.get("profile"),
        context=record.params.get("eval.audio_context"),
        notices=find_notices(record),
        advice=advice,
        min_speakers=MIN_SPEAKERS,
        row=rows[best[0].run_id] if best else None,
        device=best[0].tags.get("kmed.device") if best else None,
        gap=gaps[0] if gaps else None,
        views=views,
        plots=plots,
        sections=sections,
        leak_text=leak_text(record),
        seal_text=describe_openings(record.openings),
        contents=list_contents(record, views, plots, sections),
        # Undotted names are what `mlflow run` was given, whole paths included; they stay in the store.
        settings={key: value for key, value in record.params.items() if "." in key or key == "profile"},
        files=sorted(f"{name}.csv" for name in [*frames, *(view.name for s in sections for view in s.views)]),
    )
    write_text_atomically(out / "index.html", html, private=_EXAMPLES in views)
    return out / "index.html"


def list_contents(
    record: BenchRecord,
    views: Mapping[str, View],
    plots: Mapping[str, Sequence[Plot]],
    sections: Sequence[PlacedSection],
) -> dict[str, str]:
    """Return the page's sections in their order, id to title, without those that have no content."""
    own = {
        "sizes-section": (gettext("Sizes"), "sizes" in views),
        "left-out": (gettext("Left out"), "missing" in views),
        "chance": (gettext("More than chance?"), "comparisons" in views),
        "leak-section": (gettext("Where the gain comes from"), "leak_cells" in views),
        "epochs": (gettext("Loss and CER by epoch"), bool(plots["curves"])),
        "speakers": (gettext("Groups of speakers"), "groups" in views),
        "errors": (gettext("Kinds of errors"), "rates" in views),
        "beside": (gettext("Beside published figures"), True),
        "seal": (gettext("Seal on the test part"), bool(record.openings)),
        "split": (gettext("Split"), bool(record.split)),
        "data": (gettext("Data quality"), "quality" in views),
    }
    shown = {identity: title for identity, (title, is_shown) in own.items() if is_shown}
    return shown | {section.id: section.title for section in sections} | {"origin": gettext("Provenance")}


def find_notices(record: BenchRecord) -> list[str]:
    """Return what a reader must know first: synthetic speech, leaking splits, failed runs, unlike scores."""
    notices = []
    profile = record.params.get("profile")
    if record.synthetic:
        notices.append(
            gettext(
                "Demo corpus: synthetic speech says nothing about patients. These figures show that the chain works."
            )
        )
    if record.tags.get("kmed.study_split") == "other":
        notices.append(
            gettext(
                "The settings were chosen by a study on another split, whose utterances may be in this test part; see "
                "“Provenance”."
            )
        )
    if profile == "original":
        notices.append(
            gettext(
                "Profile “original”: this split leaks. The published protocol puts utterances of one speaker and of "
                "one sentence into several parts, so these figures do not measure how the model does on new patients."
            )
        )
    elif shared := [what for what in _SHARED if record.split.get("leakage", {}).get(what)]:
        listed = gettext(" and ").join(gettext(what) for what in shared)
        notices.append(gettext("This split leaks: its parts share {shared}; see “Split”.", shared=listed))
    if (plans := count_plans(record.openings)) > 1:
        notices.append(gettext("This test part was opened under {n} plans; see “Seal on the test part”.", n=plans))
    return notices + _missing_notices(record) + _unlike_notices(record)


def _missing_notices(record: BenchRecord) -> list[str]:
    """Return what a reader must know of runs that failed, were deleted, or were never made."""
    notices = []
    failed = [run for run in record.trains if run.status != tables.FINISHED]
    if failed:
        text = gettext("{n} of {of} train runs did not finish; see “Left out”.", n=len(failed), of=len(record.trains))
        notices.append(text)
    if record.deleted:
        text = gettext(
            "{n} runs of this benchmark were deleted in the store: {names}; see “Left out”.",
            n=len(record.deleted),
            names=", ".join(record.deleted),
        )
        notices.append(text)
    if record.absent:
        notices.append(gettext("{n} planned trainings are not in the store; see “Left out”.", n=len(record.absent)))
    return notices


def _unlike_notices(record: BenchRecord) -> list[str]:
    """Return which conditions of scoring differ between the runs."""
    notices = []
    for key in ("transcript_policy", "normaliser_version", "split_sha256"):
        values = tables.scored_with(record, key)
        if len(values) > 1:
            text = gettext(
                "The runs were scored with different {key}: {values}. Do not compare them.",
                key=key,
                values=", ".join(values),
            )
            notices.append(text)
    return notices
