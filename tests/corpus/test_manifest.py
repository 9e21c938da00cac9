"""The manifest: of the real recordings in every form, of broken downloads, of interrupted runs."""

import contextlib
import errno
import io
import json
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import soundfile
from downloads import cut_pieces, label, make_tar, make_zip, stem, tree, wav, write_tree
from fault_table import fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import DATA_PAGE
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import AUDIO_DIGEST, MANIFEST_COLUMNS, RejectReason, read_manifest
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.ingest import chunks, results, scan
from kmed_bench.corpus.ingest.manifest import KEPT_FOLDER, ingest, release_of

GOOD, OTHER = stem(), stem(prompt=2)


def pair(name: str = GOOD, sound: bytes | None = None, **changes: Any) -> dict[str, bytes]:
    return {f"label/{name}.json": label(**changes), f"audio/{name}.wav": wav() if sound is None else sound}


@contextlib.contextmanager
def listening(heard: Callable[[str], None]) -> Iterator[None]:
    """Pass each message of the corpus's modules to a function, whose exceptions end what logged it."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard(record.getMessage())

    logger, listener = logging.getLogger("kmed_bench.corpus"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def run(root: Path, out: Path | None = None, **settings: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    out = out or root.parent / "out"
    quality = ingest([root], out, DataConfig(**settings))
    manifest = read_manifest(out / "manifest.parquet")
    rejects = pd.read_csv(out / "rejects.csv", keep_default_na=False)
    assert quality == json.loads((out / "quality.json").read_text())
    assert {(out / name).stat().st_mode & 0o777 for name in ("manifest.parquet", "rejects.csv")} == {0o600}
    assert quality["labels"] == quality["usable"] + sum(quality["rejected"].values())
    assert (len(manifest), len(rejects)) == (quality["usable"], sum(quality["rejected"].values()))
    assert rejects["reason"].value_counts().to_dict() == quality["rejected"]
    assert set(rejects["reason"]) <= set(get_args(RejectReason))
    assert list(rejects.columns) == ["utterance_id", "path", "reason", "detail"]
    assert (rejects["detail"] != "").all()
    assert list(manifest.columns) == [*MANIFEST_COLUMNS, AUDIO_DIGEST]
    assert manifest["utterance_id"].is_monotonic_increasing
    assert manifest["utterance_id"].is_unique
    assert not (out / KEPT_FOLDER).exists()
    return quality, manifest


README = {
    "audio_missing": 2,
    "audio_truncated": 1,
    "audio_unreadable": 1,
    "label_incomplete": 1,
    "label_unreadable": 1,
    "transcript_empty": 1,
}


@pytest.mark.real_speech
def test_shared_recordings_in_three_forms(real_speech: Path, tmp_path: Path) -> None:
    """Zips, the extracted tree, and tars of pieces whose lexical order is wrong."""
    extracted, tars = tmp_path / "tree", tmp_path / "tars"
    for path in sorted(real_speech.rglob("*.zip")):
        folder = path.parent.relative_to(real_speech)
        with zipfile.ZipFile(path, metadata_encoding="cp949" if "라벨" in path.name else None) as archive:
            archive.extractall(extracted / folder / path.stem)
        data = path.read_bytes()
        pieces = cut_pieces(path.name, data, len(data) // 11)
        assert list(pieces) != sorted(pieces, key=lambda name: int(name.rpartition("part")[2]))
        write_tree(tars, {f"{folder}/{path.stem}.tar": make_tar(pieces)})
    found = {}
    for form, root in (("zips", real_speech), ("tree", extracted), ("tars", tars)):
        quality, manifest = run(root, tmp_path / f"out-{form}")
        assert (quality["labels"], quality["usable"], quality["speakers"]) == (310, 303, 25)
        assert quality["rejected"] == README
        assert quality["warnings"] == {"audio_without_label": 1}
        with AudioReader() as reader:
            found[form] = [hash(reader.read(place)) for place in manifest["audio"]]
        manifest.drop(columns="audio").to_parquet(tmp_path / f"{form}.parquet")
    forms = [pd.read_parquet(tmp_path / f"{form}.parquet") for form in found]
    pd.testing.assert_frame_equal(forms[0], forms[1])
    pd.testing.assert_frame_equal(forms[0], forms[2])
    assert found["zips"] == found["tree"] == found["tars"]
    assert forms[0]["release"].value_counts().to_dict() == {"Training": 263, "Validation": 40}


@pytest.mark.real_speech
def test_shared_recordings_decoded_whole(real_speech: Path, tmp_path: Path) -> None:
    quality, _ = run(real_speech, tmp_path / "out", decode=True)
    assert quality["rejected"] == README
    assert quality["usable"] == 303


def _damaged_zip(files: dict[str, bytes]) -> bytes:
    data = bytearray(make_zip(files, packing=zipfile.ZIP_STORED))
    data[200:204] = b"\x55\xaa\x55\xaa"
    return bytes(data)


def _bomb() -> bytes:
    data = bytearray(make_zip({f"{GOOD}.wav": wav()}))
    record = data.rindex(b"PK\x01\x02")
    data[record + 24 : record + 28] = struct.pack("<I", 0x7FFFFFFF)
    return bytes(data)


def _overlapping() -> bytes:
    """Return a zip whose two directory records name the same bytes."""
    data = make_zip({f"{GOOD}.wav": wav()})
    at, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    record = data[at:end]
    counts = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(record), at, 0)
    return data[:at] + record * 2 + counts


def _wav_changed(at: int, value: bytes) -> bytes:
    data = wav()
    return data[:at] + value + data[at + len(value) :]


def _pieces_without(position: int) -> dict[str, bytes]:
    pieces = cut_pieces("a.zip", make_zip({f"{GOOD}.wav": wav()}, packing=zipfile.ZIP_STORED), 2500)
    ordered = sorted(pieces, key=lambda name: int(name.rpartition("part")[2]))
    del pieces[ordered[position]]
    return pieces


LONE = {f"label/{GOOD}.json": label()}
# What the first label's files are; the reason it is rejected for.
REJECTED: dict[str, tuple[dict[str, bytes], str]] = {
    "label without audio": (LONE, "audio_missing"),
    "empty audio": (pair(sound=b""), "audio_unreadable"),
    "audio is HTML": (pair(sound=b"<html>" * 50), "audio_unreadable"),
    "audio is cut in its header": (pair(sound=wav()[:30]), "audio_unreadable"),
    "audio without a format": (pair(sound=wav()[:12] + wav()[36:]), "audio_unreadable"),
    "audio without samples": (pair(sound=wav()[:36]), "audio_unreadable"),
    "compressed audio": (pair(sound=_wav_changed(20, b"\x55")), "audio_unreadable"),
    "12-bit audio": (pair(sound=_wav_changed(34, b"\x0c")), "audio_unreadable"),
    "audio of zero channels": (pair(sound=_wav_changed(22, b"\0")), "audio_unreadable"),
    "audio of 0 Hz": (pair(sound=_wav_changed(24, b"\0\0\0\0")), "audio_unreadable"),
    "audio shorter than its header says": (pair(sound=wav()[:9000], seconds="0.5"), "audio_truncated"),
    "audio shorter than its label says": (pair(seconds="1.5"), "audio_truncated"),
    "audio too short": (pair(sound=wav(0.2), seconds="0.2"), "audio_too_short"),
    "audio of no samples": (pair(sound=wav(0), seconds="0.0"), "audio_too_short"),
    "audio too long": (pair(sound=wav(31), seconds="31"), "audio_too_long"),
    "damaged zip member": (LONE | {"a.zip": _bomb()}, "audio_unreadable"),
    "zip member leads out": (LONE | {"a.zip": make_zip({f"../{GOOD}.wav": wav()})}, "audio_unreadable"),
    "zip member is absolute": (LONE | {"a.zip": make_zip({f"/etc/{GOOD}.wav": wav()})}, "audio_unreadable"),
    "tar member leads out": (LONE | {"a.tar": make_tar({f"../{GOOD}.wav": wav()})}, "audio_unreadable"),
    "audio in a missing piece": (LONE | _pieces_without(2), "audio_unreadable"),
    "audio's start in a missing piece": (LONE | _pieces_without(0), "audio_unreadable"),
    "zip is cut off": (LONE | {"a.zip": make_zip({f"{GOOD}.wav": wav()})[:-40]}, "audio_missing"),
    "zip is HTML": (LONE | {"a.zip": b"<html>"}, "audio_missing"),
    "zip with overlapping members": (LONE | {"a.zip": _overlapping()}, "audio_missing"),
    "zip in a zip": (LONE | {"a.zip": make_zip({"b.zip": make_zip({f"{GOOD}.wav": wav()})})}, "audio_missing"),
    "another archive": (LONE | {"a.tar.gz": b"\x1f\x8b"}, "audio_missing"),
    "label leads out": ({"a.zip": make_zip({f"../{GOOD}.json": label()})}, "label_unreadable"),
    "label of absurd size": (pair() | {f"label/{GOOD}.json": b" " * (1 << 20) + label()}, "label_unreadable"),
    "label is empty": (pair() | {f"label/{GOOD}.json": b""}, "label_unreadable"),
    "label in cp949": (pair() | {f"label/{GOOD}.json": label().decode().encode("cp949")}, "label_unreadable"),
    "label without gender": (pair(Gender=None), "label_incomplete"),
    "label without transcript": (pair(text=None), "label_incomplete"),
    "transcript empty": (pair(text=" "), "transcript_empty"),
    "transcript of noise": (pair(text="b/ n/"), "transcript_empty"),
    "transcript masked": (pair(text="#@이름# 님"), "transcript_masked"),
    "bad quality": (
        pair() | {f"label/{GOOD}.json": json.dumps(tree() | {"기타정보": {"QualityStatus": "Bad"}}).encode()},
        "quality_excluded",
    ),
}


@pytest.mark.parametrize(
    ("files", "reason"),
    [pytest.param(*case, id=what, marks=fault(what, sees=f"reject {case[1]}")) for what, case in REJECTED.items()],
)
def test_broken_inputs_are_rejected_for_their_reason(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    root = write_tree(tmp_path / "in", files | pair(OTHER))
    quality, manifest = run(root)
    assert quality["rejected"] == {reason: 1}
    assert quality["reject_examples"] == {reason: [GOOD]}
    assert list(manifest["utterance_id"]) == [OTHER]


WARNED: dict[str, tuple[dict[str, bytes], dict[str, int]]] = {
    "nothing wrong": (pair(), {}),
    "audio without label": (pair() | {f"{OTHER}.wav": wav()}, {"audio_without_label": 1}),
    "audio without label, of another role": (pair() | {stem("HA_0001", codes="02-F-04-A") + ".wav": wav()}, {}),
    "rate": (pair(rate="48000"), {"rate_differs": 1}),
    "rate that is no number": (pair(rate="inf"), {}),
    "channels": (pair(sound=wav(channels=2)), {"format_differs": 1}),
    "longer than its label says": (pair(seconds="0.5"), {"length_differs": 1}),
    "file name and label": (pair(stem(codes="03-M-08-C")), {"metadata_differs": 1}),
    "audio twice": (pair() | {f"x/{GOOD}.wav": wav(2)}, {"duplicate_audio": 1}),
    "missing last piece": (pair() | dict(list(_pieces_without(-1).items())), {"archive_piece_missing": 1}),
    "overlapping pieces": (pair() | {"a.zip.part0": b"123", "a.zip.part2": b"34"}, {"archive_unreadable": 1}),
    "unreadable archive": (pair() | {"a.zip": b"PK\x03\x04"}, {"archive_unreadable": 1}),
    "unreadable tar": (pair() | {"a.tar": b"\0" * 257 + b"ustar" + b"9" * 300}, {"archive_unreadable": 1}),
}


@pytest.mark.parametrize(
    ("files", "warnings"),
    [
        pytest.param(
            *case,
            id=what,
            marks=[fault(what, sees=f"warning {kind}", survives="the utterance too") for kind in case[1]],
        )
        for what, case in WARNED.items()
    ],
)
def test_warnings(tmp_path: Path, files: dict[str, bytes], warnings: dict[str, int]) -> None:
    quality, manifest = run(write_tree(tmp_path / "in", files))
    assert quality["warnings"] == warnings
    assert {kind: len(found) for kind, found in quality["warning_examples"].items()} == warnings
    assert len(manifest) == 1


@pytest.mark.slow
def test_decoding_finds_silence_clipping_and_damage(tmp_path: Path) -> None:
    names = [stem(prompt=n) for n in range(1, 5)]
    sounds = dict(zip(names, (wav(level=0.5), wav(level=0.0005), wav(level=1.0), wav()), strict=True))
    clipped = bytearray(sounds[names[2]])
    clipped[1000:1200] = b"\xff\x7f" * 100
    sounds[names[2]] = bytes(clipped)
    files = {f"{name}.json": label() for name in names}
    audio = {f"a{name}.zip": make_zip({f"{name}.wav": sounds[name]}) for name in names[:3]}
    audio["damaged.zip"] = _damaged_zip({f"{names[3]}.wav": sounds[names[3]]})
    root = write_tree(tmp_path / "in", files | audio)
    assert run(root)[0]["warnings"] == {}
    quality, manifest = run(root, decode=True)
    assert quality["warnings"] == {"silent_audio": 1, "clipped_audio": 1}
    assert quality["warning_examples"] == {"silent_audio": [names[1]], "clipped_audio": [names[2]]}
    assert quality["rejected"] == {"audio_unreadable": 1}
    assert list(manifest["utterance_id"]) == names[:3]


@fault("any other failure while one label or clip is read", sees="its reject: reading it failed (the exception's name)")
def test_an_unforeseen_failure_costs_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    third = stem(prompt=3)
    real_label, real_header = scan.parse_label, scan.read_header

    def fail_label(name: str, raw: bytes) -> Any:
        if name == GOOD:
            raise MemoryError("half of a character: \udcff")
        return real_label(name, raw)

    def fail_header(head: bytes, n_bytes: int) -> Any:
        if n_bytes > 20_000:
            raise ZeroDivisionError("division by zero")
        return real_header(head, n_bytes)

    monkeypatch.setattr(scan, "parse_label", fail_label)
    monkeypatch.setattr(scan, "read_header", fail_header)
    quality, manifest = run(
        write_tree(tmp_path / "in", pair() | pair(OTHER) | pair(third, sound=wav(2), seconds="2.0"))
    )
    assert quality["rejected"] == {"audio_unreadable": 1, "label_unreadable": 1}
    assert list(manifest["utterance_id"]) == [OTHER]
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv")
    assert list(rejects["detail"]) == [
        "reading it failed (MemoryError: half of a character: \\udcff)",
        "reading it failed (ZeroDivisionError: division by zero)",
    ]


ERRORS: dict[str, tuple[dict[str, bytes] | None, dict[str, Any], str]] = {
    "missing folder": (None, {}, "does not exist"),
    "empty folder": ({}, {}, "holds no labels"),
    "only text files": ({"readme.txt": b"x"}, {}, "holds no labels"),
    "labels without any audio": (LONE, {}, "1 labels and no audio"),
    "audio without any label": ({f"{GOOD}.wav": wav()}, {}, "1 audio files that no label describes"),
    "nothing usable": (pair(text=""), {}, "transcript_empty 1"),
    "no label with its gender": (pair(Gender=None), {}, "label_incomplete 1 \\(no Gender in 화자정보 1\\)"),
    "only other roles": (pair(stem("HA_0001", codes="02-F-08-C")), {}, "1 of role nurse"),
    "unknown role": (pair(), {"roles": ("patients",)}, "patients; choose from patient, nurse, doctor"),
    "no role": (pair(), {"roles": ()}, "names \\(none\\)"),
    "only a broken archive": ({"a.zip": b"PK\x03\x04"}, {}, "a.zip: no zip directory"),
    "only a first piece": ({"a.zip.part0": make_zip(pair())[:300]}, {}, "last piece"),
}
REJECTED = {
    "labels without any audio": ("audio_missing", "no audio of this name in any source"),
    "nothing usable": ("transcript_empty", "LabelText is empty"),
    "no label with its gender": ("label_incomplete", "no Gender in 화자정보"),
}
"""Of these errors, the verdict on the one label."""


@pytest.mark.parametrize(
    ("files", "settings", "message", "verdict"),
    [
        pytest.param(
            *case,
            REJECTED.get(what),
            id=what,
            marks=fault(
                f"ingest: {what}",
                sees=f"error, status 2: …{case[2]}…",
                survives="no folder; `OUT.rejects.csv`" if what in REJECTED else "nothing is written",
            ),
        )
        for what, case in ERRORS.items()
    ],
)
def test_errors_name_the_remedy(
    tmp_path: Path,
    files: dict[str, bytes] | None,
    settings: dict[str, Any],
    message: str,
    verdict: tuple[str, str] | None,
) -> None:
    root = tmp_path / "in"
    if files is not None:
        root.mkdir()
        write_tree(root, files)
    with pytest.raises(KmedError, match=message) as error:
        ingest([root], tmp_path / "results" / "out", DataConfig(**settings))
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if root not in (path, *path.parents)}
    if verdict is None:
        assert left == set()
        return
    rejects = tmp_path / "results" / "out.rejects.csv"
    assert left == {Path("results"), Path("results/out.rejects.csv")}
    assert str(rejects) in str(error.value)
    assert rejects.stat().st_mode & 0o777 == 0o600
    assert pd.read_csv(rejects)[["utterance_id", "reason", "detail"]].to_numpy().tolist() == [[GOOD, *verdict]]


def test_a_failure_leaves_an_earlier_corpus_as_it_is_and_a_success_removes_the_rejects_of_a_failure(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    run(write_tree(tmp_path / "in", pair()), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(KmedError, match=r"out\.rejects\.csv lists each with its reason"):
        ingest([write_tree(tmp_path / "empty", pair(text=""))], out, DataConfig())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (tmp_path / "out.rejects.csv").exists()
    (out / DATA_PAGE).write_text("of the earlier corpus")
    run(tmp_path / "in", out)
    assert {path.name for path in out.iterdir()} == before.keys()
    assert not (tmp_path / "out.rejects.csv").exists()


@fault("ingest: no room for the rejects", sees="the system's error", survives="the earlier corpus, whole")
def test_three_files_are_replaced_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(write_tree(tmp_path / "in", pair()), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fill_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results, "write_manifest", fill_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*manifest\.parquet"):
        ingest([write_tree(tmp_path / "in", pair(OTHER))], out, DataConfig())
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != KEPT_FOLDER} == before


def test_an_output_folder_that_cannot_be(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "in", pair() | {"file": b""})
    with pytest.raises(KmedError, match="can't be made: Not a directory"):
        ingest([root], root / "file" / "out", DataConfig())


def test_an_archive_that_goes_away_meanwhile(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "in", {"a.zip": make_zip(pair())})

    def remove(line: str) -> None:
        if line.startswith("label"):
            (root / "a.zip").unlink()

    with listening(remove), pytest.raises(KmedError, match=r"Reading stopped at .*a\.zip: No such file"):
        ingest([root], tmp_path / "out", DataConfig())


def test_a_path_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "in", pair(OTHER))
    write_tree(root / os.fsdecode("환자".encode("cp949")), pair())
    quality, _ = run(root)
    assert quality["rejected"] == {"label_unreadable": 1}
    assert "convmv" in (root.parent / "out" / "rejects.csv").read_text()


def test_odd_entries_of_a_folder(tmp_path: Path) -> None:
    """Upper case suffixes, macOS metadata, a dangling link, a circle of links, the output folder itself."""
    root = tmp_path / "in"
    write_tree(root, {f"a/{GOOD}.JSON": label(), f"b/{GOOD}.WAV": wav(), f"a/._{GOOD}.json": b"x", "notes.txt": b"x"})
    write_tree(root, {f"__MACOSX/{OTHER}.json": b"x", f"{OTHER}.json": label(), "metadata.json": b"{}"})
    (root / "b" / f"{OTHER}.wav").symlink_to("nowhere")
    (root / "b" / "circle").symlink_to(root, target_is_directory=True)
    for _ in range(2):  # the second time, the first one's quality.json lies in the source
        quality, _ = run(root, root / "out")
        assert quality["rejected"] == {"audio_unreadable": 1}
        assert quality["files_ignored"] == {".txt": 1, "json that is no label": 1, "macOS metadata": 2}


def test_zips_and_pieces_in_a_tar_are_read_and_not_counted_as_ignored(tmp_path: Path) -> None:
    inner = {"x/a.zip": make_zip({f"{GOOD}.json": label(), "notes.txt": b""})}
    inner |= cut_pieces("x/b.zip", make_zip({f"{GOOD}.wav": wav(), "image.png": b""}), 500)
    quality, _ = run(write_tree(tmp_path / "in", {"a.tar": make_tar(inner | {"read.me": b""})}))
    assert quality["files_ignored"] == {".me": 1, ".png": 1, ".txt": 1}


def test_duplicates_keep_one_good_label(tmp_path: Path) -> None:
    files = {
        f"Validation/a/{GOOD}.json": label("나중 것"),
        f"Training/z/{GOOD}.json": label("먼저 것"),
        f"Training/a/{GOOD}.json": b"{",
        f"Validation/{GOOD}.wav": wav(2),
        f"Training/{GOOD}.wav": wav(1),
    }
    quality, manifest = run(write_tree(tmp_path / "in", files))
    assert quality["rejected"] == {"duplicate_utterance": 1, "label_unreadable": 1}
    row = manifest.iloc[0]
    assert (row["text"], row["release"], row["duration_s"]) == ("먼저 것", "Training", 1.0)
    assert row["audio"].endswith(f"Training/{GOOD}.wav")


def test_the_same_source_twice_is_read_once(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "in", pair() | {"x/a.zip": make_zip(pair(OTHER))})
    sources = [root, root / "label", root, root / "x" / "a.zip"]
    quality = ingest(sources, tmp_path / "out", DataConfig())
    assert (quality["labels"], quality["usable"]) == (2, 2)


def test_roles(tmp_path: Path) -> None:
    names = {"patient": GOOD, "nurse": stem("HA_0001", codes="02-F-08-C"), "doctor": stem("HB_0001", codes="01-F-08-C")}
    root = write_tree(tmp_path / "in", {k: v for name in names.values() for k, v in pair(name).items()})
    quality, manifest = run(root)
    assert list(manifest["role"]) == ["patient"]
    assert (quality["labels"], quality["roles_left_out"]) == (1, {"nurse": 1, "doctor": 1})
    quality, manifest = run(root, roles=("nurse", "doctor"))
    assert set(manifest["role"]) == {"nurse", "doctor"}
    assert quality["roles_left_out"] == {"patient": 1}


def test_a_renamed_label_of_another_role_is_left_out(tmp_path: Path) -> None:
    whole = tree() | {"파일정보": {"FileName": stem("HA_0001", codes="02-F-08-C") + ".wav"}}
    root = write_tree(tmp_path / "in", pair() | {"clip.json": json.dumps(whole).encode(), "clip.wav": wav()})
    assert run(root)[0]["roles_left_out"] == {"nurse": 1}
    assert run(root, roles=("nurse",))[0]["usable"] == 1


@pytest.mark.parametrize(
    ("trail", "release"),
    [
        ("in/Training/환자", "Training"),
        ("in/2.Validation/x", "Validation"),
        ("in/[V]라벨.zip/medv", "Validation"),
        ("in/Training/x.tar/[T원천]환자_1.zip/1", "Training"),
        ("in/audio/PA_0001", "N/A"),
        ("in/TL_1.zip", "Training"),
        ("Training/old/Validation/a", "Validation"),
        ("in/trains", "N/A"),
    ],
)
def test_releases(trail: str, release: str) -> None:
    assert release_of(trail) == release


def _corpus(n: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for i in range(n):
        files |= pair(
            stem(f"PA_{i % 7:04d}", i), sound=wav(0.3 + 0.01 * (i % 5)), seconds=None, text=f"문장 {i % 9} 번"
        )
    return files


def test_layouts_and_order_do_not_matter(tmp_path: Path) -> None:
    files = {f"Training/{name}": data for name, data in _corpus(40).items()}
    names = list(files)
    tables = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        shuffled = {name: files[name] for name in names}
        root = tmp_path / str(seed)
        if seed == 0:
            write_tree(root, shuffled)
        elif seed == 1:
            halves = names[:30], names[30:]
            zips = {f"{i}.zip": make_zip({name: files[name] for name in half}) for i, half in enumerate(halves)}
            write_tree(root, zips)
        else:
            write_tree(root, {"a.tar": make_tar(shuffled)})
        quality, manifest = run(root, tmp_path / f"out{seed}")
        assert quality["usable"] == 40
        with AudioReader() as reader:
            assert [len(reader.read(place)) for place in manifest["audio"]] == [
                44 + 2 * round(8000 * s) for s in manifest["duration_s"]
            ]
        tables.append(manifest.drop(columns="audio"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])


FAULTS = [b"", b"{", b"{}", label(), label(""), label("#@이름#"), label(Gender=None), label(seconds="9"), label(5)]
SOUNDS = [None, b"", wav(), wav(0.1), wav()[:2000], b"RIFF"]


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(FAULTS), st.sampled_from(SOUNDS)), max_size=12))
def test_labels_are_usable_or_rejected(tmp_path: Path, draws: list[tuple[int, bytes, bytes | None]]) -> None:
    files = pair(stem(prompt=99))
    for position, (prompt, raw, sound) in enumerate(draws):
        files[f"{position}/{stem(prompt=prompt)}.json"] = raw
        if sound is not None:
            files[f"{position}/{stem(prompt=prompt)}.wav"] = sound
    root = tmp_path / "in"
    shutil.rmtree(root, ignore_errors=True)
    quality, manifest = run(write_tree(root, files))
    assert quality["labels"] == 1 + len(draws)
    for field, counts in quality["by"].items():
        assert sum(counts.values()) == quality["usable"], field
        assert sum(quality["hours_by"][field].values()) == pytest.approx(quality["hours"], abs=1e-3)
    assert sum(quality["histograms"]["duration_s"]["counts"]) == len(manifest)


class Stop(BaseException):
    """Stands for Ctrl-C or a kill between two chunks."""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stop_after", [1, 3, 6, 8])
def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, packed: bool
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_FILES", 10)
    files = _corpus(40)
    root = write_tree(tmp_path / "in", {"a.zip": make_zip(files)} if packed else files)
    whole, expected = run(root, tmp_path / "whole", workers=1)
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if sum("read" in line for line in lines) == stop_after:
            raise Stop

    out, config = tmp_path / "out", DataConfig(workers=1)
    with listening(interrupt), pytest.raises(Stop):
        ingest([root], out, config)
    assert not (out / "manifest.parquet").exists()
    lines.clear()
    with listening(lines.append):
        quality = ingest([root], out, config)
    assert quality == whole
    pd.testing.assert_frame_equal(read_manifest(out / "manifest.parquet"), expected)
    kept = sum(int(line.split()[1]) for line in lines if line.startswith("resumed"))
    assert kept == stop_after
    assert not (out / KEPT_FOLDER).exists()


def test_what_changed_since_the_interruption_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_FILES", 10)
    root = write_tree(tmp_path / "in", _corpus(40))

    def interrupt(line: str) -> None:
        if line.startswith("audio"):
            raise Stop

    with listening(interrupt), pytest.raises(Stop):
        ingest([root], tmp_path / "out", DataConfig(workers=1))
    changed = root / "label" / f"{stem('PA_0003', 3)}.json"
    changed.write_bytes(label("바뀐 문장", seconds=None))
    for path in (tmp_path / "out" / KEPT_FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:-20])  # results cut off by a crash are no results
        break
    _, manifest = run(root, tmp_path / "out", workers=1)
    assert manifest.set_index("utterance_id").loc[changed.stem, "text"] == "바뀐 문장"


@pytest.mark.slow
def test_several_processes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_FILES", 10)
    root = write_tree(tmp_path / "in", {"a.zip": make_zip(_corpus(60))})
    alone = run(root, tmp_path / "one", workers=1)
    both = run(root, tmp_path / "two", workers=2)
    assert alone[0] == both[0]
    pd.testing.assert_frame_equal(alone[1], both[1])


KILLED = """
import logging, os, signal, sys
from pathlib import Path
from kmed_bench.config import DataConfig
from kmed_bench.corpus.ingest import chunks, results, scan
from kmed_bench.corpus.ingest.manifest import ingest

