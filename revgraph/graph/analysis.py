"""What can be known of a graph without running it."""

import functools
import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

from revgraph.graph.gates import GATE_TRAITS, is_broadcast, is_divisor, is_gate, is_made_by_weights, is_mask
from revgraph.graph.graph import Graph, Site
from revgraph.graph.loops import Loop
from revgraph.graph.operations import (
    Activation,
    Contraction,
    Convolutional,
    Dense,
    Einsum,
    Embedding,
    Inert,
    Joined,
    Normalize,
    Operation,
    Product,
    Routing,
    Scale,
    Sum,
    Table,
    Truncation,
    ZeroPad,
)


def is_linear_layer(operation: Operation) -> bool:
    """Whether an operation is a linear layer, which means a dense layer or a convolution."""
    return is_dense(operation) or is_convolution(operation)


def is_dense(operation: Operation) -> bool:
    """Whether an operation is a dense layer, or several that are joined."""
    return isinstance(operation, Dense | Einsum) or (isinstance(operation, Joined) and not is_convolution(operation))


def is_convolution(operation: Operation) -> bool:
    """Whether an operation is a convolution, or several linear layers that are joined, one of them a convolution."""
    parts = operation.parts if isinstance(operation, Joined) else (operation,)
    return any(isinstance(part, Convolutional) for part in parts)


def is_padding(operation: Operation) -> bool:
    """Whether an operation pads with zeros, or masks entries with zeros, and leaves the other entries as they are."""
    return isinstance(operation, ZeroPad) or (isinstance(operation, Routing) and operation.name == "Masking")


def shifts(site: Site, producers: Mapping[int, Site]) -> bool:
    """Whether a site adds a table of weights to a tensor, which it reads first."""
    added = [producers.get(slot) for slot in site.inputs[1:]]
    return isinstance(site.operation, Sum) and all(s is not None and isinstance(s.operation, Table) for s in added)


def first_linear_sites(graph: Graph, inputs: Iterable[int] | None = None) -> frozenset[Site]:
    """The linear layers that read an input, directly or behind reshapes, padding, scaling and normalization.

    Args:
        graph: The graph.
        inputs: Slots of the inputs of the model; by default those of the graph.
    """
    first, _ = _reached(graph, inputs)
    return first


def reached_by_inputs(graph: Graph, inputs: Iterable[int] | None = None) -> frozenset[int]:
    """The slots of the inputs, and those behind them through reshapes, padding, scaling and normalization alone."""
    _, reach = _reached(graph, inputs)
    return reach


def _reached(graph, inputs):
    reach, first = set(graph.input_slots if inputs is None else inputs), set[Site]()
    producers = graph.producers()
    for site in graph.sites:
        if not reach.intersection(site.inputs):
            continue
        if is_linear_layer(site.operation):
            first.add(site)
        elif _scales(site, producers) or is_padding(site.operation) or getattr(site.operation, "fixed", False):
            reach.update(site.outputs)
    return frozenset(first), frozenset(reach)


def _scales(site, producers):
    return isinstance(site.operation, Scale) or shifts(site, producers)


