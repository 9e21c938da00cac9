"""Each digest changes with the settings that are marked to decide it, and with no others."""

import dataclasses
from typing import Annotated, Any

import pytest

from kmed_bench.config import (
    Config,
    Decides,
    adjust,
    benchmark_digest,
    confirmation_digest,
    curve_digest,
    digest,
    load_config,
    study_setup,
    training_digest,
)
from kmed_bench.config.describe import setting_keys
from kmed_bench.config.fields import group, marks

GROUPS = [field.name for field in dataclasses.fields(Config) if field.name != "profile"]
CHANGES = {
    Decides.DATA: {"benchmark"},
    Decides.BENCHMARK: {"benchmark"},
    Decides.TRAINING: {"benchmark", "training", "confirmation", "study training", "curve"},
    Decides.DECODING: {"benchmark", "training", "confirmation", "study decoding", "curve"},
    Decides.SCORING: {"benchmark", "curve"},
    Decides.SEARCH: {"study search"},
    Decides.CURVE: {"curve"},
    Decides.NOTHING: set(),
}


def digests(config: Config) -> dict[str, str]:
    setup = study_setup(config, size="base")
    assert setup.pop("size") == "base"
    return {
        "training": training_digest(config, seed=0, weights="w"),
        "benchmark": benchmark_digest(config),
        "confirmation": confirmation_digest(config, 1),
        "curve": curve_digest(config, size="base"),
        **{f"study {name}": value for name, value in setup.items()},
    }


def changed(before: Config, after: Config) -> set[str]:
    old, new = digests(before), digests(after)
    return {name for name in old if old[name] != new[name]}


def expected(mark: Decides) -> set[str]:
    return set().union(*(CHANGES[kind] for kind in mark))


def with_setting(name: str, hint: Any, value: Any) -> Config:
    """The settings with a further one in a group, as a later version might have it."""
    owner = type(getattr(Config(), name))
    wider = group(type("Wider", (owner,), {"__annotations__": {"further": hint}, "further": 0, "__doc__": "Wider."}))
    return dataclasses.replace(Config(), **{name: wider(further=value)})


@pytest.mark.parametrize("mark", [*CHANGES, Decides.TRAINING | Decides.SCORING], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_a_new_setting_changes_what_it_is_marked_to_decide(name: str, mark: Decides) -> None:
    hint = Annotated[int, mark]
    assert changed(with_setting(name, hint, 0), with_setting(name, hint, 1)) == expected(mark)


@pytest.mark.parametrize(
    ("hint", "n_marks"), [(int, 0), (Annotated[int, "note"], 0), (Annotated[int, Decides.DATA, Decides.SEARCH], 2)]
)
@pytest.mark.parametrize("name", GROUPS)
def test_a_setting_without_one_mark_can_not_be_defined(name: str, hint: Any, n_marks: int) -> None:
    with pytest.raises(TypeError, match=rf"Wider\.further carries {n_marks} marks of Decides; a setting needs one"):
        with_setting(name, hint, 0)


# Values of other settings than these may be anything here.
OTHERS: dict[str, Any] = {
    "data.source": "download",
    "data.min_duration_s": 0.5,
    "data.max_duration_s": 20.0,
    "model.sizes": ("tiny",),
    "train.seeds": (5,),
    "gate.webhook": "https://example.org/hook",
    "tune.space": {"tune.nothing": (1, 2)},
}


@pytest.mark.parametrize("key", [key for key in setting_keys() if key != "model.weights"])
def test_every_setting_changes_the_digests_of_its_mark(key: str) -> None:
    owner, name = key.split(".")
    before = adjust(Config(), {"train.schedule": "linear", "tune.space": "none"})
    node = getattr(before, owner)
    after = dataclasses.replace(before, **{owner: dataclasses.replace(node, **{name: OTHERS.get(key, "other")})})
    assert changed(before, after) == expected(marks(type(node))[name])


def test_a_training_at_a_constant_rate_may_be_extended() -> None:
    longer = {"train.epochs": 99}
    assert changed(Config(), adjust(Config(), longer)) == expected(Decides.TRAINING) - {"training"}
    linear = adjust(Config(), {"train.schedule": "linear"})
    assert changed(linear, adjust(linear, longer)) == expected(Decides.TRAINING)


def test_a_searched_setting_is_not_part_of_the_study() -> None:
    assert "train.lr" in Config().tune.space
    assert "study training" not in changed(Config(), adjust(Config(), {"train.lr": 1e-6}))
    assert "study training" in changed(Config(), adjust(Config(), {"train.lora_rank": 8}))


def test_a_moved_download_is_the_same_benchmark() -> None:
    here, there = (adjust(Config(), {"data.source": f"/{folder}/208"}) for folder in ("a", "b"))
    assert changed(here, there) == set()
    assert changed(here, Config()) == {"benchmark"}


def test_facts_decide_as_well() -> None:
    assert training_digest(Config(), seed=0) != training_digest(Config(), seed=1)
    assert confirmation_digest(Config(), 0) != confirmation_digest(Config(), 1)


def test_digests_depend_on_values_only() -> None:
    assert digest(load_config("demo")) == digest(load_config("demo"))
    assert digest(load_config("demo")) != digest(load_config("demo", {"train.lr": "1e-6"}))
    assert digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
