"""Tensors that do not depend on the inputs of a model, read when they are needed."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from revgraph.graph.operations import Operation, Source


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """What is computed from weights: once per reading, however many others are computed from it.

    Args:
        arguments: The weights.
        run: Gives its results from a dtype and the values of the weights.
    """

    arguments: "tuple[Weight, ...]"
    run: Callable[..., list[tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that does not depend on the model's inputs.

    Args:
        source: Reads it at the moment of the call, floating values in the asked-for dtype; or the expression that
            computes it.
        shape: Its shape.
        value: The value of one that never changes; None where variables take part.
        made_by: Types of the operations that made it.
        variable: The variable whose handle it is.
        index: Which result of the expression it is.
    """

    source: Source | Expression
    shape: tuple[int | None, ...]
    value: np.ndarray | None = None
    made_by: frozenset[str] = frozenset()
    variable: tf.Variable | None = None
    index: int = 0

    def read(self, dtype) -> tf.Tensor:
        """Reads it at the moment of the call, floating values in `dtype`."""
        results: dict[Expression, list[tf.Tensor]] = {}

        def value(weight):
            source = weight.source
            return results[source][weight.index] if isinstance(source, Expression) else source(dtype)

        # Each after its arguments. A stack, because recursion in Python ends at a thousand calls.
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

    def content(self) -> "Weight":
        """The variable's value where this is its handle."""
        variable = self.variable
        if variable is None:
            return self
        return Weight(
            lambda dtype: in_dtype(variable.read_value(), dtype),
            tuple(variable.shape),
            made_by=frozenset({"ReadVariableOp"}),
        )

    def map(self, function, shape) -> "Weight":
        """The weight `function(self)`, which has this shape."""
        if self.value is not None:
            return known(function(tf.convert_to_tensor(self.value)), self.made_by)
        return Weight(Expression((self,), lambda dtype, w: [function(w)]), tuple(shape), made_by=self.made_by)


def in_dtype(tensor, dtype):
    """A tensor with floating or complex values in the precision of `dtype`; any other as it is."""
    return tf.cast(tensor, alike(tensor.dtype, dtype)) if has_slope(tensor.dtype) else tensor


def has_slope(dtype) -> bool:
    """Whether numbers of a dtype can be differentiated by."""
    dtype = tf.as_dtype(dtype)
    return dtype.is_floating or dtype.is_complex


def alike(own, dtype) -> tf.DType:
    """The dtype of a precision: a complex one where `own` is complex."""
    precise = tf.as_dtype(dtype) in (tf.float64, tf.complex128)
    if tf.as_dtype(own).is_complex:
        return tf.complex128 if precise else tf.complex64
    return tf.float64 if precise and tf.as_dtype(dtype).is_complex else tf.as_dtype(dtype)


def known(value, made_by=frozenset()) -> Weight:
    """A weight that never changes."""
    # NumPy itself makes no array of a bfloat16 tensor with one number.
    value = np.asarray(value.numpy() if tf.is_tensor(value) else value)
    return Weight(lambda dtype: in_dtype(tf.convert_to_tensor(value), dtype), value.shape, value, made_by)


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleAndShift(Operation):
    """x * kernel + bias as it stands in TensorFlow's graph, before its parts are put together."""

    kernel: Weight | None
    bias: Weight | None

    def read(self, dtype):
        given = {"kernel": self.kernel, "bias": self.bias}
        return {name: weight.read(dtype) for name, weight in given.items() if weight is not None}

    def __call__(self, inputs, weights):
        return (inputs[0] * weights.get("kernel", 1) + weights.get("bias", 0),)
