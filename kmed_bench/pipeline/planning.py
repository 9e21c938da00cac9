"""What a split can show before anything is trained on it."""

import dataclasses

from kmed_bench.corpus.splitting.split import Split
from kmed_bench.scoring.power import describe_power, plan_part
from kmed_bench.text.marks import Policy


def plan_split(split: Split, policy: Policy) -> Split:
    """Return the split with the entry ``power`` in its report: what its test part can show.

    Parameters
    ----------
    policy : str
        Side of the dual notation that hypotheses will be compared with.
    """
    return dataclasses.replace(split, report={**split.report, "power": plan_part(split.parts["test"], "test", policy)})


def describe_plan(split: Split) -> str:
    """Return the power of a planned split in a line."""
    power = split.report["power"]
    shown = describe_power(power["smallest_difference"], power["n_speakers"], power["n_clips"], power["source"])
    return f"Power of {power['part']}: {shown}"
