"""Datasets that are read batch by batch: arrays, `tf.data`, `keras.utils.PyDataset`, iterables, single samples."""

import dataclasses
import hashlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.inputs import flat_inputs
from revgraph.graph import Graph
from revgraph.graph.arguments import check_count
from revgraph.graph.graph import holds_strings

BATCH_SIZE = 32
"""Number of samples that are computed at once, if neither the user nor the dataset has batches."""

DATA_ERRORS = (OSError, ValueError, tf.errors.OpError)
"""Errors that come from the data. Other errors come from the code that reads them."""


class Unreadable(ValueError):
    """A sample that cannot be read; its message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Successive samples of a dataset, without those that failed.

    Args:
        first: Index of the first sample in the dataset.
        count: Number of samples, those that failed included.
        index: Indices in the dataset of the samples that did not fail, (samples,).
        inputs: The model's inputs as a flat list, (samples, ...) each.
        labels: The labels, (samples, ...); None if the dataset has none.
        failures: The reasons why samples failed, by index.
    """

    first: int
    count: int
    index: np.ndarray
    inputs: list[np.ndarray]
    labels: np.ndarray | None = None
    failures: dict[int, str] = dataclasses.field(default_factory=dict)

    def without(self, bad: np.ndarray, reason: str) -> "Batch":
        """The batch without some samples.

        Args:
            bad: bool (samples,), True for samples that failed.
            reason: Why they failed.
        """
        if not np.any(bad):
            return self
        failures = {**self.failures, **dict.fromkeys(self.index[bad].tolist(), reason)}
        labels = None if self.labels is None else self.labels[~bad]
        return Batch(self.first, self.count, self.index[~bad], [x[~bad] for x in self.inputs], labels, failures)

    def digest(self) -> str:
        """A hash of the content of the batch."""
        hashed = hashlib.blake2b(f"{self.first} {self.count} {sorted(self.failures)}".encode(), digest_size=16)
        for array in (self.index, *self.inputs, *([] if self.labels is None else [self.labels])):
            hashed.update(f"{array.dtype.name}{array.shape}".encode())
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()


