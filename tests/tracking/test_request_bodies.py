"""Bodies of scoring requests: what passes, and what would make MLflow's table far larger than the body."""

import json
import tracemalloc
from typing import Any

import pytest
from fault_table import fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmed_bench.tracking.registry.request_bodies import MAX_CONTAINERS, MAX_DEPTH, MAX_NAMES, fault_of

GOES_ON = "the server: other requests, and the next one of the same client"


def records(*rows: Any) -> bytes:
    return json.dumps({"dataframe_records": rows}).encode()


def split(columns: Any, data: Any) -> bytes:
    return json.dumps({"dataframe_split": {"columns": columns, "data": data}}).encode()


def refused(what: str, body: bytes, said: str) -> Any:
    return pytest.param(
        body, said, id=what, marks=fault(f"a request to a model server: {what}", sees=f"HTTP 400: {said}")
    )


GOOD = {
    "records": records({"audio_base64": "AAAA"}, {"samples": [0.1, 1], "rate_hz": 16_000}),
    "split": split(["audio", "rate_hz"], [["AAAA", None], ["AA==", 8_000]]),
    "params": json.dumps(
        {"dataframe_records": [{"audio": "A"}], "params": {"detail": True, "language": "ko"}}
    ).encode(),
    "every row that the model takes": records(*[{"samples": [0.5] * 9, "rate_hz": 8_000, "audio": None}] * 2_000),
    "a column that the model ignores": records({"audio": "A", "patient": "x"}),
    "brackets in a text": records({"path": "[" * 1_000}),
    "UTF-16": json.dumps({"dataframe_records": [{"audio": "A"}]}).encode("utf-16"),
    "no rows": records(),
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_what_the_model_can_read_passes(body: bytes) -> None:
    assert fault_of(body) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        refused("JSON nested a thousand deep", b'{"a": ' + b"[" * 1_000 + b"]" * 1_000 + b"}", "nested deeper than 8"),
        refused("two million brackets", b"[" * 2_000_000, "2,000,000 lists and objects, over the limit of 4,096"),
        refused(
            "rows whose columns all differ (2 MB would make 10^10 cells)",
            records(*[{f"c{n}": 1} for n in range(4_000)]),
            "more than 16 names",
        ),
        refused(
            "rows of unequal length, which would be filled up to the longest",
            split(["audio"], [[0] * 100_000] + [[]] * 3_000),
            "Row 0 of dataframe_split must be a list of 1 values",
        ),
        refused("100,000 columns", split([str(n) for n in range(100_000)], []), "a list of at most 16 names"),
        refused(
            "texts among the samples, which would become an array as wide as the longest",
            records({"samples": ["x" * 100_000] + [""] * 3_000, "rate_hz": 16_000}),
            "Row 0 has a list that holds more than numbers",
        ),
        refused("true among the samples", records({"samples": [0.1, True]}), "holds more than numbers"),
        refused(
            "a name twice",
            b'{"dataframe_records": [{"audio": "A", "audio": "B"}]}',
            "has the same name twice; give each name once",
        ),
        refused("samples in two levels", records({"samples": [[0.1]], "rate_hz": 16_000}), "one flat list of numbers"),
        refused("TensorFlow's formats", b'{"instances": [{"audio": "A"}]}', "dataframe_records and dataframe_split"),
        refused(
            "a rate that is no number", records({"samples": [0.1], "rate_hz": "fast"}), "Row 0 has a rate_hz that is no"
        ),
        refused("a list as a rate", split(["samples", "rate_hz"], [[[0.1], 8], [[0.1], [8]]]), "Row 1 has a rate_hz"),
        refused(
            "a parameter of another type",
            b'{"dataframe_records": [], "params": {"detail": "yes"}}',
            "detail, true or false",
        ),
        refused(
            "an unknown parameter", b'{"dataframe_records": [], "params": {"beam": 5}}', "params must be an object"
        ),
        refused("two formats at once", b'{"dataframe_records": [], "dataframe_split": {}}', "and nothing else"),
        refused("a whole number of 5,000 digits", b'{"a": ' + b"1" * 5_000 + b"}", "thousands of digits"),
        refused("bytes that are not UTF-8", b'{"a": "\xff\xfe"}', "not text in UTF-8"),
        refused("half a surrogate pair", b'{"dataframe_records": [{"audio": "\\ud800"}]}', "not text in UTF-8"),
        refused("a body that is cut off", records({"audio": "A"})[:-4], "not JSON"),
        refused("a file in place of JSON", b"RIFF\x24\x00\x00\x00WAVEfmt ", "not JSON"),
        refused("an empty body", b"", "not JSON (Expecting value"),
    ],
)
def test_what_would_grow_or_can_not_be_read_is_refused(body: bytes, said: str) -> None:
    message = fault_of(body)
    assert message is not None
    assert said in message
    assert len(message) < 250  # the body is not repeated


NOT_A_TABLE = [b"[]", b"1", b"null", b'"x"', b"{}", b'{"dataframe_records": {}}', b'{"dataframe_records": [1]}']
NOT_A_TABLE += [
    b'{"dataframe_split": []}',
    b'{"dataframe_split": {"data": []}}',
    b'{"dataframe_split": {"columns": []}}',
]
NOT_A_TABLE += [b'{"dataframe_records": [], "messages": []}', split(["audio"], [3]), split("audio", [["A"]])]


@pytest.mark.parametrize("body", NOT_A_TABLE)
def test_what_is_no_table_is_refused(body: bytes) -> None:
    assert fault_of(body) is not None


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(("excess", "is_refused"), [(0, False), (1, True)])
def test_limits_hold_to_the_unit(excess: int, is_refused: bool) -> None:
    # the body, the list of rows and a row are three levels; params may hold what no column may
    params = {"language": nested(MAX_DEPTH - 2 + excess)}
    said = fault_of(json.dumps({"dataframe_records": [], "params": params}).encode()) or ""
    assert ("nested deeper" in said) == is_refused
    names = {f"c{n}": 1 for n in range(MAX_NAMES - 1 + excess)}  # dataframe_records is a name as well
    assert (fault_of(records(names)) is not None) == is_refused
    rows = [{"audio": "A"}] * (MAX_CONTAINERS - 2 + excess)
    assert (fault_of(records(*rows)) is not None) == is_refused


LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(JSON)
def test_any_json_gets_a_sentence_or_passes(content: Any) -> None:
    message = fault_of(json.dumps(content).encode())
    assert message is None or message.endswith(".")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_get_a_sentence(body: bytes) -> None:
    message = fault_of(body)
    assert message is not None
    assert message.endswith(".")


GREEDY = {
    "objects": b"[" + b"{}," * 680_000 + b"{}]",
    "names": b'{"dataframe_records": [{' + b",".join(b'"%x":0' % n for n in range(210_000)) + b"}]}",
    "numbers": records({"samples": [1.5] * 400_000}),
    "texts": records({"samples": ["ab"] * 330_000}),
}


@pytest.mark.slow
@pytest.mark.parametrize("body", GREEDY.values(), ids=GREEDY)
def test_the_check_itself_takes_little_memory(body: bytes) -> None:
    assert 1.8e6 < len(body) < 3e6
    tracemalloc.start()
    fault_of(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20
