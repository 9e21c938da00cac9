"""What the page says of openings of the test part, of plans, and of where a gain comes from."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from bench_records import make_bench

from kmed_bench.core.records import BenchRecord, Opening, hash_settings
from kmed_bench.core.schema import CELLS
from kmed_bench.report.leak_tables import leak_cells_table, leak_table, leak_text, leak_views
from kmed_bench.report.page import find_notices, write_report
from kmed_bench.report.seal_tables import describe_openings, openings_table, plan_changes_table

DAY_MS = 86_400_000
FIRST = {"metric": "cer", "train.lr": "2e-05", "train.epochs": "20"}
SECOND = FIRST | {"train.lr": "1e-05"}
EVALUATED = {"metric": "cer", "eval.beam_size": "5"}


def opening(day: int, settings: dict[str, str], *, untouched: bool = False, planned: bool = True) -> Opening:
    return Opening(
        opened_ms=day * DAY_MS,
        command="run" if planned else "evaluate",
        model="base, untouched" if untouched else "base, seed 0",
        untouched=untouched,
        plan_sha256=hash_settings(settings) if planned else "",
        run_id=f"r{day}",
        settings=settings,
    )


OPENINGS = (
    opening(20_000, FIRST, untouched=True),
    opening(20_001, FIRST),
    opening(20_002, SECOND),
    opening(20_003, FIRST),  # back to the first plan: known, so nothing new
    opening(20_004, EVALUATED | {"metric": "wer"}, planned=False),
)


@pytest.mark.parametrize(
    ("openings", "text"),
    [
        ((), "The store has no record that this test part was opened."),
        (
            OPENINGS[:1],
            "This test part has been opened once, first on 2024-10-04, under 1 plan: once by an untouched model, never "
            "by another one.",
        ),
        (
            OPENINGS,
            "This test part has been opened 5 times, first on 2024-10-04, under 2 plans: once by an untouched model, "
            "4 times by another one. Of these, once without a plan.",
        ),
    ],
)
def test_openings_in_words(openings: tuple[Opening, ...], text: str) -> None:
    assert describe_openings(openings) == text


def test_an_altered_record_is_named() -> None:
    altered = dataclasses.replace(OPENINGS[1], settings=SECOND)
    assert "the settings do not match the plan named: 1 record." in describe_openings((OPENINGS[0], altered))


def test_plans_are_compared_with_the_one_before_and_evaluations_in_what_they_share() -> None:
    rows = plan_changes_table(OPENINGS)[["opened_at", "plan", "setting", "before", "after"]]
    assert rows.to_numpy().tolist() == [
        ["2024-10-06 00:00:00", hash_settings(SECOND)[:12], "train.lr", "2e-05", "1e-05"],
        ["2024-10-08 00:00:00", "none", "metric", "cer", "wer"],
    ]
    assert list(openings_table(OPENINGS)["untouched"]) == ["yes", "no", "no", "no", "no"]


def cell(n: int, tuned: float, untouched: float) -> dict[str, Any]:
    def cer(value: float) -> dict[str, Any]:
        return {"cer": value, "cer_low": value - 0.01, "cer_high": value + 0.01, "n_clips": n, "n_speakers": 9}

    gain = {"gain": untouched - tuned, "gain_low": untouched - tuned - 0.02, "gain_high": untouched - tuned + 0.02}
    return {
        "tuned": cer(tuned), "untouched": cer(untouched), **gain, "no_interval": "",
        "n_available": 3 * n, "n_decoded": n,
    }  # fmt: skip


def leaking() -> BenchRecord:
    """A benchmark of three sizes whose left-out utterances were decoded, opened under two plans."""
    bench = make_bench()
    cells = [cell(50, 0.02, 0.22), cell(50, 0.08, 0.2), cell(50, 0.05, 0.2), cell(40, 0.1, 0.2)]
    leak: Any = {
        "cells": dict(zip(CELLS, cells, strict=True)),
        "differences": {
            "leak": {"gain": 0.1, "gain_low": 0.06, "gain_high": 0.14, "no_interval": ""},
            "speakers": {"gain": 0.02, "gain_low": None, "gain_high": None, "no_interval": "one speaker"},
        },
        "left_out": dict.fromkeys(CELLS, 150) | {"unseen_unseen": 12, "selection": 1234},
        "sample": {"limit": 50, "seed": 3},
    }  # fmt: skip
    return dataclasses.replace(bench, leaks={run.run_id: leak for run in bench.trains}, openings=OPENINGS)


def test_tables_have_each_runs_cells_and_differences() -> None:
    record = leaking()
    cells = leak_cells_table(record).set_index(["size", "cell"])
    assert len(cells) == 12
    row = cells.loc[("base", "seen_seen")]
    assert [row[key] for key in ("n_available", "n_decoded", "n_speakers")] == [150, 50, 9]
    assert [row["untouched_cer"], row["cer"], row["gain"], row["gain_low"]] == pytest.approx([0.22, 0.02, 0.2, 0.18])
    differences = leak_table(record).set_index(["size", "difference"])
    assert differences.loc[("tiny", "leak"), "gain"] == 0.1
    chosen = [run.run_id for run in record.trains if run.size == "base"]
    frames = {"leak_cells": leak_cells_table(record), "leak": leak_table(record)}
    first, second = leak_views(frames, chosen)
    assert list(first.table()["gain"]) == [
        "+20.00 pp (+18.00 to +22.00)",
        "+12.00 pp (+10.00 to +14.00)",
        "+15.00 pp (+13.00 to +17.00)",
        "+10.00 pp (+8.00 to +12.00)",
    ]
    assert list(second.table()["gain"]) == ["+10.00 pp (+6.00 to +14.00)", "+2.00 pp (no interval: one speaker)"]
    assert "left out 1,696 utterances. At most 50 of each cell were drawn at random (seed 3)" in leak_text(record)
    assert "1,234 belong to no cell" in leak_text(record)


def test_a_cell_gives_the_reason_of_its_own_missing_interval() -> None:
    record = leaking()
    cells = record.leaks["base000"]["cells"]
    cells["seen_unseen"]["untouched"] |= {"cer_low": None, "cer_high": None, "no_interval": "one speaker"}
    frames = {"leak_cells": leak_cells_table(record), "leak": leak_table(record)}
    row = leak_views(frames, ["base000"])[0].table().iloc[1]
    assert row["untouched"] == "20.00 % (no interval: one speaker)"
    assert row["fine-tuned"] == "8.00 % (7.00 to 9.00)"


@pytest.mark.slow
def test_the_page_shows_both_and_a_page_without_them_does_not(tmp_path: Path) -> None:
    record = leaking()
    page = write_report(record, tmp_path / "with").read_text(encoding="utf-8")
    for text in ("Where the gain comes from", "Seal on the test part", "opened 5 times", "both seen", "2e-05"):
        assert text in page
    assert "This test part was opened under 2 plans; see “Seal on the test part”." in find_notices(record)
    plain = write_report(make_bench(), tmp_path / "without").read_text(encoding="utf-8")
    for text in ("Where the gain comes from", "Seal on the test part", "opened under"):
        assert text not in plain
