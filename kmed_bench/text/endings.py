"""Endings that agree with the last sound of the number before them: 예순다섯이 is 65가, and 72이에요 is 72예요."""

import re

# After a consonant, after a vowel.
_PAIRS = (
    ("이에요", "예요"),
    ("이었", "였"),
    ("이라고", "라고"),
    ("이라서", "라서"),
    ("이래요", "래요"),
    ("이네요", "네요"),
    ("이니까", "니까"),
    ("이고요", "고요"),
    ("이요", "요"),
    ("이면", "면"),
    ("이", "가"),
    ("은", "는"),
    ("을", "를"),
    ("과", "와"),
    ("으로", "로"),
)
_SHORTER = (
    "이나",
    "이랑",
    "이고",
    "이며",
    "이든",
    "이거든",
    "이어서",
    "이지만",
    "이지요",
)  # lose 이 after a vowel alone
_AFTER_VOWEL = (
    dict(_PAIRS)
    | {stem: stem[1:] for stem in _SHORTER}
    | {"이예요": "예요", "에요": "예요", "이였": "였", "이어서": "여서"}
)
_AFTER_CONSONANT = {vowel: consonant for consonant, vowel in _PAIRS if vowel != "요"} | {
    "이예요": "이에요",
    "에요": "이에요",
    "이였": "이었",
}
_STEMS = "|".join(sorted(_AFTER_CONSONANT | _AFTER_VOWEL, key=len, reverse=True))
# What may follow a stem inside its word; 이 and the particles end theirs, but for 는, 도 and 만.
_ENDING = re.compile(
    rf"(?P<stem>{_STEMS})(?=(?:요|는|도|만|까[는요]?|고|서|서요|며|면|면서|는데|는데요|어요|습니다|었어요|다|다고|지만|만요|잖아요|랍니다)?(?![가-힣]))"
)
_VOWEL_DIGITS = "2459"
_L_DIGITS = "178"  # 일, 칠, 팔
_CONSONANT_UNITS = ("mg", "kg", "mcg", "ng", "g", "bpm")


def agree(number: str, text: str, at: int) -> tuple[str, int]:
    """Return the ending at this place as it should be after the number, and where it ends there.

    Parameters
    ----------
    number : str
        Digits and perhaps a unit's sign; a counter before an ending is the same in speech and in writing.
    """
    match = _ENDING.match(text, at)
    if match is None:
        return "", at
    stem, sound = match["stem"], _last_sound(number)
    if stem in ("으로", "로"):
        right = "으로" if sound == "consonant" else "로"
    elif sound == "vowel":
        right = _AFTER_VOWEL.get(stem, stem)
    else:
        right = _AFTER_CONSONANT.get(stem, stem)
    return right, match.end("stem")


def _last_sound(number: str) -> str:
    """Return "vowel", "l" or "consonant": how the number ends when it is read."""
    if number[-1].isdecimal():
        last = number[-1]
        return "vowel" if last in _VOWEL_DIGITS else "l" if last in _L_DIGITS else "consonant"
    return "l" if number.endswith("mmol") else "consonant" if number.endswith(_CONSONANT_UNITS) else "vowel"
