"""Tables on standard output: drawn on a terminal, a line for each row in a log."""

import sys
from collections.abc import Iterator, Sequence

from kmed_bench.report.table_view import View, cell


def print_views(views: Sequence[View]) -> None:
    """Print tables with the texts that a page would show in their cells."""
    if sys.stdout.isatty():
        _draw(views)
    else:
        for view in views:
            print("\n".join(plain_lines(view)))


def plain_lines(view: View) -> Iterator[str]:
    """Yield a table's caption, and each row as a line that can be read, and searched for, without the others."""
    yield view.caption
    texts = [column for column in view.columns if column.kind == "text"]
    numbers = [column for column in view.columns if column.kind != "text"]
    for row in view.records():
        head = ", ".join(_printable(cell(row, column).striptags()) for column in texts)
        shown = [cell(row, column).striptags() for column in numbers]
        if len(shown) > 1:
            shown = [f"{column.label} {text}" for column, text in zip(numbers, shown, strict=True)]
        yield f"  {head}: {', '.join(shown)}"


def _draw(views: Sequence[View]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for view in views:
        console.print(Text(view.caption, style="bold"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in view.columns:
            table.add_column(Text(column.label), justify="left" if column.kind == "text" else "right", overflow="fold")
        for row in view.records():
            texts = [Text(_printable(cell(row, column).striptags())) for column in view.columns]
            table.add_row(*texts, style="dim" if view.weak and row[view.weak] else "")
        console.print(table)


def _printable(text: str) -> str:
    """Return a text without control characters: values are as a label has them, and a terminal obeys some."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
