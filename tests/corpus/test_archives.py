"""Archives read in place: zips, pieces, tars; whatever is wrong with them is named."""

import pickle
import struct
import threading
import zipfile
from pathlib import Path

import pytest
from downloads import cut_pieces, make_tar, make_zip, wav, write_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives import zips
from kmed_bench.corpus.archives.reader import AudioReader, refuse_name, sniff
from kmed_bench.corpus.archives.spans import ArchiveError, ByteSource, Span, join_pieces, whole_file
from kmed_bench.corpus.archives.zips import check_member, read_directory, read_member

NAME = "환자/PA_0001/가.wav"
FILES = {NAME: wav(0.2), "b.wav": wav(0.1), "c.txt": b"", "folder/": b""}


def read_all(path: Path) -> dict[str, bytes]:
    with ByteSource(whole_file(str(path))) as source:
        return {member.name: read_member(source, member) for member in read_directory(source)}


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("encoding", "flag"), [("utf-8", True), ("utf-8", False), ("cp949", False), ("cp949", True)])
def test_names_and_bytes_of_every_writer(tmp_path: Path, encoding: str, flag: bool, packing: int) -> None:
    files = {name: data for name, data in FILES.items() if not name.endswith("/")}
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(files, encoding, flag, packing))
    assert read_all(path) == files


def test_zip64_and_bytes_before_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = tmp_path / "a.zip"
    data = make_zip(FILES)
    assert b"PK\x06\x06" in data  # the zip64 record is there
    for before in (b"", b"some bytes of a self-extracting program"):
        path.write_bytes(before + data)
        assert read_all(path) == {name: data for name, data in FILES.items() if not name.endswith("/")}


def test_a_zip64_field_is_found_behind_others() -> None:
    full, other = 0xFFFFFFFF, b"UT\x05\x00\x03abcd"
    wide = struct.pack("<2HQQ", 1, 16, 1 << 33, 1 << 34)
    assert zips._widen(other + wide, full, full, 7) == (1 << 33, 1 << 34, 7)
    assert zips._widen(wide + other, full, 5, full) == (1 << 33, 5, 1 << 34)
    for damaged in (b"", other, wide[:3], struct.pack("<2HQ", 1, 8, 9)):
        with pytest.raises(ArchiveError, match="damaged zip64 field"):
            zips._widen(damaged, full, full, 7)


@settings(deadline=None)
@given(st.binary(max_size=4000), st.integers(1, 700), st.randoms())
def test_pieces_give_the_bytes_of_the_whole(tmp_path_factory: pytest.TempPathFactory, data, size, random) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    spans = []
    for start in range(0, len(data), size):
        path = folder / str(start)
        path.write_bytes(b"xyz" + data[start : start + size])
        spans.append(Span(start, len(data[start : start + size]), str(path), 3))
    random.shuffle(spans)
    joined = join_pieces(spans)
    assert (joined.gaps, joined.overlaps) == ((), ())
    with ByteSource(joined.spans) as source:
        assert source.size == len(data)
        begin = random.randint(0, len(data))
        assert source.read_at(begin, size) == data[begin : begin + size]


def test_gaps_and_overlaps_are_found() -> None:
    spans = [Span(30, 10, "c", 0), Span(5, 10, "a", 0), Span(12, 10, "b", 0)]
    joined = join_pieces(spans)
    assert joined.gaps == ((0, 5), (22, 30))
    assert joined.overlaps == ((12, 15),)
    assert join_pieces([Span(0, 10, "a", 0), Span(10, 5, "b", 0)]).gaps == ()


