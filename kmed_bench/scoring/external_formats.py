"""What other speech recognisers write: the transcript in one file of each format, found by its content.

The structures are the vendors' documented ones:

- whisper: openai-whisper's ``--output_format json``; faster-whisper's segments, as command lines around it dump them;
- azure: Speech to text's detailed result, batch transcription result and fast transcription result;
- google: Cloud Speech-to-Text v1 ``recognize`` and ``longrunningrecognize``, v2 ``recognize`` and ``batchRecognize``;
- clova: NAVER CLOVA Speech, long sentences, and CSR's ``{"text": …}``;
- daglo: ``sttResults`` of ActionPower's daglo API;
- srt, vtt: SubRip and WebVTT subtitles; txt: nothing but the transcript.
"""

import html
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from kmed_bench.core.errors import KmedError

Found = Iterator[tuple[str, str]]
"""Pairs of a clip's name, empty where the file does not say it, and its transcript."""

_NO_SPEECH = ("nomatch", "initialsilencetimeout", "babbletimeout", "endofdictation")
_SRT = re.compile(r"\s*\d+\s*\r?\n\s*\d+:\d\d:\d\d[,.]\d{1,3}\s*-->")
_CUE_TIME = re.compile(r"^\s*(?:\d+:)?\d\d:\d\d[,.]\d{1,3}\s*-->.*$")
_CUE_TAG = re.compile(r"</?(?:[biu]|c|v|lang|ruby|rt|font)(?:[ .][^<>]*)?>|<\d[\d:.]*>|\{\\[^{}]*\}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[a-zA-Z]{2,8});")


def find_json_format(value: Any) -> str:
    """Return the format of a JSON file's value, a key of ``JSON_FORMATS``; empty if it is none of them."""
    return next((name for name, (matches, _) in JSON_FORMATS.items() if matches(value)), "")


def may_be(value: Any, name: str) -> bool:
    """Return whether a JSON value can be of a format that was named, also where it does not show it by itself.

    That are an empty object, Google's answer to silence, and ``{"text": …}``, CLOVA's of short sentences.
    """
    plain = (name == "google" and value == {}) or (name == "clova" and _is_whisper(value))
    return plain or JSON_FORMATS[name][0](value)


def find_text_format(text: str) -> str:
    """Return ``vtt`` or ``srt`` for subtitles, else an empty text."""
    if text.lstrip().startswith("WEBVTT"):
        return "vtt"
    return "srt" if _SRT.match(text) else ""


def read_cues(text: str) -> str:
    """Return the spoken text of SRT or WebVTT subtitles: cues joined by spaces; no numbers, times, notes and tags."""
    spoken: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        times = [place for place, line in enumerate(lines) if _CUE_TIME.match(line)]
        if times:  # a block without times is the head, a note or a style
            # Without an empty line between cues, the next one's number and times follow.
            heads = {*times, *(place - 1 for place in times[1:] if lines[place - 1].strip().isdecimal())}
            inside = (line for place, line in enumerate(lines) if place > times[0] and place not in heads)
            spoken += [cue for line in inside if (cue := _plain(line))]
    return " ".join(spoken)


def _plain(line: str) -> str:
    line = _ENTITY.sub(lambda match: html.unescape(match[0]), _CUE_TAG.sub("", line))
    return line.replace("\u200e", "").replace("\u200f", "").strip()  # marks of direction


def _is_whisper(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) and {"start", "end", "text"} <= one.keys() for one in value)
    return isinstance(value, dict) and (isinstance(value.get("text"), str) or _is_whisper(value.get("segments")))


def _read_whisper(value: Any, where: str) -> Found:
    yield "", _text_of(value, where)


