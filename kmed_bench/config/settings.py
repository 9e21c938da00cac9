"""The frozen tree of settings. The texts below the fields are what `--help` and `kmed-bench settings` print."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from kmed_bench.config.curve import CurveConfig
from kmed_bench.config.fields import (
    NONE,
    Context,
    Count,
    Decides,
    Names,
    Positive,
    Seeds,
    Share,
    Speeds,
    Whole,
    group,
)
from kmed_bench.config.gate import GateConfig
from kmed_bench.config.slurm import SlurmConfig
from kmed_bench.config.tune import TuneConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import Language
from kmed_bench.core.schema import SIZES
from kmed_bench.text.marks import Policy


@group
class DataConfig:
    """Where the speech comes from and which utterances are usable."""

    source: Annotated[str | None, NONE, Decides.DATA] = None
    """Folder of an AI Hub 208 download, or one with the manifest that `import-corpus` or `ingest` wrote. none: the
    generated demo corpus. A benchmark is recognized by the folder's last name only, so the download may be moved."""
    roles: Annotated[Names, Decides.DATA] = ("patient",)
    """Whose speech is used: any of patient, nurse and doctor."""
    transcript_side: Annotated[Policy, Decides.TRAINING | Decides.SCORING] = "pronunciation"
    """Side of the dual notation (3)/(삼), spelling before pronunciation, that training learns and scoring expects."""
    min_duration_s: Annotated[Positive, Decides.DATA] = 0.3
    """Shortest usable recording, in seconds."""
    max_duration_s: Annotated[float, Field(gt=0, le=30), Decides.DATA] = 30.0
    """Longest usable recording, in seconds. Whisper's window is 30 s; longer audio would be cut, but not its label."""
    truncation_tolerance_s: Annotated[Positive, Decides.DATA] = 0.25
    """Seconds by which audio may be shorter than its label's FileLength before it is rejected as truncated."""
    accepted_quality: Annotated[Names, Decides.DATA] = ("Good", "N/A")
    """Values of QualityStatus that are usable. N/A stands for a label that states none."""
    decode: Annotated[bool, Decides.DATA] = False
    """Whether every usable recording is read in full, to check checksums, silence and clipping."""
    silence_level: Annotated[Share, Decides.DATA] = 0.001
    """Decoded audio is silent if its largest sample is at or below this level (1 is full scale)."""
    clipped_share: Annotated[Share, Decides.DATA] = 0.001
    """Decoded audio is clipped if more than this fraction of its samples is at full scale."""
    workers: Annotated[Count, Decides.NOTHING] = 2
    """Processes that read the labels and audio headers of a large download."""
    demo_speakers: Annotated[int, Field(ge=4), Decides.DATA] = 16
    """Speakers of the generated demo corpus."""
    demo_sentences: Annotated[int, Field(ge=12), Decides.DATA] = 72
    """Different sentences of the generated demo corpus."""
    demo_seed: Annotated[int, Decides.DATA] = 208
    """Random seed of the generated demo corpus: who reads which sentence, the voices, the planted defects."""


@group
class SplitConfig:
    """How many utterances each part has and what the parts may not share."""

    train: Annotated[Count, Decides.DATA] = 10_000
    """Utterances of the training part."""
    valid: Annotated[Count, Decides.DATA] = 5_000
    """Utterances of the validation part, by which epochs are selected."""
    test: Annotated[Count, Decides.DATA] = 1_000
    """Utterances of the test part, which is scored once, after selection."""
    by: Annotated[Names, Decides.DATA] = ("dialect", "gender", "age")
    """Fields whose shares in the corpus each part keeps: any of dialect, gender and age."""
    disjoint: Annotated[Names, Decides.DATA] = ("speaker", "sentence")
    """What no two parts share: speaker, sentence, both, or none."""
    seed: Annotated[Whole, Decides.DATA] = 0
    """Random seed of the draw."""
    tolerance: Annotated[float, Field(ge=0, le=0.1), Decides.DATA] = 0.005
    """How far a share may deviate from its quota where the exact one can't be drawn, as a fraction of the part."""


@group
class ModelConfig:
    """Which models are fine-tuned, and from which weights."""

    sizes: Annotated[Names, Decides.BENCHMARK] = SIZES
    """Whisper sizes to train: any of tiny, base and small."""
    weights: Annotated[str | None, NONE, Decides.NOTHING] = None
    """A .pt file with the initial weights of the one size in model.sizes. none: the sources that `kmed-bench weights`
    lists. A training is identified by the SHA-256 of its weights, not by their path."""
    skip_unavailable: Annotated[bool, Decides.NOTHING] = False
    """Whether a size whose weights can't be obtained is skipped with a message. Otherwise it is an error."""


