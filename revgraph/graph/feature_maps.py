"""Feature maps: the tensors of a model whose places are those of an input, such as the output of a convolution."""

from collections.abc import Collection

from revgraph.graph.graph import Graph
from revgraph.graph.operations import Activation, Contraction

MOVES = ("Permute", "Reshape", "ReverseV2", "Transpose")
"""Labels of operations behind which a place stands no longer for the same place of the input."""


def feature_maps(graph: Graph, slot: int) -> frozenset[int]:
    """The slots of the feature maps of an input (batch, places..., channels), and of the input itself.

    A feature map has as many axes as the input, and several places. Behind a reshape, a transpose or a product of
    matrices there is none, because places are mixed or moved there: attention weights have axes, but no places. A
    recurrent layer that returns all steps moves places inside and back again, so its output is a feature map.

    Args:
        graph: The graph.
        slot: The slot of the input.
    """
    rank, found = len(graph.specs[slot].shape), {slot}
    steps = {call.outputs[0]: call.inputs for call in graph.calls if _returns_steps(call.layer)}
    for site in graph.sites:
        moved = isinstance(site.operation, Contraction) or site.operation.label in MOVES
        for s in site.outputs:
            read = steps.get(s, () if moved else site.inputs)
            if not found.isdisjoint(read) and _has_places(graph.specs[s], rank):
                found.add(s)
    return frozenset(found)


def _returns_steps(layer):
    """Whether a layer is a recurrent one whose output has the steps of the input, in their order."""
    first = getattr(layer, "forward_layer", layer)
    return bool(getattr(layer, "return_sequences", False)) and not getattr(first, "go_backwards", False)


def _has_places(spec, rank):
    return "float" in spec.dtype and len(spec.shape) == rank and any(size != 1 for size in spec.shape[1:-1])


def last_feature_map(graph: Graph, slot: int, starts: Collection[int]) -> int | None:
    """The slot of the last feature map of an input from which a start is computed; None if there is none.

    What is in front of the activation of a start is the start itself, in this sense.

    Args:
        graph: The graph.
        slot: The slot of the input.
        starts: Slots at which relevance starts.
    """
    producers = graph.producers()
    makers = [producers[s] for s in starts if s in producers]
    before = {s for site in makers if isinstance(site.operation, Activation) for s in site.inputs}
    needed, maps = set(starts), feature_maps(graph, slot) - {slot, *starts} - before
    for site in reversed(graph.sites):
        if needed.isdisjoint(site.outputs):
            continue
        found = [s for s in site.outputs if s in needed and s in maps]
        if found:
            return found[0]
        needed.update(site.inputs)
    return None
