"""Latin words that a Korean page shows beside names, keys and files: texts that nobody has translated."""

import html.parser
import re
from collections.abc import Iterable

NAMES = frozenset(
    re.findall(
        r"\S+",
        """
        AI CER CLAIM CPU CSV GPU ID JSON MI PDF PNG RTF SHA STARD SVG TRIPOD UTC WAV WER
        AdamW Chrome Edge Firefox Holm Hub LoRA MLflow Optuna Opus Safari SpecAugment Whisper kmed bench macOS
        base small tiny ingest p Hz kHz MiB ms Esc
        """,
    )
)
"""Proper names, metric keys, sizes, units, and keys of a keyboard."""
REPORT_NAMES = (
    "kmed-bench power SPLIT --predictions A B",
    *("Student", "Clopper-Pearson", "Gaur et al.", "W4A", "Optuna", "TPE", "median", "medium", "large-v3-turbo"),
    *("KsponSpeech clean", "KsponSpeech", "Zeroth", "ETRI, PSS", "DOI", "Jungmin81/voice-emr-baseline", "code-hyunjo"),
    "duaud001520-ux/practice-project",
)
"""What a report names beside: methods, publications, and a command."""
_KEY = re.compile(r"--[a-z][\w.-]*|\w*[A-Za-z]\w*(?:[._/]\w+)+|\b[a-z]*\d[0-9a-z]*\b|\{\w+\}")
"""Settings, flags, files, keys with underscores, digests and bf16, placeholders."""
_WORD = re.compile(r"[A-Za-z][A-Za-z’']+")
_SILENT = ("script", "style", "code", "kbd")
_SHOWN = ("alt", "aria-label", "title", "placeholder", "data-label", "data-text", "data-play", "data-pause")


def latin_words(text: str, allowed: Iterable[str] = ()) -> list[str]:
    """Return the Latin words of a text that are no names.

    Parameters
    ----------
    allowed : iterable of str
        What the data are called: texts that stand in the page as they are.
    """
    for known in sorted(allowed, key=len, reverse=True):
        text = text.replace(known, " ")
    return [word for word in _WORD.findall(_KEY.sub(" ", text)) if word not in NAMES]


class _Texts(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if self._silent or tag in _SILENT or given.get("lang") == "en":
            if tag not in ("br", "meta", "img", "path", "use", "rect"):
                self._silent.append(tag)
            return
        self.texts += [given[name] or "" for name in _SHOWN if name in given]

    def handle_endtag(self, tag: str) -> None:
        if self._silent and self._silent[-1] == tag:
            self._silent.pop()

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.texts.append(data)


def untranslated(page: str, allowed: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return the texts of a page that hold Latin words, with these words; code, scripts and English parts have none."""
    found = _Texts()
    found.feed(page)
    words = {" ".join(text.split()): latin_words(text, allowed) for text in found.texts}
    return {text: found for text, found in words.items() if found}
