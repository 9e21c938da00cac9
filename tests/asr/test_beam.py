import dataclasses

import pytest
import torch
import whisper
from random_whisper import save_random_whisper
from whisper.audio import N_FRAMES
from whisper.model import ModelDimensions

from kmed_bench.asr.decoding.beam import decode_beam
from kmed_bench.asr.decoding.decode import decode_clips
from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.logit_filters import LogitFilters, would_repeat
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.kv_cache import fill_gaps
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper
from kmed_bench.asr.model.windows import DECODING, Window
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError

# openai-whisper ranks unfinished beams with np.argsort on a tensor.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


@pytest.fixture(scope="module")
def ending():
    """A random model whose texts end, at lengths that differ: end-of-text's embedding is long."""
    torch.manual_seed(0)
    model = Whisper(ModelDimensions(80, 1500, 64, 2, 1, 51865, 448, 64, 2, 1))
    with torch.no_grad():
        model.decoder.positional_embedding.normal_(std=0.3)
        model.decoder.token_embedding.weight.normal_(std=0.3)
        model.decoder.token_embedding.weight[korean_tokenizer().eot] *= 5
        for layer in (getattr(model.decoder.blocks[0].cross_attn, name) for name in ("query", "key", "out")):
            layer.weight.mul_(10)  # sharp attention, so that clips differ
    return model.eval()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A model that hears differences and stops after 16 tokens."""
    return load_weights(save_random_whisper(tmp_path_factory.mktemp("short") / "short.pt"))


def encode_noise(model, n_clips, seed):
    """Return encoder output of noise of several loudnesses."""
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.linspace(0.2, 5, n_clips)[:, None, None]
    with torch.inference_mode():
        return model.encode(torch.randn(n_clips, 80, 3000, generator=generator) * loudness).features


def by_whisper(model, features):
    """Return openai-whisper's tokens clip by clip, from the same encoder output."""
    options = whisper.DecodingOptions(
        language="ko", without_timestamps=True, fp16=False, beam_size=5,
        sample_len=min(40, model.dims.n_text_ctx // 2),
    )  # fmt: skip
    return [whisper.decode(model, clip, options).tokens for clip in features]


def by_us(model, features, search=decode_beam, **settings):
    options = DecodingOptions(**{"beam_size": 5, "max_new_tokens": 40, **settings})
    return [decoded.tokens for decoded in search(model, EncoderOutput(features), options)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "ending", "short"])
def test_beams_write_what_openai_whispers_write(name, request):
    model = request.getfixturevalue(name)
    features = encode_noise(model, 4, seed=3)
    assert by_us(model, features) == by_whisper(model, features)


def test_the_models_tell_the_rules_apart(ending, short):
    """Texts that differ between clips and end at different lengths, and beams that differ from greedy."""
    features = encode_noise(ending, 6, seed=3)
    lengths = {len(text) for text in by_us(ending, features)}
    assert len(lengths) > 1
    assert min(lengths) < 40
    assert by_us(ending, features, decode_greedy) != by_us(ending, features)
    assert len({tuple(text) for text in by_us(short, encode_noise(short, 4, seed=3))}) > 1


def test_a_clips_text_does_not_depend_on_its_batch(ending):
    features = encode_noise(ending, 5, seed=4)
    alone = [by_us(ending, clip[None])[0] for clip in features]
    assert by_us(ending, features) == alone
    assert by_us(ending, features.flip(0)) == alone[::-1]


def test_a_beam_of_one_is_greedy(ending):
    features = encode_noise(ending, 6, seed=5)
    assert by_us(ending, features, beam_size=1) == by_us(ending, features, decode_greedy)


def test_gaps_are_filled_from_the_end():
    assert fill_gaps([True, True, True]) == [0, 1, 2]
    assert fill_gaps([False, True, True, True]) == [3, 1, 2]
    assert fill_gaps([True, False, False, True, False]) == [0, 3]
    assert fill_gaps([False, False]) == []


