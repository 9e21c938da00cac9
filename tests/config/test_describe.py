"""Every setting explains itself, and docs/settings.md is what they say."""

import ast
import re
from pathlib import Path

import pytest

from kmed_bench.commands.settings import settings_page
from kmed_bench.config import Config, Decides, flatten, load_config
from kmed_bench.config.describe import (
    describe_group,
    describe_settings,
    profile_values,
    setting_keys,
    settings_text,
)
from kmed_bench.config.load import RENAMED

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"(?<![\w./])(?:data|split|model|features|train|eval|tracking|tune)\.[a-z_]*[a-z](?![\w(.])")
FILES = ("html", "parquet", "json", "jsonl", "md", "py", "yaml", "pt", "bin", "safetensors", "png")


def test_every_setting_has_a_meaning() -> None:
    settings = describe_settings()
    assert tuple(settings) == setting_keys() == tuple(key for key in flatten(Config()) if "." in key)
    for setting in settings.values():
        assert re.fullmatch(r"[A-Z(].{10,}\.", setting.meaning), setting.key
        assert setting.kind
    for group in {key.split(".")[0] for key in settings}:
        assert describe_group(group).endswith(".")


@pytest.mark.parametrize(
    ("key", "kind", "default", "decides"),
    [
        ("train.lr", "number > 0", "2e-05", "training"),
        ("train.max_len", "whole number, 8 to 448", "80", "training"),
        ("train.grad_clip", "number > 0 or none", "none", "training"),
        ("train.schedule", "constant, linear or cosine", "constant", "training"),
        ("train.speed_factors", "list of: number, 0.5 to 2", "none", "training"),
        ("data.max_duration_s", "number > 0 and ≤ 30", "30.0", "data"),
        ("model.skip_unavailable", "true or false", "false", "nothing"),
        ("features.dtype", "fp32 or fp16", "fp32", "training, decoding"),
        ("split.disjoint", "list of: text", "speaker,sentence", "data"),
    ],
)
def test_types_limits_and_marks_in_words(key: str, kind: str, default: str, decides: str) -> None:
    setting = describe_settings()[key]
    assert (setting.kind, setting.default, setting.decides) == (kind, default, decides)


def test_profiles_are_shown_where_they_differ() -> None:
    values = profile_values(["demo", "original"])
    assert values["train.seeds"] == {"original": "0,1,2"}
    assert values["train.epochs"] == {"demo": "3"}
    assert values["split.disjoint"] == {"original": "none"}
    assert values["train.lr"] == {}


@pytest.mark.parametrize("width", [40, 72, 120])
def test_plain_text_keeps_to_its_width(width: int) -> None:
    text = settings_text({key: key for key in setting_keys() if key != "tune.space"}, ["demo"], width)
    long = [line for line in text.splitlines() if len(line) > width]
    assert all(len(line.split()) == 1 for line in long)  # one word that is longer than the line
    assert "Learning rate of AdamW" in " ".join(text.split())


def test_the_page_of_settings_is_fresh() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "run `make docs-settings`"
    for kind in Decides:
        assert f"`{str(kind.name).lower()}`" in page


def test_renamed_settings_have_their_new_names() -> None:
    keys = set(setting_keys())
    for old, new in RENAMED.items():
        # A table that is ahead of the code by a rename points to nothing, and its setting still works.
        assert (old not in keys and new in keys) or (old in keys and new not in keys)
    assert load_config().features.cache_gib == 64


PAGES = [ROOT / "README.md", ROOT / "MLproject", *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "LOG.md"], ids=lambda path: path.name)
def test_documents_name_settings_that_exist(path: Path) -> None:
    assert unknown_settings(path.read_text(encoding="utf-8")) == set()


SOURCES = sorted({*(ROOT / "kmed_bench").rglob("*.py")} - {ROOT / "kmed_bench" / "__init__.py"})  # it names modules


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_messages_name_settings_that_exist(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert unknown_settings("\n".join(texts)) <= {*RENAMED, *RENAMED.values()}


def unknown_settings(text: str) -> set[str]:
    return {key for key in NAMED.findall(text) if key not in setting_keys() and key.split(".")[1] not in FILES}
