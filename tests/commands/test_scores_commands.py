"""`score`, `errors` and `package`: any system's predictions on one standard, from ids and hypotheses alone."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kmed_bench.cli import main
from kmed_bench.config import SplitConfig
from kmed_bench.core.files import read_json
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.core.schema import MANIFEST_COLUMNS, read_manifest, write_manifest
from kmed_bench.corpus.splitting.split import Split, read_split, split_manifest, write_split
from kmed_bench.scoring import ScoringOptions, compare_predictions, score_predictions

LABELS = ("머리가 (3)/(삼) 일째 아파요", "약을 먹었는데 토했어요", "혈압이 높대요", "열이 나요", "기침이 나요")
FAST = ["--eval.bootstrap_draws", "200"]
OPTIONS = ScoringOptions(bootstrap_draws=200)


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for number in range(80):
        row: dict[str, Any] = dict.fromkeys(MANIFEST_COLUMNS, "N/A")
        row |= {"utterance_id": f"u{number:02}", "speaker_id": f"s{number % 16:02}", "sentence_id": f"t{number}"}
        row |= {"text": LABELS[number % 5], "gender": ("Female", "Male")[number % 2], "role": "patient"}
        rows.append({**row, "duration_s": 1.5, "rate_hz": 16_000})
    config = SplitConfig(train=30, valid=10, test=40, by=("gender",), disjoint=())
    folder = tmp_path_factory.mktemp("split")
    write_split(split_manifest(pd.DataFrame(rows), config), folder)
    return folder


@pytest.fixture(scope="module")
def split(split_folder: Path) -> Split:
    return read_split(split_folder)


def heard(text: str, drop: int) -> str:
    """What a system that loses its last characters makes of a label."""
    said = text.replace("(3)/(삼)", "삼")
    return said[: len(said) - drop]


def write_lines(path: Path, part: pd.DataFrame, drop: int, **more: str) -> Path:
    """A predictions file of another system: ids and hypotheses, nothing else."""
    lines = {row["utterance_id"]: heard(row["text"], drop) for row in part.to_dict("records")} | more
    text = "".join(json.dumps({"utterance_id": key, "hypothesis": said}) + "\n" for key, said in lines.items())
    path.write_text(text, encoding="utf-8")
    return path


def full(part: pd.DataFrame, drop: int) -> list[Prediction]:
    names = ("utterance_id", "speaker_id", "sentence_id", "gender", "age", "dialect", "region", "role")
    return [
        Prediction(
            **{name: row[name] for name in names},
            reference=row["text"],
            hypothesis=heard(row["text"], drop),
            duration_s=1.5,
            decode_s=0.0,
        )
        for row in part.to_dict("records")
    ]


def test_ids_and_hypotheses_are_scored_like_whole_predictions(split_folder: Path, split: Split, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "other.jsonl", split.parts["test"], 2)
    assert main(["score", str(lines), str(tmp_path / "out"), "--split", str(split_folder), *FAST]) == 0
    scores = read_json(tmp_path / "out" / "scores.json")
    joined = scores.pop("joined")
    assert re.fullmatch(r"[0-9a-f]{16}", scores.pop("made_of"))
    whole = score_predictions(full(split.parts["test"], 2), OPTIONS, split_sha256=split.sha256)
    assert scores == json.loads(json.dumps(whole))
    assert joined == {
        "part": "test",
        "references": "taken from the split",
        "missing_counted_as_empty": 0,
        "unknown_left_out": 0,
    }


def test_missing_utterances_refuse_or_count_as_empty(
    split_folder: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = split.parts["test"]
    lines = write_lines(tmp_path / "other.jsonl", part.iloc[3:], 0, stranger="네")
    command = ["score", str(lines), str(tmp_path / "out"), "--split", str(split_folder), *FAST]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "3 of the part's 40 utterances have no hypothesis" in error
    assert part["utterance_id"].iloc[0] in error
    assert "--missing empty" in error
    assert not (tmp_path / "out").exists()

    assert main([*command, "--missing", "empty"]) == 0
    said = capsys.readouterr().out
    assert "1 utterances are not in test and left out: stranger" in said
    scores = read_json(tmp_path / "out" / "scores.json")
    assert scores["joined"]["missing_counted_as_empty"] == 3
    assert scores["joined"]["unknown_left_out"] == 1
    assert scores["overall"]["n_clips"] == 40
    assert scores["overall"]["empty_rate"] == 3 / 40
    assert scores["overall"]["deletion_share"] == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}\n", "line 1 lacks the field 'utterance_id'"),
        ("[]\n", "line 1 is not a JSON object but []"),
        ('{"utterance_id": "a", "hypothesis": "", "decode_s": "fast"}\n', "has decode_s 'fast'; it must be a number"),
        ('{"utterance_id": "u00", "hypothesis": 3}\n', "has hypothesis 3"),
        ('{"utterance_id": "u00"}\n', "lacks the field 'hypothesis'"),
        ("{\n", "line 1 is not JSON"),
        ('{"utterance_id": "a", "hypothesis": ""}\n' * 2, "line 2 repeats utterance 'a'"),
        ('{"utterance_id": "a", "hypothesis": ""}\n', "None of the 1 utterances"),
    ],
)
def test_files_that_cannot_be_joined(
    text: str, words: str, split_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    assert main(["score", str(tmp_path / "p.jsonl"), str(tmp_path / "out"), "--split", str(split_folder)]) == 2
    assert words in capsys.readouterr().err


def test_missing_utterances_need_a_split_to_be_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "p.jsonl"), str(tmp_path), "--missing", "empty"]) == 2
    assert "needs --split" in capsys.readouterr().err


def test_one_command_measures_and_compares_with_a_package(
    split_folder: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = split.parts["test"]
    baseline, other = write_lines(tmp_path / "a.jsonl", part, 3), write_lines(tmp_path / "b.jsonl", part, 1)
    package = tmp_path / "package"
    command = ["package", str(baseline), str(package), "--split", str(split_folder), "--name", "base", *FAST]
    assert main(command) == 0
    everything = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*") if path.is_file())
    assert "머리" not in everything
    assert str(tmp_path) not in everything
    frozen = read_json(package / "frozen-split.json")
    assert frozen["sha256"] == split.sha256

    out = tmp_path / "out"
    command = ["score", str(other), str(out), "--split", str(split_folder), "--against", str(package), *FAST]
    capsys.readouterr()
    assert main(command) == 0
    expected = compare_predictions(full(part, 3), full(part, 1), OPTIONS)
    (row,) = read_json(out / "comparisons.json")["comparisons"]
    assert row == json.loads(json.dumps({"baseline": "base", **expected, "p_holm": expected["p_value"]}))
    assert row["delta"] < 0
    assert f"Against base: CER {100 * row['delta']:+.2f} points" in capsys.readouterr().out
    assert read_json(out / "scores.json")["split_sha256"] == split.sha256
    assert main([*command, "--policy", "spelling"]) == 2
    assert "pronunciation side" in capsys.readouterr().err


def test_one_command_compares_with_a_predictions_file_or_its_folder(
    split_folder: Path, split: Split, tmp_path: Path
) -> None:
    part = split.parts["test"]
    other = write_lines(tmp_path / "b.jsonl", part, 1)
    write_predictions(tmp_path / "base" / "predictions.jsonl", full(part, 3))
    found = []
    for baseline in ("base", "base/predictions.jsonl", "base/scores.json"):
        out = tmp_path / f"out{len(found)}"
        command = ["score", str(other), str(out), "--split", str(split_folder), *FAST]
        assert main([*command, "--against", str(tmp_path / baseline)]) == 0
        found += read_json(out / "comparisons.json")["comparisons"]
    names = [row.pop("baseline") for row in found]
    assert names == [str(tmp_path / name) for name in ("base", "base/predictions.jsonl", "base/scores.json")]
    assert found[0] == found[1] == found[2]
    assert found[0]["delta"] == compare_predictions(full(part, 3), full(part, 1), OPTIONS)["delta"]


def test_an_absent_baseline_is_an_error(split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_predictions(tmp_path / "p.jsonl", full(split.parts["test"], 1))
    command = ["score", str(tmp_path / "p.jsonl"), str(tmp_path / "out"), "--against", str(tmp_path / "nothing")]
    assert main(command) == 2
    assert "nothing does not exist, or no predictions.jsonl is in it; --against takes" in capsys.readouterr().err


def test_a_package_without_a_split_knows_its_references(split: Split, tmp_path: Path) -> None:
    part = split.parts["test"]
    for name, drop in (("a", 3), ("b", 1)):
        write_predictions(tmp_path / f"{name}.jsonl", full(part, drop))
    assert main(["package", str(tmp_path / "a.jsonl"), str(tmp_path / "package"), *FAST]) == 0
    assert not (tmp_path / "package" / "frozen-split.json").exists()
    command = ["score", str(tmp_path / "b.jsonl"), str(tmp_path / "out"), "--against", str(tmp_path / "package")]
    assert main([*command, *FAST]) == 0
    (row,) = read_json(tmp_path / "out" / "comparisons.json")["comparisons"]
    assert (row["baseline"], row["n_clips"]) == ("baseline", 40)


@pytest.mark.slow
def test_errors_are_a_private_folder(
    split: Split, split_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write_lines(tmp_path / "a.jsonl", split.parts["test"], 2)
    out = tmp_path / "errors"
    command = ["errors", str(lines), str(out), "--split", str(split_folder), "--name", "other", *FAST]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "transcripts" in said
    assert "do not log, attach or publish" in said
    assert out.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}
    assert "Transcription errors: other" in (out / "index.html").read_text(encoding="utf-8")
    assert main(command) == 0  # again, into the same folder

    out.chmod(0o755)
    assert main(command) == 2
    assert "mode 755" in capsys.readouterr().err
    assert out.stat().st_mode & 0o777 == 0o755


def test_power_takes_a_pilot_or_assumed_deviations(
    split_folder: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = split.parts["test"]
    a, b = full(part, 2), [p for row, p in enumerate(full(part, 1))]
    b = [p if row % 3 else full(part, 3)[row] for row, p in enumerate(b)]
    for name, predictions in (("a", a), ("b", b)):
        write_predictions(tmp_path / f"{name}.jsonl", predictions)
    pilot = ["--predictions", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    shown = []
    for words in ([], pilot, [*pilot, "--difference", "0.5"], ["--speaker-sd", "0.3"]):
        assert main(["power", str(split_folder), *words]) == 0
        shown.append(capsys.readouterr().out)
    assert all("40 clips of" in text and "with a power of 80 %" in text for text in shown)
    assert "assumed deviations" in shown[0]
    assert "from a pilot with" in shown[1]
    assert shown[2].splitlines()[1].startswith("A difference of 0.5000 needs")
    least = [float(text.split("CER of ")[1].split()[0]) for text in shown]
    assert 0 < least[0] < least[3]
    assert main(["power", str(split_folder), "--clip-sd", "-1"]) == 2
    assert "must be 0 or more" in capsys.readouterr().err


def test_power_says_which_part_or_corpus_a_pilot_is_of(
    split_folder: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pilot(name: str, part: pd.DataFrame) -> list[str]:
        paths = []
        for system, drops in (("a", (2, 2)), ("b", (1, 3))):
            made = [full(part, drops[row % 3 == 0])[row] for row in range(len(part))]
            write_predictions(tmp_path / f"{name}-{system}.jsonl", made)
            paths.append(str(tmp_path / f"{name}-{system}.jsonl"))
        return ["power", str(split_folder), "--predictions", *paths]

    test, train = split.parts["test"], split.parts["train"]
    elsewhere = test.assign(utterance_id="other-" + test["utterance_id"])
    said = {}
    for name, part in (("test", test), ("train", train), ("elsewhere", elsewhere)):
        assert main(pilot(name, part)) == 0
        said[name] = capsys.readouterr().out
    assert f"a pilot with {test['speaker_id'].nunique()} speakers of test)" in said["test"]
    assert "speakers of train, not of test, with the standard deviations" in said["train"]
    assert "speakers that are not in this split, with" in said["elsewhere"]
    assert main(pilot("mixed", pd.concat([test.iloc[:8], train.iloc[:8]]))) == 2
    assert "The pilot's 16 utterances are not all of one part of this split (8 are in train" in capsys.readouterr().err


def test_compare_judges_a_margin_when_asked(split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = split.parts["test"]
    write_predictions(tmp_path / "a.jsonl", full(part, 1))
    write_predictions(tmp_path / "b.jsonl", [full(part, 1 + row % 2)[row] for row in range(len(part))])
    command = ["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--eval.bootstrap_draws", "200"]
    assert main(command) == 0
    assert "margin" not in json.loads(capsys.readouterr().out)
    for margin, verdict in (("0.2", "equivalent: the difference"), ("0.01", "not shown: the second may be worse")):
        assert main([*command, "--margin", margin]) == 0
        found = json.loads(capsys.readouterr().out)["margin"]
        assert found["verdict"].startswith(verdict)
        assert found["p_non_inferiority"] <= found["p_equivalence"]
    assert main([*command, "--margin", "0"]) == 2
    assert "A margin of 0 can't be tested" in capsys.readouterr().err


def test_a_margin_says_when_the_speakers_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n_speakers, verdict in ((4, "not shown: 4 speakers can't show it"), (5, "not shown: 5"), (6, "equivalent: ")):
        clips = [
            Prediction(
                utterance_id=f"u{n}",
                speaker_id=f"s{n % n_speakers}",
                sentence_id=str(n),
                reference="가나다라마바사아자차" * (1 + n % 3),
                hypothesis="가나다라마바사아자",
                duration_s=2.0,
                decode_s=0.1,
                gender="Female",
                age="20~29",
                dialect="경상",
                region="",
                role="patient",
            )
            for n in range(24)
        ]
        path = tmp_path / f"{n_speakers}.jsonl"
        write_predictions(path, clips)
        assert main(["compare", str(path), str(path), "--margin", "0.2"]) == 0
        found = json.loads(capsys.readouterr().out)["margin"]
        assert found["verdict"].startswith(verdict), found
        assert ("at least 6" in found["verdict"]) == (n_speakers < 6)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["score", "errors", "package"])
def test_the_same_command_finds_its_output_and_another_one_does_not_overwrite_it(
    split_folder: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    lines = write_lines(tmp_path / "p.jsonl", split.parts["test"], 2)
    others = write_lines(tmp_path / "q.jsonl", split.parts["test"], 1)
    out = tmp_path / "out"
    command = [name, str(lines), str(out), "--split", str(split_folder), *FAST]
    assert main(command) == 0
    before, said = contents(out), capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == said
    for another in ([*command, "--policy", "spelling"], [name, str(others), *command[2:]]):
        assert main(another) == 2
        assert "is not overwritten" in capsys.readouterr().err
    assert contents(out) == before


def test_another_split_does_not_overwrite_one(split_folder: Path, tmp_path: Path) -> None:
    """Join the parts and split them again: the same seed changes nothing, and another one is refused."""
    out = tmp_path / "split"
    parts = [read_manifest(split_folder / f"{part}.parquet") for part in ("train", "valid", "test")]
    write_manifest(pd.concat(parts, ignore_index=True), tmp_path / "manifest.parquet")
    sizes = ["--train", "20", "--valid", "10", "--test", "10", "--disjoint", "none", "--by", "gender"]
    command = ["split", str(tmp_path / "manifest.parquet"), str(out), *sizes]
    assert main(command) == 0
    before = {name: content for name, (content, _) in contents(out).items()}
    assert main(command) == 0
    assert main([*command, "--seed", "7"]) == 2
    assert {name: content for name, (content, _) in contents(out).items()} == before
