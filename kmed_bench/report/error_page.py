"""The error analysis as local files: CSV tables, a summary, and one page to open in a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from kmed_bench.core.contracts import ERROR_SUMMARY, ErrorSummary, Scores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json, write_text_atomically
from kmed_bench.core.finished import MADE_OF
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.spreadsheets import csv_text
from kmed_bench.report.rendering import render
from kmed_bench.scoring.alignment import align
from kmed_bench.scoring.analysis import ErrorAnalysis, analyse_errors
from kmed_bench.scoring.groups import score_predictions
from kmed_bench.scoring.measures import versions
from kmed_bench.scoring.options import ScoringOptions

NOTICE = (
    "These files hold transcripts of people's speech and what a model made of them. They are private: "
    "keep them on this machine, and do not log, attach or publish them."
)
_SHOWN = 50
"""Rows of each table on the page; the CSV files have all of them."""
_DEFAULT = ScoringOptions()

Segment = tuple[str, str, str]


def write_error_analysis(
    folder: Path,
    predictions: Sequence[Prediction],
    options: ScoringOptions = _DEFAULT,
    *,
    name: str = "model",
    made_of: str = "",
) -> Path:
    """Write the error analysis of one system and return the path of its ``index.html``.

    The page shows the beginning of each table. Beside it are the whole tables: ``clips.csv``, ``edits.csv``,
    ``confusions_syllable.csv``, ``confusions_jamo.csv``, ``confusions_word.csv``, ``missed_terms.csv``,
    ``accepted_spellings.csv`` and ``inventions_in_silence.csv`` (UTF-8 with a byte-order mark, which spreadsheets need
    to show Hangul), and ``summary.json``. All of them hold private transcripts; nothing leaves the folder.

    Parameters
    ----------
    name : str
        What the page calls the system.
    made_of : str
        Digest by which the same command finds the analysis again.

    Raises
    ------
    KmedError
        When there are no predictions, an utterance appears twice, or the folder is in use and others can read it.
    """
    scores = score_predictions(predictions, options)
    analysis = analyse_errors(predictions, options.transcript_side)
    tables = {
        "clips": analysis.clips,
        "edits": analysis.edits,
        "confusions_syllable": analysis.syllables,
        "confusions_jamo": analysis.jamo,
        "confusions_word": analysis.words,
        "missed_terms": analysis.terms,
        "accepted_spellings": analysis.spellings,
        "inventions_in_silence": analysis.silence,
    }
    make_private(folder)
    for stem, table in tables.items():
        write_text_atomically(folder / f"{stem}.csv", "\ufeff" + csv_text(table), private=True)
    summary = _summarise(analysis, scores, name)
    write_text_atomically(folder / "index.html", _render(analysis, summary), private=True)
    # Last: it says that all the others are there.
    write_json(folder / "summary.json", {**summary, MADE_OF: made_of}, private=True)
    return folder / "index.html"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can open; the mode of one in use is left to its users."""
    if folder.exists() and any(folder.iterdir()) and folder.stat().st_mode & 0o077:
        raise KmedError(
            f"{folder} holds files and can be opened by others (mode {folder.stat().st_mode & 0o777:o}); an error "
            f"analysis holds transcripts and needs mode 700: name a new folder, or run `chmod 700 {folder}`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _summarise(analysis: ErrorAnalysis, scores: Scores, name: str) -> ErrorSummary:
    edits, clips = analysis.edits, analysis.clips

    def count(kind: str, side: str) -> int:
        return int(edits.loc[edits["kind"] == kind, side].str.len().sum())

    signs = clips["signs"].str.split().explode().dropna()
    return {
        **ERROR_SUMMARY.head,
        "notice": NOTICE,
        "name": name,
        "overall": scores["overall"],
        "terms": scores["terms"],
        "n_excluded": scores["n_excluded"],
        "substitutions": count("substitute", "reference"),
        "deletions": count("delete", "reference"),
        "insertions": count("insert", "hypothesis"),
        "n_perfect_clips": int((clips["errors"] == 0).sum()),
        "n_hallucinated_clips": len(analysis.hallucinations),
        "hallucination_signs": {str(sign): int(n) for sign, n in signs.value_counts().items()},
        "worst_tenth_share_of_errors": _share_of_worst_tenth(clips),
        "transcript_policy": scores["transcript_policy"],
        **versions(),
    }


def _share_of_worst_tenth(clips: pd.DataFrame) -> float | None:
    """Return the share of all errors that the worst tenth of the clips has; None without errors."""
    total = int(clips["errors"].sum())
    return int(clips["errors"].head(-(-len(clips) // 10)).sum()) / total if total else None


def _render(analysis: ErrorAnalysis, summary: ErrorSummary) -> str:
    wrong = analysis.clips[analysis.clips["errors"] > 0]
    return render(
        "errors.html",
        summary=summary,
        shown=_SHOWN,
        worst=_rows(wrong.head(_SHOWN)),
        invented=_rows(analysis.hallucinations.head(_SHOWN)),
        silence=analysis.silence.head(_SHOWN).to_dict("records"),
        n_silence=len(analysis.silence),
        terms=analysis.terms.head(_SHOWN).to_dict("records"),
        spellings=analysis.spellings.head(_SHOWN).to_dict("records"),
        by_category=summary["terms"],
        confusions={
            "Syllables": analysis.syllables.head(_SHOWN).to_dict("records"),
            "Jamo": analysis.jamo.head(_SHOWN).to_dict("records"),
            "Words": analysis.words.head(_SHOWN).to_dict("records"),
        },
    )


def _rows(clips: pd.DataFrame) -> list[dict[str, Any]]:
    segments = [mark_edits(r, h) for r, h in zip(clips["reference"], clips["hypothesis"], strict=True)]
    rows = cast(list[dict[str, Any]], clips.to_dict("records"))
    return [{**row, "segments": segment} for row, segment in zip(rows, segments, strict=True)]


def mark_edits(reference: str, hypothesis: str) -> list[Segment]:
    """Return runs (kind, reference text, hypothesis text) of two normalised texts, for display.

    The runs are those that ``cer`` counts, so spacing is no error; the reference's spaces are put back.
    """
    starts, length = set(), 0
    for word in reference.split():
        starts.add(length)
        length += len(word)
    flat, heard = reference.replace(" ", ""), hypothesis.replace(" ", "")
    segments = []
    for run in align(flat, heard):
        said = "".join(" " * (i in starts and i > 0) + flat[i] for i in range(run.ref_start_idx, run.ref_end_idx))
        if said.startswith(" "):
            segments.append(("equal", " ", ""))
        segments.append((run.type, said.lstrip(), heard[run.hyp_start_idx : run.hyp_end_idx]))
    return segments
