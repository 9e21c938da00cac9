"""Tables of a benchmark's record."""

import math

import pytest
from bench_records import DEPTH, SHA, make_bench, make_train

from kmed_bench.core.records import BenchRecord
from kmed_bench.report import data_tables, score_tables, tables
from kmed_bench.scoring.recommendation import recommend


def test_runs_keep_the_records_figures() -> None:
    bench = make_bench(seeds=2)
    runs = tables.runs_table(bench).set_index("run_id")
    assert list(runs.index) == ["tiny000", "tiny001", "base000", "base001", "small000", "small001"]
    for run in bench.trains:
        row = runs.loc[run.run_id]
        assert row["test_cer"] == run.metrics["test/cer"]
        assert row["untouched_valid_cer"] == DEPTH[run.size]
        assert row["epochs"] == 4
        assert row["train_s"] == pytest.approx(4 * 400 * DEPTH[run.size] + 10)
        assert row["n_clips"] == 1000


def test_the_chosen_run_is_the_lowest_valid_cer_and_means_are_over_seeds() -> None:
    bench = make_bench(seeds=3)
    sizes = tables.sizes_table(tables.runs_table(bench)).set_index("size")
    base = [run.metrics for run in bench.trains if run.size == "base"]
    assert sizes.loc["base", "seed"] == 2  # later seeds are better in these records
    assert sizes.loc["base", "n_seeds"] == 3
    assert sizes.loc["base", "valid_cer"] == min(m["best/valid_cer"] for m in base)
    assert sizes.loc["base", "test_cer_mean"] == pytest.approx(sum(m["test/cer"] for m in base) / 3)
    chosen = {size.size: size.run_id for size in recommend(bench).sizes}
    assert chosen == dict(zip(sizes.index, sizes["run_id"], strict=True))


def test_unfinished_runs_and_skipped_sizes_are_named_and_not_counted() -> None:
    bench = make_bench(sizes=("base",))
    bench = BenchRecord(
        **{
            **vars(bench),
            "trains": (*bench.trains, make_train("base", 1, 2, status="FAILED")),
            "skipped": {"small": "no weights; use --weights", "tiny": "no weights"},
        }
    )
    assert tables.sizes_table(tables.runs_table(bench))["n_seeds"].tolist() == [1]
    missing = tables.missing_table(bench)
    assert missing["what"].tolist() == ["size tiny", "size small", "run base-s1 (base, seed 1)", "2 clips of test"]
    assert missing["reason"].tolist()[:3] == ["no weights", "no weights; use --weights", "ended as FAILED"]


def test_labels_left_out_of_the_loss_are_named_once() -> None:
    bench = make_bench(sizes=("base",), seeds=2)
    bench.params["train.max_len"] = "80"
    for run in bench.trains:
        run.metrics["data/train_label_too_long"] = 3.0
        run.metrics["data/valid_label_too_long"] = 0.0
    missing = tables.missing_table(bench)
    assert missing["what"].tolist() == ["3 labels of train", "2 clips of test"]
    assert "over 80 tokens" in missing["reason"][0]


def test_nothing_is_invented_for_an_empty_bench() -> None:
    empty = BenchRecord(
        run_id="e",
        name="e",
        status="FAILED",
        params={},
        tags={},
        trains=(),
        skipped={},
        split={},
        quality={},
        scores={},
    )
    assert recommend(empty).best is None
    for make in (
        tables.history_table,
        tables.missing_table,
        score_tables.groups_table,
        score_tables.rates_table,
        score_tables.costs_table,
        score_tables.elderly_table,
    ):
        assert len(make(empty)) == 0
    assert len(data_tables.parts_table(empty.split)) == 0
    assert not score_tables.beside_published(tables.sizes_table(tables.runs_table(empty)), test_set="", rules="")[
        "ours"
    ].any()


def test_quality_adds_up_and_shares_are_whole() -> None:
    bench = make_bench()
    quality = data_tables.quality_table(bench.quality)
    counts = quality.set_index("name")["n"]
    assert counts["labels"] == counts["usable"] + quality[quality["kind"] == "rejected"]["n"].sum()
    shares = data_tables.shares_table(bench.split)
    assert shares[shares["field"] == "dialect"]["test"].sum() == pytest.approx(1)


def test_parts_are_read_with_and_without_their_descriptions() -> None:
    split = make_bench().split
    described = data_tables.parts_table(split).set_index("part")
    assert described.loc["valid"].to_dict() == split["parts"]["valid"]
    bare = data_tables.parts_table({"counts": {"valid": 5}})
    assert bare["utterances"].tolist() == [5]
    assert math.isnan(bare["speakers"].iloc[0])


def test_provenance_names_policy_contexts_device_and_no_person() -> None:
    table = tables.provenance_table(make_bench())
    facts = dict(zip(table["name"], table["value"], strict=True))
    assert facts["split sha256"] == SHA
    assert facts["audio context, train"] == "dynamic"
    assert facts["audio context, decoding"] == "full"
    assert facts["transcript policy"] == "pronunciation"
    assert facts["device, base"] == "cpu"
    assert facts["intervals"] == "speaker-blocked bootstrap-t"
    assert "someone" not in " ".join(facts.values())
