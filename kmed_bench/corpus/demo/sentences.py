"""The sentences written for the demo corpus, by which its synthetic speech is recognised."""

import dataclasses
from collections.abc import Iterable
from importlib import resources

import pandas as pd

from kmed_bench.core.language import N_
from kmed_bench.core.schema import AIHUB_RELEASES

AIHUB = "AI Hub 208"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentence:
    """One prompt: its number, who says it, the label as written, and the text as spoken."""

    number: int
    role: str
    label: str
    spoken: str


def read_sentences() -> list[Sentence]:
    """Return the sentences written for the demo corpus, numbered from 1."""
    text = (resources.files("kmed_bench.corpus.demo") / "demo_sentences.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return [Sentence(number=n, role=r, label=lab, spoken=s) for n, (r, lab, s) in enumerate(rows, start=1)]


def is_synthetic(rows: pd.DataFrame) -> bool:
    """Return whether all labels of a manifest's rows are sentences of the demo corpus.

    The only test of this in the package; split.json keeps its answer for the whole manifest as ``synthetic``.
    """
    return bool(rows["text"].isin({sentence.label for sentence in read_sentences()}).all())


def corpus_name(rows: pd.DataFrame) -> str:
    """Return what the tracking store calls the corpus: generated speech never goes by the recordings' name.

    The release of an imported corpus is its name.
    """
    return name_corpus(synthetic=is_synthetic(rows), releases=rows["release"])


def name_corpus(*, synthetic: bool, releases: Iterable[str]) -> str:
    """Return what `corpus_name` returns, from what it looks at."""
    if synthetic:
        return N_("demo corpus (synthetic)")
    return ", ".join(sorted({*releases} - AIHUB_RELEASES)) or AIHUB
