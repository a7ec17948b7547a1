"""Constants that make the signal larger: centres, bins, prototypes. Relevance has the shape of the input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import revgraph
from revgraph.read import trace
from revgraph.reverse_rules import Z
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

PRECISE = Z(epsilon=1e-300)
BINS = np.array([0.2, -0.4, 0.9])
CENTRES = np.random.default_rng(3).normal(size=(5, 4))

# Pieces that are linear but for constants, so that LRP-0 is the input times the gradient: (shape, function).
PIECEWISE_LINEAR = {
    "bins": ((1,), lambda x: ops.relu(x - BINS)),
    "bins, subtracted from": ((1,), lambda x: ops.relu(ops.subtract(BINS, x))),
    "bins of a variable": ((1,), lambda x: ops.relu(x - keras.Variable(BINS))),
    "bins of a tensor": ((1,), lambda x: ops.relu(tf.constant(BINS) + x)),
    "centres": ((4,), lambda x: ops.abs(ops.expand_dims(x, 1) - CENTRES)),
    "centres of steps": ((3, 4), lambda x: ops.abs(ops.expand_dims(x, 2) - CENTRES)),
    "factors": ((1,), lambda x: x * BINS),
    "quotients": ((2, 1), lambda x: x / BINS),
    "a table of minima": ((1,), lambda x: ops.maximum(x, BINS)),
    "a table of maxima": ((2, 1), lambda x: ops.minimum(x, BINS)),
    "both": ((1,), lambda x: ops.fmax(x, BINS)),
    "a choice": ((1,), lambda x: ops.where(np.array([True, False, True]), x, BINS)),
    "a choice by the signal": ((1,), lambda x: ops.where(x > 0.1, x, BINS)),
    "powers": ((1,), lambda x: ops.power(x, np.ones(3))),
    "rescaling": ((4, 1), lambda x: ops.max(L.Rescaling(BINS)(x), axis=-1)),
    "rescaling and shift": ((4, 1), lambda x: ops.max(L.Rescaling(2.0, BINS)(x), axis=-1)),
    "a constant in a sum": ((4, 1), lambda x: L.Add()([x, BINS[None, None]])),
    "a constant in a maximum": ((4, 1), lambda x: L.Maximum()([x, BINS[None, None]])),
    "unknown sizes": ((None, 1), lambda x: ops.max(ops.relu(x - BINS), axis=1)),
    "unknown sizes that meet a table": ((None, 3), lambda x: ops.max(ops.relu(x - BINS), axis=1)),
    "a layer of one's own": ((4,), lambda x: Prototypes()(x)),
}


class Prototypes(L.Layer):
    def build(self, shape):
        self.centres = self.add_weight(shape=(5, shape[-1]), initializer="normal")

    def call(self, x):
        return ops.abs(x[:, None] - self.centres)


def network(shape, function):
    x = keras.Input(shape)
    y = function(x)
    y = L.Flatten()(y) if None not in y.shape[1:] else y
    return randomized(keras.Model(x, L.Dense(2)(y)))


def input_of(shape, batch):
    return np.random.default_rng(5).normal(size=(batch, *(3 if n is None else n for n in shape)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_relevance_is_summed_over_what_an_entry_became(name, batch):
    shape, function = PIECEWISE_LINEAR[name]
    model, x = network(shape, function), input_of(shape, batch)
    np.testing.assert_allclose(trace(model)(x), model(x), rtol=1e-12)
    relevance = revgraph.create_analyzer("lrp", model, rule=PRECISE).record(x).analyze(1)
    assert relevance.shape == x.shape
    expected = revgraph.create_analyzer("input_t_gradient", model).record(x).analyze(1)
    np.testing.assert_allclose(relevance, expected, rtol=1e-9, atol=1e-12)
    ledger = revgraph.create_analyzer("lrp", model, rule=PRECISE).conservation(x, 1)
    np.testing.assert_allclose(ledger.input, relevance.reshape(batch, -1).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.gamma", "lrp.flat", "deep_taylor"])
def test_every_rule_gives_relevance_of_the_shape_of_the_input(name):
    model = network((4,), lambda x: ops.square(ops.expand_dims(x, 1) - CENTRES))
    x = input_of((4,), 3)
    relevance = revgraph.create_analyzer(name, model).record(x).analyze(1)
    assert relevance.shape == x.shape
    assert np.isfinite(relevance).all()


def test_radial_basis_functions_by_hand():
    """exp(-(x - c)^2) for two centres: the relevance of x is the sum of what both hand back."""
    centres = np.array([1.0, 3.0])
    x = keras.Input((1,))
    head = L.Dense(1, use_bias=False)
    model = keras.Model(x, head(ops.exp(-ops.square(x - centres))))
    head.set_weights([np.array([[2.0], [5.0]])])
    relevance = revgraph.create_analyzer("lrp", model, rule=PRECISE).record(np.array([[2.0]])).analyze()
    # Activations hand on all they get. Of the difference x - c the share of x is x / (x - c).
    expected = 2 * np.exp(-1.0) * 2 / (2 - 1) + 5 * np.exp(-1.0) * 2 / (2 - 3)
    np.testing.assert_allclose(relevance, [[expected]], rtol=1e-12)


def test_a_signal_that_stays_as_large_gets_no_site_of_its_own():
    model = network((None, 3), lambda x: ops.max(ops.relu(x * BINS - 1.0), axis=1))
    assert [site.operation.label for site in trace(model).sites] == [
        "Scale",
        "relu",
        "Max",
        "Flatten",
        "Dense",
    ]
