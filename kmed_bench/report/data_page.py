"""What is in a corpus, as a page of its own beside the manifest: counts, groups, rejects, doubts and histograms.

It is made of quality.json's counts, without its examples, so that no transcript, utterance, speaker or path is in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.core.corpus_contracts import DATA_PAGE, QualityReport
from kmed_bench.core.files import write_text_atomically
from kmed_bench.core.language import gettext, translate_stored
from kmed_bench.core.schema import OWN_RECORDINGS
from kmed_bench.report.data_tables import fields_table, histogram_table, name_fields, named_histograms, pairs_table
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.plots import Plot, inline_svg, render_figure
from kmed_bench.report.rendering import render
from kmed_bench.report.score_plots import plot_histogram
from kmed_bench.report.score_tables import age_rank
from kmed_bench.report.table_view import Column, View
from kmed_bench.report.words import DOUBTS, REJECTS
from kmed_bench.scoring.intervals import MIN_SPEAKERS

_CROSSED = ("dialect", "gender", "age", "role")
_MAX_VALUES, _MAX_COLUMNS = 30, 12
"""Values of a field in its table, and in the columns of a crossed one: a list may have free text in such a field."""


def _counts() -> list[Column]:
    return [
        Column(key="n", label=gettext("utterances"), kind="count"),
        Column(key="share", label=gettext("share"), kind="percent"),
        Column(key="hours", label=gettext("hours"), kind="count"),
        Column(key="speakers", label=gettext("speakers"), kind="count"),
    ]


def write_data_page(quality: QualityReport, folder: Path, *, name: str) -> Path:
    """Write ``data.html``, which its owner alone can open, into the folder of a manifest and return its path.

    Groups of few speakers are shown, in grey, since the page is for those who have the recordings.

    Parameters
    ----------
    name : str
        What the corpus is called.
    """
    groups = group_views(quality)
    pairs = _pairs_view(quality)
    with plot_style():
        plots = _draw(histogram_table(quality))
    html = render(
        "data.html",
        # A user's name stays as it is.
        name=translate_stored(name) if "(synthetic)" in name or name == OWN_RECORDINGS else name,
        synthetic="(synthetic)" in name,
        quality=quality,
        left_out=left_out_views(quality),
        doubts=doubts_view(quality),
        groups=groups,
        crossed=crossed_views(quality),
        pairs=pairs,
        plots=plots,
        bins=_bins_view(quality),
        min_speakers=MIN_SPEAKERS,
        few=any(view.rows["few"].any() for view in [*groups, pairs]),
    )
    write_text_atomically(folder / DATA_PAGE, html, private=True)
    return folder / DATA_PAGE


def summary_views(quality: QualityReport) -> list[View]:
    """Return what the terminal shows: totals, rejects, doubts, and one table of all groups."""
    totals = {key: quality[key] for key in ("labels", "usable", "speakers", "sentences", "hours")}
    groups = group_views(quality)
    every = pd.concat([view.rows.assign(field=view.name.removeprefix("group-")) for view in groups])
    views = [
        View(
            name="totals",
            caption=gettext("Labels, and what is usable of them."),
            columns=[
                Column(key="what", label=gettext("count of"), words=True),
                Column(key="n", label="n", kind="count"),
            ],
            rows=pd.DataFrame(totals.items(), columns=["what", "n"]),
        ),
        *left_out_views(quality),
        doubts_view(quality),
        View(
            name="groups",
            caption=gettext("Usable utterances by group."),
            columns=[
                Column(key="field", label=gettext("field"), words=True),
                Column(key="value", label=gettext("value"), words=True),
                *_counts(),
            ],
            rows=every,
            weak="few",
        ),
    ]
    return [view for view in views if len(view.rows)]


def left_out_views(quality: QualityReport) -> list[View]:
    """Return the rejects by reason, and what the incomplete labels lack."""
    n_labels = quality["labels"]
    rejected = [
        {"reason": reason, "meaning": REJECTS.get(reason, ""), "n": n, "share": n / n_labels}  # type: ignore[call-overload]
        for reason, n in quality["rejected"].items()
    ]
    lacks = [{"what": what, "n": n} for what, n in quality.get("incomplete", {}).items()]
    count = Column(key="n", label=gettext("labels"), kind="count")
    reason = Column(key="reason", label=gettext("reason"))
    meaning = Column(key="meaning", label=gettext("meaning"), words=True)
    views = [
        View(
            name="rejected",
            caption=gettext("Rejected labels; labels = usable + rejected."),
            columns=[reason, meaning, count, Column(key="share", label=gettext("share of labels"), kind="percent")],
            rows=pd.DataFrame(rejected, columns=["reason", "meaning", "n", "share"]),
        ),
        View(
            name="incomplete",
            caption=gettext("What the incomplete labels lack."),
            columns=[Column(key="what", label=gettext("fault"), words=True), count],
            rows=pd.DataFrame(lacks, columns=["what", "n"]),
        ),
    ]
    return [view for view in views if len(view.rows)]


def doubts_view(quality: QualityReport) -> View:
    """Return the warnings by kind: duplicates, disagreements, audio without a label, archives."""
    rows = [
        {"kind": kind, "meaning": DOUBTS.get(kind, ""), "n": n}  # type: ignore[call-overload]
        for kind, n in quality["warnings"].items()
    ]
    return View(
        name="doubts",
        caption=gettext("Doubts about what is kept, and files that belong to nothing."),
        columns=[
            Column(key="kind", label=gettext("kind")),
            Column(key="meaning", label=gettext("meaning"), words=True),
            Column(key="n", label=gettext("count"), kind="count"),
        ],
        rows=pd.DataFrame(rows, columns=["kind", "meaning", "n"]),
    )


def group_views(quality: Mapping[str, Any]) -> list[View]:
    """Return a table for each field: utterances, their share, hours and speakers of each value."""
    return [
        View(
            name=f"group-{field}",
            caption=gettext("By {field}.", field=gettext(str(field))),
            columns=[Column(key="value", label=gettext(str(field)), words=True), *_counts()],
            rows=_fold_rare(_in_order(_with_shares(rows, quality), str(field))),
            weak="few",
            is_slim=True,
        )
        for field, rows in fields_table(quality).groupby("field", sort=False)
    ]


def _with_shares(rows: pd.DataFrame, quality: Mapping[str, Any]) -> pd.DataFrame:
    return rows.assign(share=rows["n"] / quality["usable"], few=_are_few(rows["speakers"]))


def _are_few(n_speakers: pd.Series) -> pd.Series:
    """Return where a group has speakers, but fewer than an interval takes."""
    return n_speakers.between(1, MIN_SPEAKERS - 1)


def _in_order(rows: pd.DataFrame, field: str) -> pd.DataFrame:
    """Return the rows of a field's values, ages from young to old, others from the commonest."""
    if field == "age":
        return rows.sort_values("value", key=lambda values: values.map(age_rank), kind="stable")
    return rows.sort_values("n", ascending=False, kind="stable")


