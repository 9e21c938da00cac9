"""Settings read and written: defaults < profile < overrides; an unknown key is an error."""

import dataclasses
import difflib
import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from kmed_bench.config.settings import Config
from kmed_bench.config.yaml_text import MAX_BYTES, parse_yaml
from kmed_bench.core.errors import KmedError
from kmed_bench.core.fields import show_steps

_KEY_CHARS = 120
PROFILES = ("demo", "original", "sound")
# Not aliases: the old name is an error that gives the new one.
RENAMED = {
    "train.accumulation": "train.micro_batches",
    "train.features": "features.dtype",
    "train.feature_budget_gib": "features.cache_gib",
    "eval.repetition_guard": "eval.no_repeat_ngram_size",
    "eval.policy": "data.transcript_side",
}


@functools.cache
def adapter() -> TypeAdapter[Config]:
    """Return what checks settings, built on first use: `--help` does without it."""
    return TypeAdapter(Config)


def load_config(profile: str = "sound", overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of a profile with overrides applied.

    Parameters
    ----------
    profile : str
        A name of ``PROFILES``, or a path to a YAML file with the same tree.
    overrides : mapping
        Dotted keys to values, such as ``{"train.lr": "1e-5"}``; texts are converted.

    Raises
    ------
    KmedError
        For an unknown profile, an unknown key or a value outside its limits.
    """
    tree, lines = _read_profile(profile)
    named = {key: f"{profile}, line {line}: " for key, line in lines.items()}
    return _build({**tree, "profile": Path(profile).stem}, overrides or {}, named)


def adjust(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return settings with some of them replaced, under the same checks as ``load_config``.

    Parameters
    ----------
    overrides : mapping
        Dotted keys to values, such as ``{"train.lr": 1e-5}``.

    Raises
    ------
    KmedError
        For an unknown key or a value outside its limits.
    """
    return _build(dataclasses.asdict(config), overrides)


def config_from_tree(tree: Mapping[str, Any]) -> Config:
    """Return the settings of a whole tree, as ``dataclasses.asdict`` gives it and JSON carries it."""
    return _build(dict(tree), {})


def _build(tree: dict[str, Any], overrides: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Config:
    for key, value in overrides.items():
        group, dot, name = key.partition(".")
        node = tree.setdefault(group, {})
        if not dot or not isinstance(node, dict):
            raise KmedError(explain_unknown(key))
        node[name] = value
    given = {key: place for key, place in (places or {}).items() if key not in overrides}
    try:
        config: Config = adapter().validate_python(tree)
    except ValidationError as error:
        raise KmedError(" ".join(_place(fault, given) + _explain(fault) for fault in error.errors())) from None
    _refuse_words_as_numbers(tree, config, given)
    return config


def _refuse_words_as_numbers(tree: Mapping[str, Any], config: Config, places: Mapping[str, str]) -> None:
    """Raise KmedError where yes, no or their like were given for a number: pydantic takes them for 1 and 0."""
    read = dataclasses.asdict(config)
    for group, node in tree.items():
        for name, value in node.items() if isinstance(node, dict) else ():
            if _has_truth(value) and not _has_truth(read[group][name]):
                raise KmedError(
                    f"{places.get(f'{group}.{name}', '')}{group}.{name} is {value!r:.200}: Input should be a number; "
                    "YAML reads yes, no, on and off as true and false."
                )


def _has_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(isinstance(one, bool) for one in value))


def _place(fault: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """Return the file and line of a setting, as the beginning of a sentence; empty for one of the command line."""
    return places.get(".".join(map(str, fault["loc"][:2])), "")


def _explain(fault: Mapping[str, Any]) -> str:
    key = show_steps(fault["loc"])
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return explain_unknown(key)
    return f"{key} is {fault['input']!r:.200}: {fault['msg']}."


def explain_unknown(key: str) -> str:
    """Return the message for a key that is not a setting: its new name, or similar ones."""
    if key in RENAMED:
        return f"{key!r} was renamed {RENAMED[key]!r}; use that name."
    key = key[:_KEY_CHARS]
    similar = difflib.get_close_matches(key, flatten(Config()), n=3, cutoff=0.7)
    meant = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"{key!r} is not a setting; {meant}`kmed-bench settings` lists all of them."


def _read_profile(profile: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a profile's settings, and the line of each."""
    if profile in PROFILES:
        text = (resources.files("kmed_bench") / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8")
    elif Path(profile).is_file():
        text = _read_utf8(Path(profile))
    else:
        raise KmedError(f"Profile {profile!r} is unknown; choose {', '.join(PROFILES)}, or give a YAML file's path.")
    try:
        tree, lines = parse_yaml(text)
        tree = {} if tree is None else tree
    except ValueError as error:
        raise KmedError(f"Profile {profile} is not valid YAML: {error}.") from None
    if not isinstance(tree, dict):
        raise KmedError(f"Profile {profile} must be a YAML mapping of settings; it is a {type(tree).__name__}.")
    if odd := [key for key in tree if not isinstance(key, str)]:
        raise KmedError(f"Profile {profile} has the key {odd[0]!r:.80}; write groups of settings, such as train.")
    # None: a group whose lines are all comments.
    return {key: {} if node is None else node for key, node in tree.items()}, lines


def _read_utf8(path: Path) -> str:
    if (n_bytes := path.stat().st_size) > MAX_BYTES:
        raise KmedError(
            f"Profile {path} has {n_bytes:,} bytes, and settings have at most {MAX_BYTES:,}; check the path."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise KmedError(f"Profile {path}, line {line} is not UTF-8 ({error.reason}); save it as UTF-8.") from None


def flatten(config: Config) -> dict[str, Any]:
    """Return dotted keys to values, lists joined by commas, in the tree's order."""

    def walk(prefix: str, node: Any) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                flat |= walk(f"{prefix}{field.name}.", value)
            elif isinstance(value, Mapping):
                flat[prefix + field.name] = json.dumps(value, default=dataclasses.asdict)
            else:
                flat[prefix + field.name] = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
        return flat

    return walk("", config)


def to_yaml(config: Config) -> str:
    """Return the whole tree as YAML that ``load_config`` reads back as a profile file."""
    tree = json.loads(json.dumps(dataclasses.asdict(config)))
    del tree["profile"]
    text: str = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    return text
