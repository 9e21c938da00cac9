"""Functions of fixed shapes as CUDA graphs: their kernels are launched together, not one by one.

A training step of base launches some 1,350 kernels of a few microseconds each (docs/decisions/020-gpu.md), and a GPU
that waits for the next launch does nothing in between. A graph records the launches once and repeats them in one call.
"""

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

from kmed_bench.asr.model.device import send

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]

# While one thread records, another must not wait for the whole device, as recording itself does at its start.
_recording = threading.Lock()


class Recorder(Protocol):
    """Records what a function launches; `CudaRecorder`, and in the tests one that records a CPU's operations."""

    def rehearse(self, function: Callable[..., Any], inputs: Tensors) -> None:
        """Call a function where it is recorded next, so that libraries choose their kernels and allocate."""

    def record(self, function: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], Any], Tensors]:
        """Return what repeats ``function(*inputs)`` on the same memory, and its outputs, not computed yet.

        Raises
        ------
        RuntimeError
            When the function can't be recorded.
        """

    def forget(self) -> None:
        """Give up the memory that the recordings share, once they are deleted."""


class CudaRecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        # Backward accumulates each gradient on the stream where its parameter was first used, so a rehearsal and the
        # recording must share one.
        self._stream = torch.cuda.Stream(device)

    def rehearse(self, function: Callable[..., Any], inputs: Tensors) -> None:
        """Call a function on the stream that records."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with _recording, torch.cuda.stream(self._stream):
            function(*inputs)
        current.wait_stream(self._stream)

    def record(self, function: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], Any], Tensors]:
        """Return a graph's launch, and its outputs."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a monitor's, may use the GPU meanwhile.
        with (
            _recording,
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            outputs = function(*inputs)
        return graph.replay, outputs

    def forget(self) -> None:
        """Give up the pool of memory."""
        self._pool = None


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records functions on a device; None where launches cost nothing."""
    return CudaRecorder(device) if device.type == "cuda" else None


class GraphRunner:
    """Runs functions of tensors; on a GPU, as CUDA graphs.

    Before a recording, the function has to run as written, so libraries choose their kernels and allocate. The next
    call records the launches, which computes nothing, and repeats them; so do all later ones. On other devices, and
    with ``enabled=False``, every call runs as written: the results are the same.

    Parameters
    ----------
    enabled : bool, optional
        None: where the device has a `Recorder`.
    """

    def __init__(self, device: torch.device, *, enabled: bool | None = None) -> None:
        self.device = device
        self._recorder = None if enabled is False else recorder_for(device)
        self.enabled = self._recorder is not None
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[Callable[[], Any], Tensors, Tensors]] = {}

    @property
    def n_graphs(self) -> int:
        """Number of recorded graphs."""
        return len(self._graphs)

    def run(
        self,
        key: Hashable,
        function: Callable[..., Tensors],
        *inputs: torch.Tensor,
        rehearse: Callable[..., Any] | None = None,
    ) -> Tensors:
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
        rehearse : callable, optional
            Does what the function does and changes nothing. Called before the recording, so that the first call of a
            key is a graph too; then it does not matter to the last bit at which call a program was started again.
            None: the first call is the function itself, as written.

        Returns
        -------
        tuple of torch.Tensor
            Valid until the next call: graphs share their memory.
        """
        if self._recorder is None or not self.enabled:
            return function(*self._moved(inputs))
        if key not in self._graphs:
            if key not in self._seen:
                self._seen.add(key)
                if rehearse is None:
                    return function(*self._moved(inputs))
                self._recorder.rehearse(rehearse, self._moved(inputs))
            if not self._record(self._recorder, key, function, inputs):
                return function(*self._moved(inputs))
        replay, kept, outputs = self._graphs[key]
        for target, source in zip(kept, inputs, strict=True):
            target.copy_(send(source, self.device))
        replay()
        return outputs

    def forget(self) -> None:
        """Delete the graphs and free their memory, as when the tensors that they read are replaced."""
        self._graphs.clear()
        self._seen.clear()
        if self._recorder is not None:
            self._recorder.forget()

    def _moved(self, inputs: Tensors) -> Tensors:
        return tuple(send(tensor, self.device) for tensor in inputs)

    def _record(self, recorder: Recorder, key: Hashable, function: Callable[..., Tensors], inputs: Tensors) -> bool:
        """Record a graph; return False and record no more if that is impossible here."""
        kept = tuple(tensor.to(self.device, copy=True) for tensor in inputs)
        try:
            replay, outputs = recorder.record(function, kept)
        except torch.OutOfMemoryError:
            self.forget()
            raise
        except RuntimeError as error:
            self.forget()
            self.enabled = False
            log.warning(f"A CUDA graph can't be recorded ({error}); each kernel is launched by itself from here on.")
            return False
        self._graphs[key] = (replay, kept, outputs)
        return True
