"""Label-only corpora of any size, laid out as an AI Hub 208 download: real headers, silent audio.

    python benchmarks/label_corpus.py OUT --utterances 309402 --speakers 885 --layout zips
    python benchmarks/label_corpus.py OUT --utterances 1270000 --speakers 2425 --staff --layout tree

Shares of dialect, age and gender are those that the published benchmark printed; sentences come in
blocks, one for each prefix of speakers, and a few short answers are read by everyone. A WAV file
states its whole length; in a tree its samples are a hole in a sparse file, in a zip deflated zeros.
`make_labels` alone gives the manifest that `ingest` would write, without a file.
"""

import argparse
import json
import os
import struct
import sys
import time
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kmed_bench.core.schema import MANIFEST_COLUMNS
from kmed_bench.corpus.splitting.quotas import largest_remainder
from kmed_bench.text.marks import sentence_id

DIALECTS = {"경기/서울": 4279, "경상": 3049, "충청": 1405, "전라": 1256, "강원": 11}
AGES = {
    "60~69": 3375, "20~29": 2012, "11~19": 1502, "30~39": 1169, "40~49": 1060, "50~59": 496, "7~10": 310, "over70": 76,
}  # fmt: skip
GENDERS = {"Female": 532, "Male": 468}
AGE_CODES = dict(zip(sorted(AGES, key=lambda age: (age == "over70", int(age.split("~")[0]) if "~" in age else 0)),
                     (f"{code:02d}" for code in range(2, 10)), strict=True))  # fmt: skip
REGIONS = {
    "경기/서울": ("A", "서울/인천/경기"), "충청": ("B", "대전/세종/충청/강원"), "강원": ("B", "대전/세종/충청/강원"),
    "전라": ("C", "광주/전라/제주"), "경상": ("D", "부산/대구/울산/경상"),
}  # fmt: skip
# role: prefixes, role code, Hangul name, utterances and speakers of the whole set (thousands; number)
ROLES = {
    "patient": (("PA", "PB", "PC", "PD", "PE", "PF"), "03", "환자", 471, 1341),
    "nurse": (("HA",), "02", "의료진_간호사", 329, 718),
    "doctor": (("HB",), "01", "의료진_의사", 330, 366),
}
SHORT = ("네.", "아니요.", "네, 맞아요.", "잘 모르겠어요.", "괜찮아요.", "조금이요.", "감사합니다.", "안녕하세요.")
WHEN = (
    "어제부터", "오늘 아침에", "지난주부터", "밤마다", "일어날 때", "식사 후에", "운동하면", "한 달 전부터", "가끔",
    "요즘 들어", "걸을 때", "누워 있으면", "비가 오면", "약을 먹고", "수술한 뒤로", "새벽에", "계단에서", "말할 때",
    "추우면", "피곤하면",
)  # fmt: skip
WHERE = (
    "머리가", "목이", "허리가", "무릎이", "배가", "가슴이", "어깨가", "손목이", "발목이", "눈이", "귀가", "잇몸이",
    "다리가", "옆구리가", "손가락이", "등이", "속이", "팔꿈치가", "골반이", "턱이",
)  # fmt: skip
HOW = (
    "조금", "많이", "계속", "갑자기", "자꾸", "심하게", "살짝", "전보다", "너무", "은근히", "하루 종일", "자주", "몹시",
    "유난히", "점점", "꽤", "한쪽만", "양쪽 다", "때때로", "이상하게",
)  # fmt: skip
WHAT = (
    "아파요.", "저려요.", "쑤셔요.", "부었어요.", "뻣뻣해요.", "불편해요.", "뜨거워요.", "가려워요.", "당겨요.",
    "결려요.",
)  # fmt: skip
RATE_HZ = 48_000


