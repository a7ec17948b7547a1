"""Reference inputs: what an input is compared with.

`reference_inputs=` of `integrated_gradients` and `deep_lift` takes, for all inputs or for each of them:

* a number, or an array of one sample's or of the batch's shape;
* for ids an id, such as that of padding, or an array of ids: the rows of these ids are the reference;
* `"zeros"`: zeros, and for ids rows of zeros. It is the default;
* `"same"`: the input stays as it is. It is the default for masks, such as that of padding.
"""

import dataclasses
from typing import Any

import numpy as np

from revgraph.analyzers.ids import check_ids
from revgraph.graph.graph import Graph
from revgraph.graph.lookups import held, lookups
from revgraph.graph.types import Tensors
from revgraph.reverse.failures import RefusedInputError

FROM_ZERO, SAME = "zeros", "same"
"""Words for the reference of an input: rows of zeros, and the input itself."""


@dataclasses.dataclass(frozen=True)
class References:
    """The reference of each input.

    Args:
        parts: By the name of the input, a number or an array, or one of the words `FROM_ZERO` and `SAME`.
    """

    parts: dict[str, Any]

    def names(self, word: str) -> frozenset[str]:
        """The names of the inputs whose reference is this word."""
        return frozenset(name for name, part in self.parts.items() if isinstance(part, str) and part == word)


def references_of(reference: Tensors, graph: Graph) -> References:
    """The reference of each input of a graph.

    Args:
        reference: What the user gave as `reference_inputs`.
        graph: The model's graph.

    Raises:
        ValueError: Wrong number of references.
    """
    ids, masks = lookups(graph).names, held(graph)
    # What is said of all inputs is not said of masks.
    each = _is_one_for_each(reference, graph)
    parts = _parts(reference, graph)

    def part(name, value):
        word = value if isinstance(value, str) else None
        if word == SAME or (name in masks and (word == FROM_ZERO or not each)):
            return SAME
        if word == FROM_ZERO:
            return FROM_ZERO if name in ids else 0
        return value

    return References({name: part(name, value) for name, value in zip(graph.input_names, parts, strict=True)})


def flat_references(
    reference: Tensors, inputs: list[Any], graph: Graph, samples: slice = slice(None), count: int | None = None
) -> list[np.ndarray]:
    """One array per input of the model, of the input's shape.

    Where the reference is the input itself, or rows of zeros, it is the input.

    Args:
        reference: A number; an array of one sample's or of the batch's shape; for several inputs a number for all, a
            list of these or a dict by input names. Words as above.
        inputs: The flat inputs of a batch.
        graph: The model's graph.
        samples: Which samples of all the batch holds.
        count: Number of all samples; that of the batch by default.

    Raises:
        ValueError: Wrong number of references, or wrong shape.
        TypeError: Not numbers.
    """
    parts = references_of(reference, graph).parts
    count = len(inputs[0]) if count is None else count
    named = zip(parts.items(), inputs, strict=True)
    _check_rows(parts, graph)
    found = [
        np.asarray(x) if isinstance(part, str) else _reference(part, np.asarray(x), name, samples, count)
        for (name, part), x in named
    ]
    try:
        check_ids(found, graph)
    except RefusedInputError as error:
        raise ValueError(f"reference_inputs: {error}") from error
    return found


def _check_rows(parts, graph):
    """Refuses references of ids that are no ids."""
    for name in lookups(graph).names:
        part = parts[name]
        if isinstance(part, str) or np.asarray(part).dtype.kind not in "fiub":
            continue
        given = np.asarray(part)
        if given.dtype.kind == "b" or np.any(given != np.floor(given)) or np.any(given < 0):
            raise ValueError(
                f'reference_inputs of {name!r} are ids, integers from 0 on, or "zeros" for rows of zeros. Received: '
                f"{part!r}."
            )


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
    for part in reference if isinstance(reference, list | tuple) else [reference]:
        if isinstance(part, str) and part in (FROM_ZERO, SAME):
            continue
        value = np.asarray(part)
        if value.dtype.kind not in "fiub":
            raise TypeError(
                f'reference_inputs must be numbers. Received: {reference!r}. "zeros" and "same", which leaves an input '
                f"as it is, are known as words."
            )
        if not np.all(np.isfinite(value)):
            raise ValueError(f"reference_inputs must be finite. Received: {reference!r}.")


def _is_one_for_each(reference, graph):
    """Whether something is said of each input, and not the same of all."""
    sole = len(graph.input_names) == 1
    return sole or isinstance(reference, dict | list | tuple)


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
    if not isinstance(reference, str) and np.ndim(reference) and len(names) > 1:
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
