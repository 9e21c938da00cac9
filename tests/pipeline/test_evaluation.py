"""Any model on the same standard, and its difference to a baseline, in one command."""

import json
import shlex
import shutil

import pytest
from exported import export_all, write_thirds

from kmed_bench.asr.model.weights import load_weights
from kmed_bench.cli import main
from kmed_bench.config import EvalConfig, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json
from kmed_bench.core.predictions import read_predictions, write_predictions
from kmed_bench.corpus.splitting.whole import WHOLE, read_speech
from kmed_bench.pipeline.evaluate import evaluate_model
from kmed_bench.pipeline.models import located, open_located
from kmed_bench.tracking.openings import read_openings

SETTINGS = {"eval.max_new_tokens": 8, "eval.batch_size": 3}
SLOWER = ["--eval.beam_size", "2"]
WORDS = ["--eval.max_new_tokens", "8", "--eval.batch_size", "3"]


@pytest.fixture(scope="module")
def split(tone_part, tmp_path_factory):
    return write_thirds(tone_part, tmp_path_factory.mktemp("thirds"))


@pytest.fixture(scope="module")
def evaluated(tiny_checkpoint, split, tmp_path_factory):
    """The random model's own evaluation: the baseline of the others."""
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMED_CACHE", str(out / "cache"))
        evaluate_model(load_config("sound", SETTINGS), str(tiny_checkpoint), split, "test", out)
    return out


@pytest.fixture(scope="module")
def folders(tiny_checkpoint):
    return export_all(tiny_checkpoint)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))


def test_scores_say_what_decoded_and_at_what_cost(evaluated, tiny_checkpoint):
    scores = read_json(evaluated / "scores.json")
    predictions = read_predictions(evaluated / "predictions.jsonl")
    assert len(predictions) == 4
    assert scores["runtime"]["name"] == "kmed-bench"
    assert scores["runtime"]["settings"]["max_new_tokens"] == 8
    assert scores["audio_context"] == "full"
    assert scores["part"] == "test"
    speed = scores["speed"]
    assert speed["rtfx"] == pytest.approx(sum(p.duration_s for p in predictions) / sum(p.decode_s for p in predictions))
    assert speed["decode_s_p50"] <= speed["decode_s_p95"]
    assert speed["parameters"] == sum(p.numel() for p in load_weights(tiny_checkpoint).parameters())
    assert speed["model_bytes"] == tiny_checkpoint.stat().st_size
    assert speed["peak_memory_bytes"] > 50_000_000
    assert "comparisons" not in scores


def test_a_manifest_is_evaluated_whole_without_a_split(evaluated, tiny_checkpoint, split, tmp_path):
    shutil.copy(split / "test.parquet", tmp_path / "manifest.parquet")  # as `import-corpus` writes it
    scores = evaluate_model(load_config("sound", SETTINGS), str(tiny_checkpoint), tmp_path, "test", tmp_path / "out")
    decoded, before = (read_predictions(folder / "predictions.jsonl") for folder in (tmp_path / "out", evaluated))
    assert [one.hypothesis for one in decoded] == [one.hypothesis for one in before]
    assert scores["overall"]["n_clips"] == 4
    assert read_speech(tmp_path).report["label"] == WHOLE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openai", "hf"])
def test_the_same_model_in_another_format_scores_the_same(folders, evaluated, split, tmp_path, kind, capsys):
    baseline = evaluated / "scores.json"
    assert main(["evaluate", str(folders[kind]), str(split), str(tmp_path), "--against", str(baseline), *WORDS]) == 0
    printed = capsys.readouterr().out
    assert f"Against {baseline}: CER +0.00 points" in printed
    (row,) = read_json(tmp_path / "comparisons.json")["comparisons"]
    assert row["delta"] == 0
    assert row["n_clips"] == 4
    assert row["a"] == read_json(baseline)["overall"]["cer"]
    assert (
        read_json(tmp_path / "scores.json")["runtime"]["name"] == {"openai": "kmed-bench", "hf": "transformers"}[kind]
    )


def test_a_ctranslate2_folder_is_decoded_by_faster_whisper(folders, split, tmp_path):
    scores = evaluate_model(load_config("sound", SETTINGS), str(folders["ct2"]), split, "valid", tmp_path)
    assert scores["runtime"]["name"] == "faster-whisper"
    assert scores["speed"]["model_bytes"] == (folders["ct2"] / "model.bin").stat().st_size
    assert [p.utterance_id for p in read_predictions(tmp_path / "predictions.jsonl")] == sorted(
        p.utterance_id for p in read_predictions(tmp_path / "predictions.jsonl")
    )


