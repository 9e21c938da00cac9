"""Labels of data set 208: file names, fields, and the rule for what a label lacks."""

import json
import math
from typing import Any

import pytest
from downloads import label, stem, tree
from fault_table import fault
from hypothesis import given, settings
from hypothesis import strategies as st

from kmed_bench.corpus.ingest.aihub import AGE_CODES, Label, parse_label, parse_name

STEM = "PA_0322-2848-01-03-F-08-C"


def read(tree: Any, name: str = STEM) -> Label:
    found = parse_label(name, json.dumps(tree, ensure_ascii=False).encode())
    assert found is not None
    return found


def test_file_name() -> None:
    name = parse_name(STEM)
    assert name is not None
    assert (name.speaker, name.role, name.prompt) == ("PA_0322", "patient", "2848")
    assert (name.gender_code, name.age_code, name.region_code) == ("F", "08", "C")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("PA_1-1-01-03-F-08-C", "patient"),
        ("PF_0001-1-01-03-F-08-C", "patient"),
        ("HA_1-1-01-02-M-04-A", "nurse"),
        ("HB_1-1-01-01-M-04-A", "doctor"),
        ("XX_1-1-01-02-M-04-A", "nurse"),
        ("XX_1-1-01-07-M-04-A", ""),
        ("PA_1-1-01-02-M-04-A", "patient"),
    ],  # the prefix is documented, the code inferred
)
def test_roles(name: str, role: str) -> None:
    found = parse_name(name)
    assert found is not None
    assert found.role == role


@pytest.mark.parametrize("name", ["", "metadata", "PA_0322-2848-01-03-F-08", STEM.lower(), STEM + "-1", "x" + STEM])
def test_names_of_another_pattern(name: str) -> None:
    assert parse_name(name) is None


def test_a_whole_label() -> None:
    found = read(tree("무릎이 (3)/(세) 번 아파요", seconds="2.34", rate="48000"))
    assert (found.speaker_id, found.role, found.reason) == ("PA_0322", "patient", "")
    assert found.text == "무릎이 (3)/(세) 번 아파요"
    assert (found.gender, found.age, found.dialect, found.region) == ("Female", "60~69", "전라", "광주/전라/제주")
    assert (found.stated_s, found.stated_hz, found.stated_channels, found.stated_bits) == (2.34, 48000, 1, 16)
    assert (found.quality, found.differs) == ("Good", "")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(("seconds", "rate"), [("2.5", "16000"), (2.5, 16000), (" 2.5 ", 16000.0)])
def test_numbers_as_text_or_numbers_and_byte_order_marks(mark: bytes, seconds: Any, rate: Any) -> None:
    found = parse_label(STEM, mark + label(seconds=seconds, rate=rate))
    assert found is not None
    assert (found.stated_s, found.stated_hz, found.reason) == (2.5, 16000, "")


@pytest.mark.parametrize("value", ["unknown", None, [], {}, "", "00:02", True, 10**400])
def test_unreadable_numbers_are_not_compared(value: Any) -> None:
    found = read(tree(seconds=value, rate=value if value is not True else "x"))
    assert found.reason == ""
    assert math.isnan(found.stated_hz)


NAMED = {"Gender": "Female", "Age": "60~69", "Region": "광주/전라/제주", "Dialect": "N/A"}
BLOCK_CASES = {
    # what the label states of the speaker: what the file name adds
    "whole": (tree()["화자정보"], NAMED | {"Dialect": "전라"}, ""),
    "no block": (None, NAMED, ""),
    "empty block": ({}, NAMED, ""),
    "block is a list": ([1], NAMED, ""),
    "no age": (tree(Age=None)["화자정보"], NAMED | {"Dialect": "전라"}, ""),
    "no region": (tree(Region=None)["화자정보"], NAMED | {"Dialect": "전라"}, ""),
    "no dialect": (tree(Dialect=None)["화자정보"], NAMED, ""),
    "null age": (tree(Age=None)["화자정보"] | {"Age": None}, NAMED | {"Dialect": "전라"}, ""),
    "N/A is a statement": (tree(Age="N/A")["화자정보"], NAMED | {"Age": "N/A", "Dialect": "전라"}, ""),
    "unknown words stay": (tree(Dialect="제주", Age=35)["화자정보"], NAMED | {"Dialect": "제주", "Age": "35"}, ""),
    "no gender": (tree(Gender=None)["화자정보"], None, "label_incomplete"),
    "empty gender": (tree(Gender=" ")["화자정보"], None, "label_incomplete"),
}


