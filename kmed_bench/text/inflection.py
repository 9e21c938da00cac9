"""Inflection of Korean verbs and adjectives, and what may follow a noun within its word.

Only what spotting a known word needs: the stems that a predicate shows before its endings, with the kinds of endings
that each takes, after the conjugation classes of the standard language (Korean orthography, articles 15 to 18).
Beside the standard forms stand those that are common in speech (아퍼요 for 아파요).
"""

import functools
import re
from collections.abc import Mapping

IRREGULAR = "ㅂㅅㄷ"
"""Classes that a dictionary form doesn't show; ㅡ, 르, ㄹ and 하다 follow from its last syllable."""

_FIRST = 0xAC00
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_CODAS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_BRIGHT = "ㅏㅑㅗ"
_MERGED = {"ㅗ": "ㅘ", "ㅜ": "ㅝ", "ㅣ": "ㅕ", "ㅚ": "ㅙ"}

# What may follow each kind of stem. An ending's first syllables tell it from other words; what comes after
# them in the same word is free (아프거든요, 아프더라고요).
_ANY = "[가-힣]{0,12}"  # bounded, so that a text without spaces costs linear time
_STARTS = {
    # the bare stem: 아프고, 가렵지
    "c": "고 구 지 게 네 는 던 다 거 더 기 긴 길 군 나 냐 느 니 잖 든 도록 듯 습 겠 겄 건 자 진 질 죠 쥬 단 답 당 대 "
    "댔 노",
    "u": "니 면 며 므로 시 셔 세 셨 신 실 십 심 려 러 나 오 라",  # before 으 or in its place: 아프면, 부으세요
    "d": "니 네 는 시 셔 세 셨 신 실 십 심 나 냐 느 오",  # ㄹ has fallen away: 멍드는
    "b": "니 디",  # 아픕니다
    # 아파, which may stand alone: 아파요, 아파져요
    "a": "요 서 도 야 지 져 졌 진 질 집 하 해 했 할 한 합 함 갖 죽 보 봐 봤 오 올 와 왔 온 옵 있 버 브 뿌 라 용 유 예 "
    "가 놓 두 둬",
    # 아팠어요
    "s": "어 었 다 습 는 던 을 으 고 구 지 죠 네 거 나 냐 더 기 니 잖 겠 음 단 답 대 댔 든 건 길 군 데 당 쥬 유",
}
ENDINGS: Mapping[str, str] = {
    **{
        kind: f"(?:(?:{starts.replace(' ', '|')}){_ANY}){'?' if kind == 'a' else ''}"
        for kind, starts in _STARTS.items()
    },
    "n": _ANY,  # 아픈, 아픈데, 떨린다
    "l": _ANY,  # 아플, 아플까 봐
    "m": "(?:이|은|을|도|과|만|에|의|으로|까지|이나|이랑|인데|입니다|이에요|이요)?",  # 아픔
}
_COMPILED = {kind: re.compile(f"(?:{ending})(?![가-힣])") for kind, ending in ENDINGS.items()}


def _split(syllable: str) -> tuple[int, str, str]:
    place = ord(syllable) - _FIRST
    return place // 588, _VOWELS[place // 28 % 21], _CODAS[place % 28]


def _join(onset: int, vowel: str, coda: str = " ") -> str:
    return chr(_FIRST + onset * 588 + _VOWELS.index(vowel) * 28 + _CODAS.index(coda))


def with_coda(text: str, coda: str) -> str:
    """Return a text whose last syllable is open with a final consonant added: 아프 and ㄴ make 아픈."""
    onset, vowel, _ = _split(text[-1])
    return text[:-1] + _join(onset, vowel, coda)


def is_open(text: str) -> bool:
    """Return whether a text ends in a Hangul syllable without a final consonant."""
    return "가" <= text[-1] <= "힣" and _split(text[-1])[2] == " "


