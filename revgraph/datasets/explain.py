"""`explain_dataset`: relevance of every sample of a dataset, written as it is computed."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers import Analyzer
from revgraph.analyzers.inputs import packed
from revgraph.class_names import gives_logits, is_binary, predicted
from revgraph.datasets.files import open_dataset
from revgraph.datasets.sinks import Sink
from revgraph.datasets.sinks import sink as as_sink
from revgraph.datasets.staging import Record, Staging, sync_folder
from revgraph.datasets.streams import Batch, Samples, Source, reason, source
from revgraph.graph import Graph
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike, Selection
from revgraph.reverse.failures import RefusedInputError
from revgraph.reverse.walk import input_spec
from revgraph.saving.names import file_name
from revgraph.saving.provenance import now, plain, provenance

LISTED = 20
"""A printed report lists so many failures."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Report(Tabular):
    """The result of a run. It prints as a table of the samples that failed.

    Args:
        path: The output.
        samples: Number of samples in the dataset.
        failures: The reasons why samples failed, by index.
        resumed: Number of samples that an earlier run had finished.
    """

    path: str
    samples: int
    failures: dict[int, str]
    resumed: int = 0

    @property
    def explained(self) -> int:
        """Number of samples whose relevance was written."""
        return self.samples - len(self.failures)

    def table(self) -> Table:
        """The samples that failed."""
        rows = [(index, why) for index, why in sorted(self.failures.items())[:LISTED]]
        rest = len(self.failures) - len(rows)
        footer = f"and {rest} more" if rest else None
        return Table(("sample", "failed because"), rows, title=repr(self)[1:-1], footer=footer)

    def __repr__(self):
        return f"<{self.path}: {self.explained} of {self.samples} samples explained>"


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
        model_path: The file or directory of the model, whose hash is noted with the results. By default the path that
            `create_analyzer` was given.
        verbose: 1 shows Keras's progress bar, 2 only its last line, 0 nothing.

    Returns:
        A `Report`, which prints as a table of the samples that failed.

    Raises:
        FileExistsError: The output exists, or there is an interrupted run.
        TypeError: `analyzer` is no analyzer, or `dataset` no dataset.
        ValueError: An interrupted run has another question or other data; or the dataset is empty, cannot be read, or
            all of its samples failed.
        OSError: Writing failed, for example because the disk is full. Finished batches are kept.

    Example:

        analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
        report = revgraph.explain_dataset(analyzer, x, "relevance.h5", labels=y)
    """
    if not isinstance(analyzer, Analyzer):
        raise TypeError(
            f"explain_dataset takes an analyzer, such as create_analyzer(...) makes. Received: {analyzer!r}."
        )
    if on_failure not in ("record", "raise"):
        raise ValueError(f'on_failure is "record" or "raise". Received: {on_failure!r}.')
    output = as_sink(sink)
    output.check(analyzer.graph)
    if isinstance(dataset, str | os.PathLike):
        dataset = open_dataset(dataset, analyzer)
    data = source(dataset, analyzer.graph, batch_size, labels)
    selection = _checked_selection(neuron_selection, data)
    directories = dataset.class_names if isinstance(dataset, Samples) else None
    if directories:
        _check_directories(directories, analyzer.graph, selection)
    class_names = output.class_names or directories
    origin = provenance(analyzer, model_path)
    origin["neuron_selection"] = plain(neuron_selection)
    if directories:
        origin["class_names"] = list(directories)
    question = {name: origin[name] for name in ("method", "parameters", "rules", "model_sha256", "neuron_selection")}
    question |= {"batch_size": batch_size, "samples": data.samples, "output": output.kind, "inputs": output.with_inputs}
    # It is compared with one that was read from a file, so it goes through JSON too.
    head = json.loads(json.dumps({"question": question, "origin": origin, "overwrite": overwrite}))

    staging = Staging(output.target)
    if not staging.exists() and (report := _finished(output, head, resume, overwrite)):
        return report
    with staging.locked():
        try:
            if not _taken_up(staging, output, head, resume, overwrite):
                if report := _finished(output, head, resume, overwrite):
                    return report
                staging.begin(head)
            resumed = staging.samples
            Run(analyzer, data, selection, output.with_inputs, on_failure, staging, class_names).run(verbose)
            _finish(output, staging, verbose)
        finally:
            if not staging.has_batches():
                staging.remove()
    return Report(str(output.target), staging.samples, staging.failures, resumed)


def _finished(sink, head, resume, overwrite):
    """The report of a finished run that answers the same question; None if a run may begin.

    Raises a FileExistsError if the output exists and must not be replaced.
    """
    existing = [path for path in sink.outputs() if path.exists()]
    if not existing or (overwrite and not resume):
        return None
    origin = sink.origin() if resume and sink.target.exists() else {}
    if origin.get("question") == _hash(head["question"]):
        failures = {int(index): why for index, why in origin["failures"].items()}
        return Report(str(sink.target), origin["samples"], failures, origin["samples"])
    if overwrite:
        return None
    which = "comes from another run" if resume and origin else "exists"
    raise FileExistsError(f"{str(existing[-1])!r} {which}. Pass overwrite=True to replace it, or name another output.")


def _taken_up(staging, sink, head, resume, overwrite):
    """Whether the run in the directory is continued."""
    if (overwrite and not resume) or not staging.resume():
        return False
    if sink.target.exists() and sink.origin().get("run") == staging.head["run"]:
        # It had finished, and was interrupted when it tidied up.
        staging.remove()
        staging.records = []
        staging.folder.mkdir(exist_ok=True)
        return False
    where = str(staging.folder)
    if resume is False:
        raise FileExistsError(
            f"An interrupted run is in {where!r}. Pass resume=True to go on with it, or overwrite=True to begin anew."
        )
    other = _other(staging.head["question"], head["question"])
    if other:
        raise ValueError(
            f"The interrupted run in {where!r} has another {other}: {_short(staging.head['question'].get(other))}, not "
            f"{_short(head['question'][other])}. Ask the same, or pass overwrite=True to begin anew."
        )
    if sink.target.exists() and not (overwrite or staging.head["overwrite"]):
        raise FileExistsError(f"{str(sink.target)!r} exists. Pass overwrite=True to replace it.")
    return True


def _other(before, after):
    """The first respect in which two questions differ; None if they are equal."""
    return next((name for name in after if before.get(name) != after[name]), None)


def _hash(question):
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:77]}..."


class Run:
    """Computes the batches that are not finished yet.

    Args:
        analyzer: The analyzer.
        data: The dataset.
        selection: As checked by `_checked_selection`.
        with_inputs: Keep the inputs too.
        on_failure: See `explain_dataset`.
        staging: The directory of finished batches.
        class_names: Names of the classes, or None.
    """

    def __init__(
        self,
        analyzer: Analyzer,
        data: Source,
        selection: Any,
        with_inputs: bool,
        on_failure: str,
        staging: Staging,
        class_names: Sequence[str] | None,
    ):
        self.analyzer = analyzer
        self.graph: Graph = analyzer.graph
        self.data = data
        self.selection = selection
        self.with_inputs = with_inputs
        self.on_failure = on_failure
        self.staging = staging
        self.predict = predictor(analyzer)
        self.class_names = class_names
        self.logits = gives_logits(analyzer.model) if class_names is not None and len(class_names) == 2 else None
        self.shapes = {name: shape[1:] for name, (shape, _) in staging.specs().items()}

    def run(self, verbose: int) -> None:
        """Computes and keeps all batches. `verbose` is that of `explain_dataset`."""
        records = self.staging.records
        done = len(records)
        # The last finished batch is read again to check that the data is the same.
        number = max(done - 1, 0) if self.data.seekable else 0
        progress = keras.utils.Progbar(self.data.length, verbose=int(verbose), unit_name="batch")
        for batch in self.data.batches(number, records[number].first if done else 0):
            if number >= done:
                self._add(batch)
            elif batch.digest() != records[number].digest:
                raise ValueError(
                    f"The dataset is not the one that the interrupted run had: samples {batch.first} to "
                    f"{batch.first + batch.count - 1} differ. It has to give the same samples in the same order; a "
                    f"dataset that shuffles needs a seed. overwrite=True begins anew."
                )
            number += 1
            progress.update(number)
        if number < done:
            raise ValueError(
                f"The dataset is not the one that the interrupted run had: it ends after {number} batches, and {done} "
                f"are finished. A generator has to be made anew. overwrite=True begins anew."
            )
        if self.data.length is None:
            # Keras 3.5 writes its last line only where it knows how many there should be.
            progress.target = number
            progress.update(number, finalize=True)
        if not self.staging.samples:
            raise ValueError("Nothing to explain: the dataset is empty.")
        if not self.staging.explained:
            index, why = next(iter(self.staging.failures.items()))
            raise ValueError(f"All {self.staging.samples} samples failed. Sample {index}: {why}")

    def _add(self, batch: Batch) -> None:
        digest = batch.digest()
        batch, arrays = self._explained(_finite(batch, batch.inputs, "the input"))
        if batch.failures and self.on_failure == "raise":
            index, why = min(batch.failures.items())
            raise ValueError(f"Sample {index} failed: {why}")
        for name, array in arrays.items():
            if array.shape[1:] != self.shapes.setdefault(name, array.shape[1:]):
                raise ValueError(
                    f"All samples need the same shape in one output. From sample {batch.first} on {name!r} has "
                    f"{array.shape[1:]}, before that {self.shapes[name]}. Resize the samples, or explain those of "
                    f"one shape after the other."
                )
        self.staging.add(Record(batch.first, batch.count, digest, batch.failures), arrays)

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
        arrays = {"index": kept.index, "label": self._labels(kept, [y[good] for y in outputs])}
        arrays |= _named("attribution", self.graph.input_names, [r[good] for r in relevance])
        arrays |= _named("prediction", self.graph.output_names, [y[good] for y in outputs])
        if self.with_inputs:
            arrays |= _named("input", self.graph.input_names, kept.inputs)
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

    def _compute(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Relevance of the inputs, and the model's outputs, as flat lists."""
        relevance = self.analyzer.analyze(packed(batch.inputs, self.graph), _of_samples(self.selection, batch))
        return keras.tree.flatten(relevance), self.predict(batch.inputs)

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


