"""Methods of a model's layers, exchanged for a time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def patched_methods(
    modules: Sequence[torch.nn.Module], name: str, make: Callable[[Any], Callable[..., Any]]
) -> Iterator[None]:
    """Give each module a method of its own, ``make(module)``, and at the end let the class's own show again."""
    for module in modules:
        setattr(module, name, make(module))
    try:
        yield
    finally:
        for module in modules:
            delattr(module, name)
