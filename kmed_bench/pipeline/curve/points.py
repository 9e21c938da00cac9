"""The trainings of a learning curve: on subsets of a split's speakers, with the test part closed unless asked for."""

import dataclasses
import logging
from pathlib import Path

from kmed_bench.asr.model.weights import Weights, load_weights
from kmed_bench.config import Config
from kmed_bench.core.corpus_contracts import SplitReport
from kmed_bench.core.curve_contracts import CurveTraining
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER
from kmed_bench.core.predictions import Prediction, read_predictions, write_predictions
from kmed_bench.core.quantities import percent
from kmed_bench.corpus.splitting.identity import content_digest
from kmed_bench.corpus.splitting.leakage import split_digest
from kmed_bench.corpus.splitting.nested import Subset
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.models import located
from kmed_bench.pipeline.plan import series_of
from kmed_bench.pipeline.trainer import Trainer
from kmed_bench.pipeline.training_record import TrainOutcome, read_training_record
from kmed_bench.scoring import ScoringOptions, score_predictions
from kmed_bench.tracking.metric_names import overall_metrics
from kmed_bench.tracking.registry.checkpoints import find_best
from kmed_bench.tracking.resume import HASH_TAG
from kmed_bench.tracking.run import TrackedRun
from kmed_bench.tracking.series import SERIES_TAG, find_finished
from kmed_bench.training.epochs import FeaturizedSplit, ScoredEpoch, decode_part

log = logging.getLogger(__name__)
_REUSED = "reused"
"""In place of a checkpoint's name: the weights are those of another command's training."""


def split_of(split: Split, subset: Subset) -> Split:
    """Return the split whose training part is the subset; of the whole part, the split itself."""
    if len(subset.rows) == len(split.parts["train"]):
        return split
    parts = {**split.parts, "train": subset.rows}
    sha256 = split_digest(parts)
    counts = {**split.report["counts"], "train": len(subset.rows)}
    report: SplitReport = {
        **split.report,
        "sha256": sha256,
        "content_sha256": content_digest(parts),
        "counts": counts,
    }
    return dataclasses.replace(split, parts=parts, sha256=sha256, report=report)


