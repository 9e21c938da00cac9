"""A bundle: the results of runs as one file that may leave a closed network, and its way into another store.

What is inside is what the runs recorded, without texts, audio, folders, accounts and small groups. The report in it is
made from a store that holds nothing but the bundle, so it can't show more. Before the file gets its name, everything in
it is searched for the corpus.
"""

import dataclasses
import errno
import hashlib
import json
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.fields import check_fields
from kmed_bench.core.files import replacing
from kmed_bench.core.language import Language, use_language
from kmed_bench.core.pseudonyms import Pseudonyms
from kmed_bench.core.run_contracts import BUNDLE, RUN_FIELDS, RunRecord
from kmed_bench.core.schema import PARTS, read_manifest
from kmed_bench.core.scratch import scratch_folder
from kmed_bench.core.version import code_version
from kmed_bench.corpus.leak_scan import Finding, LeakScan
from kmed_bench.corpus.splitting.split import read_split
from kmed_bench.report.page import write_report
from kmed_bench.scoring.package import read_package, write_pseudonymous
from kmed_bench.scoring.suppression import hidden_in_corpus
from kmed_bench.tracking.bundles import add_file, describe_runs, restore
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.registry.fetch import fetch_best
from kmed_bench.tracking.registry.model_card import write_card

log = logging.getLogger(__name__)
HEAD_NAME = "bundle.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every member: when files were written tells nothing, and equal bundles are equal files."""
_CHECKPOINT = "weights/best.pt"
"""A training's checkpoint among its run's files."""
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_BYTES = 2**32


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleSummary:
    """What a bundle holds: runs, files, groups left out for their size, and what was too short to search for."""

    runs: int
    files: int
    groups_left_out: int
    not_searched: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BroughtIn:
    """What a bundle's runs are in a store: how many are new or were there, and its checkpoints' names and addresses."""

    new: int
    present: int
    models: Mapping[str, str]


def read_corpus(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return the tables of manifests and of folders of splits, by name; those of a split also as a whole."""
    tables: dict[str, pd.DataFrame] = {}
    for number, path in enumerate(paths):
        if path.is_dir():
            split = read_split(path)
            found = {part: split.parts[part] for part in PARTS}
            if split.left_out is not None:
                found["left out"] = split.left_out
            tables |= {f"{number} {name}": table for name, table in found.items()}
            tables[f"{number} all"] = pd.concat(found.values(), ignore_index=True)
        else:
            tables[f"{number} manifest"] = read_manifest(path)
    return tables


def write_bundle(
    uri: str,
    run_ids: Sequence[str],
    out: Path,
    *,
    corpus: Mapping[str, pd.DataFrame],
    minimum: int,
    pseudonyms: Pseudonyms,
    names: Sequence[str] = (),
    weights: bool = False,
    packages: Sequence[Path] = (),
    language: Language = "en",
) -> BundleSummary:
    """Write the bundle of some runs, if nothing of the corpus is found in it.

    Parameters
    ----------
    corpus : mapping
        What `read_corpus` returned: all that must not leave, and how many speakers each group has.
    minimum : int
        Fewest speakers of a group that is shown.
    names : sequence of str
        Further names that must not leave.
    weights : bool
        Whether the trainings' checkpoints are taken along.
    packages : sequence of Path
        Benchmark packages to take along, under pseudonyms.
    language : str
        Of the benchmarks' reports; model cards and tables are English.

    Raises
    ------
    KmedError
        When a run can't be bundled, or when something of the corpus was found; the file is then not written.
    """
    records, groups = describe_runs(uri, run_ids, hidden_in_corpus(corpus, minimum), minimum)
    scan = LeakScan(corpus.values(), names)
    _refuse(scan.find(HEAD_NAME, json.dumps(records, ensure_ascii=False).encode()))  # before the report is made
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        _write_cards(records, made)
        with use_language(language):
            _write_reports(records, made)
        if weights:
            _fetch_weights(uri, records, made)
        for number, path in enumerate(packages):  # a package belongs to no run
            write_pseudonymous(read_package(path), made / "packages" / str(number), pseudonyms.of, minimum)
        files = _pack(out, records, made, {"minimum_speakers": minimum, "groups_left_out": groups}, scan)
    return BundleSummary(runs=len(records), files=files, groups_left_out=groups, not_searched=dict(scan.not_searched))


def _write_cards(records: Sequence[RunRecord], made: Path) -> None:
    """Write the model card of each training from what the bundle shows of it."""
    for record in records:
        if record["tags"].get("kmed.kind") != "train":
            continue
        size = record["tags"].get("kmed.size", "")
        card = write_card(
            name=f"kmed-whisper-{size}",
            size=size,
            params=record["params"],
            tags=record["tags"],
            metrics={
                name: value
                for name, series in record["metrics"].items()
                if series and (value := series[-1][1]) is not None
            },
            scores=record["artifacts"].get("scores.json"),
            counts={},
        )
        path = made / record["id"] / "MODEL_CARD.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(card, encoding="utf-8")


def _write_reports(records: Sequence[RunRecord], made: Path) -> None:
    """Write each benchmark's report from a store that holds these records and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        written, _ = restore(uri, "bundle", records)
        for record in records:
            if record["tags"].get("kmed.kind") != "bench":
                continue
            bench = read_bench(uri, written[record["id"]])
            place = made / record["id"] / "report"
            write_report(bench, place, comparisons=bench.comparisons)
            for path in place.iterdir():
                # Runs are known by the ids that they had where they were made, not by those of this passing store.
                content = path.read_bytes()
                for origin, passing in written.items():
                    content = content.replace(passing.encode(), origin.encode())
                path.write_bytes(content)


def _fetch_weights(uri: str, records: Sequence[RunRecord], made: Path) -> None:
    for record in records:
        if record["tags"].get("kmed.kind") == "train" and record["status"] == "FINISHED":
            with scratch_folder() as folder:
                path = fetch_best(record["id"], folder, tracking_uri=uri)
                target = made / record["id"] / _CHECKPOINT
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())


