"""A part decoded in shards: equal files for any number of them, and how memory grows with the clips.

    python benchmarks/shards.py [--quick] [--json FILE] [--clips 10000 100000] [--shards 1 4 16]

The model is replaced by a function of the id, so what is measured is all the rest: reading the part, shards, blocks,
joining, scoring. Every figure is of a process of its own; the peer is `evaluate` without shards, which holds the part.
--quick: 2,000 and 20,000 clips. The exit status is 1 if the files differ.
"""

import argparse
import contextlib
import hashlib
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kmed_bench import __version__
from kmed_bench.asr.runtimes.backend import Backend
from kmed_bench.config import load_config
from kmed_bench.core.files import sha256_of
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import MANIFEST

WHOLE = 0
"""Stands for `evaluate` without shards."""
_ROWS = 50_000
_WORDS = (
    "환자분",
    "오늘",
    "혈압이",
    "백이십에",
    "팔십이고",
    "어제",
    "타이레놀",
    "두",
    "알",
    "드셨어요",
    "배가",
    "아파요",
)


class Stub(Backend):
    """Writes a text that depends on the utterance alone, as a model's must."""

    name, version, settings = "stub", "1", {"device": "none"}
    parameters, model_bytes, batch_size = 1, 1, 8

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Not called."""
        raise NotImplementedError

    def decode(self, rows: pd.DataFrame) -> list[Prediction]:
        """Return each reference, with a word wrong in some."""
        return [Prediction.from_row(row, *_heard(row)) for row in rows.to_dict("records")]


@contextlib.contextmanager
def stubbed() -> Iterator[None]:
    """Replace the model in the block, and leave the tracking store alone."""
    from kmed_bench.pipeline import evaluate as plain
    from kmed_bench.pipeline.shards import evaluate as sharded

    with contextlib.ExitStack() as stack:
        for module in (plain, sharded):
            stack.enter_context(mock.patch.object(module, "open_located", return_value=Stub()))
            stack.enter_context(mock.patch.object(module, "record_opening"))
        stack.enter_context(mock.patch.object(plain, "is_worth_timing", return_value=False))
        yield


def _heard(row: dict[Any, Any]) -> tuple[str, float]:
    number = int(row["utterance_id"][1:])
    words = row["text"].split()
    if number % 3 == 0:
        words[number % len(words)] = _WORDS[number % len(_WORDS)]
    return " ".join(words), 0.01 + number % 7 / 1_000


def write_corpus(path: Path, n_clips: int, n_sentences: int = 20_000) -> None:
    """Write a manifest of clips of 800 speakers, who read so many sentences, sorted by id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for table in _tables(n_clips, n_sentences):
        batch = pa.Table.from_pandas(table, preserve_index=False)
        metadata = {**batch.schema.metadata, **{key: str(value) for key, value in MANIFEST.head.items()}}
        batch = batch.replace_schema_metadata(metadata)
        writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
        writer.write_table(batch)
    assert writer is not None
    writer.close()