def _named(what, names, arrays):
    """Arrays by name: `what` for a single one, `what/name` for several."""
    if len(arrays) == 1:
        return {what: arrays[0]}
    return {f"{what}/{name}": array for name, array in zip(names, arrays, strict=True)}


def _checked_selection(selection, data):
    """The selection. One with an entry per sample becomes an array."""
    if isinstance(selection, dict):
        return {name: _checked_selection(part, data) for name, part in selection.items()}
    if not isinstance(selection, list | np.ndarray) or np.ndim(selection) == 0:
        return selection
    chosen = np.asarray(selection)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"neuron_selection takes one int per sample here, or one selection for all samples. Received an array of "
            f"{chosen.dtype} and shape {chosen.shape}."
        )
    if data.samples is not None and len(chosen) != data.samples:
        raise ValueError(f"neuron_selection has {len(chosen)} entries for {data.samples} samples.")
    return chosen


def _check_directories(names, graph, selection):
    """Raises a ValueError if labels select outputs, and there are not as many directories as outputs."""
    for slot, output in zip(graph.output_slots, graph.output_names, strict=True):
        chosen = selection.get(output) if isinstance(selection, dict) else selection
        shape = graph.specs[slot].shape
        if isinstance(chosen, str) and chosen == "label" and len(shape) == 2 and is_binary(names, shape[1]):
            raise ValueError(
                f"The model has one output, which stands for {names[1]!r}, and so there is no output for the label of "
                f"{names[0]!r}. Explain all samples without neuron_selection: relevance is that of {names[1]!r}, and "
                f"that of {names[0]!r} has the opposite sign."
            )
        if isinstance(chosen, str) and chosen == "label" and len(shape) == 2 and shape[1] not in (None, len(names)):
            raise ValueError(
                f"The dataset has {len(names)} directories, and the model {shape[1]} outputs, so their labels would "
                f"select other classes. Say which output is which directory: class_names=... of open_dataset."
            )


