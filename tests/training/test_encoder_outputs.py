import pytest
import torch
from learned_positions import learned_positions

from kmed_bench.asr.features.store import FeatureStore, build_features
from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.model.windows import FULL_WINDOW, TRAINING, Window, bucket_frames, pooled_window
from kmed_bench.config import DataConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.training import encoder_outputs as encoded
from kmed_bench.training.encoder_outputs import build_encoder_outputs
from kmed_bench.training.loss import LossNetwork


@pytest.fixture
def model(tiny_checkpoint) -> Whisper:
    return load_weights(tiny_checkpoint)


@pytest.fixture(scope="module")
def frames(tone_part, tmp_path_factory) -> FeatureStore:
    return build_features(tone_part, tmp_path_factory.mktemp("frames"))


@pytest.fixture
def names(tone_part) -> list[str]:
    return tone_part["utterance_id"].tolist()


@torch.inference_mode()
def expect(model: Whisper, frames: FeatureStore, names: list[str], window: Window) -> torch.Tensor:
    return model.encode(frames.window(names, window.n_frames), window).features


def window_of(frames: FeatureStore, name: str) -> Window:
    return Window.for_clips("dynamic", frames.n_frames(name), TRAINING)


@pytest.mark.parametrize(
    ("n_frames", "window"),
    [(2, 64), (64, 64), (66, 128), (1_234, 1_280), (2_944, 2_944), (2_946, 3_000), (3_000, 3_000)],
)
def test_windows_are_whole_buckets(n_frames, window):
    assert bucket_frames(n_frames) == window


def test_dynamic_output_is_the_encoders_own_bit_for_bit(model, frames, names, tmp_path):
    store = build_encoder_outputs(model, frames, names, tmp_path, context="dynamic")
    groups: dict[Window, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(window_of(frames, name), []).append(name)
    assert len(groups) > 1
    for window, group in groups.items():
        assert all(store.positions(name) == bucket_frames(frames.n_frames(name)) // 2 + 32 for name in group)
        for batch in chunks(group, encoded._BATCH):
            encoded_batch = store.load(batch, window)
            assert torch.equal(encoded_batch.features, expect(model, frames, batch, window))
            assert torch.equal(encoded_batch.log_counts, torch.tensor(window.counts).log())
        # Alone or in another order, a clip's output differs in rounding at most.
        for name in group:
            alone = expect(model, frames, [name], window)
            torch.testing.assert_close(store.load([name], window).features, alone, atol=1e-5, rtol=0)
    for wrong, asked in (([group[0] for group in groups.values()], window), (groups[window], FULL_WINDOW)):
        with pytest.raises(ValueError, match="batch those of one bucket_frames"):
            store.load(wrong, asked)


def test_full_output_is_the_encoders_own_bit_for_bit(model, frames, names, tmp_path):
    chosen = names[:5]
    store = build_encoder_outputs(model, frames, chosen, tmp_path, context="full")
    audio = store.load(chosen, FULL_WINDOW)
    assert audio.features.shape == (5, 1500, 64)
    assert audio.log_counts is None
    ordered = sorted(chosen)
    assert torch.equal(store.load(ordered, FULL_WINDOW).features, expect(model, frames, ordered, FULL_WINDOW))
    with torch.inference_mode():
        torch.testing.assert_close(audio.features, model.encoder(frames.window(chosen, 3000)), atol=1e-5, rtol=0)


def test_the_decoder_learns_the_same_from_it(model, frames, names, tmp_path):
    batch = [name for name in names if bucket_frames(frames.n_frames(name)) == 192]
    store = build_encoder_outputs(model, frames, batch, tmp_path, context="dynamic")
    model.encoder.requires_grad_(False)
    tokens = torch.arange(12).expand(len(batch), -1)
    gradients = []
    window = pooled_window(192, TRAINING)
    for audio in (frames.window(batch, window.n_frames), store.load(batch, window)):
        model.zero_grad()
        targets = tokens.roll(-1, 1)
        loss, _ = LossNetwork(model, "fp32")(audio, tokens, targets, learned_positions(targets), window)
        loss.backward()
        gradients.append(model.decoder.blocks[0].cross_attn.key.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0])


def test_fp16_is_half_the_size_and_nearly_the_same(model, frames, names, tmp_path):
    full, half = (
        build_encoder_outputs(model, frames, names, tmp_path, context="dynamic", dtype=d) for d in ("fp32", "fp16")
    )
    n_values = sum(full.positions(name) for name in names) * 64
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("encoded.f*")}
    assert sizes == {"encoded.f32": 4 * n_values, "encoded.f16": 2 * n_values}
    for name in names:
        exact, kept = (each.load([name], window_of(frames, name)).features for each in (full, half))
        assert kept.dtype == torch.float32
        # Half of fp16's relative step.
        assert ((exact - kept).abs() <= exact.abs() * 2**-11 + 2**-25).all()


