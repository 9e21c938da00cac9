"""The wheels of a kit: fetched by pip as the user has configured it, checked by their hashes, kept when resumed."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of, sync
from kmed_bench.core.progress import track
from kmed_bench.pipeline.kit.requirements import Locked, Wanted
from kmed_bench.pipeline.kit.target import Target

SDISTS = ("openai-whisper",)
"""Packages that are published without a wheel; theirs is built here."""
_BATCH = 12
_PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Build tools stamp files in a wheel with this time: the same source gives the same wheel.
_EPOCH = {"SOURCE_DATE_EPOCH": "315532800"}

_log = logging.getLogger(__name__)


def fetch_wheels(wanted: Wanted, target: Target, wheels: Path) -> list[str]:
    """Bring a folder to hold the wheels of all that a kit installs, and return the names that have no locked hash.

    A wheel that is there with a hash of the lock is kept; another one of its package is fetched again.

    Raises
    ------
    KmedError
        When pip gets one not, or not with the right hash.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    present = {(name, sha256_of(path)) for name, path in wheels_by_name(wheels).items()}
    missing = [p for p in wanted.locked if p.name not in SDISTS and not {(p.name, h) for h in p.hashes} & present]
    n_locked = sum(package.name not in SDISTS for package in wanted.locked)
    _log.info("Wheels: %d of %d are there, %d to fetch", n_locked - len(missing), n_locked, len(missing))
    with track("fetching wheels") as tick:
        done = n_locked - len(missing)
        tick(done, n_locked)
        for batch in _batches(missing):
            _fetch(["--no-deps", *target.pip_options()], batch, wheels)
            tick(done := done + len(batch), n_locked)
    for package in (package for package in wanted.locked if package.name in SDISTS):
        _build_sdist(package, wheels)
    unlocked = {requirement.partition("==")[0] for requirement in wanted.exact}
    if wanted.exact:
        _fetch_exact(wanted.exact, target, wheels)
    if wanted.further:
        unlocked |= _fetch_further(wanted, target, wheels) - {package.name for package in wanted.locked}
    return sorted(unlocked)


def wheels_by_name(folder: Path) -> dict[str, Path]:
    """Return the wheels of a folder by the name of their package."""
    found = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            found[str(parse_wheel_filename(path.name)[0])] = path
        except InvalidWheelFilename:
            raise KmedError(f"{path} has no wheel's name; remove it.") from None
    return found


def build_own_wheel(root: Path, wheels: Path) -> Path:
    """Build the wheel of a source tree of this package into a folder and return its path.

    Raises
    ------
    KmedError
        When it can't be built.
    """
    with tempfile.TemporaryDirectory() as folder:  # setuptools leaves its own files in the tree that it builds
        copy = Path(folder) / "source"
        copy.mkdir()
        for name in filter(lambda name: (root / name).is_file(), _PROJECT_FILES):
            shutil.copy2(root / name, copy)
        shutil.copytree(root / "kmed_bench", copy / "kmed_bench", ignore=shutil.ignore_patterns("__pycache__"))
        return _build(copy, wheels)


def _batches(packages: Sequence[Locked]) -> Iterator[list[Locked]]:
    """Yield groups that are lost together when pip is interrupted: CUDA's wheels and torch are hundreds of MB each."""
    large = [package for package in packages if package.is_cuda or package.name == "torch"]
    small = [package for package in packages if package not in large]
    yield from ([package] for package in large)
    yield from (small[start : start + _BATCH] for start in range(0, len(small), _BATCH))


def _fetch(options: Sequence[str], packages: Sequence[Locked], wheels: Path) -> None:
    """Download locked packages beside a folder of wheels, check them, and move them into it."""
    with tempfile.TemporaryDirectory(dir=wheels.parent, prefix=".fetch") as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{package.line()}\n" for package in packages), encoding="utf-8")
        names = ", ".join(package.name for package in packages)
        _pip(["download", "--require-hashes", *options, "--dest", folder, "--requirement", str(listed)], names)
        _take(Path(folder), wheels)


def _fetch_exact(requirements: Sequence[str], target: Target, wheels: Path) -> None:
    """Download torch for CPUs, which is not on the Python package index and so not in requirements.lock.

    The index may have one of the two packages, or other versions: the error says what it has of each.
    """
    present = {f"{name}=={parse_wheel_filename(path.name)[1]}" for name, path in wheels_by_name(wheels).items()}
    lacking = []
    for requirement in (requirement for requirement in requirements if requirement not in present):
        with tempfile.TemporaryDirectory(dir=wheels.parent, prefix=".fetch") as folder:
            command = ["download", "--no-deps", *target.pip_options(), "--dest", folder, requirement]
            try:
                # With the user's constraints pip reports a conflict instead of the versions that there are.
                _pip(command, requirement, environment={"PIP_CONSTRAINT": os.devnull})
            except KmedError as error:
                lacking.append(_lacks(requirement, str(error)))
            else:
                _take(Path(folder), wheels)
    if lacking:
        raise KmedError(
            f"--cpu needs {' and '.join(requirements)}, and pip did not get {'; '.join(lacking)}. Other builds of the "
            f"two don't load together. {_CPU_INDEX} has them: set PIP_EXTRA_INDEX_URL to it or to a mirror of it, or "
            "leave out --cpu."
        )


