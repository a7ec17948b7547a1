"""Execution: how a plan is computed, with what is taped on the backward walk."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.fast.execute import _divided
from revgraph.reverse.walk import Question
from revgraph.reverse_rules import Epsilon, Part, Rule, SafeDivide, Term, on
from tests.fast.tools import literally, same, small


@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_division_by_a_known_sign(sign, dtype):
    class Known:
        z = tf.constant([sign or 2.0, 3.0 * (sign or -1.0)], dtype)

    known = Known()
    known.sign = sign
    r = tf.constant([1.0, 2.0], dtype)
    np.testing.assert_allclose(_divided(SafeDivide(0.1), r, known), SafeDivide(0.1)(r, known.z), rtol=1e-6)


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.gamma"])
def test_a_forward_walk_can_be_pulled_in_a_loop_and_outside_of_it(name, float64, rng):
    model, x = small(rng, lambda h: layers.Add()([h, layers.Dense(6)(layers.ReLU()(layers.Dense(4)(h)))]))
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    amount = tf.constant([[1.0]] * 3, tf.float64)

    def pulled(forward, target):
        chosen = [(tf.fill([3], target), amount)]
        return walk.pulled(forward, chosen)["relevance"][0]

    @tf.function(autograph=False)
    def both(x):
        forward = walk.reverse.forward([x])
        looped = tf.map_fn(lambda t: pulled(forward, t), tf.constant([2, 1]), fn_output_signature=tf.float64)
        return looped, pulled(forward, tf.constant(1))

    looped, outside = both(tf.constant(x))
    expected = [analyzer.analyze(x, target, initial_relevance=1.0) for target in (2, 1)]
    np.testing.assert_allclose(looped, expected, rtol=1e-10)
    np.testing.assert_allclose(outside, expected[1], rtol=1e-10)


def test_a_modifier_of_inputs_may_lose_their_shape(float64, rng):
    def unshaped(t):
        return tf.py_function(lambda t: t, [t], t.dtype)

    @dataclasses.dataclass(frozen=True)
    class Unshaped(Rule):
        def parts(self):
            return (Part((Term(unshaped, on()),)),)

    model, x = small(rng, layers.ReLU())
    found = revgraph.create_analyzer("lrp", model, rule=Unshaped(), max_growth=np.inf).analyze(x, 1)
    np.testing.assert_allclose(found, revgraph.create_analyzer("lrp", model, rule=Epsilon()).analyze(x, 1), rtol=1e-10)


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.z_plus"])
def test_few_outputs_are_scaled_rather_than_kernels(name, float64, rng):
    """BatchNormalization behind layers with many weights, one of them also in front of a layer."""
    x = keras.Input((3, 3, 8))
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(x)))
    h = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(layers.BatchNormalization()(h)))
    h = layers.Dense(9)(layers.BatchNormalization()(layers.Dense(12)(layers.Flatten()(layers.ReLU()(h)))))
    model = keras.Model(x, layers.Dense(3)(layers.ReLU()(layers.BatchNormalization(scale=False)(h))))
    model.set_weights(
        [rng.normal(size=w.shape) if w.ndim > 1 else rng.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    )
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    assert sum(getattr(site.operation, "multiple", None) is not None for site in analyzer.graph.sites) >= 3
    x = rng.normal(size=(4, 3, 3, 8))
    fast = analyzer.analyze(x, 2)
    plain = literally(analyzer, x, neuron_selection=2)
    same(fast, plain)
