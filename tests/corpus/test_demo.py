import hashlib
import io
import json
import random
import sys
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile

from kmed_bench.config import DataConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import RejectReason, WarningKind, read_manifest
from kmed_bench.corpus.demo.demo import _assign, make_demo_corpus
from kmed_bench.corpus.demo.demo_files import RATE_HZ
from kmed_bench.corpus.demo.espeak import Voice, speak
from kmed_bench.corpus.demo.sentences import corpus_name, is_synthetic, read_sentences
from kmed_bench.corpus.ingest.manifest import ingest

DEFAULT = {"speakers": 16, "sentences": 72, "seed": 208}
SMALL: dict[str, int] = {"speakers": 4, "sentences": 12, "seed": 1}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "tree"
    return out, make_demo_corpus(out, **DEFAULT, layout="tree")


def labels_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Each label by utterance id, the broken ones left out."""
    found = {}
    for path in folder.rglob("*.json"):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError:
            continue
    return found


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_sentences_are_enough_and_distinct() -> None:
    sentences = read_sentences()
    assert len(sentences) >= 90
    assert len({s.label for s in sentences}) == len(sentences)
    assert {s.role for s in sentences} == {"patient", "nurse", "doctor"}
    for s in sentences:
        assert s.spoken.strip()
        assert not set(s.spoken) & set("*/()#@"), s
        assert not any(c.isdigit() for c in s.spoken), s
    assert sum("/(" in s.label for s in sentences) >= 5
    assert sum("*" in s.label for s in sentences) >= 5
    assert sum(s.label.startswith(("아/", "음/")) for s in sentences) >= 3


def test_files_and_labels_agree(tree: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = tree
    defects = summary["defects"]
    labels = labels_of(folder)
    audio = {p.stem: p for p in folder.rglob("*.wav")}
    assert len(list(folder.rglob("*.json"))) == summary["labels"]
    assert len(set(labels) ^ set(audio)) == 4  # two without audio, one without label, one broken
    n_checked = 0
    for name in set(labels) & set(audio):
        if defects.get(name) == "empty file":
            assert audio[name].read_bytes() == b""
            continue
        info = soundfile.info(audio[name])
        assert (info.samplerate, info.channels, info.subtype) == (RATE_HZ, 1, "PCM_16")
        length = float(labels[name]["파일정보"]["FileLength"])
        if defects.get(name) == "cut audio":
            assert info.duration == pytest.approx(0.6)
            assert length > 1.0
            continue
        assert length == pytest.approx(info.duration, abs=0.006)
        assert 1.0 <= info.duration <= 5.0
        samples, _ = soundfile.read(audio[name])
        level = float(np.sqrt(np.mean(samples**2)))
        assert level == 0 if defects.get(name) == "silence" else level > 0.02
        assert np.abs(samples).max() < 0.99
        n_checked += 1
    assert n_checked > 200


def test_names_follow_the_download(tree: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = tree
    labels = labels_of(folder)
    for name, label in labels.items():
        speaker, prompt, one, role, gender, age, region = name.split("-")
        assert (speaker[:2], role) in {("PA", "03"), ("HA", "02"), ("HB", "01")}
        assert len(prompt) == 4
        assert one == "01"
        assert {"F": "Female", "M": "Male"}[gender] == label["화자정보"].get(
            "Gender", {"F": "Female", "M": "Male"}[gender]
        )
        assert age in {"03", "04", "05", "06", "07", "08", "09"}
        assert region in set("ABCD")
        assert label["파일정보"]["FileName"] == f"{name}.wav"
    assert {p.parts[0] for p in (q.relative_to(folder) for q in folder.rglob("*.wav"))} == {"Training", "Validation"}
    assert (folder / "Training" / "[T]라벨링데이터" / "medsub" / "환자").is_dir()
    boms = [p for p in folder.rglob("*.json") if p.read_bytes().startswith(b"\xef\xbb\xbf")]
    assert len(boms) > 10


def test_counts_add_up(tree: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = tree
    assert summary["labels"] == summary["usable"] + sum(summary["rejected"].values())
    assert set(summary["rejected"]) <= set(get_args(RejectReason))
    assert set(summary["warnings"]) <= set(get_args(WarningKind))
    assert len(summary["rejected"]) >= 8
    assert summary["sentences"] == 72
    assert summary["speakers"] == 18
    for kind in ("labels", "usable"):
        assert sum(counts[kind] for counts in summary["by_role"].values()) == summary[kind]
    text = (folder / "README.txt").read_text(encoding="utf-8")
    assert "Synthetic" in text
    assert all(name in text for name in summary["defects"])


@pytest.mark.slow
@pytest.mark.parametrize("roles", [("patient",), ("nurse", "doctor"), ("patient", "nurse", "doctor")])
def test_ingest_finds_what_was_planted(
    tree: tuple[Path, dict[str, Any]], tmp_path: Path, roles: tuple[str, ...]
) -> None:
    folder, summary = tree
    quality = ingest([folder], tmp_path / "out", DataConfig(roles=roles, decode=True, workers=1))
    for kind in ("labels", "usable"):
        assert quality[kind] == sum(summary["by_role"][role][kind] for role in roles)
    for kind in ("rejected", "warnings"):
        planted = sum((Counter(summary["by_role"][role][kind]) for role in roles), Counter[str]())
        assert Counter({name: n for name, n in quality[kind].items() if n}) == planted
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert (is_synthetic(manifest), corpus_name(manifest)) == (True, "demo corpus (synthetic)")
    manifest.loc[len(manifest) - 1, "text"] = "다른 문장"  # one recording, and it is no demo corpus
    assert (is_synthetic(manifest), corpus_name(manifest)) == (False, "AI Hub 208")


def test_groups_can_be_split_without_leaks(tree: tuple[Path, dict[str, Any]]) -> None:
    """Any three groups train, any other two validate and test: 112, 20 and 24 clips fit every time."""
    folder, summary = tree
    readings = [
        name.split("-")[:2]
        for name in labels_of(folder)
        if name.startswith("PA") and summary["defects"].get(name) in (None, "wrong rate")
    ]
    n_groups = 5
    group_of = {speaker: (int(speaker[3:]) - 1) % n_groups for speaker, _ in readings}
    votes: dict[str, list[int]] = defaultdict(list)
    for speaker, sentence in readings:
        votes[sentence].append(group_of[speaker])
    home = {sentence: max(set(v), key=v.count) for sentence, v in votes.items()}
    sizes = [sum(group_of[s] == g == home[t] for s, t in readings) for g in range(n_groups)]
    assert min(sizes) >= 30
    assert sum(sorted(sizes)[:3]) >= 100
    crossings = sum(group_of[s] != home[t] for s, t in readings)
    assert 10 <= crossings <= 20
    assert min(len(v) for v in votes.values()) >= 2


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    first = make_demo_corpus(tmp_path / "a", **SMALL, layout="zips")
    time.sleep(1.1)  # the library seeds its noise with the second of the day
    second = make_demo_corpus(tmp_path / "b", **SMALL, layout="zips")
    assert first == second
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    other = make_demo_corpus(tmp_path / "c", speakers=4, sentences=12, seed=2, layout="zips")
    assert digests(tmp_path / "c") != digests(tmp_path / "a")
    assert other["speakers"] == first["speakers"]


def test_zips_hold_what_the_tree_holds(tmp_path: Path) -> None:
    make_demo_corpus(tmp_path / "z", **SMALL, layout="zips")
    make_demo_corpus(tmp_path / "t", **SMALL, layout="tree")
    zipped = {}
    for path in sorted((tmp_path / "z").rglob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            for member in archive.namelist():
                zipped[f"{path.relative_to(tmp_path / 'z').with_suffix('')}/{member}"] = archive.read(member)
    laid = {str(p.relative_to(tmp_path / "t")): p.read_bytes() for p in (tmp_path / "t").rglob("*.*") if p.is_file()}
    del laid["README.txt"]
    assert zipped == laid
    assert len(zipped) > 25
    wav = next(content for name, content in zipped.items() if name.endswith(".wav") and content)
    assert soundfile.info(io.BytesIO(wav)).samplerate == RATE_HZ


@pytest.mark.slow
@pytest.mark.parametrize(("speakers", "sentences"), [(4, 12), (7, 40), (5, 110)])
def test_other_sizes(tmp_path: Path, speakers: int, sentences: int) -> None:
    summary = make_demo_corpus(tmp_path / "x", speakers=speakers, sentences=sentences, seed=3, layout="tree")
    assert summary["speakers"] == speakers + 2
    assert summary["sentences"] == sentences
    assert len(list((tmp_path / "x").rglob("*.json"))) == summary["labels"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"speakers": 3}, "speakers is 3"),
        ({"sentences": 11}, "sentences is 11"),
        ({"sentences": 5000}, "sentences is 5000"),
        ({"layout": "tar"}, "'tar'"),
    ],
)
def test_limits_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(KmedError, match=named):
        make_demo_corpus(tmp_path / "x", **{**SMALL, "layout": "tree", **change})
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(KmedError, match="not an empty folder"):
        make_demo_corpus(tmp_path, **SMALL, layout="tree")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_library_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(KmedError, match=r"pip install kmed-bench\[demo\]"):
        speak([("기침", Voice(variant="f2"))])


def test_voices_differ_and_unknown_ones_are_errors() -> None:
    text = "어제부터 머리가 아파요."
    (a, b, c), rate_hz = speak(
        [(text, Voice(variant=v, rate_wpm=w)) for v, w in (("f2", 160), ("m3", 160), ("f2", 120))]
    )
    assert rate_hz == 22_050
    assert not np.array_equal(a[:5000], b[:5000])
    assert len(c) > 1.2 * len(a)
    with pytest.raises(KmedError, match="no voice variant 'nobody'"):
        speak([(text, Voice(variant="nobody"))])


def test_a_deep_installation_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library cuts long data paths and then speaks from elsewhere or not at all."""
    import espeakng_loader

    deep = tmp_path / ("d" * 120) / ("e" * 120)
    package = deep / "espeakng_loader"
    package.parent.mkdir(parents=True)
    package.symlink_to(Path(espeakng_loader.__file__).parent, target_is_directory=True)
    request = [("기침이 나요.", Voice(variant="f2"))]
    (near,), _ = speak(request)
    monkeypatch.setenv("PYTHONPATH", str(deep))
    (far,), _ = speak(request)
    assert np.array_equal(near, far)


def test_the_last_group_of_patients_is_the_validation_release() -> None:
    made = list(_assign(12, 60, random.Random(1)))
    release = {speaker.speaker_id: speaker.release for speaker, _ in made if speaker.role == "patient"}
    assert [release[name] for name in sorted(release)] == ["Training", "Training", "Training", "Validation"] * 3
