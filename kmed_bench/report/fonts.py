"""Hangul in plots and on the page, also on machines without a Korean font."""

import base64
import functools
import importlib.util
import io
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager

# Families with Hangul in order of preference: free ones, then those of Windows and macOS.
KOREAN_FAMILIES = (
    "NanumGothic",
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "UnDotum",
    "Baekmuk Dotum",
)

INK = "#1c2024"
SOFT = "#5b6471"
RULE = "#d5d9de"


def find_korean_font() -> Path | None:
    """Return the file of a font with Hangul, or None if there is none.

    koreanize-matplotlib's NanumGothic comes first: it is a dependency, so plots look the same on every machine. The
    package is located but not imported, because its import changes the user's rcParams.
    """
    spec = importlib.util.find_spec("koreanize_matplotlib")
    if spec is not None and spec.origin is not None:
        shipped = Path(spec.origin).parent / "fonts" / "NanumGothic.ttf"
        if shipped.is_file():
            return shipped
    installed = {entry.name: Path(entry.fname) for entry in font_manager.fontManager.ttflist}
    return next((installed[name] for name in KOREAN_FAMILIES if name in installed), None)


@contextmanager
def plot_style() -> Iterator[None]:
    """Apply the report's plot settings inside the ``with`` block and restore the caller's afterwards."""
    font = find_korean_font()
    families = ["DejaVu Sans"]
    if font is not None:
        registered = {entry.fname for entry in font_manager.fontManager.ttflist}
        if str(font) not in registered:
            font_manager.fontManager.addfont(str(font))
        families.insert(0, font_manager.FontProperties(fname=str(font)).get_name())
    settings: dict[Any, Any] = {
        "font.family": families,
        "font.size": 10,
        "axes.unicode_minus": False,  # NanumGothic has no U+2212
        "axes.titlesize": 11,
        "axes.labelsize": 10,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": RULE,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "savefig.dpi": 144,
        "svg.fonttype": "path",
        "figure.max_open_warning": 0,
    }
    with mpl.rc_context(settings):
        yield


def subset_font(text: str) -> str | None:
    """Return a WOFF font with the Hangul of a text as base64, or None if there is no Hangul or no font.

    On a machine without a Korean font the page would show boxes; a few dozen glyphs take some kilobytes.
    """
    wanted = frozenset(ord(c) for c in set(unicodedata.normalize("NFC", text)) if is_hangul(c))
    source = find_korean_font()
    return _subset(source, wanted) if wanted and source is not None else None


@functools.lru_cache(maxsize=4)  # a page that has to fit a size is drawn more than once
def _subset(source: Path, wanted: frozenset[int]) -> str:
    from fontTools import subset  # type: ignore[import-untyped]  # slow to import, and only pages with Hangul need it

    options = subset.Options(flavor="woff", layout_features=[], hinting=False, notdef_outline=True)
    options.drop_tables += ["TSI0", "TSI1", "TSI2", "TSI3", "TSI5"]  # leftovers of NanumGothic's hinting program
    with subset.load_font(str(source), options) as font:
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=sorted(wanted))
        subsetter.subset(font)
        target = io.BytesIO()
        font.flavor = "woff"
        font.save(target)
    return base64.b64encode(target.getvalue()).decode("ascii")


def is_hangul(character: str) -> bool:
    """Return whether a character is a Hangul syllable or jamo."""
    point = ord(character)
    return 0xAC00 <= point <= 0xD7A3 or 0x1100 <= point <= 0x11FF or 0x3130 <= point <= 0x318F