def _fold_rare(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those beyond the thirtieth as one."""
    rest = rows.iloc[_MAX_VALUES:]
    if rest.empty:
        return rows
    other = {
        "value": gettext("({n} other values)", n=len(rest)),
        **rest[["n", "share", "hours"]].sum().to_dict(),
        "few": False,
    }
    return pd.concat([rows.head(_MAX_VALUES), pd.DataFrame([other])], ignore_index=True)


def crossed_views(quality: Mapping[str, Any]) -> list[View]:
    """Return the utterances of each two fields that both have several values, the second field in the columns."""
    pairs = pairs_table(quality)
    views = []
    for fields, rows in pairs.groupby("fields", sort=False):
        first, second = str(fields).split(", ")
        values = [
            _in_order(_values(rows, key), field)["value"] for key, field in (("first", first), ("second", second))
        ]
        if not {first, second} <= {*_CROSSED} or min(map(len, values)) < 2 or len(values[1]) > _MAX_COLUMNS:
            continue
        columns = [
            Column(key=f"at{at}", label=gettext(value), kind="count", weak=f"few{at}")
            for at, value in enumerate(values[1])
        ]
        marked = rows.assign(few=_are_few(rows["speakers"]))
        table, few = (
            marked.pivot(index="first", columns="second", values=what).loc[values[0], values[1]]
            for what in ("n", "few")
        )
        table = table.fillna(0).set_axis([column.key for column in columns], axis="columns")
        table = table.join(few.eq(True).set_axis([column.weak for column in columns], axis="columns"))
        views.append(
            View(
                name=f"crossed-{first}-{second}",
                caption=gettext("Utterances by {first} and {second}.", first=gettext(first), second=gettext(second)),
                columns=[Column(key="value", label=gettext(first), words=True), *columns],
                rows=table.head(_MAX_VALUES).rename_axis("value").reset_index(),
            )
        )
    return views


def _values(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    return rows.groupby(key, sort=False)["n"].sum().rename_axis("value").reset_index()


def _pairs_view(quality: Mapping[str, Any]) -> View:
    labels = {"fields": gettext("fields"), "first": gettext("first"), "second": gettext("second")}
    pairs = _with_shares(pairs_table(quality), quality)
    return View(
        name="pairs",
        caption=gettext("Every pair of fields."),
        columns=[*(Column(key=key, label=label, words=True) for key, label in labels.items()), *_counts()],
        rows=pairs.assign(fields=pairs["fields"].map(name_fields)),
        weak="few",
    )


def _draw(histograms: pd.DataFrame) -> list[Plot]:
    plots = []
    for measure, (title, label, unit, counted) in named_histograms().items():
        rows = histograms[histograms["measure"] == measure]
        if not rows["n"].sum():
            continue
        name = measure.replace("_", "-")
        _, svg = render_figure(plot_histogram(rows, label=label, title=title, counted=counted), name)
        bin_width = rows["high"].iloc[0] - rows["low"].iloc[0]
        width = gettext("{n:g} {unit}", n=bin_width, unit=unit).rstrip()
        caption = gettext(
            "{title}: {n:,} {counted}, bin width {width}.", title=title, n=rows["n"].sum(), counted=counted, width=width
        )
        plots.append(Plot(name=name, caption=caption, svg=inline_svg(svg.decode(), name), formats=()))
    return plots


def _bins_view(quality: Mapping[str, Any]) -> View:
    rows = histogram_table(quality)
    words = {measure: f"{title}: {label}" for measure, (title, label, _, _) in named_histograms().items()}
    return View(
        name="bins",
        caption=gettext("Each bin holds its lower edge and not its upper one."),
        columns=[
            Column(key="what", label=gettext("measure")),
            Column(key="low", label=gettext("bin"), kind="count", until="high"),
            Column(key="n", label="n", kind="count"),
        ],
        rows=rows.assign(what=rows["measure"].map(words)),
    )
