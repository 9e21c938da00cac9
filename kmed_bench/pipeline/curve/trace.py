"""`curve`: the trainings in order, what is done already, and the curve that they give."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from kmed_bench.asr.model.device import pick_device, resolve_precision
from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config, curve_digest, flatten
from kmed_bench.core.console import log_file
from kmed_bench.core.curve_contracts import CURVE, CurveTraining, LearningCurve
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import cache_folder, read_json, write_json
from kmed_bench.core.language import use_language
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import track
from kmed_bench.core.version import code_version
from kmed_bench.corpus.demo.sentences import is_synthetic
from kmed_bench.corpus.splitting.nested import draw_subsets
from kmed_bench.corpus.splitting.split import Split, read_split
from kmed_bench.pipeline.curve.estimate import CurveOutlook, TrainingOutlook, foresee_curve
from kmed_bench.pipeline.curve.points import PointTrainer, split_of
from kmed_bench.pipeline.plan import TRAINED, identify_split, make_plan
from kmed_bench.pipeline.preparation import log_split
from kmed_bench.pipeline.train_one import only_process_in
from kmed_bench.pipeline.untouched import UNTOUCHED_FOLDER, Untouched, computed_once
from kmed_bench.report.learning_curve import WRITTEN, describe_curve, write_curve
from kmed_bench.scoring import ScoringOptions
from kmed_bench.scoring.learning_curve import trace_curve
from kmed_bench.scoring.measures import count_utterances, versions
from kmed_bench.tracking.params import shareable, training_params
from kmed_bench.tracking.run import TrackedRun, param_text
from kmed_bench.tracking.runs import standalone_run
from kmed_bench.tracking.seal import seal_plan
from kmed_bench.tracking.store import open_store
from kmed_bench.training.epochs import FeaturizedSplit, featurize_split

log = logging.getLogger(__name__)
BEGUN = "begun.json"
"""Written first: the curve that a folder is of, and its run, which the same command continues."""
Point = tuple[PointTrainer, int]
"""A subset with what trains on it, and a seed."""
Trained = tuple[CurveTraining, list[Prediction]]


@dataclasses.dataclass(frozen=True)
class CurveOutcome:
    """Where a learning curve is."""

    curve: LearningCurve
    report: Path
    tracking_uri: str


def learn_curve(
    config: Config, weights: Weights, split_folder: Path, out: Path, *, part: str = "valid"
) -> CurveOutcome:
    """Train a size on nested subsets of a split's speakers and return its learning curve; files are under ``out``.

    Nothing that is finished is trained again: not by the same command, nor what `train` or `run` have in the store.

    Parameters
    ----------
    part : str
        ``valid``, on which epochs are selected, or ``test``, which is opened once for each training.

    Raises
    ------
    KmedError
        When the split can't be read or divided, the store can't be used, or ``out`` holds another curve.
    """
    if config.eval.leak_clips is not None:
        raise KmedError(
            f"eval.leak_clips is {config.eval.leak_clips}, and a learning curve decodes one part of the split only; "
            "leave it out, and use `train` for what the split left out."
        )
    split = read_split(split_folder)
    precision = resolve_precision(config.train.precision, pick_device())
    identity = curve_digest(
        config,
        size=weights.size,
        weights=weights.sha256,
        split=identify_split(split),
        part=part,
        precision=precision,
        rules=versions(),
    )
    points, repeated = _points(config, weights, split, out, part)
    with only_process_in(out), log_file(out):
        before = _read_begun(out, identity)
        left = {
            trainer.name(seed): _decoded_parts(trainer.speech.split, part)
            for trainer, seed in points
            if trainer.finished(seed) is None
        }
        outlook = foresee_curve(config, weights, _decoded_parts(split, part), left, part)
        uri = open_store(config.tracking)
        with standalone_run(
            config,
            kind="curve",
            name=f"curve-{weights.size}-{time.strftime('%Y%m%d-%H%M%S')}",
            code_version=code_version(),
            tags=_tags(points[-1][0], split, config),
            params=training_params(config, size=weights.size, seed=0, split=split.report.get("config", {})),
            run_id=before,
        ) as run:
            write_json(out / BEGUN, {"identity": identity, "run_id": run.run_id})
            log_split(run, split, "learning curve")
            if part == "test":
                plan = make_plan(config, TRAINED, identify_split(split), {weights.size: weights})
                seal = seal_plan(run, plan, out, command="curve", begun=before is not None)
                for trainer, _ in points:
                    trainer.seal = seal
            trained, untouched = _train_all(config, split, points, run, out, outlook, identity)
            curve = _assemble(config, split, points, trained, untouched, repeated, run)
            with use_language(config.report.lang):
                report = write_curve(curve, out)
            _log_results(run, curve, report)
    return CurveOutcome(curve, report, uri)


def _points(config: Config, weights: Weights, split: Split, out: Path, part: str) -> tuple[list[Point], list[str]]:
    """Return the trainings from the smallest amount to the largest, and what repeats another subset, in words."""
    settings, by = config.curve, split.report.get("config", {}).get("by", ())
    subsets, repeated = draw_subsets(
        split.parts["train"], settings.fractions, by=by, seed=settings.seed, draws=settings.draws
    )
    for words in repeated:
        log.warning(f"Left out: {words}.")
    trainers = [
        PointTrainer(
            config,
            weights,
            FeaturizedSplit(split_of(split, subset), {}),
            out / f"{subset.fraction:g}-draw{subset.draw}",
            subset,
            part,
        )
        for subset in subsets
    ]
    return [(trainer, seed) for trainer in trainers for seed in config.train.seeds], repeated


def _decoded_parts(split: Split, part: str) -> Split:
    """Return a split without the parts that stay closed."""
    parts = {name: rows for name, rows in split.parts.items() if name in ("train", "valid", part)}
    return dataclasses.replace(split, parts=parts)


def _read_begun(out: Path, identity: str) -> str | None:
    """Return the run of the curve in a folder, None if there is none; raise KmedError if it is another curve."""
    if not (out / BEGUN).is_file():
        return None
    found = read_json(out / BEGUN)
    if not isinstance(found, dict) or found.get("identity") != identity:
        raise KmedError(
            f"{out} holds a learning curve of another size, split, part or weights, or with other settings or rules; "
            "its points can't be on one curve with these, so name another folder."
        )
    return str(found["run_id"])


def _tags(trainer: PointTrainer, split: Split, config: Config) -> dict[str, str]:
    """Return the tags of a curve's run: those that all its trainings share, with the whole split, and what may grow.

    More fractions, draws or seeds extend a curve in its run, and a param can't change.
    """
    own = {key: param_text(value) for key, value in flatten(shareable(config)).items() if key.startswith("curve.")}
    own["curve.seeds"] = ",".join(map(str, config.train.seeds))
    tags = {**trainer.describe(0), **own, "kmed.split_sha256": split.sha256, "kmed.part": trainer.part}
    del tags["kmed.seed"]
    return tags


def _train_all(
    config: Config,
    split: Split,
    points: Sequence[Point],
    run: TrackedRun,
    out: Path,
    outlook: CurveOutlook | None,
    identity: str,
) -> tuple[list[Trained], list[Prediction]]:
    """Train what is left, and return all trainings with their transcripts of the part, and the untouched model's."""
    wanted = tuple(dict.fromkeys(("train", "valid", points[0][0].part)))
    speech = featurize_split(split, cache_folder() / "features", config, parts=wanted)
    for trainer, _ in points:  # one set of features for all subsets
        trainer.speech = dataclasses.replace(speech, split=trainer.speech.split)
    untouched = _untouched(points[-1][0], out, identity)
    amounts = [len(trainer.subset.rows) for trainer, _ in points]
    trained = []
    with track(f"Learning curve of {points[0][0].weights.size}", unit="clips of all trainings") as tick:
        for number, (trainer, seed) in enumerate(points):
            tick(sum(amounts[:number]), sum(amounts))
            trainer.untouched = untouched
            trainer.outlook = None if outlook is None else TrainingOutlook(outlook, trainer.name(seed))
            outcome = trainer.obtain(seed, run)
            trained.append(trainer.describe_point(seed, outcome))
    return trained, untouched.test