@pytest.mark.parametrize(("block", "expected", "reason"), BLOCK_CASES.values(), ids=BLOCK_CASES)
def test_what_the_file_name_may_add(block: Any, expected: dict[str, str] | None, reason: str) -> None:
    whole = tree() | {"화자정보": block}
    if block is None:
        del whole["화자정보"]
    found = read(whole)
    assert found.reason == reason
    if expected is not None:
        fields = {"Gender": found.gender, "Age": found.age, "Region": found.region, "Dialect": found.dialect}
        assert fields == expected


@pytest.mark.parametrize("codes", ["03-Z-08-C", "03-F-01-C", "03-F-99-C", "03-F-08-Z"])
def test_without_a_block_every_code_must_be_known(codes: str) -> None:
    whole = tree()
    del whole["화자정보"]
    assert read(whole, stem(codes=codes)).reason == "label_incomplete"


@pytest.mark.parametrize(
    ("codes", "speaker", "differs"),
    [
        ("03-M-08-C", {}, "gender"),
        ("03-F-04-C", {}, "age"),
        ("03-F-08-A", {}, "region"),
        ("01-F-08-C", {}, "role"),
        ("02-M-04-A", {}, "gender age region role"),
        ("03-F-99-C", {}, ""),
        ("03-Z-08-C", {}, ""),
        ("03-F-04-C", {"Age": "N/A"}, ""),
        ("03-F-08-A", {"Region": "제주"}, ""),
    ],
)
def test_disagreement_of_known_values_is_noted(codes: str, speaker: dict[str, str], differs: str) -> None:
    found = read(tree(**speaker), stem(codes=codes))
    assert (found.reason, found.differs) == ("", differs)


def test_a_renamed_file_is_read_by_its_label() -> None:
    whole = tree()
    whole["파일정보"]["FileName"] = f"{STEM}.wav"
    found = read(whole, "clip-0001")
    assert (found.reason, found.speaker_id, found.role) == ("", "PA_0322", "patient")
    for nobody in (tree(), {**tree(), "화자정보": None}, tree() | {"화자정보": {}}):
        lost = read(nobody, "clip-0001")
        assert (lost.reason, lost.speaker_id, lost.role) == ("label_incomplete", "", "")
        assert lost.detail == "neither its name nor FileName says who speaks, and in which role"
    assert read(tree(), stem("XX_0001", codes="07-F-08-C")).detail == lost.detail
    assert read(tree(""), "clip-0001").detail == lost.detail