@group
class FeaturesConfig:
    """The cache of log-mel features and encoder outputs, in the folder KMED_CACHE."""

    dtype: Annotated[Literal["fp32", "fp16"], Decides.TRAINING | Decides.DECODING] = "fp32"
    """Number format on disk. fp16 takes half the space and rounds log-mel values by at most 0.001."""
    cache_gib: Annotated[Positive, Decides.NOTHING] = 64.0
    """Disk space that the cache may take, in GiB. Beyond it, the run stops with the names of what can be removed."""


@group
class TrainConfig:
    """Fine-tuning. The defaults are the published conditions."""

    seeds: Annotated[Seeds, Decides.BENCHMARK] = (0,)
    """Random seeds, one training each: they decide the order of clips and everything drawn at random."""
    epochs: Annotated[Count, Decides.TRAINING] = 20
    """Passes over the training part. Under a constant schedule an unfinished training may be resumed with more."""
    batch_size: Annotated[Count, Decides.TRAINING] = 4
    """Clips per optimizer step, over all processes and micro-batches."""
    lr: Annotated[Positive, Decides.TRAINING] = 2e-5
    """Learning rate of AdamW; with a warm-up or a schedule, its highest value."""
    max_len: Annotated[int, Field(ge=8, le=448), Decides.TRAINING] = 80
    """Most label tokens per utterance; longer labels are left out of the loss and counted. Whisper's limit is 448."""
    weight_decay: Annotated[float, Field(ge=0), Decides.TRAINING] = 0.01
    """Weight decay of AdamW. 0.01 is torch's default."""
    schedule: Annotated[Literal["constant", "linear", "cosine"], Decides.TRAINING] = "constant"
    """Learning rate after the warm-up: constant as published, or decaying to 0 at the last step."""
    warmup_steps: Annotated[Whole, Decides.TRAINING] = 0
    """Optimizer steps over which the learning rate rises linearly to train.lr."""
    grad_clip: Annotated[Positive | None, NONE, Decides.TRAINING] = None
    """Largest norm of the gradient; larger gradients are scaled down to it. none: no clipping, as published."""
    micro_batches: Annotated[Count, Decides.NOTHING] = 1
    """Pieces in which a batch is computed, to save memory. train.batch_size remains what an optimizer step sees."""
    patience: Annotated[Annotated[int, Field(ge=1)] | None, NONE, Decides.TRAINING] = None
    """Epochs without a lower decoded validation CER after which training stops. none: all epochs, as published."""
    freeze_encoder: Annotated[bool, Decides.TRAINING] = False
    """Whether only the decoder is trained, on encoder output that is computed once."""
    lora_rank: Annotated[Annotated[int, Field(ge=1, le=256)] | None, NONE, Decides.TRAINING] = None
    """Rank of low-rank adapters on the attention projections, merged into the weights of each checkpoint. none: all
    weights are trained."""
    lora_alpha: Annotated[Positive, Decides.TRAINING] = 16.0
    """Scale of the adapters: their product is multiplied by lora_alpha / lora_rank."""
    spec_augment: Annotated[bool, Decides.TRAINING] = False
    """Whether random bands of frequency and time are masked in training (SpecAugment)."""
    speed_factors: Annotated[Speeds, Decides.TRAINING] = ()
    """Playback speeds drawn for each clip and epoch, such as 0.9,1,1.1. none: as recorded."""
    gradient_checkpointing: Annotated[bool, Decides.NOTHING] = False
    """Whether activations are recomputed instead of stored: less memory, about a third more time."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Decides.TRAINING] = "auto"
    """Arithmetic of forward and backward passes; weights and optimizer stay fp32. auto: bf16 where it is native."""
    deterministic: Annotated[bool, Decides.NOTHING] = False
    """Whether a GPU gives the same bits in every run, as a CPU does, in about a quarter more time. Otherwise a resumed
    or repeated training differs by rounding."""
    checkpoint_steps: Annotated[Count, Decides.NOTHING] = 500
    """Optimizer steps between saves of the training state, which is also saved at the end of each epoch."""
    keep_checkpoints: Annotated[Whole, Decides.NOTHING] = 0
    """How many of the latest epochs' checkpoints are kept besides the best one."""
    out_of_memory: Annotated[Literal["stop", "halve"], Decides.NOTHING] = "stop"
    """What a lack of memory does. stop: ends the training; halve: doubles train.micro_batches and continues."""
    audio_context: Annotated[Context, Decides.TRAINING] = "full"
    """Window of training. full: every clip in Whisper's 30 s window; dynamic: the length of the batch, and 16 positions
    that represent the window's silence. docs/decisions/010-training-context.md compares what they teach."""


