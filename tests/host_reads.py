"""What makes the host wait for a device: reading a tensor's value, or a shape that depends on values."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = ("_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "equal", "is_nonzero", "allclose")
OPERATIONS += ("_unique2", "unique_dim", "unique_consecutive", "bincount", "histc", "repeat_interleave")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")


def reads_values(func: Any, args: Sequence[Any]) -> bool:
    """Return whether an operation needs a tensor's values on the host."""
    name = func.overloadpacket.__name__
    indices = args[1] if name in INDEXING else ()
    # A tensor of flags as an index has as many results as flags that are set.
    return name in OPERATIONS or any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


class HostReads(TorchDispatchMode):
    """Counts what reads a tensor's values, while it is entered.

    Attributes
    ----------
    found : list of str
        The reads in their order, by the method or the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if reads_values(func, args):
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count operations, and the methods of tensors that are none."""

        def noted(name):
            method = getattr(torch.Tensor, name)

            def call(tensor, *args, **kwargs):
                self.found.append(name)
                return method(tensor, *args, **kwargs)

            return mock.patch.object(torch.Tensor, name, call)

        with contextlib.ExitStack() as stack:
            for name in METHODS:
                stack.enter_context(noted(name))
            stack.enter_context(self)
            yield


class Uploads(TorchDispatchMode):
    """Counts copies to the meta device, which stands for a GPU: its tensors have no values, so every read fails.

    torch has fused optimizers for devices that compute only, so their call is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.n_uploads = self.n_updates = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "_fused_adamw_":
            self.n_updates += 1
            return None
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_meta:
            self.n_uploads += any(isinstance(x, torch.Tensor) and not x.is_meta and x.dim() for x in args)
        return result


def move_to_meta(model: torch.nn.Module) -> None:
    """Put a model's tensors on the meta device, all but sparse ones, which it has none of."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(value.to("meta"), requires_grad=value.requires_grad))
        for name, value in module.named_buffers(recurse=False):
            if not value.is_sparse:
                setattr(module, name, value.to("meta"))
