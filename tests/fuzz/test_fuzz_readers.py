"""Readers of foreign input under damage: what was found once, and a short look for more."""

import random
from pathlib import Path

import pytest
from fuzz_targets import CORPUS, MAKERS, Target, damage, guard, make_targets, quiet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
HEAVY = ("hf", "hf-weights")
"""Targets whose libraries take seconds to load; `make fuzz` calls them as well."""
_made: dict[str, Target] = {}


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A target, with seeds that are made once."""
    name = request.param
    if name not in _made:
        _made[name] = make_targets(tmp_path_factory.mktemp("seeds"), (name,))[name]
    quiet()
    return _made[name]


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
