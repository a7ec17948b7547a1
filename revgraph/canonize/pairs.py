"""Two runs of a model in one graph: on an input, and on a reference input (DeepLIFT)."""

import dataclasses
from collections.abc import Collection, Sequence

import tensorflow as tf

from revgraph.canonize.paths import starts_at_zero
from revgraph.graph.graph import Graph, Site
from revgraph.graph.lookups import Lookups, lookups
from revgraph.graph.loops import Element, Loop
from revgraph.graph.operations import Affine, AveragePool, Inert, Normalize, Operation, Routing
from revgraph.graph.types import Weights

NO_LOOKUPS = Lookups((), (), {})

CHOICES = ("Select", "SelectV2", "Where", "Masking")
"""Names of routings that choose between entries by a mask."""


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
        own = None if isinstance(self.operation, Loop) else self.operation.advice
        return own or (
            "DeepLIFT has no rule for it whose contributions add up to the difference from the reference. The analyzer "
            '"integrated_gradients" explains the same difference, if the output does not jump on the way from the '
            "reference. LRP and the gradients need no reference."
        )

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return self.operation.read(dtype)

    def completed(self, weights: Weights, dtype: str | tf.DType, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.operation.completed(weights, dtype, inputs[: len(inputs) // 2])

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        half = len(inputs) // 2
        return (*self.operation(inputs[:half], weights), *self.operation(inputs[half:], weights))


@dataclasses.dataclass(frozen=True, eq=False)
class WithZeroRows(WithReference):
    """An embedding beside a reference whose rows are zero, whatever the ids are."""

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        (rows,) = self.operation(inputs[: len(inputs) // 2], weights)
        return rows, tf.zeros_like(rows)


def with_reference(
    graph: Graph, from_zero: Collection[str] = (), same: Collection[str] = ()
) -> tuple[Graph, dict[int, int]]:
    """A graph that runs a model on inputs and on reference inputs.

    It takes the model's inputs as a flat list, and then their references. Each linear site is there twice. Every other
    site becomes one `WithReference` site, whose rule sees both activations. A `WithReference` site is also added at
    each input, where it passes both tensors on. The slots of the original graph keep their numbers.

    Ids differ where they are looked up. All else that the model does with ids, such as the mask of padding, it does
    with those of the input in both runs.

    Args:
        graph: The graph of the model.
        from_zero: The names of inputs with ids whose reference rows are zero.
        same: The names of inputs that are the same in both runs.

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
    found = lookups(graph)
    equal = {slot for name, slot in zip(graph.input_names, graph.input_slots, strict=True) if name in same}
    sites.extend(_paired(graph, shift, equal | found.slots(graph), found, from_zero))
    names = (*graph.input_names, *(f"{name} (reference)" for name in graph.input_names))
    inputs = (*outer_slots, *(slot + 1 for slot in outer_slots))
    paired = dataclasses.replace(graph, sites=tuple(sites), specs=specs, inputs=inputs, input_names=names)
    return paired, {slot: slot + shift for slot in graph.specs}


def _paired(graph, shift, equal, found=NO_LOOKUPS, from_zero=()):
    """The sites of a graph beside their references, whose slots have numbers that are larger by `shift`.

    Args:
        graph: The graph.
        shift: See above.
        equal: Slots that are the same in both runs. Ids are, but where they are looked up.
        found: The lookups of ids.
        from_zero: See `with_reference`.
    """
    jumping, ids, equal = _integers_that_jump(graph), found.slots(graph) if found.tables else (), set(equal)
    for site in graph.sites:
        operation, on_the_way = site.operation, site in found.moves or site in found.tables
        apart = tuple(slot if slot in ids and not on_the_way else slot + shift for slot in site.inputs)
        outputs = _moved(site.outputs, shift)
        is_equal = not on_the_way and (equal.issuperset(site.inputs) or _is_of_shapes(operation))
        if is_equal:
            equal.update(site.outputs)
        linear = is_linear(operation) and jumping.isdisjoint(site.inputs)
        if isinstance(operation, Element) or is_equal or linear or _only_chooses(site, equal, graph):
            yield site
            yield dataclasses.replace(site, path=f"{site.path} (reference)", inputs=apart, outputs=outputs)
        elif isinstance(operation, Loop) and _turns_are_fixed(operation):
            yield _paired_loop(site, shift, equal)
        else:
            zero = site in found.tables and starts_at_zero(found.sources[site], from_zero)
            both = (WithZeroRows if zero else WithReference)(operation)
            yield dataclasses.replace(site, operation=both, inputs=site.inputs + apart, outputs=site.outputs + outputs)


def _is_of_shapes(operation):
    return isinstance(operation, Inert) and operation.fixed


def _only_chooses(site, equal, graph):
    """Whether a site is linear, because the mask by which it chooses or averages is the same in both runs."""
    operation = site.operation
    chooses = isinstance(operation, Routing) and (isinstance(operation, AveragePool) or operation.name in CHOICES)
    masks = [slot for slot in site.inputs if slot in equal and graph.specs[slot].dtype == "bool"]
    return chooses and bool(masks) and all(s in masks or "float" in graph.specs[s].dtype for s in site.inputs)


def _moved(slots, shift):
    return tuple(slot + shift for slot in slots)


def _paired_loop(site, shift, equal):
    """A loop beside its reference: one loop with the states, lists and constants of both."""
    loop = site.operation
    inside_equal = _equal_inside(site, equal)
    ends = (loop.states, loop.outputs_count)

    def twice(values, ends, moved=tuple):
        """Groups of values, each followed by its reference."""
        starts = [0, *ends, len(values)]
        groups = [tuple(values[i:j]) for i, j in zip(starts, starts[1:], strict=False)]
        return tuple(value for group in groups for value in (*group, *moved(group)))

    def graph(inside, outputs):
        more = max(inside.specs) + 1
        specs = {**inside.specs, **{slot + more: spec for slot, spec in inside.specs.items()}}
        inputs = twice(inside.input_slots, (loop.states,), lambda slots: _moved(slots, more))
        sites = tuple(_paired(inside, more, inside_equal)) if outputs else inside.sites
        results = twice(inside.output_slots, outputs, lambda slots: _moved(slots, more)) if outputs else inside.outputs
        return dataclasses.replace(inside, sites=sites, specs=specs, inputs=list(inputs), outputs=list(results))

    constants = range(len(loop.sources) - loop.outputs_count)
    places = (*constants, *constants)
    operation = dataclasses.replace(
        loop,
        condition=graph(loop.condition, ()),
        body=graph(loop.body, (loop.states,)),
        states=2 * loop.states,
        lists=(*loop.lists, *loop.lists),
        read_lists=frozenset(j for j, i in enumerate(places) if i in loop.read_lists),
        sources=twice(loop.sources, ends),
        signals=loop.signals | {i + loop.states for i in loop.signals},
    )
    given = [i for i, source in enumerate(loop.sources) if source is None]
    slots = dict(zip(given, site.inputs, strict=True))
    every = twice([(i, 0) for i in range(len(loop.sources))], ends, lambda group: [(i, shift) for i, _ in group])
    inputs = tuple(slots[i] + by for i, by in every if i in slots)
    outputs = twice(site.outputs, (loop.states,), lambda group: _moved(group, shift))
    return dataclasses.replace(site, operation=operation, inputs=inputs, outputs=outputs)


def _equal_inside(site, equal):
    """The inputs of the body of a loop that are the same in both runs: counters, weights, and what comes so."""
    loop, first = site.operation, site.operation.outputs_count
    given = iter(site.inputs)
    known = [source is not None or next(given) in equal for source in loop.sources]
    slots, specs = loop.body.input_slots, loop.body.specs
    counters = [slot for slot in slots[: loop.states] if not specs[slot].shape and "int" in specs[slot].dtype]
    constants = zip(slots[loop.states :], known[first:], strict=True)
    return {*counters, *(slot for slot, is_known in constants if is_known)}


def _turns_are_fixed(loop):
    """Whether the number of turns does not depend on the entries of the inputs, so that the reference has as many."""
    needed = _needed(loop.condition, loop.condition.output_slots)
    while True:
        more = needed | _needed(loop.body, [loop.body.output_slots[i] for i in needed if i < loop.states])
        if more == needed:
            break
        needed = more
    specs = [loop.body.specs[slot].dtype for slot in loop.body.input_slots]
    return all("int" in specs[i] for i in needed)


def _needed(graph, slots):
    """The places of the inputs from which slots of a graph are computed."""
    found = set(slots)
    for site in reversed(graph.sites):
        if not found.isdisjoint(site.outputs):
            found.update(site.inputs)
    return {i for i, slot in enumerate(graph.input_slots) if slot in found}


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
