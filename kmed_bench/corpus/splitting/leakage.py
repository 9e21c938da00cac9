"""What a split's parts share with one another, and how far they are from the corpus."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from kmed_bench.core.schema import GROUP_FIELDS, PARTS, UNKNOWN
from kmed_bench.corpus.splitting.identity import Columns, count_recordings, join_spellings
from kmed_bench.corpus.splitting.quotas import count_values

UNKNOWN_SPEAKERS = "speakers_unknown"


def split_digest(parts: Mapping[str, Columns]) -> str:
    """Return the SHA-256 of the three parts' utterance ids, in their order, with the part's name before each."""
    total = hashlib.sha256()
    for part in PARTS:
        for utterance in parts[part]["utterance_id"]:
            total.update(f"{part}\t{utterance}\n".encode())
    return total.hexdigest()


def count_leaks(parts: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """Return how many speakers, sentences, utterances and recordings are in more than one part.

    Spellings of one sentence are one. Recordings are left out where the manifest does not tell them apart. Where
    utterances have no known speaker, their number is ``speakers_unknown``: their speakers may be in several parts.
    """
    whole = join_spellings(pd.concat([parts[part].assign(part=part) for part in PARTS], ignore_index=True))
    leaks = {}
    unknown = whole["speaker_id"].isin(UNKNOWN)
    for name, column in (("speakers", "speaker_id"), ("sentences", "sentence_id"), ("utterances", "utterance_id")):
        known = whole[~unknown] if name == "speakers" else whole
        leaks[name] = int((known.groupby(column)["part"].nunique() > 1).sum())
    recordings = count_recordings(parts)
    leaks |= {} if recordings is None else {"recordings": recordings}
    return leaks | ({UNKNOWN_SPEAKERS: int(unknown.sum())} if unknown.any() else {})


def name_leaks(leaks: Mapping[str, int]) -> str:
    """Return ``disjoint``, or ``leaking`` with what leaks: the label under which a split's figures are shown.

    Unknown speakers count as leaking: nothing shows that they are not in several parts.
    """
    leaking = [name for name, n in leaks.items() if n and name != UNKNOWN_SPEAKERS]
    if leaks.get(UNKNOWN_SPEAKERS):
        leaking.append("unknown speakers")
    return f"leaking {', '.join(leaking)}" if leaking else "disjoint"


def count_shares(corpus: pd.DataFrame, parts: Mapping[str, pd.DataFrame], fields: Sequence[str]) -> dict[str, Any]:
    """Return {field: {value: {corpus, train, valid, test}}}, shares as fractions, the commonest value first."""
    tables = {"corpus": corpus, **{part: parts[part] for part in PARTS}}
    shares: dict[str, Any] = {}
    for field in dict.fromkeys((*fields, *GROUP_FIELDS)):
        counted = {name: count_values(table[field]) for name, table in tables.items()}
        values = sorted(counted["corpus"], key=lambda v: (-counted["corpus"][v], v))
        shares[field] = {
            value: {name: counted[name].get(value, 0) / max(1, len(table)) for name, table in tables.items()}
            for value in values
        }
    return shares


def measure_distance(shares: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return {field: {part: {max_deviation, total_variation, chi_square, dof, p}}} of each part from the corpus.

    chi_square is Pearson's statistic against the corpus's shares, dof its degrees of freedom, p its
    upper tail. Where p is near 1 the part fits better than chance would; the utterances of one
    speaker are not independent draws, so p is a scale and not a test. total_variation is half the
    sum of the absolute differences: the fraction that would have to change its value.
    """
    distance: dict[str, Any] = {}
    for field, values in shares.items():
        corpus = np.array([row["corpus"] for row in values.values()])
        distance[field] = {}
        for part in PARTS:
            gap = np.array([row[part] for row in values.values()]) - corpus
            chi_square = float((gap**2 / corpus).sum()) * sizes[part]
            dof = len(values) - 1
            distance[field][part] = {
                "max_deviation": float(np.abs(gap).max()),
                "total_variation": float(np.abs(gap).sum() / 2),
                "chi_square": chi_square,
                "dof": dof,
                "p": float(special.chdtrc(dof, chi_square)) if dof else 1.0,
            }
    return distance


def describe_parts(parts: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return {part: {utterances, speakers, sentences, hours}}."""
    return {
        part: {
            "utterances": len(table),
            "speakers": int(table.loc[~table["speaker_id"].isin(UNKNOWN), "speaker_id"].nunique()),
            "sentences": int(table["sentence_id"].nunique()),
            "hours": round(float(table["duration_s"].sum()) / 3600, 4),
        }
        for part, table in ((part, parts[part]) for part in PARTS)
    }
