"""The clips of an error page: what each shows, and the filters that choose among them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import pandas as pd

from kmed_bench.core.language import N_, gettext
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS, SCORE_FIELDS, UNKNOWN
from kmed_bench.report.interlinear import Word, align_by_word
from kmed_bench.scoring.analysis import KINDS, ErrorAnalysis
from kmed_bench.scoring.compare import pair_counts
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.text.marks import Policy
from kmed_bench.text.normalise import normalise

_NO_ERROR = "none"
_KIND_LABELS = {
    "substitution": N_("Substitution"),
    "deletion": N_("Deletion"),
    "insertion": N_("Insertion"),
    "hallucination": N_("Loop or hallucination"),
    "number": N_("Number missed"),
    "term": N_("Medical term missed"),
    _NO_ERROR: N_("No error"),
}
_VERSUS_LABELS = {"fewer": N_("fewer errors"), "same": N_("as many errors"), "more": N_("more errors")}
_FIELD_LABELS = {
    "dialect": N_("Dialect"),
    "gender": N_("Gender"),
    "age": N_("Age"),
    "role": N_("Role"),
    "code_switching": N_("Code switching"),
}
_SIGN_LABELS = {
    "loop": N_("loop"),
    "rate": N_("speaking rate"),
    "credit": N_("credit"),
    "script": N_("another script"),
    "silence": N_("silence"),
}


class Choice(NamedTuple):
    """One entry of a filter: the word that a clip's tags hold, its name, and how many clips have it."""

    tag: str
    label: str
    n: int


class Filter(NamedTuple):
    """A list to choose from; its entries stand under headings, of which a single one is empty."""

    name: str
    label: str
    choices: dict[str, list[Choice]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """A second system's predictions of the same utterances, and what the page calls it."""

    predictions: Sequence[Prediction]
    name: str = "other"


def list_clips(
    analysis: ErrorAnalysis, beside: Beside | None, of: Sequence[Prediction], policy: Policy
) -> pd.DataFrame:
    """Return every clip of the page, worst first: the scored ones, and those in whose silence speech was invented.

    An invention has as many errors as its characters and no rate. With a second system, the columns ``beside`` and
    ``beside_errors`` have its normalised texts and its errors.

    Raises
    ------
    KmedError
        When the second system's utterances or references are not those of ``of``.
    """
    clips = analysis.clips
    if len(analysis.silence):
        n_invented = analysis.silence["hypothesis"].str.replace(" ", "").str.len()
        silent = analysis.silence.assign(errors=n_invented, errors_resolved=n_invented, length=0, cer=float("nan"))
        silent = silent.assign(signs="silence", kinds="hallucination", code_switching="none")
        blank = dict.fromkeys(("accepted", "terms", "missed_terms", "reference"), "")
        clips = pd.concat([part for part in (clips, silent.assign(**blank)) if len(part)], ignore_index=True)
    clips = clips.sort_values(["errors", "cer", "utterance_id"], ascending=[False, False, True], ignore_index=True)
    if beside is None:
        return clips
    _, other = pair_counts(count_utterances(of, policy), count_utterances(beside.predictions, policy), "cer_length")
    texts = {p.utterance_id: normalise(p.hypothesis, keep_spaces=True) for p in beside.predictions}
    clips["beside"] = clips["utterance_id"].map(texts)
    invented = clips["beside"].str.replace(" ", "").str.len()
    found = clips["utterance_id"].map(other["cer_errors"])
    return clips.assign(beside_errors=found.where(clips["length"] > 0, invented).astype(int))


def list_filters(clips: pd.DataFrame, beside: str | None) -> tuple[list[Filter], list[str]]:
    """Return the filters of these clips, and each clip's tags, separated by spaces.

    Filters are the kinds of errors, the medical terms said and missed, the group fields in which the clips differ,
    and with a second system whether it has fewer or more errors.
    """
    tags: list[list[str]] = [[] for _ in range(len(clips))]

    def choices(name: str, values: Sequence[Sequence[str]], labels: Mapping[str, str] | None = None) -> list[Choice]:
        counts = Counter(value for row in values for value in row)
        order = [value for value in labels if counts[value]] if labels is not None else sorted(counts)
        names = {value: f"{name}-{place}" for place, value in enumerate(order)}
        for own, row in zip(tags, values, strict=True):
            own.extend(names[value] for value in row)
        return [Choice(names[value], gettext((labels or {}).get(value, value)), counts[value]) for value in order]

    kinds = [text.split() or [_NO_ERROR] for text in clips["kinds"]]
    filters = [Filter("kind", gettext("Kind of error"), {"": choices("kind", kinds, _KIND_LABELS)})]
    terms = {
        gettext(label): choices(name, _split(clips[name]))
        for label, name in ((N_("Missed"), "missed_terms"), (N_("Said"), "terms"))
    }
    filters.append(Filter("term", gettext("Medical term"), {label: found for label, found in terms.items() if found}))
    for field in SCORE_FIELDS:
        values = [["N/A" if value in UNKNOWN else value] for value in clips[field]]
        filters.append(Filter(field, gettext(_FIELD_LABELS[field]), {"": choices(field, values)}))
    if beside is not None:
        pairs = zip(clips["beside_errors"], clips["errors"], strict=True)
        versus = [["fewer" if b < a else "more" if b > a else "same"] for b, a in pairs]
        filters.append(
            Filter("versus", gettext("{beside} has", beside=beside), {"": choices("versus", versus, _VERSUS_LABELS)})
        )
    useful = [one for one in filters if one.name not in SCORE_FIELDS or len(one.choices[""]) > 1]
    return [one for one in useful if one.choices], [" ".join(own) for own in tags]


def _split(column: "pd.Series[str]") -> list[list[str]]:
    return [list(dict.fromkeys(filter(None, text.split("; ")))) for text in column]


def describe_clips(clips: pd.DataFrame, tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the page: the columns of the clips, their tags, kinds in words, and words aligned."""
    rows = cast(list[dict[str, Any]], clips.to_dict("records"))
    return [
        {
            **row,
            "tags": own,
            "kinds": {kind: gettext(_KIND_LABELS[kind]) for kind in KINDS if kind in row["kinds"].split()},
            "signs": ", ".join(gettext(_SIGN_LABELS[sign]) for sign in row["signs"].split()),
            "groups": [gettext(row[field]) for field in GROUP_FIELDS if row[field] not in UNKNOWN],
            "words": _align(row),
        }
        for row, own in zip(rows, tags, strict=True)
    ]


def _align(row: Mapping[str, Any]) -> list[Word]:
    return align_by_word(row["reference"], [row[name] for name in ("hypothesis", "beside") if name in row])
