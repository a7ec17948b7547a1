"""How one sample of each kind is drawn: images, time series, tables of features. Needs matplotlib."""

import dataclasses

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import FuncNorm, ListedColormap, Normalize

from revgraph.visualize.colormaps import DEFAULT, colormap
from revgraph.visualize.heatmaps import displayable, finite, largest, powered, reduced

STEPS = 513
"""Colours of a map in matplotlib; an odd number, so that zero has its own."""


@dataclasses.dataclass(frozen=True)
class Colours:
    """How numbers become colours; see `revgraph.visualize.heatmap`."""

    cmap_type: object = DEFAULT
    absmax: object = None
    percentile: float | None = None
    gamma: float = 1.0

    def limits(self, values) -> np.ndarray:
        """The absolute value that gets the last colour, for each sample."""
        if self.absmax is not None:
            return np.broadcast_to(np.asarray(self.absmax, float), len(values))
        return largest(values, self.percentile)

    def scale(self, limit, positive=False) -> ScalarMappable:
        """Colours for values up to `limit`; from zero on where the values are positive and the map is sequential."""
        cmap = colormap(self.cmap_type)
        limit = float(limit) or 1.0
        low = 0.0 if positive and not cmap.diverging else -limit
        colours = ListedColormap(cmap(np.linspace(0, 1, STEPS)))
        if self.gamma == 1:
            return ScalarMappable(Normalize(low, limit, clip=True), colours)
        power = (lambda v: powered(np.asarray(v), self.gamma), lambda v: powered(np.asarray(v), 1 / self.gamma))
        return ScalarMappable(FuncNorm(power, low, limit, clip=True), colours)


@dataclasses.dataclass(frozen=True)
class Images:
    """Samples (height, width, channels): the heatmap, and laid over the gray image.

    Args:
        reduce_op, reduce_axis: See `revgraph.visualize.heatmap`.
        overlay: Opacity of the strongest relevance over the image.
    """

    reduce_op: object = "sum"
    reduce_axis: int = -1
    overlay: float = 0.9
    rank = 4
    columns = ("input", "relevance", "overlay")
    has_bar = True

    def size(self, inputs):
        """Width and height of one picture in inches, in the proportions of the images."""
        height, width = inputs.shape[1:3]
        return 1.7, float(np.clip(1.7 * height / width, 0.6, 3.4))

    def inputs(self, x):
        return displayable(np.moveaxis(x, self.reduce_axis, -1))

    def values(self, relevance):
        return reduced(relevance, self.reduce_op, self.reduce_axis if relevance.ndim == 4 else None)

    def draw(self, axes, what, x, values, scale):
        """Draws one column of one sample."""
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")
        if what == "relevance":
            axes.imshow(scale.to_rgba(values), interpolation="nearest")
        elif what == "input":
            axes.imshow(x, interpolation="nearest")
        else:
            axes.imshow(np.repeat(0.35 + 0.6 * x.mean(-1, keepdims=True), 3, axis=-1), interpolation="nearest")
            colours = scale.to_rgba(values)
            magnitude = np.abs(2 * scale.norm(values) - 1) if scale.norm.vmin < 0 else scale.norm(values)
            colours[..., 3] = self.overlay * np.sqrt(np.clip(magnitude, 0, 1))
            axes.imshow(colours, interpolation="nearest")


@dataclasses.dataclass(frozen=True)
class Series:
    """Samples (time, channels): each channel as a line in the colours of its relevance.

    Args:
        channel_names: Names of the channels.
    """

    channel_names: object = None
    rank = 3
    columns = ("relevance",)
    has_bar = True

    def size(self, inputs):
        """Width and height of one sample in inches."""
        return 6.0, 1.6

    def inputs(self, x):
        return finite(x)

    def values(self, relevance):
        return finite(relevance)

    def draw(self, axes, what, x, values, scale):
        """Draws one sample; channels one above the other, each in a lane of height 1."""
        time, channels = x.shape
        values = np.broadcast_to(values.reshape(time, -1), x.shape)
        low, high = x.min(axis=0), x.max(axis=0)
        lanes = np.arange(channels)[::-1]
        heights = lanes + 0.8 * (x - low) / np.where(high > low, high - low, 1) + 0.1 + 0.4 * (high == low)
        for channel in range(channels):
            points = np.stack([np.arange(time), heights[:, channel]], axis=1)
            if what == "relevance":
                # Each step has its own colour from half a step before it to half a step behind.
                middles = (points[1:] + points[:-1]) / 2
                starts, ends = np.concatenate([points[:1], middles]), np.concatenate([middles, points[-1:]])
                segments = np.stack([starts, points, ends], axis=1)
                colours = scale.to_rgba(values[:, channel])
                axes.add_collection(LineCollection(segments, colors=colours, linewidths=5, capstyle="round"))
            axes.plot(points[:, 0], points[:, 1], color="0.25", linewidth=0.7)
        axes.set(xlim=(0, time - 1), ylim=(0, channels), yticks=lanes + 0.5)
        names = self.channel_names or ([""] if channels == 1 else range(channels))
        axes.set_yticklabels(list(names), fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)


@dataclasses.dataclass(frozen=True)
class Features:
    """Samples (features,): signed bars, those of largest absolute relevance on top.

    Args:
        feature_names: Names of the features.
        top: How many to draw.
    """

    feature_names: object = None
    top: int = 12
    rank = 2
    columns = ("relevance",)
    has_bar = False

    def size(self, inputs):
        """Width and height of one sample in inches, in proportion to the number of bars."""
        return 3.4, 0.6 + 0.15 * min(self.top, inputs.shape[1])

    def inputs(self, x):
        return finite(x)

    def values(self, relevance):
        return finite(relevance)

    def draw(self, axes, what, x, values, scale):
        """Draws one sample."""
        order = np.argsort(-np.abs(values), kind="stable")[: self.top]
        names = self.feature_names if self.feature_names is not None else [f"feature {i}" for i in range(len(values))]
        shown = x if what == "input" else values
        rows = np.arange(len(order))
        colours = "0.6" if what == "input" else scale.to_rgba(values[order])
        axes.barh(rows, shown[order], color=colours, edgecolor="0.4", linewidth=0.5, height=0.75)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set(yticks=rows, ylim=(len(order) - 0.4, -0.6))
        axes.set_yticklabels([f"{names[i]} = {x[i]:.3g}" for i in order], fontsize=8)
        if what == "relevance":
            axes.set_xlim(-1.05 * scale.norm.vmax if np.any(values < 0) else 0, 1.05 * scale.norm.vmax)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)


KINDS = {"images": Images, "series": Series, "features": Features}
"""How samples are drawn, by the name of what they are."""
