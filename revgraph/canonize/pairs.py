"""Two runs of a model in one graph: on an input, and on a reference input (DeepLIFT)."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Affine, Normalize, Operation, Routing
from revgraph.graph.types import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class WithReference(Operation):
    """An operation that runs on its inputs and on reference inputs.

    It reads the inputs and then the reference inputs. It writes the outputs and then the reference outputs.

    Args:
        operation: The operation that runs on both.
    """

    operation: Operation

    @property
    def outputs_count(self) -> int:
        return 2 * self.operation.outputs_count

    @property
    def label(self) -> str:
        return f"{self.operation.label} with reference"

    @property
    def advice(self) -> str | None:
        return self.operation.advice or (
            "DeepLIFT has no rule for it whose contributions add up to the difference from the reference. The analyzer "
            '"integrated_gradients" explains the same difference, if the inputs are no ids and the output does not '
            "jump on the way from the reference. LRP and the gradients need no reference."
        )

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return self.operation.read(dtype)

    def completed(self, weights: Weights, dtype: str | tf.DType, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.operation.completed(weights, dtype, inputs[: len(inputs) // 2])

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        half = len(inputs) // 2
        return (*self.operation(inputs[:half], weights), *self.operation(inputs[half:], weights))


def with_reference(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """A graph that runs a model on inputs and on reference inputs.

    It takes the model's inputs as a flat list, and then their references. Each linear site is there twice. Every other
    site becomes one `WithReference` site, whose rule sees both activations. A `WithReference` site is also added at
    each input, where it passes both tensors on. The slots of the original graph keep their numbers.

    Args:
        graph: The graph of the model.

    Returns:
        The graph, and a dict from each slot of the original graph to the slot of its reference.
    """
    shift = max(graph.specs) + 1
    specs = {**graph.specs, **{slot + shift: spec for slot, spec in graph.specs.items()}}
    sites: list[Site] = []
    outer_slots: list[int] = []
    for slot, name in zip(graph.input_slots, graph.input_names, strict=True):
        outer = max(specs) + 1
        specs |= {outer: graph.specs[slot], outer + 1: graph.specs[slot]}
        operation = WithReference(Routing(lambda x: x, "input", copies=True, fixed=True, keeps_sign=True))
        sites.append(Site(name, operation, (outer, outer + 1), (slot, slot + shift)))
        outer_slots.append(outer)
    jumping = _integers_that_jump(graph)
    for site in graph.sites:
        beside = [tuple(slot + shift for slot in slots) for slots in (site.inputs, site.outputs)]
        if is_linear(site.operation) and jumping.isdisjoint(site.inputs):
            sites.append(site)
            path = f"{site.path} (reference)"
            sites.append(dataclasses.replace(site, path=path, inputs=beside[0], outputs=beside[1]))
        else:
            both = (site.inputs + beside[0], site.outputs + beside[1])
            sites.append(
                dataclasses.replace(site, operation=WithReference(site.operation), inputs=both[0], outputs=both[1])
            )
    names = (*graph.input_names, *(f"{name} (reference)" for name in graph.input_names))
    inputs = (*outer_slots, *(slot + 1 for slot in outer_slots))
    paired = dataclasses.replace(graph, sites=tuple(sites), specs=specs, inputs=inputs, input_names=names)
    return paired, {slot: slot + shift for slot in graph.specs}


def _integers_that_jump(graph):
    """The slots of integers that are computed from other numbers, such as by a cast. Their differences are steps."""
    found: set[int] = set()
    for site in graph.sites:
        if not (isinstance(site.operation, Routing) and site.operation.fixed) or not found.isdisjoint(site.inputs):
            found.update(slot for slot in site.outputs if "int" in graph.specs[slot].dtype)
    return found


def is_linear(operation: Operation) -> bool:
    """Whether an operation maps differences of inputs to differences of outputs, so that it needs no reference."""
    affine = isinstance(operation, Affine) and not isinstance(operation, Normalize)
    return affine or (isinstance(operation, Routing) and operation.fixed)
