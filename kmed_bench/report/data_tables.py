"""Tables on the data: parts, shares and leakage of the split, and the counts of the ingest."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.schema import PARTS
from kmed_bench.report.table_view import Column, View
from kmed_bench.report.words import DOUBTS, REJECTS

HISTOGRAMS = {
    "duration_s": (N_("Durations"), N_("seconds"), N_("s"), N_("utterances")),
    "text_chars": (N_("Lengths of labels"), N_("characters of the label"), N_("characters"), N_("utterances")),
    "chars_per_s": (
        N_("Speaking rates"),
        N_("spoken characters per second"),
        N_("characters per second"),
        N_("utterances"),
    ),
    "rate_hz": (N_("Sampling rates"), "Hz", "Hz", N_("utterances")),
    "speaker_utterances": (N_("Utterances per speaker"), N_("usable utterances of a speaker"), "", N_("speakers")),
}
"""Histogram of the ingest to its title, its axis, the unit of its bins' width and what they count."""

_JOIN = " + "
"""Between values that were taken together."""


def named_histograms() -> dict[str, tuple[str, str, str, str]]:
    """Return ``HISTOGRAMS`` in the language in use."""
    return {
        name: (gettext(title), gettext(axis), gettext(unit), gettext(counted))
        for name, (title, axis, unit, counted) in HISTOGRAMS.items()
    }


def name_fields(fields: str) -> str:
    """Return a list of fields, separated by commas, in the language in use."""
    return ", ".join(map(gettext, fields.split(", ")))


def parts_table(split: Mapping[str, Any]) -> pd.DataFrame:
    """Return each part's utterances, speakers, sentences and hours; NaN where split.json does not state them."""
    counts, described = split.get("counts", {}), split.get("parts", {})
    rows = []
    for part in PARTS:
        if part in counts or part in described:
            stated = {"utterances": counts.get(part), **described.get(part, {})}
            columns = ("utterances", "speakers", "sentences", "hours")
            rows.append({"part": part, **{name: stated.get(name, math.nan) for name in columns}})
    return pd.DataFrame(rows, columns=["part", "utterances", "speakers", "sentences", "hours"])


def shares_table(split: Mapping[str, Any]) -> pd.DataFrame:
    """Return the share of each field's values in the corpus and in each part, as fractions."""
    rows = [
        {"field": field, "value": value, **{part: share.get(part, math.nan) for part in ("corpus", *PARTS)}}
        for field, values in split.get("shares", {}).items()
        for value, share in values.items()
    ]
    return pd.DataFrame(rows, columns=["field", "value", "corpus", *PARTS])


def distance_table(split: Mapping[str, Any]) -> pd.DataFrame:
    """Return each field's and part's distance from the corpus: largest share deviation, total variation, chi-square."""
    columns = ["max_deviation", "total_variation", "chi_square", "dof", "p"]
    rows = [
        {"field": field, "part": part, **{name: entry.get(name, math.nan) for name in columns}}
        for field, parts in split.get("distance", {}).items()
        for part, entry in parts.items()
    ]
    return pd.DataFrame(rows, columns=["field", "part", *columns])


def merged_table(split: Mapping[str, Any]) -> pd.DataFrame:
    """Return the values that the split merged because they are rare, with their share of the corpus and each part.

    ``merged_strata`` of split.json lists them as ``dialect: 강원+경상``.
    """
    columns = ("corpus", *PARTS)
    rows = []
    for entry in split.get("merged_strata", []):
        field, _, joined = str(entry).partition(": ")
        shares = split.get("shares", {}).get(field, {})
        stated = [shares[value] for value in joined.split("+") if value in shares]
        sums = {name: math.fsum(row.get(name, math.nan) for row in stated) if stated else math.nan for name in columns}
        rows.append({"field": field, "values": joined.replace("+", _JOIN), **sums})
    return pd.DataFrame(rows, columns=["field", "values", *columns])


def quality_table(quality: Mapping[str, Any]) -> pd.DataFrame:
    """Return the ingest's counts: kind (total, rejected, warning), name, n."""
    rows = [
        {"kind": "total", "name": name, "n": quality[name]}
        for name in ("labels", "usable", "speakers", "sentences", "hours")
        if name in quality
    ]
    for kind, key in (("rejected", "rejected"), ("warning", "warnings")):
        rows += [{"kind": kind, "name": name, "n": n} for name, n in quality.get(key, {}).items()]
    return pd.DataFrame(rows, columns=["kind", "name", "n"])


def fields_table(quality: Mapping[str, Any]) -> pd.DataFrame:
    """Return the usable utterances, hours and speakers of each field's values; NaN where they were not counted."""
    hours, speakers = quality.get("hours_by", {}), quality.get("speakers_by", {})
    rows = [
        {
            **{"field": field, "value": value, "n": n, "hours": hours.get(field, {}).get(value, math.nan)},
            # Without a count of the field, it is not known; without one of the value, no speaker of it is.
            "speakers": speakers[field].get(value, 0) if field in speakers else math.nan,
        }
        for field, values in quality.get("by", {}).items()
        for value, n in values.items()
    ]
    return pd.DataFrame(rows, columns=["field", "value", "n", "hours", "speakers"])


