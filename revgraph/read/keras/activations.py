"""Activation functions and activation layers of Keras as operations."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from revgraph.graph.activations import TRAITS
from revgraph.graph.operations import Activation, live
from revgraph.read import old_files
from revgraph.read.keras.private import is_of_keras, is_of_library
from revgraph.read.keras.template import Template, in_either_dtype

LAYER_ACTIVATIONS = {
    layers.LeakyReLU: "leaky_relu",
    layers.PReLU: "prelu",
    layers.ELU: "elu",
    layers.Softmax: "softmax",
}
"""Activation layers and the names of their functions."""


def layer_activation(
    layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]
) -> Activation | None:
    """The view of an activation layer; None where it changes the shape, where it gets a mask, or where it is unknown.

    Args:
        layer: The layer.
        template: The arguments of the call.
        outputs: Symbolic outputs of the call.
    """
    function = getattr(layer, "activation", None)
    if not is_known(function) or changes_shape(function) or len(template.slots()) != 1 or has_mask(layer, template):
        return None
    return activation(layer, template.dtype, template.slots()[0].dtype)


def activation(function: Callable, dtype: str, own: str) -> Activation:
    """The operation of an activation function, or of a layer that serves as one.

    Args:
        function: The function or the layer.
        dtype: The floating dtype in which the graph computes.
        own: The dtype in which the model computes it.
    """
    layer = function if isinstance(function, layers.Layer) else None
    return Activation(in_either_dtype(_call_of(function), dtype, [own]), activation_name(function), layer=layer)


def _call_of(function):
    """The function of an activation function or layer."""
    if not isinstance(function, layers.Layer):
        return function
    if type(function).call is layers.PReLU.call:
        alpha = live(lambda: function.alpha)
        return lambda x: tf.nn.relu(x) - alpha(x.dtype) * tf.nn.relu(-x)
    return function.call


def activation_name(function: Callable) -> str:
    """The name under which properties of an activation are known: `relu`, `gelu`.

    A function that is not part of Keras or TensorFlow is named `custom_...`, because nothing is known of it.
    """
    if isinstance(function, layers.Activation):
        return activation_name(function.activation)
    if all(hasattr(function, name) for name in ("negative_slope", "max_value", "threshold")):
        return relu_name(function)
    for cls, name in LAYER_ACTIVATIONS.items():
        if isinstance(function, cls):
            return name
    name = getattr(function, "__name__", type(function).__name__)
    return name if is_of_library(function) or function is old_files.hard_sigmoid else f"custom_{name}"


def is_known(function: Callable | None) -> bool:
    """Whether an activation function or layer is known by its name. The code of any other one is read.

    All activations of Keras are known. Those of TensorFlow are known if Keras has an activation of the same name.
    """
    if isinstance(function, layers.Layer):
        return is_of_keras(type(function))
    return function is None or is_of_keras(function) or activation_name(function) in TRAITS


def relu_name(relu: Any) -> str:
    """The name of a ReLU with this `negative_slope`, `max_value` and `threshold`."""
    bounded = "" if relu.max_value is None else "bounded_"
    if relu.negative_slope:
        return f"{bounded}sloped_relu"
    if not bounded:
        return "relu"
    return "relu6" if relu.max_value == 6 and not relu.threshold else "bounded_relu"


def changes_shape(function: Callable | None) -> bool:
    """Whether the output of an activation function has another shape than its input, as that of GLU has."""
    return function is not None and function is getattr(keras.activations, "glu", None)


def has_mask(layer: layers.Layer, template: Template) -> bool:
    """Whether a call of a layer is given a mask."""
    return template.argument(layer.call, "mask") is not None
