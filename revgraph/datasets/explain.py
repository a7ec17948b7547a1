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
from revgraph.datasets.engines import engine_of
from revgraph.datasets.outputs import Sink
from revgraph.datasets.runs import Report, to_the_end
from revgraph.datasets.sinks import sink as as_sink
from revgraph.datasets.streams import Batch
from revgraph.datasets.tasks import Task
from revgraph.datasets.work import Work
from revgraph.graph import Graph
from revgraph.graph.types import PathLike, Selection
from revgraph.read import trace
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
    workers: int = 1,
    engine: str | None = None,
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
        on_failure: A sample fails if it cannot be read, if its values or its relevance are not finite, or if its label
            is to be explained and is no class. `"record"` leaves such samples out and notes their index and the reason.
            `"raise"` ends the run.
        ledger: Also write where the relevance of each sample went, in total: the columns of `Analyzer.conservation`,
            (samples, columns). It takes another walk in float64, several times as long as the explanation itself.
        model_path: The file or directory of the model, whose hash is noted with the results. By default the path that
            `create_analyzer` was given.
        verbose: 1 shows Keras's progress bar, 2 only its last line, 0 nothing.
        workers: Number of processes that compute. 1 is this process. Others are started for the run, and each has a
            copy of the model. A script has to call `explain_dataset` behind `if __name__ == "__main__":` then.
        engine: None for processes of this machine, or `"ray"` for those of a Ray cluster.

    Returns:
        A `Report`, which prints as a table of the samples that failed.

    Raises:
        FileExistsError: The output exists, or there is an interrupted run.
        TypeError: `analyzer` is no analyzer, or cannot be sent to workers, or `dataset` is no dataset.
        RuntimeError: Worker processes ended again and again.
        Unsupported: A ledger is asked for, and the method has none.
        ValueError: An interrupted run has another question or other data; or the dataset is empty, cannot be read, or
            all of its samples failed.
        OSError: Writing failed, for example because the disk is full. Finished batches are kept.

    Example:

        analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
        report = revgraph.explain_dataset(analyzer, x, "relevance.h5", labels=y)
    """
    output, chosen = as_sink(sink), engine_of(engine, workers)
    task = Task.of(
        "explain_dataset", analyzer, dataset, output, neuron_selection, batch_size, labels, on_failure, model_path,
        ledger=ledger,
    )  # fmt: skip
    if ledger:
        task = dataclasses.replace(task, origin={**task.origin, "ledger": list(FIELDS)})
    names = output.class_names or task.class_names
    work = Explanations(analyzer, task.selection, inputs=output.with_inputs, ledger=ledger, class_names=names)
    return to_the_end(task, output, resume, overwrite, verbose, work, chosen)


class Explanations(Work):
    """The relevance of every sample, with its prediction and its label.

    Args:
        analyzer, selection: See `Work`.
        inputs: Whether inputs are kept.
        ledger: Whether it is kept where relevance went.
        class_names: Names of the classes, if there are any.
    """

    def __init__(
        self, analyzer: Analyzer, selection: Any, inputs: bool, ledger: bool, class_names: Sequence[str] | None
    ):
        super().__init__(analyzer, selection, inputs=inputs, ledger=ledger, class_names=class_names)
        self.with_inputs, self.ledger, self.class_names = inputs, ledger, class_names
        self.predict = predictor(analyzer)
        binary = class_names is not None and len(class_names) == 2
        self.logits = gives_logits(analyzer.model) if binary else None

    def _compute(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        relevance = self.analyzer.analyze(packed(batch.inputs, self.graph), self.selected(batch))
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
            found = self.analyzer.conservation(packed(batch.inputs, self.graph), self.selected(batch))
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
    graph = analyzer.graph
    # Batches have the numbers that the model makes of strings, and only a graph takes those.
    model = trace(analyzer.model) if graph.strings else analyzer.model
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
