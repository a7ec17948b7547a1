"""What can be known of a graph without running it."""

import functools
import heapq
import re
from collections.abc import Iterable

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import (
    Activation,
    ChannelDiagonalConv,
    Contraction,
    Convolutional,
    Dense,
    Einsum,
    Operation,
    Product,
    Quotient,
    Routing,
    Scale,
)

NONNEGATIVE = frozenset(
    "relu relu6 bounded_relu sigmoid softmax softplus hard_sigmoid exponential exp sparsemax sparse_sigmoid "
    "sparse_plus squareplus absolute square sqrt rsqrt".split()
)
"""Names of activations whose values are never negative."""

RELUS = frozenset("relu relu6 bounded_relu sloped_relu shifted_relu".split())
"""Names of activations that Deconvnet and guided backpropagation treat as a ReLU."""

SATURATING = frozenset("relu6 bounded_relu hard_tanh hard_sigmoid clip".split())
"""Names of piecewise linear activations that are constant where their input is large."""

GATES = frozenset("sigmoid hard_sigmoid sparse_sigmoid softmax sparsemax relu6".split())
"""Names of activations that squash into an interval from zero: what they are multiplied with passes a gate."""

SQUASHES = frozenset("tanh hard_tanh softsign erf clip".split())
"""Names of activations that squash into an interval around zero, which gates of some networks do."""


def is_linear_layer(operation: Operation) -> bool:
    """Whether an operation is a linear layer proper, with a kernel that mixes or filters its inputs."""
    return isinstance(operation, Dense | Einsum | Convolutional)


def is_relu(operation: Operation) -> bool:
    """Whether an operation is a ReLU of any kind."""
    return isinstance(operation, Activation) and operation.name in RELUS


def first_linear_sites(graph: Graph) -> frozenset[Site]:
    """The linear layers that see an input through nothing but reshapes, padding, scaling and normalization."""
    reach, first = set(graph.input_slots), set()
    for site in graph.sites:
        if not reach.intersection(site.inputs):
            continue
        if is_linear_layer(site.operation):
            first.add(site)
        elif isinstance(site.operation, Scale | Routing) and not is_max(site.operation):
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
    def _position(self):
        return {site: i for i, site in enumerate(self.graph.sites)}

    def signal(self, site: Site) -> int | None:
        """Which factor of a product is the signal, the others being gates; None where that cannot be told.

        A gate is a factor that comes from a sigmoid, softmax or the like, or, where none does, from a tanh, or that
        is broadcast; shape operations, scale and shift may follow the squashing.
        """
        return signal(site, self.producers, self.graph.specs)

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


def signal(site: Site, producers, specs) -> int | None:
    """Which factor of a product is the signal; see `Facts.signal`."""
    squashed = [_squashing(slot, producers) for slot in site.inputs]
    for names in (GATES, SQUASHES):
        gates = {i for i, name in enumerate(squashed) if name in names}
        if len(gates) == len(squashed) - 1:
            return next(i for i in range(len(squashed)) if i not in gates)
    if isinstance(site.operation, Product):
        full = [i for i, slot in enumerate(site.inputs) if not _is_broadcast(specs[slot], specs[site.outputs[0]])]
        return full[0] if len(full) == 1 else None
    return None


def _squashing(slot, producers):
    """The name of the activation that a factor comes from, seen through shape operations, scale and shift."""
    while slot in producers:
        site = producers[slot]
        if isinstance(site.operation, Activation):
            return site.operation.name
        if len(site.inputs) != 1 or not isinstance(site.operation, Routing | Scale):
            return None
        (slot,) = site.inputs
    return None


def _is_broadcast(spec, output):
    """Whether a factor has one entry where the product has many."""
    shape = (1,) * (len(output.shape) - len(spec.shape)) + tuple(spec.shape)
    return any(n == 1 and m != 1 for n, m in list(zip(shape, output.shape, strict=True))[1:])


def relevant_sites(sites: Iterable[Site], outputs, specs) -> list[Site]:
    """The sites to which relevance of the outputs comes, where gates and divisors get none."""
    sites = list(sites)
    producers = {slot: site for site in sites for slot in site.outputs}
    reached, relevant = set(outputs), []
    for site in reversed(sites):
        if reached.isdisjoint(site.outputs):
            continue
        relevant.append(site)
        chosen = None
        if isinstance(site.operation, Quotient):
            chosen = 0
        elif isinstance(site.operation, Product | Contraction):
            chosen = signal(site, producers, specs)
        taking = site.inputs if chosen is None else site.inputs[chosen : chosen + 1]
        reached.update(slot for slot in taking if "float" in specs[slot].dtype)
    return relevant


def is_max(operation: Operation) -> bool:
    """Whether a routing operation chooses entries by their values."""
    return isinstance(operation, Routing) and re.search("max|min", operation.name.lower()) is not None


def nonnegative_slots(graph: Graph, inputs=()) -> frozenset[int]:
    """Slots whose tensors provably have no negative entry, given those inputs that have none."""
    known = {*inputs, *(slot for slot, spec in graph.specs.items() if spec.dtype == "bool")}
    for site in graph.sites:
        operation, from_known = site.operation, all(slot in known for slot in site.inputs)
        if (
            (isinstance(operation, Activation) and operation.name in NONNEGATIVE)
            or (from_known and isinstance(operation, Routing) and operation.keeps_sign)
            or (from_known and isinstance(operation, ChannelDiagonalConv | Product | Quotient | Contraction))
        ):
            known.update(site.outputs)
    return frozenset(known)
