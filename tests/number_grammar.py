"""A grammar of numbers in a clinic's sentences: how they are said and written, and what they are worth.

Nothing here, in ``number_writer`` or in ``number_draws`` comes from the package's reader.
"""

import dataclasses
import random
from pathlib import Path

from number_writer import (
    ALONE,
    DIGITS,
    ENDINGS,
    ONES,
    OPEN_TWO,
    TENS,
    Said,
    counted,
    decimal,
    ending,
    gap,
    has_final,
    measured,
    native,
    sino,
    spaced,
    value,
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two spellings of one sentence."""

    kind: str
    spoken: str
    written: str
    values: tuple[str, ...]


def sentence(kind: str, before: str, number: Said, after: str, *, written_after: str | None = None) -> Pair:
    other = after if written_after is None else written_after
    return Pair(kind, before + number.spoken + after, before + number.written + other, number.values)


def _phrases(kind: str) -> list[list[str]]:
    lines = (Path(__file__).parent / "data" / "number_phrases.tsv").read_text(encoding="utf-8").splitlines()
    return [cells[1:] for cells in (line.split("\t") for line in lines) if cells[0] == kind]


LABS = [name for (name,) in _phrases("lab")]
LAB_DECIMALS = [name for (name,) in _phrases("decimal")]
STAGES = _phrases("stage")
PLACES = _phrases("place")
DRUGS = ("아스피린", "메트포르민", "암로디핀", "타이레놀", "항생제를", "이 약을", "진통제")
MASSES = (
    ("밀리그램", "mg"),
    ("밀리그램", "㎎"),
    ("미리그램", "mg"),
    ("마이크로그램", "mcg"),
    ("마이크로그램", "㎍"),
    ("그램", "g"),
)
VOLUMES = (("밀리리터", "ml"), ("밀리리터", "mL"), ("리터", "L"), ("씨씨", "cc"), ("밀리", "밀리"))
DOSES = (
    ("씩 드세요", "씩 드세요"),
    ("를 드세요", "을 드세요"),
    (" 처방했어요", " 처방했어요"),
    (" 드릴게요", " 드릴게요"),
)


def lab(rng: random.Random, n: int) -> Pair:
    said = value(rng, n)
    names = [
        name for name in ENDINGS if not (n % 10 == 2 and name in OPEN_TWO) and not (n % 10 == 1 and name == "인데")
    ]
    name = rng.choice(names)
    written_read = rng.choice((said.read, said.read, said.read, "가" if name == "예요" else said.read))
    after, other = ending(rng, said.read, name), ending(rng, written_read, name)
    return sentence("lab", f"{rng.choice(LABS)} ", said, after, written_after=other)


def lab_decimal(rng: random.Random, whole: int, places: int) -> Pair:
    said = decimal(rng, whole, str(places))
    names = ("예요", "입니다", "로", "까지", "정도", "였어요") if said.read.endswith("이") else tuple(ENDINGS)
    return sentence("decimal", f"{rng.choice(LAB_DECIMALS)} ", said, ending(rng, said.read, rng.choice(names)))


def blood_pressure(rng: random.Random, systolic: int, diastolic: int) -> Pair:
    high, low = value(rng, systolic), value(rng, diastolic)
    name = rng.choice(("예요", "입니다", "정도", "까지"))
    joint = rng.choice(("에 ", "에 ", "/", " / "))
    both = Said(f"{high.spoken}에 {low.spoken}", high.written + joint + low.written, high.values + low.values)
    return sentence(
        "pressure",
        rng.choice(("혈압이 ", "혈압은 ", "아침 혈압이 ", "아침에 재니까 ")),
        both,
        ending(rng, low.read, name),
    )


def dose(rng: random.Random, n: int, unit: int) -> Pair:
    spoken, written = (MASSES + VOLUMES)[unit % len(MASSES + VOLUMES)]
    said = measured(rng, value(rng, n), spoken, written)
    vowel, consonant = rng.choice(DOSES)
    return sentence("dose", f"{rng.choice(DRUGS)} ", said, consonant if has_final(spoken) else vowel)


def small_dose(rng: random.Random, whole: int, places: int, unit: int) -> Pair:
    spoken, written = (MASSES + VOLUMES)[unit % len(MASSES + VOLUMES)]
    said = measured(rng, decimal(rng, whole, str(places)), spoken, written)
    return sentence("dose decimal", f"{rng.choice(DRUGS)} ", said, rng.choice(("씩 드세요", " 처방했어요")))


def tablets(rng: random.Random, n: int) -> Pair:
    counter = rng.choice(("정", "포", "캡슐", "알"))
    words = sino(n) if counter != "알" and rng.random() < 0.6 else native(n)
    said = counted(rng, n, counter, words=words, tight=False)
    before = rng.choice(("한 번에 ", "하루 두 번 ", "식후에 ", "아침에 "))
    digits = before.replace("한 번", "1번").replace("두 번", "2번")
    values = {"한 번에 ": ("1",), "하루 두 번 ": ("2",)}.get(before, ())
    after = rng.choice(("씩 드세요", "씩 복용하세요", "씩이요"))
    return Pair("tablets", before + said.spoken + after, digits + said.written + after, values + said.values)


def frequency(rng: random.Random, n: int) -> Pair:
    if rng.random() < 0.3:
        said = counted(rng, n, "회", words=sino(n), tight=False)
        before = rng.choice(("하루 ", "하루에 ", "일주일에 "))
    else:
        said = counted(rng, n, "번")
        before = rng.choice(("하루 ", "하루에 ", "한 달에 ", "일주일에 "))
    digits = {"일주일에 ": ("1주일에 ", ("1",)), "한 달에 ": ("1달에 ", ("1",))}.get(before, (before, ()))
    after = rng.choice((" 드세요", "씩 먹어요", " 정도 아파요", "이나 깼어요" if said.read == "번" else "예요"))
    return Pair("frequency", before + said.spoken + after, digits[0] + said.written + after, digits[1] + said.values)


def duration(rng: random.Random, n: int, which: int) -> Pair:
    counter = ("일", "주", "개월", "년", "분", "초")[which % 6]
    between = " " if n in (1, 2, 5) else gap(rng)
    written = f"{n}{gap(rng, 0.2)}{counter}"
    said = Said(sino(n) + between + counter, written, (str(n),), counter)
    after = rng.choice(
        (
            " 동안 아팠어요",
            " 전부터 그래요",
            " 정도 됐어요",
            " 뒤에 오세요",
            "째예요" if counter in "일주년" else " 전이에요",
        )
    )
    return sentence("duration", rng.choice(("", "약은 ", "기침을 ", "한 ")), said, after)


def hours(rng: random.Random, n: int) -> Pair:
    counter = rng.choice(("시간", "달")) if n < 12 else "시간"
    said = counted(rng, n, counter)
    return sentence(
        "hours",
        rng.choice(("", "잠은 ", "금식은 ")),
        said,
        rng.choice(("마다 드세요", " 정도예요", " 전이에요", "째예요")),
    )


def portion(rng: random.Random, n: int) -> Pair:
    after = rng.choice(("일분 드릴게요", "일분 처방했어요", "일 치 드릴게요", " 일 치 처방해 주세요", " 일분 드릴게요"))
    return Pair("portion", "약 " + sino(n) + after, f"약 {n}{after.strip()}", (str(n),))


def age(rng: random.Random, n: int) -> Pair:
    form = rng.choice(("살", "살", "세", "만 세", "alone", "spaced"))
    if n == 2 and form == "세":
        form = "만 세"  # 이 세 alone may be "this three"
    if form == "alone":
        words = TENS[n // 10] + ALONE[n % 10]
        said = Said(words, str(n), (str(n),), sino(n))
        name = rng.choice(("예요", "입니다", "인데"))
        after, other = ending(rng, words, name), ending(rng, said.read, name)
        return sentence("age", rng.choice(("올해 ", "나이가 ")), said, after, written_after=other)
    if form == "spaced" and n % 10 and n > 10:
        said = Said(f"{TENS[n // 10]} {ONES[n % 10]} 살", f"{n}살", (str(n),))
    elif form.endswith("세"):
        said = counted(rng, n, "세", words=sino(n), tight=False if n < 10 else None)
    else:
        said = counted(rng, n, "살")
    before = "만 " if form == "만 세" else rng.choice(("", "올해 ", "어머니가 "))
    return sentence(
        "age", before, said, rng.choice(("예요" if form.endswith("세") else "이에요", "입니다", " 때 수술했어요"))
    )


def temperature(rng: random.Random, whole: int, places: int) -> Pair:
    if rng.random() < 0.2:
        spoken = f"{sino(whole)} 도 {DIGITS[places]} 부"
        said = Said(spoken, f"{whole}.{places}도", (f"{whole}.{places}",))
    else:
        said = measured(rng, decimal(rng, whole, str(places)), "도", rng.choice(("도", "℃", "°C")))
    return sentence(
        "temperature", rng.choice(("체온이 ", "열이 ")), said, rng.choice(("예요", "까지 올랐어요", "였어요", "입니다"))
    )


def cold(rng: random.Random, n: int) -> Pair:
    said = Said(f"영하 {sino(n)}{gap(rng)}도", rng.choice((f"영하 {n}도", f"-{n}도", f"−{n}℃")), (f"-{n}",))
    return sentence("minus", rng.choice(("냉동실은 ", "")), said, rng.choice(("예요", "에 두세요", "에서 보관하세요")))


def minus(rng: random.Random, whole: int, places: int) -> Pair:
    number = decimal(rng, whole, str(places))
    said = Said(f"마이너스 {number.spoken}", rng.choice("-−") + number.written, (f"-{number.written}",))
    before = rng.choice(("골밀도가 ", "티 점수가 ", "시력이 "))
    name = rng.choice(("예요", "입니다", "까지", "정도"))
    return sentence("minus", before, said, ending(rng, number.read, name))


def pain(rng: random.Random, n: int) -> Pair:
    form = rng.randrange(4)
    name = rng.choice(("예요", "입니다"))
    if form == 0:
        said = Said(f"십{gap(rng)}점 만점에 {sino(n)} 점", f"10점 만점에 {n}점", ("10", str(n)), "점")
    elif form == 1:
        said = Said(f"십 중에 {sino(n)}", f"10 중에 {n}", ("10", str(n)), sino(n))
        name = "예요" if n == 2 else rng.choice(("예요", "정도"))
    elif form == 2:
        said = counted(rng, n, "점", words=sino(n), tight=False)
    else:
        said = Said(sino(n), str(n), (str(n),), sino(n))
    before = "통증은 " if form < 2 else rng.choice(("통증이 ", "통증 점수가 "))
    return sentence("pain", before, said, ending(rng, said.read, name))


def stage(rng: random.Random, n: int, which: int) -> Pair:
    before, counter, after = STAGES[which % len(STAGES)]
    tight = "" if before == "제" else gap(rng)
    said = Said(sino(n) + tight + counter, f"{n}{counter}", (str(n),))
    return sentence("stage", before, said, after)


NATIVE_RANGES = {1: "한두", 2: "두세", 3: "서너", 4: "네다섯"}


def native_range(rng: random.Random, low: int) -> Pair:
    words = NATIVE_RANGES[low]
    if low < 3 and rng.random() < 0.3:
        words = f"{words[0]} {words[1]}"
    counter = rng.choice(("번", "시간", "알", "개", "잔", "달"))
    sign = rng.choice("~-～")
    said = Said(f"{words}{gap(rng, 0.8)}{counter}", f"{low}{sign}{low + 1}{counter}", (f"{low}~{low + 1}",))
    return sentence(
        "range", rng.choice(("하루에 ", "밤에 ", "")), said, rng.choice((" 먹어요", " 정도 그래요", "씩이요"))
    )


def sino_range(rng: random.Random, low: int, tens: int) -> Pair:
    low = max(low, 2)
    pair = DIGITS[low] + DIGITS[low + 1]
    if tens % 3 == 0:
        words, first, second, counter = pair + "십", low * 10, (low + 1) * 10, rng.choice(("분", "초"))
    elif tens % 3 == 1:
        words, first, second, counter = pair, low, low + 1, rng.choice(("일", "주", "개월", "년"))
    else:
        words, first, second, counter = "십" + pair, 10 + low, 11 + low, rng.choice(("일", "분", "년"))
    written = f"{first}{rng.choice('~-∼')}{second}{counter}"
    said = Said(words + gap(rng, 0.8) + counter, written, (f"{first}~{second}",))
    return sentence("range", "", said, rng.choice((" 동안 아팠어요", " 정도 걸려요", " 전부터요")))


def from_to(rng: random.Random, low: int, step: int) -> Pair:
    high = low + step
    counter = rng.choice(("분", "도", "밀리그램", "퍼센트", "회"))
    sign = {"밀리그램": "mg", "퍼센트": "%"}.get(counter, counter)
    said = Said(f"{sino(low)}에서 {sino(high)} {counter}", f"{low}~{high}{sign}", (f"{low}~{high}",))
    return sentence("range", "", said, rng.choice((" 정도예요", " 사이예요", "까지요")))


def date(rng: random.Random, year: int, month: int, day: int) -> Pair:
    spoken_month = {6: "유", 10: "시"}.get(month, sino(month))
    spoken = f"{spoken_month}월 {sino(day)}{gap(rng, 0.3)}일"
    written, values = f"{month}월 {day}일", (str(month), str(day))
    if rng.random() < 0.5:
        spoken = f"{sino(year)}{gap(rng)}년 {spoken}"
        written = rng.choice((f"{year}년 {written}", f"{year}-{month:02}-{day:02}", f"{year}.{month}.{day}"))
        values = (str(year), *values)
    return Pair(
        "date",
        *(
            f"{text}{tail}"
            for tail in [rng.choice(("에 수술했어요", "부터요", "이에요"))]
            for text in (spoken, written)
        ),
        values,
    )


def today(rng: random.Random, day: int) -> Pair:
    said = Said(f"{sino(day)}일", f"{day}일", (str(day),))
    return sentence(
        "date",
        rng.choice(("오늘이 ", "예약이 ", "예약은 ", "수술이 ")),
        said,
        rng.choice(("이에요", "입니다", "이래요")),
    )


def clock(rng: random.Random, hour: int, minute: int) -> Pair:
    part = rng.choice(("오전 ", "오후 ", "저녁 ", ""))
    if minute == 30:
        spoken, values = f"{native(hour)}{gap(rng)}시 {rng.choice(('반', '삼십 분'))}", (str(hour), "30")
    elif minute:
        spoken, values = f"{native(hour)}{gap(rng)}시 {sino(minute)}{gap(rng)}분", (str(hour), str(minute))
    else:
        spoken, values = f"{native(hour)}{gap(rng)}시", (str(hour),)
    written = rng.choice((f"{hour}시 {minute}분", f"{hour}:{minute:02}")) if minute else f"{hour}시"
    after = rng.choice(("에 오세요", "까지 오세요", "에 먹었어요"))
    return Pair("clock", part + spoken + after, part + written + after, values)


def telephone(rng: random.Random, first: int, second: int) -> Pair:
    groups = ("010", f"{first:04}", f"{second:04}")
    words = ["".join("공" if d == "0" else DIGITS[int(d)] for d in group) for group in groups]
    spoken = rng.choice((" ", "", " 다시 ", "에 ")).join(words)
    written = rng.choice(("-", " ", "")).join(groups)
    return Pair("telephone", f"번호는 {spoken}", f"번호는 {written}", ("".join(groups),))


def money(rng: random.Random, hundreds: int) -> Pair:
    n = hundreds * 100
    written = rng.choice((f"{n:,}원", f"{n}원"))
    if n > 10_000 and n % 1000 == 0 and n % 10_000:
        written = rng.choice((written, f"{n // 10_000}만 {n % 10_000 // 1000}천 원"))
    return Pair("money", f"{spaced(rng, sino(n))}{gap(rng, 0.7)}원 나왔어요", f"{written} 나왔어요", (str(n),))


def place(rng: random.Random, n: int, which: int) -> Pair:
    before, counter, after = PLACES[which % len(PLACES)]
    if counter in ("호실", "호"):
        n += 100
    words = native(n) if counter == "번째" and n > 1 else sino(n)
    if counter == "번째" and n == 1:
        return sentence("place", "", Said("두 번째", "2번째", ("2",)), after)
    between = " " if counter in ("층", "번", "차") and n < 10 else "" if counter in ("", "호") else gap(rng)
    return sentence("place", before, Said(words + between + counter, f"{n}{counter}", (str(n),)), after)


def half(rng: random.Random, n: int) -> Pair:
    counter = rng.choice(("알", "정", "시간", "달", "컵", "개"))
    said = Said(f"{native(n)} {counter} 반", rng.choice((f"{n}{counter} 반", f"{n}.5{counter}")), (f"{n}.5",))
    return sentence("half", "", said, rng.choice((" 드세요", " 정도요", "씩이요")))


def fraction(rng: random.Random, low: int, high: int) -> Pair:
    said = Said(f"{DIGITS[low]}분의{gap(rng)} {DIGITS[high]}".replace("  ", " "), f"{high}/{low}", (f"{high}/{low}",))
    return sentence(
        "fraction", "용량을 ", said, rng.choice(("로 줄이세요", "만 드세요")) if high not in (3, 6) else "만 드세요"
    )


CODES = (
    ("비십이", "B12"),
    ("케이에프 구십사", "KF94"),
    ("케이에프 팔십", "KF80"),
    ("씨에이 백이십오", "CA125"),
    ("씨에이 십구 다시 구", "CA19-9"),
)


def code(rng: random.Random, which: int) -> Pair:
    spoken, written = CODES[which % len(CODES)]
    after = rng.choice((" 수치가 높아요", " 검사했어요", " 이야기를 했어요"))
    return Pair("code", f"{spoken}{after}", f"{written}{after}", ())


def size(rng: random.Random, n: int, unit: int) -> Pair:
    units = (
        ("센티미터", "cm"),
        ("센티", "cm"),
        ("밀리미터", "mm"),
        ("킬로그램", "kg"),
        ("퍼센트", "%"),
        ("프로", "%"),
        ("미터", "m"),
        ("단위", "단위"),
    )
    spoken, written = units[unit % len(units)]
    said = measured(rng, value(rng, n), spoken, written)
    if spoken == "단위":
        return sentence("unit", "인슐린 ", said, rng.choice((" 맞으세요", "씩 맞아요", " 올리세요")))
    name = rng.choice(("예요", "입니다", "정도", "까지", "였어요"))
    return sentence("unit", rng.choice(("크기가 ", "전체의 ", "")), said, ending(rng, spoken, name))


def weight(rng: random.Random, n: int) -> Pair:
    said = Said(f"{sino(n)}{gap(rng, 0.8)}{rng.choice(('킬로', '키로'))}", f"{n}kg", (str(n),))
    return sentence(
        "weight", rng.choice(("체중이 ", "몸무게가 ")), said, rng.choice(("예요", " 정도예요", "까지 나갔어요"))
    )
