"""The original benchmark's log: read, written, imported, and plotted by the original's published steps."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import seaborn as sns
from mlflow.tracking import MlflowClient

from kmed_bench.cli import main
from kmed_bench.config import TrackingConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import BenchRecord, TrainRecord
from kmed_bench.tracking.original.log_export import export_logs
from kmed_bench.tracking.original.log_format import read_log, to_tree, write_log
from kmed_bench.tracking.original.log_import import HISTORY_METRICS, import_log, read_imported
from kmed_bench.tracking.runs import bench_run
from kmed_bench.tracking.store import open_store

pytestmark = pytest.mark.slow

METADATA = {
    "model_name": "whisper-base",
    "path": "/content/drive/MyDrive/hospital/",
    "save_model_name": "/home/kim/models/whisper_base",
    "save_logging_file_name": "logging_base.json",
    "batch_size": 4,
    "epochs": 20,
    "start_epoch": 0,
    "ver_start": 0,
    "lr": 2e-05,
    "max_len": 80,
    "device": "cuda",
}
TREE: dict[str, Any] = {
    "mata_data": METADATA,
    "result_ver": {
        "0": {"time": None, "result": [[0, 0.0731, 10.5, 0.0301, 4.0], [1, 0.03, 4.1, 0.012, 1.5]]},
        "1": {"time": "04:38:07", "result": [[0, 0.0725, 10.24, 0.0292, 3.848]]},
        "2": {"time": None, "result": []},
    },
}


def write_original(path: Path, tree: dict[str, Any] = TREE) -> Path:
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=4), encoding="utf-8")
    return path


@pytest.fixture
def original(tmp_path):
    return write_original(tmp_path / "logging_base.json")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(TrackingConfig(uri=f"sqlite:///{database}"))
    return database


@pytest.fixture
def store(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")  # making the tables takes seconds
    return open_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"))


def changed(**places: Any) -> dict[str, Any]:
    """The log with values put at places such as ``result_ver/0/time``."""
    tree = deepcopy(TREE)
    for place, value in places.items():
        *rooms, leaf = place.split("/")
        node: Any = tree
        for room in rooms:
            node = node[int(room) if isinstance(node, list) else room]
        node[int(leaf) if isinstance(node, list) else leaf] = value
    return tree


def test_a_log_round_trips_byte_for_byte(original, tmp_path):
    log = read_log(original)
    assert log.versions["1"].time == "04:38:07"
    assert log.versions["0"].epochs[1].valid_cer == 1.5
    write_log(tmp_path / "again.json", log)
    assert (tmp_path / "again.json").read_bytes() == original.read_bytes()
    assert read_log(tmp_path / "again.json") == log


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("mata_data", [], "mata_data of .* is a list, not an object"),
        ("mata_data", {}, "mata_data of .* lacks model_name, path, .*device, batch_size"),
        ("mata_data/batch_size", "4", "batch_size in mata_data .* '4'; it must be a whole number"),
        ("mata_data/epochs", True, "epochs in mata_data .* True"),
        ("mata_data/lr", 2, "lr in mata_data .* is 2; it must be a number between 0 and 1"),
        ("mata_data/device", None, "device in mata_data .* is None; it must be text"),
        ("result_ver", {}, "has no epoch in its 0 versions"),
        ("result_ver/first", {"time": None, "result": []}, "has the version 'first'"),
        ("result_ver/0", [], "version 0 of .* is a list, not an object"),
        ("result_ver/0", {"result": []}, "version 0 of .* lacks time"),
        ("result_ver/0/wer", [], "version 0 .* unknown key 'wer'"),
        ("result_ver/0/time", 5, "time of version 0 .* is 5; it must be HH:MM:SS or null"),
        ("result_ver/0/time", "1:2:3", "is '1:2:3'"),
        ("result_ver/0/result", {}, "result of version 0 .* is a dict; it must be a list"),
        ("result_ver/0/result/0", [0, 1.0, 2.0], r"row 0 of version 0 .* has 3 values"),
        ("result_ver/0/result/0/0", 1, "Row 0 of version 0 .* is epoch 1; epochs follow one another from 0"),
        ("result_ver/0/result/1/0", 0, "Row 1 of version 0 .* is epoch 0"),
        ("result_ver/0/result/1/0", 1.5, r"row 1 .* has the epoch 1\.5"),
        ("result_ver/0/result/1/2", None, "row 1 .* has train_cer = None; it must be a finite number"),
        ("result_ver/0/result/1/3", float("nan"), "row 1 .* has valid_loss = nan"),
        ("result_ver/0/result/1/4", -1, "row 1 .* has valid_cer = -1"),
    ],
)
def test_each_fault_is_named(tmp_path, place, value, message):
    path = write_original(tmp_path / "log.json", changed(**{place: value}))
    with pytest.raises(KmedError, match=message):
        read_log(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "is a list, not an object"),
        (b"{}", "lacks mata_data, result_ver"),
        (b'{"mata_data": ', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b'{"a": {"0": 1, "0": 2}}', "has the key '0' twice"),
    ],
)
def test_files_that_are_no_log(tmp_path, content, message):
    (tmp_path / "log.json").write_bytes(content)
    with pytest.raises(KmedError, match=message):
        read_log(tmp_path / "log.json")
    with pytest.raises(KmedError, match=r"gone\.json does not exist"):
        read_log(tmp_path / "gone.json")


def test_a_log_that_was_continued_starts_where_it_says(tmp_path):
    tree = changed(**{"mata_data/start_epoch": 7, "result_ver/1/result/0/0": 7})
    assert read_log(write_original(tmp_path / "log.json", tree)).versions["1"].epochs[0].epoch == 7


def test_import_makes_labelled_runs_once(store, original, tmp_path):
    outcome = import_log(store, original, "kmed-bench")
    assert outcome.created == ("imported-base-v0", "imported-base-v1")
    assert outcome.left_out == {"2": "it has no epochs"}
    # The same content in another layout is the same log.
    again = tmp_path / "copy.json"
    again.write_text(json.dumps(TREE, sort_keys=True))
    assert import_log(store, again, "kmed-bench").present == outcome.created
    first, second = read_imported(store)
    assert (first.size, first.version, first.time_s) == ("base", 0, None)
    assert (second.version, second.time_s, second.file) == (1, 4 * 3600 + 38 * 60 + 7, "logging_base.json")
    values = first.history.pivot(index="step", columns="metric", values="value")
    assert list(values.index) == [1, 2]  # the log's epochs 0 and 1
    assert values.loc[1].to_dict() == pytest.approx(
        dict(zip(HISTORY_METRICS, (0.0731, 0.105, 0.0301, 0.04), strict=True))
    )
    assert first.params["path"] == "hospital"
    assert first.params["save_model_name"] == "whisper_base"
    assert (first.params["lr"], first.params["batch_size"]) == ("2e-05", "4")
    run = MlflowClient(store).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["kmed.kind"] == "imported"
    assert "can't be compared" in run.data.tags["mlflow.note.content"]
    assert not any(name.startswith("valid/") or name == "test/cer" for name in run.data.metrics)
    assert not any("MyDrive" in text or "kim" in text for text in (*run.data.params.values(), *run.data.tags.values()))


def test_a_persons_folder_is_no_param(store, tmp_path):
    tree = changed(**{"mata_data/path": "/home/kim/", "mata_data/save_model_name": "C:\\Users\\lee"})
    import_log(store, write_original(tmp_path / "log.json", tree), "kmed-bench")
    params = read_imported(store)[0].params
    assert (params["path"], params["save_model_name"]) == ("~", "~")


def test_a_failing_import_leaves_nothing_and_a_killed_one_is_mended(store, original, monkeypatch):
    from kmed_bench.tracking.original import log_import as imported

    def fails_at_the_second(run, log, size, number, fill=imported._fill):
        fill(run, log, size, number)
        if number == 1:
            raise OSError("disk full")

    monkeypatch.setattr(imported, "_fill", fails_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        import_log(store, original, "kmed-bench")
    client = MlflowClient(store)
    place = client.get_experiment_by_name("kmed-bench").experiment_id
    assert read_imported(store) == []
    assert client.search_runs([place]) == []
    # Killed: no clean-up ran, and what was made still stands as RUNNING.
    monkeypatch.setattr(MlflowClient, "delete_run", lambda self, run_id: None)
    with pytest.raises(OSError, match="disk full"):
        import_log(store, original, "kmed-bench")
    monkeypatch.undo()
    assert len(client.search_runs([place])) == 2
    assert read_imported(store) == []
    assert len(import_log(store, original, "kmed-bench").created) == 2
    assert {run.info.status for run in client.search_runs([place])} == {"FINISHED"}


def test_a_log_without_a_size_is_refused(store, tmp_path):
    path = write_original(tmp_path / "log.json", changed(**{"mata_data/model_name": "whisper-large"}))
    with pytest.raises(KmedError, match=r"'whisper-large', which does not name exactly one size of tiny, base, small"):
        import_log(store, path, "kmed-bench")


def make_train(seed: int, epochs: int = 3, *, as_original: bool = False) -> TrainRecord:
    rows = [("valid/loss", 0, 2.0), ("valid/cer", 0, 0.3)]
    for epoch in range(1, epochs + 1):
        value = 1 / (epoch + seed)
        rows += [("train/loss", epoch, value), ("train/cer_teacher_forced", epoch, value / 4)]
        rows += [("valid/loss", epoch, value + 0.5), ("valid/cer", epoch, value / 8), ("time/epoch_s", epoch, 1800.4)]
        if as_original:
            rows += [("original/valid_loss", epoch, value / 10), ("original/valid_cer_teacher_forced", epoch, 0.002)]
    return TrainRecord(
        run_id=f"r{seed}",
        name=f"train-base-seed{seed}",
        size="base",
        seed=seed,
        status="FINISHED",
        params={},
        metrics={},
        tags={"kmed.device": "cpu"},
        history=pd.DataFrame(rows, columns=["metric", "step", "value"]),
    )


def make_bench(*trains: TrainRecord) -> BenchRecord:
    return BenchRecord(
        run_id="b1",
        name="bench-sound",
        status="FINISHED",
        params={
            "data.source": "208",
            "train.batch_size": "4",
            "train.epochs": "3",
            "train.lr": "2e-05",
            "train.max_len": "80",
        },
        tags={"kmed.split_sha256": "abc"},
        trains=trains,
        skipped={},
        split={},
        quality={},
        scores={},
    )


def plot_as_published(path: Path) -> tuple[pd.DataFrame, list[Any]]:
    """The original's published steps: rows with their version, melted, one line plot per metric."""
    log = json.loads(path.read_text(encoding="utf-8"))
    rows = [[version, *row] for version, found in log["result_ver"].items() for row in found["result"]]
    names = ["train_loss", "train_cer", "valid_loss", "valid_cer"]
    wide = pd.DataFrame(rows, columns=["ver", "epoch", *names])
    table = wide.melt(id_vars=["ver", "epoch"], value_vars=names, var_name="metric", value_name="value")
    table["data"] = table["metric"].str.split("_").str[0]
    table["metric"] = table["metric"].str.split("_").str[1]
    grids = [
        sns.relplot(data=table[table["metric"] == metric], x="epoch", y="value", kind="line", hue="data")
        for metric in ("loss", "cer")
    ]
    return table, grids


