import dataclasses

import pytest

from kmed_bench.config import PROFILES, Config, flatten, load_config, to_yaml
from kmed_bench.core.errors import KmedError


def test_published_conditions_are_the_defaults():
    train = load_config("original").train
    assert (train.batch_size, train.epochs, train.lr, train.max_len) == (4, 20, 2e-5, 80)
    assert train.seeds == (0, 1, 2)
    assert load_config("original").split.disjoint == ()


def test_the_sound_profile_is_the_default_and_disjoint_in_both():
    config = load_config()
    assert config.profile == "sound"
    assert config.split.disjoint == ("speaker", "sentence")
    assert (config.split.train, config.split.valid, config.split.test) == (10_000, 5_000, 1_000)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.lr", "1e-5", 1e-5),
        ("train.epochs", "3", 3),
        ("train.seeds", "0,1,2", (0, 1, 2)),
        ("train.seeds", "7", (7,)),
        ("model.sizes", "base, small", ("base", "small")),
        ("split.disjoint", "none", ()),
        ("train.grad_clip", "none", None),
        ("train.grad_clip", "1.0", 1.0),
        ("data.source", "none", None),
        ("model.skip_unavailable", "false", False),
    ],
)
def test_command_line_texts_become_values(key, text, value):
    assert flatten_value(load_config("demo", {key: text}), key) == value


def flatten_value(config: Config, key: str) -> object:
    group, name = key.split(".")
    return getattr(getattr(config, group), name)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"train.learning_rate": "1"}, "'train.learning_rate' is not a setting"),
        ({"train.lrr": "1"}, "did you mean train.lr or "),
        ({"trian.lr": "1"}, "'trian' is not a setting"),
        ({"lr": "1"}, "'lr' is not a setting"),
        ({"train.features": "fp16"}, "'train.features' was renamed 'features.dtype'"),
        ({"train.feature_budget_gib": "9"}, "'train.feature_budget_gib' was renamed 'features.cache_gib'"),
        ({"train.accumulation": "2"}, "'train.accumulation' was renamed 'train.micro_batches'"),
        ({"eval.repetition_guard": "8"}, "'eval.repetition_guard' was renamed 'eval.no_repeat_ngram_size'"),
        ({"train.grad_clip": "0"}, "greater than 0"),
        ({"tune.objectives": "none"}, "at least 1 item"),
        ({"train.lr": "fast"}, "train.lr is 'fast'"),
        ({"train.lr": "-1"}, "greater than 0"),
        ({"train.max_len": "449"}, "less than or equal to 448"),
        ({"train.audio_context": "half"}, "'full' or 'dynamic'"),
        ({"model.sizes": "huge"}, "huge; choose from tiny, base, small"),
        ({"model.sizes": "none"}, "choose from tiny, base, small"),
        ({"model.weights": "x.pt"}, "give the one size it belongs to"),
        ({"train.seeds": "1,1"}, "each only once"),
        ({"data.min_duration_s": "31"}, "must be under data.max_duration_s"),
        ({"profile.x": "1"}, "not a setting"),
    ],
)
def test_bad_settings_name_themselves_and_the_remedy(overrides, named):
    with pytest.raises(KmedError, match=r".") as error:
        load_config("demo", overrides)
    assert named in str(error.value)


def test_unknown_profile_is_named():
    with pytest.raises(KmedError, match="'nope' is unknown; choose demo, original, sound"):
        load_config("nope")


def test_flat_and_whole_tree_agree_and_round_trip(tmp_path):
    for profile in PROFILES:
        config = load_config(profile)
        file = tmp_path / f"{profile}.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        assert load_config(str(file)) == config
        groups = [f.name for f in dataclasses.fields(Config) if f.name != "profile"]
        n_fields = sum(len(dataclasses.fields(getattr(config, group))) for group in groups)
        assert len(flatten(config)) == n_fields + 1


def test_a_broken_profile_file_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: [", encoding="utf-8")
    with pytest.raises(KmedError, match="not valid YAML"):
        load_config(str(file))
    file.write_text("train: {features: fp16}", encoding="utf-8")
    with pytest.raises(KmedError, match=r"'train.features' was renamed 'features.dtype'; use that name"):
        load_config(str(file))
    file.write_text("- a", encoding="utf-8")
    with pytest.raises(KmedError, match="must be a YAML mapping"):
        load_config(str(file))


def test_a_group_whose_lines_are_all_comments_is_left_to_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  # lr: 1e-5\nsplit: {seed: 3}\n", encoding="utf-8")
    config = load_config(str(file), {"train.epochs": "2"})
    assert (config.train.lr, config.train.epochs, config.split.seed) == (2e-5, 2, 3)
    file.write_text("train: 3", encoding="utf-8")
    with pytest.raises(KmedError, match="train is 3: "):
        load_config(str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  epochs: 010", r"line 2 has '010', a number in base 8 or 60; write it in base 10, or in quotes"),
        ("train: {epochs: 1:30}", "line 1 has '1:30', a number in base 8 or 60"),
        ("train: {lr: 1:30.5}", r"line 1 has '1:30\.5', a number in base 8 or 60"),
        ("train:\n  lr: yes", r"mine\.yaml, line 2: train\.lr is True: Input should be a number; YAML reads yes, no"),
        ("train: {seeds: [0, on]}", r"mine\.yaml, line 1: train\.seeds is \[0, True\]: Input should be a number"),
    ],
)
def test_what_yaml_makes_another_number_of_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(KmedError, match=said):
        load_config(str(file))


def test_plain_numbers_and_truths_of_yaml_are_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 10, lr: 0.001, seeds: [0, 10]}\ntracking: {register: no}", encoding="utf-8")
    config = load_config(str(file))
    assert (config.train.epochs, config.train.lr, config.train.seeds) == (10, 0.001, (0, 10))
    assert config.tracking.register is False
