"""The written report: files, figures equal to the record's, what it must say, nothing fetched."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from importlib import resources
from math import isclose
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from bench_records import make_bench, make_train

from kmed_bench.core.language import Language, use_language
from kmed_bench.core.records import BenchRecord
from kmed_bench.report import fonts
from kmed_bench.report.page import find_notices, write_report

COMPARISONS: list[dict[str, Any]] = [
    {
        "a_name": "base untouched",
        "b_name": "base fine-tuned",
        "a": 0.1995,
        "b": 0.0843,
        "delta": -0.1152,
        "delta_low": -0.1311,
        "delta_high": -0.0987,
        "p_value": 0.0004,
        "p_holm": 0.0008,
        "n_clips": 1000,
        "n_speakers": 42,
    },
    {
        "a_name": "base fine-tuned",
        "b_name": "small fine-tuned",
        "delta": 0.001,
        "no_interval": "no clip differs",
        "p_value": 0.7,
        "p_holm": 0.7,
    },
]


class Page(HTMLParser):
    """The tables of a page: id to rows, each column label to the exact values (or the text) of its cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, list[str]]]] = {}
        self.data: list[tuple[float, str]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self._table = ""
        self._cell: list[str] | None = None
        self._value: float | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [given[key] for key in ("href", "src", "xlink:href") if key in given]
        if tag == "table":
            self._table = given["id"]
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append({})
        elif tag == "td":
            self._cell = self.tables[self._table][-1].setdefault(given["data-label"], [])
        elif tag == "data":
            self._value = float(given["value"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = None
        elif tag == "table":
            self._table = ""

    def handle_data(self, text: str) -> None:
        if self._value is not None:
            self.data.append((self._value, text))
            if self._cell is not None:
                self._cell.append(repr(self._value))
            self._value = None
        elif self._cell is not None and text.strip() and text.strip() not in ("(", "to", ")"):
            self._cell.append(text.strip())


@pytest.fixture(scope="module")
def bench() -> BenchRecord:
    return make_bench(seeds=2)


@pytest.fixture(scope="module")
def folder(bench: BenchRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert write_report(bench, out, comparisons=COMPARISONS) == out / "index.html"
    return out


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_size_table_equals_the_record(bench: BenchRecord, html: str) -> None:
    rows = Page(html).tables["sizes"][1:]
    assert [row["size"] for row in rows] == [["tiny"], ["base"], ["small"]]
    for row in rows:
        runs = [run for run in bench.trains if run.size == row["size"][0]]
        best = min(runs, key=lambda run: run.metrics["best/valid_cer"])
        m = best.metrics
        assert row["fine-tuned, valid CER"] == [repr(m["best/valid_cer"])]
        assert row["fine-tuned, test CER"] == [repr(m[f"test/cer{end}"]) for end in ("", "_low", "_high")]
        assert row["untouched, test CER"] == [repr(m[f"untouched/test_cer{end}"]) for end in ("", "_low", "_high")]
        assert row["best epoch"] == [repr(m["best/epoch"])]
        assert row["test clips"] == [repr(float(bench.scores[best.run_id]["overall"]["n_clips"]))]
        assert row["seeds"] == ["2.0"]


def test_the_page_opens_with_the_verdict_cost_and_gap(bench: BenchRecord, html: str) -> None:
    best = next(run for run in bench.trains if run.run_id == "base001")  # only base is shown to be better
    head = Page(html[html.index('<section id="headline">') : html.index("<h2>Sizes")])
    values = {value for value, _ in head.data}
    gap = bench.scores["base001"]["elderly_gap"]["cer_gap"]
    assert {best.metrics["test/cer"], best.metrics["speed/test_rtfx"], gap, 1000.0, 42.0} <= values
    assert "<strong>Use base fine-tuned: test CER 9.6\u00a0%.</strong>" in html
    rows = {row["size"][0]: row for row in Page(html).tables["verdicts"][1:]}
    assert rows["base"]["verdict"] == ["better"]
    assert rows["base"]["difference in test CER"] == [
        repr(COMPARISONS[0][f"delta{end}"]) for end in ("", "_low", "_high")
    ]
    assert rows["base"]["what got worse"] == ["nothing"]
    assert [rows[size]["verdict"] + rows[size]["use"] for size in ("tiny", "small")] == [
        ["not compared", "untouched"]
    ] * 2


def test_groups_rates_costs_and_gap_equal_the_record(bench: BenchRecord, html: str) -> None:
    shown = Page(html).tables
    chosen = {
        size: next(run for run in bench.trains if run.run_id == f"{size}001") for size in ("tiny", "base", "small")
    }
    groups = {(row["field"][0], row["group"][0]): row for row in shown["groups"][1:]}
    assert len(groups) == 11
    for size, run in chosen.items():
        scores = bench.scores[run.run_id]
        cell = scores["groups"]["dialect"]["경기/서울"]
        row = groups["dialect", "경기/서울"]
        assert row[size] == [repr(cell[key]) for key in ("cer", "cer_low", "cer_high")]
        assert row["clips"] == [repr(float(cell["n_clips"]))]
        assert groups["age", "over70"][size] == ["–"]
        rates = {row["measure"][0]: row for row in shown["rates"][1:]}
        assert rates["medical terms found"][f"{size} fine-tuned"] == [
            repr(scores["overall"]["term_recall"]),
            "(no interval: too few)",
        ]
        assert rates["WER (eojeol)"][f"{size} untouched"] == [
            repr(run.metrics["untouched/test_wer"]),
            "(no interval: none was logged)",
        ]
        assert rates["CER: no spaces, no punctuation"][f"{size} fine-tuned"] == [
            repr(scores["overall"][key]) for key in ("cer", "cer_low", "cer_high")
        ]
        assert rates["empty transcripts"][f"{size} fine-tuned"] == ["0.0"]  # none by design
        costs = next(row for row in shown["costs"][1:] if row["size"] == [size])
        assert costs["audio seconds decoded per second"] == [repr(run.metrics["speed/test_rtfx"])]
        assert costs["parameters"] == [repr(run.metrics["speed/parameters"])]
        terms = {row["category"][0]: row for row in shown["terms"][1:]}
        assert list(terms) == ["symptom", "drug"]  # no unit was said
        assert terms["symptom"][f"{size}, found"] == ["0.9", "0.87", "0.92"]
        assert terms["drug"][f"{size}, missed"] == [repr(float(scores["terms"]["drug"]["n_missed"]))]
        gap = next(row for row in shown["elderly"][1:] if row["size"] == [size])
        assert gap["gap"] == [repr(scores["elderly_gap"][f"cer_gap{end}"]) for end in ("", "_low", "_high")]


@pytest.mark.slow
def test_a_missing_interval_is_explained_in_words(tmp_path: Path) -> None:
    bench = make_bench(sizes=("base",))
    best = max((run for run in bench.trains), key=lambda run: run.seed)
    loop = "one looping clip has 97 % of all errors (at most 25 %)"
    none = {"cer_low": None, "cer_high": None, "no_interval": {"cer": loop}}
    for run in bench.trains:
        for end in ("low", "high"):
            run.metrics.pop(f"test/cer_{end}", None)
        scores: Any = bench.scores[run.run_id]
        scores["overall"] |= none
        scores["groups"]["gender"]["Female"] |= none
        scores["elderly_gap"] |= {"cer_gap_low": None, "cer_gap_high": None, "no_interval": loop}
        scores["terms"]["symptom"] |= {"recall_low": None, "recall_high": None, "no_interval": loop}
        scores["numbers"] = {"n_numbers": 9, "n_found": 7, "n_ambiguous": 1, "n_unread": 2}
    html = write_report(bench, tmp_path).read_text(encoding="utf-8")
    words = f"(no interval: {loop})".replace(" %", "\N{NO-BREAK SPACE}%")
    assert html[html.index('<section id="headline">') : html.index("<h2>Sizes")].count(words) == 2  # CER and gap
    shown = Page(html).tables
    assert shown["sizes"][1]["fine-tuned, test CER"] == [repr(best.metrics["test/cer"]), words]
    groups = {row["group"][0]: row["base"] for row in shown["groups"][1:]}
    assert (groups["Female"][1], len(groups["Male"]), groups["over70"]) == (words, 3, ["–"])
    assert shown["elderly"][1]["gap"][1] == words
    assert shown["terms"][1]["base, found"][1] == words
    assert shown["numbers"][1]["unread"] == ["2.0"]


def test_gaps_benefits_speakers_and_seeds_equal_the_record(bench: BenchRecord, html: str) -> None:
    shown = Page(html).tables
    for rows, name, figures in (
        (bench.gaps, "gaps", {"CER, group": ["cer_group"], "gap": ["cer_gap", "cer_gap_low", "cer_gap_high"]}),
        (
            bench.benefits,
            "benefits",
            {"gain, others": ["benefit_against"], "difference": ["difference", "difference_low", "difference_high"]},
        ),
    ):
        for row, given in zip(shown[name][1:], rows, strict=True):
            assert (row["size"], row["group"]) == ([given["size"]], [given["group"]])
            for label, keys in figures.items():
                assert row[label] == [repr(given[key]) for key in keys]
            assert row["p (Holm)"] == (["–"] if given["below_minimum"] else [repr(given["p_holm"])])
    for row, given in zip(shown["seeds"][1:], bench.seeds, strict=True):
        assert row["mean CER"] == [repr(given[key]) for key in ("cer", "cer_low", "cer_high")]
        assert row["seeds"] == ["2.0"]
    speakers = bench.scores["base001"]["speakers"]["cer_quantiles"]
    (row,) = [row for row in shown["speaker_spread"][1:] if row["size"] == ["base"]]
    assert [row[label] for label in ("best speaker", "90\N{NO-BREAK SPACE}%", "worst speaker")] == [
        [repr(speakers[key])] for key in ("0", "90", "100")
    ]
    assert '<data value="0.0123">1.23 pp</data>, found four times in five' in html


@pytest.mark.slow
def test_only_tables_of_many_rows_are_folded(bench: BenchRecord, html: str, tmp_path: Path) -> None:
    assert "<summary>Gaps between" not in html
    many = write_report(dataclasses.replace(bench, gaps=2 * bench.gaps), tmp_path).read_text(encoding="utf-8")
    assert "<summary>Gaps between groups: 18 rows, 6 in bold</summary>" in many
    assert len(Page(many).tables["gaps"]) == 19


def test_the_page_says_in_words_what_the_split_left_out_and_how_decoding_differs(html: str, tmp_path: Path) -> None:
    assert "41,234</data>: <data" in html
    assert "whose speaker and sentence are in different parts" in html
    assert "`" not in html[html.index('<section id="split">') : html.index('<section id="data">')]
    bench = make_bench(sizes=("base",), epochs=1)
    bench.params["eval.audio_context"] = "dynamic"
    bench.tags["kmed.process"] = "05e670f9b277:23651:1795786011"
    page = write_report(bench, tmp_path).read_text(encoding="utf-8")
    assert "All decoding with eval.audio_context=dynamic" in page
    assert re.search(r"over <data[^>]*>1</data> epoch\.", page)
    assert "05e670f9b277" not in page


def test_merged_strata_are_named_with_their_rule(html: str) -> None:
    (row,) = Page(html).tables["split_merged"][1:]
    assert (row["field"], row["values"]) == (["dialect"], ["강원 + 경기/서울"])
    assert row["corpus"] == row["test"] == [repr(0.0011 + 0.4279)]
    assert "share of the smallest part is under one utterance" in html


def test_comparisons_equal_what_was_given(html: str) -> None:
    first, second = Page(html).tables["comparisons"][1:]
    assert first["difference in CER"] == [repr(COMPARISONS[0][key]) for key in ("delta", "delta_low", "delta_high")]
    assert first["p (Holm)"] == [repr(COMPARISONS[0]["p_holm"])]
    assert second["difference in CER"] == [repr(COMPARISONS[1]["delta"]), "(no interval: no clip differs)"]
    # One significant difference, of each size a gap and a benefit, and this bench's published rows.
    assert html.count('<tr class="strong"') == 1 + 3 + 3 + 6


def numbers_of(value: Any) -> Iterator[float]:
    """Every number in a nested value."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from numbers_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers_of(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def test_no_number_on_the_page_is_from_elsewhere(bench: BenchRecord, html: str) -> None:
    known = set(numbers_of([bench.split, bench.quality, bench.scores, [run.metrics for run in bench.trains]]))
    known |= set(numbers_of([COMPARISONS, bench.gaps, bench.benefits, bench.seeds]))
    published = pd.read_csv(resources.files("kmed_bench.report") / "published.csv")
    known.add(sum(bench.split["shares"]["dialect"][value]["corpus"] for value in ("강원", "경기/서울")))
    known |= set(published["cer"]) | set(published["cer_high"].dropna())
    for run in bench.trains:
        history = run.history.pivot(index="step", columns="metric", values="value")
        seconds = history["time/epoch_s"].dropna()
        known |= {float(run.seed), float(len(seconds)), seconds.sum(), seconds.median(), history["valid/cer"][0]}
    for size in ("tiny", "base", "small"):
        of_size = [run.metrics for run in bench.trains if run.size == size]
        known |= {sum(m[key] for m in of_size) / len(of_size) for key in ("test/cer", "best/valid_cer")}
        known.add(float(len(of_size)))
    strangers = [(value, text) for value, text in Page(html).data if not any(isclose(value, k) for k in known)]
    assert strangers == []


def test_every_shown_number_is_its_value_shortened(html: str) -> None:
    data = Page(html).data
    assert len(data) > 100
    for value, text in data:
        if text.endswith(" %"):
            assert float(text.removesuffix(" %")) == pytest.approx(100 * value, abs=0.005001)
        elif re.fullmatch(r"[\d,]+", text):
            assert int(text.replace(",", "")) == value


def test_page_is_one_file_that_fetches_nothing(html: str, folder: Path) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("#") or (folder / link).is_file(), link
    assert not re.findall(r"url\((?!#|\"data:)", html)
    assert "<script" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html


def test_hangul_is_shown_with_glyphs_of_its_own(html: str) -> None:
    assert "경기/서울" in html
    assert "data:font/woff;base64," in html
    assert fonts.subset_font("no Hangul here") is None


def test_csv_hold_fractions(bench: BenchRecord, folder: Path) -> None:
    runs = pd.read_csv(folder / "runs.csv").set_index("run_id")
    for run in bench.trains:
        assert runs.loc[run.run_id, "test_cer"] == run.metrics["test/cer"]
    history = pd.read_csv(folder / "history.csv")
    assert len(history) == sum(len(run.history) for run in bench.trains)


def test_two_plots_per_size_say_which_cer_is_which(html: str, folder: Path) -> None:
    for size in ("tiny", "base", "small"):
        for quantity in ("loss", "cer"):
            assert (folder / f"{size}-{quantity}.png").stat().st_size > 5_000
            assert (folder / f"{size}-{quantity}.svg").is_file()
            assert f'id="plot-{size}-{quantity}"' in html
    assert html.count("teacher-forced (the true text so far is fed in)") >= 3


@pytest.mark.slow
def test_a_users_plot_settings_survive(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    write_report(make_bench(sizes=("base",), epochs=2), tmp_path)
    assert dict(mpl.rcParams) == before


def test_whole_paths_and_users_stay_out(html: str) -> None:
    assert "/home/someone" not in html
    assert "someone" not in html


@pytest.mark.parametrize(
    ("profile", "words"),
    [("demo", "synthetic speech says nothing about patients"), ("original", "this split leaks"), ("sound", None)],
)
def test_labels_of_profiles(profile: str, words: str | None) -> None:
    notices = " ".join(find_notices(make_bench(profile=profile, sizes=("base",))))
    assert notices == "" if words is None else words in notices


def test_leaks_failures_and_unlike_scores_are_announced() -> None:
    bench = make_bench(seeds=2, sizes=("base",))
    bench.split["leakage"]["sentences"] = 12
    bench.scores["base001"]["normaliser_version"] = "2"
    bench = dataclasses.replace(bench, trains=(*bench.trains, make_train("tiny", 0, 1, status="FAILED")))
    leak, failed, unlike = find_notices(bench)
    assert "share sentences" in leak
    assert "1 of 3 train runs did not finish" in failed
    assert "normaliser_version: 1, 2" in unlike


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
def test_what_a_split_calls_its_leaks_is_text_and_no_markup(tmp_path: Path, language: Language) -> None:
    bench = make_bench(sizes=("base",), epochs=1)
    bench.split["leakage"]["<b onclick=1>50 % of speakers</b>"] = 3
    with use_language(language):
        page = write_report(bench, tmp_path).read_text(encoding="utf-8")
    assert "<b onclick" not in page
    assert "&lt;b onclick=1&gt;50\N{NO-BREAK SPACE}% of speakers&lt;/b&gt;" in page


@pytest.mark.slow
def test_skipped_sizes_are_named_with_the_remedy(tmp_path: Path) -> None:
    bench = dataclasses.replace(
        make_bench(sizes=("base",), epochs=1), skipped={"small": "no weights <here>; give --weights"}
    )
    html = write_report(bench, tmp_path).read_text(encoding="utf-8")
    assert Page(html).tables["missing"][1]["left out"] == ["size small"]
    assert "no weights &lt;here&gt;; give --weights" in html


@pytest.mark.slow
def test_figures_that_a_record_lacks_are_left_out(tmp_path: Path) -> None:
    bench = make_bench(sizes=("base",), epochs=1)
    wanted = {"best/epoch", "best/valid_cer", "test/cer"}
    (run,) = bench.trains
    bare = dataclasses.replace(run, metrics={key: value for key, value in run.metrics.items() if key in wanted})
    bench = dataclasses.replace(bench, trains=(bare,), scores={}, split={}, quality={}, tags={}, params={})
    bench = dataclasses.replace(bench, gaps=(), benefits=(), seeds=())
    page = Page(write_report(bench, tmp_path).read_text(encoding="utf-8"))
    unknown = "(no interval: none was logged)"
    assert page.tables["sizes"][1]["fine-tuned, test CER"] == [repr(run.metrics["test/cer"]), unknown]
    assert page.tables["sizes"][1]["untouched, test CER"] == ["–"]
    assert set(page.tables) == {"verdicts", "sizes", "costs", "published", "provenance", "runs"}
    assert page.tables["verdicts"][1]["verdict"] == ["not compared"]


@pytest.mark.slow
def test_many_runs_are_shown_in_part_and_said_so(tmp_path: Path) -> None:
    html = write_report(make_bench(sizes=("base",), seeds=104, epochs=1), tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.tables["runs"][1:]) == 100
    assert "The first 100 of 104 train runs; the CSV has all." in html
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 104


@pytest.mark.slow
def test_a_bench_without_figures_still_gives_a_page(tmp_path: Path) -> None:
    bench = BenchRecord(
        run_id="e",
        name="empty",
        status="FAILED",
        params={},
        tags={},
        trains=(),
        skipped={"base": "none"},
        split={},
        quality={},
        scores={},
    )
    html = write_report(bench, tmp_path).read_text(encoding="utf-8")
    assert "no size to recommend" in html
    failed = dataclasses.replace(bench, trains=(make_train("base", 0, 1, status="FAILED"),))
    assert "ended as FAILED" in write_report(failed, tmp_path).read_text(encoding="utf-8")


def test_korean_font_is_found_and_leaves_tables_alone() -> None:
    font = fonts.find_korean_font()
    assert font is not None
    assert font.is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("examples", "mode"), [({"audio_missing": ["PA_0001-0001"]}, 0o600), ({}, 0o644)])
def test_a_page_that_names_utterances_is_private(examples: dict[str, list[str]], mode: int, tmp_path: Path) -> None:
    bench = make_bench(sizes=("base",), epochs=1)
    quality = {key: value for key, value in bench.quality.items() if not key.endswith("_examples")}
    before = os.umask(0o022)
    try:
        page = write_report(dataclasses.replace(bench, quality={**quality, "reject_examples": examples}), tmp_path)
    finally:
        os.umask(before)
    assert page.stat().st_mode & 0o777 == mode
    assert ("PA_0001-0001" in page.read_text(encoding="utf-8")) == bool(examples)
