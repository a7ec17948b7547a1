"""`Task`: what a run over a dataset computes. It holds the samples, the analyzer, and what is explained."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.analyzers import Analyzer
from revgraph.class_names import is_binary, units_of
from revgraph.datasets.files import open_dataset
from revgraph.datasets.outputs import Sink
from revgraph.datasets.streams import Batch, Samples, Source, source
from revgraph.graph import Graph
from revgraph.graph.types import PathLike, Selection
from revgraph.reverse.sides import SIDES, are_sides
from revgraph.saving.provenance import plain, provenance


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a run computes.

    Args:
        analyzer: The analyzer.
        data: The dataset.
        selection: What to explain. An array has an entry for each sample.
        class_names: Names of the classes, where the dataset has them.
        on_failure: `"record"` or `"raise"`; see `explain_dataset`.
        origin: Where the results come from.
        question: What a run must have in common with one that was interrupted.
    """

    analyzer: Analyzer
    data: Source
    selection: Any
    class_names: Sequence[str] | None
    on_failure: str
    origin: dict[str, Any]
    question: dict[str, Any]

    @classmethod
    def of(
        cls,
        caller: str,
        analyzer: Analyzer,
        dataset: Any,
        output: Sink,
        neuron_selection: Selection,
        batch_size: int | None,
        labels: Any,
        on_failure: str,
        model_path: PathLike | None,
        **asked: Any,
    ) -> "Task":
        """The task for what a user asks; see `explain_dataset` for the arguments.

        Args:
            caller: The function that the user calls, for messages.
            **asked: What else a run must have in common with one that was interrupted.

        Raises:
            TypeError: `analyzer` is no analyzer, or `dataset` no dataset.
            ValueError: An argument is illegal, or does not fit the dataset.
        """
        if not isinstance(analyzer, Analyzer):
            raise TypeError(f"{caller} takes an analyzer, such as create_analyzer(...) makes. Received: {analyzer!r}.")
        if on_failure not in ("record", "raise"):
            raise ValueError(f'on_failure is "record" or "raise". Received: {on_failure!r}.')
        output.check(analyzer.graph)
        if isinstance(dataset, str | os.PathLike):
            dataset = open_dataset(dataset, analyzer)
        data = source(dataset, analyzer.graph, batch_size, labels)
        # A task of KerasHub has a preprocessor in front of the model.
        data.prepare = getattr(analyzer, "preprocess", None)
        selection = _checked_selection(neuron_selection, data)
        directories = dataset.class_names if isinstance(dataset, Samples) else None
        if directories:
            _check_directories(directories, analyzer.graph, selection)
        origin = provenance(analyzer, model_path)
        origin["neuron_selection"] = plain(neuron_selection)
        origin["inputs"] = output.with_inputs
        if names := output.class_names or directories:
            origin["class_names"] = list(names)
        shared = ("method", "parameters", "rules", "model_sha256", "neuron_selection")
        question = {name: origin[name] for name in shared}
        question |= {"batch_size": batch_size, "samples": data.samples, "output": output.kind}
        question |= {"inputs": output.with_inputs, **asked}
        return cls(analyzer, data, selection, directories, on_failure, origin, question)

    def head(self, overwrite: bool) -> dict[str, Any]:
        """What a run notes when it begins. It is compared with one from a file, so it has gone through JSON, too."""
        head = {"question": self.question, "origin": self.origin, "overwrite": overwrite}
        read: dict[str, Any] = json.loads(json.dumps(head))
        return read


def _checked_selection(selection, data):
    """The selection. One with an entry per sample becomes an array."""
    if isinstance(selection, dict):
        return {name: _checked_selection(part, data) for name, part in selection.items()}
    if not isinstance(selection, list | np.ndarray) or np.ndim(selection) == 0:
        return selection
    chosen = np.asarray(selection)
    if chosen.ndim != 1 or not (chosen.dtype.kind in "iu" or are_sides(selection)):
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
        by_label = isinstance(chosen, str) and chosen == "label" and len(shape) == 2
        if by_label and shape[1] not in (None, len(names)) and not is_binary(names, shape[1]):
            raise ValueError(
                f"The dataset has {len(names)} directories, and the model {shape[1]} outputs, so their labels would "
                f"select other classes. Say which output is which directory: class_names=... of open_dataset."
            )


def of_samples(selection: Any, batch: Batch, graph: Graph, output: str | None = None) -> Any:
    """The selection for the samples of a batch.

    Args:
        selection: What the user selects: for several outputs a dict by their names.
        batch: The batch.
        graph: The model's graph.
        output: The name of the output at which something is selected; that of the first one by default.

    Raises:
        ValueError: Labels are missing, or are no labels of the output.
    """
    if isinstance(selection, dict):
        return {name: of_samples(part, batch, graph, name) for name, part in selection.items()}
    if isinstance(selection, np.ndarray):
        if batch.index[-1] >= len(selection):
            raise ValueError(f"neuron_selection has {len(selection)} entries, and the dataset has more samples.")
        return selection[batch.index]
    if isinstance(selection, str) and selection == "label":
        if batch.labels is None:
            raise ValueError('neuron_selection="label" needs labels, and the dataset has none.')
        labels = batch.labels
        if labels.ndim == 2:
            labels = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
        names = graph.output_names
        units = units_of(graph, names.index(output) if output in names else 0)
        return sides_of_labels(labels) if units == 1 else labels.astype(int)
    return selection


def without_other_labels(selection: Any, batch: Batch, graph: Graph, output: str | None = None) -> Batch:
    """The batch without samples whose label is no class of an output at which labels are selected.

    Args:
        selection, batch, graph, output: See `of_samples`.
    """
    if isinstance(selection, dict):
        for name, part in selection.items():
            batch = without_other_labels(part, batch, graph, name)
        return batch
    if batch.labels is None or batch.labels.ndim != 1 or not (isinstance(selection, str) and selection == "label"):
        return batch
    names = graph.output_names
    units = units_of(graph, names.index(output) if output in names else 0)
    # The labels of one unit are checked all at once, because other ones say that it is no classifier.
    if units is None or units == 1:
        return batch
    labels = np.asarray(batch.labels, float)
    for label in np.unique(labels[~((labels >= 0) & (labels < units) & (labels == np.floor(labels)))]):
        bad = np.isnan(batch.labels) if np.isnan(label) else batch.labels == label
        batch = batch.without(bad, f"the label {label:g} is no class, which are 0 to {units - 1}")
    return batch


def sides_of_labels(labels: np.ndarray) -> np.ndarray:
    """The classes of a binary classifier of one unit, `"negative"` for the label 0 and `"positive"` for 1.

    Raises:
        ValueError: There are other labels.
    """
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"The model has one output, which tells the labels 0 and 1 apart. The dataset has the labels "
            f"{np.unique(labels)[:10].tolist()}. Explain its samples without neuron_selection."
        )
    return np.array(list(SIDES))[labels.astype(int)]
