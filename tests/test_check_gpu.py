"""What scripts/check_gpu.py takes for a result; `--trial` runs all of it on a CPU."""

import json
import sys
from argparse import Namespace

import pytest
from script_modules import load_script

from kmed_bench.cli import parse

check_gpu = load_script("check_gpu")

LOG = """tests/asr/test_cuda.py::test_losses_are_the_cpus[{'lora_rank': 4}] PASSED [ 10%]
tests/asr/test_cuda.py::test_16_bits_train_as_fp32[bf16] PASSED             [ 20%]
tests/asr/test_cuda.py::test_slots_are_as_many_as_memory_holds FAILED       [ 30%]
tests/asr/test_cuda.py::test_transcripts_are_the_cpus[fp32] SKIPPED (none)  [ 40%]
tests/asr/test_cuda.py::test_a_step_in_slots_is_recorded[fp16] """


def test_outcomes_are_those_of_a_log_that_breaks_off() -> None:
    assert check_gpu.outcomes(LOG) == {"passed": 2, "failed": 1, "skipped": 1}
    assert check_gpu.outcomes("no tests ran") == {}


def test_all_parts_take_less_than_eight_minutes() -> None:
    assert sum(check_gpu.LIMITS_S.values()) <= 470


@pytest.mark.parametrize("trial", [False, True])
def test_the_benchmark_is_a_command_line_of_the_program(tmp_path, trial) -> None:
    args = Namespace(trial=trial, weights=tmp_path / "base.pt")
    words = check_gpu.run_words(args, tmp_path, tmp_path)
    assert parse(words[words.index("kmed_bench") + 1 :]) is not None
    assert isinstance(check_gpu.run_words(Namespace(trial=False, weights=None), tmp_path, tmp_path), str)


def test_a_program_that_runs_late_is_stopped_with_what_it_started(tmp_path) -> None:
    log, late = tmp_path / "log", "import subprocess, time; print('begun', flush=True); time.sleep(60)"
    status, taken_s = check_gpu.execute([sys.executable, "-c", late], 1.5, log, tmp_path)
    assert status is None
    assert taken_s < 10
    assert log.read_text() == "begun\n"
    assert check_gpu.execute([sys.executable, "-c", "raise SystemExit(3)"], 60, log, tmp_path)[0] == 3


@pytest.mark.parametrize(("met", "ok"), [(True, True), (False, False), (None, False)])
def test_rates_are_right_if_every_target_is_met(tmp_path, monkeypatch, met, ok) -> None:
    def execute(words, _limit_s, log, _folder):
        log.write_text("")
        found = {"targets": {"training base full": {"met": met}}}
        check_gpu.Path(words[words.index("--json") + 1]).write_text(json.dumps(found))
        return 0, 1.0

    monkeypatch.setattr(check_gpu, "execute", execute)
    args = Namespace(trial=False, weights=None, texts=None, limit={"rates": 100.0})
    result = check_gpu.check_rates(args, tmp_path)
    assert result["ok"] == ok
    assert result["missed"] == ([] if ok else ["training base full"])
