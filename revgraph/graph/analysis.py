"""What can be known of a graph without running it."""

import functools
import heapq

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import (
    Activation,
    Convolutional,
    Dense,
    Einsum,
    Embedding,
    Inert,
    Operation,
    Product,
    Routing,
    Scale,
    Sum,
    Truncation,
    ZeroPad,
)

GATE_TRAITS = ("gate", "squash", "self_gate")
"""Traits by which a factor of a product is known as a gate, those that tell most first."""


def is_linear_layer(operation: Operation) -> bool:
    """Whether an operation is a linear layer proper, with a kernel that mixes or filters its inputs."""
    return isinstance(operation, Dense | Einsum | Convolutional)


def is_padding(operation: Operation) -> bool:
    """Whether an operation puts zeros beside its entries, or in the place of some, and leaves the rest as they are."""
    return isinstance(operation, ZeroPad) or (isinstance(operation, Routing) and operation.name == "Masking")


def first_linear_sites(graph: Graph) -> frozenset[Site]:
    """The linear layers that see an input through nothing but reshapes, padding, scaling and normalization."""
    reach, first = set(graph.input_slots), set()
    for site in graph.sites:
        if not reach.intersection(site.inputs):
            continue
        if is_linear_layer(site.operation):
            first.add(site)
        elif isinstance(site.operation, Scale) or is_padding(site.operation) or getattr(site.operation, "fixed", False):
            reach.update(site.outputs)
    return frozenset(first)


