"""Multiplication by constants and addition of constants, and normalization, of layers and of operations."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph import normalization
from revgraph.graph.operations import BatchNorm, Scale, constant, live, reading
from revgraph.read.keras.template import Slot


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


def shape_of_summand(shape, output) -> tuple[int, ...]:
    """The shape that a constant has when Keras adds it to a tensor.

    Newer versions of Keras take a summand with one axis of several entries for a bias, if it has as many as the tensor
    has channels: (4, 1) is added along the last axis of a tensor (batch, 4, 4), not along the one where it stands.
    """
    sizes = [n for n in shape if n != 1]
    if len(shape) < 2 or len(sizes) != 1 or len(output) < 2 or not _takes_columns_for_biases():
        return shape
    if sizes[0] == output[-1]:
        return (sizes[0],)
    return (sizes[0], *(1,) * (len(output) - 2)) if sizes[0] == output[1] else shape


@functools.cache
def _takes_columns_for_biases():
    return float(ops.add(tf.zeros((1, 2, 2)), tf.constant([[1.0], [2.0]]))[0, 0, 1]) == 2.0


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


def value_source(value, f=lambda v: v):
    """A source of a function of an argument: a number, an array, or a variable, which is read anew each time."""
    source = live(lambda: value)
    return lambda dtype: f(source(dtype))


# Layers.


def batch_normalization_layer(layer, template, outputs):
    """BatchNormalization in inference, as scale and shift by the live moments."""

    def weights(dtype):
        scale = tf.math.rsqrt(live(lambda: layer.moving_variance)(dtype) + layer.epsilon)
        if layer.scale:
            scale *= live(lambda: layer.gamma)(dtype)
        shift = -live(lambda: layer.moving_mean)(dtype) * scale
        if layer.center:
            shift += live(lambda: layer.beta)(dtype)
        return {"kernel": scale, "bias": shift}

    return BatchNorm(weights, layer.axis % len(outputs[0].shape))


def rescaling_layer(layer, template, outputs):
    """The view of Rescaling; None where its constants make the output larger than Keras says."""
    # Keras, too, makes tensors of Python numbers before it casts them.
    sources = [live(lambda n=n: tf.convert_to_tensor(getattr(layer, n))) for n in ("scale", "offset")]
    shapes = [np.shape(layer.scale), np.shape(layer.offset)]
    if keras.config.image_data_format() == "channels_first" and shapes[0]:
        shapes[0] += (1,) * (3 - len(shapes[0]))
    if any(broadcasts(outputs[0].shape, shape) for shape in shapes):
        return None
    return scaling(outputs[0].shape, *sources, *shapes)


def rescaled(layer):
    """What a Rescaling layer computes, with operations that say which shape the output has."""
    scale = np.asarray(layer.scale)
    if keras.config.image_data_format() == "channels_first" and scale.ndim:
        scale = scale.reshape(scale.shape + (1,) * (3 - scale.ndim))
    return lambda inputs: ops.cast(inputs, layer.compute_dtype) * scale + np.asarray(layer.offset)


def normalization_layer(layer, template, outputs):
    """Normalization by the live mean and variance."""
    if getattr(layer, "mean", None) is None:
        return None

    def deviation(dtype):
        return tf.maximum(tf.sqrt(live(lambda: layer.variance)(dtype)), keras.config.epsilon())

    def kernel(dtype):
        return deviation(dtype) if layer.invert else 1 / deviation(dtype)

    def bias(dtype):
        mean = live(lambda: layer.mean)(dtype)
        return mean if layer.invert else -mean / deviation(dtype)

    shape = tuple(layer.mean.shape)
    return scaling(outputs[0].shape, kernel, bias, shape, shape)


def layer_normalization_layer(layer, template, outputs):
    """The view of LayerNormalization."""
    shape = outputs[0].shape
    axes = [axis % len(shape) for axis in keras.tree.flatten(layer.axis)]
    weights = _affine(layer, "gamma", "beta", [n if i in axes else 1 for i, n in enumerate(shape)])
    return normalization.of_layer(weights, axes, layer.epsilon, layer.rms_scaling)


def rms_normalization_layer(layer, template, outputs):
    """The view of RMSNormalization."""
    shape = outputs[0].shape
    axes = [axis % len(shape) for axis in keras.tree.flatten(layer.axis)]
    return normalization.of_root_mean_square(_affine(layer, "scale", None, None), axes, layer.epsilon)


def unit_normalization_layer(layer, template, outputs):
    """The view of UnitNormalization."""
    return normalization.to_unit_norm(layer.axis, 1e-12)


def group_normalization_layer(layer, template, outputs):
    """The view of GroupNormalization."""
    rank = len(outputs[0].shape)
    axis = layer.axis % rank
    weights = _affine(layer, "gamma", "beta", [-1 if i == axis else 1 for i in range(rank)])
    return normalization.over_groups(weights, layer.groups, axis, rank, layer.epsilon)


def _affine(layer, kernel, bias, shape):
    """Reader of a normalization's own scale and shift, those that it has."""
    sources = {}
    for name, attribute in (("kernel", kernel), ("bias", bias)):
        if attribute is not None and getattr(layer, attribute, None) is not None:
            sources[name] = live(
                lambda a=attribute: getattr(layer, a) if shape is None else ops.reshape(getattr(layer, a), shape)
            )
    return reading(sources)


