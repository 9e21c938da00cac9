"""Training whose steps are recorded and repeated, as on a GPU, by a recorder of the CPU's operations."""

import dataclasses

import pytest
import torch
from cpu_recorder import CpuRecorder

from kmed_bench.asr.model import graphs
from kmed_bench.asr.model.graphs import GraphRunner
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.config import TrainConfig
from kmed_bench.training import cpu_bf16, cuda, step
from kmed_bench.training.encoder_outputs import build_encoder_outputs
from kmed_bench.training.fit import fit
from kmed_bench.training.sources import EncoderOutputSource, LogMelSource
from kmed_bench.training.state import StateKeeper

pytestmark = pytest.mark.slow

# 2 to the power of -10 is the same number in the tensor of a recorded step and in Python.
CONFIG = TrainConfig(epochs=2, batch_size=4, lr=2**-10, precision="fp32", audio_context="dynamic")

N_STEPS = 4  # of two batches, the second one short, in two epochs

MODES = [
    {"audio_context": "full"},
    {"precision": "bf16"},
    {"precision": "fp16", "grad_clip": 0.5},
    {"micro_batches": 2, "grad_clip": 0.5, "schedule": "cosine", "warmup_steps": 2},
    {"lora_rank": 4},
    {"freeze_encoder": True, "spec_augment": True},
    {"gradient_checkpointing": True},
]


def as_written(self, _key, function, *inputs, **_rehearsal):
    """Run a step as written, with the shapes and the optimizer of a recorded one."""
    return function(*inputs)


@pytest.fixture
def recorders(monkeypatch):
    """The recorders that trainings have made: steps on the CPU are recorded, with the layers of a GPU."""
    made = []

    def recorder_for(_device):
        made.append(CpuRecorder())
        return made[-1]

    monkeypatch.setattr(graphs, "recorder_for", recorder_for)
    monkeypatch.setattr(cpu_bf16, "applies", lambda *_: False)
    monkeypatch.setattr(cuda, "applies", lambda precision, _device: precision != "fp32")
    return made


@pytest.fixture
def train(tiny_checkpoint, examples, store, recorders):
    def run(source=None, states=None, progress=None, **options):
        model, config = load_weights(tiny_checkpoint), dataclasses.replace(CONFIG, **options)
        source = source or LogMelSource(store)
        results = fit(
            model, examples[:6], source, examples[9:], store, config, seed=0, states=states, progress=progress
        )
        whole = [(r.train_loss, r.train_cer_teacher_forced, r.valid_loss) for r in results]
        return whole, {name: value.to_dense() for name, value in model.state_dict().items()}

    return run


def assert_equal(found, expected):
    assert found[0] == expected[0]
    assert [name for name, value in expected[1].items() if not torch.equal(found[1][name], value)] == []


@pytest.mark.parametrize("options", MODES, ids=str)
def test_recorded_steps_train_as_written_ones(train, recorders, monkeypatch, options):
    """To the bit: nothing that changes from step to step is Python's, where a recording would repeat the first."""
    found = train(**options)
    assert recorders[0].n_replays == N_STEPS
    monkeypatch.setattr(GraphRunner, "run", as_written)
    assert_equal(found, train(**options))


def test_a_stored_encoders_output_is_an_input(train, recorders, monkeypatch, tiny_checkpoint, examples, store, cache):
    options = {"freeze_encoder": True, "audio_context": "full"}
    names = [e.utterance_id for e in examples]
    encoded = build_encoder_outputs(load_weights(tiny_checkpoint), store, names, cache, context="full")
    found = train(source=EncoderOutputSource(encoded), **options)
    assert recorders[0].n_replays == N_STEPS
    monkeypatch.setattr(GraphRunner, "run", as_written)
    assert_equal(found, train(source=EncoderOutputSource(encoded), **options))


@pytest.mark.parametrize(
    ("options", "stop_after"),
    [({"micro_batches": 2, "grad_clip": 0.5}, 1), ({"precision": "fp16"}, 3)],
    ids=str,
)
def test_a_recorded_training_resumes_to_the_bit(train, tmp_path, options, stop_after):
    """A step is recorded before it is first taken, so it does not matter where a training was stopped."""

    def stop(done, _total):
        if done == stop_after:
            raise RuntimeError("stopped")

    options = {**options, "checkpoint_steps": 1}
    with pytest.raises(RuntimeError, match="stopped"):
        train(states=StateKeeper(tmp_path, "same", resume=False), progress=stop, **options)
    resumed = train(states=StateKeeper(tmp_path, "same", resume=True), **options)
    whole = train(**options)
    n_left = len(resumed[0])
    assert n_left == (2 if stop_after < 2 else 1)
    assert_equal(resumed, (whole[0][-n_left:], whole[1]))


def test_few_shapes_are_recorded_and_each_once(train, recorders):
    """The last, short batch has the shape of the others; only its tokens' length may differ."""
    counts = []
    runs = GraphRunner.run

    def counted(self, *args, **kwargs):
        outputs = runs(self, *args, **kwargs)
        counts.append(self.n_graphs)
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GraphRunner, "run", counted)
        train(audio_context="full")
    assert counts[-1] <= 2
    assert recorders[0].n_replays == len(counts) == N_STEPS


def test_what_reads_a_value_is_not_recorded(train, recorders, monkeypatch, caplog):
    """As on a GPU: the training goes on kernel by kernel, and says so."""
    norm = step.total_norm
    expected = train(epochs=1)
    monkeypatch.setattr(step, "total_norm", lambda gradients: norm(gradients) + 0 * float(norm(gradients)))
    found = train(epochs=1)
    assert recorders[-1].n_replays == 0
    assert [m for m in caplog.messages if "can't be recorded" in m and "_local_scalar_dense" in m]
    assert found[0][0] == pytest.approx(expected[0][0])


def test_a_rate_of_python_would_be_found(train, monkeypatch):
    """The comparison above fails where a recording repeats its first rate."""
    expected = train(schedule="cosine")
    monkeypatch.setattr(step.Stepper, "_on_device", False)
    assert train(schedule="cosine")[0] != expected[0]