def _text_of(value: Any, where: str) -> str:
    """Return ``text``, or the segments' texts; Whisper's begin with a space wherever a word begins."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    segments = value if isinstance(value, list) else value.get("segments", [])
    texts = [_string(one, "text", where) for one in _objects(segments, where)]
    return ("" if any(text.startswith(" ") for text in texts[1:]) else " ").join(texts)


def _is_clova(value: Any) -> bool:
    return isinstance(value, dict) and "result" in value and bool(value.keys() & {"segments", "token", "message"})


def _read_clova(value: Any, where: str) -> Found:
    if isinstance(value, dict) and str(value.get("result", "COMPLETED")).upper() not in ("COMPLETED", "SUCCEEDED"):
        raise _unfinished(where, "result", value["result"])
    yield "", _text_of(value, where)


def _is_daglo(value: Any) -> bool:
    return isinstance(value, dict) and ("sttResults" in value or {"rid", "status"} <= value.keys())


def _read_daglo(value: Any, where: str) -> Found:
    if value.get("status", "transcribed") != "transcribed":
        raise _unfinished(where, "status", value["status"])
    results = _objects(value.get("sttResults") or [], where)
    yield "", " ".join(_string(one, "transcript", where).strip() for one in results)


_AZURE = {"NBest", "RecognitionStatus", "combinedRecognizedPhrases", "combinedPhrases"}


def _is_azure(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and bool(first.keys() & _AZURE)


def _read_azure(value: Any, where: str) -> Found:
    if isinstance(value, list):
        yield "", " ".join(_azure_result(one, where) for one in _objects(value, where)).strip()
    elif "combinedRecognizedPhrases" in value or "combinedPhrases" in value:
        phrases = _objects(value.get("combinedRecognizedPhrases", value.get("combinedPhrases")), where)
        key = "display" if "combinedRecognizedPhrases" in value else "text"
        texts = [text for one in phrases if (text := _string(one, key, where).strip())]
        if len(texts) > 1:
            raise KmedError(
                f"{where} has a transcript for each of {len(texts)} channels, which are not one transcript: transcribe "
                "the first channel only, or a file with one channel."
            )
        yield _name_in(str(value.get("source") or "")), "".join(texts)
    else:
        yield "", _azure_result(value, where)


def _azure_result(value: dict[str, Any], where: str) -> str:
    status = str(value.get("RecognitionStatus", "Success"))
    if status.lower() in _NO_SPEECH:
        return ""
    if status.lower() not in ("success", "0"):
        raise _unfinished(where, "RecognitionStatus", status)
    if value.get("NBest"):
        best = _objects(value["NBest"], where)[0]
        return _string(best, "Display" if "Display" in best else "Lexical", where).strip()
    return _string(value, "DisplayText", where).strip()


def _is_google(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    results = value.get("response", value)
    results = results.get("results") if isinstance(results, dict) else None
    if isinstance(results, dict):
        return all(
            isinstance(one, dict)
            and one.keys() & {"transcript", "inlineResult", "error", "uri", "metadata", "cloudStorageResult"}
            for one in results.values()
        )
    if isinstance(results, list):
        return all(
            isinstance(one, dict)
            and one.keys() & {"alternatives", "languageCode", "resultEndTime", "resultEndOffset", "channelTag"}
            for one in results
        )
    return bool(value.keys() & {"totalBilledTime", "totalBilledDuration", "speechAdaptationInfo"})


def _read_google(value: Any, where: str) -> Found:
    if value.get("done") is False or value.get("error"):
        raise _unfinished(where, "error" if value.get("error") else "done", value.get("error") or "false")
    answer = value.get("response", value)
    results = answer.get("results") or []
    if not isinstance(results, dict):
        yield "", _google_text(results, where)
        return
    for uri, one in results.items():
        found = one.get("inlineResult") or one
        if one.get("error") or "transcript" not in found:
            given = one.get("error") or one.get("uri") or one.get("cloudStorageResult")
            raise KmedError(
                f"{where} has no transcript for {uri!r:.120} but {given!r:.160}; fetch the result that it points to, "
                "or recognise the clip again."
            )
        yield _name_in(uri), _google_text(found["transcript"].get("results") or [], where)


def _google_text(results: Any, where: str) -> str:
    alternatives = [_objects(one.get("alternatives") or [], where) for one in _objects(results, where)]
    # With diarization the last result repeats the words without a transcript.
    best = [str(one[0].get("transcript", "")).strip() for one in alternatives if one]
    return " ".join(text for text in best if text)


def _name_in(address: str) -> str:
    """Return the file's name in a URL or a path, without folders and parameters; a SAS token is no part of it."""
    try:
        path = urlsplit(address).path
    except ValueError:  # a host in brackets that is no address
        path = address
    return PurePosixPath(unquote(path)).name


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise KmedError(
            f"{where} has {value!r:.80} where a list of results should be; give the file as it was returned."
        )
    return value


def _string(value: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(value.get(key), str):
        raise KmedError(f"{where} has no text {key!r} in {value!r:.80}; give the file as the system returned it.")
    return str(value[key])


def _unfinished(where: str, key: str, value: object) -> KmedError:
    return KmedError(
        f"{where} is no transcript: its {key} is {value!r:.80}. Recognise the clip again, or remove the file and count "
        "the clip as missing."
    )


JSON_FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, str], Found]]] = {
    "azure": (_is_azure, _read_azure),
    "google": (_is_google, _read_google),
    "daglo": (_is_daglo, _read_daglo),
    "clova": (_is_clova, _read_clova),
    "whisper": (_is_whisper, _read_whisper),
}
"""Name to (whether a JSON value is of the format, its transcripts); asked in this order."""
FORMATS = ("table", *JSON_FORMATS, "srt", "vtt", "txt")