class PointTrainer(Trainer):
    """Trains one size on one subset, and decodes one part with the best epoch: nothing else opens, or is registered.

    Parameters
    ----------
    speech : FeaturizedSplit
        The subset's split, with the features of the whole training part, which subsets share.
    part : str
        The part that the curve is drawn on.
    """

    def __init__(
        self, config: Config, weights: Weights, speech: FeaturizedSplit, out: Path, subset: Subset, part: str
    ) -> None:
        super().__init__(config, weights, speech, out)
        self.subset, self.part = subset, part

    def name(self, seed: int) -> str:
        """Return what the training is called in messages."""
        return f"{self.weights.size}, {self.subset.fraction:g} of the speech, draw {self.subset.draw}, seed {seed}"

    def _finish(self, run: TrackedRun, seed: int, best: ScoredEpoch) -> TrainOutcome:
        """Decode the part with the best epoch, and log its scores with the amount that was trained on."""
        checkpoint = self.folder(seed) / "best.pt"
        predictions = self._decode(checkpoint, seed)
        options = ScoringOptions.from_config(self.config)
        scores = score_predictions(predictions, options, split_sha256=self.speech.split.sha256)
        subset = self.subset
        amount = {"hours": subset.hours, "speakers": subset.n_speakers, "clips": len(subset.rows)}
        run.log_metrics(
            {
                **{f"curve/{name}": float(value) for name, value in amount.items()},
                **overall_metrics(scores, f"curve/{self.part}_"),
                "best/epoch": best.epoch,
                "best/valid_cer": best.valid_cer,
            }
        )
        cer = percent(scores["overall"]["cer"], 2)
        run.set_note(f"CER of {self.part} **{cer}** after {subset.hours:.2f} h of {subset.n_speakers} speakers.\n")
        return TrainOutcome(run.run_id, self.weights.size, seed, checkpoint, best.epoch, best.valid_cer, None, None)

    def _decode(self, checkpoint: Path, seed: int) -> list[Prediction]:
        """Decode the part with a checkpoint and write the transcripts into the seed's folder."""
        if self.part == "test":
            self._record_opening(self.name(seed), identity=self.fingerprint(seed))
        predictions = decode_part(load_weights(checkpoint, str(self.device)), self.speech, self.part, self.config.eval)
        write_predictions(self._predictions(seed), predictions)
        return predictions

    def _predictions(self, seed: int) -> Path:
        return self.folder(seed) / f"predictions_{self.part}.jsonl"

    def _identity(self, seed: int) -> dict[str, str]:
        """Return the tags by which a training is found again, whichever command ran it."""
        return {HASH_TAG: self.fingerprint(seed), SERIES_TAG: series_of(self.config, self.speech.split)}

    def finished(self, seed: int) -> TrainOutcome | None:
        """Return the outcome of a training that is done here, with the transcripts of the part; otherwise None."""
        outcome = self.done(seed, self.fingerprint(seed))
        return outcome if outcome is not None and self._predictions(seed).is_file() else None

    def obtain(self, seed: int, parent: TrackedRun) -> TrainOutcome:
        """Return the outcome of a training: done here before, by another command, or trained now under a parent.

        Raises
        ------
        KmedError
            When the folder holds a training with other settings.
        """
        fingerprint, record = self.fingerprint(seed), read_training_record(self.folder(seed))
        if (outcome := self.finished(seed)) is not None:
            return outcome
        if (outcome := self.done(seed, fingerprint)) is not None and outcome.checkpoint.is_file():
            self._decode(outcome.checkpoint, seed)  # killed in between, or the transcripts were removed
            return outcome
        begun = record is not None and record.fingerprint == fingerprint and record.outcome is None
        if not begun:
            if record is None or record.fingerprint != fingerprint:
                self.check_fresh(seed)
            if (outcome := self._reuse(seed, parent)) is not None:
                return outcome
        return self._train(seed, parent, record.run_id if record is not None and begun else None)

    def _train(self, seed: int, parent: TrackedRun, run_id: str | None) -> TrainOutcome:
        subset = self.subset
        name = f"curve-{self.weights.size}-{subset.fraction:g}-draw{subset.draw}-seed{seed}"
        amount = {"kmed.fraction": f"{subset.fraction:g}", "kmed.draw": str(subset.draw), "kmed.part": self.part}
        tags = {**self.describe(seed), **amount, **self._identity(seed)}
        with parent.child("point", name, tags=tags, params=self.params(seed), run_id=run_id) as run:
            self.folder(seed).mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            self.record(seed, run)  # first of all: a training killed at once must be found again
            outcome = self.train(seed, run, resume=run_id is not None)
        assert outcome is not None  # one process trains
        return outcome

    def _reuse(self, seed: int, parent: TrackedRun) -> TrainOutcome | None:
        """Return the outcome of the same training by any command, after decoding with its model; None without."""
        client = parent.client
        run = find_finished(client, self._identity(seed))
        uri = None if run is None else find_best(TrackedRun(client, run.info.run_id))
        if run is None or uri is None:
            return None
        try:
            with located(self.config, uri) as checkpoint:
                log.info(f"{self.name(seed)}: trained before in run {run.info.run_id}, not trained again.")
                self._decode(checkpoint, seed)
        except KmedError as error:
            log.warning(f"{self.name(seed)}: run {run.info.run_id} trained the same, but its model is gone: {error}")
            return None
        best_epoch, cer = int(run.data.metrics["best/epoch"]), run.data.metrics["best/valid_cer"]
        outcome = TrainOutcome(
            run.info.run_id, self.weights.size, seed, self.folder(seed) / _REUSED, best_epoch, cer, None, None
        )
        self.record(seed, TrackedRun(client, run.info.run_id), outcome)
        return outcome

    def describe_point(self, seed: int, outcome: TrainOutcome) -> tuple[CurveTraining, list[Prediction]]:
        """Return a finished training's place on the curve, and its transcripts of the part."""
        subset = self.subset
        training: CurveTraining = {
            "fraction": subset.fraction,
            "draw": subset.draw,
            "seed": seed,
            "hours": subset.hours,
            "n_speakers": subset.n_speakers,
            "n_clips": len(subset.rows),
            "cer": 0.0,
            "best_epoch": outcome.best_epoch,
            "run_id": outcome.run_id,
            "reused": outcome.checkpoint.name == _REUSED,
        }
        return training, read_predictions(self._predictions(seed))
