"""Training and decoding on a CUDA GPU, against the CPU; without a GPU these tests are skipped."""

import dataclasses
import gc

import pytest
import torch
from whisper.audio import N_FRAMES

from kmed_bench.asr.decoding.continuous import MAX_SLOTS, decode_in_slots, slots_for
from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.decoding.slots import Slots
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.device import (
    deterministic,
    gpu_kernels,
    pick_device,
    resolve_precision,
)
from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.asr.model.whisper import EncoderOutput
from kmed_bench.asr.model.windows import FULL_WINDOW
from kmed_bench.config import DataConfig, TrainConfig
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.training.batches import make_batch
from kmed_bench.training.encoder_outputs import build_encoder_outputs
from kmed_bench.training.fit import fit
from kmed_bench.training.loss import LossNetwork
from kmed_bench.training.original_recipe import original_losses
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.sources import EncoderOutputSource, LogMelSource
from kmed_bench.training.state import StateKeeper
from kmed_bench.training.step import Stepper

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]

CONFIG = TrainConfig(epochs=2, batch_size=4, lr=1e-3, precision="fp32", audio_context="dynamic")


@pytest.fixture(autouse=True)
def _whole_fp32():
    """Let cuDNN multiply fp32 as fp32: by default its convolutions round to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def train(tiny_checkpoint, examples, store):
    def run(device="cuda", source=None, states=None, **options):
        model = load_weights(tiny_checkpoint, device)
        config = dataclasses.replace(CONFIG, **options)
        source = source or LogMelSource(store)
        whole = fit(model, examples[:9], source, examples[9:], store, config, seed=0, states=states)
        return model, list(whole)

    return run


def losses(trained):
    return [loss for result in trained[1] for loss in (result.train_loss, result.valid_loss)]


def test_the_gpu_is_picked_and_bf16_where_it_multiplies_it():
    assert pick_device() == torch.device("cuda", 0)
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert resolve_precision("auto", pick_device()) == ("bf16" if native else "fp32")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"audio_context": "full"},
        {"micro_batches": 2},
        {"gradient_checkpointing": True},
        {"lora_rank": 4},
        {"spec_augment": True},
        {"grad_clip": 0.5, "schedule": "cosine", "warmup_steps": 2},
    ],
    ids=str,
)
def test_losses_are_the_cpus(train, options):
    assert losses(train(**options)) == pytest.approx(losses(train("cpu", **options)), abs=2e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_train_as_fp32(train, precision):
    model, results = train(precision=precision)
    assert losses((model, results)) == pytest.approx(losses(train()), rel=0.02)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_stored_encoder_output_is_the_encoders(train, tiny_checkpoint, examples, store, cache):
    options = {"freeze_encoder": True, "audio_context": "full"}
    model = load_weights(tiny_checkpoint, "cuda")
    names = [e.utterance_id for e in examples]
    encoded = build_encoder_outputs(model, store, names, cache, context="full")
    assert losses(train(source=EncoderOutputSource(encoded), **options)) == pytest.approx(
        losses(train("cpu", **options)), abs=5e-3
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_training_goes_on_where_it_stopped(train, tiny_checkpoint, examples, store, tmp_path, precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    first = fit(
        load_weights(tiny_checkpoint, "cuda"),
        examples[:9],
        LogMelSource(store),
        examples[9:],
        store,
        config,
        seed=0,
        states=StateKeeper(tmp_path, "same", resume=False),
    )
    next(first)
    first.close()  # stopped while the first epoch's result is looked at: the second is still to come
    resumed = train(precision=precision, states=StateKeeper(tmp_path, "same", resume=True))
    whole = train(precision=precision)
    assert losses(resumed)[-2:] == pytest.approx(losses(whole)[-2:], abs=1e-4)
    worst = max((a - b).abs().max().item() for a, b in zip(resumed[0].parameters(), whole[0].parameters(), strict=True))
    assert worst < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_deterministic_training_resumes_to_the_bit(train, tiny_checkpoint, examples, store, tmp_path, precision):
    options = {"precision": precision, "deterministic": True, "checkpoint_steps": 1}
    config = dataclasses.replace(CONFIG, **options)
    model, steps = load_weights(tiny_checkpoint, "cuda"), []

    def stop(done, _total):
        steps.append(done)
        if done == 2:
            raise RuntimeError("stopped")

    kept = StateKeeper(tmp_path, "same", resume=False)
    source = LogMelSource(store)
    with pytest.raises(RuntimeError, match="stopped"):
        list(fit(model, examples[:9], source, examples[9:], store, config, seed=0, states=kept, progress=stop))
    resumed = train(**options, states=StateKeeper(tmp_path, "same", resume=True))
    whole = train(**options)
    assert losses(resumed) == losses(whole)
    for name, value in whole[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[name].to_dense(), value.to_dense()), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("options", [{}, {"micro_batches": 2, "grad_clip": 0.5}, {"gradient_checkpointing": True}])
def test_graphs_compute_what_launched_kernels_do(tiny_checkpoint, examples, store, precision, options):
    """Every step is a graph, and trains as the same step launched kernel by kernel, to the last bits."""
    found = []
    for recorded in (True, False):
        config = dataclasses.replace(CONFIG, precision=precision, **options)
        model = load_weights(tiny_checkpoint, "cuda")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        network = LossNetwork(model, precision, recompute=config.gradient_checkpointing)
        stepper = Stepper(model, network, optimizer, config, precision, Parallel())
        pad_to = stepper.pad_to
        stepper.graphs.enabled = recorded

        def make(chosen, pad_to=pad_to):
            mel = store.window([e.utterance_id for e in chosen], 3000)
            return make_batch(chosen, mel, FULL_WINDOW, pad_to=pad_to)

        with deterministic(True), gpu_kernels(model.device):
            for batch in [examples[:4], examples[4:8], examples[8:10]] * 2:
                stepper.take(batch, make, lr=1e-3, where="")
        sums = stepper.collect()
        assert bool(stepper.graphs.n_graphs) == recorded
        found.append((sums.loss, sums.errors, [p.detach().clone() for p in model.parameters()]))
    (loss, errors, weights), (expected, n_errors, launched) = found
    assert loss == pytest.approx(expected, rel=1e-5)
    assert errors == n_errors
    assert max((a - b).abs().max().item() for a, b in zip(weights, launched, strict=True)) < 1e-5


def test_lack_of_memory_makes_smaller_pieces_of_the_same_batch(tiny_checkpoint, examples, store, caplog):
    """A batch of 36, so what a piece takes is far more than weights and the libraries' own memory."""

    def run(**options):
        config = dataclasses.replace(CONFIG, batch_size=36, audio_context="full", epochs=1, **options)
        model = load_weights(tiny_checkpoint, "cuda")
        return list(fit(model, examples[:9] * 4, LogMelSource(store), examples[9:], store, config, seed=0))

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    (whole,) = run()
    most, all_of_it = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.75 * most / all_of_it)
    try:
        (pieces,) = run(out_of_memory="halve")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("pieces from here on" in message for message in caplog.messages)
    assert (pieces.train_loss, pieces.valid_loss) == pytest.approx((whole.train_loss, whole.valid_loss), abs=1e-3)


