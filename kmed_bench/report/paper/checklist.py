"""A checklist of what guidelines for medical AI ask to be reported, and where this benchmark reports it."""

from importlib import resources

import pandas as pd

from kmed_bench.core.language import N_, gettext
from kmed_bench.report.paper.tables import PaperTable
from kmed_bench.report.paper.wording import Facts

SOURCES = {
    "TRIPOD+AI": "G. Collins et al., BMJ 2024;385:e078378",
    "CLAIM": "J. Mongan, L. Moy, C. Kahn, Radiology: Artificial Intelligence 2020;2(2):e200029; update: A. Tejani et "
    "al., "
    "2024;6(4):e240300",
    "STARD-AI": "V. Sounderajah et al., Nature Medicine 2025",
    "MI-CLAIM": "B. Norgeot et al., Nature Medicine 2020;26:1320-1324",
}
"""Where each guideline is published; the topics in checklist.csv are in this project's words."""
MISSING = N_("not in this record: you add it")
NOT_COVERED = N_("not covered by this benchmark: you add it")


def checklist(facts: Facts) -> PaperTable:
    """Return a row per topic: the guideline, the topic, where it is reported, or that the author adds it."""
    with (resources.files("kmed_bench.report.paper") / "checklist.csv").open(encoding="utf-8") as stream:
        topics = pd.read_csv(stream, keep_default_na=False)
    known = {*facts, *("corpus" for name in ("aihub", "aihub_layout", "source", "synthetic") if name in facts)}
    rows = []
    for guideline, topic, fact, where in topics.itertuples(index=False):
        if fact in known:
            reported = gettext("reported in: {where}", where=gettext(where))
        else:
            reported = gettext(MISSING if fact else NOT_COVERED)
        rows.append([guideline, gettext(topic), reported])
    sources = "; ".join(f"{name}: {source}" for name, source in SOURCES.items())
    return PaperTable(
        name="checklist",
        caption=gettext("Topics of reporting guidelines that carry over to a benchmark of speech recognition"),
        columns=[gettext("Guideline"), gettext("Topic"), gettext("Where")],
        rows=rows,
        n_text=3,
        notes=gettext(
            "None of these guidelines was written for speech recognition, and this is no substitute for their own "
            "checklists; topics are in our words. Sources: {sources}.",
            sources=sources,
        ),
    )
