"""The seal on the test part: how often and by what it was opened, under which plans, and what changed between them."""

import datetime
from collections.abc import Sequence

import pandas as pd

from kmed_bench.core.language import N_, gettext, ngettext
from kmed_bench.core.records import Opening, differing_settings
from kmed_bench.report.table_view import Column, View

NO_PLAN = N_("none")


def count_plans(openings: Sequence[Opening]) -> int:
    """Return the number of different plans under which the test part was opened."""
    return len({opening.plan_sha256 for opening in openings} - {""})


def describe_openings(openings: Sequence[Opening]) -> str:
    """Return how often the test part was opened, since when, under how many plans, in words."""
    if not openings:
        return gettext("The store has no record that this test part was opened.")
    untouched = sum(opening.untouched for opening in openings)
    unplanned = sum(not opening.plan_sha256 for opening in openings)
    texts = [
        gettext(
            "This test part has been opened {times}, first on {day}, under {plans}: {untouched} by an untouched model, "
            "{other} by another one.",
            times=_times(len(openings)),
            day=_when(openings[0])[:10],
            plans=ngettext("{n:,} plan", "{n:,} plans", count_plans(openings)),
            untouched=_times(untouched),
            other=_times(len(openings) - untouched),
        )
    ]
    if unplanned:
        texts.append(gettext("Of these, {times} without a plan.", times=_times(unplanned)))
    if altered := sum(opening.contradicts_plan for opening in openings):
        records = ngettext("{n:,} record", "{n:,} records", altered)
        texts.append(
            gettext("Altered or cut off, since the settings do not match the plan named: {records}.", records=records)
        )
    return " ".join(texts)


def openings_table(openings: Sequence[Opening]) -> pd.DataFrame:
    """Return one row per opening, the first one first; ``plan`` has 12 digits of the plan's SHA-256."""
    columns = ["opened_at", "command", "model", "untouched", "plan", "run_id"]
    rows = [
        {
            "opened_at": _when(opening),
            "command": opening.command,
            "model": opening.model,
            "untouched": N_("yes") if opening.untouched else N_("no"),
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
    model = Column(key="model", label=gettext("model"), words=True)
    plan = Column(key="plan", label=gettext("plan"), words=True)
    return [
        View(
            name="openings",
            caption=gettext("Each decoding of the test part for scores, by any benchmark in this store."),
            columns=[
                Column(key="opened_at", label=gettext("opened (UTC)")),
                Column(key="command", label=gettext("command")),
                model,
                Column(key="untouched", label=gettext("untouched"), words=True),
                plan,
            ],
            rows=openings,
        ),
        View(
            name="plan_changes",
            caption=gettext("What each plan changed from the one before."),
            columns=[
                Column(key="opened_at", label=gettext("first opened (UTC)")),
                plan,
                model,
                Column(key="setting", label=gettext("setting")),
                Column(key="before", label=gettext("before")),
                Column(key="after", label=gettext("after")),
            ],
            rows=changes,
        ),
    ]


def _when(opening: Opening) -> str:
    at = datetime.datetime.fromtimestamp(opening.opened_ms / 1000, datetime.UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S")


def _plan(opening: Opening) -> str:
    return opening.plan_sha256[:12] or NO_PLAN


def _times(n: int) -> str:
    words = {0: gettext("never"), 1: gettext("once"), 2: gettext("twice")}
    return words[n] if n in words else gettext("{n:,} times", n=n)
