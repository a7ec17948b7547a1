"""The values of what is selected: where relevance starts, for analyzers around an analyzer."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer, Unsupported
from revgraph.analyzers.inputs import packed
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.graph.types import Selection
from revgraph.reverse.targets import make_targets, start
from revgraph.reverse.walk import Question
from revgraph.reverse_rules.folding import per_sample


def outputs_at_start(
    analyzer: Analyzer, inputs: list[np.ndarray], batch_size: int | None, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The tensors at which an analyzer's relevance starts, by name."""
    analyzer = analyzer.innermost
    if not isinstance(analyzer, ReverseAnalyzer):
        raise Unsupported(f"{analyzer.name!r} selects nothing, because it does not walk backwards from an output.")
    layer, at_input = options.get("layer"), options.get("attribute_to_neuron_input", False)
    names, starts = analyzer.starts(layer, at_input, options.get("pre_activation", False))
    walk = analyzer.walk(Question(starts))
    given = analyzer.batches(packed(inputs, analyzer.graph), batch_size, 0)
    outputs = [walk.outputs(part) for part, _, _ in given]
    return {name: np.concatenate(parts) for name, *parts in zip(names, *outputs, strict=True)}


def selected_values(
    analyzer: Analyzer,
    inputs: list[np.ndarray],
    selection: Selection,
    batch_size: int | None,
    options: dict[str, Any],
) -> np.ndarray:
    """The value of what is selected, (batch,), or (batch, targets) for several targets."""
    outputs = outputs_at_start(analyzer, inputs, batch_size, options)
    shapes = [y.shape[1:] for y in outputs.values()]
    initial = options.get("initial_relevance")
    targets = make_targets(selection, initial, len(inputs[0]), list(outputs), shapes)
    return sum(_value(target, y) for target, y in zip(targets, outputs.values(), strict=True))


def _value(target, y):
    if target.contrast is not None:
        return np.asarray(target.contrast(tf.constant(y)))
    target = target.on(y)
    if target.index is not None and target.index.ndim == 2:
        columns = (dataclasses.replace(target, index=column) for column in target.index.T)
        return np.stack([_value(column, y) for column in columns], axis=1)
    chosen = start(tf.constant(y), target.tensors(y.dtype), tf.ones_like(y))
    return per_sample(chosen * y).numpy()
