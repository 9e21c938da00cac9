"""The error analysis as local files: private, self-contained, and in agreement with the scores."""

import html.parser
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from misheard import LINES, OPTIONS, predictions

from kmed_bench.core.errors import KmedError
from kmed_bench.report.error_page import NOTICE, mark_edits, write_error_analysis
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


def test_analysis_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KmedError, match="no predictions"):
        write_error_analysis(tmp_path, [], OPTIONS)


@given(TEXTS, TEXTS)
def test_marked_edits_spell_both_sides(reference: str, hypothesis: str) -> None:
    reference, hypothesis = normalise(reference, keep_spaces=True), normalise(hypothesis, keep_spaces=True)
    segments = mark_edits(reference, hypothesis)
    assert "".join(said for _, said, _ in segments) == reference
    assert "".join(heard for _, _, heard in segments) == hypothesis.replace(" ", "")
    assert all(said.replace(" ", "") == heard for kind, said, heard in segments if kind == "equal")
