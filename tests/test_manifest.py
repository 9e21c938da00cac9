"""The manifest of the real recordings, of broken downloads, and of interrupted runs."""

from pathlib import Path

import pytest

from kmed_bench.config import DataConfig
from kmed_bench.corpus.manifest import ingest


@pytest.mark.real_speech
def test_shared_recordings_are_what_their_readme_says(real_speech: Path, tmp_path: Path) -> None:
    quality = ingest([real_speech], tmp_path, DataConfig())
    assert (quality["labels"], quality["usable"]) == (310, 303)
    assert quality["rejected"] == {
        "audio_missing": 2,
        "audio_truncated": 1,
        "audio_unreadable": 1,
        "label_incomplete": 1,
        "label_unreadable": 1,
        "transcript_empty": 1,
    }
    assert quality["warnings"] == {"audio_without_label": 1}
    assert quality["speakers"] == 25
