"""Weights assigned later are seen, also where the model computes with expressions of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import revgraph
from revgraph import create_analyzer
from tests.models import randomized

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:Relevance", "ignore:.*retracing", "ignore:The output of", "ignore:Layer .*mask"),
]


class Expression(L.Layer):
    """x times an expression of weights."""

    def __init__(self, expression, shapes, **kwargs):
        super().__init__(**kwargs)
        self.expression, self.shapes = expression, shapes

    def build(self, shape):
        self.parts = [self.add_weight(shape=s, name=f"w{i}") for i, s in enumerate(self.shapes)]

    def call(self, x):
        return ops.matmul(x, self.expression(*self.parts))


class Tied(keras.Model):
    """Logits of tokens by the table that embeds them."""

    def __init__(self):
        super().__init__()
        self.embed, self.dense = L.Embedding(6, 4), L.Dense(4, activation="relu")

    def call(self, ids):
        h = self.dense(ops.mean(self.embed(ids), axis=1))
        return ops.matmul(h, ops.transpose(self.embed.embeddings))


class Factorized(L.Layer):
    """A frozen kernel and a change of low rank, written with functions of TensorFlow."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), trainable=False, name="kernel")
        self.a = self.add_weight(shape=(shape[-1], 2), name="a")
        self.b = self.add_weight(shape=(2, 3), name="b")

    def call(self, x):
        kernel = tf.convert_to_tensor(self.kernel) + 0.5 * tf.matmul(tf.convert_to_tensor(self.a), self.b.value)
        return tf.matmul(x, kernel)


EXPRESSIONS = {
    "scaled": (lambda v, g: v * g, [(4, 3), (3,)]),
    "weight normalization": (
        lambda v, g: g * v / ops.sqrt(ops.sum(ops.square(v), axis=0, keepdims=True)),
        [(4, 3), (3,)],
    ),
    "weight standardization": (
        lambda v: (v - ops.mean(v, axis=0, keepdims=True)) / (ops.std(v, axis=0, keepdims=True) + 1e-5),
        [(4, 3)],
    ),
    "low rank": (lambda k, a, b: k + ops.matmul(a, b), [(4, 3), (4, 2), (2, 3)]),
    "transposed": (lambda w: ops.transpose(w), [(3, 4)]),
    "stacked": (lambda a, b: ops.concatenate([a, b], axis=1), [(4, 1), (4, 2)]),
    "a slice": (lambda w: w[:, 1:4], [(4, 6)]),
    "softmax": (lambda w: ops.softmax(w, axis=0), [(4, 3)]),
    "masked": (lambda w: ops.where(w > 0, w, 0.1 * w), [(4, 3)]),
    "a deep expression": (lambda w: _deep(w), [(4, 3)]),
}


def _deep(w):
    # As a tree it would have 2 ** 40 leaves.
    for _ in range(40):
        w = 0.6 * w + 0.4 * ops.tanh(w)
    return w


def of_expression(name):
    expression, shapes = EXPRESSIONS[name]
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(2)(ops.relu(Expression(expression, shapes)(x))))


def lora():
    x = keras.Input((4,))
    dense = L.Dense(3, activation="relu")
    model = keras.Model(x, L.Dense(2)(dense(x)))
    dense.enable_lora(2)
    return model


def spectral():
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(2)(L.SpectralNormalization(L.Dense(3, activation="relu"))(x)))


def factorized():
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(2)(ops.relu(Factorized()(x))))


def variables_in_operations():
    x = keras.Input((4,))
    scale, shift = keras.Variable(np.full(4, 0.5)), keras.Variable(np.full(4, 0.1))
    model = keras.Model(x, L.Dense(2)(ops.relu(x * scale + shift)))
    model.loose = [scale, shift]
    return model


def tied():
    model = Tied()
    model(np.array([[1, 2]]))
    return model


MODELS = {
    **{name: lambda name=name: of_expression(name) for name in EXPRESSIONS},
    "lora": lora,
    "spectral normalization": spectral,
    "factorized with TensorFlow": factorized,
    "variables in operations": variables_in_operations,
    "tied embeddings": tied,
}


@pytest.mark.parametrize("name", MODELS)
def test_assigned_later(name, rng):
    model = randomized(MODELS[name]())
    x = np.array([[1, 4, 0], [5, 5, 2]]) if name == "tied embeddings" else rng.normal(size=(3, 4))
    analyzers = {method: create_analyzer(method, model) for method in ("lrp.epsilon", "lrp.gamma", "gradient")}
    before = {method: analyzer.analyze(x, 1) for method, analyzer in analyzers.items()}
    for i, variable in enumerate([*model.variables, *getattr(model, "loose", [])]):
        variable.assign(np.random.default_rng(100 + i).uniform(0.3, 1.2, variable.shape))
    np.testing.assert_allclose(revgraph.read.trace(model)(x), model(x), rtol=1e-10)
    for method, analyzer in analyzers.items():
        found = analyzer.analyze(x, 1)
        fresh = create_analyzer(method, model)
        np.testing.assert_allclose(analyzer.graph(x), fresh.graph(x), rtol=1e-10)
        np.testing.assert_allclose(found, fresh.analyze(x, 1), rtol=1e-9, atol=1e-12, err_msg=method)
        assert np.abs(found - before[method]).max() > 1e-3
    ledger, relevance = analyzers["lrp.epsilon"].conservation(x, 1), analyzers["lrp.epsilon"].analyze(x, 1)
    np.testing.assert_allclose(ledger.start, np.asarray(model(x))[:, 1], rtol=1e-9)
    np.testing.assert_allclose(ledger.input, relevance.reshape(len(x), -1).sum(1), rtol=1e-6, atol=1e-9)
