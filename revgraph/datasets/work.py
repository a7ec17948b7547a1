"""`Work`: what a run computes for each batch. It knows nothing of files, so any process can do it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.analyzers import Analyzer
from revgraph.datasets.staging import Record
from revgraph.datasets.streams import Batch, reason
from revgraph.datasets.tasks import of_samples, without_other_labels
from revgraph.graph import Graph
from revgraph.reverse.failures import RefusedInputError


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """What was computed for a batch.

    Args:
        record: The note on the batch.
        arrays: What is kept of its samples by name, (samples that did not fail, ...) each; empty if all failed.
    """

    record: Record
    arrays: dict[str, np.ndarray]


class Work:
    """What is computed for a batch. Subclasses define `_compute` and `_arrays`.

    Another process makes an equal one of the analyzer and of the other arguments, so these are plain values.

    Args:
        analyzer: The analyzer.
        selection: What to explain. An array has an entry for each sample of the dataset.
        **options: The arguments of the subclass.
    """

    def __init__(self, analyzer: Analyzer, selection: Any, **options: Any):
        self.analyzer, self.selection, self.options = analyzer, selection, options
        self.graph: Graph = analyzer.graph

    def selected(self, batch: Batch) -> Any:
        """The selection for the samples of a batch."""
        return of_samples(self.selection, batch, self.graph)

    def _selectable(self, batch: Batch) -> Batch:
        """The batch without samples of which nothing can be selected."""
        return without_other_labels(self.selection, batch, self.graph)

    def _compute(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What must be finite: relevance, and the model's outputs, arrays (batch, ...)."""
        raise NotImplementedError

    def _arrays(
        self, batch: Batch, relevance: list[np.ndarray], outputs: list[np.ndarray]
    ) -> dict[str, np.ndarray | None]:
        """The arrays to keep by name, each (batch, ...), from what `_compute` gave. None is left out."""
        raise NotImplementedError

    def finished(self, number: int, batch: Batch) -> Finished:
        """Computes a batch. Samples that fail are noted and left out.

        Args:
            number: The position of the batch in the dataset.
            batch: The batch.
        """
        usable = _finite(batch, batch.inputs, "the input")
        kept, arrays = self._explained(self._selectable(usable))
        return Finished(Record(number, batch.first, batch.count, batch.digest(), kept.failures), arrays)

    def _explained(self, batch: Batch) -> tuple[Batch, dict[str, np.ndarray]]:
        """The batch without samples that failed, and the arrays to keep."""
        if not len(batch.index):
            return batch, {}
        try:
            relevance, outputs = self._compute(batch)
        except (tf.errors.InvalidArgumentError, RefusedInputError) as error:
            return self._explained_one_by_one(batch, error)
        kept = _finite(batch, outputs, "the model's output")
        kept = _finite(kept, [r[np.isin(batch.index, kept.index)] for r in relevance], "the relevance")
        good = np.isin(batch.index, kept.index)
        if not good.any():
            return kept, {}
        arrays = self._arrays(kept, [r[good] for r in relevance], [y[good] for y in outputs])
        return kept, {name: array for name, array in arrays.items() if array is not None}

    def _explained_one_by_one(self, batch, error):
        """Explains a batch that TensorFlow refuses because of one sample, such as a word outside the vocabulary."""
        kept = batch
        for index in batch.index:
            try:
                self._compute(batch.without(batch.index != index, ""))
            except (tf.errors.InvalidArgumentError, RefusedInputError) as own:
                kept = kept.without(kept.index == index, reason(own))
        if kept is batch:
            raise error
        return self._explained(kept)


def _finite(batch: Batch, arrays: Sequence[np.ndarray], what: str) -> Batch:
    """The batch without samples for which one of the arrays, (samples, ...), has values that are not finite."""
    for array in arrays:
        if array.dtype.kind == "f":
            values = array.reshape(len(array), math.prod(array.shape[1:]))
            nan = np.isnan(values).any(axis=1)
            infinite = np.isinf(values).any(axis=1) & ~nan
            if (nan | infinite).any():
                kept = batch.without(nan, f"{what} contains NaN").without(
                    infinite[~nan], f"{what} contains infinite values"
                )
                good = ~(nan | infinite)
                return _finite(kept, [a[good] for a in arrays], what)
    return batch