def _assemble(
    config: Config,
    split: Split,
    points: Sequence[Point],
    trained: Sequence[Trained],
    untouched: list[Prediction],
    repeated: list[str],
    run: TrackedRun,
) -> LearningCurve:
    """Return the content of curve.json."""
    part, options = points[0][0].part, ScoringOptions.from_config(config)
    side = options.transcript_side
    results = trace_curve(
        count_utterances(untouched, side),
        [(training, count_utterances(predictions, side)) for training, predictions in trained],
        options,
        extrapolate=config.curve.extrapolate,
    )
    return {
        **CURVE.head,
        **results,
        **versions(),
        "size": points[0][0].weights.size,
        "part": part,
        "split_sha256": split.sha256,
        "synthetic": is_synthetic(split.parts["train"]),
        "transcript_policy": side,
        "epochs": config.train.epochs,
        "repeated": repeated,
        "run_id": run.run_id,
    }


def _untouched(trainer: PointTrainer, out: Path, identity: str) -> Untouched:
    """Return the model before training, with its transcripts of the curve's part; decoded once for the folder."""

    def score() -> Untouched:
        metrics, decoded = trainer.score_parts()
        return Untouched(metrics, decoded[trainer.part], [])

    return computed_once(out / UNTOUCHED_FOLDER, identity, score, what=f"the untouched {trainer.weights.size}")


def _log_results(run: TrackedRun, curve: LearningCurve, report: Path) -> None:
    """Log the figures that sum up the curve, its files without transcripts, and its sentences as the description."""
    fit, extension = curve["fit"], curve["extension"]
    metrics = {"curve/trainings": float(len(curve["trainings"])), "curve/untouched_cer": curve["untouched"]["cer"]}
    # The metrics of an earlier extrapolation stay when a longer curve has none.
    metrics["curve/is_extended"] = float(extension["cer"] is not None)
    if fit is not None:
        metrics |= {f"curve/{name}": fit[name]["value"] for name in ("scale", "exponent", "floor")}
    if extension["cer"] is not None:
        metrics |= {"curve/extended_hours": extension["hours"], "curve/extended_cer": extension["cer"]}
    run.log_summary(metrics)
    for name in WRITTEN:  # and nothing else that the user keeps in the folder
        run.log_file(report.with_name(name), "report")
    run.set_note("\n\n".join(describe_curve(curve)) + "\n")
