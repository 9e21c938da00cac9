"""Folders for files that live as long as a piece of work: what a killed process leaves in one can be told apart."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kmed_bench.core.files import PRIVATE_FOLDER, temporary_beside

_NAME = "kmed-bench"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new private folder among the system's temporary files, removed with all that is in it at the end."""
    folder = temporary_beside(Path(tempfile.gettempdir()) / _NAME)
    folder.mkdir(PRIVATE_FOLDER)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_for_libraries() -> Iterator[None]:
    """Put what libraries write as temporary files into a `scratch_folder` while the block runs.

    MLflow, for one, never removes a model that it downloaded to load it.
    """
    before = tempfile.tempdir
    with scratch_folder() as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


def find_scratch() -> list[Path]:
    """Return the scratch folders that are there, in use or left."""
    return sorted(Path(tempfile.gettempdir()).glob(f".{_NAME}.*_*_*"))
