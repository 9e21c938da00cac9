"""The seal on the test part: how often and by what it was opened, under which plans, and what changed between them."""

import datetime
from collections.abc import Sequence

import pandas as pd

from kmed_bench.core.records import Opening, differing_settings
from kmed_bench.report.table_view import Column, View

NO_PLAN = "none"


def count_plans(openings: Sequence[Opening]) -> int:
    """Return the number of different plans under which the test part was opened."""
    return len({opening.plan_sha256 for opening in openings} - {""})


def describe_openings(openings: Sequence[Opening]) -> str:
    """Return how often the test part was opened, since when, under how many plans, in words."""
    if not openings:
        return "The store has no record that this test part was opened."
    untouched = sum(opening.untouched for opening in openings)
    unplanned = sum(not opening.plan_sha256 for opening in openings)
    text = (
        f"This test part has been opened {_times(len(openings))}, first on {_when(openings[0])[:10]}, under "
        f"{_count(count_plans(openings), 'plan')}: {_times(untouched)} by an untouched model, "
        f"{_times(len(openings) - untouched)} by another one."
    )
    if unplanned:
        text += f" Of these, {_times(unplanned)} without a plan."
    if altered := sum(opening.contradicts_plan for opening in openings):
        text += f" Altered or cut off, since the settings do not match the plan named: {_count(altered, 'record')}."
    return text


def openings_table(openings: Sequence[Opening]) -> pd.DataFrame:
    """Return one row per opening, the first one first; ``plan`` has 12 digits of the plan's SHA-256."""
    columns = ["opened_at", "command", "model", "untouched", "plan", "run_id"]
    rows = [
        {
            "opened_at": _when(opening),
            "command": opening.command,
            "model": opening.model,
            "untouched": "yes" if opening.untouched else "no",
            "plan": _plan(opening),
            "run_id": opening.run_id,
        }
        for opening in openings
    ]
    return pd.DataFrame(rows, columns=columns)


def plan_changes_table(openings: Sequence[Opening]) -> pd.DataFrame:
    """Return each setting that a plan changed from the plan before it, with both values.

    An opening without a plan is compared with the last plan before it, in the settings that it recorded.
    """
    rows: list[dict[str, str]] = []
    plan: Opening | None = None
    known: set[str] = set()
    for opening in openings:
        if plan is not None and opening.plan_sha256 not in known:
            for setting, before, after in differing_settings(plan.settings, opening.settings):
                row = {"plan": _plan(opening), "model": opening.model, "setting": setting}
                rows.append({"opened_at": _when(opening), **row, "before": before, "after": after})
        if opening.plan_sha256 and opening.plan_sha256 not in known:
            known.add(opening.plan_sha256)
            plan = opening
    return pd.DataFrame(rows, columns=["opened_at", "plan", "model", "setting", "before", "after"])


def seal_views(openings: pd.DataFrame, changes: pd.DataFrame) -> list[View]:
    """Return both tables as the page shows them."""

    def texts(names: dict[str, str]) -> list[Column]:
        return [Column(key=key, label=label) for key, label in names.items()]

    opened = {"opened_at": "opened (UTC)", "command": "command", "model": "model", "untouched": "untouched"}
    changed = {"opened_at": "first opened (UTC)", "plan": "plan", "model": "model", "setting": "setting"}
    return [
        View(
            name="openings",
            caption="Each decoding of the test part for scores, by any benchmark in this store.",
            columns=texts({**opened, "plan": "plan"}),
            rows=openings,
        ),
        View(
            name="plan_changes",
            caption="What each plan changed from the one before.",
            columns=texts({**changed, "before": "before", "after": "after"}),
            rows=changes,
        ),
    ]


def _when(opening: Opening) -> str:
    at = datetime.datetime.fromtimestamp(opening.opened_ms / 1000, datetime.UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _plan(opening: Opening) -> str:
    return opening.plan_sha256[:12] or NO_PLAN


def _times(n: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(n, f"{n:,} times")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
