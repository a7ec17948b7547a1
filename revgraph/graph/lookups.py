"""Lookups: where a model takes rows of tables for the ids among its inputs, and what can be moved there."""

import dataclasses

from revgraph.graph.gates import is_mask
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    Embedding,
    Inert,
    Product,
    Quotient,
    Renumbering,
    Routing,
    Scale,
    Sum,
    Truncation,
)

IN_PLACE = ("Cast", "Identity")
"""Names of routings that leave every entry where it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lookups:
    """The sites that look up ids of a graph's inputs.

    Args:
        tables: Sites that take rows of a table for ids.
        moves: Sites that move or renumber ids on their way to the tables.
        sources: For each of the tables, the names of the inputs from which its ids come.
    """

    tables: tuple[Site, ...]
    moves: tuple[Site, ...]
    sources: dict[Site, frozenset[str]]

    @property
    def names(self) -> frozenset[str]:
        """The names of the inputs that have ids."""
        return frozenset().union(*self.sources.values())

    @property
    def in_place(self) -> bool:
        """Whether ids come to the tables in the places that they have in the inputs."""
        return all(
            isinstance(site.operation, Renumbering | Truncation) or site.operation.label in IN_PLACE
            for site in self.moves
        )

    def slots(self, graph: Graph) -> frozenset[int]:
        """The slots of the ids: of the inputs that have them, and where they are moved."""
        inputs = (slot for name, slot in zip(graph.input_names, graph.input_slots, strict=True) if name in self.names)
        return frozenset((*inputs, *(slot for site in self.moves for slot in site.outputs)))


def lookups(graph: Graph) -> Lookups:
    """The sites that look up ids of the inputs. Numbers that are computed in another way are not followed.

    Args:
        graph: The graph.
    """
    names = {slot: frozenset([name]) for name, slot in zip(graph.input_names, graph.input_slots, strict=True)}
    moves, tables = [], []
    for site in graph.sites:
        if not site.inputs or not names.keys() >= {*site.inputs}:
            continue
        if isinstance(site.operation, Embedding):
            tables.append(site)
        elif isinstance(site.operation, Routing) and site.operation.copies and not isinstance(site.operation, Inert):
            moves.append(site)
            names.update(dict.fromkeys(site.outputs, frozenset().union(*(names[slot] for slot in site.inputs))))
    needed, kept = {slot for site in tables for slot in site.inputs}, list[Site]()
    for site in reversed(moves):
        if not needed.isdisjoint(site.outputs):
            needed.update(site.inputs)
            kept.append(site)
    return Lookups(tuple(tables), tuple(reversed(kept)), {site: names[site.inputs[0]] for site in tables})


def held(graph: Graph) -> frozenset[str]:
    """The names of inputs that only say what to leave out or to take, such as a mask of padding, or places of tokens.

    They are truth values, or integers that are no ids. Such integers say where entries of other tensors are taken from
    or put. Or they stand beside ids, one for each, and become masks: they choose entries, or are added to or multiplied
    with what is computed from other inputs, and go into no layer with weights.

    Args:
        graph: The graph.
    """
    specs = dict(zip(graph.input_names, (graph.specs[slot] for slot in graph.input_slots), strict=True))
    slots = dict(zip(graph.input_names, graph.input_slots, strict=True))
    ids = lookups(graph).names
    shapes = {specs[name].shape for name in ids}

    def is_held(name, spec):
        if "int" not in spec.dtype or name in ids:
            return spec.dtype == "bool"
        return _only_places(slots[name], graph) or (spec.shape in shapes and _only_masks(slots[name], graph))

    return frozenset(name for name, spec in specs.items() if is_held(name, spec))


def _only_places(slot: int, graph: Graph) -> bool:
    """Whether integers only say from where entries of what is computed from other inputs are moved, or to where."""
    producers, made, used = graph.producers(), {slot}, False
    for site in graph.sites:
        if made.isdisjoint(site.inputs):
            continue
        if all("float" not in graph.specs[s].dtype for s in site.outputs):
            made.update(site.outputs)
            continue
        moves = isinstance(site.operation, Routing) and site.operation.copies
        if not moves or all(is_mask(s, producers, graph.specs) for s in site.inputs):
            return False
        used = True
    return used and made.isdisjoint(graph.output_slots)


def _only_masks(slot: int, graph: Graph) -> bool:
    """Whether what is made of integers alone only masks what is made of other inputs.

    Truth values that are made of the integers are followed no further.
    """
    producers, made = graph.producers(), {slot}
    for site in graph.sites:
        ends = all(graph.specs[s].dtype == "bool" for s in site.outputs)
        if made.isdisjoint(site.inputs) or ends:
            continue
        if all(is_mask(s, producers, graph.specs) for s in site.inputs):
            if not isinstance(site.operation, Routing | Scale | Sum | Product | Activation):
                return False
            if not isinstance(site.operation, Inert):
                made.update(site.outputs)
        elif not isinstance(site.operation, Sum | Product | Quotient | Activation | AveragePool):
            return False
    return made.isdisjoint(graph.output_slots)
