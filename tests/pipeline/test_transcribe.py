"""`transcribe`: what it writes, what it keeps, and what a bad recording or an interruption leaves."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
from fault_table import fault
from random_whisper import save_random_whisper
from recordings import KINDS, encode, tone

from kmed_bench import cli
from kmed_bench.asr.runtimes.own import OwnBackend
from kmed_bench.config import Config, EvalConfig, load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.sharding import name_shards, shard_of
from kmed_bench.core.transcripts import TRANSCRIPT, Transcript
from kmed_bench.pipeline.models import open_located
from kmed_bench.pipeline.transcribe import HEAD_NAME, _transcript, find_recordings, transcribe

RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_random_whisper(tmp_path_factory.mktemp("model") / "tiny.pt"))


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short recordings, one of 40 s with a pause, and two that can't be read."""
    folder = tmp_path_factory.mktemp("visits")
    (folder / "kim").mkdir()
    for number, name in enumerate(("a.flac", "kim/a.flac", "z.wav")):
        soundfile.write(folder / name, noise(1.0 + number, number), RATE)
    soundfile.write(folder / "long.flac", np.concatenate([noise(22, 5), np.zeros(2 * RATE), noise(16, 6)]), RATE)
    whole = encode(folder / "m.m4a", tone(2.0, 44_100), KINDS["call.m4a"])
    (folder / "cut.m4a").write_bytes(whole.read_bytes()[:-3_000])
    whole.unlink()
    (folder / "text.mp3").write_text("no sound", encoding="utf-8")
    for name in ("notes.txt", "._a.flac"):
        (folder / name).write_text("no recording", encoding="utf-8")
    return folder


def noise(seconds: float, seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))


def run(model: str, paths: Sequence[Path], form="json", out: Path | None = None, config: Config | None = None):
    shown: list[Transcript] = []
    config = config or load_config("demo")
    return transcribe(config, model, find_recordings(paths), form, out=out, show=shown.append), shown


@fault(
    "recordings that can't be read among those that `transcribe` is given",
    sees="a line for each with its reason; their number at the end; status 1",
    survives="the transcripts of all others",
)
def test_a_folder_s_recordings_are_found_and_the_bad_ones_are_named(visits: Path, model: str) -> None:
    outcome, shown = run(model, [visits])
    assert [transcript.audio for transcript in shown] == ["a.flac", "kim/a.flac", "long.flac", "z.wav"]
    assert [recording.name for recording in outcome.failed] == ["cut.m4a", "text.mp3"]
    assert "is cut off" in outcome.failed[0].fault
    assert "of no format that is read" in outcome.failed[1].fault


@fault(
    "a recording whose name leaves no room for its transcript's ending",
    sees="a line with the name, its bytes and the limit; status 1",
    survives="the transcripts of all others",
)
def test_names_may_be_as_long_as_the_disk_takes_them(visits: Path, model: str, tmp_path: Path) -> None:
    long, longest = f"{'가' * 81}.flac", f"{'나' * 82}.flac"  # 248 and 251 bytes; .json adds five
    (tmp_path / "in").mkdir()
    for name in (long, longest):
        shutil.copy(visits / "a.flac", tmp_path / "in" / name)
    outcome, shown = run(model, [tmp_path / "in"], out=tmp_path / "out")
    assert [transcript.audio for transcript in shown] == [long]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {HEAD_NAME, f"{long}.json"}
    (failed,) = outcome.failed
    assert failed.fault == (
        f"{tmp_path / 'in' / longest} has too long a name: with .json it is 256 bytes, and {tmp_path / 'out'} takes "
        "255; rename it."
    )
    assert [recording.name for recording in run(model, [tmp_path / "in"], out=tmp_path / "out")[0].kept] == [long]


def test_a_long_recording_has_segments_with_their_times(visits: Path, model: str) -> None:
    _, (transcript,) = run(model, [visits / "long.flac"])
    assert transcript.duration_s == 40.0
    assert [(s.start_s, s.end_s) for s in transcript.segments] == [
        pytest.approx((0.0, 22.1), abs=0.03),
        pytest.approx((23.9, 40.0), abs=0.03),
    ]


def test_a_silent_recording_is_not_decoded(tmp_path: Path, model: str) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    _, (transcript,) = run(model, [tmp_path / "silence.wav"])
    assert (transcript.text, transcript.silent_s, transcript.segments) == ("", 1.0, ())


