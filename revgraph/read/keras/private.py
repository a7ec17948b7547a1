"""Everything of Keras that is not public and that revgraph needs, each thing behind one function.

Checked with the Keras versions in `CHECKED`; `tests/test_keras_private.py` tries every function on real Keras objects.
"""

import contextlib

import keras
from keras import KerasTensor
from keras.src.utils.tracking import Tracker

CHECKED = ("3.15",)
"""Versions of Keras with which the functions were tried."""


# Models.


def functional(model):
    """The functional graph of a model; None for one whose `call` has to be run to know it.

    A Sequential model keeps a functional one, once it is built. Models built from symbolic inputs and outputs are
    functional ones, also of a subclass that does not override `call`.
    """
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None) if type(model).call is keras.Sequential.call else None
    classes = [cls for cls in type(model).__mro__ if cls.__name__ == "Functional"]
    return model if classes and type(model).call is classes[0].call else None


def has_symbolic_ends(model) -> bool:
    """Whether a model was built from symbolic inputs and outputs."""
    return hasattr(model, "_inputs_struct")


def symbolic_inputs(model):
    """The symbolic inputs from which a functional model was built, in the structure in which it takes them."""
    return model._inputs_struct


def symbolic_outputs(model):
    """The symbolic outputs from which a functional model was built, in the structure in which it returns them."""
    return model._outputs_struct


def shapes_at_build(model) -> dict:
    """The shapes with which a model was built, by the name of the argument and `_shape`; empty where unknown."""
    return getattr(model, "_build_shapes_dict", None) or {}


def layers_of(model) -> list:
    """The model, its layers, and the layers inside these."""
    return list(model._flatten_layers())


def operations_of(model) -> list:
    """The `keras.ops` that a model built from symbolic inputs calls, one by one."""
    graph = functional(model) if isinstance(model, keras.Model) else None
    return [] if graph is None else [x for x in graph.operations if not isinstance(x, keras.layers.Layer)]


def is_of_model(item) -> bool:
    """Whether an object is a layer, a raw operation, or what keeps account of a layer's parts."""
    return isinstance(item, keras.Operation | Tracker)


def patch(operation, name, function):
    """Gives one layer or operation a method of its own, without what Keras does when attributes are set."""
    vars(operation)[name] = function


# Nodes: the calls on symbolic tensors that Keras remembers.


def origin(tensor) -> tuple | None:
    """Where a symbolic tensor comes from: (operation, node, position in the node's outputs); None where nowhere."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    operation, node_index, tensor_index = history
    return operation, operation._inbound_nodes[node_index], tensor_index


def tensors_read(node) -> list[KerasTensor]:
    """The symbolic tensors in the arguments of a node, in their order."""
    return node.arguments.keras_tensors


@contextlib.contextmanager
def nodes_restored(operations):
    """Takes the nodes off again that calls inside the block add to layers and operations."""
    before = [(x, list(x._inbound_nodes), list(x._outbound_nodes)) for x in operations]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            operation._inbound_nodes[:] = inbound
            operation._outbound_nodes[:] = outbound


def forget_nodes(layer):
    """Gives a layer, a copy of another, lists of nodes of its own, which are empty."""
    layer._inbound_nodes, layer._outbound_nodes = [], []


# Layers.


def mask_of(tensor):
    """The mask that a layer attached to a tensor; None where there is none."""
    return getattr(tensor, "_keras_mask", None)


def aligns_ranks(layer) -> bool:
    """Whether a merging layer gives its inputs missing axes, because their ranks differ."""
    return bool(getattr(layer, "_reshape_required", False))


def is_of_keras(code) -> bool:
    """Whether a class or a function is part of Keras itself."""
    return _module(code).startswith("keras.")


def is_of_library(code) -> bool:
    """Whether a class or a function is part of Keras or TensorFlow."""
    return _module(code).startswith(("keras.", "tensorflow."))


def _module(code):
    return getattr(code, "__module__", None) or ""
