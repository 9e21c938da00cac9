"""Training and decoding on one GPU: rates beside the peers' and the card's peak, and agreement with the CPU.

    python benchmarks/gpu.py [--json FILE] [--budget-s 480] [--only training decoding]
    python benchmarks/gpu.py --weights base.pt --texts texts.json      base's own weights, and its transcripts compared

Needs torch and a GPU, and no tracking server. Recordings: KMED_REAL_SPEECH or ../shared/data/korean-speech, else
noise with random Korean labels. Models are random except base with ``--weights``; then transcripts don't end, so they
are 32 tokens long. Each section is a process with a time limit: what it has measured is printed at once, and kept if
it fails or runs out of time. The exit status is 1 if anything failed.

- machine: the card, its bf16 product of 8,192² matrices and its copy bandwidth, counting bytes read and written
- training: `fit` in bf16, batch 4: clips a second (median of blocks), share of the product's rate (operations:
  train.py), kernel and graph launches a step, peak memory
- decoding: clips a second in fp32 and bf16, of a second call; transformers' ``generate`` in bf16, batch 32, plain and
  with its static cache; CTranslate2, faster-whisper's engine, in fp16, batch 32, where it is installed
- quality: tiny's first training losses beside the CPU's, and with ``--texts`` (names to texts, or such for several
  systems) how many of base's transcripts are equal
- seeds: three trainings of base at once on one card, each a process, without and with NVIDIA's MPS, beside one alone
- counts: operations, host reads, copies and allocations of a step of training and of decoding; a CPU shows them too
- peers: transformers' trainer in bf16, plain and with ``torch_compile``, and the original's recipe in fp32, each in
  turns with `fit` (turns.py)
- targets: what an H100 or H200 should reach beside what was found
- prediction: the published experiment's hours from these rates: 3 sizes, 3 seeds, 20 epochs of 10,000 clips, each
  validated and decoded on 5,000
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Report = Callable[[str, Callable[[], Any]], None]

SHARES = {
    "machine": 0.06,
    "training": 0.25,
    "peers": 0.25,
    "decoding": 0.2,
    "quality": 0.08,
    "seeds": 0.13,
    "counts": 0.03,
    "prediction": 0.0,
}
"""The sections in their order, and the share of the budget that each has, with what those before it left of theirs."""
SECTIONS = tuple(SHARES)
TARGETS = {
    "training base full": ("clips_per_s", 500),
    "decoding base bf16": ("clips_per_s", 1000),
    "peers transformers": ("over_ours", 4),
    "peers transformers compiled": ("over_ours", 4),
}
"""What an H100 or H200 should reach: clips a second, and transformers' trainer's time over ours."""
EPOCHS, SEEDS, N_TRAIN, N_VALID = 20, 3, 10_000, 5_000
SIZES = ("tiny", "base", "small")


def run_section(name: str, options: list[str], limit_s: float, found: dict[str, Any]) -> bool:
    """Run a section in a process and add what it reports to ``found``; return whether all of it succeeded."""
    print(f"== {name} (at most {limit_s:.0f} s)", flush=True)
    command = [sys.executable, __file__, *options, "--section", name, "--limit-s", str(limit_s)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    late = threading.Event()

    def stop() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)

    timer = threading.Timer(limit_s, stop)
    timer.start()
    ok = True
    with worker, worker.stdout as lines:
        for line in lines:
            if not line.startswith('{"report": '):
                print(line, end="", flush=True)
                continue
            key, value = json.loads(line)["report"]
            found[key] = value
            ok = ok and "error" not in value
            print(f"{key}: {json.dumps(value, ensure_ascii=False)}", flush=True)
    timer.cancel()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)  # competitors that a dead section left
    if late.is_set() or worker.returncode:
        reason = f"stopped after {limit_s:.0f} s" if late.is_set() else f"exit status {worker.returncode}"
        found[name] = {"error": reason}
        print(f"{name}: {reason}", flush=True)
        return False
    return ok


def report(key: str, measure: Callable[[], Any]) -> None:
    """Measure, and print the finding or the error's text as a line that the parent reads."""
    started = time.perf_counter()
    try:
        value = measure()
    except Exception as error:  # the later ones are measured all the same
        value = {"error": f"{type(error).__name__}: {error}"[:1000]}
    value["took_s"] = round(time.perf_counter() - started, 2)
    print(json.dumps({"report": [key, value]}, ensure_ascii=False), flush=True)


