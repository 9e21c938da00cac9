"""Chunks of files read in several processes, each kept on disk until the whole job is done.

A chunk's result is written under a name made from everything that it depends on: the version of
the reading code, the container with its files' sizes and times of change, and the list of files.
An interrupted job that is started again finds those results and reads the rest; what has changed
in between has another name and is read again.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, replacing
from kmed_bench.core.progress import track
from kmed_bench.corpus.archives.reader import Container
from kmed_bench.corpus.ingest.scan import READING_VERSION, Chunk, read_chunk

log = logging.getLogger(__name__)

CHUNK_FILES = 8192
_POOL_CHUNKS = 4  # starting a process costs as much as reading two chunks
_KEPT = ("container", "name", "stem", "start")


class ChunkStore:
    """Results of finished chunks in a folder; `clear` when the job is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, chunk: Chunk) -> Path:
        """Return where the chunk's result is or will be."""
        facts = [READING_VERSION, chunk.kind, chunk.container.kind, chunk.container.location]
        for span in chunk.container.spans:
            found = os.stat(span.path)  # noqa: PTH116
            facts.append(f"{span} {found.st_size} {found.st_mtime_ns}")
        name = hashlib.blake2b("\n".join(facts).encode() + chunk.entries, digest_size=16).hexdigest()
        return self.folder / f"{name}.arrow"

    def load(self, path: Path) -> pa.Table | None:
        """Return a finished chunk's rows, or None when there is no whole result."""
        try:
            with pa.memory_map(str(path)) as stream:
                return pa.ipc.open_file(stream).read_all()
        except (FileNotFoundError, pa.ArrowInvalid):
            return None

    def clear(self) -> None:
        """Remove the folder: its results are in the manifest now."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_entries(
    containers: list[Container],
    entries: pa.Table,
    kind: str,
    store: ChunkStore,
    *,
    workers: int,
) -> pa.Table:
    """Return the entries' container, name, stem and start with what reading the files gave.

    Parameters
    ----------
    entries : pyarrow.Table
        Rows of ``ENTRY_SCHEMA``; the result has them container by container.
    kind : {"label", "audio", "decode"}
        What to read of them: see ``read_chunk``.
    workers : int
        Processes; a small job runs in this one.

    Raises
    ------
    KmedError
        When the system ends a worker process, usually for lack of memory.
    OSError
        When an archive is gone, or the store can't be written.
    """
    parts = list(_cut(containers, entries))
    store.folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    paths = [store.path(_chunk(containers, kind, part)) for part in parts]
    waiting = [(part, path) for part, path in zip(parts, paths, strict=True) if store.load(path) is None]
    if len(waiting) < len(parts):
        log.info(f"resumed: {len(parts) - len(waiting)} of {len(parts)} chunks of {kind} were read before")
    done, total = 0, sum(part.num_rows for part, _ in waiting)
    tasks = ((_chunk(containers, kind, part), path, part.num_rows) for part, path in waiting)
    n_workers = workers if len(waiting) >= _POOL_CHUNKS else 1
    with contextlib.closing(_run(tasks, n_workers)) as finished, track(f"Reading {kind}") as tick:
        for n_files in finished:
            done += n_files
            tick(done, total)
            log.debug(f"{kind}: read {done:,} of {total:,} files")
    return pa.concat_tables([_joined(part, store, path, kind) for part, path in zip(parts, paths, strict=True)])


def _cut(containers: list[Container], entries: pa.Table) -> Iterator[pa.Table]:
    """Yield the entries in parts of one container each; one empty part where there are none."""
    if not entries.num_rows:
        yield entries
    for position in range(len(containers)):
        mine = entries.filter(pc.equal(entries["container"], position))
        for first in range(0, mine.num_rows, CHUNK_FILES):
            yield mine.slice(first, CHUNK_FILES)


def _chunk(containers: list[Container], kind: str, part: pa.Table) -> Chunk:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as stream:
        stream.write_table(part.combine_chunks())
    container = containers[part["container"][0].as_py()] if part.num_rows else Container("folder", ".", "")
    return Chunk(kind, container, sink.getvalue().to_pybytes())


def _joined(part: pa.Table, store: ChunkStore, path: Path, kind: str) -> pa.Table:
    read = store.load(path)
    if read is None:
        raise KmedError(f"The results of reading {kind} in {store.folder} are gone; start the command again.")
    kept = part.select(list(_KEPT))
    return pa.table([*kept.columns, *read.columns], [*kept.column_names, *read.column_names])


def _run(tasks: Iterator[tuple[Chunk, Path, int]], workers: int) -> Generator[int]:
    """Do the tasks and yield each one's number of files as it is done."""
    if workers == 1:
        for task in tasks:
            yield _finish(*task)
        return
    # Not forked: the caller may run threads (torch, MLflow), which a forked child can't survive.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _ignore_interrupt)
    try:
        running = {pool.submit(_finish, *task) for task in itertools.islice(tasks, 2 * workers)}
        while running:  # a few at a time: a waiting chunk is held in memory
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            running |= {pool.submit(_finish, *task) for task in itertools.islice(tasks, len(done))}
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise KmedError(
            f"One of the {workers} processes that read the download was ended by the system, usually for lack of "
            "memory, or could not start, as under a script without `if __name__ == '__main__':`. Start the command "
            "again, with data.workers=1 if it recurs: what was read is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which lets running chunks finish and be kept."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _finish(chunk: Chunk, path: Path, n_files: int) -> int:
    table = read_chunk(chunk)
    with replacing(path, private=True) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)
    return n_files