@functools.cache
def inflect(predicate: str, irregular: str = "") -> Mapping[str, str]:
    """Return the surfaces a verb or an adjective shows before its endings, each with the kinds of endings it takes.

    Parameters
    ----------
    predicate : str
        Dictionary form, with 다.
    irregular : str
        One of ``IRREGULAR``, or empty.

    Examples
    --------
    >>> inflect("아프다")["아파"]
    'a'
    """
    stem = predicate.removesuffix("다")
    kinds: dict[str, set[str]] = {stem: {"c"}}

    def add(surface: str, kind: str) -> None:
        kinds.setdefault(surface, set()).add(kind)

    base = _vowel_base(stem, irregular)
    loses_l = len(base) == len(stem) and base != stem
    add(base, "d" if loses_l else "u")
    for kind, coda in (("n", "ㄴ"), ("l", "ㄹ"), ("b", "ㅂ"), ("m", "ㅁ")):
        if is_open(base):
            add(with_coda(base, coda), kind)
    for infinitive in _infinitives(stem, base, irregular):
        add(infinitive, "a")
        add(with_coda(infinitive, "ㅆ"), "s")
    return {surface: "".join(sorted(found)) for surface, found in kinds.items()}


def _vowel_base(stem: str, irregular: str) -> str:
    """Return what endings in 으 attach to: 아프, 가려우, 부으, 힘드."""
    onset, vowel, coda = _split(stem[-1])
    bare = stem[:-1] + _join(onset, vowel)
    if coda == " ":
        return stem
    if irregular == "ㅂ":
        return bare + "우"
    if irregular == "ㅅ":
        return bare + "으"
    if irregular == "ㄷ":
        return with_coda(bare, "ㄹ") + "으"
    return bare if coda == "ㄹ" else stem + "으"


def _infinitives(stem: str, base: str, irregular: str) -> list[str]:
    """Return the forms in 아 or 어, the standard one and those heard beside it."""
    onset, vowel, coda = _split(stem[-1])
    if stem[-1] == "하":
        return [stem[:-1] + "해", stem + "여"]
    if irregular == "ㅂ":
        return [base[:-1] + "워"]
    if stem[-1] == "르" and len(stem) > 1 and is_open(stem[:-1]):
        return [with_coda(stem[:-1], "ㄹ") + end for end in ("라", "러")]
    if coda == " " and vowel == "ㅡ":
        bright = len(stem) > 1 and _split(stem[-2])[1] in _BRIGHT
        return [stem[:-1] + _join(onset, end) for end in ("ㅏㅓ" if bright else "ㅓ")]
    if coda != " ":
        root = base[:-1] if irregular else stem
        return [root + end for end in ("아어" if vowel in _BRIGHT else "어")]
    if vowel in _MERGED and (len(stem) > 1 or vowel != "ㅣ"):  # 삐어, for 뼈 is another word
        return [stem[:-1] + _join(onset, _MERGED[vowel]), stem + "어"]
    return ([stem] if vowel in "ㅏㅓㅐㅔㅕ" else []) + ([] if vowel in "ㅏㅓㅕ" else [stem + "어"])


def ending_after(text: str, at: int, kinds: str) -> int | None:
    """Return where a predicate's word ends whose surface ends at ``at``; None if what follows is no ending of it.

    Parameters
    ----------
    text : str
        Text in NFC.
    at : int
        Where the surface ends.
    kinds : str
        The surface's kinds of endings, as ``inflect`` gives them.
    """
    for kind in kinds:
        match = _COMPILED[kind].match(text, at)
        if match:
            return match.end()
    return None


def begins_ending(rest: str, kinds: str) -> bool:
    """Return whether what follows a surface, in a text without spaces, may begin an ending of these kinds."""
    return any(kind not in "cudbs" or rest.startswith(tuple(_STARTS[kind].split())) for kind in kinds)


def _either(words: str) -> str:
    return words.replace(" ", "|")