def make_labels(
    n_utterances: int, n_speakers: int, *, n_sentences: int = 40_000, staff: bool = False, seed: int = 208
) -> pd.DataFrame:
    """Return a manifest of the size asked for; with staff, nurses and doctors speak beside the patients."""
    draw = np.random.default_rng(seed)
    roles = list(ROLES) if staff else ["patient"]
    texts = _make_sentences(n_sentences)
    weights = [ROLES[role][3] for role in roles]
    utterances, sentences = largest_remainder(n_utterances, weights), largest_remainder(n_sentences, weights)
    speakers = largest_remainder(n_speakers, [ROLES[role][4] for role in roles])
    first = np.cumsum(sentences) - sentences
    tables = [
        _read_out(role, int(n), int(who), np.arange(start, start + size), draw)
        for role, n, who, start, size in zip(roles, utterances, speakers, first, sentences, strict=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    prompt = table.pop("prompt").to_numpy()
    table["text"] = np.array(texts, dtype=object)[prompt]
    table["sentence_id"] = np.array([sentence_id(text) for text in texts], dtype=object)[prompt]
    length = np.array([len(text) for text in texts])[prompt]
    table["duration_s"] = np.round(0.6 + 0.12 * length + 0.2 * draw.integers(0, 8, len(table)), 2)
    table["rate_hz"], table["quality"] = RATE_HZ, "Good"
    table["audio"] = table["speaker_id"] + "/" + table["utterance_id"] + ".wav"
    return table.loc[:, list(MANIFEST_COLUMNS)]


def _make_sentences(n: int) -> list[str]:
    if n > 80_000:
        raise SystemExit(f"{n} sentences are more than the 80,000 that can be put together")
    whole = [
        f"{WHEN[i % 20]} {WHERE[i // 20 % 20]} {HOW[i // 400 % 20]} {WHAT[i // 8000]}" for i in range(n - len(SHORT))
    ]
    return [*SHORT, *whole]


def _read_out(role: str, n: int, n_speakers: int, sentences: np.ndarray, draw: np.random.Generator) -> pd.DataFrame:
    """Return who of a role reads what: each speaker reads from the block of its prefix, no sentence twice."""
    prefixes, code, *_ = ROLES[role]
    fields = {
        name: draw.permutation(
            np.repeat(np.array(list(of), dtype=object), largest_remainder(n_speakers, list(of.values())))
        )
        for name, of in (("dialect", DIALECTS), ("age", AGES), ("gender", GENDERS))
    }
    blocks = np.array_split(sentences[sentences >= len(SHORT)], len(prefixes))
    counts = largest_remainder(n, (draw.gamma(12, 1000, n_speakers) + 1).astype(np.int64))
    names, stems, prompts = [], [], []
    for index in range(n_speakers):
        block = index * len(prefixes) // n_speakers
        count = int(min(counts[index], len(blocks[block])))
        short = draw.choice(len(SHORT), min(2, count - 1), replace=False)
        prompts.append(np.concatenate([short, draw.choice(blocks[block], count - len(short), replace=False)]))
        names.append(f"{prefixes[block]}_{index + 1:04d}")
        age, gender, dialect = (fields[name][index] for name in ("age", "gender", "dialect"))
        stems.append(f"01-{code}-{gender[0]}-{AGE_CODES[age]}-{REGIONS[dialect][0]}")
    sizes = [len(p) for p in prompts]
    prompt = np.concatenate(prompts)
    of = np.repeat(np.arange(n_speakers), sizes)
    rows = zip(np.repeat(names, sizes), prompt.tolist(), np.repeat(stems, sizes), strict=True)
    table = pd.DataFrame({name: values[of] for name, values in fields.items()})
    table["region"] = table["dialect"].map({dialect: region for dialect, (_, region) in REGIONS.items()})
    table["utterance_id"] = [f"{name}-{number + 1}-{stem}" for name, number, stem in rows]
    table["speaker_id"], table["role"], table["prompt"] = np.repeat(names, sizes), role, prompt
    # A ninth of the speakers came with the Validation release.
    table["release"] = np.where(of % 9 == 8, "Validation", "Training")
    return table


def write_corpus(table: pd.DataFrame, out: Path, layout: str) -> None:
    """Write labels and audio as extracted (tree) or as downloaded (zips)."""
    sinks: dict[str, Tree | Zips] = {}
    seen: set[str] = set()
    for row in table.itertuples(index=False):
        role, letter = str(row.role), str(row.release)[0]
        if row.speaker_id not in seen:
            seen.add(row.speaker_id)
            speaker = len(seen)
        korean = ROLES[role][2]
        audio_zip = f"{row.release}/[{letter}원천]{korean}_{speaker % 6 + 1 if letter == 'T' else 1}"
        label_zip = f"{row.release}/[{letter}]라벨링데이터"
        for name in (audio_zip, label_zip):
            if name not in sinks:
                sinks[name] = Tree(out / name) if layout == "tree" else Zips(out / f"{name}.zip")
        folder = korean.rpartition("_")[2]
        sinks[label_zip].add(f"med{'sub' if letter == 'T' else 'v'}/{folder}/{row.speaker_id}/{row.utterance_id}.json",
                             make_label(row))  # fmt: skip
        sinks[audio_zip].add_audio(f"1/{row.speaker_id}/{row.utterance_id}.wav", float(row.duration_s))
    for sink in sinks.values():
        sink.close()


def make_label(row: Any) -> bytes:
    """Return a label as the set writes it."""
    return (
        f'{{"전사정보": {{"LabelText": {json.dumps(row.text, ensure_ascii=False)}}}, '
        f'"화자정보": {{"Gender": "{row.gender}", "Age": "{row.age}", "Region": "{row.region}", '
        f'"Dialect": "{row.dialect}"}}, '
        f'"음성정보": {{"SamplingRate": "{row.rate_hz}", "NumberOfBit": "16", "NumberOfChannel": "1"}}, '
        f'"파일정보": {{"FileName": "{row.utterance_id}.wav", "DirectoryPath": "/nia/metrixB/data/{row.speaker_id}", '
        f'"FileLength": "{row.duration_s:.2f}"}}, "기타정보": {{"QualityStatus": "Good"}}}}'
    ).encode()


def make_header(duration_s: float) -> tuple[bytes, int]:
    """Return a WAV header and the bytes of samples that it states."""
    n = round(duration_s * RATE_HZ) * 2
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + n, b"WAVE", b"fmt ", 16, 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16,
                       b"data", n), n  # fmt: skip


class Tree:
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = str(folder), set[str]()

    def add(self, name: str, content: bytes, size: int | None = None) -> None:
        """Write a file; with a size, grown to it by a hole."""
        path = f"{self.folder}/{name}"
        parent = path.rpartition("/")[0]
        if parent not in self.made:
            self.made.add(parent)
            os.makedirs(parent, exist_ok=True)  # noqa: PTH103
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.write(file, content)
        if size is not None:
            os.ftruncate(file, size)
        os.close(file)

    def add_audio(self, name: str, duration_s: float) -> None:
        """Write a silent WAV file that takes one block of the disk."""
        header, n = make_header(duration_s)
        self.add(name, header, len(header) + n)

    def close(self) -> None:
        """Do nothing: files are closed already."""


@lru_cache(maxsize=4096)
def _deflate(duration_s: float) -> tuple[bytes, int, int]:
    header, n = make_header(duration_s)
    whole = header + bytes(n)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(whole) + packer.flush(), zlib.crc32(whole), len(whole)


class Zips:
    """Members of one archive. Audio of equal length is deflated once and copied."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    def add(self, name: str, content: bytes) -> None:
        """Write a deflated member."""
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        self._append(name, packer.compress(content) + packer.flush(), zlib.crc32(content), len(content))

    def add_audio(self, name: str, duration_s: float) -> None:
        """Write a silent WAV member."""
        self._append(name, *_deflate(duration_s))

    def _append(self, name: str, packed: bytes, crc: int, size: int) -> None:
        info = zipfile.ZipInfo(name, (2022, 8, 1, 0, 0, 0))
        info.compress_type, info.CRC, info.compress_size, info.file_size = zipfile.ZIP_DEFLATED, crc, len(packed), size
        stream = self.archive.fp
        info.header_offset = stream.tell()
        stream.write(info.FileHeader(zip64=False) + packed)
        self.archive.filelist.append(info)
        self.archive.start_dir = stream.tell()

    def close(self) -> None:
        """Finish with an ordinary member, which makes zipfile write the directory (zip64 where needed)."""
        self.archive.writestr("readme.txt", "label-only corpus for benchmarks; the audio is silent\n")
        self.archive.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--utterances", type=int, default=309_402)
    parser.add_argument("--speakers", type=int, default=885)
    parser.add_argument("--sentences", type=int, default=40_000)
    parser.add_argument("--staff", action="store_true", help="nurses and doctors beside the patients")
    parser.add_argument("--layout", choices=("tree", "zips", "manifest"), default="zips")
    parser.add_argument("--seed", type=int, default=208)
    args = parser.parse_args()
    start = time.perf_counter()
    table = make_labels(args.utterances, args.speakers, n_sentences=args.sentences, staff=args.staff, seed=args.seed)
    made = time.perf_counter()
    if args.layout == "manifest":
        args.out.mkdir(parents=True, exist_ok=True)
        table.to_parquet(args.out / "manifest.parquet", index=False)
    else:
        write_corpus(table, args.out, args.layout)
    sys.stdout.write(f"{len(table)} labels in {made - start:.1f} s, written in {time.perf_counter() - made:.1f} s\n")


if __name__ == "__main__":
    main()
