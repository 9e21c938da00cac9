"""Public corpora's folders: each layout is recognised by its content, and its fields arrive."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from kmed_bench.config import DataConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.demo.sentences import corpus_name
from kmed_bench.corpus.imports.importing import import_corpus
from kmed_bench.corpus.imports.layouts import LAYOUTS, read_layout
from kmed_bench.corpus.imports.records import LAYOUT_NAMES

RATE = 16_000


def samples(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, RATE).astype(np.int16)


def sound(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples(seed), RATE)


def say(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def audio_bytes(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples(seed), RATE, format=kind)
    return buffer.getvalue()


def zeroth(folder: Path) -> None:
    say(folder / "AUDIO_INFO", "SPEAKERID|NAME|SEX|SCRIPTID|DATASET\n104|Kim|f|003|train_data_01\n105|Lee|m|003|test\n")
    for number, speaker in enumerate(("104", "105")):
        home = folder / "train_data_01" / "003" / speaker
        sound(home / f"{speaker}_003_0001.flac", number)
        say(home / f"{speaker}_003.trans.txt", f"{speaker}_003_0001 열이 나요 {number}\n{speaker}_003_0002 없는 소리\n")


def fleurs(folder: Path) -> None:
    for number, (part, gender) in enumerate((("train", "FEMALE"), ("test", "MALE"))):
        sound(folder / "audio" / part / f"{number}.wav", number)
        cells = [str(number), f"{number}.wav", f"열이 {number}도예요.", "열이 도예요", "열 | 이", "16000", gender]
        say(folder / f"{part}.tsv", "\t".join(cells) + "\n")


def kspon(folder: Path) -> None:
    say(
        folder / "scripts" / "train.trn",
        "".join(f"K_01/K_{n}.pcm :: o/ (70%)/(칠십 프로) 나았어+ {n} n/\n" for n in (1, 2)),
    )
    say(folder / "scripts" / "dev.trn", "K_01/K_2.pcm :: o/ (70%)/(칠십 프로) 나았어+ 2 n/\n")
    for number in (1, 2):
        (folder / "K_01").mkdir(exist_ok=True)
        (folder / "K_01" / f"K_{number}.pcm").write_bytes(samples(number).astype("<i2").tobytes())


def kspon_texts(folder: Path) -> None:
    kspon(folder)
    for path in (folder / "scripts").iterdir():
        path.unlink()
    for number in (1, 2):
        say(folder / "K_01" / f"K_{number}.txt", f"o/ (70%)/(칠십 프로) 나았어+ {number} n/\n", "cp949")


def common_voice(folder: Path) -> None:
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tage\tgender\taccents"
    rows = [
        'c1\ta.mp3\t9\t"열이 나요\t2\tthirties\tfemale_feminine\t',
        "c2\tb.mp3\t8\t기침이 나요\t2\tseventies\tmale\t",
    ]
    say(folder / "validated.tsv", "\n".join((header, *rows)) + "\n")
    for number, name in enumerate(("a", "b")):
        sound(folder / "clips" / f"{name}.mp3", number)


def hub(folder: Path, *, arrow: bool) -> None:
    cells = [{"bytes": audio_bytes(kind, n), "path": f"x{n}"} for n, kind in enumerate(("WAV", "FLAC"))]
    features = {"gender": {"names": ["male", "female"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    table = pa.table(
        {
            "id": [7, 8],
            "audio": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "transcription": ["열이 나요", "기침이 나요"],
            "speaker_id": ["s1", "s2"],
            "gender": pa.array([1, 0], pa.int64()),
        }
    ).replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    folder.mkdir(parents=True)
    if arrow:
        say(folder / "state.json", "{}")
        with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=1)


def pairs(folder: Path) -> None:
    for number in (1, 2):
        sound(folder / "s" / f"{number}.wav", number)
        say(folder / "s" / f"{number}.txt", f"열이 나요\n{number}\n", "cp949")
    say(folder / "README.txt", "about")


def imported(tmp_path: Path, *, layout: str | None = None) -> tuple[str, pd.DataFrame, dict[str, str]]:
    found = import_corpus(tmp_path / "in", tmp_path / "out", DataConfig(), layout=layout)
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert len(manifest) == found.quality["usable"] == 2
    for path, seconds in zip(manifest["audio"], manifest["duration_s"], strict=True):
        assert soundfile.info(path).duration == pytest.approx(seconds, abs=1e-9)
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv")
    assert corpus_name(manifest) == found.name == LAYOUTS[found.layout][0]
    return found.layout, manifest, dict(zip(rejects["utterance_id"], rejects["reason"], strict=True))


def test_zeroth(tmp_path):
    zeroth(tmp_path / "in")
    layout, manifest, rejects = imported(tmp_path)
    assert layout == "zeroth"
    assert manifest[["utterance_id", "speaker_id", "gender", "text"]].to_numpy().tolist() == [
        ["104_003_0001", "104", "Female", "열이 나요 0"],
        ["105_003_0001", "105", "Male", "열이 나요 1"],
    ]
    assert rejects == dict.fromkeys(("104_003_0002", "105_003_0002"), "audio_missing")
    assert "Kim" not in (tmp_path / "out" / "quality.json").read_text(encoding="utf-8")


def test_fleurs(tmp_path):
    fleurs(tmp_path / "in")
    layout, manifest, _ = imported(tmp_path)
    assert layout == "fleurs"
    assert manifest[["text", "gender", "speaker_id"]].to_numpy().tolist() == [
        ["열이 0도예요.", "Female", "N/A"],
        ["열이 1도예요.", "Male", "N/A"],
    ]


@pytest.mark.parametrize("make", [kspon, kspon_texts])
def test_ksponspeech(tmp_path, make):
    make(tmp_path / "in")
    layout, manifest, _ = imported(tmp_path)
    assert layout == "ksponspeech"
    assert list(manifest["utterance_id"]) == ["K_1", "K_2"]
    assert manifest["text"][0] == "o/ (70%)/(칠십 프로) 나았어+ 1 n/"
    assert np.array_equal(soundfile.read(manifest["audio"][0], dtype="int16")[0], samples(1))


def test_common_voice(tmp_path):
    common_voice(tmp_path / "in")
    layout, manifest, _ = imported(tmp_path)
    assert layout == "common-voice"
    assert manifest[["speaker_id", "age", "gender", "text"]].to_numpy().tolist() == [
        ["c1", "30~39", "Female", '"열이 나요'],
        ["c2", "over70", "Male", "기침이 나요"],
    ]


@pytest.mark.parametrize("arrow", [False, True])
def test_hugging_face(tmp_path, arrow):
    hub(tmp_path / "in", arrow=arrow)
    layout, manifest, _ = imported(tmp_path)
    assert layout == "huggingface"
    assert manifest[["speaker_id", "gender", "text"]].to_numpy().tolist() == [
        ["s1", "Female", "열이 나요"],
        ["s2", "Male", "기침이 나요"],
    ]
    assert {Path(path).suffix for path in manifest["audio"]} == {".wav", ".flac"}
    for number, path in enumerate(manifest["audio"]):
        assert np.array_equal(soundfile.read(path, dtype="int16")[0], samples(number))


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [(b'{"info": ', "Expecting value"), (b"\xff", "can't decode"), (b"[" * 100_000, "recursion")]
    + [(text, None) for text in (b"[]", b'{"info": null}', b'{"info": {"features": {"gender": {"names": 2}}}}')],
)
def test_metadata_that_hugging_face_did_not_write(tmp_path, metadata, fault):
    hub(tmp_path / "in", arrow=False)
    (file,) = (tmp_path / "in").iterdir()
    pq.write_table(pq.read_table(file).replace_schema_metadata({b"huggingface": metadata}), file)
    if fault:
        with pytest.raises(KmedError, match=rf"{file} can't be read as parquet \(.*{fault}.*\); download it again"):
            imported(tmp_path)
    else:
        assert list(imported(tmp_path)[1]["gender"]) == ["1", "0"]  # as it is without metadata


def test_a_text_that_is_not_utf8_names_its_file(tmp_path):
    hub(tmp_path / "in", arrow=False)
    (file,) = (tmp_path / "in").iterdir()
    file.write_bytes(file.read_bytes().replace("열이 나요".encode(), b"\xff" * len("열이 나요".encode())))
    with pytest.raises(KmedError, match=rf"{file} can't be read as parquet \(.*\); download it again"):
        imported(tmp_path)


def test_recordings_beside_their_texts(tmp_path):
    pairs(tmp_path / "in")
    layout, manifest, _ = imported(tmp_path)
    assert layout == "pairs"
    assert list(manifest["text"]) == ["열이 나요 1", "열이 나요 2"]


def test_the_layout_can_be_named_and_an_unknown_one_is_explained(tmp_path):
    assert tuple(LAYOUTS) == LAYOUT_NAMES
    pairs(tmp_path / "in")
    assert imported(tmp_path, layout="pairs")[0] == "pairs"
    with pytest.raises(KmedError, match="Layout 'voxforge' is not known; --layout takes huggingface, common-voice"):
        read_layout(tmp_path / "in", "voxforge")
    with pytest.raises(KmedError, match="holds no utterance in the layout of Zeroth-Korean"):
        read_layout(tmp_path / "in", "zeroth")
    say(tmp_path / "lists" / "list.csv", "audio,text\na.wav,네\n")
    with pytest.raises(KmedError, match=r"is in no known layout; .* or give its list itself \(list.csv\)"):
        read_layout(tmp_path / "lists")
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.table({"text": ["네"]}), tmp_path / "hub" / "a.parquet")
    with pytest.raises(KmedError, match=r"has columns text; one of audio with bytes"):
        read_layout(tmp_path / "hub")
