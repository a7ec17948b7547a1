"""Pictures of one explained sample, as PNG; needs neither matplotlib nor Pillow."""

import numpy as np
import tensorflow as tf

from revgraph.visualize import DEFAULT, heatmap
from revgraph.visualize.heatmaps import displayable, largest, reduced

OPACITY = 0.9
"""Of the strongest relevance that is laid over an image."""

SMALLEST = 200
"""Pictures of a lesser width and height are enlarged, each pixel to a square, so that one can see them."""


def pictures(x, relevance, cmap=None, percentile=None) -> dict[str, bytes]:
    """The PNG files `heatmap` and `overlay`.

    Args:
        x: The image (height, width, channels), in any range.
        relevance: Its relevance, of the same shape.
        cmap: Colour map; see `revgraph.visualize.heatmap`.
        percentile: Percentile of the absolute relevance that gets the last colour; 100 by default.
    """
    relevance = relevance[None]
    colours = heatmap(relevance, cmap or DEFAULT, percentile=percentile)[0]
    values = reduced(relevance)
    limit = largest(values, percentile)[0] or 1
    opacity = OPACITY * np.sqrt(np.clip(np.abs(values[0]) / limit, 0, 1))[..., None]
    # Gray, and neither black nor white, so that colours can be seen on it.
    gray = 0.35 + 0.6 * displayable(x[None])[0].mean(axis=-1, keepdims=True)
    return {"heatmap": _png(colours), "overlay": _png(opacity * colours + (1 - opacity) * gray)}


def _png(pixels) -> bytes:
    """A PNG file of pixels (height, width, 3) between 0 and 1."""
    times = -(-SMALLEST // max(pixels.shape[:2]))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return tf.io.encode_png(np.rint(255 * pixels).astype(np.uint8)).numpy()
