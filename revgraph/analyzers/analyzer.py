"""`Analyzer`: explains a model's predictions, one compiled function per question."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers import targets
from revgraph.analyzers.conservation import Conservation, Entry, merge
from revgraph.analyzers.inputs import flat_inputs
from revgraph.analyzers.reverse_graph import ReverseGraph
from revgraph.canonize import canonize, split_activations, strip_output_activation
from revgraph.composites import Composite
from revgraph.graph import Graph, trace
from revgraph.graph.analysis import nonnegative_slots
from revgraph.graph.graph import format_table
from revgraph.reverse_rules import per_sample

MODES = ("max_activation", "index", "all")


class Analyzer:
    """Explains the predictions of a model: gives every entry of the input its relevance.

    Args:
        model: A built Keras model.
        neuron_selection_mode: What `analyze` selects when its `neuron_selection` is not given: `"max_activation"`
            (the default), `"all"`, or `"index"`, which makes it a must.
        disable_model_checks: Accepted for iNNvestigate's sake. revgraph has no check that would refuse a model that
            it can explain.
        allow_lambda_layers: Let relevance through Lambda layers by their transposed Jacobian.
    """

    name = "analyzer"

    def __init__(
        self,
        model,
        neuron_selection_mode="max_activation",
        disable_model_checks=False,
        allow_lambda_layers=False,
    ):
        if neuron_selection_mode not in MODES:
            raise ValueError(
                f"neuron_selection_mode is one of {', '.join(map(repr, MODES))}. Received: {neuron_selection_mode!r}."
            )
        self.model = model
        self.neuron_selection_mode = neuron_selection_mode
        self.disable_model_checks = disable_model_checks
        self.allow_lambda_layers = allow_lambda_layers
        self.graph = self._graph()

    def _graph(self) -> Graph:
        return trace(self.model)

    def analyze(self, X, neuron_selection=None, batch_size=None, verbose=0):
        """Computes the relevance of every entry of the inputs.

        Args:
            X: Array or tensor (batch, ...), or the structure of them that the model takes; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches, of inputs alone or of tuples whose first element
                they are.
            neuron_selection: What to explain: an int; one int per sample; `"max_activation"`; `"all"`.
            batch_size: Samples computed at once; all of an array by default.
            verbose: 1 shows a progress bar.

        Returns:
            Array of X's shape, or arrays in the structure of the model's inputs; float32, float64 for float64 models.

        Raises:
            ValueError: Wrong shape, number of inputs, or selection.
            TypeError: Not numbers, or not a selection.

        Example:

            relevance = analyzer.analyze(x, neuron_selection=3)
        """
        results = [
            self._explain(inputs, selection)
            for inputs, selection in self._batches(X, neuron_selection, batch_size, verbose)
        ]
        flat = [np.concatenate(parts) for parts in zip(*results, strict=True)]
        return keras.tree.pack_sequence_as(self.graph.inputs, flat)

    def _explain(self, inputs, selection) -> list[np.ndarray]:
        """Relevance of one batch, flat."""
        raise NotImplementedError

    def _batches(self, x, selection, batch_size, verbose):
        """Pairs of checked flat inputs and the selection for them."""
        if selection is None:
            if self.neuron_selection_mode == "index":
                raise ValueError(
                    'This analyzer was made with neuron_selection_mode="index": pass neuron_selection to analyze.'
                )
            selection = self.neuron_selection_mode
        if batch_size is not None and (not isinstance(batch_size, int | np.integer) or batch_size < 1):
            raise ValueError(f"batch_size must be a positive int. Received: {batch_size!r}.")
        source = self._array_batches if _is_arrays(x) else self._stream_batches
        return source(x, selection, batch_size, verbose)

    def _array_batches(self, x, selection, batch_size, verbose):
        inputs = flat_inputs(x, self.graph)
        count = int(inputs[0].shape[0])
        size = batch_size or count
        chosen = self._select(selection, count)
        progress = keras.utils.Progbar(-(-count // size)) if verbose else None
        for start in range(0, count, size):
            part = slice(start, start + size)
            yield [array[part] for array in inputs], keras.tree.map_structure(lambda s, part=part: s[part], chosen)
            if progress:
                progress.add(1)

    def _stream_batches(self, x, selection, batch_size, verbose):
        if isinstance(x, keras.utils.PyDataset):
            x = (x[i] for i in range(len(x)))
        elif isinstance(x, tf.data.Dataset) and batch_size:
            x = x.unbatch().batch(batch_size)
        progress = keras.utils.Progbar(None) if verbose else None
        empty = True
        for batch in x:
            inputs = flat_inputs(batch[0] if isinstance(batch, tuple) else batch, self.graph)
            yield inputs, self._select(selection, int(inputs[0].shape[0]))
            empty = False
            if progress:
                progress.add(1)
        if empty:
            raise ValueError("Nothing to explain: the dataset is empty.")

    def _select(self, selection, batch):
        """What each sample explains, as arrays with a batch axis."""
        return targets.select(selection, batch, self.graph)

    def __repr__(self):
        return f"<{self.name} of {self.graph.name!r}: {len(self.graph.sites)} sites>"


def _is_arrays(x):
    return not (isinstance(x, tf.data.Dataset | keras.utils.PyDataset) or hasattr(x, "__next__"))


class ReverseAnalyzer(Analyzer):
    """An analyzer that walks the model's graph backwards under a composite.

    Args:
        model: A built Keras model.
        composite: Which rule for which site.
        **options: See `Analyzer`.
    """

    starts_at_value = True
    """Whether relevance starts as the selected neuron's own value; as 1 otherwise."""

    def __init__(self, model, composite: Composite, **options):
        self.composite = composite
        super().__init__(model, **options)
        self._bound = self.composite.bind(self.graph)
        self._programs = {}

    def _graph(self):
        graph = trace(self.model, keep=self.composite.classes)
        stripped = strip_output_activation(split_activations(graph))
        if stripped.output_slots != graph.output_slots:
            warnings.warn(
                f"The output of {graph.name!r} is a probability: its logits are explained, the values before "
                f"softmax or sigmoid.",
                stacklevel=4,
            )
        return self._canonize(stripped)

    def _canonize(self, graph):
        return canonize(graph)

    @property
    def _reverse(self):
        return ReverseGraph(self.graph, self._bound, nonnegative_slots(self.graph))

    def _compiled(self, program):
        """The program as a concrete function of flat inputs and flat selections; traced when first asked for."""
        if program not in self._programs:
            graph = self.graph
            inputs = [_spec(graph, slot) for slot in graph.input_slots]
            indices = [tf.TensorSpec((None,), tf.int32) for _ in graph.output_slots]
            self._programs[program] = tf.function(program, autograph=False).get_concrete_function(inputs, indices)
        return self._programs[program]

    def _seeds(self, recording, indices):
        return {
            slot: self._start(recording.values[slot], index)
            for slot, index in zip(self.graph.output_slots, indices, strict=True)
        }

    def _start(self, y, index):
        return targets.start(y, index, self.starts_at_value)

    def _relevance(self, inputs, indices):
        recording = self._reverse.record(inputs)
        relevance = self._reverse.relevance(recording, self._seeds(recording, indices))
        return [
            self._finish(relevance.get(slot, tf.zeros(tf.shape(x), self.graph.dtype)), x)
            for slot, x in zip(self.graph.input_slots, inputs, strict=True)
        ]

    def _finish(self, relevance, x):
        """What is returned for an input, from the relevance that arrived there."""
        return relevance

    def _ledger(self, inputs, indices):
        recording = self._reverse.record(inputs)
        seeds = self._seeds(recording, indices)
        relevance, entries = self._reverse.ledger(recording, seeds)
        start = tf.add_n([per_sample(seed) for seed in seeds.values()])
        found = tf.add_n([per_sample(relevance[s]) for s in self.graph.input_slots if s in relevance])
        return start, found, entries

    def _explain(self, inputs, selection):
        return [r.numpy() for r in self._call(self._relevance, inputs, selection)]

    def _call(self, program, inputs, selection):
        arguments = [
            tf.cast(x, _spec(self.graph, slot).dtype) for slot, x in zip(self.graph.input_slots, inputs, strict=True)
        ]
        return self._compiled(program)(arguments, [tf.constant(s) for s in selection])

    def conservation(self, X, neuron_selection=None, batch_size=None, verbose=0) -> Conservation:
        """Where relevance went: found at the inputs, absorbed by biases and stabilisers, or lost otherwise.

        Args:
            X, neuron_selection, batch_size, verbose: See `analyze`.

        Returns:
            A `Conservation`, which prints as a table.
        """
        return merge(
            self._conservation(inputs, selection)
            for inputs, selection in self._batches(X, neuron_selection, batch_size, verbose)
        )

    def _conservation(self, inputs, selection):
        start, found, entries = keras.tree.map_structure(
            lambda t: t.numpy(), self._call(self._ledger, inputs, selection)
        )
        reached = self._reached()
        layers = tuple(
            Entry(path, given, taken, bias, stabiliser, given - taken - bias - stabiliser)
            for path, (given, taken, bias, stabiliser) in zip(reached, entries, strict=True)
        )
        bias, stabiliser = (sum(e[i] for e in entries) for i in (2, 3))
        return Conservation(start, found, bias, stabiliser, start - found - bias - stabiliser, layers)

    def _reached(self):
        """Paths of the sites that relevance passes, from output to input."""
        reached, paths = set(self.graph.output_slots), []
        for site in reversed(self.graph.sites):
            if reached.intersection(site.outputs):
                reached.update(site.inputs)
                paths.append(site.path)
        return paths

    def summary(self) -> str:
        """Which site got which rule, and why; a text table."""
        rows = [(b.site.path, b.site.operation.label, b.rule, b.reason, ", ".join(b.site.merged)) for b in self._bound]
        return format_table(("site", "operation", "rule", "matched by", "merged"), rows, title=repr(self)[1:-1])


def _spec(graph, slot):
    spec = graph.specs[slot]
    floating = spec.dtype.startswith(("float", "bfloat"))
    return tf.TensorSpec((None, *spec.shape[1:]), graph.dtype if floating else spec.dtype)
