"""Volumes: the slice that tells most, slices side by side, or one at a time under a slider. Needs matplotlib."""

import dataclasses
import importlib.util
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from revgraph.graph.arguments import check_count
from revgraph.reverse.pictures import Picture
from revgraph.visualize.grids import draw_bar
from revgraph.visualize.heatmaps import Reduction, reduced
from revgraph.visualize.kinds import Arranged, Colours, Images


def most_relevant(values: np.ndarray, parts: int = 1) -> np.ndarray:
    """Of each of so many parts of equal size, the slice with the largest sum of absolute relevance.

    Args:
        values: Relevance of the slices, (slices, height, width).
        parts: How many parts slices are divided into; one slice each if there are fewer.

    Returns:
        Positions of the slices in ascending order, int64 (parts,).
    """
    strength = np.abs(values).sum(axis=(1, 2))
    groups = np.array_split(np.arange(len(values)), min(parts, len(values)))
    return np.array([group[strength[group].argmax()] for group in groups])


@dataclasses.dataclass(frozen=True)
class Volumes(Images):
    """How volumes (depth, height, width, channels) are drawn: as an image of one slice.

    It is the slice with the largest mean absolute relevance over all that is shown of the volume.

    Args:
        axis: The axis along which volumes are sliced: 1, 2 or 3.
    """

    axis: int = 1
    rank: ClassVar[int] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axis(self.axis)

    def size(self, inputs: np.ndarray, columns: int = 1) -> tuple[float, float]:
        """Width and height of one slice in inches, in its proportions."""
        return super().size(np.moveaxis(inputs, self.axis, 1)[:, 0], columns)

    def values(self, relevance: np.ndarray) -> np.ndarray:
        """Relevance of the voxels, (batch, depth, height, width)."""
        return reduced(relevance, self.reduce_op, self.reduce_axis if relevance.ndim == self.rank else None)

    def arranged(self, inputs: np.ndarray, values: list[np.ndarray]) -> Arranged:
        """The slices as images, and where they are."""
        images, *every = (np.moveaxis(each, self.axis, 1) for each in (inputs, *values))
        batch, count = images.shape[:2]
        total = np.sum(np.abs(every), axis=0)
        chosen = np.array([most_relevant(each)[0] for each in total])
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(Images)}
        rows = np.arange(batch)
        notes = [f"slice {i} of 0 to {count - 1}" for i in chosen]
        return Arranged(Images(**options), images[rows, chosen], [each[rows, chosen] for each in every], notes)


def check_axis(axis: int) -> None:
    """Refuses an axis along which volumes have no slices."""
    if axis not in (1, 2, 3):
        raise ValueError(f"Volumes are sliced along axis 1, 2 or 3. Received axis {axis!r}.")


def plot_volume(
    x: ArrayLike,
    relevance: ArrayLike,
    axis: int = 1,
    *,
    slices: int = 8,
    choose: str = "even",
    slider: bool | None = None,
    reduce_op: str | Reduction = "sum",
    overlay: float = 0.9,
    **options: Any,
) -> Any:
    """Draws slices of volumes, and the slices with their relevance laid over them.

    Args:
        x: Volumes (batch, depth, height, width, channels).
        relevance: Their relevance, of the same shape; the channel axis may be missing.
        axis: The axis along which volumes are sliced: 1, 2 or 3.
        slices: How many slices of each volume are drawn.
        choose: Which slices. `"even"`: at equal distances, the same of all volumes. `"relevant"`: of each of as many
            equal parts of a volume, the slice with the largest mean absolute relevance. The slice with the largest of
            all is named beside each volume.
        slider: Show one slice under a slider in place of the grid. By default True in a notebook where ipywidgets is
            installed.
        reduce_op: How channels become one number; see `heatmap`.
        overlay: Opacity of the strongest relevance over the image.
        **options: `cmap_type`, `absmax`, `percentile`, `gamma` of `heatmap`. Each volume has a scale of its own.

    Returns:
        A `Picture`, a matplotlib figure; the widget if there is a slider.

    Raises:
        ValueError: Shapes do not fit, or an option is illegal.

    Example:

        revgraph.visualize.plot_volume(scan, analyzer.analyze(scan), axis=3)
    """
    x, relevance = np.asarray(x), np.asarray(relevance)
    if x.ndim != 5 or relevance.shape not in (x.shape, x.shape[:-1]):
        raise ValueError(
            f"Volumes have shape (batch, depth, height, width, channels), and their relevance the same. Received "
            f"{x.shape} and {relevance.shape}. One volume needs a batch axis too, x[None]."
        )
    check_axis(axis)
    check_count("slices", slices)
    if choose not in ("even", "relevant"):
        raise ValueError(f'choose is "even" or "relevant". Received: {choose!r}.')
    kind, colours = Images(overlay=overlay), Colours(**options)
    images = np.moveaxis(kind.inputs(x), axis, 1)
    values = np.moveaxis(reduced(relevance, reduce_op, -1 if relevance.ndim == 5 else None), axis, 1)
    if in_notebook() if slider is None else slider:
        return _with_slider(kind, colours, images, values)
    size = images.shape[1]
    even = np.unique(np.linspace(0, size - 1, min(slices, size)).round().astype(int))
    chosen = [even if choose == "even" else most_relevant(each, slices) for each in values]
    return _slices(kind, colours, images, values, chosen)


def in_notebook() -> bool:
    """Whether sliders can be shown: ipywidgets is installed and an IPython kernel is running."""
    if importlib.util.find_spec("ipywidgets") is None or importlib.util.find_spec("IPython") is None:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _slices(kind, colours, images, values, chosen):
    """Two rows per volume, the slices and their relevance; one column per slice. Each volume has its own slices."""
    columns = len(chosen[0])
    limits = colours.limits(values)
    width, height = (0.8 * side for side in kind.size(images[0]))
    picture = Picture(width * columns + 1.0, 2 * height * len(images) + 0.3)
    grid = picture.subplots(2 * len(images), columns, squeeze=False)
    for volume, limit in enumerate(limits):
        scale = colours.scale(limit, bool(np.all(values >= 0)))
        rows = grid[2 * volume : 2 * volume + 2]
        for what, row in zip(("input", "overlay"), rows, strict=True):
            for axes, i in zip(row, chosen[volume], strict=True):
                kind.draw(axes, what, images[volume, i], values[volume, i], scale)
        draw_bar(picture, scale, rows, bool(np.all(values >= 0)))
        if volume == 0 or np.any(chosen[volume] != chosen[0]):
            for axes, i in zip(rows[0], chosen[volume], strict=True):
                axes.set_title(f"slice {i}", fontsize=8)
        if images.shape[1] > 1:
            rows[1, 0].set_ylabel(f"most in slice {most_relevant(values[volume])[0]}", fontsize=8)
    return picture


def _with_slider(kind, colours, images, values):
    import ipywidgets  # type: ignore[import-not-found]  # it is optional
    from IPython.display import display

    def show(position):
        display(_slices(kind, colours, images, values, [[position]] * len(images)))

    last = images.shape[1] - 1
    slider = ipywidgets.IntSlider(last // 2, 0, last, description="slice", continuous_update=False)
    return ipywidgets.interactive(show, position=slider)
