"""Other systems' transcripts: each vendor's documented structure gives its text, found by content or as asked."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import MANIFEST_COLUMNS
from kmed_bench.scoring.external_files import Reading, read_external, spellings
from kmed_bench.scoring.external_formats import FORMATS, read_cues
from kmed_bench.scoring.external_predictions import join_references, read_hypotheses

TEXT = "열이 나요. 어제부터요."
SEGMENTS = [{"id": n, "start": n, "end": n + 1, "text": text} for n, text in enumerate((" 열이 나요.", " 어제부터요."))]
PHRASE = {"recognitionStatus": "Success", "channel": 0, "nBest": [{"confidence": 0.9, "display": "열이 나요."}]}
GOOGLE = [
    {"alternatives": [{"transcript": "열이 나요.", "confidence": 0.9}]},
    {"alternatives": [{"transcript": " 어제부터요."}]},
]
WORDS = [{"word": "열이", "startTime": {"seconds": "0", "nanos": 1}, "endTime": {"seconds": "1", "nanos": 0}}]

# (format, value of a JSON file); each is the documented structure with our own sentence.
DOCUMENTED: list[tuple[str, Any]] = [
    ("whisper", {"text": f" {TEXT}", "segments": SEGMENTS, "language": "ko"}),
    ("whisper", {"segments": SEGMENTS, "language": "ko"}),
    ("whisper", SEGMENTS),
    ("whisper", {"text": TEXT}),
    ("azure", {"RecognitionStatus": "Success", "Offset": 1, "Duration": 2, "DisplayText": TEXT}),
    (
        "azure",
        {
            "Id": "f00d",
            "RecognitionStatus": "Success",
            "Duration": 2,
            "NBest": [{"Confidence": 0.9, "Lexical": "열이 나요", "ITN": "", "MaskedITN": "", "Display": TEXT}],
        },
    ),
    ("azure", [{"RecognitionStatus": "Success", "DisplayText": text} for text in ("열이 나요.", "어제부터요.")]),
    (
        "azure",
        {
            "source": "https://store.example/clips/u1.wav?sv=1&sig=a%2Fb",
            "durationInTicks": 1,
            "combinedRecognizedPhrases": [{"channel": 0, "lexical": "열이 나요", "display": TEXT}],
            "recognizedPhrases": [PHRASE],
        },
    ),
    ("azure", {"durationMilliseconds": 9, "combinedPhrases": [{"text": TEXT}], "phrases": []}),
    ("google", {"results": GOOGLE, "totalBilledTime": "2s", "requestId": "1"}),
    ("google", {"name": "1", "done": True, "response": {"@type": "type", "results": GOOGLE}}),
    (
        "google",
        {"results": [{**one, "resultEndOffset": "1s", "languageCode": "ko-kr"} for one in GOOGLE], "metadata": {}},
    ),
    ("google", {"results": {"gs://bucket/clips/u1.wav": {"transcript": {"results": GOOGLE}, "metadata": {}}}}),
    ("google", {"results": {"gs://b/u1.wav": {"inlineResult": {"transcript": {"results": GOOGLE}}, "uri": ""}}}),
    ("google", {"results": [*GOOGLE, {"alternatives": [{"words": [{"word": "열이", "speakerTag": 1}]}]}]}),
    (
        "clova",
        {
            "result": "COMPLETED",
            "message": "Succeeded",
            "token": "t",
            "params": {"language": "ko-KR", "diarization": {"enable": True}},
            "segments": [{"start": 0, "end": 900, "text": TEXT, "textEdited": TEXT, "words": [[0, 400, "열이"]]}],
            "text": TEXT,
            "confidence": 0.9,
        },
    ),
    ("daglo", {"rid": "1", "status": "transcribed", "sttResults": [{"transcript": TEXT, "words": WORDS}]}),
    ("daglo", {"sttResults": [{"transcript": text} for text in ("열이 나요.", "어제부터요.")]}),
]
SRT = "1\n00:00:00,000 --> 00:00:01,000\n<i>열이</i> 나요.\n\n2\n00:00:01,000 --> 00:00:02,000 X1:1\n어제부터요.\n"
VTT = (
    "WEBVTT - 제목\n\nNOTE 메모\n\nSTYLE\n::cue {}\n\nintro\n00:00.000 --> 00:01.000 align:start\n<v 환자>"
    "열이 <00:00.5>나요.</v>\n\n00:01.000 --> 00:02.000\n어제부터요.\n"
)


def say(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def texts(path: Path, **reading: Any) -> dict[str, str]:
    return {name: " ".join(one.text.split()) for name, one in read_hypotheses(path, Reading(**reading)).items()}


@pytest.mark.parametrize(("name", "value"), DOCUMENTED)
def test_documented_json_is_found_by_content_and_read_when_named(tmp_path, name, value):
    path = say(tmp_path / "clips" / "u1.json", value)
    for reading in (Reading(), Reading(format=name)):
        for given in (path, path.parent):
            found = read_external(given, reading)
            assert found.format == name
            assert [*found.hypotheses] in (["u1"], ["u1.wav"])
            assert texts(given, format=reading.format) == dict.fromkeys(found.hypotheses, TEXT)


@pytest.mark.parametrize(("ending", "content"), [("srt", SRT), ("srt", SRT.replace("\n", "\r\n")), ("vtt", VTT)])
def test_subtitles(tmp_path, ending, content):
    (tmp_path / f"u1.{ending}").write_text(content, encoding="utf-8", newline="")
    assert read_external(tmp_path).format == ending
    assert texts(tmp_path) == texts(tmp_path / f"u1.{ending}") == texts(tmp_path, format=ending) == {"u1": TEXT}
    assert read_cues("WEBVTT\n") == ""


def test_plain_text_files(tmp_path):
    (tmp_path / "u1.txt").write_bytes("열이 나요.\n어제부터요.\n".encode("cp949"))
    assert texts(tmp_path) == {"u1": TEXT}


def test_plain_text_with_commas_digits_and_quotes_is_no_table(tmp_path):
    spoken = {"u1": "네, 열이 나요.", "u2": "38", "u3": '"네"', "u4": "[웃음] 아, 네.", "u5": "네, 가,\n나", "u6": ""}
    for name, text in spoken.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    found = read_external(tmp_path)
    assert (found.format, texts(tmp_path)) == ("txt", {**spoken, "u5": "네, 가, 나"})
    assert texts(tmp_path / "u1.txt") == {"u1": "네, 열이 나요."}
    (tmp_path / "u5.txt").write_text("utterance_id,text\nu5,네\n", encoding="utf-8")
    assert texts(tmp_path / "u5.txt") == {"u5": "네"} == {"u5": texts(tmp_path)["u5"]}


@pytest.mark.parametrize("ending", ["srt", "vtt", "txt"])
def test_an_empty_file_of_subtitles_or_text_is_a_clip_without_speech(tmp_path, ending):
    (tmp_path / f"u1.{ending}").write_text("\n", encoding="utf-8")
    assert texts(tmp_path) == texts(tmp_path / f"u1.{ending}") == {"u1": ""}
    assert read_external(tmp_path).format == ending


def test_cues_without_empty_lines_between_them_and_references_to_characters():
    cues = "1\n00:00:00,000 --> 00:00:01,000\n열이\n2\n00:00:01,000 --> 00:00:02,000\n나요\n3\n"
    assert read_cues(cues) == "열이 나요 3"
    assert read_cues("WEBVTT\n\n00:00.000 --> 00:01.000\n&quot;열&#39;&quot; &amp;lt; R&D&rlm;") == '"열\'" &lt; R&D'


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "utf-16"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", f"파일명,인식 결과\nu1.wav,{TEXT}\n"),
        ("t.tsv", f"utterance_id\treference\thypothesis\tdecode_s\nu1\t다른 말\t{TEXT}\t0.5\n"),
        ("t.jsonl", json.dumps({"id": "u1", "text": TEXT}, ensure_ascii=False)),
        ("t.json", json.dumps({"u1": TEXT, "u2": ""}, ensure_ascii=False)),
        ("t.json", json.dumps([{"file": "u1", "transcript": TEXT}], ensure_ascii=False)),
        ("t.json", json.dumps({"u1": {"text": TEXT, "segments": []}}, ensure_ascii=False)),
    ],
)
def test_tables_of_ids_and_texts(tmp_path, encoding, name, content):
    (tmp_path / name).write_bytes(content.encode(encoding))
    found = texts(tmp_path / name)
    assert next(iter(found.values())) == TEXT
    assert {one.removesuffix(".wav") for one in found} - {"u2"} == {"u1"}


def test_columns_can_be_named(tmp_path):
    say(tmp_path / "t.csv", f"utterance_id,text,ours\nu1,다른 말,{TEXT}\n")
    assert texts(tmp_path / "t.csv")["u1"] == "다른 말"
    assert texts(tmp_path / "t.csv", text_columns=("ours",)) == {"u1": TEXT}
    with pytest.raises(KmedError, match=r"lacks the field 'none'.*'ours'; name the right one with --text-column"):
        read_hypotheses(tmp_path / "t.csv", Reading(text_columns=("none",)))


def test_of_a_folder_with_several_outputs_one_kind_is_read_and_the_others_are_counted(tmp_path):
    for ending, value in (("json", {"text": TEXT}), ("srt", SRT), ("txt", TEXT), ("tsv", "start\tend\ttext\n")):
        say(tmp_path / f"u1.{ending}", value)
    found = read_external(tmp_path)
    assert (found.format, found.ignored) == ("whisper", {".srt": 1, ".tsv": 1, ".txt": 1})
    assert read_external(tmp_path, Reading(format="srt")).format == "srt"


def test_a_table_of_names_gives_the_ids(tmp_path):
    say(tmp_path / "t.csv", f"file,text\nrec_7.m4a,{TEXT}\nrec_8.m4a,네\n")
    say(tmp_path / "names.csv", "utterance_id,녹음\nu1,rec_7\nu9,rec_9\n")
    found = read_external(tmp_path / "t.csv", Reading(names=tmp_path / "names.csv"))
    assert {*found.hypotheses} == {"u1", "rec_8.m4a"}
    assert found.unused_names == ("rec_9",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"RecognitionStatus": "Error"}, "its RecognitionStatus is 'Error'"),
        ({"result": "FAILED", "message": "m", "segments": []}, "its result is 'FAILED'"),
        ({"rid": "1", "status": "processing"}, "its status is 'processing'"),
        ({"name": "1", "done": False, "response": {"results": []}}, "its done is 'false'"),
        ({"results": {"gs://b/u.wav": {"error": {"code": 3}}}}, "has no transcript for 'gs://b/u.wav'"),
        ({"results": {"gs://b/u.wav": {"cloudStorageResult": {"uri": "gs://o"}}}}, "has no transcript for"),
        ({"combinedRecognizedPhrases": [{"display": "네"}, {"display": "아니요"}]}, "each of 2 channels"),
        ({"NBest": [{"Display": 3}]}, "has no text 'Display'"),
        ({"text": "<|startoftranscript|>네"}, "has the marker"),
        ({"who": 3}, "is JSON of no known format"),
        ([1, 2], "is JSON of no known format"),
    ],
)
def test_files_that_are_no_transcript_are_refused(tmp_path, value, words):
    with pytest.raises(KmedError, match=words):
        read_external(say(tmp_path / "u1.json", value))


@pytest.mark.parametrize("status", ["NoMatch", "InitialSilenceTimeout"])
def test_silence_is_an_empty_transcript(tmp_path, status):
    assert texts(say(tmp_path / "u1.json", {"RecognitionStatus": status})) == {"u1": ""}
    assert texts(say(tmp_path / "u1.json", {"totalBilledTime": "1s"})) == {"u1": ""}
    assert texts(say(tmp_path / "u1.json", {}), format="google") == {"u1": ""}


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("table", "srt", "vtt", "txt", "google")])
def test_another_format_than_the_files_is_an_error(tmp_path, name):
    with pytest.raises(KmedError, match="is not what"):
        read_external(say(tmp_path / "u1.json", {"results": 3}), Reading(format=name))


def test_unknown_formats_and_empty_folders(tmp_path):
    with pytest.raises(KmedError, match="Format 'word' is not known; choose from table, azure"):
        read_external(tmp_path, Reading(format="word"))
    with pytest.raises(KmedError, match="has no file; one file a clip is read of the kinds"):
        read_external(tmp_path)
    with pytest.raises(KmedError, match="do not exist"):
        read_external(tmp_path / "nothing")


PART = pd.DataFrame(
    [
        {**dict.fromkeys(MANIFEST_COLUMNS, "N/A"), "utterance_id": f"u{n}", "text": "네", "duration_s": 1.0}
        for n in range(3)
    ]
)


def test_what_does_not_match_is_named(tmp_path):
    say(tmp_path / "t.csv", "file,text\nclips/u0.wav,가\nu1,나\nstranger,다\n")
    hypotheses = read_hypotheses(tmp_path / "t.csv")
    joined = join_references(hypotheses, PART, missing="empty")
    assert (joined.missing, joined.unknown) == (("u2",), ("stranger",))
    assert [one.hypothesis for one in joined.predictions] == ["가", "나", ""]
    with pytest.raises(KmedError, match="1 of the part's 3 utterances have no hypothesis: u2"):
        join_references(hypotheses, PART, missing="refuse")


@pytest.mark.parametrize("names", [("u0", "u0"), ("u0", "a/u0.wav"), ("u0.wav", "u0.mp3")])
def test_an_utterance_that_is_there_twice_is_refused(tmp_path, names):
    say(tmp_path / "t.csv", "file,text\n" + "".join(f"{name},네\n" for name in names))
    with pytest.raises(KmedError, match=r"(are there twice|several hypotheses).*u0"):
        join_references(read_hypotheses(tmp_path / "t.csv"), PART, missing="empty")


def test_spellings_of_a_name():
    assert [*dict.fromkeys(spellings("C:\\a\\u1.wav"))] == ["C:\\a\\u1.wav", "u1.wav", "u1"]
    assert "u1" in spellings("u1_transcript_64d0ab12-0000.json".removesuffix(".json"))
    assert "v1.5" in spellings("v1.5")
