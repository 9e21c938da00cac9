"""What the tests of messages and progress share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def package_log() -> Iterator[None]:
    """The package's log, whose handlers and level are afterwards as they were."""
    package = logging.getLogger("kmed_bench")
    handlers, level = list(package.handlers), package.level
    yield
    package.handlers[:] = handlers
    package.setLevel(level)
