"""Records of a benchmark, made by hand: what the report's tests share."""

from typing import Any

import pandas as pd

from kmed_bench.core.records import BenchRecord, TrainRecord

DEPTH = {"tiny": 0.31, "base": 0.19, "small": 0.11}  # untouched valid CER
DIALECTS = {"경기/서울": 0.4279, "경상": 0.3049, "충청": 0.1405, "전라": 0.1256, "강원": 0.0011}
PARAMETERS = {"tiny": 37_184_640.0, "base": 71_825_920.0, "small": 240_582_912.0}
SHA = "3f9a" * 16


def make_train(size: str, seed: int, epochs: int, status: str = "FINISHED") -> TrainRecord:
    """A run whose CER falls from the untouched model's towards a third of it, differently for each seed."""
    start = DEPTH[size]
    rows = [("valid/loss", 0, 6 * start), ("valid/cer", 0, start), ("valid/wer", 0, 2.1 * start)]
    for epoch in range(1, epochs + 1):
        left = 0.34 + 0.5 / (epoch + 0.13 * seed)
        rows += [
            ("train/loss", epoch, 3 * start * left / epoch),
            ("train/cer_teacher_forced", epoch, 0.6 * start * left / epoch),
            ("valid/loss", epoch, 4 * start * left),
            ("valid/cer", epoch, start * left),
            ("valid/wer", epoch, 2 * start * left),
            ("time/epoch_s", epoch, 40.0 * start * 10 + epoch),
        ]
    history = pd.DataFrame(rows, columns=["metric", "step", "value"])
    best = start * (0.34 + 0.5 / (epochs + 0.13 * seed))
    metrics = {
        "best/epoch": float(epochs),
        "best/valid_cer": best,
        "untouched/test_cer": 1.05 * start,
        "untouched/test_cer_low": 0.9 * start,
        "untouched/test_cer_high": 1.2 * start,
        "test/cer": 1.1 * best,
        "test/cer_low": 0.95 * best,
        "test/cer_high": 1.3 * best,
        "test/cer/gender/female": 1.0 * best,
        "untouched/test_wer": 2.2 * start,
        "untouched/test_insertion_share": 0.3,
        "untouched/test_deletion_share": 0.2,
        "untouched/test_n_clips": 1000.0,
        "speed/test_rtfx": 30 * start,
        "speed/test_decode_s_p50": 0.1 / start,
        "speed/test_decode_s_p95": 0.3 / start,
        "speed/parameters": PARAMETERS[size],
        "speed/checkpoint_bytes": 4 * PARAMETERS[size],
        "speed/peak_memory_bytes": 30 * PARAMETERS[size],
    }
    if status != "FINISHED":
        metrics = {}
    return TrainRecord(
        run_id=f"{size}{seed:03d}",
        name=f"{size}-s{seed}",
        size=size,
        seed=seed,
        status=status,
        params={"train.lr": "2e-05"},
        metrics=metrics,
        tags={"kmed.kind": "train", "kmed.size": size, "kmed.seed": str(seed), "kmed.device": "cpu"},
        history=history,
    )


def score(cer: float | None, n_clips: int, n_speakers: int, *, below_minimum: bool = False) -> dict[str, Any]:
    """One entry of scores.json."""
    low, high = (None, None) if cer is None else (0.8 * cer, 1.25 * cer)
    return {
        "cer": cer,
        "cer_low": low,
        "cer_high": high,
        "cer_spaced": cer,
        "wer": None if cer is None else 2 * cer,
        "cer_number": None if cer is None else 0.9 * cer,
        "number_exact": 0.71,
        "term_recall": 0.83,
        "insertion_share": 0.21,
        "deletion_share": 0.27,
        "empty_rate": 0.0,
        "hallucination_rate": 0.013,
        "n_clips": n_clips,
        "n_speakers": n_speakers,
        "below_minimum": below_minimum,
        "no_interval": dict.fromkeys(
            ("wer", "cer_number", "number_exact", "term_recall", "hallucination_rate"), "too few"
        ),
    }


