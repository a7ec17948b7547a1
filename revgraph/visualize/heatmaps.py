"""Relevance as colours: channels reduced, scaled with zero in the middle, and mapped. Needs nothing but NumPy.

`project`, `heatmap`, `graymap`, `gamma` and `clip_quantile` have the signatures of iNNvestigate's
`utils.visualizations`. Unlike there, no argument is changed in place, batches of any size work, and so does every axis.
"""

import numpy as np

from revgraph.visualize.colormaps import DEFAULT, colormap
from revgraph.visualize.shapes import is_like_an_image

REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "absmax": lambda x, axis: np.take_along_axis(
        x, np.expand_dims(np.argmax(np.abs(x), axis=axis), axis), axis
    ).squeeze(axis),
}
"""How the channels of a pixel become one number; `absmax` is the one of largest absolute value, with its sign."""


def reduced(X, reduce_op="sum", reduce_axis=-1) -> np.ndarray:
    """Relevance without its channel axis.

    Args:
        X: Array (batch, ..., channels).
        reduce_op: `"sum"`, `"mean"`, `"absmax"`, or a function of an array and `axis`.
        reduce_axis: The channel axis; None if there is none.
    """
    X = finite(X)
    if reduce_axis is None:
        return X
    if not callable(reduce_op) and reduce_op not in REDUCTIONS:
        raise ValueError(f"reduce_op is {', '.join(map(repr, REDUCTIONS))} or a function. Received: {reduce_op!r}.")
    return REDUCTIONS.get(reduce_op, reduce_op)(X, axis=reduce_axis)


def finite(X) -> np.ndarray:
    """Relevance as an array of floats, checked to be finite."""
    X = np.asarray(X)
    if X.dtype.kind not in "fiub":
        raise TypeError(f"Relevance is an array of numbers. Received dtype {X.dtype}.")
    X = X.astype(np.promote_types(X.dtype, np.float32))
    if not np.all(np.isfinite(X)):
        raise ValueError("The relevance has entries that are NaN or infinite; there is no colour for them.")
    return X


def largest(values, percentile=None) -> np.ndarray:
    """The largest absolute value of each sample, or that percentile of them: (batch,)."""
    magnitudes = np.abs(values).reshape(len(values), -1)
    if percentile is None:
        return magnitudes.max(axis=1)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is a number above 0 and up to 100. Received: {percentile!r}.")
    return np.percentile(magnitudes, percentile, axis=1)


def heatmap(
    X,
    cmap_type=DEFAULT,
    reduce_op="sum",
    reduce_axis=-1,
    alpha_cmap=False,
    *,
    scale="image",
    absmax=None,
    percentile=None,
    gamma=1.0,
    input_is_positive_only=None,
) -> np.ndarray:
    """Relevance as colours.

    Args:
        X: Relevance (batch, ..., channels).
        cmap_type: Colour map: a name (`"seismic"` is iNNvestigate's, `"bwr"` zennit's), a source, or a map; see
            `colormap`.
        reduce_op: What becomes of the channels: `"sum"`, `"mean"`, `"absmax"`, or a function of an array and `axis`.
        reduce_axis: The channel axis; None if there is none.
        alpha_cmap: Return RGBA.
        scale: `"image"`: the largest absolute relevance of each sample gets the colour at the end of the map;
            `"batch"`: that of all samples, so that they can be compared.
        absmax: That largest value: a number or one per sample, in place of `scale`. What lies beyond is clipped.
        percentile: Percentile of the absolute relevance to take in place of the largest, such as 99, for relevance
            with few extreme entries.
        gamma: Exponent on the absolute value; below 1 brings out what is weak.
        input_is_positive_only: Map from 0 to the largest value, in place of zero in the middle. By default that is
            so where no entry is negative and the map is not a diverging one.

    Returns:
        Array (batch, ..., 3 or 4) of float32 between 0 and 1, with the colours on the axis of the channels.

    Raises:
        ValueError: Relevance that is not finite, or an illegal option.

    Example:

        rgb = revgraph.visualize.heatmap(analyzer.analyze(x), "coldnhot", percentile=99)
    """
    if scale == "image" and absmax is None and reduce_axis == -1 and is_like_an_image(np.shape(X)):
        raise ValueError(
            f"X of shape {np.shape(X)} looks like one image, and a batch axis is missing. Pass X[None] for one image. "
            f"For a batch of time series reduce the channels first: heatmap(X.sum(-1), reduce_axis=None)."
        )
    values = reduced(X, reduce_op, reduce_axis)
    cmap = colormap(cmap_type)
    if input_is_positive_only is None:
        input_is_positive_only = not cmap.diverging and bool(np.all(values >= 0))
    if absmax is None:
        absmax = scaled(largest(values, percentile), scale)
    values = powered(project(values, (-1, 1), absmax), gamma)
    colours = cmap(np.maximum(values, 0) if input_is_positive_only else (values + 1) / 2)
    opaque = np.ones((*colours.shape[:-1], 1))
    colours = np.concatenate([colours, opaque], axis=-1)[..., : 3 + bool(alpha_cmap)]
    return np.moveaxis(colours, -1, -1 if reduce_axis is None else reduce_axis).astype(np.float32)