def test_the_originals_plotting_steps_run_on_our_export(tmp_path):
    files, left_out = export_logs(make_bench(make_train(1), make_train(0)), tmp_path)
    assert left_out == {}
    table, grids = plot_as_published(files["base"])
    assert len(table) == 2 * 3 * 4
    for grid, metric in zip(grids, ("loss", "cer"), strict=True):
        lines = {line.get_color(): line for line in grid.ax.get_lines() if len(line.get_xdata())}
        assert len(lines) == 2
        assert [text.get_text() for text in grid.legend.get_texts()] == ["train", "valid"]
        for line, part in zip(lines.values(), ("train", "valid"), strict=True):
            means = table[(table["metric"] == metric) & (table["data"] == part)].groupby("epoch")["value"].mean()
            assert list(line.get_xdata()) == [0, 1, 2]
            assert list(line.get_ydata()) == pytest.approx(list(means))
    valid_cer = table[(table["metric"] == "cer") & (table["data"] == "valid") & (table["ver"] == "0")]
    assert list(valid_cer["value"]) == pytest.approx([12.5, 6.25, 100 / 24])  # per cent, seed 0
    plt.close("all")


def test_an_export_says_what_its_figures_are(tmp_path):
    files, _ = export_logs(make_bench(make_train(0)), tmp_path)
    log = read_log(files["base"])
    assert log.metadata["lr"] == 2e-5
    assert log.versions["0"].time == "01:30:01"
    assert log.notes["kmed"]["figures"]["valid_cer"].startswith("valid/cer: CER x 100 of decoded transcripts")
    assert log.notes["kmed"]["versions"] == {"0": {"run_id": "r0", "seed": 0, "status": "FINISHED"}}
    assert to_tree(log) == json.loads(files["base"].read_text(encoding="utf-8"))

    files, _ = export_logs(make_bench(make_train(0, as_original=True)), tmp_path / "original")
    log = read_log(files["base"])
    assert log.versions["0"].epochs[0].valid_cer == pytest.approx(0.2)
    assert log.versions["0"].epochs[0].valid_loss == pytest.approx(0.1)
    assert log.notes["kmed"]["figures"]["valid_cer"].startswith("original/valid_cer_teacher_forced: teacher-forced")
    # One seed without these figures: no mixture under one name.
    mixed = make_bench(make_train(0, as_original=True), make_train(1))
    files, _ = export_logs(mixed, tmp_path / "mixed")
    assert read_log(files["base"]).notes["kmed"]["figures"]["valid_cer"].startswith("valid/cer:")


