"""What must stand around a short number word to make it one, and which short forms are ordinary words instead."""

import re

_DIGITS = "일이삼사오육칠팔구"


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# One Sino-Korean digit with a counter, written together: these stay, for they are words of their own.
SINO_WORDS = _words(
    "오일 이일 일일 일주 이주 사주 구주 이분 구분 사회 육회 이번 사번 "
    "이세 천명 일급 이급 구급 이차 오차 일박 이박 사박 오박 이초 이형 구형 사형 "
    "백도 사매 일매 일형 삼형 오형 구세대 사대 삼천포"
)
# With a space, 이 before these is "this": 이 분, 이 층.
THIS = _words(
    "번 분 일 주 주일 층 단계 등급 차 캡슐 급 세 박 병동 프로 교시 회 단위 칼로리 형 세대 칸 사이클 앰플 인치"
)
# One Sino-Korean digit doesn't go with these in speech (two is 두 개, not 이 개), so 사장 or 이명 are words.
NATIVE_ONLY = _words(
    "시간 시 살 명 개 알 장 권 잔 대 배 가지 군데 바늘 병 끼 조각 포 석 원 정 건 팩 식 인 관 보 점 호 기 도 칸 매"
)
# Digits that are words of their own, even with a space: 팔 개, 오 배.
_LONE_WORDS = _words("일 이 오 팔")
# 백, 천, 만 and 억 alone go with few counters; 천장, 만점, 백기, 만도 are words.
ROUND_COUNTERS = _words("명 원 번 개 년 시간 배 단위 칼로리 보 유로 달러")
HUNDRED_COUNTERS = ROUND_COUNTERS | _words("살 세 점 회 알 일 정 도")
# Ten goes with all but these: 십장, 십기.
NOT_AFTER_TEN = _words("장 기 식 관 석 형")
# Native numbers and counters that make other words when written together.
NATIVE_WORDS = _words(
    "두통 세포 한정 한대 세대 네대 세배 한주 세주 네주 한분 세분 한배 한봉 세정 한포 한건 세건 한판 한층 "
    "열통 열대 열병 열정 열배 열주 열분 한줄 한캔 한칸"
)
# Of ten with a space before the ones (열 두 번), these counters count the fever's times too.
TIMES = _words("번 차례 시간 번째")

