"""One frozen tree of settings: defaults < profile < command line; unknown keys are errors.

Validation is pydantic's (MLflow already depends on it), on plain dataclasses: importers get an ordinary Python object.
"""

from kmed_bench.config.curve import CurveConfig
from kmed_bench.config.fields import Context, Decides
from kmed_bench.config.gate import GateConfig
from kmed_bench.config.identity import (
    benchmark_digest,
    confirmation_digest,
    curve_digest,
    digest,
    study_setup,
    training_digest,
)
from kmed_bench.config.load import PROFILES, adjust, config_from_tree, flatten, load_config, to_yaml
from kmed_bench.config.settings import (
    Config,
    DataConfig,
    EvalConfig,
    FeaturesConfig,
    ModelConfig,
    SplitConfig,
    TrackingConfig,
    TrainConfig,
)
from kmed_bench.config.slurm import SlurmConfig
from kmed_bench.config.tune import Range, TuneConfig

__all__ = [
    "PROFILES",
    "Config",
    "Context",
    "CurveConfig",
    "DataConfig",
    "Decides",
    "EvalConfig",
    "FeaturesConfig",
    "GateConfig",
    "ModelConfig",
    "Range",
    "SlurmConfig",
    "SplitConfig",
    "TrackingConfig",
    "TrainConfig",
    "TuneConfig",
    "adjust",
    "benchmark_digest",
    "config_from_tree",
    "confirmation_digest",
    "curve_digest",
    "digest",
    "flatten",
    "load_config",
    "study_setup",
    "to_yaml",
    "training_digest",
]
