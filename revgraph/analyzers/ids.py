"""Checks ids, such as those of tokens, before the model looks them up in a table.

On a CPU TensorFlow fails at an id outside of the table, with pages of its own. On a GPU it takes a row of zeros.
"""

import weakref
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np

from revgraph.graph.graph import Graph, Site
from revgraph.graph.lookups import Lookups, lookups
from revgraph.graph.operations import Renumbering
from revgraph.reverse.failures import RefusedInputError

_known: MutableMapping[Graph, tuple[Lookups, dict[Site, int]]] = weakref.WeakKeyDictionary()


def check_ids(inputs: Sequence[Any], graph: Graph) -> None:
    """Checks that ids among the inputs are rows of the tables in which they are looked up.

    Ids are followed through moves and renumbering. Numbers that are computed in another way are not checked.

    Args:
        inputs: Arrays or tensors, in flat order.
        graph: The graph.

    Raises:
        RefusedInputError: An id is no row of its table.
    """
    if graph not in _known:
        found = lookups(graph)
        sizes = {site: int(site.operation.read("float32")["embeddings"].shape[0]) for site in found.tables}
        _known[graph] = found, sizes
    found, sizes = _known[graph]
    if not found.tables:
        return
    for site, ids in _looked_up(inputs, graph, found).items():
        rows = np.asarray(site.operation.rows(ids))
        wrong = (rows < 0) | (rows >= sizes[site])
        if wrong.any():
            given = np.asarray(_looked_up(inputs, graph, found, renumber=False)[site])
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            name = next(name for name in graph.input_names if name in found.sources[site])
            raise RefusedInputError(
                f"Input {name!r} has the id {given[where]} (at {list(where)}), which is no row of the table "
                f"{site.path!r}. The table has {sizes[site]} rows{_range(rows, given, sizes[site])}. Give ids of the "
                f"vocabulary with which the model was made, or map unknown ones to its id for unknown tokens."
            )


def _range(rows, given, size):
    """Which ids the table takes, where they are the numbers of its rows."""
    return f", so ids go from 0 to {size - 1}" if np.array_equal(rows, given) else ""


def _looked_up(inputs, graph, found, renumber=True):
    """The ids that each table gets; with `renumber=False` the numbers that they have in the input."""
    values = {slot: graph.cast(slot, x) for slot, x in zip(graph.input_slots, inputs, strict=True)}
    for site in found.moves:
        arguments = [values[slot] for slot in site.inputs]
        stays = isinstance(site.operation, Renumbering) and not renumber
        outputs = arguments if stays else site.operation(arguments, {})
        values.update(zip(site.outputs, outputs, strict=True))
    return {site: values[site.inputs[0]] for site in found.tables}
