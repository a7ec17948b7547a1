"""How one sample of each kind is drawn: images, time series, tables of features. Needs matplotlib."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import FuncNorm, ListedColormap, Normalize

from revgraph.visualize.colormaps import DEFAULT, of_relevance
from revgraph.visualize.heatmaps import Reduction, displayable, finite, largest, powered, reduced

STEPS = 513
"""Number of colours of a map in matplotlib. It is odd, so that zero has a colour of its own."""


@dataclasses.dataclass(frozen=True)
class Colours:
    """How numbers become colours; see `revgraph.visualize.heatmap`."""

    cmap_type: Any = DEFAULT
    absmax: Any = None
    percentile: float | None = None
    gamma: float = 1.0

    def limits(self, values: np.ndarray) -> np.ndarray:
        """The absolute value of each sample that gets the last colour: (batch,)."""
        if self.absmax is not None:
            return np.broadcast_to(np.asarray(self.absmax, float), len(values))
        return largest(values, self.percentile)

    def scale(self, limit: float, positive: bool = False) -> ScalarMappable:
        """Colours for values from `-limit` to `limit`, or from zero for positive values in a sequential map."""
        cmap = of_relevance(self.cmap_type)
        limit = float(limit) or 1.0
        low = 0.0 if positive and not cmap.diverging else -limit
        colours = ListedColormap(cmap(np.linspace(0, 1, STEPS)))
        if self.gamma == 1:
            return ScalarMappable(Normalize(low, limit, clip=True), colours)
        power = (lambda v: powered(np.asarray(v), self.gamma), lambda v: powered(np.asarray(v), 1 / self.gamma))
        return ScalarMappable(FuncNorm(power, low, limit, clip=True), colours)


@dataclasses.dataclass(frozen=True)
class Images:
    """How images (height, width, channels) are drawn: the heatmap alone, and over the gray image.

    Args:
        reduce_op, reduce_axis: See `revgraph.visualize.heatmap`.
        overlay: Opacity of the strongest relevance over the image.
        overlay_on: What lies under it: `"gray"`, a gray copy of the image, or `"colour"`, a pale one. Both are never
            black, so that relevance can be seen on dark images, too.
    """

    reduce_op: str | Reduction = "sum"
    reduce_axis: int = -1
    overlay: float = 0.9
    overlay_on: str = "gray"
    rank: ClassVar[int] = 4
    columns: ClassVar[tuple[str, ...]] = ("input", "relevance", "overlay")
    has_bar: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.overlay_on not in ("gray", "colour"):
            raise ValueError(f'overlay_on is "gray" or "colour". Received: {self.overlay_on!r}.')

    def size(self, inputs: np.ndarray, columns: int = 1) -> tuple[float, float]:
        """Width and height of one picture in inches, in the proportions of the images."""
        height, width = inputs.shape[1:3]
        return 1.7, float(np.clip(1.7 * height / width, 0.6, 3.4))

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Images as RGB between 0 and 1, (batch, height, width, 3)."""
        return displayable(np.moveaxis(x, self.reduce_axis, -1))

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """Relevance of the pixels, (batch, height, width)."""
        return reduced(relevance, self.reduce_op, self.reduce_axis if relevance.ndim == 4 else None)

    def draw(self, axes: Any, what: str, x: Any, values: np.ndarray, scale: ScalarMappable) -> None:
        """Draws one sample.

        Args:
            axes: One of matplotlib's axes.
            what: Which of `columns`.
            x, values: The sample and its relevance, as `inputs` and `values` return them. x is None where the sample is
                not known, and only its relevance is drawn.
            scale: The colours.
        """
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")
        if what == "relevance":
            axes.imshow(scale.to_rgba(values), interpolation="nearest")
        elif what == "input":
            axes.imshow(x, interpolation="nearest")
        else:
            gray = np.repeat(x.mean(-1, keepdims=True), 3, axis=-1)
            under = gray if self.overlay_on == "gray" else (gray + x) / 2
            axes.imshow(0.35 + 0.6 * under, interpolation="nearest")
            colours = scale.to_rgba(values)
            shares = np.asarray(scale.norm(values))
            magnitude = np.abs(2 * shares - 1) if scale.norm.vmin else shares
            colours[..., 3] = self.overlay * np.sqrt(np.clip(magnitude, 0, 1))
            axes.imshow(colours, interpolation="nearest")


