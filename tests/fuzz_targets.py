"""Every reader of foreign input with valid seeds, made by the project's own writers, and damage for them.

`scripts/fuzz.py` and the tests in tests/fuzz call them. What a reader may do: return, or raise one of its documented
errors within `LIMIT_S` seconds of processor time and `LIMIT_BYTES` of memory, with no file left open.
"""

import contextlib
import copy
import dataclasses
import gc
import json
import logging
import pickle
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from kmed_bench.core.errors import KmedError

LIMIT_S = 5.0
LIMIT_BYTES = 1 << 30
CORPUS = Path(__file__).with_name("fuzz") / "corpus"
_HANG_S = 60
"""Seconds by the clock after which a call is ended; the machine may be busy with other things."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1e308, -1e308, 10**400, 2**63, 1e-320, float("nan"), float("inf"), "", " ", "가",
    "\x00", "\x1b[31m", "../../etc/passwd", "/etc/passwd", "a" * 70_000, "\ud800", "<|endoftext|>", "1e5", "nan",
    [], {}, [[]], {"a": []}, [None], {"": None}, [1, 2, 3], "tiny", "2026-13-99",
)  # fmt: skip
TOKENS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", "배가 아파요".encode("cp949"), b"\\ud800", b"NaN",
    b"-Infinity", b"1e400", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"&a [*a]", b"*a", b"<<: *a", b"!!python/object",
    b"\n", b"\r\n", b"\t", b"%", b'"', b"'", b": ", b"- ", b"#", b",,,,", b"{}", b"\xff" * 8, b"\x7f\xff\xff\xff",
    b"data", b"fmt ", b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02", b"ustar", b"(", b")/(", b"/", b"*", b"x/ o/ ",
    "십만".encode(), "이천".encode(), "점".encode(), "쩜".encode(), b"0.", b"10^", "℃".encode(), b"%p", "㎎".encode(),
)  # fmt: skip


@dataclasses.dataclass
class Target:
    """A reader, seeds for it, and the errors that it documents.

    Attributes
    ----------
    call : callable
        Takes the input and an empty folder of its own.
    kind : str
        ``json``: values are changed as well as bytes; ``text``: the input is UTF-8; ``bytes``.
    """

    call: Callable[[bytes, Path], object]
    seeds: list[bytes]
    allowed: tuple[type[BaseException], ...] = (KmedError,)
    kind: str = "bytes"


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a reader did that it may not do."""

    kind: str
    detail: str


def damage(noise: random.Random, target: Target) -> bytes:
    """Return a seed with one to six changes."""
    data = noise.choice(target.seeds)
    if target.kind == "json" and noise.random() < 0.6:
        return _damage_json(noise, data)
    content = bytearray(data)
    for _ in range(noise.choice((1, 1, 1, 2, 3, 6))):
        _change(noise, content, target.seeds)
    if noise.random() < 0.01:
        content[0:0] = content[: 1 << 16] * 40
    return bytes(content)


def _change(noise: random.Random, content: bytearray, seeds: list[bytes]) -> None:
    at = noise.randrange(len(content) + 1) if noise.random() < 0.7 else noise.randrange(min(len(content), 64) + 1)
    end = min(len(content), at + noise.choice((1, 1, 2, 4, 8, 64, 1000)))
    what = noise.randrange(8)
    if what == 0 and at < len(content):
        content[at] ^= 1 << noise.randrange(8)
    elif what == 1:
        content[at:end] = noise.randbytes(end - at)
    elif what == 2:
        del content[at:end]
    elif what == 3:
        content[at:at] = noise.choice(TOKENS)
    elif what == 4:
        content[at:end] = noise.choice(TOKENS)
    elif what == 5:
        content[at:at] = content[at:end] * noise.choice((1, 2, 9))
    elif what == 6:
        other = noise.choice(seeds)
        begin = noise.randrange(len(other) + 1)
        content[at:end] = other[begin : begin + noise.choice((1, 4, 32, 500))]
    elif noise.random() < 0.3:
        del content[at:]
    else:
        value = noise.choice((0, 1, -1, 2**31 - 1, 2**32 - 1, noise.randrange(1 << 32))) & 0xFFFFFFFF
        content[at : at + 4] = value.to_bytes(4, noise.choice(("little", "big")))


