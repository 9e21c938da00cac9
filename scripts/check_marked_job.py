"""Run whole jobs on a marked corpus, and search all that they wrote for the marks.

    python scripts/check_marked_job.py [--keep FOLDER]

Transcripts, ids, names of speakers, folders, the account and the machine carry marks. The commands run with umask
000 on random weights, so figures mean nothing and every file is written. Then each file is opened as deep as it goes
(zip, gzip, pictures, parquet, databases) and searched for each mark in UTF-8, UTF-16, CP949, decomposed Hangul, base64,
hex and the escapes of JSON, Python, HTML and addresses.

A mark may be in files that stay on the machine and that nobody else can open: mode 0600 in a folder of mode 0700. In
MLflow's store, reports, exported models, benchmark packages and bundles it may not be, except for what `EXPECTED`
lists. The exit status is 1 if a mark is anywhere else, or a command ends otherwise than it should. Linux; with unshare
the machine's name is marked too.
"""

import argparse
import base64
import collections
import gzip
import io
import json
import os
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import unicodedata
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKS = {
    "transcript": "뷁쉙튽얂",
    "transcript in Latin": "Zqspoken",
    "name": "괎뒑쫑",
    "id": "PA_731",
    "folder": "뛟괎환자",
    "account": "zqaccount",
    "machine": "zqmachine",
}
PATIENT = f"{MARKS['folder']} 1"
WORDS = "가나다라마바사아자차카타파하거너"

EVAL = "--eval.audio_context dynamic --eval.max_new_tokens 8 --eval.bootstrap_draws 100"
SPLIT = "--split.train 12 --split.valid 6 --split.test 6"
TRAIN = f"--weights tiny.pt --epochs 1 --batch_size 4 --train.audio_context dynamic --train.precision fp32 {EVAL}"
SPACE = "--tune.space '{train.lr: {low: 1.0e-6, high: 0.1, log: true}}'"
COMMANDS = (
    (0, f"run --source download --sizes tiny --seeds 0,1 --eval.leak_clips 4 {SPLIT} {TRAIN}"),
    (2, f"run --source '{PATIENT}/absent' --out failed --sizes tiny {SPLIT} {TRAIN}"),
    (2, f"run --source download --out failed --sizes tiny --seeds 0 {SPLIT} {TRAIN} --weights damaged.pt"),
    (0, "ingest download manifest --data.workers 1"),
    (0, "import-corpus list.csv imported"),
    (0, f"split manifest/manifest.parquet split {SPLIT}"),
    (0, f"train split trained --size tiny {TRAIN}"),
    (0, f"evaluate trained/seed0/best.pt split evaluated {EVAL}"),
    (0, "score evaluated/predictions.jsonl scored --eval.bootstrap_draws 100"),
    (0, "errors evaluated/predictions.jsonl analysed --audio split --eval.bootstrap_draws 100"),
    (0, "package evaluated/predictions.jsonl package --split split --eval.bootstrap_draws 100"),
    (0, "report report"),
    (0, "history history"),
    (1, "promote kmed-whisper-tiny 1 --dry-run"),
    (0, "export models:/kmed-whisper-tiny/1 exported --format openai"),
    (0, "transcribe list.wav --model trained/seed0/best.pt --out transcripts --eval.max_new_tokens 8"),
    (0, f"tune split --out tuned --size tiny --trials 1 --tune.storage sqlite:///optuna.db {TRAIN} {SPACE}"),
    (0, f"curve split curve --size tiny --curve.fractions 0.5,1 {TRAIN}"),
    (0, "bundle {run} bundle.zip --corpus manifest/manifest.parquet split"),
    (0, "unbundle bundle.zip --tracking.uri sqlite:///other.db"),
)
LEAVES = re.compile(
    r"work/(mlflow\.db|mlruns/|other\.db|optuna\.db|bundle\.zip|exported/|package/|report/|history/|.*/report/)[^\n]*"
)
"""Files that are made to be shown to others, or that others can read through a server."""
EXPECTED = {
    r"work/package/[\w/.-]+": ("id",),  # ids are what a package is for; no text, no audio
}
"""Marks that files of `LEAVES` have on purpose."""

# The command line with a Whisper tiny that is smaller still.
PROGRAM = """
import os, sys
from kmed_bench import cli
cli.prepare_user()  # as main does, before MLflow is imported
from kmed_bench.asr.model import weights
found = weights._read_checkpoint(weights.Path(os.environ["SMALLER"]))[0]
weights.dimensions = lambda size: found
sys.exit(cli.main(sys.argv[1:]))
"""


