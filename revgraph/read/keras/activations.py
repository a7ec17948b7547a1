"""Activation functions and activation layers of Keras as operations."""

import keras
import tensorflow as tf
from keras import layers

from revgraph.graph.activations import TRAITS
from revgraph.graph.operations import Activation, live
from revgraph.read.keras.private import is_of_keras, is_of_library
from revgraph.read.keras.template import in_either_dtype

LAYER_ACTIVATIONS = {
    layers.LeakyReLU: "leaky_relu",
    layers.PReLU: "prelu",
    layers.ELU: "elu",
    layers.Softmax: "softmax",
}
"""Activation layers and the names of their functions."""


def layer_activation(layer, template, outputs) -> Activation | None:
    """An activation layer as an operation; None where its output has another shape, or where a mask takes part."""
    function = getattr(layer, "activation", None)
    if not is_known(function) or changes_shape(function) or len(template.slots()) != 1 or has_mask(layer, template):
        return None
    return activation(layer, template.dtype, template.slots()[0].dtype)


def activation(function, dtype, own) -> Activation:
    """An activation function, or a layer that serves as one, as an operation named after it.

    Args:
        function: The function or the layer.
        dtype: The floating dtype in which the graph computes.
        own: The dtype in which the model computes it.
    """
    layer = function if isinstance(function, layers.Layer) else None
    return Activation(in_either_dtype(_call_of(function), dtype, [own]), activation_name(function), layer=layer)


def _call_of(function):
    """What an activation computes from its input."""
    if not isinstance(function, layers.Layer):
        return function
    if type(function).call is layers.PReLU.call:
        alpha = live(lambda: function.alpha)
        return lambda x: tf.nn.relu(x) - alpha(x.dtype) * tf.nn.relu(-x)
    return function.call


def activation_name(function) -> str:
    """The name by which analysis knows an activation; of what is not Keras's own it knows nothing."""
    if isinstance(function, layers.Activation):
        return activation_name(function.activation)
    if all(hasattr(function, name) for name in ("negative_slope", "max_value", "threshold")):
        return relu_name(function)
    for cls, name in LAYER_ACTIVATIONS.items():
        if isinstance(function, cls):
            return name
    name = getattr(function, "__name__", type(function).__name__)
    return name if is_of_library(function) else f"custom_{name}"


def is_known(function) -> bool:
    """Whether the name of an activation function or layer says what it is; the code of others is read.

    An activation that TensorFlow defines has Keras's name for it, or another one.
    """
    if isinstance(function, layers.Layer):
        return is_of_keras(type(function))
    return function is None or is_of_keras(function) or activation_name(function) in TRAITS


def relu_name(relu) -> str:
    """Which ReLU this is, by its `negative_slope`, `max_value` and `threshold`."""
    bounded = "" if relu.max_value is None else "bounded_"
    if relu.negative_slope:
        return f"{bounded}sloped_relu"
    if not bounded:
        return "relu"
    return "relu6" if relu.max_value == 6 and not relu.threshold else "bounded_relu"


def changes_shape(function) -> bool:
    """Whether an activation function has an output of another shape than its input."""
    return function is not None and function is getattr(keras.activations, "glu", None)


def has_mask(layer, template) -> bool:
    """Whether the call of a layer has a mask among its arguments."""
    return template.argument(layer.call, "mask") is not None
