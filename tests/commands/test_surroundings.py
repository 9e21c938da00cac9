"""Full disks, closed streams, locales without Hangul: one clear line, the right status, nothing half under its name."""

import os
import resource
from pathlib import Path

import pytest
from command_line import run, said
from downloads import label, stem, wav, write_tree
from fault_table import fault

from kmed_bench.cli import main

pytestmark = pytest.mark.slow
ROW = (
    '{"utterance_id":"u%d","speaker_id":"s%d","sentence_id":"x%d","reference":"배가 아파요","hypothesis":"배가 아파",'
    '"duration_s":1,"decode_s":0,"gender":"F","age":"1","dialect":"d","region":"r","role":"patient"}\n'
)
SCORE = ["score", "예측.jsonl", "out", "--eval.bootstrap_draws", "20"]
COMMANDS = {
    "ingest": ["ingest", "환자 자료", "out", "--data.workers", "1"],
    "split": [
        "split",
        "manifest/manifest.parquet",
        "out",
        "--train",
        "2",
        "--valid",
        "2",
        "--test",
        "2",
        "--by",
        "none",
    ],
    "score": SCORE,
    "errors": ["errors", "예측.jsonl", "out"],
    "demo-corpus": ["demo-corpus", "out", "--speakers", "4", "--sentences", "12"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    files = {}
    for i in range(8):
        name = stem(f"PA_{i:04d}", i)
        files |= {f"환자 자료/{name}.json": label(f"{'가나다라마바사아'[i]}가 아파요"), f"환자 자료/{name}.wav": wav()}
    write_tree(folder, files | {"예측.jsonl": "".join(ROW % (i, i, i) for i in range(4)).encode()})
    assert run(folder, "ingest", "환자 자료", "manifest", "--data.workers", "1").returncode == 0
    return folder


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))  # writing more fails as on a full disk


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=fault(
                f"no room for what {name} writes",
                sees="error, status 2: the file and the cause",
                survives="what was there; no half file under a final name",
            ),
        )
        for name in COMMANDS
    ],
)
def test_no_room_is_one_line_and_nothing_half(place: Path, tmp_path: Path, name: str) -> None:
    words = [str(tmp_path / "out") if word == "out" else word for word in COMMANDS[name]]
    # A store on the same disk would be the first that fails, and one beside is used unless none is named.
    (place / "mlflow.db").unlink(missing_ok=True)
    done = run(place, *words, before=_small_files, MLFLOW_TRACKING_URI="")
    assert done.returncode == 2
    (line,) = said(done)
    assert "File too large" in line
    assert str(tmp_path / "out") in line
    left = [path for path in tmp_path.rglob("*") if path.is_file() and ".ingest" not in path.parts]
    assert [path for path in left if path.name != "kmed-bench.log" and path.stat().st_size >= 200] == []
    assert not [path for path in left if path.name.startswith(".")]
    again = run(place, *words)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("name", COMMANDS)
@fault("output folder below a file", sees="error, status 2: the path and the cause", survives="what was there")
def test_an_output_folder_that_cannot_be_made(place: Path, name: str) -> None:
    (place / "file").touch()
    done = run(place, *("file/out" if word == "out" else word for word in COMMANDS[name]))
    assert done.returncode == 2
    (line,) = said(done)
    assert "Not a directory" in line or "file can't be read or written: File exists" in line


