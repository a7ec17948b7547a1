"""`Served`: batches explained by a SavedModel that `analyzer.export` wrote. TensorFlow alone runs it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.datasets.streams import Batch
from revgraph.datasets.work import Work
from revgraph.graph.types import PathLike, Selection
from revgraph.reverse.targets import MAX, NONE

SELECTION, RELEVANCE, OUTPUT = "neuron_selection", "relevance", "output"
"""The names of a signature, alone or with `_` and the name of an input or an output behind them."""


class Served(Work):
    """What an exported explainer gives for a batch, with the names that `Explanations` has.

    Args:
        path: The directory.
        selection: What to explain: None, an int, `"label"`, or a dict of these by the names of several outputs.

    Attributes:
        inputs: The specification of each input by name.
        outputs: The specification of each output by name.

    Raises:
        ValueError: The SavedModel is no explainer.
    """

    def __init__(self, path: PathLike, selection: Selection = None):
        self.path, self.selection = os.fspath(path), selection
        self.loaded = tf.saved_model.load(self.path)
        self.serve = self.loaded.signatures.get("serving_default")
        if self.serve is None or not _named(self.serve.structured_outputs, RELEVANCE):
            raise ValueError(f"{self.path!r} is no explainer. `analyzer.export(path)` writes explainers.")
        taken = self.serve.structured_input_signature[1]
        self.inputs = {name: spec for name, spec in taken.items() if name not in _named(taken, SELECTION).values()}
        self._selections = _named(taken, SELECTION)
        self._results = {what: _named(self.serve.structured_outputs, what) for what in (RELEVANCE, OUTPUT)}
        self.outputs = {part: self.serve.structured_outputs[name] for part, name in self._results[OUTPUT].items()}

    def _selectable(self, batch: Batch) -> Batch:
        """The same batch: a SavedModel has no graph, and the labels of `Rows` are classes."""
        return batch

    def _codes(self, batch: Batch) -> dict[str, tf.Tensor]:
        """What the signature takes for the selection."""
        chosen = self.selection
        by_output = chosen if isinstance(chosen, Mapping) else dict.fromkeys(self._selections, chosen)
        codes = {}
        for part, name in self._selections.items():
            code: Any = by_output.get(part, NONE)
            code = batch.labels if isinstance(code, str) else MAX if code is None else code
            codes[name] = tf.constant(np.broadcast_to(code, len(batch.index)), tf.int32)
        return codes

    def _compute(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        pairs = zip(self.inputs.items(), batch.inputs, strict=True)
        given = {name: tf.cast(x, spec.dtype) for (name, spec), x in pairs}
        results = self.serve(**given, **self._codes(batch))
        relevance, outputs = (
            [results[name].numpy() for name in self._results[k].values()] for k in (RELEVANCE, OUTPUT)
        )
        return relevance, outputs

    def _arrays(
        self, batch: Batch, relevance: list[np.ndarray], outputs: list[np.ndarray]
    ) -> dict[str, np.ndarray | None]:
        arrays: dict[str, np.ndarray | None] = {"index": batch.index}
        for what, kind, found in (("attribution", RELEVANCE, relevance), ("prediction", OUTPUT, outputs)):
            parts = self._results[kind]
            arrays |= {f"{what}/{part}" if part else what: a for part, a in zip(parts, found, strict=True)}
        return arrays


def is_explainer(path: PathLike) -> bool:
    """Whether a path is that of an exported explainer, and not of a model."""
    if not Path(path, "saved_model.pb").is_file():
        return False
    from tensorflow.core.protobuf import saved_model_pb2

    read = saved_model_pb2.SavedModel.FromString(Path(path, "saved_model.pb").read_bytes())
    signatures = read.meta_graphs[0].signature_def
    return bool(_named(signatures["serving_default"].outputs, RELEVANCE)) and bool(
        _named(signatures["serving_default"].inputs, SELECTION)
    )


def _named(names: Any, what: str) -> dict[str, str]:
    """The names that are `what`, or begin with it, by what stands behind it."""
    return {name[len(what) + 1 :]: name for name in names if name == what or name.startswith(f"{what}_")}
