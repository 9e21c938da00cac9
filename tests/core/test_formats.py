"""Names and versions of JSON files: which are read, which are refused and with what remedy."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kmed_bench.core import contracts, curve_contracts, run_contracts
from kmed_bench.core.errors import KmedError
from kmed_bench.core.formats import FileFormat

SPOONS: FileFormat[dict[str, Any]] = FileFormat("spoons", version=3, oldest=2, remedy="count the spoons again")
NAMES = {**vars(contracts), **vars(run_contracts), **vars(curve_contracts)}
ALL = [value for value in NAMES.values() if isinstance(value, FileFormat)]


@pytest.mark.parametrize("version", [2, 3])
def test_versions_of_the_range_are_read(version: int, tmp_path: Path) -> None:
    content = {"format": "spoons", "version": version, "n": 7}
    (tmp_path / "spoons.json").write_text(json.dumps(content), encoding="utf-8")
    assert SPOONS.read(tmp_path / "spoons.json") == content


REFUSED = [
    ([], "x.json holds a list and not a JSON object; count the spoons again"),
    ({"format": "forks", "version": 3}, "x.json has format 'forks', version 3; 'spoons' is needed here"),
    ({"format": "spoons", "version": "3"}, "version '3'; 'spoons' is needed here, so check the path, or count"),
    ({"format": "spoons", "version": 4}, "version 4 of spoons, and this release reads up to 3; install the release"),
    ({"format": "spoons", "version": 1}, "version 1 of spoons, and this release reads 2 to 3; count the spoons again"),
    ({}, "version 0 of spoons, and this release reads 2 to 3; count the spoons again"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_other_files_are_refused_with_the_remedy(content: Any, message: str) -> None:
    with pytest.raises(KmedError, match=message):
        SPOONS.check(content, "x.json")


def test_files_from_before_the_two_keys_are_read_where_that_is_safe() -> None:
    assert contracts.SCORES.check({"overall": {}}, "scores.json") == {"overall": {}}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_each_format_reads_what_it_writes_and_has_a_name_of_its_own(kind: FileFormat[Any]) -> None:
    bare = dataclasses.replace(kind, fields={})
    assert bare.check(dict(kind.head), "file") == {"format": kind.name, "version": kind.version}
    assert [other.name for other in ALL].count(kind.name) == 1
    assert 0 <= kind.oldest <= kind.version
