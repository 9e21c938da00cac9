"""What a setting is made of: its kind, its limits, and the mark that names what it decides."""

import dataclasses
import enum
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field

T = TypeVar("T")

FORBID = ConfigDict(extra="forbid")


class Decides(enum.Flag):
    """What a setting decides. Each one carries exactly one such mark; every digest derives from the marks."""

    DATA = enum.auto()
    """Which utterances are usable and which part of the split they go to."""
    BENCHMARK = enum.auto()
    """Which trainings a benchmark consists of, and on what they are measured."""
    TRAINING = enum.auto()
    """Weights. A setting that changes the CER by which epochs are selected belongs here as well."""
    DECODING = enum.auto()
    """Transcripts."""
    SCORING = enum.auto()
    """Figures computed from transcripts."""
    SEARCH = enum.auto()
    """Which trials a study runs, and how they are compared."""
    CURVE = enum.auto()
    """Which speakers the subsets of a learning curve have."""
    NOTHING = 0
    """No result: only how, where or how fast it is computed. May change when a run is resumed."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def group(cls: type[T]) -> type[T]:
    """Return a class as a frozen dataclass of settings that refuses unknown names.

    Raises
    ------
    TypeError
        When a setting does not carry exactly one mark of ``Decides``.
    """
    cls.__pydantic_config__ = FORBID  # type: ignore[attr-defined]
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    marks(made)
    return made


def marks(cls: type) -> dict[str, Decides]:
    """Return what each setting of a group decides; a group within it is left out."""
    hints = get_type_hints(cls, include_extras=True)
    found: dict[str, Decides] = {}
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        own = [item for item in getattr(hints[field.name], "__metadata__", ()) if isinstance(item, Decides)]
        if len(own) != 1:
            raise TypeError(f"{cls.__name__}.{field.name} carries {len(own)} marks of Decides; a setting needs one.")
        found[field.name] = own[0]
    return found


def split_commas(value: Any) -> Any:
    """Return the list that ``tiny,base`` or a single ``3`` stands for; ``none`` is the empty one."""
    if isinstance(value, str):
        return tuple(v.strip() for v in value.split(",") if v.strip() and v.strip().lower() != "none")
    if isinstance(value, (int, float)):
        return (value,)
    return value


def none_word(value: Any) -> Any:
    """Return None for the word ``none``."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value


NONE = BeforeValidator(none_word)
LIST = BeforeValidator(split_commas)
Names = Annotated[tuple[str, ...], LIST]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], LIST]
Speeds = Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], LIST]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Context = Literal["full", "dynamic"]