BROKEN = {
    "no bytes": (b"", "label_unreadable"),
    "cut off": (label()[:40], "label_unreadable"),
    "not JSON": (b"<xml/>", "label_unreadable"),
    "cp949": (json.dumps(tree(), ensure_ascii=False).encode("cp949"), "label_unreadable"),
    "UTF-16": (json.dumps(tree(), ensure_ascii=False).encode("utf-16"), "label_unreadable"),
    "a list": (b"[1, 2]", "label_unreadable"),
    "nested too deeply": (b"[" * 100_000, "label_unreadable"),
    "a number of absurd length": (label().replace(b'"1.0"', b"9" * 5000), "label_unreadable"),
    "two transcripts": (label()[:-1] + ', "전사정보": {}}'.encode(), "label_unreadable"),
    "half a character": (
        b'{"\xec\xa0\x84\xec\x82\xac\xec\xa0\x95\xeb\xb3\xb4": {"LabelText": "\\ud55c\\ud800"}}',
        None,
    ),
    "an empty object": (b"{}", "label_incomplete"),
    "no transcript block": (json.dumps({"화자정보": {"Gender": "Male"}}).encode(), "label_incomplete"),
    "null transcript": (label(None), "label_incomplete"),
    "transcript is a list": (label(["가"]), "label_incomplete"),
    "transcript is true": (label(True), "label_incomplete"),
    "empty transcript": (label(""), "transcript_empty"),
    "blank transcript": (label(" \n\t"), "transcript_empty"),
    "noise alone": (label("b/ n/ ..."), "transcript_empty"),
    "punctuation alone": (label("?!"), "transcript_empty"),
    "masked": (label("#@이름# 님"), "transcript_masked"),
}


@pytest.mark.parametrize(("raw", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_labels(raw: bytes, reason: str | None) -> None:
    found = parse_label(STEM, raw)
    assert found is not None
    assert found.reason == (reason or "label_unreadable")
    assert found.detail


def test_a_number_as_transcript_and_a_lone_filler_are_speech() -> None:
    assert (read(tree(119)).text, read(tree(119)).reason) == ("119", "")
    assert read(tree("아/")).reason == ""


def test_other_json_is_no_label() -> None:
    assert parse_label("metadata", b'{"version": 1}') is None
    assert parse_label("list", b"[]") is None
    assert parse_label("metadata", b"{") is not None  # it may have been one


def test_age_codes_are_those_of_the_facts() -> None:
    assert AGE_CODES["03"] == "11~19"
    assert AGE_CODES["08"] == "60~69"
    assert set(AGE_CODES) == {f"0{n}" for n in range(2, 10)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.dictionaries(st.sampled_from(list(tree())), json_values).map(json.dumps))
def test_every_file_is_a_label_with_a_verdict(raw: bytes | str) -> None:
    found = parse_label(STEM, raw if isinstance(raw, bytes) else raw.encode())
    assert found is not None
    assert bool(found.reason) == bool(found.detail)
    for value in (found.text, found.gender, found.age, found.dialect, found.region, found.quality):
        value.encode()


@settings(deadline=None)
@given(json_values, st.sampled_from(["Gender", "Age", "Region", "Dialect"]))
def test_any_value_of_a_field_gives_text(value: Any, field: str) -> None:
    whole = tree()
    whole["화자정보"][field] = value
    found = read(whole)
    assert found.reason in ("", "label_incomplete")
    for text in (found.gender, found.age, found.region, found.dialect):
        assert text
        text.encode()


@fault(
    "label with a number of 401 or 5,000 digits", sees="nothing, or reject label_unreadable: a number of absurd length"
)
@pytest.mark.parametrize("n_digits", [401, 4_301, 5_000])
@pytest.mark.parametrize(
    ("block", "field"),
    [
        ("전사정보", "LabelText"),
        ("화자정보", "Gender"),
        ("화자정보", "Age"),
        ("음성정보", "SamplingRate"),
        ("음성정보", "NumberOfBit"),
        ("파일정보", "FileLength"),
        ("기타정보", "QualityStatus"),
    ],
)
def test_numbers_of_any_length_give_a_verdict(block: str, field: str, n_digits: int) -> None:
    whole = tree()
    whole[block][field] = "LONG"
    found = parse_label(STEM, json.dumps(whole).replace('"LONG"', "7" * n_digits).encode())
    assert found is not None
    if n_digits > 4_300:  # as many as Python converts
        assert (found.reason, found.detail) == ("label_unreadable", "not JSON: a number of absurd length")
    else:
        assert found.reason == ""
        assert sum(map(math.isfinite, (found.stated_s, found.stated_hz, found.stated_bits))) >= 2
