"""The report: one self-contained HTML page, with its pictures and tables beside it."""

from importlib import resources
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from kmed_bench import __version__
from kmed_bench.records import BenchRecord, write_text_atomically
from kmed_bench.report import tables
from kmed_bench.report.fonts import plot_style, subset_font
from kmed_bench.report.plots import CURVES, Plot, has_curve, plot_curves, save_plot
from kmed_bench.report.views import Column, View, cell, interval, is_absent, number

TEST_INTERVAL = {"low": "test_cer_low", "high": "test_cer_high"}
UNTOUCHED_INTERVAL = {"low": "untouched_test_cer_low", "high": "untouched_test_cer_high"}


def write_report(record: BenchRecord, out: Path) -> Path:
    """Return the path of ``index.html`` after writing it with its PNG, SVG and CSV files into a folder.

    Parameters
    ----------
    record : BenchRecord
        A bench and its train runs as read back from the store. What it lacks is left out or shown as
        missing; no figure is estimated.
    """
    out.mkdir(parents=True, exist_ok=True)
    frames = {
        "runs": tables.runs_table(record),
        "sizes": tables.sizes_table(record),
        "history": tables.history_table(record),
        "groups": tables.groups_table(record),
        "speed": tables.speed_table(record),
        "split_shares": tables.shares_table(record.split),
        "quality": tables.quality_table(record.quality),
        "missing": tables.missing_table(record),
        "provenance": tables.provenance_table(record),
    }
    for name, frame in frames.items():
        write_text_atomically(out / f"{name}.csv", frame.to_csv(index=False))
    with plot_style():
        curves = _save_curves(frames, out)
    html = _template().render(
        record=record,
        profile=record.params.get("profile"),
        version=__version__,
        notices=find_notices(record),
        headline=tables.choose_headline(frames["sizes"]),
        valid_clips=tables.part_count(record.split, "valid"),
        valid_speakers=tables.part_count(record.split, "valid", "speakers"),
        views=_views(frames),
        curves=curves,
        # Undotted names are what `mlflow run` was given, whole paths included; they stay in the store.
        settings={key: value for key, value in record.params.items() if "." in key or key == "profile"},
        files=sorted(f"{name}.csv" for name in frames),
    )
    font = subset_font(html)
    write_text_atomically(out / "index.html", html.replace("/*hangul*/", _font_rule(font)))
    return out / "index.html"


def find_notices(record: BenchRecord) -> list[str]:
    """Return what a reader must know before any figure: leaking splits, synthetic speech, failed runs."""
    notices = []
    profile = record.params.get("profile")
    source = record.params.get("data.source", "unknown")
    if profile == "demo" or source in ("", "None", "none"):
        notices.append(
            "Demo corpus: synthetic speech says nothing about patients. These figures show that the chain works."
        )
    shared = [what for what in ("speakers", "sentences", "utterances") if record.split.get("leakage", {}).get(what)]
    if profile == "original":
        notices.append(
            "Profile “original”: this split leaks. The published protocol puts utterances of one speaker and of one "
            "sentence into several parts, so these figures do not measure how the model does on new patients."
        )
    elif shared:
        notices.append(f"This split leaks: its parts share {' and '.join(shared)}; see “Split”.")
    failed = [run for run in record.trains if run.status != tables.FINISHED]
    if failed:
        notices.append(f"{len(failed)} of {len(record.trains)} train runs did not finish; see “Left out”.")
    for key in ("transcript_policy", "normaliser_version", "split_sha256"):
        found = tables.scored_with(record, key)
        if len(found) > 1:
            notices.append(f"The runs were scored with different {key}: {', '.join(found)}. Do not compare them.")
    return notices


def _save_curves(frames: dict[str, pd.DataFrame], out: Path) -> list[Plot]:
    """Draw the original benchmark's two plots of each size."""
    history = frames["history"]
    plots = []
    for size in dict.fromkeys(history["size"]):
        for quantity in CURVES:
            if not has_curve(history, size, quantity):
                continue
            caption = f"{size}, {'loss' if quantity == 'loss' else 'CER'} by epoch."
            if quantity == "cer":
                caption += (
                    " Two different quantities: the train line is teacher-forced (the true text so far is fed in), "
                    "the valid line compares decoded transcripts."
                )
            n_seeds = history[history["size"] == size]["seed"].nunique()
            if n_seeds > 1:
                caption += f" Mean of {n_seeds} seeds; the band is their whole range."
            plots.append(save_plot(plot_curves(history, size, quantity), out, f"{size}-{quantity}", caption))
    return plots


