"""Which medical terms a Korean text has, and which of a reference's terms a hypothesis kept."""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from kmed_bench.text.inflection import JOINT, begins_ending, ending_after, ends_noun, particle_after
from kmed_bench.text.lexicon import ORDINARY, Entry, Term, entries_by_term, trie
from kmed_bench.text.normalise import normalise

TERMS_VERSION = "2"
"""Changes with the lexicon and whenever ``find_terms`` or ``match_terms`` may give another result for some text."""

# A compound's first part that is no term itself: 급성위염, 왼무릎.
_PREFIX = re.compile(
    r"(?<![가-힣])(?:급성|만성|양쪽|왼쪽|오른쪽|좌측|우측|왼|오른|양|생|재|윗|앞|뒷|한쪽|어린이|소아|노인성|유행성|세균성|신경성|"
    r"선천성|출혈성|초기|종합|정밀|일반|전신|응급|마른|아침|저녁|평소|정기|추가|재차|[일이삼사\d]차|먹는|바르는|붙이는)$"
)
_NUMBER = re.compile(r"(?:\d|[일이삼사오육칠팔구십백천만영공반몇한두세네섯곱덟홉열]|수십|수백|여러) ?$")
# What follows a noun of one syllable that has no particle: 열 나요, 약 좀 주세요.
_ADVERBS = "안 못 좀 너무 많이 계속 자꾸 더 또 다 엄청 진짜 되게 살짝 약간 조금 잘 막 심하게 갑자기 가끔 아직 이제 지금"
_NEXT = (
    "나요 나고 나서 나면 나는 나기 났 난 날 납 나와 나오 나온 먹 받 지어 짓 챙기 챙겨 바꿔 바꾸 줄여 줄이 늘려 "
    "늘리 남 독하 필요 쓰 드시 드세 드셨 드실 드려 드릴 복용 처방 주세 주셔 주시 줘 줄 타 바르 발라 발랐 뿌리 넣 "
    "끊 맞 오르 올라 내렸 식 체크 측정 좋 안좋 나쁘 막히 막혀 막힌 막혔 빠지 빠져 빠진 뽑 빼 내리 내려 떨어 재 쪽 "
    "부분 부위 빨개 빨갛 노래 노랗 하얘 하얗 안쪽 바깥 주변 수술 검사 치료 상태 수치 질환 이식 초음파 때문 있 없 "
    "심 괜찮 이상 봐 보여 보세 벌려 벌리 감으 뜨 떠 사진 기능 움직 들어 들리 안들 굽 펴 눌 만지 만져 씻 풀 끓 걸 "
    "삼키 맺 터 찢 베 데 다치 다쳤 다쳐 마사지 관리 냄새 모양"
)
_BARE = re.compile(f" (?:(?:{_ADVERBS.replace(' ', '|')}) )*(?:{_NEXT.replace(' ', '|')})")
_ALONE = frozenset("목귀코뇌폐턱혀뼈암입눈손열피약")  # hardly ever another word when they stand alone
# What a product's name may end in: 리피토정, 타이레놀이알.
_PRODUCT = re.compile(
    "(?:서방정|장용정|정|캡슐|시럽|현탁액|크림|연고|겔|액|주|주사|패치|점안액|흡입제|스프레이|이알|에스알|엑스알|씨알|오디|디|듀오|"
    "플러스|골드|포르테|콜드|에프|큐|에스|엠|우먼|키즈)+"
)
_SIDE = 14  # characters of context that the lexicon's conditions see on each side


def find_terms(text: str) -> list[Term]:
    """Return the medical terms of a text in order, repeats included.

    The longest term wins (대장내시경, not 대장); particles, endings and spaces within a term don't matter. A term
    counts only where it can be a word of its own: not in 이마트 or 약속, and not where what stands around it shows
    another meaning (배를 타고).

    Parameters
    ----------
    text : str
        Text whose transcription marks are already resolved; it is normalised here.
    """
    text = normalise(text, keep_spaces=True)
    found: list[Term] = []
    first = trie().following
    at, last_end = 0, -1
    while at < len(text):
        node = first.get(text[at])
        if node is None or (not node.entries and text[at + 1 : at + 3].lstrip()[:1] not in node.following):
            at += 1
            continue
        hit = _match_at(text, at, last_end)
        if hit is None:
            at += 1
            continue
        term, at = hit
        if term.category != ORDINARY:
            found.append(term)
            last_end = at
    return found


