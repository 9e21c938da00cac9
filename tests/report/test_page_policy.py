"""Every page fetches nothing and runs nothing but its own script, and says so to the browser."""

import base64
import hashlib
import html.parser
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from bench_records import make_bench
from curve_records import make_curve
from misheard import LINES, OPTIONS, predictions
from test_report_sections import draw, make_table

from kmed_bench.core.records import StudyRecord
from kmed_bench.report.data_page import write_data_page
from kmed_bench.report.error_clips import Beside
from kmed_bench.report.error_page import write_error_analysis
from kmed_bench.report.learning_curve import write_curve
from kmed_bench.report.page import write_report
from kmed_bench.report.rendering import POLICY
from kmed_bench.report.sections import ExtraSection
from kmed_bench.report.study import write_study

HOSTILE = '"><script>alert(1)</script><img src=http://a.b/c onerror=x>'
QUALITY: Any = {
    **{"labels": 3, "usable": 2, "speakers": 1, "sentences": 2, "hours": 0.1, "rejected": {"audio_missing": 1}},
    **{"warnings": {"silent_audio": 1}, "incomplete": {HOSTILE: 1}, "roles_left_out": {HOSTILE: 1}},
    **{"files_ignored": {HOSTILE: 1}, "by": {"dialect": {HOSTILE: 2}}, "pairs": {}},
    "histograms": {"duration_s": {"edges": [0, 1, 2], "counts": [1, 1]}},
}
TEMPLATES = Path(__file__).parents[2] / "kmed_bench" / "report" / "templates"
FETCHED = ("src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href", "ping", "manifest")


class References(html.parser.HTMLParser):
    """What a page fetches, where its links lead, what it would run, and its policy."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: set[str] = set(re.findall(r"url\(\s*[\"']?([^\"')]*)", text))
        self.fetched |= set(re.findall(r"@import[^;]*", text))
        self.links: set[str] = set()
        self.run: set[str] = set()
        self.policies: list[str] = []
        self.order: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.order.append(tag)
        given = {name: value or "" for name, value in attrs}
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
            self.run.add(tag)
        self.run |= {name for name in given if name.startswith("on")}
        self.fetched |= {value for name, value in given.items() if name in FETCHED}
        if "href" in given and tag == "a":
            self.links.add(given["href"])
        elif "href" in given:
            self.fetched.add(given["href"])
        if given.get("http-equiv", "").lower() == "content-security-policy":
            self.policies.append(given["content"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    section = ExtraSection(title="T", lead="L", figures=(draw("study-cer"),), tables=(make_table(),))
    sound = np.zeros(1600, np.float32)
    lines = [*LINES, ("s9", f"=cmd{HOSTILE}", "=1+1")]
    study = StudyRecord(
        name="s", size="base", sampler="tpe", pruner="none", epochs=1, n_trials=0, objectives=("cer",), trials=(),
        synthetic=True,
    )  # fmt: skip
    written = {
        "page.html": write_report(make_bench(sizes=("base",), epochs=1), folder / "report", extra=[section]),
        "data.html": write_data_page(QUALITY, folder, name="<script>x</script>"),
        "errors.html": write_error_analysis(
            folder / "errors",
            predictions(lines),
            OPTIONS,
            name="<script>x</script>",
            beside=Beside(predictions=predictions(lines), name="<img src=x>"),
            read_clip=lambda _: sound,
        ),
        "curve.html": write_curve(make_curve(), folder / "curve"),
        "study.html": write_study(study, (draw("a"),), folder / "study"),
    }
    return {name: path.read_text(encoding="utf-8") for name, path in written.items()}


def test_every_template_of_a_page_is_looked_at(pages: dict[str, str]) -> None:
    whole = {path.name for path in TEMPLATES.glob("*.html") if "extends" in path.read_text(encoding="utf-8")}
    assert whole == set(pages)
    assert [path.name for path in TEMPLATES.glob("*.html") if "<html" in path.read_text(encoding="utf-8")] == [
        "base.html"
    ]


@pytest.mark.parametrize("name", ["page.html", "study.html", "data.html"])
def test_a_page_fetches_nothing_and_runs_nothing(name: str, pages: dict[str, str]) -> None:
    found = References(pages[name])
    assert found.policies == [POLICY]
    assert found.order.index("meta") < found.order.index("style")
    assert {urlsplit(address).scheme or address[:1] for address in found.fetched} <= {"data", "#"}
    assert found.run == set()
    for link in found.links:
        assert re.fullmatch(r"#[\w-]+|[\w-]+\.(csv|png|svg)", link), link


def test_the_error_page_runs_its_own_script_alone_and_holds_its_sound(pages: dict[str, str]) -> None:
    page = pages["errors.html"]
    found = References(page)
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
    assert script == (TEMPLATES / "errors.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert found.policies == [f"{POLICY}; media-src data:; script-src 'sha256-{digest}'"]
    assert found.order.index("meta") < found.order.index("style")
    assert found.order.count("script") == 1
    assert found.order.count("audio") == 7
    assert found.run == {"script"}
    assert {urlsplit(address).scheme for address in found.fetched} == {"data"}
    assert not re.findall(r"https?:|//\w|\bfetch\(|XMLHttpRequest|WebSocket|eval\(|innerHTML|localStorage", script)
    for link in found.links:
        assert re.fullmatch(r"#[\w-]+|clips\.csv", link), link


def test_the_policy_allows_no_script_and_no_address() -> None:
    rules = dict(rule.split(maxsplit=1) for rule in POLICY.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert "script-src" not in rules
    assert set(" ".join(rules.values()).split()) == {"'none'", "'unsafe-inline'", "data:"}
    assert [name for name, value in rules.items() if "'unsafe-inline'" in value] == ["style-src"]


def test_the_tables_of_an_analysis_hold_no_formula(tmp_path: Path) -> None:
    lines = [("s1", "", "배"), ("=s2", "배가", "@배가")]
    page = write_error_analysis(tmp_path / "e", predictions(lines), OPTIONS, name="x")
    tables = [pd.read_csv(path, keep_default_na=False, dtype=str) for path in page.parent.glob("*.csv")]
    texts = [str(cell) for table in tables for cell in table.to_numpy().ravel()]
    assert "'=s2" in texts
    assert not [text for text in texts if text.startswith(("=", "@"))]
