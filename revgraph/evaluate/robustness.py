"""Robustness: do explanations stay the same where the samples nearly do?"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from revgraph.evaluate.explained import Explained
from revgraph.evaluate.metric import Metric
from revgraph.graph.arguments import check_count, check_number, check_seed

__all__ = ["LocalLipschitz", "MaxSensitivity"]


@dataclasses.dataclass(frozen=True)
class _Neighbours(Metric):
    """Explains samples with noise. The class that is explained stays.

    Args:
        radius: The largest noise, as a share of the range of x. Noise is uniform. Ids stay as they are.
        draws: How many noisy samples are explained for each sample.
        seed: Seed of the noise.
    """

    radius: float = 0.02
    draws: int = 10
    seed: int = 0
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("radius", self.radius, above=0)
        check_count("draws", self.draws)
        check_seed(self.seed)

    def values(self, explained: Explained) -> Any:
        if not any(map(_has_neighbours, explained.parts)):
            names = ", ".join(repr(part.name) for part in explained.parts)
            raise ValueError(f"{self.name!r} adds noise to numbers, and {names} has none: ids have no neighbours.")
        random, ratios, own = np.random.default_rng(self.seed), [], _joined(explained.explain())
        for _ in explained.steps(list(range(self.draws))):
            noisy = [self._noisy(part, random) for part in explained.parts]
            noise = _joined([x - part.x for x, part in zip(noisy, explained.parts, strict=True)])
            ratios.append(self.ratio(_joined(explained.explain(noisy)) - own, own, noise))
        return np.max(ratios, axis=0)

    def _noisy(self, part, random):
        if not _has_neighbours(part):
            return part.x
        radius = self.radius * float(np.ptp(part.x))
        return (part.x + random.uniform(-radius, radius, part.x.shape)).astype(part.x.dtype)

    def ratio(self, change: np.ndarray, own: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The change of relevance, compared with something: of arrays (samples, entries), (samples,)."""
        raise NotImplementedError


def _has_neighbours(part):
    return part.x.dtype.kind == "f" and not part.ids


def _joined(arrays):
    """The entries of several arrays, (samples, entries)."""
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _norm(values):
    return np.linalg.norm(values, axis=1)


@dataclasses.dataclass(frozen=True)
class MaxSensitivity(_Neighbours):
    """The largest change of relevance in a neighbourhood: max |R(x') - R(x)| / |R(x)|. Lower is better.

    Args:
        radius: The largest noise, as a share of the range of x. Noise is uniform. Ids stay as they are.
        draws: How many noisy samples are explained for each sample.
        seed: Seed of the noise.

    Reference:
        Yeh et al.: *On the (In)fidelity and Sensitivity of Explanations.* NeurIPS, 2019.
    """

    name: ClassVar[str] = "max_sensitivity"

    def ratio(self, change: np.ndarray, own: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return _norm(change) / np.where(_norm(own) > 0, _norm(own), np.nan)


@dataclasses.dataclass(frozen=True)
class LocalLipschitz(_Neighbours):
    """The largest slope of relevance in a neighbourhood: max |R(x') - R(x)| / |x' - x|. Lower is better.

    It has a unit. So analyzers are compared only if their relevance is in the same unit, such as that of the output.

    Args:
        radius, draws, seed: See `MaxSensitivity`.

    Reference:
        Alvarez-Melis and Jaakkola: *On the Robustness of Interpretability Methods.* WHI at ICML, 2018.
    """

    name: ClassVar[str] = "local_lipschitz"

    def ratio(self, change: np.ndarray, own: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return _norm(change) / _norm(noise)
