"""Loops: a `While` becomes a `Loop`, with the graphs of its condition and of its body."""

import dataclasses

import tensorflow as tf

from revgraph.graph.graph import Graph, Spec
from revgraph.graph.loops import Loop, Written
from revgraph.graph.operations import Routing
from revgraph.read.savedmodel import lists, private
from revgraph.read.savedmodel.lists import ReadError, Reserved, Stacked, Writing, computed, is_list, tensor_of
from revgraph.read.savedmodel.nodes import called
from revgraph.read.savedmodel.passes import simplify
from revgraph.read.savedmodel.weights import Weight, in_dtype


class NotSimpleError(Exception):
    """A loop does with its lists what a `Loop` does not."""


def visit(reader, node):
    """The values of the outputs of a node that handles lists, or is a loop; None where it is not as simple as that."""
    view = VIEWS.get(node.type)
    return None if view is None else view(reader, node)


@dataclasses.dataclass(frozen=True, eq=False)
class Turning:
    """The arguments of a loop, by what becomes of them.

    Args:
        states: Places of those that each turn makes anew.
        lists: Places of the lists that are written.
        constants: Places of the tensors that are the same in every turn.
        read: Places of the lists that are read, which are constants, too.
    """

    states: tuple[int, ...]
    lists: tuple[int, ...]
    constants: tuple[int, ...]
    read: frozenset[int]


def _loop(reader, node):
    """The values of the outputs of a loop.

    A list that the loop only writes is an output of it. One that it reads as well is a state, stacked: so is the single
    element in which `keras.ops.scan` keeps what it carries on.
    """
    held = set()
    while True:
        try:
            return _read_loop(reader, node, frozenset(held))
        except ReadError as error:
            if error.writing.loop is not node:
                raise
            held.add(error.writing.place)
        # What cannot be read inside is run as a whole.
        except (NotSimpleError, ValueError):
            return None


def _read_loop(reader, node, held):
    condition, body = (called(node.operation, name) for name in ("cond", "body"))
    turning = _turning(reader, node, body, held)
    inside, results, inert, fixed = _body(reader, node, body, turning)
    more = _read(reader, node, condition, turning, inert, fixed)
    return _site(reader, node, turning, more, (inside, results), inert, fixed)


def _turning(reader, node, body, held) -> Turning:
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


def _kept(body) -> list[int]:
    """The places of what a turn hands on as it is."""
    inputs, outputs = private.ends(body)

    def source(tensor):
        while tensor.op.type in ("Identity", "PlaceholderWithDefault"):
            (tensor,) = tensor.op.inputs
        return tensor.name

    return [i for i, (t, result) in enumerate(zip(inputs, outputs, strict=True)) if source(result) == t.name]


def _body(reader, node, body, turning):
    """Reads the body: its reader, the values of its outputs, and the states that are inert, and fixed.

    A counter is inert because it starts from a constant and a turn makes it of itself and constants. So all states that
    may be are taken for inert first, and those that turn out not to be are not the next time.
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
    """Reads a graph inside a loop: its reader, whose slots begin with the states and constants, and its outputs."""
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
    # TensorFlow names what stands inside by its whole path; a function of one's own has names of its own.
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
            j for j, i in enumerate(turning.states) if i not in inert and inside.specs[j].dtype.startswith("float")
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
    """The values of what a loop writes: weights where it reads nothing but weights."""

    def run(*tensors):
        return loop(tensors, loop.read(tf.as_dtype(reader.dtype)))

    if not read:
        return [Weight(lambda dtype, j=j: in_dtype(run()[j], dtype), spec.shape) for j, spec in enumerate(specs)]
    # Nothing that a loop of inert tensors gives depends on the entries of the inputs.
    operation = Routing(run, loop.label, loop.outputs_count, fills=True) if all(idle) else loop
    written = reader.site(node, operation, read, specs=specs)
    for slot, still in zip(written, idle, strict=True):
        reader.note(slot, inert=still)
    return written


def _spec_of_list(reader, start, elements) -> Spec:
    """Shape and dtype of a list that was written, stacked."""
    if isinstance(start, Stacked):
        return reader.spec(start.tensor)
    dtype = elements[0].dtype if elements else start.node.attribute("element_dtype").name
    shapes = [e.shape for e in elements] + ([] if start.shape is None else [start.shape])
    if not shapes or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise NotSimpleError("The number of axes of the elements of a list is not known.")
    sizes = (next((n for n in same if n is not None), None) for same in zip(*shapes, strict=True))
    return Spec((start.known_size(reader), *sizes), dtype)


def _given(argument):
    """The slot or the weight that a loop is given for an argument."""
    return argument.size if isinstance(argument, Reserved) else tensor_of(argument)


def _is_inert(reader, value):
    return isinstance(value, Weight) or value in reader.inert


def _graph(node, reader, inputs, outputs) -> Graph:
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
"""Type of a TensorFlow operation -> view(reader, node) -> values of its outputs, None where it is not so simple."""
