"""What counts as one sentence, one recording, and one split: by content, not by id.

Labels write one prompt in several ways, and one recording can have several ids. Neither may be in two parts.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd
from rapidfuzz.distance import Levenshtein

from kmed_bench.core.schema import AUDIO_DIGEST, MANIFEST_COLUMNS, PARTS, UNKNOWN
from kmed_bench.text.marks import resolve_marks
from kmed_bench.text.numbers import canonical_numbers

_PROMPT = re.compile(r"[A-Z]{2}_\d+-(\d+)-")
_DOTS = str.maketrans("", "", "\u318d\u119e")  # araea is written for the middle dot, and Unicode counts it as a letter
_SAME_PROMPT = 0.25
"""Largest share of letters in which two spellings of one prompt number may differ; beyond it they are two texts."""
_MOST_SPELLINGS = 50
"""Most texts of one prompt number; where there are more, the numbers do not identify prompts."""
_MIN_LETTERS = 6
"""Fewest letters of sentences that are compared by letters; shorter ones are often one letter apart by chance."""


def join_spellings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with one ``sentence_id``, the lowest, for all spellings of a sentence.

    Spellings are one sentence if they are equal once numbers are digits and only letters and digits are left, or if
    they have a prompt number of the download in common and differ in at most a quarter of their letters.
    """
    one = table.drop_duplicates(["sentence_id", "text"])
    spelled = dict(zip(one["sentence_id"], map(spelling, one["text"]), strict=True))
    joined = _Joined()
    first: dict[str, str] = {}
    for name in sorted(spelled):
        joined.add(name, first.setdefault(spelled[name] or name, name))
    prompts = table["utterance_id"].str.extract(_PROMPT, expand=False)
    pairs = pd.DataFrame({"prompt": prompts, "sentence": table["sentence_id"]}).dropna().drop_duplicates()
    for _, names in pairs.groupby("prompt")["sentence"]:
        if 1 < len(names) <= _MOST_SPELLINGS:
            for name, other in _near(sorted(names), spelled):
                joined.add(name, other)
    return table.assign(sentence_id=table["sentence_id"].map(joined.lowest))


def spelling(text: str) -> str:
    """Return a label's letters and digits, numbers as digits, lower case: equal for most spellings of a sentence."""
    text = canonical_numbers(resolve_marks(unicodedata.normalize("NFKC", text.translate(_DOTS)), "pronunciation"))
    return "".join(character for character in text.casefold() if character.isalnum())


def _near(names: Sequence[str], spelled: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each name with the first one before it whose spelling is near."""
    for at, name in enumerate(names):
        for other in names[:at]:
            longest = max(len(spelled[name]), len(spelled[other]))
            if Levenshtein.distance(spelled[name], spelled[other]) <= _SAME_PROMPT * longest:
                yield name, other
                break


class _Joined:
    """Names joined into groups (union-find); each group is named after its lowest member."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def lowest(self, name: str) -> str:
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name

    def add(self, a: str, b: str) -> None:
        low, high = sorted((self.lowest(a), self.lowest(b)))
        self._parent[high] = low


def mark_repeats(table: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows repeat a recording of another row and must not be used.

    Of rows with equal recording, speaker and sentence the first one is used. Where speaker or sentence differ, one of
    the labels is wrong, and none of the rows is used.
    """
    known = _recordings(table)
    if known is None:
        return pd.Series(False, index=table.index)
    shared = known.notna() & known.duplicated(keep=False)
    rows = pd.DataFrame({"recording": known, "label": table["speaker_id"] + "\t" + table["sentence_id"]})[shared]
    agree = rows.groupby("recording")["label"].transform("nunique") == 1
    used = agree & ~rows["recording"].duplicated()
    return shared & ~used.reindex(table.index, fill_value=False)


def count_recordings(parts: Mapping[str, pd.DataFrame]) -> int | None:
    """Return how many recordings are in more than one part; None if the manifest does not tell recordings apart."""
    found = [_recordings(parts[part]) for part in PARTS]
    if any(one is None for one in found):
        return None
    held = pd.concat([pd.Series(one.dropna().unique()) for one in found if one is not None])
    return int((held.value_counts() > 1).sum())


def holds_recordings(rows: pd.DataFrame, others: Sequence[pd.DataFrame]) -> "pd.Series[bool]":
    """Return which rows hold a recording that one of the other tables holds too; none where that can't be told."""
    own, held = _recordings(rows), [found for table in others if (found := _recordings(table)) is not None]
    if own is None or not held:
        return pd.Series(False, index=rows.index)
    return own.notna() & own.isin(pd.concat(held).dropna())


def _recordings(table: pd.DataFrame) -> "pd.Series[str] | None":
    if AUDIO_DIGEST not in table:
        return None
    return table[AUDIO_DIGEST].where(~table[AUDIO_DIGEST].isin(UNKNOWN))


def count_near(parts: Mapping[str, pd.DataFrame]) -> int:
    """Return how many sentences of valid and test differ from one of an earlier part in a single letter or digit.

    They may be one prompt with a typing error, or two prompts. Found by what is left when one letter is taken away
    (Bocek et al. 2007, "Fast similarity search in large dictionaries").
    """
    seen: dict[str, set[str]] = defaultdict(set)
    near = 0
    for part in PARTS:
        texts = sorted({made for text in parts[part]["text"].unique() if len(made := spelling(text)) >= _MIN_LETTERS})
        keys = {text: {text, *(text[:i] + text[i + 1 :] for i in range(len(text)))} for text in texts}
        near += sum(
            any(Levenshtein.distance(text, other) == 1 for key in keys[text] for other in seen.get(key, ()))
            for text in texts
        )
        for text in texts:
            for key in keys[text]:
                seen[key].add(text)
    return near


class Columns(Protocol):
    """A table whose columns are read one after the other: a data frame, or one that is too long for memory."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __contains__(self, name: Any, /) -> bool:
        """Return whether the table has a column."""

    def __getitem__(self, name: str, /) -> Iterable[Any]:
        """Return a column's values: text as str, numbers as Python's."""


def content_digest(parts: Mapping[str, Columns]) -> str:
    """Return the SHA-256 of everything in a split that decides figures: every column but the audio's location.

    ``audio_digest``, which tells recordings apart, is left out of parts that lack it.
    """
    total = hashlib.sha256()
    for part in PARTS:
        table = parts[part]
        for name in (*MANIFEST_COLUMNS, AUDIO_DIGEST):
            if name != "audio" and name in table:
                total.update(f"{part}\t{name}\t{len(table)}\n".encode())
                column = table[name]
                for value in column.tolist() if isinstance(column, pd.Series) else column:
                    encoded = repr(value).encode("utf-8", "backslashreplace")
                    total.update(b"%d:" % len(encoded) + encoded)
    return total.hexdigest()
