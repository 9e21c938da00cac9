"""Every rate computed again from its definition in docs/metrics, by jiwer and plain loops, on random clips.

Only what decides how a text reads is taken from the package: marks, normalisation, one form of numbers, quantities,
accepted spellings, terms, signs. Everything that counts, aligns and divides is written here a second time.
"""

import dataclasses
import itertools
import math
import random
import re
import unicodedata
from collections import defaultdict

import jiwer
import pytest
from misheard import predictions

from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.hallucinations import find_signs
from kmed_bench.scoring.measures import MEASURES, count_utterances, rates
from kmed_bench.text.marks import resolve_marks
from kmed_bench.text.normalise import normalise
from kmed_bench.text.numbers import canonical_numbers, find_quantities
from kmed_bench.text.terms import match_terms
from kmed_bench.text.variants import resolve_variants

N_CLIPS = 3000
WORDS = re.findall(
    r"\S+",
    "배가 아파요 두통이 혈압이 어지러워요 약을 드세요 기침이 검사를 병원에 어제부터 많이 값 닭 괜찮아요 네 아니요 "
    "CT를 MRI mri B12 okay 36.5도 120/80 5mg 3번 2~3일 세 번 이십 일 백이십 삼십팔 점 오 도 두 알 씨티를 ㅋㅋ ㅏ",
)
JAMO = ("\u1100\u1161", " \u1161", "\u1100", " \u11ab", "\u1112\u1161\u11ab", "각 \u11a8", "가 \u11a8")
MARKED = ("(3)/(삼) 일", "아/ 네", "b/", "검사*", "배+ 배가", "(MRI)/(엠알아이)를")
NEITHER = ("#@이름# 씨", "", " ", ".", "n/", "…!")


def draw(generator: random.Random) -> tuple[str, str]:
    """A reference with any of the awkward parts, and what was heard of it."""
    reference = " ".join(generator.choice(WORDS) for _ in range(generator.randint(1, 9)))
    kind = generator.random()
    if kind < 0.1:
        reference += generator.choice(JAMO) + generator.choice(WORDS)
    elif kind < 0.2:
        reference = generator.choice(MARKED) + " " + reference
    elif kind < 0.27:
        reference = generator.choice(NEITHER) + (reference if generator.random() < 0.2 else "")
    heard = list(resolve_marks(reference, "pronunciation"))
    for place in range(len(heard)):
        chance = generator.random()
        if chance < 0.1:
            heard[place] = generator.choice(("", " ", heard[place] * 2, "바", "x", "7", "\u1161", ". "))
    hypothesis = "".join(heard)
    ending = generator.random()
    if ending < 0.04:
        hypothesis = generator.choice(("", "…", " "))
    elif ending < 0.08:
        hypothesis += generator.choice((" 시청해 주셔서 감사합니다", " 배가" * 30, "谢谢观看"))
    sides = [unicodedata.normalize("NFD", t) if generator.random() < 0.2 else t for t in (reference, hypothesis)]
    return sides[0], sides[1]


def edits(reference: str | list[str], hypothesis: str | list[str]) -> int:
    """Levenshtein's distance by its recursion, row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, said in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (said != heard))
    return row[-1]


def boundaries(text: str) -> set[int]:
    """Before which letters a word of a text with single spaces begins."""
    return set(itertools.accumulate(len(word) for word in text.split(" ")[:-1])) - {0}


def joined(letters: str, breaks: set[int]) -> str:
    return "".join(" " * (place in breaks) + letter for place, letter in enumerate(letters))


def chunks(reference: str, hypothesis: str) -> list[jiwer.AlignmentChunk]:
    """jiwer's own alignment of two texts without spaces."""
    if not reference or not hypothesis:
        kind = "insert" if hypothesis else "delete"
        return [jiwer.AlignmentChunk(kind, 0, len(reference), 0, len(hypothesis))] if reference or hypothesis else []
    return list(jiwer.process_characters(reference, hypothesis).alignments[0])


def with_equal_spaces(reference: str, hypothesis: str) -> str:
    """The hypothesis with the reference's spaces inside every stretch that both have."""
    flat, letters = reference.replace(" ", ""), hypothesis.replace(" ", "")
    wanted, breaks = boundaries(reference), boundaries(hypothesis)
    for chunk in chunks(flat, letters):
        for step in range(1, chunk.hyp_end_idx - chunk.hyp_start_idx) if chunk.type == "equal" else ():
            breaks.discard(chunk.hyp_start_idx + step)
            if chunk.ref_start_idx + step in wanted:
                breaks.add(chunk.hyp_start_idx + step)
    return joined(letters, breaks)


def with_references_words(reference: str, hypothesis: str) -> str:
    """The hypothesis cut where a word of the reference begins."""
    flat, letters = reference.replace(" ", ""), hypothesis.replace(" ", "")
    place = {}
    for chunk in chunks(flat, letters):
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx):
            place[chunk.ref_start_idx + step] = chunk.hyp_start_idx + (0 if chunk.type == "delete" else step)
    return joined(letters, {place[start] for start in boundaries(reference)} - {0, len(letters)})


