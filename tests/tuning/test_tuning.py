import json
import re
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
import scipy.stats
import torch
from optuna.trial import TrialState
from random_whisper import save_random_whisper
from tuning_worker import settings, weights

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.commands.tune import _seeds
from kmed_bench.config import Range, SplitConfig, flatten, load_config, to_yaml
from kmed_bench.core.errors import KmedError
from kmed_bench.core.records import Confirmation, StudyRecord, StudyTrial
from kmed_bench.corpus.splitting.split import read_split, split_manifest, write_split
from kmed_bench.report.study import read_section, refuse_another_study, study_section, write_study
from kmed_bench.tracking.processes import this_process
from kmed_bench.training.epochs import featurize_split
from kmed_bench.tuning.confirm import check_seeds, compare_seeds
from kmed_bench.tuning.pruning import report_epochs
from kmed_bench.tuning.samplers import make_pruner, make_sampler
from kmed_bench.tuning.search import Search
from kmed_bench.tuning.space import check_space, find_default, fit_warmup, suggest
from kmed_bench.tuning.storage import check_storage
from kmed_bench.tuning.study_queue import ERROR, PROCESS, StudyQueue
from kmed_bench.tuning.study_record import read_study
from kmed_bench.tuning.tune import tune

ROOT = Path(__file__).resolve().parents[2]
SPACE = (
    "{train.lr: {low: 1e-6, high: 1e-2, log: true}, train.warmup_steps: {low: 0, high: 9}, "
    "train.lora_rank: [null, 8], train.speed_factors: [none, '0.9,1,1.1'], train.freeze_encoder: [false, true]}"
)


