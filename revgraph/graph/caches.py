"""Finds caches of keys and values, which a model takes from its last call and hands to its next one."""

from collections.abc import Callable, Mapping

from revgraph.graph.attentions import attentions
from revgraph.graph.gates import is_mask
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Contraction, Inert, Routing


def returned_caches(graph: Graph) -> list[tuple[str, str]]:
    """The inputs of a model that come back in an output, with entries that were computed from other inputs.

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


def joined_caches(graph: Graph) -> list[str]:
    """The inputs of a model that attention reads as keys or values, beside some that are computed from other inputs.

    Both the keys and the values are entries of an input that are moved together with computed ones, and these differ:
    they are made by layers of their own. Tokens that have no layers for keys and values are thus no cache.

    Args:
        graph: The graph.

    Returns:
        The names of the inputs.
    """
    producers = graph.producers()
    found = set[int]()
    for attention in attentions(graph):
        mixed = producers[attention.mixed]
        values = _joined([slot for slot in mixed.inputs if slot != attention.weights], graph, producers)
        made = _behind(attention.weights, producers, lambda site: isinstance(site.operation, Contraction))
        for product in {producers[slot] for slot in made if slot in producers}:
            for keys in (_joined([slot], graph, producers) for slot in product.inputs):
                if all(keys) and all(values) and keys[1] != values[1]:
                    found |= keys[0] | values[0]
    return [name for name, slot in zip(graph.input_names, graph.input_slots, strict=True) if slot in found]


def _joined(slots: list[int], graph: Graph, producers: Mapping[int, Site]) -> tuple[frozenset[int], frozenset[int]]:
    """Inputs whose entries are moved to some slots, and what is moved there that is computed from other inputs."""
    floating = {s for s in _moved(slots, producers) if not is_mask(s, producers, graph.specs)}
    inputs = frozenset(floating.intersection(graph.input_slots))
    computed = [s for s in floating if s in producers and not _moves(producers[s])]
    return inputs, frozenset(s for s in computed if _sources(s, graph, producers) - inputs)


def _sources(slot, graph, producers):
    """The inputs of the model on which a slot depends."""
    return _behind(slot, producers, lambda site: False) & {*graph.input_slots}


def _behind(slot: int, producers: Mapping[int, Site], stop: Callable[[Site], bool]) -> set[int]:
    """The ends of what leads to a slot: the model's inputs, and the outputs of sites at which to stop."""
    ends, seen, stack = set[int](), {slot}, [slot]
    while stack:
        slot = stack.pop()
        site = producers.get(slot)
        if site is None or stop(site):
            ends.add(slot)
            continue
        stack += [below for below in site.inputs if below not in seen]
        seen.update(site.inputs)
    return ends


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
