"""Every part of Keras that revgraph uses and that is not public, each behind one function.

Checked with the Keras versions in `CHECKED`; `tests/test_keras_private.py` tries every function on real Keras objects.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import KerasTensor
from keras.src.utils.tracking import Tracker

CHECKED = ("3.5", "3.15", "3.16")
"""Versions of Keras with which the functions below were tried."""


# Models.


def functional(model: keras.Model) -> keras.Model | None:
    """The functional model behind a model; None for a model whose `call` has to be run to know what it computes.

    A built Sequential model holds a functional model. A model that was built from symbolic inputs and outputs is a
    functional model, unless its class overrides `call`.
    """
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None) if type(model).call is keras.Sequential.call else None
    classes: list[Any] = [cls for cls in type(model).__mro__ if cls.__name__ == "Functional"]
    return model if classes and type(model).call is classes[0].call else None


def has_symbolic_ends(model: keras.Model) -> bool:
    """Whether a model was built from symbolic inputs and outputs."""
    return hasattr(model, "_inputs_struct")


def symbolic_inputs(model: keras.Model) -> Any:
    """The symbolic inputs from which a functional model was built, in the structure in which it takes them."""
    return model._inputs_struct


def symbolic_outputs(model: keras.Model) -> Any:
    """The symbolic outputs from which a functional model was built, in the structure in which it returns them."""
    return model._outputs_struct


def shapes_at_build(model: keras.Model) -> dict[str, Any]:
    """The shapes with which a model was built, by the name of the argument and `_shape`; empty where unknown."""
    return getattr(model, "_build_shapes_dict", None) or {}


def layers_of(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A model or layer, the layers inside of it, and the layers inside of these."""
    return list(model._flatten_layers())


def operations_of(model: keras.layers.Layer) -> list[keras.Operation]:
    """The operations of `keras.ops` in a model that was built from symbolic inputs."""
    graph = functional(model) if isinstance(model, keras.Model) else None
    return [] if graph is None else [x for x in graph.operations if not isinstance(x, keras.layers.Layer)]


def is_of_model(item: object) -> bool:
    """Whether an object is a layer, an operation, or the tracker in which Keras lists the parts of a layer."""
    return isinstance(item, keras.Operation | Tracker)


def patch(operation: keras.Operation, name: str, function: Any) -> None:
    """Sets an attribute of one layer or operation without what Keras does when attributes are set.

    Args:
        operation: The layer or operation.
        name: The name of the attribute.
        function: Its new value, such as a method of this object alone.
    """
    vars(operation)[name] = function


# Nodes: the calls on symbolic tensors that Keras remembers.


def origin(tensor: KerasTensor) -> tuple[keras.Operation, Any, int] | None:
    """The call that made a symbolic tensor; None where no call made it.

    Returns:
        The layer or operation that was called, Keras's node of the call, and the position among the outputs.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    operation, node_index, tensor_index = history
    return operation, operation._inbound_nodes[node_index], tensor_index


def tensors_read(node: Any) -> list[KerasTensor]:
    """The symbolic tensors in the arguments of a call, given its node."""
    return node.arguments.keras_tensors


@contextlib.contextmanager
def nodes_restored(operations: Iterable[keras.Operation]) -> Iterator[None]:
    """Removes the nodes that calls inside of a `with` block add to layers and operations."""
    before = [(x, list(x._inbound_nodes), list(x._outbound_nodes)) for x in operations]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            operation._inbound_nodes[:] = inbound
            operation._outbound_nodes[:] = outbound


def forget_nodes(layer: keras.layers.Layer) -> None:
    """Gives a layer that was copied from another layer empty lists of nodes of its own."""
    layer._inbound_nodes, layer._outbound_nodes = [], []


# Layers.


def mask_of(tensor: Any) -> tf.Tensor | None:
    """The mask that a layer attached to a tensor; None where there is none."""
    return getattr(tensor, "_keras_mask", None)


def aligns_ranks(layer: keras.layers.Layer) -> bool:
    """Whether a merging layer adds axes to some inputs, because the ranks of its inputs differ."""
    return bool(getattr(layer, "_reshape_required", False))


def is_of_keras(code: Any) -> bool:
    """Whether a class or a function is part of Keras itself."""
    return _module(code).startswith("keras.")


def is_of_library(code: Any) -> bool:
    """Whether a class or a function is part of Keras or TensorFlow."""
    return _module(code).startswith(("keras.", "tensorflow."))


def _module(code):
    return getattr(code, "__module__", None) or ""
