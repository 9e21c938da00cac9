"""The error analysis as local files: CSV tables, a summary, and one page to open in a browser."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kmed_bench.core.contracts import Scores
from kmed_bench.core.error_contracts import ERROR_SUMMARY, ErrorOverview, ErrorSummary, PageContents
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json, write_text_atomically
from kmed_bench.core.finished import MADE_OF
from kmed_bench.core.language import N_, gettext
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.spreadsheets import csv_text
from kmed_bench.report.error_clips import Beside, describe_clips, list_clips, list_filters
from kmed_bench.report.recordings import CutIn, ReadClip, choose_form, cut_in
from kmed_bench.report.rendering import render
from kmed_bench.report.words import category_word
from kmed_bench.scoring.analysis import ErrorAnalysis, analyse_errors
from kmed_bench.scoring.groups import score_predictions
from kmed_bench.scoring.measures import versions
from kmed_bench.scoring.options import ScoringOptions

NOTICE = N_(
    "These files hold transcripts and recordings of people's speech and what a model made of them. They are private: "
    "keep them on this machine, and do not log, attach or publish them."
)
_SHOWN = 50
"""Rows of each table on the page; the CSV files have all of them."""
_DEFAULT = ScoringOptions()
_COUNTS_BYTES = 1024
"""What the counts of the page may grow by once its recordings are known."""
LABELS = {
    **{"latin": N_("Latin letters"), "native": N_("native word"), "loan": N_("loan word")},
    **{"word": N_("short word"), "short": N_("short form"), "part": N_("part of a verb")},
    "unit": N_("unit"),
    **{"onset": N_("onset"), "nucleus": N_("nucleus"), "coda": N_("coda")},
    **{"reference_empty": N_("reference empty"), "reference_masked": N_("reference masked")},
    **{"pronunciation": N_("pronunciation"), "spelling": N_("spelling")},
}
"""What the page calls kinds of spellings, places in a syllable, exclusions and sides of labels."""


def write_error_analysis(
    folder: Path,
    predictions: Sequence[Prediction],
    options: ScoringOptions = _DEFAULT,
    *,
    name: str = "model",
    beside: Beside | None = None,
    read_clip: ReadClip | None = None,
    max_bytes: int = 64 << 20,
    made_of: str = "",
) -> Path:
    """Write the error analysis of one system and return the path of its ``index.html``.

    The page lists the clips, worst first, with their recordings, and shows the beginning of each table. Beside it are
    the whole tables: ``clips.csv``, ``edits.csv``, ``confusions_syllable.csv``, ``confusions_jamo.csv``,
    ``confusions_word.csv``, ``missed_terms.csv``, ``accepted_spellings.csv`` and ``inventions_in_silence.csv`` (UTF-8
    with a byte-order mark, which spreadsheets need to show Hangul), and ``summary.json``. All of them are private:
    they hold transcripts, and the page recordings. Nothing leaves the folder.

    Parameters
    ----------
    name : str
        What the page calls the system.
    beside : Beside, optional
        A second system, which the page shows below the first.
    read_clip : callable, optional
        Returns an utterance's samples, mono, 16 kHz. None: the page has no recordings.
    max_bytes : int
        Largest size of the page; 64 MiB hold some four hours of speech. What does not fit is left out and counted:
        first the recordings of the clips with the fewest errors, then those clips.
    made_of : str
        Digest by which the same command finds the analysis again.

    Raises
    ------
    KmedError
        When there are no predictions, an utterance appears twice, the second system's utterances are others, the page
        can't be made so small, or the folder is in use and others can read it.
    """
    scores = score_predictions(predictions, options)
    analysis = analyse_errors(predictions, options.transcript_side)
    clips = list_clips(analysis, beside, predictions, options.transcript_side)
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
    overview = _summarise(analysis, scores, name, beside)
    html, contents = _fit_page(analysis, overview, clips, read_clip, max_bytes)
    write_text_atomically(folder / "index.html", html, private=True)
    summary: ErrorSummary = {**overview, "page": contents}
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


def _summarise(analysis: ErrorAnalysis, scores: Scores, name: str, beside: Beside | None) -> ErrorOverview:
    edits, clips = analysis.edits, analysis.clips

    def count(kind: str, side: str) -> int:
        return int(edits.loc[edits["kind"] == kind, side].str.len().sum())

    signs = clips["signs"].astype(str).str.split().explode().dropna()
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
        "beside": None if beside is None else beside.name,
        **versions(),
    }


def _share_of_worst_tenth(clips: pd.DataFrame) -> float | None:
    """Return the share of all errors that the worst tenth of the clips has; None without errors."""
    total = int(clips["errors"].sum())
    return int(clips["errors"].head(-(-len(clips) // 10)).sum()) / total if total else None


def _fit_page(
    analysis: ErrorAnalysis, overview: ErrorOverview, clips: pd.DataFrame, read_clip: ReadClip | None, max_bytes: int
) -> tuple[str, PageContents]:
    """Return the page within its size, and what it holds: the worst clips, then the recordings of the worst of them."""
    shown, sound, room = clips, None, max_bytes
    if read_clip is not None:
        sound = CutIn(form=choose_form(), left_out=dict.fromkeys(clips["utterance_id"], 0.0))
        room //= 2  # of many thousand clips, the texts would leave none for recordings
    while True:
        html = _render(analysis, overview, shown, _describe_contents(clips, len(shown), sound, 0), sound)
        size = len(html.encode())
        if size <= room:
            break
        if not len(shown):
            raise KmedError(
                f"The page takes {size:,} bytes without any clip, more than the {room:,} that {max_bytes:,} leave for "
                "its text; give it more: --max-mib 64."
            )
        shown = shown.head(int(len(shown) * min(max(room, 0) / size, 0.9)))
    if read_clip is not None:
        wanted = [*zip(shown["utterance_id"], shown["duration_s"], strict=True)]
        sound = cut_in(wanted, read_clip, max_bytes - size - _COUNTS_BYTES)
    contents = _describe_contents(clips, len(shown), sound, size)
    return _render(analysis, overview, shown, contents, sound), contents


def _describe_contents(clips: pd.DataFrame, n_shown: int, sound: CutIn | None, text_bytes: int) -> PageContents:
    """Return what a page holds of the clips and the recordings, and the size that would hold all of them."""
    left_out_s = float(clips["duration_s"].iloc[n_shown:].sum()) + sum(sound.left_out.values() if sound else ())
    complete = n_shown == len(clips) and not (sound and sound.left_out)
    needed = text = text_bytes * len(clips) / max(n_shown, 1)
    if sound is not None:
        needed = max(text + sound.n_bytes + left_out_s * sound.bytes_per_s, 2 * text)
    return {
        "clips": n_shown,
        "clips_left_out": len(clips) - n_shown,
        "recordings": None if sound is None else len(sound.sources),
        "recordings_unreadable": len(sound.faults) if sound else 0,
        "recordings_left_out": len(sound.left_out) if sound else 0,
        "audio_s": sound.audio_s if sound else 0.0,
        "audio_form": sound.form.name if sound else "",
        "audio_mib_per_minute": 60 * sound.bytes_per_s / 2**20 if sound else 0.0,
        "needed_mib": None if complete else math.ceil(1.1 * needed / 2**20),
    }


def _render(
    analysis: ErrorAnalysis, overview: ErrorOverview, clips: pd.DataFrame, contents: PageContents, sound: CutIn | None
) -> str:
    filters, tags = list_filters(clips, overview["beside"])
    return render(
        "errors.html",
        script="errors.js",
        summary=overview,
        contents=contents,
        filters=filters,
        clips=describe_clips(clips, tags),
        sound=sound,
        shown=_SHOWN,
        n_silence=len(analysis.silence),
        highest=_highest_rate(overview, clips),
        labels={name: gettext(label) for name, label in LABELS.items()},
        found_terms=_list_found(overview),
        terms=[
            {**row, "category": category_word(row["category"])}
            for row in analysis.terms.head(_SHOWN).to_dict("records")
        ],
        spellings=analysis.spellings.head(_SHOWN).to_dict("records"),
        confusions={
            N_("Syllables"): analysis.syllables.head(_SHOWN).to_dict("records"),
            N_("Jamo"): analysis.jamo.head(_SHOWN).to_dict("records"),
            N_("Words"): analysis.words.head(_SHOWN).to_dict("records"),
        },
    )


def _highest_rate(overview: ErrorOverview, clips: pd.DataFrame) -> float:
    """Return the highest error rate on the page: of the whole, of its interval, or of a clip."""
    rated, overall = clips[clips["length"] > 0], overview["overall"]
    of_clips = [float((rated[name] / rated["length"]).max()) for name in ("errors", "beside_errors") if name in rated]
    return max(overall["cer"] or 0.0, overall["cer_high"] or 0.0, *(rate for rate in of_clips if rate == rate))


def _list_found(overview: ErrorOverview) -> str:
    """Return how many terms of each category were found, those without any left out."""
    return "; ".join(
        gettext("{category} {found} of {n}", category=category_word(name), found=row["n_found"], n=row["n_terms"])
        for name, row in overview["terms"].items()
        if row["n_terms"]
    )
