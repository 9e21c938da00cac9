"""Checks that a file holds all tensors of the model that it describes; nothing that is missing is filled in."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from whisper.model import AudioEncoder, ModelDimensions, TextDecoder

from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import SIZE_SHAPES

_NAME_CHARS = 100
_NAMED = 4
_LIMITS = {"n_audio_ctx": 1 << 13, "n_text_ctx": 1 << 13, "n_audio_layer": 256, "n_text_layer": 256}
_MAX_DIMENSION = 1 << 17
_LAYER = re.compile(r"(?P<side>encoder|decoder)/layer_(?P<number>\d+)/(?P<rest>.+)")


def read_dimensions(value: Any) -> ModelDimensions:
    """Return a checkpoint's dimensions.

    Raises
    ------
    ValueError
        When a dimension is missing, unknown or not a positive whole number.
    """
    if not isinstance(value, dict):
        raise ValueError(f"its dims are a {type(value).__name__}")
    names = list(ModelDimensions.__dataclass_fields__)
    if set(value) != set(names):
        raise ValueError(f"its dims name {', '.join(map(str, value))}, not {', '.join(names)}")
    fits = {name: type(n) is int and 0 < n <= _LIMITS.get(name, _MAX_DIMENSION) for name, n in value.items()}
    wrong = [f"{name}={value[name]!r:.40}" for name in names if not fits[name]]
    dims = ModelDimensions(**value)
    if not wrong and (dims.n_audio_state % dims.n_audio_head or dims.n_text_state % dims.n_text_head):
        wrong = ["the width is not a multiple of the number of heads"]
    if wrong:
        raise ValueError(f"its dims are impossible: {', '.join(wrong)}")
    return dims


def tensor_shapes(dims: ModelDimensions) -> dict[str, torch.Size]:
    """Return the shape of each of a model's tensors by openai-whisper's name, without memory for them."""
    audio = (dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer)
    text = (dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer)
    with torch.device("meta"):
        parts = {"encoder": AudioEncoder(*audio), "decoder": TextDecoder(*text)}
    return {f"{side}.{name}": x.shape for side, part in parts.items() for name, x in part.state_dict().items()}


def check_outline(dims: ModelDimensions, state: Mapping[str, torch.Tensor], where: str | Path) -> None:
    """Raise KmedError unless the file has tensors as large as its dimensions say, before memory is taken for them."""
    outline = {
        "encoder.positional_embedding": (dims.n_audio_ctx, dims.n_audio_state),
        "encoder.conv1.weight": (dims.n_audio_state, dims.n_mels, 3),
        "encoder.conv2.weight": (dims.n_audio_state, dims.n_audio_state, 3),
        "decoder.positional_embedding": (dims.n_text_ctx, dims.n_text_state),
        "decoder.token_embedding.weight": (dims.n_vocab, dims.n_text_state),
        f"encoder.blocks.{dims.n_audio_layer - 1}.attn.query.weight": (dims.n_audio_state, dims.n_audio_state),
        f"decoder.blocks.{dims.n_text_layer - 1}.attn.query.weight": (dims.n_text_state, dims.n_text_state),
    }
    check_names(outline.keys() & state.keys(), outline, where)
    for name, shape in outline.items():
        if tuple(state[name].shape) != shape:
            raise KmedError(
                f"{where} does not hold the tensors that its dimensions require: {name} has shape "
                f"{tuple(state[name].shape)}, and its dims ask for {shape}; save the checkpoint again."
            )


def check_storage(state: Mapping[str, torch.Tensor]) -> None:
    """Check that a file holds each number of its tensors once: one number can be shown as a tensor of any shape.

    Raises
    ------
    ValueError
        When it has none of them, or fewer, or a tensor is not dense.
    """
    held = {}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise ValueError(f"its tensor {name!r:.80} has no numbers of its own ({tensor.layout}, {tensor.device})")
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
    shown = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if shown > sum(held.values()):
        raise ValueError(f"its tensors have {shown:,} bytes, of which the file holds {sum(held.values()):,}")


def check_names(found: Iterable[str], expected: Iterable[str], where: str | Path) -> None:
    """Raise KmedError when tensors are missing or not Whisper's."""
    found, expected = set(found), set(expected)
    faults = []
    if missing := sorted(expected - found):
        faults.append(f"{len(missing)} of {len(expected)} are missing ({_name_some(missing)})")
    if extra := sorted(found - expected):
        faults.append(f"{len(extra)} are not Whisper's ({_name_some(extra)})")
    if faults:
        raise KmedError(
            f"{where} does not hold the tensors that its dimensions require: {' and '.join(faults)}. Nothing is "
            "filled in; save the whole model again, under Whisper's own names (without prefixes such as `module.`)."
        )


