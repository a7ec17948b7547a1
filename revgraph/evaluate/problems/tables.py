"""Problems of tables."""

import functools

import numpy as np

from revgraph.evaluate.problems import models
from revgraph.evaluate.problems.problem import Problem
from revgraph.graph.arguments import check_count, check_seed


def interactions(samples: int, columns: int = 8, seed: int | None = 0) -> Problem:
    """Tables whose answer is a sum of columns and of products of columns.

        y = 2 a - b + 2 c d

    The first four columns are a, b, c and d; the others say nothing. A column contributes its term. A product belongs
    to both of its factors in equal parts, which is their Shapley value for a reference of zeros.

    Args:
        samples: How many rows.
        columns: How many columns, at least 4.
        seed: Seed of the rows. Another seed gives other rows, for testing.

    Returns:
        A `Problem`: x are numbers between -1 and 1, (samples, columns), float32; y the values.

    Raises:
        ValueError: An argument has an illegal value.

    Example:

        test = problems.interactions(500, seed=1)
        np.corrcoef(analyzer.analyze(test.x).ravel(), test.contributions.ravel())[0, 1]

    Reference:
        Shapley: *A Value for n-Person Games.* Contributions to the Theory of Games 2, 1953.
    """
    check_count("samples", samples)
    check_count("columns", columns)
    check_seed(seed)
    if columns < 4:
        raise ValueError(f"The answer is made of four columns. Received: columns={columns!r}.")
    x = np.random.default_rng(seed).uniform(-1, 1, (samples, columns)).astype("float32")
    a, b, c, d = x[:, :4].T
    contributions = np.zeros(x.shape, "float32")
    contributions[:, :4] = np.stack([2 * a, -b, c * d, c * d], axis=1)
    truth = np.zeros(x.shape, bool)
    truth[:, :4] = True
    reference = functools.partial(models.dense, (columns,), 1)
    y = contributions.sum(axis=1)
    return Problem(x, y, truth, contributions=contributions, reference=reference, epochs=30)