def shared(reference: list[frozenset[tuple[str, str, str]]], hypothesis: list[frozenset[tuple[str, str, str]]]) -> int:
    """The longest common subsequence, where two quantities are equal that may mean the same."""
    best: dict[tuple[int, int], int] = defaultdict(int)
    for i, said in enumerate(reference):
        for j, heard in enumerate(hypothesis):
            best[i, j] = best[i - 1, j - 1] + 1 if said & heard else max(best[i - 1, j], best[i, j - 1])
    return best[len(reference) - 1, len(hypothesis) - 1]


def one_form(text: str) -> str:
    """Numbers in one form, and a space between two of them kept as a sign."""
    form = canonical_numbers(text)
    for place in range(len(form) - 2):
        if form[place].isdecimal() and form[place + 1] == " " and form[place + 2].isdecimal():
            form = form[: place + 1] + "·" + form[place + 2 :]
    return normalise(form)


def expected_sums(clips: list[Prediction]) -> dict[str, list[int]]:
    """Numerators and denominators of the rates, over the clips that have a scorable reference or none."""
    sums: dict[str, list[int]] = {name: [0, 0] for name in MEASURES}

    def add(name: str, top: int, bottom: int) -> None:
        sums[name][0] += top
        sums[name][1] += bottom

    worst = []
    for clip in clips:
        said = resolve_marks(clip.reference, "pronunciation")
        plain = normalise(said), normalise(clip.hypothesis)
        if "#@" in said:
            continue
        if not plain[0]:
            add("silence_hallucination_rate", bool(plain[1]), 1)
            continue
        spaced = normalise(said, keep_spaces=True), normalise(clip.hypothesis, keep_spaces=True)
        aligned = chunks(*plain)
        n_edits = edits(*plain)
        worst.append((-n_edits, clip.utterance_id))
        for name, kind in (("insertion_share", "insert"), ("deletion_share", "delete")):
            sizes = [
                (c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in aligned if c.type == kind
            ]
            add(name, sum(max(size) for size in sizes), n_edits)
        add("cer", n_edits, len(plain[0]))
        add("perfect_rate", n_edits == 0, 1)
        add("cer_spaced", edits(*spaced), len(spaced[0]))
        raw = said, unicodedata.normalize("NFC", clip.hypothesis).strip()
        add("cer_raw", edits(*raw), len(raw[0]))
        numbered = one_form(spaced[0]), one_form(with_equal_spaces(*spaced))
        add("cer_number", edits(*numbered), len(numbered[0]))
        accepted, replaced = resolve_variants(said, clip.hypothesis)
        respelled = with_equal_spaces(spaced[0], normalise(accepted, keep_spaces=True))
        add("cer_resolved", edits(numbered[0], one_form(respelled) if replaced else numbered[1]), len(numbered[0]))
        add("wer", edits(spaced[0].split(), spaced[1].split()), len(spaced[0].split()))
        add("wer_respaced", edits(spaced[0].split(), with_references_words(*spaced).split()), len(spaced[0].split()))
        jamo = [unicodedata.normalize("NFD", text) for text in plain]
        add("jer", edits(*jamo), len(jamo[0]))
        signs = find_signs(*spaced, clip.duration_s)
        if "loop" not in signs:
            add("cer_without_loops", n_edits, len(plain[0]))
        add("hallucination_rate", bool(signs), 1)
        add("empty_rate", not plain[1], 1)
        add("worst_percent_share", 0, n_edits)
        if "(" not in clip.reference:  # the dual notation has its own rule, which other tests hold
            readings = [q.meanings for q in find_quantities(spaced[0])]
            heard = [q.meanings for q in find_quantities(with_equal_spaces(*spaced))]
            add("number_exact", shared(readings, heard), len(readings))
            add("number_ambiguity", sum(q.is_ambiguous for q in find_quantities(spaced[0])), len(readings))
        for _, n_said, n_found in match_terms(said, clip.hypothesis):
            add("term_recall", n_found, n_said)
    n_worst = math.ceil(len(worst) / 100)
    sums["worst_percent_share"][0] = -sum(n for n, _ in sorted(worst)[:n_worst])
    return sums


@pytest.fixture(scope="module")
def clips() -> list[Prediction]:
    generator = random.Random(11)
    made = predictions([(f"s{n % 90}", *draw(generator)) for n in range(N_CLIPS)])
    return [dataclasses.replace(p, utterance_id=f"u{n:05}") for n, p in enumerate(made)]


@pytest.mark.slow
def test_every_rate_equals_an_independent_computation(clips: list[Prediction]) -> None:
    table = count_utterances(clips, "pronunciation")
    assert {"", "reference_empty", "reference_masked"} == set(table["excluded"])
    expected = expected_sums(clips)
    without = [("(" not in p.reference) for p in clips]
    found = rates(table) | {name: rates(table[without])[name] for name in ("number_exact", "number_ambiguity")}
    for name in MEASURES:
        top, bottom = expected[name]
        assert bottom, name
        assert found[name] == pytest.approx(top / bottom, abs=1e-9), name
