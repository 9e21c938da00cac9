"""One frozen tree of settings: defaults < profile < command line; unknown keys are errors.

Validation is pydantic's (MLflow already depends on it), on plain dataclasses, so that the tree
stays an ordinary Python object for everyone who imports it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from kmed_bench.config.fields import FORBID, Context, Count, Names, Seconds, Seeds, Speeds, none_word
from kmed_bench.config.tune import Range, TuneConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import SIZES

__all__ = [
    "PROFILES",
    "Config",
    "Context",
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "Range",
    "SplitConfig",
    "TrackingConfig",
    "TrainConfig",
    "TuneConfig",
    "adjust",
    "digest",
    "flatten",
    "load_config",
    "to_yaml",
]

PROFILES = ("demo", "original", "sound")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where speech comes from and which utterances are usable."""

    __pydantic_config__ = FORBID
    source: Annotated[str | None, BeforeValidator(none_word)] = None
    """Folder of an AI Hub 208 download; none: the generated demo corpus."""
    roles: Names = ("patient",)
    """Who speaks: any of patient, nurse, doctor."""
    transcript_side: Literal["pronunciation", "spelling"] = "pronunciation"
    """Which side of the dual notation (3)/(삼), spelling before pronunciation, training learns and scoring expects."""
    min_duration_s: Seconds = 0.3
    max_duration_s: Annotated[float, Field(gt=0, le=30)] = 30.0
    """Whisper's window; longer audio would be cut while its label is not."""
    truncation_tolerance_s: Seconds = 0.25
    """Audio shorter than its label's FileLength by more than this is rejected."""
    accepted_quality: Names = ("Good", "N/A")
    """Values of QualityStatus that are usable; N/A stands for a label that states none."""
    decode: bool = False
    """Read every usable recording whole: checksums, silence, clipping."""
    silence_level: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Decoded audio whose largest sample stays at or under this (1 is full scale) is silent."""
    clipped_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Decoded audio with more than this share of samples at full scale is clipped."""
    workers: Count = 2
    """Processes that read labels and audio headers of a large download."""
    demo_speakers: Annotated[int, Field(ge=4)] = 16
    demo_sentences: Annotated[int, Field(ge=12)] = 72
    demo_seed: int = 208


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How many utterances go into each part and what the parts may not share."""

    __pydantic_config__ = FORBID
    train: Count = 10_000
    valid: Count = 5_000
    test: Count = 1_000
    by: Names = ("dialect", "gender", "age")
    """Fields whose shares each part keeps."""
    disjoint: Names = ("speaker", "sentence")
    """What no two parts share: speaker, sentence, both, or none."""
    seed: Annotated[int, Field(ge=0)] = 0
    tolerance: Annotated[float, Field(ge=0, le=0.1)] = 0.005
    """How far a share may stand from its quota where the exact one can't be drawn, as a fraction of the part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which models are fine-tuned, and from which weights."""

    __pydantic_config__ = FORBID
    sizes: Names = SIZES
    weights: Annotated[str | None, BeforeValidator(none_word)] = None
    """A .pt file for the one size asked for; none: the order of `kmed-bench weights`."""
    skip_unavailable: bool = False
    """Leave a size out, by name, when its weights can't be had; otherwise that is an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tuning; the defaults are the published conditions."""

    __pydantic_config__ = FORBID
    seeds: Seeds = (0,)
    epochs: Count = 20
    batch_size: Count = 4
    lr: Annotated[float, Field(gt=0)] = 2e-5
    max_len: Annotated[int, Field(ge=8, le=448)] = 80
    """Label tokens per utterance; longer labels are left out and counted. Whisper's limit is 448."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's default in torch."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant as published, or falling to 0 at the last step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which the learning rate rises linearly to lr."""
    grad_clip: Annotated[float | None, BeforeValidator(none_word)] = None
    """Largest gradient norm; none: no clipping, as published."""
    micro_batches: Count = 1
    """Pieces in which a batch is computed; batch_size stays what an optimizer step sees."""
    patience: Annotated[int | None, Field(ge=1), BeforeValidator(none_word)] = None
    """Epochs without a lower decoded valid CER after which training stops; none: all epochs, as published."""
    freeze_encoder: bool = False
    """Train the decoder alone, on encoder output that is computed once."""
    lora_rank: Annotated[int | None, Field(ge=1, le=256), BeforeValidator(none_word)] = None
    """Rank of low-rank adapters on the attention's projections, merged for hand-off; none: all weights."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters: their product is multiplied by lora_alpha / lora_rank."""
    spec_augment: bool = False
    """Mask random bands of frequency and time in training (SpecAugment)."""
    speed_factors: Speeds = ()
    """Speeds that training draws from for each clip and epoch, such as 0.9,1,1.1; none: as recorded."""
    gradient_checkpointing: bool = False
    """Compute activations twice rather than keep them: less memory, about a third more time."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of forward and backward; weights and optimizer stay fp32. auto: bf16 where it is native."""
    checkpoint_steps: Count = 500
    """Optimizer steps between two saves of the training state; each epoch's end saves it too."""
    keep_checkpoints: Annotated[int, Field(ge=0)] = 0
    """Checkpoints kept beside the best one and the last training state: the latest others."""
    out_of_memory: Literal["stop", "halve"] = "stop"
    """halve: compute the batch in twice as many pieces and go on; batch_size stays the same."""
    features: Literal["fp32", "fp16"] = "fp32"
    """Number format of the features on disk."""
    feature_budget_gib: Annotated[float, Field(gt=0)] = 64.0
    """Disk that the cache of features may take, in GiB."""
    audio_context: Context = "full"
    """Window of training. full: every clip in Whisper's 30 s window; dynamic: the batch's own length, and 16 positions
    that stand for the window's silence. docs/decisions/010-training-context.md has what each of them teaches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Decoding and scoring."""

    __pydantic_config__ = FORBID
    batch_size: Count = 8
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder, and on GPUs of the decoder too. fp32: texts equal to openai-whisper's."""
    audio_context: Context = "full"
    """Window of decoding; full is what every Whisper runtime uses. dynamic: the batch's own length, and positions that
    stand for the window's silence; fast, close, not equal."""
    max_new_tokens: Annotated[int, Field(ge=8, le=224)] = 224
    """openai-whisper's own limit: half of the 448 text positions."""
    beam_size: Annotated[int, Field(ge=1, le=32)] = 1
    """Hypotheses that decoding follows at a time; 1 is greedy."""
    no_repeat_ngram_size: Annotated[int | None, Field(ge=2, le=224), BeforeValidator(none_word)] = None
    """Length of token n-grams that a transcript may hold only once, which ends loops; none: no guard, as Whisper.
    A Hangul syllable is one to three tokens, so that 8 lets short answers repeat."""
    min_group_clips: Count = 20
    min_group_speakers: Count = 5
    """Groups under either minimum are shown with their n and not ranked. With fewer than 6 speakers no
    difference can reach p < 0.05, and intervals cover less than they say (docs/LOG.md)."""
    bootstrap_draws: Count = 2_000
    bootstrap_seed: Annotated[int, Field(ge=0)] = 208


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and what is registered."""

    __pydantic_config__ = FORBID
    uri: Annotated[str | None, BeforeValidator(none_word)] = None
    """none: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working folder."""
    experiment: str = "kmed-bench"
    register: bool = True
    """Register the best checkpoint of each size as kmed-whisper-<size>, alias challenger."""
    log_checkpoints: bool = True
    """Store the best epoch's weights and the latest train.keep_checkpoints others as LoggedModels; superseded ones are
    deleted. On one file system they are links; elsewhere each takes 151 MB (tiny), 290 MB (base) or 967 MB (small)."""
    log_predictions: bool = False
    """Transcripts are patient speech: they reach MLflow only when asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a benchmark run."""

    __pydantic_config__ = FORBID
    profile: str = "sound"
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    tracking: TrackingConfig = TrackingConfig()
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)

    def __post_init__(self) -> None:
        unknown = [size for size in self.model.sizes if size not in SIZES]
        if unknown or not self.model.sizes:
            named = ", ".join(unknown) or "(none)"
            raise KmedError(f"model.sizes names {named}; choose from {', '.join(SIZES)}, separated by commas.")
        if self.model.weights is not None and len(self.model.sizes) != 1:
            raise KmedError(
                f"model.weights is one file ({self.model.weights}) but model.sizes names {len(self.model.sizes)} "
                "sizes; give the one size it belongs to."
            )
        if len(set(self.train.seeds)) != len(self.train.seeds) or not self.train.seeds:
            raise KmedError(f"train.seeds is {self.train.seeds}; give at least one seed, and each only once.")
        if self.data.min_duration_s >= self.data.max_duration_s:
            raise KmedError(
                f"data.min_duration_s ({self.data.min_duration_s}) must be under data.max_duration_s "
                f"({self.data.max_duration_s})."
            )


_ADAPTER = TypeAdapter(Config)


def load_config(profile: str = "sound", overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of a profile with overrides applied.

    Parameters
    ----------
    profile : str
        A name of ``PROFILES``, or a path to a YAML file with the same tree.
    overrides : mapping
        Dotted keys to values, such as ``{"train.lr": "1e-5"}``; texts are converted.

    Raises
    ------
    KmedError
        For an unknown profile, an unknown key or a value outside its limits.
    """
    return _build({**_read_profile(profile), "profile": Path(profile).stem}, overrides or {})


