"""Predictions: made from a manifest's row, written, and read with every fault named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction, read_predictions, write_predictions
from kmed_bench.scoring.external_predictions import read_hypotheses

ROW = {
    "utterance_id": "PA_1-1",
    "audio": "/data/a.zip::a.wav",
    "speaker_id": "PA_1",
    "sentence_id": 17,
    "text": "허리가 (3)/(세) 번 아파요",
    "gender": "Female",
    "age": "60~69",
    "dialect": "N/A",
    "region": "전라",
    "role": "patient",
    "duration_s": 2,
    "rate_hz": 16_000,
}


def line(**changes: object) -> dict[str, object]:
    """Return a line of predictions.jsonl; a field given as ... is left out."""
    whole = {**vars(Prediction.from_row(ROW, "허리 아파요", 0.5)), **changes}
    return {name: value for name, value in whole.items() if value is not ...}


def test_a_row_gives_its_ids_groups_and_raw_label():
    made = Prediction.from_row(ROW, "허리", 0.25, True)
    assert vars(made) == {
        **{name: ROW[name] for name in ("utterance_id", "speaker_id", "gender", "age", "dialect", "region", "role")},
        "sentence_id": "17",
        "reference": ROW["text"],
        "hypothesis": "허리",
        "duration_s": 2.0,
        "decode_s": 0.25,
        "ngram_blocked": True,
    }
    assert Prediction.from_row(ROW, "", 0.0).ngram_blocked is False
    with pytest.raises(KeyError, match="region"):
        Prediction.from_row({name: value for name, value in ROW.items() if name != "region"}, "", 0.0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(), st.text(), st.floats(0, 1e9), st.booleans()), max_size=5))
def test_written_predictions_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("predictions") / "p.jsonl"
    made = [
        Prediction.from_row({**ROW, "utterance_id": f"u{number}", "text": text}, hypothesis, seconds, blocked)
        for number, (text, hypothesis, seconds, blocked) in enumerate(rows)
        if (text + hypothesis).encode(errors="ignore").decode() == text + hypothesis and "|>" not in hypothesis
    ]
    write_predictions(path, made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_predictions(path) == made


def test_the_guards_field_may_be_left_out(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps(line(ngram_blocked=...)), encoding="utf-8")
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction.from_row(ROW, "허리 아파요", 0.5)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"p\.jsonl, line 2 is not a JSON object but \[\]"),
        (None, "line 2 is not a JSON object but None"),
        (3, "line 2 is not a JSON object but 3"),
        ("text", "line 2 is not a JSON object but 'text'"),
        (line(), "line 2 repeats utterance 'PA_1-1'; keep one"),
        (line(region=...), "line 2 lacks the field 'region'; each line needs: age, decode_s, dialect"),
        (line(hypothesis=None), "line 2 has hypothesis None; it must be text in quotes: correct the line, or decode"),
        (line(reference=["가"]), r"has reference \['가'\]; it must be text"),
        (line(speaker_id=7), "has speaker_id 7; it must be text"),
        (line(duration_s="1.5"), "has duration_s '1.5'; it must be a number of seconds, 0 to 1e9"),
        (line(duration_s=None), "has duration_s None"),
        (line(duration_s=True), "has duration_s True"),
        (line(decode_s=-0.5), "has decode_s -0.5"),
        (line(decode_s=float("nan")), "has decode_s nan"),
        (line(decode_s=float("inf")), "has decode_s inf"),
        (line(decode_s=10**400), "has decode_s 1000"),
        (line(ngram_blocked=None), "has ngram_blocked None; it must be true or false"),
        (line(ngram_blocked=1), "has ngram_blocked 1;"),
    ],
)
def test_an_odd_line_is_named(tmp_path, value, message):
    (tmp_path / "p.jsonl").write_text(json.dumps(line()) + "\n" + json.dumps(value) + "\n", encoding="utf-8")
    with pytest.raises(KmedError, match=message):
        read_predictions(tmp_path / "p.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(KmedError, match="do not exist; give the predictions"):
        read_predictions(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "text", ["<|startoftranscript|><|ko|>배가 아파요", "배가<|endoftext|>", "<|0.00|>배가 아파요<|2.40|>"]
)
def test_marker_tokens_in_a_hypothesis_are_refused(tmp_path, text):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(line(hypothesis=text)), encoding="utf-8")
    for read in (read_predictions, read_hypotheses):
        with pytest.raises(KmedError, match=r"line 1 has the marker <\|.*skip_special_tokens"):
            read(path)


@pytest.mark.parametrize("text", ["3 < 5 | 6 > 4", "a<b>|c", "<|vi|>vâng", "<|ko|>", "<|" + "가" * 50 + "|>"])
def test_other_signs_are_text(tmp_path, text):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(line(hypothesis=text)), encoding="utf-8")
    assert read_hypotheses(path)["PA_1-1"].text == read_predictions(path)[0].hypothesis == text
