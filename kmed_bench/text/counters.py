"""What may stand after a Korean number: units, counters, and the endings of its word."""

import re

# Spelled and abbreviated units to one sign; the case of abbreviations is left to the normaliser, and so is the slash
# between letters, which it drops.
UNITS = {
    "%": ("퍼센트", "프로", "퍼센테이지", "%", "％"),
    "mg/dl": ("밀리그램 퍼 데시리터", "밀리그램 퍼 데시 리터", "밀리그램퍼데시리터", "mg/dl", "mgdl", "㎎/㎗"),
    "g/dl": ("그램 퍼 데시리터", "그램퍼데시리터", "g/dl", "gdl"),
    "ng/ml": ("나노그램 퍼 밀리리터", "나노그램퍼밀리리터", "ng/ml", "ngml"),
    "mmol/l": ("밀리몰 퍼 리터", "밀리몰퍼리터", "mmol/l", "mmoll"),
    "miu/l": ("miu/l", "miul"),
    "u/ml": ("유닛 퍼 밀리리터", "유닛퍼밀리리터", "u/ml", "uml"),
    "u/l": ("유닛 퍼 리터", "유닛퍼리터", "u/l", "ul"),
    "mmhg": ("밀리미터 에이치지", "밀리미터에이치지", "밀리미터 수은주", "밀리미터수은주", "mmhg"),
    "mmol": ("밀리몰", "mmol"),
    "mcg": ("마이크로그램", "마이크로그람", "mcg", "㎍", "µg", "μg", "ug"),
    "ng": ("나노그램", "나노그람", "ng"),
    "mg": ("밀리그램", "미리그램", "밀리그람", "미리그람", "엠지", "mg", "㎎"),
    "kg": ("킬로그램", "킬로그람", "키로그램", "키로그람", "kg", "㎏"),
    "g": ("그램", "그람", "g"),
    "ml": ("밀리리터", "미리리터", "엠엘", "ml", "㎖"),
    "dl": ("데시리터", "dl", "㎗"),
    "l": ("리터", "l", "ℓ"),
    "cc": ("씨씨", "cc", "㏄"),
    "km": ("킬로미터", "키로미터", "km", "㎞"),
    "mm": ("밀리미터", "미리미터", "mm", "㎜"),
    "cm": ("센티미터", "센치미터", "센티", "센치", "cm", "㎝"),
    "m": ("미터", "m"),
    "kcal": ("킬로칼로리", "kcal"),
    "hz": ("헤르츠", "hz"),
    "iu": ("아이유", "iu"),
    "bpm": ("비피엠", "bpm"),
    "밀리": ("밀리", "미리"),  # of a gram, a litre or a metre: the speaker doesn't say
    "킬로": ("킬로", "키로"),  # of a gram or a metre, see unit_sign
    "도": ("℃", "°c", "°", "도"),
}
_SIGN = {spelling: sign for sign, spellings in UNITS.items() for spelling in spellings}
# Abbreviations end where Latin ends; 미터 also matches inside 미터기, which the tail check stops.
UNIT = re.compile(
    "|".join(
        re.escape(spelling) + ("(?![a-z])" if spelling[-1].isascii() and spelling[-1].isalpha() else "")
        for spelling in sorted(_SIGN, key=len, reverse=True)
    ),
    re.IGNORECASE,
)
_WEIGHT = re.compile(r"(?:체중|몸무게|무게)(?:[^.?!]|(?<=\d)\.(?=\d)){0,15}$")
_WEIGHT_CHANGES = re.compile(
    r"(?:이나|이|가|을|를|정도|쯤|은|는)? ?(?:더 |또 )?(?:빠[지졌진]|빠질|쪘|찌|찐|늘|줄|나가|나갔|감량|뺐|빼)"
)
_DISTANCE = re.compile(r"(?:을|를|이나|정도|쯤|씩)? ?(?:걷|걸[었어으]|뛰|뛴|달리|달렸|떨어)")

SINO_COUNTER = re.compile(
    "개월|개국|개소|개년|호선|호실|인분|인실|인용|등급|단계|학년|학기|교시|주일|주차|주년|일차|회차|회분|번째|번지|병동|시간|"
    "페이지|사이클|싸이클|데시벨|디옵터|유로|달러|캡슐|년도|년대|년생|인치|세대|년|월|일|주|분|초|회|번|호|층|세|살|원|명|개|정|알|점|시|배|"
    "대|급|차|기|장|권|박|보|팩|포|잔|건|가지|군데|단위|유닛|칼로리|바늘|병|끼|식|인|석|관|조각|칸|매|앰플|바이알|형"
)
NATIVE_COUNTER = re.compile(
    "시간|시|번째|번|살|개월|개|알|잔|컵|명|사람|분|달|마리|병|장|대|티스푼|큰술|작은술|숟가락|스푼|숟갈|가지|군데|곳|차례|끼니|끼|포|봉지|봉|"
    "모금|걸음|발자국|갑|정|캡슐|방울|바늘|쌍|켤레|통|배|팩|주|박스|세트|조각|공기|그릇|건|칸|캔|판|줄|접시|앰플|바이알|계단|층|"
    "개비|개피|종류|바퀴|사이클|싸이클|단위|유닛|상자|송이|꼬집|퍼프|파우치"
)

