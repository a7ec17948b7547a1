"""Models that take strings: what makes numbers of them is cut off, because strings have no relevance."""

import dataclasses
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf

from revgraph.graph.analysis import leads_to_lookups
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Affine, Embedding


def from_numbers(graph: Graph) -> Graph:
    """The part of a graph behind the layers that make numbers of strings, such as TextVectorization and StringLookup.

    The numbers, such as the ids of words, take the place of the strings among the inputs. What makes them is kept in
    `Graph.strings`.

    Args:
        graph: The graph of a model.

    Returns:
        A graph without strings; the graph itself if it takes none.

    Raises:
        ValueError: The strings do not become one tensor of numbers.
    """
    for name, slot in zip(graph.input_names, graph.input_slots, strict=True):
        if graph.specs[slot].dtype == "string":
            graph = _cut(graph, name, slot)
    return graph


def _begins(call, front, made):
    """Whether a layer makes the numbers, or begins to: of tf-idf the counts are made here, and weighed behind."""
    inside = any(site.path == call.path or site.path.startswith(f"{call.path}/") for site in front)
    return made.issuperset(call.outputs) or (inside and hasattr(call.layer, "get_vocabulary"))


def _cut(graph: Graph, name: str, text: int) -> Graph:
    """The graph with the numbers that are made of an input of strings in the place of that input."""
    numbers = _first_numbers(graph, text)
    front = () if numbers is None else _needed(graph.sites, numbers)
    mixed = [n for n, s in zip(graph.input_names, graph.input_slots, strict=True) if s != text and _is_read(s, front)]
    if numbers is None or mixed:
        reason = f"mixes them with {', '.join(map(repr, mixed))}" if mixed else "makes no one tensor of numbers of them"
        raise ValueError(
            f"The model {graph.name!r} takes strings as {name!r}, and {reason}. Strings have no relevance: explain the "
            f"part of the model behind the layers that make numbers of them, such as TextVectorization."
        )
    strings = _reached([text], graph.sites, stop=numbers)
    made = {slot for site in front for slot in site.outputs}
    before = dataclasses.replace(
        graph,
        name=f"{graph.name}/{name}",
        sites=front,
        inputs=text,
        outputs=numbers,
        input_names=(name,),
        output_names=("numbers",),
        calls=tuple(call for call in graph.calls if call.outputs and _begins(call, front, made)),
        again=None,
        strings={},
    )
    return dataclasses.replace(
        graph,
        sites=tuple(site for site in graph.sites if strings.isdisjoint(site.inputs)),
        inputs=keras.tree.map_structure(lambda slot: numbers if slot == text else slot, graph.inputs),
        strings={**graph.strings, numbers: before},
    )


def _first_numbers(graph: Graph, text: int) -> int | None:
    """The slot of the numbers that are made of an input of strings, through which everything leads.

    Integers that are looked up in a table, such as ids of words, are such numbers. Other integers, such as counts, are
    followed to where they become floating numbers.
    """
    first = None
    for slot in _bottlenecks(graph, text):
        dtype = tf.as_dtype(graph.specs[slot].dtype)
        if dtype.is_floating:
            return slot
        if first is None and dtype.is_integer:
            first = slot
            if leads_to_lookups(slot, graph):
                break
    return first


def _bottlenecks(graph: Graph, text: int) -> Iterator[int]:
    """The slots, one behind the other, through which everything leads that a model makes of an input.

    They end in front of the first site with weights.
    """
    reached = _reached([text], graph.sites)
    last = {slot: len(graph.sites) for slot in graph.output_slots}
    for position, site in reversed(list(enumerate(graph.sites))):
        for slot in site.inputs:
            last.setdefault(slot, position)
    live = {text}
    for position, site in enumerate(graph.sites):
        if not live.isdisjoint(site.inputs) and isinstance(site.operation, Affine | Embedding):
            return
        live = {slot for slot in live | reached.intersection(site.outputs) if last.get(slot, -1) > position}
        if len(live) == 1 and live.issubset(site.outputs) and graph.specs[next(iter(live))].shape:
            yield from live


def _reached(slots: Iterable[int], sites: Iterable[Site], stop: int | None = None) -> set[int]:
    """These slots and all that are computed from them, but for `stop` and what is behind it."""
    found = set(slots)
    for site in sites:
        if not found.isdisjoint(site.inputs):
            found.update(slot for slot in site.outputs if slot != stop)
    return found


def _needed(sites: tuple[Site, ...], slot: int) -> tuple[Site, ...]:
    """The sites that compute a slot."""
    needed, found = {slot}, []
    for site in reversed(sites):
        if not needed.isdisjoint(site.outputs):
            needed.update(site.inputs)
            found.append(site)
    return tuple(reversed(found))


def _is_read(slot: int, sites: Iterable[Site]) -> bool:
    return any(slot in site.inputs for site in sites)
