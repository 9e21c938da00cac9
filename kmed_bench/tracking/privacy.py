"""Texts that may be logged: messages and exceptions without paths, and without what was said in Korean."""

import re
import traceback
from pathlib import Path

from kmed_bench.core.addresses import without_password
from kmed_bench.core.corpus_contracts import QualityReport
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.refusals import refused

_CHARS = 500
_PACKAGE = Path(__file__).resolve().parents[1]
# Addresses of stores and names of models are not paths in the file system.
_ADDRESS = r"(?:https?|postgresql\S*|mysql\S*|mssql\S*|models|runs)://?[^\s,;)]*"
_PATH = r"(?:[A-Za-z]:\\|[\w.~+-]*[\\/])[^\s,;:'\"()]*"
_PATHS = re.compile(f"(?P<address>{_ADDRESS})|(?P<quoted>'[^'\n]*[\\\\/][^'\n]*')|(?P<path>{_PATH})")
_AUDIO = re.compile(r"[^\s,;:'\"()]+\.(?:wav|flac|json|zip|tar|parquet|pt)\b", re.IGNORECASE)
_KOREAN = re.compile(
    r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]+(?:[^\S\n]*[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]+)*"
)
# The program's own files say what is wrong and name nobody.
_OWN_FILES = ("split.json", "scores.json", "quality.json", "training.json", "plan.json", "manifest.parquet", "best.pt")
_UTTERANCES = re.compile(r"\(utterances [^)]*\)")


def without_speech(text: str) -> str:
    """Return a text without passwords, paths, ids of utterances, names of the user's files, and Korean words.

    Messages are English: Korean in them comes from labels, transcripts or names of folders.
    """
    shown = _PATHS.sub(_hide_path, _UTTERANCES.sub("(utterances)", without_password(text)))
    shown = _AUDIO.sub(lambda found: found[0] if found[0] in _OWN_FILES else "(path)", shown)
    return _KOREAN.sub("(korean)", shown)


def _hide_path(found: re.Match[str]) -> str:
    if found["address"]:
        return found[0]
    words = found[0].strip("'")
    # Metric names such as train/loss, and pairs such as CER/WER, are not paths.
    return found[0] if re.fullmatch(r"[a-z0-9_]{1,20}/[a-z0-9_]{1,20}", words, re.IGNORECASE) else "(path)"


def without_ids(quality: QualityReport) -> QualityReport:
    """Return a quality report without its examples: ids of utterances say who speaks; rejects.csv has them here."""
    return {**quality, "reject_examples": {}, "warning_examples": {}}


def describe_failure(error: BaseException) -> str:
    """Return why a run failed, in one line that may be logged.

    A `KmedError` explains itself; of other exceptions only the type and the line of this package are named, because
    their text may quote what was said. What a server refused is named in words of our own.
    """
    error = refused(error) or error
    if isinstance(error, KmedError):
        text = " ".join(without_speech(str(error)).split())
        return text if len(text) <= _CHARS else f"{text[: _CHARS - 1]}…"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}; the log on the machine that ran it has more."
