"""Lists of recordings: the same files and verdicts as `ingest`, copies where needed, and what absent fields mean."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
import soundfile
from recordings import encode

from kmed_bench.config import DataConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import AUDIO_DIGEST, MANIFEST_COLUMNS, read_manifest
from kmed_bench.corpus.demo.sentences import corpus_name
from kmed_bench.corpus.imports.importing import Imported, import_corpus
from kmed_bench.corpus.imports.lists import ListOptions, read_seconds
from kmed_bench.corpus.imports.records import read_age, read_dialect, read_gender, read_role

CONFIG = DataConfig()
RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Samples that 16 bits hold exactly."""
    values = np.random.default_rng(seed).integers(-9000, 9000, round(seconds * RATE))
    return (values / 2**15).astype(np.float32)


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (samples * 2**15).astype(np.int16), RATE, subtype="PCM_16")
    return path


def listed(
    folder: Path, rows: list[str], header: str = "파일,전사,화자,성별,나이,방언", encoding: str = "utf-8"
) -> Path:
    path = folder / "목록.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding=encoding)
    return path


def read(source: Path, out: Path, **options: Any) -> tuple[Imported, pd.DataFrame, pd.DataFrame]:
    found = import_corpus(source, out, CONFIG, ListOptions(**options))
    manifest = read_manifest(out / "manifest.parquet").set_index("utterance_id", drop=False)
    return found, manifest, pd.read_csv(out / "rejects.csv").set_index("utterance_id")


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "utf-16"])
def test_a_korean_list_becomes_a_manifest(tmp_path, encoding):
    for number, name in enumerate(("a.wav", "b.flac", unicodedata.normalize("NFD", "환자.wav"))):
        write(tmp_path / name, noise(1, number))
    rows = [
        "a,열이 (3)/(삼) 일째 나요,s1,여,34,경상도",
        "b.flac,기침이 나요,s2,남성,70대,제주",
        "환자.wav,배가 아파요,s2,,,",
    ]
    found, manifest, rejects = read(listed(tmp_path, rows, encoding=encoding), tmp_path / "out")
    assert list(manifest.columns) == [*MANIFEST_COLUMNS, AUDIO_DIGEST]
    assert list(manifest.index) == ["a", "b", "환자"]
    assert rejects.empty
    assert list(manifest["text"]) == ["열이 (3)/(삼) 일째 나요", "기침이 나요", "배가 아파요"]
    assert list(manifest["gender"]) == ["Female", "Male", "N/A"]
    assert list(manifest["age"]) == ["30~39", "over70", "N/A"]
    assert list(manifest["dialect"]) == ["경상", "제주", "N/A"]
    assert list(manifest["duration_s"]) == [1.0, 1.0, 1.0]
    assert manifest["audio"]["a"] == str(tmp_path / "a.wav")
    assert (found.n_copies, found.copied_bytes) == (0, 0)
    assert found.absent == {"gender": 1, "age": 1, "dialect": 1}
    assert found.quality["unknown_values"]["dialect"] == {"N/A": 1, "제주": 1}
    assert corpus_name(manifest) == "own recordings"


def test_every_listed_row_has_one_verdict(tmp_path):
    write(tmp_path / "a.wav", noise(1))
    write(tmp_path / "short.wav", noise(0.1))
    write(tmp_path / "long.wav", noise(31))
    (tmp_path / "broken.wav").write_bytes(b"RIFF0000WAVE")
    (tmp_path / "text.mp3").write_text("no sound")
    write(tmp_path / "stray.wav", noise(1, 9))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:8000])
    rows = ["a.wav,열이 나요", "a.wav,열이 나요", "short.wav,네", "long.wav,네", "broken.wav,네", "text.mp3,네"]
    rows += ["cut.wav,네", "gone.wav,네", ",네", "b.wav,", "c.wav,#@이름# 씨", "d.wav,네,, 더"]
    found, manifest, rejects = read(listed(tmp_path, rows, "file,text"), tmp_path / "out")
    quality = json.loads((tmp_path / "out" / "quality.json").read_text(encoding="utf-8"))
    assert quality == found.quality
    assert quality["labels"] == len(rows) == quality["usable"] + sum(quality["rejected"].values())
    assert list(manifest.index) == ["a"]
    assert rejects["reason"].drop("a").to_dict() == {
        **{"short": "audio_too_short", "long": "audio_too_long", "broken": "audio_unreadable"},
        **{"text": "audio_unreadable", "cut": "audio_truncated", "gone": "audio_missing"},
        **{"목록.csv, line 10": "audio_missing", "b": "transcript_empty", "c": "transcript_masked"},
        "d": "label_unreadable",
    }
    assert rejects["reason"]["a"] == "duplicate_utterance"
    assert "no file 'gone.wav'" in rejects["detail"]["gone"]
    assert "put quotes around text" in rejects["detail"]["d"]
    assert rejects["path"]["gone"].endswith("목록.csv, line 9")
    assert quality["warnings"] == {"audio_without_label": 1}
    assert quality["warning_examples"] == {"audio_without_label": ["stray"]}


