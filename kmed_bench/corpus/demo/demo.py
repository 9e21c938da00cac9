"""The demo corpus: synthetic speech in the layout and label format of an AI Hub 208 download.

Sentences and speakers are invented for this package, and eSpeak NG speaks them. The corpus shows that the whole
chain works where no recordings are; its scores say nothing about patients.
"""

import errno
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import replacing_folder
from kmed_bench.corpus.demo.demo_files import (
    ROLES,
    Speaker,
    archive_members,
    make_clip,
    plant_defects,
    readme,
    summarise,
    write_tree,
    write_zips,
)
from kmed_bench.corpus.demo.espeak import Voice, speak
from kmed_bench.corpus.demo.sentences import Sentence, read_sentences

MIN_SPEAKERS = 4
MIN_SENTENCES = 12
_SPEAKERS_PER_SENTENCE = 3
_STAFF_SHARE = 10  # one sentence in so many is staff's

Layout = Literal["zips", "tree"]

# eSpeak's variants of differing pitch and formants: a woman's and a man's in turn.
_VARIANTS = (
    ("f1", "m1"),
    ("f2", "m3"),
    ("f3", "m5"),
    ("f4", "m7"),
    ("Annie", "Lee"),
    ("linda", "m2"),
    ("belinda", "Michael"),
    ("f5", "m4"),
    ("steph", "paul"),
    ("aunty", "m6"),
)
_AGE_CYCLE = ("60~69", "20~29", "over70", "40~49", "30~39", "50~59", "60~69", "11~19")
# dialect, region, region code
_HOMES = (
    ("경기/서울", "서울/인천/경기", "A"),
    ("경상", "부산/대구/울산/경상", "D"),
    ("충청", "대전/세종/충청/강원", "B"),
    ("전라", "광주/전라/제주", "C"),
    ("경상", "부산/대구/울산/경상", "D"),
    ("경기/서울", "서울/인천/경기", "A"),
    ("강원", "대전/세종/충청/강원", "B"),
)


def make_demo_corpus(out: Path, *, speakers: int, sentences: int, seed: int, layout: Layout) -> dict[str, Any]:
    """Write a synthetic corpus in the download's layout and return what is in it.

    Patients form groups of about three. A group's members read the same block of sentences, and each reads one
    sentence of another group's block: so whole groups make parts that share neither speakers nor sentences,
    and the crossings give the leak guard something to find. One nurse and one doctor read beside the patients.

    Parameters
    ----------
    out : Path
        Folder to make; it must not exist or be empty. It appears whole or not at all.
    speakers : int
        Number of patients, at least 4.
    sentences : int
        Number of sentences, at least 12, a tenth of them staff's.
    seed : int
        Decides which sentences are taken, who reads what, the voices and the places of the defects.
    layout : {"zips", "tree"}
        Zip archives as downloaded, or the same members extracted.

    Returns
    -------
    dict
        ``labels``, ``usable``, ``rejected`` {reason: n}, ``warnings`` {kind: n}, ``speakers``, ``sentences``,
        ``hours`` of the audio written, ``defects`` {utterance id: defect} and ``by_role``
        {role: {labels, usable, rejected, warnings}}: what ``ingest`` must find (silence only where it decodes).

    Raises
    ------
    KmedError
        When a number is out of its limits, the folder is not empty, or eSpeak NG is not installed.
    """
    _check(out, speakers, sentences, layout)
    draw = random.Random(seed)
    readings = list(_assign(speakers, sentences, draw))
    speech, rate_hz = speak([(sentence.spoken, speaker.voice) for speaker, sentence in readings])
    clips = [make_clip(*reading, samples, rate_hz) for reading, samples in zip(readings, speech, strict=True)]
    plant_defects(clips, draw)
    summary = summarise(clips)
    try:
        with replacing_folder(out) as folder:
            write = write_zips if layout == "zips" else write_tree
            write(folder, archive_members(clips))
            (folder / "README.txt").write_text(readme(summary, seed), encoding="utf-8")
    except OSError as error:
        # Another process has filled the folder meanwhile.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and out.is_dir():
            raise _is_taken(out) from None
        raise
    return summary


def _check(out: Path, speakers: int, sentences: int, layout: str) -> None:
    available = len(read_sentences())
    if speakers < MIN_SPEAKERS:
        raise KmedError(f"speakers is {speakers}; the demo corpus needs at least {MIN_SPEAKERS}.")
    if not MIN_SENTENCES <= sentences <= available:
        raise KmedError(
            f"sentences is {sentences}; the demo corpus has between {MIN_SENTENCES} and {available} of them."
        )
    if layout not in ("zips", "tree"):
        raise KmedError(f"layout is {layout!r}; choose zips or tree.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise _is_taken(out)


def _is_taken(out: Path) -> KmedError:
    return KmedError(f"{out} exists and is not an empty folder; name a new folder, or remove this one.")


def _assign(n_speakers: int, n_sentences: int, draw: random.Random) -> Iterator[tuple[Speaker, Sentence]]:
    """Yield who reads what, in the order in which it is spoken."""
    pool: dict[str, list[Sentence]] = {role: [] for role in ROLES}
    for sentence in read_sentences():
        pool[sentence.role].append(sentence)
    n_staff = max(1, n_sentences // (2 * _STAFF_SHARE))  # for the nurse, and as many for the doctor
    n_staff = max(n_staff, -(-(n_sentences - len(pool["patient"])) // 2))
    chosen = draw.sample(pool["patient"], n_sentences - 2 * n_staff)
    n_groups = max(MIN_SPEAKERS, round(n_speakers / _SPEAKERS_PER_SENTENCE))
    blocks = [chosen[group::n_groups] for group in range(n_groups)]
    for index in range(n_speakers):
        group = index % n_groups
        speaker = _make_speaker("patient", index, group == n_groups - 1, draw)
        visited = blocks[(group + 1) % n_groups]
        crossing = visited[(index // n_groups) % len(visited)]
        for sentence in (*blocks[group], crossing):
            yield speaker, sentence
    for role in ("nurse", "doctor"):
        speaker = _make_speaker(role, n_speakers + (role == "doctor"), False, draw)
        for sentence in draw.sample(pool[role], n_staff):
            yield speaker, sentence


def _make_speaker(role: str, index: int, validation: bool, draw: random.Random) -> Speaker:
    is_male = index % 2
    dialect, region, region_code = _HOMES[index % len(_HOMES)]
    age = _AGE_CYCLE[index % len(_AGE_CYCLE)] if role == "patient" else "30~39"
    slower = 20 if age in ("60~69", "over70") else 0
    return Speaker(
        speaker_id=f"{ROLES[role][0]}_{index + 1:04d}",
        role=role,
        gender="Male" if is_male else "Female",
        age=age,
        dialect=dialect,
        region=region,
        region_code=region_code,
        release="Validation" if validation else "Training",
        voice=Voice(
            variant=_VARIANTS[index // 2 % len(_VARIANTS)][is_male],
            rate_wpm=draw.randint(145, 180) - slower,
            pitch=draw.randint(35, 65),
            pitch_range=draw.randint(35, 65),
        ),
    )
