"""The catalogue of translations: every text of the code is in it, translated, with its placeholders, and compiled."""

import gettext
import re
import string
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import messages  # noqa: E402

FOUND = {(message.context, message.id): message for message in messages.messages(messages.extract())}
KNOWN = {(message.context, message.id): message for message in messages.messages(messages.read())}


def forms(text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def placeholders(text: str, *, in_template: bool) -> set[str | None]:
    """Names in ``{n:,}`` of the code or ``%(n)s`` of a template, and what is wrong with a per cent sign there."""
    if not in_template:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    return set(re.findall(r"%\((\w+)\)s|(?<!%)(%)(?![(%])", text.replace("%%", "")))


def test_every_text_of_code_and_templates_is_in_the_catalogue_and_nothing_else():
    assert len(FOUND) > 10
    assert set(FOUND) - set(KNOWN) == set()  # `make messages`, then translate them in the .po file
    assert set(KNOWN) - set(FOUND) == set()


def test_every_text_is_translated_with_the_same_placeholders():
    for (context, text), message in KNOWN.items():
        in_template = any(name.endswith(".html") for name, _ in FOUND[context, text].locations)
        assert not message.fuzzy, text
        for form in forms(message.string):
            assert form.strip(), text
            names = placeholders(forms(text)[-1], in_template=in_template)
            assert placeholders(form, in_template=in_template) == names, text


def test_what_the_package_reads_is_compiled_from_the_catalogue():
    with messages.MO.open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for (context, text), message in KNOWN.items():
        if context:
            assert compiled.pgettext(context, text) == message.string
        elif isinstance(text, str):
            assert compiled.gettext(text) == message.string
        else:
            assert compiled.ngettext(*text, 2) == forms(message.string)[0]
    entries = [entry for entry in vars(compiled)["_catalog"] if entry]
    assert len(entries) == sum(len(forms(message.string)) for message in KNOWN.values())


def test_an_update_keeps_translations_and_names_new_texts():
    found = messages.extract()
    found.add("a text that nobody has translated")
    assert messages.update(found, messages.read()) == ["a text that nobody has translated"]
    assert found.get("size").string == "크기"


def test_placeholders_of_code_and_of_templates_are_read_differently():
    """In code ``% i`` is none; a check by Python's own rules would refuse each translation of such a text."""
    assert placeholders("{n:,} clips of {part}, 95 % intervals", in_template=False) == {"n", "part"}
    assert placeholders("%(n)s clips, 95 %% of %(part)s", in_template=True) == {("n", ""), ("part", "")}
    assert placeholders("95 % of them", in_template=True) == {("", "%")}
