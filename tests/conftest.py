"""Fixtures that every test module shares."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from long_files import LONGEST

from kmed_bench.core.progress import restart_progress

if TYPE_CHECKING:
    import pandas as pd
    from slurm_cluster import Cluster

    from kmed_bench.asr.features.store import FeatureStore
    from kmed_bench.training.batches import Example

# Before anything imports mlflow: no telemetry, also in the tests' child processes.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[1]


def real_speech_folder() -> Path | None:
    """Return the shared recordings' folder, or None where they are not."""
    named = os.environ.get("KMED_REAL_SPEECH")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "korean-speech"
    return folder if (folder / "Training").is_dir() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # several workers; files stay whole, since the sort is stable
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if real_speech_folder() is None:
        reason = "the shared Korean recordings are not here; set KMED_REAL_SPEECH to their folder"
        for item in items:
            if item.get_closest_marker("real_speech"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stand in a folder of the tests' own: what MLflow or a command writes by default does not land in the checkout."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("standing"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _no_silence_before() -> None:
    """Start counting: no line of progress is due in a test because those before it showed none."""
    restart_progress()


@contextlib.contextmanager
def _mlflow_as_before() -> Iterator[None]:
    """Put back MLflow's store and variables: MLflow sets some of these itself, for child processes."""

    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}

    def store() -> str | None:
        service = sys.modules.get("mlflow.tracking._tracking_service.utils")  # most tests do not import mlflow
        return getattr(service, "_tracking_uri", None)

    variables, uri = ours(), store()
    yield
    if store() != uri:
        sys.modules["mlflow"].set_tracking_uri(uri)
    for name in ours().keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


@pytest.fixture(scope="module", autouse=True)
def _mlflow_as_before_the_module() -> Iterator[None]:
    with _mlflow_as_before():
        yield


@pytest.fixture(autouse=True)
def _mlflow_as_before_the_test() -> Iterator[None]:
    with _mlflow_as_before():
        yield


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """The shared recordings, laid out as a download."""
    folder = real_speech_folder()
    assert folder is not None  # tests that use this carry the marker real_speech
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper with the real vocabulary and window but hardly any layers, seeded."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    from kmed_bench.asr.model.weights import save_weights

    torch.manual_seed(0)
    model = Whisper(ModelDimensions(80, 1500, 64, 2, 1, 51865, 448, 64, 2, 1))
    # openai-whisper leaves this uninitialised, since it expects to load weights.
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.05)
    path = tmp_path_factory.mktemp("tiny") / "tiny-random.pt"
    save_weights(model, path)
    return path


@pytest.fixture(scope="session")
def tone_part(tmp_path_factory: pytest.TempPathFactory) -> "pd.DataFrame":
    """Twelve short synthetic tones with Korean labels, as rows of a manifest."""
    import numpy as np
    import pandas as pd
    import soundfile

    from kmed_bench.core.schema import MANIFEST_COLUMNS

    folder = tmp_path_factory.mktemp("tones")
    labels = ("머리가 아파요.", "네", "약을 (3)/(세) 번 먹었어요", "열이 나요")
    rows = []
    for i in range(12):
        seconds = 0.5 + 0.13 * i
        time = np.arange(int(48_000 * seconds)) / 48_000
        path = folder / f"PA_{i % 4:04d}-{i:04d}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 40 * i) * time), 48_000, subtype="PCM_16")
        row = dict.fromkeys(MANIFEST_COLUMNS, "N/A")
        row |= {"utterance_id": path.stem, "audio": str(path), "speaker_id": f"PA_{i % 4:04d}"}
        row |= {"sentence_id": f"s{i % 4}", "text": labels[i % 4], "role": "patient"}
        rows.append({**row, "duration_s": seconds, "rate_hz": 48_000})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def slurm() -> "Iterator[Cluster]":
    """A running Slurm cluster, which commands find by SLURM_CONF; skipped where Slurm is not installed."""
    from slurm_cluster import running_slurm

    with running_slurm() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for stores of features."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store(tone_part: "pd.DataFrame", cache: Path) -> "FeatureStore":
    """The tones' frames."""
    from kmed_bench.asr.features.store import build_features

    return build_features(tone_part, cache)


@pytest.fixture(scope="module")
def examples(tone_part: "pd.DataFrame", store: "FeatureStore") -> "list[Example]":
    """The tones with their labels, ready for training."""
    from kmed_bench.asr.model.tokenizer import korean_tokenizer
    from kmed_bench.training.batches import build_examples

    return build_examples(tone_part, store, policy="pronunciation", max_len=80, tokenizer=korean_tokenizer())[0]


@pytest.fixture
def package_log() -> Iterator[None]:
    """The package's log, whose handlers and level are afterwards as they were."""
    package = logging.getLogger("kmed_bench")
    handlers, level = list(package.handlers), package.level
    yield
    package.handlers[:] = handlers
    package.setLevel(level)
