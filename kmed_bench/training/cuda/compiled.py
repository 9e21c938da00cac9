"""Whisper's blocks compiled by torch.compile, which fuses what lies between matrix products and attention."""

import functools
import logging
import shutil
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

Block = Callable[..., torch.Tensor]


def can_compile() -> bool:
    """Return whether torch.compile finds what it needs for a GPU: Triton and a C compiler."""
    compilers = ("cc", "gcc", "clang")
    return torch.utils._triton.has_triton() and any(shutil.which(name) for name in compilers)


@functools.cache
def compile_block(block: Block) -> Block:
    """Return a block's function compiled; it runs as written from the first failure to compile on."""
    # The number of tokens varies; the audio's positions and all widths don't within a training.
    compiled, failed = torch.compile(block, dynamic=None), False

    @functools.wraps(block)
    def run(*args: Any) -> torch.Tensor:
        nonlocal failed
        if not failed:
            try:
                return compiled(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                failed = True
                log.warning(f"torch.compile failed ({type(error).__name__}); blocks run as written, some 10 % slower.")
        return block(*args)

    return run
