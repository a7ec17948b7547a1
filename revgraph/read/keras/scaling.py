"""Views of the layers that scale, shift or normalize."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from revgraph.graph import normalization
from revgraph.graph.operations import BatchNorm, Normalize, Scale, live, reading
from revgraph.graph.scaling import broadcasts, scaling
from revgraph.read.keras.template import Template


def batch_normalization_layer(
    layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]
) -> BatchNorm:
    """The view of BatchNormalization in inference: scale and shift by the moving mean and variance, read live."""

    def weights(dtype):
        scale = tf.math.rsqrt(live(lambda: layer.moving_variance)(dtype) + layer.epsilon)
        if layer.scale:
            scale *= live(lambda: layer.gamma)(dtype)
        shift = -live(lambda: layer.moving_mean)(dtype) * scale
        if layer.center:
            shift += live(lambda: layer.beta)(dtype)
        return {"kernel": scale, "bias": shift}

    return BatchNorm(weights, layer.axis % len(outputs[0].shape))


def rescaling_layer(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> Scale | None:
    """The view of Rescaling; None where its constants broadcast the input to a larger shape than Keras says."""
    # Keras, too, makes tensors of Python numbers before it casts them, which rounds them to float32.
    kernel, bias = (live(lambda n=n: tf.convert_to_tensor(getattr(layer, n))) for n in ("scale", "offset"))
    kernel_shape, bias_shape = np.shape(layer.scale), np.shape(layer.offset)
    if keras.config.image_data_format() == "channels_first" and kernel_shape:
        kernel_shape += (1,) * (3 - len(kernel_shape))
    if any(broadcasts(outputs[0].shape, shape) for shape in (kernel_shape, bias_shape)):
        return None
    return scaling(outputs[0].shape, kernel, bias, kernel_shape, bias_shape)


def normalization_layer(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> Scale | None:
    """The view of Normalization by its mean and variance, read live; None before the layer has them."""
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


def layer_normalization_layer(
    layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]
) -> Normalize:
    """The view of LayerNormalization."""
    shape = outputs[0].shape
    axes = [axis % len(shape) for axis in keras.tree.flatten(layer.axis)]
    weights = _affine(layer, "gamma", "beta", [n if i in axes else 1 for i, n in enumerate(shape)])
    return normalization.of_layer(weights, axes, layer.epsilon, layer.rms_scaling)


def rms_normalization_layer(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> Normalize:
    """The view of RMSNormalization."""
    shape = outputs[0].shape
    axes = [axis % len(shape) for axis in keras.tree.flatten(layer.axis)]
    return normalization.of_root_mean_square(_affine(layer, "scale", None, None), axes, layer.epsilon)


def unit_normalization_layer(
    layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]
) -> Normalize:
    """The view of UnitNormalization."""
    return normalization.to_unit_norm(layer.axis, 1e-12)


def group_normalization_layer(
    layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]
) -> Normalize:
    """The view of GroupNormalization."""
    rank = len(outputs[0].shape)
    axis = layer.axis % rank
    weights = _affine(layer, "gamma", "beta", [-1 if i == axis else 1 for i in range(rank)])
    return normalization.over_groups(weights, layer.groups, axis, rank, layer.epsilon)


def _affine(layer, kernel, bias, shape):
    """Reads the scale and the shift of a normalization, if it has them."""
    sources = {}
    for name, attribute in (("kernel", kernel), ("bias", bias)):
        if attribute is not None and getattr(layer, attribute, None) is not None:
            sources[name] = live(
                lambda a=attribute: getattr(layer, a) if shape is None else ops.reshape(getattr(layer, a), shape)
            )
    return reading(sources)
