"""What revgraph uses of Keras besides its public interface, function by function, on real Keras objects."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import revgraph
from revgraph.read.keras import private

SOURCES = sorted(Path(revgraph.__file__).parent.rglob("*.py"))


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([keras.Input((3,)), L.Dense(2)])
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(self.inner(x))


class Extended(keras.Model):
    """A functional model with methods of its own."""


def functional_model():
    x = keras.Input((3,), name="x")
    dense = L.Dense(2)
    return keras.Model({"x": x}, [dense(x), ops.relu(x)]), dense


def test_the_functions_were_tried_with_this_version_of_keras():
    """A new version: read the release notes, run this file, and add the version to the list."""
    assert keras.__version__.rpartition(".")[0] in private.CHECKED


def test_functional_graphs():
    model, _ = functional_model()
    assert private.functional(model) is model
    sequential = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    assert isinstance(private.functional(sequential), keras.Model)
    assert private.functional(sequential) is not sequential
    assert private.functional(keras.Sequential([L.Dense(2)])) is None
    x = keras.Input((3,))
    extended = Extended(x, L.Dense(2)(x))
    assert private.functional(extended) is extended
    assert private.functional(Subclass()) is None


def test_symbolic_ends():
    model, dense = functional_model()
    assert private.has_symbolic_ends(model)
    assert not private.has_symbolic_ends(dense) and not private.has_symbolic_ends(Subclass())
    assert list(private.symbolic_inputs(model)) == ["x"]
    assert [tuple(t.shape) for t in private.symbolic_outputs(model)] == [(None, 2), (None, 3)]


def test_shapes_at_build():
    model = Subclass()
    assert private.shapes_at_build(model) == {}
    model(np.zeros((1, 3)))
    ((name, shape),) = private.shapes_at_build(model).items()
    assert name.endswith("_shape") or name == "x"
    assert tuple(shape)[1:] == (3,)


def test_layers_inside_of_layers_are_found():
    model = Subclass()
    model(np.zeros((1, 3)))
    found = private.layers_of(model)
    assert {model, model.inner, model.dense, *model.inner.layers} <= set(found)


def test_where_tensors_come_from():
    model, dense = functional_model()
    (x,), (first, second) = private.symbolic_inputs(model).values(), private.symbolic_outputs(model)
    operation, node, index = private.origin(first)
    assert operation is dense and index == 0
    assert private.tensors_read(node) == [x] or private.tensors_read(node)[0] is x
    assert type(private.origin(second)[0]).__name__ == "Relu"
    assert private.origin(keras.KerasTensor((None, 3))) is None


def test_calls_leave_no_nodes_behind():
    model, dense = functional_model()
    before = dense._inbound_nodes[:]
    with private.nodes_restored([dense]):
        dense(keras.Input((3,)))
        assert len(dense._inbound_nodes) == len(before) + 1
    assert dense._inbound_nodes == before
    private.forget_nodes(dense)
    assert dense._inbound_nodes == dense._outbound_nodes == []


def test_masks_are_attached_to_tensors():
    x = L.Embedding(4, 2, mask_zero=True)(np.array([[1, 0]]))
    np.testing.assert_array_equal(private.mask_of(x), [[True, False]])
    assert private.mask_of(L.Embedding(4, 2)(np.array([[1, 0]]))) is None


def test_raw_operations_of_models():
    model, _ = functional_model()
    assert [type(x).__name__ for x in private.operations_of(model)] == ["Relu"]
    assert private.operations_of(L.Dense(2)) == private.operations_of(Subclass()) == []


def test_what_belongs_to_a_model():
    model, dense = functional_model()
    assert private.is_of_model(dense) and private.is_of_model(dense._tracker)
    assert not private.is_of_model(dense.kernel) and not private.is_of_model([dense])
    private.patch(dense, "call", 3)
    assert dense.call == 3
    del vars(dense)["call"]


def test_merging_layers():
    a, b = keras.Input((4, 3)), keras.Input((3,))
    layer = L.Add()
    layer([a, b])
    assert private.aligns_ranks(layer)
    same_rank = L.Add()
    same_rank([a, a])
    assert not private.aligns_ranks(same_rank)
    assert not private.aligns_ranks(L.Dense(2))


def test_code_of_keras_and_of_others():
    import tensorflow as tf

    assert private.is_of_keras(L.Dense) and private.is_of_keras(keras.activations.relu)
    assert not private.is_of_keras(Subclass) and not private.is_of_keras(tf.nn.relu)
    assert private.is_of_library(tf.nn.relu) and private.is_of_library(keras.activations.relu)
    assert not private.is_of_library(lambda x: x) and not private.is_of_library(object())


PRIVATE = re.compile(
    r"_(inputs_struct|outputs_struct|inbound_nodes|outbound_nodes|keras_history|keras_mask|functional|flatten_layers"
    r"|build_shapes_dict|reshape_required|merge_function)"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_private_names_of_keras_stand_in_one_file(path):
    if path == Path(private.__file__):
        return
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not {name for name in used if PRIVATE.fullmatch(name) or name == "keras."}