def _damage_json(noise: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    number = noise.randrange(len(lines))
    try:
        tree = json.loads(lines[number])
    except ValueError:
        return data
    for _ in range(noise.choice((1, 1, 2, 4))):
        tree = _replace(noise, tree)
    text = json.dumps(tree, ensure_ascii=noise.random() < 0.5)
    lines[number] = text.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _replace(noise: random.Random, tree: Any) -> Any:
    nodes: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack and len(nodes) < 2000:
        node = stack.pop()
        keys: Any = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            nodes.append((node, key))
            stack.append(node[key])
    if not nodes or noise.random() < 0.02:
        return copy.deepcopy(noise.choice(ODD))
    node, key = noise.choice(nodes)
    what = noise.randrange(4)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[str(noise.choice(ODD))[:100]] = node.pop(key)
    else:
        node[key] = copy.deepcopy(noise.choice(ODD))  # it may be changed further
    return tree


@contextlib.contextmanager
def _clock(limit_s: int) -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not ended after {limit_s} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def n_descriptors() -> int:
    """Return how many files, pipes and sockets this process has open; 0 where the system does not say."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


def guard(target: Target, data: bytes, folder: Path) -> Failure | None:
    """Return what a call did that it may not do; None if all is well."""
    begun_s, peak, n_open = time.process_time(), peak_bytes(), n_descriptors()
    try:
        with _clock(_HANG_S):
            target.call(data, folder)
    except target.allowed as error:
        if len(str(error)) > 4000 or "\n" in str(error).strip():
            return Failure("message", f"{len(str(error))} characters: {str(error)[:200]!r}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Failure(type(error).__name__, str(error)[:300])
    taken_s, grown = time.process_time() - begun_s, peak_bytes() - peak
    if n_descriptors() > n_open:  # a library may open what it needs once
        n_open = n_descriptors()
        with contextlib.suppress(*target.allowed):
            target.call(data, folder)
        gc.collect()  # what a traceback's cycle of references holds is not lost
        if n_descriptors() > n_open:
            return Failure("descriptors", "a file stays open after the call")
    if taken_s > LIMIT_S:
        return Failure("slow", f"{taken_s:.1f} s")
    if grown > LIMIT_BYTES:
        return Failure("memory", f"{grown / 2**30:.1f} GiB")
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what the package says of each damaged file while the block runs."""
    package = logging.getLogger("kmed_bench")
    before = package.level
    package.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        package.setLevel(before)


def make_targets(folder: Path, names: tuple[str, ...] = ()) -> dict[str, Target]:
    """Return the named targets, or all; their seeds are made in a folder."""
    made = {}
    for name, make in MAKERS.items():
        if not names or name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            made[name] = make(folder / name)
    return made


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _wav(_folder: Path) -> Target:
    from downloads import wav

    from kmed_bench.asr.features.audio import decode_audio
    from kmed_bench.corpus.archives.wav import WavError, read_header, read_samples

    def call(data: bytes, _place: Path) -> None:
        for limit in (4096, len(data)):
            with contextlib.suppress(WavError):
                read_header(data[:limit], len(data))
        with contextlib.suppress(WavError):
            read_samples(data)
        decode_audio(data, "u0")

    return Target(call, [wav(0.02), wav(0.01, rate=16000), wav(0.005)[:-3]])


def _label(_folder: Path) -> Target:
    from downloads import label

    from kmed_bench.corpus.ingest.aihub import parse_label

    name = "PA_0001-0001-01-03-F-08-A"
    seeds = [label()]
    return Target(lambda data, _: parse_label(name, data), seeds, (), "json")


def _archives(_folder: Path) -> Target:
    from downloads import make_tar, make_zip, wav

    from kmed_bench.corpus.archives.reader import open_archive
    from kmed_bench.corpus.archives.spans import ArchiveError
    from kmed_bench.corpus.archives.zips import check_member, read_member
    from kmed_bench.corpus.ingest.listing import list_sources

    zipped = make_zip({"환자/가.wav": wav(0.01), "b.json": b"{}", "c.txt": b""})
    tarred = make_tar({"a.wav": wav(0.01), "x/b.zip.part0": zipped[:200], "x/b.zip.part200": zipped[200:]})
    names = ["a.zip", "a.tar", "a.zip.001", "a.zip.part0", "a.z01"]

    def call(data: bytes, place: Path) -> None:
        for path in place.iterdir():
            path.unlink()
        name = names[len(data) % 3] if data[:2] == b"PK" else names[len(data) % len(names)]
        half = len(data) // 2
        write(place, name, data if len(data) % 7 else data[:half])
        if not len(data) % 7:
            write(place, name.replace("001", "002").replace("part0", f"part{half}"), data[half:])
        list_sources([place], skip=place / "none")
        try:
            source, members = open_archive(str(place / name))
        except (ArchiveError, OSError):
            return
        with source:
            for member in members[:20]:
                with contextlib.suppress(ArchiveError, OSError):
                    check_member(source, member)
                    read_member(source, member)

    return Target(call, [zipped, tarred])


def _text(_folder: Path) -> Target:
    from kmed_bench.scoring.edits import align_characters, count_distances
    from kmed_bench.text.marks import resolve_marks, sentence_id, sentence_key
    from kmed_bench.text.normalise import normalise
    from kmed_bench.text.numbers import canonical_numbers, count_unread, find_quantities
    from kmed_bench.text.terms import find_terms, match_terms
    from kmed_bench.text.variants import code_switch, resolve_variants

    seeds = [
        "머리가 (3)/(삼) 일째 아파요. 혈압이 백이십에 팔십이에요 b/ n/ (CT)/(씨티) 찍었어요".encode(),
        "2026년 3월 이십일 일 오후 세 시 반에 0.5 밀리그램 두 알씩 하루 세 번 1,200원 십이만 삼천".encode(),
        "엠알아이 촬영은 일 점 오 테슬라, 전화는 공일공 일이삼사 오륙칠팔 이에요 /// *** @이름 #주소".encode(),
    ]

    def call(data: bytes, _place: Path) -> None:
        whole = data.decode("utf-8", "replace")[:2000]
        for policy in ("pronunciation", "spelling"):
            resolve_marks(whole, policy)  # type: ignore[arg-type]
        first, second = whole[: len(whole) // 2], whole[len(whole) // 2 :]
        sentence_key(whole), sentence_id(whole), normalise(whole), normalise(whole, keep_spaces=True)
        canonical_numbers(whole), find_quantities(whole), count_unread(whole), find_terms(whole)
        match_terms(first, second), resolve_variants(first, second), code_switch(whole)
        if normalise(first):
            count_distances([normalise(first)], [normalise(second)])
            align_characters([normalise(first)], [normalise(second)])

    return Target(call, seeds, (), "text")


def _predictions(folder: Path) -> Target:
    from packaged import SYSTEMS

    from kmed_bench.core.predictions import read_predictions, write_predictions
    from kmed_bench.scoring.external_predictions import read_hypotheses

    write_predictions(folder / "seed.jsonl", SYSTEMS["base"][:3])
    seed = (folder / "seed.jsonl").read_bytes()

    def call(data: bytes, place: Path) -> None:
        path = write(place, "predictions.jsonl", data)
        with contextlib.suppress(KmedError):
            read_hypotheses(path)
        read_predictions(path)

    return Target(call, [seed, b'{"utterance_id": "u1", "hypothesis": "\xeb\x84\xa4", "decode_s": 0.5}\n'], kind="json")


def _shard(folder: Path) -> Target:
    from packaged import SYSTEMS

    from kmed_bench.core.shard_contracts import SHARD
    from kmed_bench.pipeline.shards.files import read_shard_file, shard_path, write_shard_file

    head: Any = {**SHARD.head, "made_of": {}, "part": "test", "shards": 1, "shard": 0, "block": None, "wall_s": 1.0}
    head |= {"audio_context": "full", "runtime": {"name": "own", "settings": {}}, "machine": "", "parameters": 1}
    predictions = sorted(SYSTEMS["base"][:3], key=lambda one: one.utterance_id)
    file = write_shard_file(folder, {**head, "model_bytes": 1, "peak_memory_bytes": None}, predictions)

    def call(data: bytes, place: Path) -> None:
        path = shard_path(place, 0, 1)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        for _ in read_shard_file(path).lines():
            pass

    return Target(call, [file.path.read_bytes()], kind="json")


def _yaml(_folder: Path) -> Target:
    from kmed_bench.config import Config, load_config, to_yaml

    whole = to_yaml(Config()).encode()
    seeds = [
        whole,
        b"train:\n  lr: 1e-5\n  epochs: 3\nsizes: [tiny, base]\n",
        b"tune: {space: {train.lr: [1e-5, 2e-5]}}\n",
    ]
    return Target(lambda data, place: load_config(str(write(place, "own.yaml", data))), seeds)


def _space(_folder: Path) -> Target:
    from kmed_bench.config import load_config
    from kmed_bench.tuning.space import check_space

    seeds = [
        b"{train.lr: {low: 1e-6, high: 1e-4, log: true}, train.batch_size: [4, 8, 16]}",
        b"train.weight_decay: {low: 0.0001, high: 0.1}\ntrain.schedule: [constant, linear, cosine]\n",
    ]

    def call(data: bytes, _place: Path) -> None:
        check_space(load_config("sound", {"tune.space": data.decode("utf-8", "replace")}))

    return Target(call, seeds)


def _package(folder: Path) -> Target:
    from packaged import OPTIONS, REPORT, SYSTEMS

    from kmed_bench.scoring.package import read_package, write_package

    write_package(folder / "seed", REPORT, "test", SYSTEMS, OPTIONS)
    tables = {path.name: path.read_bytes() for path in (folder / "seed" / "systems").iterdir()}

    def call(data: bytes, place: Path) -> None:
        write(place, "package.json", data)
        for name, content in tables.items():
            write(place / "systems", name, content)
        read_package(place)

    return Target(call, [(folder / "seed" / "package.json").read_bytes()], kind="json")


def _package_table(folder: Path) -> Target:
    import hashlib

    from packaged import OPTIONS, REPORT, SYSTEMS

    from kmed_bench.scoring.package import read_package, write_package

    write_package(folder / "seed", REPORT, "test", {"base": SYSTEMS["base"]}, OPTIONS)
    head = json.loads((folder / "seed" / "package.json").read_text())
    seed = (folder / "seed" / "systems" / "base.csv").read_bytes()

    def call(data: bytes, place: Path) -> None:
        named = {**head, "files_sha256": {"base": hashlib.sha256(data).hexdigest()}}
        write(place, "package.json", json.dumps(named).encode())
        write(place / "systems", "base.csv", data)
        read_package(place)

    return Target(call, [seed, b"\n".join(seed.split(b"\n")[:3])])


def _import_log(folder: Path) -> Target:
    from kmed_bench.tracking.original.log_format import OriginalEpoch, OriginalLog, OriginalVersion, read_log, write_log

    names = ("model_name", "path", "save_model_name", "save_logging_file_name", "device")
    counts = {"batch_size": 8, "epochs": 2, "start_epoch": 0, "ver_start": 0, "max_len": 448}
    epochs = tuple(OriginalEpoch(epoch=n, train_loss=0.1, train_cer=9.5, valid_loss=0.2, valid_cer=4.5) for n in (0, 1))
    log = OriginalLog(
        metadata={**dict.fromkeys(names, "whisper-base"), **counts, "lr": 1e-5},
        versions={"0": OriginalVersion(time=None, epochs=epochs), "1": OriginalVersion(time="04:38:07", epochs=epochs)},
    )
    write_log(folder / "seed.json", log)
    seeds = [(folder / "seed.json").read_bytes()]
    return Target(lambda data, place: read_log(write(place, "log.json", data)), seeds, kind="json")


def manifest_table() -> Any:
    import pandas as pd

    from kmed_bench.core.schema import MANIFEST_COLUMNS

    rows = []
    for number in range(12):
        row = dict.fromkeys(MANIFEST_COLUMNS, "N/A")
        row |= {"utterance_id": f"u{number}", "speaker_id": f"s{number % 6}", "sentence_id": f"t{number}"}
        row |= {"text": "네 (3)/(삼) 번", "audio": f"/x/{number}.wav", "role": "patient"}
        rows.append({**row, "duration_s": 1.5, "rate_hz": 16000.0})
    return pd.DataFrame(rows)


def _split(folder: Path) -> Target:
    from kmed_bench.config import SplitConfig
    from kmed_bench.corpus.splitting.split import read_split, split_manifest, write_split

    options = SplitConfig(train=6, valid=2, test=2, by=(), disjoint=())
    write_split(split_manifest(manifest_table(), options), folder / "seed")
    parts = {path.name: path.read_bytes() for path in (folder / "seed").glob("*.parquet")}

    def call(data: bytes, place: Path) -> None:
        for name, content in parts.items():
            write(place, name, content)
        read_split(write(place, "split.json", data).parent)

    return Target(call, [(folder / "seed" / "split.json").read_bytes()], kind="json")


def _frozen(folder: Path) -> Target:
    from kmed_bench.config import SplitConfig
    from kmed_bench.corpus.splitting.frozen import apply_frozen, freeze_split
    from kmed_bench.corpus.splitting.split import split_manifest

    table = manifest_table()
    made = split_manifest(table, SplitConfig(train=6, valid=2, test=2, by=(), disjoint=()))
    freeze_split(made, folder / "seed.json")

    def call(data: bytes, place: Path) -> None:
        apply_frozen(write(place, "frozen.json", data), table)

    return Target(call, [(folder / "seed.json").read_bytes()], kind="json")


def _parquet(folder: Path) -> Target:
    from kmed_bench.core.schema import read_manifest, write_manifest

    write_manifest(manifest_table(), folder / "seed.parquet")
    seeds = [(folder / "seed.parquet").read_bytes()]
    return Target(lambda data, place: read_manifest(write(place, "m.parquet", data)), seeds)


def _checkpoint(folder: Path) -> Target:
    import torch
    from whisper.model import ModelDimensions, Whisper

    from kmed_bench.asr.model.weights import load_weights, save_weights

    torch.manual_seed(0)
    model = Whisper(ModelDimensions(8, 6, 4, 1, 1, 16, 6, 4, 1, 1))
    torch.nn.init.zeros_(model.decoder.positional_embedding)
    save_weights(model, folder / "seed.pt")
    seeds = [(folder / "seed.pt").read_bytes()]
    return Target(lambda data, place: load_weights(write(place, "m.pt", data)), seeds)


def _checkpoint_content(_folder: Path) -> Target:
    """Checkpoints that torch can read, of contents that JSON can describe; tensors are written as their shapes."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    from kmed_bench.asr.model.weights import load_weights

    dims = ModelDimensions(8, 6, 4, 1, 1, 16, 6, 4, 1, 1)
    shapes = {name: list(tensor.shape) for name, tensor in Whisper(dims).state_dict().items()}
    seed = {"dims": vars(dims), "model_state_dict": shapes}

    def build(value: Any) -> Any:
        if isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 20 for n in value):
            with contextlib.suppress(RuntimeError):
                return torch.zeros(1).expand(value) if sum(value) % 5 == 1 else torch.zeros([n % 64 for n in value])
        return {str(key): build(one) for key, one in value.items()} if isinstance(value, dict) else value

    def call(data: bytes, place: Path) -> None:
        try:
            tree = build(json.loads(data))
            torch.save(tree, place / "m.pt")
        except (ValueError, RecursionError, TypeError, OverflowError, pickle.PicklingError):
            return
        load_weights(place / "m.pt")

    return Target(call, [json.dumps(seed).encode()], kind="json")


def _hf(folder: Path) -> Target:
    import torch
    import transformers

    from kmed_bench.asr.runtimes.formats import detect_format
    from kmed_bench.asr.runtimes.hf_format import load_hf_network

    torch.manual_seed(0)
    small = {
        "vocab_size": 32, "num_mel_bins": 8, "d_model": 4, "encoder_layers": 1, "encoder_attention_heads": 1,
        "decoder_layers": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        "max_source_positions": 6, "max_target_positions": 6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
        "decoder_start_token_id": 2,
    }  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**small))
    model.save_pretrained(folder / "seed")
    weights = (folder / "seed" / "model.safetensors").read_bytes()

    def call(data: bytes, place: Path) -> None:
        write(place, "model.safetensors", weights)
        write(place, "config.json", data)
        detect_format(place)
        load_hf_network(place)

    return Target(call, [(folder / "seed" / "config.json").read_bytes()], kind="json")


def _hf_weights(folder: Path) -> Target:
    made = _hf(folder)
    config, weights = made.seeds[0], (folder / "seed" / "model.safetensors").read_bytes()
    from kmed_bench.asr.runtimes.hf_format import load_hf_network

    def call(data: bytes, place: Path) -> None:
        write(place, "model.safetensors", data)
        write(place, "config.json", config)
        load_hf_network(place)

    return Target(call, [weights])


def _training_record(folder: Path) -> Target:
    from kmed_bench.pipeline.training_record import (
        TrainingRecord,
        TrainOutcome,
        read_training_record,
        write_training_record,
    )

    outcome = TrainOutcome("a" * 32, "tiny", 0, Path("best.pt"), 2, 0.5, 0.6, 0.4)
    write_training_record(folder, TrainingRecord(fingerprint="f" * 64, epochs=2, run_id="a" * 32, outcome=outcome))
    seeds = [(folder / "training.json").read_bytes()]

    def call(data: bytes, place: Path) -> None:
        read_training_record(write(place, "training.json", data).parent)

    return Target(call, seeds, kind="json")


def _request(_folder: Path) -> Target:
    import base64

    from downloads import wav
    from mlflow.exceptions import MlflowException

    from kmed_bench.tracking.registry.pyfunc_model import AudioReader

    reader = AudioReader(max_bytes=1 << 20, max_s=60.0)
    rows = [
        {"audio_base64": base64.b64encode(wav(0.02)).decode()},
        {"samples": [0.0, 0.1, -0.1] * 30, "rate_hz": 16000},
        {"audio": base64.b64encode(wav(0.01, rate=16000)).decode(), "path": None},
    ]

    def call(data: bytes, _place: Path) -> None:
        try:
            row = json.loads(data)
        except (ValueError, RecursionError):
            row = {"audio": data}
        if isinstance(row, dict) and not isinstance(row.get("path"), str):
            reader.read(0, row)

    seeds = [json.dumps(row).encode() for row in rows] + [wav(0.02)]
    return Target(call, seeds, (MlflowException,), "json")


def _elsewhere(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        import fuzz_transfers

        made: Target = getattr(fuzz_transfers, name)(folder)
        return made

    return make


MAKERS: dict[str, Callable[[Path], Target]] = {
    "wav": _wav,
    "label": _label,
    "archives": _archives,
    "text": _text,
    "predictions": _predictions,
    "shard": _shard,
    "yaml": _yaml,
    "space": _space,
    "package": _package,
    "package-table": _package_table,
    "import-log": _import_log,
    "split": _split,
    "frozen": _frozen,
    "parquet": _parquet,
    "checkpoint": _checkpoint,
    "checkpoint-content": _checkpoint_content,
    "hf": _hf,
    "hf-weights": _hf_weights,
    "training-record": _training_record,
    "request": _request,
    "list": _elsewhere("list_of_recordings"),
    "media": _elsewhere("media"),
    "other-systems": _elsewhere("other_systems"),
    "bundle": _elsewhere("bundle"),
    "bundle-head": _elsewhere("bundle_head"),
    "kit": _elsewhere("kit"),
    "passport": _elsewhere("passport"),
}
