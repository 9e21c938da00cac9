"""Models of other runtimes: recognised, opened, told what to do, decoded."""

import contextlib
import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from exported import export_all
from whisper.model import Whisper

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import N_VOCAB
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.runtimes import backend as backend_module
from kmed_bench.asr.runtimes.faster_whisper import FasterWhisperBackend
from kmed_bench.asr.runtimes.formats import detect_format, open_folder
from kmed_bench.asr.runtimes.own import OwnBackend
from kmed_bench.asr.runtimes.transformers import TransformersBackend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError

CONFIG = EvalConfig(max_new_tokens=8, batch_size=5)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


@pytest.fixture(scope="module")
def folders(tiny_checkpoint):
    return export_all(tiny_checkpoint)


@pytest.fixture(scope="module")
def own(model, tone_part, tmp_path_factory):
    store = build_features(tone_part, tmp_path_factory.mktemp("frames"))
    return predict_part(model, tone_part, store, DecodingOptions(batch_size=5, max_new_tokens=8))


@pytest.mark.parametrize("kind", ["openai", "hf", "ct2"])
def test_a_folder_is_known_by_its_files(folders, kind):
    assert detect_format(folders[kind]) == kind


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no model"),
        ({"model.bin": "", "model.safetensors": ""}, "several models"),
        ({"a.pt": "", "b.pt": ""}, "no model"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "adapters"),
        ({"model.safetensors": "", "config.json": '{"model_type": "wav2vec2"}'}, "'wav2vec2'"),
        ({"model.safetensors": ""}, "config.json does not exist"),
    ],
)
def test_other_folders_are_refused(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(KmedError, match=said):
        detect_format(tmp_path)


@pytest.mark.parametrize("kind", ["openai", "hf"])
def test_the_same_weights_write_the_same_text(folders, own, tone_part, kind):
    backend = open_folder(folders[kind], CONFIG)
    found = backend.decode(tone_part.iloc[::-1])
    assert [p.utterance_id for p in found] == tone_part["utterance_id"].tolist()[::-1]
    assert [p.hypothesis for p in found[::-1]] == [p.hypothesis for p in own]
    assert [p.reference for p in found[::-1]] == tone_part["text"].tolist()
    assert all(p.decode_s > 0 for p in found)
    assert any(p.hypothesis for p in found)


def test_faster_whisper_decodes_every_clip(folders, tone_part):
    backend = open_folder(folders["ct2"], CONFIG)
    found = backend.decode(tone_part)
    assert [p.utterance_id for p in found] == tone_part["utterance_id"].tolist()
    assert any(p.hypothesis for p in found)
    about = backend.describe()
    assert about["name"] == "faster-whisper"
    assert about["audio_context"] == "full"
    expected = {"beam_size": 1, "temperature": 0.0, "without_timestamps": True, "vad_filter": False}
    expected |= {
        "window_filled_with": "silence",
        "language": "ko",
        "condition_on_previous_text": False,
        "compute_type": "float32",
    }
    assert expected.items() <= about["settings"].items()


def test_parameters_are_those_of_the_model(folders, model):
    expected = sum(p.numel() for p in model.parameters())
    for kind in ("openai", "hf"):
        assert open_folder(folders[kind], CONFIG).parameters == expected
    # CTranslate2 adds zero biases to the keys, and stores equal tensors (this random model's layer norms) once.
    assert open_folder(folders["ct2"], CONFIG).parameters == pytest.approx(expected, rel=1e-3)


def test_the_first_batch_is_decoded_untimed_first(folders, tone_part, monkeypatch):
    backend = open_folder(folders["hf"], CONFIG)
    sizes: list[int] = []
    whole = backend.transcribe

    def counted(clips):
        sizes.append(len(clips))
        return whole(clips)

    ticks: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def track(label):
        assert label == "Decoding by transformers"
        yield lambda done, total: ticks.append((done, total))

    backend.transcribe = counted
    monkeypatch.setattr(backend_module, "track", track)
    backend.decode(tone_part)
    assert sizes == [5, 5, 5, 2]
    assert ticks == [(5, 12), (10, 12), (12, 12)]


def test_our_own_backend_is_our_own_decoding(model, own, tone_part, tmp_path, monkeypatch):
    monkeypatch.setenv("KMED_CACHE", str(tmp_path))
    backend = OwnBackend(model, CONFIG, "tiny.pt", model_bytes=7)
    predictions = backend.decode(tone_part.iloc[::-1])
    assert [p.hypothesis for p in predictions] == [p.hypothesis for p in own[::-1]]
    assert [p.utterance_id for p in predictions] == tone_part["utterance_id"].tolist()[::-1]
    assert (backend.parameters, backend.model_bytes) == (sum(p.numel() for p in model.parameters()), 7)
    assert backend.describe()["settings"]["batch_size"] == 5


@pytest.mark.parametrize("other", [{"n_vocab": N_VOCAB - 1}, {"n_mels": 128}])
def test_our_own_backend_refuses_other_vocabularies_and_mel_bands(model, other):
    english = Whisper(dataclasses.replace(model.dims, **other))
    with pytest.raises(KmedError, match=r"small\.en has \d+ tokens and \d+ mel bands"):
        OwnBackend(english, CONFIG, "small.en")


def test_what_old_fine_tunings_leave_behind_is_mended_and_told(folders, own, tone_part, tmp_path):
    """Forced ids of English and no language table: the text is that of the whole folder."""
    old = shutil.copytree(folders["hf"], tmp_path / "old")
    settings = json.loads((old / "generation_config.json").read_text())
    for name in ("lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id", "language", "task"):
        del settings[name]
    settings["forced_decoder_ids"] = [[1, 50259], [2, 50358]]
    (old / "generation_config.json").write_text(json.dumps(settings))
    backend = TransformersBackend(old, CONFIG)
    assert backend.settings["removed"] == "forced_decoder_ids"
    assert "language and task tokens" in backend.settings["added"]
    assert backend.settings["language"] == "ko"
    assert [p.hypothesis for p in backend.decode(tone_part)] == [p.hypothesis for p in own]


def test_a_folder_without_tokenizer_is_refused_with_the_remedy(folders, tmp_path):
    bare = shutil.copytree(folders["ct2"], tmp_path / "ct2")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(KmedError, match=r"lacks tokenizer\.json"):
        FasterWhisperBackend(bare, CONFIG)
    bare = shutil.copytree(folders["hf"], tmp_path / "hf")
    for path in bare.glob("*token*"):
        path.unlink()
    with pytest.raises(KmedError, match="save the processor"):
        TransformersBackend(bare, CONFIG)


def test_damaged_weights_are_refused(folders, tmp_path):
    for kind, name in (("hf", "model.safetensors"), ("ct2", "model.bin")):
        damaged = shutil.copytree(folders[kind], tmp_path / kind)
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(KmedError, match="can't be opened"):
            open_folder(damaged, CONFIG)


@pytest.mark.parametrize(("kind", "library"), [("hf", "transformers"), ("ct2", "faster_whisper")])
def test_a_missing_library_names_the_extra(folders, monkeypatch, kind, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(KmedError, match=r"kmed-bench\[export\]"):
        open_folder(folders[kind], CONFIG)


def test_a_clip_beyond_the_window_is_cut_as_in_our_own_decoding(folders):
    backend = open_folder(folders["ct2"], CONFIG)
    torch.manual_seed(0)
    noise = (0.1 * np.random.default_rng(0).standard_normal(16_000 * 30)).astype(np.float32)
    assert len(backend.transcribe([noise])) == 1
