"""The error analysis as local files: private, self-contained, and in agreement with the scores."""

import html.parser
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from misheard import LINES, OPTIONS, predictions

from kmed_bench.core.errors import KmedError
from kmed_bench.core.quantities import OVER_WHOLE
from kmed_bench.report.error_clips import Beside
from kmed_bench.report.error_page import NOTICE, write_error_analysis
from kmed_bench.report.interlinear import Mark, Word, align_by_word
from kmed_bench.scoring.edits import count_errors
from kmed_bench.text.normalise import normalise

TEXTS = st.text(alphabet="가나다각 ", max_size=10)


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened[tag] += tag not in ("meta", "br")

    def handle_endtag(self, tag: str) -> None:
        self.closed[tag] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_files_say_that_they_are_private_and_agree(tmp_path: Path) -> None:
    lines = [*LINES, ("s4", "<b>혈당 & 당뇨</b>", "혈당과 당뇨")]
    page = write_error_analysis(tmp_path / "errors", predictions(lines), OPTIONS, name="base <1>")
    tags = _Tags()
    tags.feed(page.read_text(encoding="utf-8"))
    assert +tags.opened == +tags.closed
    assert NOTICE in tags.text
    assert "Transcription errors: base <1>, CER " in tags.text
    assert tags.opened["b"] == 0
    assert "http" not in page.read_text(encoding="utf-8").replace('http-equiv="Content-Security-Policy"', "", 1)
    summary = json.loads((page.parent / "summary.json").read_text(encoding="utf-8"))
    assert summary["notice"] == NOTICE
    assert summary["substitutions"] + summary["deletions"] + summary["insertions"] == 19
    assert summary["hallucination_signs"] == {"credit": 1}
    assert (summary["n_perfect_clips"], summary["n_excluded"]["reference_empty"]) == (1, 1)
    tables = {path.name: pd.read_csv(path, keep_default_na=False) for path in page.parent.glob("*.csv")}
    assert set(tables) == {
        "clips.csv",
        "edits.csv",
        "confusions_syllable.csv",
        "confusions_jamo.csv",
        "confusions_word.csv",
        "missed_terms.csv",
        "accepted_spellings.csv",
        "inventions_in_silence.csv",
    }
    assert tables["inventions_in_silence.csv"][["utterance_id", "hypothesis"]].to_numpy().tolist() == [
        ["u5", "무엇이든"]
    ]
    assert "1 clips have an empty reference" in tags.text
    assert "무엇이든" in tags.text
    assert tables["clips.csv"]["errors"].sum() == tables["confusions_syllable.csv"]["n"].sum() == 19


def test_an_accepted_spelling_is_shown_as_one(tmp_path: Path) -> None:
    lines = [
        ("s", "CT를 찍었어요", "씨티를 찍었어요"),
        ("t", "배가 아파요", "배가 아파여"),
        ("t", "하루 세 번", "하루 3번"),
    ]
    page = write_error_analysis(tmp_path, predictions(lines), OPTIONS).read_text(encoding="utf-8")
    assert page.count("accepted spelling: 씨티 = ct") == 1
    assert page.count("0 errors with accepted spellings") == 2
    clips = pd.read_csv(tmp_path / "clips.csv", keep_default_na=False).set_index("utterance_id")
    assert clips["errors"].to_dict() == {"u0": 2, "u1": 1, "u2": 1}
    assert clips["errors_resolved"].to_dict() == {"u0": 0, "u1": 1, "u2": 0}
    spellings = pd.read_csv(tmp_path / "accepted_spellings.csv", encoding="utf-8-sig")
    assert spellings[["reference", "hypothesis", "n"]].to_numpy().tolist() == [["ct", "씨티", 1]]


def test_a_system_without_errors_has_a_page_too(tmp_path: Path) -> None:
    page = write_error_analysis(tmp_path, predictions([("s", "네", "네")]), OPTIONS)
    assert "No clip has an error." in page.read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["worst_tenth_share_of_errors"] is None