def predict(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published experiment's seconds by part, from measured rates in clips a second."""
    parts, missing = {}, []
    for size in SIZES:
        training, decoding = found.get(f"training {size} full", {}), found.get(f"decoding {size} bf16", {})
        if "clips_per_s" not in training or "clips_per_s" not in decoding:
            missing.append(size)
            continue
        parts[size] = {
            "train_s": SEEDS * EPOCHS * N_TRAIN / training["clips_per_s"],
            "validate_s": SEEDS * EPOCHS * N_VALID / training["validated_clips_per_s"],
            "decode_s": SEEDS * EPOCHS * N_VALID / decoding["clips_per_s"],
        }
    result: dict[str, Any] = {**parts, "missing": missing}
    if missing:
        return result
    total = sum(sum(part.values()) for part in parts.values())
    result["one_after_the_other_s"] = total
    gain, way = max((found.get(f"seeds {way}", {}).get("over_one_alone", 0), way) for way in ("slots", "slots, MPS"))
    if gain:
        result["three_at_once"] = way
        trained = sum(part["train_s"] for part in parts.values())
        result["training_of_three_seeds_at_once_s"] = total - trained + trained / gain
        result["assumption"] = "tiny and small gain from three at once what base gains; validation and decoding nothing"
    return result


def judge(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was found for each of the targets, and whether it meets it; None where it was not measured."""
    result = {}
    for name, (key, wanted) in TARGETS.items():
        value = found.get(name, {}).get(key)
        value = value["median"] if isinstance(value, dict) else value
        result[name] = {"wanted": wanted, "found": value, "met": None if value is None else value >= wanted}
    return result


def limit_of(name: str, wanted: Sequence[str], budget_s: float, left_s: float) -> float:
    """Return a section's time limit: all that is left, but for the shares of the wanted sections after it."""
    later = wanted[wanted.index(name) + 1 :]
    whole = sum(SHARES[each] for each in wanted)
    return left_s - budget_s * sum(SHARES[each] for each in later) / whole


def run_here(args: argparse.Namespace) -> None:
    """Be the process of one section."""
    import gpu_models

    bench = gpu_models.Bench.from_options(args)
    if args.section == "machine":
        report("machine", functools.partial(gpu_models.describe_card, bench))
    elif args.section == "training":
        import gpu_training

        gpu_training.run(bench, report)
    elif args.section == "seeds":
        import gpu_seeds

        gpu_seeds.run(bench, report)
    elif args.section == "counts":
        import gpu_counts

        gpu_counts.run(bench, report)
    elif args.section == "peers":
        import gpu_peers

        gpu_peers.run(bench, report)
    elif args.section == "decoding":
        import gpu_decoding

        gpu_decoding.run(bench, report)
    else:
        import gpu_quality

        gpu_quality.run(bench, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the result is written, after each section")
    parser.add_argument("--budget-s", type=float, default=480, help="seconds for all sections (480)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run (all)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, help="sizes of training and decoding (all)")
    parser.add_argument("--weights", help="a checkpoint of base")
    parser.add_argument("--texts", help="transcripts of the recordings with these weights, JSON")
    parser.add_argument("--device", default="cuda", help="cpu to try this script (cuda)")
    parser.add_argument("--tiny", action="store_true", help="models of one layer and few clips, to try this script")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--limit-s", type=float, default=480, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        return run_here(args)
    options = [f"--device={args.device}", "--sizes", *args.sizes, *(["--tiny"] if args.tiny else [])]
    options += [f"--{name}={value}" for name in ("weights", "texts") if (value := getattr(args, name))]
    found: dict[str, Any] = {"settings": {"weights": bool(args.weights), "tiny": args.tiny, "device": args.device}}
    ends, ok = time.monotonic() + args.budget_s, True
    with tempfile.TemporaryDirectory() as folder:
        wanted = [name for name in SECTIONS if name in args.only]
        for name in wanted:
            left = ends - time.monotonic()
            if name == "prediction":
                found |= {name: predict(found), "targets": judge(found)}
                print(f"prediction: {json.dumps(found[name])}\ntargets: {json.dumps(found['targets'])}", flush=True)
            elif left < 10:
                found[name], ok = {"error": "left out: the budget is used up"}, False
                print(f"{name}: {found[name]['error']}", flush=True)
            else:
                limit_s = min(left, max(limit_of(name, wanted, args.budget_s, left), 10))
                ok = run_section(name, [*options, f"--folder={folder}"], limit_s, found) and ok
            if args.json:
                args.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
