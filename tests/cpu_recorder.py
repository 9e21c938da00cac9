"""A recorder of a CPU's operations: what `CudaRecorder` does with a GPU's kernels, so that recorded steps run here.

It is as strict as CUDA's, for the same reason: a recording repeats operations on the same memory, so what Python
computed or chose between them is repeated too. CUDA computes nothing while it records; here the operations do run, and
what they changed outside the recording is put back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from host_reads import reads_values
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Tensors = tuple[torch.Tensor, ...]


class Operations(TorchDispatchMode):
    """Keeps each operation with its arguments and results, and what memory held before it was first written to."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []
        self._made = set[int]()  # addresses of storages that operations in here have made
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if reads_values(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func} reads a value")
        if func.overloadpacket.__name__ == "lift_fresh":
            raise RuntimeError("operation not permitted when stream is capturing: a tensor is copied from Python")
        for tensor in written(func, args, kwargs):
            place = storage_of(tensor)
            if place not in self._made and place not in self._before:
                self._before[place] = (tensor.detach(), tensor.detach().clone())
        result = func(*args, **kwargs)
        read = {storage_of(tensor) for tensor in tensors_of((args, kwargs))}
        self._made |= {storage_of(tensor) for tensor in tensors_of(result)} - read
        self.kept.append((func, args, kwargs, result))
        return result

    def undo(self) -> None:
        """Put back what was written to from outside."""
        for target, value in self._before.values():
            target.copy_(value)

    def replay(self) -> None:
        """Repeat all operations, each result in the memory of the first one."""
        with torch.no_grad():
            for func, args, kwargs, result in self.kept:
                again = func(*args, **kwargs)
                for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if storage_of(old) != storage_of(new):
                        old.detach().copy_(new)


def tensors_of(values: Any) -> list[torch.Tensor]:
    """Return all tensors in nested values."""
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def storage_of(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's storage."""
    return tensor.untyped_storage().data_ptr()


def written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors that an operation writes to by its schema."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors_of(args[i] if i < len(args) else kwargs.get(argument.name))
    return found


class CpuRecorder:
    """Records operations on a CPU.

    Attributes
    ----------
    n_replays : int
        How often a recording was repeated.
    """

    def __init__(self) -> None:
        self.n_replays = 0

    def rehearse(self, function: Callable[..., Any], inputs: Tensors) -> None:
        """Call a function."""
        function(*inputs)

    def record(self, function: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], Any], Tensors]:
        """Return what repeats a function's operations, and its outputs."""
        operations = Operations()
        try:
            with operations:
                outputs = function(*inputs)
        finally:
            operations.undo()

        def replay() -> None:
            self.n_replays += 1
            operations.replay()

        return replay, outputs

    def forget(self) -> None:
        """Give up nothing: recordings own their memory."""
