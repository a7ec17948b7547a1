"""Finds caches of keys and values, which a model takes from its last call and hands to its next one."""

from collections.abc import Mapping

from revgraph.graph.gates import is_mask
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Contraction, Inert, Routing


def updated_caches(graph: Graph) -> list[tuple[str, str]]:
    """The caches of a model: inputs that come back in an output, with entries that were computed from other inputs.

    Such an output only moves its entries together, and a product of matrices, as in attention, reads them.

    Args:
        graph: The graph.

    Returns:
        Pairs of the name of the input and the name of the output.
    """
    producers = graph.producers()
    read = _moved([slot for s in graph.sites if isinstance(s.operation, Contraction) for slot in s.inputs], producers)
    found = []
    for output, slot in zip(graph.output_names, graph.output_slots, strict=True):
        moved = _moved([slot], producers)
        floating = {s for s in moved & read if not is_mask(s, producers, graph.specs)}
        computed = {s for s in floating if s in producers and not _moves(producers[s])}
        for name, cache in zip(graph.input_names, graph.input_slots, strict=True):
            if cache in floating and computed and slot != cache:
                found.append((name, output))
    return found


def _moved(slots: list[int], producers: Mapping[int, Site]) -> set[int]:
    """The slots from which entries are moved to some slots, these included."""
    found, stack = set(slots), list(slots)
    while stack:
        site = producers.get(stack.pop())
        if site is not None and _moves(site):
            stack += [slot for slot in site.inputs if slot not in found]
            found.update(site.inputs)
    return found


def _moves(site: Site) -> bool:
    operation = site.operation
    return isinstance(operation, Routing) and operation.copies and not isinstance(operation, Inert)