def _damage(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


ZIP = make_zip({"a.wav": wav(0.5)})
RECORD = ZIP.rindex(b"PK\x01\x02")
BROKEN_ZIPS = {
    "no zip at all": (b"<html>404</html>" * 20, "no zip directory"),
    "cut off": (ZIP[:-30], "no zip directory"),
    "empty file": (b"", "no zip directory"),
    "directory damaged": (_damage(ZIP, RECORD, b"XX"), "directory is damaged"),
    "record longer than the directory": (_damage(ZIP, RECORD + 32, b"\xff"), "directory is cut off"),
    "directory outside the file": (ZIP[400:], "outside the file"),
    "local header damaged": (_damage(ZIP, 0, b"XX"), "local header is damaged"),
    "bytes damaged": (_damage(ZIP, 60, b"\xff\x00\xff\x00"), "unpacked|checksum"),
    "wrong checksum": (_damage(ZIP, RECORD + 16, b"\0\0\0\0"), "checksum"),
    "encrypted": (_damage(ZIP, RECORD + 8, b"\x01"), "encrypted"),
    "unknown method": (_damage(ZIP, RECORD + 10, b"\x0e"), "method 14"),
    "zip bomb": (_damage(ZIP, RECORD + 24, struct.pack("<I", 0x0FFFFFF0)), "more than deflate can hold"),
    "past the end": (_damage(ZIP, RECORD + 20, struct.pack("<I", 0x0FFFFFFF)), "past the archive's end"),
    "claims more than there is": (_damage(ZIP, RECORD + 24, struct.pack("<I", 9000)), "of 9,000 bytes"),
    "zip64 field missing": (_damage(ZIP, RECORD + 24, b"\xff\xff\xff\xff"), "zip64"),
    "absurd directory": (_damage(ZIP, len(ZIP) - 10, struct.pack("<I", 0xFFFFFF00)), "outside the file"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN_ZIPS.values(), ids=BROKEN_ZIPS)
def test_broken_zips_say_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=message):
        read_all(path)
    with AudioReader() as reader, pytest.raises(KmedError, match=message):
        reader.read(f"{path}::a.wav")


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("../a.wav", True),
        ("a/../../b.wav", True),
        ("/a.wav", True),
        ("C:/a.wav", True),
        ("a::b.wav", True),
        ("a..wav", False),
        ("a/b..c/d.wav", False),
        ("환자/a.wav", False),
    ],
)
def test_names_that_point_out_of_their_archive_are_refused(name: str, refused: bool) -> None:
    assert bool(refuse_name(name)) == refused