_COPULA = _either(
    "이에요 이예요 예요 에요 이야 이여 이었 였 입니 인데 인가 인지 인[걸거게줄] 인(?![가-힣]) 이고 이구 고요 구요 "
    "이며 이면 면요 이라 라고 라서 라는 라며 라면 라네 라도 래요?(?![가-힣]) 래서 이래 이랍 랍니 이네 네요 이니 니까 "
    "이세 이셔 이셨 이시 이십 이신 세요 시고 신데 이죠 죠 이지 지요 이요 이든 이던 이거든 거든 이구나 구나 이다 이란 "
    "란(?![가-힣]) 이잖 잖아 일까 일지 일(?![가-힣]) 일수 임(?![가-힣]) 인것 일때"
)
_PARTICLE = _either(
    "으로 로 은 는 이 가 을 를 의 에서 에게 에 한테 까지 부터 정도 쯤 가량 씩 도 과 와 나 이나 밖에 보다 이랑 랑 "
    "하고 이상 이하 대로 마다 처럼 같이 만큼 만 이후 이전 요 여 면 든지 이든지 조차 마저 뿐 께서 께 들 짜리 째"
)
_LIGHT_VERBS = (
    "하다 되다 나다 생기다 시키다 받다 있다 없다 같다 심하다 스럽다:ㅂ 걸리다 들다 맞다 당하다 오다 좋다 낫다:ㅅ "
    "먹다 찍다 재다 놓다 뽑다 빼다 안되다 안좋다 나오다 보다 붙이다 바르다 높다 낮다 많다 나쁘다 드리다 드시다"
)
# Nouns that lean on another: 두통약, 당뇨 환자, 감기 기운.
_LEANING = _either(
    "약 제 과 실 증 염 병 통 암 쪽 검사 수술 치료 주사 환자 수치 상태 부위 전 후 중 시 용 질환 증상 증세 장애 통증 "
    "감 기운 끼 문제 부분 진료 센터 병원 의사 선생님 선생 교수님 교수 과장님 원장님 예약 접수 비 값 가루 제제 백신 "
    "크림 연고 시럽 정 캡슐 알 패치 외래 병동 날 때 쯤 내 안 속 밖 근처 주변 결과 기록 소견 진단 판정 의심 여부 예방 "
    "접종 때문 초기 말기 [0-9]기 [일이삼사]기 가족력 과거력 이력 처방 복용 촬영 사진 촬영실 기계 투여 계 균 성 형 액 "
    "물 끝 마디 살 뼈 근 선 밑 위 옆 앞 뒤 주위 전체 양쪽 한쪽 관 술 료 상 량 봉지 통 병 줄 밴드 치 률 도"
)


@functools.cache
def _noun_tail() -> re.Pattern[str]:
    light = "|".join(
        f"{surface}(?:{'|'.join(ENDINGS[kind] for kind in kinds)})"
        for verb in _LIGHT_VERBS.split()
        for surface, kinds in inflect(*_parted(verb)).items()
    )
    return re.compile(
        f"(?:(?:{_LEANING})(?:(?:{_LEANING}))?)?"
        f"(?:(?:{_COPULA}){_ANY}|{light}|(?:{_PARTICLE}){{0,2}}(?:(?:{_COPULA}){_ANY})?)(?![가-힣])"
    )


def _parted(listed: str) -> tuple[str, str]:
    predicate, _, irregular = listed.partition(":")
    return predicate, irregular


@functools.cache
def _bare_tail(after_open: bool) -> re.Pattern[str]:
    """Return what particles and copulas follow an open or a closed syllable: 배가, 목이."""
    foreign = "은|이|을|과|으로|이나|이랑|이든지" if after_open else "는|가|를|와|나|랑|여|든지"
    particles = "|".join(one for one in _PARTICLE.split("|") if one not in foreign.split("|"))
    copulas = "|".join(one for one in _COPULA.split("|") if after_open or one[0] in "이인일임입")
    return re.compile(f"(?:(?:{particles})(?:{_PARTICLE})?(?:(?:{_COPULA}){_ANY})?|(?:{copulas}){_ANY})?(?![가-힣])")


# What may stand between a noun and its verb in a phrase: 숨이 차다, 숨도 너무 차다, 코가 꽉 막히다.
_SUBJECT = "(?:이|가|은|는|도|만|을|를)"
_ADVERB = _either("잘 너무 많이 좀 자꾸 더 계속 조금 약간 또 하나도 영 통 전혀 별로 엄청 진짜 도통")
JOINT = re.compile(f"(?:{_SUBJECT} (?:[가-힣]{{1,4}} )?|{_SUBJECT}? ?)(?:(?:{_ADVERB}) ?)*(?:(?:안|못) ?)?")


def ends_noun(text: str, at: int) -> bool:
    """Return whether a word may go on like this after a noun that ends at ``at``.

    It may end there, or have particles, the copula, a verb made with the noun (구토했어요), or a noun that leans on it
    (두통약).
    """
    return _noun_tail().match(text, at) is not None


def particle_after(text: str, at: int) -> bool:
    """Return whether particles or the copula follow directly that go with the syllable before: 목이, but not 발라도."""
    follows = at < len(text) and "가" <= text[at] <= "힣"
    return follows and _bare_tail(is_open(text[at - 1])).match(text, at) is not None