@fault(
    "standard output on a full disk", sees="error, status 2: standard output", survives="the files that were written"
)
def test_a_full_disk_under_standard_output(place: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = run(place, *COMMANDS["ingest"][:2], str(tmp_path / "out"), stdout=full.fileno())
    assert done.returncode == 2
    (line,) = said(done)
    assert "standard output" in line
    assert "No space left on device" in line
    assert (tmp_path / "out" / "quality.json").exists()


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
@fault("standard output or standard error is closed", sees="nothing; status 0", survives="all results")
def test_closed_streams_cost_nothing(place: Path, tmp_path: Path, closed: tuple[int, ...]) -> None:
    words = ["ingest", "환자 자료", str(tmp_path / "out"), "--data.workers", "1"]
    done = run(place, *words, before=lambda: [os.close(handle) for handle in closed] and None)
    assert done.returncode == 0
    assert (tmp_path / "out" / "quality.json").read_bytes() == (place / "manifest" / "quality.json").read_bytes()


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "latin-1"])
@fault(
    "terminal whose encoding has no Hangul, or not all", sees="escapes in its place; status 0", survives="all results"
)
def test_a_terminal_without_hangul(place: Path, tmp_path: Path, encoding: str) -> None:
    for words in (["ingest", "환자 자료", f"{tmp_path}/결과"], ["score", "예측.jsonl", f"{tmp_path}/점수", *SCORE[3:]]):
        done = run(place, *words, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert said(done) == []
        if encoding == "ascii":
            assert done.stdout.isascii()


@fault(
    "locale C without UTF-8 and a path in Hangul", sees="error, status 2: set PYTHONUTF8=1", survives="what was there"
)
def test_a_locale_without_utf8_is_named(place: Path) -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(place, *COMMANDS["ingest"], **environment)
    assert done.returncode == 2
    (line,) = said(done)
    assert "set PYTHONUTF8=1" in line


def no_file(kind: str, what: str, message: str) -> pytest.MarkDecorator:
    return fault(f"{kind}: {what}", sees=f"error, status 2: …{message}…", survives="what was there")


YAML = {
    "in cp949": ("data: {source: 환자}".encode("cp949"), "line 1 is not UTF-8"),
    "in cp949, its third line": ("data:\n\n  source: 환자".encode("cp949"), "line 3 is not UTF-8"),
    "nested 20,000 deep": (b"a: " + b"[" * 20_000, "nested too deeply"),
    "a number of 5,000 digits": (b"split: {train: " + b"9" * 5_000 + b"}", "not valid YAML: Exceeds the limit"),
    "a day that is none": (b"data: {source: 2020-13-45}", "not valid YAML: month must be"),
    "not YAML": (b"a: {b", "not valid YAML: while parsing"),
    "a list": (b"[1, 2]", "it is a list"),
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            *case, id=what, marks=fault(f"profile: {what}", sees=f"error, status 2: …{case[1]}…", survives="all")
        )
        for what, case in YAML.items()
    ],
)
def test_profiles_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    assert main(["split", "x", str(tmp_path / "out"), "--profile", str(tmp_path / "own.yaml")]) == 2
    words = capsys.readouterr().err
    assert message in words
    assert "own.yaml" in words
    assert words.count("\n") == 1


LINES = {
    "half of a character": ('{"utterance_id": "\\ud55c\\ud800"}', "line 2 has half of a character (a lone surrogate)"),
    "a number as id": (ROW.replace('"u%d"', "7") % (1, 1), "line 2 has utterance_id 7; it must be text in quotes"),
    "a length of 401 digits": ((ROW % (1, 1, 1)).replace('_s":1', '_s":' + "1" * 401), "line 2 has duration_s 1111"),
    "a length that is NaN": ((ROW % (1, 1, 1)).replace('_s":1', '_s":NaN'), "line 2 has duration_s nan"),
    "a list": ("[1]\n", "line 2 is not a JSON object but [1]"),
    "nested 200,000 deep": ("[" * 200_000, "line 2 is not JSON: "),
    "an utterance twice": (ROW % (0, 0, 0), "line 2 repeats utterance 'u0'"),
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            *case, id=what, marks=fault(f"predictions: {what}", sees=f"error, status 2: …{case[1]}", survives="all")
        )
        for what, case in LINES.items()
    ],
)
def test_predictions_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(ROW % (0, 0, 0) + line, encoding="utf-8")
    assert main(["score", str(tmp_path / "p.jsonl"), str(tmp_path / "out")]) == 2
    words = capsys.readouterr().err
    assert f"p.jsonl, {message}" in words
    assert words.count("\n") == 1
    assert not (tmp_path / "out").exists()
