"""Rows of samples and columns of relevance, with their colour bars. Needs matplotlib."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from revgraph.reverse.pictures import Picture
from revgraph.visualize.captions import check_titles
from revgraph.visualize.kinds import Colours, Kind


def shared_limits(colours: Colours, values: Sequence[np.ndarray], scale: str) -> np.ndarray:
    """The value of the last colour in every cell, (columns, rows).

    Args:
        colours: Say what the largest value of a sample is.
        values: The relevance of all samples, (rows, ...), by each analyzer.
        scale: Which cells share a scale; see `plot_grid`.

    Raises:
        ValueError: There is no such scale.
    """
    limits = np.array([colours.limits(v) for v in values])
    shared: dict[str, tuple[int, ...]] = {"all": (0, 1), "column": (1,), "row": (0,), "image": ()}
    if scale not in shared:
        raise ValueError(f"scale is {', '.join(map(repr, shared))}. Received: {scale!r}.")
    return np.broadcast_to(limits.max(axis=shared[scale], keepdims=True), limits.shape)


def size_of(kind: Kind, inputs: np.ndarray, columns: int, titles: Sequence[str] | None) -> tuple[float, float]:
    """Width and height in inches of a figure with rows of samples.

    Args:
        kind: How to draw.
        inputs: The samples.
        columns: How many pictures each row has.
        titles: Titles of the rows, or None.
    """
    width, height = kind.size(inputs, columns)
    if titles and columns > 1:
        # Titles of one line have room.
        lines = max(_beside(title, height).count("\n") for title in titles[: len(inputs)])
        return width * columns + 1.0 + 0.15 * lines, height * len(inputs) + 0.6
    room = sum(0.25 + 0.15 * str(t).count("\n") for t in titles[: len(inputs)]) if titles else 0
    return width * columns + 1.0, height * len(inputs) + 0.6 + room


def grid_of(
    kind: Kind,
    colours: Colours,
    x: np.ndarray,
    relevances: Mapping[str, np.ndarray],
    titles: Sequence[str] | None,
    scale: str,
    own: Sequence[str],
    named: Iterable[str],
    picture: Any = None,
    known: bool = True,
) -> Any:
    """Rows of samples; columns that show the sample itself, then one per name.

    Args:
        kind, colours: How to draw.
        x: Samples.
        relevances: Dict of their relevance.
        titles: Titles of the rows, or None.
        scale: Which cells share a scale.
        own: Columns of `kind` drawn for the first relevance.
        named: Names of the columns that follow.
        picture: Where to draw; a new picture by default.
        known: Whether x are the samples, and not only of their shape.

    Returns:
        The picture.

    Raises:
        ValueError: There are too few titles, or there is no such scale.
    """
    check_titles(titles, len(x))
    made = kind.arranged(kind.inputs(x), [kind.values(relevance) for relevance in relevances.values()])
    kind, inputs, values = made.kind, made.inputs, made.values
    titles = made.titled(titles)
    limits = shared_limits(colours, values, scale)
    positive = all(np.all(v >= 0) for v in values)
    cells = [(what, 0, what) for what in own] + [("relevance", i, name) for i, name in enumerate(named)]
    width, height = kind.size(inputs, len(cells))
    picture = Picture(*size_of(kind, inputs, len(cells), titles)) if picture is None else picture
    grid = picture.subplots(len(x), len(cells), squeeze=False)
    for row, axes in enumerate(grid):
        for cell, (what, column, _) in zip(axes, cells, strict=True):
            mapped = colours.scale(limits[column, row], positive)
            kind.draw(cell, what, inputs[row] if known else None, values[column][row], mapped)
        if titles:
            if len(cells) > 1:
                axes[0].set_ylabel(_beside(titles[row], height), fontsize=9)
            else:
                axes[0].set_title(str(titles[row]), fontsize=9, loc="left")
    if len(cells) > 1:
        for cell, (_, _, name) in zip(grid[0], cells, strict=True):
            cell.set_title(broken(name, int(11 * width)), fontsize=9)
        for cell in grid[:, 1:].flat:
            # What stands beside the first picture of a row is true of all of them.
            cell.set_yticklabels([])
    if kind.has_bar:
        _bars(picture, grid, cells, limits, positive, colours, scale)
    else:
        _axes(grid, cells, np.maximum(limits, shared_limits(Colours(), values, scale)), positive)
    return picture


def _beside(title, height):
    """A title that stands beside a picture of some height. If it has several lines, none of them is much longer."""
    lines = str(title).split("\n")
    return (
        "\n".join(textwrap.fill(line, int(15 * height), break_long_words=False) for line in lines)
        if lines[1:]
        else lines[0]
    )


def _bars(picture, grid, cells, limits, positive, colours, scale):
    """Draws one colour bar for the cells that share a scale, and none where every cell has its own."""
    columns = [i for i, (what, _, _) in enumerate(cells) if what != "input"]
    if scale == "all":
        draw_bar(picture, colours.scale(limits[0, 0], positive), grid, positive)
    elif scale == "row":
        for row, axes in enumerate(grid):
            draw_bar(picture, colours.scale(limits[0, row], positive), axes, positive)
    elif scale == "column":
        for i in columns:
            mapped = colours.scale(limits[cells[i][1], 0], positive)
            draw_bar(picture, mapped, grid[:, i], positive, location="bottom")


def _axes(grid, cells, limits, positive):
    """Gives one axis to the cells that share a scale, so that bars of equal length are equal relevance."""
    for row, axes in enumerate(grid):
        for cell, (_, column, _) in zip(axes, cells, strict=True):
            end = 1.05 * (limits[column, row] or 1)
            cell.set_xlim(0 if positive else -end, end)


def draw_bar(picture: Picture, mapped: Any, axes: Any, positive: bool, location: str = "right") -> None:
    """Draws a colour bar beside axes.

    Args:
        picture: The figure.
        mapped: The colours, a `ScalarMappable`.
        axes: One of matplotlib's axes, or an array of them.
        positive: Show only the half of the colours that stands for positive values.
        location: `"right"` or `"bottom"`.
    """
    low, high = mapped.norm.vmin, mapped.norm.vmax
    along: dict[str, Any] = (
        {"aspect": 14, "fraction": 0.1} if location == "bottom" else {"aspect": 22, "fraction": 0.04}
    )
    bar = picture.colorbar(mapped, ax=axes, location=location, shrink=0.85, pad=0.02, **along)
    shown = 0.0 if positive else low
    ticks = [shown, high] if shown == 0 else [low, 0, high]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    if shown != low:
        (bar.ax.set_xlim if location == "bottom" else bar.ax.set_ylim)(shown, high)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def broken(name: str, width: int) -> str:
    """A name in lines of about `width` characters, broken behind dots and underscores."""
    lines = [""]
    for word in re.findall(r"[^._ ]+[._ ]?", str(name)):
        if lines[-1] and len(lines[-1] + word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)
