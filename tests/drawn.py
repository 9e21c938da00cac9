"""What a drawn figure covers: legends over lines, points, bars or titles."""

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.path import Path
from matplotlib.transforms import Bbox


def covered(figure: Figure) -> list[str]:
    """Return what lies under a legend of a figure, after it was laid out."""
    figure.draw_without_rendering()
    legends = [legend for axes in figure.axes if (legend := axes.get_legend())]
    return [what for legend in [*legends, *figure.legends] for what in _under(legend, figure)]


def _under(legend: Legend, figure: Figure) -> Iterator[str]:
    box = legend.get_window_extent()
    for axes in figure.axes:
        for name, path in _paths(axes):
            if len(path.vertices) and path.intersects_bbox(box, filled=False):
                yield name
        for title in (axes.title, axes._left_title, axes._right_title):  # type: ignore[attr-defined]
            if title.get_text() and Bbox.intersection(box, title.get_window_extent()) is not None:
                yield title.get_text()


def _paths(axes: Axes) -> Iterator[tuple[str, Path]]:
    """Yield what is drawn into axes, in pixels."""
    for line in axes.lines:
        yield f"line {line.get_label()}", line.get_path().transformed(line.get_transform())
    for bar in axes.patches:
        yield "bar", bar.get_path().transformed(bar.get_transform())
    for group in axes.collections:
        if isinstance(group, PathCollection):
            points = group.get_offset_transform().transform(group.get_offsets())
            yield from (("point", Path([point, point])) for point in points)
        else:
            yield from (("area", path.transformed(group.get_transform())) for path in group.get_paths())
