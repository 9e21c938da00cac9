"""Exported models: the same tensors, tokens and settings; opened by their runtimes; refused where they drift."""

import dataclasses
import json

import pytest
import torch
import whisper
from exported import export_all, write_thirds

from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import dimensions, find_weights, load_weights, save_weights
from kmed_bench.asr.runtimes.hf_format import (
    alignment_heads,
    build_processor,
    generation_settings,
    read_hf_folder,
    tensor_names,
)
from kmed_bench.cli import main
from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json
from kmed_bench.pipeline.export import MAX_DRIFT, DriftCheck, decode_original, export_model, spread_clips

pytestmark = pytest.mark.slow

CONFIG = EvalConfig(max_new_tokens=8)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_weights(tiny_checkpoint)


@pytest.fixture(scope="module")
def hf_folder(tiny_checkpoint):
    return export_all(tiny_checkpoint)["hf"]


@pytest.fixture(scope="module")
def split(tone_part, tmp_path_factory):
    return write_thirds(tone_part, tmp_path_factory.mktemp("thirds"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))


def test_every_tensor_has_a_name_of_its_own(model):
    names = tensor_names(model.dims)
    assert set(names) == set(model.state_dict())
    assert len(set(names.values())) == len(names)


def test_tensors_come_back_bit_for_bit(model, hf_folder):
    back = read_hf_folder(hf_folder)
    assert back.dims == model.dims
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_the_tokenizer_is_openai_whispers(hf_folder):
    import transformers

    tokenizer, ours = transformers.AutoTokenizer.from_pretrained(hf_folder), korean_tokenizer()
    texts = (
        "머리가 아파요. 열이 38.5도까지 올랐어요!",
        " 약을 (3)/(세) 번  먹었어요\n\n",
        "don't they'll MRI 3번, 120/80mmHg",
        "뷁 ㅋㅋㅋ 가 😀🫀 漢字 ñ \u3000\t끝",
        "",
    )
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False) == ours.encode(text), text
        assert tokenizer.decode(ours.encode(text)) == text
    assert len(tokenizer) == 51865
    for name in ours.encoding.special_tokens_set:
        assert tokenizer.convert_tokens_to_ids(name) == ours.encoding.encode_single_token(name), name
    prompt = list(ours.sot_sequence_including_notimestamps)
    assert tokenizer.encode("네") == [*prompt, *ours.encode("네"), ours.eot]


def test_generation_is_korean_transcription_without_forced_ids(hf_folder):
    settings = json.loads((hf_folder / "generation_config.json").read_text())
    tokenizer = korean_tokenizer()
    assert settings["language"] == "ko"
    assert settings["task"] == "transcribe"
    assert settings.get("forced_decoder_ids") is None
    assert settings["lang_to_id"]["<|ko|>"] == 50264
    assert len(settings["lang_to_id"]) == 99
    assert settings["no_timestamps_token_id"] == tokenizer.no_timestamps
    assert settings["begin_suppress_tokens"] == [220, 50257]
    assert set(tokenizer.non_speech_tokens) < set(settings["suppress_tokens"])
    assert (hf_folder / "preprocessor_config.json").is_file()
    modes = {path.stat().st_mode for path in hf_folder.iterdir()}
    assert len(modes) == 1, "each file is as readable as the others"


@pytest.mark.parametrize("size", ["tiny", "base", "small"])
def test_alignment_heads_are_openai_whispers(size):
    dims = dimensions(size)
    # The heads depend on the decoder's layers and heads alone; the rest may be small.
    n_state = 4 * dims.n_text_head
    small = {"n_audio_state": n_state, "n_text_state": n_state, "n_audio_layer": 1, "n_vocab": 8}
    reference = whisper.model.Whisper(dataclasses.replace(dims, **small))
    reference.set_alignment_heads(whisper._ALIGNMENT_HEADS[size])
    assert alignment_heads(dims) == reference.alignment_heads.indices().T.tolist()


def test_other_shapes_align_by_the_upper_half(model):
    assert alignment_heads(model.dims) == model.alignment_heads.indices().T.tolist()
    assert generation_settings(model.dims)["max_length"] == 448


