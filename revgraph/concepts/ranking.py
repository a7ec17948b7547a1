"""`Ranking`: the samples of a dataset that say most of a channel."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Samples in the order of a value, for each channel of a layer. The largest value comes first.

    Of equal values that of the earlier sample comes first. So a ranking does not depend on the batches in which the
    samples came. Places for which there are too few samples have the sample -1.

    Args:
        samples: Indices of the samples in the dataset, int64 (n, channels).
        values: Their values, (n, channels).
        positions: The position of the largest entry of the channel, int32 (n, channels, axes). A dense layer has no
            positions: axes is 0.
    """

    samples: np.ndarray
    values: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, values: np.ndarray, positions: np.ndarray) -> "Ranking":
        """The ranking of a batch.

        Args:
            samples: (batch,).
            values: (batch, channels).
            positions: (batch, channels, axes).
        """
        return cls(np.broadcast_to(samples[:, None], values.shape), values, positions)

    def best(self, n: int) -> "Ranking":
        """The first n places, in order."""
        order = np.argsort(-self.values, axis=0, kind="stable")[:n]
        return Ranking(
            np.take_along_axis(self.samples, order, axis=0),
            np.take_along_axis(self.values, order, axis=0),
            np.take_along_axis(self.positions, order[..., None], axis=0),
        )

    @classmethod
    def joined(cls, parts: Sequence["Ranking"]) -> "Ranking":
        """The samples of several rankings, one behind the other."""
        fields = [f.name for f in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


class Best:
    """The first n places of a ranking to which samples are added.

    Sorting takes time, so samples wait until there are n of them.
    """

    def __init__(self, n: int):
        self.n = n
        self._parts: list[Ranking] = []
        self._waiting = 0

    def add(self, new: Ranking) -> None:
        """Adds samples that come behind all others in the dataset."""
        self._parts.append(new)
        self._waiting += len(new.samples)
        if self._waiting >= self.n:
            self._parts, self._waiting = [self.ranking()], 0

    def ranking(self) -> Ranking:
        """The ranking of all samples so far."""
        return Ranking.joined(self._parts).best(self.n)
