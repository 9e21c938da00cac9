"""Whisper's layers compiled by torch.compile, which fuses what lies between matrix products and attention."""

import functools
import logging
import shutil
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


def can_compile() -> bool:
    """Return whether torch.compile finds what it needs for a GPU: Triton and a C compiler."""
    compilers = ("cc", "gcc", "clang")
    return torch.utils._triton.has_triton() and any(shutil.which(name) for name in compilers)


@functools.cache
def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled; it runs as written from the first failure to compile on.

    The first shape is compiled as such, a second one for any number of tokens.
    """
    compiled, failed = torch.compile(function), False

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return compiled(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                failed = True
                log.warning(f"torch.compile failed ({type(error).__name__}); training goes on without it.")
        return function(*args)

    return run
