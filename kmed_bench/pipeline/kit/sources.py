"""Write the parts of a kit other than packages and weights: the source archive, the documentation, and its site."""

import gzip
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_bytes_atomically
from kmed_bench.core.version import ask_git

ARCHIVE, SITE = "source.tar.gz", "site"
_PAGES = ("README.md", "README.ko.md", "SECURITY.md", "SECURITY.ko.md", "CHANGELOG.md", "LICENSE", "NOTICE", "docs")
_SITE_PACKAGES = ("mkdocs", "material", "mkdocstrings", "ruff")
"""What the extra `docs` brings."""
_TOP = "kmed-bench"


def copy_pages(source: Path, out: Path) -> None:
    """Copy the documentation of a source tree into a kit's folder."""
    for name in _PAGES:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, out / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        elif path.is_file():
            shutil.copyfile(path, out / name)


def write_source_archive(source: Path, out: Path) -> bool:
    """Write the files that git tracks in a source tree as source.tar.gz, and return whether the tree is a checkout.

    Only files that git tracks are packed, so recordings or results in the tree don't get into a kit. The archive is
    identical for the same files and commit, whoever packs it and whenever.
    """
    listed = ask_git(source, "ls-files", "-z")
    if listed is None:
        return False
    committed = ask_git(source, "log", "-1", "--format=%ct") or b"0"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(filter(None, listed.decode().split("\0"))):
            path = source / name
            if path.is_file():  # not one that was removed and not yet committed
                content = path.read_bytes()
                member = tarfile.TarInfo(f"{_TOP}/{name}")
                member.mtime = int(committed)  # so that `make` sees what a newer archive changes
                member.size, member.mode = len(content), 0o755 if os.access(path, os.X_OK) else 0o644
                archive.addfile(member, io.BytesIO(content))
    write_bytes_atomically(out / ARCHIVE, gzip.compress(packed.getvalue(), mtime=0))
    return True


def build_site(source: Path, out: Path) -> bool:
    """Build the documentation's site into a kit's folder, and return whether this environment can.

    Raises
    ------
    KmedError
        When MkDocs is here and fails.
    """
    if not (source / "mkdocs.yml").is_file() or not all(map(importlib.util.find_spec, _SITE_PACKAGES)):
        return False
    with tempfile.TemporaryDirectory(dir=out, prefix=".fetch") as folder:
        command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", f"{folder}/{SITE}"]
        done = subprocess.run(
            command,
            cwd=source,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise KmedError(
                f"mkdocs could not build the documentation of {source}: {said[:300]}; `make site` says more."
            )
        shutil.rmtree(out / SITE, ignore_errors=True)
        shutil.move(f"{folder}/{SITE}", out / SITE)
    return True
