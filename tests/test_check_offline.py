"""What scripts/check_offline.py takes for an attempt to leave, in lines as strace writes them."""

import re

import pytest
from script_modules import load_script

from kmed_bench.cli import parse

check_offline = load_script("check_offline")

OUT = "ENETUNREACH (Network is unreachable)"
LINES = [
    ('connect(5, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("8.1.2.3")}, 16) = -1 ' + OUT, "8.1.2.3"),
    (
        '77 connect(5, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), '
        'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = -1 ' + OUT,
        "2001:db8::1",
    ),
    (
        '77 sendto(3, "\\1", 1, 0, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("8.8.8.8")}, 16) = 1',
        "8.8.8.8",
    ),
    (
        "sendmsg(3, {msg_name={sa_family=AF_INET, sin_port=htons(9), "
        'sin_addr=inet_addr("8.8.4.4")}, msg_namelen=16}, 0) = 1',
        "8.8.4.4",
    ),
    ('connect(5, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.11")}, 16) = 0', "127.0.0.11"),
    ('connect(5, {sa_family=AF_INET, sin_port=htons(5000), sin_addr=inet_addr("127.0.0.1")}, 16) = 0', ""),
    ('connect(5, {sa_family=AF_INET6, sin6_port=htons(80), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0', ""),
    ('bind(5, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("0.0.0.0")}, 16) = 0', ""),
    ('connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT', ""),
    ('recvfrom(3, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("8.8.8.8")}, 16) = 1', ""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "address"), LINES)
def test_an_attempt_is_what_goes_beyond_loopback_or_asks_for_a_name(line: str, address: str) -> None:
    found = list(check_offline.attempts(f"{line}\n{line}\n"))
    assert [what.split()[1] for what in found] == ([address] if address else [])


def test_every_command_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["none"])
    known = set(re.findall(r"'([a-z-]+)'", capsys.readouterr().err.partition("choose from")[2]))
    assert known == {command.name for command in check_offline.COMMANDS}
    for command in check_offline.COMMANDS:
        parse(check_offline.shlex.split(command.words))