@pytest.fixture
def place(tone_part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a split of tones and a tiny random model, apart from every store."""
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    write_split(
        split_manifest(tone_part, SplitConfig(train=6, valid=3, test=3, by=(), disjoint=())), tmp_path / "split"
    )
    save_random_whisper(tmp_path / "tiny.pt")
    return tmp_path


def make_queue(place: Path, lost: list[int] | None = None, **more: str) -> StudyQueue:
    config = settings(place, **more)
    noted = [] if lost is None else lost
    return StudyQueue(config, "q", setup={"a": 1}, on_lost=lambda trial: noted.append(trial.number))


def states(queue: StudyQueue) -> list[str]:
    return [trial.state.name for trial in queue.trials()]


def test_the_default_space_is_sound_and_holds_the_default_values():
    for profile in ("demo", "original", "sound"):
        check_space(load_config(profile))
    default = find_default(load_config("original"))
    assert default["train.lr"] == 2e-5
    assert (default["train.batch_size"], default["train.schedule"]) == (4, "constant")
    assert (default["train.warmup_steps"], default["train.freeze_encoder"]) == (0, False)


def test_a_space_in_yaml_text_round_trips(tmp_path):
    config = load_config("demo", {"tune.space": SPACE})
    assert config.tune.space["train.lr"] == Range(low=1e-6, high=1e-2, log=True)
    assert json.loads(flatten(config)["tune.space"])["train.lora_rank"] == [None, 8]
    (tmp_path / "demo.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(str(tmp_path / "demo.yaml")) == config
    trial = optuna.create_study().ask()
    suggest(trial, config)
    found = trial.distributions
    assert found["train.lr"] == optuna.distributions.FloatDistribution(1e-6, 1e-2, log=True)
    assert found["train.warmup_steps"] == optuna.distributions.IntDistribution(0, 9)
    assert find_default(config)["train.speed_factors"] == "none"


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ("{}", "tune.space is empty"),
        ("{train.speed: [1, 2]}", "'train.speed', which can't be tuned"),
        ("{eval.batch_size: [4, 8]}", "only training may differ"),
        ("{train.epochs: [3, 20]}", "'train.epochs', which can't be tuned"),
        ("{train.lr: {low: -1, high: 1}}", "train.lr is -1"),
        ("{train.schedule: [constant, square]}", "train.schedule is 'square'"),
        ("{train.lr: {low: 1.0e-3, high: 1.0e-2}}", "leaves out the default value 2e-05 of train.lr"),
        ("{train.batch_size: [8, 16]}", "leaves out the default value 4 of train.batch_size"),
        ("{train.lr: {low: 1.0e-2, high: 1.0e-3}}", "must be under high"),
        ("{train.lr: {low: 0, high: 1, log: true}}", "must be over 0 where log is true"),
        ("{train.lr: 3}", "tune.space.train.lr"),
        ("{train.lora_rank: [8]}", "at least 2 items"),
        ("[", "must be a YAML mapping"),
    ],
)
def test_faulty_spaces_name_themselves(space, named):
    with pytest.raises(KmedError) as error:
        check_space(load_config("demo", {"tune.space": space}))
    assert named in str(error.value)


def test_no_warm_up_is_searched_that_the_shortest_training_can_not_do():
    config = load_config("demo")  # 3 epochs; batches of 4, 8 or 16, warm-up to 500
    assert fit_warmup(config, 10_000) is config  # 625 batches of 16
    fitted = fit_warmup(config, 112)
    assert fitted.tune.space["train.warmup_steps"] == Range(low=0, high=3 * 7 - 1)
    assert {**fitted.tune.space, "train.warmup_steps": 0} == {**config.tune.space, "train.warmup_steps": 0}
    assert fit_warmup(fitted, 112) is fitted
    alone = load_config("demo", {"tune.space": "{train.warmup_steps: {low: 0, high: 90}, train.batch_size: [4, 5]}"})
    assert fit_warmup(alone, 112).tune.space["train.warmup_steps"].high == 3 * 23 - 1
    late = load_config("demo", {"tune.space": "{train.warmup_steps: {low: 90, high: 900}}"})
    with pytest.raises(KmedError, match="from 90 on, but 112 utterances in batches of 4 make 84 optimizer steps in 3"):
        fit_warmup(late, 112)
    choices = load_config("demo", {"tune.space": "{train.warmup_steps: [0, 900]}"})
    assert fit_warmup(choices, 112) is choices  # whoever lists values means them


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        ("mysql://u:secret@h/db", r"must be sqlite:///PATH or postgresql://…"),
        ("sqlite:///mlflow.db", "the same file"),
    ],
)
def test_faulty_storages_name_themselves(tmp_path, monkeypatch, storage, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KmedError, match=named) as error:
        check_storage(storage, f"sqlite:///{tmp_path}/mlflow.db")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_trial_draws_the_same_in_every_process(place, sampler):
    config = settings(place, tune__sampler=sampler, tune__space=SPACE, tune__startup_trials="1")

    def drawn(number: int) -> dict[str, object]:
        study = optuna.create_study(sampler=make_sampler(config.tune, number))
        return suggest(study.ask(), config)

    assert drawn(1) == drawn(1)
    assert drawn(1)["train.lr"] != drawn(2)["train.lr"]


def test_pruners_by_name(place):
    kinds = {"median": "MedianPruner", "successive_halving": "SuccessiveHalvingPruner", "none": "NopPruner"}
    for name, kind in {**kinds, "hyperband": "HyperbandPruner"}.items():
        assert type(make_pruner(settings(place, tune__pruner=name))).__name__ == kind
    both = settings(place, tune__pruner="median", tune__objectives="cer,seconds_per_clip")
    assert type(make_pruner(both)).__name__ == "NopPruner"


def test_slots_are_exact_however_often_a_study_is_opened(place):
    for trials, expected in (("3", 3), ("3", 3), ("5", 5), ("2", 5)):
        queue = make_queue(place, tune__trials=trials)
        assert len(queue.trials()) == expected
    assert queue.trials()[0].system_attrs["fixed_params"] == {"train.lr": 2e-5}
    numbers = []

    def objective(trial: optuna.Trial, lock: object) -> float:
        trial.set_user_attr(PROCESS, this_process())
        lock.release()
        numbers.append(trial.number)
        return suggest(trial, settings(place))["train.lr"]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        queue.work(objective, (KmedError,))
    assert numbers == [0, 1, 2, 3, 4]
    assert states(queue) == ["COMPLETE"] * 5
    assert queue.trials()[0].value == 2e-5
    assert queue.is_complete()


def test_another_setup_is_refused(place):
    make_queue(place)
    with pytest.raises(KmedError, match="was made with another a; its trials would not be comparable"):
        StudyQueue(settings(place), "q", setup={"a": 2}, on_lost=lambda trial: None)


@pytest.mark.slow
def test_a_silent_machine_is_noticed_by_heartbeat(place):
    """The process is on another machine, so only its heartbeat can tell."""
    lost: list[int] = []
    queue = make_queue(place, lost, tune__heartbeat_s="1", tune__retries="1")
    queue.study.sampler = optuna.samplers.RandomSampler(seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna: heartbeats belong to optimize; here the process is to fall silent
        trial = queue.study.ask()
    chosen = suggest(trial, settings(place))
    trial.set_user_attr(PROCESS, "elsewhere000:1:1")
    queue.study._storage.record_heartbeat(trial._trial_id)
    with queue.lock():
        queue.settle()
    assert states(queue)[0] == "RUNNING"
    time.sleep(3.5)
    with queue.lock():
        queue.settle()
        queue.settle()
    assert states(queue) == ["FAIL", *["WAITING"] * 4]
    assert lost == [0]
    assert queue.trials()[4].params == chosen
    record = read_study(queue.study, settings(place), "tiny", synthetic=True)
    assert (record.n_trials, len(record.slots()), record.trials[0].state) == (4, 4, "lost")
    assert record.trials[4].retry_of == 0
    assert record.trials[4].is_default


def test_errors_are_final_and_lost_trials_are_repeated_so_often(place):
    lost: list[int] = []
    queue = make_queue(place, lost, tune__trials="1", tune__retries="1")
    gone = this_process().rpartition(":")[0] + ":1"  # this number once was another process's

    def die(trial: optuna.Trial) -> float:
        trial.set_user_attr(PROCESS, gone)
        raise KeyboardInterrupt

    for expected in (["FAIL", "WAITING"], ["FAIL", "FAIL"]):
        with pytest.raises(KeyboardInterrupt):
            queue.study.optimize(die, n_trials=1)
        with queue.lock():
            queue.settle()
        assert states(queue) == expected
    assert lost == [0, 1]
    assert queue.is_complete()

    def fail(trial: optuna.Trial) -> float:
        trial.set_user_attr(ERROR, "diverged")
        raise KmedError("diverged")

    queue = make_queue(place, lost, tune__trials="2", tune__retries="1")
    queue.study.optimize(fail, n_trials=1, catch=(KmedError,))
    with queue.lock():
        queue.settle()
    assert states(queue) == ["FAIL"] * 3


def test_the_hook_reports_the_lowest_so_far_and_closes_training():
    closed = []

    class Epoch:
        def __init__(self, epoch: int, cer: float) -> None:
            self.epoch, self.valid_cer = epoch, cer

    def training():
        try:
            for number, cer in enumerate((0.5, 0.3, 0.4, 0.2), start=1):
                yield Epoch(number, cer)
        finally:
            closed.append(True)

    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.35, n_warmup_steps=1))
    trial = study.ask()
    assert [e.epoch for e in report_epochs(trial, training(), spare_epoch=1)] == [1, 2, 3, 4]
    told = study.tell(trial, 0.2)
    assert told.intermediate_values == {1: 0.5, 2: 0.3, 3: 0.3, 4: 0.2}
    second = study.ask()
    with pytest.raises(optuna.TrialPruned, match="after epoch 1"):
        list(report_epochs(second, training()))
    assert second.study.trials[1].intermediate_values == {1: 0.5}
    assert closed == [True, True]


def test_seeds_are_compared_in_pairs():
    found = compare_seeds([1, 2, 3, 4], [0.30, 0.34, 0.31, 0.33], [0.28, 0.30, 0.30, 0.31])
    peer = scipy.stats.ttest_rel([0.28, 0.30, 0.30, 0.31], [0.30, 0.34, 0.31, 0.33]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high))
    assert found.delta == pytest.approx(-0.0225)
    assert found.verdict == "better"
    assert compare_seeds([1, 2], [0.3, 0.3], [0.2, 0.31]).verdict == "not shown to be better"
    assert compare_seeds([1, 2], [0.3, 0.3], [0.4, 0.4001]).verdict == "worse"


def test_seeds_that_confirm_nothing_are_refused(place):
    config = settings(place, train__seeds="0")
    check_seeds(config, ())
    for seeds, named in (((1,), "at least two"), ((1, 1), "at least two"), ((0, 1), "which the trials use")):
        with pytest.raises(KmedError, match=named):
            check_seeds(config, seeds)
    assert _seeds("1, 2,3") == (1, 2, 3)
    assert _seeds("none") == ()
    with pytest.raises(KmedError, match="whole numbers"):
        _seeds("a")


def a_trial(number: int, state: str, cer: float | None, epochs: int, **more: object) -> StudyTrial:
    fields = {"is_default": number == 0, "retry_of": None, "reason": "", "run_id": "r", "seconds_per_clip": None}
    lr = 2e-5 if number == 0 else 1e-4 * number
    return StudyTrial(**{**fields, **more}, number=number, state=state, params={"train.lr": lr}, cer=cer, epochs=epochs)


def a_record(**more: object) -> StudyRecord:
    trials = (
        a_trial(0, "complete", 0.30, 10),
        a_trial(1, "pruned", 0.50, 2),
        a_trial(2, "lost", None, 4),
        a_trial(3, "complete", 0.25, 10),
        a_trial(4, "failed", None, 0, reason="the loss is nan <b>"),
        a_trial(5, "pruned", 0.20, 3, retry_of=2),
    )
    fields = {"sampler": "tpe", "pruner": "median", "objectives": ("cer",), "epochs": 10, "n_trials": 5}
    return StudyRecord(name="s", size="base", trials=trials, synthetic=True, **{**fields, **more})


def test_a_record_counts_what_counts(tmp_path):
    record = a_record()
    assert (record.best().number, record.default().number, len(record.slots())) == (3, 0, 5)
    assert record.saved_epochs() == pytest.approx((8 + 7) / 40)
    lead = study_section(record, ()).lead
    assert "5 of 5 trials drawn (2 complete, 2 pruned, 1 failed, 1 lost)" in lead
    assert "saved 38 % of the epochs" in lead
    assert "not tested on other seeds" in lead
    doubtful = Confirmation(seeds=(1, 2), default=(0.3, 0.3), best=(0.2, 0.31), delta=-0.045, low=-0.75, high=0.66)
    assert "are not shown to be better" in study_section(a_record(confirmation=doubtful), ()).lead
    page = write_study(record, (), tmp_path).read_text(encoding="utf-8")
    assert "the loss is nan &lt;b&gt;" in page
    assert "repeats trial 2" in page
    assert "synthetic speech says nothing about patients" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 7
    again = read_section(tmp_path)
    assert again.lead == lead
    assert again.tables[0].rows.equals(study_section(record, ()).tables[0].rows)
    for text, message in (("{}", "version 0 of kmed-study"), ('{"version": 1}', "lacks the field 'study'")):
        (tmp_path / "study.json").write_text(text, encoding="utf-8")
        with pytest.raises(KmedError, match=f"{message}.*run the same `kmed-bench tune` again"):
            read_section(tmp_path)


def test_two_objectives_are_said_not_to_prune():
    assert "no trial is pruned" in study_section(a_record(objectives=("cer", "seconds_per_clip")), ()).lead


@pytest.mark.slow
def test_a_study_saves_epochs_and_is_no_worse_than_default(place, caplog):
    """Twelve trials in which the learning rate matters; a third of the epochs and more is saved."""
    config = settings(
        place,
        tune__trials="12",
        train__epochs="8",
        tune__pruner="successive_halving",
        tune__warmup_epochs="0",
        slurm__python=str(place / "python"),
    )
    outcome = tune(config, weights(place), place / "split", place / "out", code_version="t")
    record = outcome.record
    assert {trial.state for trial in record.trials} <= {"complete", "pruned"}
    assert len(record.trials) == 12
    assert record.saved_epochs() >= 0.3
    assert sum(trial.epochs for trial in record.trials) <= 0.7 * 12 * 8
    assert record.default().epochs == 8  # the yardstick is never cut
    assert record.best().cer <= record.default().cer
    best = load_config(str(outcome.profile))
    assert best.train.lr == record.best().params["train.lr"]
    assert (best.model.sizes, best.train.epochs, best.profile) == (("tiny",), 8, "best")
    assert (best.tracking, best.slurm) == (load_config("demo").tracking, load_config("demo").slurm)
    section = read_section(place / "out")
    assert section.title == "Tuning of tiny"
    assert len(section.figures) == 3
    names = {path.name for path in (place / "out").iterdir()}
    assert {"index.html", "best.yaml", "trials.csv", "tuning-history.png", "tuning-importance.svg"} <= names
    page = outcome.report.read_text(encoding="utf-8")
    assert str(place) not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "12 of 12 trials are done" not in caplog.text


def test_results_of_another_study_stay(place):
    write_study(a_record(), (), place / "out")
    kept = (place / "out" / "study.json").read_bytes()
    with pytest.raises(KmedError, match=f"holds the results of study {a_record().name}, and those of other do not"):
        tune(settings(place), weights(place), place / "split", place / "out", name="other", code_version="t")
    assert (place / "out" / "study.json").read_bytes() == kept
    assert not (place / "out" / "best.yaml").exists()
    refuse_another_study(place / "out", a_record().name)
    (place / "out" / "study.json").write_text("{")  # damaged: written again
    refuse_another_study(place / "out", "other")


@pytest.mark.slow
def test_a_failing_trial_is_told_and_two_objectives_are_kept(place, caplog):
    """A learning rate that diverges fails its trial, not the study."""
    config = settings(
        place,
        tune__trials="3",
        train__epochs="1",
        tune__sampler="random",
        tune__objectives="cer,seconds_per_clip",
        tune__space="{train.lr: {low: 1.0e-6, high: 1.0e+35, log: true}}",
        tune__seed="1",
        report__lang="ko",
    )
    outcome = tune(config, weights(place), place / "split", place / "out", code_version="t")
    page = outcome.report.read_text(encoding="utf-8")
    assert "tiny의 하이퍼파라미터 탐색" in page
    assert "The loss is" in page  # a message stands as it was logged
    failed = [trial for trial in outcome.record.trials if trial.state == "failed"]
    assert failed
    assert all("loss is" in trial.reason for trial in failed)
    ids = read_split(place / "split").parts["train"]["utterance_id"]
    assert any(name in caplog.text for name in ids)  # on the console alone
    assert not any(name in page + "".join(trial.reason for trial in failed) for name in ids)
    complete = [trial for trial in outcome.record.trials if trial.state == "complete"]
    assert len(failed) + len(complete) == 3
    assert all(trial.seconds_per_clip > 0 for trial in complete)
    assert "every trial trains all its epochs" in caplog.text
    assert "failed: The loss is" in caplog.text


@pytest.mark.slow
def test_the_best_is_confirmed_on_other_seeds_and_each_training_is_kept(place):
    config = settings(place, tune__trials="3", train__epochs="2", tune__seed="3", tune__pruner="none")
    options = {"code_version": "t", "confirm": (1, 2)}
    outcome = tune(config, weights(place), place / "split", place / "out", **options)
    found = outcome.record.confirmation
    if outcome.record.best().is_default:
        assert found is None
        return
    assert found.seeds == (1, 2)
    assert found.delta == pytest.approx(np.mean(found.best) - np.mean(found.default))
    again = tune(config, weights(place), place / "split", place / "out", **options)
    assert again.record.confirmation == found
    assert again.run_id == outcome.run_id
    search = Search(config, weights(place), place / "split", name=None, code_version="t")
    kinds = [run.data.tags["kmed.kind"] for run in search_runs(search)]
    search.leave()
    assert sorted(kinds) == ["confirm"] * 4 + ["trial"] * 3


def search_runs(search: Search) -> list:
    from kmed_bench.tracking.trials import read_trial_runs

    return [
        run
        for kind in ("trial", "confirm")
        for run in read_trial_runs(search.parent.client, search.parent.run_id, kind)
    ]


@pytest.mark.slow
def test_the_documented_hooks_run(place):
    """The examples of docs/tuning.md, as they stand there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    blocks = [block for block in blocks if "hooks.py" not in block]
    assert 15 <= len(blocks[0].splitlines()) <= 25
    config = settings(place, train__epochs="2")
    speech = featurize_split(read_split(place / "split"), place / "cache", config, parts=("train", "valid"))
    names = {"config": config, "speech": speech, "checkpoint": place / "tiny.pt", "load_weights": load_weights}
    for block in blocks:
        exec(textwrap.dedent(block), names)
    study = names["study"]
    assert len(study.trials) == 3
    assert study.trials[0].params == {"lr": 2e-5, "schedule": "constant"}
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)
    assert len(names["lowest"]) == 2
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_training_and_the_command_line_work_without_optuna(place):
    """An import of optuna fails in this process; everything but `tune` goes on, and `tune` says what to install."""
    code = f"""
        import importlib.abc, sys
        from pathlib import Path
        class Blocker(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "optuna":
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, Blocker())
        sys.path.insert(0, {str(ROOT / "tests")!r})
        import kmed_bench.cli, kmed_bench.pipeline.benchmark, kmed_bench.pipeline.trainer, kmed_bench.report.study
        from kmed_bench.asr.model.weights import load_weights
        from kmed_bench.config import load_config
        from kmed_bench.corpus.splitting.split import read_split
        from kmed_bench.training.epochs import featurize_split, train_epochs
        place = Path({str(place)!r})
        config = load_config("demo", {{"train.epochs": "1", "eval.max_new_tokens": "8"}})
        speech = featurize_split(read_split(place / "split"), place / "cache", config, ("train", "valid"))
        (epoch,) = train_epochs(load_weights(place / "tiny.pt"), speech, config, seed=0)
        assert epoch.valid_cer > 0 and "optuna" not in sys.modules
        sys.exit(kmed_bench.cli.main(["tune", "split", "--size", "base"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, cwd=place
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'kmed-bench[tune]'" in done.stderr
