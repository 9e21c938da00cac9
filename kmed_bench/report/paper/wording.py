"""How a paper sets numbers and text: one rule of rounding, sentences in two languages, escaping.

`ROUNDING` states the rule. A sentence is left out where a fact that it names is unknown, so that nothing is invented.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kmed_bench.core.language import Language

LANGUAGES: tuple[Language, ...] = ("en", "ko")


class Say(NamedTuple):
    """The same words in English and in Korean; ``needs`` names facts that the words rest on and do not show."""

    en: str
    ko: str
    needs: tuple[str, ...] = ()

    def words(self, language: Language) -> str:
        """Return the words of a language."""
        return self.en if language == "en" else self.ko


Facts = Mapping[str, str | Say]
"""What is known, as text by name; what is unknown has no entry."""

ROUNDING = Say(
    "Rates are in percent and differences in percentage points, both rounded to two decimals, p to three, hours to "
    "one; "
    "counts are exact. Differences are of unrounded rates.",
    "비율은 %, 차이는 %p 단위로 소수점 둘째 자리, p값은 셋째 자리, 시간은 첫째 자리까지 반올림하였고 개수는 정확한 "
    "값이다. "
    "차이는 반올림하지 않은 비율에서 계산하였다.",
)
ABSENT = "–"


def is_known(value: Any) -> bool:
    """Return whether a value is a number."""
    return value is not None and not math.isnan(value)


def rate(value: float | None) -> str:
    """Return a fraction in percent without the sign, such as ``12.34``; a dash where there is none."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """Return a difference of fractions in percentage points, such as ``−1.25``; a dash where there is none."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:+.2f}".replace("-", "−")


def points_in_words(value: float | None, language: Language) -> str:
    """Return a difference with its unit."""
    return f"{points(value)} percentage points" if language == "en" else f"{points(value)}%p"


def p_value(value: float | None) -> str:
    """Return a p-value such as ``0.012`` or ``<0.001``; a dash where there is none."""
    if value is None or math.isnan(value):
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def equals(p: float) -> str:
    """Return the p-value with its sign, such as ``= 0.012`` or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def count(value: float) -> str:
    """Return a whole number with separated thousands."""
    return f"{int(value):,}"


def hours(value: float) -> str:
    """Return hours with one decimal."""
    return f"{value:,.1f}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def small(value: float) -> str:
    """Return a setting such as a learning rate: ``2 × 10⁻⁵`` below 0.001, else as it is."""
    if not 0 < abs(value) < 0.001:
        return f"{value:g}"
    digits, _, exponent = f"{value:e}".partition("e")
    return f"{float(digits):g} × 10{str(int(exponent)).translate(_RAISED)}"


def listed(words: Iterable[str], language: Language = "en") -> str:
    """Return words as a list in a sentence: ``a, b and c``."""
    *head, last = list(words)
    if not head:
        return last
    return f"{', '.join(head)} and {last}" if language == "en" else ", ".join([*head, last])


def tell(sentences: Iterable[Say], facts: Facts, language: Language) -> str:
    """Return the sentences of which all facts are known, as one paragraph."""
    known = {name: fact.words(language) if isinstance(fact, Say) else fact for name, fact in facts.items()}
    paragraph = []
    for sentence in sentences:
        if all(name in known for name in sentence.needs):
            try:
                paragraph.append(sentence.words(language).format_map(known))
            except KeyError:
                continue
    return " ".join(paragraph)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "<": r"$<$",
    ">": r"$>$",
    "†": r"\textsuperscript{\dag}",
    "“": "``",
    "”": "''",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_POWER = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def latex(text: str) -> str:
    """Return text for LaTeX; Hangul stays as it is, for XeLaTeX or LuaLaTeX."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return _POWER.sub(lambda power: f"$^{{{power[0].translate(_LOWERED)}}}$", escaped)


def markdown(text: str) -> str:
    """Return text for Markdown, its tables included."""
    return re.sub(r"([\\`*_|~]|<(?=[\w/!])|](?=\())", r"\\\1", text)
