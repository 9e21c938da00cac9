"""One sentence in several spellings, one recording under two ids, and the digest of all that decides figures."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_split import block_manifest, make_manifest

from kmed_bench.config import DataConfig, SplitConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json
from kmed_bench.core.schema import AUDIO_DIGEST, MANIFEST_COLUMNS, PARTS, SELECTION
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.splitting.cells import CELL, find_left_out
from kmed_bench.corpus.splitting.identity import (
    content_digest,
    count_near,
    join_spellings,
    mark_repeats,
    spelling,
)
from kmed_bench.corpus.splitting.leakage import count_leaks
from kmed_bench.corpus.splitting.split import read_split, split_manifest, write_split
from kmed_bench.text.marks import sentence_id

CONFIG = SplitConfig(train=84, valid=28, test=28, by=("gender",))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("목이 붓고, 콧물이 나요.", "목이 붓고 콧물이 나요"),
        ("어지럼증\u00b7두통이 있어요", "어지럼증\u318d두통이 있어요"),
        ("어지럼증\u318d두통이 있어요", "어지럼증 두통이 있어요"),
        ("식후에 2번 드세요", "식후에 두 번 드세요"),
        ("체온이 (38도)/(삼십팔 도)예요", "체온이 38도예요"),
    ],
)
def test_spellings_of_a_sentence_are_equal(one, other):
    assert spelling(one) == spelling(other)


@pytest.mark.parametrize(
    ("one", "other"), [("식후에 2번 드세요", "식후에 세 번 드세요"), ("왼쪽 귀가 아파요", "오른쪽 귀가 아파요")]
)
def test_other_sentences_are_not(one, other):
    assert spelling(one) != spelling(other)


def two_ways(one: str, other: str) -> pd.DataFrame:
    """24 speakers read half of 20 prompts, half of them as ``one`` and half as ``other``."""
    words = list("가나다라마바사아자차카타파하거너더러머버")
    readings = [(i, j) for i in range(24) for j in range(20) if (i + j) % 2 == 0]
    table = make_manifest(readings, gender=["Female", "Male"])
    table["text"] = [(one if i % 4 < 2 else other).format(words[j] * 2) for i, j in readings]
    table["sentence_id"] = table["text"].map(sentence_id)
    return table


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("숨이 {} 찬 것 같아요", "숨이 {} 찬 거 같아요"),  # one letter, so only the prompt's number says it
        ("구역\u00b7구토가 {} 있어요", "구역\u318d구토가 {} 있어요"),
        ("약을 3번 {} 먹었어요", "약을 세 번 {} 먹었어요"),
    ],
)
def test_a_prompt_in_two_spellings_is_in_one_part(one, other):
    table = two_ways(one, other)
    split = split_manifest(table, SplitConfig(train=60, valid=12, test=12, by=("gender",)))
    prompts = [set(split.parts[part]["utterance_id"].str.split("-").str[1]) for part in PARTS]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    assert split.report["label"] == "disjoint"
    for part in PARTS:  # the labels' own ids stay
        assert set(split.parts[part]["sentence_id"]) <= set(table["sentence_id"])
    as_one = table["speaker_id"].str[-4:].astype(int) % 4 < 2
    leaking = {"train": table[as_one], "valid": table.iloc[:0], "test": table[~as_one]}
    assert count_leaks(leaking)["sentences"] == 20


def test_a_number_that_many_texts_share_is_no_prompt():
    table = make_manifest([(i, 7) for i in range(3)])
    table["text"] = ["배가 몹시 아파서 왔어요", "어제부터 기침이 나요", "배가 많이 아파서 왔어요"]
    table["sentence_id"] = ["c", "b", "a"]
    assert list(join_spellings(table)["sentence_id"]) == ["a", "b", "a"]  # 1 and 3 differ in 2 of 10 letters
    table["text"] = ["배가 몹시 아파요", "어제부터 기침이 나요", "열이 좀 있어요"]
    assert list(join_spellings(table)["sentence_id"]) == ["c", "b", "a"]


@settings(deadline=None)  # the first example pays for imports
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["두 번", "2번", "세 번"])), min_size=1, max_size=12)
)
def test_joining_only_joins(rows):
    table = make_manifest([(i, i) for i in range(len(rows))])
    table["text"] = [f"약을 {text} 먹어요 {name}" for name, text in rows]
    table["sentence_id"] = table["text"].map(sentence_id)
    joined = join_spellings(table)
    for _, group in table.assign(joined=joined["sentence_id"]).groupby("sentence_id"):
        assert group["joined"].nunique() == 1
    assert joined["sentence_id"].nunique() == table["text"].map(spelling).nunique()


def test_sentences_one_letter_apart_are_reported_as_doubt():
    table = make_manifest([(0, 1), (1, 2), (2, 3)])
    table["text"] = ["가슴이 답답한 것 같아요", "가슴이 답답한 거 같아요", "배가 고프지 않아요"]
    parts = {part: table.iloc[[i]] for i, part in enumerate(PARTS)}
    assert count_near(parts) == 1
    assert count_near({**parts, "valid": table.iloc[[2]]}) == 0


def test_a_recording_under_two_ids_is_never_in_two_parts():
    table = block_manifest()
    table[AUDIO_DIGEST] = [f"{i:016x}" for i in range(len(table))]
    at = table.columns.get_loc(AUDIO_DIGEST)
    table.iloc[[3, 60, 119], at] = "same"  # other speakers, other sentences: no label can be trusted
    twin = table.iloc[[5]].assign(utterance_id="PA_0000-77-01-03-F-08-C")
    table = pd.concat([table, twin], ignore_index=True)  # the same speaker and sentence: the first is used
    repeats = mark_repeats(table.sort_values("utterance_id", ignore_index=True))
    assert repeats.sum() == 4
    split = split_manifest(table, CONFIG)
    used = pd.concat([split.parts[part] for part in PARTS])
    assert not used[AUDIO_DIGEST].duplicated().any()
    assert "same" not in set(used[AUDIO_DIGEST])
    assert split.report["discarded_because"]["same_recording"] == 4
    assert (split.report["label"], split.report["leakage"]["recordings"]) == ("disjoint", 0)


def test_where_recordings_cannot_be_kept_apart_the_label_says_so(caplog):
    split = split_manifest(block_manifest().assign(**{AUDIO_DIGEST: "one for all"}), CONFIG)
    assert (split.report["label"], split.report["leakage"]["recordings"]) == ("leaking recordings", 1)
    assert "have the same recording as another one" in caplog.text


@pytest.mark.parametrize("unknown", ["", "N/A"])
def test_recordings_that_are_not_known_set_nothing_apart(unknown):
    plain = split_manifest(block_manifest(), CONFIG)
    split = split_manifest(block_manifest().assign(**{AUDIO_DIGEST: unknown}), CONFIG)
    assert split.sha256 == plain.sha256
    assert split.report["leakage"]["recordings"] == 0
    assert "recordings" not in plain.report["leakage"]


def wav(samples: np.ndarray, before: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    content = stream.getvalue()
    return content[:36] + before + content[36:]


def test_ingest_tells_recordings_apart_by_their_samples(tmp_path: Path):
    noise = np.random.default_rng(0).integers(-9_000, 9_000, (3, 16_000))
    late = noise[0].copy()
    late[12_000] += 1  # begins like the first one
    comment = b"LIST" + (20).to_bytes(4, "little") + b"INFOICMT\x08\0\0\0comment\0"
    clips = [wav(noise[0]), wav(noise[0], comment), wav(late), wav(noise[1]), wav(noise[1]), wav(noise[2][:9_000])]
    for i, content in enumerate(clips):
        stem = f"PA_{i:04d}-{i:04d}-01-03-F-06-A"
        label = {
            "전사정보": {"LabelText": f"어디가 {'가나다라마바'[i]} 아파요"},
            "화자정보": {"Gender": "Female", "Age": "40~49", "Region": "서울/인천/경기", "Dialect": "경기/서울"},
        }
        (tmp_path / f"{stem}.json").write_text(json.dumps(label), encoding="utf-8")
        (tmp_path / f"{stem}.wav").write_bytes(content)
    quality = ingest([tmp_path], tmp_path / "out", DataConfig())
    manifest = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    codes = pd.factorize(manifest[AUDIO_DIGEST])[0].tolist()
    assert codes == [0, 0, 1, 2, 2, 3]
    assert quality["warnings"]["same_recording"] == 4
    assert [name[:7] for name in quality["warning_examples"]["same_recording"]] == [f"PA_000{i}" for i in (0, 1, 3, 4)]


CHANGES = {
    "text": "다른 말",
    "speaker_id": "PA_9999",
    "sentence_id": "other",
    "gender": "Other",
    "role": "doctor",
    "duration_s": 9.0,
    AUDIO_DIGEST: "other",
}


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_part_is_refused(tmp_path: Path, column: str):
    table = block_manifest()
    table[AUDIO_DIGEST] = [f"{i:016x}" for i in range(len(table))]
    split = split_manifest(table, CONFIG)
    write_split(split, tmp_path)
    read_split(tmp_path)
    part = pd.read_parquet(tmp_path / "test.parquet")
    part.loc[3, column] = CHANGES[column]
    part.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(KmedError, match="or their texts, speakers or recordings were changed"):
        read_split(tmp_path)


def test_another_place_of_the_audio_is_the_same_content():
    parts = split_manifest(block_manifest(), CONFIG).parts
    moved = {part: table.assign(audio="elsewhere/" + table["audio"]) for part, table in parts.items()}
    assert content_digest(moved) == content_digest(parts)
    swapped = {**parts, "valid": parts["test"], "test": parts["valid"]}
    assert content_digest(swapped) != content_digest(parts)
    assert "audio" in MANIFEST_COLUMNS


def test_an_older_split_is_read_with_a_warning(tmp_path: Path, caplog):
    report = dict(write_split(split_manifest(block_manifest(), CONFIG), tmp_path))
    read_split(tmp_path)
    assert not caplog.text
    del report["content_sha256"], report["doubts"]
    write_json(tmp_path / "split.json", report)
    assert read_split(tmp_path).sha256 == report["sha256"]
    assert "its digest covers the utterance ids only" in caplog.text


def test_cells_know_a_sentence_in_another_spelling_and_a_recording_under_another_id():
    table = make_manifest([(0, 1), (1, 2), (2, 3), (0, 4), (3, 5), (0, 6), (3, 7)])
    table["text"] = [
        "약을 2번 먹어요",
        "배가 아파요",
        "기침이 나요",
        "약을 두 번 먹어요",
        "약을 두번 먹어요",
        "열나요",
        "추워요",
    ]
    table["sentence_id"] = table["text"].map(sentence_id)
    table[AUDIO_DIGEST] = ["a", "b", "c", "d", "e", "a", "c"]
    parts = {part: table.iloc[[i]] for i, part in enumerate(PARTS)}
    left_out = find_left_out(table, parts)
    assert list(left_out["utterance_id"]) == list(table["utterance_id"][3:])
    assert list(left_out[CELL]) == ["seen_seen", "unseen_seen", SELECTION, SELECTION]
    without = find_left_out(table.drop(columns=AUDIO_DIGEST), parts)
    assert list(without[CELL]) == ["seen_seen", "unseen_seen", "seen_unseen", "unseen_unseen"]
