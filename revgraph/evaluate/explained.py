"""`Explained`: the samples, the question and the relevance that metrics read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.inputs import flat_inputs, is_stream, packed
from revgraph.analyzers.prepared import mask_of, token_names
from revgraph.class_names import gives_logits, has_logits, value_of_class
from revgraph.evaluate.parts import Part
from revgraph.graph.arguments import check_count
from revgraph.graph.lookups import held, lookups
from revgraph.graph.types import Tensors
from revgraph.read import trace
from revgraph.reverse.sides import SIDES
from revgraph.reverse.targets import from_start

Item = TypeVar("Item")

Channels = int | None | Mapping[str, int | None]
"""The axis whose entries belong to one unit; see `Explained`."""


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


def gathered(x: Tensors, y: ArrayLike | None = None) -> tuple[Any, Any]:
    """Samples and labels as arrays, where x may give batches one by one.

    Args:
        x: What a model takes; or a dataset or generator of batches, of inputs alone or of tuples (inputs, labels, ...).
        y: The labels. By default they are those of the dataset, unless each is a floating number, as in a regression.

    Raises:
        ValueError: There are no batches.
    """
    if not is_stream(x):
        return x, y
    batches = list(map(x.__getitem__, range(len(x))) if isinstance(x, keras.utils.PyDataset) else x)
    if not batches:
        raise ValueError("Nothing to measure: the dataset is empty.")
    pairs = [batch[:2] if isinstance(batch, tuple) and len(batch) > 1 else (batch, None) for batch in batches]
    pairs = [(part[0] if isinstance(part, tuple) and len(part) == 1 else part, label) for part, label in pairs]
    x = keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *(p for p, _ in pairs))
    if y is None and pairs[0][1] is not None and not isinstance(pairs[0][1], Mapping | list):
        labels = np.concatenate([np.asarray(label) for _, label in pairs])
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        y = None if labels.dtype.kind == "f" and labels.ndim == 1 else labels
    return x, y


def _axis(channel_axis, x):
    """The axis of channels, counted from the first; None where there is none."""
    if channel_axis is None or x.ndim < 3:
        return None
    if not -x.ndim < channel_axis < x.ndim or channel_axis == 0:
        raise ValueError(
            f"channel_axis is an axis of x behind that of the samples, or None. Received {channel_axis!r} for samples "
            f"of shape {x.shape}."
        )
    return channel_axis % x.ndim


class Explained:
    """Samples of a model, the outputs that are asked about, and their relevance.

    A *unit* is what a metric changes or compares as one: a pixel with all its channels, a step of a series, a token, a
    column of a table. The units of several inputs stand one behind the other, in the order of the inputs.

    Args:
        analyzer: The analyzer.
        x: The samples, in the structure in which the model takes them; texts for a model with a preprocessor; or a
            dataset or generator of batches.
        y: The class of each sample that is explained: an int, or (samples,) ints. By default those of a dataset, unless
            they are floating numbers, or else the class with the largest output. A model with one output tells the
            classes 0 and 1 apart; without y its output is explained, which stands for the class 1.
        truth: True at the units that decide, (samples, ...); a dict by the names of inputs where there are several.
        relevance: Relevance of x, of its structure and shape, channels may be missing. By default the analyzer computes
            it.
        batch_size: Samples computed at once.
        channel_axis: The axis whose entries belong to one unit; None if each entry is a unit of its own; or a dict of
            these by the names of inputs. Samples with one axis have no channels, whatever is given.
        verbose: 1 shows a progress bar.
        inputs: The names of the inputs that have units. By default these are all but masks; for a model with a
            tokenizer those that hold tokens.

    Raises:
        TypeError: `analyzer` is none, or the model has several outputs.
        ValueError: A shape does not fit, a label is out of range, or there is no input of a name.
    """

    def __init__(
        self,
        analyzer: Analyzer,
        x: Tensors,
        y: ArrayLike | None = None,
        truth: Any = None,
        relevance: Any = None,
        batch_size: int = 32,
        channel_axis: Channels = -1,
        verbose: int = 0,
        inputs: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(analyzer, Analyzer):
            raise TypeError(
                f"A metric takes an analyzer, such as revgraph.create_analyzer('lrp.epsilon', model). A function of "
                f"your own becomes one by evaluate.FunctionAnalyzer(model, function). Received: {analyzer!r}."
            )
        check_count("batch_size", batch_size)
        x, y = gathered(x, y)
        # The analyzer of a task has another one inside, which takes what the preprocessor makes.
        preprocessing = getattr(analyzer, "preprocessing", None)
        if preprocessing is not None:
            x, analyzer = preprocessing(x), analyzer.inner  # type: ignore[attr-defined]
        self.analyzer = analyzer
        self.graph = (analyzer.at(x) if hasattr(analyzer, "at") else analyzer).graph
        if len(self.graph.output_slots) != 1:
            raise TypeError(
                f"Metrics follow the only output of a model, and {self.graph.name!r} has "
                f"{len(self.graph.output_slots)}. Explain a model of one of them, such as "
                f"keras.Model(model.inputs, model.outputs[0])."
            )
        self.batch_size, self.verbose = batch_size, verbose
        self.flat = [np.asarray(each) for each in flat_inputs(x, self.graph)]
        self.parts = self._parts(inputs, channel_axis, getattr(preprocessing, "tokenizer", None))
        self.outputs = self._outputs()
        if self.outputs.ndim != 2:
            raise ValueError(
                f"Metrics follow one output of shape (batch, classes). That of {self.graph.name!r} has shape "
                f"{('batch', *self.outputs.shape[1:])}. Explain a model that ends with the entry that you ask about, "
                f"such as keras.Model(model.inputs, model.outputs[0][:, -1])."
            )
        self.index, self.negative = self._labels(y)
        self._relevance, self._truth = relevance, truth

    def __len__(self) -> int:
        return len(self.flat[0])

    def _parts(self, chosen, channel_axis, tokenizer):
        """The inputs that have units."""
        names, arrays = self.graph.input_names, dict(zip(self.graph.input_names, self.flat, strict=True))
        if chosen is None:
            tokens = token_names(arrays) if tokenizer is not None else []
            chosen = tokens or [name for name in names if name not in held(self.graph)] or names
        unknown = [chosen] if isinstance(chosen, str) else [name for name in chosen if name not in names]
        if unknown or not chosen:
            raise ValueError(f"inputs is a list of names of inputs, out of {list(names)}. Received: {chosen!r}.")
        ids, parts = lookups(self.graph).names, []
        for name, slot in zip(names, self.graph.input_slots, strict=True):
            if name not in chosen:
                continue
            x, dtype = arrays[name], self.graph.specs[slot].dtype
            # Numbers that come as integers could not take the values in between.
            x = x.astype(dtype) if x.dtype.kind in "iub" and dtype.startswith("float") and name not in ids else x
            axis = _axis(channel_axis.get(name, -1) if isinstance(channel_axis, Mapping) else channel_axis, x)
            known = tokenizer if name in ids else None
            zero, hidden = (getattr(known, f"{kind}_token_id", None) for kind in ("pad", "mask"))
            mask = mask_of(name, arrays) if name in ids else None
            padding = None if zero is None else x == zero
            padding = padding if mask is None or mask.shape != x.shape else ~mask.astype(bool)
            parts.append(Part(name, x, axis, name in ids, padding, zero or 0, hidden))
        return tuple(parts)

    def _labels(self, y):
        """The position of the output of each sample, and whether it is explained as evidence against that output."""
        classes, nothing = self.outputs.shape[1], np.zeros(len(self), bool)
        if y is None:
            return self.outputs.argmax(axis=1), nothing
        labels = np.asarray(y)
        if labels.dtype.kind not in "iu" or labels.shape not in ((), (len(self),)):
            way = "Pass y.astype(int), or no y if its values are no classes."
            if labels.ndim == 2:
                way = "Pass y[:, 0]." if labels.shape[1] == 1 else "Of one-hot labels pass y.argmax(axis=1)."
            raise ValueError(
                f"y is an int, or one int per sample, ({len(self)},). Received: {labels.dtype}, shape {labels.shape}. "
                f"{way}"
            )
        if classes > 1:
            return from_start(np.broadcast_to(labels, len(self)), classes, y), nothing
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f"The model {self.graph.name!r} has one output, which tells the labels 0 and 1 apart. y has the labels "
                f"{np.unique(labels)[:10].tolist()}: leave y out to explain the output for all samples, and the labels "
                f"of a dataset by dataset.map(lambda x, y: x)."
            )
        return np.zeros(len(self), int), np.broadcast_to(labels == 0, len(self))

    def part(self) -> Part:
        """The only input that has units.

        Raises:
            ValueError: There are several.
        """
        if len(self.parts) > 1:
            raise ValueError(
                f"This is measured within one input. Choose it: inputs=[name], one of "
                f"{[part.name for part in self.parts]}."
            )
        return self.parts[0]

    def split(self, units: np.ndarray) -> list[np.ndarray]:
        """Values of units, (samples, units), for each of the parts."""
        return np.split(units, np.cumsum([part.count for part in self.parts])[:-1], axis=1)

    def by_part(self, given: Any, name: str) -> list[Any]:
        """What is given for each of the parts: one thing for all, or a dict by their names. None where it has nothing.

        Args:
            given: The dict, or what stands for all.
            name: What a message calls it.
        """
        if not isinstance(given, Mapping):
            return [given] * len(self.parts)
        unknown = sorted(set(given) - set(self.graph.input_names))
        if unknown:
            raise ValueError(f"{name} is there for {unknown}, and the inputs are {list(self.graph.input_names)}.")
        return [given.get(part.name) for part in self.parts]

    @cached_property
    def present(self) -> np.ndarray:
        """True at units that are no padding, (samples, units)."""
        each = [np.ones((len(self), p.count), bool) if p.padding is None else ~p.padding for p in self.parts]
        return np.concatenate(each, axis=1)

    @cached_property
    def _found(self) -> dict[str, np.ndarray]:
        """Relevance by the names of the inputs."""
        if self._relevance is None:
            return self._explained(self.flat, self.selection)
        return self._by_name(self._relevance, "relevance")

    def _by_name(self, values, name):
        """Arrays by the names of inputs, from a structure of them."""
        names = self.graph.input_names
        if isinstance(values, Mapping):
            return {key: np.asarray(value) for key, value in values.items()}
        arrays = list(values) if isinstance(values, list | tuple) and len(names) > 1 else [values]
        if len(arrays) == len(self.parts) == 1:
            return {self.parts[0].name: np.asarray(arrays[0])}
        if len(arrays) != len(names):
            raise ValueError(
                f"{name} is a dict by the names of the inputs, or a list with an array for each of {list(names)}. "
                f"Received {len(arrays)}."
            )
        return {key: np.asarray(value) for key, value in zip(names, arrays, strict=True)}

    @cached_property
    def relevance(self) -> np.ndarray:
        """Relevance of each unit, (samples, units): summed over channels."""
        missing = [part.name for part in self.parts if part.name not in self._found]
        if missing:
            raise ValueError(f"relevance is not there for the inputs {missing}. It is for {sorted(self._found)}.")
        return self.of_units([self._found[part.name] for part in self.parts])

    @cached_property
    def total(self) -> np.ndarray:
        """The sum of all relevance of each sample, (samples,), whichever inputs have units."""
        return np.sum([found.reshape(len(self), -1).sum(axis=1) for found in self._found.values()], axis=0)

    @cached_property
    def truth(self) -> np.ndarray:
        """True at the units that decide, (samples, units)."""
        if self._truth is None:
            raise ValueError("This metric compares with the truth: pass truth=, True at the entries that decide.")
        given = self.by_part(self._by_name(self._truth, "truth"), "truth")
        nothing = [np.zeros((len(self), part.count), bool) for part in self.parts]
        masks = [none if m is None else p.true(m) for p, m, none in zip(self.parts, given, nothing, strict=True)]
        mask = np.concatenate(masks, axis=1)
        empty = np.flatnonzero(~mask.any(axis=1))
        if len(empty):
            raise ValueError(f"truth must name an entry of every sample. It names none in sample {empty[0]}.")
        return mask

    def of_units(self, values: list[np.ndarray]) -> np.ndarray:
        """Relevance of the entries of each of the parts as values of units, (samples, units)."""
        found = [part.of_units(each) for part, each in zip(self.parts, values, strict=True)]
        return np.where(self.present, np.concatenate(found, axis=1), 0)

    def explain(self, xs: list[np.ndarray] | None = None, index: np.ndarray | None = None) -> list[np.ndarray]:
        """Relevance of other samples, or of another class.

        Args:
            xs: Samples of each of the parts; by default those of `Explained`.
            index: The class of each; by default those of `Explained`.

        Returns:
            A list of arrays, one for each of the parts.
        """
        found = self._explained(self._with(xs), self.selection if index is None else index)
        return [found[part.name] for part in self.parts]

    def _explained(self, flat, selection):
        found = self.analyzer.analyze(packed(flat, self.graph), selection, batch_size=self.batch_size)
        if isinstance(found, Mapping):
            return dict(found)
        return dict(zip(self.graph.input_names, keras.tree.flatten(found), strict=True))

    def _with(self, xs):
        """All inputs in flat order, with other samples in place of the parts."""
        changed = {} if xs is None else {part.name: x for part, x in zip(self.parts, xs, strict=True)}
        return [changed.get(name, x) for name, x in zip(self.graph.input_names, self.flat, strict=True)]

    @property
    def selection(self) -> np.ndarray:
        """What analyzers select: the position of an output, or a word for one of the two classes of the only output."""
        return np.where(self.negative, *SIDES) if self.negative.any() else self.index

    @cached_property
    def scores(self) -> np.ndarray:
        """The value of the class of each sample that is asked about, (samples,)."""
        return self._followed(self.outputs)

    def _followed(self, outputs):
        values = outputs[np.arange(len(self)), self.index]
        return value_of_class(values, ~self.negative, self._logits) if self.negative.any() else values

    @cached_property
    def _logits(self) -> bool:
        """Whether the only output is a logit. If the model does not say it, its values for the samples do."""
        told = gives_logits(self.analyzer.model)
        return has_logits(self.outputs) if told is None else told

    def score(self, xs: list[np.ndarray]) -> np.ndarray:
        """The values of the classes that are asked about, for changed samples.

        Args:
            xs: Samples of each of the parts, as many as there are, in their order.

        Returns:
            Array (samples,).
        """
        return self._followed(self._outputs(xs))

    def by(self, analyzer: Analyzer) -> "Explained":
        """The same samples and classes, explained by an analyzer of another model that takes the same inputs."""
        y = self.index if self.outputs.shape[1] > 1 else 1 - self.negative
        return Explained(
            analyzer, packed(self.flat, self.graph), y, None, None, self.batch_size,
            {part.name: part.axis for part in self.parts}, self.verbose, [part.name for part in self.parts],
        )  # fmt: skip

    def batches(self, xs: list[np.ndarray] | None = None) -> Iterator[Tensors]:
        """Batches of all inputs, in the structure in which the model takes them.

        Args:
            xs: Samples of each of the parts; by default those of `Explained`.
        """
        flat = self._with(xs)
        for first in range(0, len(self), self.batch_size):
            yield packed([x[first : first + self.batch_size] for x in flat], self.graph)

    def _outputs(self, xs=None):
        return np.concatenate([np.asarray(self._forward(batch)) for batch in self.batches(xs)])

    @cached_property
    def _forward(self) -> Callable[[Tensors], Any]:
        model = self.analyzer.model
        if not isinstance(model, keras.Model) or self.graph.strings:
            # A model of strings is read, because what is changed are the numbers that it makes of them.
            read = trace(model) if isinstance(model, keras.Model) else model
            function = tf.function(read, autograph=False, reduce_retracing=True)
            return lambda batch: keras.tree.flatten(function(batch))[0]
        # A task would give what it gets to its preprocessor.
        return lambda batch: keras.tree.flatten(keras.Model.predict_on_batch(model, batch))[0]

    def steps(self, items: list[Item]) -> Iterator[Item]:
        """The items of a long computation, one after the other, with a progress bar if it is wanted."""
        bar = keras.utils.Progbar(len(items)) if self.verbose else None
        for i, item in enumerate(items):
            yield item
            if bar is not None:
                bar.update(i + 1)
