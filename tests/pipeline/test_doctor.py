"""What `doctor` says of a torchaudio that refuses the torch beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmed_bench.pipeline.doctor import Finding

REFUSAL = "Detected that PyTorch and TorchAudio were compiled with different CUDA versions."


@pytest.mark.slow
def test_a_torchaudio_that_refuses_to_load_is_named_in_words(tmp_path: Path) -> None:
    (tmp_path / "torchaudio.py").write_text(f"raise RuntimeError({REFUSAL!r})")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}", "KMED_CACHE": str(tmp_path / "cache")}
    store = ["--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = run("-m", "kmed_bench", "doctor", *store)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode in (1, 2)
    (line,) = (line for line in done.stdout.splitlines() if REFUSAL in line)
    assert line.startswith("MISSING  torch")
    assert "pip install torch==2.14.1 torchaudio==2.11.0" in line
    # At 16 kHz nothing is resampled, so nothing is lacking; at another rate the same words end the command.
    code = "import numpy as np; from kmed_bench.asr.features.resampling import resample;"
    assert run("-c", code + "resample(np.zeros(9, 'float32'), 16000, 16000)").returncode == 0
    failed = run("-c", code + "resample(np.zeros(9, 'float32'), 8000, 16000)")
    assert "KmedError: torch " in failed.stderr
    assert REFUSAL in failed.stderr


@pytest.mark.parametrize("ok", [True, False])
def test_a_finding_shows_no_password_of_an_address(ok: bool) -> None:
    line = str(Finding(ok, "tracking", "https://kim:a%20p%40ss/word@mlflow.example.org:8443"))
    assert line.endswith("https://***@mlflow.example.org:8443")
    assert "p%40ss" not in line
