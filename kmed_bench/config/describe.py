"""What the settings say of themselves, for `--help`, `kmed-bench settings` and docs/settings.md."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby, pairwise
from typing import Any

from kmed_bench.config import curve, gate, settings, slurm, tune
from kmed_bench.config.fields import marks
from kmed_bench.config.load import adapter, flatten, load_config
from kmed_bench.config.settings import Config

_KINDS = {"integer": "whole number", "number": "number", "string": "text", "object": "YAML mapping"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting in words."""

    meaning: str  # the text below its field, in one line
    kind: str  # type and limits
    choices: tuple[str, ...]  # all values that it takes; empty if they are not a few words
    default: str  # without any profile
    decides: str


@functools.cache
def setting_keys() -> tuple[str, ...]:
    """Return the dotted keys of all settings in the tree's order."""
    return tuple(key for key in flatten(Config()) if "." in key)


@functools.cache
def describe_settings() -> dict[str, Setting]:
    """Return all settings by dotted key, in the tree's order."""
    tree, docs, defaults = Config(), _docstrings(), shown_values(Config())
    schemas = adapter().json_schema()["$defs"]
    found: dict[str, Setting] = {}
    for key in setting_keys():
        group, name = key.split(".")
        kind = type(getattr(tree, group))
        schema = schemas[kind.__name__]["properties"][name]
        found[key] = Setting(
            meaning=docs[f"{kind.__name__}.{name}"],
            kind=_describe_kind(schema),
            choices=_choices(schema),
            default=defaults[key],
            decides=", ".join(str(mark.name).lower() for mark in marks(kind)[name]) or "nothing",
        )
    return found


def describe_group(group: str) -> str:
    """Return what a group of settings is about."""
    return inspect.cleandoc(type(getattr(Config(), group)).__doc__ or "")


def shown_values(config: Config) -> dict[str, str]:
    """Return the values by dotted key as a user would write them."""
    return {key: _show(value) for key, value in flatten(config).items()}


def _show(value: Any) -> str:
    return "none" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def _docstrings() -> dict[str, str]:
    """Return the texts below the fields by ``Class.field``; Python does not keep them."""
    bodies = [
        node for module in (settings, gate, tune, curve, slurm) for node in ast.parse(inspect.getsource(module)).body
    ]
    classes = [node for node in bodies if isinstance(node, ast.ClassDef)]
    return {
        f"{owner.name}.{field.target.id}": " ".join(text.value.value.split())
        for owner in classes
        for field, text in pairwise(owner.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _describe_kind(schema: Mapping[str, Any]) -> str:
    """Return a type and its limits in words, from a JSON schema."""
    if "anyOf" in schema:
        return _join(_describe_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return _join(schema["enum"])
    if schema["type"] == "null":
        return "none"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "array":
        return f"list of: {_describe_kind(schema['items'])}"
    kind = _KINDS[schema["type"]]
    if {"minimum", "maximum"} <= schema.keys():
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    limits = " and ".join(f"{sign} {schema[name]}" for name, sign in _LIMITS.items() if name in schema)
    return f"{kind} {limits}".rstrip()


def _choices(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words that a JSON schema allows; none if it also allows other values."""
    if "anyOf" in schema:
        each = [_choices(choice) for choice in schema["anyOf"]]
        return tuple(word for words in each for word in words) if all(each) else ()
    words = {"boolean": ("true", "false"), "null": ("none",)}.get(schema.get("type", ""), ())
    return tuple(map(str, schema.get("enum", words)))


def _join(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def profile_values(profiles: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return by dotted key the values of profiles that differ from the default, by the profile's name."""
    values = {config.profile: shown_values(config) for config in map(load_config, profiles)}
    return {
        key: {profile: shown[key] for profile, shown in values.items() if shown[key] != setting.default}
        for key, setting in describe_settings().items()
    }


def settings_text(labels: Mapping[str, str], profiles: Iterable[str], width: int, *, marks: bool = True) -> str:
    """Return settings in words as plain text, by group.

    Parameters
    ----------
    labels : mapping
        Dotted keys of the settings, in order, to what each is called.
    profiles : iterable of str
        Profiles whose values are shown where they differ from the default.
    marks : bool
        Whether to state what each setting decides.
    """
    lines: list[str] = []
    others = profile_values(profiles)
    for group, keys in groupby(labels, key=lambda key: key.partition(".")[0]):
        lines += ["", *textwrap.wrap(f"{group}: {describe_group(group)}", width)]
        for key in keys:
            setting = describe_settings()[key]
            facts = [f"default: {setting.default}", *(f"{name}: {value}" for name, value in others[key].items())]
            facts += [f"decides: {setting.decides}"] if marks else []
            head = f"{labels[key]}  [{setting.kind}]"
            lines += textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
            body = f"{setting.meaning} ({'; '.join(facts)})"
            lines += textwrap.wrap(
                body, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
            )
    return "\n".join(lines[1:])
