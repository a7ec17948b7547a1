"""Weights: tensors that do not depend on the inputs of a model. They are read from the model when they are needed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from revgraph.graph.operations import Operation, Source
from revgraph.graph.types import Weights

Value: TypeAlias = Any
"""An argument or a result of a TensorFlow operation: a slot (int), a `Weight`, or a list of tensors (see `lists`)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """A computation on weights. It runs once per reading, even if several weights are computed from its results.

    Args:
        arguments: The weights that it takes.
        run: Computes its results from a dtype and the values of the weights.
    """

    arguments: "tuple[Weight, ...]"
    run: Callable[..., list[tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that does not depend on the model's inputs.

    Args:
        source: A function that reads the tensor from the model, with floating values in the dtype that it is given; or
            the expression that computes the tensor.
        shape: Its shape.
        value: Its value if it never changes; None where variables take part.
        made_by: Types of the TensorFlow operations that compute it.
        variable: The variable, if the tensor is the handle of one.
        index: Position among the results of the expression.
    """

    source: Source | Expression
    shape: tuple[int | None, ...]
    value: np.ndarray | None = None
    made_by: frozenset[str] = frozenset()
    variable: tf.Variable | None = None
    index: int = 0

    def read(self, dtype: tf.DType | str) -> tf.Tensor:
        """Reads the tensor from the model, with floating values in `dtype`."""
        results: dict[Expression, list[tf.Tensor]] = {}

        def value(weight):
            source = weight.source
            return results[source][weight.index] if isinstance(source, Expression) else source(dtype)

        # Arguments are computed first. This is a loop because recursion in Python ends at a thousand calls.
        stack = [self.source] if isinstance(self.source, Expression) else []
        while stack:
            arguments = [a.source for a in stack[-1].arguments]
            missing = [s for s in arguments if isinstance(s, Expression) and s not in results]
            if missing:
                stack.extend(missing)
                continue
            expression = stack.pop()
            if expression not in results:
                given = map(value, expression.arguments)
                results[expression] = [in_dtype(t, dtype) for t in expression.run(dtype, *given)]
        return value(self)

    def is_all(self, number: float) -> bool:
        """Whether every entry has this value and always will."""
        return self.value is not None and bool(np.all(self.value == number))

    def content(self) -> "Weight":
        """The value of the variable, if this is the handle of one; otherwise this weight."""
        variable = self.variable
        if variable is None:
            return self
        return Weight(
            lambda dtype: in_dtype(variable.read_value(), dtype),
            tuple(variable.shape),
            made_by=frozenset({"ReadVariableOp"}),
        )

    def map(self, function: Callable[[tf.Tensor], Any], shape: Sequence[int | None]) -> "Weight":
        """The weight `function(self)`, whose shape is `shape`."""
        if self.value is not None:
            return known(function(tf.convert_to_tensor(self.value)), self.made_by)
        return Weight(Expression((self,), lambda dtype, w: [function(w)]), tuple(shape), made_by=self.made_by)


def in_dtype(tensor: tf.Tensor, dtype: tf.DType | str) -> tf.Tensor:
    """The tensor in the precision of `dtype` if its values are floating or complex; otherwise the tensor as it is."""
    return tf.cast(tensor, alike(tensor.dtype, dtype)) if has_slope(tensor.dtype) else tensor


def has_slope(dtype: tf.DType | str) -> bool:
    """Whether a dtype has derivatives: floating and complex ones do, integers and booleans do not."""
    dtype = tf.as_dtype(dtype)
    return dtype.is_floating or dtype.is_complex


def alike(own: tf.DType | str, dtype: tf.DType | str) -> tf.DType:
    """The dtype with the precision of `dtype` that is complex if `own` is complex, and floating otherwise."""
    precise = tf.as_dtype(dtype) in (tf.float64, tf.complex128)
    if tf.as_dtype(own).is_complex:
        return tf.complex128 if precise else tf.complex64
    return tf.float64 if precise and tf.as_dtype(dtype).is_complex else tf.as_dtype(dtype)


def known(value: Any, made_by: frozenset[str] = frozenset()) -> Weight:
    """A weight that never changes.

    Args:
        value: An array, tensor or number.
        made_by: Types of the TensorFlow operations that computed it.
    """
    # NumPy cannot convert a bfloat16 tensor that has a single number.
    value = np.asarray(value.numpy() if tf.is_tensor(value) else value)
    return Weight(lambda dtype: in_dtype(tf.convert_to_tensor(value), dtype), value.shape, value, made_by)


def captured(tensor: tf.Tensor, handles: Mapping[int, tf.Variable], keep: Any) -> Weight:
    """The weight for a tensor that a function captured: a constant, or the handle of a variable or of a table.

    Args:
        tensor: The tensor.
        handles: The variable for each handle, by the id of the handle.
        keep: An object that has to live as long as the weight does, because it owns the variables.
    """
    if tensor.dtype in (tf.resource, tf.variant):
        return Weight(lambda dtype: (keep, tensor)[1], (), variable=handles.get(id(tensor)))
    return known(tensor.numpy())


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleAndShift(Operation):
    """x * kernel + bias while a graph is read. Passes join several of them, and make each a `Scale` in the end.

    Args:
        kernel: The factor; None for 1.
        bias: The shift; None for 0.
    """

    kernel: Weight | None
    bias: Weight | None

    def read(self, dtype: tf.DType | str) -> dict[str, tf.Tensor]:
        given = {"kernel": self.kernel, "bias": self.bias}
        return {name: weight.read(dtype) for name, weight in given.items() if weight is not None}

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return (inputs[0] * weights.get("kernel", 1) + weights.get("bias", 0),)
