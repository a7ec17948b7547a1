"""Views of loops: a `While` becomes a `Loop`, which holds the graphs of its condition and of its body."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from revgraph.graph.graph import Graph, Spec
from revgraph.graph.loops import Loop, Written
from revgraph.graph.operations import Routing
from revgraph.read.savedmodel import lists, private
from revgraph.read.savedmodel.lists import ReadError, Reserved, Stacked, Writing, computed, is_list, tensor_of
from revgraph.read.savedmodel.nodes import Node, called
from revgraph.read.savedmodel.passes import simplify
from revgraph.read.savedmodel.weights import Value, Weight, in_dtype

if TYPE_CHECKING:
    from revgraph.read.savedmodel.builder import Builder


class NotSimpleError(Exception):
    """A loop uses its lists in a way that a `Loop` cannot."""


def visit(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The values of the outputs of a loop, or of an operation on lists; None where the node is neither."""
    view = VIEWS.get(node.type)
    return None if view is None else view(reader, node)


@dataclasses.dataclass(frozen=True, eq=False)
class Turning:
    """The kinds of the arguments of a loop, as their positions.

    Args:
        states: The tensors that each turn computes anew.
        lists: The lists that turns write.
        constants: The tensors that are the same in every turn.
        read: Those of the constants that are lists, which turns read.
    """

    states: tuple[int, ...]
    lists: tuple[int, ...]
    constants: tuple[int, ...]
    read: frozenset[int]


def _loop(reader, node):
    """The values of the outputs of a loop; None for a loop of another form.

    A list that the loop writes and does not read is an output. A list that it writes and reads is a state, stacked in a
    tensor. An example is the list with a single element in which `keras.ops.scan` keeps its state.
    """
    held: set[int] = set()
    while True:
        try:
            return _read_loop(reader, node, frozenset(held))
        except ReadError as error:
            if error.writing.loop is not node:
                raise
            held.add(error.writing.place)
        # A loop whose inside cannot be read is run as a whole.
        except (NotSimpleError, ValueError):
            return None


def _read_loop(reader, node, held):
    condition, body = (called(node.operation, name) for name in ("cond", "body"))
    turning = _turning(reader, node, body, held)
    inside, results, inert, fixed = _body(reader, node, body, turning)
    more = _read(reader, node, condition, turning, inert, fixed)
    return _site(reader, node, turning, more, (inside, results), inert, fixed)


def _turning(reader: "Builder", node: Node, body: tf.Graph, held: frozenset[int]) -> Turning:
    kept, given = _kept(body), node.arguments
    inputs, _ = private.ends(body)
    for i, (value, tensor) in enumerate(zip(given, inputs, strict=True)):
        raw = tensor.dtype in (tf.resource, tf.variant) and not is_list(value)
        unknown = isinstance(value, Reserved) and (i in kept or i in held)
        if isinstance(value, Writing):
            raise ReadError(value)
        if unknown or (raw and not (i in kept and isinstance(value, Weight))):
            raise NotSimpleError(f"Input {i} of {node.path!r} is a list or a handle that is made in another way.")
    turns = [i for i in range(len(given)) if i not in kept]
    lists = [i for i in turns if is_list(given[i]) and i not in held]
    return Turning(
        states=tuple(i for i in turns if i not in lists),
        lists=tuple(lists),
        constants=tuple(i for i in kept if not isinstance(tensor_of(given[i]), Weight)),
        read=frozenset(i for i in kept if isinstance(given[i], Stacked)),
    )


def _kept(body: tf.Graph) -> list[int]:
    """The positions of the arguments that a turn passes on unchanged."""
    inputs, outputs = private.ends(body)

    def source(tensor):
        while tensor.op.type in ("Identity", "PlaceholderWithDefault"):
            (tensor,) = tensor.op.inputs
        return tensor.name

    return [i for i, (t, result) in enumerate(zip(inputs, outputs, strict=True)) if source(result) == t.name]


