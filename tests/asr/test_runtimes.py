"""Models of other runtimes: recognised, opened, told what to do, decoded."""

import contextlib
import ctypes
import dataclasses
import gc
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import export_all
from fault_table import fault
from safetensors.torch import load_file, save_file
from whisper.model import Whisper

from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.offline_wheel import read_variables
from kmed_bench.asr.model.tensor_checks import check_ct2_depth, check_ct2_layers
from kmed_bench.asr.model.tokenizer import N_VOCAB
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.runtimes import backend as backend_module
from kmed_bench.asr.runtimes.faster_whisper import FasterWhisperBackend
from kmed_bench.asr.runtimes.formats import detect_format, open_folder
from kmed_bench.asr.runtimes.hf_format import read_hf_folder
from kmed_bench.asr.runtimes.own import OwnBackend
from kmed_bench.asr.runtimes.transformers import TransformersBackend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("kind", ["openai", "hf", "ct2", "onnx", "openvino", "ggml"])
def test_a_folder_is_known_by_its_files(folders, kind):
    assert detect_format(folders[kind]) == kind


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no model"),
        ({"model.bin": "", "model.safetensors": ""}, "several models"),
        ({"a.pt": "", "b.pt": ""}, "no model"),
        ({"encoder.onnx": "", "encoder.xml": ""}, "several models"),
        ({"ggml-a.bin": "", "ggml-b.bin": ""}, "no model"),
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
    # CTranslate2 adds zero biases to the keys.
    assert open_folder(folders["ct2"], CONFIG).parameters == expected + 3 * 64


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


