"""`verify`: a model's files against its passport, and the passport against its own digest and signature."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.core.quantities import percent
from kmed_bench.core.run_contracts import PASSPORT, Passport
from kmed_bench.core.scratch import scratch_folder
from kmed_bench.core.signatures import faults_of, read_public_key, signer_of
from kmed_bench.tracking.markdown import interval
from kmed_bench.tracking.registry.fetch import fetch_model, foreign_code
from kmed_bench.tracking.registry.passport import PASSPORT_FILE, find_passport


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What `verify_model` found.

    Attributes
    ----------
    said : tuple of str
        What the passport says, in lines.
    faults : tuple of str
        What does not hold; empty if all does.
    """

    said: tuple[str, ...]
    faults: tuple[str, ...]


def verify_model(model: str, public_key: Path | None, *, tracking_uri: str | None) -> Verdict:
    """Return whether a model is the one that its passport describes. Nothing in it is loaded or run.

    Parameters
    ----------
    model : str
        ``models:/…``, ``runs:/…``, a checkpoint beside its passport, or a folder: with a passport, an MLflow model's,
        or an export's.
    public_key : Path, optional
        PEM file of the key that must have signed the passport.
    tracking_uri : str, optional
        The store of ``models:/`` and ``runs:/``, as `open_store` returned it.

    Raises
    ------
    KmedError
        When the model, the key or the passport can't be read.
    """
    key = None if public_key is None else read_public_key(public_key)
    with scratch_folder() as folder:
        if tracking_uri is not None:
            return _verify(fetch_model(model, folder, tracking_uri=tracking_uri), model, key)
        if not Path(model).exists():
            raise KmedError(
                f"Model {model} does not exist; give models:/NAME@ALIAS, runs:/…, or a folder with {PASSPORT_FILE}."
            )
        return _verify(Path(model), model, key)


def _verify(path: Path, shown: str, key: Ed25519PublicKey | None) -> Verdict:
    found = find_passport(path)
    if found is None:
        return Verdict((), (f"{shown} has no {PASSPORT_FILE}, so nothing says what it should be",))
    passport = PASSPORT.read(found)
    faults = [*faults_of(passport, key), *_file_faults(passport, found.parent, path)]
    if (path / "MLmodel").is_file() and (why := foreign_code(path, passport["model_code_sha256"])):
        faults.append(f"loading it would run other code than the passport's: {why}")
    try:
        said = tuple(_describe(passport, signed=not faults, checked=key is not None))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # whoever changes a passport can seal it again
        said, faults = (), [*faults, f"the passport's parts are not those of a passport ({type(error).__name__})"]
    return Verdict(said, tuple(faults))


def _file_faults(passport: Passport, folder: Path, model: Path) -> Iterator[str]:
    """Yield what is wrong with the files beside a passport; of a model that is one file, with that one alone."""
    stated = passport["files"]
    beside = {file.name for file in folder.iterdir()}
    if model.is_file():
        stated = {name: value for name, value in stated.items() if name == model.name}
    else:
        present = {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}
        for name in sorted(present - {*stated, PASSPORT_FILE}):
            yield f"{name} is there, and the passport does not name it"
    if not stated:
        yield "the passport names no such file"
    for name, sha256 in stated.items():
        if name not in beside or not (folder / name).is_file():
            yield f"{name} is missing"
        elif (found := sha256_of(folder / name)) != sha256:
            yield f"{name} was changed: its SHA-256 is {found[:16]}…, and the passport says {sha256[:16]}…"


def _describe(passport: Passport, *, signed: bool, checked: bool) -> Iterator[str]:
    """Yield what a passport says, a line for each of its parts that people ask about first."""
    split, results, export = passport["split"], passport["results"], passport.get("export")
    clips = ", ".join(f"{part} {n}" for part, n in split.get("clips", {}).items())
    yield f"{passport['name']}, run {passport['run_id']}, {passport['made_at']}, code {passport['code_version']}"
    if export:
        yield f"Exported: {export.get('format')}, {export.get('quantization')}"
    yield "Files: " + ", ".join(f"{name} {sha256[:16]}…" for name, sha256 in passport["files"].items())
    yield f"Split: {split.get('sha256', '')[:16]}… ({split.get('label') or 'leaks unknown'}) {clips}".rstrip()
    if (overall := results.get("overall")) is None:
        yield "Test part: not measured"
    else:
        n_groups = sum(map(len, results["groups"].values()))
        cer, shown = percent(overall["cer"]), interval(overall)
        yield (
            f"Test part: CER {cer}{f' ({shown})' if shown else ''}, untouched {percent(results['untouched_cer'])}, "
            f"{overall['n_clips']} clips of {overall['n_speakers']} speakers; {n_groups} groups, "
            f"{results['groups_left_out']} under the minimum left out"
        )
    yield f"Data: {passport['data'].get('terms')}"
    if signed:
        yield _describe_signature(passport, checked)


def _describe_signature(passport: Passport, checked: bool) -> str:
    signer = signer_of(passport)
    if not signer:
        return "Signature: none; anyone who can write the files could have written the passport"
    if checked:
        return f"Signature: holds, by the key {signer}"
    return f"Signature: fits the key {signer}, which the passport itself names; give --public-key to know whose it is"