def adjust(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return settings with some of them replaced, under the same checks as ``load_config``.

    Parameters
    ----------
    overrides : mapping
        Dotted keys to values, such as ``{"train.lr": 1e-5}``.

    Raises
    ------
    KmedError
        For an unknown key or a value outside its limits.
    """
    return _build(dataclasses.asdict(config), overrides)


def _build(tree: dict[str, Any], overrides: Mapping[str, Any]) -> Config:
    for key, value in overrides.items():
        *rooms, leaf = key.split(".")
        node = tree
        for room in rooms:
            node = node.setdefault(room, {})
            if not isinstance(node, dict):
                raise KmedError(f"{key!r} is not a setting: {room!r} holds a value, not a group.")
        node[leaf] = value
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        raise KmedError(_explain(error)) from None


def _read_profile(profile: str) -> dict[str, Any]:
    if profile in PROFILES:
        text = (resources.files("kmed_bench") / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8")
    elif Path(profile).is_file():
        text = Path(profile).read_text(encoding="utf-8")
    else:
        raise KmedError(f"Profile {profile!r} is unknown; choose {', '.join(PROFILES)}, or give a YAML file's path.")
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise KmedError(f"Profile {profile} is not valid YAML: {error}.") from None
    if not isinstance(tree, dict):
        raise KmedError(f"Profile {profile} must be a YAML mapping of settings; it is a {type(tree).__name__}.")
    return tree


def _explain(error: ValidationError) -> str:
    parts = []
    for fault in error.errors():
        key = ".".join(str(step) for step in fault["loc"])
        if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            parts.append(f"{key!r} is not a setting; the settings are: {', '.join(flatten(Config()))}.")
        else:
            parts.append(f"{key} is {fault['input']!r}: {fault['msg']}.")
    return " ".join(parts)


def flatten(config: Config) -> dict[str, Any]:
    """Return dotted keys to values, lists joined by commas, in the tree's order."""

    def walk(prefix: str, node: Any) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                flat |= walk(f"{prefix}{field.name}.", value)
            elif isinstance(value, Mapping):
                flat[prefix + field.name] = json.dumps(value, default=dataclasses.asdict)
            else:
                flat[prefix + field.name] = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
        return flat

    return walk("", config)


def to_yaml(config: Config) -> str:
    """Return the whole tree as YAML that ``load_config`` reads back as a profile file."""
    tree = json.loads(json.dumps(dataclasses.asdict(config)))
    del tree["profile"]
    text: str = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    return text


def digest(value: Any) -> str:
    """Return a 16-digit SHA-256 of settings, equal for equal values on every machine."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
