"""Checks ids, such as those of tokens, before the model looks them up in a table.

On a CPU TensorFlow fails at an id outside of the table, with pages of its own. On a GPU it takes a row of zeros.
"""

import weakref
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Embedding, Inert, Renumbering, Routing
from revgraph.reverse.failures import RefusedInputError

_known: MutableMapping[Graph, tuple[list[Site], dict[Site, int]]] = weakref.WeakKeyDictionary()


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
        _known[graph] = _lookups(graph)
    sites, tables = _known[graph]
    if not tables:
        return
    for site, ids in _looked_up(inputs, graph, sites, tables).items():
        rows = np.asarray(site.operation.rows(ids))
        wrong = (rows < 0) | (rows >= tables[site])
        if wrong.any():
            given = np.asarray(_looked_up(inputs, graph, sites, tables, renumber=False)[site])
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise RefusedInputError(
                f"Input {_source(site, sites, graph)!r} has the id {given[where]} (at {list(where)}), which is no row "
                f"of the table {site.path!r}. The table has {tables[site]} rows{_range(rows, given, tables[site])}. "
                f"Give ids of the vocabulary with which the model was made, or map unknown ones to its id for unknown "
                f"tokens."
            )


def _range(rows, given, size):
    """Which ids the table takes, where they are the numbers of its rows."""
    return f", so ids go from 0 to {size - 1}" if np.array_equal(rows, given) else ""


def _looked_up(inputs, graph, sites, tables, renumber=True):
    """The ids that each table gets; with `renumber=False` the numbers that they have in the input."""
    values = {slot: graph.cast(slot, x) for slot, x in zip(graph.input_slots, inputs, strict=True)}
    found = {}
    for site in sites:
        arguments = [values[slot] for slot in site.inputs]
        if site in tables:
            (found[site],) = arguments
            continue
        stays = isinstance(site.operation, Renumbering) and not renumber
        outputs = arguments if stays else site.operation(arguments, {})
        values.update(zip(site.outputs, outputs, strict=True))
    return found


def _lookups(graph):
    """The sites that only move or renumber entries of inputs on their way to tables, and the size of each table."""
    reached = set(graph.input_slots)
    sites, tables = [], {}
    for site in graph.sites:
        if not reached.issuperset(site.inputs) or not site.inputs:
            continue
        if isinstance(site.operation, Embedding):
            tables[site] = int(site.operation.read("float32")["embeddings"].shape[0])
            sites.append(site)
        elif isinstance(site.operation, Routing) and site.operation.copies and not isinstance(site.operation, Inert):
            reached.update(site.outputs)
            sites.append(site)
    needed = {slot for site in tables for slot in site.inputs}
    kept = []
    for site in reversed(sites):
        if site in tables or not needed.isdisjoint(site.outputs):
            needed.update(site.inputs)
            kept.append(site)
    return kept[::-1], tables


def _source(site, sites, graph):
    """The name of the first input from which the ids come that a site looks up."""
    slots = set(site.inputs)
    for other in reversed(sites):
        if not slots.isdisjoint(other.outputs):
            slots.update(other.inputs)
    return next(name for name, slot in zip(graph.input_names, graph.input_slots, strict=True) if slot in slots)
