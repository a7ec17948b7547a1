"""Deconvnet and guided backpropagation: the worked numbers of Captum, for every spelling of a ReLU."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph

pytestmark = pytest.mark.usefixtures("float64")

RELUS = {
    "fused": lambda x, layer: layer(activation="relu")(x),
    "layer": lambda x, layer: layers.ReLU()(layer()(x)),
    "Activation": lambda x, layer: layers.Activation("relu")(layer()(x)),
    "ops": lambda x, layer: ops.relu(layer()(x)),
    "function": lambda x, layer: keras.activations.relu(layer()(x)),
    "max_value": lambda x, layer: layers.ReLU(max_value=1000)(layer()(x)),
    "threshold": lambda x, layer: layers.ReLU(threshold=0)(layer()(x)),
}


def model_a(relu):
    """3 x 3 convolution with ones, ReLU, dense over channels first, ReLU; inputs 0 to 15."""

    def convolution(**options):
        return layers.Conv2D(2, 3, name="conv", **options)

    def dense(**options):
        return layers.Dense(4, name="dense", **options)

    image = layers.Input((4, 4, 1))
    h = layers.Flatten()(layers.Permute((3, 1, 2))(relu(image, convolution)))
    model = keras.Model(image, relu(h, dense))
    model.get_layer("conv").set_weights([np.ones((3, 3, 1, 2)), np.array([-50.0, -75.0])])
    row = np.array([1.0, 1, 1, 1, 1, -1, -1, -1])
    model.get_layer("dense").set_weights([np.tile(row[:, None], 4), np.zeros(4)])
    return model, np.arange(16.0).reshape(1, 4, 4, 1)


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_worked_numbers(relu):
    model, x = model_a(relu)
    deconvnet = revgraph.create_analyzer("deconvnet", model).record(x).analyze(0)[0, ..., 0]
    np.testing.assert_allclose(deconvnet, [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]])
    guided = revgraph.create_analyzer("guided_backprop", model).record(x).analyze(0)[0, ..., 0]
    np.testing.assert_allclose(guided, [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]])


@pytest.mark.parametrize(
    "activation, slope",
    [
        (layers.ReLU(max_value=2), [0, 0, 1, 0]),
        (layers.ReLU(negative_slope=0.5), [0.5, 0.5, 1, 1]),
        (layers.ReLU(threshold=2), [0, 0, 0, 1]),
        (layers.Activation("relu6"), [0, 0, 1, 1]),
        (ops.relu6, [0, 0, 1, 1]),
    ],
)
def test_relus_with_bounds_and_slopes(activation, slope):
    # At -3, -1, 1 and 5 the derivative is `slope`; behind the ReLU weights of 2 and -1, of which the first is passed.
    x = layers.Input((4,))
    model = keras.Model(x, layers.Dense(1, use_bias=False)(activation(x)))
    model.set_weights([np.array([[2.0], [2.0], [2.0], [2.0]])])
    values = np.array([[-3.0, -1.0, 1.0, 5.0]])
    guided = revgraph.create_analyzer("guided_backprop", model)
    np.testing.assert_allclose(guided.analyze(values), [2 * np.array(slope)])
    np.testing.assert_allclose(revgraph.create_analyzer("deconvnet", model).record(values).analyze(), [[2, 2, 2, 2]])
    model.set_weights([-np.ones((4, 1))])
    for name in ("deconvnet", "guided_backprop"):
        np.testing.assert_array_equal(revgraph.create_analyzer(name, model).record(values).analyze(), 0)


def test_other_activations_pass_the_gradient():
    x = layers.Input((2,))
    model = keras.Model(x, layers.Dense(1, use_bias=False)(layers.Activation("tanh")(x)))
    model.set_weights([np.array([[2.0], [-3.0]])])
    values = np.array([[0.5, -1.0]])
    expected = revgraph.create_analyzer("gradient", model).record(values).analyze()
    for name in ("deconvnet", "guided_backprop"):
        np.testing.assert_allclose(revgraph.create_analyzer(name, model).record(values).analyze(), expected)
