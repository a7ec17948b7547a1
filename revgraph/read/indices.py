"""Finds ids, such as tokens, in floating inputs: numbers that become integers and are looked up in a table."""

import dataclasses

import tensorflow as tf

from revgraph.graph.analysis import leads_to_lookups, slots_of_indices
from revgraph.graph.graph import Graph, Spec
from revgraph.graph.operations import Embedding, Inert, Routing, Truncation
from revgraph.read.savedmodel.nodes import TensorFlowOperation

INTEGERS = "int32"
"""The dtype that inputs of ids get."""


def find_indices(graph: Graph) -> Graph:
    """Makes inputs that hold ids integers, and marks where ids among other numbers become integers.

    An input holds ids if its entries are looked up in a table and not used in any other way, whatever dtype the
    model declares for it. Methods that multiply by inputs, or change them, need to know which inputs hold ids. Where
    ids stand beside other numbers in one floating input, their cast becomes a `Truncation`.

    Args:
        graph: The graph of a model.

    Returns:
        A graph with the same outputs.
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
    """A site for inputs that are integers now. A cast only moves ids; a comparison gets floating numbers, as before."""
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


def _truncations(graph: Graph) -> Graph:
    """The graph with a `Truncation` for each cast from floating numbers to integers that are looked up."""
    looked_up, entries = slots_of_indices(graph), set(graph.input_slots)
    sites = []
    for site in graph.sites:
        floats = [slot for slot in site.inputs if "float" in graph.specs[slot].dtype]
        if isinstance(site.operation, Routing) and site.operation.copies and entries.issuperset(floats):
            entries.update(site.outputs)
        if _is_cast(site.operation) and entries.issuperset(floats) and floats and looked_up.issuperset(site.outputs):
            operation = Truncation(_cast(graph.specs[site.outputs[0]].dtype), "Cast", copies=True, fixed=True)
            site = dataclasses.replace(site, operation=operation)
        sites.append(site)
    return graph.rewrite(sites)


def _is_cast(operation):
    return isinstance(operation, TensorFlowOperation) and operation.operation.type == "Cast"


def _cast(dtype):
    return lambda x: tf.cast(x, dtype)


def _only_looked_up(graph: Graph) -> set[int]:
    """The floating slots whose readers all look entries up, compare them, or move them to such slots."""
    readers = graph.consumers()
    found: set[int] = set()
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
