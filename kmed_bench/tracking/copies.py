"""A SQLite store that was copied or moved with its artifacts: its absolute paths are rewritten to where it is now.

MLflow keeps the absolute location of every artifact. In a copied project folder they name the original's, so runs of
the copy would write there, and its own artifacts would be found only as long as the original exists.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from kmed_bench.tracking.waiting import WAIT_S

_FOLDER = "mlruns"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
log = logging.getLogger(__name__)


def adopt_copy(database: Path) -> None:
    """Point artifact locations to the ``mlruns`` beside a database, if they name another one and this one has them.

    A store whose artifacts are elsewhere on purpose has no such folder beside it and stays as it is.
    """
    here = database.parent / _FOLDER
    if not here.is_dir():
        return
    with closing(sqlite3.connect(database, timeout=WAIT_S)) as connection:
        strays = _find_strays(connection, here)
        if not strays:
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for root in strays:
                for table, column in _COLUMNS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (here.as_uri() + "/", len(root) + 1, len(root), root),
                    )
    named = ", ".join(str(_path(root)) for root in sorted(strays))
    log.warning("The store %s was copied or moved: its artifacts are in %s now, not in %s.", database, here, named)


def _find_strays(connection: sqlite3.Connection, here: Path) -> set[str]:
    """Return the beginnings of locations, up to ``mlruns/``, that name a folder other than the one here."""
    strays, present = set(), set()
    for (location,) in connection.execute("SELECT artifact_location FROM experiments"):
        root, slash, folder = str(location).rpartition("/")
        path = _path(root)
        if path is None or path.name != _FOLDER or path.resolve() == here.resolve():
            continue
        strays.add(root + slash)
        if (here / url2pathname(folder)).is_dir():
            present.add(root + slash)
    return strays & present


def _path(location: str) -> Path | None:
    parts = urlparse(location)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") and parts.path else None
