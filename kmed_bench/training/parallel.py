"""Data-parallel training: what each process computes and what they exchange, on top of accelerate.

`accelerate launch` or `torchrun` starts the processes. A batch is still what one optimizer step sees: its clips are
dealt to the processes, so any number of processes computes the same step.
"""

import contextlib
import datetime
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import psutil
import torch

from kmed_bench.core.errors import KmedError
from kmed_bench.core.surroundings import machine

T = TypeVar("T")
log = logging.getLogger(__name__)
_OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
_PEER_GONE = re.compile(r"gloo|nccl|connection (?:closed|reset|refused)|broken pipe", re.IGNORECASE)

# The others wait while one process computes features or a large part is validated.
_TIMEOUT = datetime.timedelta(hours=6)


class Parallel:
    """The processes of one training; a single process is rank 0 of 1.

    Attributes
    ----------
    rank, world : int
        This process's number and the number of processes. Only rank 0 writes: checkpoints, MLflow, the terminal.
    launch : str
        Identity of the launcher's job, which its restarts and its further machines share; empty without `torchrun`.
    """

    def __init__(self) -> None:
        self.rank, self.world, self.launch = 0, 1, ""
        self._engine: Any = None

    @classmethod
    def from_environment(cls) -> "Parallel":
        """Return the processes that a launcher started, or this single one."""
        processes = cls()
        processes.rank, processes.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        processes.launch = _launch()
        if processes.world > 1:
            from accelerate import Accelerator, InitProcessGroupKwargs

            if processes.rank == 0 and _restarts_meet_old_addresses():
                log.warning(
                    "Set %s=1 for torchrun on all machines: without it, processes that are started again may look for "
                    "each other where those before them were, which uses up --max-restarts (pytorch/pytorch#135712).",
                    _OWN_STORE,
                )
            waiting = InitProcessGroupKwargs(timeout=_TIMEOUT)
            # Arithmetic is train.precision's, whatever accelerate's own settings on this machine say.
            processes._engine = Accelerator(
                cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[waiting]
            )
        return processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's share of the items: every world-th."""
        return list(items[self.rank :: self.world])

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network wrapped so that its backward pass averages gradients over the processes."""
        if self._engine is None:
            return network
        # Whisper's table of alignment heads is sparse, and process groups can't send sparse tensors; it never changes.
        sparse = [name for name, buffer in network.named_buffers() if buffer.is_sparse]
        torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, sparse)
        return self._engine.prepare_model(network)

    def synchronized(self, network: torch.nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context whose backward pass exchanges gradients or, for all but a batch's last part, does not."""
        return contextlib.nullcontext() if now or self._engine is None else self._engine.no_sync(network)

    def total(self, *values: float) -> list[float]:
        """Return each value's sum over the processes."""
        if self._engine is None:
            return list(values)
        local = torch.tensor(values, dtype=torch.float64, device=self._engine.device)  # nccl can't send from the CPU
        summed = self._engine.reduce(local, reduction="sum")
        return [float(value) for value in summed]

    def gather(self, items: Sequence[T]) -> list[T]:
        """Return the items of all processes, in the order of ranks."""
        if self._engine is None:
            return list(items)
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(list(items))
        return gathered

    def from_main(self, value: T) -> T:
        """Return rank 0's value in all processes, which also wait for each other here."""
        if self._engine is None:
            return value
        from accelerate.utils import broadcast_object_list

        shared: list[T] = broadcast_object_list([value], from_process=0)
        return shared[0]

    @contextlib.contextmanager
    def naming_lost_peers(self) -> Iterator[None]:
        """Turn the error of an exchange with a process that has ended into a message."""
        try:
            yield
        except RuntimeError as error:
            if self._engine is None or not _PEER_GONE.search(str(error)):
                raise
            raise KmedError(
                f"Process {self.rank} of {self.world} can't go on: another one has ended, whose own message says why. "
                "torchrun with --max-restarts starts all of them again from the saved state; otherwise use --resume."
            ) from error

    def main_first(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that rank 0 passes first, to write a cache that the others then read, for example."""
        return contextlib.nullcontext() if self._engine is None else self._engine.main_process_first()


def _restarts_meet_old_addresses() -> bool:
    """Tell whether several agents of `torchrun` keep one store of addresses for all restarts, as torch 2.14's do."""
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    return (
        several
        and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    )


def _launch() -> str:
    """Return the rendezvous id that `torchrun` was given; without one, what identifies torchrun's own process."""
    named = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if named != "none":
        return named
    agent = psutil.Process(os.getppid())
    return f"{machine()}:{agent.pid}:{agent.create_time():.0f}"
