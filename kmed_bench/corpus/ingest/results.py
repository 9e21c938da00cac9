"""What `ingest` and `import-corpus` leave: three files that belong together, or after a failure the rejects alone."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kmed_bench.core.corpus_contracts import DATA_PAGE, QualityReport
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, replacing, write_text_atomically
from kmed_bench.core.schema import write_manifest
from kmed_bench.core.spreadsheets import csv_text


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder of results for its owner alone; a block that fails and leaves it empty removes it again.

    Raises
    ------
    KmedError
        When it can't be made.
    """
    try:
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise KmedError(f"The output folder {out} can't be made: {error.strerror}; choose another.") from None
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # what an interrupted run has read stays, and with it the folder
            for folder in made:
                folder.rmdir()
        raise


def write_corpus(out: Path, manifest: pd.DataFrame, rows: pd.DataFrame, quality: QualityReport) -> None:
    """Write the three files, all or none; `quality.json` appears last: where it is, the other two belong to it.

    A data page of an earlier corpus is removed, and so are the rejects of a failure beside the folder.
    """
    with contextlib.ExitStack() as files:  # they replace those of an earlier corpus in the opposite order
        quality_file, rejects_file, manifest_file = (
            files.enter_context(replacing(out / name, private=True))  # the examples of quality.json are ids
            for name in ("quality.json", "rejects.csv", "manifest.parquet")
        )
        quality_file.write_text(json.dumps(quality, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        rejects_file.write_text(_rejects_text(rows), encoding="utf-8")
        write_manifest(manifest, manifest_file)
        for earlier in ("quality.json", DATA_PAGE):
            (out / earlier).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        rejects_beside(out).unlink(missing_ok=True)


def rejects_beside(out: Path) -> Path:
    """Return where the rejects go when nothing is usable: beside the folder that is not written."""
    return Path(f"{out.resolve()}.rejects.csv")


def keep_rejects(out: Path, rows: pd.DataFrame) -> str:
    """Write the rejects of a corpus without a usable utterance, and return a sentence that says where they are."""
    if not (rows["reason"] != "").any():
        return ""
    path = rejects_beside(out)
    try:
        write_text_atomically(path, _rejects_text(rows), private=True)
    except OSError as error:
        return f" Their list, {path}, can't be written: {error.strerror}."
    return f" {path} lists each with its reason."


def _rejects_text(rows: pd.DataFrame) -> str:
    rejects = rows.loc[rows["reason"] != "", ["stem", "path", "reason", "detail"]]
    return csv_text(rejects.rename(columns={"stem": "utterance_id"}))
