"""Pictures of one explained sample, as PNG. They need neither matplotlib nor Pillow."""

from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import displayable, heatmap, largest, reduced

OPACITY = 0.9
"""The opacity of the strongest relevance over the image."""

SMALLEST = 200
"""Pictures of smaller width and height are enlarged, so that their pixels can be seen."""


def pictures(
    x: np.ndarray, relevance: np.ndarray, cmap: Any = None, percentile: float | None = None
) -> dict[str, bytes]:
    """The contents of PNG files: the `heatmap`, and the `overlay` of the heatmap and a gray copy of the image.

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
    # It is never black nor white, so that colours can be seen on it.
    gray = 0.35 + 0.6 * displayable(x[None])[0].mean(axis=-1, keepdims=True)
    return {"heatmap": _png(colours), "overlay": _png(opacity * colours + (1 - opacity) * gray)}


def _png(pixels):
    """The content of a PNG file of pixels (height, width, 3) between 0 and 1."""
    times = -(-SMALLEST // max(pixels.shape[:2]))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return tf.io.encode_png(np.rint(255 * pixels).astype(np.uint8)).numpy()
