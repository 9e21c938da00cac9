"""The demo corpus on disk: folders, file names, labels and planted defects as in an AI Hub 208 download."""

import dataclasses
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from kmed_bench.core.schema import RejectReason, WarningKind
from kmed_bench.core.surroundings import interrupts_wait
from kmed_bench.corpus.demo.espeak import Voice
from kmed_bench.corpus.demo.sentences import Sentence

RATE_HZ = 48_000
_ZIP_TIME = (2023, 1, 1, 0, 0, 0)  # fixed, for the same bytes in every run

_AGES = {"11~19": "03", "20~29": "04", "30~39": "05", "40~49": "06", "50~59": "07", "60~69": "08", "over70": "09"}
# role -> speaker prefix, role code, folder of labels, archive of audio, folder in it
ROLES = {
    "patient": ("PA", "03", "환자", "환자_1", "1"),
    "nurse": ("HA", "02", "간호사", "의료진_간호사_1", "nur"),
    "doctor": ("HB", "01", "의사", "의료진_의사_1", "doc"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speaker:
    """One synthetic speaker in the words of 208's labels, and the voice that plays the part."""

    speaker_id: str
    role: str
    gender: str
    age: str
    dialect: str
    region: str
    region_code: str
    release: str
    voice: Voice

    def utterance_id(self, sentence: Sentence) -> str:
        """Return the name that 208 would give this speaker's reading of a sentence."""
        role_code = ROLES[self.role][1]
        return (
            f"{self.speaker_id}-{sentence.number:04d}-01-{role_code}-{self.gender[0]}-"
            f"{_AGES[self.age]}-{self.region_code}"
        )


@dataclasses.dataclass(kw_only=True)
class Clip:
    """One utterance on its way to disk; a planted defect changes it."""

    utterance_id: str
    speaker: Speaker
    sentence: Sentence
    label: dict[str, Any]
    samples: NDArray[np.int16]
    defect: str | None = None


def make_clip(speaker: Speaker, sentence: Sentence, speech: NDArray[np.int16], rate_hz: int) -> Clip:
    """Return one flawless utterance at ``RATE_HZ`` with its label."""
    from scipy.signal import resample_poly  # slow to import, and every command that can make a corpus imports this

    # The resampling filter overshoots, and some voices fill the whole range: headroom against clipping.
    resampled = resample_poly(0.8 * speech.astype(np.float64), RATE_HZ, rate_hz)
    samples = np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
    utterance_id = speaker.utterance_id(sentence)
    label = {
        "기본정보": {"Language": "KOR", "DataCategory": "Synthetic", "Distributor": "kmed-bench demo"},
        "전사정보": {"LabelText": sentence.label},
        "화자정보": {
            "Gender": speaker.gender,
            "Age": speaker.age,
            "Region": speaker.region,
            "Dialect": speaker.dialect,
        },
        "음성정보": {"SamplingRate": str(RATE_HZ), "NumberOfBit": "16", "NumberOfChannel": "1"},
        "파일정보": {
            "FileName": f"{utterance_id}.wav",
            "DirectoryPath": f"/nia/metrixB/data/{speaker.speaker_id}",
            "FileLength": f"{len(samples) / RATE_HZ:.2f}",
        },
        "기타정보": {"QualityStatus": "Good"},
    }
    return Clip(utterance_id=utterance_id, speaker=speaker, sentence=sentence, label=label, samples=samples)


# Defect -> (the reason or the kind of warning that ingest must give, what a reader of the README sees).
_REJECTED: dict[str, tuple[RejectReason, str]] = {
    "no audio": ("audio_missing", "label without audio"),
    "broken json": ("label_unreadable", "label that is not valid JSON"),
    "empty text": ("transcript_empty", "label with an empty transcript"),
    "cut audio": ("audio_truncated", "recording cut to 0.6 s while its label says more"),
    "masked text": ("transcript_masked", "transcript with a masked name"),
    "no gender": ("label_incomplete", "label without Gender"),
    "empty file": ("audio_unreadable", "audio file of zero bytes"),
    "label twice": ("duplicate_utterance", "label that is in Training and again in Validation"),
}
_WARNED: dict[str, tuple[WarningKind, str]] = {
    "no label": ("audio_without_label", "audio file without a label"),
    "wrong rate": ("rate_differs", "label that says 44100 Hz"),
    "silence": ("silent_audio", "recording that is digital silence"),
}


def plant_defects(clips: list[Clip], draw: random.Random) -> None:
    """Plant one defect in each of a few clips; the silent one is staff's, since it would only blur the scores."""
    patients = [clip for clip in clips if clip.speaker.role == "patient" and clip.speaker.release == "Training"]
    staff = [clip for clip in clips if clip.speaker.role != "patient"]
    defects = ["no audio", "no label", "wrong rate", *_REJECTED][: len(patients) // 6]  # a small corpus gets fewer
    for clip, defect in zip(draw.sample(patients, len(defects)), defects, strict=True):
        clip.defect = defect
    draw.choice(staff).defect = "silence"
    for clip in clips:
        if clip.defect == "empty text":
            clip.label["전사정보"]["LabelText"] = ""
        elif clip.defect == "masked text":
            clip.label["전사정보"]["LabelText"] = f"#@이름#입니다. {clip.sentence.label}"
        elif clip.defect == "no gender":
            del clip.label["화자정보"]["Gender"]
        elif clip.defect == "wrong rate":
            clip.label["음성정보"]["SamplingRate"] = "44100"
        elif clip.defect == "cut audio":
            clip.samples = clip.samples[: int(0.6 * RATE_HZ)]
        elif clip.defect == "silence":
            clip.samples = np.zeros_like(clip.samples)


def archive_members(clips: list[Clip]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (archive without its suffix, member, content) in the download's places."""
    for number, clip in enumerate(clips):
        _, _, label_folder, audio_archive, audio_folder = ROLES[clip.speaker.role]
        release, speaker_id = clip.speaker.release, clip.speaker.speaker_id
        if clip.defect != "no audio":
            archive = f"{release}/[{release[0]}원천]{audio_archive}"
            yield archive, f"{audio_folder}/{speaker_id}/{clip.utterance_id}.wav", _wav(clip)
        if clip.defect == "no label":
            continue
        text = json.dumps(clip.label, ensure_ascii=False)
        if clip.defect == "broken json":
            text = text[: len(text) // 2]
        # One label in seven opens with a byte-order mark, as some of the download's do.
        content = text.encode("utf-8-sig" if number % 7 == 3 else "utf-8")
        member = f"medsub/{label_folder}/{speaker_id}/{clip.utterance_id}.json"
        for place in (release, "Validation") if clip.defect == "label twice" else (release,):
            yield f"{place}/[{place[0]}]라벨링데이터", member, content


@interrupts_wait()
def _wav(clip: Clip) -> bytes:
    if clip.defect == "empty file":
        return b""
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_tree(folder: Path, members: Iterator[tuple[str, str, bytes]]) -> None:
    """Write the members as extracted, one folder an archive."""
    for archive, member, content in members:
        path = folder / archive / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_zips(folder: Path, members: Iterator[tuple[str, str, bytes]]) -> None:
    """Write the members as zip archives, uncompressed like speech that hardly compresses."""
    archives: dict[str, zipfile.ZipFile] = {}
    try:
        for archive, member, content in members:
            if archive not in archives:
                path = folder / f"{archive}.zip"
                path.parent.mkdir(parents=True, exist_ok=True)
                archives[archive] = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
            info = zipfile.ZipInfo(member, _ZIP_TIME)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same bytes on every system
            archives[archive].writestr(info, content)
    finally:
        for opened in archives.values():
            opened.close()


def summarise(clips: list[Clip]) -> dict[str, Any]:
    """Return the counts that ``make_demo_corpus`` promises."""
    by_role: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        mine = [clip for clip in clips if clip.speaker.role == role]
        rejected = Counter(_REJECTED[clip.defect][0] for clip in mine if clip.defect in _REJECTED)
        n_labels = sum((clip.defect != "no label") + (clip.defect == "label twice") for clip in mine)
        by_role[role] = {
            "labels": n_labels,
            "usable": n_labels - rejected.total(),
            "rejected": dict(sorted(rejected.items())),
            "warnings": dict(sorted(Counter(_WARNED[c.defect][0] for c in mine if c.defect in _WARNED).items())),
        }
    totals: dict[str, Any] = {
        "labels": sum(counts["labels"] for counts in by_role.values()),
        "usable": sum(counts["usable"] for counts in by_role.values()),
    }
    for kind in ("rejected", "warnings"):
        summed: Counter[str] = sum((Counter(counts[kind]) for counts in by_role.values()), Counter())
        totals[kind] = dict(sorted(summed.items()))
    seconds = sum(len(clip.samples) for clip in clips if clip.defect not in ("no audio", "empty file")) / RATE_HZ
    return {
        **totals,
        "speakers": len({clip.speaker.speaker_id for clip in clips}),
        "sentences": len({clip.sentence.number for clip in clips}),
        "hours": round(seconds / 3600, 4),
        "defects": {clip.utterance_id: clip.defect for clip in clips if clip.defect},
        "by_role": by_role,
    }


def readme(summary: dict[str, Any], seed: int) -> str:
    """Return the text of the corpus's README.txt."""
    known = _REJECTED | _WARNED
    defects = "\n".join(
        f"- {utterance_id}: {known[defect][1]} ({known[defect][0]})"
        for utterance_id, defect in summary["defects"].items()
    )
    return f"""Synthetic speech: nobody recorded it, and no patient is in it.

eSpeak NG's Korean voice and its variants read sentences that were written for kmed-bench. Names, ages, genders,
dialects and regions are assigned, not heard. The folders, file names and labels follow an AI Hub 208 download, so
every step can be tried without one. Scores on it show that the program works and say nothing about patients.

Seed {seed}: {summary["labels"]} labels, {summary["speakers"]} speakers, {summary["sentences"]} sentences, \
{summary["hours"]} hours, {summary["usable"]} usable labels.

Planted defects, with the reason or warning that `kmed-bench ingest` must give:
{defects}
"""
