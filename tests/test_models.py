"""Models without their output activation."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph

pytestmark = pytest.mark.usefixtures("float64")


def sequential():
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(3, activation="softmax")]
    )


def functional(activation):
    x = layers.Input((4,))
    return keras.Model(x, activation(layers.Dense(3)(layers.Dense(5, activation="tanh")(x))))


def nested():
    x = layers.Input((4,))
    return keras.Model(x, sequential()(layers.Dense(4)(x)))


def several():
    x = layers.Input((4,))
    return keras.Model(x, {"classes": layers.Dense(3, activation="softmax")(x), "value": layers.Dense(2)(x)})


KINDS = {
    "fused": sequential,
    "Softmax": lambda: functional(layers.Softmax()),
    "Activation": lambda: functional(layers.Activation("softmax")),
    "ops": lambda: functional(ops.softmax),
    "nested": nested,
    "several outputs": several,
}


def classes(y):
    return np.asarray(y["classes"] if isinstance(y, dict) else y)


def state(model):
    return [(layer, list(layer._inbound_nodes), list(layer._outbound_nodes)) for layer in model._flatten_layers()]


@pytest.mark.filterwarnings("ignore:The output of")
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_model_wo_softmax(make, rng, tmp_path):
    model, x = make(), rng.normal(size=(3, 4))
    before = state(model)
    logits = revgraph.model_wo_softmax(model)
    found = classes(logits(x))
    assert state(model) == before
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(axis=1, keepdims=True), classes(model(x)))
    assert not np.allclose(found.sum(axis=1), 1)
    # The weights are the same variables, in both directions.
    assert [id(v) for v in logits.weights] == [id(v) for v in model.weights]
    model.weights[0].assign(model.weights[0] + 1)
    moved = classes(logits(x))
    assert not np.allclose(moved, found)
    logits.save(tmp_path / "logits.keras")
    np.testing.assert_allclose(classes(keras.models.load_model(tmp_path / "logits.keras")(x)), moved)
    start = {"classes": 0} if make is several else 0
    for name in ("lrp.epsilon", "gradient"):
        expected = revgraph.create_analyzer(name, model).record(x).analyze(start)
        np.testing.assert_allclose(revgraph.create_analyzer(name, logits).record(x).analyze(start), expected)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softmax", "linear", None])
def test_model_wo_output_activation(activation, rng):
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation=activation)])
    kernel, bias = model.get_weights()
    x = rng.normal(size=(5, 4))
    np.testing.assert_allclose(revgraph.model_wo_output_activation(model)(x), x @ kernel + bias)
    assert model.layers[0].activation is keras.activations.get(activation)


def test_activation_layers_at_the_output(rng):
    x = rng.normal(size=(5, 4))
    for activation in (layers.ReLU(), layers.LeakyReLU(), layers.Activation("tanh"), ops.tanh):
        model = functional(activation)
        dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)][-1]
        expected = keras.Model(model.input, dense.output)(x)
        np.testing.assert_allclose(revgraph.model_wo_output_activation(model)(x), expected)


def test_what_cannot_be_done():
    plain = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="relu")])
    with pytest.raises(revgraph.NotAnalyzeableModelException, match="no softmax at its output"):
        revgraph.model_wo_softmax(plain)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.zeros((1, 4)))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match="subclassed model"):
        revgraph.model_wo_softmax(own)
