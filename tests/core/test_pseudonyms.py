"""Pseudonyms: equal for equal names under one key, resolved with it, and with no other."""

import hashlib
import hmac

import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.core.pseudonyms import Pseudonyms, default_key_file


def test_a_pseudonym_is_an_hmac_of_kind_and_name():
    key = bytes(range(32))
    expected = hmac.new(key, "speaker\0환자-1".encode(), hashlib.sha256).hexdigest()[:16]
    assert Pseudonyms(key).of("speaker", "환자-1") == f"speaker-{expected}"
    assert Pseudonyms(key).of("utterance", "환자-1") != f"utterance-{expected}"


def test_the_key_is_made_once_for_its_owner_and_resolves(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = default_key_file()
    made = Pseudonyms.from_file(path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    names = ["PA_1", "PA_2", "PA_3"]
    again = Pseudonyms.from_file(path)
    assert again.resolve([made.of("speaker", "PA_2"), "speaker-0"], "speaker", names) == {
        made.of("speaker", "PA_2"): "PA_2"
    }
    other = Pseudonyms.from_file(tmp_path / "other.key")
    assert other.of("speaker", "PA_2") != made.of("speaker", "PA_2")


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("00" * 32, 0o644, "can be read by others"),
        ("00" * 31, 0o600, "holds 62 characters and not the 64 hexadecimal digits"),
        ("김" * 64, 0o600, "holds 64 characters and not the 64 hexadecimal digits"),
    ],
)
def test_what_is_no_safe_key_is_refused(tmp_path, content, mode, said):
    path = tmp_path / "a.key"
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(KmedError, match=said):
        Pseudonyms.from_file(path)
    with pytest.raises(KmedError, match="There is no key in"):
        Pseudonyms.from_file(tmp_path / "none.key", create=False)
