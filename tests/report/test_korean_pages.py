"""With ``--lang ko`` a page shows no English but names, keys, files and the data's own values."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bench_records import make_bench
from curve_records import make_curve
from latin_words import latin_words, untranslated
from matplotlib.figure import Figure
from matplotlib.text import Text
from misheard import LINES, OPTIONS, predictions
from test_paper import PLAN, full_record, tables_of

from kmed_bench.cli import main
from kmed_bench.core.corpus_contracts import DATA_PAGE
from kmed_bench.core.errors import KmedError
from kmed_bench.core.language import use_language
from kmed_bench.core.predictions import Prediction, write_predictions
from kmed_bench.core.schema import RejectReason, WarningKind
from kmed_bench.corpus.splitting.nested import REPEATED
from kmed_bench.report.curve_plot import plot_learning_curve
from kmed_bench.report.data_page import write_data_page
from kmed_bench.report.data_tables import named_histograms
from kmed_bench.report.error_clips import Beside
from kmed_bench.report.error_page import LABELS, write_error_analysis
from kmed_bench.report.figures import save_plots
from kmed_bench.report.fonts import plot_style
from kmed_bench.report.learning_curve import curve_view, describe_curve, training_view, write_curve
from kmed_bench.report.page_tables import make_frames
from kmed_bench.report.paper.checklist import SOURCES, checklist
from kmed_bench.report.paper.facts import collect_facts
from kmed_bench.report.paper.methods import methods
from kmed_bench.report.paper.results import results
from kmed_bench.report.plots import Plot
from kmed_bench.report.table_view import View
from kmed_bench.scoring.measures import EXCLUSIONS
from kmed_bench.scoring.recommendation import recommend
from kmed_bench.text.variants import load_variants

_FIELDS: dict[str, dict[str, int]] = {
    "gender": {"Female": 6, "Male": 2},
    "age": {"60~69": 5, "over70": 3},
    "dialect": {"경상": 4, "N/A": 4},
    "region": {"부산": 8},
    "role": {"patient": 4, "nurse": 2, "doctor": 2},
    "quality": {"Good": 8},
    "release": {"병원": 8},
}
KEYS = ("Gender", "(end)", ".txt")
"""What labels, lists and files call things."""
_SHAPE = {"edges": [0, 1, 2], "counts": [5, 3]}
QUALITY: Any = {
    **{"labels": 99, "usable": 8, "speakers": 4, "sentences": 7, "hours": 0.1},
    "rejected": dict.fromkeys(set(get_args(RejectReason)) - {"label_too_long"}, 1),
    "warnings": dict.fromkeys(get_args(WarningKind), 1),
    "incomplete": {"no Gender in 화자정보": 1, "end is no time": 1},
    "roles_left_out": {"nurse": 3},
    "files_ignored": {"no suffix": 1, "macOS metadata": 2, "json that is no label": 1, ".txt": 4},
    "by": _FIELDS,
    "hours_by": {field: dict.fromkeys(values, 0.05) for field, values in _FIELDS.items()},
    "speakers_by": {field: dict.fromkeys(values, 3) for field, values in _FIELDS.items()},
    "pairs": {"gender,role": {"Female": {"patient": {"n": 4, "hours": 0.1, "speakers": 2}}}},
    "histograms": {"duration_s": _SHAPE, "speaker_utterances": _SHAPE},
}


def test_the_checker_finds_words_and_passes_names() -> None:
    page = '<p title="Left out">문자 <b>errors</b> of <code>all</code> rejects.csv CER 5 %</p><p lang="en">as is</p>'
    assert untranslated(page) == {"Left out": ["Left", "out"], "errors": ["errors"], "of": ["of"]}
    assert latin_words("data.max_duration_s보다 길다 (H100 server)", ["H100 server"]) == []


def test_the_data_page(tmp_path: Path) -> None:
    with use_language("ko"):
        page = write_data_page(QUALITY, tmp_path, name="demo corpus (synthetic)").read_text(encoding="utf-8")
    assert untranslated(page, KEYS) == {}
    assert '<html lang="ko">' in page
    assert "데모 말뭉치(합성 음성)" in page
    assert re.search("사용 가능한 발화 .*>8<.*개, .*>0.10<.*시간, 화자 .*>4<.*명", page)
    assert "길이: 발화 수 8, 구간 폭 1초." in page


def test_histograms_have_korean_names() -> None:
    with use_language("ko"):
        texts = [text for names in named_histograms().values() for text in names]
    assert {text: words for text in texts if (words := latin_words(text))} == {}
    assert "초당 발화 문자 수" in texts


def test_the_data_page_of_a_clean_corpus(tmp_path: Path) -> None:
    clean = QUALITY | {key: {} for key in ("rejected", "warnings", "incomplete", "histograms", "pairs")}
    with use_language("ko"):
        page = write_data_page(clean, tmp_path, name="병원").read_text(encoding="utf-8")
    assert untranslated(page, KEYS) == {}
    assert "제외된 라벨이 없다." in page


_REFUSED: dict[str, Any] = {"factor": 2.0, "hours": 2.0, "cer": None, "low": None, "high": None, "line": []}
CURVES: list[dict[str, Any]] = [
    {"synthetic": True, "repeated": [REPEATED.format(fraction=0.5, draw=1, kept_fraction=1, kept_draw=0)]},
    {"part": "test", "outcomes": ("worse", "not shown")},
    *(
        {"extension": {**_REFUSED, "reason": reason}}
        for reason in (
            "CER is not shown to fall from the smallest to the largest amount",
            "2 amounts are as many as the fit has parameters, so nothing shows whether it holds",
            "the exponent is not identified: 12 % of the bootstrap's samples have it at a limit of the search",
            "its interval would be from 1.2 % to 3.4 %, more than a factor of 2",
            "the fit has no interval: some samples of speakers have no error at an amount",
        )
    ),
    *(
        {"fit": None, "no_fit": reason, "extension": {**_REFUSED, "reason": "there is no fit"}}
        for reason in (
            "one amount shows no curve; name further fractions",
            "an amount has no error at all, and a power law has some at every amount",
        )
    ),
]
"""What curves of `curve_records` are changed into: each sentence of the page, and each reason of the scoring."""


@pytest.mark.parametrize("changes", CURVES)
def test_what_a_learning_curve_says(changes: dict[str, Any]) -> None:
    curve = make_curve(**changes)
    with use_language("ko"):
        views = [curve_view(curve), *([] if changes is not CURVES[0] else [training_view(curve)])]
        texts = [*describe_curve(curve), *(text for view in views for text in view_texts(view))]
        with plot_style():
            figure = plot_learning_curve(curve)
    texts += [text.get_text() for text in figure.findobj(Text)]
    plt.close(figure)
    assert {text: words for text in texts if (words := latin_words(text, ["h"]))} == {}
    assert describe_curve(curve)[0].startswith("2 trainings of base")  # as the terminal and the store have it


def view_texts(view: View) -> list[str]:
    return [view.caption, *view.table().columns, *map(str, view.table().to_numpy().ravel())]


def test_the_page_of_a_learning_curve(tmp_path: Path) -> None:
    with use_language("ko"):
        page = write_curve(make_curve(synthetic=True), tmp_path).read_text(encoding="utf-8")
    assert untranslated(page) == {}
    assert "<title>base 모델의 음성량별 학습 곡선</title>" in page
    assert pd.read_csv(tmp_path / "curve.csv")["outcome"].tolist() == ["untouched", "not shown", "better"]
    assert pd.read_csv(tmp_path / "trainings.csv")["note"].tolist()[1] == "trained by another command"


def errors_page(folder: Path, lines: list[tuple[str, str, str]], **more: Any) -> dict[str, list[str]]:
    with use_language("ko"):
        page = write_error_analysis(folder, predictions(lines), OPTIONS, **more).read_text(encoding="utf-8")
    assert '<html lang="ko">' in page
    assert 'data-text="발화 {all}개 중 {shown}개 표시"' in page
    assert re.search(r"</ins>\.\s띄어쓰기와", page)
    return untranslated(page, [*(f"u{n}" for n in range(len(lines))), "ct", "mg"])


def test_the_error_page(tmp_path: Path) -> None:
    """With recordings, one of which can't be read, another system, terms, spellings, numbers and a looping clip."""

    def read(name: str) -> Any:
        if name == "u4":
            raise KmedError("The audio is gone.")
        return np.zeros(1600, np.float32)

    lines = [
        *LINES,
        ("s4", "CT를 찍고 약을 이십 밀리그램 먹어요", "씨티를 찍고 약을 20mg 먹고"),
        ("s5", "배가 아파요", "아파요 " * 40),
        ("s6", "혈당이 높아요", "血糖が高い"),
    ]
    beside = Beside(predictions=predictions([(s, reference, reference) for s, reference, _ in lines]), name="다른 모델")
    found = errors_page(tmp_path, lines, name="모델", beside=beside, read_clip=read)
    assert found == {}
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["notice"].startswith("These files hold transcripts")