def _body(reader, node, body, turning):
    """Reads the body of a loop.

    A state is inert, which means without relevance, if it starts from a constant and a turn computes it from inert
    states and constants, as a counter does. So all states that start from constants are assumed to be inert at first.
    Those that are not are found, and the body is read again without them, until nothing changes.

    Returns:
        The reader of the body, the values of its outputs, the inert states, and the fixed states. A fixed state is the
        same whatever the entries of the model's inputs are.
    """
    inert = {i for i in turning.states if _is_inert(reader, tensor_of(node.arguments[i]))}
    fixed = {i for i in inert if reader.is_fixed(tensor_of(node.arguments[i]))}
    while True:
        inside, results = _read(reader, node, body, turning, inert, fixed)
        still = {i for i in inert if _is_inert(inside, tensor_of(results[i]))}
        same = {i for i in fixed & still if inside.is_fixed(tensor_of(results[i]))}
        if still == inert and same == fixed:
            return inside, results, frozenset(inert), frozenset(fixed)
        inert, fixed = still, same


def _read(reader, node, graph, turning, inert, fixed):
    """Reads a graph inside of a loop. Its first slots are the states, and then the constants.

    Returns:
        The reader of the graph, and the values of its outputs.
    """
    inside, values = reader.inside(), list(node.arguments)
    ends, _ = private.ends(graph)
    shapes, _ = private.ends(called(node.operation, "body"))
    for i in turning.states:
        held = isinstance(values[i], Stacked)
        if not held and shapes[i].shape.rank is None:
            raise NotSimpleError(f"The number of axes of state {i} of {node.path!r} is not known.")
        spec = reader.spec(values[i].tensor) if held else Spec(tuple(shapes[i].shape), shapes[i].dtype.name)
        slot = inside.new_slot(spec)
        inside.note(slot, inert=i in inert, fixed=i in fixed)
        values[i] = Stacked(slot) if held else slot
    for i in turning.constants:
        outside = tensor_of(values[i])
        slot = inside.new_slot(reader.specs[outside])
        inside.take(slot, reader, outside)
        values[i] = Stacked(slot, inside=True) if i in turning.read else slot
    for i in turning.lists:
        values[i] = Writing(node, i)
    # TensorFlow names operations inside of a loop by their full path, and those of a user's function by a short one.
    scope = node.operation.name + "/"
    whole = any(operation.name.startswith(scope) for operation in graph.get_operations())
    prefix = node.path[: -len(node.operation.name)] if whole else node.path + "/"
    return inside, inside.inline(graph, values[: len(ends)], prefix)


