"""Ingest and split at scale, beside what one would write with the usual libraries.

    python benchmarks/corpus.py --quick --json corpus.json     60,000 labels, minutes
    python benchmarks/corpus.py --json corpus.json             309,402 labels of 885 patients
    python benchmarks/corpus.py --scale whole --alone          1.27 million labels of 2,425 speakers, without peers

Every measurement is a process of its own, import included; ours and the peers take turns. Memory is
the peak of the process and its children together. The corpora are label-only (label_corpus.py).
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from label_corpus import make_labels, write_corpus

from kmed_bench.config import DataConfig, SplitConfig
from kmed_bench.core.schema import PARTS, read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.split import build_split, sort_manifest, split_manifest, write_split

SCALES = {
    "quick": {"n_utterances": 60_000, "n_speakers": 171, "n_sentences": 8_000},
    "patients": {"n_utterances": 309_402, "n_speakers": 885},
    "whole": {"n_utterances": 1_270_000, "n_speakers": 2_425, "staff": True},
}
SHOWN = ("label", "counts", "leakage", "max_share_deviation", "share_deviation", "discarded_because", "merged_strata")


def split_ours(manifest: Path, out: Path) -> dict[str, Any]:
    """Split as `kmed-bench split` does: 10,000/5,000/1,000, disjoint in speakers and sentences."""
    report = write_split(split_manifest(read_manifest(manifest), SplitConfig()), out)
    return {name: report[name] for name in SHOWN}


def split_groups(manifest: Path, out: Path) -> dict[str, Any]:
    """Split by scikit-learn's StratifiedGroupKFold on speakers, then draw at random."""
    from sklearn.model_selection import StratifiedGroupKFold

    table = sort_manifest(read_manifest(manifest))
    strata = table["dialect"] + table["gender"] + table["age"]
    warnings.simplefilter("ignore", UserWarning)  # a class has fewer members than there are folds
    folds = [held for _, held in StratifiedGroupKFold(16).split(strata, strata, table["speaker_id"])]
    pools = {"test": folds[:1], "valid": folds[1:6], "train": folds[6:]}
    sizes = {"train": 10_000, "valid": 5_000, "test": 1_000}
    parts = {
        part: table.iloc[sorted(i for fold in pools[part] for i in fold)].sample(sizes[part], random_state=0)
        for part in PARTS
    }
    return _write_peer(table, parts, out)


def split_published(manifest: Path, out: Path) -> dict[str, Any]:
    """Split by utterance with scikit-learn's train_test_split on age, as the published benchmark did."""
    from sklearn.model_selection import train_test_split

    table = sort_manifest(read_manifest(manifest))
    train, rest = train_test_split(table, train_size=0.7, stratify=table["age"], random_state=0)
    valid, test = train_test_split(rest, train_size=0.7, stratify=rest["age"], random_state=0)
    sizes = {"train": 10_000, "valid": 5_000, "test": 1_000}
    pools = {"train": train, "valid": valid, "test": test}
    return _write_peer(table, {part: pools[part].sample(sizes[part], random_state=0) for part in PARTS}, out)


