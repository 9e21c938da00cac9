"""The report in Korean: no English is left but names, keys and units; tables for programs are the same."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from bench_records import make_bench, make_train
from latin_words import REPORT_NAMES, latin_words, untranslated
from matplotlib.text import Text
from test_report_page import COMPARISONS
from test_seal_and_leak import OPENINGS, leaking

from kmed_bench.core.language import use_language
from kmed_bench.core.records import BenchRecord, Confirmation, ImportedRecord, StudyRecord, StudyTrial
from kmed_bench.core.spreadsheets import csv_text
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.original import imported_section
from kmed_bench.report.page import find_notices, write_report
from kmed_bench.report.page_tables import make_frames
from kmed_bench.report.score_plots import plot_speakers
from kmed_bench.report.sections import ExtraSection
from kmed_bench.report.study import study_section
from kmed_bench.scoring.intervals import METHOD
from kmed_bench.scoring.recommendation import recommend

VALUES = (
    *("bench-sound-20260101", "b0b0", "ab" * 32, "cd" * 32, "sound", "original", "dynamic", "full", "evaluate", "run"),
    *("cpu", "train.lr", "lr", "+abc", "metric", "cer", "wer", "profile"),
    *("`mlflow runs restore --run-id r2`", "`run --only base:1`"),
)
"""Values and keys of the records under test."""


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
    split["merged_strata"] = ["age: 60~69+over70"]
    split["power"] = dict(bench.split["power"]) | {"source": "deviations as given"}
    threads = {"machine.threads": "1", "machine.threads_decide": "yes: sums are taken in another order"}
    trains = [dataclasses.replace(run, params={**run.params, **threads}) for run in bench.trains]
    return dataclasses.replace(
        bench,
        trains=(*trains, make_train("tiny", 0, 2, status="FAILED")),
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
    assert "권고: base 미세 조정 후 모델" in html
    assert untranslated(html, (*REPORT_NAMES, *VALUES)) == {}
    assert "over70" not in html  # in lists of merged values too, which the checker takes for keys
    assert re.search(r"audio_missing</td>[^\n]*음성 파일이 없다", html)
    assert re.search(r"\d %|[%)](</\w+>)*[가-힣]", html) is None  # number, sign and particle stay on one line
    assert "1 (스레드 수에 따른 결과: 달라짐, 더하는 순서가 바뀜)" in html
    assert not (pd.read_csv(folder / "provenance.csv", keep_default_na=False)["value"].isin(["", "{}"])).any()


@pytest.mark.slow
def test_tables_for_programs_are_those_of_the_english_report(folder: Path, record: BenchRecord) -> None:
    judged = dataclasses.replace(record, comparisons=tuple(COMPARISONS[:1]))
    for name, frame in make_frames(record, COMPARISONS[:1], recommend(judged)).items():
        assert (folder / f"{name}.csv").read_text(encoding="utf-8") == csv_text(frame), name


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
        with plot_style():
            figure = plot_speakers(
                pd.DataFrame({"untouched": [0.3, 0.4], "tuned": [0.2, 0.5], "n_characters": [90, 40]}), size="base"
            )
        texts += [text.get_text() for text in figure.findobj(Text)]
        plt.close(figure)
    assert len(texts) > 40
    assert {text: words for text in texts if (words := latin_words(text, (*REPORT_NAMES, *VALUES)))} == {}
