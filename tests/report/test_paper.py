"""A paper's parts: every number is the record's, what is unknown is left out, and LaTeX and Markdown stay whole."""

import copy
import dataclasses
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import pytest
from bench_records import make_bench
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from kmed_bench.core.language import Language
from kmed_bench.core.quantities import OVER_WHOLE
from kmed_bench.core.records import BenchRecord, Opening
from kmed_bench.report.page_tables import make_frames
from kmed_bench.report.paper import results as results_module
from kmed_bench.report.paper import wording
from kmed_bench.report.paper.checklist import MISSING, NOT_COVERED, checklist
from kmed_bench.report.paper.facts import collect_facts
from kmed_bench.report.paper.figures import _PRINTED, _PRINTED_KINDS
from kmed_bench.report.paper.methods import SECTIONS, methods
from kmed_bench.report.paper.references import references
from kmed_bench.report.paper.results import results
from kmed_bench.report.paper.tables import PaperTable, paper_tables
from kmed_bench.report.paper.wording import LANGUAGES, Say
from kmed_bench.scoring.compare import TEST
from kmed_bench.scoring.intervals import METHOD
from kmed_bench.scoring.recommendation import recommend

PARAMS = {
    "data.roles": "patient",
    "data.min_duration_s": "0.3",
    "data.max_duration_s": "30.0",
    "split.by": "dialect,gender",
    "split.seed": "6",
    "train.epochs": "20",
    "train.batch_size": "4",
    "train.lr": "2e-05",
    "train.max_len": "80",
    "train.weight_decay": "0.01",
    "train.schedule": "cosine",
    "train.warmup_steps": "120",
    "train.grad_clip": "none",
    "train.patience": "none",
    "train.freeze_encoder": "False",
    "train.audio_context": "full",
    "eval.audio_context": "full",
    "eval.beam_size": "1",
    "eval.max_new_tokens": "224",
    "eval.no_repeat_ngram_size": "none",
}
TAGS = {
    "kmed.weights_sha256": "feedbacfeedbac00",
    "kmed.machine": "H100 & friends",
    "kmed.software": "Python 3.11.2, torch 2.9.1",
    "kmed.train_precision": "bf16",
}
PLAN = "c0ffee" * 10 + "abcd"


def compared(size: str, delta: float, low: float | None, high: float | None, p: float) -> dict[str, Any]:
    return {
        "a_name": f"{size} untouched",
        "b_name": f"{size} fine-tuned",
        "a": 0.1995,
        "b": 0.1995 + delta,
        "delta": delta,
        "delta_low": low,
        "delta_high": high,
        "no_interval": "" if low is not None else "too few",
        "p_value": p,
        "p_holm": 2 * p,
        "p_value_floor": 0.001,
        "test": TEST,
        "draws": 2000,
        "n_clips": 1000,
        "n_speakers": 42,
    }


def verdict(outcome: str, cer: Mapping[str, Any], worse: tuple[Any, ...] = ()) -> Any:
    sides = {"valid_untouched": 0.19, "valid_tuned": 0.08, "level": 0.05, "worse": list(worse), "speakers": {}}
    speakers = {"untouched": [0.1, 0.3], "tuned": [0.05, 0.2], "n_clips": [4, 5]}
    head = {"format": "kmed-verdict", "version": 1, "outcome": outcome, "recommended": outcome == "better"}
    return {**head, "cer": dict(cer), **sides, "speakers": speakers}


def full_record() -> BenchRecord:
    """A benchmark of two sizes whose record lacks nothing that the methods name."""
    bench = make_bench(sizes=("tiny", "base"))
    trains = tuple(
        dataclasses.replace(run, params={k: v for k, v in PARAMS.items() if k[:5] != "data."}, tags=run.tags | TAGS)
        for run in bench.trains
    )
    pairs = (compared("tiny", -0.01, -0.03, 0.01, 0.2), compared("base", -0.1152, -0.1311, -0.0987, 0.0004))
    lost = {"what": "gender Female", "delta": 0.012, "p_value": 0.21, "n_speakers": 22, "shown": False}
    verdicts = {"tiny000": verdict("no evidence", pairs[0], (lost,)), "base000": verdict("better", pairs[1])}
    openings = tuple(
        Opening(
            opened_ms=n,
            command="run",
            model="base",
            untouched=n < 2,
            plan_sha256=PLAN,
            run_id="b0b0",
            settings={},
        )
        for n in range(5)
    )
    scores: dict[str, Any] = {
        run_id: {**found, "interval": {"method": METHOD, "level": 0.95}} for run_id, found in bench.scores.items()
    }
    return dataclasses.replace(
        bench,
        params=bench.params | PARAMS | {"data.source": "141.의료진_및_환자_음성"},
        trains=trains,
        comparisons=pairs,
        verdicts=verdicts,
        openings=openings,
        scores=scores,
    )


