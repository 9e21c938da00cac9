"""Quantities as people read them."""


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, such as ``12.3 %``; a dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"
