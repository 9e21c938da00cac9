"""The report in Korean: no English is left but names, keys and units; tables for programs are the same."""

import dataclasses
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from bench_records import make_bench, make_train
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_report_page import COMPARISONS
from test_seal_and_leak import OPENINGS, leaking

from kmed_bench.core.language import use_language
from kmed_bench.core.records import BenchRecord, Confirmation, ImportedRecord, StudyRecord, StudyTrial
from kmed_bench.core.spreadsheets import csv_text
from kmed_bench.report.figures import save_plots
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.original import imported_section
from kmed_bench.report.page import find_notices, write_report
from kmed_bench.report.page_tables import make_frames
from kmed_bench.report.plots import Plot
from kmed_bench.report.sections import ExtraSection
from kmed_bench.report.study import study_section
from kmed_bench.scoring.intervals import METHOD
from kmed_bench.scoring.recommendation import recommend

NAMES = (
    *("Whisper", "Optuna", "LoRA", "KsponSpeech", "KsponSpeech clean", "Zeroth", "ETRI", "PSS", "DOI", "Student"),
    *("Clopper-Pearson", "Holm", "Gaur et al.", "W4A", "tiny", "base", "small", "medium", "large-v3-turbo"),
    *("CER", "WER", "SHA-256", "UTC", "CPU", "ID", "CSV", "PNG", "SVG", "MiB", "ms", "p", "n", "t", "TPE", "median"),
)
"""Proper names, abbreviations and units, which Korean papers write in Latin letters."""
DATA = (
    *(
        "bench-sound-20260101",
        "b0b0",
        "sound",
        "original",
        "dynamic",
        "full",
        "evaluate",
        "run",
        "cpu",
        "lr",
        "abc",
        "cd",
    ),
    *("metric", "cer", "wer", "profile", "ingest", "code-hyunjo"),
)
"""Values that the records under test have, and keys without a dot."""
CODE = re.compile(
    r"`.*?`|kmed-bench power .* A B|kmed-bench|--[a-z.]+|\b[0-9a-f]{12,}\b|[\w.-]*\w[._/=][a-zA-Z\d][\w./:-]*", re.ASCII
)
"""Keys, settings, files, commands and addresses."""
WORDS = re.compile("|".join(rf"\b{re.escape(word)}(?![A-Za-z])" for word in sorted((*NAMES, *DATA), key=len)[::-1]))


def english(text: str) -> list[str]:
    """Return the Latin words of a text that are no names, keys or units."""
    return re.findall(r"[A-Za-z]{2,}", WORDS.sub(" ", CODE.sub(" ", text)))


