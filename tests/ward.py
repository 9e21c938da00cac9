"""A folder in which the pages' commands run as typed: a download, one benchmark on it, and the files that they name."""

import contextlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from documented import ROOT, blocks, project_words
from recordings import KINDS, encode, tone

from kmed_bench.asr.model import weights
from kmed_bench.cli import main
from kmed_bench.commands.options import AS_PROFILE
from kmed_bench.core import callers_folder
from kmed_bench.core.files import sha256_of
from kmed_bench.core.predictions import Prediction, read_predictions, write_predictions
from kmed_bench.core.pseudonyms import Pseudonyms, default_key_file
from kmed_bench.corpus.demo.demo import make_demo_corpus
from kmed_bench.text.marks import resolve_marks

DECODING = ["--eval.audio_context", "dynamic", "--eval.max_new_tokens", "8", "--eval.bootstrap_draws", "100"]
TRAINING = ["--epochs", "1", "--seeds", "0,1", "--batch_size", "8", "--lr", "1e-3", "--audio_context", "dynamic"]
SCORING = ["--eval.bootstrap_draws", "100"]
CHEAPER = {
    "run": [*TRAINING, *DECODING],
    "tune": [*TRAINING, "--seeds", "0", *DECODING],
    "evaluate": DECODING,
    "transcribe": ["--eval.max_new_tokens", "8"],
    "export": ["--eval.max_new_tokens", "8", "--limit-clips", "2"],
    **dict.fromkeys(("score", "errors", "package", "compare"), SCORING),
}
"""What makes a command cheaper; words of its own that a page has stand behind it."""

LISTED = {"train": "4", "valid": "2", "test": "2"}
"""Sizes that the twelve recordings of docs/own-recordings.md can give."""


