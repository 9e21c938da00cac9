"""What a transcript says in numbers: values with their units, and which of them two transcripts share."""

import dataclasses
from collections.abc import Sequence

_SHORT_FOR = {"밀리": ("mg", "ml", "mm"), "킬로": ("kg", "km")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a text.

    Attributes
    ----------
    value : str
        Digits without a sign: ``38.5``, a range as ``2~3``, a fraction as ``1/2``; empty where it is ambiguous.
    unit : str
        A sign of ``counters.UNITS`` or the counter as written (``번``), empty without one.
    sign : str
        ``-`` below zero, else empty.
    start, end : int
        Place of the phrase in the text of ``canonical_numbers``; 세 시 반 is one phrase of two quantities.
    alternatives : tuple of Quantity
        What an ambiguous phrase may mean (이십 일: 21, or 20 days), the number's other attributes being empty.
    """

    value: str
    unit: str = ""
    sign: str = ""
    start: int = 0
    end: int = 0
    alternatives: tuple["Quantity", ...] = ()

    @property
    def is_ambiguous(self) -> bool:
        """More than one reading is left."""
        return bool(self.alternatives)

    @property
    def meanings(self) -> frozenset[tuple[str, str, str]]:
        """Sign, value and unit of each reading; a 밀리 may be of a gram, a litre or a metre."""
        readings = self.alternatives or (self,)
        return frozenset((q.sign, q.value, unit) for q in readings for unit in (q.unit, *_SHORT_FOR.get(q.unit, ())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A stretch of text that holds numbers: where it ends, its one form, and its quantities."""

    end: int
    form: str
    quantities: tuple[Quantity, ...]

    @property
    def counter(self) -> str:
        """Unit of the last quantity."""
        return self.quantities[-1].unit


def quantity_reading(end: int, value: str, unit: str = "", *, sign: str = "") -> Reading:
    """Return the reading of one quantity in its usual form."""
    return Reading(end=end, form=sign + value + unit, quantities=(Quantity(value=value, unit=unit, sign=sign),))


def ambiguous_reading(text: str, at: int, end: int, *meanings: tuple[str, str]) -> Reading:
    """Return a reading that leaves the text as it is; meanings are pairs of value and unit."""
    alternatives = tuple(Quantity(value=value, unit=unit) for value, unit in meanings)
    return Reading(end=end, form=text[at:end], quantities=(Quantity(value="", alternatives=alternatives),))


def count_shared(reference: Sequence[Quantity], hypothesis: Sequence[Quantity]) -> int:
    """Return how many of the reference's quantities the hypothesis has in the same order, each used once.

    This is the length of the longest common subsequence; an ambiguous quantity equals any that it may mean.
    """
    row = [0] * (len(hypothesis) + 1)
    for said in reference:
        diagonal = 0
        for place, heard in enumerate(hypothesis, start=1):
            above = row[place]
            equal = not said.meanings.isdisjoint(heard.meanings)
            row[place] = diagonal + 1 if equal else max(above, row[place - 1])
            diagonal = above
    return row[-1]
