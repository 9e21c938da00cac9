"""Features of a split, and training on it: epochs with the decoded scores of the valid part."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.device_store import DeviceFeatures, fits
from kmed_bench.asr.features.store import FeatureSource, FeatureStore, build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import Config, EvalConfig, TrainConfig
from kmed_bench.core.files import cache_folder
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.progress import Tick, track
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.scoring.measures import count_utterances, rates
from kmed_bench.text.marks import Policy
from kmed_bench.training import adapt
from kmed_bench.training.batches import Example, build_examples
from kmed_bench.training.curves import StepCurve
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
        Part to its features.
    speeds : dict
        Speed to the training part's features at that speed; empty if training uses the recordings as they are.
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


def featurize_split(split: Split, cache: Path, config: Config, parts: Sequence[str] | None = None) -> FeaturizedSplit:
    """Return a split with the features of its parts, computed unless the cache folder has them.

    Parameters
    ----------
    config : Config
        Its ``features``, and the speeds that training draws from.
    parts : sequence of str, optional
        Names of the parts; None: all that the split has.
    """
    features, budget = config.features, int(config.features.cache_gib * 2**30)

    def build(part: str, speed: float = 1.0) -> FeatureStore:
        label = f"Features of {part}" + (f" at speed {speed:g}" if speed != 1 else "")
        with track(label) as tick:
            return build_features(
                split.parts[part], cache, dtype=features.dtype, speed=speed, budget_bytes=budget, progress=tick
            )

    parts = tuple(split.parts) if parts is None else parts
    stores = {part: build(part) for part in parts}
    speeds = {speed: build("train", speed) for speed in config.train.speed_factors} if "train" in parts else {}
    return FeaturizedSplit(split, stores, speeds)


def training_examples(speech: FeaturizedSplit, part: str, config: Config) -> tuple[list[Example], list[str]]:
    """Return a part's examples, and the ids of clips left out because their label is too long."""
    return build_examples(
        speech.split.parts[part],
        speech.stores[part],
        policy=config.data.transcript_side,
        max_len=config.train.max_len,
        tokenizer=korean_tokenizer(),
    )


def train_epochs(
    model: Whisper,
    speech: FeaturizedSplit,
    config: Config,
    *,
    seed: int,
    progress: Tick | None = None,
    states: StateKeeper | None = None,
    parallel: Parallel | None = None,
    curve: StepCurve | None = None,
) -> Iterator[ScoredEpoch]:
    """Yield each epoch with decoded valid scores until the epochs or the patience are used up.

    The model holds the epoch's weights until the next epoch is requested. Closing the generator ends training.

    Parameters
    ----------
    progress : callable
        Called with the steps done and those of all epochs.
    states : StateKeeper, optional
        Saves what a resumed training needs, among it the epochs so far; see `earlier_epochs`.
    curve : StepCurve, optional
        Is given each step's figures when they are read.

    Raises
    ------
    KmedError
        When the loss is not finite, memory runs out or no label can be learned.
    """
    parallel = parallel or Parallel()
    done = earlier_epochs(states)
    train, valid = (training_examples(speech, part, config)[0] for part in ("train", "valid"))
    kept = _on_device(speech, model.device)
    results = fit(
        model,
        train,
        _training_source(model, speech, kept["train"], train, config, parallel),
        valid,
        kept["valid"],
        config.train,
        seed=seed,
        progress=progress,
        states=states,
        parallel=parallel,
        curve=curve,
    )
    if _out_of_patience(done, config.train.patience):
        state = states.load() if states else None
        if state is not None:  # nothing is left to train, but the caller still gets the last epoch's weights
            adapt.prepare(model, config.train)
            model.load_state_dict(state["model"])
        return
    for result in results:
        started = time.perf_counter()
        predictions = decode_part(model, speech, "valid", config.eval, parallel, features=kept["valid"])
        decode_s = (time.perf_counter() - started) / len(predictions)
        scores = part_rates(predictions, config.data.transcript_side)
        scored = ScoredEpoch(
            **dataclasses.asdict(result), valid_cer=scores["cer"], valid_wer=scores["wer"], decode_s=decode_s
        )
        yield scored
        # Only now: a training that stopped while this epoch was being recorded resumes before it.
        done.append(scored)
        if states:
            states.account["epochs"] = [dataclasses.asdict(epoch) for epoch in done]
        if _out_of_patience(done, config.train.patience):
            return


