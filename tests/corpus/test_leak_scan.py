"""What must not leave is found however it is written, and other text is left in peace."""

import base64
import getpass
import gzip
import html
import io
import json
import socket
import unicodedata
import urllib.parse
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pytest

from kmed_bench.corpus import leak_scan
from kmed_bench.corpus.leak_scan import LeakScan

TEXT = "어제부터 (37)/(서른일곱) 도 넘게 열이 나고 기침이 심해요"
UTTERANCE, SPEAKER = "PA_0007-0042-01-03-F-09-B", "PA_0007"
FOLDER = "/data/서울 병원/김철수"


def table(**changes):
    row = {"utterance_id": UTTERANCE, "speaker_id": SPEAKER, "text": TEXT, "audio": f"{FOLDER}/a.zip::b/c.wav"}
    return pd.DataFrame([row | changes])


@pytest.fixture(scope="module")
def scan():
    return LeakScan([table()], names=["이영희", "Han Hospital"])


def png(kind: bytes, data: bytes) -> bytes:
    chunk = len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
    return b"\x89PNG\r\n\x1a\n" + chunk


def zipped(text: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text)
    return stream.getvalue()


WAYS = {
    "plain": lambda text: text.encode(),
    "within a line": lambda text: f'{{"note": "seen: {text}."}}'.encode(),
    "decomposed": lambda text: unicodedata.normalize("NFD", text).encode(),
    "JSON escapes": lambda text: json.dumps({"note": text}).encode(),
    "HTML escapes": lambda text: "".join(f"&#{ord(sign)};" for sign in text).encode(),
    "an address": lambda text: urllib.parse.quote(text).encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "base64 in a page": lambda text: b'<img src="data:text/plain;base64,' + base64.b64encode(text.encode()) + b'">',
    "gzip": lambda text: gzip.compress(text.encode()),
    "a zip": zipped,
    "a zip in base64": lambda text: base64.b64encode(zipped(text)),
    "a picture's text": lambda text: png(b"tEXt", b"Comment\0" + text.encode()),
    "a picture's compressed text": lambda text: png(b"zTXt", b"Comment\0\0" + zlib.compress(text.encode())),
    "a picture's own language": lambda text: png(b"iTXt", b"Comment\0\1\0ko\0\0" + zlib.compress(text.encode())),
}
SECRETS = {
    "transcript": (TEXT, "transcript"),
    "part of a transcript": ("서른일곱 도 넘게 열이 나고", "transcript"),
    "utterance": (UTTERANCE, "utterance_id"),
    "speaker": (SPEAKER, "speaker_id"),
    "folder": (FOLDER + "/x", "path"),
    "person": ("이영희", "name"),
    "institution": ("HAN hospital", "name"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("secret", SECRETS)
def test_every_secret_is_found_in_every_writing(scan, secret, way):
    text, kind = SECRETS[secret]
    assert kind in {found.kind for found in scan.find("a.json", WAYS[way](text))}


@pytest.mark.parametrize(
    "content",
    [
        TEXT.replace(" ", ""),
        TEXT.upper().replace("도", "<b>도</b>"),
        f"{TEXT[:12]}\n{TEXT[12:]}",
        "어제부터, 서른일곱 도 넘게 열이 나고 기침이 심해요!",  # one side of the dual notation
        f"cer/speaker/{SPEAKER}-x",
        f"{UTTERANCE}.wav",
        f"x{UTTERANCE}y",
        "이영희님께서 말씀하신",
        "담당: 이영희는",
    ],
)
def test_spelling_does_not_hide_it(scan, content):
    assert scan.find("a.csv", content.encode())


def test_names_of_files_audio_and_what_cant_be_opened_are_found(scan):
    assert [found.kind for found in scan.find(f"report/{SPEAKER}.png", b"")] == ["speaker_id"]
    for head in (b"RIFF\0\0\0\0WAVEfmt ", b"OggS\0", b"fLaC\0", b"ID3\4"):
        assert [found.kind for found in scan.find("a", head + b"\0" * 40)] == ["audio"]
        assert [found.kind for found in scan.find("a", b"url(" + base64.b64encode(head + b"\0" * 40))] == ["audio"]
    assert [found.kind for found in scan.find("a", zipped("x" * 400)[:-30])] == ["unreadable"]


def test_account_machine_and_folders_are_names_too(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "kim.minsu")
    monkeypatch.setattr(socket, "gethostname", lambda: "ward7-gpu.example")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/wards/kim.minsu"))
    scan = LeakScan([table()])
    for text in ("by kim.minsu", "on WARD7-GPU", "ward7-gpu.example:5000"):
        assert [found.kind for found in scan.find("a", text.encode())] == ["name"], text
    assert {found.kind for found in scan.find("a", b"/home/wards/kim.minsu/x")} == {"name", "path"}
    assert not LeakScan([table()], machine=False).find("a", b"by kim.minsu on ward7-gpu")


def test_a_list_of_names_as_a_mac_writes_it_holds_for_composed_text():
    scan = LeakScan([table()], names=[unicodedata.normalize("NFD", "이영희")])
    assert [found.kind for found in scan.find("a", "이영희".encode())] == ["name"]


def test_other_text_is_left_in_peace(scan):
    text = "기침은 감기의 흔한 증상입니다. CER 12.3 %, 서울 병원, PA_0008, 남이영희, Han-Hospitality, PA_00"
    assert scan.find("a.html", f"<p>{html.escape(text)}</p>".encode()) == []
    assert scan.find("a.png", png(b"tEXt", b"Software\0Matplotlib")) == []


def test_what_is_too_short_to_tell_from_other_text_is_counted():
    short = pd.concat([table(text="네, 네.", speaker_id="0007"), table(text="아니요", utterance_id="u1")])
    scan = LeakScan([short])
    assert scan.not_searched == {"transcripts": 2, "utterance_ids": 1, "speaker_ids": 1}
    assert not scan.find("a", "네, 네. 아니요 0007 u1".encode())


def test_a_finding_quotes_nothing(scan):
    (found,) = scan.find("a.json", TEXT.encode())
    assert found == leak_scan.Finding("transcript", "a.json", found.n)
