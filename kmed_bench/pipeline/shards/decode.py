"""Shards decoded by this process: block by block, each written as soon as it is whole."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from kmed_bench.asr.model.device import describe_machine, pick_device
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER
from kmed_bench.core.locks import locked, try_locked
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import rough_duration, track
from kmed_bench.core.scratch import scratch_folder
from kmed_bench.core.shard_contracts import SHARD, ShardHead
from kmed_bench.core.sharding import NameSum
from kmed_bench.corpus.splitting.long_part import Block
from kmed_bench.pipeline.shards.files import (
    LOCKS,
    ShardFile,
    join_blocks,
    read_shard_file,
    shard_path,
    write_shard_file,
)
from kmed_bench.pipeline.shards.job import ShardJob, find_unlike
from kmed_bench.pipeline.speed import peak_memory_bytes

log = logging.getLogger(__name__)

BLOCK_CLIPS = 2_500
"""Clips whose features are there at a time, and that a killed process loses; a shard of `auto` is one block."""
_SHARDS_A_PASS = 16
"""Shards read in one pass over the file: a block of rows of each is held meanwhile."""


def decode_shards(job: ShardJob, shards: Sequence[int], open_backend: Callable[[], Backend]) -> dict[int, str]:
    """Decode the shards that are not there; return why some could not be, by number.

    A shard is claimed when its first clip comes up, so processes that are given the same shards divide them. Those that
    another process is decoding come last, once it is done with them.

    Parameters
    ----------
    open_backend : callable
        Opens the model; called once, if there is anything to decode.
    """
    worker = _Worker(job, open_backend)
    with track("Shards") as tick:
        for group in chunks(shards, _SHARDS_A_PASS):
            for _ in worker.decode(group):
                tick(worker.n_done, len(shards))
        while worker.busy:
            shard = worker.busy.popleft()
            with contextlib.suppress(FileNotFoundError), locked(_lock(job, shard), f"shard {shard}"):
                pass  # it is there now, or its process has ended; no file: the shards were joined and removed
            for _ in worker.decode([shard]):
                tick(worker.n_done, len(shards))
    return worker.failed


def _lock(job: ShardJob, shard: int) -> Path:
    return job.folder / LOCKS / f"{shard:05d}-of-{job.n_shards:05d}.lock"


class _Worker:
    """Decodes shards with one model."""

    def __init__(self, job: ShardJob, open_backend: Callable[[], Backend]) -> None:
        self.failed: dict[int, str] = {}
        self.busy: deque[int] = deque()
        self.n_done = 0
        self._job, self._open = job, open_backend
        self._backend: Backend | None = None

    def decode(self, shards: Sequence[int]) -> Iterator[int]:
        """Decode shards that nobody else is decoding; yield the number of each that is done or has failed."""
        wanted = [shard for shard in shards if not self._job.has(shard)]
        self.n_done += len(shards) - len(wanted)
        if not wanted:
            return
        blocks: dict[int, list[ShardFile]] = {}
        with contextlib.ExitStack() as stack:
            claims = {shard: stack.enter_context(contextlib.ExitStack()) for shard in wanted}
            for block in self._job.part.blocks(wanted, self._job.n_shards, BLOCK_CLIPS):
                shard = block.shard
                if not block.number and self._claim(shard, claims[shard]):
                    blocks[shard] = []
                if shard not in blocks:
                    continue
                try:
                    blocks[shard].append(self._decode_block(block))
                    if block.is_last and block.number:
                        join_blocks(self._job.out, blocks[shard])
                except KmedError as error:
                    self.failed[shard] = str(error)
                    log.error("Shard %d failed: %s", shard, error)
                if block.is_last or shard in self.failed:
                    del blocks[shard]
                    claims[shard].close()
                    self.n_done += 1
                    yield shard

    def _claim(self, shard: int, claim: contextlib.ExitStack) -> bool:
        """Return whether this process is to decode a shard, whose lock it then holds until the claim is closed."""
        self._job.folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        if not claim.enter_context(try_locked(_lock(self._job, shard))):
            self.busy.append(shard)
            return False
        if self._job.has(shard):  # another process was faster
            claim.close()
            self.n_done += 1
            return False
        return True

    def _decode_block(self, block: Block) -> ShardFile:
        """Return the file of a block, or of a shard that is one block; decoded unless it is there."""
        backend = self._backend = self._backend or self._open()
        number = None if block.is_last and not block.number else block.number
        head = self._head(backend, block.shard, number)
        path = shard_path(self._job.out, block.shard, self._job.n_shards, number)
        ids = NameSum(block.rows["utterance_id"]).digest
        if number is not None and path.exists():
            kept = read_shard_file(path)
            if kept.head["ids"] == ids and kept.head["made_of"] == head["made_of"] and not find_unlike(kept.head, head):
                return kept
        started = time.perf_counter()
        predictions: list[Prediction] = []
        if len(block.rows):
            with scratch_folder() as features:  # of these clips alone, and only as long as they are decoded
                backend.features_folder = features
                predictions = backend.decode(block.rows)
        head["wall_s"] = time.perf_counter() - started
        head["peak_memory_bytes"] = _peak(backend)
        written = write_shard_file(self._job.out, head, predictions)
        log.info(
            f"Shard {block.shard} of {self._job.n_shards}, {len(predictions)} clips"
            f"{'' if number is None else f' (block {number})'}: {rough_duration(head['wall_s'])}."
        )
        return written

    def _head(self, backend: Backend, shard: int, block: int | None) -> ShardHead:
        return {
            **SHARD.head,
            "made_of": self._job.made_of,
            "part": self._job.part.part,
            "shards": self._job.n_shards,
            "shard": shard,
            "block": block,
            "n_clips": 0,
            "ids": "",
            "sha256": "",
            "wall_s": 0.0,
            "audio_context": backend.audio_context,
            "runtime": backend.describe(),
            "machine": describe_machine(pick_device()),
            "parameters": backend.parameters,
            "model_bytes": backend.model_bytes,
            "peak_memory_bytes": None,
        }


def _peak(backend: Backend) -> int | None:
    """Return the peak of memory so far, as `evaluate` states it: None for a GPU's memory that is not torch's."""
    return None if not backend.uses_torch and torch.cuda.is_available() else peak_memory_bytes(pick_device())
