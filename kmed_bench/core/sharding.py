"""Shards: the shares of a long list of names that processes and machines work on apart from one another.

A name's SHA-256, read as a number, modulo the number of shards is its shard: the same on every machine, of every list
that holds the name, and about as many names for each.
"""

import hashlib
from collections.abc import Iterable, Sequence

from kmed_bench.core.errors import KmedError

MAX_SHARDS = 4_096
"""The files of all shards are open at once when they are joined."""
NAMES_A_SHARD = 2_000
"""What `auto` aims at: minutes of work, so that little is lost with a process, and its start is little of it."""


def hash_name(name: str) -> int:
    """Return a name's SHA-256 as a number."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest(), "big")


def shard_of(name: str, n_shards: int) -> int:
    """Return the shard of a name, from 0."""
    return hash_name(name) % n_shards


class NameSum:
    """How many names there are and the sum of their hashes: equal for equal names in any order.

    Attributes
    ----------
    n : int
        Number of names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.n, self._sum = 0, 0
        for name in names:
            self.add(hash_name(name))

    def add(self, hashed: int) -> None:
        """Count a name by its hash."""
        self.n, self._sum = self.n + 1, (self._sum + hashed) % (1 << 256)

    @property
    def digest(self) -> str:
        """The sum in 64 hexadecimal digits."""
        return f"{self._sum:064x}"


def read_shard_count(text: str, n_names: int) -> int:
    """Return the number of shards that ``--shards`` gives.

    Parameters
    ----------
    n_names : int
        Names in all; ``auto`` is a shard for each `NAMES_A_SHARD` of them.

    Raises
    ------
    KmedError
        For what is neither ``auto`` nor a number of shards.
    """
    if text == "auto":
        return min(max(1, -(-n_names // NAMES_A_SHARD)), MAX_SHARDS)
    if not (_is_number(text) and 1 <= int(text) <= MAX_SHARDS):
        raise KmedError(
            f"--shards is {text!r:.80}; give auto, for a shard of each {NAMES_A_SHARD:,}, or a number from 1 to "
            f"{MAX_SHARDS:,}."
        )
    return int(text)


def read_chosen_shards(text: str, n_shards: int) -> list[int]:
    """Return the shards that ``--shard`` names: numbers from 0 and spans such as ``0,4,8-11``; each once, in order.

    Raises
    ------
    KmedError
        For anything else, and for a shard that is not there.
    """
    chosen: set[int] = set()
    for word in text.split(","):
        ends = [int(end) if _is_number(end) else -1 for end in word.strip().split("-")]
        if len(ends) > 2 or not 0 <= ends[0] <= ends[-1]:
            raise KmedError(f"--shard is {text!r:.80}; give numbers from 0 and spans of them, such as 3 or 0,4,8-11.")
        if ends[-1] >= n_shards:
            raise KmedError(f"--shard is {text!r:.80}, and {n_shards} shards are numbered 0 to {n_shards - 1}.")
        chosen |= set(range(ends[0], ends[-1] + 1))
    return sorted(chosen)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def name_shards(shards: Sequence[int]) -> str:
    """Return shards as ``--shard`` takes them: ``0,4,8-11``."""
    spans: list[list[int]] = []
    for shard in sorted(shards):
        if spans and shard == spans[-1][1] + 1:
            spans[-1][1] = shard
        else:
            spans.append([shard, shard])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)