class Source:
    """The batches of a dataset, for a model.

    Args:
        graph: The graph of the model.

    Attributes:
        samples: Number of samples; None if it is not known.
        length: Number of batches; None if it is not known.
        seekable: Whether `batches` can begin anywhere.
        prepare: Makes what the model takes of the inputs of a batch, as the preprocessor of a task does; None where
            samples are what the model takes.
    """

    samples: int | None = None
    length: int | None = None
    seekable: bool = False
    prepare: Callable[[Any], Any] | None = None

    def __init__(self, graph: Graph):
        self.graph = graph

    def batches(self, number: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches from one on.

        Args:
            number: The position of the first batch; 0 if the source is not seekable.
            first: The index in the dataset of its first sample.
        """
        raise NotImplementedError

    def _batch(self, first, inputs, labels=None):
        if self.prepare is not None:
            inputs = self.prepare(inputs)
        with warnings.catch_warnings():
            # Samples with values that are not finite, or ids that are in no table, are recorded as failed.
            warnings.filterwarnings("ignore", message="Input .* contains")
            inputs = [np.asarray(x) for x in flat_inputs(inputs, self.graph, ids=False)]
        count = len(inputs[0])
        return Batch(first, count, np.arange(first, first + count), inputs, _label_array(labels, first, count))


def source(dataset: Any, graph: Graph, batch_size: int | None = None, labels: Any = None) -> Source:
    """The source that reads a dataset.

    Args:
        dataset: See `revgraph.explain_dataset`.
        graph: The graph of the model.
        batch_size: Number of samples that are computed at once. By default the dataset's batches are used, and 32
            samples for a dataset without batches.
        labels: Labels of arrays, (samples, ...).

    Raises:
        TypeError: It is no dataset.
        ValueError: Labels or the batch size do not fit.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if isinstance(dataset, tuple) and len(dataset) == 2 and isinstance(dataset[0], list) and holds_strings(dataset[0]):
        dataset = (np.asarray(dataset[0]), dataset[1])
    # The entries of a list are samples where there is one input. A task takes texts, and its model several inputs.
    one_input = len(graph.input_slots) == 1 or holds_strings(dataset)
    if isinstance(dataset, list) and one_input and not _is_array(dataset[:1]):
        dataset = np.asarray(dataset)
    if isinstance(dataset, dict | list | tuple) or _is_array(dataset):
        return Arrays(dataset, graph, batch_size or BATCH_SIZE, labels)
    if labels is not None:
        raise ValueError("labels= goes with arrays. Other datasets give their labels themselves, in tuples (x, label).")
    if isinstance(dataset, Samples):
        return Grouped(dataset, graph, batch_size or BATCH_SIZE)
    if isinstance(dataset, keras.utils.PyDataset):
        return Items(dataset, graph)
    if isinstance(dataset, tf.data.Dataset):
        if not _has_batches(dataset, graph):
            return Grouped(TensorSamples(dataset), graph, batch_size or BATCH_SIZE)
        return TensorBatches(dataset.unbatch().batch(batch_size) if batch_size else dataset, graph)
    if isinstance(dataset, Iterable):
        return Batches(dataset, graph)
    raise TypeError(
        f"A dataset is an array, a structure of arrays, a tf.data.Dataset, a keras.utils.PyDataset or an iterable of "
        f"batches. Received: {type(dataset).__name__}."
    )


class Arrays(Source):
    """Arrays, memory maps and HDF5 datasets, or structures of them. They need a shape and slices of rows.

    Args:
        arrays: The structure of arrays that the model takes, or a pair of it and the labels.
        graph: The graph of the model.
        batch_size: Number of samples in a batch.
        labels: Labels, (samples, ...), or None.
    """

    seekable: bool = True

    def __init__(self, arrays: Any, graph: Graph, batch_size: int, labels: Any):
        super().__init__(graph)
        if isinstance(arrays, tuple) and len(arrays) == 2 and labels is None:
            arrays, labels = arrays
        parts = keras.tree.flatten(arrays)
        sizes = sorted({len(part) for part in (parts if labels is None else [*parts, labels])})
        if len(sizes) != 1:
            raise ValueError(f"All inputs, and labels, need the same number of samples. Received: {sizes}.")
        self.arrays, self.labels, self.batch_size = arrays, labels, batch_size
        (count,) = sizes
        self.samples: int = count
        self.length = -(-count // batch_size)

    def batches(self, number: int = 0, first: int = 0) -> Iterator[Batch]:
        for start in range(number * self.batch_size, self.samples, self.batch_size):
            rows = slice(start, start + self.batch_size)
            inputs = keras.tree.map_structure(lambda array, rows=rows: np.asarray(array[rows]), self.arrays)
            yield self._batch(start, inputs, None if self.labels is None else self.labels[rows])


class Items(Source):
    """The items of a `keras.utils.PyDataset`. An item that raises an error becomes a batch of samples that failed."""

    seekable: bool = True

    def __init__(self, dataset: Any, graph: Graph):
        super().__init__(graph)
        self.dataset = dataset
        self.length: int = len(dataset)

    def batches(self, number: int = 0, first: int = 0) -> Iterator[Batch]:
        for i in range(number, self.length):
            try:
                item = self.dataset[i]
            except DATA_ERRORS as error:
                count = self._usual_count(i, error)
                failures = dict.fromkeys(range(first, first + count), f"item {i} of the dataset: {reason(error)}")
                batch = Batch(first, count, np.arange(0), [], None, failures)
            else:
                batch = self._batch(first, *_parts(item))
            yield batch
            first += batch.count

    def _usual_count(self, failed, error):
        if hasattr(self.dataset, "batch_size"):
            return self.dataset.batch_size
        try:
            return self._batch(0, *_parts(self.dataset[0 if failed else 1])).count
        except Exception:
            raise ValueError(f"Item {failed} of the dataset could not be read: {reason(error)}") from error


class Batches(Source):
    """An iterable of batches. A run that is resumed iterates over it from the beginning."""

    def __init__(self, dataset: Iterable[Any], graph: Graph):
        super().__init__(graph)
        self.dataset = dataset

    def batches(self, number: int = 0, first: int = 0) -> Iterator[Batch]:
        for item in self.dataset:
            batch = self._batch(first, *_parts(item))
            yield batch
            first += batch.count


class TensorBatches(Batches):
    """A `tf.data.Dataset` of batches."""

    def __init__(self, dataset: tf.data.Dataset, graph: Graph):
        super().__init__(dataset, graph)
        self.length = _cardinality(dataset)

    def batches(self, number: int = 0, first: int = 0) -> Iterator[Batch]:
        try:
            yield from super().batches(number, first)
        except tf.errors.OpError as error:
            raise ValueError(
                f"A batch of the dataset cannot be read, and revgraph cannot tell which of its samples is to blame: "
                f"{reason(error)} Leave out .batch(...) and pass batch_size=: then such samples are recorded and left "
                f"out."
            ) from error


class Samples:
    """A dataset that is read sample by sample. Subclasses define `samples`.

    Attributes:
        length: Number of samples; None if it is not known.
        seekable: Whether `samples` can begin anywhere.
        class_names: Names of the classes; None if they are not known.
    """

    length: int | None = None
    seekable: bool = False
    class_names: list[str] | None = None

    def samples(self, start: int = 0) -> Iterator[tuple[Any, Any] | Unreadable]:
        """The samples from `start` on.

        Each is a pair of the input, in the structure that the model takes, and its label or None. A sample that cannot
        be read is an `Unreadable`.
        """
        raise NotImplementedError


class TensorSamples(Samples):
    """A `tf.data.Dataset` of single samples."""

    def __init__(self, dataset: tf.data.Dataset):
        self.dataset = dataset
        self.length = _cardinality(dataset)

    def samples(self, start: int = 0) -> Iterator[tuple[Any, Any] | Unreadable]:
        iterator, failed = iter(self.dataset), None
        for number in itertools.count():
            try:
                element = next(iterator)
            except StopIteration:
                if failed is not None and self.length != number:
                    # A generator ends with its first error, even if it had more samples.
                    raise ValueError(
                        f"The dataset ended with an error at sample {number - 1}, so that there may be more samples: "
                        f"{failed} If there are none, say so: dataset.apply(tf.data.experimental.assert_cardinality("
                        f"{number}))."
                    ) from failed
                return
            except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnknownError) as error:
                failed = Unreadable(reason(error))
                yield failed
            else:
                failed = None
                yield _parts(element)


class Grouped(Source):
    """Single samples, grouped into batches."""

    def __init__(self, dataset: Samples, graph: Graph, batch_size: int):
        super().__init__(graph)
        self.dataset, self.batch_size = dataset, batch_size
        self.samples, self.seekable = dataset.length, dataset.seekable
        self.length = None if self.samples is None else -(-self.samples // batch_size)

    def batches(self, number: int = 0, first: int = 0) -> Iterator[Batch]:
        samples = iter(self.dataset.samples(first))
        while group := list(itertools.islice(samples, self.batch_size)):
            yield self._grouped(first, group)
            first += len(group)

    def _grouped(self, first, group):
        failures = {first + i: str(sample) for i, sample in enumerate(group) if isinstance(sample, Unreadable)}
        read = [sample for sample in group if not isinstance(sample, Unreadable)]
        index = np.array([first + i for i in range(len(group)) if first + i not in failures], int)
        if not read:
            return Batch(first, len(group), index, [], None, failures)
        inputs = keras.tree.map_structure(lambda *arrays: _stacked(arrays, index), *(x for x, _ in read))
        labels = None if read[0][1] is None else np.stack([np.asarray(label) for _, label in read])
        batch = self._batch(first, inputs, labels)
        return Batch(first, len(group), index, batch.inputs, batch.labels, failures)


def _stacked(arrays, index):
    arrays = [np.asarray(array) for array in arrays]
    shapes = [array.shape for array in arrays]
    other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise ValueError(
            f"All samples need the same shape: sample {index[0]} has {shapes[0]} and sample {index[other]} has "
            f"{shapes[other]}."
        )
    return np.stack(arrays)


def _parts(element):
    """The inputs and labels of a batch or sample, which is the inputs alone or a tuple that begins with them."""
    if not isinstance(element, tuple):
        return element, None
    return element[0], element[1] if len(element) > 1 else None


def _label_array(labels, first, count):
    if labels is None or isinstance(labels, dict) or (isinstance(labels, list | tuple) and _is_array(list(labels))):
        # Targets of several outputs are not labels of one class.
        return None
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"Labels are numbers. Received dtype {labels.dtype}.")
    if len(labels) != count:
        raise ValueError(f"Batch from sample {first} on has {count} samples and {len(labels)} labels.")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _is_array(value):
    if isinstance(value, list):
        return bool(value) and _is_array(value[0])
    return hasattr(value, "shape") and hasattr(value, "__getitem__") and not isinstance(value, type)


def _has_batches(dataset, graph):
    spec = dataset.element_spec
    given = keras.tree.flatten(spec[0] if isinstance(spec, tuple) else spec)[0]
    slot = graph.input_slots[0]
    of_batch = len(graph.specs[slot].shape)
    if getattr(given, "dtype", None) == tf.string:
        # The graph has the numbers that are made of strings. A task makes them of one string for each sample.
        before = graph.strings.get(slot)
        of_batch = 1 if before is None else len(before.specs[before.inputs].shape)
    return getattr(given, "shape", tf.TensorShape(None)).rank != of_batch - 1


def _cardinality(dataset):
    cardinality = int(dataset.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset repeats itself without end. Leave out .repeat(), or end it with .take(count).")
    return None if cardinality < 0 else cardinality


def reason(error: Exception) -> str:
    """The message of an error in one line."""
    text = str(error)
    if isinstance(error, tf.errors.OpError):
        # The places in TensorFlow before and behind the message tell users nothing.
        text = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]( name:)?", "", text).strip().splitlines()[-1]
        text = re.sub(r"^Error in user-defined function .*?Iterator::\S*: ", "", text)
    return " ".join(text.split())[:500] or type(error).__name__
