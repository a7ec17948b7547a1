"""TensorFlow operations as values: what a node reads, and how it is run again on other tensors."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.graph.loops import ADVICE
from revgraph.graph.operations import Opaque
from revgraph.read.savedmodel import private
from revgraph.read.savedmodel.weights import Weight, alike, has_slope, in_dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One TensorFlow operation on the way from the inputs to the outputs.

    Args:
        operation: The operation in TensorFlow's own graph.
        arguments: For each of its inputs a slot, or a `Weight`.
        path: Where it stands.
        dtype: The dtype in which the graph computes.
        layer: The raw Keras operation that it belongs to, if any.
        floating: The floating dtype in which integer arithmetic is computed instead.
    """

    operation: tf.Operation
    arguments: tuple[int | Weight, ...]
    path: str
    dtype: str
    layer: Any = None
    floating: str | None = None

    @property
    def type(self) -> str:
        return self.operation.type

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots that it reads."""
        return tuple(a for a in self.arguments if not isinstance(a, Weight))

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Shape and dtype of its outputs."""
        return tuple(Spec(self._shape(t), self.floating or t.dtype.name) for t in self.operation.outputs)

    def _shape(self, tensor):
        if tensor.shape.rank is None and tensor.dtype not in (tf.variant, tf.resource) and tensor.consumers():
            if private.jumps(self.operation):
                raise ValueError(f"{self.path!r} is part of a loop. {JUMPS}")
            raise ValueError(
                f"The number of axes of {self.path!r} ({self.type}) is not known. Export the model with a signature "
                f"whose inputs have a shape, with None for axes of any size: tf.TensorSpec((None, 224, 224, 3))."
            )
        return tuple(tensor.shape) if tensor.shape.rank is not None else ()

    def attribute(self, name, default=None):
        """An attribute of the operation, text as `str`."""
        if not private.has_attribute(self.operation, name):
            return default
        value = self.operation.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value

    def function(self) -> Callable:
        """The operation as a function of the tensors in its slots that gives its output, or a list of them."""
        run = runner(self.operation, self.dtype)

        def function(*tensors):
            given = iter(tensors)
            outputs = run(*(a.read(self.dtype) if isinstance(a, Weight) else next(given) for a in self.arguments))
            # Some operations give float32 whatever they are given.
            outputs = [in_dtype(t, self.dtype) for t in outputs]
            return outputs[0] if len(outputs) == 1 else outputs

        return function


BRANCHES = (
    "It chooses by the value of a tensor which operations are run, and there is no rule for such a choice. Make the "
    "choice outside of the model, or compute all branches and choose among their results with tf.where. Or use a "
    'gradient method such as "input_t_gradient", which needs no rules.'
)
"""What to do about a choice between functions."""


class TensorFlowOperation(Opaque):
    """A TensorFlow operation without a rule: `operation` is the node in TensorFlow's own graph."""

    @property
    def label(self):
        return self.operation.type

    @property
    def advice(self):
        """What to do about an operation with functions inside: a loop has a body, and a choice has branches."""
        if private.has_attribute(self.operation, "body"):
            return ADVICE
        branches = ("then_branch", "branches")
        return BRANCHES if any(private.has_attribute(self.operation, name) for name in branches) else None


CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
"""Calls of functions."""


def called(operation, attribute="f"):
    """The graph of the function that an operation calls, or has as an attribute; None where there is none."""
    named = attribute != "f" or operation.type in CALLS
    name = operation.get_attr(attribute).name if named else operation.type
    return private.function_in(operation, name)


def operations_between(graph, wholes=None) -> list:
    """The operations that lead from a graph's inputs to its outputs, each after those that it depends on.

    Args:
        graph: The graph.
        wholes: What is one site by the names of the tensors that it gives; it stands in the place of its operations.
    """
    wholes = wholes or {}
    inputs, outputs = private.ends(graph)
    inputs = {t.name for t in inputs}
    needed, stack = {}, list(outputs)
    while stack:
        tensor = stack.pop()
        step = wholes.get(tensor.name, tensor.op)
        if tensor.name not in inputs and id(step) not in needed:
            needed[id(step)] = step
            stack.extend(step.inputs)
    order = {operation.name: i for i, operation in enumerate(graph.get_operations())}
    return sorted(needed.values(), key=lambda step: min(order[t.op.name] for t in step.outputs) if step.outputs else 0)


