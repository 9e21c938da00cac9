"""Fields of foreign files, checked where they enter: one sentence names the file, the line, the field and the value."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kmed_bench.core.errors import KmedError

_SCANNED_CHARS = 1 << 24
"""A longer text is not searched for a line: naming the field has to do."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


def check_fields(
    value: Mapping[str, Any], kinds: Mapping[str, Any], where: object, remedy: str, *, text: str = ""
) -> None:
    """Check that a file's object has each field, of its kind; types are not converted, except whole numbers to floats.

    Parameters
    ----------
    kinds : mapping
        Each needed field to a type that pydantic knows.
    where : object
        What the file is called.
    remedy : str
        How to get a right one, as the end of a sentence.
    text : str
        The file's JSON, in which the line is looked for; empty: no line is named.

    Raises
    ------
    KmedError
        For the first field that is missing or of another kind.
    """
    from pydantic import ValidationError  # here, since the command line starts faster without it

    for name, kind in kinds.items():
        if name not in value:
            raise KmedError(f"{where} lacks the field {name!r}; {remedy}.")
        try:
            _adapter(kind).validate_python(value[name])
        except ValidationError as error:
            raise KmedError(f"{where}{describe_fault(error, (name,), text)}; {remedy}.") from None


def describe_fault(error: Any, above: Sequence[str | int] = (), text: str = "") -> str:
    """Return pydantic's first fault as the end of a sentence: ", line 3 has counts.test -1 (…)"."""
    fault = error.errors(include_url=False)[0]
    steps = (*above, *fault["loc"])
    line = find_line(text, steps)
    place = f", line {line}" if line else ""
    return f"{place} has {show_steps(steps)} {fault['input']!r:.80} ({fault['msg']})"


def show_steps(steps: Sequence[str | int]) -> str:
    """Return the way to a field with dots, shortened."""
    way = ".".join(map(str, steps))
    return (way if way.isprintable() else ascii(way)[1:-1])[:120]


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True))


def find_line(text: str, steps: Sequence[str | int]) -> int | None:
    """Return the line, from 1, in which a JSON text has the value at the end of a way of keys and indices."""
    if not text or len(text) > _SCANNED_CHARS:
        return None
    way: list[str | int] = []
    key: str | None = None
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if way and isinstance(way[-1], str) and key is None and sign.startswith('"'):
            key = way[-1] = _unquote(sign)
            continue
        if sign == ",":
            if way and isinstance(way[-1], int):
                way[-1] += 1
            key = None
        elif sign in "}]":
            if way:
                way.pop()
            key = "" if way and isinstance(way[-1], str) else None
        elif sign != ":":
            if way == list(steps) or not steps:
                return text.count("\n", 0, token.start()) + 1
            if sign in "{[":
                way.append("" if sign == "{" else 0)
                key = None
    return None


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text
