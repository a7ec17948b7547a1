"""What the reader of SavedModels uses of TensorFlow that is not promised. Checked with TensorFlow 2.21."""

import ast
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import revgraph
from revgraph.read.savedmodel import private

ROOM = Path(revgraph.__file__).parent / "read" / "savedmodel"
NAMES = {"captured_inputs", "handle", "op_def", "node_def", "graph", "_get_function"}


@pytest.fixture(scope="module")
def concrete():
    variable, constant = tf.Variable([1.0, 2.0]), tf.constant([3.0, 4.0])
    inner = tf.function(lambda x: x * 2)
    function = tf.function(lambda x: inner(x) * variable + constant)
    function = function.get_concrete_function(tf.TensorSpec((None, 2), tf.float32, "x"))
    return function, variable, constant


def operation(function, kind):
    return next(o for o in private.graph_of(function).get_operations() if o.type == kind)


def test_what_a_function_captured(concrete):
    function, variable, constant = concrete
    captured = private.captured_inputs(function)
    assert any(t is private.handle(variable) for t in captured)
    assert any(t.dtype == tf.float32 and np.array_equal(t, constant) for t in captured)
    assert len(captured) == 2


def test_the_ends_of_a_graph(concrete):
    function, *_ = concrete
    inputs, outputs = private.ends(private.graph_of(function))
    assert [t.shape.rank for t in outputs] == [2]
    assert len(inputs) == 1 + len(private.captured_inputs(function)) and inputs[0].op.type == "Placeholder"


def test_a_function_that_is_called(concrete):
    function, *_ = concrete
    call = operation(function, "PartitionedCall")
    inner = private.function_in(call, call.get_attr("f").name)
    assert "Mul" in {o.type for o in inner.get_operations()}
    assert private.function_in(call, "no such function") is None


def test_the_definition_of_an_operation(concrete):
    function, *_ = concrete
    read, product = operation(function, "ReadVariableOp"), operation(function, "Mul")
    assert private.definition(read).is_stateful and not private.definition(product).is_stateful
    assert [a.name for a in private.definition(product).input_arg] == ["x", "y"]
    assert [a.type_attr for a in private.definition(product).input_arg] == ["T", "T"]
    assert [a.type for a in private.definition(product).attr] == ["type"]
    assert tf.float32.as_datatype_enum in private.definition(product).attr[0].allowed_values.list.type
    assert private.has_attribute(product, "T") and not private.has_attribute(product, "strides")


def test_the_nodes_in_a_file(tmp_path):
    module = tf.Module()
    module.serve = tf.function(lambda x: tf.tanh(x), input_signature=[tf.TensorSpec((None, 2), tf.float32)])
    tf.saved_model.save(module, tmp_path / "model", signatures=module.serve)
    nodes, functions = private.stored_nodes(tmp_path / "model")
    assert "Tanh" in {node.op for node in nodes} and functions
    assert private.stored_nodes(tmp_path) == ([], set())


def test_nothing_private_is_used_elsewhere_in_the_room():
    for path in ROOM.glob("*.py"):
        if path.name == "private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                on_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                assert node.attr not in NAMES or (isinstance(node.value, ast.Name) and node.value.id == "private"), (
                    f"{path.name}: {ast.unparse(node)}"
                )
                dunder = node.attr.startswith("__")
                assert on_self or dunder or not node.attr.startswith("_"), f"{path.name}: {ast.unparse(node)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not any(n.startswith(("tensorflow.core", "tensorflow.python")) for n in names), path.name
