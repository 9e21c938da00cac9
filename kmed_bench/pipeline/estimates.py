"""What the stages of a benchmark or a training are estimated to take: from a measured pace, corrected by an epoch."""

import dataclasses
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kmed_bench.asr.features.store import DTYPES, features_bytes, has_features
from kmed_bench.asr.model.weights import Weights
from kmed_bench.config import Config
from kmed_bench.core.files import cache_folder
from kmed_bench.core.progress import rough_duration
from kmed_bench.core.schema import SIZE_SHAPES
from kmed_bench.core.scratch import scratch_folder
from kmed_bench.corpus.splitting.cells import LEFT_OUT
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.kept_checkpoints import STATE_COPIES
from kmed_bench.pipeline.latency import N_CLIPS, N_WARM_UP
from kmed_bench.pipeline.pace import N_STEPS, WORTH, Pace, measure_pace, sample_speech
from kmed_bench.training.epochs import ScoredEpoch, keeps_encoder_outputs

log = logging.getLogger(__name__)

# Both on 2 cores of a server: what the tracking store, the files and the statistics take.
_TRAINING_S = 15.0
_REPORT_S = 10.0
# Of the encoder in 30 s; a dynamic window has 50 a second and 32 more (training/encoder_outputs).
_FULL_POSITIONS = 1500


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage's estimated duration, and the disk space that it leaves used: of the results' disk, or of the cache's."""

    name: str
    duration_s: float
    n_bytes: int = 0
    cached: bool = False


class EpochListener(Protocol):
    """Is told of each epoch, to correct an estimate."""

    def correct(self, size: str, epoch: ScoredEpoch) -> None:
        """Take note of an epoch of a size."""