@pytest.mark.parametrize("ending", ["wav", "flac", "m4a"])
def test_clips_are_cut_exactly_out_of_a_long_recording(tmp_path, ending):
    samples = noise(50)
    if ending == "m4a":
        encode(tmp_path / "long.m4a", samples, ("ipod", "aac", RATE))
    else:
        write(tmp_path / f"long.{ending}", samples)
    rows = [f"long.{ending},하나,0:01.5,3", f"long.{ending},둘,2.25,4", f"long.{ending},끝,49,"]
    rows += [
        f"long.{ending},넘친다,49,55",
        f"long.{ending},없다,70,71",
        f"long.{ending},거꾸로,5,4",
        f"long.{ending},뭐,x,4",
    ]
    source = listed(tmp_path, rows, "audio,text,start,end")
    found, manifest, rejects = read(source, tmp_path / "out")
    assert list(manifest.index) == ["long_00001500_00003000", "long_00002250_00004000", "long_00049000_end"]
    assert rejects["reason"].value_counts().to_dict() == {
        **{"audio_truncated": 1, "audio_unreadable": 1},
        "label_incomplete": 2,
    }
    for name, (start, end) in zip(manifest.index, ((1.5, 3), (2.25, 4), (49, 50)), strict=True):
        path = Path(manifest["audio"][name])
        assert path.parent == tmp_path / "out" / "audio"
        assert path.stat().st_mode & 0o777 == 0o600
        cut, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        if ending != "m4a":  # whose coding is lossy
            assert np.array_equal(cut, samples[round(start * RATE) : round(end * RATE)])
        assert manifest["duration_s"][name] == pytest.approx(end - start, abs=0.2 if ending == "m4a" else 0)
    assert found.copied_bytes == sum(path.stat().st_size for path in (tmp_path / "out" / "audio").iterdir())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "audio").iterdir()}
    again, manifest_again, _ = read(source, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "audio").iterdir()} == before
    assert again == found
    assert manifest_again.equals(manifest)


def test_what_no_later_step_reads_is_copied_and_the_rest_stays(tmp_path):
    encode(tmp_path / "phone.m4a", noise(2), ("ipod", "aac", RATE))
    (tmp_path / "raw.pcm").write_bytes((noise(1) * 2**15).astype("<i2").tobytes() + b"\0")
    write(tmp_path / "plain.flac", noise(1, 2))
    found, manifest, _ = read(
        listed(tmp_path, ["phone.m4a,네", "raw.pcm,아니요", "plain.flac,글쎄요"], "audio,text"), tmp_path / "out"
    )
    places = {name: Path(path).parent for name, path in manifest["audio"].items()}
    copies = tmp_path / "out" / "audio"
    assert places == {"phone": copies, "raw": copies, "plain": tmp_path}
    assert found.n_copies == 2
    assert np.array_equal(soundfile.read(manifest["audio"]["raw"], dtype="float32")[0], noise(1))


def test_one_recording_in_two_formats_is_recognised(tmp_path):
    write(tmp_path / "a.wav", noise(1))
    write(tmp_path / "b.flac", noise(1))
    write(tmp_path / "c.flac", noise(1, 1))
    _, manifest, _ = read(listed(tmp_path, ["a.wav,네", "b.flac,네", "c.flac,네"], "audio,text"), tmp_path / "out")
    digests = manifest[AUDIO_DIGEST]
    assert digests["a"] == digests["b"] != digests["c"]