def changed_folder(folders, tmp_path, change):
    """A Hugging Face folder whose tensors are what ``change`` makes of them."""
    folder = shutil.copytree(folders["hf"], tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def as_kind(kind):
    """A change of one tensor to another number format."""
    return lambda tensors: tensors.update({name: tensors[name].to(kind) for name in ["model.encoder.conv1.bias"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: (t.clear(), t.update(x=torch.zeros(3))), r"\d+ of \d+ are missing .* and 1 are not Whisper's \(x\)"),
        (lambda t: t.pop("model.decoder.layers.0.fc1.bias"), r"1 of \d+ are missing \(model\.decoder\.layers\.0\.fc1"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 are not Whisper's \(extra\)"),
        (lambda t: t["model.encoder.conv1.bias"].fill_(torch.nan), r"not finite .*model\.encoder\.conv1\.bias"),
        (lambda t: t["model.decoder.layer_norm.weight"].fill_(torch.inf), "not finite"),
        (as_kind(torch.int64), r"model\.safetensors holds model\.encoder\.conv1\.bias as I64, which is no floating"),
        (as_kind(torch.bool), "as BOOL, which"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_never_filled_in(folders, tmp_path, change, said):
    folder = changed_folder(folders, tmp_path, change)
    for read in (read_hf_folder, lambda path: TransformersBackend(path, CONFIG)):
        with pytest.raises(KmedError, match=said):
            read(folder)


def test_an_output_of_its_own_is_evaluated_and_not_exported(folders, tmp_path):
    def untie(tensors):
        tensors["proj_out.weight"] = 2 * tensors["model.decoder.embed_tokens.weight"]

    folder = changed_folder(folders, tmp_path, untie)
    with pytest.raises(KmedError, match="has an output projection"):
        read_hf_folder(folder)
    TransformersBackend(folder, CONFIG)


def outline(width, n_encoder, n_decoder):
    """Names of a CTranslate2 model with so many layers, and its width."""
    names = [f"encoder/layer_{i}/ffn/linear_0/bias" for i in range(n_encoder)]
    names += [f"decoder/layer_{i}/ffn/linear_0/bias" for i in range(n_decoder)]
    return {name: np.zeros(1) for name in names} | {"encoder/layer_norm/gamma": np.zeros(width)}


@pytest.mark.parametrize(
    ("width", "n_encoder", "n_decoder", "heads", "said"),
    [
        (384, 4, 4, [(3, 0)], None),
        (384, 4, 2, [(1, 0)], None),  # distilled
        (768, 12, 4, [], None),
        (64, 1, 1, [(0, 1)], None),
        (384, 3, 4, [(3, 0)], "3 encoder layers, and 4 belong"),
        (384, 4, 3, [], "3 decoder layers, and 4 belong"),
        (768, 12, 11, [(5, 0)], "11 decoder layers, and 12 belong"),
        (64, 2, 1, [(1, 0)], r"1 decoder layers, and its config.json names alignment heads in 2"),
    ],
)
def test_missing_last_layers_of_a_ct2_model_are_noticed(width, n_encoder, n_decoder, heads, said):
    refused = contextlib.nullcontext() if said is None else pytest.raises(KmedError, match=said)
    with refused:
        check_ct2_depth(outline(width, n_encoder, n_decoder), heads, "x")


@fault(
    "CTranslate2 model that lacks its last layers, or is another one than was exported",
    sees="error, status 2: the layers it has and should have, or the number of parameters",
    survives="all",
)
def test_a_ct2_model_that_is_not_what_was_exported_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["ct2"], tmp_path / "ct2")
    config, record = (json.loads((folder / name).read_text()) for name in ("config.json", "export.json"))
    (folder / "export.json").write_text(json.dumps(record | {"parameters": record["parameters"] + 64}))
    with pytest.raises(KmedError, match="parameters and had"):
        FasterWhisperBackend(folder, CONFIG)
    (folder / "config.json").write_text(json.dumps(config | {"alignment_heads": [[1, 0]]}))
    with pytest.raises(KmedError, match=r"1 decoder layers, and its config\.json names alignment heads in 2"):
        FasterWhisperBackend(folder, CONFIG)


def test_a_ct2_model_with_a_gap_or_nan_is_refused(folders, tmp_path):
    content = (folders["ct2"] / "model.bin").read_bytes()
    variables = read_variables(content)
    with pytest.raises(KmedError, match="lacks variables of its layers"):
        check_ct2_layers({name: v for name, v in variables.items() if not name.startswith("decoder/layer")}, "x")
    two = variables | {name.replace("layer_0", "layer_1"): v for name, v in variables.items()}
    check_ct2_layers(two, "x")
    del two["decoder/layer_1/ffn/linear_0/weight"]
    with pytest.raises(KmedError, match=r"decoder/layer_1/ffn/linear_0/weight"):
        check_ct2_layers(two, "x")
    folder = shutil.copytree(folders["ct2"], tmp_path / "ct2")
    at = content.index(b"encoder/conv1/weight")
    start = content.index(variables["encoder/conv1/weight"].tobytes(), at)
    nan = np.full(1, np.nan, variables["encoder/conv1/weight"].dtype).tobytes()
    (folder / "model.bin").write_bytes(content[:start] + nan + content[start + len(nan) :])
    with pytest.raises(KmedError, match=r"not finite numbers in 1 of \d+ tensors \(encoder/conv1/weight\)"):
        open_folder(folder, CONFIG)


class SignalStack(ctypes.Structure):
    """`stack_t` of the C library."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@fault(
    "Ctrl-C or SIGTERM after models of OpenVINO were opened and closed",
    sees="interrupted, status 130, as without them; OpenVINO alone would crash the process",
    survives="all results",
)
def test_signals_have_a_stack_when_openvinos_models_are_gone(folders):
    models = [open_folder(folders["openvino"], CONFIG) for _ in range(2)]
    while models:
        models.pop(0)  # in the order in which they came
        gc.collect()
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    lines = [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines()]
    writable = [[int(end, 16) for end in span.split("-")] for span, rights in lines if rights.startswith("rw")]
    disabled = stack.flags & 2
    assert disabled or any(low <= stack.start and stack.start + stack.size <= high for low, high in writable)