def test_an_export_leaves_out_unfinished_epochs_with_the_reason(tmp_path):
    cut = make_train(1)
    history = cut.history[~((cut.history["metric"] == "valid/cer") & (cut.history["step"] == 2))]
    bench = make_bench(make_train(0), TrainRecord(**{**vars(cut), "history": history}), make_train(2, epochs=0))
    files, left_out = export_logs(bench, tmp_path)
    assert left_out == {
        "train-base-seed1": "epoch 2 and later: valid/cer was not logged",
        "train-base-seed2": "no epoch has finished",
    }
    assert [len(version.epochs) for version in read_log(files["base"]).versions.values()] == [3, 1]


def test_our_own_export_is_not_imported_as_an_originals(store, tmp_path):
    files, _ = export_logs(make_bench(make_train(0)), tmp_path)
    with pytest.raises(KmedError, match=r"was written by kmed-bench \(bench b1\)"):
        import_log(store, files["base"], "kmed-bench")
    assert read_imported(store) == []


def test_the_commands(tmp_path, store, original, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "bad.json").write_text("{}")
    assert main(["import-log", str(original)]) == 0
    assert "2 runs created, 0 present before (kmed-bench)" in capsys.readouterr().out
    assert main(["import-log", str(tmp_path / "bad.json"), str(original)]) == 1
    out, err = capsys.readouterr()
    assert "0 runs created, 2 present before" in out
    assert "Left out version 2: it has no epochs" in out
    assert "bad.json lacks mata_data" in err
    assert main(["import-log", str(tmp_path / "bad.json")]) == 2

    from kmed_bench.config import load_config

    with bench_run(load_config("demo"), code_version="t") as bench:
        for seed in (0, 1):
            tags = {"kmed.size": "base", "kmed.seed": str(seed)}
            with bench.child("train", f"train-base-seed{seed}", tags=tags) as run:
                for metric, step, value in make_train(seed).history.itertuples(index=False):
                    run.log_epoch(step, {metric: value})
    capsys.readouterr()
    assert main(["history", str(tmp_path / "logs")]) == 0
    log = read_log(tmp_path / "logs" / "logging_base.json")
    assert [len(version.epochs) for version in log.versions.values()] == [3, 3]
    assert log.versions["1"].epochs[0].valid_cer == pytest.approx(100 / 16)


def test_reading_and_writing_logs_needs_no_torch():
    modules = "kmed_bench.tracking.original.log_import, kmed_bench.commands.history"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
