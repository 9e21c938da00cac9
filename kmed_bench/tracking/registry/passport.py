"""Model passports: what a model's files are and where they come from, as JSON that can be checked and signed."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kmed_bench.core.contracts import CerCell, Scores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of, write_json
from kmed_bench.core.records import is_synthetic
from kmed_bench.core.run_contracts import PASSPORT, Passport, PassportResults
from kmed_bench.core.signatures import read_private_key, seal
from kmed_bench.core.version import lock_sha256
from kmed_bench.scoring.measures import versions
from kmed_bench.tracking.registry.fetch import MODEL_CODE
from kmed_bench.tracking.registry.model_card import LIMITS, TERMS

PASSPORT_FILE = "passport.json"
_CELL = tuple(CerCell.__annotations__)
_NO_DATA = "The generated demo corpus: no person's speech, and no terms of a data set."


def describe_model(
    *,
    name: str,
    size: str,
    language: str,
    run_id: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    scores: Scores | None,
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """Return the content of a model's passport without its files; the parameters are those of `write_card`."""
    synthetic = is_synthetic(params, tags)
    return {
        **PASSPORT.head,
        "name": name,
        "size": size,
        "language": language,
        "run_id": run_id,
        "made_at": _now(),
        "code_version": tags.get("kmed.code_version", ""),
        "lock_sha256": lock_sha256(),
        "files": {},
        "model_code_sha256": sha256_of(MODEL_CODE),
        "origin": {
            "weights": tags.get("kmed.weights_origin", ""),
            "weights_sha256": tags.get("kmed.weights_sha256", ""),
        },
        "split": {
            "sha256": tags.get("kmed.split_sha256", ""),
            "label": tags.get("kmed.split_label", ""),
            "clips": dict(counts),
        },
        "rules": {key: scores[key] if scores else value for key, value in versions().items()},  # type: ignore[literal-required]
        "results": _results(scores, metrics),
        "speed": {key.removeprefix("speed/"): value for key, value in metrics.items() if key.startswith("speed/")},
        "data": {"synthetic": synthetic, "terms": _NO_DATA if synthetic else TERMS},
        "training": {
            **{key: value for key, value in sorted(params.items()) if key.startswith("train.")},
            **{key: tags[f"kmed.{key}"] for key in ("seed", "train_precision") if f"kmed.{key}" in tags},
        },
        "limits": list(LIMITS),
        "export": None,
    }


def _results(scores: Scores | None, metrics: Mapping[str, float]) -> PassportResults:
    kept: dict[str, dict[str, CerCell]] = {}
    left_out = 0
    for field, cells in (scores["groups"] if scores else {}).items():
        for value, cell in cells.items():
            if cell["below_minimum"]:
                left_out += 1
            else:
                kept.setdefault(field, {})[value] = _cell(cell)
    return {
        "overall": _cell(scores["overall"]) if scores else None,
        "untouched_cer": metrics.get("untouched/test_cer"),
        "groups": kept,
        "groups_left_out": left_out,
        "minimum": scores["minimum"] if scores else {},
        "transcript_policy": scores["transcript_policy"] if scores else "",
    }


def _cell(cell: CerCell) -> CerCell:
    return {name: cell[name] for name in _CELL}  # type: ignore[literal-required, return-value]


def write_passport(content: Mapping[str, Any], files: Iterable[Path], folder: Path, sign_key: str | None) -> Path:
    """Complete a passport with its files' hashes, sign it if there is a key, write it and return its path.

    Parameters
    ----------
    files : iterable of Path
        The files beside the passport that it answers for.

    Raises
    ------
    KmedError
        When the key can't be read.
    """
    key = None if sign_key is None else read_private_key(Path(sign_key))
    path = folder / PASSPORT_FILE
    write_json(path, seal({**content, "files": {file.name: sha256_of(file) for file in files}}, key))
    return path


def find_passport(path: Path) -> Path | None:
    """Return the passport beside a model's file or in its folder, which may be an MLflow model's; None without one.

    Raises
    ------
    KmedError
        When a folder holds several.
    """
    if path.is_file():
        beside = path.with_name(PASSPORT_FILE)
        return beside if beside.is_file() else None
    found = sorted(path.rglob(PASSPORT_FILE))
    if len(found) > 1:
        raise KmedError(f"{path} holds {len(found)} files {PASSPORT_FILE}; name the folder of one model.")
    return found[0] if found else None


def passport_of_export(origin: Passport, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an exported model's passport without its files: the original's, and what it was made from.

    Parameters
    ----------
    record : mapping
        Content of ``export.json``.
    """
    kept = {key: value for key, value in origin.items() if key not in ("sha256", "signature", "model_code_sha256")}
    about = {
        "format": record["format"],
        "quantization": record["quantization"],
        "drift": record["drift"],
        "made_from": {"passport_sha256": origin["sha256"], "files": origin["files"]},
    }
    return {**kept, "made_at": _now(), "model_code_sha256": None, "export": about}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
