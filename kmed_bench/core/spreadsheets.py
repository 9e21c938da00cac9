"""CSV text that people open in a spreadsheet, where a cell such as ``=cmd|…`` would be run as a formula."""

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")  # Excel reads full-width ones too
"""What a cell begins with that a spreadsheet does not take as text (OWASP, "CSV Injection")."""


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV without its index; text that a spreadsheet would run begins with an apostrophe.

    Numbers stay numbers, as text too (``-0.5``). The files are for people; what programs read back is written without
    this, since it changes cells.
    """
    shown = table.rename(columns=_as_text)
    for at, kind in enumerate(shown.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_datetime64_any_dtype(kind)):
            shown.isetitem(at, [_as_text(cell) for cell in shown.iloc[:, at]])
    return shown.to_csv(index=False, lineterminator="\n")


def _as_text(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")  # pandas leaves a cell with a lone \r unquoted: two rows
    if not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell if cell[0] in "+-" else f"'{cell}"
