"""The documentation's site: every page is in its navigation, and links work as on GitHub. `make site` builds it."""

import re

import pytest
import yaml
from documented import ROOT

import kmed_bench

PAGE = r"[\w./-]+\.md"


@pytest.fixture(scope="module")
def hooks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        import site_hooks

        yield site_hooks


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("README.md", "docs/metrics/README.md", "metrics/README.md"),
        ("README.md", "docs/decisions", "decisions/README.md"),
        ("README.md", "SECURITY.md", "SECURITY.md"),
        ("README.md", "docs/tuning.md#two-goals", "tuning.md#two-goals"),
        ("docs/promotion.md", "../SECURITY.md#keys", "SECURITY.md#keys"),
        ("docs/promotion.md", "../README.md", "index.md"),
        ("docs/metrics/cer.md", "../decisions/005-split.md", "../decisions/005-split.md"),
        ("docs/metrics/cer.md", "../../Makefile", "../source/Makefile.md"),
        ("docs/api.md", "../kmed_bench/cli.py", "source/kmed_bench/cli.py.md"),
        ("docs/api.md", "absent.md", "absent.md"),
        ("docs/api.md", "https://example.org/docs/api.md", "https://example.org/docs/api.md"),
        ("docs/api.md", "#runs", "#runs"),
    ],
)
def test_a_link_leads_to_the_same_page(hooks, page, link, there):
    text = "See [it]({0}) and `[0]({0})`.\n\n```python\na[0](docs)\n```\n"
    assert hooks.site_links(text.format(link), page) == text.replace("{0}", there, 1).format(link)


def test_a_file_that_a_page_links_to_is_shown_whole(hooks):
    assert hooks.linked("[a](../Makefile) `[b](c.md)` [d](api.md#e)", "docs/guide.md") == ["Makefile", "docs/api.md"]
    page = hooks.source_page("docs/api.md")  # it has fences of its own
    assert page.startswith("# `docs/api.md`\n\n````md\n# Python API\n")
    assert page.endswith("\n````\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<script src="https://unpkg.com/x"></script>', ['<script src="https://unpkg.com/x']),
        ("<img alt=a src=//host/a.png>", ["<img alt=a src=//host/a.png"]),
        ('<link rel="stylesheet" href="http://host/a.css">', ['<link rel="stylesheet" href="http://host/a.css']),
        ("a { background: url('https://host/a.woff') }", ["url('https://host/a.woff"]),
        ('@import "https://host/a.css";', ['@import "https://host/a.css"']),
        ('<a href="https://host">read</a> <img src="a.png"> <link rel="icon" href="a.png"> url(data:image/png)', []),
    ],
)
def test_what_a_page_would_load_from_another_host_is_found(hooks, text, found):
    assert hooks.loads(text) == found


def test_every_page_is_in_the_navigation_once(hooks):
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    own = re.findall(PAGE, str(nav))
    assert len(own) == len(set(own)) > 25
    listed = re.findall(PAGE, str(hooks.expand(nav, own)))
    docs = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    made = {*hooks.ROOT_PAGES.values(), "reference.md", "decisions/README.md"}
    assert sorted(listed) == sorted(docs | made)


def test_a_page_without_an_entry_is_listed_with_its_folder(hooks):
    nav = [{"Start": "index.md"}, {"More": ["gpu.md", "./"]}, {"Metrics": "metrics/"}]
    start, more, metrics = hooks.expand(nav, ["index.md", "gpu.md"])
    assert start == {"Start": "index.md"}
    assert more["More"][:2] == ["gpu.md", "LOG.md"]
    assert more["More"].count("gpu.md") == 1
    assert {"paper.md", "settings.md"} <= set(more["More"])
    assert metrics["Metrics"][:2] == ["metrics/README.md", "metrics/cer.md"]


def test_the_pages_that_are_made_name_what_is_there(hooks):
    names = re.findall(r"^::: (kmed_bench\.\S+)$", hooks.reference(), re.MULTILINE)
    assert [name.rpartition(".")[2] for name in names] == list(kmed_bench.PUBLIC)
    entries = re.findall(r"^- (\d{3}): \[(.+)\]\((\1-[\w-]+\.md)\)$", hooks.decisions(), re.MULTILINE)
    assert len(entries) == len(list((ROOT / "docs" / "decisions").glob("*.md")))
    for _, title, name in entries:
        assert (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8").startswith(f"# {title}\n")
