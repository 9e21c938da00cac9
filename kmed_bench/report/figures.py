"""The figures of a benchmark's report, and their captions."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.report import plots, score_plots, score_tables
from kmed_bench.report.data_tables import HISTOGRAMS
from kmed_bench.report.page_tables import COSTS, chosen_runs, size_costs
from kmed_bench.report.plots import CURVES, QUANTITIES, Plot
from kmed_bench.scoring.recommendation import SizeVerdict

Save = Callable[[Figure, str, str], Plot]
"""Writes and closes a figure under a name and with a caption."""
TWO_CERS = (
    "Two different quantities: the train line is teacher-forced (the true text so far is fed in), "
    "the valid line compares decoded transcripts."
)


def save_plots(frames: Mapping[str, pd.DataFrame], best: SizeVerdict | None, save: Save) -> dict[str, list[Plot]]:
    """Save every figure and return them by section; call it inside ``fonts.plot_style``."""
    return {
        "curves": _save_curves(frames["history"], save),
        "sizes": _save_sizes(frames, save),
        "groups": _save_groups(frames, best, save),
        "speakers": _save_speakers(frames["speakers"], save),
        "errors": _save_errors(frames, save),
        "quality": _save_histograms(frames["quality_histograms"], save),
    }


def _save_curves(history: pd.DataFrame, save: Save) -> list[Plot]:
    """Draw all sizes together, then the original benchmark's two plots of each size."""
    saved = []
    sizes = list(dict.fromkeys(history["size"]))
    for quantity, name in QUANTITIES.items():
        if len(sizes) > 1 and history["metric"].isin(CURVES[quantity]).any():
            caption = f"All sizes, {name} by epoch.{_describe_seeds(history)}"
            caption += f" {TWO_CERS}" if quantity == "cer" else ""
            saved.append(save(plots.plot_all_sizes(history, quantity), f"all-{quantity}", caption))
    for size in sizes:
        for quantity, name in QUANTITIES.items():
            if plots.has_curve(history, size, quantity):
                caption = f"{size}, {name} by epoch.{_describe_seeds(history[history['size'] == size])}"
                caption += f" {TWO_CERS}" if quantity == "cer" else ""
                figure = plots.plot_curves(history, size, quantity)
                saved.append(save(figure, f"{size}-{quantity}", caption))
    return saved


def _describe_seeds(history: pd.DataFrame) -> str:
    n_seeds = history.groupby("size")["seed"].nunique().max()
    return f" Mean of {n_seeds} seeds; the band is their whole range." if n_seeds > 1 else ""


def _save_sizes(frames: Mapping[str, pd.DataFrame], save: Save) -> list[Plot]:
    """Draw test CER by size; with two sizes or more also accuracy against speed and against size."""
    sizes = frames["sizes"]
    saved: list[Plot] = []
    if not len(sizes) or sizes["test_cer"].isna().all():
        return saved
    caption = (
        "Test CER of the untouched and the chosen fine-tuned model; 95 % intervals allow for speakers and sentences."
    )
    if sizes["n_seeds"].max() > 1:
        caption += " Small dots: each seed."
    saved.append(save(score_plots.plot_test_cer(sizes, frames["runs"]), "test-cer", caption))
    axes: dict[str, dict[str, Any]] = {
        "test_rtfx": {
            "label": COSTS["test_rtfx"][0],
            "more_is_better": True,
            "title": "Accuracy and speed",
        },
        "parameters": {"label": "parameters, millions", "more_is_better": False, "title": "Accuracy and size"},
    }
    costs = size_costs(frames)
    for cost, labels in axes.items():
        if cost not in costs:
            continue
        points = costs.dropna(subset=[cost, "test_cer"])
        if cost == "parameters":
            points = points.assign(parameters=points["parameters"] / 1e6)
        if len(points) > 1:
            caption = f"{labels['title']}. The dashed line joins the sizes that no other size beats in both."
            figure = score_plots.plot_pareto(points, cost=cost, **labels)
            saved.append(save(figure, f"pareto-{cost.replace('_', '-')}", caption))
    return saved


def _save_groups(frames: Mapping[str, pd.DataFrame], best: SizeVerdict | None, save: Save) -> list[Plot]:
    """Draw CER by group and size, and by dialect and age for the recommended size."""
    chosen = chosen_runs(frames)
    groups = frames["groups"]
    single = groups[groups["run_id"].isin(chosen) & groups["field"].isin(GROUP_FIELDS)]
    single = score_tables.sort_groups(single)
    single = single.assign(group=single["field"] + ": " + single["value"])
    saved = []
    colours = (
        "Colour: against the {}'s overall CER, blue for fewer errors and orange for more, with an arrow from "
        f"{score_plots.ARROW_FROM:.0%} on; hatched cells have too few clips or speakers to be compared."
    )
    if len(single):
        overall = dict(zip(frames["sizes"]["size"], frames["sizes"]["test_cer"], strict=True))
        figure = score_plots.plot_groups(single, overall, rows="group", columns="size", title="Test CER by group")
        caption = f"Test CER and number of clips by group. {colours.format('size')}"
        saved.append(save(figure, "groups", caption))
    if best is None:
        return saved
    pairs = score_tables.pairs_of_run(groups, best.run_id, "dialect", "age")
    if len(pairs):
        level = frames["sizes"].set_index("run_id")["test_cer"][best.run_id]
        overall = dict.fromkeys(pairs["age"], level)
        title = f"{best.size}: CER by dialect and age"
        figure = score_plots.plot_groups(pairs, overall, rows="dialect", columns="age", title=title)
        saved.append(save(figure, "groups-dialect-age", f"{title}, fine-tuned, test part. {colours.format('model')}"))
    return saved


def _save_speakers(speakers: pd.DataFrame, save: Save) -> list[Plot]:
    """Draw each speaker's CER before and after training, one figure a size."""
    saved = []
    for size, rows in speakers.groupby("size", sort=False):
        caption = (
            f"{size}: test CER of each speaker, from the lowest untouched one; a line joins a speaker's two figures. "
            f"Fine-tuned it is lower for {int((rows['tuned'] < rows['untouched']).sum())} of {len(rows)} speakers and "
            f"higher for {int((rows['tuned'] > rows['untouched']).sum())}."
        )
        if rows["n_characters"].notna().all():
            caption += " A marker's area is the number of characters that the speaker's references have."
        figure = score_plots.plot_speakers(rows, size=str(size))
        saved.append(save(figure, f"{size}-speakers", caption))
    return saved


def _save_errors(frames: Mapping[str, pd.DataFrame], save: Save) -> list[Plot]:
    kinds = score_tables.errors_by_kind(frames["rates"], chosen_runs(frames))
    if not len(kinds):
        return []
    caption = "CER on the test part, split into substituted, deleted and inserted characters."
    return [save(score_plots.plot_error_kinds(kinds), "error-kinds", caption)]


def _save_histograms(histograms: pd.DataFrame, save: Save) -> list[Plot]:
    saved = []
    for measure in ("duration_s", "text_chars"):
        title, label, _, counted = HISTOGRAMS[measure]
        rows = histograms[histograms["measure"] == measure]
        if len(rows) and rows["n"].sum():
            figure = score_plots.plot_histogram(rows, label=label, title=title, counted=counted)
            saved.append(save(figure, f"quality-{measure.replace('_', '-')}", f"{title} of the usable utterances."))
    return saved
