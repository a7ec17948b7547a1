"""Complexity: how few units carry relevance?"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from revgraph.evaluate.explained import Explained
from revgraph.evaluate.metric import Metric

__all__ = ["Entropy", "Sparseness"]


@dataclasses.dataclass(frozen=True)
class Sparseness(Metric):
    """The Gini index of |R|: 0 where all units have the same, towards 1 where one has all. Higher is better.

        sum_k (2 k - n - 1) |R|_(k) / (n sum |R|),   |R|_(1) <= ... <= |R|_(n)

    Reference:
        Chalasani et al.: *Concise Explanations of Neural Networks using Adversarial Training.* ICML, 2020.
    """

    name: ClassVar[str] = "sparseness"

    def values(self, explained: Explained) -> Any:
        sizes = np.sort(np.abs(explained.relevance), axis=1)
        # Padding has no relevance, so it comes first and adds nothing.
        count = explained.present.sum(axis=1)
        place = np.arange(1, sizes.shape[1] + 1) - (sizes.shape[1] - count[:, None])
        weights = 2 * place - count[:, None] - 1
        with np.errstate(invalid="ignore"):
            return (sizes * weights).sum(axis=1) / (count * np.where(sizes.any(axis=1), sizes.sum(axis=1), np.nan))


@dataclasses.dataclass(frozen=True)
class Entropy(Metric):
    """The entropy of the shares of |R|, in nats: 0 where one unit has all. Lower is better.

        - sum_i p_i ln p_i,   p_i = |R_i| / sum |R|

    Reference:
        Bhatt et al.: *Evaluating and Aggregating Feature-based Model Explanations.* IJCAI, 2020.
    """

    name: ClassVar[str] = "entropy"
    higher_is_better: ClassVar[bool] = False

    def values(self, explained: Explained) -> Any:
        sizes = np.abs(explained.relevance)
        with np.errstate(invalid="ignore"):
            shares = sizes / np.where(sizes.any(axis=1), sizes.sum(axis=1), np.nan)[:, None]
        return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
