"""Volumes: slices side by side, or one at a time under a slider. Needs matplotlib."""

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from revgraph.reverse.pictures import Picture
from revgraph.visualize.grids import draw_bar
from revgraph.visualize.heatmaps import Reduction, reduced
from revgraph.visualize.kinds import Colours, Images


def plot_volume(
    x: ArrayLike,
    relevance: ArrayLike,
    axis: int = 1,
    *,
    slices: int = 8,
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
        slider: Show one slice under a slider in place of the grid. By default True in a notebook where ipywidgets is
            installed.
        reduce_op: How channels become one number; see `heatmap`.
        overlay: Opacity of the strongest relevance over the image.
        **options: `cmap_type`, `absmax`, `percentile`, `gamma` of `heatmap`. Each volume has a scale of its own.

    Returns:
        A `Picture`, a matplotlib figure; the widget if there is a slider.

    Raises:
        ValueError: Shapes do not fit, or there is no such axis.

    Example:

        revgraph.visualize.plot_volume(scan, analyzer.analyze(scan), axis=3)
    """
    x, relevance = np.asarray(x), np.asarray(relevance)
    if x.ndim != 5 or relevance.shape not in (x.shape, x.shape[:-1]):
        raise ValueError(
            f"Volumes have shape (batch, depth, height, width, channels), and their relevance the same. Received "
            f"{x.shape} and {relevance.shape}. One volume needs a batch axis too, x[None]."
        )
    if axis not in (1, 2, 3):
        raise ValueError(f"Volumes are sliced along axis 1, 2 or 3. Received axis {axis!r}.")
    kind, colours = Images(overlay=overlay), Colours(**options)
    images = np.moveaxis(kind.inputs(x), axis, 1)
    values = np.moveaxis(reduced(relevance, reduce_op, -1 if relevance.ndim == 5 else None), axis, 1)
    if in_notebook() if slider is None else slider:
        return _with_slider(kind, colours, images, values)
    size = images.shape[1]
    chosen = np.unique(np.linspace(0, size - 1, min(slices, size)).round().astype(int))
    return _slices(kind, colours, images, values, chosen)


def in_notebook() -> bool:
    """Whether sliders can be shown: ipywidgets is installed and an IPython kernel is running."""
    if importlib.util.find_spec("ipywidgets") is None or importlib.util.find_spec("IPython") is None:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _slices(kind, colours, images, values, chosen):
    """Two rows per volume, the slices and their relevance; one column per slice."""
    limits = colours.limits(values)
    width, height = (0.8 * side for side in kind.size(images[0]))
    picture = Picture(width * len(chosen) + 1.0, 2 * height * len(images) + 0.3)
    grid = picture.subplots(2 * len(images), len(chosen), squeeze=False)
    for volume, limit in enumerate(limits):
        scale = colours.scale(limit, bool(np.all(values >= 0)))
        rows = grid[2 * volume : 2 * volume + 2]
        for what, row in zip(("input", "overlay"), rows, strict=True):
            for axes, i in zip(row, chosen, strict=True):
                kind.draw(axes, what, images[volume, i], values[volume, i], scale)
        draw_bar(picture, scale, rows, bool(np.all(values >= 0)))
    for axes, i in zip(grid[0], chosen, strict=True):
        axes.set_title(f"slice {i}", fontsize=8)
    return picture


def _with_slider(kind, colours, images, values):
    import ipywidgets  # type: ignore[import-not-found]  # it is optional
    from IPython.display import display

    def show(position):
        display(_slices(kind, colours, images, values, [position]))

    last = images.shape[1] - 1
    slider = ipywidgets.IntSlider(last // 2, 0, last, description="slice", continuous_update=False)
    return ipywidgets.interactive(show, position=slider)
