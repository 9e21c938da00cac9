"""All that needs a GPU, in one command of at most eight minutes: tests, a whole benchmark, and the rates.

    python scripts/check_gpu.py [--weights base.pt] [--texts texts.json] [--json FILE] [--only tests run rates]
    python scripts/check_gpu.py --trial                                        on a CPU, to try this script

Needs the package, pytest, transformers and accelerate; recordings as benchmarks/gpu.py finds them, and weights of base
for `run`, which is left out without either. Each part has a time limit, and the JSON is written after each, so a part
that is stopped loses only its own results.

- tests: tests/asr/test_cuda.py. All must pass; with a GPU none may be skipped but those of recordings and weights
- run: `kmed-bench run` on the recordings with base, three seeds in three slots of the card, two epochs. It must end
  with status 0 and a report
- rates: benchmarks/gpu.py. All sections must succeed, with base on an H100 or H200 at 500 clips a second or more in
  training and 1,000 in decoding, and transformers' trainer taking four times as long or longer in the same run

The exit status is 1 if a part failed or a target was missed.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {"tests": 100, "run": 85, "rates": 285}
"""Seconds of each part; with their starts less than eight minutes."""
BENCHMARK = (
    "--profile sound --sizes base --seeds 0,1,2 --epochs 2 "
    "--split.train 140 --split.valid 20 --split.test 40 --split.by none --split.disjoint none"
)
TRIAL = (
    "--profile demo --sizes tiny --seeds 0 --data.demo_speakers 4 --data.demo_sentences 16 --data.workers 1 "
    "--data.roles patient,nurse,doctor --split.train 4 --split.valid 2 --split.test 2 --split.disjoint none "
    "--train.audio_context dynamic --eval.audio_context dynamic --epochs 1 --batch_size 2 --eval.max_new_tokens 8 "
    "--eval.bootstrap_draws 100"
)
OUTCOME = re.compile(r"::\S.* (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


def execute(words: list[str], limit_s: float, log: Path, folder: Path) -> tuple[int | None, float]:
    """Run a program in a folder, its output in a log; return its status, None past the limit, and its seconds."""
    own = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    own |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "KMED_CACHE": str(folder / "cache")}
    begun_s = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            words, cwd=folder, env=own, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        status = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(limit_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started and left running
        process.wait()
    return status, round(time.monotonic() - begun_s, 1)


def outcomes(log: str) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, from pytest's lines; also from a log that breaks off."""
    return dict(Counter(found[1].lower() for line in log.splitlines() if (found := OUTCOME.search(line))))


def check_tests(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the outcomes of the tests for a GPU."""
    log = folder / "tests.log"
    words = [sys.executable, "-m", "pytest", "-v", "-rs", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    status, taken_s = execute([*words, str(ROOT / "tests/asr/test_cuda.py")], args.limit["tests"], log, folder)
    said = log.read_text(errors="replace")
    counts = outcomes(said)
    ok = status == 0 and (args.trial or counts.get("passed", 0) > 0)
    return {"ok": ok, "status": status, "seconds": taken_s, "counts": counts, "end": said[-3000:] if not ok else ""}


def run_words(args: argparse.Namespace, recordings: Path | None, folder: Path) -> list[str] | str:
    """Return the words of `kmed-bench run`, or why it is left out."""
    program = [sys.executable, "-m", "kmed_bench", "run", "--out", str(folder / "results")]
    if args.trial:
        return [*program, *TRIAL.split(), "--weights", str(folder / "tiny.pt"), "--slots", "1"]
    if recordings is None or not args.weights:
        return "left out: give --weights and the recordings (KMED_REAL_SPEECH)"
    given = ["--source", str(recordings), "--weights", str(Path(args.weights).resolve())]
    return [*program, *BENCHMARK.split(), *given, "--slots", "3"]


def save_random_model(path: Path) -> None:
    """Save a random Whisper tiny."""
    import torch
    import whisper

    from kmed_bench.asr.model.weights import dimensions, save_weights

    model = whisper.model.Whisper(dimensions("tiny"))
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    save_weights(model, path)


def recordings_folder() -> Path | None:
    """Return the recordings' folder, or None."""
    named = os.environ.get("KMED_REAL_SPEECH")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "korean-speech"
    return folder.resolve() if (folder / "Training").is_dir() else None


def check_run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return how a whole benchmark ended."""
    words = run_words(args, recordings_folder(), folder)
    if isinstance(words, str):
        return {"ok": False, "reason": words}
    if args.trial:
        save_random_model(folder / "tiny.pt")
    log = folder / "run.log"
    status, taken_s = execute(words, args.limit["run"], log, folder)
    reports = len(list((folder / "results").rglob("index.html")))
    ok = status == 0 and reports > 0
    end = "" if ok else log.read_text(errors="replace")[-3000:]
    return {"ok": ok, "status": status, "seconds": taken_s, "reports": reports, "end": end}


def check_rates(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what benchmarks/gpu.py found; ``targets`` in it says what an H100 or H200 should reach."""
    result, log, limit_s = folder / "rates.json", folder / "rates.log", args.limit["rates"]
    words = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--json", str(result), "--budget-s", str(limit_s - 10)]
    words += [f"--{name}={Path(given).resolve()}" for name in ("weights", "texts") if (given := getattr(args, name))]
    words += ["--device=cpu", "--tiny"] if args.trial else []
    status, taken_s = execute(words, limit_s, log, folder)
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    missed = [name for name, target in found.get("targets", {}).items() if not target["met"]]
    ok = status == 0 and bool(found) and (args.trial or not missed)
    end = "" if status == 0 else log.read_text(errors="replace")[-3000:]
    return {"ok": ok, "status": status, "seconds": taken_s, "missed": missed, "found": found, "end": end}


CHECKS = {"tests": check_tests, "run": check_run, "rates": check_rates}


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a checkpoint of base")
    parser.add_argument("--texts", help="transcripts of the recordings with these weights, JSON")
    parser.add_argument("--json", type=Path, help="where the results are written, after each part")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="parts (all)")
    parser.add_argument("--budget-s", type=float, default=sum(LIMITS_S.values()), help="seconds for the chosen parts")
    parser.add_argument("--trial", action="store_true", help="on a CPU with models of one layer; targets don't count")
    args = parser.parse_args()
    scale = args.budget_s / sum(LIMITS_S[name] for name in args.only)
    args.limit = {name: LIMITS_S[name] * scale for name in args.only}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.only:
            folder = Path(temporary, name)
            folder.mkdir()
            print(f"== {name} (at most {args.limit[name]:.0f} s)", flush=True)
            results[name] = CHECKS[name](args, folder)
            print(json.dumps(results[name], indent=2, ensure_ascii=False), flush=True)
            if args.json:
                args.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print("; ".join(f"{name}: {'right' if result['ok'] else 'WRONG'}" for name, result in results.items()))
    sys.exit(0 if all(result["ok"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
