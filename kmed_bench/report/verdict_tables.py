"""Tables of the verdict of each size, and of the speakers behind it."""

import math
from typing import Any

import pandas as pd

from kmed_bench.core.language import N_, gettext
from kmed_bench.report.table_view import Column, View
from kmed_bench.scoring.recommendation import Recommendation
from kmed_bench.scoring.verdict import say_worse

_FIGURES = ("a", "b", "delta", "delta_low", "delta_high", "p_value", "n_clips", "n_speakers")
_COLUMNS = ("size", "run_id", "seed", "outcome", "recommended", "valid_untouched", "valid_tuned", *_FIGURES)
_SPEAKERS = ("size", "run_id", "rank", "untouched", "tuned", "n_clips", "n_characters")


def verdicts_table(advice: Recommendation) -> pd.DataFrame:
    """Return one row per size: what its chosen training changed, by how much, and what got worse."""
    rows = []
    for size in advice.sizes:
        row: dict[str, Any] = {"size": size.size, "run_id": size.run_id, "seed": size.seed, "recommended": size.state}
        if size.verdict is not None:
            cer = size.verdict["cer"]
            row |= {name: size.verdict[name] for name in ("outcome", "valid_untouched", "valid_tuned")}
            row |= {name: math.nan if (value := cer.get(name)) is None else value for name in _FIGURES}
            row |= {"delta_reason": cer.get("no_interval", ""), "worse": say_worse(size.verdict) or gettext("nothing")}
        else:
            row["outcome"] = N_("not compared")
        rows.append(row)
    return pd.DataFrame(rows, columns=[*_COLUMNS, "delta_reason", "worse"])


def speakers_table(advice: Recommendation) -> pd.DataFrame:
    """Return one row per size and speaker of the test part: CER untouched and fine-tuned; no speaker is named."""
    tables = [
        pd.DataFrame(size.verdict["speakers"]).assign(
            size=size.size, run_id=size.run_id, rank=lambda rows: rows.index + 1
        )
        for size in advice.sizes
        if size.verdict is not None and size.verdict["speakers"]["untouched"]
    ]
    return (
        pd.concat(tables, ignore_index=True).reindex(columns=list(_SPEAKERS))
        if tables
        else pd.DataFrame(columns=list(_SPEAKERS))
    )


def verdict_view(verdicts: pd.DataFrame) -> View:
    """Return how the page shows the verdicts."""
    return View(
        name="verdicts",
        caption=gettext(
            "What fine-tuning changed, by the chosen run of each size. “better” and “worse” need a 95 % interval on "
            "that side of zero and a small p; without a lower valid CER the untouched model is kept. p is of this "
            "comparison alone, as the promotion gate takes it."
        ),
        columns=[
            Column(key="size", label=gettext("size")),
            Column(key="outcome", label=gettext("verdict"), words=True),
            Column(key="recommended", label=gettext("use"), words=True),
            Column(
                key="delta", label=gettext("difference in test CER"), kind="points", low="delta_low", high="delta_high"
            ),
            Column(key="p_value", label=gettext("p"), kind="p_value"),
            Column(key="n_speakers", label=gettext("speakers"), kind="count"),
            Column(key="worse", label=gettext("what got worse")),
        ],
        rows=verdicts,
    )
