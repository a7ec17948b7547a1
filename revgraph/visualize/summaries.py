"""How a `Summary` is drawn. Needs matplotlib."""

from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.reverse.pictures import Picture

if TYPE_CHECKING:
    from revgraph.datasets.summaries import Summary

MAP = "cividis"
"""A map of matplotlib for numbers that are not negative."""

COLUMNS = 5
"""How many maps stand side by side."""


def plot_summary(summary: "Summary", top: int, title: str | None) -> Picture:
    """Draws mean absolute relevance; see `Summary.plot`.

    Args:
        summary: What is drawn.
        top: How many features or classes are drawn at most.
        title: A title.

    Raises:
        ValueError: Samples have more than three axes.
    """
    if not summary.is_tabular:
        picture = _maps(summary, top)
    elif len(summary.classes) == 1:
        picture = _bars(summary, top)
    else:
        picture = _matrix(summary, top)
    if title:
        picture.suptitle(title, fontsize=10)
    return picture


def _order(summary, top):
    """The features that are drawn, and their names."""
    order = np.argsort(-summary.overall, kind="stable")[:top]
    names = summary.feature_names or [f"feature {i}" for i in range(len(summary.overall))]
    return order, [names[i] for i in order]


def _bars(summary, top):
    order, names = _order(summary, top)
    picture = Picture(5.0, 0.8 + 0.22 * len(order))
    axes = picture.subplots()
    axes.barh(range(len(order)), summary.overall[order], color="0.45", height=0.75)
    axes.set_yticks(range(len(order)), names, fontsize=8)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("mean |relevance|", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return picture


def _matrix(summary, top):
    order, names = _order(summary, top)
    picture = Picture(2.4 + 0.5 * len(summary.classes), 1.2 + 0.22 * len(order))
    axes = picture.subplots()
    drawn = axes.imshow(summary.absolute[:, order].T, cmap=MAP, vmin=0, aspect="auto")
    axes.set_yticks(range(len(order)), names, fontsize=8)
    axes.set_xticks(range(len(summary.classes)), summary.classes, fontsize=8, rotation=45, ha="right")
    picture.colorbar(drawn, ax=axes).set_label("mean |relevance|", fontsize=9)
    return picture


def _maps(summary, top):
    if summary.absolute.ndim != 4:
        raise ValueError(
            f"Samples of shape {summary.absolute.shape[1:]} have no map. `absolute` has the means, and "
            f"visualize.plot_volume draws those of a class."
        )
    # Channels lie behind each other.
    maps: Any = summary.absolute.sum(axis=1)[:top]
    columns = min(COLUMNS, len(maps))
    lines = -(-len(maps) // columns)
    picture = Picture(1.9 * columns + 0.8, 2.1 * lines)
    grid = picture.subplots(lines, columns, squeeze=False)
    drawn: Any = None
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, each, name, count in zip(grid.flat, maps, summary.classes, summary.counts, strict=False):
        drawn = axes.imshow(each, cmap=MAP, vmin=0, vmax=maps.max() or 1)
        axes.set_title(f"{name} ({count})", fontsize=9)
    picture.colorbar(drawn, ax=grid).set_label("mean |relevance|", fontsize=9)
    return picture
