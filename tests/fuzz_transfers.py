"""Readers of what comes from elsewhere: lists of recordings, media, other systems' transcripts, bundles, kits.

`fuzz_targets.MAKERS` names them.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from fuzz_targets import Target, write

from kmed_bench.core.errors import KmedError

_TEXT = "열이 나요. 어제부터요."
_SEGMENTS = [
    {"id": n, "start": n, "end": n + 1, "text": text} for n, text in enumerate((" 열이 나요.", " 어제부터요."))
]
_GOOGLE = [{"alternatives": [{"transcript": _TEXT, "confidence": 0.9}], "resultEndOffset": "1s"}]


def list_of_recordings(_folder: Path) -> Target:
    """A table of recordings as CSV (UTF-8 and cp949), TSV, JSONL and Excel."""
    import openpyxl

    from kmed_bench.corpus.imports.lists import ListOptions, read_list

    rows = [
        ["파일", "전사", "화자", "성별", "나이", "지역방언", "시작", "끝"],
        ["a.wav", "머리가 (3)/(삼) 일째 아파요.", "s1", "여", "72", "경상", "0:01", "0:02.5"],
        ["b.wav", "네", "s2", "남", "60대", "", "", ""],
    ]
    table = "\n".join(",".join(row) for row in rows)
    lines = [json.dumps(dict(zip(rows[0], row, strict=True)), ensure_ascii=False) for row in rows[1:]]
    book, sheet = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(sheet)
    texts = [
        table.encode(),
        table.encode("cp949"),
        table.replace(",", "\t").encode("utf-16"),
        "\n".join(lines).encode(),
    ]

    def call(data: bytes, place: Path) -> None:
        ending = ".xlsx" if data[:2] == b"PK" else ".jsonl" if data[:1] == b"{" else (".csv", ".tsv")[len(data) % 2]
        read_list(write(place, f"list{ending}", data), ListOptions())

    return Target(call, [*texts, sheet.getvalue()])


def media(folder: Path) -> Target:
    """Recordings of telephones and browsers, which FFmpeg's libraries read."""
    from recordings import KINDS, encode, tone

    from kmed_bench.corpus.archives.media import MediaError, open_media

    seeds = [encode(folder / name, tone(0.3, kind[2]), kind).read_bytes() for name, kind in KINDS.items()]

    def call(data: bytes, _place: Path) -> None:
        with open_media(data) as opened:
            n_values = 0
            for block in opened.blocks:
                assert np.isfinite(block).all()
                n_values += block.size
                if n_values > 10_000_000:
                    break

    return Target(call, seeds, (MediaError, KmedError))


def other_systems(_folder: Path) -> Target:
    """Transcripts as other systems write them, told apart by their content."""
    from kmed_bench.scoring.external_files import read_external

    values = [
        {"text": f" {_TEXT}", "segments": _SEGMENTS, "language": "ko"},
        {"RecognitionStatus": "Success", "DisplayText": _TEXT, "NBest": [{"Confidence": 0.9, "Display": _TEXT}]},
        {"combinedRecognizedPhrases": [{"channel": 0, "display": _TEXT}], "recognizedPhrases": []},
        {"results": _GOOGLE, "totalBilledTime": "2s"},
        {"results": {"gs://b/u1.wav": {"inlineResult": {"transcript": {"results": _GOOGLE}}, "uri": ""}}},
        {"result": "COMPLETED", "message": "Succeeded", "text": _TEXT, "segments": [{"text": _TEXT, "start": 0}]},
        [{"utterance_id": "u1", "text": _TEXT}, {"utterance_id": "u2", "text": "네"}],
    ]
    cues = f"1\n00:00:00,000 --> 00:00:01,500\n{_TEXT}\n\n2\n00:00:02,000 --> 00:00:03,000\n네\n"
    seeds = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    seeds += [cues.encode(), f"WEBVTT\n\n{cues.replace(',', '.')}".encode(), f"id,text\nu1,{_TEXT}\n".encode()]
    endings = (".json", ".jsonl", ".srt", ".vtt", ".csv", ".txt")

    def call(data: bytes, place: Path) -> None:
        ending = ".json" if data[:1] in (b"{", b"[") else endings[len(data) % len(endings)]
        read_external(write(place, f"u1{ending}", data))

    return Target(call, seeds, kind="json")