def test_an_english_vocabulary_is_not_exported(model, tmp_path):
    english = whisper.model.Whisper(dataclasses.replace(model.dims, n_vocab=51864))
    with pytest.raises(KmedError, match="51864 tokens"):
        export_model(english, tmp_path / "out", "hf", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_the_processor_hears_as_openai_whisper_hears(model):
    torch.manual_seed(0)
    samples = 0.1 * torch.randn(16_000 * 3)
    extractor = build_processor(model.dims).feature_extractor
    found = extractor(samples.numpy(), sampling_rate=16_000, return_tensors="pt", padding="max_length").input_features
    torch.testing.assert_close(found[0], whisper.log_mel_spectrogram(whisper.pad_or_trim(samples)), atol=1e-3, rtol=0)


def test_an_openai_export_is_read_by_plain_load_model(model, tmp_path):
    record = export_model(model, tmp_path / "out", "openai", CONFIG, about={"model": "base"})
    loaded = whisper.load_model(str(tmp_path / "out" / "model.pt"), device="cpu")
    assert torch.equal(loaded.state_dict()["decoder.ln.weight"], model.state_dict()["decoder.ln.weight"])
    assert record == read_json(tmp_path / "out" / "export.json")
    assert record["model"] == "base"
    assert record["drift"] is None
    assert record["files"]["model.pt"]["bytes"] == (tmp_path / "out" / "model.pt").stat().st_size


def test_int8_is_a_quarter_of_float32(model, tiny_checkpoint, tmp_path):
    record = export_model(model, tmp_path / "int8", "ct2", CONFIG, quantization="int8")
    assert {"tokenizer.json", "preprocessor_config.json", "vocabulary.json"} < set(record["files"])
    whole = (export_all(tiny_checkpoint)["ct2"] / "model.bin").stat().st_size
    assert 0.25 < record["files"]["model.bin"]["bytes"] / whole < 0.35


@pytest.mark.parametrize(
    ("fmt", "quantization", "bound", "said"),
    [
        ("hf", "int8", None, "only in float32; int8 needs --format ct2"),
        ("onnx", "float16", None, "float16 needs --format ggml"),
        ("ggml", "float32", None, "only in float16"),
        ("ct2", "int8", -1.0, "--max-drift"),
        ("hf", "float32", float("nan"), "nan"),
    ],
)
def test_what_does_not_go_together_is_refused(model, tmp_path, fmt, quantization, bound, said):
    with pytest.raises(KmedError, match=said):
        export_model(model, tmp_path / "out", fmt, CONFIG, quantization=quantization, max_drift=bound)


def test_spread_clips_covers_the_part(tone_part):
    assert spread_clips(tone_part, None) is tone_part
    assert spread_clips(tone_part, 99) is tone_part
    assert spread_clips(tone_part, 4).index.tolist() == [0, 3, 6, 9]


def test_drift_is_measured_and_too_much_of_it_leaves_nothing(model, tone_part, tmp_path, cache):
    originals = decode_original(model, tone_part, CONFIG)
    check = DriftCheck(part=tone_part, originals=originals, about={"part": "test"})
    drift = export_model(model, tmp_path / "same", "hf", CONFIG, check=check, max_drift=0)["drift"]
    assert drift["drift"] == 0
    assert drift["n_differing"] == 0
    assert drift["n_clips"] == 12
    assert drift["part"] == "test"
    better = [dataclasses.replace(p, hypothesis=p.reference) for p in originals]
    wrong = dataclasses.replace(check, originals=better)
    with pytest.raises(KmedError, match=r"refused.*drift of"):
        export_model(model, tmp_path / "drifted", "hf", CONFIG, check=wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "same"]


def test_the_command_measures_prints_and_refuses_a_second_time(
    tiny_checkpoint, hf_folder, split, tmp_path, cache, capsys
):
    out = tmp_path / "out"
    words = ["export", str(tiny_checkpoint), str(out), "--format", "openai", "--eval.max_new_tokens", "8"]
    assert main([*words, "--split", str(split), "--limit-clips", "3"]) == 0
    printed = capsys.readouterr().out
    assert "Drift: +0.0000" in printed
    assert "0 of 3 transcripts differ" in printed
    record = read_json(out / "export.json")
    assert record["model"] == tiny_checkpoint.name
    assert record["drift"]["split_sha256"] == read_json(split / "split.json")["sha256"]
    made = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main([*words, "--split", str(split), "--limit-clips", "3"]) == 0  # the same command finds it
    assert "made before" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == made
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    # From a Hugging Face folder back, without a split.
    again = tmp_path / "again"
    assert main(["export", str(hf_folder), str(again), "--format", "openai"]) == 0
    assert "not measured" in capsys.readouterr().out
    assert load_weights(again / "model.pt").dims == load_weights(tiny_checkpoint).dims


def test_a_ctranslate2_folder_is_no_source(tiny_checkpoint, tmp_path, capsys):
    assert main(["export", str(export_all(tiny_checkpoint)["ct2"]), str(tmp_path / "out"), "--format", "hf"]) == 2
    assert "an export ends in" in capsys.readouterr().err


def test_an_existing_file_is_kept(model, tmp_path):
    save_weights(model, tmp_path / "mine.pt")
    before = (tmp_path / "mine.pt").read_bytes()
    with pytest.raises(KmedError, match="exists already"):
        export_model(model, tmp_path / "mine.pt", "openai", CONFIG)
    assert (tmp_path / "mine.pt").read_bytes() == before


@pytest.fixture(scope="session")
def base_check(real_speech, tmp_path_factory):
    """Twenty real clips and what our own decoding of Whisper base writes for them."""
    from kmed_bench.config import DataConfig
    from kmed_bench.core.schema import read_manifest
    from kmed_bench.corpus.ingest.manifest import ingest

    folder = tmp_path_factory.mktemp("real")
    ingest([real_speech], folder, DataConfig())
    part = spread_clips(read_manifest(folder / "manifest.parquet"), 20)
    assert len(part) == 20
    base = load_weights(find_weights("base").path)
    return base, DriftCheck(part=part, originals=decode_original(base, part, EvalConfig()), about={})


@pytest.mark.real_speech
@pytest.mark.parametrize("fmt", ["hf", "ct2", "onnx", "openvino"])
def test_base_in_float32_writes_the_same_texts_elsewhere(base_check, tmp_path, fmt):
    base, check = base_check
    drift = export_model(base, tmp_path / "out", fmt, EvalConfig(), quantization="float32", check=check)["drift"]
    assert drift["n_clips"] == 20
    assert drift["n_differing"] <= 1, "a text may differ where two tokens tie"
    assert abs(drift["drift"]) <= MAX_DRIFT["float32"]
    assert 0.05 < drift["cer_exported"] < 0.25, "the real model, on real speech"


@pytest.mark.real_speech
@pytest.mark.parametrize(("fmt", "quantization"), [("ct2", "int8"), ("ggml", "float16")])
def test_base_with_fewer_bits_errs_as_often(base_check, tmp_path, fmt, quantization):
    base, check = base_check
    record = export_model(base, tmp_path / "out", fmt, EvalConfig(), quantization=quantization, check=check)
    drift = record["drift"]
    assert drift["n_clips"] == 20
    assert abs(drift["drift"]) <= MAX_DRIFT[quantization]
    assert 0.05 < drift["cer_exported"] < 0.25, "the real model, on real speech"