def test_a_file_of_whisper_cpp_is_a_model_and_no_source_of_an_export(folders, split, tmp_path, capsys):
    path = folders["ggml"] / "ggml-model.bin"
    scores = evaluate_model(load_config("sound", SETTINGS), str(path), split, "valid", tmp_path / "out")
    assert scores["runtime"]["name"] == "whisper.cpp"
    assert scores["speed"]["model_bytes"] == path.stat().st_size
    assert main(["export", str(path), str(tmp_path / "again"), "--format", "hf"]) == 2
    assert "of the format ggml, which is what an export ends in" in capsys.readouterr().err
    assert main(["export", str(path), str(tmp_path / "again"), "--format", "tflite"]) == 2
    assert "Format 'tflite' is not written" in capsys.readouterr().err


def test_a_baseline_of_other_utterances_is_refused_before_decoding(evaluated, split, tmp_path):
    kept = read_predictions(evaluated / "predictions.jsonl")[1:]
    write_predictions(tmp_path / "short.jsonl", kept)
    with pytest.raises(KmedError, match="1 of these 4 are missing in it"):
        evaluate_model(
            load_config("sound", SETTINGS),
            "no such model",  # never looked for
            split,
            "test",
            tmp_path / "out",
            against=tmp_path / "short.jsonl",
        )
    assert not (tmp_path / "out").exists()


def test_a_benchmark_package_is_a_baseline_too(evaluated, tiny_checkpoint, split, tmp_path, capsys):
    package = tmp_path / "package"
    predictions = str(evaluated / "predictions.jsonl")
    assert main(["package", predictions, str(package), "--split", str(split), "--name", "random"]) == 0
    words = ["evaluate", str(tiny_checkpoint), str(split), str(tmp_path / "out"), "--against", str(package), *WORDS]
    capsys.readouterr()
    assert main(words) == 0
    assert "Against random: CER +0.00 points" in capsys.readouterr().out
    assert main([*words, "--data.transcript_side", "spelling"]) == 2
    assert "scored on the pronunciation side" in capsys.readouterr().err


def open_backend(config, model):
    with located(config, str(model)) as path:
        return open_located(config, str(model), path)


def test_a_model_that_is_not_there_is_named(tmp_path):
    config = load_config("sound")
    with pytest.raises(KmedError, match="does not exist; give a size"):
        open_backend(config, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KmedError, match="no model"):
        open_backend(config, tmp_path / "empty")


def test_settings_of_our_own_decoding_are_told_where_they_do_not_apply(folders, caplog):
    config = load_config("sound", {"eval.audio_context": "dynamic", "eval.no_repeat_ngram_size": 8})
    backend = open_backend(config, folders["hf"])
    said = caplog.text
    assert "eval.audio_context = dynamic" in said
    assert "eval.no_repeat_ngram_size = 8" in said
    assert backend.audio_context == "full"


@pytest.mark.slow
def test_an_english_hugging_face_model_is_not_told_a_language(folders, tmp_path):
    from kmed_bench.asr.runtimes.transformers import TransformersBackend

    english = shutil.copytree(folders["hf"], tmp_path / "en")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((english / name).read_text())
        if name == "generation_config.json":
            for key in ("lang_to_id", "task_to_id", "language", "task"):
                del settings[key]
            settings["is_multilingual"] = False
        (english / name).write_text(json.dumps(settings))
    assert TransformersBackend(english, EvalConfig()).settings["language"] is None


def test_the_same_evaluation_is_found_and_another_one_overwrites_nothing(
    tiny_checkpoint, folders, split, tmp_path, capsys
):
    out, copy = tmp_path / "out", tmp_path / "elsewhere.pt"
    shutil.copyfile(tiny_checkpoint, copy)
    store = ["--tracking.uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    assert main(["evaluate", str(tiny_checkpoint), str(split), str(out), *WORDS, *store]) == 0
    *said, hint = capsys.readouterr().out.splitlines()

    def files():
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix != ".log"}

    before, opened = files(), len(read_openings(store[1], read_json(split / "split.json")["sha256"]))
    assert main(["evaluate", str(copy), str(split), str(out), *WORDS, *store]) == 0  # a model is its content
    *again, second_hint = capsys.readouterr().out.splitlines()
    assert again == said
    assert shlex.quote(str(out)) in second_hint
    for model, more in ((tiny_checkpoint, ["--part", "valid"]), (tiny_checkpoint, SLOWER), (folders["hf"], [])):
        assert main(["evaluate", str(model), str(split), str(out), *WORDS, *more, *store]) == 2
        assert "is not overwritten" in capsys.readouterr().err
    assert files() == before
    assert len(read_openings(store[1], read_json(split / "split.json")["sha256"])) == opened
    command = shlex.split(hint.partition(": kmed-bench ")[2])
    assert main(command) == 0
    assert f"Transcription errors: {tiny_checkpoint}" in (out / "errors" / "index.html").read_text(encoding="utf-8")
