"""Spotting medical terms: precision, recall and time of the package's rules, and of the analyser Kiwi beside them.

    python benchmarks/terms.py [--rounds N]

Reads the labelled sentences of tests/data. Kiwi (``pip install kiwipiepy``, measured with 0.24.1) is given the lexicon
as user words, and its morphemes are looked up there, with and without the lexicon's conditions on the context; without
it the rules alone are measured. Times are CPU seconds per 100,000 sentences.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kmed_bench.text.lexicon import entries_by_term, load_terms
from kmed_bench.text.normalise import normalise
from kmed_bench.text.terms import find_terms, match_terms
from kmed_bench.text.variants import code_switch, resolve_variants

DATA = Path(__file__).parent.parent / "tests" / "data"
LONGEST = 6  # morphemes that a term may consist of
SIDE = 14

Finder = Callable[[str], list[str]]


def read_labelled(part: str) -> list[tuple[str, list[str]]]:
    lines = (DATA / f"terms_{part}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.partition("\t") for line in lines if not line.startswith("#")]
    return [(text, names.split("|") if names else []) for text, _, names in rows]


def measure(find: Finder, part: str) -> str:
    """Return precision, recall and time over a part, terms counted with repeats."""
    rows = read_labelled(part)
    started = time.process_time()
    found = [Counter(find(text)) for text, _ in rows]
    seconds = (time.process_time() - started) / len(rows) * 100_000
    right = sum((names & Counter(labels)).total() for names, (_, labels) in zip(found, rows, strict=True))
    said, wanted = sum(names.total() for names in found), sum(len(labels) for _, labels in rows)
    return f"precision {right / said:.3f} recall {right / wanted:.3f} {seconds:.0f} s"


class Kiwi:
    """Terms by the analyser's morphemes: nouns joined, predicates by their dictionary form."""

    def __init__(self, kiwi: Any, *, conditions: bool) -> None:
        self.kiwi = kiwi
        self.conditions = conditions
        self.names = {spelling: term.name for term in load_terms() for spelling in term.spellings}
        self.guards = {term.name: entries[0] for term, entries in entries_by_term().items() if entries}
        for term in load_terms():
            for spelling in term.spellings:
                if len(spelling) > 1 and not spelling.isascii() and not spelling.endswith("다"):
                    kiwi.add_user_word(spelling, "NNP" if term.category == "drug" else "NNG", 0.0)

    def find(self, text: str) -> list[str]:
        """Return the names of a text's terms in order."""
        return list(self._spot(normalise(text, keep_spaces=True)))

    def _spot(self, text: str) -> Iterator[str]:
        tokens = self.kiwi.tokenize(text)
        at = 0
        while at < len(tokens):
            for end in range(min(len(tokens), at + LONGEST), at, -1):
                name = self._name(tokens[at:end])
                if name and self._fits(name, text, tokens[at].start, tokens[end - 1].start + tokens[end - 1].len):
                    yield name
                    at = end
                    break
            else:
                at += 1

    def _name(self, tokens: list[Any]) -> str | None:
        form = "".join(token.form for token in tokens).lower()
        if len(tokens) == 1 and tokens[0].tag.startswith("V"):
            return self.names.get(tokens[0].lemma)
        if len(tokens) == 2 and tokens[1].tag in ("XSA", "XSV"):
            return self.names.get(f"{form}다")
        nominal = all(token.tag[0] in "NSXW" or token.tag == "MAG" for token in tokens)
        return self.names.get(form) if nominal else None

    def _fits(self, name: str, text: str, start: int, end: int) -> bool:
        entry = self.guards[name]
        around = f"{text[max(0, start - SIDE) : start]}¦{text[end : end + SIDE]}"
        if not self.conditions:
            return True
        return not (entry.never and entry.never.search(around)) and (
            entry.only is None or entry.only.search(around) is not None
        )


def print_speed(rounds: int) -> None:
    texts = [text for part in ("development", "held_out") for text, _ in read_labelled(part)] * rounds
    timed: dict[str, Callable[[str], object]] = {
        "find_terms": find_terms,
        "match_terms": lambda text: match_terms(text, text),
        "resolve_variants": lambda text: resolve_variants(text, text),
        "code_switch": code_switch,
    }
    for name, call in timed.items():
        started = time.process_time()
        call(texts[0])
        first_s = time.process_time() - started
        started = time.process_time()
        for text in texts:
            call(text)
        per_text = (time.process_time() - started) / len(texts)
        print(f"{name}: {per_text * 100_000:.1f} s per 100,000 sentences; the first call {first_s:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print_speed(rounds)
    finders: dict[str, Finder] = {"rules": lambda text: [term.name for term in find_terms(text)]}
    try:
        import kiwipiepy
    except ImportError:
        print("kiwipiepy is not installed: the rules alone")
    else:
        for conditions in (False, True):
            spotter = Kiwi(kiwipiepy.Kiwi(num_workers=1), conditions=conditions)
            finders[f"kiwi, {'with' if conditions else 'without'} the lexicon's conditions"] = spotter.find
    for name, find in finders.items():
        for part in ("development", "held_out"):
            print(f"{name}, {part}: {measure(find, part)}")


if __name__ == "__main__":
    main()