@pytest.mark.parametrize("lines", [LINES[3:4], [("s3", ".", "무엇이든")]])
def test_an_error_page_with_little_in_it(lines: list[tuple[str, str, str]], tmp_path: Path) -> None:
    assert errors_page(tmp_path, lines, name="모델") == {}


def test_transcripts_on_an_error_page_keep_their_characters(tmp_path: Path) -> None:
    """What keeps the page's own rates and particles on one line must not enter what was said: it would be copied."""
    errors_page(tmp_path, [("s1", "포화도가 95%에서 떨어져요", "포화도가 구십오에서 떨어져요")], name="모델")
    page = next(tmp_path.glob("*.html")).read_text(encoding="utf-8")
    assert "<span>95%에서</span>" in page


def test_the_paper_s_texts_and_tables() -> None:
    record = full_record()
    facts = collect_facts(record)
    with use_language("ko"):
        tables = [*tables_of(record).values(), checklist(facts), checklist({})]
    own = [
        "H100 & friends",
        "Python 3.11.2, torch 2.9.1",
        *SOURCES.values(),
        "abc",
        PLAN[:12],
        "feedbacfeedb",
        "bf16",
        "fine-tuning",
        "cross-entropy",
    ]
    texts = {table.name: table.markdown().replace("\\", "") for table in tables}
    assert {name: words for name, text in texts.items() if (words := latin_words(text, own))} == {}
    told = results(record, recommend(record), "ko")
    assert latin_words(told) == []
    terms = {word for text in methods(facts, "ko").values() for word in latin_words(text, own)}
    named = "speaker and sentence disjoint character word error rate greedy decoding beam search weight decay freeze "
    named += "fine tuning gradient clipping Clopper Pearson Student Welch"
    assert terms - {*named.split()} == set()  # the English of a term at its first mention


