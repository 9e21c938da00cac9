"""Tables made from a benchmark's record; rates are fractions, absent values are NaN.

Nothing is estimated: a figure that the record does not have stays empty.
"""

import collections
import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from kmed_bench.core.contracts import Scores
from kmed_bench.core.language import N_, gettext, translate_stored
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.core.schema import SIZES
from kmed_bench.scoring.intervals import MIN_SPEAKERS
from kmed_bench.scoring.verdict import VERDICT_TEXT_TAG, say_verdict

FINISHED = "FINISHED"


def size_rank(size: str) -> int:
    """Return a size's rank from small to large; names that are not Whisper sizes come last."""
    return SIZES.index(size) if size in SIZES else len(SIZES)


def ordered_trains(bench: BenchRecord) -> list[TrainRecord]:
    """Return the bench's train runs by size, then by seed."""
    return sorted(bench.trains, key=lambda run: (size_rank(run.size), run.size, run.seed, run.run_id))


def scored_trains(bench: BenchRecord) -> Iterator[tuple[TrainRecord, Scores]]:
    """Yield the bench's train runs that have scores of the test part, with these, by size, then by seed."""
    for run in ordered_trains(bench):
        if run.run_id in bench.scores:
            yield run, bench.scores[run.run_id]


def history_table(bench: BenchRecord) -> pd.DataFrame:
    """Return every value logged by epoch: run_id, size, seed, metric, epoch (0 is the untouched model), value."""
    runs = ordered_trains(bench)
    lengths = [len(run.history) for run in runs]
    if not sum(lengths):
        return pd.DataFrame(columns=["run_id", "size", "seed", "metric", "epoch", "value"])
    table: dict[str, Any] = {
        name: np.repeat([getattr(run, name) for run in runs], lengths) for name in ("run_id", "size", "seed")
    }
    for name, column in (("metric", "metric"), ("epoch", "step"), ("value", "value")):
        table[name] = np.concatenate([run.history[column].to_numpy() for run in runs if len(run.history)])
    return pd.DataFrame(table)


def runs_table(bench: BenchRecord) -> pd.DataFrame:
    """Return one row per train run: its state, scores with intervals, counts and time.

    ``n_clips`` and ``n_speakers`` are those of the scored test part; ``train_s`` is the sum of the epochs' times in
    seconds.
    """
    rows = []
    for run in ordered_trains(bench):
        scores = bench.scores.get(run.run_id)
        history = _by_metric(run)
        epoch_s = [history["time/epoch_s"][epoch] for epoch in sorted(history["time/epoch_s"])]
        valid = history["valid/cer"]
        get = run.metrics.get
        rows.append(
            {
                "run_id": run.run_id,
                "name": run.name,
                "size": run.size,
                "seed": run.seed,
                "status": run.status,
                "epochs": sum(epoch > 0 for epoch in valid),
                "best_epoch": get("best/epoch", math.nan),
                "untouched_valid_cer": valid.get(0, math.nan),
                "untouched_test_cer": get("untouched/test_cer", math.nan),
                "untouched_test_cer_low": get("untouched/test_cer_low", math.nan),
                "untouched_test_cer_high": get("untouched/test_cer_high", math.nan),
                "valid_cer": get("best/valid_cer", math.nan),
                "test_cer": get("test/cer", math.nan),
                "test_cer_low": get("test/cer_low", math.nan),
                "test_cer_high": get("test/cer_high", math.nan),
                "test_cer_reason": scores["overall"].get("no_interval", {}).get("cer", "") if scores else "",
                "untouched_test_cer_reason": _too_few(scores),
                "n_clips": scores["overall"]["n_clips"] if scores else math.nan,
                "n_speakers": scores["overall"]["n_speakers"] if scores else math.nan,
                "epoch_s": statistics.median(epoch_s) if epoch_s else math.nan,
                "train_s": sum(epoch_s) if epoch_s else math.nan,
            }
        )
    return pd.DataFrame(rows)


def _too_few(scores: Scores | None) -> str:
    """Return why no model has an interval on a test part of too few speakers; empty where they are enough."""
    if scores is None or scores["overall"]["n_speakers"] >= MIN_SPEAKERS:
        return ""
    return str(scores["overall"].get("no_interval", {}).get("cer", ""))


def _by_metric(run: TrainRecord) -> dict[str, dict[int, float]]:
    """Return each metric's values by epoch; a plain loop, because a thousand runs make a million small lookups."""
    values: dict[str, dict[int, float]] = collections.defaultdict(dict)
    if len(run.history):
        columns = (run.history[name].tolist() for name in ("metric", "step", "value"))
        for metric, step, value in zip(*columns, strict=True):
            values[metric][step] = value
    return values