class Texts(HTMLParser):
    """The texts of a page that people see, hear, or get as hints; code and drawings are left out."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._within = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within += tag in ("style", "script", "code", "svg")
        self.texts += [value for key, value in attrs if value and key in ("title", "alt", "aria-label", "data-label")]

    def handle_endtag(self, tag: str) -> None:
        self._within -= tag in ("style", "script", "code", "svg")

    def handle_data(self, data: str) -> None:
        if not self._within and data.strip():
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def record() -> BenchRecord:
    """One size, so that few figures are drawn, with all that the page can say."""
    bench, leak = make_bench(sizes=("base",)), next(iter(leaking().leaks.values()))
    leak["differences"]["speakers"]["no_interval"] = "one speaker does not show how much speakers differ"
    for scores in bench.scores.values():
        few = "4 speakers are too few for an interval, which takes 5"
        scores["overall"]["no_interval"] = dict.fromkeys(scores["overall"]["no_interval"], few)
        scores["interval"]["method"] = METHOD
    tags = {
        "kmed.plan_sealed_at": "2026-01-01T10:00:00",
        "kmed.plan_sha256": "ab" * 32,
        "kmed.plan_replaced": "cd" * 32,
    }
    split = dict(bench.split) | {"label": "leaking speakers", "leakage": {"speakers": 3, "recordings": 0}}
    split["power"] = dict(bench.split["power"]) | {"source": "deviations as given"}
    return dataclasses.replace(
        bench,
        trains=(*bench.trains, make_train("tiny", 0, 2, status="FAILED")),
        leaks={run.run_id: leak for run in bench.trains},
        openings=OPENINGS,
        tags={**bench.tags, **tags},
        split=split,
        absent={"base, seed 1": "no run of it is in the store; train it with `run --only base:1`"},
        deleted={"base-s2": "deleted in the store; `mlflow runs restore --run-id r2` brings it back"},
    )


@pytest.fixture(scope="module")
def folder(record: BenchRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ko")
    with use_language("ko"):
        write_report(record, out, comparisons=COMPARISONS[:1])
    return out


@pytest.mark.slow
def test_no_english_is_left_on_the_page(folder: Path) -> None:
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert '<html lang="ko">' in html
    texts = Texts(html).texts
    assert len(texts) > 500
    assert {text: words for text in texts if (words := english(text))} == {}


@pytest.mark.slow
def test_tables_for_programs_are_those_of_the_english_report(folder: Path, record: BenchRecord) -> None:
    judged = dataclasses.replace(record, comparisons=tuple(COMPARISONS[:1]))
    for name, frame in make_frames(record, COMPARISONS[:1], recommend(judged)).items():
        assert (folder / f"{name}.csv").read_text(encoding="utf-8") == csv_text(frame), name


def texts_of(figure: Figure) -> Iterator[str]:
    figure.draw_without_rendering()  # ticks have no labels before
    yield from (text.get_text() for text in figure.findobj(Text) if text.get_text())


@pytest.mark.slow
def test_no_english_is_left_in_the_figures() -> None:
    bench = make_bench(sizes=("tiny", "base"), seeds=2)
    found: dict[str, list[str]] = {}

    def save(figure: Figure, name: str, caption: str) -> Plot:
        found[name] = [text for text in (*texts_of(figure), caption) if english(text)]
        plt.close(figure)
        return Plot(name=name, caption=caption, svg="")

    with use_language("ko"):
        advice = recommend(dataclasses.replace(bench, comparisons=tuple(COMPARISONS)))
        frames = make_frames(bench, COMPARISONS, advice)
        frames["speakers"] = pd.DataFrame({"size": ["base"] * 2, "untouched": [0.3, 0.4], "tuned": [0.2, 0.5]})
        with plot_style():
            save_plots(frames, advice.best, save)
    assert {name.partition("-")[0] for name in found} >= {"all", "test", "pareto", "groups", "error", "quality"}
    assert {name: texts for name, texts in found.items() if texts} == {}


def sections() -> Iterator[ExtraSection]:
    history = make_train("base", 0, 2).history
    log = ImportedRecord(
        run_id="i1",
        name="b0b0",
        size="base",
        version=1,
        file="log.json",
        sha256="ab" * 32,
        params={},
        time_s=71.0,
        history=history[history["metric"].str.startswith("train/")],
    )
    yield imported_section([log])
    states = (("complete", 0.3), ("lost", None), ("complete", 0.2), ("pruned", 0.4))
    trials = [
        StudyTrial(
            number=number,
            state=state,
            params={"train.lr": 1e-5 * number},
            cer=cer,
            seconds_per_clip=None,
            epochs=2,
            is_default=number == 0,
            retry_of=1 if number == 2 else None,
            reason="",
            run_id=f"r{number}",
        )
        for number, (state, cer) in enumerate(states)
    ]
    yield study_section(
        StudyRecord(
            name="b0b0",
            size="base",
            sampler="TPE",
            pruner="median",
            objectives=("cer",),
            epochs=2,
            n_trials=4,
            trials=tuple(trials),
            synthetic=True,
            confirmation=Confirmation(
                seeds=(1, 2), default=(0.3, 0.31), best=(0.2, 0.2), delta=-0.1, low=-0.12, high=-0.08
            ),
        ),
        (),
    )


def test_no_english_is_left_in_further_sections_notices_and_verdicts(record: BenchRecord) -> None:
    shared = {"speakers": 2, "sentences": 1}
    leaking_split = dataclasses.replace(record, split={"leakage": shared}, params={"profile": "sound"})
    original = dataclasses.replace(record, params={"profile": "original"}, tags={"kmed.study_split": "other"})
    with use_language("ko"):
        texts = [*find_notices(leaking_split), *find_notices(original), *recommend(record).lines()]
        for section in sections():
            texts += [section.title, section.lead]
            for view in section.tables:
                texts += [view.caption, *view.table().columns, *map(str, view.table().to_numpy().ravel())]
            texts += [text for figure in section.figures for text in (figure.alt, figure.caption)]
    assert len(texts) > 40
    assert {text: words for text in texts if (words := english(text))} == {}
