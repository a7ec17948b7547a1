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
class _Localisation(Metric):
    """Compares relevance with the truth.

    Args:
        absolute: Compare |R|: what speaks against the output counts, too.
    """

    compares_with_truth: ClassVar[bool] = True
    absolute: bool = False

    def of_samples(self, explained: Explained) -> tuple[np.ndarray, np.ndarray]:
        """Relevance and truth, (samples, units) each. Padding is below everything."""
        relevance = np.abs(explained.relevance) if self.absolute else explained.relevance
        return np.where(explained.present, relevance, -np.inf), explained.truth


@dataclasses.dataclass(frozen=True)
class PointingGame(_Localisation):
    """Whether the largest relevance is at the truth. Higher is better; see `pointing_game`.

    Args:
        absolute: Compare |R|: what speaks against the output counts, too.

    Reference:
        Zhang et al.: *Top-Down Neural Attention by Excitation Backprop.* IJCV 126, 2018.
    """

    name: ClassVar[str] = "pointing_game"

    def values(self, explained: Explained) -> Any:
        return pointed(*self.of_samples(explained))


@dataclasses.dataclass(frozen=True)
class RelevanceMass(_Localisation):
    """The share of positive relevance that is at the truth: sum_(truth) R+ / sum R+. Higher is better.

    It is not defined for a sample without positive relevance.

    Args:
        absolute: Compare |R|: what speaks against the output counts, too.

    Reference:
        Arras et al.: *CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural Network Explanations.*
        Information Fusion 81, 2022.
    """

    name: ClassVar[str] = "relevance_mass"

    def values(self, explained: Explained) -> Any:
        relevance, truth = self.of_samples(explained)
        positive = np.maximum(relevance, 0)
        inside = (positive * truth).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return inside / np.where(positive.any(axis=1), positive.sum(axis=1), np.nan)


@dataclasses.dataclass(frozen=True)
class RelevanceRank(_Localisation):
    """The share of the truth among the K largest values of relevance, where K units are true. Higher is better.

    Where several units are the last of them, each counts by its share.

    Args:
        absolute: Compare |R|: what speaks against the output counts, too. The score is then the precision of XAI-TRIS.

    Reference:
        Arras et al.: *CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural Network Explanations.*
        Information Fusion 81, 2022.
    """

    name: ClassVar[str] = "relevance_rank"

    def values(self, explained: Explained) -> Any:
        relevance, truth = self.of_samples(explained)
        count = truth.sum(axis=1, keepdims=True)
        last = np.take_along_axis(np.sort(relevance, axis=1), relevance.shape[1] - count, axis=1)
        above, equal = relevance > last, relevance == last
        # Equal values share the places that are left for them.
        share = (count - above.sum(axis=1, keepdims=True)) / equal.sum(axis=1, keepdims=True)
        return (truth * (above + share * equal)).sum(axis=1) / count[:, 0]


@dataclasses.dataclass(frozen=True)
class EarthMoversDistance(Metric):
    """How far |R| has to be moved until it lies evenly on the truth. Lower is better.

    It is the mean distance of all that is moved in the cheapest way, as a share of the largest distance within a
    sample. It solves a linear program per sample, so it is for small pictures and short series.

    Reference:
        Clark, Wilming and Haufe: *XAI-TRIS: Non-linear Image Benchmarks to Quantify False Positive Post-hoc Attribution
        of Feature Importance.* Machine Learning 113, 2024.
    """

    name: ClassVar[str] = "earth_movers_distance"
    higher_is_better: ClassVar[bool] = False
    compares_with_truth: ClassVar[bool] = True

    def values(self, explained: Explained) -> Any:
        places = np.argwhere(np.ones(explained.part().shape[1:], bool))
        largest = np.linalg.norm(places.max(axis=0))
        pairs = explained.steps(list(zip(np.abs(explained.relevance), explained.truth, strict=True)))
        return np.array([_moved(size, true, places) / largest for size, true in pairs])


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
