"""`explain_dataset`: relevance of every sample of a dataset, written as it is computed."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers import Analyzer
from revgraph.analyzers.inputs import packed
from revgraph.class_names import gives_logits, predicted
from revgraph.datasets.outputs import Sink
from revgraph.datasets.runs import Report, Run, to_the_end
from revgraph.datasets.sinks import sink as as_sink
from revgraph.datasets.staging import Staging
from revgraph.datasets.streams import Batch
from revgraph.datasets.tasks import Task
from revgraph.graph import Graph
from revgraph.graph.types import PathLike, Selection
from revgraph.reverse.ledger import FIELDS
from revgraph.reverse.walk import input_spec


def explain_dataset(
    analyzer: Analyzer,
    dataset: Any,
    sink: PathLike | Sink,
    neuron_selection: Selection = None,
    batch_size: int | None = None,
    *,
    labels: Any = None,
    resume: bool | None = None,
    overwrite: bool = False,
    on_failure: str = "record",
    ledger: bool = False,
    model_path: PathLike | None = None,
    verbose: int = 1,
) -> Report:
    """Explains a whole dataset, batch by batch, and writes the results to files.

    Memory holds one batch at a time. The run may end at any moment: finished batches are kept in `NAME.partial` beside
    the output, and the same call continues behind them. The output gets its name when all of it is written.

    Args:
        analyzer: The analyzer.
        dataset: One of

            * an array, memory map or HDF5 dataset, or the structure of them that the model takes, or a pair (inputs,
              labels);
            * a `tf.data.Dataset` of batches or of single samples, a `keras.utils.PyDataset`, or an iterable of batches,
              which may be tuples (inputs, labels);
            * a dataset that `revgraph.datasets.open_dataset` returns, or a path for it.
        sink: The output. A path that ends in `.h5` is an HDF5 file for ViRelAy and CoRelAy, one that ends in `.zarr` a
            Zarr group, any other path a directory of `.npy` shards. `HDF5`, `Zarr` and `NpyShards` of
            `revgraph.datasets` have options.
        neuron_selection: What to explain, as in `analyze`: one selection for all samples, or an array with one int for
            each. `"label"` explains the class of the sample's label.
        batch_size: Number of samples that are computed at once. By default the dataset's batches are used, and 32
            samples for a dataset without batches.
        labels: Labels of arrays, (samples,) or (samples, classes).
        resume: True continues an interrupted run, and accepts a finished one. False refuses both. By default an
            interrupted run is continued, and an output that exists is refused.
        overwrite: Replace an output that exists, and an interrupted run.
        on_failure: A sample fails if it cannot be read, or if its values or its relevance are not finite. `"record"`
            leaves such samples out and notes their index and the reason. `"raise"` ends the run.
        ledger: Also write where the relevance of each sample went, in total: the columns of `Analyzer.conservation`,
            (samples, columns). It takes another walk in float64, several times as long as the explanation itself.
        model_path: The file or directory of the model, whose hash is noted with the results. By default the path that
            `create_analyzer` was given.
        verbose: 1 shows Keras's progress bar, 2 only its last line, 0 nothing.

    Returns:
        A `Report`, which prints as a table of the samples that failed.

    Raises:
        FileExistsError: The output exists, or there is an interrupted run.
        TypeError: `analyzer` is no analyzer, or `dataset` no dataset.
        Unsupported: A ledger is asked for, and the method has none.
        ValueError: An interrupted run has another question or other data; or the dataset is empty, cannot be read, or
            all of its samples failed.
        OSError: Writing failed, for example because the disk is full. Finished batches are kept.

    Example:

        analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
        report = revgraph.explain_dataset(analyzer, x, "relevance.h5", labels=y)
    """
    output = as_sink(sink)
    task = Task.of(
        "explain_dataset", analyzer, dataset, output, neuron_selection, batch_size, labels, on_failure, model_path,
        ledger=ledger,
    )  # fmt: skip
    if ledger:
        task = dataclasses.replace(task, origin={**task.origin, "ledger": list(FIELDS)})
    return to_the_end(
        task, output, resume, overwrite, verbose, lambda staging: Explanations(task, output, staging, ledger)
    )


class Explanations(Run):
    """The relevance of every sample, with its prediction and its label.

    Args:
        task: What is computed.
        output: What is written says whether inputs are kept, and may have names of the classes.
        staging: The directory of finished batches.
        ledger: Whether it is kept where relevance went.
    """

    def __init__(self, task: Task, output: Sink, staging: Staging, ledger: bool = False):
        super().__init__(task, staging)
        self.ledger = ledger
        self.with_inputs = output.with_inputs
        self.predict = predictor(task.analyzer)
        self.class_names = output.class_names or task.class_names
        binary = self.class_names is not None and len(self.class_names) == 2
        self.logits = gives_logits(task.analyzer.model) if binary else None

    def _compute(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        task = self.task
        relevance = task.analyzer.analyze(packed(batch.inputs, self.graph), task.selected(batch))
        return keras.tree.flatten(relevance), self.predict(batch.inputs)

    def _arrays(
        self, batch: Batch, relevance: list[np.ndarray], outputs: list[np.ndarray]
    ) -> dict[str, np.ndarray | None]:
        arrays = {"index": batch.index, "label": self._labels(batch, outputs)}
        arrays |= _named("attribution", self.graph.input_names, relevance)
        arrays |= _named("prediction", self.graph.output_names, outputs)
        if self.with_inputs:
            arrays |= _named("input", self.graph.input_names, batch.inputs)
        if self.ledger:
            found = self.task.analyzer.conservation(packed(batch.inputs, self.graph), self.task.selected(batch))
            arrays["ledger"] = np.stack([getattr(found, name) for name in FIELDS], axis=1)
        return arrays

    def _labels(self, batch, outputs):
        if batch.labels is not None:
            return batch.labels
        if len(outputs) != 1 or outputs[0].ndim != 2:
            return None
        classes, _ = predicted(outputs[0], self.class_names, self.logits)
        return classes


def predictor(analyzer: Analyzer) -> Callable[[Sequence[Any]], list[np.ndarray]]:
    """A function from a flat list of inputs to that of the model's outputs, in the precision of the relevance."""
    graph, model = analyzer.graph, analyzer.model
    specs = [input_spec(graph, slot) for slot in graph.input_slots]
    options = {} if isinstance(model, Graph) else {"training": False}

    @tf.function(input_signature=[specs], autograph=False)
    def outputs(inputs):
        y = model(keras.tree.pack_sequence_as(graph.inputs, inputs), **options)
        return [tf.cast(part, graph.dtype) for part in keras.tree.flatten(y)]

    def predict(inputs):
        return [y.numpy() for y in outputs([tf.cast(x, s.dtype) for x, s in zip(inputs, specs, strict=True)])]

    return predict


def _named(what, names, arrays):
    """Arrays by name: `what` for a single one, `what/name` for several."""
    if len(arrays) == 1:
        return {what: arrays[0]}
    return {f"{what}/{name}": array for name, array in zip(names, arrays, strict=True)}
