"""What a kit installs: the packages of requirements.lock for its platform, and those that further extras name."""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kmed_bench.core.errors import KmedError
from kmed_bench.pipeline.kit.target import Target

LOCKED_EXTRAS = ("demo", "offline", "tune")
"""Extras that requirements.lock was made with."""
_CUDA = re.compile(r"(nvidia|cuda)-.+|triton")
_TORCH = ("torch", "torchaudio")
_SELF = "kmed-bench"


@dataclasses.dataclass(frozen=True)
class Locked:
    """A package of requirements.lock with the SHA-256 of each of its files."""

    name: str
    version: str
    hashes: frozenset[str]

    @property
    def is_cuda(self) -> bool:
        """Whether only torch on a GPU needs it."""
        return _CUDA.fullmatch(self.name) is not None

    def line(self) -> str:
        """Return its line in a file for ``pip --require-hashes``."""
        return f"{self.name}=={self.version} " + " ".join(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a kit installs.

    Attributes
    ----------
    locked : tuple of Locked
        Fetched by their hashes.
    exact : tuple of str
        Requirements that requirements.lock has no hash for, fetched without their dependencies: torch for CPUs.
    further : tuple of str
        Requirements of extras that requirements.lock was not made with, fetched with their dependencies.
    """

    locked: tuple[Locked, ...]
    exact: tuple[str, ...]
    further: tuple[str, ...]


def read_lock(path: Path, target: Target) -> list[Locked]:
    """Return the packages of a lock file that the target's markers select.

    Raises
    ------
    KmedError
        When a line is no exact version with hashes.
    """
    found = []
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        stated, *hashes = line.split("--hash=sha256:")
        try:
            requirement = Requirement(stated.strip())
        except InvalidRequirement:
            requirement = None
        exact = re.fullmatch(r"==([^,*]+)", str(requirement.specifier)) if requirement else None
        if requirement is None or exact is None or not hashes:
            raise KmedError(f"{path}: {line.strip()[:80]!r} is no exact version with SHA-256; `make lock` writes it.")
        if requirement.marker is None or requirement.marker.evaluate(target.markers()):
            digests = frozenset(digest.strip() for digest in hashes)
            found.append(Locked(canonicalize_name(requirement.name), exact[1], digests))
    return found


def read_extras(pyproject: Path) -> dict[str, list[Requirement]]:
    """Return the requirements of each extra, with those of the extras that it names itself."""
    stated = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"].get("optional-dependencies", {})

    def expand(extra: str) -> list[Requirement]:
        found = []
        for requirement in map(Requirement, stated[extra]):
            if canonicalize_name(requirement.name) == _SELF:
                found += [inner for other in sorted(requirement.extras) for inner in expand(other)]
            else:
                found.append(requirement)
        return found

    return {extra: expand(extra) for extra in stated}


def choose_packages(root: Path, target: Target, extras: Sequence[str], *, cpu: bool) -> Wanted:
    """Return what a kit installs.

    Parameters
    ----------
    root : Path
        The source tree, with requirements.lock and pyproject.toml.
    cpu : bool
        Whether to take torch without CUDA.

    Raises
    ------
    KmedError
        When an extra is unknown, or not in requirements.lock and the kit is for another Python or machine than this
        one, for which pip can't resolve its dependencies.
    """
    known = read_extras(root / "pyproject.toml")
    if unknown := [extra for extra in extras if extra not in known]:
        raise KmedError(f"--extras names {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
    locked = {package.name: package for package in read_lock(root / "requirements.lock", target)}
    asked = [requirement for extra in extras for requirement in known[extra]]
    needed = {canonicalize_name(requirement.name) for requirement in asked}
    for extra in (extra for extra in LOCKED_EXTRAS if extra in known and extra not in extras):
        for name in {canonicalize_name(requirement.name) for requirement in known[extra]} - needed:
            locked.pop(name, None)
    exact = []
    if cpu:
        exact = [f"{name}=={locked[name].version}+cpu" for name in _TORCH if name in locked]
        locked = {name: one for name, one in locked.items() if not one.is_cuda and name not in _TORCH}
    further = _outside(asked, {*locked, *_TORCH}, target)
    if further and not target.is_this_machine:
        raise KmedError(
            f"requirements.lock does not cover {', '.join(further)}, and pip resolves their dependencies only for the "
            f"Python and machine that it runs on, not for Python {target.python} on {target.machine}: make the kit "
            f"there, or leave out the extras other than {', '.join(LOCKED_EXTRAS)}."
        )
    return Wanted(tuple(locked.values()), tuple(exact), tuple(further))


def _outside(asked: Iterable[Requirement], covered: set[str], target: Target) -> list[str]:
    """Return the requirements that apply on the target and are of packages not covered."""
    applying = (r for r in asked if r.marker is None or r.marker.evaluate(target.markers()))
    return sorted({f"{r.name}{r.specifier}" if not r.extras else str(r) for r in applying
                   if canonicalize_name(r.name) not in covered})  # fmt: skip