def _pack(out: Path, records: Sequence[RunRecord], made: Path, about: Mapping[str, Any], scan: LeakScan) -> int:
    """Write the file if the scan finds nothing in it; return the number of its members."""
    paths = sorted(path for path in made.rglob("*") if path.is_file())
    named = {f"files/{path.relative_to(made).as_posix()}": path for path in paths}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items()}
    head = {**BUNDLE.head, "code_version": code_version(), **about, "runs": list(records), "files": hashes}
    text = json.dumps(head, ensure_ascii=False, indent=1).encode()
    findings = scan.find(HEAD_NAME, text)
    for name, path in named.items():
        # Tensors hold no text; the checkpoint's names are openai-whisper's, which its reader has checked.
        findings += scan.find(name, b"" if name.endswith(".pt") else path.read_bytes())
    _refuse(findings)
    with replacing(out, private=True) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(HEAD_NAME, _EPOCH), text, zipfile.ZIP_DEFLATED)
        for name, path in named.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return len(named) + 1


def _refuse(findings: Sequence[Finding]) -> None:
    """Raise KmedError if something was found, which is named by its kind and place, and not quoted."""
    if not findings:
        return
    shown = "; ".join(f"{found.kind} in {found.where}" for found in findings[:10])
    more = f"; and {len(findings) - 10} more" if len(findings) > 10 else ""
    raise KmedError(
        "The bundle would take something of the corpus or of this machine along, so it was not written: "
        f"{shown}{more}. Look in the runs for what names it (names of runs and groups, settings, tags) and take it out."
    )


def read_bundle(path: Path) -> tuple[list[RunRecord], Callable[[str], Iterator[tuple[str, bytes]]]]:
    """Return the records of a bundle, and a function from a record's id to its files.

    Raises
    ------
    KmedError
        When it is no bundle, is damaged, or has members that it does not name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if packed := [member for member in archive.infolist() if member.compress_type not in _COMPRESSION]:
                raise KmedError(
                    f"{path} packs {packed[0].filename!r:.100} as no bundle does; it was not made by kmed-bench."
                )
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if sum(sizes.values()) > _MAX_BYTES:
                raise KmedError(f"{path} holds {sum(sizes.values())} bytes; a bundle has at most {_MAX_BYTES}.")
            if HEAD_NAME not in sizes:
                raise KmedError(f"{path} has no {HEAD_NAME}, so it is no bundle; `kmed-bench bundle` writes them.")
            head = BUNDLE.check(json.loads(archive.read(HEAD_NAME)), f"{HEAD_NAME} of {path}")
            contents = {name: archive.read(name) for name in sizes if name != HEAD_NAME}
    except FileNotFoundError:
        raise KmedError(f"{path} does not exist; name the file that `kmed-bench bundle` wrote.") from None
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a listing that points before the file
            raise
        raise KmedError(f"{path} is no bundle, or damaged ({brief(error)}); copy it again.") from error
    for run in head["runs"]:
        check_fields(run, RUN_FIELDS, f"A run in {path}", BUNDLE.remedy)
    hashes = head["files"]
    if odd := sorted(hashes.keys() ^ contents.keys()):
        raise KmedError(f"{path} and its list of files differ in {odd[0]!r:.100}; copy it again.")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != hashes[name]:
            raise KmedError(f"{name} in {path} is not what the bundle says (SHA-256 {hashes[name]}); copy it again.")
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise KmedError(f"{path} names a file outside of it ({name!r:.100}); it was not made by kmed-bench.")

    def files_of(record_id: str) -> Iterator[tuple[str, bytes]]:
        start = f"files/{record_id}/"
        return ((name.removeprefix(start), content) for name, content in contents.items() if name.startswith(start))

    return head["runs"], files_of


def bring_in(uri: str, path: Path, experiment: str, packages: Path | None = None) -> BroughtIn:
    """Write the runs of a bundle to a store.

    Parameters
    ----------
    packages : Path, optional
        Folder for the benchmark packages that the bundle holds, which belong to no run.
    """
    records, files_of = read_bundle(path)

    def fill(record_id: str, folder: Path) -> None:
        for name, content in files_of(record_id):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    written, new = restore(uri, experiment, records, fill)
    if packages is not None:
        fill("packages", packages)
    models = {}
    for record in records:
        weights = dict(files_of(record["id"])).get(_CHECKPOINT)
        run_id = written[record["id"]]
        if weights is not None and run_id != record["id"]:  # where it was made, the store has the model itself
            add_file(uri, run_id, _CHECKPOINT, weights)  # a bundle without checkpoints may have come before
            models[_name_training(record)] = f"runs:/{run_id}/{_CHECKPOINT}"
    return BroughtIn(new=new, present=len(records) - new, models=models)


def _name_training(record: RunRecord) -> str:
    return f"{record['tags'].get('kmed.size')}, seed {record['tags'].get('kmed.seed')}, {record['id'][:8]}"
