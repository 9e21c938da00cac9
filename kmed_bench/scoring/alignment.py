"""Where a hypothesis differs from its reference: the edits that ``cer`` counts, paired by sound.

jiwer returns one of several alignments that tie. Here the letters that two syllables share break the tie, which makes
errors easier to read; the number of substitutions, deletions and insertions stays the same.
"""

import itertools
from collections.abc import Iterator

import jiwer

from kmed_bench.scoring.edits import align_characters

# Letters of a precomposed syllable in the order of its code point: The Unicode Standard, section 3.12.
_ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_NUCLEI = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_CODAS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
_FIRST_SYLLABLE, _LAST_SYLLABLE = "가", "힣"


def align(reference: str, hypothesis: str) -> list[jiwer.AlignmentChunk]:
    """Return the runs of equal, substituted, deleted and inserted characters, in the order of the text.

    There are as many of each as ``cer`` counts. Among alignments that tie, neighbouring errors pair with what sounds
    closest: with the reference 이높아 and the hypothesis 노파, 높 became 노, and 이 was lost.
    """
    runs: list[jiwer.AlignmentChunk] = []
    chunks = align_characters([reference], [hypothesis])[0]
    for equal, block in itertools.groupby(chunks, lambda chunk: chunk.type == "equal"):
        members = list(block)
        if equal or len(members) == 1:
            runs += members
        else:
            runs += _pair(reference, hypothesis, members[0], members[-1])
    return runs


def _pair(
    reference: str, hypothesis: str, first: jiwer.AlignmentChunk, last: jiwer.AlignmentChunk
) -> Iterator[jiwer.AlignmentChunk]:
    """Yield the runs of a stretch of errors, whose two sides may differ in length.

    A stretch of r reference and h hypothesis characters without a match costs max(r, h) edits however they pair, so
    only the positions of the unpaired ones are free.
    """
    start, begin = first.ref_start_idx, first.hyp_start_idx
    one, two = reference[start : last.ref_end_idx], hypothesis[begin : last.hyp_end_idx]
    inserted = len(one) < len(two)
    short, long = (one, two) if inserted else (two, one)
    paired = set(_closest_positions(short, long))
    done = 0
    for is_pair, group in itertools.groupby(range(len(long)), paired.__contains__):
        positions = list(group)
        near, far = (done, done + len(positions) * is_pair), (positions[0], positions[-1] + 1)
        (a, b), (c, d) = (near, far) if inserted else (far, near)
        kind = "substitute" if is_pair else "insert" if inserted else "delete"
        yield jiwer.AlignmentChunk(kind, start + a, start + b, begin + c, begin + d)
        done = near[1]


def _closest_positions(short: str, long: str) -> list[int]:
    """Return rising positions in ``long``, one per character of ``short``, with the least sum of unlikeness."""
    spare = len(long) - len(short)
    best = [0.0] * (spare + 1)  # least sums, by how many characters of the longer side were skipped so far
    origins: list[list[int]] = []
    for index, character in enumerate(short):
        reached, origin = [], []
        least = 0
        for skipped in range(spare + 1):
            least = skipped if best[skipped] < best[least] else least
            reached.append(best[least] + unlikeness(character, long[index + skipped]))
            origin.append(least)
        best = reached
        origins.append(origin)
    skipped = best.index(min(best))
    positions = []
    for index in reversed(range(len(short))):
        positions.append(index + skipped)
        skipped = origins[index][skipped]
    return positions[::-1]


def unlikeness(one: str, two: str) -> float:
    """Return the share of onset, nucleus and coda in which two characters differ; 1 unless both are Hangul."""
    a, b = split_syllable(one), split_syllable(two)
    return sum(x != y for x, y in zip(a, b, strict=True)) / 3 if a and b else 1.0


def split_syllable(syllable: str) -> tuple[str, str, str] | None:
    """Return onset, nucleus and coda (empty if there is none) of one Hangul syllable; None for anything else."""
    if len(syllable) != 1 or not _FIRST_SYLLABLE <= syllable <= _LAST_SYLLABLE:
        return None
    rest, coda = divmod(ord(syllable) - ord(_FIRST_SYLLABLE), len(_CODAS))
    onset, nucleus = divmod(rest, len(_NUCLEI))
    return _ONSETS[onset], _NUCLEI[nucleus], _CODAS[coda]
