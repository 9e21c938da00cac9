"""Fixtures that every test module shares."""

import os
from pathlib import Path

import pytest

# Before anything imports mlflow: no telemetry, also in the tests' child processes.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[1]


def real_speech_folder() -> Path | None:
    """Return the shared recordings' folder, or None where they are not."""
    named = os.environ.get("KMED_REAL_SPEECH")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "korean-speech"
    return folder if (folder / "Training").is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if real_speech_folder() is None:
        reason = "the shared Korean recordings are not here; set KMED_REAL_SPEECH to their folder"
        for item in items:
            if item.get_closest_marker("real_speech"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """The shared recordings, laid out as a download."""
    folder = real_speech_folder()
    assert folder is not None  # tests that use this carry the marker real_speech
    return folder
