"""The figures of a benchmark's report, and their captions."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.report import plots, score_plots, score_tables
from kmed_bench.report.data_tables import HISTOGRAMS
from kmed_bench.report.page_tables import COSTS, chosen_runs, size_costs
from kmed_bench.report.plots import CURVES, QUANTITIES, Plot
from kmed_bench.scoring.recommendation import SizeVerdict

Save = Callable[[Figure, str, str], Plot]
"""Writes and closes a figure under a name and with a caption."""
TWO_CERS = N_(
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
            title = gettext("All sizes, {quantity} by epoch.", quantity=gettext(name))
            caption = _curve_caption(title, quantity, history)
            saved.append(save(plots.plot_all_sizes(history, quantity), f"all-{quantity}", caption))
    for size in sizes:
        for quantity, name in QUANTITIES.items():
            if plots.has_curve(history, size, quantity):
                title = gettext("{size}, {quantity} by epoch.", size=size, quantity=gettext(name))
                caption = _curve_caption(title, quantity, history[history["size"] == size])
                figure = plots.plot_curves(history, size, quantity)
                saved.append(save(figure, f"{size}-{quantity}", caption))
    return saved


def _curve_caption(title: str, quantity: str, history: pd.DataFrame) -> str:
    texts = [title]
    if (n_seeds := history.groupby("size")["seed"].nunique().max()) > 1:
        texts.append(gettext("Mean of {n} seeds; the band is their whole range.", n=n_seeds))
    return " ".join([*texts, gettext(TWO_CERS)] if quantity == "cer" else texts)


def _save_sizes(frames: Mapping[str, pd.DataFrame], save: Save) -> list[Plot]:
    """Draw test CER by size; with two sizes or more also accuracy against speed and against size."""
    sizes = frames["sizes"]
    saved: list[Plot] = []
    if not len(sizes) or sizes["test_cer"].isna().all():
        return saved
    caption = gettext(
        "Test CER of the untouched and the chosen fine-tuned model; 95 % intervals allow for speakers and sentences."
    )
    if sizes["n_seeds"].max() > 1:
        caption += " " + gettext("Small dots: each seed.")
    saved.append(save(score_plots.plot_test_cer(sizes, frames["runs"]), "test-cer", caption))
    axes: dict[str, dict[str, Any]] = {
        "test_rtfx": {
            "label": gettext(COSTS["test_rtfx"][0]),
            "more_is_better": True,
            "title": gettext("Accuracy and speed"),
        },
        "parameters": {
            "label": gettext("parameters, millions"),
            "more_is_better": False,
            "title": gettext("Accuracy and size"),
        },
    }
    costs = size_costs(frames)
    for cost, labels in axes.items():
        if cost not in costs:
            continue
        points = costs.dropna(subset=[cost, "test_cer"])
        if cost == "parameters":
            points = points.assign(parameters=points["parameters"] / 1e6)
        if len(points) > 1:
            caption = gettext(
                "{title}. The dashed line joins the sizes that no other size beats in both.", title=labels["title"]
            )
            figure = score_plots.plot_pareto(points, cost=cost, **labels)
            saved.append(save(figure, f"pareto-{cost.replace('_', '-')}", caption))
    return saved


def _save_groups(frames: Mapping[str, pd.DataFrame], best: SizeVerdict | None, save: Save) -> list[Plot]:
    """Draw CER by group and size, and by dialect and age for the recommended size."""
    chosen = chosen_runs(frames)
    groups = frames["groups"]
    single = groups[groups["run_id"].isin(chosen) & groups["field"].isin(GROUP_FIELDS)]
    single = score_tables.sort_groups(single)
    words = {name: single[name].map(translate_stored) for name in ("field", "value")}
    single = single.assign(group=words["field"] + ": " + words["value"])
    saved = []
    if len(single):
        overall = dict(zip(frames["sizes"]["size"], frames["sizes"]["test_cer"], strict=True))
        figure = score_plots.plot_groups(
            single, overall, rows="group", columns="size", title=gettext("Test CER by group")
        )
        caption = gettext(
            "Test CER and number of clips by group. Colour: against the size's overall CER, blue for fewer errors and "
            "orange for more, with an arrow from {arrow:.0%} on; hatched cells have too few clips or speakers to be "
            "compared.",
            arrow=score_plots.ARROW_FROM,
        )
        saved.append(save(figure, "groups", caption))
    if best is None:
        return saved
    pairs = score_tables.pairs_of_run(groups, best.run_id, "dialect", "age")
    if len(pairs):
        pairs = pairs.assign(**{name: pairs[name].map(translate_stored) for name in ("dialect", "age")})
        level = frames["sizes"].set_index("run_id")["test_cer"][best.run_id]
        overall = dict.fromkeys(pairs["age"], level)
        title = gettext("{size}: CER by dialect and age", size=best.size)
        caption = gettext(
            "{title}, fine-tuned, test part. Colour: against the model's overall CER, blue for fewer errors and orange "
            "for more, with an arrow from {arrow:.0%} on; hatched cells have too few clips or speakers to be compared.",
            title=title,
            arrow=score_plots.ARROW_FROM,
        )
        figure = score_plots.plot_groups(pairs, overall, rows="dialect", columns="age", title=title)
        saved.append(save(figure, "groups-dialect-age", caption))
    return saved


def _save_speakers(speakers: pd.DataFrame, save: Save) -> list[Plot]:
    """Draw each speaker's CER before and after training, one figure a size."""
    saved = []
    for size, rows in speakers.groupby("size", sort=False):
        caption = gettext(
            "{size}: test CER of each speaker, from the lowest untouched one; a line joins a speaker's two figures. "
            "Fine-tuned it is lower for {lower} of {n} speakers and higher for {higher}.",
            size=size,
            lower=int((rows["tuned"] < rows["untouched"]).sum()),
            n=len(rows),
            higher=int((rows["tuned"] > rows["untouched"]).sum()),
        )
        if rows["n_characters"].notna().all():
            caption += " " + gettext("A marker's area is the number of characters that the speaker's references have.")
        figure = score_plots.plot_speakers(rows, size=str(size))
        saved.append(save(figure, f"{size}-speakers", caption))
    return saved


def _save_errors(frames: Mapping[str, pd.DataFrame], save: Save) -> list[Plot]:
    kinds = score_tables.errors_by_kind(frames["rates"], chosen_runs(frames))
    if not len(kinds):
        return []
    caption = gettext("CER on the test part, split into substituted, deleted and inserted characters.")
    return [save(score_plots.plot_error_kinds(kinds), "error-kinds", caption)]


def _save_histograms(histograms: pd.DataFrame, save: Save) -> list[Plot]:
    saved = []
    for measure in ("duration_s", "text_chars"):
        title, label, _, counted = map(gettext, HISTOGRAMS[measure])
        rows = histograms[histograms["measure"] == measure]
        if len(rows) and rows["n"].sum():
            figure = score_plots.plot_histogram(rows, label=label, title=title, counted=counted)
            saved.append(
                save(
                    figure,
                    f"quality-{measure.replace('_', '-')}",
                    gettext("{title} of the usable utterances.", title=title),
                )
            )
    return saved