def test_files_of_one_name_in_two_folders_and_paths_of_windows(tmp_path):
    for number, name in enumerate(("s1/1.wav", "s2/1.wav", "x.wav")):
        write(tmp_path / "rec" / name, noise(1, number))
    rows = ["s1\\1.wav,하나", "s2/1.wav,둘", "D:\\녹음\\x.wav,셋"]
    _, manifest, _ = read(listed(tmp_path, rows, "audio,text"), tmp_path / "out", audio_root=tmp_path / "rec")
    assert dict(manifest["text"]) == {"s1_1": "하나", "s2_1": "둘", "x": "셋"}


def test_columns_can_be_named_and_excel_is_read(tmp_path):
    write(tmp_path / "a.wav", noise(1))
    book = openpyxl.Workbook()
    for row in (["녹음본", "말한 것", "누구", "나이"], ["a.wav", "열이 나요", 7, 34]):
        book.active.append(row)
    book.save(tmp_path / "list.xlsx")
    columns = {"audio": "녹음본", "text": "말한 것", "speaker": "누구"}
    _, manifest, _ = read(tmp_path / "list.xlsx", tmp_path / "out", columns=columns)
    assert manifest.iloc[0][["speaker_id", "age", "text"]].to_list() == ["7", "30~39", "열이 나요"]
    with pytest.raises(KmedError, match=r"no column 'audio'; it has '녹음본'.*with --audio-column"):
        read(tmp_path / "list.xlsx", tmp_path / "out")
    with pytest.raises(KmedError, match="no column 'wer'"):
        read(tmp_path / "list.xlsx", tmp_path / "out", columns={**columns, "age": "wer"})


def test_a_list_without_anything_usable_says_why(tmp_path):
    with pytest.raises(
        KmedError, match=r"No utterance .* is usable: audio_missing 1.*no file 'a.wav'.*out\.rejects\.csv"
    ):
        read(listed(tmp_path, ["a.wav,네"], "audio,text"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert pd.read_csv(tmp_path / "out.rejects.csv")["reason"].to_list() == ["audio_missing"]
    with pytest.raises(KmedError, match="does not exist"):
        read(tmp_path / "none.csv", tmp_path / "out")
    with pytest.raises(KmedError, match="--layout zeroth is of folders"):
        import_corpus(listed(tmp_path, ["a.wav,네"]), tmp_path / "out", CONFIG, layout="zeroth")


def test_a_list_beside_the_folder_of_its_recordings_names_that_folder(tmp_path, monkeypatch):
    for number in (1, 2):
        write(tmp_path / "내 녹음" / f"{number}.wav", noise(1, number))
    (tmp_path / "other").mkdir()
    listed(tmp_path, ["1.wav,하나", "2.wav,둘"], "audio,text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KmedError) as raised:
        read(Path("목록.csv"), Path("out"))
    assert f"no file '1.wav' in {tmp_path}; there is one" in str(raised.value)
    assert f"add --audio-root '{tmp_path}/내 녹음'." in str(raised.value)
    second = pd.read_csv("out.rejects.csv")["detail"][1]
    assert second == f"no file '2.wav' in {tmp_path}"
    _, manifest, _ = read(Path("목록.csv"), Path("out"), audio_root=Path("내 녹음"))
    assert dict(manifest["text"]) == {"1": "하나", "2": "둘"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", 12.5),
        ("1:02.5", 62.5),
        ("01:01:02", 3662.0),
        ("3초", 3.0),
        ("2,5", 2.5),
        ("", math.nan),
        ("a", math.nan),
    ],
)
def test_times(text, seconds):
    assert read_seconds(text) == pytest.approx(seconds, nan_ok=True)


def test_words_of_speakers():
    assert [read_gender(word) for word in ("F", "여자", "female_feminine", "M", "남", "", "other")] == [
        *("Female", "Female", "Female", "Male", "Male", "N/A", "other")
    ]
    ages = (
        "34",
        "만 34세",
        "30대",
        "thirties",
        "teens",
        "8",
        "70",
        "85",
        "eighties",
        "10대",
        "5",
        "",
        "60대 이상",
        "노인",
    )
    assert [read_age(age) for age in ages] == [
        *("30~39", "30~39", "30~39", "30~39", "11~19", "7~10", "over70", "over70", "over70", "11~19", "5", "N/A"),
        *("60~69", "노인"),
    ]
    assert [read_dialect(word) for word in ("서울", "경상도", "전남", "제주", "-")] == [
        "경기/서울",
        "경상",
        "전라",
        "제주",
        "N/A",
    ]
    assert [read_role(word) for word in ("환자", "Doctor", "보호자")] == ["patient", "doctor", "보호자"]
