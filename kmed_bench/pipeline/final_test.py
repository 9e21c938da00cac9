"""The final test of a training: the test part, scored once with the selected checkpoint."""

import dataclasses
from pathlib import Path

import torch

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import Config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.core.run_contracts import Verdict
from kmed_bench.corpus.splitting.cells import LEFT_OUT
from kmed_bench.pipeline.latency import measure_latency
from kmed_bench.pipeline.leak_cells import LEAK_FILE, write_leak
from kmed_bench.pipeline.speed import describe_speed
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.gate import EVIDENCE_NAME, UNTOUCHED_NAME, summarise_speakers
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.verdict import VERDICT_FILE, judge_training
from kmed_bench.tracking.metric_names import leak_metrics, overall_metrics, score_metrics
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.training.epochs import FeaturizedSplit, decode_part

_SPEED_NAMES = {
    "rtfx": "test_rtfx",
    "decode_s_p50": "test_decode_s_p50",
    "decode_s_p95": "test_decode_s_p95",
    "parameters": "parameters",
    "model_bytes": "checkpoint_bytes",
    "peak_memory_bytes": "peak_memory_bytes",
}


@dataclasses.dataclass(frozen=True)
class TestScores:
    """One checkpoint's figures on the test part.

    Attributes
    ----------
    cer, untouched_cer : float
        Of the checkpoint and of the model before training.
    verdict : dict
        Content of verdict.json.
    metrics : dict
        All figures under their names in the tracking store.
    """

    cer: float
    untouched_cer: float
    metrics: dict[str, float]
    verdict: Verdict


def score_test(
    run: TrackedRun,
    checkpoint: Path,
    config: Config,
    speech: FeaturizedSplit,
    untouched: tuple[list[Prediction], list[Prediction]],
    device: torch.device,
    *,
    valid: tuple[float, float],
) -> TestScores:
    """Decode and score the test part with a checkpoint; write the results beside it and log them.

    Where the split has a sample of what it left out, that is decoded too and scored by cell.

    Parameters
    ----------
    untouched : tuple of list of Prediction
        The test part, and that sample, by the model before training.
    valid : tuple of float
        CER of the valid part by the untouched and the fine-tuned model.
    """
    folder, sha256 = checkpoint.parent, speech.split.sha256
    model = load_weights(checkpoint, str(device))
    predictions = decode_part(model, speech, "test", config.eval)
    options = ScoringOptions.from_config(config)
    counts = count_utterances(predictions, options.transcript_side)
    scores = score_counts(counts, options, split_sha256=sha256)
    counts_before = count_utterances(untouched[0], options.transcript_side)
    before = score_counts(counts_before, options, split_sha256=sha256)
    write_predictions(folder / "predictions.jsonl", predictions)
    write_predictions(folder / "predictions_untouched.jsonl", untouched[0])
    for name, value in (("scores.json", scores), ("scores_untouched.json", before)):
        write_json(folder / name, value)
        run.log_file(folder / name)
    # For comparison in a later promotion: error sums by speaker, no ids and no texts.
    for name, table, value in ((EVIDENCE_NAME, counts, scores), (UNTOUCHED_NAME, counts_before, before)):
        run.log_json(summarise_speakers(table, split_sha256=sha256, scores=value), name)
    if config.tracking.log_predictions:
        run.log_file(folder / "predictions.jsonl")
        run.log_file(folder / "predictions_untouched.jsonl")  # so that another machine can compare
    leak: dict[str, float] = {}
    if LEFT_OUT in speech.stores:
        left_out = decode_part(model, speech, LEFT_OUT, config.eval)
        leak = leak_metrics(write_leak(folder, speech.split, (predictions, left_out), untouched, config))
        run.log_file(folder / LEAK_FILE)
    speed = describe_speed(
        scores,
        parameters=sum(p.numel() for p in model.parameters()),
        model_bytes=checkpoint.stat().st_size,
        device=device,
    )
    latency = measure_latency(model, speech.split.parts["test"], speech.stores["test"], config.eval)
    metrics = {
        **{f"latency/{name}": value for name, value in latency.items()},
        **score_metrics(scores, "test/"),
        **overall_metrics(before, "untouched/test_"),
        **leak,
        "decode/ngram_blocked_clips": float(sum(prediction.ngram_blocked for prediction in predictions)),
        **{f"speed/{name}": speed[key] for key, name in _SPEED_NAMES.items() if speed[key] is not None},
    }
    cer, untouched_cer = scores["overall"]["cer"], before["overall"]["cer"]
    if cer is None or untouched_cer is None:
        raise KmedError(
            f"None of the test part's {len(predictions)} references can be scored ({scores['n_excluded']}); draw a "
            "split whose test part has transcripts without masks."
        )
    level = config.gate.significance
    verdict = judge_training(counts_before, counts, valid=valid, options=options, level=level)
    write_json(folder / VERDICT_FILE, verdict)
    run.log_file(folder / VERDICT_FILE)
    return TestScores(cer, untouched_cer, metrics, verdict)
