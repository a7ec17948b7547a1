"""Code that computes in one dtype only: `conservation` computes in float64, and calls code that holds float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import revgraph
from revgraph.read import trace
from tests.models import inputs_of, randomized

LOW = tf.constant(0.1)


class Bounded(L.Layer):
    """A layer that is looked into, with an activation that is not."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bounded = L.Activation(lambda x: tf.minimum(x, tf.constant(0.5)))

    def build(self, shape):
        self.shift = self.add_weight(shape=(shape[-1],), initializer="normal")

    def call(self, x):
        return self.bounded(x + self.shift)


class Closed(L.Layer):
    """A layer that is not looked into, because its code is TensorFlow's."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), initializer="normal")

    def call(self, x):
        return tf.maximum(tf.matmul(x, self.kernel), LOW)


LAYERS = {
    "PReLU": lambda: L.PReLU("normal"),
    "Dense with a PReLU": lambda: L.Dense(4, activation=L.PReLU("normal")),
    "an activation with a constant": lambda: L.Activation(lambda x: tf.maximum(x, LOW)),
    "a fused activation with a constant": lambda: L.Dense(4, activation=lambda x: tf.maximum(x, LOW)),
    "an activation with a NumPy constant": lambda: L.Dense(4, activation=lambda x: x * np.float32(0.5)),
    "a convolution": lambda: keras.Sequential(
        [L.Reshape((4, 1)), L.Conv1D(2, 2, activation=lambda x: tf.maximum(x, LOW)), L.Flatten()]
    ),
    "a layer that is looked into": Bounded,
    "a layer that is not looked into": Closed,
    "a Lambda": lambda: L.Lambda(lambda x: tf.maximum(x, LOW)),
}


def network(name):
    layer = LAYERS[name]()
    model = keras.Sequential([keras.Input((4,)), L.Dense(4), layer, L.Dense(3)])
    # Keras builds a layer that serves as an activation when it is called for the first time.
    model(np.zeros((1, 4)))
    return layer, randomized(model)


@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_in_float64_computes_what_the_model_computes(name):
    _, model = network(name)
    x = inputs_of(model)
    graph = trace(model, dtype="float64")
    values = graph.run([x])
    assert {v.dtype for v in values.values()} == {tf.float64}
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_conservation_runs_code_that_computes_in_float32(name):
    layer, model = network(name)
    x = inputs_of(model)
    closed = isinstance(layer, Closed | L.Lambda)
    for method in ["gradient"] if closed else ["lrp.epsilon", "lrp.alpha_1_beta_0", "gradient"]:
        analyzer = revgraph.create_analyzer(method, model)
        ledger, relevance = analyzer.conservation(x, 1), analyzer.analyze(x, 1)
        np.testing.assert_allclose(ledger.input, relevance.sum(1), rtol=1e-3, atol=1e-5)
        if method != "gradient":
            assert np.abs(ledger.other).max() <= 1e-6 * np.abs(ledger.start).max()


def test_slopes_of_prelu_are_live_and_have_the_precision_of_the_graph():
    """f(x) = w a x for x < 0, to the last digit of float64."""
    layer = L.PReLU("normal")
    model = randomized(keras.Sequential([keras.Input((2,)), layer, L.Dense(1, use_bias=False)]))
    ledger = revgraph.create_analyzer("lrp.z", model)
    x = np.array([[-1.0, -2.0]], "float32")
    for slopes in ([0.3, 0.7], [0.1, -0.2]):
        layer.alpha.assign(slopes)
        (w,) = (v.astype("float64")[:, 0] for v in model.layers[-1].get_weights())
        exact = (w * np.float32(slopes).astype("float64") * x).sum()
        np.testing.assert_allclose(ledger.conservation(x).start, [exact], rtol=1e-14)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_constants_in_other_precisions(policy):
    """What a layer makes in its own compute dtype meets a graph in float32; float32 constants meet one in float64."""
    dtype = "bfloat16" if policy.startswith("mixed") else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        activation = L.Activation(lambda x: tf.maximum(tf.cast(x, dtype), tf.constant(0.1, dtype)))
        model = randomized(keras.Sequential([keras.Input((4,)), L.Dense(4), activation, L.Dense(3)]))
    finally:
        keras.config.set_dtype_policy(before)
    x = inputs_of(model)
    graph = trace(model)
    np.testing.assert_allclose(graph(x), ops.cast(model(x), "float32"), rtol=0.05, atol=0.05)
    assert np.isfinite(revgraph.create_analyzer("lrp.epsilon", model).conservation(x, 1).input).all()


def test_errors_of_the_code_itself_are_not_hidden():
    def broken(x):
        if tf.executing_eagerly():
            raise ValueError("out of order")
        return x + 1.0

    model = keras.Sequential([keras.Input((4,)), L.Activation(broken)])
    with pytest.raises(ValueError, match="out of order"):
        trace(model, keep=(L.Activation,), dtype="float64")(np.ones((1, 4)))