def bundle(_folder: Path) -> Target:
    """A bundle as a file."""
    from kmed_bench.pipeline.bundling import read_bundle

    seed = io.BytesIO()
    with zipfile.ZipFile(seed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle.json", _bundle_head())

    def call(data: bytes, place: Path) -> None:
        _, files_of = read_bundle(write(place, "b.zip", data))
        list(files_of("a" * 32))

    return Target(call, [seed.getvalue()])


def bundle_head(_folder: Path) -> Target:
    """What a bundle says of its runs."""
    from kmed_bench.pipeline.bundling import read_bundle

    def call(data: bytes, place: Path) -> None:
        path = place / "b.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bundle.json", data)
        read_bundle(path)

    return Target(call, [_bundle_head()], kind="json")


def _bundle_head() -> bytes:
    from kmed_bench.core.run_contracts import BUNDLE

    run = {
        "id": "a" * 32, "parent": "", "name": "train-tiny-seed0", "status": "FINISHED", "start_ms": 1, "end_ms": 2,
        "params": {"train.lr": "2e-05"}, "tags": {"kmed.kind": "train"},
        "metrics": {"valid/cer": [[1, 0.5, 3], [2, None, 4]]}, "artifacts": {"scores.json": {"overall": {"cer": 0.1}}},
    }  # fmt: skip
    about = {"code_version": "1", "minimum_speakers": 5, "groups_left_out": 0, "runs": [run], "files": {}}
    return json.dumps({**BUNDLE.head, **about}).encode()


def kit(folder: Path) -> Target:
    """The manifest of an offline kit; the sums fit it."""
    from kmed_bench.core.files import sha256_of
    from kmed_bench.core.kit_contract import KIT, Kit
    from kmed_bench.pipeline.kit.manifest import MANIFEST, SUMS, check_kit, describe_files, write_manifest

    made = Kit(
        **KIT.head,
        kmed_bench="1",
        python="3.11",
        platform="linux",
        sizes=["base"],
        cpu=True,
        extras=[],
        code_version="1",
        lock_sha256="ab",
        packages={"numpy": "2.0"},
        built=[],
        unlocked=[],
        weights={},
        n_bytes=3,
        installed_bytes=9,
        files=describe_files(write(folder / "seed", "docs/guide.md", b"abc").parents[1]),
    )
    write_manifest(folder / "seed", made, None)

    def call(data: bytes, place: Path) -> None:
        guide, manifest = write(place, "docs/guide.md", b"abc"), write(place, MANIFEST, data)
        lines = f"{sha256_of(guide)}  docs/guide.md\n{sha256_of(manifest)}  {MANIFEST}\n"
        write(place, SUMS, lines.encode())
        check_kit(place)

    return Target(call, [(folder / "seed" / MANIFEST).read_bytes()], kind="json")


def passport(folder: Path) -> Target:
    """A model's passport beside its checkpoint."""
    from kmed_bench.pipeline.verify import verify_model
    from kmed_bench.tracking.registry.passport import PASSPORT_FILE, describe_model, write_passport

    about = {"kmed.split_label": "disjoint", "kmed.synthetic": "false", "kmed.weights_sha256": "ab" * 32}
    checkpoint = write(folder, "best.pt", b"weights")
    content = describe_model(
        name="m", size="tiny", language="ko", run_id="a" * 32, tags=about, params={}, metrics={}, scores=None, counts={}
    )
    seed = write_passport(content, [checkpoint], folder, None).read_bytes()

    def call(data: bytes, place: Path) -> None:
        write(place, "best.pt", b"weights"), write(place, PASSPORT_FILE, data)
        verify_model(str(place), None, tracking_uri=None)

    return Target(call, [seed], kind="json")