@pytest.mark.slow
def test_figures_and_their_captions() -> None:
    """Those of the report and of a paper, which are the same but for their titles."""
    record = make_bench(sizes=("tiny", "base"), epochs=2)
    advice, found = recommend(record), dict[str, list[str]]()

    def look(figure: Figure, name: str, caption: str) -> Plot:
        figure.draw_without_rendering()  # ticks have no labels before
        texts = [caption, *(text.get_text() for text in figure.findobj(Text) if text.get_visible())]
        found[name] = [text for text in texts if latin_words(text)]
        plt.close(figure)
        return Plot(name=name, caption=caption, svg="")

    frames = make_frames(record, record.comparisons, advice)
    frames["speakers"] = pd.DataFrame({"size": ["base"] * 2, "untouched": [0.3, 0.4], "tuned": [0.2, 0.5]})
    frames["speakers"]["n_characters"] = [90, 120]
    with plot_style(), use_language("ko"):
        save_plots(frames, advice.best, look)
    assert {name.partition("-")[0] for name in found} >= {"all", "test", "pareto", "groups", "error", "quality"}
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_kinds_that_the_error_page_shows_have_names() -> None:
    assert {variant.kind for variant in load_variants()} | {*EXCLUSIONS} <= {*LABELS}


@pytest.mark.slow
def test_commands_take_the_language(
    tone_part: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages are Korean, and what the commands say is English."""
    monkeypatch.chdir(tmp_path)  # without a store
    rows = tone_part.iloc[:2].to_dict("records")
    write_predictions(Path("a.jsonl"), [Prediction.from_row(row, "머리가 아바요", 0.1) for row in rows])
    for language, title in (("ko", "전사 오류: model"), ("en", "Transcription errors: model")):
        assert main(["errors", "a.jsonl", language, "--lang", language, "--eval.bootstrap_draws", "100"]) == 0
        assert f"<h1>{title}</h1>" in Path(language, "index.html").read_text(encoding="utf-8")
        assert "These files hold transcripts" in capsys.readouterr().out
    lines = [f"{row['audio']},문장 {at},s{at},여" for at, row in enumerate(rows)]
    Path("list.csv").write_text("\n".join(["audio,text,speaker,gender", *lines]), encoding="utf-8")
    assert main(["import-corpus", "list.csv", "out", "--lang", "ko"]) == 0
    page = Path("out", DATA_PAGE).read_text(encoding="utf-8")
    assert untranslated(page, KEYS) == {}
    assert page.count("직접 녹음한 자료") >= 3  # the title, the heading and the release
    assert "labels 2" in capsys.readouterr().out.replace(":", "")
