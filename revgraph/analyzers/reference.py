"""Reference inputs: what an input is compared with."""

from typing import Any

import numpy as np

from revgraph.graph.graph import Graph
from revgraph.graph.types import Tensors


def flat_references(
    reference: Tensors, inputs: list[Any], graph: Graph, samples: slice = slice(None), count: int | None = None
) -> list[np.ndarray]:
    """One array per input of the model, of the input's shape.

    Args:
        reference: A number; an array of one sample's or of the batch's shape; for several inputs a number for all, a
            list of these or a dict by input names.
        inputs: The flat inputs of a batch.
        graph: The model's graph.
        samples: Which samples of all the batch holds.
        count: Number of all samples; that of the batch by default.

    Raises:
        ValueError: Wrong number of references, or wrong shape.
        TypeError: Not numbers.
    """
    parts = _parts(reference, graph)
    count = len(inputs[0]) if count is None else count
    named = zip(parts, inputs, graph.input_names, strict=True)
    return [_reference(part, np.asarray(x), name, samples, count) for part, x, name in named]


def check_references(reference: Tensors) -> None:
    """Refuses what can be no reference for any input.

    Args:
        reference: See `flat_references`.

    Raises:
        TypeError: Not numbers.
        ValueError: Numbers that are not finite.
    """
    if isinstance(reference, dict):
        for part in reference.values():
            check_references(part)
        return
    # A list may hold one reference for each input, of different shapes.
    parts = reference if isinstance(reference, list | tuple) else [reference]
    for value in map(np.asarray, parts):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"reference_inputs must be numbers. Received: {reference!r}.")
        if not np.all(np.isfinite(value)):
            raise ValueError(f"reference_inputs must be finite. Received: {reference!r}.")


def _parts(reference, graph):
    names = graph.input_names
    if isinstance(reference, dict):
        if set(reference) != set(names):
            raise ValueError(f"reference_inputs needs the keys {list(names)}. Received: {sorted(map(str, reference))}.")
        return [reference[name] for name in names]
    if isinstance(reference, list | tuple) and (len(names) > 1 or len(reference) == 1):
        if len(reference) != len(names):
            raise ValueError(
                f"reference_inputs needs one entry for each of the {len(names)} inputs ({', '.join(names)}). "
                f"Received {len(reference)}."
            )
        return list(reference)
    if np.ndim(reference) and len(names) > 1:
        raise ValueError(
            f"The model {graph.name!r} has {len(names)} inputs ({', '.join(names)}): reference_inputs is a number, "
            f"or a list with one entry for each. Received an array of shape {np.shape(reference)}."
        )
    return [reference] * len(names)


def _reference(value, x, name, samples, count):
    value = np.asarray(value)
    if value.dtype.kind not in "fiub":
        raise TypeError(f"reference_inputs of {name!r} must be numbers. Received dtype {value.dtype}.")
    if value.shape == (1, *x.shape[1:]):
        value = value[0]
    if value.shape == (count, *x.shape[1:]):
        value = value[samples]
    elif value.shape not in ((), x.shape[1:]):
        raise ValueError(
            f"reference_inputs of {name!r} must be a number, an array of one sample's shape {x.shape[1:]} or of the "
            f"batch's shape {(count, *x.shape[1:])}. Received shape {value.shape}."
        )
    return np.broadcast_to(value, x.shape).astype(x.dtype, copy=False)
