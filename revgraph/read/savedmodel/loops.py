"""Lists of tensors and loops: a loop becomes a `Loop`, and the lists that it reads and writes become stacked tensors.

While a graph is read, a list is a value beside slots and weights. An operation that only knows TensorFlow's own lists
is given one made of it (`whole`), and passes join it with what it exchanges lists with.
"""

import dataclasses

import tensorflow as tf

from revgraph.graph.graph import Graph, Spec
from revgraph.graph.loops import Element, Loop, Written, as_list, element
from revgraph.graph.operations import Routing
from revgraph.read.savedmodel import private
from revgraph.read.savedmodel.nodes import Node, TensorFlowOperation, Weight, called
from revgraph.read.savedmodel.passes import simplify


class NotSimpleError(Exception):
    """A loop does with its lists what a `Loop` does not."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stacked:
    """A list whose elements stand in one tensor, along the first axis.

    Args:
        tensor: The slot of the tensor, or a weight.
        inside: It is read by a loop, in which the value of the slot is TensorFlow's own list.
    """

    tensor: int | Weight
    inside: bool = False

    def whole(self, reader, node):
        """A site that makes TensorFlow's own list of it."""
        operation, path = TensorFlowOperation(node.operation, as_list), f"{node.path}/list"
        return reader.site(node, operation, (reader.as_slot(self.tensor),), path=path, spec=Spec((), "variant"))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Reserved:
    """A list without elements, of a given size.

    Args:
        node: The node that reserves it.
    """

    node: Node

    @property
    def size(self) -> int | Weight:
        return self.node.arguments[1]

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape of an element as far as it is known; None where the number of axes is not."""
        shape = self.node.arguments[0]
        if not isinstance(shape, Weight) or shape.value is None or shape.value.ndim != 1:
            return None
        return tuple(None if n < 0 else int(n) for n in shape.value)

    def whole(self, reader, node):
        """A site that makes TensorFlow's own list of it."""
        return reader.results(self.node, {})[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Writing:
    """A list inside a loop that writes it.

    Args:
        start: The list outside of the loop.
        writes: The index and the element of each write, and whether it may be behind the end.
    """

    start: Stacked | Reserved
    writes: tuple[tuple, ...] = ()

    def whole(self, reader, node):
        raise NotSimpleError(f"{node.path!r} ({node.type}) reads a list that the loop writes.")


def is_list(value) -> bool:
    """Whether a value is a list of tensors."""
    return isinstance(value, Stacked | Reserved | Writing)


def visit(reader, node):
    """The values of the outputs of a node that handles lists, or is a loop; None where it is not as simple as that."""
    view = VIEWS.get(node.type)
    return None if view is None else view(reader, node)


def _reserve(reader, node):
    return [Reserved(node)]


def _from_tensor(reader, node):
    tensor = node.arguments[0]
    return None if is_list(tensor) else [Stacked(tensor)]


def _stack(reader, node):
    items = node.arguments[0]
    if not isinstance(items, Stacked):
        return None
    if not items.inside or isinstance(items.tensor, Weight):
        return [items.tensor]
    operation = Routing(node.function(), node.type, copies=True, fixed=True, keeps_sign=True)
    inert, fixed = items.tensor in reader.inert, reader.is_fixed(items.tensor)
    return reader.site(node, operation, (items.tensor,), inert=inert, fixed=fixed)


def _set_item(reader, node):
    items, index, item = node.arguments
    if not isinstance(items, Writing) or is_list(item):
        return None
    grows = bool(node.attribute("resize_if_index_out_of_bounds", False))
    return [dataclasses.replace(items, writes=(*items.writes, (index, item, grows)))]


def _get_item(reader, node):
    items, index, _ = node.arguments
    if not isinstance(items, Stacked):
        return None
    (spec,) = node.specs
    take = element(spec.shape, _computed(reader, spec))
    given = (items.tensor, index)
    slots = tuple(v for v in given if not isinstance(v, Weight))
    if not slots:
        return [items.tensor.map(lambda t: take(t, index.read(reader.dtype)), spec.shape)]

    def function(*tensors):
        tensors = iter(tensors)
        return take(*(v.read(reader.dtype) if isinstance(v, Weight) else next(tensors) for v in given))

    known = {"copies": True, "fixed": reader.is_fixed(index), "keeps_sign": not isinstance(items.tensor, Weight)}
    inert = all(slot in reader.inert for slot in slots)
    fixed = all(map(reader.is_fixed, given))
    operation = Element(function, "Element", fills=isinstance(items.tensor, Weight), **known)
    return reader.site(node, operation, slots, inert=inert, fixed=fixed)


def _length(reader, node):
    items = node.arguments[0]
    if not isinstance(items, Stacked):
        return None
    if isinstance(items.tensor, Weight):
        return [items.tensor.map(lambda t: tf.shape(t)[0], ())]

    def length(x):
        return tf.raw_ops.TensorListLength(input_handle=x) if items.inside else tf.shape(x)[0]

    known = dict.fromkeys(("copies", "fixed", "keeps_sign", "fills"), True)
    size = Routing(length, "Size", **known)
    return reader.site(node, size, (items.tensor,), inert=True, fixed=True)


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
    condition, body = (called(node.operation, name) for name in ("cond", "body"))
    if all(isinstance(_given(argument), Weight) for argument in node.arguments):
        return None
    try:
        turning = _turning(reader, node, body)
        inside, results, inert, fixed = _body(reader, node, body, turning)
        more = _read(reader, node, condition, turning, inert, fixed)
        return _site(reader, node, turning, more, (inside, results), inert, fixed)
    # What cannot be read inside is run as a whole.
    except (NotSimpleError, ValueError):
        return None


def _turning(reader, node, body) -> Turning:
    kept = _kept(body)
    given = dict(enumerate(node.arguments))
    tensors = {i: a.tensor if isinstance(a, Stacked) else a for i, a in given.items()}
    for i, value in tensors.items():
        raw = not is_list(value) and not isinstance(value, Weight) and reader.specs[value].dtype == "variant"
        handle = isinstance(value, Weight) and i not in kept and body.inputs[i].dtype in (tf.resource, tf.variant)
        if raw or handle or (i in kept and isinstance(value, Reserved | Writing)) or isinstance(value, Writing):
            raise NotSimpleError(f"Input {i} of {node.path!r} is a list that was made in another way.")
    turning = [i for i in given if i not in kept]
    return Turning(
        states=tuple(i for i in turning if not is_list(given[i])),
        lists=tuple(i for i in turning if is_list(given[i])),
        constants=tuple(i for i in kept if not isinstance(tensors[i], Weight)),
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
    inert = {i for i in turning.states if isinstance(node.arguments[i], Weight) or node.arguments[i] in reader.inert}
    fixed = {i for i in inert if reader.is_fixed(node.arguments[i])}
    while True:
        inside, results = _read(reader, node, body, turning, inert, fixed)
        still = {i for i in inert if isinstance(results[i], Weight) or results[i] in inside.inert}
        same = {i for i in fixed & still if inside.is_fixed(results[i])}
        if still == inert and same == fixed:
            return inside, results, frozenset(inert), frozenset(fixed)
        inert, fixed = still, same


def _read(reader, node, graph, turning, inert, fixed):
    """Reads a graph inside a loop: its reader, whose slots begin with the states and constants, and its outputs."""
    inside, values = reader.inside(), list(node.arguments)
    ends, _ = private.ends(graph)
    shapes, _ = private.ends(called(node.operation, "body"))
    for i in turning.states:
        if shapes[i].shape.rank is None:
            raise NotSimpleError(f"The number of axes of state {i} of {node.path!r} is not known.")
        values[i] = inside.new_slot(Spec(tuple(shapes[i].shape), shapes[i].dtype.name))
        inside.note(values[i], inert=i in inert, fixed=i in fixed)
    for i in turning.constants:
        outside = values[i].tensor if i in turning.read else values[i]
        slot = inside.new_slot(reader.specs[outside])
        inside.take(slot, reader, outside)
        values[i] = Stacked(slot, inside=True) if i in turning.read else slot
    for i in turning.lists:
        values[i] = Writing(values[i])
    # TensorFlow names what stands inside by its whole path; a function of one's own has names of its own.
    scope = node.operation.name + "/"
    whole = any(operation.name.startswith(scope) for operation in graph.get_operations())
    prefix = node.path[: -len(node.operation.name)] if whole else node.path + "/"
    return inside, inside.inline(graph, values[: len(ends)], prefix)


def _site(reader, node, turning, more, body, inert, fixed):
    """The site of a loop, and the values of the outputs of its node."""
    inside, results = body
    slots = [inside.as_slot(results[i]) for i in turning.states]
    lists, specs, idle = [], [], []
    for i in turning.lists:
        written = results[i]
        if not isinstance(written, Writing) or written.start is not node.arguments[i]:
            raise NotSimpleError(f"List {i} of {node.path!r} is not the one that the turn began with.")
        elements = [inside.as_slot(item) for _, item, _ in written.writes]
        for (index, _, _), slot in zip(written.writes, elements, strict=True):
            slots += [inside.as_slot(index), slot]
        spec = _spec_of_list(reader, written.start, [inside.specs[slot] for slot in elements])
        reserved = isinstance(written.start, Reserved)
        grows = any(grows for *_, grows in written.writes)
        dtype = _computed(reader, spec).name
        lists.append(Written(spec.shape[1:], dtype, reserved, len(written.writes), grows))
        specs.append(Spec((None, *spec.shape[1:]), spec.dtype) if grows else spec)
        idle.append(_is_inert(reader, written.start) and all(slot in inside.inert for slot in elements))
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
    specs = [*(node.specs[i] for i in turning.states), *specs]
    idle = [*(i in inert for i in turning.states), *idle]
    operation = _constant(loop, reader.dtype) if all(idle) else loop
    read = tuple(v for v in given if not isinstance(v, Weight))
    written = reader.site(node, operation, read, specs=specs)
    steady = condition.is_fixed(last[0])
    for slot, still, same in zip(written, idle, [*(i in fixed for i in turning.states), *idle], strict=False):
        reader.note(slot, inert=still, fixed=same and steady)
    values = dict(zip((*turning.states, *turning.lists), written, strict=True))
    values.update({i: Stacked(values[i]) for i in turning.lists})
    return [values.get(i, argument) for i, argument in enumerate(node.arguments)]


def _spec_of_list(reader, start, elements) -> Spec:
    """Shape and dtype of a list that was written, stacked."""
    if isinstance(start, Stacked):
        if isinstance(start.tensor, Weight):
            return Spec(tuple(start.tensor.shape), start.tensor.read(reader.dtype).dtype.name)
        return reader.specs[start.tensor]
    size = reader.integers(start.size)
    number = None if size is None or size.ndim or size[()] is None else int(size)
    dtype = elements[0].dtype if elements else start.node.attribute("element_dtype").name
    shapes = [e.shape for e in elements] + ([] if start.shape is None else [start.shape])
    if not shapes or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise NotSimpleError("The number of axes of the elements of a list is not known.")
    sizes = (next((n for n in same if n is not None), None) for same in zip(*shapes, strict=True))
    return Spec((number, *sizes), dtype)


def _given(argument):
    """The slot or the weight that a loop is given for an argument."""
    if isinstance(argument, Stacked):
        return argument.tensor
    return argument.size if isinstance(argument, Reserved) else argument


def _is_inert(reader, start):
    return isinstance(start, Reserved) or isinstance(start.tensor, Weight) or start.tensor in reader.inert


def _computed(reader, spec) -> tf.DType:
    """The dtype in which values of a spec are computed."""
    dtype = tf.as_dtype(spec.dtype)
    return tf.as_dtype(reader.dtype) if dtype.is_floating else dtype


def _constant(loop, dtype):
    """A loop of which nothing depends on the entries of the inputs."""

    def function(*tensors):
        return loop(tensors, loop.read(tf.as_dtype(dtype)))

    return Routing(function, loop.label, loop.outputs_count, fills=True)


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


VIEWS = {
    "StatelessWhile": _loop,
    "TensorListFromTensor": _from_tensor,
    "TensorListGetItem": _get_item,
    "TensorListLength": _length,
    "TensorListReserve": _reserve,
    "TensorListSetItem": _set_item,
    "TensorListStack": _stack,
    "While": _loop,
}
"""Type of a TensorFlow operation -> view(reader, node) -> values of its outputs, None where it is not so simple."""