def test_the_cache_gives_what_the_whole_text_gives(tiny):
    """Logits step by step, with hypotheses swapped and a clip dropped, equal those of the decoder run whole."""
    features = encode_noise(tiny, 3, seed=6)
    texts = torch.tensor([[50258, 7], [50258, 8], [50258, 9]])
    with torch.inference_mode():
        cache = tiny.start_cache(EncoderOutput(features), 8)
        tiny.next_logits(texts, cache)
        cache.widen(2)
        cache.keep(fill_gaps([False, True, True]))  # clips 2, 1
        texts = texts[[2, 2, 1, 1]]
        for new, rows in (([1, 2, 3, 4], [1, 0, 2, 3]), ([5, 6, 7, 8], [0, 0, 3, 2]), ([9, 9, 9, 9], [0, 1, 2, 3])):
            cache.reorder(rows)
            texts = torch.cat([texts[rows], torch.tensor(new)[:, None]], dim=1)
            found = tiny.next_logits(texts[:, -1:], cache)
            whole = tiny.decoder(texts, features[[2, 2, 1, 1]])[:, -1]
            torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_what_would_repeat():
    assert would_repeat([], 2) == []
    assert would_repeat([1], 2) == []
    assert would_repeat([1, 1], 2) == [1]
    assert would_repeat([1, 2, 1], 2) == [2]
    assert would_repeat([1, 2, 1, 3, 1], 2) == [2, 3]
    assert would_repeat([1, 2, 3, 1, 2], 3) == [3]
    assert would_repeat([1, 2, 3, 4, 2], 3) == []


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_guard_ends_loops_and_counts_its_clips(tiny, beam_size):
    """The random model loops; with a guard no n-gram comes twice, and other clips stay as they were."""
    audio, search = EncoderOutput(encode_noise(tiny, 3, seed=7)), decode_greedy if beam_size == 1 else decode_beam

    def decode(guard):
        return search(tiny, audio, DecodingOptions(max_new_tokens=40, beam_size=beam_size, no_repeat_ngram_size=guard))

    free, ngram_blocked = decode(None), decode(3)
    assert any(repeats(w.tokens, 3) for w in free)
    assert not any(w.ngram_blocked for w in free)
    assert not any(repeats(w.tokens, 3) for w in ngram_blocked)
    for before, after in zip(free, ngram_blocked, strict=True):
        if before.tokens != after.tokens:
            assert after.ngram_blocked
        if repeats(before.tokens, 3):
            assert after.ngram_blocked
    # A guard that finds nothing to forbid changes nothing, and counts nothing.
    assert decode(41) == free


def repeats(text, n):
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    return len(set(grams)) < len(grams)


def test_a_forbidden_token_counts_only_where_it_would_have_been_considered():
    tokenizer = korean_tokenizer()
    text = [1000, 1001, 1000]
    for n_candidates, rank, expected in ((1, 1, True), (1, 2, False), (2, 2, True), (2, 3, False)):
        rules = LogitFilters(tokenizer, no_repeat_ngram_size=2, n_candidates=n_candidates)
        logits = torch.zeros(1, 51865)
        logits[0, [2000, 2001, 2002]] = torch.tensor([3.0, 2.0, 1.0])
        logits[0, 1001] = 4.5 - rank
        assert rules.apply(logits, [text]) == [expected]
        assert logits[0, 1001] == -torch.inf
        assert logits[0, 2000] == 3


def test_settings_reach_the_search(ending, tone_part, tmp_path):
    store = build_features(tone_part, tmp_path)
    names = tone_part["utterance_id"].tolist()[:4]
    shared = DecodingOptions(batch_size=3, context="dynamic", max_new_tokens=12)

    def decode(**settings):
        options = dataclasses.replace(shared, **settings)
        return {c.utterance_id: c for c in decode_clips(ending, store, names, options)}

    longest = max(names, key=store.n_frames)
    with torch.inference_mode():
        window = Window.for_clips("dynamic", store.n_frames(longest), DECODING)
        audio = ending.encode(store.window([longest], N_FRAMES), window)
    beam = decode_beam(ending, audio, dataclasses.replace(shared, beam_size=3))[0]
    assert decode(beam_size=3)[longest].text == korean_tokenizer().decode(beam.tokens).strip()
    assert not any(clip.ngram_blocked for clip in decode().values())
    assert any(clip.ngram_blocked for clip in decode(no_repeat_ngram_size=2).values())


def test_settings_have_limits():
    assert load_config("sound").eval.beam_size == 1
    assert load_config("sound").eval.no_repeat_ngram_size is None
    assert (
        load_config("sound", {"eval.no_repeat_ngram_size": "8", "eval.beam_size": "5"}).eval.no_repeat_ngram_size == 8
    )
    for key, value in (("eval.beam_size", "0"), ("eval.beam_size", "none"), ("eval.no_repeat_ngram_size", "1")):
        with pytest.raises(KmedError, match=key):
            load_config("sound", {key: value})
