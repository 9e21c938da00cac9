"""What runs leave in folders of results and in the cache: found by known names and formats, by kind.

A file counts as made by this program if its name is one that the program gives, its content is of the format that goes
with the name, and the files that the program writes beside it are there. Links are never followed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kmed_bench.core.array_cache import CHECKSUMS, INDEX
from kmed_bench.core.console import LOG_NAME
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder, is_leftover
from kmed_bench.core.schema import SIZES
from kmed_bench.core.scratch import find_scratch
from kmed_bench.corpus.ingest.manifest import KEPT_FOLDER
from kmed_bench.pipeline.shards.files import SHARDS_FOLDER, holds_shards, strange_files
from kmed_bench.pipeline.training_record import TRAINING_FILE, read_training_record
from kmed_bench.pipeline.untouched import UNTOUCHED_FILE

KINDS = {
    "leftovers": "nothing: their writers are gone",
    "scratch": "nothing: the processes that used it are gone",
    "chunks": "an interrupted ingest reads its archives from the start",
    "shards": "an evaluation that is not joined yet decodes them again",
    "features": "computed again from the audio, in minutes",
    "encodings": "computed again by the frozen encoder, in minutes",
    "states": "can't be undone: the training can't be resumed",
    "predictions": "decoded again, which opens the test part again; --resume, compare, errors and package need them",
    "checkpoints": "can't be undone, unless the store has this epoch too",
    "scores": "computed again from predictions by score",
    "weights": "downloaded or converted again",
}
"""Kind to what its removal costs, in the order of removal: what others are recognised by goes late."""
ON_REQUEST = ("weights",)
"""Kinds that are removed only when they are named."""
_OTHER_COSTS = {
    "best.pt": "fetched from the store again: evaluate and export take models:/NAME/VERSION",
    "finished": "nothing: the training is finished",
}

_STORE = re.compile(r"(?P<kind>frames|encoded)-[0-9a-f]{16}")
_STORE_KINDS = {"frames": "features", "encoded": "encodings"}
_STORE_FILES = {INDEX, CHECKSUMS} | {f"{kind}.{end}" for kind in _STORE_KINDS for end in ("f32", "f16")}
_CHUNK = re.compile(r"[0-9a-f]{32}\.arrow")
_BENCH = re.compile(r"bench-\w+-(?P<run>[0-9a-f]{8})")
_WEIGHTS = re.compile(rf"({'|'.join(SIZES)})(-from-wheel-[0-9a-f]{{12}})?\.(pt|sha256)")
_NAMES = {
    "states": re.compile(r"state(\.previous)?\.pt|faulty-batch\.pt"),
    "checkpoints": re.compile(r"(best|last|epoch\d{2,})\.pt"),
    "predictions": re.compile(r"predictions(_valid|_test|(_left_out)?(_untouched)?)\.jsonl"),
    "scores": re.compile(r"(scores|scores_untouched|comparisons|leak)\.json"),
}
_TENSOR_KEYS = (
    {"version", "fingerprint", "account"},
    {"dims", "model_state_dict"},
    {"utterance_ids", "audio", "inputs", "where"},
)
_BESIDE_PREDICTIONS = (TRAINING_FILE, UNTOUCHED_FILE, "scores.json", LOG_NAME)
_SCORE_FORMATS = ("kmed-scores", "kmed-comparisons", "kmed-leak")
_FOREIGN = ("mlruns", "mlartifacts", "artifacts")
"""Folders of MLflow's artifacts: the store's, with files of the same names."""
_MAX_SCORES_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptFile:
    """A file, or a folder that is removed as a whole.

    Attributes
    ----------
    n_files, n_bytes : int
        Of the file or all in the folder.
    changed_s : float
        Time of the last change, in seconds since the epoch; for features, of the last use.
    run_id : str
        The MLflow run that it belongs to, or the first 8 digits of its benchmark's; empty: of none.
    cost : str
        What its removal costs.
    refused : str
        Why it is not removed in any case; empty: it can be.
    """

    path: Path
    kind: str
    n_files: int
    n_bytes: int
    changed_s: float
    run_id: str = ""
    cost: str = ""
    refused: str = ""

    @property
    def is_final(self) -> bool:
        """Whether its removal can't be undone."""
        return self.cost.startswith("can't be undone")