def scaled(largest_values, scale):
    """Largest values that samples share, or not."""
    if scale == "image":
        return largest_values
    if scale == "batch":
        return np.full_like(largest_values, largest_values.max(initial=0))
    raise ValueError(f'scale is "image" or "batch". Received: {scale!r}.')


def powered(values, exponent):
    """sgn(v) |v|^exponent."""
    if not exponent > 0:
        raise ValueError(f"gamma must be a positive number. Received: {exponent!r}.")
    return values if exponent == 1 else np.sign(values) * np.abs(values) ** exponent


def graymap(X, **kwargs) -> np.ndarray:
    """The same as `heatmap`, in shades of gray."""
    return heatmap(X, cmap_type="gray", **kwargs)


def project(X, output_range=(0, 1), absmax=None, input_is_positive_only=False) -> np.ndarray:
    """Maps values linearly to a range, with zero in the middle.

    Args:
        X: Array (batch, ...).
        output_range: (low, high).
        absmax: The value that becomes the end of the range: a number or one per sample; the largest absolute value of
            each sample by default. What lies beyond is clipped.
        input_is_positive_only: Map 0 to the lower end of the range, in place of its middle.

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


def gamma(X, gamma=0.5, minamp=0, maxamp=None) -> np.ndarray:
    """Gamma correction of signed values: brings out what is weak, and keeps order, sign and largest amplitude.

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


def clip_quantile(X, quantile=1) -> np.ndarray:
    """Clips values that are extreme.

    Args:
        X: Array of any shape.
        quantile: Percentage of values clipped at either end; or (low, high), the percentiles to clip to.

    Returns:
        Array of X's shape.
    """
    X = finite(X)
    low, high = sorted(quantile if isinstance(quantile, list | tuple) else (quantile, 100 - quantile))
    return np.clip(X, np.percentile(X, low), np.percentile(X, high))


def displayable(x) -> np.ndarray:
    """Images as RGB between 0 and 1, whatever range they were preprocessed to.

    Values from 0 to 1 are taken as they are and bytes divided by 255; others are stretched, per image. Bytes are what
    has that type, and what lies between 0 and 255 and exceeds 64.
    """
    of_bytes = np.asarray(x).dtype == np.uint8
    x = finite(x)
    low, high = x.min(initial=0), x.max(initial=0)
    if of_bytes or (low >= 0 and 64 < high <= 255):
        x = x / 255
    elif low < 0 or high > 1:
        axes = tuple(range(1, x.ndim))
        low, high = x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)
        x = (x - low) / np.where(high > low, high - low, 1)
    if x.shape[-1] != 3:
        x = np.repeat(x.mean(axis=-1, keepdims=True), 3, axis=-1)
    return x