def _of_samples(selection, batch):
    """The selection for the samples of a batch."""
    if isinstance(selection, dict):
        return {name: _of_samples(part, batch) for name, part in selection.items()}
    if isinstance(selection, np.ndarray):
        if batch.index[-1] >= len(selection):
            raise ValueError(f"neuron_selection has {len(selection)} entries, and the dataset has more samples.")
        return selection[batch.index]
    if isinstance(selection, str) and selection == "label":
        if batch.labels is None:
            raise ValueError('neuron_selection="label" needs labels, and the dataset has none.')
        return (batch.labels.argmax(axis=1) if batch.labels.ndim == 2 else batch.labels).astype(int)
    return selection


def _finish(sink, staging, verbose):
    """Writes the output from the finished batches, and gives it its name when it is whole."""
    head = staging.head
    origin = {
        **head["origin"],
        "samples": staging.samples,
        "explained": staging.explained,
        "failures": {str(index): why for index, why in staging.failures.items()},
        "finished": now(),
        "run": head["run"],
        "question": _hash(head["question"]),
    }
    folder = staging.folder / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    progress = keras.utils.Progbar(len(staging.records), verbose=int(verbose), unit_name="batch written")
    try:
        folder.mkdir()
        sink.write(folder, staging, origin, lambda: progress.add(1))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise staging.unwritten(error) from error
    for path in sink.outputs():
        if path.is_dir():
            os.replace(path, staging.folder / file_name(f"replaced-{now()}"))
        os.replace(folder / path.name, path)
    sync_folder(sink.target.parent)
    staging.remove()