@group
class EvalConfig:
    """Decoding and scoring."""

    batch_size: Annotated[Count, Decides.DECODING] = 8
    """Clips decoded at a time. On a GPU this holds for beams and for the dynamic window; greedy decoding in the full
    window takes as many clips as memory holds, at most 256."""
    precision: Annotated[Literal["fp32", "bf16"], Decides.DECODING] = "fp32"
    """Arithmetic of the encoder and of the decoder's attention to its output; the rest of the decoder computes in fp32,
    on GPUs too. fp32: texts equal to openai-whisper's."""
    audio_context: Annotated[Context, Decides.DECODING] = "full"
    """Window of decoding. full: 30 s, as in every Whisper runtime; dynamic: the clip's length in steps of 0.64 s, and
    positions that represent the window's silence, which is faster and close, but not equal."""
    max_new_tokens: Annotated[int, Field(ge=8, le=224), Decides.DECODING] = 224
    """Most tokens of a transcript. openai-whisper's limit is 224, half of the 448 text positions."""
    beam_size: Annotated[int, Field(ge=1, le=32), Decides.DECODING] = 1
    """Hypotheses followed at a time. 1: greedy decoding."""
    no_repeat_ngram_size: Annotated[Annotated[int, Field(ge=2, le=224)] | None, NONE, Decides.DECODING] = None
    """No n-gram of this many tokens may occur twice in a transcript, which ends loops. none: off, as in openai-whisper.
    A Hangul syllable is one to three tokens, so 8 still lets short answers repeat."""
    leak_clips: Annotated[Annotated[int, Field(ge=1)] | None, NONE, Decides.BENCHMARK] = None
    """Most left-out utterances to decode from each cell (speaker or sentence seen in training, or both), drawn with
    split.seed, to show how much of the gain a leaking split would add. none: they are not decoded."""
    min_group_clips: Annotated[Count, Decides.SCORING] = 20
    """Fewest clips of a subgroup; smaller ones are shown with their n and not ranked."""
    min_group_speakers: Annotated[Count, Decides.SCORING] = 5
    """Fewest speakers of a subgroup; smaller ones are shown with their n and not ranked. With fewer than 6 speakers no
    difference can reach p < 0.05, and intervals cover less than they claim where clips loop
    (docs/decisions/006-intervals.md)."""
    bootstrap_draws: Annotated[Count, Decides.SCORING] = 2_000
    """Random sign patterns of speakers behind a p-value of over 12 speakers, and samples of speakers behind the
    interval of a learning curve."""
    bootstrap_seed: Annotated[Whole, Decides.SCORING] = 208
    """Random seed of the sign patterns and samples."""


@group
class TrackingConfig:
    """Where MLflow keeps runs and what is registered."""

    uri: Annotated[str | None, NONE, Decides.NOTHING] = None
    """Address of the tracking store. none: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working folder."""
    experiment: Annotated[str | None, NONE, Decides.NOTHING] = None
    """MLflow experiment of benchmarks and single trainings. none: MLFLOW_EXPERIMENT_NAME, else kmed-bench."""
    register: Annotated[bool, Decides.NOTHING] = True
    """Whether the best checkpoint of each training is registered as kmed-whisper-SIZE, with its verdict as a tag and
    the alias challenger for the best of its split by valid CER, which the gate still has to judge."""
    sign_key: Annotated[str | None, NONE, Decides.NOTHING] = None
    """PEM file of an Ed25519 private key, without a passphrase, which signs the passport of each registered model.
    none: passports are not signed."""
    step_interval: Annotated[Count | None, NONE, Decides.NOTHING] = 50
    """Optimizer steps between the points of the curves step/loss, step/lr and step/grad_norm. none: no such curves."""
    system_metrics: Annotated[bool, Decides.NOTHING] = False
    """Whether the use of processor, memory, disk, network and, with nvidia-ml-py, GPU is logged during training."""
    log_checkpoints: Annotated[bool, Decides.NOTHING] = True
    """Whether the best epoch's weights and the train.keep_checkpoints latest others are stored as LoggedModels;
    superseded ones are deleted, and the best one when its model is registered. On one file system they are links;
    elsewhere each takes 151 MB (tiny), 290 MB (base) or 967 MB (small)."""
    log_predictions: Annotated[bool, Decides.NOTHING] = False
    """Whether transcripts, and ids of utterances that ingest names as examples, are logged to MLflow. They are patient
    speech, and ids may say who speaks."""


@group
class ReportConfig:
    """How pages are written."""

    lang: Annotated[Language, Decides.NOTHING] = "en"
    """Language of the pages and of a paper's texts: en or ko. Tables for programs (CSV, JSON) and the tracking store
    stay English."""


@group
class Config:
    """All settings."""

    profile: Annotated[str, Decides.NOTHING] = "sound"
    """Name of the profile, set by --profile."""
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    features: FeaturesConfig = FeaturesConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    tracking: TrackingConfig = TrackingConfig()
    report: ReportConfig = ReportConfig()
    gate: GateConfig = GateConfig()
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)
    curve: CurveConfig = CurveConfig()
    slurm: SlurmConfig = SlurmConfig()

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
