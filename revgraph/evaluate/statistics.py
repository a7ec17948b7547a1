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


def rank_correlation(a: np.ndarray, b: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of two arrays: Pearson's correlation of the ranks.

    Args:
        a, b: Arrays (samples, n).
        there: Which entries count, (samples, n), bool.

    Returns:
        Array (samples,), NaN where a row is the same everywhere.
    """
    rows = (correlation(_ranks(x[own])[None], _ranks(y[own])[None]) for x, y, own in zip(a, b, there, strict=True))
    return np.concatenate(list(rows))


def _ranks(row):
    """The rank of each entry. Equal entries share the mean of their ranks."""
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


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