def _write_peer(table: pd.DataFrame, parts: dict[str, pd.DataFrame], out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        rows.to_parquet(out / f"{part}.parquet", index=False)
    report = build_split(table, parts, {"by": ["dialect", "gender", "age"]}, {}).report
    return {name: report[name] for name in SHOWN if name in report}


def ingest_ours(source: Path, out: Path) -> dict[str, Any]:
    """Ingest as `kmed-bench ingest` does."""
    quality = ingest([source], out, DataConfig(roles=("patient", "nurse", "doctor")))
    return {name: quality[name] for name in ("labels", "usable", "rejected")}


def ingest_plain(source: Path, out: Path) -> dict[str, Any]:
    """Read a tree with json and soundfile, one file after another."""
    import soundfile

    audio = {path.stem: path for path in source.rglob("*.wav")}
    rows = []
    for path in source.rglob("*.json"):
        label = json.loads(path.read_text(encoding="utf-8-sig"))
        if path.stem in audio and label["전사정보"]["LabelText"].strip():
            sound = soundfile.info(audio[path.stem])
            rows.append({"id": path.stem, "text": label["전사정보"]["LabelText"], **label["화자정보"],
                         "duration_s": sound.duration})  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(out / "manifest.parquet", index=False)
    return {"labels": len(rows), "usable": len(rows)}


JOBS = {job.__name__: job for job in (split_ours, split_groups, split_published, ingest_ours, ingest_plain)}
# What is timed, in which source, against which peers (the first is ours).
RACES = {
    "split": ("manifest.parquet", {"split": "split_ours", "StratifiedGroupKFold on speakers": "split_groups",
                                   "train_test_split on age, as published": "split_published"}),
    "tree": ("tree", {"ingest_tree": "ingest_ours", "json and soundfile, file by file": "ingest_plain"}),
    "zips": ("zips", {"ingest_zips": "ingest_ours"}),
}  # fmt: skip


def run(job: str, source: Path, out: Path) -> dict[str, Any]:
    """Return seconds, peak memory of the process tree and the outcome of one job."""
    start, peak = time.perf_counter(), 0
    child = subprocess.Popen([sys.executable, __file__, "--job", job, str(source), str(out)], stdout=subprocess.PIPE)
    watched = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            everyone = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(process.memory_info().rss for process in everyone))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if child.returncode or child.stdout is None:
        raise SystemExit(f"{job} failed with exit code {child.returncode}")
    return {"seconds": seconds, "peak_gib": peak / 2**30, "outcome": json.loads(child.stdout.read())}


def measure(folder: Path, only: list[str], rounds: int, *, alone: bool) -> dict[str, Any]:
    """Return ours, peers and ratios of all races; sides alternate within each round."""
    ours: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for race in only:
        source, sides = RACES[race]
        if alone:
            sides = dict(list(sides.items())[:1])
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for turn in range(rounds):
            for name, job in sides.items():
                runs[name].append(run(job, folder / source, folder / f"out-{job}-{turn}"))
        first, *others = sides
        for name, done in runs.items():
            seconds = [one["seconds"] for one in done]
            entry = {"seconds": seconds, "median_s": statistics.median(seconds),
                     "peak_gib": max(one["peak_gib"] for one in done), "outcome": done[0]["outcome"]}  # fmt: skip
            (ours if name == first else peers)[name] = entry
        for name in others:
            pairs = zip(runs[name], runs[first], strict=True)
            against = sorted(peer["seconds"] / own["seconds"] for peer, own in pairs)
            ratios[name] = {"median": statistics.median(against), "low": against[0], "high": against[-1]}
    return {"ours": ours, "peers": peers, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller corpus, minutes on two cores")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--scale", choices=SCALES, default="patients")
    parser.add_argument("--only", choices=RACES, nargs="+", default=list(RACES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peers, which take long at the largest scale")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job, source, out = args.job
        sys.stdout.write(json.dumps(JOBS[job](Path(source), Path(out)), ensure_ascii=False))
        return
    scale: dict[str, Any] = SCALES["quick" if args.quick else args.scale]
    with tempfile.TemporaryDirectory(prefix="kmed-corpus-") as temporary:
        folder = Path(temporary)
        table = make_labels(**scale)
        table.to_parquet(folder / "manifest.parquet", index=False)
        for layout in ("tree", "zips"):
            if layout in args.only:
                write_corpus(table, folder / layout, layout)
        del table
        result = measure(folder, args.only, args.rounds, alone=args.alone)
    names = ("kmed-bench", "pandas", "numpy", "scikit-learn", "pyarrow", "soundfile")
    result = {
        "machine": {"system": platform.platform(), "cpu_count": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names},
        "corpus": scale,
        **result,
    }
    text = json.dumps(result, ensure_ascii=False, indent=2)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
