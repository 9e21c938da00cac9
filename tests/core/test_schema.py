"""Manifests on disk: what they say of themselves, and what is refused."""

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from kmed_bench.asr.runtimes import graph_format
from kmed_bench.core import (
    contracts,
    corpus_contracts,
    curve_contracts,
    error_contracts,
    kit_contract,
    run_contracts,
    schema,
    shard_contracts,
    slurm_contract,
    transcripts,
)
from kmed_bench.core.errors import KmedError
from kmed_bench.core.formats import FileFormat
from kmed_bench.core.schema import MANIFEST_COLUMNS, read_manifest, write_manifest


@pytest.fixture
def table():
    values = {"duration_s": [1.5, 2.0], "rate_hz": pd.array([16_000, 8_000], "int32")}
    return pd.DataFrame({name: values.get(name, [f"{name} 가", "N/A"]) for name in MANIFEST_COLUMNS})


def test_a_manifest_reads_back_and_names_its_format(table, tmp_path):
    write_manifest(table, tmp_path / "m.parquet")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "m.parquet"), table)
    metadata = pq.read_metadata(tmp_path / "m.parquet").metadata
    assert (metadata[b"format"], metadata[b"version"]) == (b"kmed-manifest", b"1")
    content = (tmp_path / "m.parquet").read_bytes()
    write_manifest(table, tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").read_bytes() == content


def test_a_manifest_from_before_formats_is_read(table, tmp_path):
    table.to_parquet(tmp_path / "m.parquet", index=False)
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "m.parquet"), table)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"format": "kmed-manifest", "version": "2"}, "has version 2 of kmed-manifest, and this release reads up to 1"),
        ({"format": "kmed-manifest", "version": "x"}, "has format 'kmed-manifest', version 'x'"),
        ({"format": "other", "version": "1"}, "has format 'other', .* write it again with `kmed-bench ingest`"),
    ],
)
def test_other_formats_and_newer_versions_are_refused(table, tmp_path, marks, message):
    write_manifest(table, tmp_path / "m.parquet")
    written = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(written.replace_schema_metadata(marks), tmp_path / "m.parquet")
    with pytest.raises(KmedError, match=message):
        read_manifest(tmp_path / "m.parquet")


def test_what_is_no_manifest_is_named(table, tmp_path):
    with pytest.raises(KmedError, match="does not exist; `kmed-bench ingest` writes manifests"):
        read_manifest(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(KmedError, match="is not a readable parquet file"):
        read_manifest(tmp_path / "m.parquet")
    write_manifest(table.drop(columns=["age", "text"]), tmp_path / "m.parquet")
    with pytest.raises(KmedError, match="lacks the columns text, age; write it again"):
        read_manifest(tmp_path / "m.parquet")


def test_the_page_of_formats_has_every_format_and_its_versions():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| `(kmed-[a-z-]+)` \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    modules = (
        contracts,
        error_contracts,
        run_contracts,
        corpus_contracts,
        curve_contracts,
        kit_contract,
        schema,
        shard_contracts,
        slurm_contract,
        transcripts,
        graph_format,
    )
    formats = [value for module in modules for value in vars(module).values() if isinstance(value, FileFormat)]
    assert {(name, int(version), int(oldest)) for name, version, oldest in rows} == {
        (known.name, known.version, known.oldest) for known in formats
    }
    assert len(formats) >= 10
