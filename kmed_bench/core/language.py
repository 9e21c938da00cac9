"""The language of pages: a text is looked up when it is shown, in one catalogue for the whole package (GNU gettext).

Settings, messages of commands, the tracking store and files for programs stay English.
"""

import functools
import gettext as catalogues
import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, cast

Language = Literal["en", "ko"]
DOMAIN = "kmed_bench"
"""Name of the catalogue."""
LOCALE = Path(__file__).parents[1] / "locale"
"""Folder of the translations; the texts in the code are the English ones."""

_FEWEST_LETTERS = 4
"""A template with fewer letters outside its placeholders is not matched against stored texts."""
_FILLING = r"(?:(?![.:;] ).)+?"
"""A placeholder matches no end of a sentence, so that several sentences are not taken for one template."""
_current: ContextVar[Language] = ContextVar("language", default="en")


@contextmanager
def use_language(language: Language) -> Iterator[None]:
    """Show texts in a language inside the ``with`` block, in this thread."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)


def current_language() -> Language:
    """Return the language in which texts are shown: English outside of every ``use_language``."""
    return _current.get()


def gettext(message: str, /, **values: object) -> str:
    """Return a text in the language in use, its named placeholders filled as `str.format` does."""
    text = _catalogue(_current.get()).gettext(message) if message else ""
    return text.format(**values) if values else text


def ngettext(singular: str, plural: str, n: int, /, **values: object) -> str:
    """Return the form of a text that a number asks for, with the number as ``{n}``."""
    return _catalogue(_current.get()).ngettext(singular, plural, n).format(n=n, **values)


def pgettext(context: str, message: str, /) -> str:
    """Return a text that has another translation in another context."""
    return _catalogue(_current.get()).pgettext(context, message)


def N_(message: str, /) -> str:  # noqa: N802  # gettext's own name for it
    """Return a text as it is, and mark it for the catalogue: it is stored in English and translated where shown."""
    return message


def translate_stored(text: str) -> str:
    """Return a stored English text in the language in use, also one whose placeholders are filled.

    What fills them is translated by itself, and so is each of several texts with semicolons between them. A text that
    the catalogue does not have stays as it is.
    """
    if not text or _current.get() == "en":
        return text
    exact = gettext(text)
    if exact != text:
        return exact
    for pattern, template in _patterns(_current.get()):
        if found := pattern.fullmatch(text):
            return re.sub(r"\{(\w+)[^}]*\}", lambda name: translate_stored(found[name[1]]), gettext(template))
    several = text.split("; ")
    return "; ".join(map(translate_stored, several)) if len(several) > 1 else text


@functools.cache
def _catalogue(language: str) -> catalogues.NullTranslations:
    if language == "en":
        return catalogues.NullTranslations()
    return catalogues.translation(DOMAIN, LOCALE, [language])


@functools.cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Return the catalogue's texts with placeholders as patterns of filled ones, those with most words first."""
    found = []
    # GNUTranslations has no public list of its messages; a plural is a pair with its number.
    messages = cast(dict[str | tuple[str, int], str], vars(_catalogue(language))["_catalog"])
    for message in messages:
        if isinstance(message, str) and "{" in message:
            pieces = list(string.Formatter().parse(message))
            letters = sum(character.isalpha() for literal, *_ in pieces for character in literal)
            if letters >= _FEWEST_LETTERS:
                found.append((letters, _pattern(pieces), message))
    return [(pattern, message) for _, pattern, message in sorted(found, key=lambda entry: -entry[0])]


def _pattern(pieces: list[tuple[str, str | None, str | None, str | None]]) -> re.Pattern[str]:
    text, known = "", set[str]()
    for literal, name, *_ in pieces:
        text += re.escape(literal)
        if name is not None:
            text += f"(?P={name})" if name in known else f"(?P<{name}>{_FILLING})"
            known.add(name)
    return re.compile(text, re.DOTALL)
