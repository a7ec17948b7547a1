"""A model beside itself: the graph of a model on an input and on a reference input."""

import dataclasses

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Affine, Normalize, Operation, Routing


@dataclasses.dataclass(frozen=True, eq=False)
class WithReference(Operation):
    """An operation on its inputs and on reference inputs: reads both, inputs first, and writes both."""

    operation: Operation

    @property
    def outputs_count(self):
        return 2 * self.operation.outputs_count

    @property
    def label(self):
        return f"{self.operation.label} with reference"

    @property
    def advice(self):
        return self.operation.advice

    def weights(self, dtype, inputs):
        return self.operation.weights(dtype, inputs[: len(inputs) // 2])

    def __call__(self, inputs, weights):
        half = len(inputs) // 2
        return (*self.operation(inputs[:half], weights), *self.operation(inputs[half:], weights))


def with_reference(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """A graph that runs on inputs and on reference inputs, flat and in this order.

    Linear sites stand twice. Others become one `WithReference` site, whose rule sees both activations, and so does a
    site at each input that passes the input on. The slots of the original graph keep their meaning.

    Returns:
        The graph, and for each slot of the original graph the slot of its reference.
    """
    shift = max(graph.specs) + 1
    specs = {**graph.specs, **{slot + shift: spec for slot, spec in graph.specs.items()}}
    sites, inputs = [], []
    for slot, name in zip(graph.input_slots, graph.input_names, strict=True):
        outer = max(specs) + 1
        specs |= {outer: graph.specs[slot], outer + 1: graph.specs[slot]}
        operation = WithReference(Routing(lambda x: x, "input", copies=True, fixed=True, keeps_sign=True))
        sites.append(Site(name, operation, (outer, outer + 1), (slot, slot + shift)))
        inputs.append(outer)
    for site in graph.sites:
        beside = [tuple(slot + shift for slot in slots) for slots in (site.inputs, site.outputs)]
        if is_linear(site.operation):
            sites.append(site)
            path = f"{site.path} (reference)"
            sites.append(dataclasses.replace(site, path=path, inputs=beside[0], outputs=beside[1]))
        else:
            both = (site.inputs + beside[0], site.outputs + beside[1])
            sites.append(
                dataclasses.replace(site, operation=WithReference(site.operation), inputs=both[0], outputs=both[1])
            )
    names = (*graph.input_names, *(f"{name} (reference)" for name in graph.input_names))
    inputs = (*inputs, *(slot + 1 for slot in inputs))
    paired = dataclasses.replace(graph, sites=tuple(sites), specs=specs, inputs=inputs, input_names=names)
    return paired, {slot: slot + shift for slot in graph.specs}


def is_linear(operation: Operation) -> bool:
    """Whether differences of outputs are the same function of differences of inputs."""
    affine = isinstance(operation, Affine) and not isinstance(operation, Normalize)
    return affine or (isinstance(operation, Routing) and operation.fixed)