def writings(mark: str) -> dict[bytes, str]:
    """Return the ways to write a mark, with what each is."""
    found: dict[bytes, str] = {}
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, mark)
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "cp949"):
            try:
                raw = text.encode(encoding)
            except UnicodeEncodeError:
                continue  # decomposed Hangul is not in CP949
            what = f"{form} {encoding}"
            found.setdefault(raw, what)
            for start in range(3):  # base64 depends on where in a group of three bytes the mark begins
                coded = base64.b64encode(bytes(start) + raw)
                inner = coded[(start * 8 + 5) // 6 : (start + len(raw)) * 8 // 6]
                found.setdefault(inner, f"{what}, base64")
                found.setdefault(inner.translate(bytes.maketrans(b"+/", b"-_")), f"{what}, base64 of addresses")
            found.setdefault(raw.hex().encode(), f"{what}, hex")
            found.setdefault(raw.hex().upper().encode(), f"{what}, hex")
            found.setdefault("".join(f"\\x{byte:02x}" for byte in raw).encode(), f"{what}, escaped bytes")
            quoted = urllib.parse.quote(raw)
            found.setdefault(quoted.encode(), f"{what}, quoted")
            found.setdefault(quoted.lower().encode(), f"{what}, quoted")
        escaped = json.dumps(text)[1:-1]
        found.setdefault(escaped.encode(), f"{form}, JSON")
        found.setdefault(re.sub(r"\\u\w{4}", lambda m: "\\u" + m[0][2:].upper(), escaped).encode(), f"{form}, JSON")
        found.setdefault("".join(f"&#{ord(sign)};" for sign in text).encode(), f"{form}, HTML")
        found.setdefault("".join(f"&#x{ord(sign):x};" for sign in text).encode(), f"{form}, HTML")
    return found


def parts(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a file's content, and that of all that is packed in it, each with where it is."""
    yield name, content
    if content[:4] in (b"PK\3\4", b"PK\5\6"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield f"{name}, comment", archive.comment
            for member in archive.infolist():
                yield from parts(f"{name}/{member.filename}", archive.read(member))
    elif content[:2] == b"\x1f\x8b":
        yield from parts(f"{name}, unpacked", gzip.decompress(content))
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        yield from ((f"{name}, text", text) for text in _png_texts(content))
    elif content[:4] == b"PAR1":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(io.BytesIO(content))
        yield f"{name}, cells", str(table.to_pydict()).encode() + str(table.schema.metadata).encode()
    elif content[:16] == b"SQLite format 3\0":
        yield f"{name}, cells", _cells(content)
    for found in re.finditer(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)", content):
        yield from parts(f"{name}, data address", base64.b64decode(found[1]))


def _png_texts(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + size]
        if kind in (b"zTXt", b"iTXt"):
            for start in range(min(len(data), 200)):
                if data[start : start + 1] == b"\x78":  # where zlib's stream may begin
                    try:
                        yield zlib.decompress(data[start:])
                    except zlib.error:
                        continue
        at += 12 + size


def _cells(content: bytes) -> bytes:
    """Return all cells of a database as text; a cell longer than a page is in pieces in the file itself."""
    database = sqlite3.connect(":memory:")
    database.deserialize(content)
    database.text_factory = bytes
    names = [row[0].decode() for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = (row for name in names for row in database.execute(f'SELECT * FROM "{name}"'))
    return b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row)


def search(name: str, content: bytes, marks: dict[str, str], own: bytes = b"") -> dict[str, set[str]]:
    """Return what is found in a file: mark by mark, in which writing and where in it.

    `own` is not looked at: a local store has its own folder in its tables and in MLmodel, which a server's has not.
    """
    found: dict[str, set[str]] = collections.defaultdict(set)
    for where, inner in parts(name, content):
        if own:
            inner = inner.replace(own, b"")
        for kind, mark in marks.items():
            for written, what in writings(mark).items():
                if written in inner:
                    found[kind].add(f"{where} ({what})")
    return found


def judge(folder: Path, marks: dict[str, str]) -> tuple[list[str], collections.Counter[str]]:
    """Return the faults of the files below a folder, and how many files were searched, held marks, and leave."""
    faults, counts = [], collections.Counter[str]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.is_symlink() or name.startswith("work/download/"):
            continue
        leaves = LEAVES.fullmatch(name) is not None
        content = path.read_bytes()
        counts.update(["files", "leaving"] if leaves else ["files"])
        counts["bytes"] += len(content)
        found = search(name, content, marks, b"file://" + bytes(folder / "work") + b"/mlruns" if leaves else b"")
        for kind, mark in marks.items():
            if any(written in name.encode() for written in writings(mark)):
                found[kind].add("its name")
        if not found:
            continue
        allowed = [kinds for pattern, kinds in EXPECTED.items() if re.fullmatch(pattern, name)]
        modes = path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777
        if leaves:
            counts["leaving with expected marks"] += bool(allowed)
            faults += [
                f"{name} has the {kind}: {'; '.join(sorted(where)[:3])}"
                for kind, where in found.items()
                if not any(kind in kinds for kinds in allowed)
            ]
        else:
            counts["private with marks"] += 1
            if modes != (0o600, 0o700):
                faults.append(f"{name} has the {', '.join(found)}, and modes {modes[0]:o} in {modes[1]:o}")
    return faults, counts


def prepare(work: Path) -> None:
    """Write a marked download, a list of recordings, and random and damaged weights."""
    import numpy as np
    import soundfile

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from downloads import stem, tree
    from random_whisper import save_random_whisper

    save_random_whisper(work / "tiny.pt")
    (work / "damaged.pt").write_bytes(b"no weights")
    noise = np.random.default_rng(0)
    folder = work / "download" / "Training" / PATIENT
    folder.mkdir(parents=True)
    readings = [(n, 4 * (n // 2) + k) for n in range(8) for k in range(4)]  # two speakers to each group of sentences
    readings += [
        (n, (4 * (n // 2) + 4) % 16) for n in range(8)
    ]  # and one of the next group, which the split leaves out
    for n, prompt in readings:
        path = folder / stem(f"{MARKS['id']}{n}", 7390 + prompt)
        text = f"{WORDS[prompt]} {MARKS['transcript']} {MARKS['transcript in Latin']} {WORDS[prompt]}가 아파요"
        label = tree(text, Speaker=MARKS["name"], SpeakerName=MARKS["name"])
        path.with_suffix(".json").write_text(json.dumps(label, ensure_ascii=False), encoding="utf-8")
        soundfile.write(path.with_suffix(".wav"), 0.1 * noise.standard_normal(8000), 8000)
    # What is left out: its ids are examples in the quality report.
    missing = json.dumps(tree(MARKS["transcript"]), ensure_ascii=False)
    (folder / f"{stem(MARKS['id'] + '0', 9000)}.json").write_text(missing, encoding="utf-8")
    (folder / f"{stem(MARKS['id'] + '1', 9001)}.wav").write_bytes(b"damaged")
    soundfile.write(work / "list.wav", 0.1 * noise.standard_normal(16_000), 16_000)
    row = f"list.wav,{MARKS['transcript']} 배가 아파요,{MARKS['name']}\n"
    (work / "list.csv").write_text(f"audio,text,speaker\n{row}", encoding="utf-8")
    for path in (work, *work.rglob("*")):  # the user's own files are as the user keeps them
        path.chmod(0o700 if path.is_dir() else 0o600)


def find_run(work: Path) -> str:
    """Return the id of the finished benchmark in the store."""
    query = (
        "SELECT runs.run_uuid FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid "
        "WHERE tags.key = 'kmed.kind' AND tags.value = 'bench' AND runs.status = 'FINISHED'"
    )
    connection = sqlite3.connect(work / "mlflow.db")
    try:
        return next((str(row[0]) for row in connection.execute(query)), "none")
    finally:
        connection.close()


def run(home: Path, work: Path, words: str) -> tuple[int, str]:
    """Run a command under a marked account on a marked machine, and return its status and last line."""
    names = dict.fromkeys(("USER", "LOGNAME", "USERNAME"), MARKS["account"])
    hidden = ("MLFLOW", "KMED", "XDG")
    own = {key: value for key, value in os.environ.items() if not key.startswith(hidden)} | names
    own |= {"HOME": str(home), "HOSTNAME": MARKS["machine"], "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1"}
    own |= {"PYTHONPATH": str(ROOT), "SMALLER": str(work / "tiny.pt")}
    command = [sys.executable, "-c", PROGRAM, *shlex.split(words)]
    if shutil.which("unshare"):
        command = ["unshare", "-r", "-u", sys.executable, str(Path(__file__).resolve()), "--inside", *command]
    done = subprocess.run(command, cwd=work, env=own, capture_output=True, text=True, check=False, umask=0)
    return done.returncode, (f"{done.stdout}\n{done.stderr}".strip().splitlines() or [""])[-1]


def main() -> int:
    """Run the commands, search what they wrote, and return 1 if something is not as it should be."""
    if sys.argv[1:2] == ["--inside"]:
        socket.sethostname(MARKS["machine"])
        os.execvp(sys.argv[2], sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a folder to work in, which is kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = (args.keep or Path(temporary)).absolute()
        home = base / MARKS["account"]
        work = home / "work"
        (home / "tmp").mkdir(parents=True)
        work.mkdir()
        prepare(work)
        wrong = 0
        for status, words in COMMANDS:
            found, last = run(home, work, words.replace("{run}", find_run(work) if "{run}" in words else ""))
            wrong += found != status
            print(f"{'ok   ' if found == status else 'WRONG'} {words.split()[0]:14} status {found}")
            if found != status:
                print(f"      {last[:300]}")
            sys.stdout.flush()
        faults, counts = judge(home, MARKS)
        print("\n".join(faults) or "No mark where it may not be.")
        print(", ".join(f"{n} {what}" for what, n in counts.items()))
    return 1 if wrong or faults else 0


if __name__ == "__main__":
    sys.exit(main())
