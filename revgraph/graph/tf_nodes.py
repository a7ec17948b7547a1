"""TensorFlow operations as values: what a node reads, and how it is run again on other tensors."""

import dataclasses
import inspect
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.graph.operations import Operation, Source


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that does not depend on the model's inputs.

    Args:
        read: Reads it at the moment of the call, floating values in the asked-for dtype.
        shape: Its shape.
        value: The value of one that never changes; None where variables take part.
        made_by: Types of the operations that made it.
        variable: The variable whose handle it is.
    """

    read: Source
    shape: tuple[int | None, ...]
    value: np.ndarray | None = None
    made_by: frozenset[str] = frozenset()
    variable: tf.Variable | None = None

    def map(self, function, shape) -> "Weight":
        """The weight `function(self)`, which has this shape."""
        if self.value is not None:
            return known(function(tf.convert_to_tensor(self.value)), self.made_by)
        return Weight(lambda dtype: function(self.read(dtype)), tuple(shape), made_by=self.made_by)


def in_dtype(tensor, dtype):
    """A tensor with floating values in `dtype`; any other as it is."""
    return tf.cast(tensor, dtype) if tensor.dtype.is_floating else tensor


def known(value, made_by=frozenset()) -> Weight:
    """A weight that never changes."""
    value = np.asarray(value)
    return Weight(lambda dtype: in_dtype(tf.convert_to_tensor(value), dtype), value.shape, value, made_by)


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleAndShift(Operation):
    """x * kernel + bias as it stands in TensorFlow's graph, before its parts are put together."""

    kernel: Weight | None
    bias: Weight | None


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One TensorFlow operation on the way from the inputs to the outputs.

    Args:
        operation: The operation in TensorFlow's own graph.
        arguments: For each of its inputs a slot, or a `Weight`.
        path: Where it stands.
        dtype: The dtype in which the graph computes.
    """

    operation: tf.Operation
    arguments: tuple[int | Weight, ...]
    path: str
    dtype: str

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
        return tuple(Spec(self._shape(t), t.dtype.name) for t in self.operation.outputs)

    def _shape(self, tensor):
        if tensor.shape.rank is None and tensor.dtype not in (tf.variant, tf.resource):
            raise ValueError(
                f"The number of axes of {self.path!r} ({self.type}) is not known. Export the model with a signature "
                f"whose inputs have a shape, with None for axes of any size: tf.TensorSpec((None, 224, 224, 3))."
            )
        return tuple(tensor.shape) if tensor.shape.rank is not None else ()

    def attribute(self, name, default=None):
        """An attribute of the operation, text as `str`."""
        if name not in self.operation.node_def.attr:
            return default
        value = self.operation.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value

    def function(self) -> Callable:
        """The operation as a function of the tensors in its slots that gives its output, or a list of them."""
        run = runner(self.operation, self.dtype)

        def function(*tensors):
            given = iter(tensors)
            outputs = run(*(a.read(self.dtype) if isinstance(a, Weight) else next(given) for a in self.arguments))
            return outputs[0] if len(outputs) == 1 else outputs

        return function


def runner(operation, dtype) -> Callable:
    """A function that runs an operation on its flat inputs and gives its outputs as a list.

    Args:
        operation: A `tf.Operation`.
        dtype: What stands for every floating dtype that the operation names.
    """
    function = getattr(tf.raw_ops, operation.type, None)
    if function is None:
        return _unknown(operation)
    inputs = [(argument.name, _count(operation, argument)) for argument in operation.op_def.input_arg]
    attributes = {
        a.name: _attribute(operation, a, dtype) for a in operation.op_def.attr if not _is_inferred(operation, a)
    }
    python_name = _python_names(function, [*(name for name, _ in inputs), *attributes])
    attributes = {python_name[name]: value for name, value in attributes.items()}

    def run(*tensors):
        given = iter(tensors)
        arguments = {
            python_name[name]: next(given) if count is None else [next(given) for _ in range(count)]
            for name, count in inputs
        }
        return tf.nest.flatten(function(**arguments, **attributes))

    return run


def _python_names(function, names) -> dict[str, str]:
    """The parameter for each name of an operation's definition: its own but for a few that `tf.raw_ops` renames."""
    parameters = [p for p in inspect.signature(function).parameters if p != "name"]
    renamed = zip([n for n in names if n not in parameters], [p for p in parameters if p not in names], strict=True)
    return {**{n: n for n in names}, **dict(renamed)}


def _is_inferred(operation, attribute):
    """Whether an attribute follows from the inputs."""
    arguments = operation.op_def.input_arg
    return any(attribute.name in (a.type_attr, a.number_attr, a.type_list_attr) for a in arguments)


def _count(operation, argument):
    """How many tensors an argument takes; None for one that is not a list."""
    if argument.number_attr:
        return operation.get_attr(argument.number_attr)
    if argument.type_list_attr:
        return len(operation.get_attr(argument.type_list_attr))
    return None


def _attribute(operation, attribute, dtype):
    value = operation.get_attr(attribute.name)
    if attribute.type == "type" and value.is_floating:
        return tf.as_dtype(dtype)
    return value


def _unknown(operation):
    def run(*tensors):
        raise ValueError(
            f"The TensorFlow operation {operation.type!r} of node {operation.name!r} is not one of tf.raw_ops: it "
            f"comes from a library that has to be loaded first, and cannot be run again for an explanation."
        )

    return run