def _match_at(text: str, at: int, last_end: int) -> tuple[Term, int] | None:
    """Return the longest term that stands at a place, and where it ends."""
    starts_word = at == 0 or not text[at - 1].isalnum()
    follows = last_end >= 0 and text[last_end:at] in ("", "이", "가", "은", "는", "을", "를", "도", "이랑", "랑")
    found = [*_candidates(text, at, predicates=starts_word or follows)]
    if len(found) > 1:
        found.sort(key=lambda candidate: _rank(candidate[0], candidate[1] - at))
    for entry, end, gapped in found:
        if _stands(text, at, end, entry, gapped=gapped, starts_word=starts_word, follows=follows):
            return entry.term, end
    return None


def _rank(entry: Entry, length: int) -> tuple[int, bool, bool]:
    """Return what sorts the longest entry first; a predicate's ending doesn't count, but tells 감기 (winding) apart."""
    ordinary = entry.term.category == ORDINARY
    return (-(len(entry.letters) + ordinary) if entry.kinds else -length, not ordinary, bool(entry.kinds))


def _candidates(text: str, at: int, *, predicates: bool = True) -> Iterator[tuple[Entry, int, bool]]:
    """Yield every entry whose letters stand at a place, where it ends, and whether a space stands within.

    Without ``predicates``, which never start within a word, only those of nouns.
    """
    node = trie().following.get(text[at : at + 1])
    end, gapped = at + 1, False
    while node is not None:
        for entry in node.entries:
            if not predicates and (entry.kinds or entry.phrase):
                continue
            reached = _word_end(text, end, entry)
            if reached is not None:
                yield entry, reached, gapped
        if end < len(text) and text[end] == " ":
            end, gapped = end + 1, True
        node = node.following.get(text[end : end + 1])
        end += 1


def _word_end(text: str, end: int, entry: Entry) -> int | None:
    """Return where an entry ends whose letters end at a place; None if what a predicate needs doesn't follow."""
    if entry.kinds:
        return ending_after(text, end, entry.kinds)
    if entry.phrase is None:
        return end
    joint = JOINT.match(text, end)
    places = (0, *(found.end() for found in re.finditer(r"^\S| |$", joint[0]))) if joint else (0,)
    for start in {end + place for place in places}:
        for surface, kinds in entry.phrase.items():
            reached = _spelled(text, start, surface)
            reached = None if reached is None else ending_after(text, reached, kinds)
            if reached is not None:
                return reached
    return None


def _spelled(text: str, at: int, letters: str) -> int | None:
    """Return where letters end that stand at a place, with or without spaces between; None if others stand there."""
    for letter in letters:
        at += text.startswith(" ", at)
        if not text.startswith(letter, at):
            return None
        at += 1
    return at


def _stands(text: str, at: int, end: int, entry: Entry, *, gapped: bool, starts_word: bool, follows: bool) -> bool:
    """Return whether what looks like a term is one, and no part of another word nor one with another meaning."""
    if entry.only is not None or entry.never is not None:
        around = f"{text[max(0, at - _SIDE) : at]}¦{text[end : end + _SIDE]}"
        if entry.never is not None and entry.never.search(around):
            return False
        if entry.only is not None and entry.phrase is None and not entry.only.search(around):
            return False
    if entry.kinds or entry.phrase:
        return starts_word or (follows and not entry.phrase)
    letters = entry.letters
    if letters.isascii() or not letters[0].isalpha():  # CT, mg, %
        lone = not (at and text[at - 1].isascii() and text[at - 1].isalpha())
        lone = lone and not (text[end : end + 1].isascii() and text[end : end + 1].isalpha())
        return lone and (entry.term.category != "unit" or _NUMBER.search(text, max(0, at - 3), at) is not None)
    if entry.term.category == "unit":
        return _NUMBER.search(text, max(0, at - 3), at) is not None and ends_noun(text, end)
    if len(letters) == 1:
        alone = letters in _ALONE and (end == len(text) or text[end] == " ")
        return starts_word and (alone or particle_after(text, end) or _stands_bare(text, end))
    opened = starts_word or _PREFIX.search(text, max(0, at - 8), at) is not None
    if gapped and (len(letters) == 2 or not opened or not _parts_well(text[at:end])):
        return False
    opened = opened or follows
    return (len(letters) > 2 or opened) and _ends_well(text, end, entry)


