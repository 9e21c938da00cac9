"""Public Korean corpora as they are downloaded, read in place, each by its own layout.

- zeroth: Zeroth-Korean (OpenSLR 40): ``train_data_01/003/104/104_003.trans.txt`` beside FLAC, and ``AUDIO_INFO``
- fleurs: FLEURS ``ko_kr`` (Google): the TSV lists of train, dev and test without a header, WAV below
- ksponspeech: KsponSpeech (AI Hub): ``scripts/*.trn``, or a ``.txt`` beside each headerless ``.pcm``
- common-voice: Mozilla Common Voice: ``validated.tsv`` (or the parts' lists) and ``clips/``
- huggingface: a data set saved by Hugging Face's ``datasets``, as Arrow or parquet with audio in it
- pairs: a folder of recordings with a ``.txt`` of the same name beside each
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import OWN_RECORDINGS
from kmed_bench.core.tables import read_table, read_text
from kmed_bench.corpus.archives.media import MEDIA_SUFFIXES
from kmed_bench.corpus.imports.hub import is_hub_dataset, read_hub_dataset
from kmed_bench.corpus.imports.lists import AudioFiles, name_utterances
from kmed_bench.corpus.imports.records import Audio, Record, clean_value, read_age, read_gender
from kmed_bench.corpus.ingest.aihub import NOT_STATED

_SOUNDS = (".wav", ".flac", ".pcm", *sorted(MEDIA_SUFFIXES - {".wav", ".flac"}))
_FLEURS_COLUMNS = 7
_LISTS = (".csv", ".tsv", ".xlsx", ".jsonl")


def read_layout(folder: Path, layout: str | None = None) -> tuple[str, str, list[Record]]:
    """Return the name of a folder's layout, what the corpus is called, and its recordings.

    Raises
    ------
    KmedError
        When the layout is unknown, not to be found out, or holds no utterance.
    """
    if layout is None:
        layout = next((name for name, (_, is_it, _) in LAYOUTS.items() if is_it(folder)), None)
    if layout not in LAYOUTS:
        lists = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _LISTS)
        known = f"Layout {layout!r} is not known" if layout else f"{folder} is in no known layout"
        hint = f"give its list itself ({', '.join(lists[:3])})" if lists else "give a list of its recordings"
        raise KmedError(f"{known}; --layout takes {', '.join(LAYOUTS)}, or {hint}.")
    title, _, read = LAYOUTS[layout]
    records = name_utterances([*read(folder)])
    if not records:
        raise KmedError(f"{folder} holds no utterance in the layout of {title}; check the folder, or give --layout.")
    return layout, title, records


def _record(
    audio: Path, place: str, text: str, *, speaker_id: str = NOT_STATED, gender: str = NOT_STATED, age: str = NOT_STATED
) -> Record:
    """Return a recording by its path; of one that is not there the reason is set."""
    sound = Audio(audio.absolute(), "pcm" if audio.suffix.lower() == ".pcm" else "file")
    found = Record(utterance_id="", place=place, text=text, audio=sound, speaker_id=speaker_id, gender=gender, age=age)
    if audio.is_file():
        return found
    archives = [] if audio.parent.is_dir() else sorted(audio.parent.parent.glob("*.tar*"))
    detail = f"no file {audio}" + (f"; extract {archives[0].name} first" if archives else "")
    return dataclasses.replace(found, reason="audio_missing", detail=detail)


def _is_zeroth(folder: Path) -> bool:
    return any(True for _ in folder.rglob("*.trans.txt"))


def _read_zeroth(folder: Path) -> Iterator[Record]:
    """Yield the lines ``104_003_0001 text`` of every speaker's transcripts."""
    genders = _zeroth_genders(folder)
    for file in sorted(folder.rglob("*.trans.txt")):
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            name, _, text = line.strip().partition(" ")
            if name:
                speaker = name.partition("_")[0]
                gender = genders.get(speaker, NOT_STATED)
                audio = file.parent / f"{name}.flac"
                yield _record(audio, f"{file}, line {number}", text, speaker_id=speaker, gender=gender)


def _zeroth_genders(folder: Path) -> dict[str, str]:
    """Return speaker to gender from ``AUDIO_INFO``: ``SPEAKERID|NAME|SEX|SCRIPTID|DATASET``; names are not kept."""
    genders: dict[str, str] = {}
    for file in (one / "AUDIO_INFO" for one in (folder, folder.parent)):
        if file.is_file():
            lines = [line.split("|") for line in read_text(file).splitlines() if line.count("|") >= 2]
            genders |= {cells[0].strip(): read_gender(cells[2]) for cells in lines[1:]}
    return genders