def pairs_table(quality: Mapping[str, Any]) -> pd.DataFrame:
    """Return the usable utterances, hours and speakers of each pair of fields' values."""
    rows = [
        {
            **{"fields": fields.replace(",", ", "), "first": first, "second": second},
            **{name: cell.get(name, math.nan) for name in ("n", "hours", "speakers")},
        }
        for fields, values in quality.get("pairs", {}).items()
        for first, cells in values.items()
        for second, cell in cells.items()
    ]
    return pd.DataFrame(rows, columns=["fields", "first", "second", "n", "hours", "speakers"])


def examples_table(quality: Mapping[str, Any]) -> pd.DataFrame:
    """Return the utterances that ingest names as examples: kind (rejected, warning), name of the reason, id."""
    rows = [
        {"kind": kind, "name": name, "utterance_id": utterance}
        for kind, key in (("rejected", "reject_examples"), ("warning", "warning_examples"))
        for name, ids in quality.get(key, {}).items()
        for utterance in ids
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "utterance_id"])


def histogram_table(quality: Mapping[str, Any]) -> pd.DataFrame:
    """Return the ingest's histograms: measure, low and high edge (NaN: open, as earlier releases counted), n."""
    rows = []
    for measure, histogram in quality.get("histograms", {}).items():
        edges, counts = histogram["edges"], histogram["counts"]
        for index, n in enumerate(counts):
            high = edges[index + 1] if index + 1 < len(edges) else math.nan
            rows.append({"measure": measure, "low": edges[index], "high": high, "n": n})
    return pd.DataFrame(rows, columns=["measure", "low", "high", "n"])


def data_views(frames: Mapping[str, pd.DataFrame]) -> list[View]:
    """Return the views of these tables, of what is missing, and of the provenance."""
    counts = {
        name: Column(key=name, label=gettext(name), kind="count")
        for name in (N_("utterances"), N_("speakers"), N_("sentences"), N_("hours"), "n")
    }
    texts = {
        name: Column(key=name, label=gettext(name), words=True)
        for name in (
            *(N_("part"), N_("field"), N_("value"), N_("values"), N_("kind"), N_("name")),
            *(N_("fields"), N_("first"), N_("second")),
        )
    }
    shares = [
        Column(key=name, label=gettext(name), kind="percent")
        for name in (N_("corpus"), N_("train"), N_("valid"), N_("test"))
    ]
    layout = _split_layout(counts, texts, shares) | _quality_layout(counts, texts)
    layout["missing"] = (
        gettext("What the figures leave out, each with its reason."),
        [Column(key="what", label=gettext("left out")), Column(key="reason", label=gettext("reason and remedy"))],
    )
    layout["provenance"] = (gettext("What the figures rest on."), [texts["name"], texts["value"]])
    shown = dict(frames)
    shown["quality_pairs"] = shown["quality_pairs"].assign(fields=shown["quality_pairs"]["fields"].map(name_fields))
    shown["quality"] = shown["quality"].assign(meaning=shown["quality"]["name"].map(REJECTS | DOUBTS).fillna(""))
    shown["split_merged"] = shown["split_merged"].assign(values=shown["split_merged"]["values"].map(_name_values))
    return [
        View(name=name, caption=text, columns=columns, rows=shown[name]) for name, (text, columns) in layout.items()
    ]


def _name_values(joined: str) -> str:
    """Return values that `merged_table` joined, in the language in use."""
    return _JOIN.join(map(translate_stored, joined.split(_JOIN)))


_Layout = dict[str, tuple[str, list[Column]]]


def _split_layout(counts: Mapping[str, Column], texts: Mapping[str, Column], shares: list[Column]) -> _Layout:
    distance = [
        Column(key="max_deviation", label=gettext("largest deviation"), kind="spread"),
        Column(key="total_variation", label=gettext("total variation"), kind="percent"),
        Column(key="chi_square", label=gettext("chi-square"), kind="number"),
        Column(key="dof", label=gettext("degrees of freedom"), kind="count"),
    ]
    sums = [counts[name] for name in ("utterances", "speakers", "sentences", "hours")]
    field = texts["field"]
    return {
        "split_parts": (gettext("The parts."), [texts["part"], *sums]),
        "split_shares": (
            gettext("Share of each value in the corpus and in the parts."),
            [field, texts["value"], *shares],
        ),
        "split_merged": (
            gettext("Rare values taken together, with the share of all of them."),
            [field, texts["values"], *shares],
        ),
        "split_distance": (
            gettext("Distance of each part's shares from the corpus's."),
            [field, texts["part"], *distance],
        ),
    }


def _quality_layout(counts: Mapping[str, Column], texts: Mapping[str, Column]) -> _Layout:
    kind, name, sums = texts["kind"], texts["name"], [counts["n"], counts["hours"]]
    meaning = Column(key="meaning", label=gettext("meaning"), words=True)
    return {
        "quality": (gettext("What ingest counted; labels = usable + rejected."), [kind, name, meaning, counts["n"]]),
        "quality_fields": (gettext("Usable utterances by field."), [texts["field"], texts["value"], *sums]),
        "quality_pairs": (
            gettext("Usable utterances by pairs of fields."),
            [texts["fields"], texts["first"], texts["second"], *sums],
        ),
        "quality_examples": (
            gettext(
                "Examples of what was rejected or warned of; rejects.csv of the ingest has all rejects with their "
                "details."
            ),
            [kind, name, Column(key="utterance_id", label=gettext("utterance"))],
        ),
    }


_KINDS = (N_("total"), N_("rejected"), N_("warning"), N_("labels"), N_("usable"))
"""Kinds and names of counts that the tables show as words, for the catalogue."""
