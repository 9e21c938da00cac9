"""Competitors that take turns in one process: each a thread, one at a time, a block of steps and then the next."""

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import torch

_M_ARENA_MAX = -8  # malloc.h


class Enough(Exception):  # noqa: N818 (no error: it ends a competitor's loop)
    """All of a competitor's blocks are measured."""


class Turns:
    """Lets competitors take turns and measures their blocks.

    Parameters
    ----------
    warm_up, block : int
        Steps of a competitor's first turn, with its set-up, which is not measured; and of each later turn.
    blocks : int
        Turns that are measured.
    begin : callable, optional
        Called with a competitor's name when a turn of its begins, before the clock runs.

    Attributes
    ----------
    seconds : dict
        Competitor to the seconds of each measured block.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        warm_up: int,
        block: int,
        blocks: int,
        begin: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self.warm_up, self.block, self.blocks, self._begin = warm_up, block, blocks, begin
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self._waiting = list(names)
        self._condition = threading.Condition()
        self._failure: BaseException | None = None

    def run(self, works: Mapping[str, Callable[[Callable[[], None]], None]]) -> None:
        """Run the competitors to their last block; each calls what it is given after each of its steps."""
        threads = torch.get_num_threads()
        _share_one_heap()
        workers = [
            threading.Thread(target=self._work, args=(name, work, threads), name=name) for name, work in works.items()
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self._failure is not None:
            raise self._failure

    def is_measuring(self) -> bool:
        """Tell whether the competitor of this thread is past its warm-up."""
        return getattr(threading.current_thread(), "measuring", False)

    def _work(self, name: str, work: Callable[[Callable[[], None]], None], threads: int) -> None:
        torch.set_num_threads(threads)  # a thread's own setting
        try:
            self._await(name)
            work(self._pace(name))
        except Enough:
            pass
        except BaseException as error:  # the main thread raises it
            self._failure = error
        finally:
            self._leave(name)

    def _pace(self, name: str) -> Callable[[], None]:
        thread = threading.current_thread()
        left, started = self.warm_up, time.perf_counter()

        def pace() -> None:
            nonlocal left, started
            left -= 1
            if left:
                return
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # its work is queued, not done
            if self.is_measuring():
                self.seconds[name].append(time.perf_counter() - started)
            if len(self.seconds[name]) == self.blocks:
                raise Enough
            self._pass_on()
            self._await(name)
            thread.measuring = True  # type: ignore[attr-defined]
            left, started = self.block, time.perf_counter()

        return pace

    def _await(self, name: str) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._failure is not None or self._waiting[0] == name)
        if self._failure is not None:
            raise Enough
        self._begin(name)

    def _pass_on(self) -> None:
        with self._condition:
            self._waiting.append(self._waiting.pop(0))
            self._condition.notify_all()

    def _leave(self, name: str) -> None:
        with self._condition:
            self._waiting.remove(name)
            self._condition.notify_all()


def _share_one_heap() -> None:
    """Let threads take memory from glibc's main heap: training runs in a process's main thread, which does so."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