def graph_runner(graph, dtype) -> Callable:
    """A function that runs a graph on its inputs and gives its outputs as a list."""

    def names(tensors):
        return [t.name for t in tensors]

    # TensorFlow adds inputs and outputs to the graph of a loop when it differentiates the loop.
    inputs, outputs = map(names, private.ends(graph))
    steps = [(names(o.inputs), names(o.outputs), runner(o, dtype)) for o in operations_between(graph)]

    def run(*tensors):
        values = dict(zip(inputs, tensors, strict=True))
        for read, written, step in steps:
            values.update(zip(written, step(*(values[name] for name in read)), strict=True))
        return [values[name] for name in outputs]

    return run


def _constant(operation, dtype):
    value = tf.make_ndarray(operation.get_attr("value"))
    return lambda: [tf.convert_to_tensor(value) if dtype is None else in_dtype(tf.convert_to_tensor(value), dtype)]


def _read_variable(operation, dtype):
    own = operation.get_attr("dtype")

    def run(handle):
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=own)
        return [value if dtype is None else in_dtype(value, dtype)]

    return run


def _while(operation, dtype):
    condition, body = (graph_runner(called(operation, name), dtype) for name in ("cond", "body"))
    shapes = [t.shape for t in private.ends(called(operation, "body"))[0]]

    def run(*tensors):
        # Handles of variables are the same in every turn, and no loop variables.
        turning = [i for i, t in enumerate(tensors) if t.dtype != tf.resource]

        def whole(values):
            values = dict(zip(turning, values, strict=True))
            return [values.get(i, t) for i, t in enumerate(tensors)]

        results = tf.while_loop(
            lambda *values: tf.reshape(condition(*whole(values))[0], ()),
            lambda *values: [body(*whole(values))[i] for i in turning],
            [tensors[i] for i in turning],
            [shapes[i] for i in turning],
        )
        return whole(results)

    return run


def _if(operation, dtype):
    yes, no = (graph_runner(called(operation, name), dtype) for name in ("then_branch", "else_branch"))

    def run(condition, *tensors):
        return tf.nest.flatten(tf.cond(tf.cast(condition, tf.bool), lambda: yes(*tensors), lambda: no(*tensors)))

    return run


def _bits(operation, dtype):
    """The bits of numbers of one type mean nothing in another."""
    own, target = operation.inputs[0].dtype, operation.outputs[0].dtype
    return lambda x: [tf.bitcast(tf.cast(x, own), target)]


def _update_slice(operation, dtype):
    """A block of a tensor replaced by another. TensorFlow has no gradient of its own operation."""

    def run(x, updates, start):
        if dtype is not None:
            x, updates = in_dtype(x, dtype), in_dtype(updates, dtype)
        room = tf.shape(x) - tf.shape(updates)
        before = tf.clip_by_value(tf.cast(start, tf.int32), 0, room)
        widths = tf.stack([before, room - before], axis=1)
        return [tf.where(tf.pad(tf.ones_like(updates, tf.bool), widths), tf.pad(updates, widths), x)]

    return run


CONTROL = frozenset(
    f"{prefix}{kind}" for prefix in ("", "Ref") for kind in ("Enter", "Exit", "Merge", "NextIteration", "Switch")
) | {"LoopCond"}
"""Control flow of TensorFlow 1, which jumps between the operations of one graph and cannot be run again."""

JUMPS = (
    "Control flow of TensorFlow 1 cannot be run again for an explanation. Build the model's graph behind "
    "tf.compat.v1.enable_control_flow_v2(), and save it again."
)
"""What to say of that."""


class Jump(TensorFlowOperation):
    """Control flow of TensorFlow 1."""

    refusal = advice = JUMPS

    def __init__(self, operation):
        super().__init__(operation, self._run, len(operation.outputs))

    @staticmethod
    def _run(*tensors):
        raise ValueError(JUMPS)


def _case(operation, dtype):
    names = [function.name for function in operation.get_attr("branches")]
    branches = [graph_runner(private.function_in(operation, name), dtype) for name in names]

    def run(index, *tensors):
        return tf.nest.flatten(tf.switch_case(index, [lambda b=branch: b(*tensors) for branch in branches]))

    return run