def _site(reader, node, turning, more, body, inert, fixed):
    """The site of a loop, and the values of the outputs of its node."""
    inside, results = body
    if any(isinstance(results[i], Reserved | Writing) for i in turning.states):
        raise NotSimpleError(f"{node.path!r} begins a list anew in each turn.")
    slots = [inside.as_slot(tensor_of(results[i])) for i in turning.states]
    lists, specs, idle = [], [], []
    for i in turning.lists:
        written, start = results[i], node.arguments[i]
        if not isinstance(written, Writing) or written.loop is not node or written.place != i:
            raise NotSimpleError(f"List {i} of {node.path!r} is not the one that the turn began with.")
        elements = [inside.as_slot(item) for _, item, _ in written.writes]
        for (index, _, _), slot in zip(written.writes, elements, strict=True):
            slots += [inside.as_slot(index), slot]
        spec = _spec_of_list(reader, start, [inside.specs[slot] for slot in elements])
        reserved = isinstance(start, Reserved)
        grows = any(grows for *_, grows in written.writes)
        dtype = computed(reader, spec).name
        lists.append(Written(spec.shape[1:], dtype, reserved, len(written.writes), grows))
        specs.append(Spec((None, *spec.shape[1:]), spec.dtype) if grows else spec)
        constant = reserved or _is_inert(reader, start.tensor)
        idle.append(constant and all(_is_inert(inside, item) for _, item, _ in written.writes))
    given = [_given(node.arguments[i]) for i in (*turning.states, *turning.lists, *turning.constants)]
    condition, last = more
    states = len(turning.states)
    loop = Loop(
        condition=_graph(node, condition, range(states + len(turning.constants)), [condition.as_slot(last[0])]),
        body=_graph(node, inside, range(states + len(turning.constants)), slots),
        states=states,
        lists=tuple(lists),
        read_lists=frozenset(j for j, i in enumerate(turning.constants) if i in turning.read),
        sources=tuple(v.read if isinstance(v, Weight) else None for v in given),
        signals=frozenset(
            j for j, i in enumerate(turning.states) if i not in inert and "float" in inside.specs[j].dtype
        ),
    )
    specs = [*(inside.specs[slot] for slot in range(states)), *specs]
    idle = [*(i in inert for i in turning.states), *idle]
    read = tuple(v for v in given if not isinstance(v, Weight))
    written = _written(reader, node, loop, read, specs, idle)
    if condition.is_fixed(last[0]):
        for j, i in enumerate(turning.states):
            reader.note(written[j], fixed=i in fixed)
    values = dict(zip((*turning.states, *turning.lists), written, strict=True))
    stacked = [i for i in values if is_list(node.arguments[i])]
    values.update({i: Stacked(values[i]) for i in stacked})
    return [values.get(i, argument) for i, argument in enumerate(node.arguments)]


def _written(reader, node, loop, read, specs, idle):
    """The values of the outputs of a loop. They are weights if the loop reads nothing but weights."""

    def run(*tensors):
        return loop(tensors, loop.read(tf.as_dtype(reader.dtype)))

    if not read:
        return [Weight(_output(run, j), spec.shape) for j, spec in enumerate(specs)]
    # If all outputs of a loop are inert, none depends on the entries of the inputs.
    operation = Routing(run, loop.label, loop.outputs_count, fills=True) if all(idle) else loop
    written = reader.site(node, operation, read, specs=specs)
    for slot, still in zip(written, idle, strict=True):
        reader.note(slot, inert=still)
    return written


def _output(run, j):
    return lambda dtype: in_dtype(run()[j], dtype)


def _spec_of_list(reader: "Builder", start: Stacked | Reserved, elements: list[Spec]) -> Spec:
    """Shape and dtype of a list that was written, stacked in a tensor."""
    if isinstance(start, Stacked):
        return reader.spec(start.tensor)
    dtype = elements[0].dtype if elements else start.node.attribute("element_dtype").name
    shapes = [e.shape for e in elements] + ([] if start.shape is None else [start.shape])
    if not shapes or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise NotSimpleError("The number of axes of the elements of a list is not known.")
    sizes = (next((n for n in same if n is not None), None) for same in zip(*shapes, strict=True))
    return Spec((start.known_size(reader), *sizes), dtype)


def _given(argument):
    """The slot or the weight that a `Loop` takes for an argument."""
    return argument.size if isinstance(argument, Reserved) else tensor_of(argument)


def _is_inert(reader, value):
    return isinstance(value, Weight) or value in reader.inert


def _graph(node: Node, reader: "Builder", inputs: Iterable[int], outputs: Iterable[int]) -> Graph:
    graph = Graph(
        name=node.path,
        sites=tuple(reader.sites),
        specs=reader.specs,
        inputs=list(inputs),
        outputs=list(outputs),
        input_names=(),
        output_names=(),
        calls=(),
        dtype=reader.dtype,
    )
    return simplify(graph)


VIEWS = lists.VIEWS | {"StatelessWhile": _loop, "While": _loop}
"""Views of loops and of operations on lists, by type: view(reader, node) returns the values of the outputs, or None."""
