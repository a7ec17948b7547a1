"""Relevance as colours: channels are reduced, and values scaled and mapped. Needs nothing but NumPy.

`project`, `heatmap`, `graymap`, `gamma` and `clip_quantile` have the signatures of iNNvestigate's
`utils.visualizations`. Unlike there, no argument is changed in place, batches of any size work, and so does every axis.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from revgraph.visualize.colormaps import DEFAULT, of_relevance
from revgraph.visualize.shapes import is_like_an_image

Reduction: TypeAlias = Callable[..., np.ndarray]
"""A function of an array and `axis`, such as `np.sum`."""

REDUCTIONS: dict[str, Reduction] = {
    "sum": np.sum,
    "mean": np.mean,
    "absmax": lambda x, axis: np.take_along_axis(
        x, np.expand_dims(np.argmax(np.abs(x), axis=axis), axis), axis
    ).squeeze(axis),
}
"""How the channels of a pixel become one number. `absmax` takes the value of largest magnitude, with its sign."""


def reduced(X: ArrayLike, reduce_op: str | Reduction = "sum", reduce_axis: int | None = -1) -> np.ndarray:
    """Relevance without its channel axis.

    Args:
        X: Array (batch, ..., channels).
        reduce_op: `"sum"`, `"mean"`, `"absmax"`, or a function of an array and `axis`.
        reduce_axis: The channel axis; None if there is none.

    Returns:
        Array (batch, ...).

    Raises:
        ValueError: Relevance that is not finite, or there is no such reduction.
    """
    X = finite(X)
    if reduce_axis is None:
        return X
    if not callable(reduce_op) and reduce_op not in REDUCTIONS:
        raise ValueError(f"reduce_op is {', '.join(map(repr, REDUCTIONS))} or a function. Received: {reduce_op!r}.")
    return (reduce_op if callable(reduce_op) else REDUCTIONS[reduce_op])(X, axis=reduce_axis)


def finite(X: ArrayLike) -> np.ndarray:
    """Relevance as an array of floats.

    Raises:
        TypeError: It is no array of numbers.
        ValueError: It has entries that are not finite.
    """
    X = np.asarray(X)
    if X.dtype.kind not in "fiub":
        raise TypeError(f"Relevance is an array of numbers. Received dtype {X.dtype}.")
    X = X.astype(np.promote_types(X.dtype, np.float32))
    if not np.all(np.isfinite(X)):
        raise ValueError("The relevance has entries that are NaN or infinite; there is no colour for them.")
    return X


def largest(values: np.ndarray, percentile: float | None = None) -> np.ndarray:
    """The largest absolute value of each sample, or that percentile of the absolute values: (batch,)."""
    magnitudes = np.abs(values).reshape(len(values), -1)
    if percentile is None:
        return magnitudes.max(axis=1)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is a number above 0 and up to 100. Received: {percentile!r}.")
    return np.percentile(magnitudes, percentile, axis=1)


def heatmap(
    X: ArrayLike,
    cmap_type: Any = DEFAULT,
    reduce_op: str | Reduction = "sum",
    reduce_axis: int | None = -1,
    alpha_cmap: bool = False,
    *,
    scale: str = "image",
    absmax: ArrayLike | None = None,
    percentile: float | None = None,
    gamma: float = 1.0,
    input_is_positive_only: bool | None = None,
) -> np.ndarray:
    """Relevance as colours.

    Args:
        X: Relevance (batch, ..., channels).
        cmap_type: Colour map: a name (`"seismic"` is iNNvestigate's, `"bwr"` zennit's), a source, or a map; see
            `colormap`.
        reduce_op: How channels become one number: `"sum"`, `"mean"`, `"absmax"`, or a function of an array and `axis`.
        reduce_axis: The channel axis; None if there is none.
        alpha_cmap: Return RGBA in place of RGB.
        scale: `"image"`: the largest absolute relevance of each sample gets the colour at the end of the map.
            `"batch"`: the largest of all samples does, so that they can be compared.
        absmax: The value that gets the colour at the end of the map, in place of `scale`: a number or one per sample.
            Values beyond it are clipped.
        percentile: Percentile of the absolute relevance that replaces the largest value, such as 99 for relevance with
            few extreme entries.
        gamma: Exponent on the absolute value; below 1 it brings out weak relevance.
        input_is_positive_only: Map the range from 0 to the largest value onto the whole map. Otherwise zero is in its
            middle. By default True if no entry is negative and the map is not a diverging one.

    Returns:
        Array (batch, ..., 3 or 4) of float32 between 0 and 1, with the colours on the axis of the channels.

    Raises:
        ValueError: Relevance that is not finite, an illegal option, or an array such as (8, 8, 1), which may be one
            image without a batch axis.

    Example:

        rgb = revgraph.visualize.heatmap(analyzer.analyze(x), "coldnhot", percentile=99)
    """
    if scale == "image" and absmax is None and reduce_axis == -1 and is_like_an_image(np.shape(X)):
        raise ValueError(
            f"X of shape {np.shape(X)} looks like one image, and a batch axis is missing. Pass X[None] for one image. "
            f"For a batch of time series reduce the channels first: heatmap(X.sum(-1), reduce_axis=None)."
        )
    values = reduced(X, reduce_op, reduce_axis)
    cmap = of_relevance(cmap_type)
    if input_is_positive_only is None:
        input_is_positive_only = not cmap.diverging and bool(np.all(values >= 0))
    if absmax is None:
        absmax = scaled(largest(values, percentile), scale)
    values = powered(project(values, (-1, 1), absmax), gamma)
    colours = cmap(np.maximum(values, 0) if input_is_positive_only else (values + 1) / 2)
    opaque = np.ones((*colours.shape[:-1], 1))
    colours = np.concatenate([colours, opaque], axis=-1)[..., : 3 + bool(alpha_cmap)]
    return np.moveaxis(colours, -1, -1 if reduce_axis is None else reduce_axis).astype(np.float32)


def scaled(largest_values: np.ndarray, scale: str) -> np.ndarray:
    """The largest value of each sample, (batch,). For the scale `"batch"` each is the largest of all samples."""
    if scale == "image":
        return largest_values
    if scale == "batch":
        return np.full_like(largest_values, largest_values.max(initial=0))
    raise ValueError(f'scale is "image" or "batch". Received: {scale!r}.')


def powered(values: np.ndarray, exponent: float) -> np.ndarray:
    """The signed power sgn(v) |v|^exponent of each value v."""
    if not exponent > 0:
        raise ValueError(f"gamma must be a positive number. Received: {exponent!r}.")
    return values if exponent == 1 else np.sign(values) * np.abs(values) ** exponent


def graymap(X: ArrayLike, **kwargs: Any) -> np.ndarray:
    """Relevance in shades of gray; the arguments are those of `heatmap`."""
    return heatmap(X, cmap_type="gray", **kwargs)


def project(
    X: ArrayLike,
    output_range: tuple[float, float] = (0, 1),
    absmax: ArrayLike | None = None,
    input_is_positive_only: bool = False,
) -> np.ndarray:
    """Maps values linearly to a range, with zero in the middle.

    Args:
        X: Array (batch, ...).
        output_range: (low, high).
        absmax: The value that becomes the end of the range: a number or one per sample. It is the largest absolute
            value of each sample by default. Values beyond it are clipped.
        input_is_positive_only: Map 0 to the lower end of the range, not to its middle.

    Returns:
        Array of X's shape.
    """
    X = finite(X)
    absmax = largest(X) if absmax is None else np.asarray(absmax, X.dtype)
    if absmax.ndim and absmax.shape[:1] == X.shape[:1]:
        absmax = absmax.reshape(absmax.shape + (1,) * (X.ndim - absmax.ndim))
    X = np.divide(X, absmax, out=np.zeros_like(X), where=np.broadcast_to(absmax != 0, X.shape))
    low, high = output_range
    return low + (np.clip(X, 0, 1) if input_is_positive_only else (np.clip(X, -1, 1) + 1) / 2) * (high - low)


def gamma(X: ArrayLike, gamma: float = 0.5, minamp: float = 0, maxamp: float | None = None) -> np.ndarray:
    """Gamma correction of signed values. It brings out weak ones, and keeps order, sign and largest amplitude.

    Args:
        X: Array of any shape.
        gamma: Exponent on the amplitude.
        minamp: The neutral value, from which amplitudes are measured.
        maxamp: The largest amplitude; that of X by default.

    Returns:
        Array of X's shape.
    """
    X = finite(X) - minamp
    maxamp = np.abs(X).max(initial=0) if maxamp is None else maxamp
    return minamp + (maxamp * powered(X / maxamp, gamma) if maxamp else X)


def clip_quantile(X: ArrayLike, quantile: float | tuple[float, float] | list[float] = 1) -> np.ndarray:
    """Clips extreme values.

    Args:
        X: Array of any shape.
        quantile: Percentage of values clipped at either end; or (low, high), the percentiles to clip to.

    Returns:
        Array of X's shape.
    """
    X = finite(X)
    low, high = sorted(quantile if isinstance(quantile, list | tuple) else (quantile, 100 - quantile))
    return np.clip(X, np.percentile(X, low), np.percentile(X, high))


def displayable(x: ArrayLike) -> np.ndarray:
    """Images as RGB between 0 and 1, whatever range they were preprocessed to.

    Values from 0 to 1 stay as they are. Bytes are divided by 255: arrays of that type, and arrays between 0 and 255
    with a value above 64. All others are stretched, each image from its smallest value to its largest.

    Args:
        x: Images (batch, height, width, channels).

    Returns:
        Array (batch, height, width, 3).
    """
    of_bytes = np.asarray(x).dtype == np.uint8
    images = finite(x)
    low, high = images.min(initial=0), images.max(initial=0)
    if of_bytes or (low >= 0 and 64 < high <= 255):
        images = images / 255
    elif low < 0 or high > 1:
        axes = tuple(range(1, images.ndim))
        low, high = images.min(axis=axes, keepdims=True), images.max(axis=axes, keepdims=True)
        images = (images - low) / np.where(high > low, high - low, 1)
    if images.shape[-1] != 3:
        images = np.repeat(images.mean(axis=-1, keepdims=True), 3, axis=-1)
    return images
