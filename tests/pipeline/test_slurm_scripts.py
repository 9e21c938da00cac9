"""What is submitted to Slurm, and what is refused, without a cluster."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kmed_bench.cli import main, parse
from kmed_bench.commands.tune import words_of_jobs
from kmed_bench.config import load_config
from kmed_bench.config.identity import benchmark_digest
from kmed_bench.config.slurm import OURS, parse_directives
from kmed_bench.core import slurm_jobs
from kmed_bench.core.errors import KmedError
from kmed_bench.core.slurm_jobs import own_job
from kmed_bench.pipeline.launch.mlflow_backend import SlurmBackend
from kmed_bench.pipeline.launch.slurm import describe_scripts, describe_submission, stages_of
from kmed_bench.pipeline.launch.slurm_scripts import Stage, write_script

SETTINGS = {
    "partition": "gpu", "account": "ward", "time_min": "240", "gpus": "2", "cpus": "6", "memory_gib": "1.5",
    "workers": "3", "setup": "module load python\n. /shared/venv/bin/activate", "python": "python",
    "directives": "constraint='h200|b200' exclusive --qos=long", "warning_s": "90",
}  # fmt: skip


def config_of(**settings: str):
    return load_config("demo", {f"slurm.{name}": value for name, value in settings.items()})


def directives(script: str) -> set[str]:
    return set(re.findall(r"^#SBATCH (.+)$", script, re.MULTILINE))


def test_a_script_has_the_settings_and_runs_one_command(tmp_path: Path) -> None:
    script = write_script(Stage("tasks", "kmed-run", 9), config_of(**SETTINGS).slurm, tmp_path)
    assert directives(script) == {
        "--partition=gpu", "--account=ward", "--time=240", "--gpus-per-node=2", "--cpus-per-task=6", "--mem=1536M",
        "--array=0-8%3", "--constraint='h200|b200'", "--exclusive", "--qos=long", "--signal=B:USR2@90", "--requeue",
        "--nodes=1", "--job-name=kmed-run", "--open-mode=append", f"--output={tmp_path}/tasks-%a.log",
    }  # fmt: skip
    lines = script.splitlines()
    trap, threads, *own = lines[lines.index("# setup") + 1 : lines.index("# command") - 1]
    assert (trap, own) == ("trap '' USR2 TERM", ["module load python", ". /shared/venv/bin/activate"])
    assert threads == "export OMP_NUM_THREADS=6 MKL_NUM_THREADS=6 OPENBLAS_NUM_THREADS=6"
    words = shlex.split(lines[-1])
    assert words[:2] == ["exec", "python"]
    assert words[-2:] == ["tasks", str(tmp_path)]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_is_not_set_is_left_to_the_cluster(tmp_path: Path) -> None:
    script = write_script(Stage("last", "kmed-tune-last"), config_of(gpus="0").slurm, tmp_path)
    names = {name.partition("=")[0] for name in directives(script)}
    assert names == {"--cpus-per-task", "--job-name", "--nodes", "--open-mode", "--output", "--requeue", "--signal"}
    assert shlex.split(script.splitlines()[-1])[1] == sys.executable


def test_slurms_settings_decide_no_result() -> None:
    assert benchmark_digest(config_of(**SETTINGS)) == benchmark_digest(load_config("demo"))


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, {}), ("exclusive", {"exclusive": True}), ("--a=1 b='x y=z'", {"a": "1", "b": "x y=z"})],
)
def test_directives_are_options_of_sbatch(text, found) -> None:
    assert parse_directives(text) == found


@pytest.mark.parametrize("text", ["-p gpu", "--", "=x", *(f"{name}=x" for name in OURS)])
def test_other_directives_are_refused(text: str) -> None:
    with pytest.raises(
        KmedError, match=r"slurm\.directives is .*(is not a long option|is set by the submission itself)"
    ):
        config_of(directives=text)


@pytest.mark.parametrize("key", ["tracking.uri", "tune.storage"])
def test_a_password_goes_into_no_file(key: str) -> None:
    slurm = config_of().slurm
    with pytest.raises(KmedError, match=f"--{key} has a password") as refused:
        describe_submission("tune", [["tune"]], slurm, addresses={key: "postgresql://me:secret@db/kmed"})
    assert "secret" not in str(refused.value)
    describe_submission("tune", [["tune"]], slurm, addresses={key: "postgresql://db/kmed"})


def test_the_plan_shows_each_script_and_how_it_is_submitted(tmp_path: Path) -> None:
    lines = describe_scripts(stages_of("run", 4, prepared=True), config_of(gpus="0").slurm, tmp_path)
    assert [line for line in lines if line.startswith("# sbatch")] == [
        "# sbatch prepare.sh",
        "# sbatch --dependency=afterok:$JOB_OF_PREPARE --kill-on-invalid-dep=yes tasks.sh",
        "# sbatch --dependency=afterany:$JOB_OF_TASKS --kill-on-invalid-dep=yes last.sh",
    ]
    assert not any(tmp_path.iterdir())


def test_a_plan_needs_no_slurm_and_leaves_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["run", "--launcher", "slurm", "--plan", "--sizes", "tiny,base", "--seeds", "0,1,2"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --array=0-5%6" in said
    assert said.count("#!/bin/bash") == 3
    assert not any(tmp_path.iterdir())


def test_tune_has_a_plan_on_slurm_alone(tmp_path: Path, capsys) -> None:
    assert main(["tune", str(tmp_path), "--size", "tiny", "--plan"]) == 2
    assert "--plan prints the scripts of Slurm's jobs; add --launcher slurm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["run"], ["tune", "split", "--size", "tiny"], ["evaluate", "tiny", "split", "out"]]
)
@pytest.mark.parametrize("given", [["--slots", "4"], ["--threads", "2"]])
def test_what_is_for_this_machine_is_refused(command: list[str], given: list[str], capsys) -> None:
    assert main([*command, "--launcher", "slurm", "--plan", *given]) == 2
    assert f"{' '.join(given)} is for this machine" in capsys.readouterr().err


@pytest.mark.parametrize(("workers", "n_jobs"), [("2", 2), ("8", 4)])
def test_the_jobs_of_a_study_run_the_command_and_the_last_one_confirms(workers: str, n_jobs: int) -> None:
    words = [
        "tune", "split", "--out", "tune", "--size", "tiny", "--trials", "4", "--study", "ward", "--confirm", "1,2",
        "--launcher", "slurm", "--plan", "--slurm.workers", workers,
    ]  # fmt: skip
    typed = parse(words)
    tasks, last = words_of_jobs(words, load_config("sound", typed.overrides))
    assert len(tasks) == n_jobs
    for job, confirm in [*((parse(task), "") for task in tasks), (parse(last), "1,2")]:
        assert (job.launcher, job.plan, job.slots, job.threads) == ("here", "false", "1", "auto")
        assert job.confirm == confirm
        assert (job.command_name, job.split, job.out, job.study) == ("tune", Path("split"), Path("tune"), "ward")
        assert job.overrides == typed.overrides


@pytest.mark.parametrize(("seeds", "said"), [("1,x", "give whole numbers"), ("1", "at least two different seeds")])
def test_seeds_that_can_not_confirm_are_refused_before_jobs_run(seeds: str, said: str, capsys) -> None:
    words = ["tune", "split", "--size", "tiny", "--launcher", "slurm", "--plan", "--confirm", seeds]
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_slurms_commands_that_are_not_here_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    slurm_jobs.cluster_name.cache_clear()
    with pytest.raises(KmedError, match="Slurm's command squeue is not on this machine"):
        slurm_jobs.job_states(["1"])
    assert slurm_jobs.cluster_name() == ""
    assert slurm_jobs.is_gone_job("slurm:hal:7") is False  # nobody knows
    assert slurm_jobs.is_gone_job("slurm:hal:x") is False
    slurm_jobs.cluster_name.cache_clear()


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "7_2"),
    ],
)
def test_a_job_knows_itself(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], job: str) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert own_job() == job


@pytest.mark.parametrize(
    ("entry", "configuration", "said"),
    [
        ("ingest", {}, "runs main, tune, evaluate, and was asked for 'ingest'"),
        ("main", {"ENV_MANAGER": "conda"}, "--env-manager is 'conda'"),
        ("main", {"partitions": "gpu", "SYNCHRONOUS": False, "build_image": False}, "has partitions, which kmed-slurm"),
    ],
)
def test_the_backend_of_mlflow_refuses_what_it_can_not_do(entry, configuration, said) -> None:
    with pytest.raises(KmedError, match=re.escape(said)):
        SlurmBackend().run(".", entry, {}, None, configuration, "", "0")
