"""`curve` on the command line: what it refuses, and how it ends when it is interrupted."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from exported import write_thirds

from kmed_bench import cli
from kmed_bench.asr.model import weights
from kmed_bench.asr.model.weights import Weights
from kmed_bench.pipeline.curve import trace


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "`curve` takes one size, and --size is None"),
        (["--size", "tiny,base"], "`curve` takes one size, and --size is tiny,base"),
        (["--size", "base"], r"absent/split.json does not exist"),
        (["--size", "base", "--fractions", "0.5,0.5"], "each fraction may be named once"),
        (["--size", "base", "--fractions", "0,1"], "curve.fractions"),
        (["--size", "base", "--curve.extrapolate", "9"], "curve.extrapolate is '9'"),
        (["--size", "base", "--tracking.register", "true"], "does not read the setting tracking.register"),
    ],
)
def test_faulty_words_are_refused_before_any_work(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["curve", "absent", "out", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_curve_names_the_command_that_continues_it(
    tone_part: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trace, "learn_curve", stop)
    monkeypatch.setattr(weights, "find_weights", lambda *_: Weights("base", Path("base.pt"), "path", "0" * 64))
    write_thirds(tone_part, tmp_path / "split")
    words = ["curve", "split", "out", "--size", "base"]
    monkeypatch.setattr(sys, "argv", ["kmed-bench", *words])
    assert cli.main(words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Continue with the same command: kmed-bench curve split out --size base"
    )
