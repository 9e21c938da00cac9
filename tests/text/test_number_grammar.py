"""The reader of numbers against a grammar that was written apart from it."""

from collections import Counter

import pytest
from number_draws import draw_near_misses, draw_pairs
from number_writer import native, sino

from kmed_bench.text.normalise import normalise
from kmed_bench.text.numbers import canonical_numbers, find_quantities


def scored(text: str) -> str:
    return normalise(canonical_numbers(text))


def meanings(text: str) -> list[frozenset[tuple[str, str, str]]]:
    return [quantity.meanings for quantity in find_quantities(text)]


def misread(text: str, values: tuple[str, ...]) -> Counter[str]:
    """Return the numbers that were read although nobody said them."""
    read = Counter(q.sign + q.value for q in find_quantities(text) if not q.is_ambiguous)
    return read - Counter(values)


def check(seed: int, n_pairs: int, n_near: int) -> None:
    pairs = list(draw_pairs(seed, n_pairs))
    wrong = {
        side: extra for pair in pairs for side in (pair.spoken, pair.written) if (extra := misread(side, pair.values))
    }
    assert not wrong
    unequal = [(pair.spoken, pair.written) for pair in pairs if scored(pair.spoken) != scored(pair.written)]
    assert len(unequal) <= 0.005 * n_pairs, unequal[:20]
    for said, other in draw_near_misses(seed, n_near):
        assert scored(said.spoken) != scored(other.written), (said, other)
        assert meanings(said.spoken) != meanings(other.written), (said, other)


def test_the_writer_spells_as_koreans_do() -> None:
    assert [sino(n) for n in (1, 10, 11, 126, 1500, 10_000, 53_000, 150_000)] == [
        *("일", "십", "십일", "백이십육", "천오백", "만", "오만삼천", "십오만"),
    ]
    assert [native(n) for n in (1, 12, 20, 21, 62, 99)] == ["한", "열두", "스무", "스물한", "예순두", "아흔아홉"]


def test_the_grammar_has_every_kind() -> None:
    kinds = {kind for pair in draw_pairs(0, 2000) for kind in pair.kind.split("+")}
    assert len(kinds) >= 25
    assert len({pair.spoken for pair in draw_pairs(0, 2000)}) > 1500


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sample_of_the_grammar_is_read(seed: int) -> None:
    check(seed, 1200, 300)


@pytest.mark.slow
def test_the_grammar_is_read() -> None:
    """20,000 pairs and 5,000 near misses, about 15 s on one core."""
    check(20261127, 20_000, 5000)