def check_finite(state: Mapping[str, torch.Tensor | np.ndarray], where: str | Path) -> None:
    """Raise KmedError when a tensor holds NaN or infinite numbers."""
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if wrong:
        raise KmedError(
            f"{where} has weights that are not finite numbers in {len(wrong)} of {len(state)} tensors "
            f"({_name_some(sorted(wrong))}); the training that wrote it diverged or the file is damaged: use an "
            "earlier checkpoint."
        )


def check_ct2_layers(variables: Mapping[str, np.ndarray], where: str | Path) -> None:
    """Raise KmedError when a CTranslate2 model has layers that differ in their variables, or a gap between layers.

    CTranslate2 reads layers until one is incomplete and then goes on with those before it, without a message.
    """
    layers: dict[str, dict[int, set[str]]] = {}
    for name in variables:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(match["side"], {}).setdefault(int(match["number"]), set()).add(match["rest"])
    faults = []
    for side, found in sorted(layers.items()):
        whole = set.union(*found.values())
        for number in range(max(found) + 1):
            faults += [f"{side}/layer_{number}/{rest}" for rest in sorted(whole - found.get(number, set()))]
    if faults or len(layers) < 2:
        listed = _name_some(faults) or "the layers of encoder or decoder"
        raise KmedError(f"{where} lacks variables of its layers ({listed}); convert the model again.")


def check_ct2_depth(variables: Mapping[str, np.ndarray], heads: Iterable[tuple[int, int]], where: str | Path) -> None:
    """Raise KmedError when a CTranslate2 model lacks whole layers at its end, which no gap between layers shows.

    A model of the width of a Whisper size has that size's layers; a distilled one keeps half or fewer of the
    decoder's. In any model the layers exist that its alignment heads name.

    Parameters
    ----------
    heads : iterable of (int, int)
        Layer and head of each alignment head in the folder's ``config.json``.
    """
    layers = [_LAYER.fullmatch(name) for name in variables]
    found = {
        side: 1 + max(int(match["number"]) for match in layers if match and match["side"] == side)
        for side in ("encoder", "decoder")
    }
    width = variables["encoder/layer_norm/gamma"].size if "encoder/layer_norm/gamma" in variables else 0
    expected = next((n_layer for n_state, _, n_layer in SIZE_SHAPES.values() if n_state == width), 0)
    named = 1 + max((layer for layer, _ in heads), default=-1)
    faults = []
    if expected and found["encoder"] != expected:
        faults.append(f"{found['encoder']} encoder layers, and {expected} belong to its width of {width}")
    if expected and found["decoder"] != expected and found["decoder"] > expected // 2:
        faults.append(f"{found['decoder']} decoder layers, and {expected} belong to its width of {width}")
    elif found["decoder"] < named:
        faults.append(f"{found['decoder']} decoder layers, and its config.json names alignment heads in {named}")
    if faults:
        raise KmedError(f"{where} has {'; '.join(faults)}: layers at the end are missing; convert the model again.")


def _is_finite(tensor: torch.Tensor | np.ndarray) -> bool:
    if isinstance(tensor, torch.Tensor):
        return bool(torch.isfinite(tensor).all())
    return tensor.dtype.kind != "f" or bool(np.isfinite(tensor).all())


def _name_some(names: list[str]) -> str:
    shown = ", ".join(repr(name)[1:-1][:_NAME_CHARS] for name in names[:_NAMED])  # on one line, whatever is in them
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
