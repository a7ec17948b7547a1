"""Titles of samples in pictures: the name of a class, and its output."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers import Analyzer, TaskAnalyzer
from revgraph.class_names import check_names, gives_logits, has_logits, is_binary, predicted, value_of_class
from revgraph.graph import Graph
from revgraph.graph.types import Selection, Tensors
from revgraph.reverse.sides import SIDES, are_sides
from revgraph.reverse.targets import make_targets, start

TERMS = 3
"""A title names up to so many classes."""


def titles(
    analyzer: Analyzer,
    x: Tensors,
    neuron_selection: Any = None,
    class_names: Sequence[str] | None = None,
    unit: str | None = None,
) -> list[str] | None:
    """Titles for pictures that say what is explained: a class with its output, or a next token with its probability.

    Args:
        analyzer: The analyzer.
        x, neuron_selection: What `analyze` gets.
        class_names: Names of the classes; see `plot`.
        unit: The unit of the output of a regression, such as `"€"`.

    Returns:
        One title per sample; None if more than three classes are selected, or if there are several outputs.

    Raises:
        ValueError: See `plot`.

    Example:

        titles = revgraph.visualize.titles(analyzer, texts, 1, ["bad", "good"])
        revgraph.visualize.plot(analyzer.tokens(texts), analyzer.analyze(texts, 1), titles=titles)
    """
    if isinstance(analyzer, TaskAnalyzer):
        found = analyzer.next_tokens(x, neuron_selection)
        if found is not None:
            return found
        x = analyzer.preprocess(x)
    graph = own_graph(analyzer, x)
    outputs = keras.tree.flatten(graph(x))
    if len(outputs) != 1:
        return None
    y = np.asarray(outputs[0])
    logits = gives_logits(graph) if is_binary(class_names, y.shape[-1]) else False
    logits = has_logits(y) if logits is None else logits
    return titles_of_outputs(y, class_names, neuron_selection, len(y), logits, unit)


def own_graph(analyzer: Analyzer, x: Tensors) -> Graph:
    """The graph of the model as it is, whose outputs users know, such as probabilities where logits are explained.

    Args:
        analyzer: The analyzer.
        x: Samples, as its model takes them.
    """
    known = analyzer.at(x) if hasattr(analyzer, "at") else analyzer
    graph: Graph = getattr(known, "traced", known.graph)
    return graph


def titles_of_outputs(
    outputs: Tensors | None,
    class_names: Sequence[str] | None,
    selection: Selection,
    count: int,
    logits: bool | None = None,
    unit: str | None = None,
) -> list[str] | None:
    """Titles with the name and the output of the class that is selected for each sample.

    Args:
        outputs: The model's outputs, (batch, units).
        class_names: Names of the classes; see `revgraph.class_names`.
        selection: See `plot`.
        count: Number of samples.
        logits: Whether the unit of a binary classifier gives a logit. By default it must give a probability.
        unit: The unit of the outputs, such as `"€"`, which is written behind them.

    Returns:
        One title per sample; None if no class, or more than three are selected.

    Raises:
        ValueError: Names, outputs or the selection do not fit.
    """
    outputs = sole(outputs)
    if outputs is None:
        return None
    outputs = np.asarray(outputs)
    if outputs.dtype.kind not in "fiub":
        raise ValueError(f"outputs must be numbers, such as model.predict gives. Received dtype {outputs.dtype}.")
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    if outputs.ndim != 2:
        return None
    units = outputs.shape[1]
    check_names(class_names, units)
    if len(outputs) != count:
        raise ValueError(f"There are outputs of {len(outputs)} samples, and x has {count}. Pass the outputs of x.")
    if logits is None and is_binary(class_names, units) and has_logits(outputs):
        raise ValueError(
            f"Two class names for one output need the probability of the second class. Received values from "
            f"{outputs.min():.3g} to {outputs.max():.3g}. If they are logits, pass 1 / (1 + np.exp(-outputs))."
        )
    names = class_names if class_names is not None else [f"output {i}" for i in range(units)]
    behind = "" if unit is None else f" {unit}"
    if selection is None or (isinstance(selection, str) and selection == "max_activation"):
        chosen, values = predicted(outputs, class_names, logits)
    elif are_sides(selection) and units == 1:
        chosen, values = _of_sides(outputs, selection, count, is_binary(class_names, units), logits)
    elif isinstance(selection, str) or are_sides(selection):
        return None
    else:
        # The only unit of a binary classifier stands for the second class.
        return _titles_of_selection(outputs, names[-units:], sole(selection), behind)
    return [f"{names[c]}: {value:.3g}{behind}" for c, value in zip(chosen, values, strict=True)]


def _of_sides(outputs, selection, count, binary, logits):
    """The classes that words name, and their values; the unit itself where it tells no classes apart."""
    if not binary:
        return np.zeros(count, int), outputs[:, 0]
    chosen = np.broadcast_to([list(SIDES).index(word) for word in np.atleast_1d(selection)], count)
    return chosen, value_of_class(outputs[:, 0], chosen, logits)


def _titles_of_selection(outputs, names, selection, behind):
    """Titles with the selected classes, such as `good - bad: 0.4`; None where more than a few are selected."""
    if isinstance(selection, Mapping):
        return None
    y = tf.convert_to_tensor(outputs.astype("float64"))
    (target,) = make_targets(selection, None, len(y), ["output"], [y.shape[1:]])
    target = target.on(y)
    if target.index is not None and target.index.ndim > 1:
        return None
    factors = start(y, target.tensors("float64"), tf.ones_like(y)).numpy()
    values = selection(y).numpy() if callable(selection) else (factors * outputs).sum(axis=1)
    if np.any((factors != 0).sum(axis=1) > TERMS) or not set(np.unique(factors)) <= {-1, 0, 1}:
        return None
    return [f"{_terms(names, row)}: {value:.3g}{behind}" for row, value in zip(factors, values, strict=True)]


def _terms(names, factors):
    """Names with the signs of their factors. Those that count for are named first."""
    chosen = sorted(np.flatnonzero(factors), key=lambda i: -factors[i])
    text = "".join(f" {'+' if factors[i] > 0 else '-'} {names[i]}" for i in chosen)
    return text.removeprefix(" + ").strip() or "nothing"


def check_titles(titles: Sequence[str] | None, count: int) -> None:
    """Raises a ValueError if there are fewer titles than samples."""
    if titles is not None and len(titles) < count:
        raise ValueError(f"There are {len(titles)} titles for {count} samples: pass one per sample.")


def is_one_per_sample(selection: Selection) -> bool:
    """Whether a selection has one index per sample; a tuple has one index per axis."""
    if isinstance(selection, tuple):
        return False
    indices = np.asarray(selection)
    return indices.ndim == 1 and (np.issubdtype(indices.dtype, np.integer) or are_sides(selection))


def sole(value: Any) -> Any:
    """The only value of a dict; anything else as it is."""
    return next(iter(value.values())) if isinstance(value, Mapping) and len(value) == 1 else value
