"""Folders and archives as they must not be: FIFOs, circles, lying headers, absurd numbers, split zips."""

import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from downloads import cut_pieces, label, make_tar, make_zip, stem, wav, write_tree
from fault_table import fault
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.asr.features.store import _files_behind
from kmed_bench.config import DataConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.archives.spans import (
    ArchiveError,
    ByteSource,
    Piece,
    Span,
    explain_split,
    join_named,
    parse_piece,
)
from kmed_bench.corpus.archives.zips import read_directory, read_member
from kmed_bench.corpus.ingest.manifest import ingest

GOOD, BAD = stem(), stem(prompt=2)
PAIR = {f"{GOOD}.json": label(), f"{GOOD}.wav": wav()}
Made = Callable[[Path], object]


def run(root: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    quality: Any = ingest([root], root.parent / "out", DataConfig(workers=1))
    assert quality["labels"] == quality["usable"] + sum(quality["rejected"].values())
    return quality, pd.read_csv(root.parent / "out" / "rejects.csv", keep_default_na=False)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path is at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def _link(target: str) -> Made:
    return lambda path: path.symlink_to(target)


KINDS: dict[str, tuple[Made, str]] = {
    "FIFO": (os.mkfifo, "it is a FIFO and not a regular file"),
    "socket": (_socket, "No such device or address"),
    "link to a device": (_link("/dev/zero"), "it is a device and not a regular file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "dangling link": (_link("nowhere"), "No such file or directory"),
}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(
            *case, id=name, marks=fault(f"{name} as label, audio or zip", sees=f"reject, or warning: {case[1]}")
        )
        for name, case in KINDS.items()
    ],
)
def test_what_is_no_plain_file_is_left_out_with_its_reason(tmp_path: Path, make: Made, said: str) -> None:
    root = write_tree(tmp_path / "in", PAIR | {f"{BAD}.json": label()})
    make(root / f"{stem(prompt=3)}.json")
    make(root / f"{BAD}.wav")
    make(root / "a.zip")
    make(root / "b.zip.part0")
    quality, rejects = run(root)
    assert quality["rejected"] == {"audio_unreadable": 1, "label_unreadable": 1}
    assert list(rejects["detail"]) == [said, said]
    assert quality["usable"] == 1
    assert quality["warnings"] == {"archive_unreadable": 2}


@fault("folder that may not be read", sees="warning folder_unreadable with its name", survives="every other folder")
def test_a_folder_that_may_not_be_read_is_named_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "in", PAIR | {f"closed/{BAD}.json": label()})
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root may read every folder, so the tests can't make one that it may not
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    quality, _ = run(root)
    assert quality["usable"] == 1
    assert quality["warnings"] == {"folder_unreadable": 1}
    assert quality["warning_examples"] == {"folder_unreadable": ["in/closed: Permission denied"]}


def _lying(packing: int, **fields: int) -> bytes:
    """Return a zip of the bad label whose local header claims lengths of its name and its extra field."""
    data = bytearray(make_zip({f"{BAD}.json": label()}, packing=packing))
    for at, key in ((26, "name"), (28, "extra")):
        if key in fields:
            struct.pack_into("<H", data, at, fields[key])
    return bytes(data)


