"""Names of classes: how many of them an output needs, and which class it predicts.

An output needs one name for each of its units. A binary classifier may have a single unit: it takes two names, and its
value speaks for the second class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.canonize.passes import split_activations, strip_output_activation
from revgraph.graph import Graph
from revgraph.graph.operations import Affine
from revgraph.read import SizesUnknown, trace


def is_binary(names: Sequence[str] | None, units: int | None) -> bool:
    """Whether the only unit of an output tells two classes apart."""
    return names is not None and units == 1 and len(names) == 2


def check_names(names: Sequence[str] | None, units: int | None) -> None:
    """Checks that names fit an output.

    Args:
        names: Names of the classes, or None.
        units: Number of the output's units; None if it is not known.

    Raises:
        ValueError: There is neither one name for each unit, nor two names for a single unit.
    """
    if names is not None and units is not None and len(names) != units and not is_binary(names, units):
        two = ", or two names for the classes that the only output tells apart" if units == 1 else ""
        raise ValueError(
            f"There are {len(names)} class names for {counted(units)}. Pass one name for each output, in their "
            f"order{two}."
        )


def units_of(graph: Graph, position: int | None = None) -> int | None:
    """The number of units (batch, units) of an output.

    Args:
        graph: The graph of a model.
        position: The position of the output; that of the only output by default.

    Returns:
        The number; None if the output has other axes or a free size, or if there are several outputs and no position.
    """
    if position is None and len(graph.output_slots) > 1:
        return None
    shape = graph.specs[graph.output_slots[position or 0]].shape
    return shape[1] if len(shape) == 2 else None


def counted(units: int) -> str:
    """A number of outputs in words."""
    return "1 output" if units == 1 else f"{units} outputs"


def predicted(
    outputs: np.ndarray, names: Sequence[str] | None, logits: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each sample, and the value of that class.

    Args:
        outputs: The model's outputs, (batch, units).
        names: Names of the classes, or None.
        logits: Whether the unit of a binary classifier gives a logit, and not a probability. By default it does if
            there are outputs that are not between 0 and 1.

    Returns:
        Indices (batch,) of the classes, and their values (batch,). A binary classifier predicts the second class where
        its probability exceeds 0.5, or its logit 0. The value of the first class is then 1 - p, or -logit.
    """
    if not is_binary(names, outputs.shape[1]):
        chosen = outputs.argmax(axis=1)
        return chosen, np.take_along_axis(outputs, chosen[:, None], axis=1)[:, 0]
    unit = outputs[:, 0]
    logits = has_logits(unit) if logits is None else logits
    chosen = (unit > (0 if logits else 0.5)).astype(int)
    return chosen, value_of_class(unit, chosen, logits)


def value_of_class(unit: np.ndarray, chosen: np.ndarray, logits: bool | None = None) -> np.ndarray:
    """The value of one of the two classes that a unit tells apart: p or 1 - p, or the logit or its negative.

    Args:
        unit: The values of the unit, (batch,).
        chosen: The class of each sample, 0 or 1: (batch,).
        logits: See `predicted`.
    """
    first = -unit if (has_logits(unit) if logits is None else logits) else 1 - unit
    return np.where(chosen, unit, first)


def has_logits(outputs: np.ndarray) -> bool:
    """Whether outputs are no probabilities, because some are not between 0 and 1."""
    return bool(np.any(outputs < 0) or np.any(outputs > 1))


def gives_logits(model: Any, position: int = 0) -> bool | None:
    """Whether an output of a model gives logits.

    Args:
        model: A Keras model or a graph.
        position: The position of the output.

    Returns:
        True for the output of a linear layer, False for that of a sigmoid or softmax, None for any other.
    """
    try:
        graph = split_activations(trace(model))
    except SizesUnknown:
        return None
    slot = graph.output_slots[position]
    if strip_output_activation(graph).output_slots[position] != slot:
        return False
    producer = graph.producers().get(slot)
    return True if producer is not None and isinstance(producer.operation, Affine) else None
