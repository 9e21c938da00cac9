"""Every long loop shows its progress: with a clock that runs ahead by 31 s at each look, each count has a line."""

import dataclasses
import itertools
import logging
import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kmed_bench.asr.features.store import FeatureStore
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.own import OwnBackend
from kmed_bench.config import Config, EvalConfig, TrainConfig
from kmed_bench.core import progress
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.export import export_model
from kmed_bench.pipeline.latency import measure_latency
from kmed_bench.scoring import counting
from kmed_bench.training import epochs
from kmed_bench.training.batches import Example
from kmed_bench.training.epochs import FeaturizedSplit, decode_part, featurize_split
from kmed_bench.training.fit import mean_loss
from kmed_bench.training.original_recipe import original_losses
from kmed_bench.training.parallel import Parallel

EVAL = EvalConfig(batch_size=5, audio_context="dynamic", max_new_tokens=8)
TRAIN = TrainConfig(batch_size=5, audio_context="dynamic", freeze_encoder=True)
LINE = re.compile(r"(?P<label>.+): (?P<done>\d+) of (?P<total>\d+)(, about \d+ \w+ left)?")


@dataclasses.dataclass
class Place:
    """What the loops work on: twelve tones, their features, a random model."""

    model: Whisper
    speech: FeaturizedSplit
    store: FeatureStore
    examples: list[Example]
    folder: object

    @property
    def rows(self) -> pd.DataFrame:
        return self.speech.split.parts["train"]


@pytest.fixture
def place(tiny_checkpoint, tone_part, store, examples, tmp_path, monkeypatch) -> Place:
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    clock = itertools.count(0.0, 31.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress.restart_progress()
    split = Split(parts={"train": tone_part, "valid": tone_part}, sha256="0" * 64, report={})
    speech = FeaturizedSplit(split, {"train": store, "valid": store})
    return Place(load_weights(tiny_checkpoint), speech, store, examples, tmp_path)


def encode(place: Place) -> object:
    config = Config(train=TRAIN)
    return epochs._training_source(place.model, place.speech, place.store, place.examples, config, Parallel())


def count(place: Place) -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counting, "_CHUNK", 4)
        return counting.count_rows([("네", "네", 1.0, "")] * 12, "pronunciation")


LOOPS: dict[str, tuple[Callable[[Place], object], list[int]]] = {
    "Features of valid": (lambda p: featurize_split(p.speech.split, p.folder, Config(), ["valid"]), list(range(1, 12))),
    "Features": (lambda p: OwnBackend(p.model, EVAL, "tiny").decode(p.rows), list(range(1, 12))),
    "Decoding": (lambda p: OwnBackend(p.model, EVAL, "tiny").decode(p.rows), list(range(1, 12))),
    "Decoding valid": (lambda p: decode_part(p.model, p.speech, "valid", EVAL), list(range(1, 12))),
    "Validation loss": (lambda p: mean_loss(p.model, p.examples, p.store, TRAIN, "fp32"), [1, 2]),
    "Original's validation": (lambda p: original_losses(p.model, p.examples, p.store, TRAIN), [5, 10]),
    "Latency": (lambda p: measure_latency(p.model, p.rows, p.store, EVAL), list(range(1, 12))),
    "Scoring clips": (count, [4, 8]),
}


@pytest.mark.parametrize("label", LOOPS)
def test_a_loop_has_a_line_for_each_count_but_the_last(label, place, caplog):
    caplog.set_level(logging.INFO)
    loop, expected = LOOPS[label]
    loop(place)
    shown = [found for line in caplog.messages if (found := LINE.fullmatch(line)) and found["label"] == label]
    assert [int(found["done"]) for found in shown] == expected
    assert len({found["total"] for found in shown}) == 1
    assert all(found[4] for found in shown[1:])  # with the time that remains, once there is a pace


def test_encoder_outputs_show_progress(place, caplog):
    caplog.set_level(logging.INFO)
    encode(place)
    done = [int(found["done"]) for line in caplog.messages if (found := LINE.fullmatch(line))]
    assert done
    assert (np.diff(done) > 0).all()
    assert max(done) < 12


def test_a_step_without_a_count_is_open_while_it_lasts(place, monkeypatch, tmp_path):
    """What only a library can count is said to be going on: `core/test_progress.py` has the lines."""
    opened: list[str] = []
    block = progress._Lines.block
    monkeypatch.setattr(
        progress._Lines, "block", lambda lines, line, beats: (opened.append(line._label), block(lines, line, beats))[1]
    )
    export_model(place.model, tmp_path / "openai", "openai", EVAL)
    assert opened == ["Converting to openai"]