def _tables(n_clips: int, n_sentences: int) -> Iterator[pd.DataFrame]:
    generator = np.random.default_rng(208)
    for first in range(0, n_clips, _ROWS):
        numbers = np.arange(first, min(first + _ROWS, n_clips))
        sentences = generator.integers(0, n_sentences, len(numbers))
        speakers = numbers % 800
        chosen = [np.random.default_rng(int(s)).integers(0, len(_WORDS), 4 + s % 9) for s in sentences]
        yield pd.DataFrame(
            {
                "utterance_id": [f"u{number:09d}" for number in numbers],
                "audio": [f"/corpus/archive.zip::u{number:09d}.wav" for number in numbers],
                "speaker_id": [f"s{speaker:04d}" for speaker in speakers],
                "sentence_id": [f"{sentence:016x}" for sentence in sentences],
                "text": [" ".join(_WORDS[word] for word in words) for words in chosen],
                "gender": np.where(speakers % 2, "여", "남"),
                "age": np.array(["20~29", "40~49", "60~69", "over70"])[speakers % 4],
                "dialect": np.array(["경상", "전라", "강원"])[speakers % 3],
                "region": "N/A",
                "role": np.array(["환자", "의사"])[speakers % 5 // 4],
                "duration_s": generator.uniform(1, 9, len(numbers)),
                "rate_hz": np.full(len(numbers), 16_000, np.int32),
                "quality": "N/A",
                "release": "Training",
            }
        )


def evaluate(speech: Path, out: Path, n_shards: int) -> dict[str, float | str]:
    """Evaluate in this process; return its time, its peak of memory and the digests of what it wrote."""
    from kmed_bench.pipeline import evaluate as plain
    from kmed_bench.pipeline.shards import evaluate as sharded

    model = speech.parent / "stub.pt"
    model.write_bytes(b"stub")
    config = load_config("sound", {"tracking.uri": f"sqlite:///{out.parent}/mlflow.db"})
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with stubbed():
        if n_shards:
            sharded.evaluate_in_shards(config, str(model), speech, "test", out, shards=str(n_shards))
        else:
            plain.evaluate_model(config, str(model), speech, "test", out)
    taken_s = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    del scores["speed"]["peak_memory_bytes"]
    return {
        "wall_s": taken_s,
        "start_mib": before / 1024,
        "peak_mib": peak / 1024,
        "predictions": sha256_of(out / "predictions.jsonl"),
        "scores": hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest(),
    }


def measure(folder: Path, n_clips: int, n_shards: int) -> dict[str, Any]:
    """Return what `evaluate` returns of a process of its own."""
    speech = folder / f"clips{n_clips}" / "manifest.parquet"
    if not speech.exists():
        write_corpus(speech, n_clips)
    words = [sys.executable, __file__, "--one", str(speech), str(folder / f"out-{n_clips}-{n_shards}"), str(n_shards)]
    done = subprocess.run(words, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--clips", type=int, nargs="+")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--one", nargs=3, metavar=("SPEECH", "OUT", "SHARDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(evaluate(Path(args.one[0]), Path(args.one[1]), int(args.one[2]))))
        return 0
    sizes = args.clips or ([2_000, 20_000] if args.quick else [10_000, 100_000])
    found: dict[tuple[int, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n_clips in sizes:
            for n_shards in (WHOLE, *args.shards):
                one = found[n_clips, n_shards] = measure(Path(folder), n_clips, n_shards)
                label = f"{n_shards} shards" if n_shards else "no shards"
                print(f"{n_clips} clips, {label}: {one['wall_s']:.1f} s, peak {one['peak_mib']:.0f} MiB", flush=True)
    same = True
    for n_clips in sizes:
        for key in ("predictions", "scores"):
            same &= len({one[key] for (clips, _), one in found.items() if clips == n_clips}) == 1
    grown = {
        n_shards: (found[sizes[-1], n_shards]["peak_mib"] - found[sizes[0], n_shards]["peak_mib"]) * 2**20
        for n_shards in (WHOLE, *args.shards)
    }
    per_clip = {str(n): grown[n] / max(1, sizes[-1] - sizes[0]) for n in grown}
    print(f"Files equal: {same}. Bytes a clip: {json.dumps({n: round(value) for n, value in per_clip.items()})}")
    if args.json:
        ours = {f"{clips} clips, {n} shards": one for (clips, n), one in found.items() if n}
        whole = {f"{clips} clips": one for (clips, n), one in found.items() if not n}
        ratios = [whole[f"{sizes[-1]} clips"]["peak_mib"] / found[sizes[-1], n]["peak_mib"] for n in args.shards]
        summary = {"median": float(np.median(ratios)), "low": min(ratios), "high": max(ratios)}
        content = {
            "machine": platform.machine(),
            "versions": {"kmed-bench": __version__, "python": platform.python_version(), "pandas": pd.__version__},
            "ours": {**ours, "bytes_a_clip": per_clip, "equal": same},
            "peers": {"without shards": whole},
            "ratios": {"memory without shards": summary},
        }
        args.json.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
