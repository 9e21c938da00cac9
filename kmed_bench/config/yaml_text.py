"""YAML of profiles and search spaces: no key twice, no aliases that multiply, and the line of each setting."""

import re
from typing import Any

import yaml

MAX_BYTES = 1 << 20
"""Size of the largest file or text of settings that is read."""
_MAX_NODES = 10_000
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


def parse_yaml(text: str) -> tuple[Any, dict[str, int]]:
    """Return a YAML text's value, and the line of each key of its first two levels, such as ``train.lr``.

    Raises
    ------
    ValueError
        When it is not YAML, has a key twice, has a number in base 8 or 60, or is larger or deeper than settings are.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text):,} characters, and settings have at most {MAX_BYTES:,}")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            if _count(node, {}) > _MAX_NODES:
                raise ValueError(f"its aliases stand for more than {_MAX_NODES:,} values")
            _refuse_other_bases(node)
            return loader.construct_document(node), _find_lines(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # a number or a date out of range, say
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply; settings have two levels") from None


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node stands for with its aliases written out; infinity if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]


def _refuse_other_bases(node: yaml.Node) -> None:
    """Raise ValueError for 010 and 1:30, which YAML 1.1 reads as 8 and 90; the node holds itself nowhere."""
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _refuse_other_bases(part)
    elif node.tag.endswith((":int", ":float")) and (":" in node.value or _OCTAL.fullmatch(node.value)):
        raise ValueError(
            f"line {node.start_mark.line + 1} has {node.value[:40]!r}, a number in base 8 or 60; write it in base 10, "
            "or in quotes as text"
        )


def _find_lines(node: yaml.Node, above: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{above}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ValueError(f"the key {name!r:.80} is there twice, in line {lines[name]} and in line {line}")
        lines[name] = line
        if not above:
            lines |= _find_lines(value, f"{name}.")
    return lines