def _views(frames: dict[str, pd.DataFrame]) -> dict[str, View]:
    """Return the page's tables by name; empty ones are left out."""
    views = [
        View(
            name="sizes",
            caption="Of each size the run with the lowest decoded valid CER; 95 % intervals in brackets.",
            columns=_size_columns(frames["sizes"]),
            rows=frames["sizes"],
        ),
        View(
            name="runs",
            caption="Every train run.",
            columns=[
                Column(key="size", label="size"),
                Column(key="seed", label="seed", kind="count"),
                Column(key="status", label="state"),
                Column(key="epochs", label="epochs", kind="count"),
                Column(key="best_epoch", label="best epoch", kind="count"),
                Column(key="valid_cer", label="valid CER", kind="percent"),
                Column(key="test_cer", label="test CER", kind="percent", **TEST_INTERVAL),
                Column(key="epoch_s", label="median epoch", kind="seconds"),
                Column(key="train_s", label="all epochs", kind="seconds"),
            ],
            rows=frames["runs"],
        ),
        View(
            name="missing",
            caption="Sizes skipped and runs without figures, each with its reason.",
            columns=[Column(key="what", label="left out"), Column(key="reason", label="reason and remedy")],
            rows=frames["missing"],
        ),
        View(
            name="split_shares",
            caption="Share of each value in the corpus and in the parts.",
            columns=[
                Column(key="field", label="field"),
                Column(key="value", label="value"),
                *(Column(key=part, label=part, kind="percent") for part in ("corpus", "train", "valid", "test")),
            ],
            rows=frames["split_shares"],
        ),
        View(
            name="quality",
            caption="What ingest counted; labels = usable + rejected.",
            columns=[
                Column(key="kind", label="kind"),
                Column(key="name", label="what"),
                Column(key="n", label="n", kind="count"),
            ],
            rows=frames["quality"],
        ),
        View(
            name="provenance",
            caption="What the figures rest on.",
            columns=[Column(key="name", label="what"), Column(key="value", label="value")],
            rows=frames["provenance"],
        ),
    ]
    return {view.name: view for view in views if len(view.rows)}


def _size_columns(sizes: pd.DataFrame) -> list[Column]:
    columns = [
        Column(key="size", label="size"),
        Column(key="untouched_valid_cer", label="untouched, valid CER", kind="percent"),
        Column(key="valid_cer", label="fine-tuned, valid CER", kind="percent"),
        Column(key="untouched_test_cer", label="untouched, test CER", kind="percent", **UNTOUCHED_INTERVAL),
        Column(key="test_cer", label="fine-tuned, test CER", kind="percent", **TEST_INTERVAL),
        Column(key="n_clips", label="test clips", kind="count"),
        Column(key="n_speakers", label="test speakers", kind="count"),
        Column(key="best_epoch", label="best epoch", kind="count"),
    ]
    if len(sizes) and sizes["n_seeds"].max() > 1:
        columns += [
            Column(key="n_seeds", label="seeds", kind="count"),
            Column(
                key="test_cer_mean",
                label="test CER, mean (range) of seeds",
                kind="percent",
                low="test_cer_min",
                high="test_cer_max",
            ),
        ]
    return columns


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "safe_svg": Markup}
    environment.tests["known"] = lambda value: not is_absent(value)
    environment.globals |= {"cell": cell, "interval": interval}
    text = (resources.files("kmed_bench.report") / "page.html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _font_rule(font: str | None) -> str:
    """CSS for the page's own Hangul glyphs, used where the reader's machine has none."""
    if font is None:
        return ""
    return (
        f'@font-face {{ font-family: "Kmed Hangul"; src: url("data:font/woff;base64,{font}") format("woff"); '
        "unicode-range: U+1100-11FF, U+3130-318F, U+AC00-D7A3; }"
    )
