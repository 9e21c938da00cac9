"""Numbers as Koreans say and spell them, with spaces and endings: written for the tests, apart from the package."""

import dataclasses
import random

DIGITS = "영일이삼사오육칠팔구"
ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
ALONE = ("", "하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉")
TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")


@dataclasses.dataclass(frozen=True)
class Said:
    """A number with its unit or counter: spelled, in digits, and the values that a reader must find."""

    spoken: str
    written: str
    values: tuple[str, ...]
    read: str = ""  # how the digits are read, for the ending of the written side


def sino(n: int) -> str:
    """Sino-Korean words of 1 to 99,999,999."""
    if n >= 10_000:
        head = "" if n // 10_000 == 1 else sino(n // 10_000)
        return head + "만" + (sino(n % 10_000) if n % 10_000 else "")
    words = ""
    for place, name in ((1000, "천"), (100, "백"), (10, "십")):
        if n >= place:
            words += (DIGITS[n // place] if n // place > 1 else "") + name
            n %= place
    return words + (DIGITS[n] if n else "")


def spaced(rng: random.Random, words: str) -> str:
    """Put spaces into a number as transcribers do: mostly none, else after its larger places."""
    for mark in "만천백":
        if mark in words[:-1] and rng.random() < 0.12:
            words = words.replace(mark, mark + " ", 1)
    if "십" in words[:-1] and rng.random() < 0.06 and not words.endswith(("일", "이")):
        words = words.replace("십", "십 ", 1)
    return words


def native(n: int) -> str:
    """Native words before a counter."""
    return "스무" if n == 20 else TENS[n // 10] + ONES[n % 10]


def has_final(word: str) -> bool:
    return "가" <= word[-1] <= "힣" and (ord(word[-1]) - 0xAC00) % 28 > 0


def ends_in_l(word: str) -> bool:
    return (ord(word[-1]) - 0xAC00) % 28 == 8


ENDINGS: dict[str, tuple[str, str]] = {  # after a consonant, after a vowel
    "예요": ("이에요", "예요"),
    "입니다": ("입니다", "입니다"),
    "였어요": ("이었어요", "였어요"),
    "고요": ("이고요", "고요"),
    "라고": ("이라고 해요", "라고 해요"),
    "래요": ("이래요", "래요"),
    "네요": ("이네요", "네요"),
    "인데": ("인데 괜찮나요", "인데 괜찮나요"),
    "까지": ("까지 올랐어요", "까지 올랐어요"),
    "정도": (" 정도예요", " 정도예요"),
    "로": ("으로 나왔어요", "로 나왔어요"),
    "이상": (" 이상이에요", " 이상이에요"),
    "넘": ("을 넘었어요", "를 넘었어요"),
    "가": ("이 나왔어요", "가 나왔어요"),
}
OPEN_TWO = ("라고", "래요", "네요", "고요")  # 칠십이라고 is 70 or 72


def ending(rng: random.Random, word: str, name: str) -> str:
    """Return an ending that agrees with the word before it."""
    if name == "로" and ends_in_l(word):
        return "로 나왔어요"
    return ENDINGS[name][0 if has_final(word) else 1]


def gap(rng: random.Random, share: float = 0.5) -> str:
    return " " if rng.random() < share else ""


def value(rng: random.Random, n: int) -> Said:
    written = f"{n:,}" if n >= 1000 and rng.random() < 0.5 else str(n)
    if n >= 10_000 and n % 10_000 == 0 and rng.random() < 0.5:
        written = f"{n // 10_000}만"
    return Said(spaced(rng, sino(n)), written, (str(n),), sino(n))


def decimal(rng: random.Random, whole: int, places: str) -> Said:
    point = rng.choice((" 점 ", "점", " 쩜 ", "쩜", " 점 "))
    head = sino(whole) if whole else "영"
    said = "".join(DIGITS[int(place)] for place in places)
    if point == "점" and said.endswith("이"):
        point = " 점 "  # 삼점이 is "three points" with its particle
    return Said(head + point + said, f"{whole}.{places}", (f"{whole}.{places}",), said)


def counted(rng: random.Random, n: int, counter: str, *, words: str = "", tight: bool | None = None) -> Said:
    """A number with its counter: native words unless others are given."""
    between = gap(rng) if tight is None else "" if tight else " "
    spoken = (words or native(n)) + between + counter
    return Said(spoken, f"{n}{gap(rng, 0.2)}{counter}", (str(n),), counter)


def measured(rng: random.Random, number: Said, spoken: str, written: str) -> Said:
    return Said(number.spoken + gap(rng, 0.8) + spoken, number.written + gap(rng, 0.2) + written, number.values, spoken)
