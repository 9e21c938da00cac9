"""Baselines to compare with: predictions or benchmark packages of the same utterances."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction, read_predictions
from kmed_bench.scoring import compare_predictions
from kmed_bench.scoring.external_predictions import Hypothesis, join_references
from kmed_bench.scoring.package import Package, hash_references, read_package, score_against


def read_baseline(path: Path, rows: pd.DataFrame, config: EvalConfig) -> Package | list[Prediction]:
    """Return a baseline that was measured on the same utterances as these rows.

    Raises
    ------
    KmedError
        When there is none, it can't be read, or it is of other utterances or of another transcript policy.
    """
    if (path / "package.json").is_file():
        package = read_package(path)
        if package.policy != config.policy:
            raise KmedError(
                f"{path} was scored on the {package.policy} side, and eval.policy is {config.policy}; give "
                f"--eval.policy {package.policy}."
            )
        ids = set(next(iter(package.systems.values()))["utterance_id"])
        baseline: Package | list[Prediction] = package
    else:
        predictions = read_predictions(_predictions_behind(path))
        ids = {prediction.utterance_id for prediction in predictions}
        baseline = predictions
    own = set(rows["utterance_id"])
    if ids != own:
        raise KmedError(
            f"The baseline {path} is of other utterances: {len(own - ids)} of this part's {len(own)} are missing in it "
            f"and {len(ids - own)} of its {len(ids)} are not in this part; decode the same part of the same split."
        )
    if isinstance(baseline, Package):
        nothing = {name: Hypothesis(text="", decode_s=0.0) for name in rows["utterance_id"]}
        references = join_references(nothing, rows, missing="refuse").predictions
        if hash_references(references, config.policy) != baseline.head["references_sha256"]:
            raise KmedError(
                f"The references or speakers of this split are not those of the package {path}; take both from the "
                "same release of the corpus."
            )
    return baseline


def _predictions_behind(path: Path) -> Path:
    """Return the predictions of a path that may also be the scores beside them, or their folder."""
    if path.is_dir():
        return path / "predictions.jsonl"
    return path.with_name("predictions.jsonl") if path.name == "scores.json" else path


def compare_with(
    baseline: Package | Sequence[Prediction], name: str, predictions: Sequence[Prediction], config: EvalConfig
) -> list[dict[str, Any]]:
    """Return the paired difference to every system of a baseline; a negative delta means that the new one is better.

    Parameters
    ----------
    name : str
        What a baseline of one predictions file is called.
    """
    if isinstance(baseline, Package):
        rows: list[dict[str, Any]] = score_against(baseline, predictions, config)["comparisons"]
        return rows
    compared = compare_predictions(baseline, predictions, config)
    return [{"baseline": name, **compared, "p_holm": compared["p_value"]}]
