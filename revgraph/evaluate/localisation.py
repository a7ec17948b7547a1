"""Localisation: is relevance where it should be?"""

import dataclasses
from typing import ClassVar

import numpy as np

from revgraph.evaluate.metric import Metric
from revgraph.evaluate.pointing import pointed

__all__ = ["PointingGame", "RelevanceMass", "RelevanceRank"]


@dataclasses.dataclass(frozen=True)
class PointingGame(Metric):
    """Whether the largest relevance is at the truth. Higher is better; see `pointing_game`.

    Reference:
        Zhang et al.: *Top-Down Neural Attention by Excitation Backprop.* IJCV 126, 2018.
    """

    name: ClassVar[str] = "pointing_game"
    compares_with_truth: ClassVar[bool] = True

    def values(self, explained):
        return pointed(explained.relevance, explained.truth)


@dataclasses.dataclass(frozen=True)
class RelevanceMass(Metric):
    """The share of positive relevance that is at the truth: sum_(truth) R+ / sum R+. Higher is better.

    It is not defined for a sample without positive relevance.

    Reference:
        Arras et al.: *CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural Network Explanations.*
        Information Fusion 81, 2022.
    """

    name: ClassVar[str] = "relevance_mass"
    compares_with_truth: ClassVar[bool] = True

    def values(self, explained):
        positive = np.maximum(explained.relevance, 0).reshape(len(explained.x), -1)
        inside = (positive * explained.truth.reshape(positive.shape)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return inside / np.where(positive.any(axis=1), positive.sum(axis=1), np.nan)


@dataclasses.dataclass(frozen=True)
class RelevanceRank(Metric):
    """The share of the truth among the K largest values of relevance, where K units are true. Higher is better.

    Reference:
        Arras et al.: *CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural Network Explanations.*
        Information Fusion 81, 2022.
    """

    name: ClassVar[str] = "relevance_rank"
    compares_with_truth: ClassVar[bool] = True

    def values(self, explained):
        truth = explained.truth.reshape(len(explained.x), -1)
        order = np.argsort(-explained.relevance.reshape(truth.shape), axis=1, kind="stable")
        count = truth.sum(axis=1, keepdims=True)
        first = np.arange(truth.shape[1]) < count
        return (np.take_along_axis(truth, order, axis=1) & first).sum(axis=1) / count[:, 0]
