"""Stages that need the model: features of a split, epochs with decoded scores, metrics of scores."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import FeatureStore, build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import cache_folder
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Config, EvalConfig, TrainConfig
from kmed_bench.core.console import Narrator, Tick
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import PARTS
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.scoring.measures import count_utterances, rates
from kmed_bench.training import adapt
from kmed_bench.training.batches import Example, build_examples
from kmed_bench.training.encoder_outputs import build_encoder_outputs
from kmed_bench.training.fit import EpochResult, fit
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.sources import EncoderOutputSource, LogMelSource, SpeedPerturbedSource, TrainingSource
from kmed_bench.training.state import StateKeeper


@dataclasses.dataclass(frozen=True)
class FeaturizedSplit:
    """A split with its features, shared by every size and seed.

    Attributes
    ----------
    stores : dict
        Part to frame store.
    speeds : dict
        Speed to the training part's frame store at that speed; empty where training keeps to the recordings.
    """

    split: Split
    stores: dict[str, FeatureStore]
    speeds: dict[float, FeatureStore] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredEpoch(EpochResult):
    """An epoch with the decoded scores of the valid part.

    Attributes
    ----------
    valid_cer, valid_wer : float
        Of decoded transcripts, as fractions.
    decode_s : float
        Seconds of decoding a valid clip, on average.
    """

    valid_cer: float
    valid_wer: float
    decode_s: float

    def metrics(self) -> dict[str, float]:
        """Return the epoch's metrics under the names of the tracking store."""
        return {
            "train/loss": self.train_loss,
            "train/cer_teacher_forced": self.train_cer_teacher_forced,
            "valid/loss": self.valid_loss,
            "valid/cer": self.valid_cer,
            "valid/wer": self.valid_wer,
            "time/epoch_s": self.epoch_s,
        }


def featurize_split(
    split: Split, cache: Path, narrator: Narrator, parts: Sequence[str] = PARTS, train: TrainConfig | None = None
) -> FeaturizedSplit:
    """Return a split with the features of its parts, made or found in the cache folder.

    Parameters
    ----------
    train : TrainConfig, optional
        Training's settings, for the format of the features and the speeds it draws from.
    """
    form = train or TrainConfig()
    budget = int(form.feature_budget_gib * 2**30)

    def build(part: str, speed: float = 1.0) -> FeatureStore:
        label = f"Features of {part}" + (f" at speed {speed:g}" if speed != 1 else "")
        with narrator.track(label) as tick:
            return build_features(
                split.parts[part], cache, dtype=form.features, speed=speed, budget_bytes=budget, progress=tick
            )

    stores = {part: build(part) for part in parts}
    speeds = {speed: build("train", speed) for speed in form.speed_factors} if "train" in parts else {}
    return FeaturizedSplit(split, stores, speeds)


def training_examples(speech: FeaturizedSplit, part: str, config: Config) -> tuple[list[Example], list[str]]:
    """Return a part's examples, and the ids of those whose label is too long to be learned."""
    return build_examples(
        speech.split.parts[part],
        speech.stores[part],
        policy=config.eval.policy,
        max_len=config.train.max_len,
        tokenizer=korean_tokenizer(),
    )


def train_epochs(
    model: Whisper,
    speech: FeaturizedSplit,
    config: Config,
    *,
    seed: int,
    progress: Callable[[int, int, int], None] | None = None,
    states: StateKeeper | None = None,
    parallel: Parallel | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[ScoredEpoch]:
    """Yield each epoch with decoded valid scores, until the epochs or the patience are used up.

    The model holds the epoch's weights until the next is asked for. Closing the generator ends training.

    Parameters
    ----------
    progress : callable
        Called with (epoch, steps done, steps of the epoch).
    states : StateKeeper, optional
        Saves what a resumed training needs. Its account holds the epochs so far under ``epochs``.

    Raises
    ------
    KmedError
        When the loss is not finite, memory runs out or no label can be learned.
    """
    parallel = parallel or Parallel()
    account: dict[str, Any] = states.account if states else {}
    done: list[dict[str, Any]] = account.setdefault("epochs", [])
    train, valid = (training_examples(speech, part, config)[0] for part in ("train", "valid"))
    results = fit(
        model,
        train,
        _training_source(model, speech, train, config.train, parallel),
        valid,
        speech.stores["valid"],
        config.train,
        seed=seed,
        progress=progress,
        states=states,
        parallel=parallel,
        say=say,
    )
    if _out_of_patience(done, config.train.patience):
        found = states.load() if states else None
        if found is not None:  # nothing is left to train, but the caller still gets the last epoch's weights
            adapt.prepare(model, config.train)
            model.load_state_dict(found["model"])
        return
    for result in results:
        started = time.perf_counter()
        predictions = decode_shared(model, speech, "valid", config.eval, parallel)
        decode_s = (time.perf_counter() - started) / len(predictions)
        found = part_rates(predictions, config.eval)
        scored = ScoredEpoch(
            **dataclasses.asdict(result), valid_cer=found["cer"], valid_wer=found["wer"], decode_s=decode_s
        )
        yield scored
        # Only now: whoever stopped while this epoch was being recorded goes on from before it.
        done.append(dataclasses.asdict(scored))
        if _out_of_patience(done, config.train.patience):
            return


def _training_source(
    model: Whisper, speech: FeaturizedSplit, train: Sequence[Example], config: TrainConfig, parallel: Parallel
) -> TrainingSource:
    if speech.speeds:
        return SpeedPerturbedSource(speech.speeds)
    if not config.freeze_encoder or config.spec_augment or config.lora_rank:
        return LogMelSource(speech.stores["train"])
    # A frozen encoder that reads the same in each epoch is computed once.
    with parallel.main_first():
        store = build_encoder_outputs(
            model,
            speech.stores["train"],
            [e.utterance_id for e in train],
            cache_folder() / "features",
            context=config.audio_context,
            dtype=config.features,
            budget_bytes=int(config.feature_budget_gib * 2**30),
        )
    return EncoderOutputSource(store)


def _out_of_patience(epochs: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    if patience is None or not epochs:
        return False
    return bool(epochs[-1]["epoch"] - best_of(epochs)["epoch"] >= patience)


def best_of(epochs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the epoch with the lowest decoded valid CER, the first of equals."""
    return min(epochs, key=lambda row: (row["valid_cer"], row["epoch"]))


def decode_part(
    model: Whisper, speech: FeaturizedSplit, part: str, config: EvalConfig, progress: Tick | None = None
) -> list[Prediction]:
    """Return a part's decoded transcripts under the settings of evaluation."""
    return decode_shared(model, speech, part, config, Parallel(), progress)


def decode_shared(
    model: Whisper,
    speech: FeaturizedSplit,
    part: str,
    config: EvalConfig,
    parallel: Parallel,
    progress: Tick | None = None,
) -> list[Prediction]:
    """Return a part's decoded transcripts in its order, the clips dealt to the processes."""
    rows = speech.split.parts[part]
    options = DecodingOptions.from_config(config)
    share = rows.iloc[parallel.rank :: parallel.world]
    predictions = predict_part(model, share, speech.stores[part], options, progress=progress)
    decoded = {prediction.utterance_id: prediction for prediction in parallel.gather(predictions)}
    return [decoded[name] for name in rows["utterance_id"]]


def part_rates(predictions: list[Prediction], config: EvalConfig) -> dict[str, float]:
    """Return the rates of decoded transcripts that are defined."""
    found = rates(count_utterances(predictions, config.policy))
    return {name: value for name, value in found.items() if value is not None}
