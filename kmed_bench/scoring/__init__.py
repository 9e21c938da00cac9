"""Error rates, groups, uncertainty, comparisons. Works on texts alone, without torch."""

from kmed_bench.scoring.compare import compare_predictions, holm
from kmed_bench.scoring.groups import score_predictions

__all__ = ["compare_predictions", "holm", "score_predictions"]
