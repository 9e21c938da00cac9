import pytest
import torch
from whisper.audio import N_FRAMES

from kmed_bench.asr.features.store import build_features
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.windows import FULL_WINDOW, TRAINING, pooled_window
from kmed_bench.core.errors import KmedError
from kmed_bench.training.batches import (
    IGNORED,
    Example,
    batch_window,
    build_examples,
    by_length,
    epoch_order,
    make_batch,
)

TOKENIZER = korean_tokenizer()


@pytest.fixture(scope="module")
def store(tone_part, tmp_path_factory):
    return build_features(tone_part, tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def examples(tone_part, store):
    built, too_long = build_examples(tone_part, store, policy="pronunciation", max_len=80, tokenizer=TOKENIZER)
    assert too_long == []
    return built


def test_tokens_are_prompt_text_and_end(examples):
    prompt = ["<|startoftranscript|>", "<|ko|>", "<|transcribe|>", "<|notimestamps|>"]
    for example in examples:
        assert [TOKENIZER.encoding.decode([t]) for t in example.tokens[:4]] == prompt
        assert example.tokens[-1] == TOKENIZER.eot
        assert TOKENIZER.decode(list(example.tokens[4:-1])).strip() == example.text


def test_labels_are_learned_under_the_policy(tone_part, store):
    for policy, said in (("pronunciation", "약을 세 번 먹었어요"), ("spelling", "약을 3 번 먹었어요")):
        built, _ = build_examples(tone_part, store, policy=policy, max_len=80, tokenizer=TOKENIZER)
        assert built[2].text == said


def test_prompt_and_padding_have_no_loss_and_the_end_has(examples, store):
    batch = log_mel_batch(examples[:4], store, "dynamic")
    for row, example in enumerate(examples[:4]):
        targets = batch.targets[row].tolist()
        learned = [t for t in targets if t != IGNORED]
        assert learned == list(example.tokens[4:])  # text and end-of-text, once
        assert targets[:3] == [IGNORED] * 3  # <|ko|>, <|transcribe|>, <|notimestamps|> are given, not learned
        # Each target is the input that follows it.
        inputs = batch.inputs[row].tolist()
        assert inputs[: len(example.tokens) - 1] == list(example.tokens[:-1])


def log_mel_batch(examples, store, context):
    window = batch_window(examples, context)
    return make_batch(examples, store.window([e.utterance_id for e in examples], window.n_frames), window)


def test_windows_are_whispers_or_the_longest_clips_bucket(examples, store):
    chosen = examples[3:7]
    full = log_mel_batch(chosen, store, "full")
    assert full.audio.shape == (4, 80, N_FRAMES)
    assert full.window == FULL_WINDOW
    longest = 192
    assert longest - 64 < max(e.n_frames for e in chosen) <= longest
    dynamic = log_mel_batch(chosen, store, "dynamic")
    assert dynamic.window == pooled_window(longest, TRAINING)
    assert dynamic.audio.shape == (4, 80, longest + 2 * TRAINING.margin + 4)


@pytest.mark.slow
def test_few_shapes_occur():
    clips = [Example(f"{2 * i}", tuple(range(5 + i % 76)), "", 2 * i) for i in range(1, 1501)]
    for context, most in (("full", 1), ("dynamic", 47)):
        batches = []
        for i in range(0, 1500, 3):
            window = batch_window(clips[i : i + 3], context)
            batches.append(make_batch(clips[i : i + 3], torch.zeros(3, 80, window.n_frames), window))
        assert all(b.window.n_frames >= b.examples[-1].n_frames for b in batches)
        assert len({b.window.n_frames for b in batches}) <= most
        assert len({b.inputs.shape for b in batches}) <= 10
    assert max(len(e.tokens) for e in clips) - 1 <= max(b.inputs.shape[1] for b in batches) <= 80


def test_labels_over_max_len_are_named(tone_part, store):
    lengths = {e.utterance_id: len(e.tokens) - 4 for e in build(tone_part, store, 80)[0]}
    limit = max(lengths.values()) - 1
    kept, too_long = build(tone_part, store, limit)
    assert set(too_long) == {name for name, n in lengths.items() if n > limit}
    assert {e.utterance_id for e in kept} | set(too_long) == set(lengths)
    with pytest.raises(KmedError, match="All 12 labels have more than max_len=1"):
        build(tone_part, store, 1)


def build(part, store, max_len):
    return build_examples(part, store, policy="pronunciation", max_len=max_len, tokenizer=TOKENIZER)


def many(n: int) -> list[Example]:
    return [Example(f"u{i:04d}", (1, 2), "", 100 + 2 * (i * 37 % 400)) for i in range(n)]


@pytest.mark.parametrize("n", [1, 4, 7, 130])
def test_an_epoch_holds_every_example_once(n):
    order = epoch_order(many(n), 4, seed=0, epoch=1)
    assert sorted(e.utterance_id for batch in order for e in batch) == [f"u{i:04d}" for i in range(n)]
    assert all(1 <= len(batch) <= 4 for batch in order)


def test_order_depends_on_seed_and_epoch_alone():
    examples = many(130)
    first = epoch_order(examples, 4, seed=0, epoch=1)
    assert first == epoch_order(examples, 4, seed=0, epoch=1)
    assert first != epoch_order(examples, 4, seed=0, epoch=2)
    assert first != epoch_order(examples, 4, seed=1, epoch=1)


def test_buckets_bound_the_padding():
    examples = many(512)
    frames = sum(e.n_frames for e in examples)

    def padded(order):
        return sum(max(e.n_frames for e in batch) * len(batch) for batch in order)

    plain = [examples[i : i + 4] for i in range(0, 512, 4)]
    assert padded(epoch_order(examples, 4, seed=0, epoch=1)) / frames < 1.10 < padded(plain) / frames


def test_the_longest_batch_comes_first():
    order = by_length(many(20), 4)
    lengths = [e.n_frames for batch in order for e in batch]
    assert lengths == sorted(lengths, reverse=True)