def _is_fleurs(folder: Path) -> bool:
    return bool(_fleurs_lists(folder))


def _fleurs_lists(folder: Path) -> list[Path]:
    found = [folder / f"{part}.tsv" for part in ("train", "dev", "test")]
    return [path for path in found if path.is_file() and _first_line(path).count("\t") == _FLEURS_COLUMNS - 1]


def _first_line(path: Path) -> str:
    return read_text(path).partition("\n")[0]


def _read_fleurs(folder: Path) -> Iterator[Record]:
    """Yield the lines id, file, raw transcript, transcript, letters, samples, gender of each part's list."""
    for file in _fleurs_lists(folder):
        places = [folder / "audio" / file.stem, folder / file.stem, folder / "audio"]
        home = next((place for place in places if place.is_dir()), places[0])
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            cells = [cell.strip() for cell in line.split("\t")]
            if len(cells) < 4:
                continue
            gender = read_gender(cells[6]) if len(cells) > 6 else NOT_STATED
            yield _record(home / cells[1], f"{file}, line {number}", cells[2], gender=gender)


def _is_kspon(folder: Path) -> bool:
    return any(True for _ in folder.rglob("*.trn")) or any(True for _ in folder.rglob("*.pcm"))


def _read_kspon(folder: Path) -> Iterator[Record]:
    """Yield the lines ``folder/name.pcm :: text`` of every list, or else each ``.pcm`` with the text beside it."""
    lists = sorted(folder.rglob("*.trn"))
    seen: set[str] = set()
    for file in lists:
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            name, _, text = line.strip().partition(" :: ")
            if not name or name in seen:  # train.trn and its subsets name the same recordings
                continue
            seen.add(name)
            bases = (folder, file.parent, file.parent.parent)
            audio = next((path for base in bases if (path := base / name).is_file()), folder / name)
            yield _record(audio, f"{file}, line {number}", text)
    if not lists:
        yield from _read_pairs(folder)


def _is_common_voice(folder: Path) -> bool:
    return (folder / "clips").is_dir() and bool(_common_voice_lists(folder))


def _common_voice_lists(folder: Path) -> list[Path]:
    whole = folder / "validated.tsv"
    parts = [whole] if whole.is_file() else [folder / f"{part}.tsv" for part in ("train", "dev", "test")]
    return [path for path in parts if path.is_file() and "client_id" in _first_line(path).split("\t")]


def _read_common_voice(folder: Path) -> Iterator[Record]:
    """Yield the clips of the validated list, a speaker being what Common Voice calls a client."""
    for file in _common_voice_lists(folder):
        for row in read_table(file).rows:
            yield _record(
                folder / "clips" / row.cells.get("path", ""),
                row.place,
                row.cells.get("sentence", ""),
                speaker_id=clean_value(row.cells.get("client_id", "")) or NOT_STATED,
                gender=read_gender(row.cells.get("gender", "")),
                age=read_age(row.cells.get("age", "")),
            )


def _is_pairs(folder: Path) -> bool:
    return next(_read_pairs(folder), None) is not None


def _read_pairs(folder: Path) -> Iterator[Record]:
    """Yield each text file that has a recording of the same name beside it."""
    files = AudioFiles(folder)
    for text in sorted(folder.rglob("*.txt")):
        names = (text.relative_to(folder).with_suffix(suffix).as_posix() for suffix in _SOUNDS)
        audio = next((found for name in names if (found := files.find(name))), None)
        if audio is not None:
            yield Record(utterance_id="", place=str(text), text=" ".join(read_text(text).split()), audio=audio)


LAYOUTS: dict[str, tuple[str, Callable[[Path], bool], Callable[[Path], Iterator[Record]]]] = {
    "huggingface": ("Hugging Face data set", is_hub_dataset, read_hub_dataset),
    "common-voice": ("Common Voice", _is_common_voice, _read_common_voice),
    "fleurs": ("FLEURS", _is_fleurs, _read_fleurs),
    "zeroth": ("Zeroth-Korean", _is_zeroth, _read_zeroth),
    "ksponspeech": ("KsponSpeech", _is_kspon, _read_kspon),
    "pairs": (OWN_RECORDINGS, _is_pairs, _read_pairs),
}
"""Name to (what the corpus is called, whether a folder is in this layout, its recordings); asked in this order."""
