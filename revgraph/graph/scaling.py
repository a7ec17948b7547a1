"""Operations that multiply by constants and add constants, and the broadcasting that comes with them."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from revgraph.graph.operations import Scale, Source, constant, reading

Shape: TypeAlias = Sequence[int | None]
"""The size of each axis; None where it is not known."""


def scaling(
    output: Shape,
    kernel: Source | None = None,
    bias: Source | None = None,
    kernel_shape: Shape = (),
    bias_shape: Shape = (),
) -> Scale:
    """The operation x * kernel + bias with constants. Constants that vary along one axis only are made vectors.

    Args:
        output: Shape of the output.
        kernel, bias: Sources of the factor and of the summand. None where there is none.
        kernel_shape, bias_shape: Their shapes, which broadcast against the output.
    """
    varying = _varying(kernel_shape, output) | _varying(bias_shape, output)
    axis = None
    if len(varying) == 1 and 0 not in varying:
        (axis,) = varying
    sources = {"kernel": constant(1.0) if kernel is None else _vector(kernel, kernel_shape, output, axis)}
    if bias is not None:
        sources["bias"] = _vector(bias, bias_shape, output, axis)
    return Scale(reading(sources), axis)


def _varying(shape, output):
    """The axes of the output along which a constant of this shape has more than one entry."""
    offset = len(output) - len(shape)
    return {offset + i for i, n in enumerate(shape) if n != 1}


def broadcasts(shape: Shape, other: Shape) -> bool:
    """Whether a tensor of this shape is repeated when it is added to one of the other shape."""
    if len(other) > len(shape):
        return True
    return any(n == 1 and m != 1 for n, m in zip(shape[len(shape) - len(other) :], other, strict=True))


def _vector(source, shape, output, axis):
    varying = _varying(shape, output)
    if not varying:
        shape = ()
    elif varying == {axis}:
        shape = (-1,)
    return lambda dtype: tf.reshape(source(dtype), shape)


def broadcast_to(shape: Shape) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that broadcasts a tensor to a shape. Where a size is None the tensor keeps its own."""

    def function(x):
        own = [None] * (len(shape) - x.shape.rank) + tf.unstack(tf.shape(x))
        return tf.broadcast_to(x, [m if n is None else n for n, m in zip(shape, own, strict=True)])

    return function
