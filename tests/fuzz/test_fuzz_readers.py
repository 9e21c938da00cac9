"""Readers of foreign input under damage: what was found once, and a short look for more."""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz_targets
import pytest
from fuzz_targets import CORPUS, MAKERS, Target, damage, guard, make_targets, quiet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError

FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
HEAVY = ("hf", "hf-weights")
"""Targets whose libraries take seconds to load; `make fuzz` calls them as well."""
OPENED: list[int] = []
_made: dict[str, Target] = {}


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A target, with seeds that are made once."""
    name = request.param
    if name not in _made:
        _made[name] = make_targets(tmp_path_factory.mktemp("seeds"), (name,))[name]
    with quiet():
        yield _made[name]


@pytest.mark.parametrize("made", [name for name in MAKERS if name not in HEAVY], indirect=True)
def test_readers_take_what_the_project_writes(made: Target, tmp_path: Path) -> None:
    assert [guard(made, data, tmp_path) for data in made.seeds] == [None] * len(made.seeds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("made", "path"), [pytest.param(path.parent.name, path, id=f"{path.parent.name}-{path.name}") for path in FOUND],
    indirect=["made"],
)  # fmt: skip
def test_what_was_found_stays_mended(made: Target, path: Path, tmp_path: Path) -> None:
    assert guard(made, path.read_bytes(), tmp_path) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [name for name in MAKERS if name not in HEAVY], indirect=True)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_files_end_in_one_sentence(made: Target, tmp_path: Path, seed: int) -> None:
    assert guard(made, damage(random.Random(seed), made), tmp_path) is None


def burn(_data: bytes, _place: Path) -> None:
    end_s = time.process_time() + 0.2
    while time.process_time() < end_s:
        pass


def raise_key(_data: bytes, _place: Path) -> None:
    raise KeyError("x")


def leave_open(_data: bytes, place: Path) -> None:
    OPENED.append(os.open(place, os.O_RDONLY))


def say_much(_data: bytes, _place: Path) -> None:
    raise KmedError("x" * 5000)


def say_right(_data: bytes, _place: Path) -> None:
    raise KmedError("m.json lacks a field; write it again.")


@pytest.mark.parametrize(
    ("call", "kind"),
    [(burn, "slow"), (raise_key, "KeyError"), (say_much, "message"), (leave_open, "descriptors"), (say_right, None)],
)
def test_a_reader_that_fails_is_found(
    call: Callable[[bytes, Path], None], kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_targets, "LIMIT_S", 0.1)
    failure = guard(Target(call, [b"x"]), b"x", tmp_path)
    while OPENED:
        os.close(OPENED.pop())
    assert (failure and failure.kind) == kind


def test_damage_changes_a_seed_and_repeats_with_its_seed() -> None:
    target = Target(lambda data, place: None, [b'{"a": [1, 2, 3], "b": "text"}'], kind="json")
    made = [damage(random.Random(seed), target) for seed in range(200)]
    assert made == [damage(random.Random(seed), target) for seed in range(200)]
    assert len(set(made)) > 150
