"""What can be known of a graph without running it."""

import functools

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import (
    Activation,
    ChannelDiagonalConv,
    Convolutional,
    Dense,
    Einsum,
    Operation,
    Product,
    Routing,
    Scale,
)

NONNEGATIVE = frozenset(
    "relu relu6 sigmoid softmax softplus hard_sigmoid hardsigmoid exponential sparsemax sparse_sigmoid sparse_plus "
    "squareplus".split()
)
"""Names of activations whose values are never negative."""

RELUS = frozenset({"relu", "relu6", "leaky relu"})
"""Names of activations that Deconvnet and guided backpropagation treat as a ReLU."""


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


def is_max(operation: Operation) -> bool:
    """Whether a routing operation chooses entries by their values."""
    return isinstance(operation, Routing) and "max" in operation.name.lower()


def nonnegative_slots(graph: Graph, inputs=()) -> frozenset[int]:
    """Slots whose tensors provably have no negative entry, given those inputs that have none."""
    known = set(inputs)
    for site in graph.sites:
        operation, from_known = site.operation, all(slot in known for slot in site.inputs)
        if (
            (isinstance(operation, Activation) and operation.name in NONNEGATIVE)
            or (from_known and isinstance(operation, Routing) and operation.keeps_sign)
            or (from_known and isinstance(operation, ChannelDiagonalConv | Product))
        ):
            known.update(site.outputs)
    return frozenset(known)
