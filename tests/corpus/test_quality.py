"""The quality report of a corpus small enough to count by hand."""

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from downloads import label, stem, tree, wav, write_tree
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.config import DataConfig
from kmed_bench.core.corpus_contracts import QUALITY
from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.corpus.ingest.quality import histogram

# prompt, speaker, seconds, changes of the label
ROWS: list[tuple[int, str, float, dict[str, Any]]] = [
    (1, "PA_0001", 0.5, {"text": "무릎이 아파요."}),
    (2, "PA_0001", 1.0, {"text": "아/ 무릎이 아파요"}),
    (3, "PA_0002", 2.0, {"text": "어지러워요", "Gender": "Male", "Dialect": "제주"}),
    (4, "PA_0002", 31.0, {"text": "너무 길어요", "Gender": "Male"}),
    (5, "PA_0003", 3.0, {"text": "약을 하루 (3)/(세) 번 먹어요", "Age": "N/A", "rate": None}),
    (6, "PA_0003", 1.0, {"text": ""}),
    (7, "PA_0003", 1.0, {"text": "b/"}),
]


@pytest.fixture(scope="module")
def quality(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("quality")
    files = {"readme.txt": b"x", "Training/stray-1.wav": wav()}
    for prompt, speaker, seconds, changes in ROWS:
        name = stem(speaker, prompt)
        files[f"Training/{name}.json"] = label(seconds=seconds, **changes)
        files[f"Training/{name}.wav"] = wav(seconds)
    result = ingest([write_tree(root / "in", files)], root / "out", DataConfig())
    assert json.loads((root / "out" / "quality.json").read_text(encoding="utf-8")) == result
    return result


def test_the_report_says_what_it_is(quality: dict[str, Any]) -> None:
    assert (quality["format"], quality["version"]) == ("kmed-quality", 1)
    assert QUALITY.check(quality, "quality.json") == quality
    older = {key: value for key, value in quality.items() if key not in ("format", "version")}
    assert QUALITY.check(older, "quality.json") == older
    with pytest.raises(KmedError, match="run 7 has version 2 of kmed-quality"):
        QUALITY.check({**quality, "version": 2}, "run 7")


def test_counts(quality: dict[str, Any]) -> None:
    assert (quality["labels"], quality["usable"]) == (7, 4)
    assert quality["rejected"] == {"audio_too_long": 1, "transcript_empty": 2}
    assert quality["warnings"] == {"audio_without_label": 1, "metadata_differs": 1}
    assert quality["files_ignored"] == {".txt": 1}
    assert (quality["speakers"], quality["sentences"]) == (3, 3)
    assert quality["hours"] == round(6.5 / 3600, 4)


def test_fields(quality: dict[str, Any]) -> None:
    assert quality["by"] == {
        "gender": {"Female": 3, "Male": 1},
        "age": {"60~69": 3, "N/A": 1},
        "dialect": {"전라": 3, "제주": 1},
        "region": {"광주/전라/제주": 4},
        "role": {"patient": 4},
        "quality": {"Good": 4},
        "release": {"Training": 4},
    }
    assert quality["hours_by"]["gender"] == {"Female": round(4.5 / 3600, 4), "Male": round(2 / 3600, 4)}
    assert quality["unknown_values"] == {"age": {"N/A": 1}, "dialect": {"제주": 1}}
    assert quality["stated"] == {"length": 4, "rate": 3}


def test_pairs(quality: dict[str, Any]) -> None:
    pairs = quality["pairs"]["dialect,gender"]
    assert {a: {b: cell["n"] for b, cell in row.items()} for a, row in pairs.items()} == {
        "전라": {"Female": 3},
        "제주": {"Male": 1},
    }
    assert pairs["제주"]["Male"]["hours"] == round(2 / 3600, 4)
    for name, table in quality["pairs"].items():
        assert sum(cell["n"] for row in table.values() for cell in row.values()) == 4, name


def test_examples_are_ids(quality: dict[str, Any]) -> None:
    assert quality["reject_examples"] == {
        "audio_too_long": [stem("PA_0002", 4)],
        "transcript_empty": [stem("PA_0003", 6), stem("PA_0003", 7)],
    }
    assert quality["warning_examples"]["audio_without_label"] == ["stray-1"]
    assert quality["warning_examples"]["metadata_differs"] == [stem("PA_0002", 3)]


def test_speakers(quality: dict[str, Any]) -> None:
    assert quality["speakers_by"]["gender"] == {"Female": 2, "Male": 1}
    assert quality["speakers_by"]["dialect"] == {"전라": 2, "제주": 1}
    assert quality["pairs"]["dialect,gender"]["전라"]["Female"]["speakers"] == 2


def test_histograms(quality: dict[str, Any]) -> None:
    bins = quality["histograms"]
    assert bins["duration_s"] == {"edges": [0, 1, 2, 3, 4], "counts": [1, 1, 1, 1]}
    assert bins["text_chars"] == {"edges": [5, 10, 15, 20], "counts": [2, 1, 1]}
    # 무릎이아파요 in 0.5 s, 아무릎이아파요 in 1 s, 어지러워요 in 2 s, 약을하루세번먹어요 in 3 s
    rates = {low: n for low, n in zip(bins["chars_per_s"]["edges"], bins["chars_per_s"]["counts"], strict=False) if n}
    assert rates == {2.5: 1, 3: 1, 7: 1, 12: 1}
    assert bins["rate_hz"] == {"edges": [8000, 9000], "counts": [4]}
    assert bins["speaker_utterances"] == {"edges": [1, 2, 3], "counts": [2, 1]}


@given(
    values=st.lists(st.floats(0, 1e6) | st.integers(0, 50).map(float), min_size=1, max_size=50),
    least_width=st.sampled_from([0.5, 1.0, 5.0, 1000.0]),
)
def test_bins_are_of_one_width_and_hold_every_value(values: list[float], least_width: float) -> None:
    found = histogram(pd.Series(values), least_width)
    edges, counts = found["edges"], found["counts"]
    width = edges[1] - edges[0]
    assert [high - low for low, high in itertools.pairwise(edges)] == [width] * len(counts)
    assert width / least_width in {step * 10**power for step in (1, 2, 5) for power in range(7)}
    assert (sum(counts), len(counts) <= 32) == (len(values), True)
    assert counts == [sum(low <= value < high for value in values) for low, high in itertools.pairwise(edges)]
    assert min(counts[0], counts[-1]) > 0


def test_no_values_have_no_bins() -> None:
    assert histogram(pd.Series([], dtype=float), 1.0) == {"edges": [], "counts": []}


def test_incomplete_labels_are_counted_by_what_they_lack(tmp_path: Path) -> None:
    files = {f"{stem(prompt=n)}.json": label(Gender=None) for n in (1, 2)}
    files |= {f"{stem(prompt=3)}.json": json.dumps({**tree(), "전사정보": {}}).encode()}
    files |= {f"{stem(prompt=4)}.json": label(), f"{stem(prompt=4)}.wav": wav()}
    quality = ingest([write_tree(tmp_path / "in", files)], tmp_path / "out", DataConfig())
    assert quality["rejected"] == {"label_incomplete": 3}
    assert quality["incomplete"] == {"no Gender in 화자정보": 2, "no LabelText in 전사정보": 1}


def test_no_transcript_and_no_path_is_told(quality: dict[str, Any]) -> None:
    text = json.dumps(quality, ensure_ascii=False)
    assert "무릎" not in text
    assert "/in/" not in text


def test_many_examples_are_cut(tmp_path: Path) -> None:
    files = {f"{stem(prompt=n)}.json": json.dumps(tree("" if n else "네")).encode() for n in range(20)}
    files[f"{stem(prompt=0)}.wav"] = wav()
    quality = ingest([write_tree(tmp_path / "in", files)], tmp_path / "out", DataConfig())
    assert quality["rejected"] == {"transcript_empty": 19}
    assert len(quality["reject_examples"]["transcript_empty"]) == 5