def sizes_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per size with finished runs: the chosen run's figures, and the mean and range over seeds.

    The chosen run of a size is the one with the lowest decoded valid CER; the test part plays no role.

    Parameters
    ----------
    runs : pandas.DataFrame
        As ``runs_table`` returns it.
    """
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


def missing_table(bench: BenchRecord) -> pd.DataFrame:
    """Return what the figures leave out: skipped sizes, unfinished runs, labels and clips that were not used."""
    rows = [
        {"what": gettext("size {size}", size=size), "reason": translate_stored(reason)}
        for size, reason in sorted(bench.skipped.items(), key=lambda item: (size_rank(item[0]), item[0]))
    ]
    for run in ordered_trains(bench):
        what = gettext("run {name} ({size}, seed {seed})", name=run.name, size=run.size, seed=run.seed)
        if run.status != FINISHED:
            rows.append({"what": what, "reason": gettext("ended as {status}", status=gettext(run.status))})
        elif "best/valid_cer" not in run.metrics:
            rows.append({"what": what, "reason": gettext("logged no best/valid_cer")})
    others = (
        (N_("training {name}"), bench.absent),
        (N_("run {name}"), bench.deleted),
        (N_("comparisons with {name}"), bench.not_compared),
    )
    rows += [
        {"what": gettext(what, name=translate_stored(name)), "reason": translate_stored(reason)}
        for what, reasons in others
        for name, reason in reasons.items()
    ]
    return pd.DataFrame(rows + _long_labels(bench) + _unscored(bench), columns=["what", "reason"])


def _unscored(bench: BenchRecord) -> list[dict[str, str]]:
    """Return a row per reason why clips of the test part could not be scored; all runs share the part."""
    excluded = {
        (reason, n): None for scores in bench.scores.values() for reason, n in scores.get("n_excluded", {}).items() if n
    }
    return [
        {"what": gettext("{n} clips of test", n=n), "reason": gettext("{reason}: no part in any rate", reason=reason)}
        for reason, n in excluded
    ]


def _long_labels(bench: BenchRecord) -> list[dict[str, str]]:
    """Return a row per part with labels left out of the loss; every run of the benchmark leaves out the same."""
    limit = bench.params.get("train.max_len", "train.max_len")
    counts: dict[tuple[str, int], None] = {}
    for run in bench.trains:
        for part in ("train", "valid"):
            if n := run.metrics.get(f"data/{part}_label_too_long"):
                counts[part, int(n)] = None
    return [
        {
            "what": gettext("{n} labels of {part}", n=n, part=gettext(part)),
            "reason": gettext(
                "label_too_long: over {limit} tokens, so they have no part in the loss; raise train.max_len",
                limit=limit,
            ),
        }
        for part, n in counts
    ]


def provenance_table(bench: BenchRecord) -> pd.DataFrame:
    """Return the conditions of the figures, a row each: split, code, profile, transcript side, weights, device."""
    facts: dict[str, str] = {gettext("bench"): f"{bench.name} ({bench.run_id})"}
    if "profile" in bench.params:
        facts[gettext("profile")] = bench.params["profile"]
    if bench.settings_origin:
        facts[gettext("settings")] = bench.settings_origin
    split_sha256 = bench.split.get("sha256") or bench.tags.get("kmed.split_sha256")
    if split_sha256:
        facts[gettext("split sha256")] = str(split_sha256)
    for key in ("transcript_policy", *(f"{rules}_version" for rules in _RULES)):
        if values := scored_with(bench, key):
            facts[gettext(key.replace("_", " "))] = ", ".join(translate_stored(value) for value in values)
    methods = {str(scores["interval"].get("method")) for scores in bench.scores.values() if "interval" in scores}
    if methods:
        facts[gettext("intervals")] = gettext("; or ").join(translate_stored(method) for method in sorted(methods))
    contexts = {"train.audio_context": N_("audio context, train"), "eval.audio_context": N_("audio context, decoding")}
    for key, name in contexts.items():
        if key in bench.params:
            facts[gettext(name)] = bench.params[key]
    tags = {key: value for key, value in bench.tags.items() if key.startswith("kmed.") and key not in _KNOWN_TAGS}
    facts |= {_tag_name(key): translate_stored(value) for key, value in sorted(tags.items()) if value}
    for size in dict.fromkeys(run.size for run in ordered_trains(bench)):
        runs = [run for run in bench.trains if run.size == size]
        threads = {run.params["machine.threads"]: run.params for run in runs if "machine.threads" in run.params}
        for n_threads, params in sorted(threads.items()):
            decides = params.get("machine.threads_decide", "unknown")
            facts[gettext("threads, {size}", size=size)] = gettext(
                "{n} (do results depend on their number? {decides})", n=n_threads, decides=translate_stored(decides)
            )
        own = {key for run in runs for key in run.tags if key.startswith("kmed.")}
        for key in sorted(own - _KNOWN_TAGS - set(tags)):
            values = sorted({_tag_value(bench, run, key) for run in runs if key in run.tags})
            facts[f"{_tag_name(key)}, {size}"] = (" " if key == VERDICT_TEXT_TAG else ", ").join(values)
    return pd.DataFrame({"name": list(facts), "value": list(facts.values())})


# Tags that the page shows elsewhere; what was failed, skipped or not compared is in the table of what was left out.
_KNOWN_TAGS = {
    "kmed.kind",
    "kmed.size",
    "kmed.seed",
    "kmed.profile",
    "kmed.split_sha256",
    "kmed.transcript_policy",
    "kmed.train_context",
    "kmed.eval_context",
    "kmed.skipped",
    "kmed.failed",
    "kmed.not_compared",
    "kmed.study",
    "kmed.study_run_id",
    "kmed.study_trial",
    "kmed.study_trial_run_id",
    "kmed.study_values",
    "kmed.study_params",
    "kmed.study_split",
    "kmed.study_confirmed",
    "kmed.process",  # by which a later run knows that the writer is gone
}
_RULES = ("normaliser", "marks", "numbers", "terms", "variants")


def _tag_value(bench: BenchRecord, run: TrainRecord, key: str) -> str:
    if key == VERDICT_TEXT_TAG and run.run_id in bench.verdicts:
        name = gettext("{size}, seed {seed}", size=run.size, seed=run.seed)
        return say_verdict(bench.verdicts[run.run_id], name)
    return translate_stored(run.tags[key])


def _tag_name(key: str) -> str:
    return gettext(key.removeprefix("kmed.").replace("_", " "))


def scored_with(bench: BenchRecord, key: str) -> list[str]:
    """Return the distinct values of a top-level key of all scores, sorted; more than one is an error of the bench."""
    values = [cast(Mapping[str, object], scores).get(key) for scores in bench.scores.values()]
    return sorted({str(value) for value in values if value is not None})