def _lacks(requirement: str, said: str) -> str:
    """Return a requirement with what pip's index has in its place, or why pip did not get it."""
    listed = re.search(r"\(from versions: ([^)]*)\)", said)
    if listed is None:
        return f"{requirement} ({said.partition(' failed: ')[2].partition('; see that')[0]:.300})"
    versions = [version for version in listed[1].split(", ") if version.endswith("+cpu")]
    return f"{requirement} (its index has {', '.join(versions[-3:]) or 'no version that ends with +cpu'})"


def _fetch_further(wanted: Wanted, target: Target, wheels: Path) -> set[str]:
    """Download what further extras need, at the lock's versions where it has them, and return all their names."""
    with tempfile.TemporaryDirectory(dir=wheels.parent, prefix=".fetch") as folder:
        pins = Path(folder) / "pins.txt"
        lines = [f"{package.name}=={package.version}" for package in wanted.locked] + list(wanted.exact)
        pins.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = ["download", *target.pip_options(), "--find-links", str(wheels), "--constraint", str(pins)]
        _pip([*command, "--dest", folder, *wanted.further], ", ".join(wanted.further))
        fetched = wheels_by_name(Path(folder))
        for path in fetched.values():
            if (wheels / path.name).exists():  # checked by the lock, or fetched before
                path.unlink()
        _take(Path(folder), wheels)
        return set(fetched)


def _take(folder: Path, wheels: Path) -> None:
    """Move wheels into the kit's folder in place of others of the same package."""
    earlier = wheels_by_name(wheels)
    for name, path in wheels_by_name(folder).items():
        sync(path)
        if name in earlier:
            earlier[name].unlink()
        path.replace(wheels / path.name)


def _build_sdist(package: Locked, wheels: Path) -> None:
    with tempfile.TemporaryDirectory(dir=wheels.parent, prefix=".fetch") as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text(package.line() + "\n", encoding="utf-8")
        options = ["--no-deps", "--no-build-isolation", "--no-binary", package.name, "--require-hashes"]
        _pip(["download", *options, "--dest", folder, "--requirement", str(listed)], package.name)
        (source,) = Path(folder).glob("*.tar.gz")
        _build(source, wheels)


def _build(source: Path, wheels: Path) -> Path:
    """Build a wheel with the setuptools that runs here, and no network."""
    with tempfile.TemporaryDirectory(dir=wheels.parent, prefix=".fetch") as folder:
        options = ["--isolated", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        environment = {"PIP_CONFIG_FILE": os.devnull, **_EPOCH}
        remedy = "setuptools 77 or later builds it: `pip install setuptools`"
        _pip(["wheel", *options, "--wheel-dir", folder, str(source)], source.name, remedy, environment)
        (built,) = wheels_by_name(Path(folder)).values()
        if not built.name.endswith("-py3-none-any.whl"):
            raise KmedError(f"{built.name} was built for this machine alone; kits take pure Python from sources.")
        _take(Path(folder), wheels)
        _log.info("Built %s", built.name)
        return wheels / built.name


def _pip(words: Sequence[str], what: str, remedy: str = "", environment: dict[str, str] | None = None) -> None:
    """Run pip; its configuration is the user's, and nothing of it is written anywhere."""
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *words[1:]], env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "OSError"))]
        reason = " ".join(said or done.stderr.splitlines()[-1:]) or f"exit status {done.returncode}"
        usual = "see that the index or mirror of `pip config list` can be reached and has it; what is fetched is kept"
        raise KmedError(f"pip {words[0]} of {what:.200} failed: {without_password(reason)[:2000]}; {remedy or usual}.")


def lock_text(wheels: Path) -> str:
    """Return kit.lock: each wheel's package, version and SHA-256, for ``pip install --require-hashes``."""
    lines = []
    for name, path in sorted(wheels_by_name(wheels).items()):
        version = parse_wheel_filename(path.name)[1]
        lines.append(f"{canonicalize_name(name)}=={version} --hash=sha256:{sha256_of(path)}\n")
    return "".join(lines)
