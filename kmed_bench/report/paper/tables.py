"""The tables of a paper, as LaTeX (booktabs), Markdown and CSV."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kmed_bench.core.language import N_, current_language, gettext, translate_stored
from kmed_bench.core.quantities import explain_rates
from kmed_bench.core.records import BenchRecord
from kmed_bench.core.schema import PARTS
from kmed_bench.report import score_tables
from kmed_bench.report.page_tables import chosen_runs
from kmed_bench.report.paper.facts import REASONS, WARNINGS, shared_setting, shared_tag
from kmed_bench.report.paper.results import holm_p_values
from kmed_bench.report.paper.wording import (
    ABSENT,
    ROUNDING,
    count,
    hours,
    is_known,
    latex,
    markdown,
    p_value,
    points,
    rate,
    small,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table with its cells as text.

    Attributes
    ----------
    n_text : int
        How many columns at the left hold text; the others hold numbers and are aligned at the right.
    notes : str
        Sentences below the table.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_text: int = 1
    notes: str = ""

    def latex(self) -> str:
        """Return a table environment for the package booktabs; Hangul needs XeLaTeX or LuaLaTeX."""
        align = "l" * self.n_text + "r" * (len(self.columns) - self.n_text)
        lines = [" & ".join(map(latex, row)) + r" \\" for row in (self.columns, *self.rows)]
        notes = [rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize {latex(self.notes)}\end{{minipage}}"]
        return "\n".join(
            [
                r"\begin{table*}",
                r"\centering\small",
                rf"\caption{{{latex(self.caption)}}}\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{align}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
                *(notes if self.notes else ()),
                r"\end{table*}",
                "",
            ]
        )

    def markdown(self) -> str:
        """Return a Markdown table between its caption and its notes."""
        rule = ["---" if i < self.n_text else "---:" for i in range(len(self.columns))]
        lines = [[markdown(cell) for cell in self.columns], rule, *([markdown(c) for c in row] for row in self.rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(filter(None, (f"**{markdown(self.caption)}**", table, markdown(self.notes)))) + "\n"

    def csv(self) -> str:
        """Return the cells as CSV."""
        return pd.DataFrame(self.rows, columns=list(self.columns)).to_csv(index=False)


_ENDS = ("", "_low", "_high")


def with_interval(values: Sequence[float | None], show: Callable[[float | None], str]) -> str:
    """Return a value with its interval in brackets, from value, low and high; without brackets where there is none."""
    value, low, high = map(show, values)
    if ABSENT in (value, low, high):
        return value
    return gettext("{value} ({low} to {high})", value=value, low=low, high=high)


def paper_tables(record: BenchRecord, frames: Mapping[str, pd.DataFrame]) -> list[PaperTable]:
    """Return the tables of a paper that have rows.

    Parameters
    ----------
    frames : mapping
        The report's tables, as ``page_tables.make_frames`` returns them.
    """
    made = [
        _sizes(record, frames),
        _groups(frames),
        _split(frames["split_parts"]),
        _shares(frames["split_shares"]),
        _data(frames["quality"]),
        _training(record),
    ]
    return [table for table in made if table.rows]


def _sizes(record: BenchRecord, frames: Mapping[str, pd.DataFrame]) -> PaperTable:
    rates, corrected = frames["rates"], holm_p_values(record)
    deltas = {row["size"]: row for row in frames["verdicts"].to_dict("records")}
    rows, shown = [], list[float | None]()
    for row in frames["sizes"].to_dict("records"):
        own = rates[rates["run_id"] == row["run_id"]]
        values = {(state, name): value for state, name, value in own[["state", "measure", "value"]].itertuples(False)}
        for measure in ("cer", "wer"):
            found = [[values.get((state, f"{measure}{end}")) for end in _ENDS] for state in ("untouched", "fine-tuned")]
            cells = [with_interval(ends, rate) for ends in found]
            shown += itertools.chain(*found)
            delta, p = ABSENT, ABSENT
            if measure == "cer":
                compared = deltas.get(row["size"], {})
                delta = with_interval([compared.get(f"delta{end}") for end in _ENDS], points)
                p = p_value(corrected.get(row["size"]))
            rows.append([row["size"], measure.upper(), *cells, delta, p])
    return PaperTable(
        name="sizes",
        caption=gettext(
            "Error rates on the test part, in percent, by the training of each size with the lowest validation CER"
        ),
        columns=[
            *(gettext("Model"), gettext("Rate"), gettext("Untouched"), gettext("Fine-tuned")),
            *(gettext("Difference"), gettext("p (Holm)")),
        ],
        rows=rows,
        n_text=2,
        notes=_explained(
            gettext(
                "In brackets: 95% confidence intervals, where there are any. {rounding} A dash: not in the record.",
                rounding=ROUNDING.words(current_language()),
            ),
            shown,
        ),
    )


def _explained(notes: str, shown: Iterable[float | None]) -> str:
    """Return a table's notes with the reason why rates exceed 100 %, where one of the shown does."""
    return " ".join(filter(None, (notes, explain_rates(*shown))))


def _groups(frames: Mapping[str, pd.DataFrame]) -> PaperTable:
    chosen = chosen_runs(frames)
    sizes = list(frames["sizes"]["size"]) if chosen else []
    rows, shown = [], list[float | None]()
    for row in score_tables.groups_of_sizes(frames["groups"], chosen).to_dict("records"):
        mark = "†" if row["below_minimum"] else ""
        found = [[row.get(f"{size}{end}") for end in _ENDS] for size in sizes]
        cells = [with_interval(ends, rate) for ends in found]
        shown += itertools.chain(*found)
        counts = [count(row[name]) if is_known(row[name]) else ABSENT for name in ("n_clips", "n_speakers")]
        rows.append([*_named(row, mark), *counts, *cells])
    return PaperTable(
        name="groups",
        caption=gettext("CER of the fine-tuned models by group of speakers on the test part, in percent"),
        columns=[gettext("Field"), gettext("Group"), gettext("Clips"), gettext("Speakers"), *sizes],
        rows=rows,
        n_text=2,
        notes=_explained(
            gettext("In brackets: 95% confidence intervals. †: too few clips or speakers to be compared."), shown
        ),
    )


