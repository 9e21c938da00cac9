"""Quantities as people read them."""

from kmed_bench.core.language import N_, gettext


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, such as ``12.3 %``; a dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def points(difference: float, digits: int = 2, *, unit: str = N_(" points")) -> str:
    """Return a difference of two fractions in percentage points, such as ``-1.25 points``."""
    return f"{100 * difference:+.{digits}f}{gettext(unit)}"


def gib(n_bytes: int) -> str:
    """Return an amount of data, such as ``1.5 GiB``, or in MiB where it is less than one."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def explain_rates(*rates: float | None) -> str:
    """Return why error rates exceed 100 %, where one of these does; empty otherwise."""
    return gettext(OVER_WHOLE) if any(rate is not None and rate > 1 for rate in rates) else ""


OVER_WHOLE = N_(
    "A rate over 100 % has more errors than the reference has characters or words: insertions count too, and a model "
    "that repeats itself in a loop inserts without limit."
)
