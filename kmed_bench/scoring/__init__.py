"""Error rates, groups, uncertainty, comparisons. Works on texts only, without torch."""

from kmed_bench.scoring.compare import compare_predictions, holm
from kmed_bench.scoring.groups import score_predictions
from kmed_bench.scoring.options import ScoringOptions

__all__ = ["ScoringOptions", "compare_predictions", "holm", "score_predictions"]
