"""Transformers of well-known families: what their parts do to relevance, and reference numbers of another library."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph.composites import vit
from tests import transformers

pytestmark = pytest.mark.usefixtures("float64")

TINY = 1e-30
"""A stabiliser that changes nothing."""


class Code(layers.Layer):
    """A layer whose `call` is a function."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, shape):
        return shape


def places(x):
    """The positions 1, 2, ... of (batch, positions, features), whose number is not known before."""
    return ops.arange(1, 1 + ops.shape(x)[1], dtype=x.dtype)


CONSTANT_FACTORS = {
    "positions": lambda x: x * ops.cos(places(x))[:, None],
    "positions of the shape of the signal": lambda x: x * (places(x)[:, None] + ops.zeros_like(x)),
    "a mask": lambda x: x * ops.cast(ops.max(x, axis=-1, keepdims=True) > 0, x.dtype),
    "signs": lambda x: x * ops.sign(x),
    "a matrix of positions": lambda x: ops.matmul(ops.cos(places(x)[:, None] * places(x)), x),
}


@pytest.mark.parametrize("name", CONSTANT_FACTORS)
@pytest.mark.parametrize("method", ["lrp.attnlrp", "lrp.cp"])
def test_a_factor_that_is_constant_gets_nothing(name, method, rng):
    x = keras.Input((None, 4))
    model = keras.Model(x, layers.GlobalAveragePooling1D()(Code(CONSTANT_FACTORS[name])(x)))
    data = rng.normal(size=(2, 3, 4))
    found = revgraph.create_analyzer(method, model, epsilon=TINY).record(data).analyze(1)
    t = tf.constant(data)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = model(t)[:, 1]
    np.testing.assert_allclose(found, data * tape.gradient(y, t), rtol=1e-9, atol=1e-12)


def mean_square(x):
    return ops.mean(ops.square(x), axis=-1, keepdims=True)


RMS_NORMS = {
    "rsqrt": lambda x: x * ops.rsqrt(mean_square(x) + 1e-6),
    "power": lambda x: x * ops.power(ops.mean(ops.power(x, 2), axis=-1, keepdims=True) + 1e-6, -0.5),
    "reciprocal": lambda x: x * ops.reciprocal(ops.sqrt(mean_square(x) + 1e-6)),
    "number over root": lambda x: (2.0 / ops.sqrt(mean_square(x) + 1e-6)) * x,
    "divided": lambda x: x / ops.sqrt(mean_square(x) + 1e-6),
    "epsilon behind the root": lambda x: x * (1.0 / (ops.sqrt(mean_square(x)) + 1e-6)),
    "another power": lambda x: x * ops.power(ops.mean(x**4, axis=-1, keepdims=True) + 1e-6, -0.25),
    "absolute values": lambda x: x * ops.reciprocal(ops.mean(ops.abs(x), axis=-1, keepdims=True)),
    "of another tensor": lambda x: x * ops.rsqrt(mean_square(ops.tanh(x)) + 1e-6),
}


@pytest.mark.parametrize("name", RMS_NORMS)
@pytest.mark.parametrize("method", ["lrp.attnlrp", "lrp.cp"])
def test_divisors_get_nothing_however_they_are_written(name, method, rng):
    x = keras.Input((3, 4))
    model = keras.Model(x, Code(RMS_NORMS[name])(x))
    data, start = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    found = revgraph.create_analyzer(method, model, epsilon=TINY).record(data).analyze(initial_relevance=start)
    np.testing.assert_allclose(found, start, rtol=1e-12)


def test_the_preset_for_vision_transformers_without_gamma_is_cp(rng):
    """Positions, normalizations and biases get their share under both."""
    sizes = {"image": 8, "patch": 4, "width": 8, "inner": 12, "heads": 2, "blocks": 1, "classes": 3}
    model, x = transformers.vit(transformers.Numbers(), **sizes), rng.normal(size=(1, 8, 8, 3))
    found = revgraph.create_analyzer("lrp", model, rule=vit(TINY, gamma=0, patch_gamma=0)).record(x).analyze(1)
    expected = revgraph.create_analyzer("lrp.cp", model, epsilon=TINY).record(x).analyze(1)
    # The stabiliser of gamma is 1e-7.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
