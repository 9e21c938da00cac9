"""MkDocs hooks: the repository's own pages on the site, links that also work on GitHub, and nothing from outside.

The site has the pages of docs/, README.md as its first page, the other pages of the repository's root, a page for each
file of the repository that a page links to, and the docstrings of what `import kmed_bench` offers. Links stand in the
pages as GitHub reads them, relative to the file; the site's are made from those.
"""

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kmed_bench import PUBLIC

ROOT = Path(__file__).resolve().parents[1]
_OTHER_ROOT_PAGES = ("README.ko.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "SECURITY.ko.md")
ROOT_PAGES = {"README.md": "index.md", **{name: name for name in _OTHER_ROOT_PAGES}}
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
_LOADS = re.compile(
    r"<(?:script|img|iframe|audio|video|source|embed|object)\b[^>]*?\s(?:src|data)=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*?\shref=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|@import[^;]*//[^;]+|url\([\"']?(?:https?:)?//[^)'\"]+"
)


def place(path: str) -> str:
    """Return where the site has a file of the repository, both as paths with slashes."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path == "docs" or path.startswith("docs/"):
        within = path.removeprefix("docs").lstrip("/")
        return posixpath.join(within, "README.md") if (ROOT / path).is_dir() else within
    return f"source/{path}.md"


def linked(text: str, page: str) -> list[str]:
    """Return the repository's files to which the page at a path of the repository links."""
    prose = _CODE.sub("", text)
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in _LINK.findall(prose)]


def site_links(text: str, page: str) -> str:
    """Return a page's Markdown with its links to files of the repository as the site has them."""

    def rewrite(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), found[1]))
        if not (ROOT / target).exists():
            return found[1]  # the strict build names it
        return posixpath.relpath(place(target), posixpath.dirname(place(page)) or ".")

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts)


def loads(text: str) -> list[str]:
    """Return what an HTML or CSS file would load from another host; links that a reader may follow are none."""
    return [found[0] for found in _LOADS.finditer(text)]


def reference() -> str:
    """Return the page of public names, whose docstrings mkdocstrings puts in."""
    names = "\n\n".join(f"::: kmed_bench.{module}.{name}" for name, module in PUBLIC.items())
    return (
        "# Python API: every name\n\nThe names that `import kmed_bench` offers, from their docstrings; "
        f"[Python API](api.md) shows how they work together.\n\n{names}\n"
    )


def decisions() -> str:
    """Return the index of the decisions, each by its page's title."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    rows = [f"- {page.stem[:3]}: [{title}]({page.name})" for page, title in zip(pages, titles, strict=True)]
    return "# Decisions\n\nChoices that had alternatives, with their reasons and dates.\n\n" + "\n".join(rows) + "\n"


def source_page(path: str) -> str:
    """Return a page that shows a file of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    fence = max(re.findall(r"`{3,}", text), default="``") + "`"
    return f"# `{path}`\n\n{fence}{Path(path).suffix[1:] or 'text'}\n{text.rstrip()}\n{fence}\n"


def expand(nav: Any, named: Iterable[str] = ()) -> Any:
    """Return the navigation with a folder's pages where it has a path that ends with a slash, its index first.

    Parameters
    ----------
    named : iterable of str
        Pages with an entry of their own, which are left out there.
    """
    if isinstance(nav, list):
        return [item for entry in nav for item in as_list(expand(entry, named))]
    if isinstance(nav, dict):
        return {title: expand(entry, named) for title, entry in nav.items()}
    if not nav.endswith("/"):
        return nav
    folder = nav.removeprefix("./")
    pages = {f"{folder}{path.name}" for path in (ROOT / "docs" / nav).glob("*.md")}
    index = [f"{folder}README.md"] if folder else []
    return [*index, *sorted(pages - {*index, *named})]


def as_list(entries: Any) -> list[Any]:
    """Return entries of the navigation as a list, as a folder's pages are."""
    return entries if isinstance(entries, list) else [entries]


def on_config(config: Any) -> None:
    """Fill in the navigation, and make headings' anchors as GitHub makes them."""
    from markdown.extensions.toc import slugify_unicode

    config.nav = expand(config.nav, re.findall(r"[\w./-]+\.md", str(config.nav)))
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify_unicode


def on_files(files: Any, config: Any) -> None:
    """Add the pages that do not stand in docs/."""
    from mkdocs.structure.files import File

    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    texts |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ROOT_PAGES}
    made = {place(name): texts[name] for name in ROOT_PAGES}
    made |= {"reference.md": reference(), "decisions/README.md": decisions()}
    for page, text in texts.items():
        for target in linked(text, page):
            if place(target).startswith("source/") and (ROOT / target).is_file():
                made[place(target)] = source_page(target)
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page of the repository."""
    uri = page.file.src_uri
    if page.file.abs_src_path is None and uri not in ROOT_PAGES.values():
        return markdown  # made for the site
    return site_links(markdown, next((name for name, at in ROOT_PAGES.items() if at == uri), f"docs/{uri}"))


def on_post_build(config: Any) -> None:
    """Refuse a site that would load something from another host.

    Raises
    ------
    mkdocs.exceptions.Abort
        With the files and what they load.
    """
    from mkdocs.exceptions import Abort

    site = Path(config.site_dir)
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    found = [f"{path.relative_to(site)}: {one}" for path in files for one in loads(path.read_text(encoding="utf-8"))]
    if found:
        raise Abort("The site loads from other hosts:\n" + "\n".join(found))