def test_a_tar_that_ends_in_a_zip_piece_is_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "download.tar"
    path.write_bytes(make_tar(cut_pieces("a.zip", ZIP, 200)).rstrip(b"\0"))
    assert sniff(path) == "tar"
    assert sniff(write_tree(tmp_path, {"a.zip": ZIP}) / "a.zip") == "zip"


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The location of the same recording in every form."""
    data = make_zip({name: data for name, data in FILES.items() if name.endswith("wav")})
    pieces = cut_pieces("x/환자_1.zip", data, len(data) // 11)
    assert list(pieces) != sorted(pieces, key=lambda name: int(name.rpartition("part")[2]))
    write_tree(tmp_path, {"a.zip": data, "환자.tar": make_tar(pieces), "b.tar": make_tar({"y/a.zip": data}), **pieces})
    write_tree(tmp_path, {"c.tar": make_tar(FILES), f"d::e/{NAME}": FILES[NAME]})
    return {
        "file": f"{tmp_path}/d::e/{NAME}",
        "zip": f"{tmp_path}/a.zip::{NAME}",
        "pieces in a tar": f"{tmp_path}/환자.tar::x/환자_1.zip::{NAME}",
        "zip in a tar": f"{tmp_path}/b.tar::y/a.zip::{NAME}",
        "pieces in a folder": f"{tmp_path}/x/환자_1.zip::{NAME}",
        "tar": f"{tmp_path}/c.tar::{NAME}",
    }


def test_audio_is_read_wherever_it_lies(places: dict[str, str]) -> None:
    with AudioReader() as reader:
        for _ in range(2):
            assert {form: reader.read(place) == FILES[NAME] for form, place in places.items()} == dict.fromkeys(
                places, True
            )
        again = pickle.loads(pickle.dumps(reader))
    with again:
        assert again.read(places["zip"]) == FILES[NAME]


def test_a_member_of_absurd_size_is_refused(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmed_bench.corpus.archives.reader.MAX_AUDIO_BYTES", len(FILES[NAME]))
    with AudioReader() as reader:
        assert reader.read(places["zip"]) == FILES[NAME]
        monkeypatch.setattr("kmed_bench.corpus.archives.reader.MAX_AUDIO_BYTES", 999)
        with pytest.raises(KmedError, match=f"it claims {len(FILES[NAME]):,} bytes; the limit is 999"):
            reader.read(places["zip"])


def test_a_reader_is_shared_by_threads(places: dict[str, str]) -> None:
    wrong: list[str] = []

    def work(reader: AudioReader) -> None:
        for _ in range(20):
            wrong.extend(place for place in places.values() if reader.read(place) != FILES[NAME])

    with AudioReader() as reader:
        threads = [threading.Thread(target=work, args=(reader,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none.wav", "No such file"),
        ("none.zip::a.wav", "No such file"),
        ("a.zip::none.wav", "there is no 'none.wav'"),
        ("b.tar::none.zip::a.wav", "there is no 'none.zip'"),
        ("b.tar::none.wav", "there is no 'none.wav'"),
    ],
)
def test_audio_that_is_gone_says_so(tmp_path: Path, places: dict[str, str], place: str, message: str) -> None:
    with AudioReader() as reader, pytest.raises(KmedError, match=message):
        reader.read(f"{tmp_path}/{place}")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_whole_up_to_its_last_byte(tmp_path: Path, packing: int) -> None:
    """Byte by byte around a member's ends: what the directory places in a gap is refused before it is read."""
    data = make_zip({"a.wav": b"x", "b.wav": wav(0.05), "c.wav": b"x"}, packing=packing)
    (tmp_path / "a.zip").write_bytes(data)
    with ByteSource(whole_file(str(tmp_path / "a.zip"))) as source:
        member = {member.name: member for member in read_directory(source)}["b.wav"]
    end = member.start + 30 + member.packed  # the local header's name and extra field come in addition

    def refusal(*spans: tuple[int, int]) -> str:
        pieces = tuple(Span(first, last - first, str(tmp_path / "a.zip"), first) for first, last in spans)
        with ByteSource(pieces) as source:
            try:
                check_member(source, member)
            except ArchiveError as error:
                return str(error)
        return ""

    gaps = [(first, first + 1) for first in range(member.start - 3, end + 3)] + [(member.start - 5, end + 5)]
    found = {gap: refusal((0, gap[0]), (gap[1], len(data))) for gap in gaps}
    inside = {gap for gap in gaps if gap[0] < end and gap[1] > member.start}
    assert {gap for gap in gaps if "is in a piece that is missing" in found[gap]} == inside
    assert {gap for gap in gaps if found[gap]} == inside
    assert "past the archive's end" in refusal((0, end - 1))
    assert refusal((0, end)) == ""


def test_a_directory_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = make_zip({f"{name}.wav": b"x" for name in "가나다라마바"})
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    end = len(data) - 100  # the last bytes are read first, to find the directory
    for cut in range(data.index(b"PK\x01\x02") + 1, end):  # a missing piece: from here to the end
        spans = (Span(0, cut, str(path), 0), Span(end, 100, str(path), end))
        with ByteSource(spans) as source, pytest.raises(ArchiveError, match=r"directory is (damaged|cut off) at byte"):
            list(read_directory(source))


def test_a_missing_piece_costs_only_what_lies_in_it(tmp_path: Path) -> None:
    files = {f"{n}.wav": wav(0.5, level=0.1 * n) for n in range(1, 6)}
    data = make_zip(files, packing=zipfile.ZIP_STORED)
    pieces = cut_pieces("a.zip", data, 8000)
    del pieces["a.zip.part16000"]
    write_tree(tmp_path, pieces)
    got = {}
    with AudioReader() as reader:
        for name in files:
            try:
                got[name] = reader.read(f"{tmp_path}/a.zip::{name}") == files[name]
            except KmedError as error:
                got[name] = "piece that is missing" in str(error)
                assert name == "2.wav" or name == "3.wav"
    assert got == dict.fromkeys(files, True)
