"""What is prepared before a training, also by several processes at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kmed_bench.config import DataConfig, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.pipeline.preparation import demo_corpus

MADE_OF = {"data.demo_speakers": 4, "data.demo_sentences": 12}


def test_a_demo_corpus_that_two_make_at_once_is_one_whole_corpus(tmp_path: Path) -> None:
    config = load_config("demo", MADE_OF)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: demo_corpus(config, tmp_path / "out"), range(2)))
    assert folders[0] == folders[1]
    assert list((tmp_path / "out").iterdir()) == [folders[0]]  # nothing is left of the slower one
    quality = ingest([folders[0]], tmp_path / "manifest", DataConfig(workers=1))
    assert quality["labels"] == quality["usable"] + sum(quality["rejected"].values()) > 0


def test_a_demo_corpus_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KmedError, match="sentences is 5000"):
        demo_corpus(load_config("demo", MADE_OF | {"data.demo_sentences": 5000}), tmp_path)


def test_a_folder_that_fills_meanwhile_is_named(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(make_demo_corpus, out, speakers=4, sentences=12, seed=1, layout="zips") for _ in range(2)]
    errors = [attempt.exception() for attempt in tries]
    assert [type(error) for error in errors if error] == [KmedError]
    assert f"{out} exists and is not an empty folder" in str(next(error for error in errors if error))
