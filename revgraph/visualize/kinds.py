"""How one sample of each kind is drawn: images, time series, tables of features. Needs matplotlib."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import FuncNorm, ListedColormap, Normalize
from matplotlib.patheffects import Normal, Stroke

from revgraph.graph.arguments import check_count
from revgraph.visualize.colormaps import DEFAULT, of_relevance
from revgraph.visualize.heatmaps import Reduction, displayable, finite, largest, powered, reduced

STEPS = 513
"""Number of colours of a map in matplotlib. It is odd, so that zero has a colour of its own."""

LONG = 80
"""A series of more steps is drawn over strips. A step of a coloured curve would be narrower than the curve is wide."""


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
class Kind(abc.ABC):
    """How samples of a kind are drawn. The fields of a kind are the options that users have.

    Attributes:
        rank: How many axes a batch has.
        columns: The pictures of one sample.
        has_bar: Whether a colour bar says what colours mean. Otherwise the axis has the numbers.
    """

    rank: ClassVar[int]
    columns: ClassVar[tuple[str, ...]] = ("relevance",)
    has_bar: ClassVar[bool] = True

    @abc.abstractmethod
    def size(self, inputs: np.ndarray, columns: int = 1) -> tuple[float, float]:
        """Width and height in inches of one of so many pictures that stand side by side."""

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """The samples as `draw` takes them, checked to be finite."""
        return finite(x)

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """The relevance as `draw` takes it, checked to be finite."""
        return finite(relevance)

    def arranged(self, inputs: np.ndarray, values: list[np.ndarray]) -> "Arranged":
        """What all pictures of a figure have in common.

        Args:
            inputs: The samples, as `inputs` returns them.
            values: The relevance by each method, as `values` returns it.
        """
        return Arranged(self, inputs, values)

    @abc.abstractmethod
    def draw(self, axes: Any, what: str, x: Any, values: np.ndarray, scale: ScalarMappable) -> None:
        """Draws one sample.

        Args:
            axes: One of matplotlib's axes.
            what: Which of `columns`.
            x, values: The sample and its relevance, as `arranged` returns them. x is None where the sample is not
                known, and only its relevance is drawn.
            scale: The colours.
        """


@dataclasses.dataclass(frozen=True)
class Arranged:
    """Samples in the way in which all of them are drawn.

    Args:
        kind: Draws them.
        inputs: The samples.
        values: The relevance by each method.
        notes: What is said of each sample, or None.
    """

    kind: Kind
    inputs: np.ndarray
    values: list[np.ndarray]
    notes: list[str] | None = None

    def titled(self, titles: Sequence[str] | None) -> Sequence[str] | None:
        """Titles of the samples with the notes below them."""
        if self.notes is None:
            return titles
        above = [f"{title}\n" if str(title) else "" for title in titles or [""] * len(self.notes)]
        return [f"{title}{note}" for title, note in zip(above, self.notes, strict=False)]


@dataclasses.dataclass(frozen=True)
class Images(Kind):
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
        """Draws one sample; see `Kind.draw`."""
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
class Series(Kind):
    """How time series (time, channels) are drawn: each channel is a line in the colours of its relevance.

    A channel of more than `LONG` steps is a thin line over a strip of these colours. Where the picture has fewer pixels
    than there are steps, steps share a cell of the strip, in the colour of the strongest of them. All samples have one
    scale of time. Padding is not drawn.

    Args:
        channel_names: Names of the channels.
        lengths: How many steps of each sample to draw, one int per sample; or, where padding may be anywhere, a mask
            (batch, time), True at the steps to draw. By default all steps are drawn.
    """

    channel_names: Sequence[str] | None = None
    lengths: Any = None
    rank: ClassVar[int] = 3

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

    def arranged(self, inputs: np.ndarray, values: list[np.ndarray]) -> Arranged:
        """The series as they are."""
        channels = inputs.shape[2]
        if self.channel_names is not None and len(self.channel_names) != channels:
            received = len(self.channel_names)
            raise ValueError(f"There are {received} channel names for {channels} channels: pass one for each.")
        return super().arranged(inputs, values)

    def draw(self, axes: Any, what: str, x: Any, values: np.ndarray, scale: ScalarMappable) -> None:
        """Draws one sample, with one channel above the other; see `Kind.draw`. One that is not known is level."""
        known, time = x is not None, len(values)
        x = x if known else np.zeros((time, values.size // time))
        channels = x.shape[1]
        values = np.broadcast_to(values.reshape(time, -1), x.shape)
        steps = np.flatnonzero(~np.isnan(x[:, 0]))
        low, high = x[steps].min(axis=0), x[steps].max(axis=0)
        # Each channel has a lane of height 1.
        lanes = np.arange(channels)[::-1]
        heights = lanes + 0.8 * (x - low) / np.where(high > low, high - low, 1) + 0.1 + 0.4 * (high == low)
        curves = [np.stack([steps, heights[steps, channel]], axis=1) for channel in range(channels)]
        long = time > LONG
        if long:
            _draw_strips(axes, np.where(np.isnan(x), np.nan, values), scale)
        else:
            for points, each in zip(curves, values[steps].T, strict=True):
                axes.add_collection(_coloured(points, scale.to_rgba(each)))
        for points in curves if known or not long else []:
            (line,) = axes.plot(points[:, 0], points[:, 1], color="0.1" if long else "0.25", linewidth=0.7)
            if long:
                # A curve is seen on the darkest colours, too.
                line.set_path_effects([Stroke(linewidth=1.7, foreground="w", alpha=0.6), Normal()])
        axes.set(xlim=(-0.5, time - 0.5) if long else (0, max(time - 1, 1)), ylim=(0, channels), yticks=lanes + 0.5)
        names = self.channel_names
        if names is None:
            names = [""] if channels == 1 else [str(i) for i in range(channels)]
        axes.set_yticklabels(list(names), fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _coloured(points, colours):
    """A curve through points, in a colour for each. It reaches from half a step before it to half a step behind it."""
    middles = (points[1:] + points[:-1]) / 2
    starts, ends = np.concatenate([points[:1], middles]), np.concatenate([middles, points[-1:]])
    segments = np.stack([starts, points, ends], axis=1)
    # Round ends would lie over the colours of their neighbours. A single point is nothing but its ends.
    return LineCollection(list(segments), colors=colours, linewidths=5, capstyle="butt" if len(points) > 1 else "round")


def _draw_strips(axes, values, scale):
    """Draws a strip of colours in the lane of each channel. Values (time, channels) are NaN where nothing is drawn."""
    time, channels = values.shape
    share = -(-time // max(1, int(axes.bbox.width)))
    padded = np.pad(values, ((0, -time % share), (0, 0)), constant_values=np.nan).reshape(-1, share, channels)
    strongest = np.nan_to_num(np.abs(padded), nan=-1).argmax(axis=1, keepdims=True)
    cells = np.take_along_axis(padded, strongest, axis=1)[:, 0]
    edges = np.minimum(np.arange(len(cells) + 1) * share, time) - 0.5
    # One mesh for all, with rows between the strips that have no colour.
    rows = np.full((2 * channels - 1, len(cells)), np.nan)
    rows[::2] = cells.T[::-1]
    sides = (np.arange(channels)[:, None] + [0.04, 0.96]).ravel()
    axes.pcolormesh(edges, sides, rows, cmap=scale.cmap, norm=scale.norm, rasterized=True)


def _last(drawn):
    """How many steps it is to the last one that is drawn."""
    return int(np.flatnonzero(drawn.any(axis=0))[-1]) + 1


@dataclasses.dataclass(frozen=True)
class Features(Kind):
    """How features (features,) are drawn: as signed bars.

    All samples have the same features in the same order, that of their mean absolute relevance over all that is shown.
    What is left out is told below the bars.

    Args:
        feature_names: Names of the features.
        top: How many to draw.
    """

    feature_names: Sequence[str] | None = None
    top: int = 12
    rank: ClassVar[int] = 2
    has_bar: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("top", self.top)

    def size(self, inputs: np.ndarray, columns: int = 1) -> tuple[float, float]:
        """Width and height of one sample in inches, in proportion to the number of bars."""
        others = 0.15 if self.top < inputs.shape[1] else 0
        return 3.4 if columns == 1 else 2.4, 0.6 + 0.15 * min(self.top, inputs.shape[1]) + others

    def arranged(self, inputs: np.ndarray, values: list[np.ndarray]) -> Arranged:
        """The features in the order of their mean absolute relevance."""
        count = inputs.shape[1]
        names = list(self.feature_names) if self.feature_names is not None else [f"feature {i}" for i in range(count)]
        if len(names) != count:
            raise ValueError(f"There are {len(names)} feature names for {count} features: pass one for each.")
        order = np.argsort(-np.abs(values).mean(axis=(0, 1)), kind="stable")
        ordered = dataclasses.replace(self, feature_names=[names[i] for i in order])
        return Arranged(ordered, inputs[:, order], [relevance[:, order] for relevance in values])

    def draw(self, axes: Any, what: str, x: Any, values: np.ndarray, scale: ScalarMappable) -> None:
        """Draws one sample; see `Kind.draw`."""
        shown, others = values[: self.top], values[self.top :]
        rows = np.arange(len(shown))
        axes.barh(rows, shown, color=scale.to_rgba(shown), edgecolor="0.4", linewidth=0.5, height=0.75)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set(yticks=rows, ylim=(len(shown) - 0.4, -0.6))
        names = list(self.feature_names or [])[: self.top]
        labels = map(str, names) if x is None else [f"{n} = {v:.3g}" for n, v in zip(names, x, strict=False)]
        axes.set_yticklabels(list(labels), fontsize=8)
        if len(others):
            largest = others[np.abs(others).argmax()]
            axes.set_xlabel(f"{len(others)} others, the largest {largest:+.2g}", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)


KINDS: dict[str, type[Kind]] = {
    "images": Images,
    "series": Series,
    "features": Features,
}
"""The kinds of samples by name."""
