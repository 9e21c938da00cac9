"""Which differences between systems are more than chance: paired comparisons, corrected for their number."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import compare_predictions, holm


def compare_sizes(
    sizes: Mapping[str, tuple[Sequence[Prediction], Sequence[Prediction]]], config: EvalConfig
) -> list[dict[str, Any]]:
    """Return what `compare_systems` finds for a bench: what fine-tuning did to each size, and size against size.

    Parameters
    ----------
    sizes : mapping
        Size to the test part's predictions by the untouched model and by the size's chosen fine-tuned run.
    """
    systems: dict[str, Sequence[Prediction]] = {}
    for size, (untouched, tuned) in sizes.items():
        systems |= {f"{size} untouched": untouched, f"{size} fine-tuned": tuned}
    pairs = [(f"{size} untouched", f"{size} fine-tuned") for size in sizes]
    pairs += [(f"{a} fine-tuned", f"{b} fine-tuned") for a, b in itertools.combinations(sizes, 2)]
    return compare_systems(systems, config, pairs=pairs)


def compare_systems(
    systems: Mapping[str, Sequence[Prediction]],
    config: EvalConfig,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Return one comparison per pair: that of `compare_predictions`, with ``a_name``, ``b_name`` and ``p_holm``.

    Parameters
    ----------
    systems : mapping
        Name, as the report shows it, to predictions on one test part.
    pairs : sequence of (str, str), optional
        What is compared, the baseline first; None: every pair in the order of ``systems``. Holm's
        correction counts these, so name only the pairs that a decision rests on.

    Raises
    ------
    KmedError
        When a pair names an unknown system, or two systems were not decoded from the same utterances.
    """
    chosen = list(itertools.combinations(systems, 2)) if pairs is None else list(pairs)
    unknown = sorted({name for pair in chosen for name in pair} - set(systems))
    if unknown:
        raise KmedError(f"No system is called {', '.join(unknown)}; the systems are: {', '.join(systems)}.")
    found = [compare_predictions(systems[a], systems[b], config) for a, b in chosen]
    corrected = holm([comparison["p_value"] for comparison in found])
    return [
        {"a_name": a, "b_name": b, **comparison, "p_holm": p}
        for (a, b), comparison, p in zip(chosen, found, corrected, strict=True)
    ]