def test_clips_read_as_the_evaluation_reads_them(
    tone_part: pd.DataFrame, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMED_CACHE", str(tmp_path))
    config = load_config("demo", {"features.dtype": "fp16"})  # rounded in memory as on disk
    backend = open_located(config, model, Path(model))
    expected = {p.utterance_id: p.hypothesis for p in backend.decode(tone_part)}
    _, shown = run(model, [Path(path) for path in tone_part["audio"]], config=config)
    assert {Path(transcript.audio).stem: transcript.text for transcript in shown} == expected
    assert len(set(expected.values())) > 1


def test_a_batch_is_as_large_as_the_setting_says(model: str, visits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = OwnBackend.transcribe
    monkeypatch.setattr(OwnBackend, "transcribe", lambda self, clips: sizes.append(len(clips)) or real(self, clips))
    run(model, [visits], config=load_config("demo", {"eval.batch_size": "2"}))
    assert sizes == [2, 2, 1]
    assert EvalConfig().batch_size == 8


def test_files_are_private_and_whole(visits: Path, model: str, tmp_path: Path) -> None:
    outcome, shown = run(model, [visits], out=tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700  # file names may name people
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json")}
    assert written == {f"{transcript.audio}.json" for transcript in shown} | {HEAD_NAME}
    for transcript in shown:
        path = tmp_path / "out" / f"{transcript.audio}.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert TRANSCRIPT.read(path)["text"] == transcript.text
    assert len(outcome.done) == 4


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@fault(
    "`transcribe` is interrupted",
    sees="status 130",
    survives="the transcripts that are complete; the same command makes those that are missing",
)
def test_an_interrupted_call_goes_on_with_what_is_missing(visits: Path, model: str, tmp_path: Path) -> None:
    config, whole, part = load_config("demo", {"eval.batch_size": "1"}), tmp_path / "whole", tmp_path / "part"
    run(model, [visits], "srt", whole, config)

    def stop(transcript: Transcript) -> None:
        if transcript.audio == "kim/a.flac":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcribe(config, model, find_recordings([visits]), "srt", out=part, show=stop)
    before = contents(part)
    assert len(before) == 3  # two transcripts, and what made them
    outcome, _ = run(model, [visits], "srt", part, config)
    assert [len(outcome.done), len(outcome.kept), len(outcome.failed)] == [2, 2, 2]
    after = contents(part)
    assert {path: after[path] for path in before} == before
    for path, (_, content) in contents(whole).items():
        assert (part / Path(path).relative_to(whole)).read_bytes() == content


def test_a_recording_that_changed_is_transcribed_again(visits: Path, model: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0, 1), RATE)
    run(model, [path], "text", tmp_path / "out")
    soundfile.write(path, noise(1.0, 2), RATE)
    os.utime(path, ns=(2**62, 2**62))
    outcome, _ = run(model, [path], "text", tmp_path / "out")
    assert [len(outcome.done), len(outcome.kept)] == [1, 0]


@pytest.mark.parametrize("change", ["form", "settings", "model"])
def test_a_folder_of_other_transcripts_is_refused(
    visits: Path, model: str, tmp_path: Path, change: str, tiny_checkpoint: Path
) -> None:
    files, out = [visits / "a.flac"], tmp_path / "out"
    run(model, files, "text", out)
    before = contents(out)
    other = load_config("demo", {"eval.max_new_tokens": "8"} if change == "settings" else {})
    with pytest.raises(KmedError, match="is not overwritten; name another folder"):
        run(
            str(tiny_checkpoint) if change == "model" else model,
            files,
            "srt" if change == "form" else "text",
            out,
            other,
        )
    assert contents(out) == before


def test_two_files_of_one_name_are_refused_and_one_given_twice_counts_once(visits: Path) -> None:
    assert len(find_recordings([visits / "a.flac", visits, visits / "a.flac"])) == 6
    with pytest.raises(KmedError, match=r"would both have transcripts named a\.flac"):
        find_recordings([visits / "a.flac", visits / "kim" / "a.flac"])
    (visits / "kim" / "empty").mkdir(exist_ok=True)
    with pytest.raises(KmedError, match="has no recordings"):
        find_recordings([visits / "kim" / "empty"])


def test_the_command_prints_texts_and_says_what_failed(visits: Path, model: str, capsys) -> None:
    assert cli.main(["transcribe", str(visits / "a.flac"), "--model", model]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    words = ["transcribe", str(visits / "a.flac"), str(visits / "nobody.wav"), str(visits / "z.wav"), "--model", model]
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["==> a.flac <==", line]
    assert out.splitlines()[2] == "==> z.wav <=="
    assert "nobody.wav can't be read: it can't be opened: No such file" in err
    assert line not in err
    assert cli.main([*words, "--format", "json"]) == 1
    assert [json.loads(line)["audio"] for line in capsys.readouterr().out.splitlines()] == ["a.flac", "z.wav"]
    assert cli.main([*words, "--format", "vtt"]) == 2
    assert "name a folder for them with --out" in capsys.readouterr().err


def test_shards_are_shares_of_the_names_and_the_whole_does_what_is_missing(
    visits: Path, model: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ["transcribe", str(visits), "--model", model, "--out"]
    assert cli.main([*words, str(whole)]) == 1  # two of the recordings can't be read
    names = [recording.name for recording in find_recordings([visits])]
    own = {name for name in names if shard_of(name, 3) in (0, 2)} - {"cut.m4a", "text.mp3"}
    assert 0 < len(own) < 4
    cli.main([*words, str(out), "--shards", "3", "--shard", "0,2"])
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.txt")} == {f"{name}.txt" for name in own}
    capsys.readouterr()
    decoded: list[str] = []
    monkeypatch.setattr(
        "kmed_bench.pipeline.transcribe._transcript",
        lambda recording, shown: decoded.append(recording.name) or _transcript(recording, shown),
    )
    assert cli.main([*words, str(out), "--shards", "3"]) == 1
    assert f"{4 - len(own)} transcribed, {len(own)} kept, 2 failed" in capsys.readouterr().out
    assert not own & {*decoded}
    for path in whole.rglob("*.txt"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert cli.main([*words[:-1], "--shards", "3"]) == 2
    assert "Shards of recordings meet in a folder; name one for the transcripts with --out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_processes_of_slots_share_the_recordings(visits: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["transcribe", str(visits), "--model", model, "--out", str(out), "--slots", "2", "--threads", "1"]
    program = "import sys; from kmed_bench.cli import main; sys.exit(main())"
    done = forked.run(program, words, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 1
    assert b"0 transcribed, 4 kept, 2 failed" in done.stdout  # they are named once more by the parent
    names = [recording.name for recording in find_recordings([visits])]
    shards = sorted({shard_of(name, len(names)) for name in names})  # one for each recording; some have none
    for slot in (1, 2):
        assert f"shards {name_shards(shards[slot - 1 :: 2])} begins in slot {slot}." in done.stderr.decode()


@pytest.mark.slow
@pytest.mark.real_speech
def test_real_clips_read_as_in_the_evaluation_and_joined_nearly_so(
    real_speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmed_bench.asr.features.audio import decode_audio
    from kmed_bench.config import DataConfig
    from kmed_bench.core.schema import read_manifest
    from kmed_bench.corpus.archives.reader import AudioReader
    from kmed_bench.corpus.ingest.manifest import ingest
    from kmed_bench.pipeline.models import located
    from kmed_bench.scoring.measures import count_utterances, rates

    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    ingest([real_speech], tmp_path / "manifest", DataConfig())
    part = read_manifest(tmp_path / "manifest" / "manifest.parquet").query("duration_s < 8").iloc[::30]
    config, files, clips = load_config("sound"), [], []
    with AudioReader() as reader:
        for row in part.itertuples():
            content = reader.read(row.audio)
            files.append(tmp_path / f"{row.utterance_id}.wav")
            files[-1].write_bytes(content)
            clips.append(decode_audio(content, row.utterance_id))
    soundfile.write(tmp_path / "joined.flac", np.concatenate(clips), RATE)
    with located(config, "base") as path:
        predictions = open_located(config, "base", path).decode(part)
    _, shown = run("base", [*files, tmp_path / "joined.flac"], config=config)
    assert [transcript.text for transcript in shown[:-1]] == [p.hypothesis for p in predictions]
    joined = pd.Series(predictions[0].__dict__ | {"text": " ".join(part["text"])})
    whole = type(predictions[0]).from_row(joined, shown[-1].text, 0.0)
    cer_clips, cer_joined = (rates(count_utterances(p, "pronunciation"))["cer"] for p in (predictions, [whole]))
    print(f"CER {cer_clips:.3f} of {len(clips)} clips, {cer_joined:.3f} of them joined")
    assert cer_joined == pytest.approx(cer_clips, abs=0.05)
