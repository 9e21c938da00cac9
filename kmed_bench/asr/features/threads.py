"""A function over many clips on all cores, with the results in the clips' order."""

import collections
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def map_in_order(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> Generator[R]:
    """Yield ``function(item)`` for each item in order, computed by threads that have one of torch's threads each.

    So the results don't depend on the number of cores: with another number of threads, torch's convolutions and
    products round differently. An item's exception is raised in its turn, after the results of the items before it.
    At most two items for each thread are ahead of the one that is yielded. Closing the generator drops the waiting
    items, waits for the running ones and leaves torch's number of threads as it was.

    Parameters
    ----------
    function : callable
        Safe to call from several threads. Threads pay where most of its time is spent in libraries that release the
        global interpreter lock.
    """
    n_torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(n_threads, "clips", torch.set_num_threads, (1,))
    try:
        remaining = iter(items)
        ahead: collections.deque[Future[R]] = collections.deque()
        while True:
            ahead.extend(
                pool.submit(function, item) for item in itertools.islice(remaining, 2 * n_threads - len(ahead))
            )
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_torch_threads)  # a worker's call has set what threads started later take, too
