"""What kit.json of an offline kit holds."""

from typing import TypedDict

from kmed_bench.core.formats import FileFormat, Head


class KitFile(TypedDict):
    """One file of a kit."""

    bytes: int
    sha256: str


class KitWeights(TypedDict):
    """Weights of one size; ``sha256`` is of their source, as `weights` prints it."""

    file: str
    origin: str
    sha256: str


class KitChoices(TypedDict):
    """What a kit is made of; an unfinished one is continued only with the same choices."""

    python: str
    platform: str
    cpu: bool
    extras: list[str]
    sizes: list[str]
    code_version: str
    lock_sha256: str


class Kit(Head, KitChoices):
    """Content of kit.json.

    ``packages`` has versions by name; ``built`` names those whose wheels were built when the kit was made, ``unlocked``
    those that requirements.lock has no hash for. ``files`` has every file but kit.json, SHA256SUMS and its signature.
    """

    kmed_bench: str
    packages: dict[str, str]
    built: list[str]
    unlocked: list[str]
    weights: dict[str, KitWeights]
    files: dict[str, KitFile]
    n_bytes: int
    installed_bytes: int


KIT: FileFormat[Kit] = FileFormat(
    "kmed-kit",
    1,
    1,
    "make the kit again with `kmed-bench offline-kit`",
    {
        "python": str,
        "platform": str,
        "sizes": list[str],
        "packages": dict[str, str],
        "files": dict[str, dict[str, int | str]],
    },
)