def test_output_beyond_fp16_is_refused(model, frames, names, tmp_path):
    with torch.no_grad():
        model.encoder.ln_post.weight.mul_(1e6)
    with pytest.raises(KmedError, match=r"fp16 ends at 65504; set features\.dtype=fp32"):
        build_encoder_outputs(model, frames, names[:2], tmp_path, context="dynamic", dtype="fp16")
    with torch.no_grad():
        model.encoder.ln_post.weight[0] = torch.nan
    window = bucket_frames(frames.n_frames(names[0]))
    batch = [name for name in names if bucket_frames(frames.n_frames(name)) == window][:2]
    with pytest.raises(KmedError, match=f"not finite for {', '.join(batch)}"):
        build_encoder_outputs(model, frames, batch, tmp_path, context="dynamic")
    assert list(tmp_path.glob("*encoded*")) == []


def test_a_store_is_found_again_and_follows_its_content(model, frames, names, tmp_path, tone_part, monkeypatch):
    first = build_encoder_outputs(model, frames, names, tmp_path, context="dynamic")
    keys = {first.key}
    with monkeypatch.context() as patch:
        patch.setattr(Whisper, "encode", None)
        assert build_encoder_outputs(model, frames, names, tmp_path, context="dynamic").key == first.key
    with torch.no_grad():
        model.decoder.token_embedding.weight.add_(1)  # no concern of the encoder's
    assert build_encoder_outputs(model, frames, names[::-1], tmp_path, context="dynamic").key == first.key
    keys.add(build_encoder_outputs(model, frames, names[1:], tmp_path, context="dynamic").key)
    keys.add(build_encoder_outputs(model, frames, names, tmp_path, context="dynamic", dtype="fp16").key)
    keys.add(build_encoder_outputs(model, frames, names[:1], tmp_path, context="full").key)
    faster = build_features(tone_part, tmp_path, speed=1.01)
    keys.add(build_encoder_outputs(model, faster, names, tmp_path, context="dynamic").key)
    with torch.no_grad():
        model.encoder.conv1.bias[0] += 1e-3
    keys.add(build_encoder_outputs(model, frames, names, tmp_path, context="dynamic").key)
    assert len(keys) == 6


def test_budget_and_progress(model, frames, names, tmp_path):
    with pytest.raises(KmedError, match=r"The encoder outputs of 12 clips need .* raise features\.cache_gib"):
        build_encoder_outputs(model, frames, names, tmp_path, context="full", budget_bytes=4_000_000)
    seen = []
    build_encoder_outputs(
        model,
        frames,
        names,
        tmp_path,
        context="full",
        budget_bytes=5_000_000,
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(8, 12), (12, 12)]
    (index,) = tmp_path.rglob("index.json")
    assert index.stat().st_size <= encoded._index_room(dict.fromkeys(names, 0))


@pytest.mark.slow
@pytest.mark.real_speech
def test_real_weights_on_real_clips(real_speech, tmp_path):
    """Output of Whisper base fits fp16, and is what the encoder gives."""
    model = load_weights(find_weights("base").path)
    ingest([real_speech], tmp_path, DataConfig())
    manifest = read_manifest(tmp_path / "manifest.parquet")
    part = manifest.sort_values("duration_s").iloc[:: max(len(manifest) // 6, 1)].head(6)
    names, frames = part["utterance_id"].tolist(), build_features(part, tmp_path)
    full, half = (
        build_encoder_outputs(model, frames, names, tmp_path, context="dynamic", dtype=d) for d in ("fp32", "fp16")
    )
    for name in names:
        window = window_of(frames, name)
        exact, kept = (each.load([name], window).features for each in (full, half))
        torch.testing.assert_close(exact, expect(model, frames, [name], window), atol=1e-4, rtol=0)
        assert (exact - kept).abs().max() < 2**-11 * exact.abs().max() + 1e-6
