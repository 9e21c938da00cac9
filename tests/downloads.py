"""Small downloads in every form, made of tones: builders for the tests of `ingest`."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Files = Mapping[str, bytes]


def stem(speaker: str = "PA_0001", prompt: int = 1, codes: str = "03-F-08-C") -> str:
    return f"{speaker}-{prompt:04d}-01-{codes}"


def wav(seconds: float = 1.0, rate: int = 8000, channels: int = 1, level: float = 0.5) -> bytes:
    n_frames = round(seconds * rate)
    wave = level * np.sin(np.arange(n_frames) * 0.3)
    data = np.repeat(np.round(wave * 32767).astype("<i2"), channels).tobytes()
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data


def tree(text: Any = "무릎이 아파요", seconds: Any = "1.0", rate: Any = "8000", **speaker: Any) -> dict[str, Any]:
    """Return a label as a JSON tree; a speaker field given as None is left out."""
    fields = {"Gender": "Female", "Age": "60~69", "Region": "광주/전라/제주", "Dialect": "전라"} | speaker
    return {
        "전사정보": {"LabelText": text},
        "화자정보": {key: value for key, value in fields.items() if value is not None},
        "음성정보": {"SamplingRate": rate, "NumberOfBit": "16", "NumberOfChannel": "1"},
        "파일정보": {"FileLength": seconds},
        "기타정보": {"QualityStatus": "Good"},
    }


def label(*args: Any, **changes: Any) -> bytes:
    return json.dumps(tree(*args, **changes), ensure_ascii=False).encode()


def write_tree(root: Path, files: Files) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


class RawName(zipfile.ZipInfo):
    """A member whose name is written as given bytes, with or without the UTF-8 flag."""

    raw: bytes
    flag: int

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 (zipfile's own name)
        return self.raw, self.flag


def make_zip(
    files: Files, encoding: str | None = None, flag: bool = False, packing: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """Return a zip; with `encoding`, names are written in it, with the UTF-8 flag or without."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for position, (name, data) in enumerate(files.items()):
            if encoding is None:
                archive.writestr(name, data)
            else:
                info = RawName(f"{position}")
                info.raw, info.flag, info.compress_type = name.encode(encoding), 0x800 if flag else 0, packing
                archive.writestr(info, data)
    return stream.getvalue()


def make_tar(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def cut_pieces(name: str, data: bytes, size: int) -> dict[str, bytes]:
    """Return a file in pieces as the downloader names them: by byte offset, in lexical order, which is wrong."""
    pieces = {f"{name}.part{start}": data[start : start + size] for start in range(0, len(data), size)}
    return dict(sorted(pieces.items()))
