"""Every part of TensorFlow that the reader uses and that is not documented, each behind one function.

`tests/test_savedmodel_private.py` runs each function, so it fails on a TensorFlow that lacks one of them.
"""

import os
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


def captured_inputs(function: Any) -> list[tf.Tensor]:
    """The tensors that a concrete function captured: constants, and handles of variables and tables."""
    return list(function.captured_inputs)


def internal_captures(graph: tf.Graph) -> list[tf.Tensor]:
    """The placeholders in a function's graph for the tensors that the function captured."""
    return list(graph.internal_captures)


def handle(variable: tf.Variable) -> tf.Tensor:
    """The tensor with which operations of a graph refer to a variable."""
    return variable.handle


def graph_of(function: Any) -> tf.Graph:
    """The graph of a concrete function."""
    return function.graph


def ends(graph: tf.Graph) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The input tensors and the output tensors of a function's graph."""
    return list(graph.inputs), list(graph.outputs)


def function_in(operation: tf.Operation, name: str) -> tf.Graph | None:
    """The graph of the function called `name` in the graph of an operation; None where there is no such function."""
    function = operation.graph._get_function(name)
    return None if function is None else graph_of(function)


def has_attribute(operation: tf.Operation, name: str) -> bool:
    """Whether an operation has an attribute."""
    return name in operation.node_def.attr


def definition(operation: tf.Operation) -> Any:
    """The definition of an operation's type: its arguments (`input_arg`), its attributes (`attr`), `is_stateful`."""
    return operation.op_def


def stored_nodes(path: str) -> tuple[list[Any], set[str]]:
    """The nodes in the file of a SavedModel, and the names of its functions; both empty where there is no file."""
    path = os.path.join(path, "saved_model.pb")
    if not os.path.exists(path):
        return [], set()
    with open(path, "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    return nodes, {function.signature.name for function in functions}


def jumps(operation: tf.Operation) -> bool:
    """Whether the graph of an operation has a loop of TensorFlow 1."""
    return any(other.type == "LoopCond" for other in operation.graph.get_operations())