def _named(row: Mapping[Any, Any], mark: str = "") -> list[str]:
    return [translate_stored(row["field"]), f"{translate_stored(str(row['value']))}{mark}"]


def _split(parts: pd.DataFrame) -> PaperTable:
    show = {"utterances": count, "speakers": count, "sentences": count, "hours": hours}
    rows = [
        [translate_stored(row["part"]), *(show[name](row[name]) if is_known(row[name]) else ABSENT for name in show)]
        for row in parts.to_dict("records")
    ]
    return PaperTable(
        name="split",
        caption=gettext("The split"),
        columns=[gettext("Part"), gettext("Clips"), gettext("Speakers"), gettext("Sentences"), gettext("Hours")],
        rows=rows,
    )


def _shares(shares: pd.DataFrame) -> PaperTable:
    names = ("corpus", *PARTS)
    rows = [[*_named(row), *(rate(row[name]) for name in names)] for row in shares.to_dict("records")]
    return PaperTable(
        name="split-groups",
        caption=gettext("Share of each group of speakers in the clips of the corpus and of each part, in percent"),
        columns=[*map(gettext, (N_("Field"), N_("Group"), N_("Corpus"), N_("Train"), N_("Valid"), N_("Test")))],
        rows=rows,
        n_text=2,
    )


def _data(quality: pd.DataFrame) -> PaperTable:
    rows = []
    for row in quality.to_dict("records"):
        words = {"rejected": REASONS, "warning": WARNINGS}.get(row["kind"], {}).get(row["name"])
        named = row["name"].replace("_", " ") if words is None else words.words(current_language())
        if row["kind"] == "rejected":
            shown = gettext("rejected: {reason}", reason=named)
        elif row["kind"] == "warning":
            shown = gettext("warning: {kind}", kind=named)
        else:
            shown = translate_stored(named)
        rows.append([shown, hours(row["n"]) if row["name"] == "hours" else count(row["n"])])
    return PaperTable(
        name="data",
        caption=gettext("The corpus: what was read, rejected and usable"),
        columns=["", "n"],
        rows=rows,
        notes=gettext(
            "Labels are usable or rejected; speakers, sentences and hours are those of the usable utterances."
        ),
    )


_SETTINGS = {
    "model.sizes": N_("sizes"),
    "train.seeds": N_("training seeds"),
    "train.epochs": N_("epochs"),
    "train.batch_size": N_("batch size"),
    "train.lr": N_("learning rate"),
    "train.schedule": N_("schedule"),
    "train.warmup_steps": N_("warm-up steps"),
    "train.weight_decay": N_("weight decay"),
    "train.grad_clip": N_("gradient clipping"),
    "train.max_len": N_("label tokens, at most"),
    "train.patience": N_("patience, epochs"),
    "train.freeze_encoder": N_("frozen encoder"),
    "train.lora_rank": N_("LoRA rank"),
    "train.spec_augment": "SpecAugment",
    "train.speed_factors": N_("speed factors"),
    "train.audio_context": N_("audio context, training"),
    "eval.audio_context": N_("audio context, decoding"),
    "eval.beam_size": N_("beams"),
    "eval.max_new_tokens": N_("decoded tokens, at most"),
    "eval.no_repeat_ngram_size": N_("no repeated n-gram of"),
}
_TAGS = {
    "kmed.train_precision": N_("precision, training"),
    "kmed.machine": N_("machine"),
    "kmed.software": N_("software"),
    "kmed.code_version": "kmed-bench",
    "kmed.split_sha256": N_("SHA-256 of the split"),
    "kmed.plan_sha256": N_("SHA-256 of the plan"),
}
_VALUES = (*(N_("constant"), N_("linear"), N_("cosine"), N_("full"), N_("dynamic"), N_("True"), N_("False")),)
"""Values that the tables show as words, for the catalogue."""


def _training(record: BenchRecord) -> PaperTable:
    values: dict[str, Any] = {name: shared_setting(record, name) for name in _SETTINGS}
    runs = record.trains
    values["model.sizes"] = ", ".join(dict.fromkeys(run.size for run in runs)) or None
    values["train.seeds"] = ", ".join(map(str, sorted({run.seed for run in runs}))) or None
    if values["train.lr"] is not None and not math.isnan(float(values["train.lr"])):
        values["train.lr"] = small(float(values["train.lr"]))
    words = {name: str(value) for name, value in values.items() if value is not None}
    words = {name: gettext(value) if value in _VALUES else value for name, value in words.items()}
    rows = [[gettext(label), words[name]] for name, label in _SETTINGS.items() if name in words]
    if "train.lr" in values and values["train.lr"] is not None:
        rows.insert(0, [gettext("optimizer"), "AdamW"])
    tags = {label: shared_tag(record, name) for name, label in _TAGS.items()}
    rows += [[gettext(label), translate_stored(value)] for label, value in tags.items() if value]
    return PaperTable(
        name="training",
        caption=gettext("Settings of training and decoding"),
        columns=[gettext("Setting"), gettext("Value")],
        rows=rows,
        n_text=2,
        notes=gettext("Settings that are off, or that the trainings do not share, are left out."),
    )