# Operations.


def batch_normalization_operation(operation, template, outputs):
    """The view of `keras.ops.batch_normalization` with constants."""
    given = template.named(operation.call)
    if any(isinstance(value, Slot) for name, value in given.items() if name != "x"):
        return None
    sources = {name: value_source(value) for name, value in given.items() if name != "x" and value is not None}

    def weights(dtype):
        values = {name: source(dtype) for name, source in sources.items()}
        kernel = tf.math.rsqrt(values["variance"] + operation.epsilon) * values.get("scale", 1)
        return {"kernel": kernel, "bias": values.get("offset", 0) - values["mean"] * kernel}

    return BatchNorm(weights, operation.axis % len(outputs[0].shape))


def _own_affine(given, kernel, bias, shape=None):
    """Reader of a normalization's scale and shift, from the arguments that were given."""
    names = {"kernel": kernel, "bias": bias}
    given = {name: given.get(argument) for name, argument in names.items()}
    return reading(
        {
            name: value_source(value, lambda v: v if shape is None else tf.reshape(v, shape))
            for name, value in given.items()
            if value is not None
        }
    )


def _axes(operation, outputs):
    return [axis % len(outputs[0].shape) for axis in keras.tree.flatten(operation.axis)]


def layer_normalization_operation(operation, template, outputs):
    """The view of `keras.ops.layer_normalization` with constants."""
    given, axes = template.named(operation.call), _axes(operation, outputs)
    if len(template.slots()) > 1:
        return None
    shape = [n if i in axes else 1 for i, n in enumerate(outputs[0].shape)]
    weights = _own_affine(given, "gamma", "beta", shape)
    return normalization.of_layer(weights, axes, _epsilon(operation), operation.rms_scaling)


def rms_normalization_operation(operation, template, outputs):
    """The view of `keras.ops.rms_normalization` with constants."""
    if len(template.slots()) > 1:
        return None
    weights = _own_affine(template.named(operation.call), "scale", None)
    return normalization.of_root_mean_square(weights, _axes(operation, outputs), _epsilon(operation))


def normalize_operation(operation, template, outputs):
    """The view of `keras.ops.normalize`, where the norm is the Euclidean one."""
    if operation.order != 2 or operation.axis is None:
        return None
    return normalization.to_unit_norm(_axes(operation, outputs), _epsilon(operation))


def _epsilon(operation):
    return keras.config.epsilon() if operation.epsilon is None else operation.epsilon