def make_scores(run: TrainRecord) -> dict[str, Any]:
    cer = run.metrics["test/cer"]
    overall = score(cer, 1000, 42) | {"cer_low": run.metrics["test/cer_low"], "cer_high": run.metrics["test/cer_high"]}
    dialects = {
        name: score(cer * (0.8 + 0.1 * rank), int(1000 * share), max(1, int(42 * share)), below_minimum=share < 0.01)
        for rank, (name, share) in enumerate(DIALECTS.items())
    }
    return {
        "overall": overall,
        "groups": {
            "dialect": dialects,
            "gender": {"Female": score(cer, 532, 22), "Male": score(1.1 * cer, 468, 20)},
            "age": {
                "20~29": score(0.8 * cer, 600, 25),
                "60~69": score(1.4 * cer, 390, 15),
                "7~10": score(1.2 * cer, 9, 1, below_minimum=True),
                "over70": score(None, 1, 1, below_minimum=True),
            },
            "dialect_age": {
                "경기/서울_20~29": score(0.7 * cer, 200, 9),
                "경기/서울_60~69": score(1.3 * cer, 180, 8),
                "경상_7~10": score(1.2 * cer, 9, 1, below_minimum=True),
                "경상_60~69": score(1.6 * cer, 120, 5),
            },
        },
        "elderly_gap": {
            "cer_gap": 0.6 * cer,
            "cer_gap_low": 0.1 * cer,
            "cer_gap_high": 1.2 * cer,
            "below_minimum": False,
            "n_unknown_age": 0,
            "elderly": score(1.4 * cer, 390, 15),
            "rest": score(0.8 * cer, 609, 26),
        },
        "speakers": {
            "n_speakers": 42,
            "cer_quantiles": {key: cer * (0.2 + int(key) / 50) for key in ("0", "10", "25", "50", "75", "90", "100")},
        },
        "terms": {
            "symptom": {"n_terms": 400, "n_found": 360, "n_missed": 40, "recall": 0.9}
            | {"recall_low": 0.87, "recall_high": 0.92},
            "drug": {"n_terms": 30, "n_found": 21, "n_missed": 9, "recall": 0.7}
            | {"recall_low": None, "recall_high": None},
            "unit": {"n_terms": 0, "n_found": 0, "n_missed": 0}
            | dict.fromkeys(("recall", "recall_low", "recall_high")),
        },
        "n_excluded": {"reference_empty": 2, "reference_masked": 0},
        "interval": {"method": "speaker-blocked bootstrap-t", "level": 0.95},
        "transcript_policy": "pronunciation",
        "normaliser_version": "1",
        "split_sha256": SHA,
    }


def _groups(sizes: tuple[str, ...], rate: str, gap: str) -> list[Any]:
    """Gaps or differences in benefit of three groups, the last of them too small to be tested."""
    rows: list[Any] = []
    for size in sizes:
        for rank, (field, group, against) in enumerate(
            (("age", "60 and over", "rest"), ("gender", "Female", "Male"), ("dialect", "강원", "rest"))
        ):
            inside, outside = DEPTH[size] * (1.2 - 0.1 * rank), DEPTH[size]
            difference, small = inside - outside, rank == 2
            row: dict[str, Any] = {"size": size, "field": field, "group": group, "against": against}
            row |= {"n_clips_group": 390, "n_speakers_group": 15, "n_clips_against": 609, "n_speakers_against": 26}
            row |= {f"{rate}_group": inside, f"{rate}_against": outside, gap: difference, "below_minimum": small}
            row |= {f"{gap}_low": difference - 0.01, f"{gap}_high": difference + 0.01, "no_interval": ""}
            rows.append(
                row | {"p_value": None if small else 0.004 + rank, "p_holm": None if small else 0.02 + rank / 2}
            )
    return rows


