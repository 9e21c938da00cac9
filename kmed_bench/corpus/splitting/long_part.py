"""A part of a split, or a whole manifest, read piece by piece: a corpus may have more utterances than memory holds."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kmed_bench.core.corpus_contracts import SPLIT, SplitReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import MANIFEST, PARTS, check_cells, check_manifest_head, reading_manifest
from kmed_bench.core.sharding import NameSum, hash_name
from kmed_bench.corpus.demo.sentences import is_synthetic, name_corpus
from kmed_bench.corpus.splitting.identity import content_digest
from kmed_bench.corpus.splitting.leakage import split_digest
from kmed_bench.corpus.splitting.split import Split, check_account
from kmed_bench.corpus.splitting.whole import WHOLE, manifest_in

_ROWS_AT_A_TIME = 16_384
_ROW = "row of the file"


class Block(NamedTuple):
    """Consecutive rows of a shard.

    Attributes
    ----------
    number : int
        From 0, in each shard.
    rows : pandas.DataFrame
        Sorted by utterance id; empty only if the shard is.
    is_last : bool
        Whether the shard has no more rows.
    """

    shard: int
    number: int
    rows: pd.DataFrame
    is_last: bool


@dataclasses.dataclass(frozen=True)
class LongPart:
    """Utterances in a parquet file, sorted by id, of which a few thousand rows are held at a time.

    Attributes
    ----------
    path : Path
        The file.
    folder : Path or None
        Of the split; None for a whole manifest.
    part : str
        Which part of it.
    """

    path: Path
    folder: Path | None
    part: str

    def __len__(self) -> int:
        return int(self._metadata().num_rows)

    def blocks(self, shards: Collection[int], n_shards: int, n_rows: int) -> Iterator[Block]:
        """Yield the rows of some shards as blocks of at most ``n_rows``, in one pass; the shards' blocks alternate.

        A block of each shard is held meanwhile, so the caller decides by their number what that takes.

        Raises
        ------
        KmedError
            When the file can't be read, its rows are not sorted or an id is there twice.
        """
        held: dict[int, list[pa.RecordBatch]] = {shard: [] for shard in shards}
        n_held, numbers = dict.fromkeys(shards, 0), dict.fromkeys(shards, 0)
        first = 0
        for batch in self._batches():
            places: dict[int, list[int]] = defaultdict(list)
            for place, name in enumerate(batch.column("utterance_id").to_pylist()):
                if (shard := hash_name(name) % n_shards) in held:
                    places[shard].append(place)
            numbered = batch.append_column(_ROW, pa.array(range(first, first + len(batch))))
            first += len(batch)
            for shard, chosen in places.items():
                held[shard].append(numbered.take(pa.array(chosen)))
                n_held[shard] += len(chosen)
                while n_held[shard] > n_rows:  # not at once: the last block must be known as such
                    rows = pa.Table.from_batches(held[shard])
                    yield Block(shard, numbers[shard], self._frame(rows.slice(0, n_rows)), False)
                    held[shard] = rows.slice(n_rows).combine_chunks().to_batches()
                    n_held[shard] -= n_rows
                    numbers[shard] += 1
        for shard in sorted(held):
            rows = pa.Table.from_batches(held.pop(shard), self._schema_numbered())
            yield Block(shard, numbers[shard], self._frame(rows), True)

    def sums(self, n_shards: int) -> list[NameSum]:
        """Return the number and the sum of the ids of each shard."""
        sums = [NameSum() for _ in range(n_shards)]
        for batch in self._batches(["utterance_id"]):
            for name in batch.column("utterance_id").to_pylist():
                hashed = hash_name(name)
                sums[hashed % n_shards].add(hashed)
        return sums

    def identify(self) -> Split:
        """Return the split without its rows, once all of it is read and found to be what its split.json accounts for.

        Raises
        ------
        KmedError
            As `read_split`.
        """
        if self.folder is None:
            parts = {name: _Columns(self, empty=name != self.part) for name in PARTS}
            sha256, content = split_digest(parts), content_digest(parts)
            counts = {name: len(columns) for name, columns in parts.items()}
            report = {**SPLIT.head, "sha256": sha256, "content_sha256": content, "label": WHOLE, "counts": counts}
            return Split({}, sha256, cast(SplitReport, report))
        found = SPLIT.read(self.folder / "split.json")
        parts = {name: _Columns(LongPart(self.folder / f"{name}.parquet", self.folder, name)) for name in PARTS}
        return Split({}, check_account(self.folder, found, parts), found)

    def corpus(self) -> str:
        """Return what the tracking store calls the corpus; see `sentences.corpus_name`."""
        releases: set[str] = set()
        synthetic = True
        for batch in self._batches(["text", "release"]):
            rows = batch.to_pandas()
            releases |= {*rows["release"]}
            synthetic = synthetic and is_synthetic(rows)
        return name_corpus(synthetic=synthetic, releases=releases)

    def column(self, name: str) -> Iterator[Any]:
        """Yield a column's values."""
        for batch in self._batches([name]):
            yield from batch.column(name).to_pylist()

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._schema().names)

    def _frame(self, rows: pa.Table) -> pd.DataFrame:
        """Return rows as `read_manifest` returns them, checked alike."""
        numbers = rows.column(_ROW).to_pylist()
        table: pd.DataFrame = rows.drop_columns(_ROW).replace_schema_metadata(self._schema().metadata).to_pandas()
        table.index = pd.Index(numbers)
        check_cells(table, self.path)
        return table.reset_index(drop=True)

    def _batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        last = ""
        with reading_manifest(self.path):
            file = pq.ParquetFile(self.path, memory_map=True)
        batches = file.iter_batches(_ROWS_AT_A_TIME, columns=columns, use_threads=False)
        while True:
            with reading_manifest(self.path):
                batch = next(batches, None)
            if batch is None:
                return
            if "utterance_id" in batch.schema.names:
                last = self._check_order(last, batch.column("utterance_id").to_pylist())
            yield batch

    def _check_order(self, last: str, names: list[Any]) -> str:
        for name in names:
            if not isinstance(name, str) or name <= last:
                raise KmedError(
                    f"{self.path} has the utterance {name!r:.80} after {last!r:.80}; shards are taken of rows that are "
                    f"sorted by utterance_id, each once: {MANIFEST.remedy}."
                )
            last = name
        return last

    def _metadata(self) -> pq.FileMetaData:
        with reading_manifest(self.path):
            metadata = pq.read_metadata(self.path)
        check_manifest_head(metadata.metadata or {}, metadata.schema.to_arrow_schema().names, self.path)
        return metadata

    def _schema(self) -> pa.Schema:
        return pq.read_schema(self.path, memory_map=True)

    def _schema_numbered(self) -> pa.Schema:
        return self._schema().remove_metadata().append(pa.field(_ROW, pa.int64()))


class _Columns:
    """A long part's columns, one at a time, for `content_digest`."""

    def __init__(self, part: LongPart, *, empty: bool = False) -> None:
        self._part, self._empty = part, empty
        self._names = set(part.columns())

    def __len__(self) -> int:
        return 0 if self._empty else len(self._part)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Iterable[Any]:
        return () if self._empty else self._part.column(name)


def find_long_part(speech: Path, part: str) -> LongPart:
    """Return a part of a split, or a manifest as a test part; takes what `read_speech` takes.

    Raises
    ------
    KmedError
        When the file is not there or is no manifest, or a manifest has no such part.
    """
    manifest = manifest_in(speech)
    if manifest is None:
        SPLIT.read(speech / "split.json")
        found = LongPart(speech / f"{part}.parquet", speech, part)
    else:
        found = LongPart(manifest, None, part)
        if part != "test":
            raise KmedError(
                f"{manifest} is a whole manifest, whose utterances are all of the part test; leave --part out."
            )
    if not len(found):
        raise KmedError(f"{found.path} holds no utterance, so there is nothing to decode.")
    return found
