"""Shards joined to one file of predictions, counted on the way; gaps, duplicates and mixed settings are refused."""

import heapq
import logging
import operator
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import replacing
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.shard_contracts import SHARD
from kmed_bench.core.sharding import name_shards
from kmed_bench.pipeline.shards.files import Line, ShardFile, strange_files
from kmed_bench.pipeline.shards.job import THREADS, ShardJob, find_unlike
from kmed_bench.scoring.long_counts import count_sorted
from kmed_bench.text.marks import Policy

log = logging.getLogger(__name__)

_OTHER_FILES = 64
"""Files that a process has open beside the shards."""


def check_shards(job: ShardJob) -> list[ShardFile]:
    """Return the shards in order if they can be joined, by what their first lines say.

    Raises
    ------
    KmedError
        When one is missing, lacks utterances of the part or has others, or they were decoded by different runtimes.
    """
    there = job.there()
    if missing := [shard for shard in range(job.n_shards) if shard not in there]:
        raise KmedError(
            f"{job.describe(missing)} are not in {job.folder}; decode them with --shard {name_shards(missing)}, or "
            "leave --merge-only out."
        )
    files = [there[shard] for shard in range(job.n_shards)]
    for file, wanted in zip(files, job.part.sums(job.n_shards), strict=True):
        if file.head["n_clips"] != wanted.n or file.head["ids"] != wanted.digest:
            raise KmedError(
                f"{file.path} holds {file.head['n_clips']} utterances, and {job.part.path} has {wanted.n} of shard "
                f"{file.head['shard']}, or others; {SHARD.remedy}."
            )
    _refuse_mixed(files)
    return files


def _refuse_mixed(files: list[ShardFile]) -> None:
    """Raise KmedError unless one library decoded all shards, on one kind of device."""
    first = files[0]
    for file in files[1:]:
        if unlike := find_unlike(first.head, file.head):
            name, ours, other = unlike
            raise KmedError(
                f"{file.path} was decoded with {name} {other!r:.80}, and {first.path.name} with {ours!r:.80}: shards "
                "that are joined must agree. Remove those of one kind, and decode them again like the others."
            )


def merge_shards(files: list[ShardFile], path: Path, policy: Policy) -> pd.DataFrame:
    """Write the predictions of all shards, sorted by utterance id, and return their counts; one line is held at a time.

    Raises
    ------
    KmedError
        When a shard is not what its first line says; then nothing is written.
    """
    _allow_open_files(len(files) + _OTHER_FILES)
    n_clips = sum(file.head["n_clips"] for file in files)
    with replacing(path, private=True) as temporary, temporary.open("wb") as stream:

        def copied() -> Iterator[Prediction]:
            lines = [file.lines() for file in files]
            found: Line
            for found in heapq.merge(*lines, key=operator.attrgetter("prediction.utterance_id")):
                stream.write(found.line)
                yield found.prediction

        return count_sorted(copied(), policy, n_clips)


def _allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files, if it is lower and may be raised.

    Raises
    ------
    KmedError
        When the system's administrator allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise KmedError(
            f"Joining the shards takes {wanted} open files, and a process here may have {hard} (`ulimit -Hn`); raise "
            f"that, or start again with fewer than {hard - _OTHER_FILES} shards in another folder."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def summarise_heads(files: list[ShardFile]) -> dict[str, Any]:
    """Return what scores.json says of a model that decoded in shards: as of one process, memory as its peak in any."""
    heads = [file.head for file in files]
    peaks = [head["peak_memory_bytes"] for head in heads]
    runtime = heads[0]["runtime"]
    threads = list(dict.fromkeys(head["runtime"].get("settings", {}).get(THREADS) for head in heads))
    if len(threads) > 1:
        runtime = {**runtime, "settings": {**runtime.get("settings", {}), THREADS: ", ".join(map(str, threads))}}
    return {
        "audio_context": heads[0]["audio_context"],
        "runtime": runtime,
        "parameters": heads[0]["parameters"],
        "model_bytes": heads[0]["model_bytes"],
        "machine": ", ".join(dict.fromkeys(head["machine"] for head in heads)),
        "peak_memory_bytes": max((peak for peak in peaks if peak is not None), default=None),
    }


def remove_shards(job: ShardJob) -> None:
    """Remove the folder of shards, whose content predictions.jsonl now has; unless something else is in it."""
    if not job.folder.is_dir():
        return
    if strange := strange_files(job.folder):
        log.warning("%s also holds %s and is kept.", job.folder, min(strange))
    else:
        shutil.rmtree(job.folder)
