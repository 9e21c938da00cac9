"""Functions of fixed shapes as CUDA graphs: their kernels are launched together, not one by one.

A training step of base launches some 3,000 kernels of a few microseconds each, and a GPU that waits for the next launch
does nothing in between. A graph records the launches once and repeats them in one call.
"""

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch

from kmed_bench.asr.model.device import send

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]


class GraphRunner:
    """Runs functions of tensors; on a GPU, each one as a CUDA graph from its second call with a key on.

    The first call runs as written, so libraries choose their kernels and allocate before the recording. The second
    call records the launches, which computes nothing, and repeats them; so do all later ones. On other devices, and
    with ``enabled=False``, every call runs as written: the results are the same.

    Parameters
    ----------
    enabled : bool, optional
        None: on a GPU only.

    Attributes
    ----------
    n_graphs : int
        Number of recorded graphs.
    """

    def __init__(self, device: torch.device, *, enabled: bool | None = None) -> None:
        self.device = device
        self.enabled = device.type == "cuda" if enabled is None else enabled and device.type == "cuda"
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[Any, Tensors, Tensors]] = {}
        self._pool: Any = None

    @property
    def n_graphs(self) -> int:
        """Number of recorded graphs."""
        return len(self._graphs)

    def run(self, key: Hashable, function: Callable[..., Tensors], *inputs: torch.Tensor) -> Tensors:
        """Return ``function(*inputs)``, the inputs moved to the device.

        Parameters
        ----------
        key : hashable
            Determines all that the function does apart from the tensors' values: their shapes, Python values, and the
            addresses of tensors that it reads or writes besides its inputs.
        function : callable
            Computes on the device without reading from it. It returns tensors.
        inputs : torch.Tensor
            On any device.

        Returns
        -------
        tuple of torch.Tensor
            Valid until the next call: graphs share their memory.
        """
        if not self.enabled or key not in self._seen:
            self._seen.add(key)
            return function(*self._moved(inputs))
        if key not in self._graphs:
            try:
                self._graphs[key] = self._record(function, inputs)
            except torch.OutOfMemoryError:
                self.forget()
                raise
            except RuntimeError as error:
                self.forget()
                self.enabled = False
                log.warning(
                    f"A CUDA graph can't be recorded ({error}); steps are launched kernel by kernel from here on."
                )
                return function(*self._moved(inputs))
        graph, kept, outputs = self._graphs[key]
        for target, source in zip(kept, inputs, strict=True):
            target.copy_(send(source, self.device))
        graph.replay()
        return outputs

    def forget(self) -> None:
        """Delete the graphs and free their memory, as when the tensors that they read are replaced."""
        self._graphs.clear()
        self._seen.clear()
        self._pool = None

    def _moved(self, inputs: Tensors) -> Tensors:
        return tuple(send(tensor, self.device) for tensor in inputs)

    def _record(self, function: Callable[..., Tensors], inputs: Tensors) -> tuple[Any, Tensors, Tensors]:
        kept = tuple(tensor.to(self.device, copy=True) for tensor in inputs)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a monitor's, may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function(*kept)
        return graph, kept, outputs
