"""A real study, and a benchmark that runs with its best settings, by the commands as they are."""

import json
from pathlib import Path

import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna_dashboard import wsgi
from random_whisper import save_random_whisper
from small_bench import SETTINGS

from kmed_bench.asr.model import weights
from kmed_bench.cli import main, parse
from kmed_bench.commands.run import _resolve_study
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.studies import find_best
from kmed_bench.tuning.storage import open_storage

pytestmark = pytest.mark.slow

OWN = ("data.", "split.", "eval.", "audio_context")
HOOKS = """
def note(study, trial):
    with open("told.txt", "a") as file:
        file.write(f"{study.study_name} {trial.number} {trial.state.name}\\n")

def stop(study, trial):
    if trial.number == 1:
        study.stop()
"""
SPACE = "{train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}}"


def words(**settings: object) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a study of three trials, stopped after two, and a benchmark with the best one's settings."""
    folder = tmp_path_factory.mktemp("from-study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KMED_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        path = save_random_whisper(folder / "tiny.pt")
        smaller = weights._read_checkpoint(path)[0]
        patch.setattr(weights, "dimensions", lambda size: smaller)
        (folder / "hooks_of_a_user.py").write_text(HOOKS, encoding="utf-8")
        small = {key: value for key, value in SETTINGS.items() if key.startswith(OWN)}
        parts = {key: value for key, value in small.items() if key.startswith("split.")}
        demo = ["demo-corpus", "corpus", "--speakers", "4", "--sentences", "16"]
        assert main(demo) == 0
        assert main(["ingest", "corpus", "manifest", *words(**{"data.roles": SETTINGS["data.roles"]})]) == 0
        assert main(["split", "manifest/manifest.parquet", "split", "--profile", "demo", *words(**parts)]) == 0
        read = {key: value for key, value in small.items() if not key.startswith(("data.", "split."))}
        search = {"size": "tiny", "weights": path, "study": "s", "trials": 3, "epochs": 1, "tune.space": SPACE}
        hooks = "hooks_of_a_user:note,hooks_of_a_user:stop"
        assert main(["tune", "split", "--profile", "demo", *words(**search, **read, callback=hooks)]) == 0
        given = {"weights": path, "seeds": 0, "source": "corpus", "tracking.register": "false"}
        given |= {key: value for key, value in small.items() if key not in parts}
        assert main(["run", "--from-study", "s", *words(**given)]) == 0
        yield folder


def only(folder: Path, kind: str) -> Run:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(ids, f"tags.`kmed.kind` = '{kind}'")
    return run


def test_the_benchmark_and_the_study_name_each_other(place):
    bench, study = only(place, "bench"), only(place, "study")
    best = find_best(f"sqlite:///{place}/mlflow.db", "s")
    assert find_best(f"sqlite:///{place}/mlflow.db", study.info.run_id) == best
    tags = bench.data.tags
    assert (tags["kmed.study"], tags["kmed.study_run_id"]) == ("s", study.info.run_id)
    assert tags["kmed.study_trial"] == str(best.trial.number)
    trial = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db").get_run(tags["kmed.study_trial_run_id"])
    assert trial.data.tags["kmed.trial"] == tags["kmed.study_trial"]
    assert json.loads(tags["kmed.study_values"]) == {"cer": best.trial.cer}
    assert json.loads(tags["kmed.study_params"]) == {"train.lr": float(trial.data.params["train.lr"])}
    assert tags["kmed.study_split"] == "same"
    assert study.data.tags["kmed.bench_run_ids"] == bench.info.run_id
    assert only(place, "train").data.params["train.lr"] == trial.data.params["train.lr"]
    assert only(place, "train").data.tags["kmed.bench_name"] == bench.info.run_name


def test_the_page_says_where_the_settings_come_from(place):
    (folder,) = (place / "kmed-output").glob("bench-best-*")
    facts = pd.read_csv(folder / "report" / "provenance.csv").set_index("name")["value"]
    number = only(place, "bench").data.tags["kmed.study_trial"]
    assert facts["settings"].startswith(f"trial {number}, the best of study s (run {only(place, 'study').info.run_id})")
    assert "on other seeds: not tested" in facts["settings"]
    page = (folder / "report" / "index.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert facts["settings"] in page
    assert facts["settings"] in only(place, "bench").data.tags["mlflow.note.content"]


def test_a_stopped_study_says_so(place):
    assert (place / "told.txt").read_text().splitlines()[-1].startswith("s 1 ")
    study = only(place, "study")
    assert (study.info.status, study.data.tags["kmed.ended"]) == ("KILLED", "stopped by a callback")
    assert study.data.metrics["trials/waiting"] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"from-study": "t"}, "has no study 't'; its latest are: s"),
        ({"from-study": "s", "profile": "sound"}, "both name the settings"),
        ({"from-study": "s", "lr": 1e-3}, "chose train.lr, and the command line sets it as well"),
    ],
)
def test_contradictions_are_refused(place, given, message):
    args = parse(["run", *words(**given)])
    args.overrides["tracking.uri"] = f"sqlite:///{place}/mlflow.db"
    with pytest.raises(KmedError, match=message):
        _resolve_study(args, "none")


def test_the_dashboard_reads_what_tune_wrote(place):
    config = load_config("demo", {"tune.storage": f"sqlite:///{place}/kmed-optuna.db"})
    storage = open_storage(config.tune)
    answered = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/1", "wsgi.errors": None}
    body = b"".join(wsgi(storage)(environ, lambda status, headers, *_: answered.append(status)))
    storage.remove_session()
    storage.engine.dispose()
    shown = json.loads(body)
    assert answered == ["200 OK"]
    assert shown["name"] == "s"
    assert [trial["state"] for trial in shown["trials"]] == ["Complete", "Complete", "Waiting"]
    assert len(shown["trials"][0]["intermediate_values"]) == 1
