"""Sentences of broadcasters and video sites that Whisper learned from subtitles and says into silence, as patterns.

They are forms with open slots (a station, a reporter, what was watched), since the names differ from one to the next.
They must not fit what people say in a consultation: "구독하던 잡지", "MBC 뉴스에서 봤어요", "복약 알림 설정해 주세요".
Patterns are for normalised texts without spaces.
"""

import difflib
import re

# The commonest Korean family names; a reporter's name has two syllables after one of them.
_SURNAMES = "김이박최정강조윤장임한오서신권황안송류유전홍고문양손배백허남심노하곽성차주우구민진지엄채원천방"
_PERSON = f"[{_SURNAMES}][가-힣]{{1,2}}"
_STATION = "(?:[a-z]{2,5}|엠비씨|케이비에스|에스비에스|와이티엔|제이티비씨|채널에이|티비조선|연합)"
_WAS = "(?:입니다|이었습니다|였습니다)"
_PLEASE = "(?:꼭|한번|한번씩|많이|좀|도)*"
_ASK = "(?:눌러주|부탁|해주세|해주시면|잊지|클릭|누르)"
# A noun of the subtitles that begins no sentence of a speaker: 자막 제작하는 일을 해요.
_NO_CLAUSE = "(?!하|해|을|일|이|업|회|쪽|도|때|에|으로|만|된|되|돼|중|관|비|한)"
_MAKER = f"(?:[{_SURNAMES}][가-힣]{{2}}(?<![요다])$|{_NO_CLAUSE})"

_FORMS = (
    # Thanks for watching.
    "시청해주(?:셔서?|신|시는|시어)(?:.{0,6}(?:감사|고맙)[가-힣]{0,4})?",
    "시청(?:에)?(?:정말|대단히)?(?:감사|고맙|부탁|바랍)",
    "시청자여러분",
    "(?:영상|채널|방송)(?:을|를|도)?(?:끝까지)?(?:봐|찾아|사랑해|들어)주(?:셔|신)",
    "세이상(?:이)?시청",
    # Subscribe, like, bell.
    f"구독(?:과|하고|이랑|및)?(?:좋아요|알림)(?:와|를|도|버튼|알림|설정|까지|과)*{_PLEASE}(?:$|{_ASK})",
    f"좋아요(?:와|하고|랑)?구독(?:과|을|도|버튼|알림|설정|까지)*{_PLEASE}(?:$|{_ASK})",
    f"구독(?:버튼|신청)?(?:과|을|를)?(?:알림|설정|좋아요)*(?:을|를)?{_PLEASE}{_ASK}",
    "(?:구독|좋아요).{0,8}알림설정",
    "알림설정부탁",
    f"좋아요(?:버튼|한번)?(?:을|를)?{_PLEASE}(?:눌러주|부탁드)",
    "댓글(?:로|에|을|도)?(?:많이|의견|꼭|소중한)*(?:남겨|달아|부탁)",
    "(?:도움|유익).{0,4}(?:되|하)셨다면",
    # Until next time.
    "다음(?:영상|방송|강의|이시간|회차|편)(?:에서|에|으로)?(?:는|도)?(?:또|다시)?(?:만나|뵙|뵐|봬|찾아)",
    "^(?:그럼)?(?:우리)?다음시간에(?:또|다시)?만나(?:요|겠습니다)$",
    "(?:오늘|이번)(?:의)?(?:영상|방송)(?:은|도)?(?:여기까지|재미|잘|어떠)",
    "(?:채널|방송)에오신(?:것|걸)",
    "채널고정",
    # Subtitles and their makers.
    f"(?:한글|한국어|영어)?자막(?:및)?(?:제공|제작|번역|수정|편집|협찬|싱크|후원|검수)+{_MAKER}",
    "(?:자막|번역|편집|싱크|감수|제작)(?:및)?(?:자막|번역|수정|싱크)?by",
    "자막(?:을|이)?(?:사용하였|포함하|포함되|제공하|제공되|지원)",
    "자막은(?:설정|화면|하단|우측|오른쪽|상단)",
    "amaraorg",
    f"영상(?:편집|제공|제작)(?:및)?{_MAKER}",
    "(?:유료|간접|협찬)?광고(?:를|가)?포함",
    "(?:본|이)영상은.{0,12}(?:광고|협찬|후원|지원|제작|저작권)",
    "(?:본|이)(?:프로그램|방송|콘텐츠)은.{0,12}(?:시청|협찬|제작|후원|광고)",
    "광고(?:보고|후에|뒤에)?(?:계속|다시)(?:돌아|만나|이어)",
    "무단(?:전재|복제|배포)",
    "저작권(?:은|자|법)",
    # Sign-offs of news.
    f"{_STATION}뉴스(?:데스크|광장|라인|룸|투데이)?(?:{_PERSON})?(?:기자|앵커|특파원)?{_WAS}$",
    f"{_STATION}뉴스(?:{_PERSON})?$",
    f"뉴스(?:데스크|광장|룸|투데이)?{_PERSON}(?:기자|앵커|특파원)?{_WAS}$",
    f"에서{_PERSON}(?<![부는])(?:기자|특파원){_WAS}$",
    f"(?:^|[다요])(?:지금까지|이상)[가-힣a-z]{{0,12}}(?:뉴스|기자|앵커|리포터|리포트|스토리|데스크|특파원|캐스터|방송)"
    f"[가-힣]{{0,4}}{_WAS}$",
    "(?:^|[다요])(?:지금까지)?(?:오늘의)?(?:날씨|이시각세계|이시각뉴스|스포츠뉴스|뉴스)였습니다$",
    "뉴스(?:를|는)?(?:모두)?(?:여기서|여기까지|이만)?(?:마치겠|마칩|여기까지)",
    # The same in English and Japanese.
    "thank(?:you|s)(?:so|very)?(?:much)?for(?:watching|listening|viewing)",
    "(?:please|likeand|forgetto|and)subscribe|subscribeto",
    "(?:sub|cap)tit?(?:les|ons?|oned)by|subtitlesby|translatedby",
    "seeyou(?:nexttime|inthenext|again)",
    "ご視聴|チャンネル登録|字幕",
)
_CREDITS = tuple(re.compile(form) for form in _FORMS)
_SEEDS = re.compile(
    "시청|구독|좋아요|알림설정|댓글|셨다면|다음|영상|방송|채널|자막|by|amara|광고|프로그램|콘텐츠|무단|저작권|뉴스|기자|"
    "특파원|지금까지|이상|날씨|이시각|thank|subs|captio|translated|seeyou|ご視聴|チャンネル|字幕"
)
_HEARD_SHARE = 0.6
"""A credit of which the reference has more of the characters, in their order, is a speaker's words misheard."""


def has_credit(reference: str, hypothesis: str) -> bool:
    """Return whether a hypothesis has a credit that is no transcript of the reference.

    Parameters
    ----------
    reference, hypothesis : str
        Normalised texts without spaces.
    """
    if not _SEEDS.search(hypothesis):
        return False
    matches = (match[0] for form in _CREDITS for match in form.finditer(hypothesis))
    return any(not _is_heard(credit, reference) for credit in matches)


def _is_heard(credit: str, reference: str) -> bool:
    blocks = difflib.SequenceMatcher(None, credit, reference, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) > _HEARD_SHARE * len(credit)