def earlier_epochs(states: StateKeeper | None) -> list[ScoredEpoch]:
    """Return the epochs that the state to resume from holds; none without one."""
    return [ScoredEpoch(**epoch) for epoch in states.account.get("epochs", [])] if states else []


def _on_device(speech: FeaturizedSplit, device: torch.device) -> dict[str, FeatureSource]:
    """Return the features of the training and the valid part, in a GPU's memory if there is room."""
    stores = {part: speech.stores[part] for part in ("train", "valid")}
    if not fits(sum(store.n_bytes for store in stores.values()), device):
        return dict(stores)
    rows = speech.split.parts
    return {part: DeviceFeatures(store, rows[part]["utterance_id"].tolist(), device) for part, store in stores.items()}


def keeps_encoder_outputs(train: TrainConfig) -> bool:
    """Return whether training reads a frozen encoder's outputs, which are then computed once."""
    return train.freeze_encoder and not (train.lora_rank or train.spec_augment or train.speed_factors)


def _training_source(
    model: Whisper,
    speech: FeaturizedSplit,
    kept: FeatureSource,
    train: Sequence[Example],
    config: Config,
    parallel: Parallel,
) -> TrainingSource:
    if speech.speeds:
        return SpeedPerturbedSource(speech.speeds)
    if config.train.spec_augment:  # drawn and masked on the CPU, where random numbers are the same on every machine
        return LogMelSource(speech.stores["train"])
    if not keeps_encoder_outputs(config.train):
        return LogMelSource(kept)
    # A frozen encoder that reads the same in each epoch is computed once.
    with parallel.main_first(), track("Encoder outputs of train") as tick:
        store = build_encoder_outputs(
            model,
            speech.stores["train"],
            [e.utterance_id for e in train],
            cache_folder() / "features",
            context=config.train.audio_context,
            dtype=config.features.dtype,
            budget_bytes=int(config.features.cache_gib * 2**30),
            progress=tick,
        )
    return EncoderOutputSource(store)


def _out_of_patience(epochs: Sequence[ScoredEpoch], patience: int | None) -> bool:
    if patience is None or not epochs:
        return False
    return epochs[-1].epoch - best_of(epochs).epoch >= patience


def best_of(epochs: Sequence[ScoredEpoch]) -> ScoredEpoch:
    """Return the epoch with the lowest decoded valid CER, the first of equals."""
    return min(epochs, key=lambda epoch: (epoch.valid_cer, epoch.epoch))


def decode_part(
    model: Whisper,
    speech: FeaturizedSplit,
    part: str,
    config: EvalConfig,
    parallel: Parallel | None = None,
    *,
    features: FeatureSource | None = None,
) -> list[Prediction]:
    """Return a part's decoded transcripts in its order; the clips are dealt to the processes.

    Parameters
    ----------
    features : FeatureSource, optional
        The part's features where they are not read from the split's store.
    """
    parallel, rows = parallel or Parallel(), speech.split.parts[part]
    share = rows.iloc[parallel.rank :: parallel.world]
    options = DecodingOptions.from_config(config)
    with track(f"Decoding {part}") as tick:
        predictions = predict_part(model, share, features or speech.stores[part], options, progress=tick)
    decoded = {prediction.utterance_id: prediction for prediction in parallel.gather(predictions)}
    return [decoded[name] for name in rows["utterance_id"]]


def part_rates(predictions: list[Prediction], side: Policy) -> dict[str, float]:
    """Return the error rates of decoded transcripts against a side of the dual notation, without undefined ones."""
    every = rates(count_utterances(predictions, side))
    return {name: value for name, value in every.items() if value is not None}
