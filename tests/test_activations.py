"""What is known of activations: every claim of the table holds on values, and of other names nothing is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from revgraph.graph.activations import TRAITS, UNKNOWN, Traits
from revgraph.graph.operations import Activation, Dense, reading
from revgraph.read import trace
from tests.models import OLDER_KERAS

pytestmark = pytest.mark.usefixtures("float64")

OTHERS = {
    "relu6": [ops.relu6, layers.ReLU(6.0)],
    "bounded_relu": [layers.ReLU(2.0), layers.ReLU(3.0, threshold=0.5)],
    "sloped_relu": [layers.ReLU(negative_slope=0.2)],
    "bounded_sloped_relu": [layers.ReLU(3.0, negative_slope=0.1, threshold=0.5)],
    "relu": [ops.relu, layers.ReLU(), layers.ReLU(threshold=0.5), lambda x: ops.maximum(x, 0.0)],
    "exponential": [layers.Activation("exponential")],
    "clip": [lambda x: ops.clip(x, -1.0, 2.0)],
    "maximum": [lambda x: ops.maximum(x, 0.7), lambda x: ops.maximum(-0.7, x)],
    "minimum": [lambda x: ops.minimum(x, 0.7)],
    "power": [lambda x: ops.power(x, 3), lambda x: ops.power(2.0, x)],
    "mish": [layers.Activation("mish")],
}
"""Functions of a name that `keras.ops` does not have under it, or that take more than a tensor."""


def functions(name):
    if name in OTHERS:
        return OTHERS[name]
    if name == "sparsemax":
        # The operation is spelt out by a sort and running sums.
        return [layers.Activation(name)] if hasattr(keras.activations, name) else []
    found = getattr(ops, name, None) or getattr(ops, name.replace("_", ""), None)
    return [found, *([layers.Activation(name)] if hasattr(keras.activations, name) else [])]


def activations():
    for name in TRAITS:
        for function in functions(name):
            if function is not None and not (OLDER_KERAS and name == "stop_gradient"):
                yield pytest.param(name, function, id=name)


GRID = np.concatenate([np.linspace(-12.013, 12.007, 1202), [-200.5, -60.5, -1e-3, 0.0, 1e-3, 60.5, 200.5]])
ROWS = np.random.default_rng(0).normal(scale=3.0, size=(50, 4))


def read(function):
    """The operation that the reader makes of a function."""
    inputs = keras.Input((4,))
    (site,) = trace(keras.Model(inputs, function(inputs))).sites
    return site.operation


def values(operation, x):
    return np.asarray(operation((tf.constant(x),), {})[0])


def slopes(operation, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        (y,) = operation((x,), {})
    return np.asarray(tape.gradient(y, x, unconnected_gradients="zero"))


def defined(name, x):
    """Where a function is defined."""
    return x[x > 0] if name in ("sqrt", "rsqrt") else x


@pytest.mark.parametrize(("name", "function"), list(activations()))
def test_every_claim_holds_on_values(name, function):
    operation = read(function)
    assert isinstance(operation, Activation) and operation.name == name
    known, grid = operation.traits, defined(name, GRID)
    y = values(operation, grid) if known.pointwise else None
    rows = values(operation, np.abs(ROWS) if name in ("sqrt", "rsqrt") else ROWS)
    if known.pointwise:
        np.testing.assert_allclose(values(operation, grid[::-1, None])[::-1, 0], y, rtol=1e-9)
        np.testing.assert_allclose(values(operation, grid[400:401]), y[400:401], rtol=1e-9)
    if known.nonnegative:
        assert rows.min() >= 0 and (y is None or y.min() >= 0)
    if known.rectifier:
        np.testing.assert_array_equal(y[grid <= 0], 0)
    if known.relu:
        np.testing.assert_array_equal(y[(grid > 0.6) & (grid < 2)], grid[(grid > 0.6) & (grid < 2)])
        assert (slopes(operation, np.array([-5.0])) < 0.5).all()
    if known.saturates:
        bends = np.abs(np.diff(y[:1202], 2)) > 1e-9
        assert bends.sum() <= 6 and 0 in slopes(operation, np.array([-200.5, 200.5]))
    if known.step:
        np.testing.assert_array_equal(slopes(operation, grid), 0)
    if known.gate:
        assert rows.min() >= 0 and rows.max() <= 6
        lowest = values(operation, np.array([[-60.0, 0.0]]))
        np.testing.assert_allclose(lowest[0, 0], 0, atol=1e-6)
    if known.squash:
        assert -2 <= y.min() < 0 < y.max() <= 2
    if known.self_gate:
        gate = y[grid != 0] / grid[grid != 0]
        assert gate.min() >= 0 and gate.max() <= 1
        np.testing.assert_allclose(values(operation, np.array([-60.5, 60.5])), [0, 60.5], atol=1e-6)
    if known.divisor:
        x = grid[np.abs(grid) > 0.1]
        power = np.polyfit(np.log(np.abs(x)), np.log(np.abs(values(operation, x))), 1)[0]
        np.testing.assert_allclose(values(operation, x) * np.abs(x) ** -power, np.sign(values(operation, x)), rtol=1e-9)
        assert power < 0
    if known.probability:
        chances = np.exp(rows) if name.startswith("log") else rows
        expected = np.exp(ROWS) / np.exp(ROWS).sum(-1, keepdims=True) if "softmax" in name else 1 / (1 + np.exp(-ROWS))
        np.testing.assert_allclose(chances, expected, rtol=1e-9)


@pytest.mark.skipif(OLDER_KERAS, reason="some functions are newer")
def test_every_name_of_the_table_is_one_that_keras_has():
    tested = {name for name in TRAITS if any(function is not None for function in functions(name))}
    assert tested == TRAITS.keys()


@pytest.mark.parametrize("name", ["custom_relu", "relu_", "leaky_relu", "elu", "cos", ""])
def test_of_other_names_nothing_is_known(name):
    assert not any(vars(Activation(tf.nn.relu, name).traits).values())


def test_of_other_operations_nothing_is_known():
    assert Dense(reading({})).traits == UNKNOWN == Traits()
