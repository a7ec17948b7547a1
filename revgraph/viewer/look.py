"""`Look`: how pictures of a page are drawn."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Look:
    """How relevance is drawn.

    Args:
        percentile: The percentile of absolute relevance that gets the last colour.
        threshold: Relevance below this share of the largest absolute value is not drawn.
        own_scales: Each method has a colour scale of its own. By default all share one, so that equal colours are
            equal relevance.

    Raises:
        ValueError: The percentile is not above 0 and up to 100, or the threshold not from 0 to below 1.
    """

    percentile: float = 100.0
    threshold: float = 0.0
    own_scales: bool = False

    def __post_init__(self):
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile is a number above 0 and up to 100. Received: {self.percentile!r}.")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is a share from 0 to below 1. Received: {self.threshold!r}.")

    def kept(self, values: np.ndarray) -> np.ndarray:
        """Values without those that are below the threshold."""
        return np.where(np.abs(values) >= self.threshold * np.abs(values).max(), values, 0)
