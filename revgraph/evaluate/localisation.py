"""Localisation: is relevance where it should be?"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from revgraph.evaluate.explained import Explained
from revgraph.evaluate.metric import Metric
from revgraph.evaluate.pointing import pointed
from revgraph.extras import needed

__all__ = ["EarthMoversDistance", "PointingGame", "RelevanceMass", "RelevanceRank"]


@dataclasses.dataclass(frozen=True)
class PointingGame(Metric):
    """Whether the largest relevance is at the truth. Higher is better; see `pointing_game`.

    Reference:
        Zhang et al.: *Top-Down Neural Attention by Excitation Backprop.* IJCV 126, 2018.
    """

    name: ClassVar[str] = "pointing_game"
    compares_with_truth: ClassVar[bool] = True

    def values(self, explained: Explained) -> Any:
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

    def values(self, explained: Explained) -> Any:
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

    def values(self, explained: Explained) -> Any:
        truth = explained.truth.reshape(len(explained.x), -1)
        order = np.argsort(-explained.relevance.reshape(truth.shape), axis=1, kind="stable")
        count = truth.sum(axis=1, keepdims=True)
        first = np.arange(truth.shape[1]) < count
        return (np.take_along_axis(truth, order, axis=1) & first).sum(axis=1) / count[:, 0]


@dataclasses.dataclass(frozen=True)
class EarthMoversDistance(Metric):
    """How far |R| has to be moved until it lies evenly on the truth. Lower is better.

    It is the mean distance of all that is moved in the cheapest way, as a share of the largest distance within a
    sample. It solves a linear program per sample, so it is for small pictures and short series.

    Reference:
        Clark, Wilming and Haufe: *XAI-TRIS: Non-linear Image Benchmarks for False Positive Post-hoc Attribution of
        Feature Importance.* Machine Learning 113, 2024.
    """

    name: ClassVar[str] = "earth_movers_distance"
    higher_is_better: ClassVar[bool] = False
    compares_with_truth: ClassVar[bool] = True

    def values(self, explained: Explained) -> Any:
        places = np.argwhere(np.ones(explained.unit_shape[1:], bool))
        largest = np.linalg.norm(places.max(axis=0))
        pairs = explained.steps(list(zip(np.abs(explained.relevance), explained.truth, strict=True)))
        return np.array([_moved(size.ravel(), true.ravel(), places) / largest for size, true in pairs])


def _moved(sizes, truth, places):
    """The mean distance of the cheapest way to move shares of sizes evenly to the truth."""
    if not sizes.any():
        return np.nan
    optimize, sparse = (needed(f"scipy.{name}", "EarthMoversDistance") for name in ("optimize", "sparse"))
    used = np.flatnonzero(sizes)
    goals = np.flatnonzero(truth)
    distances = np.linalg.norm(places[used, None] - places[goals], axis=-1)
    leave = sparse.kron(sparse.eye(len(used)), np.ones((1, len(goals))))
    arrive = sparse.kron(np.ones((1, len(used))), sparse.eye(len(goals)))
    amounts = np.concatenate([sizes[used] / sizes.sum(), np.full(len(goals), 1 / len(goals))])
    # The last equation follows from the others. Rounding would make it contradict them.
    found = optimize.linprog(
        distances.ravel(), A_eq=sparse.vstack([leave, arrive]).tocsr()[:-1], b_eq=amounts[:-1], method="highs"
    )
    return found.fun if found.success else np.nan