_COPULA = (
    "이에요|이예[요여]|예[요여]|에요|이야|이었[가-힣]*|였[가-힣]*|이였[가-힣]*|입니다|입니까|인데요?|인가요?|인지|인[걸거][가-힣]*|인|"
    "이고요?|이구요?|고요|이며|이면서?|이라[가-힣]*|라고[가-힣]*|라서|라는|라[며면]|이래[가-힣]?|래요?|이랍니다|이랑|이나|이네요?|네요|이니까?|"
    "니까|이세요|이셔[가-힣]*|이십니[다까]|이시[가-힣]*|이죠|죠|이지[요만]?|지[요만]|이요|이든|이던[가-힣]*|이거든요?|거든요?|이구나|이신[가-힣]*|"
    "이다|다|이란|란|이잖아요?|잖아요?|이어서|여서|이거나|거나|이더라[가-힣]*|이겠[가-힣]*|이군요?"
)
_PARTICLE = (
    "으로[는도]?|로[는도]?|은|는|이|가|을|를|의|에서[는도]?|에[는도만]?|까지[는도만]?|부터[는도]?|정도[가-힣]?|쯤|가량|씩|도|과|와|나|"
    "밖에|보다|랑|하고|이상|이하|이내|미만|초과|대로|대|여|짜리|넘게|마다|처럼|만큼|이후|이전|안팎|요|면|든지"
)
# After a counter more can follow than after a bare number: 삼일간, 두 달째, 닷새 치.
_AFTER_COUNTER = "간|동안|째|치|분|전|후|뒤|만에|만|내|반|때|생|가까이|남짓|경|이후|이전|차|어치|간격|달"
# What may end a word: a copula, or up to two particles and a copula.
_END = rf"(?:(?:{_COPULA})|(?:{_PARTICLE}){{0,2}}(?:{_COPULA})?)(?![가-힣])"

TAIL = re.compile(_END)
COUNTER_TAIL = re.compile(rf"(?:{_AFTER_COUNTER})?{_END}")
COPULA = re.compile(rf"(?:{_COPULA})(?![가-힣])")
# A date, a time or a stay may go on without a space: 오월오일, 세시십분.
_NEXT = re.compile(r"(?:[년월박주](?=[일이삼사오육칠팔구십유시]{1,4} ?[월일])|시(?=[일이삼사오육칠팔구십]{1,4} ?분))")
# Words that look like a counter and its particle: 십 정도, 십 차이.
_WORD = re.compile("정도|차이|포도|시도|주사|주로|병원|분위|월경|기분|배경|시대|시내|장치|식후|식전|일 ?[점쩜]")


def begins_copula(text: str, at: int) -> bool:
    """Return whether a 이 here begins the copula: 칠십이에요 is 70, but 칠십이예요 is 72."""
    return COPULA.match(text, at) is not None and text[at + 1 : at + 2] not in ("예", "였")


def unit_sign(text: str, unit: re.Match[str]) -> str:
    """Return the sign of a unit found in the text; a 킬로 of weight is kg and one of distance km."""
    sign = _SIGN[unit[0].lower()]
    if sign != "킬로":
        return sign
    if _WEIGHT.search(text, max(0, unit.start() - 24), unit.start()) or _WEIGHT_CHANGES.match(text, unit.end()):
        return "kg"
    return "km" if _DISTANCE.match(text, unit.end()) else sign


def unit_at(text: str, end: int) -> re.Match[str] | None:
    """Return the unit after a number, on the same terms as ``counter_at``."""
    match = UNIT.match(text, end + (text[end : end + 1] == " "))
    return match if match and COUNTER_TAIL.match(text, match.end()) else None


def counter_at(text: str, end: int, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """Return the counter after a number, one space allowed, if it ends a word or takes a particle."""
    start = end + (text[end : end + 1] == " ")
    if not pattern.match(text, start):
        return None
    for stop in range(min(len(text), start + 4), start, -1):
        match = pattern.fullmatch(text, start, stop)
        if match and (COUNTER_TAIL.match(text, stop) or _NEXT.match(text, start)) and not _WORD.match(text, start):
            return match
    return None