def _seeds(size: str, n_seeds: int) -> Any:
    cer = 0.5 * DEPTH[size]
    return {
        "size": size,
        "seeds": list(range(n_seeds)),
        "cer": cer,
        "cer_low": 0.8 * cer,
        "cer_high": 1.3 * cer,
        "no_interval": "",
        "seed_sd": 0.004 if n_seeds > 1 else None,
        "note": "counts how much speakers, sentences and seeds differ" if n_seeds > 1 else "one seed",
        "n_clips": 1000,
        "n_speakers": 42,
    }


def make_bench(
    *, profile: str = "sound", sizes: tuple[str, ...] = ("tiny", "base", "small"), seeds: int = 1, epochs: int = 4
) -> BenchRecord:
    """A plausible bench of finished runs."""
    trains = tuple(make_train(size, seed, epochs) for size in sizes for seed in range(seeds))
    shares = dict.fromkeys(("corpus", "train", "valid", "test"), DIALECTS)
    return BenchRecord(
        run_id="b0b0",
        name="bench-sound-20260101",
        status="RUNNING",
        params={
            "source": "/home/someone/208",
            "profile": profile,
            "data.source": "none" if profile == "demo" else "208",
            "train.audio_context": "dynamic",
            "eval.audio_context": "full",
        },
        tags={
            "kmed.kind": "bench",
            "kmed.code_version": "0.1.0+abc",
            "kmed.split_sha256": SHA,
            "mlflow.user": "someone",
        },
        trains=trains,
        skipped={},
        split={
            "sha256": SHA,
            "counts": {"train": 10000, "valid": 5000, "test": 1000},
            "shares": {
                "dialect": {name: {part: shares[part][name] for part in shares} for name in DIALECTS},
                "gender": {"Female": {"corpus": 0.53, "train": 0.53, "valid": 0.531, "test": 0.532}},
            },
            "merged_strata": ["dialect: 강원+경기/서울"],
            "max_share_deviation": 0.002,
            "leakage": {"speakers": 0, "sentences": 0, "utterances": 0, "recordings": 0},
            "parts": {
                "train": {"utterances": 10000, "speakers": 700, "sentences": 9000, "hours": 11.5},
                "valid": {"utterances": 5000, "speakers": 120, "sentences": 4000, "hours": 5.7},
                "test": {"utterances": 1000, "speakers": 42, "sentences": 990, "hours": 1.14},
            },
            "distance": {
                "dialect": {
                    part: {"max_deviation": 0.002, "total_variation": 0.003, "chi_square": 1.2, "dof": 4, "p": 0.88}
                    for part in ("train", "valid", "test")
                }
            },
            "method": "quotas, disjoint in speaker and sentence",
            "power": {
                "part": "test",
                "n_clips": 1000,
                "n_speakers": 42,
                "smallest_difference": 0.0123,
                "power": 0.8,
                "level": 0.05,
                "deviations": {"speaker": 0.03, "sentence": 0.04, "clip": 0.1},
                "source": "assumed deviations",
            },
            "discarded": 41234,
            "discarded_because": {"crossing": 40000, "surplus": 1234},
        },
        quality={
            "labels": 310,
            "usable": 303,
            "rejected": {"audio_missing": 3, "transcript_empty": 4},
            "warnings": {"rate_differs": 2},
            "speakers": 25,
            "sentences": 288,
            "hours": 0.31,
            "by": {"gender": {"Female": 200, "Male": 103}},
            "hours_by": {"gender": {"Female": 0.2, "Male": 0.11}},
            "histograms": {"duration_s": {"edges": [0, 0.5, 1, 2], "counts": [3, 100, 150, 50]}},
        },
        scores={run.run_id: make_scores(run) for run in trains},
        gaps=tuple(_groups(sizes, "cer", "cer_gap")),
        benefits=tuple(_groups(sizes, "benefit", "difference")),
        seeds=tuple(_seeds(size, seeds) for size in sizes),
    )
