"""Baselines of a new system: predictions or benchmark packages of the same utterances."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from kmed_bench.core.contracts import COMPARISONS, SCORES, BaselineComparison, EvaluatedScores
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction, read_predictions
from kmed_bench.scoring.compare import compare_counts, holm
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.package import HEAD_NAME, hash_references, read_package


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """Systems that were all measured on the same utterances.

    Attributes
    ----------
    path : Path
        Where it was read from, as given.
    systems : dict
        Name to table of ``count_utterances``; a predictions file is one system, named by ``path``.
    references_sha256 : str
        What ``hash_references`` returns for its utterances.
    split_sha256 : str or None
        Identity of the split; None where the baseline does not state it.
    """

    path: Path
    systems: dict[str, pd.DataFrame]
    references_sha256: str
    split_sha256: str | None


def read_baseline(path: Path, options: ScoringOptions) -> Baseline:
    """Return a baseline: a package's folder, a predictions.jsonl, or the scores.json or the folder beside one.

    Raises
    ------
    KmedError
        When there is none, it can't be read, or a package was scored on another transcript side.
    """
    if (path / HEAD_NAME).is_file():
        package = read_package(path)
        if package.policy != options.transcript_side:
            raise KmedError(
                f"{path} was scored on the {package.policy} side, and data.transcript_side is "
                f"{options.transcript_side}; give --data.transcript_side {package.policy}."
            )
        return Baseline(
            path=path,
            systems=package.systems,
            references_sha256=package.head["references_sha256"],
            split_sha256=package.head["split"]["sha256"],
        )
    file = predictions_beside(path)
    if not file.is_file():
        raise KmedError(
            f"{path} does not exist, or no predictions.jsonl is in it; --against takes the folder of a benchmark "
            "package (`kmed-bench package`), a predictions.jsonl of `kmed-bench evaluate`, or the scores.json or the "
            "folder beside one."
        )
    return baseline_of(path, read_predictions(file), options)


def baseline_of(path: Path, predictions: Sequence[Prediction], options: ScoringOptions) -> Baseline:
    """Return the baseline of one system's predictions, named by the path that they were read from."""
    return Baseline(
        path=path,
        systems={str(path): count_utterances(predictions, options.transcript_side)},
        references_sha256=hash_references(predictions, options.transcript_side),
        split_sha256=None,
    )


def read_scores(folder: Path) -> EvaluatedScores:
    """Return the scores in a folder, with the comparisons beside them."""
    scores = cast(EvaluatedScores, SCORES.read(folder / "scores.json"))
    if (folder / "comparisons.json").exists():
        compared = COMPARISONS.read(folder / "comparisons.json")
        scores["comparisons"] = cast(list[BaselineComparison], compared["comparisons"])
    return scores


def predictions_beside(path: Path, *, package: bool = False) -> Path:
    """Return the predictions that a path means: itself, or those beside scores.json or in a folder.

    Parameters
    ----------
    package : bool
        For the folder of a package return the file that identifies it, ``package.json``.
    """
    if path.is_dir():
        return path / (HEAD_NAME if package and (path / HEAD_NAME).exists() else "predictions.jsonl")
    return path.with_name("predictions.jsonl") if path.name == "scores.json" else path


def check_same_speech(baseline: Baseline, predictions: Sequence[Prediction], options: ScoringOptions) -> None:
    """Raise unless predictions are of a baseline's utterances, with the same references and speakers.

    Hypotheses play no part, so ``external_predictions.read_references`` can be checked before anything is decoded.

    Raises
    ------
    KmedError
        When utterances are missing or others are there, or a reference or speaker differs.
    """
    wanted = set(next(iter(baseline.systems.values()))["utterance_id"])
    present = {prediction.utterance_id for prediction in predictions}
    if wanted != present:
        raise KmedError(
            f"The baseline {baseline.path} is of other utterances: {len(present - wanted)} of these {len(present)} are "
            f"missing in it and {len(wanted - present)} of its {len(wanted)} are missing here, such as "
            f"{min(wanted ^ present)!r}; decode the same part of the same split, all of it."
        )
    if hash_references(predictions, options.transcript_side) != baseline.references_sha256:
        raise KmedError(
            f"The references or speakers are not those of the baseline {baseline.path} (SHA-256 "
            f"{baseline.references_sha256}); take both from the same release of the corpus, as written."
        )


def compare_with(
    baseline: Baseline, predictions: Sequence[Prediction], options: ScoringOptions
) -> list[BaselineComparison]:
    """Return the paired difference to every system of a baseline, which is ``a``; the new system is ``b``.

    ``p_holm`` is corrected over the baseline's systems.

    Raises
    ------
    KmedError
        As `check_same_speech`.
    """
    check_same_speech(baseline, predictions, options)
    counts = count_utterances(predictions, options.transcript_side)
    compared = {name: compare_counts(table, counts, options) for name, table in baseline.systems.items()}
    corrected = holm([comparison["p_value"] for comparison in compared.values()])
    return [
        {"baseline": name, **comparison, "p_holm": p}
        for (name, comparison), p in zip(compared.items(), corrected, strict=True)
    ]