@dataclasses.dataclass(frozen=True)
class Series:
    """How time series (time, channels) are drawn: each channel is a line in the colours of its relevance.

    All samples have one scale of time. Padding is not drawn.

    Args:
        channel_names: Names of the channels.
        lengths: How many steps of each sample to draw, one int per sample; or, where padding may be anywhere, a mask
            (batch, time), True at the steps to draw. By default all steps are drawn.
    """

    channel_names: Sequence[str] | None = None
    lengths: Any = None
    rank: ClassVar[int] = 3
    columns: ClassVar[tuple[str, ...]] = ("relevance",)
    has_bar: ClassVar[bool] = True

    def size(self, inputs: np.ndarray, columns: int = 1) -> tuple[float, float]:
        """Width and height of one sample in inches. It is higher for more channels, and narrower in many columns."""
        channels = inputs.shape[2]
        return float(np.clip(15 / columns, 2.5, 6)), max(1.6, 0.6 + channels * float(np.clip(6 / channels, 0.2, 0.5)))

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """The series, checked to be finite, up to the last step of the longest one. Padding is NaN."""
        drawn = self._drawn(x)
        return np.where(drawn[..., None], finite(x), np.nan)[:, : _last(drawn)]

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """The relevance, checked to be finite, up to the last step of the longest series. That of padding is 0."""
        drawn = self._drawn(relevance)
        kept = drawn if relevance.ndim == 2 else drawn[..., None]
        return np.where(kept, finite(relevance), 0)[:, : _last(drawn)]

    def _drawn(self, x):
        """Which steps are drawn, (batch, time)."""
        batch, time = x.shape[:2]
        given = np.full(batch, time) if self.lengths is None else np.asarray(self.lengths)
        if given.dtype == bool and given.ndim == 2 and given.shape[1] == time and len(given) >= batch:
            drawn = given[:batch]
        elif given.dtype.kind in "iu" and given.ndim == 1 and len(given) >= batch and np.all(given <= time):
            drawn = np.arange(time) < given[:batch, None]
        else:
            raise ValueError(
                f"lengths are one int of at most {time} per sample, or a mask of bool of shape ({batch}, {time}). "
                f"Received: {given.dtype}, shape {given.shape}{f', up to {given.max()}' if given.ndim == 1 else ''}."
            )
        empty = np.flatnonzero(~drawn.any(axis=1))
        if len(empty):
            raise ValueError(f"A series has one step or more. lengths leave none of sample {empty[0]}.")
        return drawn

    def draw(self, axes: Any, what: str, x: Any, values: np.ndarray, scale: ScalarMappable) -> None:
        """Draws one sample, with one channel above the other; see `Images.draw`. One that is not known is level."""
        x = np.zeros_like(values.reshape(len(values), -1)) if x is None else x
        time, channels = x.shape
        values = np.broadcast_to(values.reshape(time, -1), x.shape)
        steps = np.flatnonzero(~np.isnan(x[:, 0]))
        x, values = x[steps], values[steps]
        low, high = x.min(axis=0), x.max(axis=0)
        # Each channel has a lane of height 1.
        lanes = np.arange(channels)[::-1]
        heights = lanes + 0.8 * (x - low) / np.where(high > low, high - low, 1) + 0.1 + 0.4 * (high == low)
        for channel in range(channels):
            points = np.stack([steps, heights[:, channel]], axis=1)
            if what == "relevance":
                # The colour of a step reaches from half a step before it to half a step behind it.
                middles = (points[1:] + points[:-1]) / 2
                starts, ends = np.concatenate([points[:1], middles]), np.concatenate([middles, points[-1:]])
                segments = np.stack([starts, points, ends], axis=1)
                colours = scale.to_rgba(values[:, channel])
                axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=5, capstyle="round"))
            axes.plot(points[:, 0], points[:, 1], color="0.25", linewidth=0.7)
        axes.set(xlim=(0, max(time - 1, 1)), ylim=(0, channels), yticks=lanes + 0.5)
        names = self.channel_names or ([""] if channels == 1 else [str(i) for i in range(channels)])
        axes.set_yticklabels(list(names), fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _last(drawn):
    """How many steps it is to the last one that is drawn."""
    return int(np.flatnonzero(drawn.any(axis=0))[-1]) + 1


@dataclasses.dataclass(frozen=True)
class Features:
    """How features (features,) are drawn: as signed bars, with the largest absolute relevance on top.

    Args:
        feature_names: Names of the features.
        top: How many to draw.
    """

    feature_names: Sequence[str] | None = None
    top: int = 12
    rank: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = ("relevance",)
    has_bar: ClassVar[bool] = False

    def size(self, inputs: np.ndarray, columns: int = 1) -> tuple[float, float]:
        """Width and height of one sample in inches, in proportion to the number of bars."""
        return 3.4, 0.6 + 0.15 * min(self.top, inputs.shape[1])

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """The features, checked to be finite."""
        return finite(x)

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """The relevance, checked to be finite."""
        return finite(relevance)

    def draw(self, axes: Any, what: str, x: Any, values: np.ndarray, scale: Any) -> None:
        """Draws one sample; see `Images.draw`."""
        order = np.argsort(-np.abs(values), kind="stable")[: self.top]
        names = self.feature_names if self.feature_names is not None else [f"feature {i}" for i in range(len(values))]
        shown = x if what == "input" else values
        rows = np.arange(len(order))
        colours = "0.6" if what == "input" else scale.to_rgba(values[order])
        axes.barh(rows, shown[order], color=colours, edgecolor="0.4", linewidth=0.5, height=0.75)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set(yticks=rows, ylim=(len(order) - 0.4, -0.6))
        labels = [str(names[i]) if x is None else f"{names[i]} = {x[i]:.3g}" for i in order]
        axes.set_yticklabels(labels, fontsize=8)
        if what == "relevance":
            axes.set_xlim(-1.05 * scale.norm.vmax if np.any(values < 0) else 0, 1.05 * scale.norm.vmax)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)


KINDS: dict[str, type[Images] | type[Series] | type[Features]] = {
    "images": Images,
    "series": Series,
    "features": Features,
}
"""The kinds of samples by name."""
