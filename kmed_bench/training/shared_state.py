"""The state that processes resume from together, read by each from a folder that their machines share."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.state import StateKeeper

_WITHIN_S = 90.0
"""Network file systems show another machine's rename late: NFS keeps a folder's entries for up to 60 s (nfs(5))."""
_PAUSE_S = 1.0


def read_alike(parallel: Parallel, read: Callable[[], StateKeeper], folder: Path) -> StateKeeper:
    """Return the keeper of the state that rank 0 resumes from; every process of ``parallel`` calls this.

    Parameters
    ----------
    read : callable
        Reads the folder, and is called again where another state, or none, was found than by rank 0.

    Raises
    ------
    KmedError
        In all processes, when one of them does not find rank 0's state.
    """
    states = read()
    chosen, deadline_s = parallel.from_main(states.mark), time.monotonic() + _WITHIN_S
    while states.mark != chosen and time.monotonic() < deadline_s:
        time.sleep(_PAUSE_S)
        states = read()
    own = None if states.mark == chosen else f"process {parallel.rank} on {platform.node()}"
    others = [name for name in parallel.gather([own]) if name is not None]
    if others:
        raise KmedError(
            f"{', '.join(others)} of {parallel.world} finds another training state in {folder} than process 0, or "
            f"none, after {_WITHIN_S:.0f} s; name a folder that all machines share, and continue with --resume."
        )
    return states
