"""Statistics of the rows of arrays."""

import numpy as np


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of two arrays.

    Args:
        a, b: Arrays (samples, n).

    Returns:
        Array (samples,), NaN where a row is the same everywhere.
    """
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (a * b).sum(axis=1) / norms, np.nan)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of two arrays: Pearson's correlation of the ranks.

    Args:
        a, b: Arrays (samples, n).

    Returns:
        Array (samples,), NaN where a row is the same everywhere.
    """
    return correlation(_ranks(a), _ranks(b))


def _ranks(rows):
    """The rank of each entry in its row. Equal entries share the mean of their ranks."""
    result = np.empty(rows.shape)
    for rank, row in zip(result, rows, strict=True):
        _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        ends = counts.cumsum()
        rank[...] = (ends - (counts - 1) / 2)[inverse]
    return result


def mean_of_defined(rows: np.ndarray) -> np.ndarray:
    """The mean of each row over its entries that are numbers; NaN where there is none.

    Args:
        rows: Array (samples, n).

    Returns:
        Array (samples,).
    """
    defined = np.isfinite(rows)
    count = np.where(defined.any(axis=1), defined.sum(axis=1), np.nan)
    return np.where(defined, rows, 0).sum(axis=1) / count
