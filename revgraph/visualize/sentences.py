"""Figures of texts with coloured tokens, and of tables token x token. Needs matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from revgraph.analyzers import Continuation
from revgraph.reverse.pictures import Picture
from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import heatmap

WRITTEN = 12
"""A table of up to so many columns has its numbers written into it."""

LEADING = 1.75
"""The distance of lines, in font sizes."""

Piece = tuple[str, str, tuple[float, ...], str, bool]
"""A token: the gap in front of it, its text, its colour, the colour of its letters, and whether it is special."""


def picture(texts: Sequence[Sequence[Piece]], titles: Sequence[str] | None, width: float, fontsize: float) -> Picture:
    """A figure of texts whose tokens have coloured boxes.

    Args:
        texts: The tokens of each text.
        titles: One per text, or None.
        width: In inches.
        fontsize: In points.
    """
    if not width > 0 or not fontsize > 0:
        raise ValueError(f"width and fontsize are positive numbers. Received: {width!r} and {fontsize!r}.")
    measure, line = _Measure(fontsize), LEADING * fontsize / 72
    pad, gap, y = 0.18 * fontsize / 72, 0.3 * fontsize / 72, 0.0
    placed: list[tuple[float, float, str, dict[str, Any]]] = []
    lines: list[tuple[float, float, float, str]] = []
    for i, pieces in enumerate(texts):
        if titles is not None:
            for each in titles[i].split("\n"):
                placed.append((0.0, y, each, {"weight": "bold"}))
                y += line
        x = 0.0
        for before, word, colour, ink, special in pieces:
            own = measure(word) + 2 * pad
            x += gap if before and x else 0.0
            if x and x + own > width:
                x, y = 0.0, y + line
            box = {"boxstyle": f"round,pad={pad * 72 / fontsize:.3f}", "fc": colour, "linewidth": 0}
            placed.append((x + pad, y, word, {"color": ink, "bbox": box}))
            if special:
                # In the colour of the letters, which can be seen on that of the token.
                lines.append((x + pad, x + own - pad, y + 0.5 * line + 0.6 * fontsize / 72, ink))
            x += own
        y += 1.35 * line
    height = max(y, line)
    figure = Picture(width, height)
    for x, y, word, look in placed:
        figure.text(x / width, 1 - (y + line / 2) / height, _plain(word), va="center", ha="left", size=fontsize, **look)
    for left, right, y, ink in lines:
        ends = [left / width, right / width], [1 - y / height] * 2
        figure.add_artist(Line2D(*ends, color=ink, linestyle=(0, (3, 2)), linewidth=0.08 * fontsize, zorder=4))
    return figure


class _Measure:
    """Says how wide words are, in inches."""

    def __init__(self, fontsize):
        self._figure = Figure()
        self._canvas = FigureCanvasAgg(self._figure)
        self._fontsize = fontsize

    def __call__(self, word):
        text = self._figure.text(0, 0, _plain(word), size=self._fontsize)
        width = text.get_window_extent(self._canvas.get_renderer()).width
        text.remove()
        return width / self._figure.dpi


def _plain(word):
    """A word that matplotlib does not take for a formula."""
    return word.replace("$", r"\$")


def plot_continuation(
    table: Continuation, cmap_type: Any = DEFAULT, *, scale: str = "batch", **options: Any
) -> Picture:
    """Draws which tokens of a text speak for each token that follows.

    There is a row for each token of the continuation, with the probability that the model gives to it, and a column
    for each token before it. Lines separate the source, if there is an encoder, the prompt and the continuation.

    Args:
        table: What `analyzer.continuation(prompt, continuation)` returns.
        cmap_type: Colour map; see `heatmap`.
        scale: `"batch"`: all rows share one colour scale; `"image"`: each has its own.
        **options: `absmax`, `percentile`, `gamma` of `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        TypeError: `table` is something else.

    Example:

        revgraph.visualize.plot_continuation(analyzer.continuation("The capital of France is", " Paris."))
    """
    if not isinstance(table, Continuation):
        raise TypeError(
            f"plot_continuation draws what analyzer.continuation(prompt, text) returns. Received: "
            f"{type(table).__name__}."
        )
    values = table.relevance
    rows, columns = values.shape
    colours = heatmap(values, cmap_type, reduce_axis=None, scale=scale, **options)
    known = np.arange(columns)[None] < table.first + np.arange(rows)[:, None]
    colours[~known] = 1
    written = columns <= WRITTEN
    figure = Picture(2.0 + columns * (0.6 if written else 0.26), 1.5 + 0.36 * rows)
    axes = figure.subplots()
    axes.imshow(colours, aspect="auto")
    axes.set_xticks(range(columns), [_plain(_shown(token)) for token in table.read], rotation=60, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    others = [""] * rows if table.against is None else [f", not {_shown(other)}" for other in table.against]
    said = zip(table.said, others, table.chances, strict=True)
    names = [f"{_shown(token)}  {chance:.0%}{other}" for token, other, chance in said]
    axes.set_yticks(range(rows), [_plain(name) for name in names], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for place in {table.source, table.first} - {0}:
        axes.axvline(place - 0.5, color="0.4", linewidth=1)
    if written:
        for i, j in np.argwhere(known):
            dark = np.dot(colours[i, j, :3], [0.299, 0.587, 0.114]) < 0.5
            axes.text(j, i, f"{values[i, j]:+.2g}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
    axes.set_ylabel("next token, and its probability", fontsize=8)
    order = ": first those of the source" if table.source else ""
    axes.set_xlabel(f"relevance of each token for it{order}", fontsize=8)
    return figure


def _shown(token):
    return token.strip(" ").replace("\n", "\u21b5") or "\u2423"
