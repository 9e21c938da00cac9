"""Frozen splits and the published draw."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_split import block_manifest, check, make_manifest

from kmed_bench.config import SplitConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, write_json
from kmed_bench.core.schema import PARTS
from kmed_bench.corpus.splitting.frozen import apply_frozen, freeze_split, hash_label
from kmed_bench.corpus.splitting.split import split_manifest

CONFIG = SplitConfig(train=84, valid=28, test=28, by=("gender",))
PUBLISHED = SplitConfig(train=700, valid=200, test=90, by=("age",), disjoint=())


def test_a_frozen_split_gives_the_same_parts_elsewhere(tmp_path: Path) -> None:
    manifest = block_manifest()
    split = split_manifest(manifest, CONFIG)
    path = tmp_path / "split-ids.json"
    freeze_split(split, path)
    elsewhere = manifest.assign(audio="other.zip::" + manifest["audio"]).sample(frac=1, random_state=5)
    again = apply_frozen(path, elsewhere)
    assert again.sha256 == split.sha256 == again.report["frozen_sha256"]
    assert again.report["missing"] == again.report["changed"] == {part: [] for part in PARTS}
    assert again.report["leakage"] == split.report["leakage"]
    assert again.report["config"] == split.report["config"]
    assert (again.parts["test"]["audio"] == "other.zip::" + split.parts["test"]["audio"]).all()


def test_a_frozen_split_holds_neither_text_nor_audio(tmp_path: Path) -> None:
    split = split_manifest(block_manifest(), CONFIG)
    freeze_split(split, tmp_path / "ids.json")
    content = (tmp_path / "ids.json").read_text(encoding="utf-8")
    assert "문장" not in content
    assert "audio" not in content
    frozen = read_json(tmp_path / "ids.json")
    assert set(frozen["parts"]["train"]) == set(split.parts["train"]["utterance_id"])
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in frozen["parts"]["train"].values())


def test_what_another_copy_lacks_or_changed_is_named(tmp_path: Path) -> None:
    manifest = block_manifest()
    split = split_manifest(manifest, CONFIG)
    freeze_split(split, tmp_path / "ids.json")
    gone, changed = split.parts["valid"]["utterance_id"][0], split.parts["test"]["utterance_id"][2]
    copy = manifest[manifest["utterance_id"] != gone].copy()
    copy.loc[copy["utterance_id"] == changed, "text"] = "다른 문장"
    again = apply_frozen(tmp_path / "ids.json", copy)
    assert again.report["missing"] == {"train": [], "valid": [gone], "test": []}
    assert again.report["changed"] == {"train": [], "valid": [], "test": [changed]}
    assert again.report["counts"] == {"train": 84, "valid": 27, "test": 28}
    assert again.sha256 != again.report["frozen_sha256"] == split.sha256


def test_a_copy_without_a_part_and_other_files_are_refused(tmp_path: Path) -> None:
    manifest = block_manifest()
    split = split_manifest(manifest, CONFIG)
    path = tmp_path / "ids.json"
    freeze_split(split, path)
    without = manifest[~manifest["utterance_id"].isin(split.parts["test"]["utterance_id"])]
    with pytest.raises(KmedError, match=r"lacks 28 of the 140 .* none is left for test"):
        apply_frozen(path, without)
    frozen = read_json(path)
    for other in ({"parts": {}}, [], {**frozen, "format": "kmed-bench frozen split 2"}, {**frozen, "format": 1}):
        write_json(path, other)
        with pytest.raises(
            KmedError, match=r"(holds a list|has format|has version 0 of kmed-frozen-split).* export one with"
        ):
            apply_frozen(path, manifest)
    write_json(path, {**frozen, "version": 2})
    with pytest.raises(KmedError, match="has version 2 of kmed-frozen-split, and this release reads up to 1"):
        apply_frozen(path, manifest)


def test_a_frozen_split_with_the_version_in_its_format_is_read(tmp_path: Path) -> None:
    split = split_manifest(block_manifest(), CONFIG)
    older = {**freeze_split(split, tmp_path / "ids.json"), "format": "kmed-bench frozen split 1"}
    del older["version"]
    write_json(tmp_path / "ids.json", older)
    assert apply_frozen(tmp_path / "ids.json", block_manifest()).sha256 == split.sha256


def test_label_hashes_see_through_unicode_forms_and_spaces() -> None:
    assert hash_label("a", "PA_1", "가  나 ") == hash_label("a", "PA_1", "\u1100\u1161 나")
    assert hash_label("a", "PA_1", "가") != hash_label("a", "PA_1", "나")
    assert hash_label("a", "PA_1", "가") != hash_label("b", "PA_1", "가")


@pytest.fixture(scope="module")
def readings() -> pd.DataFrame:
    """1,200 utterances; dialects 3 : 1."""
    pairs = [(speaker, sentence) for speaker in range(40) for sentence in range(30)]
    return make_manifest(
        pairs,
        gender=["Female", "Male"],
        age=["20~29", "60~69"] * 3 + ["7~10"],
        dialect=["경상", "경상", "경상", "전라"],
    )


def test_the_published_draw_leaks_and_says_so(readings: pd.DataFrame) -> None:
    split = split_manifest(readings, PUBLISHED)
    check(split, readings, PUBLISHED)
    assert split.report["label"] == "leaking speakers, sentences"
    assert split.report["method"] == "published two-step draw on age"
    assert split.report["leakage"]["sentences"] == 30
    assert split_manifest(readings.sample(frac=1, random_state=2), PUBLISHED).sha256 == split.sha256
    other = SplitConfig(train=700, valid=200, test=90, by=("age",), disjoint=(), seed=1)
    assert split_manifest(readings, other).sha256 != split.sha256


def test_the_published_draw_squares_the_shares(readings: pd.DataFrame) -> None:
    # Dialect shares 3/4 and 1/4 are drawn with weights 9 : 1, so a small draw has nine tenths of the first.
    drawn = [
        split_manifest(readings, SplitConfig(train=60, valid=20, test=10, by=("age",), disjoint=(), seed=seed))
        for seed in range(8)
    ]
    share = np.mean([split.report["shares"]["dialect"]["경상"]["train"] for split in drawn])
    assert share == pytest.approx(0.9, abs=0.03)


def test_the_published_draw_has_pools(readings: pd.DataFrame) -> None:
    with pytest.raises(KmedError) as caught:
        split_manifest(readings, SplitConfig(train=900, valid=250, test=120, by=("age",), disjoint=()))
    assert "pools of 840, 251 and 109" in str(caught.value)
    assert "--split.train 840 --split.valid 250 --split.test 109" in str(caught.value)
    pools = SplitConfig(train=840, valid=250, test=109, by=("age",), disjoint=())
    check(split_manifest(readings, pools), readings, pools)
