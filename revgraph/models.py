"""Copies of models without their output activation."""

from collections.abc import Callable
from typing import Any

import keras

from revgraph.composites import NotAnalyzeableModelException
from revgraph.read.keras import private

ACTIVATIONS = tuple(
    getattr(keras.layers, name) for name in ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
)
"""Layers that are activations."""

ACTIVATION_OPS = frozenset(
    "Relu Relu6 Sigmoid Softplus Softsign Silu LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu Softmax "
    "LogSoftmax Sparsemax Tanh".split()
)
"""Classes of `keras.ops` that are activations."""


def model_wo_softmax(model: keras.Model) -> keras.Model:
    """Makes a model that returns the logits in front of the softmax at the output.

    Analyzers do not need it, because they explain logits by default. It is for other code that wants logits.

    Args:
        model: A built Sequential or functional model. Its output is that of a Softmax layer, `Activation("softmax")`, a
            layer with `activation="softmax"`, `keras.ops.softmax`, or a nested model that ends in one of these.

    Returns:
        A new functional model that shares the weights of `model`. `model` is not changed.

    Raises:
        NotAnalyzeableModelException: There is no softmax at an output, or the model is a subclassed one.

    Example:

        logits = revgraph.model_wo_softmax(model)(x)
    """
    stripped, found = _stripped(model, _is_softmax)
    if not found:
        raise NotAnalyzeableModelException(
            f"The model {model.name!r} has no softmax at its output, so there is none to remove."
        )
    return stripped


def model_wo_output_activation(model: keras.Model) -> keras.Model:
    """Makes a model without the activations at its outputs, whichever activations these are.

    Args:
        model: A built Sequential or functional model.

    Returns:
        A new functional model that shares the weights of `model`. `model` is not changed. An output without an
        activation stays the same.

    Raises:
        NotAnalyzeableModelException: The model is a subclassed one.
    """
    return _stripped(model, lambda function: True)[0]


def _is_softmax(operation):
    function = getattr(operation, "activation", operation)
    name = getattr(function, "__name__", None) or type(function).__name__
    return name.lower() == "softmax"


def _stripped(model: keras.Model, unwanted: Callable[[Any], bool]) -> tuple[keras.Model, bool]:
    """A model without the unwanted activations at its outputs, and whether any were removed."""
    functional = private.functional(model)
    if functional is None:
        raise NotAnalyzeableModelException(
            f"The model {model.name!r} is a subclassed model, or not built: its output activation cannot be removed "
            f"from outside. Its analyzers explain the logits anyway."
        )
    found: list[bool] = []

    def strip(tensor):
        before = _before(tensor, unwanted)
        found.append(before is not tensor)
        return before

    outputs = keras.tree.map_structure(strip, private.symbolic_outputs(functional))
    return keras.Model(private.symbolic_inputs(functional), outputs, name=model.name), any(found)


def _before(tensor, unwanted):
    """The tensor in front of the activation that made `tensor`; `tensor` itself where no activation made it."""
    made = private.origin(tensor)
    if made is None:
        return tensor
    operation, node, tensor_index = made
    arguments, read = node.arguments, private.tensors_read(node)
    if isinstance(operation, ACTIVATIONS) or type(operation).__name__ in ACTIVATION_OPS:
        return read[0] if _is_activation(operation) and unwanted(operation) else tensor
    if isinstance(operation, keras.Model):
        inner, found = _stripped(operation, unwanted)
        if found:
            with private.nodes_restored(_makers(read)):
                return keras.tree.flatten(inner(*arguments.args, **arguments.kwargs))[tensor_index]
        return tensor
    if _is_activation(operation) and hasattr(operation, "activation") and unwanted(operation):
        with private.nodes_restored(_makers(read)):
            return _linear(operation)(*arguments.args, **arguments.kwargs)
    return tensor


def _is_activation(operation):
    return getattr(operation, "activation", operation) not in (None, keras.activations.linear)


def _linear(layer):
    """A copy of a layer, on the same variables, without its activation."""
    cls: Any = type(layer)
    twin = cls.__new__(cls)
    # `copy.copy` would write the layer to a file and read it again, which copies the variables.
    twin.__dict__.update(layer.__dict__)
    private.forget_nodes(twin)
    twin.activation = keras.activations.linear
    return twin


def _makers(tensors):
    """The operations that made these tensors, each once."""
    operations = [made[0] for made in map(private.origin, tensors) if made is not None]
    return list({id(operation): operation for operation in operations}.values())
