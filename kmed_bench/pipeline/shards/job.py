"""What the shards of one evaluation have in common, and which of them are there."""

import dataclasses
from pathlib import Path
from typing import Any

from kmed_bench import __version__
from kmed_bench.config import Config, Decides, digest
from kmed_bench.config.identity import decisive
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.core.shard_contracts import MadeOf, ShardHead
from kmed_bench.core.sharding import name_shards
from kmed_bench.corpus.splitting.long_part import LongPart
from kmed_bench.pipeline.models import identify_model
from kmed_bench.pipeline.shards.files import SHARDS_FOLDER, ShardFile, find_shard_files, shard_path

_WHAT = {
    "model": "another model",
    "settings": "other settings of decoding",
    "speech": "another file of utterances",
    "release": "another release of kmed-bench",
}

THREADS = "threads"
"""A runtime's setting that each process has from its share of the cores; it decides how fast a shard is decoded."""


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """An evaluation in shards.

    Attributes
    ----------
    part : LongPart
        What is decoded.
    n_shards : int
        Into how many shards it is divided.
    out : Path
        Folder of results.
    made_of : MadeOf
        What every shard must be made of.
    """

    part: LongPart
    n_shards: int
    out: Path
    made_of: MadeOf

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return self.out / SHARDS_FOLDER

    def check(self, file: ShardFile) -> ShardFile:
        """Return a shard's file if it is of this evaluation; raise KmedError with what differs, if it is not."""
        head = file.head
        if head["shards"] != self.n_shards:
            raise KmedError(
                f"{self.folder} holds shards of {head['shards']} ({file.path.name}), and these are {self.n_shards}; go "
                f"on with --shards {head['shards']}, or remove the folder."
            )
        wrong = [what for key, what in _WHAT.items() if head["made_of"].get(key) != self.made_of[key]]  # type: ignore[literal-required]
        if head["part"] != self.part.part:
            wrong = [f"the part {head['part']}"]
        if wrong:
            raise KmedError(
                f"{file.path} is of {' and '.join(wrong)}, and shards that are joined must agree; remove it and decode "
                f"it again with --shard {head['shard']}, or name another folder."
            )
        return file

    def has(self, shard: int) -> bool:
        """Return whether a shard is there, or was joined with the others since this process began."""
        return shard_path(self.out, shard, self.n_shards).exists() or (self.out / "scores.json").exists()

    def there(self) -> dict[int, ShardFile]:
        """Return the finished shards by number.

        Raises
        ------
        KmedError
            When the folder holds shards of another evaluation, or of other settings.
        """
        files = [self.check(file) for file in find_shard_files(self.out)]
        return {file.head["shard"]: file for file in files if file.head["block"] is None}

    def missing(self) -> list[int]:
        """Return the shards that are not there; raises like `there`."""
        there = self.there()
        return [shard for shard in range(self.n_shards) if shard not in there]

    def describe(self, shards: list[int]) -> str:
        """Return shards by their numbers, as in a message."""
        return f"{len(shards)} of {self.n_shards} shards ({name_shards(shards)})"


def find_unlike(first: ShardHead, other: ShardHead) -> tuple[str, Any, Any] | None:
    """Return a property of decoding in which two shards differ, with its values; None if they can be joined."""
    ours, theirs = _runtime(first), _runtime(other)
    return next(
        (
            (name, ours.get(name), theirs.get(name))
            for name in sorted(ours | theirs)
            if ours.get(name) != theirs.get(name)
        ),
        None,
    )


def _runtime(head: ShardHead) -> dict[str, Any]:
    runtime = {**head["runtime"], **head["runtime"].get("settings", {})}
    return {name: value for name, value in runtime.items() if name not in ("settings", THREADS)}


def make_job(config: Config, model: str, path: Path, part: LongPart, out: Path, n_shards: int) -> ShardJob:
    """Return the job of an evaluation.

    Parameters
    ----------
    path : Path
        What `models.located` yields for the model.
    """
    made_of: MadeOf = {
        "model": identify_model(model, path)[:16],
        "settings": digest(decisive(config, Decides.DECODING)),
        "speech": sha256_of(part.path)[:16],
        "release": __version__,
    }
    return ShardJob(part, n_shards, out, made_of)
