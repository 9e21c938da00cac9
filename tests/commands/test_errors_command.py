"""`errors` with recordings: read where the manifest says, counted where they can't be, found again."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.cli import main
from kmed_bench.core.files import read_json
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.core.schema import write_manifest

FAST = ["--eval.bootstrap_draws", "100"]


@pytest.fixture
def folder(tone_part: pd.DataFrame, tmp_path: Path) -> Path:
    """A manifest of six tones, of which one file is gone and one is no audio, with two systems' predictions."""
    part = tone_part.iloc[:6].copy()
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF0000WAVE")
    part.loc[part.index[3], "audio"] = str(tmp_path / "gone.wav")
    part.loc[part.index[1], "audio"] = str(broken)
    write_manifest(part, tmp_path / "manifest.parquet")
    for name, hypothesis in (("a", "머리가 아바요"), ("b", "네")):
        rows = part.to_dict("records")
        write_predictions(tmp_path / f"{name}.jsonl", [Prediction.from_row(row, hypothesis, 0.1) for row in rows])
    return tmp_path


def run(folder: Path, out: str, *more: str) -> tuple[int, Path]:
    status = main(["errors", str(folder / "a.jsonl"), str(folder / out), *more, *FAST])
    return status, folder / out / "index.html"


def test_the_page_holds_what_the_model_heard(
    folder: Path, tone_part: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ["--beside", str(folder / "b.jsonl"), "--beside-name", "second"]
    status, page = run(folder, "out", "--audio", str(folder), *beside)
    assert status == 0
    said = capsys.readouterr()
    assert re.search(r"\nRecordings of 4 of 6 clips, 0\.\d minutes at \d\.\d\d MiB a minute \(\w+\)\.\n", said.out)
    assert "\n2 recordings can't be read; the page says why at each clip.\n" in said.out
    assert "gone.wav" not in said.out + said.err
    assert page.stat().st_mode & 0o777 == 0o600
    text = page.read_text(encoding="utf-8")
    assert "gone.wav can&#39;t be read: No such file or directory" in text
    assert "second: 0 errors" in text
    found = dict(re.findall(r'data-id="([^"]+)">(?:(?!</li>).)*?src="data:[^,]*,([^"]*)"', text, re.S))
    assert len(found) == 4
    for row in tone_part.to_dict("records"):
        if row["utterance_id"] in found:
            heard, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(found[row["utterance_id"]])), dtype="float32")
            wanted = decode_audio(Path(row["audio"]).read_bytes(), row["utterance_id"])
            assert (rate_hz, len(heard)) == (16_000, len(wanted))
            assert np.corrcoef(heard, wanted)[0, 1] > 0.95
    assert read_json(page.parent / "summary.json")["page"]["recordings_unreadable"] == 2


def test_the_same_command_finds_its_page_and_another_leaves_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = ["--audio", str(folder / "manifest.parquet")]
    status, page = run(folder, "out", *audio)
    assert status == 0
    written, said = page.stat().st_mtime_ns, capsys.readouterr().out
    assert run(folder, "out", *audio)[0] == 0
    assert (page.stat().st_mtime_ns, capsys.readouterr().out) == (written, said)
    for other in ([], [*audio, "--max-mib", "8"], [*audio, "--beside", str(folder / "b.jsonl")]):
        assert run(folder, "out", *other)[0] == 2
        assert "is not overwritten" in capsys.readouterr().err
    assert page.stat().st_mtime_ns == written


def test_recordings_come_from_the_references_unless_they_are_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = ["--split", str(folder)]
    status, page = run(folder, "heard", *split)
    assert (status, page.read_text(encoding="utf-8").count("<audio")) == (0, 4)
    capsys.readouterr()
    status, page = run(folder, "silent", *split, "--audio", "none")
    assert (status, page.read_text(encoding="utf-8").count("<audio")) == (0, 0)
    assert "No recordings in the page; --audio SPLIT, a split or a manifest, adds them." in capsys.readouterr().out


def test_an_utterance_that_the_manifest_lacks_is_counted(
    folder: Path, tone_part: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tone_part.iloc[:2], folder / "few.parquet")
    assert run(folder, "out", "--audio", str(folder / "few.parquet"))[0] == 0
    assert "\n4 recordings can't be read; the page says why at each clip.\n" in capsys.readouterr().out