class Facts:
    """What is known of a graph. Matchers and rules use it. Each fact is computed when it is first asked for.

    Args:
        graph: The graph.
        inputs: Slots of the inputs of the model. By default those of the graph. The body of a loop names them, because
            most of its inputs are states.
        around: What is known of the graph around, if the graph is the body of a loop.
    """

    def __init__(self, graph: Graph, inputs: Collection[int] | None = None, around: "Facts | None" = None) -> None:
        self.graph = graph
        self.inputs: Collection[int] = graph.input_slots if inputs is None else inputs
        self.around = around

    @functools.cached_property
    def linear(self) -> tuple[Site, ...]:
        """The linear layers in the order of execution. Those inside of a loop stand in its place."""
        return _linear(self.graph) if self.around is None else self.around.linear

    @functools.cached_property
    def first_linear(self) -> frozenset[Site]:
        """The linear layers that read an input, directly or behind reshapes, padding, scaling and normalization."""
        return first_linear_sites(self.graph, self.inputs)

    @functools.cached_property
    def reached_by_inputs(self) -> frozenset[int]:
        """The slots of the inputs, and those behind them through reshapes, padding, scaling and normalization alone."""
        return reached_by_inputs(self.graph, self.inputs)

    @functools.cached_property
    def projections(self) -> frozenset[Site]:
        """The linear layers that make queries, keys and values of an attention, or read what it gives.

        Moves, scale, activations and normalizations may stand between them and the products of matrices.
        """
        products = [site for site in self.graph.sites if isinstance(site.operation, Contraction)]
        writers = {slot: [site] for slot, site in self.producers.items()}
        before = _first_linear([slot for site in products for slot in site.inputs], writers, lambda site: site.inputs)
        readers = self.graph.consumers()
        behind = _first_linear([slot for site in products for slot in site.outputs], readers, lambda site: site.outputs)
        return frozenset(before | behind)

    @functools.cached_property
    def producers(self) -> dict[int, Site]:
        """The site that writes each slot."""
        return self.graph.producers()

    @functools.cached_property
    def integers(self) -> frozenset[int]:
        """The slots of integers that are entries of an input, such as token ids, perhaps moved to other places."""
        found = {slot for slot in self.inputs if "int" in self.graph.specs[slot].dtype}
        shapes: set[int] = set()
        for site in self.graph.sites:
            if isinstance(site.operation, Inert):
                shapes.update(site.outputs)
            # An operation that runs beside its reference has the operation proper inside.
            integers = [s for s in site.inputs if "int" in self.graph.specs[s].dtype and s not in shapes]
            operation = getattr(site.operation, "operation", site.operation)
            moves = isinstance(operation, Routing) and operation.copies and not isinstance(operation, Inert)
            if isinstance(operation, Truncation) or (integers and found.issuperset(integers) and moves):
                found.update(slot for slot in site.outputs if "int" in self.graph.specs[slot].dtype)
        return frozenset(found)

    @functools.cached_property
    def from_integers(self) -> frozenset[int]:
        """The slots of integers that are entries of an input, or are computed from such integers."""
        found = set(self.integers)
        for site in self.graph.sites:
            if not found.isdisjoint(site.inputs) and not isinstance(site.operation, Inert):
                found.update(slot for slot in site.outputs if "int" in self.graph.specs[slot].dtype)
        return frozenset(found)

    def of_samples(self, slots: Iterable[int]) -> tuple[int, ...]:
        """Those of the slots whose entries may have relevance. Shapes, counters and truth values have none."""
        specs = self.graph.specs
        return tuple(s for s in slots if specs[s].shape and ("float" in specs[s].dtype or s in self.integers))

    def moves_integers(self, site: Site) -> bool:
        """Whether a site only moves integers of the input, or casts them to floating numbers."""
        operation, specs = site.operation, self.graph.specs
        # Other integers are computed from shapes.
        integers = [slot for slot in site.inputs if slot in self.from_integers]
        if not (isinstance(operation, Routing) and self.integers.issuperset(integers)):
            return False
        # Mixed integers are fine as floating numbers. As integers they may be ids of something else.
        if not (operation.copies or all("float" in specs[slot].dtype for slot in site.outputs)):
            return False
        # Of several integers, one may say where to move the other. Integers may also say where to move constants.
        moved = operation.fixed or len(integers) == 1
        stay = not operation.fills or all("int" in specs[slot].dtype for slot in site.outputs)
        return moved and stay and not any("float" in specs[slot].dtype for slot in site.inputs)

    @functools.cached_property
    def _position(self):
        return {site: i for i, site in enumerate(self.graph.sites)}

    def signals(self, site: Site) -> tuple[int, ...]:
        """Which factors of a product are signals. The others are gates. Where no gate is found, all are signals.

        Masks, constants and divisors are no signals, see `factors`. A gate comes from a sigmoid, a softmax or the like.
        Where no factor does, it comes from a tanh or the like; where none does that, from a SiLU or another function
        that gates itself; where none does that, it is a factor that is broadcast. Moves, masks, scale, shift and
        divisors may stand between, and sums of gates.

        Args:
            site: A `Product` or a `Contraction`.

        Returns:
            Positions of the signals among the inputs of the site.
        """
        producers, specs = self.producers, self.graph.specs
        found, elementwise = list(self.factors(site)), isinstance(site.operation, Product)
        # In a product of matrices only attention weights are gates. They come from a softmax or the like.
        for trait in GATE_TRAITS if elementwise else GATE_TRAITS[:1]:
            found = [i for i in found if not is_gate(site.inputs[i], trait, producers, specs)] or found
        if elementwise:
            found = [i for i in found if not is_broadcast(specs[site.inputs[i]], specs[site.outputs[0]])] or found
        return tuple(found)

    def factors(self, site: Site) -> tuple[int, ...]:
        """Which inputs of a product are factors that may have relevance. Masks, constants and divisors have none.

        A divisor is one over something, such as 1 / sqrt(mean x^2). A product with a divisor is a quotient, and its
        dividend has all relevance. Where every input is a constant or a divisor, all are factors.

        Args:
            site: A `Product` or a `Contraction`.

        Returns:
            Positions of the factors among the inputs of the site.
        """
        producers, specs = self.producers, self.graph.specs
        every = tuple(range(len(site.inputs)))
        found = tuple(i for i in every if site.inputs[i] in self.dependent and not self._is_mask(site.inputs[i]))
        if isinstance(site.operation, Product) and all(
            is_gate(site.inputs[i], "gate", producers, specs) for i in found
        ):
            # The first step of an unrolled cell multiplies a gate by a constant, which weights make of its first state.
            # It is a signal, as it is in later steps, and absorbs its share.
            found = tuple(i for i in every if i in found or is_made_by_weights(site.inputs[i], producers))
        found = found or every
        return tuple(i for i in found if not is_divisor(site.inputs[i], producers, specs)) or found

    def _is_mask(self, slot):
        return is_mask(slot, self.producers, self.graph.specs, integers=False)

    @functools.cached_property
    def dependent(self) -> frozenset[int]:
        """The slots that depend on entries of an input. The others hold shapes, positions, truth values and the like.

        What depends on an input only through comparisons or step functions has no slope, and counts as a constant.
        """
        specs = self.graph.specs
        found = {slot for slot in self.graph.input_slots if specs[slot].dtype != "bool"}
        for site in self.graph.sites:
            constant = isinstance(site.operation, Inert) or site.operation.traits.step
            if not constant and not found.isdisjoint(site.inputs):
                found.update(slot for slot in site.outputs if specs[slot].dtype != "bool")
        return frozenset(found)

    def is_masked(self, slot: int) -> bool:
        """Whether a mask may have left out entries of a slot: constants in their place, or a mask that was added."""
        stack, specs = [slot], self.graph.specs
        while stack:
            site = self.producers.get(stack.pop())
            if site is None or not isinstance(site.operation, Routing | Scale | Sum):
                continue
            signals = [s for s in site.inputs if not is_mask(s, self.producers, specs)]
            chooses = isinstance(site.operation, Routing) and site.operation.fills and not site.operation.fixed
            if chooses or site.operation.bias_is_table or len(signals) < len(site.inputs):
                return True
            stack += signals
        return False

    def identity_branch(self, site: Site) -> int | None:
        """Which summand of a residual sum is the shortcut.

        The summands come on branches from one common tensor. The shortcut is the branch with the fewest linear layers.
        It has none where it is the common tensor itself, and few where it is a projection of that tensor.

        Args:
            site: The sum.

        Returns:
            Position of the shortcut among the inputs of the site. None where several branches are equally short.
        """
        depths = self._branch_depths(site)
        shortest = [i for i, depth in enumerate(depths) if depth == min(depths)]
        return shortest[0] if len(shortest) == 1 else None

    def _branch_depths(self, site):
        """For each input of a site, how many linear layers are on its branch alone, back to where all branches meet."""
        everyone = (1 << len(site.inputs)) - 1
        readers: dict[int, int] = {}
        queue: list[tuple[int, int]] = []

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