def test_the_originals_losses_are_the_cpus(tiny_checkpoint, examples, store):
    found = [original_losses(load_weights(tiny_checkpoint, d), examples, store, CONFIG) for d in ("cuda", "cpu")]
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-3)


@pytest.mark.parametrize("n_slots", [1, 3, 12])
@pytest.mark.parametrize("n", [None, 3])
def test_texts_in_slots_are_the_cpus(tiny_checkpoint, tone_part, store, n_slots, n):
    """Each in CUDA graphs, two of them where texts grow beyond what attention reads at first."""
    names = tone_part["utterance_id"].tolist()
    options = DecodingOptions(max_new_tokens=70, no_repeat_ngram_size=n)
    on_gpu = {
        name: decoded
        for name, decoded, _ in decode_in_slots(load_weights(tiny_checkpoint, "cuda"), store, names, options, n_slots)
    }
    model = load_weights(tiny_checkpoint)
    with torch.inference_mode():
        on_cpu = decode_greedy(model, model.encode(store.window(names, N_FRAMES)), options)
    assert [on_gpu[name] for name in names] == on_cpu


def test_slots_are_as_many_as_memory_holds(tiny_checkpoint):
    model = load_weights(tiny_checkpoint, "cuda")
    assert slots_for(model, DecodingOptions(), 5) == 5
    assert slots_for(model, DecodingOptions(precision="bf16"), 10_000) == MAX_SLOTS


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_in_slots_is_recorded(tiny_checkpoint, precision, caplog):
    """Not run kernel by kernel, as where recording fails."""
    model = load_weights(tiny_checkpoint, "cuda")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.inference_mode():
        slots = Slots(model, DecodingOptions(precision=precision, no_repeat_ngram_size=3), 4, dtype)
        slots.fill(["a", "b"], EncoderOutput(torch.randn(2, 1500, 64, device="cuda", dtype=dtype)))
        slots.advance(4)
    assert slots._graphs.n_graphs == 1
    assert slots.positions.tolist()[2:] == [0, 0]
    assert not caplog.messages


@pytest.mark.slow
@pytest.mark.real_speech
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_transcripts_are_the_cpus(real_speech, tmp_path, precision):
    ingest([real_speech], tmp_path, DataConfig())
    part = read_manifest(tmp_path / "manifest.parquet").iloc[::10].reset_index(drop=True)
    store, weights = build_features(part, tmp_path / "frames"), find_weights("base").path

    def texts(device, precision):
        options = DecodingOptions(precision=precision, max_new_tokens=100)
        found = predict_part(load_weights(weights, device), part, store, options)
        return [prediction.hypothesis for prediction in found]

    same = [ours == theirs for ours, theirs in zip(texts("cuda", precision), texts("cpu", "fp32"), strict=True)]
    # 16 bits decide near ties otherwise now and then; fp32's other order of sums hardly ever does.
    assert sum(same) >= len(same) * (0.95 if precision == "fp32" else 0.8)