class Facts:
    """What matchers of a composite may ask about a graph; worked out once, when first asked."""

    def __init__(self, graph: Graph):
        self.graph = graph

    @functools.cached_property
    def linear(self) -> tuple[Site, ...]:
        """The linear layers in the order of execution."""
        return tuple(site for site in self.graph.sites if is_linear_layer(site.operation))

    @functools.cached_property
    def first_linear(self) -> frozenset[Site]:
        """The linear layers that see an input through nothing but reshapes, padding, scaling and normalization."""
        return first_linear_sites(self.graph)

    @functools.cached_property
    def producers(self) -> dict[int, Site]:
        """The site that writes each slot."""
        return self.graph.producers()

    @functools.cached_property
    def integers(self) -> frozenset[int]:
        """The slots of integers that are entries of an input, in whatever place; others are computed."""
        found = {slot for slot in self.graph.input_slots if "int" in self.graph.specs[slot].dtype}
        shapes = set()
        for site in self.graph.sites:
            if isinstance(site.operation, Inert):
                shapes.update(site.outputs)
            # An operation beside its reference writes two of each.
            integers = [s for s in site.inputs if "int" in self.graph.specs[s].dtype and s not in shapes]
            operation = getattr(site.operation, "operation", site.operation)
            moves = isinstance(operation, Routing) and operation.copies and not isinstance(operation, Inert)
            if isinstance(operation, Truncation) or (integers and found.issuperset(integers) and moves):
                found.update(slot for slot in site.outputs if "int" in self.graph.specs[slot].dtype)
        return frozenset(found)

    @functools.cached_property
    def from_integers(self) -> frozenset[int]:
        """The slots of integers that are entries of an input, or are computed from those."""
        found = set(self.integers)
        for site in self.graph.sites:
            if not found.isdisjoint(site.inputs) and not isinstance(site.operation, Inert):
                found.update(slot for slot in site.outputs if "int" in self.graph.specs[slot].dtype)
        return frozenset(found)

    def of_samples(self, slots) -> tuple[int, ...]:
        """Those slots whose entries may have relevance; shapes, counters and truth values have none."""
        specs = self.graph.specs
        return tuple(s for s in slots if specs[s].shape and ("float" in specs[s].dtype or s in self.integers))

    def moves_integers(self, site: Site) -> bool:
        """Whether a site only moves integers of the input, or makes floating numbers of them."""
        operation, specs = site.operation, self.graph.specs
        # Other integers are made of shapes.
        integers = [slot for slot in site.inputs if slot in self.from_integers]
        if not (isinstance(operation, Routing) and self.integers.issuperset(integers)):
            return False
        # What mixes integers gives the relevance of floating numbers to them, but is no place to look up another.
        if not (operation.copies or all("float" in specs[slot].dtype for slot in site.outputs)):
            return False
        # Several integers may say where to move each other, and integers may say where to move constants.
        moved = operation.fixed or len(integers) == 1
        stay = not operation.fills or all("int" in specs[slot].dtype for slot in site.outputs)
        return moved and stay and not any("float" in specs[slot].dtype for slot in site.inputs)

    @functools.cached_property
    def _position(self):
        return {site: i for i, site in enumerate(self.graph.sites)}

    def signals(self, site: Site) -> tuple[int, ...]:
        """Which factors of a product are signals, the others being gates; all where none is known to be a gate.

        A gate is a factor that comes from a sigmoid, a softmax or the like; or else from a tanh; or else from a SiLU
        or another function that gates itself; or else one that is broadcast. Moves, masks, scale and shift may follow.
        """
        return signals(site, self.producers, self.graph.specs)

    def identity_branch(self, site: Site) -> int | None:
        """Which summand of a residual sum came past the layers of the block; None where that cannot be told.

        Of the branches that lead from a common tensor to the sum it is the one with the fewest linear layers: the
        shortcut, whether it is the tensor itself or a projection of it.
        """
        depths = self._branch_depths(site)
        shortest = [i for i, depth in enumerate(depths) if depth == min(depths)]
        return shortest[0] if len(shortest) == 1 else None

    def _branch_depths(self, site):
        """For each input of a site the number of linear layers on its branch alone, back to where all have met."""
        everyone = (1 << len(site.inputs)) - 1
        readers, queue = {}, []

        def reach(slot, branches):
            if slot not in readers:
                heapq.heappush(queue, (-self._position.get(self.producers.get(slot), -1), slot))
            readers[slot] = readers.get(slot, 0) | branches

        for i, slot in enumerate(site.inputs):
            reach(slot, 1 << i)
        depths = [0] * len(site.inputs)
        while any(readers[slot] != everyone for _, slot in queue):
            _, slot = heapq.heappop(queue)
            producer = self.producers.get(slot)
            if producer is None:
                continue
            if is_linear_layer(producer.operation):
                depths = [depth + (readers[slot] == 1 << i) for i, depth in enumerate(depths)]
            for below in producer.inputs:
                reach(below, readers[slot])
        return depths


def signals(site: Site, producers, specs) -> tuple[int, ...]:
    """Which factors of a product are signals; see `Facts.signals`."""
    found = range(len(site.inputs))
    elementwise = isinstance(site.operation, Product)
    # Attention weights are gates. Other functions do not make a gate of a matrix.
    for trait in GATE_TRAITS if elementwise else GATE_TRAITS[:1]:
        found = [i for i in found if not _is_gate(site.inputs[i], trait, producers, specs)] or found
    if elementwise:
        found = [i for i in found if not _is_broadcast(specs[site.inputs[i]], specs[site.outputs[0]])] or found
    return tuple(found)


def _is_gate(slot, trait, producers, specs) -> bool:
    """Whether a factor comes from an activation of that trait, seen through moves, masks, scale and shift."""
    while slot in producers:
        site = producers[slot]
        operation = site.operation
        if isinstance(operation, Activation):
            return getattr(operation.traits, trait)
        if isinstance(operation, Product):
            if trait == "self_gate" and is_self_gated(site, producers):
                return True
            return all(_is_gate(factor, trait, producers, specs) for factor in site.inputs)
        floating = [i for i in site.inputs if "float" in specs[i].dtype]
        if isinstance(operation, Routing) and not floating:
            return trait == "gate" and any(specs[i].dtype == "bool" for i in site.inputs)
        if not isinstance(operation, Routing | Scale) or len(floating) != 1:
            return False
        (slot,) = floating
    return False


