"""What is selected, and its values: where relevance starts, for analyzers around an analyzer."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer, Unsupported
from revgraph.analyzers.conditions import Repeated
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


def fixed(
    analyzer: Analyzer, selection: Selection, inputs: list[Any], batch_size: int | None, options: dict[str, Any]
) -> Selection:
    """A selection for variants of inputs: the largest output of the inputs, in place of the largest of each variant.

    Args:
        analyzer: The analyzer that explains the variants.
        selection: The selection.
        inputs: The flat inputs as they are, in the form that the innermost analyzer takes.
        batch_size: Samples at once.
        options: What `analyze` was given beside.
    """
    if isinstance(selection, dict):
        named = [name for name, chosen in selection.items() if is_largest(chosen)]
        if named:
            outputs = outputs_at_start(analyzer, inputs, batch_size, options)
            selection = {**selection, **{name: largest(outputs[name]) for name in named if name in outputs}}
        return selection
    if not is_largest(selection) or not analyzer.innermost.selects:
        return selection
    starts = list(outputs_at_start(analyzer, inputs, batch_size, options).values())
    if len(starts) != 1:
        return selection
    (y,) = starts
    initial: Any = options.get("initial_relevance")
    is_start_itself = selection is None and not callable(initial) and np.ndim(initial) == y.ndim
    return selection if is_start_itself else largest(y)


def is_largest(selection: Selection) -> bool:
    """Whether a selection is the largest output."""
    return selection is None or (isinstance(selection, str) and selection == "max_activation")


def largest(y: np.ndarray) -> np.ndarray:
    """The largest entry of each sample: an index, or for outputs with more axes a mask."""
    index = y.reshape(len(y), -1).argmax(axis=1)
    return index if y.ndim == 2 else np.eye(y[0].size, dtype=bool)[index].reshape(y.shape)


def as_option(name: str, value: Any, count: int, times: int) -> Any:
    """An argument of `analyze` for `times` variants of each of `count` samples."""
    if name == "conditions":
        return None if value is None else Repeated(value, times)
    return tiled(value, count, times)


def tiled(value: Any, count: int, times: int) -> Any:
    """A selection or start for `times` variants of each of `count` samples."""
    if isinstance(value, dict):
        return {name: tiled(part, count, times) for name, part in value.items()}
    if isinstance(value, tf.Tensor):
        value = value.numpy()
    value = np.asarray(value) if isinstance(value, list) else value
    if isinstance(value, np.ndarray) and value.ndim and len(value) == count:
        return np.concatenate([value] * times)
    return value