class Ward:
    """The folder, its benchmark, and what the names in capitals of the pages stand for."""

    def __init__(self, folder: Path, checkpoint: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.project = folder, False
        self._prepare_user(checkpoint, patch)
        patch.setattr(callers_folder, "started_by_mlflow_run", lambda: self.project)
        patch.setattr("kmed_bench.cli.started_by_mlflow_run", lambda: self.project)
        patch.chdir(folder)
        make_demo_corpus(folder / "download", speakers=10, sentences=24, seed=1, layout="zips")
        self.bench = self.split = self.predictions = folder
        self.run_id = self.said = ""
        self.sizes: dict[str, str] = {}
        self.benchmark: list[str] = []
        self.advice = ""

    def _prepare_user(self, checkpoint: Path, patch: pytest.MonkeyPatch) -> None:
        """Give the user a cache with base alone, which is as small as a model can be, and no connection."""
        official = {size: weights._official(size) for size in ("tiny", "base", "small")}
        official["base"] = (official["base"][0], sha256_of(checkpoint))
        patch.setattr(weights, "_official", official.__getitem__)
        patch.setattr(weights, "_reachable", lambda url: False)
        for name in ("KMED_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(self.folder / "home" / name.lower()))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        cached = self.folder / "home" / "kmed_cache" / "weights" / "base.pt"
        cached.parent.mkdir(parents=True)
        shutil.copy(checkpoint, cached)

    def run(self, words: list[str]) -> int:
        """Run a command of ours, or what `mlflow run` starts, and return its exit status.

        What comes out of a bundle goes into another store.
        """
        self.project = words[:2] == ["mlflow", "run"]
        words = project_words(words) if self.project else words[1:]
        more = CHEAPER.get(words[0], [])
        named = {word for word, value in zip(words, [*words[1:], ""], strict=True) if value != AS_PROFILE}
        pairs = zip(more[::2], more[1::2], strict=True)
        words = words + [word for pair in pairs if pair[0] not in named for word in pair]
        brought = words[0] == "unbundle" or any(word.startswith("runs:/") for word in words)
        return main(words + (["--tracking.uri", "sqlite:///elsewhere.db"] if brought else []))

    def type_download(self, text: str) -> None:
        """Run one of README's commands for a download; where it says that the download is small, with its advice."""
        words = shlex.split(self.substitute(text, "README.md", 0))
        status, self.said, error = self._listen(words)
        if words[0] == "mlflow":
            assert status == 2, error
            self.advice = error
            pasted = shlex.split(re.findall(r"are ((?:-P \S+=\d+ ?){3});", error)[0])
            self.sizes = dict(re.findall(r"split\.(\w+)=(\d+)", " ".join(pasted)))
            self.benchmark = [*words, *pasted]
            status, self.said, error = self._listen(self.benchmark)
        assert status == 0, error

    def _listen(self, words: list[str]) -> tuple[int, str, str]:
        """Run a command and return its exit status and what it says."""
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = self.run(words)
        return status, out.getvalue(), error.getvalue()

    def take_benchmark(self) -> None:
        """Take the one benchmark that is here for what the names stand for, and write the files that pages name."""
        self.run_id = self.find_run()
        self.bench = self.folder / "kmed-output" / f"bench-sound-{self.run_id[:8]}"
        self.split = self.bench / "split"
        self.predictions = self.bench / "base" / "seed0" / "predictions.jsonl"
        shutil.copy(self.bench / "base" / "seed0" / "best.pt", "best.pt")
        shutil.copy(self.bench / "manifest" / "manifest.parquet", "manifest.parquet")
        self._write_systems(read_predictions(self.predictions))
        self._write_recordings()

    def find_run(self) -> str:
        from kmed_bench.tracking.read import read_bench

        return read_bench(f"sqlite:///{self.folder}/mlflow.db").run_id

    def _name_pseudonym(self, found: re.Match[str]) -> str:
        """Return the pseudonym that a bundle made here has for an utterance of the split."""
        utterance = read_predictions(self.predictions)[0].utterance_id
        return Pseudonyms.from_file(default_key_file(), create=False).of("utterance", utterance)

    def _name_training(self, found: re.Match[str]) -> str:
        """Return the id of one of the benchmark's trainings."""
        from kmed_bench.tracking.read import read_bench

        return read_bench(f"sqlite:///{self.folder}/mlflow.db").trains[0].run_id

    def _name_brought(self, found: re.Match[str]) -> str:
        """Return the address that `unbundle` prints for the checkpoint of docs/bundles.md."""
        from kmed_bench.pipeline.bundling import bring_in

        (address,) = bring_in("sqlite:///elsewhere.db", Path("colleague.zip"), "kmed-bench").models.values()
        return address

    def crown(self) -> None:
        """Give the alias champion to version 1, as `promote` does for recordings; it never does for the demo corpus."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        client.set_registered_model_alias("kmed-whisper-base", "champion", "1")

    def _write_systems(self, made: list[Prediction]) -> None:
        """Write the same clips as several systems return them: base's transcripts, and what was said."""
        for name in ("predictions.jsonl", "a.jsonl"):
            write_predictions(Path(name), made)
        said = {one.utterance_id: resolve_marks(one.reference, "pronunciation") for one in made}
        rows = [{**vars(one), "hypothesis": said[one.utterance_id]} for one in made]
        write_predictions(Path("b.jsonl"), [Prediction(**row) for row in rows])
        table = pd.DataFrame({"id": list(said), "text": list(said.values())})
        for name in ("other.csv", "whisper.csv"):
            table.to_csv(name, index=False)
        for name in ("clova", "azure-results"):
            Path(name).mkdir()
        for key, text in said.items():
            clova = {"result": "COMPLETED", "message": "Succeeded", "text": text, "segments": []}
            azure = {"RecognitionStatus": "Success", "NBest": [{"Display": text, "Lexical": text}]}
            Path("clova", f"{key}.json").write_text(json.dumps(clova), encoding="utf-8")
            Path("azure-results", f"{key}.json").write_text(json.dumps(azure), encoding="utf-8")
        google = {
            f"gs://ward/{key}.wav": {"transcript": {"results": [{"alternatives": [{"transcript": text}]}]}}
            for key, text in said.items()
        }
        Path("google.json").write_text(json.dumps({"results": google}), encoding="utf-8")

    def _write_recordings(self) -> None:
        """Write recordings of a second, and the list of docs/own-recordings.md with more of its kind."""
        sound = tone(1.0, 44_100)
        encode(Path("call.m4a"), sound, KINDS["call.m4a"])
        shutil.copy("call.m4a", "visit.m4a")
        soundfile.write("clip.wav", tone(1.0, 16_000), 16_000)
        for name in ("recordings", "calls"):
            Path(name).mkdir()
            soundfile.write(f"{name}/one.wav", tone(1.0, 16_000), 16_000)
        encode(Path("extra.mp3"), sound, KINDS["song.mp3"])
        shown = next(text for _, _, text in blocks(ROOT / "docs" / "own-recordings.md") if text.startswith("파일"))
        lines = shown.splitlines()
        lines += [f"녹음{n}.m4a,{'가나다라마바사아자차카타'[n]} 병이 나요,s{n},여,30대," for n in range(3, 12)]
        Path("list.csv").write_text("\n".join(lines), encoding="utf-8")
        for n, line in enumerate(lines[1:]):
            noise = np.random.default_rng(n).normal(0, 0.05, 16_000).astype(np.float32)
            encode(Path(line.partition(",")[0]), noise, KINDS["call.m4a"])

    def substitute(self, text: str, page: str, line: int) -> str:
        """Return a page's command with what is here in place of the names that stand for something."""
        sizes = LISTED if page == "own-recordings.md" else self.sizes
        out = f"made/{page.removesuffix('.md')}"
        for pattern, here in (
            (r"/data/141\S+|\bDOWNLOAD\b", "download"),
            (r"\bMANIFEST\b", "manifest.parquet"),
            (r"\bSPLIT\b", str(self.split)),
            (r"\bBASELINE\b", str(self.predictions)),
            (r"\bMODEL\b", "best.pt"),
            (r"runs:/…/weights/best\.pt", self._name_brought),
            (r"\bTRAINING\b", self._name_training),
            (r"\bRUN…?(?= )", self.run_id),
            (r"kmed-output/(?:BENCH|…)", str(self.bench)),
            (r"\bOUT/", f"{out}/"),
            (r"\bOUT\b", f"{out}-{line}"),
            (r"\b(PACKAGE|REPORT|transcripts/)", rf"{out}-\1"),
            (r"utterance-0123456789abcdef", self._name_pseudonym),
            (r"(?<=--references )corpus\b", str(self.split)),
            (r"(kmed-whisper-base |version=)3", r"\g<1>2"),
            (r"--trials \d+", "--trials 2"),
            (r"(--(?:split\.)?(train|valid|test)) \d+", lambda found: f"{found[1]} {sizes[found[2]]}"),
        ):
            text = re.sub(pattern, here, text)
        return text


def make_ward(folder: Path, checkpoint: Path) -> Iterator[Ward]:
    """Yield a folder that is prepared; what was set for it is undone afterwards."""
    import mlflow

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        yield Ward(folder, checkpoint, patch)
    mlflow.set_tracking_uri(None)
    torch.set_num_threads(threads)


def missing_files(words: list[str], out: Path | None) -> set[str]:
    """Return the files that a command promises and did not write."""
    promised = {
        "ingest": {"manifest.parquet", "rejects.csv", "quality.json", "data.html"},
        "import-corpus": {"manifest.parquet", "rejects.csv", "quality.json", "data.html", "audio"},
        "split": {"train.parquet", "valid.parquet", "test.parquet", "split.json"},
        "evaluate": {"predictions.jsonl", "scores.json"},
        "score": {"scores.json", "sides.json"},
        "errors": {"index.html"},
        "report": {"index.html"},
        "export": {"export.json"},
        "package": {"frozen-split.json"},
    }.get(words[1], set())
    if "--shard" in words:  # a share, whose results another command joins
        return set()
    compared = {"comparisons.json"} if "--against" in words else set()
    return {name for name in promised | compared if not (Path(out or "") / name).exists()}
