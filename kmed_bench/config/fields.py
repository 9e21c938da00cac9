"""Kinds of settings: how texts of the command line and of YAML become values, and their limits."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field


def split_commas(value: Any) -> Any:
    """Let ``-P sizes=tiny,base`` and a lone ``-P seeds=3`` mean lists; ``none`` is the empty one."""
    if isinstance(value, str):
        return tuple(v.strip() for v in value.split(",") if v.strip() and v.strip().lower() != "none")
    if isinstance(value, (int, float)):
        return (value,)
    return value


def none_word(value: Any) -> Any:
    """Let ``none`` on the command line mean None."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value


Names = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], BeforeValidator(split_commas)]
Speeds = Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], BeforeValidator(split_commas)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Context = Literal["full", "dynamic"]
FORBID = ConfigDict(extra="forbid")
