"""What may stand after a Korean number, and which short forms are ordinary words instead."""

import re

# Spelled and abbreviated units to one sign; the case of abbreviations is left to the normaliser.
UNITS = {
    "%": ("퍼센트", "프로", "퍼센테이지", "%", "％"),
    "mg/dl": ("밀리그램 퍼 데시리터", "밀리그램 퍼 데시 리터", "밀리그램퍼데시리터", "mg/dl"),
    "mmhg": ("밀리미터 에이치지", "밀리미터에이치지", "밀리미터 수은주", "밀리미터수은주", "mmhg"),
    "mmol": ("밀리몰", "mmol"),
    "mcg": ("마이크로그램", "마이크로그람", "mcg", "㎍", "µg", "μg", "ug"),
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
    "밀리": ("밀리", "미리"),  # of a gram, a litre or a metre: the speaker doesn't say
    "킬로": ("킬로", "키로"),
    "도": ("℃", "°c", "°", "도"),
}
UNIT_SIGN = {spelling: sign for sign, spellings in UNITS.items() for spelling in spellings}
# Abbreviations end where Latin ends; 미터 also matches inside 미터기, which the tail check stops.
UNIT = re.compile(
    "|".join(
        re.escape(spelling) + ("(?![a-z])" if spelling[-1].isascii() and spelling[-1].isalpha() else "")
        for spelling in sorted(UNIT_SIGN, key=len, reverse=True)
    ),
    re.IGNORECASE,
)

SINO_COUNTER = re.compile(
    "개월|개국|개소|개년|호선|호실|인분|인실|인용|등급|단계|학년|학기|교시|주일|주차|주년|일차|회차|번째|번지|병동|시간|"
    "페이지|유로|달러|캡슐|년도|년대|년생|년|월|일|주|분|초|회|번|호|층|세|살|원|명|개|정|알|점|시|배|대|급|차|기|장|권|박|보|팩|포|잔|건|가지|"
    "군데|단위|유닛|칼로리|바늘|병|끼|식|인|석|관|조각"
)
NATIVE_COUNTER = re.compile(
    "시간|시|번째|번|살|개월|개|알|잔|컵|명|사람|분|달|마리|병|장|대|숟가락|스푼|숟갈|가지|군데|곳|차례|끼니|끼|포|봉지|봉|모금|"
    "걸음|갑|정|캡슐|방울|바늘|쌍|켤레|통|배|팩|주|박스|세트|조각|공기|그릇|건"
)

_COPULA = (
    "이에요|이예요|예요|이야|이었[가-힣]*|였[가-힣]*|입니다|입니까|인데요?|인가요?|인지|인[걸거][가-힣]*|인|이고요?|이구요?|고요|"
    "이며|이면서?|이라[가-힣]*|라고[가-힣]*|라서|라는|라[며면]|이래요?|래요?|이랍니다|이랑|이나|이네요?|네요|이니까?|니까|"
    "이세요|이셔[가-힣]*|이십니[다까]|이시[가-힣]*|이죠|죠|이지요?|지요|이요|이든|이던[가-힣]*|이거든요?|이구나|이신[가-힣]*|이다|다|이란|란|이잖아요"
)
_PARTICLE = (
    "으로[는도]?|로[는도]?|은|는|이|가|을|를|의|에서[는도]?|에[는도만]?|까지[는도만]?|부터[는도]?|정도[가-힣]?|쯤|가량|씩|도|과|와|나|"
    "밖에|보다|랑|하고|이상|이하|이내|미만|초과|대로|대|여|짜리|넘게|마다|처럼|만큼|이후|이전|안팎|요|면|든지"
)
# After a counter more can follow than after a bare number: 삼일간, 두 달째, 닷새 치.
_AFTER_COUNTER = "간|동안|째|치|분|전|후|뒤|만에|만|내|반|때|생|가까이|남짓|경|이후|이전|차|어치|간격|달"

