"""Transcripts as text, SubRip, WebVTT and JSON."""

import json

import pytest

from kmed_bench.core.transcripts import TRANSCRIPT, Segment, Transcript, TranscriptFormat, render

SEGMENTS = (
    Segment(0.0, 2.0004, "어디가 아프세요?"),
    Segment(2.0004, 3.0, ""),
    Segment(59.9996, 3_725.5, "혈압 <140 --> 낮음 & 정상"),
)
VISIT = Transcript("1차/visit.m4a", "base", 3_726.0, 12.0, SEGMENTS)

EXPECTED: dict[TranscriptFormat, str] = {
    "text": "어디가 아프세요?\n혈압 <140 --> 낮음 & 정상\n",
    "srt": "1\n00:00:00,000 --> 00:00:02,000\n어디가 아프세요?\n\n"
    "2\n00:01:00,000 --> 01:02:05,500\n혈압 <140 → 낮음 & 정상\n\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n어디가 아프세요?\n\n"
    "00:01:00.000 --> 01:02:05.500\n혈압 &lt;140 → 낮음 &amp; 정상\n\n",
}


@pytest.mark.parametrize("form", EXPECTED)
def test_a_format_is_written_as_its_readers_expect_it(form: TranscriptFormat) -> None:
    assert render(VISIT, form) == EXPECTED[form]


@pytest.mark.parametrize(("form", "text"), [("text", ""), ("srt", ""), ("vtt", "WEBVTT\n\n")])
def test_silence_has_no_cues(form: TranscriptFormat, text: str) -> None:
    assert render(Transcript("a.wav", "base", 40.0, 40.0, ()), form) == text


@pytest.mark.parametrize("indent", [None, 2])
def test_json_has_every_segment_and_the_whole_text(indent: int | None) -> None:
    text = render(VISIT, "json", indent=indent)
    assert (text.count("\n") == 1) == (indent is None)
    content = TRANSCRIPT.check(json.loads(text), "file")
    assert content["text"] == "어디가 아프세요? 혈압 <140 --> 낮음 & 정상"
    assert (content["audio"], content["model"]) == ("1차/visit.m4a", "base")
    assert (content["duration_s"], content["silent_s"]) == (3_726.0, 12.0)
    assert content["segments"][2] == {"start_s": 60.0, "end_s": 3_725.5, "text": SEGMENTS[2].text}
    assert len(content["segments"]) == 3
