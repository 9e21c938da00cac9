"""Files from elsewhere, each with one fault: one sentence names the file, and where it helps the line and the field."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_table import fault
from fuzz_targets import Target, guard, make_targets
from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.core.errors import KmedError
from kmed_bench.core.fields import find_line
from kmed_bench.core.files import parse_json, read_json

JSON_FILES = {
    "frozen": "a frozen split",
    "split": "split.json",
    "package": "package.json",
    "import-log": "a log of the original",
    "training-record": "training.json",
}
_made: dict[str, Target] = {}


def target(name: str, factory: pytest.TempPathFactory) -> Target:
    if name not in _made:
        _made[name] = make_targets(factory.mktemp("seeds"), (name,))[name]
    return _made[name]


def faults(cases: Sequence[tuple[Any, ...]], of: str, sees: str) -> list[Any]:
    """Return cases that begin with what is wrong as parameters, each with the mark of its fault."""
    return [
        pytest.param(*case, id=what, marks=fault(f"{of}: {what}", sees=sees, survives="all")) for what, *case in cases
    ]


def twice(data: bytes) -> bytes:
    return data.replace(b"{", b'{"a": 1, "a": 2, ', 1)


# What is done to a valid file, and what every reader of JSON says of it.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is not valid JSON"),
    "cut off": (lambda data: data[: len(data) // 2], "is not valid JSON"),
    "a list": (lambda data: b"[1, 2]", "holds a list|is a list|has  "),
    "in cp949": (lambda data: '{"이름": 1}'.encode("cp949"), "is not UTF-8"),
    "nested 100,000 deep": (lambda data: b'{"a":' * 100_000, "nested too deeply"),
    "a key twice": (twice, "the key 'a' twice"),
    "a number of 5,000 digits": (lambda data: b"9" * 5000, "is not valid JSON"),
    "half of a character": (lambda data: b'"\xed\xa0\x80"', "is not UTF-8"),
    "half of a character, escaped": (lambda data: b'{"a": "\\udcff"}', "half of a character"),
}


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        pytest.param(name, *case, id=f"{name}-{what}", marks=fault(f"{title}: {what}", sees="error, status 2"))
        for name, title in JSON_FILES.items()
        for what, case in DAMAGES.items()
    ],
)  # fmt: skip
def test_json_of_no_use_is_named(
    name: str,
    damage: Callable[[bytes], bytes],
    message: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    reader = target(name, tmp_path_factory)
    with pytest.raises(KmedError, match=message) as caught:
        reader.call(damage(reader.seeds[0]), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def change(data: bytes, way: str, value: Any) -> bytes:
    """Return a JSON file with a value replaced, or taken out where it is ``...``."""
    tree = json.loads(data)
    *above, last = way.split("/")
    node = tree
    for key in above:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return json.dumps(tree, ensure_ascii=False, indent=2).encode()


FIELDS = [
    ("frozen", "sha256", ..., r"frozen\.json lacks the field 'sha256'; export one with"),
    ("frozen", "parts/test", ..., r"parts of \S+frozen\.json lacks the field 'test'"),
    ("frozen", "parts/test", ["u1"], r"frozen\.json, line \d+ has parts\.test \['u1'\] \(Input should be a valid dict"),
    ("frozen", "config/by", ["../x"], r"config of \S+frozen\.json has by\.0 '\.\./x'"),
    ("frozen", "version", 10**9, "has version 1000000000 of kmed-frozen-split, and this release reads up to 1"),
    ("split", "counts", {"test": "9"}, r"split\.json, line \d+ has counts\.test '9' \(Input should be a valid integer"),
    ("split", "counts", {"test": float("nan")}, r"split\.json, line \d+ has counts\.test nan"),
    ("split", "sha256", None, r"split\.json, line \d+ has sha256 None \(Input should be a valid string"),
    ("package", "files_sha256", {"../x": "a"}, r"names a baseline '\.\./x', which is no file name"),
    ("package", "part", "all", r"package\.json, line \d+ has part 'all' \(Input should be 'train', 'valid' or"),
    ("package", "n_utterances", 1e308, r"package\.json, line \d+ has n_utterances 1e\+308"),
    ("package", "columns", "all", r"package\.json, line \d+ has columns 'all'"),
    ("import-log", "mata_data/lr", "a" * 999, r"lr in mata_data of \S+ is 'a{10,80}; it must be a number"),
    ("import-log", "result_ver/0/result", [[0, 10**400, 1, 1, 1]], "train_loss = 1000"),
    ("training-record", "epochs", "2", r"training\.json, line \d+ has epochs '2' \(Input should be a valid integer"),
    ("training-record", "outcome/checkpoint", ..., r"has outcome\.checkpoint .*\(Field required\)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "way", "value", "message"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[1]}-{number}", marks=fault(
            f"{JSON_FILES[case[0]]}: {case[1].replace('/', '.')} {'missing' if case[2] is ... else f'{case[2]!r:.20}'}",
            sees="error, status 2: the file, the line, the field, the value", survives="all"))
        for number, case in enumerate(FIELDS)
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_named(
    name: str, way: str, value: Any, message: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = target(name, tmp_path_factory)
    with pytest.raises(KmedError, match=message) as caught:
        reader.call(change(reader.seeds[0], way, value), tmp_path)
    assert len(str(caught.value)) < 1000


LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{p}'] * 8)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = [
    ("billion laughs", LAUGHS.encode(), "its aliases stand for more than 10,000 values"),
    ("an alias in itself", b"train: &a\n  lr: *a\n", "its aliases stand for more than 10,000 values"),
    ("a key twice", b"train:\n  lr: 1e-5\n  lr: 1e-4\n", r"the key 'train\.lr' is there twice, in line 2 and"),
    ("a value of another type", b"train:\n  epochs: 3\n  lr: fast\n", r"own\.yaml, line 3: train\.lr is 'fast'"),
    ("infinity", b"train: {lr: .inf}\n", r"own\.yaml, line 1: train\.lr is inf"),
    ("NaN", b"train: {lr: .nan}\n", r"own\.yaml, line 1: train\.lr is nan"),
    ("a number as key", b"1: {}\n", "has the key 1; write groups of settings"),
    ("no mapping but false", b"false\n", "must be a YAML mapping of settings; it is a bool"),
    ("control characters", b"train: \x1b[31m\n", "special characters are not allowed"),
    ("2 MB", b"# " + b"x" * (2 << 20), "has 2,097,154 bytes, and settings have at most"),
    ("an object of Python", b"train: !!python/object:os.system {}\n", "could not determine a constructor"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), faults(YAML, "profile", "error, status 2: its line"))
def test_profiles_of_no_use_are_named(
    content: bytes, message: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(KmedError, match=message):
        target("yaml", tmp_path_factory).call(content, tmp_path)


def test_aliases_that_do_not_multiply_are_read(tmp_path: Path) -> None:
    from kmed_bench.config import load_config

    path = tmp_path / "own.yaml"
    path.write_text("train: &t\n  lr: 2e-5\neval: {}\ntune:\n  space: {train.lr: &r [1e-5, 2e-5], train.epochs: *r}\n")
    assert load_config(str(path)).tune.space["train.epochs"] == (1e-5, 2e-5)


@fault("a line of 100 MB among predictions", sees="error, status 2: the line and the limit", survives="all")
def test_a_line_without_end_is_refused_early(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    reader = target("predictions", tmp_path_factory)
    data = reader.seeds[0] + b'{"utterance_id": "' + b"a" * 100_000_000 + b'"}'
    with pytest.raises(KmedError, match=r"line 4 has more than 4,194,304 characters"):
        reader.call(data, tmp_path)
    assert guard(reader, data, tmp_path) is None


@fault("JSON of 300 MB", sees="error, status 2: its size and the limit", survives="all")
def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(300 << 20)
    with pytest.raises(KmedError, match=r"a\.json has 314,572,800 bytes; JSON of up to 268,435,456 is read"):
        read_json(tmp_path / "a.json")


@pytest.mark.slow
@fault("JSON of 100 MB of brackets", sees="error, status 2: the number of values", survives="all")
def test_json_that_would_fill_the_memory_is_refused(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    reader = target("frozen", tmp_path_factory)
    data = b"[" + b"[]," * 33_000_000 + b"[]]"
    with pytest.raises(KmedError, match="holds more than 10,000,000 JSON values"):
        reader.call(data, tmp_path)
    assert guard(reader, data, tmp_path) is None


TABLES = [
    ("a column missing", lambda head, rows: (head.replace("utterance_id", "id"), rows), "lacks the column 'utterance_"),
    ("a time that is no number", lambda head, rows: (head, [rows[0].replace("1.1,", "x,")]), "has duration_s 'x'"),
    ("a count under 0", lambda head, rows: (head, [rows[0].replace(",0,", ",-1,")]), "line 2 has numbers_.* -1, which"),
    ("an utterance twice", lambda head, rows: (head, [rows[0], rows[0]]), "has an utterance twice"),
    ("rows of other lengths", lambda head, rows: (head, [rows[0], rows[1] + ",1,2,3"]), "is not a table in CSV"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), faults(TABLES, "a package's table", "error, status 2"))
def test_tables_of_no_use_are_named(
    damage: Any, message: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = target("package-table", tmp_path_factory)
    head, *rows = reader.seeds[1].decode().splitlines()
    head, rows = damage(head, rows)
    with pytest.raises(KmedError, match=message):
        reader.call("\n".join([head, *rows]).encode(), tmp_path)


MANIFESTS = [
    ("a number for a text", "text", 5, r"m\.parquet, row 3 has text 5"),
    ("no text", "text", None, r"m\.parquet, row 3 has text nan"),
    ("NaN for a length", "duration_s", float("nan"), "row 3 has duration_s nan"),
    ("a negative length", "duration_s", -1.0, r"row 3 has duration_s -1\.0"),
    ("an infinite rate", "rate_hz", float("inf"), r"row 3 has rate_hz inf"),
    ("an utterance twice", "utterance_id", "u0", "has the utterance 'u0' twice"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value", "message"), faults(MANIFESTS, "a manifest", "error, status 2: the row"))
def test_cells_of_another_kind_are_named(column: str, value: Any, message: str, tmp_path: Path) -> None:
    from fuzz_targets import manifest_table

    from kmed_bench.core.schema import read_manifest

    table = manifest_table()
    cells = list(table[column])
    cells[2] = value
    if isinstance(value, int):
        cells = [value] * len(cells)
        message = message.replace("row 3", "row 1")
    table.assign(**{column: cells}).to_parquet(tmp_path / "m.parquet")
    with pytest.raises(KmedError, match=message):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.slow  # torch takes seconds to load
@fault("a checkpoint of one number shown as many", sees="error, status 2: what the file holds", survives="all")
def test_a_checkpoint_of_one_number_takes_no_memory(tmp_path: Path) -> None:
    import torch
    from whisper.model import ModelDimensions, Whisper

    from kmed_bench.asr.model.weights import load_weights

    dims = ModelDimensions(8, 6, 4, 1, 1, 16, 6, 4, 1, 1)
    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in Whisper(dims).state_dict().items()}
    torch.save({"dims": vars(dims), "model_state_dict": state}, tmp_path / "m.pt")
    with pytest.raises(KmedError, match=r"its tensors have [\d,]+ bytes, of which the file holds"):
        load_weights(tmp_path / "m.pt")


@fault("a Hugging Face folder of a width of 10⁹", sees="error, status 2: the line and the field", survives="all")
def test_a_configuration_takes_no_memory(tmp_path: Path) -> None:
    from kmed_bench.asr.runtimes.formats import detect_format

    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{\n "model_type": "whisper",\n "d_model": 1000000000\n}')
    message = r"config\.json, line 3 has d_model 1000000000 \(Input should be less than or equal to 8192\)"
    with pytest.raises(KmedError, match=message):
        detect_format(tmp_path)


keys = st.text(st.characters(codec="utf-8"), max_size=5)
trees = st.recursive(
    st.none() | st.integers() | keys,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(trees, st.data())
def test_the_line_of_a_value_is_found(tree: Any, data: st.DataObject) -> None:
    """Each value stands on a line of its own, so replacing it by a mark shows the line."""
    steps: list[Any] = []
    node, parent = tree, None
    while isinstance(node, (list, dict)) and len(node):
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
        steps, parent, node = [*steps, key], node, node[key]
    if parent is None:
        return
    parent[steps[-1]] = "the mark \u2620"
    text = json.dumps(tree, ensure_ascii=False, indent=1)
    expected = 1 + next(n for n, line in enumerate(text.split("\n")) if "the mark \u2620" in line)
    assert find_line(text, steps) == expected
    assert parse_json(text, "x") == tree
