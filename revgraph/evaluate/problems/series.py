"""Problems of series of numbers."""

import functools

import numpy as np

from revgraph.evaluate.problems import models
from revgraph.evaluate.problems.problem import Problem
from revgraph.graph.arguments import check_count, check_seed


def addition(samples: int, length: int = 8, shortest: int | None = None, seed: int | None = 0) -> Problem:
    """Series of numbers. Two of them are marked, and the task is to add these.  [Hochreiter and Schmidhuber, 1997]

        number   0.3  -0.5   0.9   0.1  -0.2   0.4
        mark       0     1     0     0     1     0        ->    -0.5 - 0.2 = -0.7

    Each marked number contributes itself, and all others contribute nothing. Relevance that is right is thus known step
    by step, and not only where it should be.  [Arras et al., 2019]

    Args:
        samples: How many series.
        length: Steps of each series.
        shortest: Steps of the shortest series. Where it is given, series have between so many and `length` steps, and
            are padded with zeros behind them. By default all have the same length.
        seed: Seed of the series. Another seed gives other series, for testing.

    Returns:
        A `Problem`: x are the numbers, between -1 and 1, and their marks, (samples, length, 2), float32; y the sums.

    Raises:
        ValueError: An argument has an illegal value, or a series is too short for two numbers.

    Example:

        test = problems.addition(500, seed=1)
        relevance = analyzer.analyze(test.x).sum(axis=2)
        np.corrcoef(relevance.ravel(), test.contributions.ravel())[0, 1]

    References:
        Hochreiter and Schmidhuber: *Long Short-Term Memory.* Neural Computation 9(8), 1997.
        Arras et al.: *Evaluating Recurrent Neural Network Explanations.* BlackboxNLP, 2019.
    """
    check_count("samples", samples)
    check_count("length", length)
    shortest = length if shortest is None else shortest
    check_count("shortest", shortest)
    check_seed(seed)
    if not 2 <= shortest <= length:
        raise ValueError(
            f"The shortest series has 2 steps or more, and at most as many as the longest, {length}. Received: "
            f"{shortest!r}."
        )
    random = np.random.default_rng(seed)
    there = np.arange(length) < random.integers(shortest, length + 1, (samples, 1))
    numbers = np.where(there, random.uniform(-1, 1, there.shape), 0).astype("float32")
    # The two steps of each series with the largest random numbers are marked.
    marked = np.zeros(there.shape, bool)
    np.put_along_axis(marked, np.where(there, random.random(there.shape), -1).argsort(axis=1)[:, -2:], True, axis=1)
    contributions = np.where(marked, numbers, 0)
    x = np.stack([numbers, marked], axis=-1, dtype="float32")
    reference = functools.partial(models.adding, 2)
    y = contributions.sum(axis=1)
    return Problem(x, y, marked, contributions=contributions, reference=reference, epochs=10)


def motif(samples: int, length: int = 64, width: int = 8, seed: int | None = 0) -> Problem:
    """Series of noise with a short motif somewhere in them: a wave, or a ramp.

    Args:
        samples: How many series.
        length: Steps of each series.
        width: Steps of the motif.
        seed: Seed of the series. Another seed gives other series, for testing.

    Returns:
        A `Problem`: x are series (samples, length, 1), float32; y is 0 for the wave and 1 for the ramp; the steps of
        the motif are true.

    Raises:
        ValueError: An argument has an illegal value.

    Example:

        train, test = problems.motif(4000), problems.motif(200, seed=1)
    """
    check_count("samples", samples)
    check_count("length", length)
    check_count("width", width)
    check_seed(seed)
    if not 4 <= width <= length:
        raise ValueError(
            f"The motif has 4 steps or more, and at most as many as the series, {length}. Received: width={width!r}."
        )
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, samples)
    motifs = np.stack([np.sin(2 * np.pi * np.arange(width) / width), np.linspace(-1, 1, width)])
    # Both motifs have the same energy, so that their strength does not give them away.
    motifs *= 2 * np.sqrt(width / 8) / np.linalg.norm(motifs, axis=1, keepdims=True)
    begin = random.integers(0, length - width + 1, samples)
    steps = begin[:, None] + np.arange(width)
    x = random.normal(0, 0.2, (samples, length))
    np.put_along_axis(x, steps, np.take_along_axis(x, steps, axis=1) + motifs[y], axis=1)
    truth = np.zeros(x.shape, bool)
    np.put_along_axis(truth, steps, True, axis=1)
    reference = functools.partial(models.over_time, (length, 1), 2)
    return Problem(x[..., None].astype("float32"), y, truth, ("wave", "ramp"), reference=reference, epochs=8)
