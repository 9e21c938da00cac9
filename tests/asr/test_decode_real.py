"""The untouched base model on real recordings, 30 s window, fp32: what openai-whisper writes, we write."""

import dataclasses

import pytest
import torch
import whisper
from whisper.audio import N_FRAMES

from kmed_bench.asr.decoding.beam import decode_beam
from kmed_bench.asr.decoding.decode import predict_part
from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.logit_filters import suppressed_tokens
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.features.audio import decode_audio
from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import find_weights, load_weights
from kmed_bench.asr.model.whisper import EncoderOutput
from kmed_bench.config import DataConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.schema import read_manifest
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.ingest.manifest import ingest
from kmed_bench.scoring.measures import count_utterances, rates

pytestmark = [pytest.mark.slow, pytest.mark.real_speech]

N_CLIPS = 100
TIE = 1e-3  # logits; fp32 sums in another order differ by about 1e-5


@pytest.fixture(scope="module")
def model():
    return load_weights(find_weights("base").path)


@pytest.fixture(scope="module")
def part(real_speech, tmp_path_factory):
    """A hundred usable clips, spread evenly over the recordings."""
    folder = tmp_path_factory.mktemp("manifest")
    ingest([real_speech], folder, DataConfig())
    usable = read_manifest(folder / "manifest.parquet")
    assert len(usable) >= N_CLIPS
    return usable.iloc[[i * len(usable) // N_CLIPS for i in range(N_CLIPS)]].reset_index(drop=True)


@pytest.fixture(scope="module")
def store(part, tmp_path_factory):
    return build_features(part, tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def encoded(model, part, store):
    """Encoder output of each clip, computed once for both decoders."""
    with torch.inference_mode():
        mels = (store.window(names, N_FRAMES) for names in chunks(part["utterance_id"].tolist(), 4))
        return torch.cat([model.encode(mel).features for mel in mels])


def by_whisper(model, audio, **options):
    """Return openai-whisper's own results from encoder outputs or log-mels: a list of a batch, one of a clip alone."""
    settings = whisper.DecodingOptions(language="ko", without_timestamps=True, fp16=False, **options)
    return whisper.decode(model, audio, settings)


def gap_where_they_part(model, audio_features, ours, theirs):
    """Return how far the two most likely tokens lie apart, in logits, at the first token that differs."""
    tokenizer = korean_tokenizer()
    ours, theirs = [*ours, tokenizer.eot], [*theirs, tokenizer.eot]
    same = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    tokens = torch.tensor([[*tokenizer.sot_sequence_including_notimestamps, *ours[:same]]])
    with torch.inference_mode():
        logits = model.decoder(tokens, audio_features[None])[0, -1]
    never, never_first = suppressed_tokens(tokenizer)
    logits[never + (never_first if same == 0 else [])] = -torch.inf
    assert set(logits.topk(2).indices.tolist()) == {ours[same], theirs[same]}
    return float(logits.topk(2).values.diff().abs())


@pytest.fixture(scope="module")
def greedy(model, encoded):
    """What greedy decoding writes for each clip in the full window."""
    batches = [EncoderOutput(torch.stack(batch)) for batch in chunks(list(encoded), 8)]
    return [decoded for batch in batches for decoded in decode_greedy(model, batch, DecodingOptions())]


def test_a_hundred_clips_read_as_openai_whisper_reads_them(model, encoded, part, greedy):
    """Token for token; a text may differ only where two tokens tie."""
    tokenizer = korean_tokenizer()
    theirs = [result for batch in encoded.split(10) for result in by_whisper(model, batch)]
    for features, expected in list(zip(encoded, theirs, strict=True))[::10]:  # its batches change no text
        assert by_whisper(model, features).tokens == expected.tokens
    ties = 0
    for name, features, written, expected in zip(part["utterance_id"], encoded, greedy, theirs, strict=True):
        if written.tokens != expected.tokens:
            gap = gap_where_they_part(model, features, written.tokens, expected.tokens)
            assert gap < TIE, f"{name}: the texts part where the best token leads by {gap}"
            ties += 1
        else:
            assert tokenizer.decode(written.tokens).strip() == expected.text
    print(f"{len(greedy) - ties} of {len(greedy)} equal, {ties} ties")
    assert len(greedy) == N_CLIPS
    assert ties <= 2


def test_dynamic_windows_read_nearly_the_same(model, part, store, greedy):
    """An approximation: most texts equal the full window's, and the rate of errors stays where it was."""
    tokenizer, greedy = korean_tokenizer(), greedy[::2]
    dynamic = predict_part(model, part.iloc[::2], store, DecodingOptions(context="dynamic"))
    full = [dataclasses.replace(p, hypothesis=tokenizer.decode(w.tokens)) for p, w in zip(dynamic, greedy, strict=True)]
    equal = sum(p.hypothesis == q.hypothesis.strip() for p, q in zip(dynamic, full, strict=True))
    cer_dynamic, cer_full = (rates(count_utterances(p, "pronunciation"))["cer"] for p in (dynamic, full))
    print(f"{equal} of {len(greedy)} texts equal; CER {cer_full:.4f} full, {cer_dynamic:.4f} dynamic")
    assert equal >= len(greedy) / 2
    assert cer_dynamic == pytest.approx(cer_full, abs=0.02)


def test_beams_read_real_clips_as_openai_whispers_do(model, encoded):
    chosen = encoded[:: N_CLIPS // 10][:10]
    found = decode_beam(model, EncoderOutput(chosen), DecodingOptions(beam_size=5))
    expected = [by_whisper(model, features, beam_size=5).tokens for features in chosen]
    assert [w.tokens for w in found] == expected


def test_the_whole_chain_reads_as_openai_whisper_reads_the_samples(model, part, store):
    """Our features, batches and decoder against openai-whisper's own from the samples on."""
    chosen = part.iloc[::10]
    predictions = predict_part(model, chosen, store, DecodingOptions(batch_size=4))
    with AudioReader() as reader:
        samples = [decode_audio(reader.read(place), place) for place in chosen["audio"]]
    mels = torch.stack([whisper.log_mel_spectrogram(whisper.pad_or_trim(clip)) for clip in samples])
    expected = dict(zip(chosen["utterance_id"], (result.text for result in by_whisper(model, mels)), strict=True))
    assert {p.utterance_id: p.hypothesis for p in predictions} == expected
