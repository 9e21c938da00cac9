"""Bring the catalogue of translations up to date with the texts of code and templates, and compile it.

Translations stay; texts that are gone are left out; new ones are listed, for someone to translate in the .po file.
"""

import csv
import datetime
import io
import sys
from collections.abc import Iterable
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
PO = ROOT / "kmed_bench/locale/ko/LC_MESSAGES/kmed_bench.po"
TABLES = {
    "kmed_bench/report/published.csv": ("training", "test_set", "rules", "source"),
    "kmed_bench/report/paper/checklist.csv": ("topic", "where"),
}
"""Tables of texts to their columns that pages show."""
MO = PO.with_suffix(".mo")

_METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2")]
_OPTIONS = {
    "**/templates/**.html": {
        "trimmed": "true",  # as report.rendering reads them
        "trim_blocks": "true",
        "lstrip_blocks": "true",
        "newstyle_gettext": "true",
        "silent": "false",
    }
}
_DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)  # the same bytes on every day
_HEADER = """\
# The texts of kmed-bench's pages. `make messages` brings this file up to date with the code and compiles it.
msgid ""
msgstr ""
"Project-Id-Version: kmed-bench\\n"
"Language: ko\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


def extract() -> Catalog:
    """Return the texts of the package, each with the files that show it, without translations."""
    found = Catalog(locale="ko", project="kmed-bench", creation_date=_DAY, revision_date=_DAY)
    for name, _, message, _, context in extract_from_dir(ROOT / "kmed_bench", _METHODS, _OPTIONS):
        found.add(message, locations=[(f"kmed_bench/{name}", 1)], context=context)
    for path, columns in TABLES.items():
        with (ROOT / path).open(encoding="utf-8", newline="") as file:
            for text in (row[column] for row in csv.DictReader(file) for column in columns if row[column]):
                found.add(text, locations=[(path, 1)])
    for message in messages(found):  # in code "95 % intervals" is no placeholder, in a template a brace is none
        in_template = any(name.endswith(".html") for name, _ in message.locations)
        message.flags.discard("python-brace-format" if in_template else "python-format")
    return found


def messages(catalogue: Catalog) -> Iterable[Message]:
    """Yield the messages of a catalogue without its header."""
    return (message for message in catalogue if message.id)


def update(found: Catalog, earlier: Catalog) -> list[str]:
    """Give the found texts their earlier translations, and return those that have none."""
    missing = []
    for message in messages(found):
        known = earlier.get(message.id, message.context)
        forms = known.string if known is not None and isinstance(known.string, tuple) else (known and known.string,)
        if known is not None and all(forms) and not known.fuzzy:
            message.string = known.string
        elif isinstance(message.id, str):
            missing.append(message.id)
        else:
            message.string = ("",)  # Korean has one form
            missing.append(message.id[0])
    return missing


def read() -> Catalog:
    """Return the catalogue as the .po file has it."""
    with PO.open("rb") as file:
        return read_po(file, locale="ko")


def write(catalogue: Catalog) -> None:
    """Write the .po file, sorted by file, and the compiled .mo file."""
    text = io.BytesIO()
    write_po(text, catalogue, width=120, omit_header=True, sort_by_file=True, include_lineno=False)
    PO.write_bytes(_HEADER.encode() + text.getvalue())
    with MO.open("wb") as file:
        write_mo(file, catalogue)


def main() -> int:
    """Return 1 if a text has no translation."""
    found = extract()
    missing = update(found, read())
    write(found)
    for text in missing:
        print(f"Not translated: {text}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
