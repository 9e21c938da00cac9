"""Signs of hallucination in a hypothesis: repetition loops, impossible speaking rates, subtitle credits.

A sign that the reference shows too is speech, so a correct transcript is never flagged.
"""

import zlib
from collections.abc import Sequence

SIGNS = ("loop", "rate", "credit")

_GRAM = 4
"""Characters per n-gram: two Korean words' worth of context."""
_MIN_GRAMS = 12
"""Texts of fewer n-grams are not checked for loops: people do say "네 네 네"."""
_MIN_UNIQUE_SHARE = 0.5
"""A text with a smaller share of distinct n-grams is a loop."""
_MAX_COMPRESSION = 2.4
"""UTF-8 bytes per zlib byte above which a text is a loop; openai-whisper's own threshold."""
_MAX_CHARACTERS_PER_S = 15.0
"""Fast Korean speech has about 9 syllables a second; no speaker reaches 15."""
_MIN_CHARACTERS = 10
"""Shorter texts are not checked for rate, because durations in labels are rounded."""

# Credits and sign-offs of the subtitles that Whisper was trained on, normalised, without spaces.
_CREDITS = (
    "시청해주셔서감사합니다",
    "시청해주셔서고맙습니다",
    "끝까지시청해주셔서",
    "구독과좋아요",
    "좋아요와구독",
    "구독좋아요",
    "알림설정",
    "다음영상에서만나요",
    "다음영상에서뵙겠습니다",
    "다음시간에만나요",
    "한글자막by",
    "자막by",
    "자막제공",
    "자막제작",
    "자막을사용하였습니다",
    "영상편집",
    "mbc뉴스",
    "kbs뉴스",
    "sbs뉴스",
    "ytn뉴스",
    "유료광고를포함",
    "amaraorg",
    "thankyouforwatching",
    "thanksforwatching",
    "ご視聴ありがとうございました",
)


def find_signs(reference: str, hypothesis: str, duration_s: float) -> tuple[str, ...]:
    """Return the signs of ``SIGNS`` that the hypothesis shows and the reference does not.

    Parameters
    ----------
    reference, hypothesis : str
        Normalised texts without spaces.
    duration_s : float
        Length of the audio in seconds; zero or less turns the rate sign off.
    """
    if hypothesis == reference:
        return ()
    signs = []
    if _loops(hypothesis) and not _loops(reference):
        signs.append("loop")
    if _too_fast(hypothesis, duration_s) and not _too_fast(reference, duration_s):
        signs.append("rate")
    if _adds(_CREDITS, hypothesis, reference):
        signs.append("credit")
    return tuple(signs)


def _loops(text: str) -> bool:
    grams = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    if len(grams) < _MIN_GRAMS:
        return False
    raw = text.encode("utf-8")
    return len(set(grams)) / len(grams) < _MIN_UNIQUE_SHARE or len(raw) / len(zlib.compress(raw)) > _MAX_COMPRESSION


def _too_fast(text: str, duration_s: float) -> bool:
    return duration_s > 0 and len(text) >= _MIN_CHARACTERS and len(text) / duration_s > _MAX_CHARACTERS_PER_S


def _adds(phrases: Sequence[str], hypothesis: str, reference: str) -> bool:
    return any(phrase in hypothesis and phrase not in reference for phrase in phrases)
