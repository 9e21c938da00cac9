"""Bad requests with a marker where their audio is, in every kind of body that MLflow's server reads."""

import base64
import csv
import io
import json
from typing import Any

MARKER = "PLANTED-MARKER-OF-AUDIO"
NUMBER = 0.123454321
_ENCODED = base64.b64encode(f"no audio {MARKER * 20}".encode()).decode()
_TRACES = (MARKER, _ENCODED[12:28], str(NUMBER), str(NUMBER)[:8])

Body = tuple[str, bytes]
"""Content type and content."""

VALUES: dict[str, Any] = {
    "base64 of no audio": _ENCODED,
    "text": MARKER * 9 + "%",
    "number": NUMBER,
    "numbers and text": [NUMBER, MARKER],
    "loud numbers": [NUMBER, 9e5],
    "object": {"k": MARKER},
    "nested": [[[NUMBER]]],
}


def traces(text: str) -> list[str]:
    """Return what of the planted audio is in an answer or a log."""
    return [trace for trace in _TRACES if trace in text]


def as_json(content: Any) -> Body:
    """Return a body of JSON."""
    return "application/json", json.dumps(content).encode()


def _rows(row: dict[str, Any]) -> dict[str, Body]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(row)
    writer.writerow([value if isinstance(value, str | int | float) else json.dumps(value) for value in row.values()])
    return {
        "records": as_json({"dataframe_records": [row]}),
        "split": as_json({"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}),
        "instances": as_json({"instances": [row]}),
        "inputs": as_json({"inputs": {name: [value] for name, value in row.items()}}),
        "csv": ("text/csv", buffer.getvalue().encode()),
    }


def audio_bodies() -> dict[str, Body]:
    """Return a body of each kind for each column and each value, by name."""
    found = {}
    for column in ("audio", "audio_base64", "samples", "path", "sound"):
        for what, value in VALUES.items():
            row = {column: value} | ({"rate_hz": 16_000} if column == "samples" else {})
            found |= {f"{kind}, {column}: {what}": body for kind, body in _rows(row).items()}
    return found


def other_bodies() -> dict[str, Body]:
    """Return bodies with the audio where MLflow's own checks find it, by name: `mlflow models serve` repeats some."""
    records = {"dataframe_records": [{"audio_base64": _ENCODED}]}
    rates = {what: _rows({"samples": [NUMBER], "rate_hz": value}) for what, value in VALUES.items() if what != "number"}
    return {
        **{f"{kind}, rate_hz: {what}": body for what, bodies in rates.items() for kind, body in bodies.items()},
        "cut": ("application/json", as_json(records)[1][:-3]),
        "a list": as_json([MARKER]),
        "a name": as_json({MARKER: 1}),
        "records of text": as_json({"dataframe_records": [MARKER]}),
        "text in place of a table": as_json({"dataframe_split": MARKER}),
        "uneven rows": as_json({"dataframe_split": {"columns": ["audio"], "data": [[MARKER, MARKER], [MARKER]]}}),
        "chat": as_json({"messages": [{"role": "user", "content": MARKER}]}),
        "language": as_json({**records, "params": {"language": MARKER}}),
        "detail": as_json({**records, "params": {"detail": MARKER}}),
        "params": as_json({**records, "params": MARKER}),
        "an unknown parameter": as_json({**records, "params": {MARKER: MARKER}}),
        "a file": ("audio/wav", b"RIFF" + MARKER.encode() * 9),
    }
