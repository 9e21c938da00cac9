"""What the first line of a shard's file holds."""

from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge, Interval

from kmed_bench.core.formats import FileFormat, Head


class MadeOf(TypedDict):
    """Digests of all that decides a shard's texts: only shards of equal ones are joined."""

    model: str
    settings: str
    speech: str
    release: str


class ShardHead(Head):
    """First line of a shard's file; the predictions follow, one a line, sorted by utterance id.

    ``ids`` is the sum of the ids' SHA-256 (`core.sharding.NameSum`), ``sha256`` is of the lines that follow.
    ``block`` is None for a whole shard, else the number of a piece of an unfinished one. ``wall_s`` is the time that
    features and decoding took.
    """

    made_of: MadeOf
    part: str
    shards: int
    shard: int
    block: int | None
    n_clips: int
    ids: str
    sha256: str
    wall_s: float
    audio_context: Literal["full", "dynamic"]
    runtime: dict[str, Any]
    machine: str
    parameters: int | None
    model_bytes: int
    peak_memory_bytes: int | None


SHARD = FileFormat[ShardHead](
    "kmed-shard",
    version=1,
    oldest=1,
    remedy="remove it, and the same `kmed-bench evaluate` decodes it again",
    fields={
        "made_of": dict[str, str],
        "part": str,
        "shards": Annotated[int, Ge(1)],
        "shard": Annotated[int, Ge(0)],
        "block": int | None,
        "n_clips": Annotated[int, Ge(0)],
        "ids": str,
        "sha256": str,
        "wall_s": Annotated[float, Interval(ge=0, le=1e9)],
        "audio_context": Literal["full", "dynamic"],
        "runtime": dict[str, Any],
        "machine": str,
        "parameters": int | None,
        "model_bytes": int,
        "peak_memory_bytes": int | None,
    },
)
