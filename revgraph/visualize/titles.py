"""Titles of samples in pictures: the name of a class, and its output."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from revgraph.class_names import check_names, gives_logits, has_logits, is_binary, predicted, value_of_class
from revgraph.graph import Graph
from revgraph.graph.types import Selection, Tensors
from revgraph.reverse.sides import SIDES, are_sides
from revgraph.reverse.targets import from_start


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
        One title per sample; None if no class is selected.

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
    if selection is None or (isinstance(selection, str) and selection == "max_activation"):
        chosen, values = predicted(outputs, class_names, logits)
    elif are_sides(selection) and units == 1:
        chosen, values = _of_sides(outputs, selection, count, is_binary(class_names, units), logits)
    elif (selected := np.asarray(selection)).ndim > 1 or not np.issubdtype(selected.dtype, np.integer):
        return None
    else:
        units_chosen = _one_per_sample(selection, count, units)
        values = outputs[np.arange(count), units_chosen]
        # The only unit of a binary classifier stands for the second class.
        chosen = units_chosen + 1 if is_binary(class_names, units) else units_chosen
    names = class_names if class_names is not None else [f"output {i}" for i in range(units)]
    behind = "" if unit is None else f" {unit}"
    return [f"{names[c]}: {value:.3g}{behind}" for c, value in zip(chosen, values, strict=True)]


def _of_sides(outputs, selection, count, binary, logits):
    """The classes that words name, and their values; the unit itself where it tells no classes apart."""
    if not binary:
        return np.zeros(count, int), outputs[:, 0]
    chosen = np.broadcast_to([list(SIDES).index(word) for word in np.atleast_1d(selection)], count)
    return chosen, value_of_class(outputs[:, 0], chosen, logits)


def _one_per_sample(selection, count, units):
    """The selected unit of each sample."""
    chosen = np.atleast_1d(selection)
    if len(chosen) not in (1, count):
        raise ValueError(
            f"neuron_selection has {len(chosen)} entries for {count} samples: pass one index, or one per sample."
        )
    return np.broadcast_to(from_start(chosen, units, selection), count)


def titles_of_graph(
    graph: Graph, x: Tensors, class_names: Sequence[str] | None, selection: Selection, unit: str | None = None
) -> list[str] | None:
    """Titles of samples, from the outputs of the graph that is explained; see `titles_of_outputs`."""
    outputs = keras.tree.flatten(graph(x))
    if len(outputs) != 1:
        return None
    y = np.asarray(outputs[0])
    logits = gives_logits(graph) if is_binary(class_names, y.shape[-1]) else False
    return titles_of_outputs(y, class_names, selection, len(y), has_logits(y) if logits is None else logits, unit)


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
