"""Bounds of the input, carried to the first linear layer."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.composites import ANY, CONVOLUTION, Composite
from revgraph.reverse_rules import Epsilon, ZBox

DOUBLE = {"dtype": "float64"}


def network(*front):
    x = keras.Input((6, 6, 3), **DOUBLE)
    h = x
    for layer in front:
        h = layer(h)
    h = layers.Conv2D(4, 3, activation="relu", bias_initializer="normal", **DOUBLE)(h)
    return keras.Model(x, layers.Dense(3, **DOUBLE)(layers.Flatten()(h)))


@pytest.mark.parametrize("name", ["lrp.epsilon_gamma_box", "deep_taylor.bounded"])
def test_rescaling_and_normalization_map_the_declared_bounds_per_channel(name, rng):
    mean, variance = np.array([0.125, -0.25, 0.5]), np.array([1.0, 4.0, 0.25])
    model = network(
        layers.Rescaling(-1 / 256, offset=0.5, **DOUBLE), layers.Normalization(mean=mean, variance=variance, **DOUBLE)
    )
    x = rng.uniform(0, 255, (2, 6, 6, 3))
    ends = np.array([[0.5], [0.5 - 255 / 256]])
    at_layer = (ends - mean) / np.sqrt(variance)
    given = revgraph.create_analyzer(name, model, low=at_layer.min(axis=0), high=at_layer.max(axis=0))
    carried = revgraph.create_analyzer(name, model, input_bounds=(0, 255))
    np.testing.assert_allclose(carried.analyze(x, 1), given.analyze(x, 1), rtol=1e-9)


def test_padding_that_the_convolution_does_itself_is_not_input(rng):
    model = network(layers.ZeroPadding2D(1, **DOUBLE))
    x = rng.uniform(1, 2, (2, 6, 6, 3))
    carried = revgraph.create_analyzer("deep_taylor.bounded", model, input_bounds=(1, 2))
    given = revgraph.create_analyzer("deep_taylor.bounded", model, low=1, high=2)
    np.testing.assert_allclose(carried.analyze(x, 1), given.analyze(x, 1), rtol=1e-9)


def test_bounds_of_one_value_per_channel(rng):
    model = network()
    x = rng.uniform(0, 1, (1, 6, 6, 3))
    low, high = np.zeros(3), np.array([1.0, 2.0, 3.0])
    carried = revgraph.create_analyzer("deep_taylor.bounded", model, input_bounds=(low, high))
    given = revgraph.create_analyzer("deep_taylor.bounded", model, low=low, high=high)
    np.testing.assert_allclose(carried.analyze(x), given.analyze(x), rtol=1e-9)


def test_a_recorded_pass_keeps_bounds_that_weights_map(rng):
    model = network(layers.BatchNormalization(**DOUBLE), layers.MaxPooling2D(2, **DOUBLE))
    model.set_weights([rng.uniform(0.5, 1, w.shape) for w in model.get_weights()])
    x = rng.uniform(0, 1, (2, 6, 6, 3))
    rule = Composite((CONVOLUTION, ZBox()), (ANY, Epsilon()))
    analyzer = revgraph.create_analyzer("lrp", model, rule=rule, input_bounds=(0, 1))
    recorded, expected = analyzer.record(x), analyzer.analyze(x, 1)
    model.set_weights([rng.uniform(0.5, 1, w.shape) for w in model.get_weights()])
    np.testing.assert_allclose(recorded.analyze(1), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["lrp.epsilon_gamma_box", "deep_taylor.bounded"])
def test_missing_bounds_are_asked_for(name):
    with pytest.raises(ValueError, match=r"'conv2d.*' needs the bounds.*input_bounds=\(0, 255\)"):
        revgraph.create_analyzer(name, network())


@pytest.mark.parametrize("bounds", [(1, 0), 3, (0, 1, 2)])
def test_illegal_bounds(bounds):
    with pytest.raises(ValueError, match="input_bounds is a pair"):
        revgraph.create_analyzer("deep_taylor.bounded", network(), input_bounds=bounds)