def _linear(graph):
    # If only the shape of a layer's output is read, then users would not count the layer.
    found, reached = list[Site](), set(graph.output_slots)
    for site in reversed(graph.sites):
        if reached.isdisjoint(site.outputs) or isinstance(site.operation, Inert):
            continue
        reached.update(site.inputs)
        if isinstance(site.operation, Loop):
            found.extend(reversed(_linear(site.operation.body)))
        elif is_linear_layer(site.operation):
            found.append(site)
    return tuple(reversed(found))


def _first_linear(slots, sites_at, beyond):
    """The linear layers that come first on the way from slots, through moves, scale, activations and normalizations."""
    found, seen, stack = set(), set(slots), list(slots)
    while stack:
        for site in sites_at.get(stack.pop(), ()):
            if is_linear_layer(site.operation):
                found.add(site)
            elif isinstance(site.operation, Routing | Scale | Activation | Normalize):
                new = [slot for slot in beyond(site) if slot not in seen]
                seen.update(new)
                stack += new
    return found


def depending(graph: Graph, slot: int) -> frozenset[int]:
    """A slot, and all slots that are computed from it."""
    found = {slot}
    for site in graph.sites:
        if not found.isdisjoint(site.inputs):
            found.update(site.outputs)
    return frozenset(found)


def slots_of_indices(graph: Graph) -> frozenset[int]:
    """The slots of integers that are looked up in a table, at once or after they were moved."""
    found: set[int] = set()
    for site in reversed(graph.sites):
        # An operation that runs beside its reference has the operation proper inside.
        operation = getattr(site.operation, "operation", site.operation)
        moved = isinstance(operation, Routing) and not found.isdisjoint(site.outputs)
        if isinstance(operation, Embedding) or moved:
            found.update(slot for slot in site.inputs if "int" in graph.specs[slot].dtype)
    return frozenset(found)


def leads_to_lookups(slot: int, graph: Graph, readers: Mapping[int, Sequence[Site]] | None = None) -> bool:
    """Whether entries of a slot are looked up in a table, at once or after they were moved or cast to integers.

    Args:
        slot: The slot.
        graph: The graph.
        readers: The sites that read each slot, `graph.consumers()`, where the caller has them.
    """
    readers, seen, stack = readers or graph.consumers(), set[int](), [slot]
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
    """The names of floating inputs that contain ids, which the model looks up in a table."""
    return [
        name
        for name, slot in zip(graph.input_names, graph.input_slots, strict=True)
        if "float" in graph.specs[slot].dtype and leads_to_lookups(slot, graph)
    ]
