"""A network has the same relevance in memory and exported."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph
from revgraph import create_analyzer
from tests.models import randomized

METHODS = [
    "lrp.alpha_1_beta_0 lrp.z",
    pytest.param("lrp.epsilon lrp.gamma lrp.z_plus lrp.flat", marks=pytest.mark.slow),
]

pytestmark = pytest.mark.filterwarnings("ignore:The output of", "ignore:Relevance", "ignore:.*retracing")

TABLE = np.float32([[0.4, -0.3, 0.2, -0.1, 0.5], [-0.6, 0.1, 0.3, 0.2, -0.2], [0.1, 0.2, -0.5, 0.4, 0.3]])
ROW = TABLE[0]


def with_constant(h, value):
    """A constant step in front of the steps of a sequence."""
    return ops.concatenate([ops.zeros_like(h[:, :1]) + value, h], axis=1)


FLAT = {
    "where, a negative constant": lambda h: ops.where(h > 0.1, h, -0.7),
    "where, a computed value": lambda h: ops.where(h > 0.1, h, 0.5 * h),
    "where, a mask known in advance": lambda h: ops.where(ROW > 0, h, -1.0),
    "sort": lambda h: ops.sort(h, axis=1),
    "flip": lambda h: ops.flip(h, axis=1),
    "roll": lambda h: ops.roll(h, 2, axis=1),
    "top_k": lambda h: ops.top_k(h, 3)[0],
    "clip": lambda h: ops.clip(h, -0.2, 0.4),
    "maximum with a table": lambda h: ops.maximum(h, ROW),
    "maximum with a number": lambda h: ops.maximum(h, -0.1),
    "minimum with a table": lambda h: ops.minimum(h, ROW),
    "maximum of two": lambda h: ops.maximum(h, -h),
    "constants concatenated": lambda h: ops.concatenate([h, ops.zeros_like(h[:, :2]) - 0.3], axis=1),
    "padding with a constant": lambda h: ops.pad(h, [[0, 0], [1, 2]], constant_values=-0.4),
    "padding": lambda h: ops.pad(h, [[0, 0], [1, 2]]),
    "mirror": lambda h: ops.pad(h, [[0, 0], [1, 2]], mode="reflect"),
    "negative scale": lambda h: -2.0 * h,
    "negative scales": lambda h: h * np.float32([-1, 2, -3, 1, 0.5]),
    "one minus": lambda h: 1.0 - h,
    "a table behind a bias": lambda h: h + ROW,
    "a number behind a bias": lambda h: h + 0.3,
    "sum of squares": lambda h: ops.square(h - ROW),
    "centres": lambda h: ops.exp(-ops.square(ops.expand_dims(h, 1) - TABLE)),
    "bins": lambda h: ops.relu(ops.sum(h, 1, keepdims=True) - np.float32([0.1, 0.2, 0.3])),
    "maximum with a larger table": lambda h: ops.maximum(ops.expand_dims(h, 1), TABLE),
    "power": lambda h: ops.power(ops.abs(ops.sum(h, 1, keepdims=True)) + 1, np.float32([1, 2, 3])),
    "repeat": lambda h: ops.repeat(h, 2, axis=1),
    "tile": lambda h: ops.tile(h, (1, 2)),
    "take": lambda h: ops.take(h, [3, 0, 1], axis=1),
    "stack": lambda h: ops.stack([h, -h], axis=1),
    "quotient": lambda h: h / (1.5 + ops.sigmoid(h)),
    "absolute": ops.abs,
    "mean": lambda h: ops.mean(ops.reshape(h, (-1, 5, 1)) * ROW, axis=1),
    "cumsum": lambda h: ops.cumsum(h, axis=1),
}
"""What stands between two dense layers on tensors of shape (None, 5)."""

STEPS = {
    "class token": lambda h: with_constant(h, ROW),
    "position table": lambda h: h + TABLE,
    "position table, scaled": lambda h: 2.0 * h + TABLE,
    "softmax over steps": lambda h: ops.softmax(h, axis=1),
    "max over steps": lambda h: ops.max(h, axis=1),
    "transposed": lambda h: ops.transpose(h, (0, 2, 1)),
    "norm": lambda h: h / ops.sqrt(ops.mean(ops.square(h), -1, keepdims=True) + 1e-3),
    "triangle": ops.tril,
    "sign": lambda h: h + 0.3 * ops.sign(h),
    "rounding": lambda h: ops.round(3.0 * h) + ops.floor(2.0 * h) + h,
    "ceiling": lambda h: ops.ceil(2.0 * h) + h,
    "stopped": lambda h: h * ROW + ops.stop_gradient(h),
    "stopped in front of a relu": lambda h: ops.relu(ops.stop_gradient(h)) + h,
    "product of three": lambda h: h * ops.flip(h, axis=2) * ops.roll(h, 1, axis=2),
    "product of three, bracketed": lambda h: h * (ops.flip(h, axis=2) * ops.roll(h, 1, axis=2)),
}
"""The same on tensors of shape (None, 3, 5)."""


def network(shape, function):
    x = keras.Input(shape, name="x")
    h = layers.Dense(5, activation="relu" if len(shape) == 1 else None, name="first")(x)
    return randomized(keras.Model(x, layers.Dense(3, name="last")(layers.Flatten()(function(h)))))


def assert_same(model, path, x, methods):
    model.export(path)
    graph = revgraph.load_model(path)
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-5, atol=1e-6)
    for method in methods.split():
        expected = create_analyzer(method, model).record(x).analyze(1)
        found = create_analyzer(method, graph).record(x).analyze(1)
        assert found.shape == expected.shape == x.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), err_msg=method)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("name", FLAT)
def test_between_dense_layers(name, methods, tmp_path, rng):
    x = rng.normal(size=(3, 4)).astype("float32")
    assert_same(network((4,), FLAT[name]), tmp_path / "model", x, methods)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("methods", METHODS)
@pytest.mark.parametrize("name", STEPS)
def test_between_layers_on_steps(name, methods, tmp_path, rng):
    x = rng.normal(size=(3, 3, 4)).astype("float32")
    assert_same(network((3, 4), STEPS[name]), tmp_path / "model", x, methods)


def test_token_ids(tmp_path):
    ids = keras.Input((4,), dtype="int32", name="ids")
    h = layers.Embedding(6, 5)(ids) + layers.Embedding(4, 5)(ops.arange(4))
    h = layers.LayerNormalization()(layers.Dense(5, activation="relu")(h))
    model = randomized(keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(h))))
    x = np.int32([[0, 5, 2, 1], [3, 3, 4, 0]])
    assert_same(model, tmp_path / "model", x, "lrp.z lrp.epsilon lrp.gamma input_t_gradient")
