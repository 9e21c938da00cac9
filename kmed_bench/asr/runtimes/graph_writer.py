"""Whisper as two ONNX graphs, built from the tensors: the encoder, and one step of the decoder with its cache.

The operators are those of the ONNX specification (https://onnx.ai/onnx/operators), of its version 20 and older, which
is what the runtimes of several releases read. Initializers have openai-whisper's names.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kmed_bench import __version__
from kmed_bench.asr.decoding.logit_filters import suppressed_tokens
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.graph_format import GRAPH, cache_names
from kmed_bench.asr.runtimes.hf_format import check_vocabulary
from kmed_bench.asr.runtimes.libraries import missing_library
from kmed_bench.core.files import write_json

_OPSET = 20  # the first with Gelu
_IR_VERSION = 10  # onnxruntime 1.18 and later
_EPSILON = 1e-5  # of torch's LayerNorm


def write_graphs(model: Whisper, folder: Path) -> None:
    """Write ``encoder.onnx`` and ``decoder.onnx``.

    The encoder turns log-mel frames of 30 s, ``mel`` of shape (batch, n_mels, 2 * n_audio_ctx), into each decoder
    layer's cross-attention keys and values, ``audio.LAYER.key`` and ``audio.LAYER.value``. The decoder takes one
    ``token`` of each text, shape (batch, 1), int64, these keys and values, and those of the tokens before
    (``past.LAYER.key``, …; empty at first); it returns the ``logits`` of the next token, shape (batch, n_vocab), and
    the longer cache (``present.LAYER.key``, …). Keys and values have shape (batch, n_head, length, d_head), float32.

    Raises
    ------
    KmedError
        When onnx is not installed, or the vocabulary is not the multilingual one of 51,865 tokens.
    """
    check_vocabulary(model.dims.n_vocab)
    try:
        import onnx
    except ImportError as error:
        raise missing_library("onnx", "Writing the graphs", error, extra="onnx") from None
    for name, build in (("encoder", _encoder), ("decoder", _decoder)):
        graph = _Graph(onnx, model)
        inputs, outputs = build(graph, model)
        content = onnx.helper.make_graph(graph.nodes, name, inputs, outputs, list(graph.tensors.values()))
        opsets = [onnx.helper.make_opsetid("", _OPSET)]
        built = onnx.helper.make_model(
            content,
            opset_imports=opsets,
            ir_version=_IR_VERSION,
            producer_name="kmed-bench",
            producer_version=__version__,
        )
        onnx.checker.check_model(built)
        onnx.save_model(built, folder / f"{name}.onnx")


def write_graph_record(model: Whisper, folder: Path) -> None:
    """Write what decoding needs beside the graphs: ``graph.json``, and ``tokens.txt`` in tiktoken's format.

    A line of ``tokens.txt`` is a token's bytes in base64 and its number.
    """
    tokenizer = korean_tokenizer()
    never, never_first = suppressed_tokens(tokenizer)
    write_json(
        folder / "graph.json",
        {
            **GRAPH.head,
            "dims": vars(model.dims),
            "parameters": sum(p.numel() for p in model.parameters()),
            "prompt": list(tokenizer.sot_sequence_including_notimestamps),
            "end": tokenizer.eot,
            "suppressed": never,
            "suppressed_first": never_first,
        },
    )
    codec = tokenizer.encoding
    ranks = sorted((codec.encode_single_token(token), token) for token in codec.token_byte_values())
    # The empty token is "=", as in openai-whisper's own file.
    lines = [f"{base64.b64encode(token).decode() or '='} {rank}\n" for rank, token in ranks]
    (folder / "tokens.txt").write_text("".join(lines), encoding="ascii")


class _Graph:
    """Nodes and tensors of a graph that is being built; every method returns the name of a node's output."""

    def __init__(self, onnx: Any, model: Whisper) -> None:
        self._helper, self._numpy = onnx.helper, onnx.numpy_helper
        self._state = model.state_dict()
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}

    def value(self, name: str, shape: Sequence[int | str], kind: type = np.float32) -> Any:
        """Return the description of an input or output."""
        element = self._helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return self._helper.make_tensor_value_info(name, element, shape)

    def constant(self, name: str, content: Any) -> str:
        if name not in self.tensors:
            self.tensors[name] = self._numpy.from_array(np.ascontiguousarray(content), name)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        tensor: torch.Tensor = self._state[name].detach().cpu().float()
        return self.constant(name, (tensor.T if transposed else tensor).numpy())

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, [output], **attributes))
        return output

    def linear(self, prefix: str, x: str) -> str:
        y = self.add("MatMul", x, self.weight(f"{prefix}.weight", transposed=True))
        return self.add("Add", y, self.weight(f"{prefix}.bias")) if f"{prefix}.bias" in self._state else y

    def norm(self, prefix: str, x: str) -> str:
        scale, shift = self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")
        return self.add("LayerNormalization", x, scale, shift, epsilon=_EPSILON)

    def heads(self, prefix: str, x: str, n_head: int, output: str | None = None) -> str:
        """Project x and set its heads apart: (batch, n_head, length, d_head)."""
        d_head = self._state[f"{prefix}.weight"].shape[0] // n_head
        # 0 copies the batch's size, -1 is what is left: the length.
        shape = self.constant(f"split_{n_head}_{d_head}", np.array([0, -1, n_head, d_head]))
        return self.add(
            "Transpose", self.add("Reshape", self.linear(prefix, x), shape), perm=(0, 2, 1, 3), output=output
        )

    def keys_values(self, prefix: str, x: str, n_head: int, names: Sequence[str] = ("", "")) -> tuple[str, str]:
        """Return the keys and values of x, under the given names."""
        keys, values = (
            self.heads(f"{prefix}.{part}", x, n_head, name or None)
            for part, name in zip(("key", "value"), names, strict=True)
        )
        return keys, values

    def attend(self, prefix: str, x: str, keys: str, values: str, n_head: int) -> str:
        """Return softmax(queries keysᵀ / √d_head) values, projected."""
        n_state = self._state[f"{prefix}.query.weight"].shape[0]
        scale = self.constant(f"scale_{n_state}_{n_head}", np.float32((n_state // n_head) ** -0.5))
        queries = self.add("Mul", self.heads(f"{prefix}.query", x, n_head), scale)
        turned = self.add("Transpose", keys, perm=(0, 1, 3, 2))
        shares = self.add("Softmax", self.add("MatMul", queries, turned), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", shares, values), perm=(0, 2, 1, 3))
        joined = self.add("Reshape", mixed, self.constant(f"join_{n_state}", np.array([0, -1, n_state])))
        return self.linear(f"{prefix}.out", joined)

    def feed_forward(self, block: str, x: str) -> str:
        hidden = self.add("Gelu", self.linear(f"{block}.mlp.0", self.norm(f"{block}.mlp_ln", x)))
        return self.add("Add", x, self.linear(f"{block}.mlp.2", hidden))


def _encoder(graph: _Graph, model: Whisper) -> tuple[list[Any], list[Any]]:
    dims = model.dims
    x = "mel"
    for name, stride in (("conv1", 1), ("conv2", 2)):
        weight, bias = (graph.weight(f"encoder.{name}.{kind}") for kind in ("weight", "bias"))
        x = graph.add("Gelu", graph.add("Conv", x, weight, bias, pads=(1, 1), strides=(stride,)))
    x = graph.add("Transpose", x, perm=(0, 2, 1))
    x = graph.add("Add", x, graph.weight("encoder.positional_embedding"))
    for i in range(dims.n_audio_layer):
        block = f"encoder.blocks.{i}"
        normed = graph.norm(f"{block}.attn_ln", x)
        keys, values = graph.keys_values(f"{block}.attn", normed, dims.n_audio_head)
        x = graph.add("Add", x, graph.attend(f"{block}.attn", normed, keys, values, dims.n_audio_head))
        x = graph.feed_forward(block, x)
    x = graph.norm("encoder.ln_post", x)
    names = cache_names("audio", dims.n_text_layer)
    for i in range(dims.n_text_layer):
        graph.keys_values(f"decoder.blocks.{i}.cross_attn", x, dims.n_text_head, names[2 * i : 2 * i + 2])
    mel = graph.value("mel", ("batch", dims.n_mels, 2 * dims.n_audio_ctx))
    return [mel], _caches(graph, model, "audio", dims.n_audio_ctx)


def _decoder(graph: _Graph, model: Whisper) -> tuple[list[Any], list[Any]]:
    dims = model.dims
    audio, past, present = (cache_names(kind, dims.n_text_layer) for kind in ("audio", "past", "present"))
    # The token stands where the cache ends.
    position = graph.add("Shape", past[0], start=2, end=3)
    embedding = graph.weight("decoder.token_embedding.weight")
    placed = graph.add("Gather", graph.weight("decoder.positional_embedding"), position)
    x = graph.add("Add", graph.add("Gather", embedding, "token"), placed)
    for i in range(dims.n_text_layer):
        block, at = f"decoder.blocks.{i}", slice(2 * i, 2 * i + 2)
        normed = graph.norm(f"{block}.attn_ln", x)
        new = graph.keys_values(f"{block}.attn", normed, dims.n_text_head)
        keys, values = (
            graph.add("Concat", before, added, axis=2, output=name)
            for before, added, name in zip(past[at], new, present[at], strict=True)
        )
        x = graph.add("Add", x, graph.attend(f"{block}.attn", normed, keys, values, dims.n_text_head))
        normed, (keys, values) = graph.norm(f"{block}.cross_attn_ln", x), audio[at]
        x = graph.add("Add", x, graph.attend(f"{block}.cross_attn", normed, keys, values, dims.n_text_head))
        x = graph.feed_forward(block, x)
    last = graph.add("Squeeze", graph.norm("decoder.ln", x), graph.constant("length_axis", np.array([1])))
    graph.add("Gemm", last, embedding, transB=1, output="logits")  # the output projection is the token embedding
    inputs = [graph.value("token", ("batch", 1), np.int64), *_caches(graph, model, "audio", dims.n_audio_ctx)]
    outputs = [graph.value("logits", ("batch", dims.n_vocab)), *_caches(graph, model, "present", "n_present")]
    return [*inputs, *_caches(graph, model, "past", "n_past")], outputs


def _caches(graph: _Graph, model: Whisper, kind: str, length: int | str) -> list[Any]:
    n_head, d_head = model.dims.n_text_head, model.dims.n_text_state // model.dims.n_text_head
    shape = ("batch", n_head, length, d_head)
    return [graph.value(name, shape) for name in cache_names(kind, model.dims.n_text_layer)]
