"""Which differences between systems are more than chance: paired comparisons, corrected for their number."""

import itertools
from collections.abc import Mapping, Sequence

from kmed_bench.core.contracts import COMPARISONS, BaselineComparison, Comparisons, NamedComparison
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.compare import compare_counts, holm
from kmed_bench.scoring.gaps import gaps_of_sizes
from kmed_bench.scoring.measures import count_utterances
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.seeds import mean_over_seeds

_DEFAULT = ScoringOptions()


def compare_sizes(
    sizes: Mapping[str, tuple[Sequence[Prediction], Sequence[Prediction]]], options: ScoringOptions = _DEFAULT
) -> list[NamedComparison]:
    """Return the comparisons of a benchmark: each size untouched and fine-tuned, and the fine-tuned sizes in pairs.

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
    return compare_systems(systems, options, pairs=pairs)


def compare_benchmark(
    sizes: Mapping[str, tuple[Sequence[Prediction], Sequence[Prediction]]],
    seeds: Mapping[str, Mapping[int, Sequence[Prediction]]],
    options: ScoringOptions = _DEFAULT,
) -> Comparisons:
    """Return the content of a benchmark's comparisons.json.

    It has three families of tests, each with one correction of its own over all sizes: the comparisons of
    `compare_sizes`, the gaps between groups of speakers, and the groups' differences in benefit. ``seeds`` has each
    size's mean over seeds.

    Parameters
    ----------
    sizes : mapping
        As `compare_sizes` takes it.
    seeds : mapping
        Size to seed to the test part's predictions by that seed's fine-tuned run.
    """
    content = comparisons_file(compare_sizes(sizes, options))
    content["gaps"], content["benefits"] = gaps_of_sizes(sizes, options)
    content["seeds"] = [mean_over_seeds(size, runs, options) for size, runs in seeds.items()]
    return content


def compare_systems(
    systems: Mapping[str, Sequence[Prediction]],
    options: ScoringOptions = _DEFAULT,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[NamedComparison]:
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
    names = dict.fromkeys(itertools.chain.from_iterable(chosen))
    counts = {name: count_utterances(systems[name], options.transcript_side) for name in names}
    comparisons = [compare_counts(counts[a], counts[b], options) for a, b in chosen]
    corrected = holm([comparison["p_value"] for comparison in comparisons])
    return [
        {"a_name": a, "b_name": b, **comparison, "p_holm": p}
        for (a, b), comparison, p in zip(chosen, comparisons, corrected, strict=True)
    ]


def comparisons_file(rows: list[NamedComparison] | list[BaselineComparison]) -> Comparisons:
    """Return the content of comparisons.json."""
    return {"format": COMPARISONS.name, "version": COMPARISONS.version, "comparisons": rows}
