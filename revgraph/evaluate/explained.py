"""`Explained`: the samples, the question and the relevance that metrics read."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.graph.arguments import check_count
from revgraph.reverse.targets import from_start

Item = TypeVar("Item")


def of_model(analyzer: Analyzer, model: Any) -> Analyzer:
    """An analyzer with the same options, of another model.

    Args:
        analyzer: An analyzer; a wrapper is made again around an analyzer of the other model.
        model: The other model.
    """
    config = analyzer.config()
    if "subanalyzer" in config:
        changed = {"subanalyzer": of_model(config["subanalyzer"], model)}
    else:
        changed = {"model": model}
    twin: Analyzer = analyzer.__class__(**{**config, **changed})
    twin.name = analyzer.name
    return twin


class Explained:
    """Samples of a model, the outputs that are asked about, and their relevance.

    A *unit* is what a metric changes or compares as one: a pixel with all its channels, a step of a series, a token, a
    column of a table.

    Args:
        analyzer: The analyzer.
        x: The samples, (samples, ...).
        y: The class of each sample that is explained: an int, or (samples,) ints. By default it is the class with the
            largest output.
        truth: True at the units that decide, (samples, ...).
        relevance: Relevance of x, of its shape or without its channels. By default the analyzer computes it.
        batch_size: Samples computed at once.
        channel_axis: The axis whose entries belong to one unit; None if each entry is a unit of its own. Samples with
            one axis have no channels, whatever is given.
        verbose: 1 shows a progress bar.

    Raises:
        TypeError: `analyzer` is none, or the model has several inputs or outputs.
        ValueError: A shape does not fit, or a label is out of range.
    """

    def __init__(
        self,
        analyzer: Analyzer,
        x: ArrayLike,
        y: ArrayLike | None = None,
        truth: ArrayLike | None = None,
        relevance: ArrayLike | None = None,
        batch_size: int = 32,
        channel_axis: int | None = -1,
        verbose: int = 0,
    ) -> None:
        if not isinstance(analyzer, Analyzer):
            raise TypeError(
                f"A metric takes an analyzer, such as revgraph.create_analyzer('lrp.epsilon', model). A function of "
                f"your own becomes one by evaluate.FunctionAnalyzer(model, function). Received: {analyzer!r}."
            )
        inputs = len(analyzer.graph.input_slots)
        if inputs != 1:
            raise TypeError(f"Metrics take models of one input, and {analyzer.graph.name!r} has {inputs}.")
        outputs = len(analyzer.graph.output_slots)
        if outputs != 1:
            raise TypeError(f"Metrics follow the only output of a model, and {analyzer.graph.name!r} has {outputs}.")
        check_count("batch_size", batch_size)
        self.analyzer = analyzer
        self.x = np.asarray(x)
        if self.x.ndim < 2 or not len(self.x):
            raise ValueError(f"x holds samples along its first axis, (samples, ...). Received shape {self.x.shape}.")
        self.batch_size = batch_size
        self.verbose = verbose
        self.channel_axis = None if self.x.ndim == 2 or channel_axis is None else channel_axis % self.x.ndim
        self.outputs = self._outputs(self.x)
        if self.outputs.ndim != 2:
            raise ValueError(
                f"Metrics follow one output of shape (batch, classes). That of {analyzer.graph.name!r} has shape "
                f"{('batch', *self.outputs.shape[1:])}."
            )
        self.index = self._labels(y)
        self._relevance = None if relevance is None else np.asarray(relevance)
        self._truth = None if truth is None else np.asarray(truth)

    def _labels(self, y):
        if y is None:
            return self.outputs.argmax(axis=1)
        labels, classes = np.asarray(y), self.outputs.shape[1]
        if labels.dtype.kind not in "iu" or labels.shape not in ((), (len(self.x),)):
            raise ValueError(
                f"y is an int, or one int per sample, ({len(self.x)},). Received: {labels.dtype}, shape {labels.shape}."
            )
        return from_start(np.broadcast_to(labels, len(self.x)), classes, y)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of x without its channels, (samples, ...)."""
        return tuple(n for axis, n in enumerate(self.x.shape) if axis != self.channel_axis)

    @cached_property
    def relevance(self) -> np.ndarray:
        """Relevance of each unit, of shape `unit_shape`: summed over channels."""
        found = self.explain(self.x) if self._relevance is None else self._relevance
        return self.of_units(found, "relevance")

    @cached_property
    def truth(self) -> np.ndarray:
        """True at the units that decide, of shape `unit_shape`."""
        if self._truth is None:
            raise ValueError("This metric compares with the truth: pass truth=, True at the entries that decide.")
        mask = self._truth
        if mask.dtype != bool or mask.shape not in (self.unit_shape, self.x.shape):
            raise ValueError(
                f"truth is an array of bool of shape {self.unit_shape}, with one entry per unit. Received: "
                f"{mask.dtype}, shape {mask.shape}."
            )
        if mask.shape != self.unit_shape:
            mask = mask.any(axis=self.channel_axis, keepdims=True).reshape(self.unit_shape)
        empty = np.flatnonzero(~mask.reshape(len(mask), -1).any(axis=1))
        if len(empty):
            raise ValueError(f"truth must name an entry of every sample. It names none in sample {empty[0]}.")
        return mask

    def of_units(self, values: np.ndarray, name: str = "relevance") -> np.ndarray:
        """Values of entries of x as values of units: summed over channels.

        Args:
            values: Of the shape of x, or of `unit_shape`.
            name: What a message calls them.

        Raises:
            ValueError: The shape is another one, or a value is not finite.
        """
        if values.shape == self.x.shape and self.channel_axis is not None:
            values = values.sum(axis=self.channel_axis)
        if values.shape != self.unit_shape:
            raise ValueError(
                f"{name} must have the shape of x, {self.x.shape}, or that without channels, {self.unit_shape}. "
                f"Received shape {values.shape}."
            )
        broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(broken):
            raise ValueError(f"{name} must be finite. It is not in {len(broken)} samples; the first is {broken[0]}.")
        return values

    def explain(self, x: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
        """Relevance of other samples, of their shape.

        Args:
            x: Samples like those of `x`.
            index: The class of each; by default those of `Explained`.
        """
        index = self.index if index is None else index
        return np.asarray(self.analyzer.analyze(x, index, batch_size=self.batch_size))

    @cached_property
    def scores(self) -> np.ndarray:
        """The output of each sample that is asked about, (samples,)."""
        return self.outputs[np.arange(len(self.x)), self.index]

    def score(self, x: np.ndarray) -> np.ndarray:
        """The outputs of changed samples that are asked about.

        Args:
            x: As many samples as there are, in their order.

        Returns:
            Array (samples,).
        """
        return self._outputs(x)[np.arange(len(x)), self.index]

    def _outputs(self, x):
        starts = range(0, len(x), self.batch_size)
        return np.concatenate([np.asarray(self._forward(x[i : i + self.batch_size])) for i in starts])

    @cached_property
    def _forward(self) -> Callable[[np.ndarray], Any]:
        model = self.analyzer.model
        if not isinstance(model, keras.Model):
            return tf.function(model, autograph=False, reduce_retracing=True)

        return lambda x: keras.tree.flatten(model.predict_on_batch(x))[0]

    def steps(self, items: list[Item]) -> Iterator[Item]:
        """The items of a long computation, one after the other, with a progress bar if it is wanted."""
        bar = keras.utils.Progbar(len(items)) if self.verbose else None
        for i, item in enumerate(items):
            yield item
            if bar is not None:
                bar.update(i + 1)

    def spread(self, units: np.ndarray) -> np.ndarray:
        """Units of shape `unit_shape` with an axis of size one for channels, so that they broadcast against x."""
        return units if self.channel_axis is None else np.expand_dims(units, self.channel_axis)
