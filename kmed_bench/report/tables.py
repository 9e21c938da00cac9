"""Tables made from a bench's record, one row per thing; rates are fractions, absent values are NaN.

Nothing here is estimated: a figure that the record does not hold stays empty.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kmed_bench.records import GROUP_FIELDS, PARTS, SIZES, BenchRecord, TrainRecord

FINISHED = "FINISHED"


def size_rank(size: str) -> int:
    """Return a size's place from small to large; names that are not Whisper sizes come last."""
    return SIZES.index(size) if size in SIZES else len(SIZES)


def ordered_trains(bench: BenchRecord) -> list[TrainRecord]:
    """Return the bench's train runs by size, then by seed."""
    return sorted(bench.trains, key=lambda run: (size_rank(run.size), run.size, run.seed, run.run_id))


def history_table(bench: BenchRecord) -> pd.DataFrame:
    """Return every logged value: run_id, size, seed, metric, epoch (0 is the untouched model), value."""
    columns = ["run_id", "size", "seed", "metric", "epoch", "value"]
    parts = []
    for run in ordered_trains(bench):
        if len(run.history):
            part = run.history[["metric", "step", "value"]].rename(columns={"step": "epoch"})
            parts.append(part.assign(run_id=run.run_id, size=run.size, seed=run.seed)[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def runs_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per train run: its state, scores with intervals, counts and time.

    ``n_clips`` and ``n_speakers`` are those of the test part as scored; ``train_s`` is the sum of the
    epochs' times in seconds.
    """
    rows = []
    for run in ordered_trains(bench):
        overall = bench.scores.get(run.run_id, {}).get("overall", {})
        epochs = _history(run, "time/epoch_s")
        valid = _history(run, "valid/cer")
        get = run.metrics.get
        rows.append(
            {
                "run_id": run.run_id,
                "name": run.name,
                "size": run.size,
                "seed": run.seed,
                "status": run.status,
                "epochs": int((valid.index > 0).sum()),
                "best_epoch": get("best/epoch", math.nan),
                "untouched_valid_cer": valid.get(0, math.nan),
                "untouched_test_cer": get("untouched/test_cer", math.nan),
                "untouched_test_cer_low": get("untouched/test_cer_low", math.nan),
                "untouched_test_cer_high": get("untouched/test_cer_high", math.nan),
                "valid_cer": get("best/valid_cer", math.nan),
                "test_cer": get("test/cer", math.nan),
                "test_cer_low": get("test/cer_low", math.nan),
                "test_cer_high": get("test/cer_high", math.nan),
                "n_clips": overall.get("n_clips", math.nan),
                "n_speakers": overall.get("n_speakers", math.nan),
                "epoch_s": epochs.median() if len(epochs) else math.nan,
                "train_s": epochs.sum() if len(epochs) else math.nan,
            }
        )
    return pd.DataFrame(rows)


def _history(run: TrainRecord, metric: str) -> "pd.Series[float]":
    """One metric's values by step."""
    if not len(run.history):
        return pd.Series(dtype=float)
    rows = run.history[run.history["metric"] == metric]
    return pd.Series(rows["value"].to_numpy(), index=rows["step"].to_numpy(), dtype=float).sort_index()


def sizes_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per size with finished runs: the chosen run's figures, and the mean and range over seeds.

    Within a size the run with the lowest decoded valid CER is chosen; the test part plays no role in it.
    """
    runs = runs_table(bench)
    if not len(runs):
        return runs
    done = runs[(runs["status"] == FINISHED) & runs["valid_cer"].notna()]
    rows = []
    for _, group in done.groupby("size", sort=False):
        chosen = group.sort_values(["valid_cer", "seed"], kind="stable").iloc[0]
        rows.append(
            {
                **chosen.to_dict(),
                "n_seeds": len(group),
                "valid_cer_mean": group["valid_cer"].mean(),
                "test_cer_mean": group["test_cer"].mean(),
                "test_cer_min": group["test_cer"].min(),
                "test_cer_max": group["test_cer"].max(),
            }
        )
    return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """The size to use and its figures; a row of ``sizes_table``."""

    size: str
    row: dict[str, Any]


def choose_headline(sizes: pd.DataFrame) -> Headline | None:
    """Return the size with the lowest valid CER, meaned over its finished seeds; None without finished runs."""
    if not len(sizes):
        return None
    row = sizes.sort_values("valid_cer_mean", kind="stable").iloc[0].to_dict()
    return Headline(size=str(row["size"]), row={str(key): value for key, value in row.items()})


def groups_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per run and group of the test part: field, value, CER with interval, counts.

    ``below_minimum`` marks groups too small to be ranked.
    """
    rows = []
    for run in ordered_trains(bench):
        groups = bench.scores.get(run.run_id, {}).get("groups", {})
        known = [name for name in GROUP_FIELDS if name in groups]
        for field in known + [name for name in groups if name not in known]:
            for value, score in groups[field].items():
                rows.append(
                    {
                        "run_id": run.run_id,
                        "size": run.size,
                        "seed": run.seed,
                        "field": field,
                        "value": value,
                        "cer": score.get("cer", math.nan),
                        "cer_low": score.get("cer_low", math.nan),
                        "cer_high": score.get("cer_high", math.nan),
                        "n_clips": score.get("n_clips", math.nan),
                        "n_speakers": score.get("n_speakers", math.nan),
                        "below_minimum": bool(score.get("below_minimum", False)),
                    }
                )
    columns = ["run_id", "size", "seed", "field", "value", "cer", "cer_low", "cer_high", "n_clips", "n_speakers"]
    return pd.DataFrame(rows, columns=[*columns, "below_minimum"])


def speed_table(bench: BenchRecord) -> pd.DataFrame:
    """Return every ``speed/…`` metric of every run: run_id, size, seed, measure, value."""
    rows = [
        {
            "run_id": run.run_id,
            "size": run.size,
            "seed": run.seed,
            "measure": key.removeprefix("speed/"),
            "value": value,
        }
        for run in ordered_trains(bench)
        for key, value in sorted(run.metrics.items())
        if key.startswith("speed/")
    ]
    return pd.DataFrame(rows, columns=["run_id", "size", "seed", "measure", "value"])


def shares_table(split: Mapping[str, Any]) -> pd.DataFrame:
    """Return the shares of every field's values in the corpus and the parts, as fractions."""
    rows = [
        {"field": field, "value": value, **{part: share.get(part, math.nan) for part in ("corpus", *PARTS)}}
        for field, values in split.get("shares", {}).items()
        for value, share in values.items()
    ]
    return pd.DataFrame(rows, columns=["field", "value", "corpus", *PARTS])


def quality_table(quality: Mapping[str, Any]) -> pd.DataFrame:
    """Return the ingest's counts: kind (total, rejected, warning), name, n."""
    rows = [
        {"kind": "total", "name": name, "n": quality[name]}
        for name in ("labels", "usable", "speakers", "sentences", "hours")
        if name in quality
    ]
    for kind, key in (("rejected", "rejected"), ("warning", "warnings")):
        rows += [{"kind": kind, "name": name, "n": n} for name, n in quality.get(key, {}).items()]
    return pd.DataFrame(rows, columns=["kind", "name", "n"])


def missing_table(bench: BenchRecord) -> pd.DataFrame:
    """Return what the report has no figures for: sizes skipped, and runs that did not finish."""
    rows = [
        {"what": f"size {size}", "reason": reason}
        for size, reason in sorted(bench.skipped.items(), key=lambda item: (size_rank(item[0]), item[0]))
    ]
    for run in ordered_trains(bench):
        if run.status != FINISHED:
            rows.append({"what": f"run {run.name} ({run.size}, seed {run.seed})", "reason": f"ended as {run.status}"})
        elif "best/valid_cer" not in run.metrics:
            rows.append({"what": f"run {run.name} ({run.size}, seed {run.seed})", "reason": "logged no best/valid_cer"})
    return pd.DataFrame(rows, columns=["what", "reason"])


def provenance_table(bench: BenchRecord) -> pd.DataFrame:
    """Return what the figures rest on: split, code, profile, policy, versions; one row per name."""
    facts: dict[str, str] = {"bench": f"{bench.name} ({bench.run_id})"}
    for name, key in (("profile", "profile"), ("audio context", "train.audio_context")):
        if key in bench.params:
            facts[name] = bench.params[key]
    split_sha256 = bench.split.get("sha256") or bench.tags.get("kmed.split_sha256")
    if split_sha256:
        facts["split sha256"] = str(split_sha256)
    for name, key in (("transcript policy", "transcript_policy"), ("normaliser version", "normaliser_version")):
        found = scored_with(bench, key)
        if found:
            facts[name] = ", ".join(found)
    for key, value in sorted(bench.tags.items()):
        if key.startswith("kmed.") and key not in ("kmed.split_sha256", "kmed.kind") and "skipped" not in key:
            facts[key.removeprefix("kmed.").replace("_", " ")] = value
    return pd.DataFrame({"name": list(facts), "value": list(facts.values())})


def scored_with(bench: BenchRecord, key: str) -> list[str]:
    """Return the distinct values of a top-level entry over all scores, in order; more than one is a fault."""
    return sorted({str(scores[key]) for scores in bench.scores.values() if scores.get(key) is not None})


def part_count(split: Mapping[str, Any], part: str, what: str = "utterances") -> float:
    """Return how many utterances, speakers or sentences a part holds; NaN where split.json does not say."""
    entry = split.get("counts", {}).get(part)
    if isinstance(entry, Mapping):
        entry = entry.get(what)
    elif what != "utterances":
        entry = None
    return math.nan if entry is None else float(entry)
