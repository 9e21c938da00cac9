"""Sentences drawn from the grammar of numbers: pairs that mean the same, and near misses.

Left out, because Korean spelling itself leaves them open: 21 against 20 days where nothing tells them apart
(이십일에), and a final two before endings that begin with 이: 칠십이라고 is 70이라고 or 72라고, and 칠십이 나왔어요
70이 or 72.
"""

import random
from collections.abc import Callable, Iterator

from number_grammar import (
    Pair,
    age,
    blood_pressure,
    clock,
    code,
    cold,
    date,
    dose,
    duration,
    fraction,
    frequency,
    from_to,
    half,
    hours,
    lab,
    lab_decimal,
    minus,
    money,
    native_range,
    pain,
    place,
    portion,
    sino_range,
    size,
    small_dose,
    stage,
    tablets,
    telephone,
    temperature,
    today,
    weight,
)

KINDS: tuple[tuple[Callable[..., Pair], tuple[tuple[int, int], ...], int], ...] = (
    # rule, ranges of its numbers, weight
    (lab, ((11, 399),), 4),
    (lab, ((10_000, 450_000),), 1),
    (lab_decimal, ((0, 15), (0, 9)), 4),
    (lab_decimal, ((1, 40), (11, 99)), 1),
    (blood_pressure, ((90, 199), (50, 89)), 3),
    (dose, ((1, 9), (0, 10)), 2),
    (dose, ((10, 1500), (0, 10)), 2),
    (small_dose, ((0, 12), (1, 9), (0, 10)), 2),
    (tablets, ((1, 4),), 2),
    (frequency, ((1, 12),), 2),
    (duration, ((2, 30), (0, 5)), 4),
    (hours, ((1, 48),), 2),
    (portion, ((2, 90),), 1),
    (age, ((2, 99),), 3),
    (temperature, ((35, 41), (0, 9)), 2),
    (cold, ((1, 80),), 1),
    (minus, ((0, 9), (0, 9)), 1),
    (pain, ((1, 9),), 2),
    (stage, ((1, 4), (0, 11)), 2),
    (native_range, ((1, 4),), 1),
    (sino_range, ((1, 6), (0, 5)), 1),
    (from_to, ((3, 40), (1, 20)), 1),
    (date, ((1960, 2029), (1, 12), (1, 31)), 2),
    (today, ((3, 31),), 1),
    (clock, ((1, 12), (0, 59)), 2),
    (telephone, ((2000, 9999), (0, 9999)), 1),
    (money, ((3, 2000),), 1),
    (place, ((1, 9), (0, 9)), 2),
    (half, ((1, 5),), 1),
    (fraction, ((2, 9), (1, 9)), 1),
    (code, ((0, 4),), 1),
    (size, ((1, 99), (0, 7)), 2),
    (weight, ((3, 130),), 1),
)


def _numbers(rng: random.Random, ranges: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    return tuple(rng.randint(low, high) for low, high in ranges)


def _is_open(rule: Callable[..., Pair], numbers: tuple[int, ...]) -> bool:
    """Return whether the sentence would be ambiguous in itself or makes no sense."""
    if rule is fraction:
        return numbers[1] >= numbers[0]
    if rule is today or (rule is portion):
        return numbers[0] % 10 == 1
    if rule is duration and numbers[1] % 6 == 4:
        return numbers[0] == 1
    return rule is hours and numbers[0] == 0


def draw_pairs(seed: int, n: int) -> Iterator[Pair]:
    """Yield sentences in both spellings, some of two phrases."""
    rng = random.Random(seed)
    while n:
        rules = rng.choices(KINDS, weights=[weight for _, _, weight in KINDS], k=2 if rng.random() < 0.15 else 1)
        drawn = [(rule, _numbers(rng, ranges)) for rule, ranges, _ in rules]
        if any(_is_open(*each) for each in drawn):
            continue
        pairs = [rule(rng, *numbers) for rule, numbers in drawn]
        joint = rng.choice((" 그리고 ", ", ", ". "))
        yield Pair(
            "+".join(pair.kind for pair in pairs),
            joint.join(pair.spoken for pair in pairs),
            joint.join(pair.written for pair in pairs),
            tuple(value for pair in pairs for value in pair.values),
        )
        n -= 1


def _near(rng: random.Random, numbers: tuple[int, ...], ranges: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Return numbers that look near: a digit changed, two exchanged, one gone or one more."""
    changed = list(numbers)
    place = rng.randrange(len(changed))
    digits = list(str(changed[place]))
    change = rng.randrange(4)
    if change == 0:
        digits[rng.randrange(len(digits))] = str(rng.randint(1, 9))
    elif change == 1 and len(digits) > 1:
        at = rng.randrange(len(digits) - 1)
        digits[at], digits[at + 1] = digits[at + 1], digits[at]
    elif change == 2 and len(changed) > 1:
        return tuple(reversed(changed))
    else:
        digits = [str(changed[place] + rng.choice((-1, 1, 10)))]
    changed[place] = int("".join(digits))
    return tuple(changed)


def draw_near_misses(seed: int, n: int) -> Iterator[tuple[Pair, Pair]]:
    """Yield two sentences made alike whose values differ: the first is to be heard, the second is written down."""
    rng = random.Random(seed)
    while n:
        rule, ranges, _ = rng.choices(KINDS, weights=[weight for _, _, weight in KINDS])[0]
        numbers = _numbers(rng, ranges)
        other = _near(rng, numbers, ranges)
        fits = all(low <= number <= high for number, (low, high) in zip(other, ranges, strict=True))
        if other == numbers or not fits or rule is code or any(_is_open(rule, each) for each in (numbers, other)):
            continue
        state = rng.getstate()
        first = rule(rng, *numbers)
        rng.setstate(state)  # the same words around the number, wherever it doesn't choose them
        second = rule(rng, *other)
        if first.values != second.values:
            yield first, second
            n -= 1
