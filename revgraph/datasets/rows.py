"""Rows of a table of Ray Data: they become batches, and what is computed of them becomes rows again."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from revgraph.datasets.engines import prepare
from revgraph.datasets.streams import Batch
from revgraph.datasets.work import Work
from revgraph.reverse.ledger import FIELDS

LABEL = "label"
"""The selection of the class in a column."""

FAILED = -1
"""The target of a sample that failed."""

Output: TypeAlias = tuple[int | None, ...]
"""The shape of an output without the batch axis; None for a free size."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """How rows become a batch, and results become rows.

    Args:
        taken: The column of each input, in the order of the inputs.
        inputs: The specification of each input, by name.
        outputs: The shape of each output, by name.
        id_column, label_column, selection: See `revgraph.datasets.ray.explain`.
        record: Whether failures are noted. By default the first one ends the run.
        origin: Where the results come from, as JSON.
    """

    taken: Sequence[str]
    inputs: Mapping[str, tf.TensorSpec]
    outputs: Mapping[str, Output]
    id_column: str
    label_column: str | None
    selection: Any
    record: bool
    origin: str

    def batch(self, rows: Mapping[str, np.ndarray]) -> Batch:
        """The samples of rows, with their positions as indices. What cannot be used is noted and left out.

        Args:
            rows: The columns by name, (rows, ...).

        Raises:
            ValueError: A row has no id.
        """
        ids = rows[self.id_column]
        if any(value is None or value != value for value in ids.tolist()):
            raise ValueError(f"The column {self.id_column!r} has rows without an id. Number them, or leave them out.")
        failures: dict[int, str] = {}
        inputs = [
            _stacked(rows[column], tuple(spec.shape[1:]), failures, f"the input {name!r}")
            for column, (name, spec) in zip(self.taken, self.inputs.items(), strict=True)
        ]
        labels = None if self.label_column is None else self._labels(rows[self.label_column], failures)
        good = np.array([i for i in range(len(ids)) if i not in failures], int)
        return Batch(
            0, len(ids), good, [part[good] for part in inputs], None if labels is None else labels[good], failures
        )

    def _labels(self, column, failures):
        found = _stacked(column, (), failures, "the label")
        counts = [shape[0] for name, shape in self._explained().items() if self._of(name) == LABEL]
        # Two classes share one unit.
        count = min((max(2, units) for units in counts if units is not None), default=np.inf)
        labels = np.zeros(len(found), int)
        for index, label in enumerate(found.tolist()):
            if isinstance(label, int | float) and 0 <= label < count and label == int(label):
                labels[index] = label
            else:
                failures.setdefault(index, f"the label {label!r} is no class, which are 0 to {count - 1}")
        return labels

    def results(
        self, ids: np.ndarray, arrays: Mapping[str, np.ndarray], failures: Mapping[int, str], labels: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """The rows of the result by column.

        Args:
            ids: The ids of the batch, (rows,).
            arrays: What `Work.finished` gave for the samples that did not fail.
            failures: The reasons why samples failed, by position.
            labels: The labels of the samples that did not fail, if there are any.
        """
        good = np.array([i for i in range(len(ids)) if i not in failures], int)

        def spread(values: np.ndarray, rest: Any, dtype: Any) -> np.ndarray:
            full = np.full((len(ids), *values.shape[1:]), rest, dtype)
            full[good] = values
            return full

        columns = {self.id_column: ids}
        for name, values in arrays.items():
            if name.startswith("attribution"):
                columns[name.replace("attribution", "relevance", 1)] = spread(values, np.nan, np.float32)
            elif name.startswith("prediction"):
                columns[name] = spread(values, np.nan, np.result_type(values.dtype, np.float32))
        for name in self._explained():
            outputs = arrays[_column("prediction", name, self.outputs)]
            targets = _targets(self._of(name), outputs, labels)
            columns[_column("target", name, self.outputs)] = spread(targets, FAILED, np.int64)
        for position, field in enumerate(FIELDS if "ledger" in arrays else ()):
            columns[f"ledger/{field}"] = spread(arrays["ledger"][:, position], np.nan, np.float64)
        if self.record:
            columns["error"] = np.array([failures.get(i, "") for i in range(len(ids))], object)
        columns["provenance"] = np.array([self.origin] * len(ids), object)
        return columns

    def names(self, ledger: bool) -> set[str]:
        """The columns that the result has beside the ids."""
        found = {_column("relevance", name, self.inputs) for name in self.inputs}
        found |= {_column(what, name, self.outputs) for what in ("prediction", "target") for name in self.outputs}
        return found | {"error", "provenance"} | ({f"ledger/{field}" for field in FIELDS} if ledger else set())

    def _of(self, output):
        """What is selected of an output."""
        return self.selection[output] if isinstance(self.selection, Mapping) else self.selection

    def _explained(self):
        """The outputs that are explained."""
        chosen = self.selection if isinstance(self.selection, Mapping) else self.outputs
        return {name: self.outputs[name] for name in chosen}


class Explainer:
    """What runs in each actor.

    Args:
        load: Makes the work.
        rows: How rows become batches.
        threads: So many threads compute.
    """

    def __init__(self, load: Callable[[], Work], rows: Rows, threads: int):
        prepare(threads)
        self.work, self.rows = load(), rows
        self._none: dict[Any, dict[str, np.ndarray]] = {}

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids, batch = rows[self.rows.id_column], self.rows.batch(rows)
        finished = self.work.finished(0, batch)
        failures = finished.record.failures
        if failures and not self.rows.record:
            index, why = min(failures.items())
            raise ValueError(f"Sample {ids[index]!r} failed: {why}")
        sizes = tuple(part.shape[1:] for part in batch.inputs)
        arrays = finished.arrays or self._of_no_samples(sizes, batch, ids, failures)
        self._none.setdefault(sizes, {name: array[:0] for name, array in arrays.items()})
        labels = None if batch.labels is None else batch.labels[np.isin(batch.index, list(failures), invert=True)]
        return self.rows.results(ids, arrays, failures, labels)

    def _of_no_samples(self, sizes, batch, ids, failures):
        """The arrays of a batch without samples that could be explained, in the shapes of others."""
        if sizes in self._none:
            return self._none[sizes]
        zeros = [np.zeros((1, *x.shape[1:]), x.dtype) for x in batch.inputs]
        labels = None if batch.labels is None else np.zeros(1, int)
        found = self.work.finished(0, Batch(0, 1, np.arange(1), zeros, labels)).arrays
        if not found:
            index, why = min(failures.items(), default=(None, "there is none"))
            raise ValueError(
                f"No sample of a batch can be explained, and neither can zeros, so the shape of the relevance is not "
                f"known. Sample {None if index is None else ids[index]!r}: {why}"
            )
        return {name: array[:0] for name, array in found.items()}


def fits(shape: Output, wanted: Output) -> bool:
    """Whether samples of a shape may be what an input takes. A number stands for an array of one."""
    return (not shape and tuple(wanted) == (1,)) or (
        len(shape) == len(wanted)
        and all(None in pair or len(set(pair)) == 1 for pair in zip(shape, wanted, strict=True))
    )


def _stacked(column, wanted, failures, what):
    """The entries of a column as one array. One that does not fit is noted, and zeros stand for it."""
    values = list(map(np.asarray, column)) if column.dtype.kind == "O" else column
    usable = [i for i, value in enumerate(values) if value.dtype.kind != "O" and fits(value.shape, wanted)]
    shape = values[usable[0]].shape if usable else tuple(size or 1 for size in wanted)
    for i, value in enumerate(values):
        if i not in failures and (i not in usable or value.shape != shape):
            takes = shape if usable and i in usable else wanted
            which = f"has the shape {value.shape}" if value.dtype.kind != "O" else f"is {column[i]!r:.80}"
            failures[i] = f"{what} {which}, and not {takes}"
    if column.dtype.kind != "O" and len(usable) == len(values):
        return column[:, None] if shape != wanted and wanted == (1,) else column
    dtype = values[usable[0]].dtype if usable else np.float32
    stacked = np.stack([v if v.dtype.kind != "O" and v.shape == shape else np.zeros(shape, dtype) for v in values])
    return stacked[:, None] if wanted == (1,) and not shape else stacked


def _targets(part, outputs, labels):
    """The positions in a flattened output, (samples, ...), that are explained; of one unit, the class."""
    flat = outputs.reshape(len(outputs), math.prod(outputs.shape[1:]))
    if part == LABEL:
        return labels
    if flat.shape[1] == 1:
        return np.full(len(flat), part != "negative", int)
    return flat.argmax(axis=1) if part is None else np.full(len(flat), part)


def _column(what, name, names):
    """The name of a column: `what` for a single part, `what/name` for several."""
    return what if len(names) == 1 else f"{what}/{name}"
