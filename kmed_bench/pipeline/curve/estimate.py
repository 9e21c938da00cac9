"""What the trainings of a learning curve are estimated to take: each on an amount of its own."""

import dataclasses
import logging
from collections.abc import Mapping

from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config
from kmed_bench.core.progress import rough_duration
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.estimates import Outlook, basis, measure
from kmed_bench.pipeline.pace import N_STEPS, WORTH, Pace
from kmed_bench.training.epochs import ScoredEpoch

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingOutlook:
    """One training of a curve, which tells the whole of its epochs."""

    whole: "CurveOutlook"
    name: str

    def correct(self, size: str, epoch: ScoredEpoch) -> None:
        """Take note of an epoch of this training."""
        self.whole.correct(self.name, size, epoch)


class CurveOutlook:
    """The trainings that are left of a curve, and what they take.

    Parameters
    ----------
    whole : Split
        The split that all subsets are of; its features are what they share.
    left : mapping
        Name of each training to its split, with the parts that are trained on and decoded; the last has the most.
    features_s : float
        Seconds for the features of a second of audio.
    """

    def __init__(
        self,
        config: Config,
        size: str,
        whole: Split,
        left: Mapping[str, Split],
        pace: Pace,
        features_s: float,
        part: str,
    ) -> None:
        self._config, self._size, self._left, self._pace = config, size, dict(left), pace
        self._whole = whole
        self._features_s, self._part = features_s, part
        self._corrected = False

    def _outlook(self, split: Split) -> Outlook:
        paces = {self._size: self._pace}
        return Outlook(self._config, split, [(self._size, 0)], paces, self._features_s, report=False)

    def training_s(self, name: str) -> float:
        """Return the estimated duration of a training, with its last decoding."""
        outlook = self._outlook(self._left[name])
        # `Outlook` counts the decoding of a test part; the best epoch decodes the valid part once more.
        again = len(self._left[name].parts["valid"]) * self._pace.tuned_s if self._part == "valid" else 0.0
        return outlook.size_s(self._size, 1) - outlook.size_s(self._size, 0) + again

    @property
    def total_s(self) -> float:
        """The estimated duration of all that is left: features, the untouched model and the trainings."""
        whole = self._outlook(self._whole)
        before_s = whole.stages()[0].duration_s + whole.size_s(self._size, 0)
        return before_s + sum(map(self.training_s, self._left))

    def describe(self) -> str:
        """Return the estimate in a line."""
        each_s = [self.training_s(name) for name in self._left]
        return (
            f"Estimate: about {rough_duration(self.total_s)} for {len(self._left)} trainings, from "
            f"{rough_duration(min(each_s))} to {rough_duration(max(each_s))} each ({basis(self._config)})."
        )

    def correct(self, name: str, size: str, epoch: ScoredEpoch) -> None:
        """Replace the pace by that of the first epoch of a training and log what becomes of the estimate; once."""
        if self._corrected:
            return
        self._corrected, before_s = True, self.total_s
        n_steps = -(-len(self._left[name].parts["train"]) // self._config.train.batch_size)
        self._pace = dataclasses.replace(self._pace, step_s=epoch.epoch_s / n_steps, tuned_s=epoch.decode_s)
        log.info(
            f"Estimate after the first epoch of {size}: all of it {rough_duration(self.total_s)} "
            f"(before: {rough_duration(before_s)})."
        )


def foresee_curve(
    config: Config, weights: Weights, whole: Split, left: Mapping[str, Split], part: str
) -> CurveOutlook | None:
    """Return and log the outlook of the trainings that are left; None where measuring does not pay or fails."""
    n_steps = sum(config.train.epochs * len(split.parts["train"]) / config.train.batch_size for split in left.values())
    if not left or n_steps < WORTH * (N_STEPS + 1):
        return None
    measured = measure(config, list(left.values())[-1], {weights.size: weights})
    if measured is None:
        return None
    (pace,), features_s = measured[0].values(), measured[1]
    outlook = CurveOutlook(config, weights.size, whole, left, pace, features_s, part)
    log.info(outlook.describe())
    return outlook
