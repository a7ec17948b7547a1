"""Ids that come in floating tensors: numbers that are made integers and looked up in a table."""

import dataclasses

import tensorflow as tf

from revgraph.graph.analysis import leads_to_lookups, slots_of_indices
from revgraph.graph.graph import Graph, Spec
from revgraph.graph.operations import Embedding, Inert, Routing, Truncation
from revgraph.read.savedmodel.nodes import TensorFlowOperation

INTEGERS = "int32"


def find_indices(graph: Graph) -> Graph:
    """Makes inputs of ids integers, and says where ids among other numbers become integers.

    An input whose entries are looked up, and nothing else, holds ids, whatever dtype the model declares. Whoever
    changes inputs or multiplies by them has to know.
    """
    graph = _truncations(graph)
    ids = _only_looked_up(graph)
    inputs = ids.intersection(graph.input_slots)
    if not inputs:
        return graph
    moved = set(inputs)
    for site in graph.sites:
        if not moved.isdisjoint(site.inputs) and ids.issuperset(site.outputs):
            moved.update(site.outputs)
    sites = [_on_integers(site, moved, graph) for site in graph.sites]
    specs = {slot: Spec(spec.shape, INTEGERS) if slot in moved else spec for slot, spec in graph.specs.items()}
    return dataclasses.replace(graph, sites=tuple(sites), specs=specs)


def _on_integers(site, moved, graph):
    """A site whose input is integers now: a cast moves them, and comparisons get the numbers that they were."""
    if isinstance(site.operation, Truncation) and moved.issuperset(site.inputs):
        cast = Routing(site.operation.function, "Cast", copies=True, fixed=True, keeps_sign=True)
        return dataclasses.replace(site, operation=cast)
    if not isinstance(site.operation, Inert):
        return site
    dtypes = [graph.specs[slot].dtype if slot in moved else None for slot in site.inputs]
    if not any(dtypes):
        return site
    function = site.operation.function

    def compare(*tensors):
        return function(*(x if t is None else tf.cast(x, t) for x, t in zip(tensors, dtypes, strict=True)))

    return dataclasses.replace(site, operation=dataclasses.replace(site.operation, function=compare))


def _truncations(graph) -> Graph:
    """The graph with a `Truncation` where floating numbers are made integers that are looked up."""
    looked_up, entries = slots_of_indices(graph), set(graph.input_slots)
    sites = []
    for site in graph.sites:
        (first, *_), floats = (*site.inputs, None), [s for s in site.inputs if "float" in graph.specs[s].dtype]
        if isinstance(site.operation, Routing) and site.operation.copies and entries.issuperset(floats):
            entries.update(site.outputs)
        if _is_cast(site.operation) and floats == [first] and first in entries and looked_up.issuperset(site.outputs):
            operation = Truncation(_cast(graph.specs[site.outputs[0]].dtype), "Cast", copies=True, fixed=True)
            site = dataclasses.replace(site, operation=operation)
        sites.append(site)
    return graph.rewrite(sites)


def _is_cast(operation):
    return isinstance(operation, TensorFlowOperation) and operation.operation.type == "Cast"


def _cast(dtype):
    return lambda x: tf.cast(x, dtype)


def _only_looked_up(graph) -> set[int]:
    """The floating slots whose readers all look entries up, compare them, or move them to such slots."""
    readers, found = graph.consumers(), set()
    for slot in sorted(graph.specs, reverse=True):
        if slot in graph.output_slots or "float" not in graph.specs[slot].dtype or not readers[slot]:
            continue
        if all(_looks_up(site, found) for site in readers[slot]) and leads_to_lookups(slot, graph, readers):
            found.add(slot)
    return found


def _looks_up(site, found):
    if isinstance(site.operation, Embedding | Inert | Truncation):
        return True
    return isinstance(site.operation, Routing) and site.operation.copies and found.issuperset(site.outputs)
