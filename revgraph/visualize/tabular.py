"""`plot_waterfall` and `plot_beeswarm`: relevance of tables, of one row and of many. Needs matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike

from revgraph.graph.arguments import check_count
from revgraph.reverse.pictures import Picture
from revgraph.visualize.colormaps import DEFAULT, of_relevance
from revgraph.visualize.heatmaps import finite

VALUES = "cividis"
"""The map of matplotlib for the values of features. Red and blue stand for relevance."""

ROW = 0.3
"""The height of a row in inches."""


def plot_waterfall(
    x: ArrayLike,
    relevance: ArrayLike,
    output: Any,
    *,
    sample: int = 0,
    feature_names: Sequence[str] | None = None,
    top: int = 10,
    title: str | None = None,
    unit: str = "",
    cmap_type: Any = DEFAULT,
) -> Picture:
    """Draws how the features of one row of a table lead to the output, step by step.

    The first bar begins at the output less all relevance. For `deep_lift` and `integrated_gradients` this is the output
    for the reference. For LRP it is what biases and the rules keep. The last bar ends at the output.

    Args:
        x: The table (batch, features).
        relevance: Its relevance (batch, features).
        output: The output that was explained, (batch,), or (batch, 1) as `model.predict` gives it: the logit, where the
            model ends in a softmax or a sigmoid.
        sample: Which row.
        feature_names: Names of the features.
        top: How many features have a bar of their own. The others share one.
        title: A title.
        unit: The unit of the output, such as `"EUR"`.
        cmap_type: Colour map, whose ends are taken; see `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        IndexError: There is no such row.
        ValueError: Shapes or names do not fit, or a number is not finite.

    Example:

        analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=x_train.mean(axis=0))
        revgraph.visualize.plot_waterfall(x, analyzer.analyze(x, 0), model.predict(x), feature_names=columns)
    """
    table, found, names = _checked(x, relevance, feature_names, top)
    outputs = np.asarray(output, float)
    outputs = outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else np.atleast_1d(outputs)
    if outputs.shape != (len(table),):
        raise ValueError(
            f"output is what was explained of each row, ({len(table)},). Received shape {np.shape(output)}. Of several "
            f"outputs take the one that was explained, such as outputs[:, 3]."
        )
    if not -len(table) <= sample < len(table):
        raise IndexError(f"sample is from 0 to {len(table) - 1}. Received: {sample}.")
    row, parts, end = table[sample], found[sample], float(finite(outputs)[sample])
    order = np.argsort(-np.abs(parts), kind="stable")
    shown, rest = order[:top], order[top:]
    steps = [(f"{names[i]} = {row[i]:.3g}", parts[i]) for i in shown]
    if len(rest):
        steps.append((f"{len(rest)} others", parts[rest].sum()))
    # The largest step is on top, next to the output that it leads to.
    steps.reverse()
    sums = end - parts.sum() + np.concatenate([[0], np.cumsum([value for _, value in steps])])
    against, speaks_for = of_relevance(cmap_type)(np.array([0.1, 0.9]))
    picture = Picture(6.0, 1.1 + ROW * len(steps))
    axes = picture.subplots()
    for i, (_, value) in enumerate(steps):
        axes.barh(i, value, left=sums[i], color=speaks_for if value >= 0 else against, height=0.7)
        axes.plot([sums[i + 1]] * 2, [i - 0.35, min(i + 1.35, len(steps) - 0.65)], color="0.4", linewidth=0.8)
        place, side = (max(sums[i : i + 2]), "left") if value >= 0 else (min(sums[i : i + 2]), "right")
        axes.annotate(
            f"{value:+.3g}", (place, i), xytext=(3 if side == "left" else -3, 0), textcoords="offset points",
            ha=side, va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(sums[0], color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(steps)), [name for name, _ in steps], fontsize=9)
    axes.set_ylim(-0.7, len(steps) - 0.3)
    # Bars have no margin of their own, and numbers stand beside them.
    room = 0.15 * (np.ptp(sums) or 1.0)
    axes.set_xlim(sums.min() - room, sums.max() + room)
    unit = f" {unit}" if unit else ""
    axes.set_xlabel(f"from {sums[0]:.4g}{unit} without relevance to the output {end:.4g}{unit}", fontsize=9)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    _bare(axes)
    return picture


def plot_beeswarm(
    x: ArrayLike,
    relevance: ArrayLike,
    *,
    feature_names: Sequence[str] | None = None,
    top: int = 12,
    title: str | None = None,
    values_cmap: str = VALUES,
) -> Picture:
    """Draws the relevance of the features of many rows: a point for each row, in the colour of the feature's value.

    Features are in the order of their mean absolute relevance, which stands beside their names.

    Args:
        x: The table (batch, features).
        relevance: Its relevance (batch, features).
        feature_names: Names of the features.
        top: How many features are drawn.
        title: A title.
        values_cmap: A map of matplotlib for values. Its ends are the 5th and the 95th percentile of the feature.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        ValueError: Shapes or names do not fit, or a number is not finite.

    Example:

        revgraph.visualize.plot_beeswarm(x, analyzer.analyze(x, 0), feature_names=columns)
    """
    table, found, names = _checked(x, relevance, feature_names, top)
    means = np.abs(found).mean(axis=0)
    order = np.argsort(-means, kind="stable")[:top]
    picture = Picture(6.4, 1.1 + ROW * len(order))
    axes = picture.subplots()
    span = np.ptp(found[:, order]) or 1.0
    for row, i in enumerate(order):
        low, high = np.percentile(table[:, i], [5, 95])
        colours = np.clip((table[:, i] - low) / (high - low), 0, 1) if high > low else np.full(len(table), 0.5)
        heights = row + _swarm(found[:, i] / span)
        axes.scatter(found[:, i], heights, c=colours, cmap=values_cmap, vmin=0, vmax=1, s=9, linewidth=0)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(order)), [f"{names[i]} ({means[i]:.2g})" for i in order], fontsize=9)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("relevance", fontsize=9)
    bar = picture.colorbar(ScalarMappable(Normalize(0, 1), values_cmap), ax=axes, aspect=30, pad=0.02)
    bar.set_ticks([0, 1], labels=["low", "high"])
    bar.set_label("value of the feature", fontsize=9, labelpad=-12)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    _bare(axes)
    return picture


def _checked(
    x: ArrayLike, relevance: ArrayLike, feature_names: Sequence[str] | None, top: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The table, its relevance and the names of its features."""
    check_count("top", top)
    table, found = np.asarray(x), np.asarray(relevance)
    if table.ndim != 2 or found.shape != table.shape or not table.size:
        raise ValueError(
            f"A table and its relevance have the shape (batch, features). Received shapes {table.shape} and "
            f"{found.shape}. One row needs a batch axis too: x[None]."
        )
    count = table.shape[1]
    names = list(map(str, feature_names)) if feature_names is not None else [f"feature {i}" for i in range(count)]
    if len(names) != count:
        raise ValueError(f"There are {len(names)} feature names for {count} features: pass one for each.")
    return finite(table), finite(found).astype(float), names


def _swarm(values, bins=60, height=0.35):
    """How far points are moved to the sides, so that those of similar value do not hide each other."""
    places = np.round(values * bins)
    offsets = np.zeros(len(values))
    crowd = max(np.unique(places, return_counts=True)[1])
    for place in np.unique(places):
        there = np.flatnonzero(places == place)
        # In turns above and below the line.
        ranks = np.ceil(np.arange(len(there)) / 2) * np.where(np.arange(len(there)) % 2, 1, -1)
        offsets[there] = ranks
    return offsets * height / max(1, np.ceil((crowd - 1) / 2))


def _bare(axes):
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
