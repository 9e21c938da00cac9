"""A function over many clips on all cores, with the results in the clips' order."""

import collections
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from kmed_bench.core.surroundings import interrupts_wait

T = TypeVar("T")
R = TypeVar("R")
_LONGEST_WAIT_S = 0.1
"""Longest time until an interrupt acts."""


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
            due = list(itertools.islice(remaining, 2 * n_threads - len(ahead)))
            with interrupts_wait():  # else the pool may not know of a thread that has just started, nor wait for it
                ahead.extend([pool.submit(function, item) for item in due])
            if not ahead:
                return
            yield _await(ahead.popleft())
    finally:
        with interrupts_wait(all_of_them=False):
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(n_torch_threads)  # a worker's call has set what threads started later take, too


def _await(future: Future[R]) -> R:
    """Return a future's result; an interrupt acts between two waits, within one it can fail as an unheld lock."""
    while True:
        with interrupts_wait():
            if wait([future], _LONGEST_WAIT_S).done:
                return future.result()
