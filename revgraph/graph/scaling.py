"""Multiplication by constants and addition of constants, and tensors that are repeated to meet larger ones."""

import tensorflow as tf

from revgraph.graph.operations import Scale, constant, reading


def scaling(output, kernel=None, bias=None, kernel_shape=(), bias_shape=()) -> Scale:
    """Multiplication and addition of constants: vectors along the axis along which they vary, where that is one.

    Args:
        output: Shape of the output.
        kernel, bias: Sources of the factor and of the summand, if any.
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
    """The axes of the output along which a constant of this shape has several entries."""
    offset = len(output) - len(shape)
    return {offset + i for i, n in enumerate(shape) if n != 1}


def broadcasts(shape, other) -> bool:
    """Whether a tensor of this shape becomes larger when it meets another."""
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


def broadcast_to(shape):
    """A function that broadcasts to a shape. What is unknown of it is the size that the tensor has there already."""

    def function(x):
        own = [None] * (len(shape) - x.shape.rank) + tf.unstack(tf.shape(x))
        return tf.broadcast_to(x, [m if n is None else n for n, m in zip(shape, own, strict=True)])

    return function
