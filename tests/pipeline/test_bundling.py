"""Bundles: the figures leave and come back whole, and nothing of the corpus goes with them."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from latin_words import REPORT_NAMES, untranslated
from mlflow.tracking import MlflowClient
from small_store import OPTIONS, shared_store

from kmed_bench.cli import main
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import read_predictions
from kmed_bench.core.pseudonyms import Pseudonyms
from kmed_bench.pipeline import bundling
from kmed_bench.scoring.package import read_package, write_package
from kmed_bench.tracking.bundles import ORIGIN_TAG, describe_runs
from kmed_bench.tracking.metric_names import MAX_SHARE_DEVIATION
from kmed_bench.tracking.read import read_bench
from kmed_bench.tracking.store import search_runs

pytestmark = pytest.mark.slow
MINIMUM = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return shared_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def results(store):
    return store.out / f"bench-demo-{store.run_id[:8]}"


@pytest.fixture(scope="module")
def corpus(results):
    return bundling.read_corpus([results / "manifest" / "manifest.parquet", results / "split"])


@pytest.fixture(scope="module")
def package(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    predictions = read_predictions(results / "tiny" / "seed0" / "predictions.jsonl")
    report = json.loads((results / "split" / "split.json").read_text(encoding="utf-8"))
    write_package(folder, report, "test", {"tiny": predictions}, OPTIONS)
    return folder


@pytest.fixture(scope="module")
def bundle(store, corpus, package, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "a.zip"
    bundling.write_bundle(
        store.uri,
        [store.run_id],
        path,
        corpus=corpus,
        minimum=MINIMUM,
        pseudonyms=Pseudonyms(bytes(32)),
        packages=[package],
        language="ko",
    )
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_nothing_of_the_corpus_is_inside(bundle, corpus, store):
    """Looked for here in another way than the program does: as plain bytes."""
    manifest = corpus["0 manifest"]
    secrets = {*manifest["utterance_id"], *manifest["speaker_id"], *manifest["audio"], *manifest["text"]}
    secrets |= {str(store.out.parent), "/corpus"}
    contents = members(bundle)
    assert len(contents) > 30
    found = [(name, s) for name, content in contents.items() for s in secrets if s.encode() in content]
    assert found == []
    assert not any(name.endswith((".log", ".yaml", ".jsonl")) for name in contents)


def test_the_report_inside_is_in_the_language_asked_for(bundle):
    contents = members(bundle)
    (page,) = (content.decode() for name, content in contents.items() if name.endswith("report/index.html"))
    assert '<html lang="ko">' in page
    text = page.partition('id="provenance"')[0]  # then settings and names follow
    assert untranslated(text, (*REPORT_NAMES, "-demo-", " demo", "CT", "no weights; give --weights")) == {}
    (table,) = (content.decode() for name, content in contents.items() if name.endswith("report/provenance.csv"))
    assert table.startswith("name,value\nbench,")  # tables for programs stay English


def test_groups_shown_have_enough_speakers(bundle):
    head = json.loads(members(bundle)["bundle.json"])
    cells = [
        cell
        for run in head["runs"]
        for values in run["artifacts"].get("scores.json", {}).get("groups", {}).values()
        for cell in values.values()
    ]
    assert cells
    assert min(cell["n_speakers"] for cell in cells) >= MINIMUM
    assert head["groups_left_out"] > 0
    compared = [
        row
        for run in head["runs"]
        for name in ("scores.json", "comparisons.json")
        for key in ("gaps", "benefits")
        for row in run["artifacts"].get(name, {}).get(key, ())
    ]
    assert all(min(row["n_speakers_group"], row["n_speakers_against"]) >= MINIMUM for row in compared)


def bring_in(uri: str, bundle: Path) -> tuple[int, int]:
    brought = bundling.bring_in(uri, bundle, "ward")
    assert brought.models == {}  # without --checkpoints
    return brought.new, brought.present


def test_runs_come_back_with_their_figures_and_only_once(bundle, store, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert bring_in(uri, bundle) == (6, 0)
    assert bring_in(uri, bundle) == (0, 6)
    assert bring_in(store.uri, bundle) == (0, 6)  # where it was made, the runs themselves are there
    client, theirs = MlflowClient(tracking_uri=uri), MlflowClient(tracking_uri=store.uri)
    copies = search_runs(client, "")
    assert len(copies) == 6
    for copy in copies:
        origin = theirs.get_run(copy.data.tags[ORIGIN_TAG])
        assert (copy.info.status, copy.info.start_time, copy.info.end_time) == (
            origin.info.status, origin.info.start_time, origin.info.end_time,
        )  # fmt: skip
        of_groups = [name for name in origin.data.metrics if "cer/" in name or name == MAX_SHARE_DEVIATION]
        assert copy.data.metrics == {k: v for k, v in origin.data.metrics.items() if k not in of_groups}
        assert copy.data.params.items() <= origin.data.params.items()
        for name in copy.data.metrics:
            assert history(client, copy, name) == history(theirs, origin, name)
    ours, before = read_bench(uri), read_bench(store.uri, store.run_id)
    assert [train.name for train in ours.trains] == ["train"] * 4
    assert [train.metrics["test/cer"] for train in ours.trains] == [t.metrics["test/cer"] for t in before.trains]
    assert ours.comparisons == before.comparisons
    names = {artifact.path for artifact in client.list_artifacts(ours.trains[0].run_id)}
    assert names == {"MODEL_CARD.md", "scores.json"}


def history(client, run, name):
    return [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, name)]


def test_a_run_that_an_interrupted_unbundle_left_is_written_again(bundle, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    bundling.bring_in(uri, bundle, "ward")
    client = MlflowClient(tracking_uri=uri)
    half = search_runs(client, "tags.`kmed.kind` = 'train'")[0]
    client.update_run(half.info.run_id, status="RUNNING")
    assert bring_in(uri, bundle) == (1, 5)
    assert {run.info.status for run in search_runs(client, "")} == {"FINISHED"}


def test_a_package_goes_under_pseudonyms_and_scores_the_same(bundle, package, corpus, tmp_path):
    bundling.bring_in(f"sqlite:///{tmp_path / 'mlflow.db'}", bundle, "ward", tmp_path / "packages")
    ours, theirs = read_package(tmp_path / "packages" / "0"), read_package(package)
    assert ours.head["scores"]["tiny"]["overall"] == theirs.head["scores"]["tiny"]["overall"]
    table, origin = ours.systems["tiny"], theirs.systems["tiny"]
    assert sorted(table["cer_errors"]) == sorted(origin["cer_errors"])
    assert set(table["dialect"]) | set(table["gender"]) | set(table["age"]) == {""}
    resolved = Pseudonyms(bytes(32)).resolve(table["utterance_id"], "utterance", corpus["0 manifest"]["utterance_id"])
    assert set(resolved.values()) == set(origin["utterance_id"])


def plant_name(client, train, secret):
    client.update_run(train, name=secret)


def plant_device(client, train, secret):
    client.set_tag(train, "kmed.device", secret)


def plant_user(client, train, secret):
    client.set_tag(train, "mlflow.user", secret)
    client.set_tag(train, "mlflow.note.content", secret)
    client.set_tag(train, "kmed.failure", secret)


def plant_setting(client, train, secret):
    client.log_param(train, "train.schedule", secret)


def plant_folder(client, train, secret):
    client.log_param(train, "data.source", secret)
    client.log_param(train, "model.weights", secret)
    client.log_param(train, "whatever", secret)


def plant_artifact(client, train, secret):
    client.log_text(train, secret, "predictions.jsonl")
    client.log_text(train, secret, "kmed-bench.log")


def plant_score(client, train, secret):
    path = client.download_artifacts(train, "scores.json")
    scores = json.loads(Path(path).read_text(encoding="utf-8"))
    client.log_text(train, json.dumps({**scores, "transcript_policy": secret}, ensure_ascii=False), "scores.json")


def plant_metric(client, train, secret):
    client.log_metric(train, f"test/cer/role/{secret}", 0.1)


STAYS = [plant_name, plant_user, plant_folder, plant_artifact, plant_metric]
STOPS = [plant_device, plant_setting, plant_score]


@pytest.fixture
def planted(store, tmp_path):
    """A copy of the store to plant in: the id of one of its trainings, and its address."""
    client = MlflowClient(tracking_uri=store.uri)
    trains = search_runs(client, "tags.`kmed.kind` = 'train'")
    path = Path(store.uri.removeprefix("sqlite:///"))
    shutil.copy(path, tmp_path / "mlflow.db")
    copy = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = copy.create_experiment("plant", artifact_location=(tmp_path / "artifacts").as_uri())
    run = copy.create_run(experiment, tags={"kmed.kind": "train", "kmed.size": "tiny", "kmed.seed": "0"})
    content = client.download_artifacts(trains[0].info.run_id, "scores.json")
    copy.log_text(run.info.run_id, Path(content).read_text(encoding="utf-8"), "scores.json")
    copy.set_terminated(run.info.run_id)
    return copy, run.info.run_id


@pytest.mark.parametrize("plant", [*STAYS, *STOPS])
def test_a_planted_secret_stays_behind_or_stops_the_bundle(planted, corpus, tmp_path, plant):
    client, train = planted
    row = corpus["0 manifest"].iloc[3]
    secret = row["utterance_id"] if plant is plant_metric else f"{row['utterance_id']} {row['text']}"
    plant(client, train, secret)
    given = {"corpus": corpus, "minimum": 1, "pseudonyms": Pseudonyms(bytes(32))}
    out = tmp_path / "a.zip"
    if plant in STOPS:
        with pytest.raises(KmedError, match=r"was not written: .*utterance_id in bundle\.json") as caught:
            bundling.write_bundle(str(client.tracking_uri), [train], out, **given)
        assert row["utterance_id"] not in str(caught.value)
        assert not out.exists()
    else:
        bundling.write_bundle(str(client.tracking_uri), [train], out, **given)
        assert not any(row["utterance_id"].encode() in content for content in members(out).values())


def test_runs_of_others_and_running_ones_are_refused(store, planted):
    client, train = planted
    uri = str(client.tracking_uri)
    client.update_run(train, status="RUNNING")
    foreign = client.create_run("0").info.run_id
    for run_id, said in ((train, "is still RUNNING"), (foreign, "is of another program"), ("none", "is not in the")):
        with pytest.raises(KmedError, match=said):
            describe_runs(uri, [run_id], {}, 1)


def test_a_split_s_largest_distance_stays_where_a_group_is_hidden(store):
    for hidden, n_shown in (({"dialect": set()}, 1), ({"dialect": {"경상"}}, 0)):
        records, _ = describe_runs(store.uri, [store.run_id], hidden, 1)
        found = [record for record in records if "split.json" in record["artifacts"]]
        assert sum(MAX_SHARE_DEVIATION in record["metrics"] for record in found) == n_shown
        assert sum("max_share_deviation" in record["artifacts"]["split.json"] for record in found) == n_shown
        assert len(found) == 1


def rewrite(path: Path, out: Path, change) -> Path:
    contents = members(path)
    change(contents)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return out


def edit_head(contents, **changes):
    head = json.loads(contents["bundle.json"])
    contents["bundle.json"] = json.dumps(head | changes).encode()


@pytest.mark.fault(
    "a bundle that was damaged or altered on its way",
    sees="the file and what differs",
    survives="the store as it was",
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("bundle.json"), "has no bundle.json"),
        (
            lambda c: c.update({name: b"x" for name in c if name.endswith("MODEL_CARD.md")}),
            "is not what the bundle says",
        ),
        (lambda c: c.update({"files/more": b"x"}), "differ in 'files/more'"),
        (lambda c: edit_head(c, version=9), "has version 9 of kmed-bundle"),
        (lambda c: edit_head(c, runs=[{"id": 1}]), "A run in .* has id 1"),
        (lambda c: edit_head(c, files=[]), "has files"),
    ],
)
def test_a_damaged_bundle_changes_nothing(bundle, tmp_path, change, said):
    damaged = rewrite(bundle, tmp_path / "b.zip", change)
    with pytest.raises(KmedError, match=said):
        bundling.bring_in(f"sqlite:///{tmp_path / 'mlflow.db'}", damaged, "ward")
    assert not (tmp_path / "mlflow.db").exists()


def test_the_commands(store, results, tmp_path, monkeypatch, capsys):
    train = read_bench(store.uri, store.run_id).trains[0].run_id  # faster than the benchmark, which has a report
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    out, split = tmp_path / "out.zip", str(results / "split")
    uri = f"--tracking.uri={store.uri}"
    assert main(["bundle", train, str(out), "--corpus", split, "--min-group", "2", uri]) == 0
    assert "1 runs" in capsys.readouterr().out
    assert main(["bundle", train, str(out), "--corpus", split, uri]) == 2
    assert "exists; name another file" in capsys.readouterr().err
    for encoding in ("utf-8-sig", "cp949"):  # as Windows saves a list of names
        (tmp_path / "names.txt").write_text("MODEL_CARD.md\n이영희\n", encoding=encoding)
        command = ["bundle", train, str(tmp_path / "no.zip"), "--corpus", split, "--names", str(tmp_path / "names.txt")]
        assert main([*command, "--min-group", "2", uri]) == 2
        assert "was not written: " in capsys.readouterr().err
    assert main(["unbundle", str(out), f"--tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]) == 0
    assert "1 runs created, 0 present before (kmed-bench)" in capsys.readouterr().out
    names = Pseudonyms.from_file(tmp_path / "kmed-bench" / "pseudonyms.key")
    speaker = bundling.read_corpus([results / "split"])["0 test"]["speaker_id"].iloc[0]
    made = names.of("speaker", speaker)
    assert main(["resolve", made, "speaker-0", "--corpus", split]) == 1
    assert capsys.readouterr().out == f"{made}\t{speaker}\nspeaker-0\tnot in this corpus, or of another key\n"
