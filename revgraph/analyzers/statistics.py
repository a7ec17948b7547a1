"""What becomes of the relevance of several variants of an input: its mean, the mean of its squares, or its variance."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Statistic: TypeAlias = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Two functions: of the relevance of each variant, and of the mean of what the first gives."""


def _as_it_is(values):
    return values


STATISTICS: dict[str, Statistic] = {
    "mean": (_as_it_is, _as_it_is),
    "squared": (np.square, _as_it_is),
    "variance": (
        lambda r: np.stack([r, np.square(r)], axis=-1),
        # Rounding may leave less than nothing.
        lambda mean: np.maximum(mean[..., 1] - np.square(mean[..., 0]), 0),
    ),
}
"""What becomes of the relevance of all variants of an input: the mean, the mean of the squares, or the variance."""