def find_kept(folders: Sequence[Path]) -> list[KeptFile]:
    """Return what runs left in folders, each thing once.

    Raises
    ------
    KmedError
        When a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise KmedError(f"{folder} is not a folder; name one with results of runs, or the cache {cache_folder()}.")
    _record.cache_clear()
    found = {kept.path: kept for folder in folders for kept in _walk(Path(os.path.abspath(folder)))}  # noqa: PTH100
    return list(found.values())


def find_scratch_left() -> list[KeptFile]:
    """Return the scratch folders of this user's killed processes among the system's temporary files."""
    own = [path for path in find_scratch() if path.lstat().st_uid == os.getuid()]
    return [_describe(path, "scratch", "") for path in own if is_leftover(path)]


def _walk(top: Path) -> Iterator[KeptFile]:
    for place, folders, files in os.walk(top):
        here = Path(place)
        if "MLmodel" in files:
            folders.clear()
            continue
        for name in sorted(folders):
            kept = _folder(here / name)
            if kept is not None:
                yield kept
            if kept is not None or name in _FOREIGN:
                folders.remove(name)
        for name in sorted(files):
            if (kept := _file(here / name)) is not None:
                yield kept


def _folder(path: Path) -> KeptFile | None:
    if match := _STORE.fullmatch(path.name):
        return _describe(path, _STORE_KINDS[match["kind"]], _store_fault(path))
    if path.name == KEPT_FOLDER:
        return _describe(path, "chunks", _chunks_fault(path))
    if path.name == SHARDS_FOLDER and (holds_shards(path) or path.is_symlink()):
        return _describe(path, "shards", _shards_fault(path))
    return _leftover(path)


def _leftover(path: Path) -> KeptFile | None:
    left = is_leftover(path)
    return None if left is None else _describe(path, "leftovers", "" if left else "its writer may be at work")


def _file(path: Path) -> KeptFile | None:
    if path.parent == cache_folder().absolute() / "weights" and _WEIGHTS.fullmatch(path.name):
        return _describe(path, "weights", "")
    for kind, names in _NAMES.items():
        if names.fullmatch(path.name):
            return _describe(path, kind, _FAULTS[kind](path) if not path.is_symlink() else "")
    return _leftover(path)


def _describe(path: Path, kind: str, refused: str) -> KeptFile:
    if path.is_symlink():
        refused = "it is a link, and what it leads to may be another's"
    inside = [] if path.is_symlink() or not path.is_dir() else [file for file in path.rglob("*") if not file.is_dir()]
    stats = [file.lstat() for file in inside or [path]]
    record = None if path.is_symlink() else _record(path.parent)
    finished = kind == "states" and record is not None and record.outcome is not None
    return KeptFile(
        path=path,
        kind=kind,
        n_files=len(inside) if path.is_dir() else 1,
        n_bytes=sum(stat.st_size for stat in stats),
        changed_s=max(stat.st_mtime for stat in stats),
        run_id=record.run_id if record else _bench_of(path),
        cost=_OTHER_COSTS.get("finished" if finished else path.name, KINDS[kind]),
        refused=refused,
    )


@functools.lru_cache(maxsize=1)  # the files of a folder come one after the other
def _record(folder: Path) -> Any:
    with contextlib.suppress(KmedError, OSError):
        return read_training_record(folder)
    return None


def _bench_of(path: Path) -> str:
    matches = (_BENCH.fullmatch(folder.name) for folder in path.parents)
    return next((match["run"] for match in matches if match), "")


def _store_fault(path: Path) -> str:
    strange = {file.name for file in path.iterdir()} - _STORE_FILES if not path.is_symlink() else set()
    return f"it holds {min(strange)}, which is no part of a store" if strange else ""


def _chunks_fault(path: Path) -> str:
    files = list(path.iterdir()) if not path.is_symlink() else []
    strange = [file.name for file in files if not _CHUNK.fullmatch(file.name) and is_leftover(file) is None]
    if any(is_leftover(file) is False for file in files):
        return "an ingest is at work in it"
    return f"it holds {min(strange)}, which no ingest wrote" if strange else ""


def _shards_fault(path: Path) -> str:
    strange = [] if path.is_symlink() else strange_files(path)
    return f"it holds {min(strange)}, which is no shard" if strange else ""


def _tensors_fault(path: Path) -> str:
    if _record(path.parent) is None:
        return f"no {TRAINING_FILE} is beside it, so no training is known to have written it"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a dozen types for a file that it did not write
        return f"it can't be read ({type(error).__name__}), so it may be another program's"
    is_ours = isinstance(content, dict) and any(keys <= content.keys() for keys in _TENSOR_KEYS)
    return "" if is_ours else "its content is not what this program writes under the name"


def _predictions_fault(path: Path) -> str:
    if not any((path.parent / name).is_file() for name in _BESIDE_PREDICTIONS):
        return f"none of {', '.join(_BESIDE_PREDICTIONS)} is beside it, so it may be another system's"
    try:
        with path.open(encoding="utf-8") as stream:
            row = json.loads(stream.readline(1 << 22))
    except (OSError, RecursionError, ValueError):
        row = None
    is_ours = isinstance(row, dict) and {"utterance_id", "reference", "hypothesis"} <= row.keys()
    return "" if is_ours else "its content is not what this program writes under the name"


def _scores_fault(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < _MAX_SCORES_BYTES else None
    except (OSError, RecursionError, ValueError):
        content = None
    is_ours = isinstance(content, dict) and content.get("format") in _SCORE_FORMATS
    return "" if is_ours else "its content is not what this program writes under the name"


_FAULTS: dict[str, Callable[[Path], str]] = {
    "states": _tensors_fault,
    "checkpoints": _tensors_fault,
    "predictions": _predictions_fault,
    "scores": _scores_fault,
}
