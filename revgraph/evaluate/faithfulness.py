"""Faithfulness: does the model's output change as relevance says it should?"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from revgraph.evaluate.changing import Baseline, Regions, changer, places, regions_of
from revgraph.evaluate.explained import Explained
from revgraph.evaluate.metric import Metric
from revgraph.evaluate.statistics import correlation, mean_of_defined, rank_correlation
from revgraph.graph.arguments import check_count, check_number, check_seed

__all__ = [
    "Comprehensiveness",
    "Deletion",
    "FaithfulnessCorrelation",
    "Insertion",
    "LeaveOneOut",
    "RelevanceGain",
    "Sufficiency",
]


@dataclasses.dataclass(frozen=True)
class _Flipping(Metric):
    """Changes units step by step in the order of their relevance, and follows the output.

    Args:
        steps: Number of steps from no to all units.
        baseline: What takes the place of a unit; see `changing.changer`.
        regions: Units that are changed together; see `changing.regions_of`.
        seed: Seed of the noise of `baseline="inpaint"`.
    """

    steps: int = 20
    baseline: Baseline = "zero"
    regions: Regions = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_seed(self.seed)

    @property
    def shares(self) -> np.ndarray:
        """The share of the units that is changed at each step, from 0 to 1, (steps + 1,)."""
        return np.linspace(0, 1, self.steps + 1)

    def curve(self, explained: Explained, largest_first: bool = True, keep: bool = False) -> np.ndarray:
        """The output while units are changed.

        Args:
            explained: The samples.
            largest_first: Whether the most relevant units come first.
            keep: Whether the first units are those that stay, and all others are changed.

        Returns:
            Array (samples, steps + 1).
        """
        change = changer(explained, self.baseline, self.seed)
        when = places(explained, regions_of(explained, self.regions), largest_first)
        shares = explained.steps(list(self.shares))
        return np.stack([explained.score(change(when >= s if keep else when < s)) for s in shares], axis=1)


def _area(curve):
    """The area under each curve, whose points are as far apart as each other and one wide in all."""
    return ((curve[:, 1:] + curve[:, :-1]) / 2).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Deletion(_Flipping):
    """The area under the output while the most relevant units are taken away first. Lower is better.

    It is also known as pixel flipping and as MoRF. With `baseline="inpaint"` it is ROAD.

    Args:
        steps: Number of steps from no to all units.
        baseline: What takes the place of a unit: a number or an id, `"zero"`, `"mean"`, `"blur"`, `"inpaint"`, an
            array, or a function of the samples.
        regions: Units that are changed together: None, the size of a region, `"superpixels"`, or an array.
        seed: Seed of the noise of `"inpaint"`.

    Example:

        Deletion(steps=10, baseline="mean")(analyzer, x, y)

    References:
        Samek et al.: *Evaluating the Visualization of What a Deep Neural Network Has Learned.* TNNLS 28(11), 2017.
        Petsiuk et al.: *RISE: Randomized Input Sampling for Explanation of Black-box Models.* BMVC, 2018.
    """

    name: ClassVar[str] = "deletion"
    higher_is_better: ClassVar[bool] = False

    def values(self, explained: Explained) -> Any:
        curve = self.curve(explained)
        return _area(curve), curve, tuple(self.shares), "share of units taken away"


@dataclasses.dataclass(frozen=True)
class Insertion(_Flipping):
    """The area under the output while the most relevant units are put back first. Higher is better.

    Args:
        steps, baseline, regions, seed: See `Deletion`.

    Reference:
        Petsiuk et al.: *RISE: Randomized Input Sampling for Explanation of Black-box Models.* BMVC, 2018.
    """

    name: ClassVar[str] = "insertion"

    def values(self, explained: Explained) -> Any:
        curve = self.curve(explained, keep=True)
        return _area(curve), curve, tuple(self.shares), "share of units put back"


@dataclasses.dataclass(frozen=True)
class RelevanceGain(_Flipping):
    """The area between two curves: least relevant units first, and most relevant units first. Higher is better.

    A random order gives 0 on average, whatever takes the place of a unit. So it depends less on the baseline than
    either curve alone.

    Args:
        steps, baseline, regions, seed: See `Deletion`.

    Reference:
        Bluecher et al.: *Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks.* TMLR, 2024.
    """

    name: ClassVar[str] = "relevance_gain"

    def values(self, explained: Explained) -> Any:
        curve = self.curve(explained, largest_first=False) - self.curve(explained)
        return _area(curve), curve, tuple(self.shares), "share of units taken away"


@dataclasses.dataclass(frozen=True)
class FaithfulnessCorrelation(Metric):
    """Sensitivity-n: how sums of relevance correlate with the fall of the output.  Higher is better.

        corr over random sets S of n units of  sum_(i in S) R_i  and  f(x) - f(x without S)

    Args:
        sizes: The numbers n of units in a set, or shares of all units (floats below 1). The score is the mean over
            them; with a single n it is the faithfulness correlation.
        subsets: How many sets are drawn for each n.
        baseline: What takes the place of a unit; see `Deletion`.
        seed: Seed of the sets.

    References:
        Ancona et al.: *Towards Better Understanding of Gradient-based Attribution Methods.* ICLR, 2018.
        Bhatt et al.: *Evaluating and Aggregating Feature-based Model Explanations.* IJCAI, 2020.
    """

    name: ClassVar[str] = "faithfulness_correlation"
    sizes: tuple[int | float, ...] | int | float = (0.1, 0.3, 0.5)
    subsets: int = 50
    baseline: Baseline = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("subsets", self.subsets)
        check_seed(self.seed)

    def values(self, explained: Explained) -> Any:
        units = int(explained.present.sum(axis=1).min())
        sizes = [self._size(size, units) for size in np.atleast_1d(np.asarray(self.sizes, object))]
        random, change = np.random.default_rng(self.seed), changer(explained, self.baseline, self.seed)
        relevance = explained.relevance
        found: dict[int, tuple[list, list]] = {size: ([], []) for size in sizes}
        for size in explained.steps([size for size in sizes for _ in range(self.subsets)]):
            # The places of units in a random order in which padding comes last.
            order = (random.random(relevance.shape) + ~explained.present).argsort(axis=1).argsort(axis=1)
            chosen = order < size
            sums, falls = found[size]
            sums.append((relevance * chosen).sum(axis=1))
            falls.append(explained.scores - explained.score(change(chosen)))
        curve = np.stack([correlation(np.stack(a, axis=1), np.stack(b, axis=1)) for a, b in found.values()], axis=1)
        return mean_of_defined(curve), curve, tuple(found), "units in a set"

    def _size(self, size, units):
        check_number("sizes", size, above=0)
        size = max(1, round(size * units)) if isinstance(size, float) and size < 1 else int(size)
        if size >= units:
            raise ValueError(f"sizes are numbers of units below all {units}, or shares below 1. Received: {size!r}.")
        return size


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Metric):
    """How the order of relevance agrees with the fall of the output when one unit is taken away. Higher is better.

    It is Spearman's correlation over the units of a sample. It takes a forward pass for each unit or region.

    Args:
        baseline, regions, seed: See `Deletion`.

    Reference:
        Abnar and Zuidema: *Quantifying Attention Flow in Transformers.* ACL, 2020.
    """

    name: ClassVar[str] = "leave_one_out"
    baseline: Baseline = "zero"
    regions: Regions = None
    seed: int = 0

    def values(self, explained: Explained) -> Any:
        regions = regions_of(explained, self.regions)
        change, count = changer(explained, self.baseline, self.seed), int(regions.max()) + 1
        numbers = explained.steps(list(range(count)))
        falls = np.stack([explained.scores - explained.score(change(regions == n)) for n in numbers], axis=1)
        sums = np.stack([np.bincount(r, v, count) for r, v in zip(regions, explained.relevance, strict=True)])
        there = np.stack([np.bincount(r, p, count) > 0 for r, p in zip(regions, explained.present, strict=True)])
        return rank_correlation(sums, falls, there)


@dataclasses.dataclass(frozen=True)
class _Shares(Metric):
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5)
    baseline: Baseline = "zero"
    seed: int = 0

    def falls(self, explained: Explained, keep: bool) -> Any:
        """The fall of the output without, or with nothing but, the most relevant share of the units."""
        change = changer(explained, self.baseline, self.seed)
        when = places(explained, regions_of(explained, None))
        least = 1 / explained.present.sum(axis=1, keepdims=True)
        shares = explained.steps(list(self.shares))
        curve = np.stack([explained.score(change((when < np.maximum(s, least)) ^ keep)) for s in shares], axis=1)
        curve = explained.scores[:, None] - curve
        return curve.mean(axis=1), curve, tuple(self.shares), "share of units"


@dataclasses.dataclass(frozen=True)
class Comprehensiveness(_Shares):
    """The fall of the output without the most relevant units, a mean over several shares. Higher is better.

    Args:
        shares: The shares of the units; at least one unit is taken away.
        baseline, seed: See `Deletion`.

    Reference:
        DeYoung et al.: *ERASER: A Benchmark to Evaluate Rationalized NLP Models.* ACL, 2020.
    """

    name: ClassVar[str] = "comprehensiveness"

    def values(self, explained: Explained) -> Any:
        return self.falls(explained, keep=False)


@dataclasses.dataclass(frozen=True)
class Sufficiency(_Shares):
    """The fall of the output with nothing but the most relevant units, a mean over several shares. Lower is better.

    Args:
        shares: The shares of the units; at least one unit stays.
        baseline, seed: See `Deletion`.

    Reference:
        DeYoung et al.: *ERASER: A Benchmark to Evaluate Rationalized NLP Models.* ACL, 2020.
    """

    name: ClassVar[str] = "sufficiency"
    higher_is_better: ClassVar[bool] = False

    def values(self, explained: Explained) -> Any:
        return self.falls(explained, keep=True)
