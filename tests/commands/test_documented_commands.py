"""Every command that README.md and docs/*.md show runs as typed, on a small corpus in place of the download."""

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from documented import PAGES, ROOT, blocks, project_words, quoted_commands, typed_commands
from subcommands import commands
from ward import Ward, make_ward, missing_files

from kmed_bench.cli import parse
from kmed_bench.commands.options import resolve

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

TYPED = {page.name: typed_commands(page) for page in PAGES}
NOT_RUN = {
    r"make (run|test)$": "makes an environment and installs; .ci/run types it",
    r"make (run|test-fast) KIT=": "installs from a kit of gigabytes; tests/pipeline/test_offline_kit.py",
    r"pip install ": "needs a package index; the extras that it names are checked",
    r"export |cd |set -a|[A-Z_]+=\S+$": "prepares a shell",
    r"(exec )?mlflow server |optuna-dashboard |mlflow models serve ": "a server that stays up",
    r"curl |printf |MLFLOW_PYFUNC_INFERENCE_CONFIG=": "asks a server or a process of MLflow's",
    r"pg_dump |tar ": "a server's backup: tests/tracking/test_ward_server.py",
    r"mlflow gc ": "MLflow's own",
    r"openssl |sha256sum ": "makes and checks keys: tests/pipeline/test_offline_kit.py",
    r"sh /media/kit/install.sh|\. \.venv": "installs on another machine: tests/pipeline/test_offline_kit.py",
}  # fmt: skip
"""Commands that no test types, by what they begin with, and why."""
PARSED = {
    r"kmed-bench serve ": "a server that stays up; tests/tracking/test_serving.py starts it",
    r"kmed-bench run ": "takes as long as the benchmark that stands for it",
    r"kmed-bench train .*--tracking.sign_key": "needs a key; tests/tracking/test_passports.py",
    r"kmed-bench offline-kit ": "gathers gigabytes; tests/pipeline/test_offline_kit.py",
    r"kmed-bench (verify|export) .*--(public|sign)-key": "needs a key; tests/tracking/test_passports.py",
    r"kmed-bench bundle RUN…": "README's `bundle` stands for it",
    r"kmed-bench curve ": "trains four times; tests/pipeline/test_learning_curve.py",
    r"mlflow run . --backend kmed-slurm": "needs a cluster; tests/pipeline/test_slurm_bench.py",
    r"kmed-bench tune .*--callback": "joins a study for 30 trials; tests/tuning/test_callbacks.py",
}
"""Commands whose words and settings are only read, and why."""
DOWNLOAD = r"kmed-bench ingest /data|mlflow run \. --env-manager"
"""README's commands that make the benchmark of these tests."""
STATUS = {
    r"kmed-bench promote kmed-whisper-base \d$": 1,  # the gate: a demo corpus never passes
    r"kmed-bench promote kmed-whisper-base \d --(dry-run|force)": 1,
    r"kmed-bench promote kmed-whisper-base --rollback": 2,  # so no champion was before
    r"mlflow run . -e promote": 1,
    r"kmed-bench doctor": 1,  # tiny and small have no weights here
    r"kmed-bench clean --kind features": 2,  # there is no terminal to ask at
}
"""Exit statuses other than 0."""
SAYS = {
    r"kmed-bench promote kmed-whisper-base \d": r'"passed": false',
    r"kmed-bench compare .*--margin": r'"equivalent"',
    r"kmed-bench power": r"needs [\d,]+ speakers",
    r"kmed-bench openings": r"opened",
    r"kmed-bench errors": r"\nErrors: /\S+/index\.html\n$",
    r"kmed-bench unbundle": r"(\d+ runs created, 0 present|0 runs created, \d+ present) before",
    r"kmed-bench export": r"Drift: .*\nExport: ",
    r"kmed-bench resolve": r"^utterance-[0-9a-f]{16}\t\S+_",
}  # fmt: skip
"""What a command's output holds."""


def kind_of(text: str, table: Mapping[str, Any]) -> Any:
    return next((why for beginning, why in table.items() if re.match(beginning, text)), None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Ward]:
    yield from make_ward(tmp_path_factory.mktemp("ward"), tiny_checkpoint)


@pytest.fixture(scope="module")
def ward(prepared: Ward) -> Ward:
    """The folder after README's commands for a download, with the sizes that the error names, pasted."""
    for typed in TYPED["README.md"]:
        if re.match(DOWNLOAD, typed.text):
            prepared.type_download(typed.text)
    prepared.take_benchmark()
    return prepared