@fault(
    "zip whose local header claims 60,000 bytes of extra field",
    sees="reject label_unreadable: its local header claims more",
)
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("fields", [{"extra": 60_000}, {"name": 0xFFFF}, {"extra": 0xFFFF, "name": 0xFFFF}])
def test_a_local_header_that_lies_costs_its_file(tmp_path: Path, packing: int, fields: dict[str, int]) -> None:
    quality, rejects = run(write_tree(tmp_path / "in", PAIR | {"a.zip": _lying(packing, **fields)}))
    assert quality["rejected"] == {"label_unreadable": 1}
    assert list(rejects["detail"]) == ["its local header claims more than the archive holds"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_zip_hangs_or_gives_other_bytes(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Flipped bytes of any header: an archive or a member is refused, or its bytes are right."""
    files = {"a.wav": wav(0.05), "b/c.json": label(), "empty.json": b""}
    raw = bytearray(make_zip(files, packing=data.draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(raw)
    try:
        with ByteSource((Span(0, len(raw), str(path), 0),)) as source:
            for member in read_directory(source):
                with contextlib.suppress(ArchiveError):
                    read_member(source, member, 100)
                    assert read_member(source, member) in files.values()
    except ArchiveError:
        return


@fault("piece whose byte offset has 25 or 5,000 digits", sees="warning archive_unreadable: an impossible offset")
@pytest.mark.parametrize("n_digits", [19, 25, 200])
def test_offsets_of_absurd_length_are_named(tmp_path: Path, n_digits: int) -> None:
    data = make_zip({f"{BAD}.wav": wav()})
    pieces = {"a.zip.part0": data[:200], "a.zip.part" + "9" * n_digits: data[200:]}
    quality, _ = run(write_tree(tmp_path / "in", PAIR | pieces))
    assert quality["usable"] == 1
    assert quality["warnings"] == {"archive_piece_missing": 1, "archive_unreadable": 1}
    assert max(map(len, quality["files_ignored"]), default=0) <= 80
    long = {"a.zip.part" + "9" * 5_000: b"x"}
    (tmp_path / "in" / "b.tar").write_bytes(_pax_tar(long))
    quality, _ = run(tmp_path / "in")
    assert quality["warnings"] == {"archive_piece_missing": 1, "archive_unreadable": 2}
    assert all(len(words) < 300 for words in quality["warning_examples"]["archive_unreadable"])


def _pax_tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _with_pax_size(size: str) -> bytes:
    """Return a tar of a good label, a header that claims a size, and a bad label."""

    def block(name: str, kind: bytes, content: bytes) -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content)
        return info.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)

    record = f" size={size}\n".encode()
    n = len(record) + len(str(len(record) + 2))
    record = str(n + (len(str(n)) - len(str(len(record) + 2)))).encode() + record
    first = block(f"{GOOD}.json", b"0", label())
    return first + block("p", b"x", record) + block(f"{BAD}.json", b"0", b"{}") + b"\0" * 1024


@pytest.mark.parametrize("size", ["9" * 23, str(2**63), str(2**64), "-5", "1e400", "9" * 400])
@fault(
    "tar whose PAX header claims a size beyond 2**63, a negative one or no number",
    sees="reject of the file, or warning archive_unreadable",
)
def test_sizes_beyond_any_file_in_a_tar(tmp_path: Path, size: str) -> None:
    files = {f"{GOOD}.wav": wav(), "a.tar": _with_pax_size(size)}
    quality, rejects = run(write_tree(tmp_path / "in", files))
    assert quality["usable"] == 1
    assert bool(len(rejects)) or "archive_unreadable" in quality["warnings"]


@fault(
    "tar with a damaged header in its middle",
    sees="warning archive_unreadable: the rest is not read",
    survives="the files before it",
)
def test_a_tar_that_is_damaged_in_its_middle_says_so(tmp_path: Path) -> None:
    raw = bytearray(make_tar(PAIR | {f"{BAD}.json": label()}))
    at = raw.index(BAD.encode())
    raw[at : at + 10] = b"\xff" * 10
    quality, _ = run(write_tree(tmp_path / "in", {"a.tar": bytes(raw)}))
    assert quality["usable"] == 1
    expected = "a.tar: a header is damaged after 2 files; the rest is not read"
    assert quality["warning_examples"] == {"archive_unreadable": [expected]}


def _volumes(name: str, data: bytes, size: int) -> dict[str, bytes]:
    return {f"{name}.{i + 1:03d}": data[at : at + size] for i, at in enumerate(range(0, len(data), size))}


AUDIO_ZIP = make_zip({f"x/{GOOD}.wav": wav()}, packing=zipfile.ZIP_STORED)


@fault("zip in volumes of 7-Zip (.zip.001)", sees="nothing: they are read in place", survives="all files")
@pytest.mark.parametrize("in_tar", [False, True])
def test_volumes_are_read_in_place(tmp_path: Path, in_tar: bool) -> None:
    volumes = _volumes("[T원천]환자.zip", AUDIO_ZIP, 5_000)
    assert len(volumes) > 3
    files = {"b.tar": make_tar(volumes)} if in_tar else volumes
    quality, _ = run(write_tree(tmp_path / "in", files | {f"{GOOD}.json": label()}))
    assert (quality["usable"], quality["warnings"], quality["files_ignored"]) == (1, {}, {})
    place = read_manifest(tmp_path / "out" / "manifest.parquet")["audio"][0]
    assert place.endswith(f"[T원천]환자.zip::x/{GOOD}.wav")
    with AudioReader() as reader:
        assert reader.read(place) == wav()
    if not in_tar:
        behind = _files_behind(Path(place.split("::")[0]))
        assert [path.name for path in behind] == sorted(volumes)


@fault(
    "7-Zip volume missing in the middle", sees="warning archive_piece_missing with its bytes, reject of the audio in it"
)
def test_a_missing_volume_is_named_and_costs_what_lies_in_it(tmp_path: Path) -> None:
    both = make_zip({f"x/{BAD}.wav": wav(), f"x/{GOOD}.wav": wav()}, packing=zipfile.ZIP_STORED)
    volumes = _volumes("a.zip", both, 5_000)
    del volumes["a.zip.002"]
    quality, _ = run(write_tree(tmp_path / "in", volumes | {f"{n}.json": label() for n in (GOOD, BAD)}))
    assert quality["warning_examples"]["archive_piece_missing"] == ["a.zip: bytes 5,000 to 10,000 are missing"]
    assert (quality["usable"], quality["reject_examples"]) == (1, {"audio_unreadable": [BAD]})


@fault("zip split by PKZIP (.z01, .z02, .zip)", sees="warning archive_unreadable with the remedy: zip -s 0")
def test_a_split_zip_is_named_with_the_remedy(tmp_path: Path) -> None:
    last = bytearray(AUDIO_ZIP)
    struct.pack_into("<H", last, len(last) - 18, 2)  # the number of this part
    quality, _ = run(write_tree(tmp_path / "in", PAIR | {"a.zip": bytes(last), "a.z01": b"PK", "a.z02": b"PK"}))
    assert quality["warnings"] == {"archive_unreadable": 3}
    assert all("zip -s 0" in words for words in quality["warning_examples"]["archive_unreadable"])


@fault(
    "pieces left beside the zip that they were joined to",
    sees="nothing: they are not counted again",
    survives="all files",
)
@pytest.mark.parametrize(
    "cut", [lambda data: cut_pieces("a.zip", data, 900), lambda data: _volumes("a.zip", data, 900)]
)
@pytest.mark.parametrize("in_tar", [False, True])
def test_pieces_beside_the_whole_zip_count_once(
    tmp_path: Path, cut: Callable[[bytes], dict[str, bytes]], in_tar: bool
) -> None:
    whole = make_zip(PAIR, packing=zipfile.ZIP_STORED)
    files = {"a.zip": whole} | cut(whole)
    quality, _ = run(write_tree(tmp_path / "in", {"d.tar": make_tar(files)} if in_tar else files))
    assert (quality["labels"], quality["usable"], quality["warnings"]) == (1, 1, {})


@given(st.binary(min_size=1, max_size=3_000), st.integers(1, 700), st.booleans(), st.randoms())
def test_names_of_pieces_give_their_places(data: bytes, size: int, in_volumes: bool, random: Any) -> None:
    cut = _volumes("a.zip", data, size) if in_volumes else cut_pieces("a.zip", data, size)
    files = [(name, len(piece), name, 0) for name, piece in cut.items()]
    random.shuffle(files)
    joined = join_named(files)["a.zip"]
    assert (joined.gaps, joined.overlaps) == ((), ())
    assert b"".join(cut[span.path] for span in joined.spans) == data


@pytest.mark.parametrize(
    ("name", "piece", "explained"),
    [
        ("a.zip.part0", True, True),
        ("a.ZIP.PART12", True, True),
        ("a.zip.001", True, False),
        ("a.zip.000", False, False),
        ("a.zip.01", False, False),
        ("a.z01", False, True),
        ("a.zip.part" + "1" * 19, False, True),
        ("note.part1", False, True),
        ("a.tar.001", False, True),
        ("a.7z.002", False, True),
        ("a.zip", False, False),
        ("2024.01.001", False, False),
    ],
)
def test_what_a_name_says(name: str, piece: bool, explained: bool) -> None:
    assert (parse_piece(name) is not None, explain_split(name) is not None) == (piece, explained)


@fault("source whose path has :: in it", sees="error, status 2: rename the folder", survives="nothing is written")
def test_a_separator_in_the_sources_path_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "a::b", PAIR)
    with pytest.raises(KmedError, match=r"a::b can't be used: its path has '::' in it, .* rename the folder"):
        ingest([root], tmp_path / "out", DataConfig())


@fault(
    "folder or archive below the source with :: in its name",
    sees="reject, or warning archive_unreadable: its path has '::'",
)
def test_a_separator_below_the_source_costs_what_lies_there(tmp_path: Path) -> None:
    inside = {
        "c::d/x.zip": make_zip({f"{BAD}.wav": wav()}),
        "t.tar": make_tar({"e::f.zip": make_zip({"x.json": b"{}"})}),
    }
    root = write_tree(tmp_path / "in", PAIR | inside | {f"c::d/{BAD}.json": label()})
    quality, _ = run(root)
    assert (quality["usable"], quality["rejected"]) == (1, {"label_unreadable": 1})
    assert quality["warnings"] == {"archive_unreadable": 2}
    assert all("'::'" in words for words in quality["warning_examples"]["archive_unreadable"])


MANY = """
import resource, sys
from pathlib import Path
from kmed_bench.corpus.ingest.listing import list_sources
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
listing = list_sources([Path(sys.argv[1])], Path("out"))
print(listing.audio.table().num_rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_folder_of_many_files_is_listed_in_bounded_memory(tmp_path: Path) -> None:
    """Entries are streamed: 40,000 files take at most 1 kB each, the table's columns and Python's rows included."""
    for i in range(40_000):
        (tmp_path / f"PA_0001-{i:06d}-01-03-F-08-C.wav").touch()
    done = subprocess.run([sys.executable, "-c", MANY, tmp_path], capture_output=True, text=True, check=True)
    n_files, kib = map(int, done.stdout.split())
    assert n_files == 40_000
    assert kib * 1024 / n_files < 1_000


def test_a_piece_that_is_no_volume_has_no_number() -> None:
    assert parse_piece("a.zip.part0") == Piece("a.zip", 0)
    assert parse_piece("a.zip.003") == Piece("a.zip", None, 3)