def test_a_rate_over_100_percent_is_explained_also_if_only_a_clip_has_it(tmp_path: Path) -> None:
    long = [(f"s{n}", "어지럽고 배가 아파서 왔어요", "어지럽고 배가 아파서 왔어여") for n in range(6)]
    pages = {}
    for name, lines in {"none": long, "clip": [*long, ("s5", "네", "시청해")]}.items():
        write_error_analysis(tmp_path / name, predictions(lines), OPTIONS)
        pages[name] = (tmp_path / name / "index.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
        assert json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))["overall"]["cer"] < 1
    assert "3 errors of 1, 300.0 %" in pages["clip"]
    assert [name for name, page in pages.items() if OVER_WHOLE in page] == ["clip"]


def test_analysis_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KmedError, match="no predictions"):
        write_error_analysis(tmp_path, [], OPTIONS)


def test_a_second_system_of_other_clips_is_refused(tmp_path: Path) -> None:
    beside = Beside(predictions=predictions(LINES[:5]))
    with pytest.raises(KmedError, match=r"1 of the first system's 6 utterances are missing in the second"):
        write_error_analysis(tmp_path, predictions(LINES), OPTIONS, beside=beside)
    other = predictions([*LINES[:5], ("s3", "무엇", "무엇이든")])
    with pytest.raises(KmedError, match="1 utterances have another excluded"):
        write_error_analysis(tmp_path, predictions(LINES), OPTIONS, beside=Beside(predictions=other))


def test_a_second_system_is_counted_at_each_clip(tmp_path: Path) -> None:
    heard = [(speaker, reference, reference) for speaker, reference, _ in LINES[:5]]
    beside = Beside(predictions=predictions([*heard, ("s3", ".", "네네")]), name="<other>")
    text = write_error_analysis(tmp_path, predictions(LINES), OPTIONS, beside=beside).read_text(encoding="utf-8")
    shown = re.findall(r"<strong>(u\d)</strong>: (\d+) errors?[^;]*; &lt;other&gt;: (\d+) errors?", text)
    assert shown == [
        ("u4", "11", "0"),
        ("u5", "4", "2"),
        ("u2", "3", "0"),
        ("u1", "1", "0"),
        ("u0", "1", "1"),  # (3)/(삼) is the labels' notation: in a hypothesis it is 3삼
        ("u3", "0", "0"),
    ]
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["beside"] == "<other>"


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_words_spell_all_sides_and_mark_the_errors_of_cer(reference: str, hypotheses: list[str]) -> None:
    reference, *hypotheses = (normalise(text, keep_spaces=True) for text in (reference, *hypotheses))
    words = align_by_word(reference, hypotheses)
    assert [word.said for word in words] == (reference.split() or [""])
    for system, hypothesis in enumerate(hypotheses):
        runs = [word.heard[system] for word in words]
        assert ["".join(mark.said for mark in marks) for marks in runs] == [word.said for word in words]
        flat = [mark for marks in runs for mark in marks]
        assert "".join(mark.heard for mark in flat) == hypothesis.replace(" ", "")
        assert all(mark.said == mark.heard for mark in flat if mark.kind == "equal")
        n_marked = sum(max(len(mark.said), len(mark.heard)) for mark in flat if mark.kind != "equal")
        assert n_marked == count_errors([reference.replace(" ", "")], [hypothesis.replace(" ", "")]).errors[0]


def test_what_is_added_belongs_to_the_word_before_it() -> None:
    assert align_by_word("배가 아파요", ["배가 많이 아파요", "네 배 아파요"]) == [
        Word("배가", ((Mark("equal", "배가", "배가"), Mark("insert", "", "많이")), (
            Mark("insert", "", "네"), Mark("equal", "배", "배"), Mark("delete", "가", ""),
        ))),
        Word("아파요", ((Mark("equal", "아파요", "아파요"),), (Mark("equal", "아파요", "아파요"),))),
    ]  # fmt: skip
    assert align_by_word("", ["무엇", ""]) == [Word("", ((Mark("insert", "", "무엇"),), ()))]