def text_of(record: BenchRecord, language: Language) -> str:
    return "\n".join([*methods(collect_facts(record), language).values(), results(record, recommend(record), language)])


def tables_of(record: BenchRecord) -> dict[str, PaperTable]:
    frames = make_frames(record, record.comparisons, recommend(record))
    return {table.name: table for table in paper_tables(record, frames)}


def names_in(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


SENTENCES = [say for section in SECTIONS.values() for say in section]
SENTENCES += [
    *results_module._WHOLE,
    *results_module._SIZE,
    *results_module._FIGURES,
    *results_module.OUTCOMES.values(),
]


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda say: say.en[:50])
def test_both_languages_state_the_same_facts(sentence: Say) -> None:
    assert names_in(sentence.en) == names_in(sentence.ko)
    numbers = [Counter(re.findall(r"\d[\d.]*\d|\d", words)) for words in (sentence.en, sentence.ko)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_fact_of_the_record_is_told(language: Language) -> None:
    record = full_record()
    facts = collect_facts(record)
    marks = {name: f"〈{name}〉" for name, fact in facts.items() if isinstance(fact, Say) or fact}
    told = "\n".join(methods(facts | marks, language).values())
    unsaid = {"test_sentences", "valid_sentences", "train_sentences"}  # in table split
    unsaid |= {"shared_speakers", "shared_sentences", "n_seeds"}  # 0 and 1, which are said in words
    assert {name for name, mark in marks.items() if mark not in told} <= unsaid


CHANGES: list[tuple[str, Callable[[BenchRecord], BenchRecord], str, str]] = []


def change(name: str, en: str, ko: str) -> Callable[[Callable[[BenchRecord], BenchRecord]], None]:
    return lambda made: CHANGES.append((name, made, en, ko))


def with_setting(name: str, value: str) -> Callable[[BenchRecord], BenchRecord]:
    def changed(record: BenchRecord) -> BenchRecord:
        trains = tuple(dataclasses.replace(run, params=run.params | {name: value}) for run in record.trains)
        return dataclasses.replace(record, trains=trains, params=record.params | {name: value})

    return changed


def with_part(field: str, **values: Any) -> Callable[[BenchRecord], BenchRecord]:
    return lambda record: dataclasses.replace(record, **{field: {**getattr(record, field), **values}})


change("epochs", "for 17 epochs", "에폭 수는 17이다")(with_setting("train.epochs", "17"))
change("batch", "batches of 16 utterances", "배치 크기는 16,")(with_setting("train.batch_size", "16"))
change("lr", "learning rate of 3.5 × 10⁻⁶", "학습률은 3.5 × 10⁻⁶")(with_setting("train.lr", "3.5e-06"))
change("beams", "with 5 beams", "빔 크기 5")(with_setting("eval.beam_size", "5"))
change("schedule", "was constant", "스케줄은 다음과 같다: 고정")(with_setting("train.schedule", "constant"))
change("clip", "to a norm of 1.5", "기울기 노름의 상한(gradient clipping)은 1.5")(
    with_setting("train.grad_clip", "1.5")
)
change("context", "length of the batch", "오디오 문맥은 배치의 길이")(with_setting("eval.audio_context", "dynamic"))
change("corpus", "the corpus “mine”", "“mine” 말뭉치")(with_setting("data.source", "mine"))
change("imported", "the corpus “문진 녹음”", "“문진 녹음” 말뭉치")(
    lambda record: with_setting("data.source", "manifest")(
        with_part("quality", by={"release": {"문진 녹음": 9}})(record)
    )
)
change("manifest", "in the layout of AI Hub data set 208", "(데이터셋 208)과 같은 형식")(
    lambda record: with_setting("data.source", "manifest")(
        with_part("quality", by={"release": {"Training": 9}})(record)
    )
)
change("labels", "Of 1,234 labelled", "발화 1,234개 중")(with_part("quality", labels=1234))
change("hours", "and 7.3 hours", "총 7.3시간")(with_part("quality", hours=7.26))
change("rejects", "label too long 8.", "라벨 길이 초과 8.")(with_part("quality", rejected={"label_too_long": 8}))
change("rejected", "were usable and 8 were", "8개를 제외")(with_part("quality", rejected={"label_too_long": 8}))
change("test", "and 77 for testing", "평가 세트 77개")(
    with_part("split", counts={"train": 9, "valid": 8, "test": 77}, parts={})
)
change("both", "share 3 speakers and 9 sentences", "화자 3명과 문장 9개가 중복")(
    with_part("split", leakage={"speakers": 3, "sentences": 9, "utterances": 0})
)
change("sentences", "share 9 sentences but no speaker", "문장 9개가 중복")(
    with_part("split", leakage={"speakers": 0, "sentences": 9, "utterances": 0})
)
change("drop", "largest deviation of a group's share from the corpus was 1.23", "1.23%p")(
    with_part("split", max_share_deviation=0.0123)
)


@pytest.mark.parametrize(("name", "changed", "en", "ko"), CHANGES, ids=[row[0] for row in CHANGES])
def test_a_changed_record_changes_the_text(
    name: str, changed: Callable[[BenchRecord], BenchRecord], en: str, ko: str
) -> None:
    record = full_record()
    for language, words in zip(LANGUAGES, (en, ko), strict=True):
        assert words not in text_of(record, language)
        assert words in text_of(changed(record), language)


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(key)
            yield from leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, str):
        yield from (float(found) for found in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", value))
    elif isinstance(value, int | float):
        yield float(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from leaves({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})


def test_no_number_in_the_text_is_from_elsewhere() -> None:
    """Each number is one of the record, rounded; the rest is counted below, or part of the program's own rules."""
    record = full_record()
    found = {*leaves(record)}
    counted = {2.0, 3.0, 5.0, 7.0, 4.0}  # comparisons, openings of trained models and of all, rejects, tested gaps
    own = {30.0, 10.0, 12.0, 0.0, 0.05, 208.0, 256.0, 95.0}  # window, few events, exact flips, zero, level, data set
    shown = {
        rounded for value in found for rounded in (round(value, 1), abs(round(100 * value, 2)), round(value, 3), value)
    }
    shown |= {round(value / 1e6, 1) for value in found} | counted | own
    for language in LANGUAGES:
        plain = text_of(record, language).replace(",", "").replace(PLAN[:12], "").replace("2 × 10⁻⁵", "")
        numbers = {float(digits) for digits in re.findall(r"\d+(?:\.\d+)?", plain)}
        assert len(numbers) > 40
        assert not {number for number in numbers if not any(abs(number - each) < 1e-9 for each in shown)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_record_without_facts_invents_none(language: Language) -> None:
    bare = dataclasses.replace(
        make_bench(sizes=()), params={}, tags={"kmed.synthetic": "false"}, split={}, quality={}, gaps=(), seeds=()
    )
    assert tables_of(bare) == {}
    facts = collect_facts(bare)
    assert facts == {}
    assert list(methods(facts, language)) == [Say("Statistics", "통계 분석").words(language)]  # the rule of rounding
    no_result = Say("No training finished, so there is no result.", "완료된 학습이 없어 결과가 없다.")
    assert results(bare, recommend(bare), language) == no_result.words(language)
    assert {row[2] for row in checklist(facts).rows} == {MISSING, NOT_COVERED}


def test_settings_that_the_trainings_do_not_share_are_left_out() -> None:
    record = full_record()
    first, *others = record.trains
    mixed = dataclasses.replace(
        record, trains=(dataclasses.replace(first, params=first.params | {"train.lr": "1e-05"}), *others)
    )
    assert "learning rate of" not in text_of(mixed, "en")
    assert "학습률은" not in text_of(mixed, "ko")
    assert [row for row in tables_of(mixed)["training"].rows if row[0] in ("learning rate", "optimizer")] == []


@pytest.mark.parametrize(
    ("outcome", "en", "ko"),
    [
        ("better", "Fine-tuning lowered the CER of base (test part: 19.95%", "미세 조정으로 CER이 낮아졌다(평가 세트"),
        ("no evidence", "there is no evidence that fine-tuning changes the CER", "차이는 확인되지 않았다"),
        (
            "kept untouched",
            "did not lower the CER of the validation part, so the untouched",
            "미세 조정 전 모델을 유지",
        ),
        ("worse", "Fine-tuning raised the CER of base", "미세 조정으로 CER이 높아졌다"),
    ],
)
def test_results_say_what_the_verdict_says(outcome: str, en: str, ko: str) -> None:
    cer = compared("base", -0.1152, None, None, 0.3)
    lost = {"what": "medical terms found", "delta": -0.04, "p_value": 0.001, "n_speakers": 9, "shown": True}
    record = dataclasses.replace(full_record(), verdicts={"base000": verdict(outcome, cer, (lost,))}, comparisons=())
    told = {language: results(record, recommend(record), language) for language in LANGUAGES}
    assert en in told["en"]
    assert ko in told["ko"]
    others = {say.en.split("{size}")[0] for name, say in results_module.OUTCOMES.items() if name != outcome} - {"For "}
    assert not [words for words in others if words in told["en"]]
    assert "difference −11.52 percentage points, p = 0.300; no interval)" in told["en"]
    assert "차이 −11.52%p, p = 0.300; 신뢰구간 없음)" in told["ko"]
    assert "Shown to be worse: medical terms found (−4.00 percentage points, p = 0.001)." in told["en"]


def test_methods_name_the_correction_of_p_values() -> None:
    facts = collect_facts(full_record())
    english, korean = ("\n".join(methods(facts, language).values()) for language in LANGUAGES)
    assert "Corrected p-values are by Holm's method; the number of comparisons of models was" in english
    assert "보정된 p값" in korean


def test_results_name_chance_and_gaps() -> None:
    record = full_record()
    english, korean = (results(record, recommend(record), language) for language in LANGUAGES)
    assert "95% CI −13.11 to −9.87, p < 0.001; p < 0.001 after Holm's correction" in english
    assert "95% 신뢰구간 [−13.11, −9.87], p < 0.001; Holm 보정 후 p < 0.001" in korean
    assert "may be chance: gender female (+1.20 percentage points, p = 0.210)" in english
    assert "우연일 수 있는 항목: 성별 여성 (+1.20%p, p = 0.210)" in korean
    assert "Of 4 gaps between a group of speakers" in english
    none = dataclasses.replace(record, gaps=tuple({**gap, "p_holm": gap["p_holm"] and 0.4} for gap in record.gaps))
    assert "does not show that the groups are equal" in results(none, recommend(none), "en")  # type: ignore[arg-type]
    leaking = with_part("split", leakage={"speakers": 3, "sentences": 9, "utterances": 0})(record)
    assert "do not measure performance on new speakers" in results(leaking, recommend(leaking), "en")


def test_tables_have_the_record_s_figures() -> None:
    record = full_record()
    made = tables_of(record)
    assert list(made) == ["sizes", "groups", "split", "split-groups", "data", "training"]
    base = record.trains[1].metrics
    cer = [f"{100 * base[f'test/cer{end}']:.2f}" for end in ("", "_low", "_high")]
    assert made["sizes"].rows[2] == [
        "base",
        "CER",
        "19.95 (17.10 to 22.80)",
        f"{cer[0]} ({cer[1]} to {cer[2]})",
        "−11.52 (−13.11 to −9.87)",
        "<0.001",
    ]
    assert made["sizes"].rows[1] == [
        "tiny",
        "WER",
        "68.20",
        f"{200 * record.trains[0].metrics['test/cer']:.2f}",
        "–",
        "–",
    ]
    assert made["split"].rows[2] == ["test", "1,000", "42", "990", "1.1"]
    assert made["split-groups"].rows[4] == ["dialect", "강원", "0.11", "0.11", "0.11", "0.11"]
    assert ["rejected: transcript empty", "4"] in made["data"].rows
    assert ["learning rate", "2 × 10⁻⁵"] in made["training"].rows
    assert made["groups"].rows[4][:4] == ["dialect", "강원†", "1", "1"]
    assert made["sizes"].csv().splitlines()[0] == "Model,Rate,Untouched,Fine-tuned,Difference,p (Holm)"


def test_tables_explain_rates_over_100_percent() -> None:
    """The end of an interval in the first table, the rate of a group in the second."""
    record = full_record()
    assert not any(OVER_WHOLE in table.notes for table in tables_of(record).values())
    scores: dict[str, Any] = copy.deepcopy(dict(record.scores))
    scores["base000"]["overall"]["cer_high"] = 3.2
    made = tables_of(dataclasses.replace(record, scores=scores))
    assert [name for name, table in made.items() if table.notes.endswith(OVER_WHOLE)] == ["sizes"]
    scores["base000"]["overall"]["cer_high"] = 0.3
    scores["base000"]["groups"]["dialect"]["강원"]["cer"] = 1.5
    made = tables_of(dataclasses.replace(record, scores=scores))
    assert [name for name, table in made.items() if table.notes.endswith(OVER_WHOLE)] == ["groups"]


def strip_escapes(source: str) -> str:
    return re.sub(r"\\[\\&%$#_{}]", "", source)


NASTY = "50% & _#{}~^\\ <여성> $x$ | a*b"


@given(st.text(alphabet=[*"&%$#_{}~^\\|<>*`[]()! ab1여−–×†", "⁻", "⁵"]))
@example(NASTY)
def test_escaped_text_keeps_tables_whole(text: str) -> None:
    table = PaperTable(name="t", caption=text, columns=["a", "b"], rows=[[text, text]], notes=text)
    plain = strip_escapes(wording.latex(text))
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[&%#~]", plain)
    assert not re.search(r"(?<![$^{])[_^]|[⁻⁵−†]", plain.replace("$^{", ""))
    assert plain.count("$") % 2 == 0
    body = strip_escapes(table.latex())
    (row,) = (line for line in body.split(r"\midrule")[1].split(r"\bottomrule")[0].splitlines() if line.strip())
    assert row.count("&") == 1
    lines = [line for line in table.markdown().splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {3}


def test_every_latex_table_is_balanced() -> None:
    record = full_record()
    groups = {"dialect": {NASTY: {**record.split["shares"]["dialect"]["강원"]}}}
    record = dataclasses.replace(record, split={**record.split, "shares": groups})
    made = tables_of(record)
    assert made["split-groups"].rows[0][1] == NASTY
    for table in made.values():
        source = strip_escapes(table.latex())
        assert source.count("{") == source.count("}")
        assert Counter(re.findall(r"\\begin\{(\w+\*?)\}", source)) == Counter(re.findall(r"\\end\{(\w+\*?)\}", source))
        (align,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", source)
        body = source.split(r"\toprule")[1].split(r"\bottomrule")[0]
        cells = [line.count("&") + 1 for line in body.splitlines() if "&" in line or line.endswith(r"\\")]
        assert set(cells) == {len(align)}
        assert len(cells) == len(table.rows) + 1


@given(st.floats(0, 5), st.floats(-1, 1), st.floats(0, 1))
def test_numbers_are_rounded_by_the_rule(value: float, difference: float, p: float) -> None:
    assert abs(float(wording.rate(value)) - 100 * value) <= 0.005 + 1e-9
    assert abs(float(wording.points(difference).replace("−", "-")) - 100 * difference) <= 0.005 + 1e-9
    assert wording.p_value(p) == "<0.001" if p < 0.001 else abs(float(wording.p_value(p)) - p) <= 0.0005 + 1e-9


@pytest.mark.parametrize(("value", "text"), [(2e-05, "2 × 10⁻⁵"), (1.25e-4, "1.25 × 10⁻⁴"), (0.01, "0.01"), (0.0, "0")])
def test_small_settings_are_written_as_powers(value: float, text: str) -> None:
    assert wording.small(value) == text


def test_references_are_those_that_were_used() -> None:
    record = full_record()
    used = references(collect_facts(record))
    keys = re.findall(r"@\w+\{(\w+),", used)
    assert keys == sorted(set(keys), key=keys.index)
    assert {"radford2023whisper", "aihub208", "holm1979", "clopper1934"} <= set(keys)
    assert not {"akiba2019optuna", "hu2022lora", "pedregosa2011scikit", "park2019specaugment"} & set(keys)
    assert used.count("{") == used.count("}")
    studied = dataclasses.replace(record, tags=record.tags | {"kmed.study": "s", "kmed.study_trial": "3"})
    assert "akiba2019optuna" in references(collect_facts(studied))
    own = with_setting("data.source", "mine")(record)
    assert "aihub208" not in references(collect_facts(own))


def test_the_checklist_names_only_facts_that_exist() -> None:
    rows = checklist(collect_facts(full_record())).rows
    assert Counter(row[2].partition(":")[0] for row in rows)[MISSING.partition(":")[0]] == 0
    assert {row[0] for row in rows} == {"TRIPOD+AI", "CLAIM", "STARD-AI", "MI-CLAIM"}


def test_the_checklist_names_the_table_of_groups_also_if_no_gap_could_be_tested() -> None:
    record = dataclasses.replace(full_record(), gaps=())
    assert tables_of(record)["groups"].rows
    found = {topic: where for _, topic, where in checklist(collect_facts(record)).rows if topic.startswith("fairness")}
    assert found == {
        "fairness: performance by group of people": "reported in: table groups",
        "fairness: differences between groups tested": MISSING,
    }


def lightness(colour: str) -> float:
    """CIE L* of an sRGB colour, 0 (black) to 100 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return float(116 * y ** (1 / 3) - 16 if y > 216 / 24389 else y * 24389 / 27)


def test_colours_are_told_apart_in_grey() -> None:
    for colours in ({*list(_PRINTED.values())[:3]}, {*_PRINTED_KINDS.values()}):
        assert len(colours) == 3
        assert min(abs(lightness(a) - lightness(b)) for a, b in combinations(colours, 2)) > 20