class Outlook:
    """The stages of a benchmark, or of a single training, and what they take.

    Parameters
    ----------
    trainings : sequence of (str, int)
        Size and seed of those to run.
    paces : mapping
        Size to its pace on this machine.
    features_s : float
        Seconds for the features of a second of audio.
    n_processes : int
        Processes that share each training; the main one alone decodes a fine-tuned model's test part.
    report : bool
        Whether comparisons and a report follow.
    n_slots : int
        Trainings that run at a time. The paces are those of one that has the machine alone.
    """

    def __init__(
        self,
        config: Config,
        split: Split,
        trainings: Sequence[tuple[str, int]],
        paces: Mapping[str, Pace],
        features_s: float,
        *,
        n_processes: int = 1,
        report: bool = True,
        n_slots: int = 1,
    ) -> None:
        self._n_slots = min(n_slots, len(trainings))
        self._config, self._trainings, self._paces = config, list(trainings), dict(paces)
        self._n = {part: len(rows) for part, rows in split.parts.items()}
        self._train_s = float(split.parts["train"]["duration_s"].sum())
        self._features = _features_stage(split, config, features_s)
        self._report, self._n_processes, self._corrected = report, n_processes, set[str]()

    @property
    def total_s(self) -> float:
        """The estimated duration of all stages, trainings in slots shared equally among them."""
        all_s, trainings_s = (sum(stage.duration_s for stage in some) for some in (self.stages(), self._in_slots()))
        # The seeds of a size wait for its untouched model.
        longest_s = max(self.size_s(size, 1) for size in self.sizes)
        return all_s - trainings_s + max(longest_s, trainings_s / self._n_slots)

    @property
    def n_bytes(self) -> int:
        """The disk space that all stages leave used."""
        return sum(stage.n_bytes for stage in self.stages())

    @property
    def state_bytes(self) -> int:
        """The space that trainings need beside that while they run: the states of the largest ones at a time."""
        largest = sorted((self._paces[size].weights_bytes for size, _ in self._trainings), reverse=True)
        return STATE_COPIES * sum(largest[: self._n_slots])

    @property
    def sizes(self) -> list[str]:
        """The sizes to train."""
        return list(dict(self._trainings))

    def size_s(self, size: str, n_seeds: int) -> float:
        """Return the estimated duration of one size: its untouched model, and so many seeds."""
        return self._untouched_s(self._paces[size]) + n_seeds * self._training_s(self._paces[size])

    def stages(self) -> list[Stage]:
        """Return the stages in their order; a size's untouched model is one of them."""
        found = [self._features, *self._in_slots()]
        return [*found, Stage("comparisons, report", _REPORT_S)] if self._report else found

    def _in_slots(self) -> list[Stage]:
        found = []
        for size in self.sizes:
            found.append(Stage(f"{size}, untouched", self._untouched_s(self._paces[size])))
            found += self._encoder_stage(size)
            copies = self._n_checkpoints() * self._paces[size].weights_bytes
            seeds = [seed for one, seed in self._trainings if one == size]
            found += [Stage(f"{size}, seed {seed}", self._training_s(self._paces[size]), copies) for seed in seeds]
        return found

    def describe(self) -> str:
        """Return the estimate in a line."""
        stages = "; ".join(f"{stage.name} {rough_duration(stage.duration_s)}" for stage in self.stages())
        slots = f" in {self._n_slots} slots" if self._n_slots > 1 else ""
        return f"Estimate: about {rough_duration(self.total_s)} in all{slots}: {stages} ({basis(self._config)})."

    def correct(self, size: str, epoch: ScoredEpoch) -> None:
        """Replace the pace of a size by that of its first epoch and log what becomes of the estimate; once a size."""
        if size in self._corrected:
            return
        self._corrected.add(size)
        before, pace = self.total_s, self._paces[size]
        one_before = self._training_s(pace)
        self._paces[size] = dataclasses.replace(pace, step_s=epoch.epoch_s / self._n_steps(), tuned_s=epoch.decode_s)
        one = self._training_s(self._paces[size])
        log.info(
            f"Estimate after the first epoch of {size}: a training about {rough_duration(one)} (before: "
            f"{rough_duration(one_before)}), all of it {rough_duration(self.total_s)} ({rough_duration(before)})."
        )

    def _n_steps(self) -> int:
        return -(-self._n["train"] // self._config.train.batch_size)

    def _untouched_s(self, pace: Pace) -> float:
        return self._n_decoded("valid") * pace.untouched_s + self._n["valid"] * pace.loss_s

    def _encoder_stage(self, size: str) -> list[Stage]:
        """Return the stage that stores a frozen encoder's outputs, where training reads those."""
        train, pace = self._config.train, self._paces[size]
        if not keeps_encoder_outputs(train):
            return []
        n_positions = self._n["train"] * _FULL_POSITIONS
        if train.audio_context == "dynamic":
            n_positions = min(n_positions, int(50 * self._train_s) + 32 * self._n["train"])
        n_bytes = n_positions * SIZE_SHAPES[size][0] * DTYPES[self._config.features.dtype].itemsize
        return [Stage(f"{size}, encoder outputs", self._n["train"] * pace.loss_s, n_bytes, cached=True)]

    def _n_decoded(self, *more: str) -> int:
        return sum(self._n.get(part, 0) for part in ("test", LEFT_OUT, *more))

    def _training_s(self, pace: Pace) -> float:
        again = self._n["train"] * pace.loss_s if self._config.profile == "original" else 0.0
        validation_s = self._n["valid"] * (pace.loss_s + pace.tuned_s)
        epochs_s = self._config.train.epochs * (self._n_steps() * pace.step_s + validation_s + again)
        n_single = N_WARM_UP + min(N_CLIPS, self._n.get("test", 0))
        return epochs_s + (self._n_decoded() + n_single) * pace.tuned_s * self._n_processes + _TRAINING_S

    def _n_checkpoints(self) -> int:
        """Return the weights that a training leaves: best and last, the other epochs', and the store's copy."""
        others = min(self._config.train.keep_checkpoints, self._config.train.epochs - 1)
        return 2 + others + int(self._config.tracking.register)


def _features_stage(split: Split, config: Config, features_s: float) -> Stage:
    cache, dtype = cache_folder() / "features", config.features.dtype
    made = [(part, 1.0) for part in split.parts] + [("train", speed) for speed in config.train.speed_factors]
    seconds = sum(
        float(split.parts[part]["duration_s"].sum()) / speed
        for part, speed in made
        if not has_features(split.parts[part], cache, dtype=dtype, speed=speed)
    )
    return Stage("features", seconds * features_s, features_bytes(seconds, dtype), cached=True)


def foresee(
    config: Config,
    split: Split,
    weights: Mapping[str, Weights],
    trainings: Collection[tuple[str, int]],
    *,
    n_processes: int = 1,
    report: bool = True,
    planned: bool = False,
    n_slots: int = 1,
) -> Outlook | None:
    """Return and log the outlook of trainings on a split, measured on a few clips; None where that does not pay.

    Parameters
    ----------
    n_processes : int
        Processes that share each training.
    planned : bool
        Measure however little there is to do, and log nothing.
    n_slots : int
        Trainings that run at a time.

    Raises
    ------
    KmedError
        When ``planned`` and a clip can't be read or a training step fails; otherwise that is only logged.
    """
    n_steps = len(trainings) * config.train.epochs * len(split.parts["train"]) / config.train.batch_size
    if not (trainings and (planned or n_steps >= WORTH * (N_STEPS + 1) * len({size for size, _ in trainings}))):
        return None
    measured = measure(config, split, {size: weights[size] for size in dict(trainings)}, planned=planned)
    if measured is None:
        return None
    paces, features_s = {size: pace.shared(n_processes) for size, pace in measured[0].items()}, measured[1]
    shared = {"n_processes": n_processes, "n_slots": n_slots}
    outlook = Outlook(config, split, list(trainings), paces, features_s, **shared, report=report)
    if not planned:
        log.info(outlook.describe())
    return outlook


def measure(
    config: Config, split: Split, weights: Mapping[str, Weights], *, planned: bool = False
) -> tuple[dict[str, Pace], float] | None:
    """Return each size's pace and the seconds that a second of audio takes to be featurized; None without one of them.

    Raises
    ------
    KmedError
        When ``planned`` and a clip can't be read or a training step fails; otherwise that is only logged.
    """
    try:
        with scratch_folder() as folder:
            sample, features_s = sample_speech(split, config, folder)
            found = {size: measure_pace(one, sample, config) for size, one in weights.items()}
    except Exception as error:  # what is wrong with one size is said when that is trained, and stops no other
        if planned:
            raise
        log.warning("No estimate, since measuring failed: %s", error)
        return None
    paces = {size: pace for size, pace in found.items() if pace is not None}
    return (paces, features_s) if len(paces) == len(found) else None


def basis(config: Config) -> str:
    """Return in words what an estimate is made from, and where it errs to one side."""
    said = f"from {N_STEPS} training steps and a few decoded clips of each size"
    if config.train.patience is not None:
        said += "; less if training ends early"
    if keeps_encoder_outputs(config.train):
        said += "; less with the frozen encoder's outputs kept"
    return said


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def disk_of(folder: Path) -> int:
    """Return the number of the disk of a folder, which need not exist yet."""
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
