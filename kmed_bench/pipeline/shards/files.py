"""Files of shards: a line that says what they are, and predictions, sorted by utterance id; whole or absent.

A shard of several blocks has a file for each until it is complete, so a killed process loses one block.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, is_leftover, parse_json_line, replacing
from kmed_bench.core.predictions import Prediction, prediction_line, prediction_of
from kmed_bench.core.shard_contracts import SHARD, ShardHead
from kmed_bench.core.sharding import NameSum, hash_name

SHARDS_FOLDER, LOCKS = "shards", ".locks"
OPENED = "opened"
"""Name of the file that says that the opening of the test part was recorded."""
_NAME = re.compile(r"(?P<shard>\d{5})-of-(?P<shards>\d{5})(?:\.block-(?P<block>\d{5}))?\.jsonl")
_MAX_LINE = 1 << 22
_COPIED_BYTES = 1 << 20


class Line(NamedTuple):
    """A prediction, and the line that holds it."""

    prediction: Prediction
    line: bytes


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """A shard, or a block of an unfinished one, as its first line describes it."""

    path: Path
    head: ShardHead

    def lines(self) -> Iterator[Line]:
        """Yield the predictions; once all are read, they are known to be those that were written.

        Raises
        ------
        KmedError
            When a line is damaged, an utterance is of another shard or there twice, or some are missing.
        """
        found, content, last = NameSum(), hashlib.sha256(), ""
        shard, n_shards = self.head["shard"], self.head["shards"]
        with self.path.open("rb") as stream:
            stream.readline(_MAX_LINE)
            for number, line in enumerate(stream, start=2):
                content.update(line)
                place = f"{self.path}, line {number}"
                with _damaged(place):
                    prediction = prediction_of(_parse(line, place), place)
                name = prediction.utterance_id
                if name <= last:
                    fault = "again" if name == last else f"after {last!r:.80}"
                    raise KmedError(f"{place} has utterance {name!r:.80} {fault}; {SHARD.remedy}.")
                if (of := hash_name(name)) % n_shards != shard:
                    raise KmedError(
                        f"{place} has utterance {name!r:.80}, which is of shard {of % n_shards}; {SHARD.remedy}."
                    )
                last = name
                found.add(of)
                yield Line(prediction, line)
        if content.hexdigest() != self.head["sha256"] or found.digest != self.head["ids"]:
            raise KmedError(f"{self.path} is not what its first line says (SHA-256, utterances); {SHARD.remedy}.")


@contextlib.contextmanager
def _damaged(place: str) -> Iterator[None]:
    """Say of a line that can't be read what to do about a shard: a reader's own remedy is for files of users."""
    try:
        yield
    except KmedError:
        raise KmedError(f"{place} is damaged; {SHARD.remedy}.") from None


def _parse(line: bytes, place: str) -> dict[str, Any]:
    return parse_json_line(line.decode(errors="backslashreplace"), place)


def shard_path(out: Path, shard: int, n_shards: int, block: int | None = None) -> Path:
    """Return the path of a shard's file, or of a block of it, below a folder of results."""
    name = f"{shard:05d}-of-{n_shards:05d}" + ("" if block is None else f".block-{block:05d}")
    return out / SHARDS_FOLDER / f"{name}.jsonl"


def read_shard_file(path: Path) -> ShardFile:
    """Return a shard's file with its first line read.

    Raises
    ------
    KmedError
        When that is not the head of this shard.
    """
    with path.open("rb") as stream:
        line = stream.readline(_MAX_LINE)
    with _damaged(f"{path}, line 1"):
        content = _parse(line, f"{path}, line 1")
    head = SHARD.check(content, path)
    if shard_path(path.parent.parent, head["shard"], head["shards"], head["block"]).name != path.name:
        raise KmedError(
            f"{path} says that it is shard {head['shard']} of {head['shards']}: it was renamed or copied; "
            f"{SHARD.remedy}."
        )
    return ShardFile(path, head)


def find_shard_files(out: Path) -> list[ShardFile]:
    """Return the files of shards and blocks in a folder of results, by name; temporary files are left out."""
    folder = out / SHARDS_FOLDER
    names = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []
    found: list[ShardFile] = []
    for path in names:
        with contextlib.suppress(FileNotFoundError):  # another process has joined its blocks, or the shards
            found.append(read_shard_file(path))
    return found


def holds_shards(folder: Path) -> bool:
    """Return whether a folder's files of a shard's name, of which there are some, begin as such."""
    names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    try:
        return bool(names) and all(read_shard_file(path).head for path in names)
    except (KmedError, OSError):
        return False


def strange_files(folder: Path) -> list[str]:
    """Return the names of what no evaluation wrote into a folder of shards."""
    found = [path for path in folder.iterdir() if path.name not in (OPENED, LOCKS) and is_leftover(path) is None]
    return [path.name for path in found if not _NAME.fullmatch(path.name)]


def write_shard_file(out: Path, head: ShardHead, predictions: Sequence[Prediction]) -> ShardFile:
    """Write a shard, or a block of one, whole or not at all; return it with its head completed."""
    lines = [prediction_line(prediction) for prediction in predictions]
    ids = NameSum(prediction.utterance_id for prediction in predictions)
    sha256 = hashlib.sha256(b"".join(lines)).hexdigest()
    return _write(out, {**head, "n_clips": ids.n, "ids": ids.digest, "sha256": sha256}, lines)


def join_blocks(out: Path, blocks: Sequence[ShardFile]) -> ShardFile:
    """Write the shard that consecutive blocks are, and remove them.

    Raises
    ------
    KmedError
        When a block is damaged.
    """
    ids, content = NameSum(), hashlib.sha256()
    for block in blocks:
        for prediction, line in block.lines():
            ids.add(hash_name(prediction.utterance_id))
            content.update(line)
    heads = [block.head for block in blocks]
    peaks = [head["peak_memory_bytes"] for head in heads]
    head: ShardHead = {
        **heads[0],
        "block": None,
        "n_clips": ids.n,
        "ids": ids.digest,
        "sha256": content.hexdigest(),
        "wall_s": sum(head["wall_s"] for head in heads),
        "peak_memory_bytes": max((peak for peak in peaks if peak is not None), default=None),
    }
    whole = _write(out, head, _copied(blocks))
    for block in blocks:
        block.path.unlink(missing_ok=True)
    return whole


def _copied(blocks: Iterable[ShardFile]) -> Iterator[bytes]:
    for block in blocks:
        with block.path.open("rb") as stream:
            stream.readline(_MAX_LINE)
            while piece := stream.read(_COPIED_BYTES):
                yield piece


def _write(out: Path, head: ShardHead, content: Iterable[bytes]) -> ShardFile:
    path = shard_path(out, head["shard"], head["shards"], head["block"])
    path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with replacing(path, private=True) as temporary, temporary.open("wb") as stream:
        stream.write((json.dumps(head, ensure_ascii=False) + "\n").encode())
        stream.writelines(content)
    return ShardFile(path, head)
