"""A part read piece by piece is the part that `read_speech` holds, and it is refused for the same reasons."""

import pandas as pd
import pytest
from exported import write_thirds

from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import read_manifest, write_manifest
from kmed_bench.core.sharding import NameSum, shard_of
from kmed_bench.corpus.demo.sentences import corpus_name, read_sentences
from kmed_bench.corpus.splitting import long_part
from kmed_bench.corpus.splitting.long_part import find_long_part
from kmed_bench.corpus.splitting.split import sort_manifest
from kmed_bench.corpus.splitting.whole import read_speech


@pytest.fixture
def split(tone_part, tmp_path, monkeypatch):
    monkeypatch.setattr(long_part, "_ROWS_AT_A_TIME", 5)
    return write_thirds(tone_part, tmp_path / "split")


@pytest.fixture
def manifest(tone_part, tmp_path, monkeypatch):
    monkeypatch.setattr(long_part, "_ROWS_AT_A_TIME", 5)
    write_manifest(sort_manifest(tone_part), tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


def test_a_split_and_a_manifest_have_the_identity_that_they_have_in_memory(split, manifest):
    for speech in (split, manifest, manifest.parent):
        held, read = read_speech(speech), find_long_part(speech, "test").identify()
        assert read.sha256 == held.sha256
        for key in ("sha256", "content_sha256", "counts", "label"):
            assert read.report[key] == held.report[key]
        assert read.parts == {}


@pytest.mark.parametrize(("n_shards", "n_rows"), [(1, 1), (1, 5), (1, 12), (3, 1), (3, 2), (3, 100), (20, 2)])
def test_blocks_are_the_rows_of_their_shard_in_order(manifest, n_rows, n_shards):
    part, held = find_long_part(manifest, "test"), read_speech(manifest).parts["test"]
    shards: dict[int, list] = {}
    for block in part.blocks(range(n_shards), n_shards, n_rows):
        found = shards.setdefault(block.shard, [])
        assert block.number == len(found)
        assert not (found and found[-1].is_last)
        assert len(block.rows) <= n_rows
        found.append(block)
    assert sorted(shards) == list(range(n_shards))
    for shard, blocks in shards.items():
        assert blocks[-1].is_last
        assert len(blocks) == 1 or all(len(block.rows) for block in blocks)
        wanted = held[[shard_of(name, n_shards) == shard for name in held["utterance_id"]]].reset_index(drop=True)
        rows = pd.concat([block.rows for block in blocks], ignore_index=True)
        pd.testing.assert_frame_equal(rows, wanted, check_dtype=bool(len(wanted)))
        assert part.sums(n_shards)[shard].digest == NameSum(wanted["utterance_id"]).digest


def test_only_the_shards_that_are_asked_for_are_read(manifest):
    part = find_long_part(manifest, "test")
    assert {block.shard for block in part.blocks([2], 3, 4)} == {2}


def test_the_corpus_has_the_name_of_the_rows(manifest, tone_part):
    assert find_long_part(manifest, "test").corpus() == corpus_name(tone_part) == "AI Hub 208"
    made = [sentence.label for sentence in read_sentences()][: len(tone_part)]
    write_manifest(sort_manifest(tone_part).assign(text=made), manifest)
    assert find_long_part(manifest, "test").corpus() == "demo corpus (synthetic)"


def test_rows_that_are_not_sorted_or_not_once_are_refused(manifest, tone_part):
    rows = sort_manifest(tone_part)
    message = r"has the utterance '.*' after '.*'; shards are taken of rows that are sorted by utterance_id, each once"
    for faulty in (rows.iloc[::-1], pd.concat([rows.iloc[:3], rows.iloc[2:]])):
        write_manifest(faulty.reset_index(drop=True), manifest)
        with pytest.raises(KmedError, match=message):
            list(find_long_part(manifest, "test").blocks([0], 1, 4))


def test_a_changed_part_is_refused(split):
    rows = read_manifest(split / "valid.parquet")
    write_manifest(rows.assign(text="다른 말"), split / "valid.parquet")
    with pytest.raises(KmedError, match=r"are not those that its split\.json accounts for"):
        find_long_part(split, "test").identify()


def test_a_cell_of_another_kind_is_named_with_its_row(manifest, tone_part):
    rows = sort_manifest(tone_part)
    rows.loc[7, "duration_s"] = -1.0
    write_manifest(rows, manifest)
    shard = shard_of(rows["utterance_id"][7], 3)
    with pytest.raises(KmedError, match=r"manifest.parquet, row 8 has duration_s -1.0, which is not a number"):
        list(find_long_part(manifest, "test").blocks([shard], 3, 4))


def test_what_is_no_speech_is_named(split, manifest, tmp_path):
    with pytest.raises(KmedError, match="is a whole manifest, whose utterances are all of the part test"):
        find_long_part(manifest, "valid")
    with pytest.raises(KmedError, match=r"split.json does not exist"):
        find_long_part(tmp_path / "nowhere", "test")
    write_manifest(read_manifest(manifest).iloc[:0], manifest)
    with pytest.raises(KmedError, match="holds no utterance, so there is nothing to decode"):
        find_long_part(manifest, "test")
    manifest.write_bytes(b"no parquet")
    with pytest.raises(KmedError, match="is not a readable parquet file"):
        find_long_part(manifest, "test")
