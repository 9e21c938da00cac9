import pytest
import torch
import whisper

from kmed_bench.asr.decoding.decode import decode_clips, predict_part
from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.logit_filters import suppressed_tokens
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper, _output_logits
from kmed_bench.config import load_config

OPTIONS = whisper.DecodingOptions(language="ko", without_timestamps=True, fp16=False)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


@pytest.fixture(scope="module")
def store(tone_part, tmp_path_factory):
    return build_features(tone_part, tmp_path_factory.mktemp("frames"))


def test_the_encoder_is_whispers_on_the_full_window(tiny):
    mel = torch.randn(2, 80, 3000)
    with torch.inference_mode():
        encoded = tiny.encode(mel)
        torch.testing.assert_close(encoded.features, tiny.encoder(mel), atol=0, rtol=0)
        assert encoded.log_counts is None
        assert tiny.encode(mel[:, :, :250]).features.shape == (2, 125, 64)


def test_an_openai_whisper_is_converted_and_shares_its_weights(tiny_checkpoint):
    theirs = whisper.load_model(str(tiny_checkpoint)).train()
    ours = Whisper.from_openai(theirs)
    assert ours.training
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(ours.alignment_heads.to_dense(), theirs.alignment_heads.to_dense())
    mel = torch.randn(1, 80, 3000)
    with torch.inference_mode():
        assert torch.equal(ours.encode(mel).features, theirs.encoder(mel))


def test_options_are_those_of_the_settings():
    settings = {"eval.batch_size": 3, "eval.audio_context": "dynamic", "eval.precision": "bf16"}
    settings |= {"eval.max_new_tokens": 9, "eval.beam_size": 2, "eval.no_repeat_ngram_size": 4}
    assert DecodingOptions.from_config(load_config("sound", settings).eval) == DecodingOptions(
        batch_size=3, context="dynamic", precision="bf16", max_new_tokens=9, beam_size=2, no_repeat_ngram_size=4
    )
    assert DecodingOptions.from_config(load_config("sound").eval) == DecodingOptions()


@pytest.mark.slow
def test_tokens_equal_openai_whispers(tiny):
    torch.manual_seed(1)
    mel = torch.randn(5, 80, 3000)
    expected = [r.tokens for r in whisper.decode(tiny, mel, OPTIONS)]
    with torch.inference_mode():
        found = decode_greedy(tiny, tiny.encode(mel), DecodingOptions())
    assert [w.tokens for w in found] == expected
    assert not any(w.ngram_blocked for w in found)


def test_in_bf16_the_likeliest_tokens_are_weighed_in_fp32(tiny):
    """The first pass over the vocabulary rounds; what it finds likeliest is computed again."""
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(3, 64, generator=generator)
    weight = tiny.decoder.token_embedding.weight.detach()
    exact = torch.nn.functional.linear(states, weight)
    found = _output_logits(states, weight, weight.bfloat16())
    likely = exact.topk(20, dim=-1).indices
    torch.testing.assert_close(found.gather(-1, likely), exact.gather(-1, likely), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)
    assert not torch.equal(found, exact)
    assert found.argmax(dim=-1).tolist() == exact.argmax(dim=-1).tolist()


def test_a_cache_in_bf16_decodes_in_fp32_on_a_cpu(tiny):
    torch.manual_seed(6)
    features = torch.randn(2, 200, 64)
    tokens = torch.tensor([[50258, 50264, 50359, 50363]] * 2)
    with torch.inference_mode():
        exact = tiny.next_logits(tokens, tiny.start_cache(EncoderOutput(features), 8))
        cache = tiny.start_cache(EncoderOutput(features.bfloat16()), 8)
        found = tiny.next_logits(tokens, cache)
    assert {kept.dtype for layer in cache.layers for kept in layer.audio} == {torch.bfloat16}
    assert {kept.dtype for layer in cache.layers for kept in layer.text} == {torch.float32}
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)


def test_clips_that_end_early_leave_the_others_alone(tiny):
    """Each clip's tokens are the same alone and in a batch in which others end sooner."""
    torch.manual_seed(2)
    mel = torch.randn(4, 80, 3000) * torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None, None]
    options = DecodingOptions(max_new_tokens=30)
    with torch.inference_mode():
        features = tiny.encode(mel).features
        together = decode_greedy(tiny, EncoderOutput(features), options)
        alone = [decode_greedy(tiny, EncoderOutput(f[None]), options)[0] for f in features]
    assert together == alone


def test_suppression_is_openai_whispers():
    task = whisper.decoding.DecodingTask(
        whisper.model.Whisper(whisper.model.ModelDimensions(80, 1500, 64, 2, 1, 51865, 448, 64, 2, 1)), OPTIONS
    )
    never, never_first = suppressed_tokens(korean_tokenizer())
    assert never == list(task._get_suppress_tokens())
    assert never_first == [*korean_tokenizer().encode(" "), korean_tokenizer().eot]


def test_predictions_keep_the_parts_order_and_raw_text(tiny, store, tone_part):
    part = tone_part.iloc[::-1]
    options = DecodingOptions(batch_size=5, context="dynamic", max_new_tokens=8)
    predictions = predict_part(tiny, part, store, options)
    assert [p.utterance_id for p in predictions] == part["utterance_id"].tolist()
    assert [p.reference for p in predictions] == part["text"].tolist()
    assert all(p.decode_s > 0 for p in predictions)


def test_the_longest_clips_come_first(tiny, store, tone_part):
    names = tone_part["utterance_id"].tolist()
    clips = decode_clips(tiny, store, names, DecodingOptions(batch_size=4, context="dynamic", max_new_tokens=8))
    lengths = [store.n_frames(clip.utterance_id) for clip in clips]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == len(names)
