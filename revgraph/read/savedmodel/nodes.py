"""Nodes: TensorFlow operations with the values that they read, and functions that run them again on other tensors."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.graph.operations import Opaque
from revgraph.read.savedmodel import private
from revgraph.read.savedmodel.weights import Value, Weight, alike, has_slope, in_dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One TensorFlow operation between the inputs and the outputs of a model.

    Args:
        operation: The operation in TensorFlow's graph.
        arguments: The value for each of its inputs: a slot, a `Weight`, or a list of tensors (see `lists`).
        path: The path of its site, made from the name of the operation.
        dtype: The dtype in which revgraph's graph computes.
        layer: The Keras operation to which it belongs; None if there is none.
        floating: A floating dtype, if integer arithmetic is computed in that dtype instead.
    """

    operation: tf.Operation
    arguments: tuple[Value, ...]
    path: str
    dtype: str
    layer: Any = None
    floating: str | None = None

    @property
    def type(self) -> str:
        """The type of the operation, such as `"MatMul"`."""
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

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the operation; `default` where it has none of this name. Text is a `str`."""
        if not private.has_attribute(self.operation, name):
            return default
        value = self.operation.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value

    def function(self) -> Callable:
        """A function that runs the operation on the tensors in its slots, and returns its output, or a list of them."""
        run = runner(self.operation, self.dtype)

        def function(*tensors):
            given = iter(tensors)
            outputs = run(*(a.read(self.dtype) if isinstance(a, Weight) else next(given) for a in self.arguments))
            # Some operations return float32, whatever dtype they are given.
            outputs = [in_dtype(t, self.dtype) for t in outputs]
            return outputs[0] if len(outputs) == 1 else outputs

        return function


BRANCHES = (
    "It chooses by the value of a tensor which operations are run, and there is no rule for such a choice. Make the "
    "choice outside of the model, or compute all branches and choose among their results with tf.where. Or use a "
    'gradient method such as "input_t_gradient", which needs no rules.'
)
"""The advice for a choice between functions."""


class TensorFlowOperation(Opaque):
    """A TensorFlow operation without a rule: `operation` is the node in TensorFlow's own graph."""

    @property
    def label(self) -> str:
        return self.operation.type

    @property
    def advice(self) -> str | None:
        """The advice for an operation with functions inside: a loop has a body, and a choice has branches."""
        if private.has_attribute(self.operation, "body"):
            return LOOP
        branches = ("then_branch", "branches")
        return BRANCHES if any(private.has_attribute(self.operation, name) for name in branches) else None


LOOP = (
    "It is a loop that cannot be read, such as one that uses its lists in an unusual way. A loop with a known number "
    "of steps can be written as a `for` of Python. A recurrent layer of Keras can be built again with unroll=True: "
    "copy the weights with new.set_weights(old.get_weights()), and explain the new model. "
    'Or use a gradient method such as "input_t_gradient", which needs no rules and takes the loop as it is.'
)
"""What to do about a loop that cannot be read."""