def _stands_bare(text: str, end: int) -> bool:
    """Return whether a noun of one syllable stands without a particle: 목 아파요, 배아파서."""
    if _BARE.match(text, end):
        return True
    start = end + text.startswith(" ", end)
    return any(
        bool(entry.kinds)
        or (len(entry.letters) > 1 and entry.term.category != "unit" and (start > end or ends_noun(text, reached)))
        for entry, reached, _ in _candidates(text, start)
        if entry.term.category != ORDINARY
    )


def _parts_well(written: str) -> bool:
    """Return whether a term may be written with these spaces: 위 내시경, but not 두 드러기."""
    parts = written.split(" ")
    if any(len(part) == 1 and part not in "디씨비" for part in parts[1:]):
        return False
    node = trie().following.get(parts[0])
    return len(parts[0]) > 1 or (node is not None and any(not entry.kinds for entry in node.entries))


def _ends_well(text: str, end: int, entry: Entry) -> bool:
    """Return whether a word may go on like this after a term of two or more syllables."""
    if ends_noun(text, end):
        return True
    product = _PRODUCT.match(text, end) if entry.term.category == "drug" else None
    return (product is not None and ends_noun(text, product.end())) or any(
        len(following.letters) > 1 and following.term.category != ORDINARY for following, *_ in _candidates(text, end)
    )


def match_terms(reference: str, hypothesis: str) -> list[tuple[Term, int, int]]:
    """Return each medical term of a reference, how often it is said there, and how often the hypothesis has it too.

    Over a corpus the sum of the third over that of the second is ``term_recall``.
    In the hypothesis a term's letters suffice, wherever its spaces are; more than the reference says don't count.

    Parameters
    ----------
    reference, hypothesis : str
        Texts whose transcription marks are already resolved.
    """
    wanted = _count_terms(reference)
    if not wanted:
        return []
    said = _count_terms(hypothesis)
    letters = normalise(hypothesis)
    matched = []
    for term, n_wanted in wanted.items():
        spelled = sum(_count(letters, surface, kinds) for surface, kinds in _surfaces(term).items())
        matched.append((term, n_wanted, min(n_wanted, max(said.get(term, 0), spelled))))
    return matched


@functools.lru_cache(maxsize=1 << 14)  # many speakers read the same sentence, and most words are recognized
def _count_terms(text: str) -> Mapping[Term, int]:
    return Counter(find_terms(text))


def _count(letters: str, surface: str, kinds: str) -> int:
    """Return how often a surface stands in letters without spaces; a predicate's only where an ending may follow."""
    n = letters.count(surface)
    if not n or not kinds:
        return n
    return sum(begins_ending(rest, kinds) for rest in letters.split(surface)[1:])


@functools.cache
def _surfaces(term: Term) -> Mapping[str, str]:
    """Return the letters that show a term wherever they stand, Hangul of two syllables or more, and their endings."""
    written: dict[str, str] = {}
    for entry in entries_by_term()[term]:
        if entry.phrase is None:
            written[entry.letters] = entry.kinds
        else:
            for surface, kinds in entry.phrase.items():
                written |= {entry.letters + particle + surface: kinds for particle in ("", "이", "가")}
    return {letters: kinds for letters, kinds in written.items() if len(letters) > 1 and not letters.isascii()}
