"""`pointing_game`: how often the largest relevance is where it should be."""

import numpy as np
from numpy.typing import ArrayLike


def pointing_game(relevance: ArrayLike, truth: ArrayLike) -> float:
    """The share of samples whose largest relevance is at the truth.  [Zhang et al., 2018]

    Relevance counts with its sign, so what speaks against the output is never the largest. Where several entries of a
    sample are the largest, the sample counts by the share of them that are at the truth. A map that is the same
    everywhere is thus worth as much as a guess.

    Args:
        relevance: Relevance of the inputs, of the shape of `truth`, or with more axes at its end, such as channels,
            over which it is summed.
        truth: True at the entries that decide, (samples, ...).

    Returns:
        A number between 0 and 1.

    Raises:
        ValueError: Shapes do not fit, relevance is not finite, or nothing is true in a sample.

    Example:

        problem = problems.needle(500, seed=1)
        pointing_game(analyzer.analyze(problem.x, problem.y), problem.truth)

    Reference:
        Zhang et al.: *Top-Down Neural Attention by Excitation Backprop.* IJCV 126, 2018.
    """
    scores, mask = np.asarray(relevance), np.asarray(truth)
    if mask.dtype != bool or mask.ndim < 2 or not len(mask):
        raise ValueError(
            f"truth is an array of bool, with one sample or more and an axis behind the samples. Received: "
            f"{mask.dtype}, shape {mask.shape}."
        )
    if scores.shape[: mask.ndim] != mask.shape:
        raise ValueError(
            f"relevance must have the shape of truth, {mask.shape}, or further axes behind it. Received shape "
            f"{scores.shape}."
        )
    scores = scores.reshape(*mask.shape, -1).sum(axis=-1).reshape(len(mask), -1)
    mask = mask.reshape(len(mask), -1)
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise ValueError(f"relevance must be finite. It is not in {len(broken)} samples; the first is {broken[0]}.")
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise ValueError(f"truth must name an entry of every sample. It names none in sample {empty[0]}.")
    return float(np.mean(pointed(scores, mask)))


def pointed(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The share of the largest scores of each sample that is at the truth.

    Args:
        scores: Numbers, (samples, ...).
        truth: Array of bool of the same shape.

    Returns:
        Array (samples,).
    """
    scores, truth = scores.reshape(len(scores), -1), truth.reshape(len(truth), -1)
    largest = scores == scores.max(axis=1, keepdims=True)
    return (largest & truth).sum(axis=1) / largest.sum(axis=1)