chunks.CHUNK_FILES = 10
lines = []

class Killer(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
        if len(lines) == 6:
            os.kill(os.getpid(), signal.SIGKILL)

logger = logging.getLogger("kmed_bench.corpus")
logger.setLevel(logging.DEBUG)
logger.addHandler(Killer())

ingest([Path(sys.argv[1])], Path(sys.argv[2]), DataConfig(workers=1))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_FILES", 10)
    root = write_tree(tmp_path / "in", _corpus(40))
    done = subprocess.run([sys.executable, "-c", KILLED, root, tmp_path / "out"], check=False)
    assert done.returncode == -9
    lines: list[str] = []
    with listening(lines.append):
        quality = ingest([root], tmp_path / "out", DataConfig(workers=1))
    assert quality["labels"] == quality["usable"] == 40
    assert any(line.startswith("resumed: 4 of 4 chunks of label") for line in lines)


def test_decoding_finds_opposite_channels_and_16_bit_floats(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(16_000) / 9)
    sounds = {1: np.stack([tone, -tone], 1), 2: 9_000 * tone, 3: np.stack([tone, 0.2 * tone], 1)}
    files: dict[str, bytes] = {}
    for number, samples in sounds.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, samples.astype(np.float32), 16_000, format="WAV", subtype="FLOAT")
        files |= {f"{stem(prompt=number)}.wav": buffer.getvalue(), f"{stem(prompt=number)}.json": label(seconds="1.0")}
    root = write_tree(tmp_path / "in", files)
    assert run(root)[0]["usable"] == 3
    quality, manifest = run(root, decode=True)
    assert quality["rejected"] == {"audio_unreadable": 1}
    assert quality["warnings"] == {"format_differs": 2, "opposite_channels": 1, "rate_differs": 2}
    assert quality["warning_examples"]["opposite_channels"] == [stem(prompt=1)]
    assert manifest["utterance_id"].tolist() == [stem(prompt=1), stem(prompt=3)]
    assert "its samples reach 2" in pd.read_csv(root.parent / "out" / "rejects.csv")["detail"][0]


def test_a_label_of_marker_tokens_is_no_transcript(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "in", pair(text="<|ko|>배가 아파요<|endoftext|>") | pair(stem(prompt=2)))
    quality, _ = run(root)
    assert quality["rejected"] == {"label_unreadable": 1}
