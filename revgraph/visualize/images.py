"""Images without matplotlib, after zennit's `imgify`, `gridify` and `imsave`. Needs Pillow."""

import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from revgraph.visualize.colormaps import MAPS, colormap
from revgraph.visualize.shapes import is_like_an_image

try:
    from PIL import Image
except ImportError as error:
    raise ImportError('Images need Pillow: pip install "revgraph[plot]".') from error

ZENNIT = {**MAPS, "hot": "000,f00,ff0,fff", "seismic": "0000d0,80:d0d0d0,d00000"}
"""The sources of zennit's colour maps, by their names there."""


def imgify(
    obj: ArrayLike,
    vmin: ArrayLike | None = None,
    vmax: ArrayLike | None = None,
    cmap: Any = "bwr",
    level: float = 1.0,
    symmetric: bool | None = None,
    grid: bool | tuple[int, int] = False,
    gridfill: int | None = None,
) -> Image.Image:
    """An array as an image. One channel is shown in a colour map, three are RGB.

    Args:
        obj: Array (height, width), or with 1 or 3 channels as its first or last axis. With `grid` a batch of such
            arrays. uint8 is not scaled.
        vmin, vmax: Values at the ends of the scale, numbers or one per sample; by default the smallest and the largest
            value of each sample.
        cmap: Colour map of a single channel; see `colormap`.
        level: Above 1 colours saturate earlier, below 1 later.
        symmetric: Put zero in the middle of the scale; by default True for one channel in a diverging map.
        grid: True, or (rows, columns): show a batch as a grid.
        gridfill: Value (0 to 255) of empty cells. By default they have the colour of zero on a symmetric scale, and
            otherwise that of the smallest value of the batch.

    Returns:
        A `PIL.Image.Image`; its `save("x.png")` writes it.

    Raises:
        ValueError: The array does not have such a shape, or `grid` is given and it looks like one image.

    Example:

        imgify(relevance.sum(-1), cmap="coldnhot", grid=True).save("relevance.png")
    """
    if grid:
        _check_batch(obj, "leave out grid")
    batch = channels_last(obj if grid else np.asarray(obj)[None], "an image" if not grid else "a batch of images")
    cmap = colormap(cmap, ZENNIT)
    if symmetric is None:
        symmetric = batch.shape[-1] == 1 and cmap.diverging
    if batch.dtype != np.uint8:
        gridfill = round(float(cmap.index(0.5))) if gridfill is None and symmetric else gridfill
        batch = _as_bytes(batch, vmin, vmax, symmetric, cmap if batch.shape[-1] == 1 else None)
    pixels = gridify(batch, None if isinstance(grid, bool) else grid, gridfill) if grid else batch[0]
    if pixels.shape[-1] == 3:
        return Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0]).convert("L")
    image.putpalette(cmap.palette(level).tobytes())
    return image


def gridify(obj: ArrayLike, shape: tuple[int, int] | None = None, fill_value: ArrayLike | None = None) -> np.ndarray:
    """A batch of images as one image, a grid of them.

    Args:
        obj: Array (batch, height, width), or with 1 or 3 channels as the axis after the batch or as the last.
        shape: (rows, columns); as square as possible by default. Images that do not fit are left out.
        fill_value: Value of empty cells, a number or one per channel; by default the smallest of the batch.

    Returns:
        Array (rows * height, columns * width, channels).

    Raises:
        ValueError: The array does not have such a shape, or looks like one image.
    """
    _check_batch(obj, "pass x[None]")
    batch = channels_last(obj, "a batch of images")
    count, height, width, channels = batch.shape
    columns = int(count**0.5)
    rows, columns = (-(-count // columns), columns) if shape is None else shape
    fill = batch.min(axis=(0, 1, 2)) if fill_value is None else np.asarray(fill_value).astype(batch.dtype)
    cells = np.full((rows * columns, height, width, channels), fill, batch.dtype)
    cells[: min(count, rows * columns)] = batch[: rows * columns]
    cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * height, columns * width, channels)


def imsave(
    fp: str | os.PathLike[str] | BinaryIO,
    obj: ArrayLike,
    vmin: ArrayLike | None = None,
    vmax: ArrayLike | None = None,
    cmap: Any = "bwr",
    level: float = 1.0,
    grid: bool | tuple[int, int] = False,
    format: str | None = None,
    writer_params: dict[str, Any] | None = None,
    symmetric: bool | None = None,
    gridfill: int | None = None,
) -> None:
    """Saves an array as an image; see `imgify` for the other arguments.

    Args:
        fp: Path or open file.
        format: Format of the file; by default its name says it.
        writer_params: Keywords for Pillow's `save`.
    """
    image = imgify(obj, vmin, vmax, cmap, level, symmetric, grid, gridfill)
    image.save(fp, format=format, **(writer_params or {}))


def palette(cmap: Any = "bwr", level: float = 1.0) -> np.ndarray:
    """The 256 colours of a map, (256, 3) of uint8; see `ColorMap.palette`."""
    return colormap(cmap, ZENNIT).palette(level)


def channels_last(obj: ArrayLike, what: str) -> np.ndarray:
    """A batch of images with their 1 or 3 channels as the last axis; `what` names it in the message of an error."""
    batch = np.asarray(obj)
    if batch.ndim == 3:
        batch = batch[..., None]
    if batch.ndim == 4 and batch.shape[-1] not in (1, 3) and batch.shape[1] in (1, 3):
        batch = np.moveaxis(batch, 1, -1)
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3) or not len(batch):
        raise ValueError(
            f"{what.capitalize()} has height, width, and at most one axis of 1 or 3 channels, the first or the last. "
            f"Received shape {np.shape(obj)}. Reduce the channels first, for example x.sum(-1)."
        )
    return batch


def _check_batch(obj, remedy):
    """Raises a ValueError for one image with channels, whose rows would be taken for images."""
    shape = np.shape(obj)
    if is_like_an_image(shape) and shape[-1] in (1, 3):
        raise ValueError(
            f"An array of shape {shape} looks like one image, and a batch axis is missing. For one image {remedy}; for "
            f"images {shape[1]} high and {shape[2]} wide pass x[..., None]."
        )


def _as_bytes(batch, vmin, vmax, symmetric, cmap):
    axes = (1, 2, 3)
    high = np.abs(batch).max(axis=axes, keepdims=True) if symmetric else batch.max(axis=axes, keepdims=True)
    low = -high if symmetric else batch.min(axis=axes, keepdims=True)
    low = low if vmin is None else _per_sample(vmin)
    high = high if vmax is None else _per_sample(vmax)
    span = np.where(high == low, 1, high - low)
    # An image of one value has that value in the middle of a symmetric scale, and at the lower end of another.
    values = np.where(high == low, 0.5 if symmetric else 0.0, (batch - low) / span)
    index = cmap.index(values) if cmap else np.clip(values, 0, 1) * 255
    return np.rint(index).astype(np.uint8)


def _per_sample(value):
    value = np.asarray(value)
    return value if value.ndim == 0 else value.reshape(-1, 1, 1, 1)