TAIL = re.compile(rf"(?:(?:{_COPULA})|(?:{_PARTICLE}){{0,2}}(?:{_COPULA})?)(?![가-힣])")
COUNTER_TAIL = re.compile(rf"(?:{_AFTER_COUNTER})?(?:(?:{_COPULA})|(?:{_PARTICLE}){{0,2}}(?:{_COPULA})?)(?![가-힣])")
COPULA = re.compile(rf"(?:{_COPULA})(?![가-힣])")
# What shows that a number of days or weeks came before: 이십일 동안, 이 주 뒤.
LASTING = re.compile(
    r" ?(?:동안|간|째|치|분|전|후|뒤|마다|이내|만에|정도|쯤|가량|넘게|내내|지나|됐|되었|된|걸[려리렸])"
)
# What must stand before or after some counters to make them counters.
CONTEXT_BEFORE = {
    "일": re.compile(r"월 ?$|박 ?$"),
    "분": re.compile(r"시 ?$"),
    "초": re.compile(r"분 ?$"),
    "도": re.compile(r"(?:영하|영상|섭씨) ?$"),
    "기": re.compile(r"암 ?$"),
}
CONTEXT_AFTER = {
    "일": LASTING,
    "박": re.compile(r" ?[이삼사오육칠팔구\d]{1,2} ?일"),
    "주": LASTING,
    "주일": LASTING,
    "도": re.compile(r" ?화상"),
    "기": re.compile(r" ?[가-힣]{0,2}암"),
    "차": re.compile(r" ?(?:접종|백신|검사|진료|병원|감염|예방|수술|항암|시도)"),
}
# What a quantity does, so that a 이 before it is the subject's particle: 이백이 넘어요.
RISING = re.compile(r" (?:넘|나오|나왔|나와|나온|되|됐|된|안 |찍|떨어|올라|올랐|높|낮|조금|약간|좀 )")
# What stands before doses and so makes a short form a count: 하루 한 번, 일일 육 회.
PERIOD = re.compile(
    r"(?:하루|일주일|한 ?달|일 ?년|일 ?일|매일|\d일|\d년|시간|주|달|개월|이틀|사흘|나흘|열흘|며칠)(?:에|에도)? ?$"
)


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# One Sino-Korean digit with a counter, written together: these stay, for they are words of their own.
SINO_WORDS = _words(
    "오일 이일 일일 일주 이주 사주 구주 이분 구분 사회 육회 이번 사번 "
    "이세 천명 일급 이급 구급 이차 오차 일박 이박 사박 오박 이초"
)
# With a space, 이 before these is "this": 이 분, 이 층.
THIS = _words("번 분 일 주 주일 층 단계 등급 차 캡슐 급 세 박 병동 프로 교시 회 단위 칼로리")
# One Sino-Korean digit doesn't go with these in speech (two is 두 개, not 이 개), so 사장 or 이명 are words.
NATIVE_ONLY = _words(
    "시간 시 살 명 개 알 장 권 잔 대 배 가지 군데 바늘 병 끼 조각 포 석 원 정 건 팩 식 인 관 보 점 호 기 도"
)
# 백, 천, 만 and 억 alone go with few counters; 천장, 만점, 백기, 만도 are words.
ROUND_COUNTERS = _words("명 원 번 개 년 시간 배 단위 칼로리 보 유로 달러")
HUNDRED_COUNTERS = ROUND_COUNTERS | _words("살 세 점 회 알 일")
# Ten goes with all but these: 십장, 십기.
NOT_AFTER_TEN = _words("장 기 식 관 석")
# Native numbers and counters that make other words when written together.
NATIVE_WORDS = _words(
    "두통 세포 한정 한대 세대 네대 세배 한주 세주 네주 한분 세분 한배 한봉 세정 한포 한건 세건 "
    "열통 열대 열병 열정 열배 열주 열분"
)