SPECIAL = {
    "Bitcast": _bits,
    "Case": _case,
    "Const": _constant,
    "If": _if,
    "ReadVariableOp": _read_variable,
    "StatelessCase": _case,
    "StatelessIf": _if,
    "StatelessWhile": _while,
    "While": _while,
    "XlaDynamicUpdateSlice": _update_slice,
}
"""Operations that are not run by a function of `tf.raw_ops`."""


def runner(operation, dtype) -> Callable:
    """A function that runs an operation on its flat inputs and gives its outputs as a list.

    Args:
        operation: A `tf.Operation`.
        dtype: What stands for every floating dtype that the operation names; None to leave them.
    """
    if operation.type in SPECIAL:
        return SPECIAL[operation.type](operation, dtype)
    if called(operation) is not None:
        return graph_runner(called(operation), dtype)
    function = getattr(tf.raw_ops, operation.type, None)
    if function is None:
        return _unknown(operation)
    definition = private.definition(operation)
    types = {a.name: _dtype_of(operation, a, dtype) for a in definition.attr if a.type == "type"}
    inputs = [(a.name, _count(operation, a), _dtype_taken(a, types)) for a in definition.input_arg]
    types_of = [a.type_attr for a in definition.input_arg for _ in range(_count(operation, a) or 1)]
    attributes = {
        a.name: types.get(a.name, operation.get_attr(a.name)) for a in definition.attr if not _is_inferred(operation, a)
    }
    python_name = _python_names(function, [*(name for name, *_ in inputs), *attributes])
    attributes = {python_name[name]: value for name, value in attributes.items()}

    def run(*tensors):
        given = iter(_floating_together(tensors, types_of))

        def take(taken):
            tensor = next(given)
            return tensor if dtype is None or taken is None else in_dtype(tensor, taken)

        arguments = {
            python_name[name]: take(taken) if count is None else [take(taken) for _ in range(count)]
            for name, count, taken in inputs
        }
        return tf.nest.flatten(function(**arguments, **attributes))

    return run


def _floating_together(tensors, types):
    """The tensors, floating where another one is that has to have the same dtype: integers whose relevance is moved."""
    floating = {name: t.dtype for t, name in zip(tensors, types, strict=True) if name and t.dtype.is_floating}
    return [
        tf.cast(t, floating[name]) if t.dtype.is_integer and name in floating else t
        for t, name in zip(tensors, types, strict=True)
    ]


def _dtype_of(operation, attribute, dtype):
    """The dtype that stands for one that an operation names: its own where the operation is not made for `dtype`."""
    own = operation.get_attr(attribute.name)
    allowed = attribute.allowed_values.list.type
    if not has_slope(own) or dtype is None:
        return own
    wanted = alike(own, dtype)
    return wanted if not allowed or wanted.as_datatype_enum in allowed else own


def _dtype_taken(argument, types):
    """The floating dtype that an argument has to have; None where any will do."""
    taken = tf.as_dtype(argument.type) if argument.type else types.get(argument.type_attr)
    return taken if taken is not None and has_slope(taken) else None


def _python_names(function, names) -> dict[str, str]:
    """The parameter for each name of an operation's definition: its own but for a few that `tf.raw_ops` renames."""
    parameters = [p for p in inspect.signature(function).parameters if p != "name"]
    renamed = zip([n for n in names if n not in parameters], [p for p in parameters if p not in names], strict=True)
    return {**{n: n for n in names}, **dict(renamed)}


def _is_inferred(operation, attribute):
    """Whether an attribute follows from the inputs."""
    arguments = private.definition(operation).input_arg
    return any(attribute.name in (a.type_attr, a.number_attr, a.type_list_attr) for a in arguments)


def _count(operation, argument):
    """How many tensors an argument takes; None for one that is not a list."""
    if argument.number_attr:
        return operation.get_attr(argument.number_attr)
    if argument.type_list_attr:
        return len(operation.get_attr(argument.type_list_attr))
    return None


def _unknown(operation):
    def run(*tensors):
        raise ValueError(
            f"The TensorFlow operation {operation.type!r} of node {operation.name!r} is not one of tf.raw_ops: it "
            f"comes from a library that has to be loaded first, and cannot be run again for an explanation."
        )

    return run
