"""Korean speech from eSpeak NG's library, synthesised into memory.

The wheel ``espeakng_loader`` carries the library and its voices (GPL-3.0-or-later), which is why it stays an
optional extra; this module binds the few functions of ``speak_lib.h`` that the demo corpus needs.

The library keeps state in globals that neither a restart nor a reload clears (the same text differs in its samples
when spoken twice), so ``speak`` runs it in a process of its own, where every call starts from the same state.
Run as a module, this file is that process: requests as JSON on stdin, samples on stdout.
"""

import ctypes
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmed_bench.core.errors import KmedError

# Values of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000  # report a missing data folder instead of ending the process
_RATE, _PITCH, _RANGE = 1, 3, 4
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_OK = 0
# The library copies its data folder's path into 160 bytes and, beyond that, silently looks elsewhere.
_LONGEST_DATA_PATH = 140

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """How one synthetic speaker sounds.

    Attributes
    ----------
    variant : str
        eSpeak's name of a voice variant, such as ``f2``.
    rate_wpm : int
        Words a minute, 80 to 450.
    pitch, pitch_range : int
        0 to 100; 50 is the variant's own.
    """

    variant: str
    rate_wpm: int = 160
    pitch: int = 50
    pitch_range: int = 50


def speak(requests: Sequence[tuple[str, Voice]]) -> tuple[list[NDArray[np.int16]], int]:
    """Return the mono speech of each (text, voice) pair, in order, and its sampling rate in Hz.

    The same requests give the same samples, to the bit, on the same build of the library.

    Raises
    ------
    KmedError
        When eSpeak NG is not installed, a voice variant is unknown, or the library makes no sound.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise KmedError(
            "The demo corpus is spoken by eSpeak NG, and the package espeakng-loader is not installed; "
            "install it with `pip install kmed-bench[demo]`."
        )
    package_root = str(Path(__file__).resolve().parents[3])
    search_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    request = json.dumps([(text, dataclasses.asdict(voice)) for text, voice in requests])
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=request.encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": search_path},
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise KmedError(
            f"eSpeak NG failed: {reason}; if the library itself is damaged, "
            "`pip install --force-reinstall espeakng-loader` repairs it."
        )
    header, _, samples = done.stdout.partition(b"\n")
    answer = json.loads(header)
    ends = np.cumsum(answer["n_samples"])
    return np.split(np.frombuffer(samples, dtype="<i2"), ends[:-1]), answer["rate_hz"]


class _Library:
    """The loaded library; one in a process, because its state is global."""

    def __init__(self) -> None:
        import espeakng_loader

        self._chunks: list[bytes] = []
        self._callback = _Callback(self._collect)  # kept: the library holds no reference to it
        self._variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate_hz = self._start(Path(espeakng_loader.get_data_path()))
        self._library.espeak_SetSynthCallback(self._callback)

    def _start(self, data: Path) -> int:
        if len(os.fsencode(data)) > _LONGEST_DATA_PATH:
            self._short = tempfile.TemporaryDirectory()
            link = Path(self._short.name) / "espeak-ng-data"
            link.symlink_to(data, target_is_directory=True)
            data = link
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if rate <= 0:
            raise KmedError(f"the library did not start with its data folder {data}")
        # Breath is noise, and the library has just seeded its generator with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        return int(rate)

    def _collect(self, samples: int | None, n_samples: int, _events: int | None) -> int:
        if samples and n_samples > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * n_samples))
        return 0

    def speak(self, text: str, voice: Voice) -> bytes:
        # The library accepts an unknown variant silently and speaks with the plain voice.
        if not (self._variants / voice.variant).is_file():
            raise KmedError(f"there is no voice variant {voice.variant!r}; the variants are the files in !v")
        status = self._library.espeak_SetVoiceByName(f"ko+{voice.variant}".encode())
        for parameter, value in ((_RATE, voice.rate_wpm), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            status = status or self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        data = text.encode()
        status = status or self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status != _OK or not self._chunks:
            raise KmedError(f"no sound (status {status}) for the text {text!r}")
        return b"".join(self._chunks)


def _serve() -> None:
    library = _Library()
    speech = [library.speak(text, Voice(**voice)) for text, voice in json.load(sys.stdin)]
    header = {"rate_hz": library.rate_hz, "n_samples": [len(samples) // 2 for samples in speech]}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + b"".join(speech))


if __name__ == "__main__":
    try:
        _serve()
    except KmedError as error:
        sys.exit(str(error))