def run_page(ward: Ward, page: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a page's commands in their order and compare what they write and say with what is promised."""
    for typed in TYPED[page]:
        if kind_of(typed.text, NOT_RUN) or (page == "README.md" and re.match(DOWNLOAD, typed.text)):
            continue
        words = shlex.split(ward.substitute(typed.text, page, typed.line))
        args = parse(project_words(words) if words[0] == "mlflow" else words[1:])
        if "profile" in args and args.profile != "auto":
            resolve(args)
        if kind_of(typed.text, PARSED):
            continue
        capfd.readouterr()
        status = ward.run(words)
        said, complaint = capfd.readouterr()
        assert status == int(kind_of(typed.text, STATUS) or 0), f"{typed.place}: {shlex.join(words)}\n{complaint}"
        assert missing_files(words, getattr(args, "out", None)) == set(), typed.place
        if expected := kind_of(typed.text, SAYS):
            assert re.search(expected, said, re.DOTALL), f"{typed.place}: {said}"
        for name in re.findall(r"[\w/-]+\.(?:parquet|csv|jsonl?|html)\b", typed.comment if status == 0 else ""):
            assert list(Path().glob(f"**/{name}")), f"{typed.place} names {name}"


def test_a_download_in_the_readmes_commands(ward: Ward, capfd: pytest.CaptureFixture[str]) -> None:
    """The error's sizes are ready to paste, sizes without weights are skipped by name, and all is in one place."""
    assert re.search(r"-P split\.train=\d+ -P split\.valid=\d+ -P split\.test=\d+", ward.advice)
    assert re.search(r"Skipped tiny: .*Skipped small: .*\nReport: \S+/index\.html\nMLflow UI: ", ward.said, re.DOTALL)
    assert {"kmed-output", "mlflow.db", "mlruns"} <= {path.name for path in ward.folder.iterdir()}
    capfd.readouterr()
    again = [*ward.benchmark, "-P", "resume=true"]
    assert ward.run(again) == 0
    assert "train-base-seed1: done before, not run again." in capfd.readouterr().err
    assert ward.find_run() == ward.run_id


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name in TYPED if name != "retention.md"] + ["retention.md"])
def test_a_page(page: str, ward: Ward, capfd: pytest.CaptureFixture[str]) -> None:
    """`retention.md` is last: it removes what the others need."""
    if page != "README.md":
        ward.crown()
    run_page(ward, page, capfd)


@pytest.mark.slow
def test_the_readmes_model_in_python(ward: Ward) -> None:
    (code,) = (text for language, _, text in blocks(ROOT / "README.md") if language == "python")
    *lines, last = code.splitlines()
    names: dict[str, Any] = {}
    exec("\n".join([*lines, f"said = {last}"]), names)
    assert [type(text) for text in names["said"]] == [str]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_run_or_listed(page: Path) -> None:
    for typed in TYPED[page.name]:
        runs = typed.text.startswith(("kmed-bench ", "mlflow run . "))
        assert runs or kind_of(typed.text, NOT_RUN), f"{typed.place}: {typed.text!r} is neither run nor listed"


def test_the_readme_lists_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"`([a-z-]+)`", text[text.index("Each command can run alone") :].partition("COMMAND --help")[0])
    assert sorted(listed) == sorted(commands())


def test_every_reason_is_needed() -> None:
    texts = [typed.text for page in TYPED.values() for typed in page]
    for table in (NOT_RUN, PARSED, STATUS, SAYS):
        assert {beginning for beginning in table if not any(re.match(beginning, text) for text in texts)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_sentences_exist(page: Path) -> None:
    known = {name: set(parser._option_string_actions) for name, parser in commands().items()}
    for words in quoted_commands(page):
        named = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
        if words[0] not in ("COMMAND", "…") and not words[0].startswith("-"):
            assert words[0] in known, f"{page.name}: kmed-bench {words[0]}"
            assert set(named) <= known[words[0]], f"{page.name}: {shlex.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert {target for target in targets if not (page.parent / target).exists()} == set()


def test_what_is_installed_and_set_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for typed in (typed for page in TYPED.values() for typed in page):
        if typed.text.startswith("make "):
            assert re.search(rf"^{typed.text.split()[1]}:", makefile, re.MULTILINE), typed.place
        for extra in re.findall(r"kmed-bench\[([\w,-]+)\]", typed.text):
            assert set(extra.split(",")) <= set(extras), typed.place
    (exported,) = (typed.text for typed in TYPED["README.md"] if typed.text.startswith("export "))
    for setting in exported.split()[1:]:
        assert f"export {setting.replace('=', ' := ')}" in makefile


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mlflow run . -P source=absent", "Source absent does not exist"),
        ("kmed-bench run --source absent --sizes small", "Source absent does not exist"),
        ("kmed-bench ingest absent made-of-absent", "Source absent does not exist"),
        ("kmed-bench train absent made-of-absent --size small", "absent/split.json does not exist"),
        ("kmed-bench tune absent --size small", "absent/split.json does not exist"),
        ("kmed-bench run --source download --sizes tiny", "Whisper tiny: no weights"),
        (
            "kmed-bench split MANIFEST made-of-absent --train 999 --valid 9 --test 9",
            r"are --train \d+ --valid \d+ --test \d+;",
        ),
        (
            "mlflow run . -e split -P manifest=MANIFEST -P out=made-of-absent -P train=999 -P valid=9 -P test=9",
            r"are -P split.train=\d+ -P split.valid=\d+ -P split.test=\d+;",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_made(
    text: str, said: str, ward: Ward, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(ward.folder.rglob("*"))
    capfd.readouterr()
    assert ward.run(shlex.split(text.replace("MANIFEST", "manifest.parquet"))) == 2
    error = capfd.readouterr().err
    assert re.search(said, error)
    assert "Whisper small" not in error
    assert [path for path in sorted(ward.folder.rglob("*")) if "mlruns" not in path.parts] == [
        path for path in before if "mlruns" not in path.parts
    ]
