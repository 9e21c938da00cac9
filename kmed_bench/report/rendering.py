"""HTML pages from this room's templates, each a single file that fetches nothing."""

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from kmed_bench import __version__
from kmed_bench.core.language import current_language, gettext, ngettext, translate_stored
from kmed_bench.core.quantities import explain_rates, percent
from kmed_bench.report.fonts import subset_font
from kmed_bench.report.table_view import cell, interval, is_absent, number

_TEMPLATES = Path(__file__).parent / "templates"
_FONT_MARK = "/*hangul*/"
"""Where a template's style wants the page's own Hangul glyphs."""

_UNIT = re.compile(r"(?<=\d) (?=%)")
"""The space between a number and its sign, where browsers break lines."""
_PARTICLE = re.compile(r"(?:(?<=\N{NO-BREAK SPACE}%)|(?<=\)))((?:</\w+>)*)(?=[가-힣])")
"""Where a Korean particle follows a rate or a bracket: browsers break lines there, even with ``keep-all``."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
)
"""Content Security Policy of pages: styles, pictures and fonts within them, no script, nothing from elsewhere.

Styles can't be named by a hash, since plots have them as attributes.
"""


def allow(script: str) -> str:
    """Return the policy of a page with sound within it and one script, named by its hash (CSP level 2)."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return f"{POLICY}; media-src data:; script-src 'sha256-{digest}'"


def render(template: str, *, script: str | None = None, **context: Any) -> str:
    """Return the page that a file of ``templates`` makes of a context, in the language in use.

    Parameters
    ----------
    script : str, optional
        A file of ``templates`` that the page runs as ``script``; its policy then is that of ``allow``.
    """
    environment, rules = _environment(), {"policy": Markup(POLICY)}
    if script is not None:
        source = (_TEMPLATES / script).read_text(encoding="utf-8")
        rules = {"policy": Markup(allow(source)), "script": Markup(source)}
    html = environment.get_template(template).render(lang=current_language(), **rules, **context)
    html = _UNIT.sub("\N{NO-BREAK SPACE}", html)
    if current_language() == "ko":
        html = _PARTICLE.sub("\N{WORD JOINER}\\1", html)
    return html.replace(_FONT_MARK, _font_rule(html)) if _FONT_MARK in html else html


@functools.cache
def _environment() -> jinja2.Environment:
    """Return what reads the templates, each of which it compiles once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.i18n"],
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(gettext, ngettext, newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= {"number": number, "percent": percent, "safe_svg": Markup, "stored": translate_stored}
    environment.tests["known"] = lambda value: not is_absent(value)
    environment.globals |= {"cell": cell, "interval": interval, "explain_rates": explain_rates, "version": __version__}
    return environment


def _font_rule(html: str) -> str:
    """Return CSS with the glyphs of a page's Hangul, for readers' machines that have none; empty without Hangul."""
    font = subset_font(html)
    if font is None:
        return ""
    return (
        f'@font-face {{ font-family: "Kmed Hangul"; src: url("data:font/woff;base64,{font}") format("woff"); '
        "unicode-range: U+1100-11FF, U+3130-318F, U+AC00-D7A3; }"
    )