# What shows that a number of days or weeks came before: 이십일 동안, 이 주 뒤.
_NEUTRAL = r"(?:정도|쯤|가량|이내|넘게|넘어|이상(?![가-힣]))"  # said of days and of values
_LASTING = (
    r" ?(?:동안|간(?!호)|째|치|분|전|후|뒤|마다|이내|만에|정도|쯤|가량|넘게|넘어|내내|지나|지났|지난|"
    r"됐|되었|된|걸[려리렸]|이상(?![가-힣])|내로|안에|남[았은]|더 )|(?:이|은|도) ?지[나났난]"
)
LASTING = re.compile(_LASTING)
ABOUT = re.compile(rf" ?{_NEUTRAL}")
ABOUT_DAYS = re.compile(
    rf" ?{_NEUTRAL}(?:이에요|예요|[이가을를은는도])? ?"
    r"(?:됐|되었|된|지나|지났|걸[려리렸]|전|동안|뒤|후|아[프팠]|먹|쉬|입원|있|계속|더|째)"
)
# What a patient gets for so many days, so that the 분 before it is a portion: 십 일분 드릴게요.
PORTION = re.compile(
    r"(?:만|으로|을|씩|이|은)? ?(?:더 |다시 |약 ?)?"
    r"(?:드[릴려리립렸]|처방|지어|지었|지을|조제|타[가고러]|받|주[세시셨]|줄)"
)
# Days of the calendar: 오늘이 육일이에요, 예약이 삼일이에요.
_DAY = re.compile(
    r"(?:오늘|내일|모레|어제|그제|글피|예약|예정|날짜|생일|수술|입원|퇴원|검사|외래|진료|접종|시술|재진|마감)(?:날짜|일정|일|날)?"
    r"(?:이|가|은|는|도)? ?$"
)
_DOSE = r"(?:번에|회에?|식후|식전|아침|점심|저녁|취침 전|자기 전|하루|매일|씩|번|알씩)(?:에|에는|엔|은|는|으로)? ?$"
_SPINE = r"(?:요추|경추|흉추|천추|척추|미추|늑골|갈비뼈|뇌신경|중수골|중족골|엘|씨|티)(?:는|은|가|의)? ?$"
_GRADED = (
    r"(?:암|종|병|부전|경변|경화|질환|증|병기|염|말기|파킨슨|욕창|고혈압|비만|화상|장애|요양|치매|차단|"
    r"중증도|섬유화|판정|통증|결과)"
)
_ROOMS = (
    r"(?:진료실|방(?:으로|에|이)|창구|검사실|출구|대기실|수술실|병실|촬영실|처치실|채혈실|주사실|상담실|"
    r"척추|요추|경추|흉추|디스크)"
)
_COUNTERS_OF_FLOORS = r"(?:[가-힣]{1,4}과(?:로|에)|원무|약국|검사실|접수|진료실|수납|채혈|응급)"
# What must stand before some counters to make them counters, and what after.
_BEFORE = {
    "분": r"시 ?$",
    "초": r"분 ?$",
    "주": r"임신 ?$",
    "도": r"(?:영하|영상|섭씨|마이너스) ?$",
    "기": rf"{_GRADED}(?:이|가|은|는)? ?$",
    "단계": rf"{_GRADED}(?:이|가|은|는)? ?$",
    "등급": rf"{_GRADED}(?:이|가|은|는|에서)? ?$",
    "급": rf"{_GRADED}(?:이|가|은|는|에서)? ?$",
    "점": r"(?:점수|통증|척도|만점에|중에|중에서|만점 중|[0-9십]점 중|지수|강도)(?:이|가|은|는|도|로)? ?$",
    "번": rf"{_SPINE}",
    "층": r"지하 ?$",
    "차": r"(?:백신|접종|항암)(?:은|는|을|를|이|가|도)? ?$",
    "단위": r"(?:인슐린|란투스|노보래피드|휴마로그|트레시바|투제오|애피드라|휴물린)(?:은|는|을|를)? ?$",
    "세": r"만 ?$",
    **dict.fromkeys(("정", "알", "포", "캡슐", "앰플"), _DOSE),
}
_AFTER = {
    "박": r" ?[이삼사오육칠팔구\d]{1,2} ?일",
    "일": _LASTING,
    "초": rf"{_LASTING}|씩|에 ?[한두세네\d]",
    "분": rf"{_LASTING}|에 ?[한두세네\d]|만 ?(?:더 )?(?:기다|누르|눌러|참|쉬|있)",
    "주": rf"{_LASTING}|간? ?(?:간격|사이)|에 ?[한두세네\d]|(?= ?지켜)",
    "주일": rf"{_LASTING}|간? ?(?:간격|사이)|에 ?[한두세네\d]",
    "도": r" ?(?:화상|방실|심[장]? ?차단|차단|염좌|비만)",
    "기": r" ?[가-힣]{0,2}(?:암|부전|경변)",
    "차": r" ?(?:접종|백신|검사|진료|병원|감염|예방|수술|항암|시도|치료|의료)",
    "번": rf"(?= ?{_ROOMS})",
    "층": rf"(?:에|으로) ?(?:가|올라|내려)|(?:에|에 있는)? ?{_COUNTERS_OF_FLOORS}",
    "단위": r"(?:씩|로|예요|입니다)|(?:를|만)? ?(?:더 )?"
    r"(?:올[리려]|줄[이여]|늘[리려]|맞[으고았]|놓[으고]|추가|투여|주사|감량|증량)",
    "시간": r" ?(?:간격|마다)",
    "단계": r"(?:예요|이에요|입니다|라고|래요|네요|였)",
    "등급": r"(?:이에요|예요|입니다|이라고|이래요|받|판정)",
    "프로": r" ?(?:정도|이하|미만|포도당|용액|리도카인)|(?:예요|이에요|입니다|래요|밖에|까지|로|였)",
    "점": r"(?:씩|이에요|예요|입니다|이라고|이래요|이었|만점|만 ?$| 만점)",
    "형": r" ?(?:당뇨|호흡|간염|알레르기|과민)",
    **dict.fromkeys(
        ("정", "알", "포", "캡슐", "앰플"), r"씩|(?:을|를|만)? ?(?:드[세시실셔십]|먹[어으고]|복용|처방|투여|추가)"
    ),
}
CONTEXT_BEFORE = {name: re.compile(pattern) for name, pattern in _BEFORE.items()}
CONTEXT_AFTER = {name: re.compile(pattern) for name, pattern in _AFTER.items()}
# What a quantity does, so that a 이 before it is the subject's particle: 이백이 넘어요.
RISING = re.compile(
    r" (?:넘|나오|나왔|나와|나온|나옵|되|돼|됐|된|됩|안 |못 |아니|찍|떨어|올라|올랐|높|낮|조금|약간|좀 |"
    r"적당|정상|좋|최고|최저|평균|적정|유지|측정|기준|목표|보통|뜨|떴|있|필요|적힌|한계|위험|나빠|"
    r"가장|훨씬|계속|자주|들어)"
)
# What stands before doses and so makes a short form a count: 하루 한 번, 일일 육 회.
PERIOD = re.compile(
    r"(?:하루|일주일|한 ?달|일 ?년|일 ?일|매일|\d일|\d년|시간|주일|주|달|월|연|개월|"
    r"이틀|사흘|나흘|닷새|엿새|이레|여드레|아흐레|열흘|보름|며칠)"
    r"(?:에|에도)? ?$"
)
# What is measured: after these a round number or a short one is a value.
_MEASURED = (
    r"(?:혈당|혈압|맥박|심박수?|호흡수?|포화도|수치|점수|통증|혈색소|크레아티닌|콜레스테롤|지방|체온|키|"
    r"몸무게|체중|혈소판|백혈구|적혈구|헤모글로빈|칼륨|나트륨|칼슘|알부민|시력|골밀도|요산|빌리루빈|"
    r"수축기|이완기|안압|척도|농도|티에스에이치|씨이에이|피에스에이|에이에프피|씨알피|비엠아이|"
    r"헤마토크릿|페리틴|코르티솔|프로락틴|호중구|항체|표지자|단백|소변량|배액량|섭취량|산소|당(?=[이은도] )|"
    r"공복|식후|여과율|둘레|길이|크기|지수|값|나이|염증|호르몬|최고|최저|위에|아래|위가|체크|측정|마이너스|"
    r"(?:에이치?|비|씨|디|이|에프|지|아이|제이|케이|엘|엠|엔|오|피|큐|알|에스|티|유|브이){2,}(?=[가는은이도 ])|"
    r"(?<![\dA-Za-z])[A-Za-z]{2,}(?: ?\d+(?:[-−]\d+)?)?)"
)
MEASURED = re.compile(rf"{_MEASURED}[^.?!,\d]{{0,12}}$")
MEASURED_NEXT = re.compile(rf"{_MEASURED}(?:이|가|은|는|도)? ?$")
# No "this" stands after the particle of what is measured: 혈당이 이 백이십 is 220.
MEASURED_SUBJECT = re.compile(rf"{_MEASURED}(?:이|가|은|는|도) $")
# 10 of which a patient says 7: 십 점 만점에 칠, 십 중에 칠 정도.
OUT_OF_TEN = re.compile(r"(?:10|십)(?:점| 점)? ?(?:만점)? ?(?:중에서?|만점에서?|만점 중에?|중)(?:에|은|는)? ?$")
# No particle goes before these: 백이십이 정도 is about 122.
ROUGHLY = re.compile(r" (?:정도|이상|이하|이내|미만|쯤|가량|가까이|사이|전후|안팎|밖에)")
AND_SOME = re.compile(r" ?몇")
_SOME_TENS = r"(?:\d\d|[이삼사오육칠팔구]?[십백])"
SECOND_NUMBER = re.compile(rf"에(?:서|는|도|만)? {_SOME_TENS}")
DATE_END = re.compile(rf"(?:에|부터|까지|날)(?![가-힣])(?! {_SOME_TENS})")
_SYSTOLIC = re.compile(r"[\d일이삼사오육칠팔구십백]에 ?$")
_CALENDAR = re.compile(r"(?:월|박|달|생후|\d주) ?$")
_WINDOW = 24  # characters before a number that are looked at


def before(text: str, at: int) -> str:
    """Return the stretch before a position that contexts are looked for in."""
    return text[max(0, at - _WINDOW) : at]


def is_measured(text: str, at: int) -> bool:
    """Return whether a value is expected here: after 혈당이, or as the second number of a blood pressure."""
    return MEASURED.search(before(text, at)) is not None or is_diastolic(text, at)


def is_diastolic(text: str, at: int) -> bool:
    """Return whether a number and 에 stand before: 백이십에."""
    return _SYSTOLIC.search(text, max(0, at - 4), at) is not None


def is_day(text: str, at: int) -> bool:
    """Return whether what stands before a number and 일 asks for a day of the calendar: 구월 삼일, 오늘이 육일."""
    return _CALENDAR.search(text, max(0, at - 3), at) is not None or is_event(text, at)


def is_event(text: str, at: int) -> bool:
    """Return whether a day of the calendar is named before a number, or what has one: 오늘이, 예약이, 어제."""
    return _DAY.search(text, max(0, at - 10), at) is not None


def stands_alone(words: str) -> bool:
    """Return whether a digit is also a word that stands by itself: 이 (this), 일 (work), 오 (oh), 팔 (arm)."""
    return words in _LONE_WORDS
