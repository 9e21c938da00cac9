"""What a split leaves out, by cell: nothing twice, nothing of a part, and who heard what by definition."""

import dataclasses
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.config import SplitConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import CELLS, MANIFEST_COLUMNS, PARTS
from kmed_bench.corpus.splitting.cells import CELL, count_cells, find_left_out, name_cells, sample_cells
from kmed_bench.corpus.splitting.split import Split, read_left_out, read_split, split_manifest, write_split


def manifest(readings: list[tuple[int, int]]) -> pd.DataFrame:
    """Speaker i reads sentence j for each (i, j)."""
    table = pd.DataFrame(dict.fromkeys(MANIFEST_COLUMNS, "N/A"), index=range(len(readings)))
    table["utterance_id"] = [f"PA_{i:03d}-{j:03d}" for i, j in readings]
    table["speaker_id"] = [f"PA_{i:03d}" for i, _ in readings]
    table["sentence_id"] = [f"s{j}" for _, j in readings]
    table["text"] = [f"문장 {j}" for _, j in readings]
    return table.assign(duration_s=2.0, rate_hz=48_000)


@pytest.fixture(scope="module")
def crossed() -> Split:
    """24 speakers who all read the same 24 sentences."""
    table = manifest([(i, j) for i in range(24) for j in range(24)])
    return split_manifest(table, SplitConfig(train=60, valid=20, test=15, by=(), seed=3))


@pytest.mark.parametrize(
    ("speaker", "sentence", "cell"),
    [
        (0, 0, "seen_seen"),
        (0, 2, "seen_unseen"),
        (0, 9, "seen_unseen"),  # nobody in a part reads sentence 9
        (2, 0, "unseen_seen"),
        (2, 9, "unseen_unseen"),
        (2, 1, "selection"),
        (1, 0, "selection"),  # the valid part's speaker, though the sentence is in train
        (0, 1, "selection"),
    ],
)
def test_a_cell_is_what_was_seen_in_training(speaker: int, sentence: int, cell: str) -> None:
    parts = {part: manifest([(n, n)]) for n, part in enumerate(PARTS)}
    assert list(name_cells(manifest([(speaker, sentence)]), parts)) == [cell]


def test_a_speaker_of_train_counts_as_seen_even_if_valid_has_it_too() -> None:
    parts = {"train": manifest([(0, 0)]), "valid": manifest([(0, 0)]), "test": manifest([(2, 2)])}
    assert list(name_cells(manifest([(0, 0)]), parts)) == ["seen_seen"]


def test_cells_partition_what_was_left_out(crossed: Split) -> None:
    left_out = crossed.left_out
    assert left_out is not None
    used = pd.concat([crossed.parts[part] for part in PARTS])["utterance_id"]
    assert not set(left_out["utterance_id"]) & set(used)
    assert len(left_out) + len(used) == 576
    assert not left_out["utterance_id"].duplicated().any()
    assert sum(count_cells(left_out).values()) == crossed.report["discarded"] == len(left_out)
    assert crossed.report["left_out"] == count_cells(left_out)
    train, test = crossed.parts["train"], crossed.parts["test"]
    for row in left_out.to_dict("records"):
        in_train = row["speaker_id"] in set(train["speaker_id"]), row["sentence_id"] in set(train["sentence_id"])
        if row[CELL] in CELLS:
            assert row[CELL] == "_".join("seen" if known else "unseen" for known in in_train)
    assert set(name_cells(test, crossed.parts)) == {"unseen_unseen"}
    assert min(crossed.report["left_out"][cell] for cell in CELLS[:3]) > 0


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4), st.data())
def test_any_parts_and_what_they_leave_out_are_the_whole(readings: set[tuple[int, int]], data: st.DataObject) -> None:
    table = manifest(sorted(readings))
    part = data.draw(st.lists(st.sampled_from([*PARTS, ""]), min_size=len(table), max_size=len(table)))
    parts = {name: table[[p == name for p in part]] for name in PARTS}
    left_out = find_left_out(table, parts)
    ids = [*left_out["utterance_id"], *(name for rows in parts.values() for name in rows["utterance_id"])]
    assert Counter(ids) == Counter(table["utterance_id"])
    assert sum(count_cells(left_out).values()) == len(left_out)


def test_the_sample_is_capped_seeded_and_grows_by_addition(crossed: Split) -> None:
    left_out = crossed.left_out
    assert left_out is not None
    small, large = sample_cells(left_out, 5, 3), sample_cells(left_out, 9, 3)
    sampled = dict.fromkeys(CELLS[:3], 5) | {"unseen_unseen": 0, "selection": 0}
    assert count_cells(small) == sampled
    assert set(small["utterance_id"]) < set(large["utterance_id"])
    assert list(sample_cells(left_out.sample(frac=1, random_state=0), 5, 3)["utterance_id"]) == list(
        small["utterance_id"]
    )
    assert set(sample_cells(left_out, 5, 4)["utterance_id"]) != set(small["utterance_id"])
    every = sample_cells(left_out, 10_000, 3)
    assert count_cells(every) == count_cells(left_out) | {"unseen_unseen": 0, "selection": 0}


def test_the_file_is_read_back_and_belongs_to_its_split(crossed: Split, tmp_path: Path) -> None:
    write_split(crossed, tmp_path)
    split = read_split(tmp_path)
    assert split.sha256 == crossed.sha256
    pd.testing.assert_frame_equal(read_left_out(tmp_path, split), crossed.left_out)
    write_split(dataclasses.replace(crossed, left_out=crossed.parts["train"].assign(cell="seen_seen")), tmp_path)
    with pytest.raises(KmedError, match="is not what this split left out"):
        read_left_out(tmp_path, read_split(tmp_path))


def test_a_split_of_an_earlier_release_is_read_and_says_what_it_lacks(crossed: Split, tmp_path: Path) -> None:
    write_split(crossed, tmp_path)
    write_split(read_split(tmp_path), tmp_path)  # as read, without what was left out: the stale file goes
    assert not (tmp_path / "left_out.parquet").exists()
    with pytest.raises(KmedError, match=r"made by an earlier release.*Make the split again from the same manifest"):
        read_left_out(tmp_path, read_split(tmp_path))
