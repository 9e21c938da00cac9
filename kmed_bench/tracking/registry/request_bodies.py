"""Bodies of scoring requests, checked before MLflow makes a table of them.

MLflow's table can be far larger than the body: 2 MB of rows whose columns all differ make 10^10 cells, rows of unequal
length are filled up to the longest, and lists of texts become arrays as wide as the longest text. A body may therefore
hold few lists and objects, few names, and rows of one length.
"""

import json
from collections.abc import Iterable
from typing import Any

from kmed_bench.core.files import EqualKeysError, unique_keys

MAX_CONTAINERS = 4_096
MAX_DEPTH = 8
MAX_NAMES = 16
FORMATS = ("dataframe_records", "dataframe_split")
PARAMS = {"language": str, "detail": bool}
RATE = "rate_hz"


def fault_of(body: bytes) -> str | None:
    """Return what is wrong with a request's JSON, in one sentence with the remedy; None if nothing is.

    The values themselves are for the model to judge, but for those of which MLflow's own errors would repeat what was
    sent: rates that are no numbers, and parameters of another type.
    """
    n_containers = body.count(b"{") + body.count(b"[")  # counts those in texts too, but base64 has none
    if n_containers > MAX_CONTAINERS:
        return (
            f"The body has {n_containers:,} lists and objects, over the limit of {MAX_CONTAINERS:,}; send fewer rows."
        )
    try:
        content = json.loads(body, object_pairs_hook=unique_keys)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair can't be repeated in an answer
    except RecursionError:
        return _too_deep()
    except json.JSONDecodeError as error:
        return f"The body is not JSON ({error}); send an object with one of {' and '.join(FORMATS)}."
    except EqualKeysError:
        return "An object of the body has the same name twice; give each name once."
    except UnicodeError:
        return "The body is not text in UTF-8; send JSON, with audio as base64."
    except ValueError:  # Python's own limit
        return "The body has a whole number of thousands of digits; send numbers of samples and rates."
    return _fault_of_shape(content) or _fault_of_table(content)


def _too_deep() -> str:
    return f"The body is nested deeper than {MAX_DEPTH} levels; give one object for each row."


def _fault_of_shape(content: Any) -> str | None:
    names: set[str] = set()
    left: list[tuple[Any, int]] = [([content], 0)]
    while left:
        value, depth = left.pop()
        if depth > MAX_DEPTH:
            return _too_deep()
        if isinstance(value, dict):
            names |= value.keys()
        if len(names) > MAX_NAMES:
            return f"The body has more than {MAX_NAMES} names of columns and parameters; give only those of the model."
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        left += [(item, depth + 1) for item in inner if isinstance(item, dict | list)]
    return None


def _fault_of_table(content: Any) -> str | None:
    given = [name for name in FORMATS if isinstance(content, dict) and name in content]
    if len(given) != 1 or set(content) - {*given, "params"}:
        return f"The body must be an object with one of {' and '.join(FORMATS)}, and nothing else but params."
    params = content.get("params") or {}
    if not isinstance(params, dict) or not all(
        name in PARAMS and isinstance(value, PARAMS[name]) for name, value in params.items()
    ):
        return "params must be an object with language, a text, and detail, true or false; both may be left out."
    table = content[given[0]]
    if given == ["dataframe_records"]:
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            return "dataframe_records must be a list of objects, one for each row."
        return _fault_of_values(row.values() for row in table) or _fault_of_rates(row.get(RATE) for row in table)
    columns, rows = (table.get(key) if isinstance(table, dict) else None for key in ("columns", "data"))
    if not isinstance(columns, list) or not isinstance(rows, list) or len(columns) > MAX_NAMES:
        return f"dataframe_split must have columns, a list of at most {MAX_NAMES} names, and data, a list of rows."
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            return f"Row {number} of dataframe_split must be a list of {len(columns)} values, one for each column."
    rates = [place for place, name in enumerate(columns) if name == RATE]
    return _fault_of_values(rows) or _fault_of_rates(row[place] for row in rows for place in rates)


def _fault_of_values(rows: Iterable[Iterable[Any]]) -> str | None:
    for number, row in enumerate(rows):
        for value in row:
            if isinstance(value, list) and not all(type(item) in (int, float) for item in value):
                return f"Row {number} has a list that holds more than numbers; samples are one flat list of numbers."
    return None


def _fault_of_rates(rates: Iterable[Any]) -> str | None:
    for number, rate in enumerate(rates):
        is_number = isinstance(rate, int | float) or (isinstance(rate, str) and rate.isdecimal() and len(rate) < 10)
        if rate is not None and not is_number:
            return f"Row {number} has a {RATE} that is no number; give samples per second."
    return None
