"""Writes the folder of a paper's parts."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from kmed_bench.core.contracts import NamedComparison
from kmed_bench.core.files import write_text_atomically
from kmed_bench.core.language import current_language, gettext
from kmed_bench.core.records import BenchRecord
from kmed_bench.report.figures import save_plots
from kmed_bench.report.page_tables import make_frames
from kmed_bench.report.paper.checklist import checklist
from kmed_bench.report.paper.facts import collect_facts
from kmed_bench.report.paper.figures import DOUBLE_MM, SINGLE_MM, is_wide, paper_style, save_figure
from kmed_bench.report.paper.methods import methods
from kmed_bench.report.paper.references import references
from kmed_bench.report.paper.results import results
from kmed_bench.report.paper.tables import PaperTable, paper_tables
from kmed_bench.report.paper.wording import LANGUAGES, latex, markdown
from kmed_bench.report.plots import Plot
from kmed_bench.scoring.recommendation import recommend

_KOREAN_NAMES = r"""\renewcommand{\tablename}{표}
\renewcommand{\figurename}{그림}
\renewcommand{\refname}{참고 문헌}
"""
_DOCUMENT = r"""% Shows all parts together: xelatex paper, bibtex paper, xelatex paper, xelatex paper.
\documentclass[10pt,a4paper]{article}
\usepackage[margin=17.5mm]{geometry}
\usepackage{booktabs,graphicx,url,fontspec}
\setmainfont{NanumGothic} % or any other font with Hangul
\begin{document}
"""


def write_paper(record: BenchRecord, out: Path, *, comparisons: Sequence[NamedComparison] = ()) -> Path:
    """Write tables, figures, paragraphs, checklist and references of a benchmark, and return the folder.

    Tables, captions, figures and checklist are in the language in use; paragraphs are written in both languages.

    Parameters
    ----------
    record : BenchRecord
        As read from the store. What it lacks is left out.
    out : Path
        The folder, which is made.
    comparisons : sequence of mapping
        What ``scoring.significance.compare_systems`` returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = dataclasses.replace(record, comparisons=tuple(comparisons))
    advice = recommend(record)
    frames = make_frames(record, comparisons, advice)
    facts = collect_facts(record)
    tables = paper_tables(record, frames)
    for table in tables:
        write_text_atomically(out / f"table-{table.name}.tex", table.latex())
    for table in (*tables, checklist(facts)):
        _write_plain(table, out)
    with paper_style():
        saved = save_plots(frames, advice.best, functools.partial(save_figure, out))
    plots = [plot for section in saved.values() for plot in section]
    write_text_atomically(out / "figures.tex", "\n".join(map(_figure, plots)))
    write_text_atomically(out / "references.bib", references(facts))
    for language in LANGUAGES:
        for name, sections in (
            ("methods", methods(facts, language)),
            ("results", {"": results(record, advice, language)}),
        ):
            heads = [f"**{head}.** " if head else "" for head in sections]
            paragraphs = [f"{head}{markdown(text)}" for head, text in zip(heads, sections.values(), strict=True)]
            write_text_atomically(out / f"{name}-{language}.md", "\n\n".join(paragraphs) + "\n")
            heads = [rf"\paragraph{{{latex(head)}}} " if head else "" for head in sections]
            paragraphs = [f"{head}{latex(text)}" for head, text in zip(heads, sections.values(), strict=True)]
            write_text_atomically(out / f"{name}-{language}.tex", "\n\n".join(paragraphs) + "\n")
    write_text_atomically(out / "paper.tex", _document(tables))
    return out


def _write_plain(table: PaperTable, out: Path) -> None:
    write_text_atomically(out / f"table-{table.name}.md", table.markdown())
    write_text_atomically(out / f"table-{table.name}.csv", table.csv())


def _figure(plot: Plot) -> str:
    star, width = ("*", DOUBLE_MM) if is_wide(plot.name) else ("", SINGLE_MM)
    return "\n".join(
        [
            rf"\begin{{figure{star}}}",
            r"\centering",
            rf"\includegraphics[width={width:g}mm]{{figure-{plot.name}.pdf}}",
            rf"\caption{{{latex(plot.caption)}}}\label{{fig:{plot.name}}}",
            rf"\end{{figure{star}}}",
            "",
        ]
    )


def _document(tables: Sequence[PaperTable]) -> str:
    heading = gettext("Text")  # Babel sees no call inside an f-string
    shown_in = ("ko",) if current_language() == "ko" else LANGUAGES
    texts = [rf"\input{{{name}-{language}}}" for language in shown_in for name in ("methods", "results")]
    shown = [rf"\input{{table-{table.name}}}" for table in tables]
    end = [r"\clearpage", r"\input{figures}", r"\clearpage", r"\nocite{*}", r"\bibliographystyle{plain}"]
    lines = [
        rf"\section*{{{latex(heading)}}}",
        "\n\n".join(texts),
        r"\clearpage",
        *shown,
        *end,
        r"\bibliography{references}",
    ]
    names = _KOREAN_NAMES if current_language() == "ko" else ""
    return _DOCUMENT + names + "\n".join([*lines, r"\end{document}", ""])
