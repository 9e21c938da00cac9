"""What runs say of themselves: a benchmark, a training alone and every stage in one store, as a user runs them."""

import json
import os
import re
from pathlib import Path

import mlflow
import pytest
from file_modes import check_modes
from mlflow.entities import Run
from small_bench import SETTINGS, Place

from kmed_bench.scoring.recommendation import recommend
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.store import search_runs

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "tracking.md"
STEPS_PER_EPOCH, EPOCHS, INTERVAL = 4, 2, 2  # 8 clips in batches of 2
NOT_READ_BY_TRAIN = ("data.", "split.", "tune.")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]


class Tracked(Place):
    """A store with a benchmark, a training alone, and each stage once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.words += ["--tracking.step_interval", str(INTERVAL)]
        self.bench = self.run()
        assert self.bench.returncode == 0, self.bench.stderr
        (self.results,) = (folder / "out").glob("bench-demo-*")
        (corpus,) = (folder / "out").glob("demo-corpus-*")
        checkpoint = self.results / "tiny" / "seed0" / "best.pt"
        quick = ["--eval.audio_context", "dynamic", "--eval.max_new_tokens", "8"]
        sizes = [f"--split.{part}={SETTINGS[f'split.{part}']}" for part in ("train", "valid", "test")]
        self.stage("ingest", corpus, "m", "--data.roles", "patient,nurse,doctor")
        self.stage("split", "m/manifest.parquet", "s", *sizes, "--disjoint", "none", "--split.seed", "1")
        self.stage("evaluate", checkpoint, self.results / "split", "e", "--part", "valid", *quick)
        self.stage("score", "e/predictions.jsonl", "sc", "--split", self.results / "split", "--part", "valid")
        self.stage(
            "export", checkpoint, "x", "--format", "openai", "--split", "s", "--part", "valid", "--max-drift", "100"
        )
        alone = [f"--{key}={value}" for key, value in SETTINGS.items() if not key.startswith(NOT_READ_BY_TRAIN)]
        alone = [word for word in alone if not word.startswith(("--sizes", "--seeds"))]
        weights = ["--weights", str(folder / "tiny.pt"), f"--tracking.step_interval={INTERVAL}"]
        self.stage("train", self.results / "split", "alone", "--size", "tiny", "--seed", "0", *weights, *alone)

    def stage(self, name: str, *words: object) -> None:
        done = self.command(name, *words, "--tracking.experiment", self.experiment)
        assert done.returncode == 0, done.stderr

    def only(self, kind: str) -> Run:
        (run,) = self.runs(kind)
        return run

    def own_run(self, entry: str) -> str:
        """Return the id of a run as `mlflow run -e` makes it for a command."""
        experiment = self.client.get_experiment_by_name(self.experiment).experiment_id
        tags = {"mlflow.project.entryPoint": entry}
        return str(self.client.create_run(experiment, run_name="nervous-fox-12", tags=tags).info.run_id)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    before = os.umask(0)  # for `test_what_is_private_stays_so_without_a_umask`
    try:
        return Tracked(tmp_path_factory.mktemp("tracked"))
    finally:
        os.umask(before)


def patterns(heading: str, kind: str) -> list[str]:
    """The names in a table of docs/tracking.md that its row gives to a kind of run, as regular expressions."""
    section = DOCS.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = []
    for names, kinds, _ in re.findall(r"^\| (`.+?) \| (.+?) \| (.+) \|$", section, re.MULTILINE):
        if kinds.startswith("all") or kind in kinds.split(", "):
            found += re.findall(r"`([^`]+)`", names)
    wild = {"\\*": ".+", "<size>": "(tiny|base|small)", "<part>": "(train|valid|test|scored)", "<n>": r"\d+"}
    return [re.sub("|".join(map(re.escape, wild)), lambda m: wild[m[0]], re.escape(name)) for name in found]


def test_what_is_private_stays_so_without_a_umask(place: Tracked) -> None:
    private = check_modes(place.folder, 0)
    assert {
        "manifest.parquet",
        "test.parquet",
        "predictions.jsonl",
        "quality.json",
        "data.html",
        "mlflow.db",
    } <= private
    assert {"frames.f32", "index.json", "quality_examples.csv", "kmed-bench.log"} <= private
    for folder in ("m", "s", "e", "alone/seed0"):
        assert (place.folder / folder).stat().st_mode & 0o777 == 0o700, folder
    assert (place.folder / "x").stat().st_mode & 0o777 == 0o777  # an export is handed on


KINDS = ("bench", "split", "train", "report", "ingest", "evaluate", "score", "export")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_what_runs_hold(place: Tracked, kind: str) -> None:
    for run in place.runs(kind):
        tags = {name for name in run.data.tags if name.startswith("kmed.")}
        for heading, names in (("Tags", tags), ("Metrics", set(run.data.metrics))):
            known = patterns(heading, kind)
            assert {name for name in names if not any(re.fullmatch(p, name) for p in known)} == set(), heading


def test_the_page_promises_nothing_that_no_run_holds(place: Tracked) -> None:
    elsewhere = (
        r"kmed\.(ended|failed|plan_replaced|plan_late|continued_by.*|failure)|(system|leak|against|original|shards?)/.*"
    )
    for kind in KINDS:
        runs = place.runs(kind)
        held = {name for run in runs for name in {*run.data.tags, *run.data.metrics}}
        for name in patterns("Tags", kind) + patterns("Metrics", kind):
            if not re.fullmatch(elsewhere, name.replace("\\", "")) and kind not in ("report", "split"):
                generic = name in ("kmed\\.profile", "kmed\\.code_version", "kmed\\.process")
                assert generic or any(re.fullmatch(name, own) for own in held), (kind, name)


def test_a_training_has_the_same_params_in_a_benchmark_and_alone(place: Tracked) -> None:
    first, second, alone = place.runs("train")
    assert first.data.params["train.lr"] == "0.001"
    assert (first.data.params["model.sizes"], first.data.params["train.seeds"]) == ("tiny", "0")
    assert second.data.params["train.seeds"] == "1"
    assert first.data.params["split.train"] == str(SETTINGS["split.train"])

    def decisive(run: Run) -> dict[str, str]:
        return {key: value for key, value in run.data.params.items() if "." in key and "tracking." not in key}

    assert decisive(first) == decisive(alone)
    assert set(first.data.params) == set(alone.data.params)


def test_models_have_the_params_of_their_training(place: Tracked) -> None:
    train = place.runs("train")[0]
    params = {key: value for key, value in train.data.params.items() if "." in key}
    query = f"source_run_id = '{train.info.run_id}'"
    # The registered model has taken the place of the best epoch's checkpoint.
    (model,) = place.client.search_logged_models([train.info.experiment_id], query)
    assert params.items() <= model.params.items()
    best = int(train.data.metrics["best/epoch"])
    assert (model.name, model.tags["kmed.epoch"]) == ("kmed-whisper-tiny", str(best))
    assert ("valid/cer", best) in {(point.key, point.step) for point in model.metrics}
    (version,) = place.client.search_model_versions(f"run_id = '{train.info.run_id}'")
    telling = {key: value for key, value in version.tags.items() if key in params}
    assert telling.items() <= params.items()
    assert {"train.lr", "train.epochs", "train.batch_size", "train.max_len", "train.seeds"} <= set(telling)
    assert telling["eval.max_new_tokens"] == str(SETTINGS["eval.max_new_tokens"])  # not the default
    assert not {"train.weight_decay", "train.checkpoint_steps", "tracking.experiment"} & set(telling)
    assert not [key for key in version.tags if key.startswith("kmed.test.cer.")]  # of groups
    assert place.client.get_registered_model(version.name).tags["kmed.size"] == "tiny"


def test_a_benchmark_sums_up_its_trainings(place: Tracked) -> None:
    metrics, trains = place.only("bench").data.metrics, place.runs("train")[:2]
    assert (metrics["bench/trainings"], metrics["bench/finished"], metrics["tiny/seeds"]) == (2, 2, 2)
    mean = sum(run.data.metrics["test/cer"] for run in trains) / 2
    assert metrics["tiny/test_cer"] == pytest.approx(mean)


def test_terminal_page_notes_and_registry_repeat_one_verdict(place: Tracked) -> None:
    """A tiny model of random weights on a handful of clips: training can't be shown to help."""
    bench, trains = place.only("bench"), place.runs("train")[:2]
    record = read_bench(place.uri, bench.info.run_id)
    advice = recommend(record)
    assert set(record.verdicts) >= {run.info.run_id for run in trains}
    assert advice.best is not None
    assert advice.best.state == "untouched"
    said, note = place.bench.stdout, bench.data.tags["mlflow.note.content"]
    page = (place.results / "report" / "index.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert advice.headline in said
    assert advice.headline in note
    assert f"<strong>{advice.headline}</strong>" in page
    for size in advice.sizes:
        assert size.text in said
        assert size.text in note
        assert f">{size.verdict and size.verdict['outcome']}</td>" in page
    for run in trains:
        text, outcome = run.data.tags["kmed.verdict_text"], run.data.tags["kmed.verdict"]
        assert outcome in ("no evidence", "kept untouched", "worse")
        assert run.data.tags["mlflow.note.content"].startswith(text)
        (version,) = place.client.search_model_versions(f"run_id = '{run.info.run_id}'")
        assert (version.tags["kmed.verdict"], version.tags["kmed.recommended"]) == (outcome, "false")
        assert text in version.description
        assert "Not recommended: use the untouched model." in version.description
        assert int(run.data.params["machine.threads"]) >= 1
        assert run.data.params["machine.threads_decide"].startswith("yes")
    challenger = place.client.get_model_version_by_alias("kmed-whisper-tiny", "challenger")
    assert challenger.tags["kmed.recommended"] == "false"
    assert "do results depend on their number? yes" in page


def test_curves_by_step(place: Tracked) -> None:
    train = place.runs("train")[0]
    expected = list(range(INTERVAL, STEPS_PER_EPOCH * EPOCHS + 1, INTERVAL))
    for name in ("step/loss", "step/lr", "step/grad_norm"):
        assert [p.step for p in place.client.get_metric_history(train.info.run_id, name)] == expected, name
    assert train.data.metrics["step/lr"] == SETTINGS["lr"]
    assert train.data.metrics["step/grad_norm"] > 0


def test_runs_name_what_they_read(place: Tracked) -> None:
    ingest, evaluate, score, export = (place.only(kind) for kind in ("ingest", "evaluate", "score", "export"))
    drawn, alone = place.runs("split")
    train = place.runs("train")[0]
    assert alone.data.tags["kmed.manifest_sha256"] == ingest.data.tags["kmed.manifest_sha256"]
    assert alone.data.tags["kmed.upstream_run_ids"] == ingest.info.run_id
    assert evaluate.data.tags["kmed.upstream_run_ids"].split(",") == [drawn.info.run_id, train.info.run_id]
    assert score.data.tags["kmed.upstream_run_ids"].split(",") == [evaluate.info.run_id, drawn.info.run_id]
    assert export.data.tags["kmed.upstream_run_ids"].split(",") == [train.info.run_id, alone.info.run_id]
    models = place.client.get_run(evaluate.info.run_id).inputs.model_inputs  # a search leaves them out
    assert {place.client.get_logged_model(model.model_id).source_run_id for model in models} == {train.info.run_id}
    assert score.data.metrics["valid/cer"] == pytest.approx(evaluate.data.metrics["valid/cer"])
    for run, kind in ((ingest, "manifest"), (alone, "manifest"), (evaluate, "split"), (train, "split")):
        tags = {tag.key: tag.value for tag in run.inputs.dataset_inputs[0].tags}
        assert tags["kmed.source_kind"] == kind
        assert tags[f"kmed.{kind}_sha256"].startswith(run.inputs.dataset_inputs[0].dataset.digest)


def test_every_run_has_a_description_and_its_messages_without_folders(place: Tracked) -> None:
    openings = search_runs(place.client, "tags.`kmed.kind` = 'opening'")
    assert any("`train` opened the test part under the plan" in o.data.tags["mlflow.note.content"] for o in openings)
    for kind in KINDS:
        for run in place.runs(kind) + openings:
            assert run.data.tags["mlflow.note.content"].strip(), kind
            assert str(place.folder) not in str(run.data) + str(run.inputs.dataset_inputs)
    for run in (place.only("bench"), *place.runs("train")):
        log = Path(place.client.download_artifacts(run.info.run_id, "kmed-bench.log")).read_text(encoding="utf-8")
        assert "epoch 2 of 2" in log
        assert str(place.folder) not in log
        assert not re.search("[가-힣]", log)


def test_a_failed_stage_says_why_without_the_folder(place: Tracked) -> None:
    run_id = place.own_run("ingest")
    done = place.command("ingest", place.folder / "김환자", "m2", MLFLOW_RUN_ID=run_id)
    assert done.returncode == 2
    run = place.client.get_run(run_id)
    assert (run.info.status, run.data.tags["kmed.kind"]) == ("FAILED", "ingest")
    reason = run.data.tags["kmed.failure"]
    assert "(path)" in reason
    assert "\n" not in reason
    assert "김환자" not in str(run.data.tags) + str(run.data.params)
    assert str(place.folder) not in reason


def test_a_training_that_never_began_says_why_too(place: Tracked) -> None:
    run_id = place.own_run("train")
    done = place.command("train", "nowhere", "t2", "--size", "tiny", "--weights", "absent.pt", MLFLOW_RUN_ID=run_id)
    assert done.returncode == 2
    assert "does not exist" in place.client.get_run(run_id).data.tags["kmed.failure"]


def test_the_examples_of_the_page_find_what_they_say(place: Tracked, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.+?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {"STORE": place.uri}
    answers = []
    try:
        for block in blocks:
            exec(block, names)
            answers.append(capsys.readouterr().out)
    finally:
        mlflow.set_tracking_uri(None)
    trains, (bench,) = place.runs("train"), place.runs("bench")
    assert all(run.info.run_id in answers[0] for run in trains)
    assert all(kind in answers[1] for kind in ("bench", "split", "train", "evaluate", "score"))
    assert bench.info.run_id in answers[2]
    assert "ingest" in answers[3]
    assert "kmed-whisper-tiny" in answers[4]


def test_an_exported_model_is_measured_in_its_run(place: Tracked) -> None:
    run = place.only("export")
    folder = Path(place.client.download_artifacts(run.info.run_id, "export.json"))
    record = json.loads(folder.read_text(encoding="utf-8"))
    assert run.data.metrics["export/drift"] == record["drift"]["drift"]
    assert run.data.metrics["export/bytes"] == sum(file["bytes"] for file in record["files"].values())
    assert (run.data.params["format"], run.data.params["quantization"]) == ("openai", "float32")
