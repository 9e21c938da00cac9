"""`evaluate`: decode a part of a split with any model, score it, compare it with a baseline."""

import logging
from pathlib import Path
from typing import cast

import torch

from kmed_bench.config import Config, digest
from kmed_bench.core.console import log_file
from kmed_bench.core.contracts import EvaluatedScores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, write_json
from kmed_bench.core.finished import MADE_OF, content_sha256, is_finished
from kmed_bench.core.predictions import write_predictions
from kmed_bench.core.progress import rough_duration
from kmed_bench.corpus.demo.sentences import corpus_name
from kmed_bench.corpus.splitting.cells import LEFT_OUT
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.corpus.splitting.whole import read_speech
from kmed_bench.pipeline.leak_cells import LEAK_FILE, read_baseline_cells, with_left_out, write_leak
from kmed_bench.pipeline.models import identify_model, located, open_located, tell_stage
from kmed_bench.pipeline.pace import is_worth_timing, time_backend
from kmed_bench.pipeline.plan import SCORED, decisive_settings, identify_split, record_opening
from kmed_bench.pipeline.speed import describe_speed
from kmed_bench.scoring import ScoringOptions, score_predictions
from kmed_bench.scoring.baselines import check_same_speech, compare_with, predictions_beside, read_baseline, read_scores
from kmed_bench.scoring.external_predictions import read_references
from kmed_bench.scoring.significance import comparisons_file
from kmed_bench.tracking.stages import StageRun

log = logging.getLogger(__name__)


def evaluate_model(
    config: Config,
    model: str,
    split_folder: Path,
    part: str,
    out: Path,
    *,
    against: Path | None = None,
    stage: StageRun | None = None,
) -> EvaluatedScores:
    """Decode and score one part with any model; write predictions and scores; return the scores.

    What the same model, data and settings wrote into ``out`` before is returned, and nothing is decoded.

    The tracking store gets a record that the test part was opened. With ``eval.leak_clips`` the left-out utterances
    are decoded too, and ``leak.json`` has CER by cell, with gains over a baseline that has them.

    Parameters
    ----------
    model : str
        A size, a ``.pt`` file, a Hugging Face or CTranslate2 folder, an export, an MLflow URI (``models:/…``,
        ``runs:/…``), or another package's system (``NAME:ARGUMENT``).
    against : Path, optional
        A baseline: predictions.jsonl, the scores.json or the folder beside it, or a benchmark package's folder. Then
        ``comparisons.json`` is written too, and the scores hold its rows under ``comparisons``.
    stage : StageRun, optional
        Where inputs and figures are logged.

    Raises
    ------
    KmedError
        When the model, the split or the baseline can't be read, the baseline is of other utterances, or ``out`` holds
        another evaluation; before any clip is decoded.
    """
    refuse_own_baseline(against, out)
    if config.eval.leak_clips is not None and part != "test":
        raise KmedError(
            f"eval.leak_clips is {config.eval.leak_clips} and --part is {part}; the left-out utterances are compared "
            "with the test part, so leave one of the two out."
        )
    split = with_left_out(read_speech(split_folder), split_folder, config)
    rows, sample = split.parts[part], split.parts.get(LEFT_OUT)
    if stage is not None:
        stage.read_split(split.report, part, corpus_name(rows))
    options = ScoringOptions.from_config(config)
    baseline = None if against is None else read_baseline(against, options)
    if baseline is not None:
        check_same_speech(baseline, read_references(rows), options)
    untouched = None if sample is None else read_baseline_cells(against, split)
    out.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with located(config, model) as path, log_file(out):
        tell_stage(stage, model, path)
        made_of = identify_evaluation(config, split, part, model, path, against)
        if is_finished(out / "scores.json", made_of):
            log.info("%s holds this evaluation already; nothing is decoded.", out)
            return read_finished(out, part, stage)
        backend = open_located(config, model, path)
        if part == "test":
            record_opening(config, SCORED, "evaluate", model, split)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if is_worth_timing(rows):
            n_clips = len(rows) + (0 if sample is None else len(sample))
            taken = rough_duration(n_clips * time_backend(backend, rows))
            log.info(
                f"Estimate: about {taken} to decode {n_clips} clips (from a few of them), and seconds to score them."
            )
        predictions = backend.decode(rows)
        left_out = [] if sample is None else backend.decode(sample)
    scores = cast(EvaluatedScores, score_predictions(predictions, options, split_sha256=split.sha256))
    scores["part"] = part
    scores["audio_context"] = backend.audio_context
    scores["runtime"] = backend.describe()
    scores["speed"] = describe_speed(scores, parameters=backend.parameters, model_bytes=backend.model_bytes)
    if not backend.uses_torch and torch.cuda.is_available():
        scores["speed"]["peak_memory_bytes"] = None
    remove_stale(out)
    write_predictions(out / "predictions.jsonl", predictions)
    if sample is not None:
        write_leak(out, split, (predictions, left_out), untouched, config)
    if baseline is not None:
        compared = compare_with(baseline, predictions, options)
        write_json(out / "comparisons.json", comparisons_file(compared))
    write_json(out / "scores.json", scores | {MADE_OF: made_of})  # last: it says that all the others are there
    return read_finished(out, part, stage)


def refuse_own_baseline(against: Path | None, out: Path) -> None:
    """Raise KmedError if a baseline is what the results of a folder would replace."""
    if against is not None and predictions_beside(against).resolve() == (out / "predictions.jsonl").resolve():
        raise KmedError(
            f"{out} holds the baseline itself, which would be overwritten; name another folder for results."
        )


def identify_evaluation(config: Config, split: Split, part: str, model: str, path: Path, against: Path | None) -> str:
    """Return the digest of all that decides the results of an evaluation.

    Parameters
    ----------
    path : Path
        What `models.located` yields for the model.
    """
    return digest(
        {
            "settings": decisive_settings(config, SCORED, identify_split(split)),
            "part": part,
            "leak_clips": config.eval.leak_clips,
            "model": identify_model(model, path),
            "against": None if against is None else content_sha256(predictions_beside(against, package=True)),
        }
    )


def remove_stale(out: Path) -> None:
    """Remove the results that belong to predictions which are about to be replaced."""
    for stale in ("scores.json", "comparisons.json", LEAK_FILE):
        (out / stale).unlink(missing_ok=True)


def read_finished(out: Path, part: str, stage: StageRun | None) -> EvaluatedScores:
    """Return the scores in a folder, with the comparisons beside them; log them to the stage's run."""
    scores = read_scores(out)
    if stage is not None:
        stage.wrote_predictions(out / "predictions.jsonl")
        stage.log_scores(scores, f"{part}/")
    return scores
