"""A list of own recordings to scores, and other systems' files compared: the commands a student types."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kmed_bench.cli import main
from kmed_bench.commands.score_text import comparison_lines
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json
from kmed_bench.core.quantities import OVER_WHOLE
from kmed_bench.core.schema import read_manifest
from kmed_bench.pipeline.preparation import check_source, split_source
from kmed_bench.scoring.sides import SIDES_FILE

FAST = ["--eval.bootstrap_draws", "100"]
SAID = "체온이 (3)/(삼) 도예요"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of six speakers, imported."""
    folder = tmp_path_factory.mktemp("recordings")
    lines = ["파일,전사,화자,성별"]
    for n in range(12):
        noise = np.random.default_rng(n).normal(0, 0.05, 8000)
        soundfile.write(folder / f"r{n:02}.wav", noise, 16_000, subtype="PCM_16")
        lines.append(f"r{n:02}.wav,{SAID} {chr(0xAC00 + n)},s{n % 6},{'여남'[n % 2]}")
    (folder / "list.csv").write_text("\n".join(lines), encoding="cp949")
    assert main(["import-corpus", str(folder / "list.csv"), str(folder / "corpus")]) == 0
    return folder / "corpus"


def write_systems(corpus: Path, folder: Path) -> tuple[Path, Path]:
    """One system writes 3 into a CSV, the other one 삼 into a folder of Whisper's JSON."""
    texts = dict(read_manifest(corpus / "manifest.parquet")[["utterance_id", "text"]].to_numpy())
    digits = {name: text.replace("(3)/(삼)", "3") for name, text in texts.items()}
    folder.mkdir(exist_ok=True)
    table = folder / "digits.csv"
    table.write_text("file,text\n" + "".join(f"x/{k}.wav,{v}\n" for k, v in digits.items()), encoding="utf-16")
    (folder / "whisper").mkdir(exist_ok=True)
    for name, text in texts.items():
        value = {"text": " " + text.replace("(3)/(삼)", "삼"), "segments": [], "language": "ko"}
        (folder / "whisper" / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return table, folder / "whisper"


def test_importing_says_what_absent_fields_mean(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (corpus.parent / "list.csv").read_text(encoding="cp949").replace("화자", "비고")
    (corpus.parent / "other.csv").write_text(lines, encoding="utf-8")
    assert main(["import-corpus", str(corpus.parent / "other.csv"), str(corpus.parent / "other")]) == 0
    said = capsys.readouterr().out
    assert (
        "12 of 12 utterances have no speaker: no split can keep speakers apart (give --split.disjoint sentence)" in said
    )
    assert "No age: there are no scores by age." in said
    assert "No gender" not in said
    sizes = ["--train", "6", "--valid", "3", "--test", "3", "--by", "none"]
    split = ["split", str(corpus.parent / "other" / "manifest.parquet"), str(corpus.parent / "split"), *sizes]
    assert main(split) == 2
    assert "The speakers of 12 of 12 utterances are not known" in capsys.readouterr().err
    assert main([*split, "--disjoint", "sentence"]) == 0
    assert "leaking unknown speakers" in capsys.readouterr().out


def test_two_systems_compare_with_the_references_of_a_manifest(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, folder = write_systems(corpus, tmp_path)
    assert main(["compare", str(table), str(folder), "--references", str(corpus), *FAST]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["n_clips"] == 12
    assert compared["b"] == 0 < compared["a"]
    command = ["compare", str(table), str(folder), "--references", str(corpus), "--metric", "cer_number", *FAST]
    assert main([*command, "--format", "table,whisper"]) == 0
    assert json.loads(capsys.readouterr().out)["a"] == 0
    assert main([*command, "--format", "whisper,table"]) == 2
    assert main(["compare", str(table), str(folder)]) == 2
    assert "holds no references; name the split or the manifest" in capsys.readouterr().err


def test_both_sides_are_scored_and_digits_are_explained(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, folder = write_systems(corpus, tmp_path)
    command = ["score", str(table), str(tmp_path / "out"), "--references", str(corpus), *FAST]
    assert main([*command, "--against", str(folder)]) == 0
    said = capsys.readouterr().out
    sides = read_json(tmp_path / "out" / SIDES_FILE)
    scores = read_json(tmp_path / "out" / "scores.json")
    assert sides["pronunciation"]["cer"] == scores["overall"]["cer"] == pytest.approx(1 / 8)
    assert sides["spelling"]["cer"] == sides["pronunciation"]["cer_number"] == 0
    assert sides["n_with_digits"] == 12
    assert "CER 12.5 % (" in said
    assert "12 clips, 6 speakers" in said
    assert (
        "Hint: 12 transcripts hold digits. On the pronunciation side CER is 12.5 %, on the spelling side 0.0 %" in said
    )
    assert "gender Female" in said
    assert OVER_WHOLE not in said
    assert f"Against {folder}: CER +12.50 points" in said
    assert "age N/A" not in said
    assert main([*command, "--against", str(folder), "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["overall"]["cer"] == scores["overall"]["cer"]
    assert raw["sides"]["hint"] == sides["hint"]
    assert main(["score", str(folder), str(tmp_path / "b"), "--references", str(corpus), *FAST]) == 0
    assert "Hint" not in capsys.readouterr().out


def test_rates_over_100_percent_are_explained_wherever_they_are_shown(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop in one clip: over 100 % for a group, below for the whole; then a system that loops in all clips."""
    texts = dict(read_manifest(corpus / "manifest.parquet")[["utterance_id", "text"]].to_numpy())
    said = {}
    for name, n_loops in (("once", 1), ("always", 12)):
        heard = {
            k: v.replace("(3)/(삼)", "삼") + " 네네" * 40 * (at < n_loops) for at, (k, v) in enumerate(texts.items())
        }
        table = tmp_path / f"{name}.csv"
        table.write_text("file,text\n" + "".join(f"{k},{v}\n" for k, v in heard.items()), encoding="utf-8")
        assert main(["score", str(table), str(tmp_path / name), "--references", str(corpus), *FAST]) == 0
        said[name] = capsys.readouterr().out
    overall = read_json(tmp_path / "once" / "scores.json")
    assert overall["overall"]["cer"] < 1 < overall["groups"]["gender"]["Female"]["cer"]
    assert OVER_WHOLE in said["once"]
    assert "3 speakers are too few for an interval, which takes 5" in said["once"]  # a group's dash in words
    tables = [str(tmp_path / f"{name}.csv") for name in said]
    assert main(["compare", *tables, "--references", str(corpus), *FAST]) == 0
    assert [*comparison_lines(json.loads(capsys.readouterr().out), "a", "b")][-1] == OVER_WHOLE


def test_an_imported_corpus_is_a_source_of_runs(corpus: Path, tmp_path: Path) -> None:
    settings = {"data.source": str(corpus), "split.train": "6", "split.valid": "2", "split.test": "2"}
    config = load_config("sound", {**settings, "split.by": "none", "split.disjoint": "speaker"})
    check_source(config)
    split = split_source(corpus, tmp_path, config)
    assert split.report["counts"] == {"train": 6, "valid": 2, "test": 2}
    for name in ("manifest.parquet", "quality.json", "rejects.csv"):
        assert (tmp_path / "manifest" / name).read_bytes() == (corpus / name).read_bytes()
    with pytest.raises(KmedError, match="is a list; import it first"):
        check_source(load_config("sound", {"data.source": str(corpus.parent / "list.csv")}))