CHOICES = ("If", "StatelessIf")
"""Types of operations that run one of two functions."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
"""Types of operations that call a function."""


def called(operation: tf.Operation, attribute: str = "f") -> tf.Graph | None:
    """The graph of the function that an operation calls; None where it calls none.

    Args:
        operation: The operation.
        attribute: The attribute that names the function, such as `"body"` for the body of a loop.
    """
    named = attribute != "f" or operation.type in CALLS
    name = operation.get_attr(attribute).name if named else operation.type
    return private.function_in(operation, name)


def operations_between(graph: tf.Graph, wholes: Mapping[str, Any] | None = None) -> list[Any]:
    """The operations between a graph's inputs and its outputs, each after those on which it depends.

    Args:
        graph: The graph.
        wholes: By the name of a tensor, the `Whole` that returns it. A `Whole`, such as the call of a layer, stands in
            the place of its operations.
    """
    wholes = wholes or {}
    inputs, outputs = private.ends(graph)
    given = {t.name for t in inputs}
    needed: dict[int, Any] = {}
    stack = list(outputs)
    while stack:
        tensor = stack.pop()
        step = wholes.get(tensor.name, tensor.op)
        if tensor.name not in given and id(step) not in needed:
            needed[id(step)] = step
            stack.extend(step.inputs)
    order = {operation.name: i for i, operation in enumerate(graph.get_operations())}
    return sorted(needed.values(), key=lambda step: min(order[t.op.name] for t in step.outputs) if step.outputs else 0)


def graph_runner(graph: tf.Graph, dtype: tf.DType | str | None) -> Callable:
    """A function that runs a TensorFlow graph on its inputs, and returns its outputs as a list.

    Args:
        graph: The graph.
        dtype: The dtype that replaces every floating dtype in it; None to keep them.
    """

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
        # Handles of variables are the same in every turn, so they are not variables of the loop.
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
    """A bitcast runs in its own dtypes, because the bits of a number mean another number in another dtype."""
    own, target = operation.inputs[0].dtype, operation.outputs[0].dtype
    return lambda x: [tf.bitcast(tf.cast(x, own), target)]


def _update_slice(operation, dtype):
    """Replaces a block of a tensor. TensorFlow has no gradient for its own operation."""

    def run(x, updates, start):
        if dtype is not None:
            x, updates = in_dtype(x, dtype), in_dtype(updates, dtype)
        room = tf.shape(x) - tf.shape(updates)
        before = tf.clip_by_value(tf.cast(start, tf.int32), 0, room)
        widths = tf.stack([before, room - before], axis=1)
        return [tf.where(tf.pad(tf.ones_like(updates, tf.bool), widths), tf.pad(updates, widths), x)]

    return run


CONDITIONALS = frozenset({"If", "StatelessIf"})
"""Types of operations that run one of two functions."""

CONTROL = frozenset(
    f"{prefix}{kind}" for prefix in ("", "Ref") for kind in ("Enter", "Exit", "Merge", "NextIteration", "Switch")
) | {"LoopCond"}
"""Types of control flow of TensorFlow 1. It jumps between the operations of one graph, and cannot be run again."""

JUMPS = (
    "Control flow of TensorFlow 1 cannot be run again for an explanation. Build the model's graph behind "
    "tf.compat.v1.enable_control_flow_v2(), and save it again."
)
"""The advice for such control flow."""


class Jump(TensorFlowOperation):
    """An operation of the control flow of TensorFlow 1, which no method can explain."""

    refusal = JUMPS
    advice = JUMPS

    def __init__(self, operation: tf.Operation) -> None:
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
"""Operations that no function of `tf.raw_ops` runs: the type, and what makes the function that runs the operation."""


def runner(operation: tf.Operation, dtype: tf.DType | str | None) -> Callable:
    """A function that runs an operation on its flat inputs, and returns its outputs as a list.

    Args:
        operation: The operation.
        dtype: The dtype that replaces every floating dtype of the operation; None to keep them.
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
    """The tensors. Integers become floating where the operation needs the dtype of another tensor that is floating."""
    floating = {name: t.dtype for t, name in zip(tensors, types, strict=True) if name and t.dtype.is_floating}
    return [
        tf.cast(t, floating[name]) if t.dtype.is_integer and name in floating else t
        for t, name in zip(tensors, types, strict=True)
    ]


def _dtype_of(operation, attribute, dtype):
    """The dtype for an attribute of an operation: `dtype`, or its own where the operation does not allow `dtype`."""
    own = operation.get_attr(attribute.name)
    allowed = attribute.allowed_values.list.type
    if not has_slope(own) or dtype is None:
        return own
    wanted = alike(own, dtype)
    return wanted if not allowed or wanted.as_datatype_enum in allowed else own


def _dtype_taken(argument, types):
    """The floating dtype that an argument must have; None where any dtype is taken."""
    taken = tf.as_dtype(argument.type) if argument.type else types.get(argument.type_attr)
    return taken if taken is not None and has_slope(taken) else None


def _python_names(function: Callable, names: list[str]) -> dict[str, str]:
    """The parameter of a `tf.raw_ops` function for each name in the operation's definition. Few names differ."""
    parameters = [p for p in inspect.signature(function).parameters if p != "name"]
    renamed = zip([n for n in names if n not in parameters], [p for p in parameters if p not in names], strict=True)
    return {**{n: n for n in names}, **dict(renamed)}


def _is_inferred(operation, attribute):
    """Whether TensorFlow infers an attribute from the inputs."""
    arguments = private.definition(operation).input_arg
    return any(attribute.name in (a.type_attr, a.number_attr, a.type_list_attr) for a in arguments)


def _count(operation, argument):
    """The number of tensors that an argument takes; None if it takes a single tensor and not a list."""
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
