"""What bash, zsh and fish complete, asked of the shells themselves where they are installed."""

import re
import shutil
import subprocess

import pytest
from subcommands import commands

from kmed_bench.cli import _parser, main
from kmed_bench.commands.completion import SHELLS, completion
from kmed_bench.config.describe import setting_keys

ASK = """
source ./bash
COMP_WORDS=(kmed-bench "$@") COMP_CWORD=$# COMPREPLY=()
_shtab_kmed_bench
printf '%s\\n' "${COMPREPLY[@]}"
"""


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(completion(_parser(), shell), encoding="utf-8")
    (folder / "clip.wav").touch()
    return folder


@needs("bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["tra"], ["train", "transcribe"]),
        (["train", "--train.l"], ["--train.lr", "--train.lora_rank", "--train.lora_alpha"]),
        (["train", "--lr", "1e-5", "--train.schedule", ""], ["constant", "linear", "cosine"]),
        (["train", "--train.lr", ""], []),
        (["evaluate", "--train.l"], []),
        (["run", "--profile", ""], ["demo", "sound", "original"]),
        (["run", "--tracking.register", "t"], ["true"]),
        (["weights", ""], ["tiny", "base", "small"]),
        (["ingest", "cl"], ["clip.wav"]),
        (["evaluate", "cl"], ["clip.wav"]),
        (["run", "--source", "cl"], ["clip.wav"]),
        (["promote", "cl"], []),
    ],
)
def test_bash_completes(scripts, typed, offered):
    done = subprocess.run(["bash", "-c", ASK, "bash", *typed], cwd=scripts, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(offered)


@needs("fish")
def test_fish_completes(scripts):
    code = "source fish; complete -C 'kmed-bench train --train.schedule c'"
    done = subprocess.run(["fish", "-c", code], cwd=scripts, capture_output=True, text=True, check=True)
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["constant", "cosine"]


@needs("zsh")
def test_zsh_reads_its_script(scripts):
    assert subprocess.run(["zsh", "-n", scripts / "zsh"], capture_output=True, check=True).stderr == b""


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_knows_each_command_and_flag(scripts, shell):
    text = (scripts / shell).read_text(encoding="utf-8")
    words = set(re.findall(r"[\w.-]+", text))
    flags = {flag for command in commands().values() for flag in command._option_string_actions}
    assert {f"--{key}" for key in setting_keys()} < flags
    missing = {flag for flag in flags if flag not in words and flag.lstrip("-") not in words}
    assert missing | (commands().keys() - words) == set()


def test_the_command_prints_the_script(scripts, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == (scripts / "bash").read_text(encoding="utf-8").strip()
