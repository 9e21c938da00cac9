"""Exports to ONNX, OpenVINO and whisper.cpp: the model's own texts, and files that do not fit are refused."""

import dataclasses
import json
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
import whisper
from exported import Exports
from fault_table import fault
from random_whisper import save_random_whisper

from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights, save_weights
from kmed_bench.asr.runtimes.formats import open_folder
from kmed_bench.asr.runtimes.ggml import is_ggml, read_ggml
from kmed_bench.asr.runtimes.graphs import OnnxBackend
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.pipeline.export import check_format, export_model

pytestmark = pytest.mark.slow

CONFIG = EvalConfig(max_new_tokens=8, batch_size=5)
KINDS = ["onnx", "openvino", "ggml"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random model whose texts depend on what it hears; some end early."""
    path = save_random_whisper(tmp_path_factory.mktemp("random") / "random.pt")
    model = load_weights(path)
    with torch.no_grad():  # end-of-text wins where the state points its way
        model.decoder.token_embedding.weight[korean_tokenizer().eot] *= 3
    save_weights(model, path)
    return Exports(path)


@pytest.fixture(scope="module")
def model(folders):
    return load_weights(folders.checkpoint)


@pytest.fixture(scope="module")
def clips():
    """Noise of several lengths."""
    noise = np.random.default_rng(3).standard_normal(16_000 * 3).astype(np.float32)
    return [(0.05 * (i + 1) * noise[: 16_000 * (i + 1)]).astype(np.float32) for i in range(3)]


def own_texts(model, clips, n):
    """What our own decoding writes."""
    mel = torch.stack([whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(clip))) for clip in clips])
    with torch.inference_mode():
        decoded = decode_greedy(model, model.encode(mel), DecodingOptions(max_new_tokens=n))
    return [clip.tokens for clip in decoded]


# 16 and the prompt are 20 positions: runtimes have other kernels from 16 on. whisper.cpp stops 4 tokens before half of
# the text positions, which are 32 here.
@pytest.mark.parametrize(("kind", "n"), [("onnx", 16), ("openvino", 16), ("ggml", 8)])
def test_every_runtime_writes_what_our_own_decoding_writes(folders, model, clips, kind, n):
    expected = own_texts(model, clips, n)
    assert len({len(tokens) for tokens in expected}) > 1, "texts of several lengths leave the batch at several steps"
    backend = open_folder(folders[kind], dataclasses.replace(CONFIG, max_new_tokens=n))
    assert backend.transcribe(clips) == [korean_tokenizer().decode(tokens).strip() for tokens in expected]
    assert backend.parameters == sum(p.numel() for p in model.parameters())
    assert backend.describe()["settings"]["window_s"] == 30


@pytest.mark.parametrize(
    ("kind", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino"), ("ggml", "pywhispercpp")]
)
def test_a_missing_runtime_names_its_extra(folders, monkeypatch, kind, library):
    monkeypatch.setitem(sys.modules, f"{library}.model" if kind == "ggml" else library, None)
    with pytest.raises(KmedError, match=rf"needs {library} .*kmed-bench\[{kind}\]"):
        open_folder(folders[kind], CONFIG)


def test_graphs_are_not_written_without_onnx(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(KmedError, match=r"needs onnx .*kmed-bench\[onnx\]"):
        export_model(model, tmp_path / "out", "onnx", CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_another_vocabulary_is_not_exported(model, tmp_path, kind):
    english = whisper.model.Whisper(dataclasses.replace(model.dims, n_vocab=51864))
    with pytest.raises(KmedError, match="51864 tokens"):
        export_model(english, tmp_path / "out", kind, CONFIG)


def test_the_vocabulary_beside_the_graphs_is_tiktokens(folders):
    from tiktoken.load import load_tiktoken_bpe

    codec = korean_tokenizer().encoding
    ranks = load_tiktoken_bpe(str(folders["onnx"] / "tokens.txt"))
    assert ranks == {token: codec.encode_single_token(token) for token in codec.token_byte_values()}
    record = json.loads((folders["onnx"] / "graph.json").read_text())
    assert record["prompt"] == [50258, 50264, 50359, 50363]


@fault(
    "exported graph that is cut off, or lacks a file",
    sees="error, status 2: the folder, what its runtime said or which file is absent",
    survives="all",
)
@pytest.mark.parametrize(
    ("kind", "file"), [("onnx", "decoder.onnx"), ("openvino", "decoder.xml"), ("openvino", "encoder.bin")]
)
def test_a_damaged_graph_is_refused(folders, tmp_path, kind, file):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(KmedError, match=f"can't be opened by {open_folder(folders[kind], CONFIG).name}"):
        open_folder(folder, CONFIG)
    (folder / file).unlink()
    with pytest.raises(KmedError, match=f"lacks {file}"):
        open_folder(folder, CONFIG)


def test_a_record_that_does_not_fit_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["onnx"], tmp_path / "onnx")
    record = json.loads((folder / "graph.json").read_text())
    for change, said in (
        ({"end": -1}, "has end -1"),
        ({"version": 2}, "version 2 of kmed-graph"),
        ({"dims": record["dims"] | {"n_text_head": 0}}, "impossible: n_text_head=0"),
    ):
        (folder / "graph.json").write_text(json.dumps(record | change))
        with pytest.raises(KmedError, match=said):
            OnnxBackend(folder, CONFIG)


def test_logits_that_are_not_finite_are_refused(model, clips, tmp_path):
    broken = load_and_break(model)
    with pytest.raises(KmedError, match="logits that are not finite"):
        export_and_run(broken, tmp_path / "nan", clips)


def load_and_break(model):
    """The model with a number that is none."""
    broken = type(model)(model.dims).eval()
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.decoder.ln.bias[0] = torch.nan
    return broken


def export_and_run(model, folder, clips):
    export_model(model, folder, "onnx", CONFIG)
    open_folder(folder, CONFIG).transcribe(clips[:1])


def change_dims(index, value):
    """Replace one of the eleven numbers after ggml's magic."""
    return lambda content: content[: 4 * (1 + index)] + struct.pack("<i", value) + content[4 * (2 + index) :]


@fault(
    "model of whisper.cpp that is cut off, quantized, or another one than its dimensions say",
    sees="error, status 2: the file and the entry; whisper.cpp itself would end the process",
    survives="all",
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1], r"an entry at byte [\d,]+ has 256 bytes"),
        (lambda content: content[: 1 << 20], "an entry at byte"),
        (lambda content: content[:9], "an entry at byte 4 has 44 bytes"),
        (lambda content: content[: -256 - 4 * 4 - 15], r"1 of 50 are missing \(decoder\.ln\.bias\)"),
        (lambda content: b"GGUF" + content[4:], "does not begin with 'ggml'"),
        (lambda content: content[:-4] + struct.pack("<f", np.nan), r"not finite .*decoder\.ln\.bias"),
        (lambda content: content.replace(b"decoder.ln.bias", b"decoder.ln.biaz"), r"are missing .*decoder\.ln\.biaz"),
        (change_dims(0, 51864), "51864 tokens"),
        (change_dims(2, 128), "of shape"),
        (change_dims(4, 2), "15 of 65 are missing"),
        (change_dims(3, 3), "not a multiple of the number of heads"),
    ],
)
def test_a_ggml_file_that_does_not_fit_never_reaches_whisper_cpp(folders, tmp_path, change, said):
    path = tmp_path / "ggml-changed.bin"
    path.write_bytes(change((folders["ggml"] / "ggml-model.bin").read_bytes()))
    with pytest.raises(KmedError, match=said):
        open_folder(tmp_path, CONFIG)


def test_ggml_holds_the_tensors_rounded_to_half_precision(folders, model):
    path = folders["ggml"] / "ggml-model.bin"
    tensors = read_ggml(path)
    for name, expected in model.state_dict().items():
        whole = expected.ndim == 1 or name.endswith("positional_embedding")
        rounded = expected if whole else expected.half().float()
        assert np.array_equal(tensors[name].squeeze().astype(np.float32), rounded.numpy()), name
    assert is_ggml(path)
    assert not is_ggml(folders.checkpoint)
    assert not is_ggml(path.parent)


@pytest.mark.parametrize(
    ("name", "said"), [("tflite", "JAX"), ("coreml", "Apple"), ("tensorrt", "GPU"), ("x", "no runtime")]
)
def test_other_formats_are_refused_with_the_reason(name, said):
    with pytest.raises(
        KmedError, match=rf"'{name}' is not written: .*{said}.*Choose openai, hf, ct2, onnx, openvino, ggml"
    ):
        check_format(name)
    assert check_format("ggml") == "ggml"
