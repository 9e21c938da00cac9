"""Where a gain comes from: tables of CER by cell of the split's design and of the leak; rates are fractions."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kmed_bench.core.language import N_, gettext
from kmed_bench.core.records import BenchRecord
from kmed_bench.core.run_contracts import LeakCer
from kmed_bench.core.schema import CELLS
from kmed_bench.report.table_view import Column, View
from kmed_bench.report.tables import ordered_trains

_LABELS = dict(
    zip(
        CELLS,
        (N_("both seen"), N_("speaker seen"), N_("sentence seen"), N_("neither seen: the test part")),
        strict=True,
    )
)
_DIFFERENCES = {
    "leak": N_("both seen − neither seen: the leak"),
    "speakers": N_("speaker seen − neither seen"),
    "sentences": N_("sentence seen − neither seen"),
}
_NO_CER: LeakCer = {"cer": None, "cer_low": None, "cer_high": None, "n_clips": 0, "n_speakers": 0}


def leak_cells_table(record: BenchRecord) -> pd.DataFrame:
    """Return one row per train run and cell: utterances, CER of both models and gain, with intervals."""
    rows: list[dict[str, Any]] = []
    for run, leak in _leaks(record):
        for cell, found in leak["cells"].items():
            untouched = found["untouched"] or _NO_CER
            rows.append(
                {
                    **run,
                    "cell": cell,
                    "label": _LABELS[cell],
                    **{key: found[key] for key in ("n_available", "n_decoded")},
                    "n_speakers": found["tuned"]["n_speakers"],
                    **{f"untouched_{key}": untouched[key] for key in ("cer", "cer_low", "cer_high")},
                    "untouched_cer_reason": untouched.get("no_interval", ""),
                    **{key: found["tuned"][key] for key in ("cer", "cer_low", "cer_high")},
                    "cer_reason": found["tuned"].get("no_interval", ""),
                    **{key: found[key] for key in ("gain", "gain_low", "gain_high", "no_interval")},
                }
            )
    return pd.DataFrame(rows)


def leak_table(record: BenchRecord) -> pd.DataFrame:
    """Return one row per train run and difference of gains, with its interval or the reason for none."""
    rows = [
        {**run, "difference": name, "label": _DIFFERENCES[name], **found}
        for run, leak in _leaks(record)
        for name, found in leak["differences"].items()
    ]
    return pd.DataFrame(rows)


def _leaks(record: BenchRecord) -> list[tuple[dict[str, Any], Any]]:
    return [
        ({"run_id": run.run_id, "size": run.size, "seed": run.seed}, record.leaks[run.run_id])
        for run in ordered_trains(record)
        if run.run_id in record.leaks
    ]


def leak_views(frames: Mapping[str, pd.DataFrame], chosen: list[str]) -> list[View]:
    """Return the page's two tables of the chosen runs; without rows where no left-out utterance was decoded."""
    both = (frames["leak_cells"], frames["leak"])
    cells, leak = (frame[frame["run_id"].isin(chosen)] if len(frame) else frame for frame in both)
    gain = Column(key="gain", label=gettext("gain"), kind="points", low="gain_low", high="gain_high")
    return [
        View(
            name="leak_cells",
            caption=gettext(
                "CER by whether an utterance's speaker and sentence were seen in training; the utterance itself "
                "never was. A positive gain means fewer errors than the untouched model's on the same clips."
            ),
            columns=[
                Column(key="size", label=gettext("size")),
                Column(key="label", label=gettext("in training"), words=True),
                Column(key="n_available", label=gettext("available"), kind="count"),
                Column(key="n_decoded", label=gettext("decoded"), kind="count"),
                Column(key="n_speakers", label=gettext("speakers"), kind="count"),
                Column(
                    key="untouched_cer",
                    label=gettext("untouched"),
                    kind="percent",
                    low="untouched_cer_low",
                    high="untouched_cer_high",
                ),
                Column(key="cer", label=gettext("fine-tuned"), kind="percent", low="cer_low", high="cer_high"),
                gain,
            ],
            rows=cells,
        ),
        View(
            name="leak",
            caption=gettext("Differences between the cells' gains."),
            columns=[
                Column(key="size", label=gettext("size")),
                Column(key="label", label=gettext("difference"), words=True),
                gain,
            ],
            rows=leak,
        ),
    ]


def leak_text(record: BenchRecord) -> str:
    """Return how the sample was drawn and what belongs to no cell; empty where nothing left out was decoded."""
    leaks = [leak for _, leak in _leaks(record)]
    if not leaks:
        return ""
    left_out, sample = leaks[0]["left_out"], leaks[0]["sample"]
    return gettext(
        "The split left out {left_out:,} utterances. At most {limit:,} of each cell were drawn at random (seed {seed}) "
        "and decoded. {selection:,} belong to no cell, as only the valid part has their speaker or sentence, or a part "
        "has their recording; {unseen:,} are like the test part, which represents them.",
        left_out=sum(left_out.values()),
        limit=sample["limit"],
        seed=sample["seed"],
        selection=left_out["selection"],
        unseen=left_out["unseen_unseen"],
    )
