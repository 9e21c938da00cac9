"""The quick ways of scoring a million texts give what the whole rules give."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmed_bench.scoring.spread import rank_ids
from kmed_bench.text import normalise as normaliser
from kmed_bench.text import number_digits, number_words, numbers

DATA = Path(__file__).resolve().parents[1] / "data"
NEVER = re.compile(r"(?!)")
TEXTS = [
    side
    for name in ("number_pairs.tsv", "number_free.tsv", "number_phrases.tsv", "terms_development.tsv")
    for line in (DATA / name).read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for side in line.split("\t")[:2]
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.text(alphabet="가각힣ㅏ\u1100\u1161az1 0.,?!\t\n·-", max_size=14), st.booleans())
def test_plain_texts_are_normalised_by_the_same_rules(text: str, keep_spaces: bool) -> None:
    quick = normaliser.normalise(text, keep_spaces=keep_spaces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normaliser, "_LETTERS", NEVER)
        patch.setattr(normaliser, "_SENTENCES", NEVER)
        assert normaliser.normalise(text, keep_spaces=keep_spaces) == quick


def settle(texts: list[str]) -> list[object]:
    numbers._settle.cache_clear()
    return [numbers._settle(text) for text in texts]


@pytest.mark.slow
def test_words_and_digits_that_are_passed_over_hold_no_other_number(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS, *(f"{before} {text}" for before in ("네", "약은 3", "하루") for text in TEXTS)]
    assert len(texts) > 5000
    quick = settle(texts)
    monkeypatch.setattr(number_words, "_ORDINARY", NEVER)
    monkeypatch.setattr(number_words, "_NATIVE_READERS", number_words._READERS)
    monkeypatch.setattr(number_digits, "_PLAIN", NEVER)
    assert settle(texts) == quick
    numbers._settle.cache_clear()


@given(st.lists(st.integers(min_value=-3, max_value=40), max_size=12))
def test_codes_follow_the_order_of_the_ids(ids: list[int]) -> None:
    given_ids = np.asarray(ids, dtype=np.int64)
    assert rank_ids(given_ids).tolist() == pd.factorize(given_ids, sort=True)[0].tolist()
