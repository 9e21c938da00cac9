"""Fixtures of the tests of tracking."""

from pathlib import Path

import pytest

from kmed_bench.tracking import store


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database to copy: each takes seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    store._make_database(path)
    return path