def is_self_gated(site: Site, producers) -> bool:
    """Whether a product is a signal times a gate of that signal, such as x * sigmoid(x): an activation spelt out."""
    return bool(self_gates(site.inputs, producers))


def self_gates(factors, producers) -> dict[int, int]:
    """The factors of a product that are gates of another factor, entry by entry.

    Returns:
        Position of each such gate -> position of the factor from which it is computed.
    """
    found = {}
    for i, gate in enumerate(factors):
        sources = _sources_of_gate(gate, producers)
        signals = [j for j, factor in enumerate(factors) if factor != gate and sources & _scaled(factor, producers)]
        if signals:
            found[i] = signals[0]
    return found


def _scaled(slot, producers) -> frozenset[int]:
    """A slot, and the slots of which it is a multiple or a shift."""
    slots = {slot}
    while slot in producers and isinstance(producers[slot].operation, Scale):
        (slot,) = producers[slot].inputs
        slots.add(slot)
    return frozenset(slots)


def _sources_of_gate(slot, producers) -> frozenset[int]:
    """The slots of which a gate is a function entry by entry; none where the factor does not squash."""
    while slot in producers and isinstance(producers[slot].operation, Scale):
        (slot,) = producers[slot].inputs
    if slot not in producers or not isinstance(producers[slot].operation, Activation):
        return frozenset()
    traits = producers[slot].operation.traits
    if not (traits.pointwise and (traits.gate or traits.squash)):
        return frozenset()
    return _pointwise_sources(producers[slot].inputs[0], producers, {})


def _pointwise_sources(slot, producers, known) -> frozenset[int]:
    """The slots of which a slot is a function entry by entry, itself included."""
    if slot not in known:
        site, sources = producers.get(slot), frozenset()
        if site is not None and (isinstance(site.operation, Scale | Sum | Product) or site.operation.traits.pointwise):
            sources = frozenset.intersection(*(_pointwise_sources(below, producers, known) for below in site.inputs))
        known[slot] = sources | {slot}
    return known[slot]


def _is_broadcast(spec, output):
    """Whether a factor has one entry where the product has many."""
    shape = (1,) * (len(output.shape) - len(spec.shape)) + tuple(spec.shape)
    return any(n == 1 and m != 1 for n, m in list(zip(shape, output.shape, strict=True))[1:])


def slots_of_indices(graph: Graph) -> frozenset[int]:
    """The slots of integers that are looked up in a table, at once or after they were moved."""
    found = set()
    for site in reversed(graph.sites):
        # An operation beside its reference reads and writes two of each.
        operation = getattr(site.operation, "operation", site.operation)
        moved = isinstance(operation, Routing) and not found.isdisjoint(site.outputs)
        if isinstance(operation, Embedding) or moved:
            found.update(slot for slot in site.inputs if "int" in graph.specs[slot].dtype)
    return frozenset(found)


def leads_to_lookups(slot, graph: Graph, readers=None) -> bool:
    """Whether entries of a slot are looked up in a table, at once or after they were moved or made integers."""
    readers, seen, stack = readers or graph.consumers(), set(), [slot]
    while stack:
        slot = stack.pop()
        for site in readers[slot]:
            if isinstance(site.operation, Embedding):
                return True
            if isinstance(site.operation, Routing) and site.operation.copies and not isinstance(site.operation, Inert):
                stack.extend(s for s in site.outputs if s not in seen)
                seen.update(site.outputs)
    return False


def inputs_with_indices(graph: Graph) -> list[str]:
    """The names of floating inputs in which ids, which are looked up in a table, stand beside other numbers."""
    return [
        name
        for name, slot in zip(graph.input_names, graph.input_slots, strict=True)
        if "float" in graph.specs[slot].dtype and leads_to_lookups(slot, graph)
    ]
