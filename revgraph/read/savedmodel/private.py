"""What the reader uses of TensorFlow that its documentation does not promise; nothing else in this room does.

`tests/test_savedmodel_private.py` exercises each function, so that a TensorFlow without one of them is found there.
"""

import os

from tensorflow.core.protobuf import saved_model_pb2


def captured_inputs(function) -> list:
    """The tensors that a concrete function captured: constants, and handles of variables and tables."""
    return list(function.captured_inputs)


def internal_captures(graph) -> list:
    """The tensors through which a function's graph takes what it captured."""
    return list(graph.internal_captures)


def handle(variable):
    """The tensor by which operations of a graph name a variable."""
    return variable.handle


def graph_of(function):
    """The graph of a concrete function."""
    return function.graph


def ends(graph) -> tuple[list, list]:
    """The tensors through which a function's graph takes its inputs and gives its outputs."""
    return list(graph.inputs), list(graph.outputs)


def function_in(operation, name):
    """The graph of the function that the graph of an operation knows by a name; None where it knows none."""
    function = operation.graph._get_function(name)
    return None if function is None else graph_of(function)


def has_attribute(operation, name) -> bool:
    """Whether an operation has an attribute."""
    return name in operation.node_def.attr


def definition(operation):
    """The definition of an operation's type: its arguments (`input_arg`), its attributes (`attr`), `is_stateful`."""
    return operation.op_def


def stored_nodes(path) -> tuple[list, set[str]]:
    """The nodes in the file of a SavedModel, and the names of the functions in it; neither where there is no file."""
    path = os.path.join(path, "saved_model.pb")
    if not os.path.exists(path):
        return [], set()
    with open(path, "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    return nodes, {function.signature.name for function in functions}


def jumps(operation) -> bool:
    """Whether the graph of an operation has a loop of TensorFlow 1."""
    return any(other.type == "LoopCond" for other in operation.graph.get_operations())
