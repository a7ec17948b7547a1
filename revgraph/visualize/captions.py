"""Titles of samples in pictures: the name of a class, and its output."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

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
    *,
    labels: ArrayLike | None = None,
) -> list[str] | None:
    """Titles for pictures that say what is explained: a class with its output, or a next token with its probability.

    Args:
        analyzer: The analyzer.
        x, neuron_selection: What `analyze` gets.
        class_names: Names of the classes; see `plot`.
        unit: The unit of the output of a regression, such as `"€"`.
        labels: The true class of each sample, for lines of their own; see `plot`.

    Returns:
        One title per sample; None if more than three classes are selected, or if there are several outputs.

    Raises:
        ValueError: See `plot`.

    Example:

        titles = revgraph.visualize.titles(analyzer, texts, 1, ["bad", "good"])
        revgraph.visualize.plot(analyzer.tokens(texts), analyzer.analyze(texts, 1), titles=titles)
    """
    return titled_by_model(None, analyzer, x, neuron_selection, class_names, unit, labels)


def titled_by_model(
    own: Sequence[str] | None,
    analyzer: Analyzer,
    x: Tensors,
    neuron_selection: Any,
    class_names: Sequence[str] | None,
    unit: str | None,
    labels: ArrayLike | None,
) -> list[str] | None:
    """Titles as `titled` makes them, of the outputs that the model gives for x; see `titles`.

    Args:
        own: Titles of the user, or None.
        analyzer, x, neuron_selection, class_names, unit, labels: See `titles`.
    """
    if own and labels is None:
        return list(own)
    if isinstance(analyzer, TaskAnalyzer):
        found = analyzer.next_tokens(x, neuron_selection)
        if found is not None:
            if labels is not None:
                raise ValueError("Labels are true classes, and this model predicts tokens. Leave out labels.")
            return found
        x = analyzer.preprocess(x)
    graph = own_graph(analyzer, x)
    outputs = keras.tree.flatten(graph(x))
    if len(outputs) != 1:
        if labels is not None:
            raise ValueError(f"Labels belong to one output, and this model has {len(outputs)}. Leave out labels.")
        return None
    y = np.asarray(outputs[0])
    logits = gives_logits(graph) if is_binary(class_names, y.shape[-1]) else False
    logits = has_logits(y) if logits is None else logits
    return titled(own, y, class_names, neuron_selection, len(y), logits, unit, labels)


def titled(
    titles: Sequence[str] | None,
    outputs: Tensors | None,
    class_names: Sequence[str] | None,
    selection: Selection,
    count: int,
    logits: bool | None = None,
    unit: str | None = None,
    labels: ArrayLike | None = None,
) -> list[str] | None:
    """Titles that the user gave, or else those of outputs; and below them what labels say, if there are any.

    Args:
        titles: Those of the user, or None.
        outputs, class_names, selection, count, logits, unit: See `titles_of_outputs`.
        labels: See `plot`.

    Returns:
        One title per sample, whose lines are parted by `"\\n"`, or None.

    Raises:
        ValueError: See `titles_of_outputs`; or labels do not fit.
    """
    own = list(titles or ())
    above = own or titles_of_outputs(outputs, class_names, selection, count, logits, unit)
    if labels is None:
        return above
    check_titles(above, count)
    lines = _lines_of_labels(labels, outputs, class_names, count, logits, unit)
    # The title of the largest output is the prediction.
    if above and not own and (selection is None or (isinstance(selection, str) and selection == "max_activation")):
        lines = [(label,) for _, label in lines]
    return ["\n".join((*((above[i],) if above else ()), *told)) for i, told in enumerate(lines)]


def _lines_of_labels(labels, outputs, class_names, count, logits, unit):
    """Two lines for each sample: what the model predicts, and what is true."""
    if outputs is None:
        raise ValueError("Titles compare labels with outputs. Pass the outputs of x too: outputs=model.predict(x).")
    outputs = _checked_outputs(outputs, class_names, count, logits)
    if outputs is None:
        raise ValueError("Labels need outputs of shape (batch, classes), and these have other axes. Leave out labels.")
    labels = checked_labels(labels, count, class_names, outputs.shape[1])
    if is_number(class_names, outputs.shape[1]):
        behind = "" if unit is None else f" {unit}"
        pairs = zip(outputs[:, 0], labels, strict=True)
        return [(f"prediction {value:.3g}{behind}", f"label {float(label):.3g}{behind}") for value, label in pairs]
    names = class_names if class_names is not None else [f"output {i}" for i in range(outputs.shape[1])]
    return [
        (f"prediction {names[c]}: {value:.3g}", f"{'' if c == label else 'wrong: '}label {names[label]}")
        for c, value, label in zip(*predicted(outputs, class_names, logits), labels, strict=True)
    ]


def is_number(names: Sequence[str] | None, units: int) -> bool:
    """Whether an output of so many units is a number, such as a price, and no classes are known that it tells apart."""
    return units == 1 and not is_binary(names, units)


def checked_labels(labels: ArrayLike, count: int, names: Sequence[str] | None, units: int | None) -> np.ndarray:
    """Labels as an array (batch,): ints that count classes, or the true numbers of a regression.

    Args:
        labels: What the user gave.
        count: How many samples there are.
        names: Names of the classes, or None.
        units: How many units the output has; None if that is not known.

    Raises:
        ValueError: There is not one for each sample, or they are no classes of the model.
    """
    found = np.asarray(labels)
    if found.ndim == 2 and len(found) == count:
        way = "labels[:, 0]" if found.shape[1] == 1 else "labels.argmax(axis=1)"
        raise ValueError(f"Labels are one number per sample, ({count},). Received shape {found.shape}: pass {way}.")
    if found.ndim != 1 or len(found) != count:
        received = f"{len(found)} labels" if found.ndim == 1 else f"labels of shape {found.shape}"
        raise ValueError(f"There are {received} for {count} samples: pass one per sample.")
    if found.dtype.kind not in "fiub":
        raise ValueError(
            f"Labels are numbers of classes. Received dtype {found.dtype}. Of names pass their positions: "
            f"[class_names.index(name) for name in labels]."
        )
    if units is None or is_number(names, units):
        return found
    classes = len(names) if names is not None else units
    wrong = found[~((found >= 0) & (found < classes) & (found == np.floor(found)))]
    if len(wrong):
        raise ValueError(f"Labels are from 0 to {classes - 1}, one for each class. Received: {wrong[0]}.")
    return found.astype(int)


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
    outputs = _checked_outputs(outputs, class_names, count, logits)
    if outputs is None:
        return None
    units = outputs.shape[1]
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


def _checked_outputs(outputs, class_names, count, logits):
    """Outputs as an array (batch, units); None if there are none, or if they have other axes."""
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
    return outputs


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
