"""Signs: what is said to be known holds on values, and nothing is said that a value could contradict."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.canonize import canonize, split_activations
from revgraph.composites import ANY, Composite
from revgraph.fast.signs import nonnegative_slots, where_relevance_arrives
from revgraph.read import trace
from revgraph.reverse.walk import Question
from revgraph.reverse_rules import Gamma, ZPlus
from tests.fast.tools import small
from tests.models import randomized


def relu(x):
    """A function under the name of another one."""
    return x - 1.0


@pytest.mark.parametrize("rule", [ZPlus(), Gamma(0.25)], ids=str)
def test_signs_are_not_taken_for_known_where_a_mean_is_subtracted(rule, float64, rng):
    """z+ of a normalization grows sum |R|, though its input is not negative; z+ and z- are not of one sign there."""
    model, x = small(rng, lambda h: layers.LayerNormalization()(layers.ReLU()(h)))
    analyzer = revgraph.create_analyzer("lrp", model, rule=Composite((ANY, rule)))
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    pullbacks = walk.reverse.forward([tf.constant(x)]).pullbacks
    growths = {site.operation.label: p.growth for site, p in zip(walk.graph.sites, pullbacks, strict=True)}
    assert growths["Normalize"] == np.inf


def test_zeros_of_relevance_are_known_only_behind_a_rectifier(model):
    analyzer = revgraph.create_analyzer("lrp.gamma", model)
    reverse = analyzer.walk(Question(analyzer.graph.output_slots)).reverse
    positive, nonzero = where_relevance_arrives(reverse.graph, reverse.bound, analyzer.graph.output_slots)
    assert "positive" in {s.path for s in positive} and "summand" not in {s.path for s in positive}
    assert "summand" in {s.path for s in nonzero}
    flat = revgraph.create_analyzer("lrp.flat", model)
    reverse = flat.walk(Question(flat.graph.output_slots)).reverse
    positive, nonzero = where_relevance_arrives(reverse.graph, reverse.bound, flat.graph.output_slots)
    assert "positive" not in {s.path for s in positive | nonzero} and "summand" in {s.path for s in nonzero}


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        (lambda: layers.ReLU(), True),
        (lambda: layers.ReLU(max_value=6.0), True),
        (lambda: layers.Activation("relu"), True),
        (lambda: layers.Activation("softmax"), True),
        (lambda: layers.Dense(3, activation="sigmoid"), True),
        (lambda: layers.ReLU(negative_slope=0.1), False),
        (lambda: layers.ReLU(negative_slope=0.1, threshold=1.0), False),
        (lambda: layers.LeakyReLU(), False),
        (lambda: layers.ELU(), False),
        (lambda: layers.Activation("tanh"), False),
        (lambda: layers.Activation(relu), False),
        (lambda: layers.Dense(3, activation=relu), False),
        (lambda: layers.Activation(lambda x: keras.activations.relu(x, negative_slope=0.5)), False),
        (lambda: layers.Dense(3), False),
    ],
)
def test_what_is_known_not_to_be_negative(layer, known, rng):
    """Nothing is assumed that a value could contradict."""
    inputs = keras.Input((3,))
    model = randomized(keras.Model(inputs, layer()(inputs)))
    graph = split_activations(trace(model))
    assert (graph.output_slots[0] in nonnegative_slots(graph)) == known
    if known:
        assert np.min(graph(10 * rng.normal(size=(50, 3)))) >= 0


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        (lambda: layers.MaxPooling2D(2), True),
        (lambda: layers.AveragePooling2D(2), True),
        (lambda: layers.ZeroPadding2D(1), True),
        (lambda: layers.UpSampling2D(2), True),
        (lambda: layers.UpSampling2D(2, interpolation="bicubic"), False),
        (lambda: layers.Resizing(7, 7, interpolation="bicubic"), False),
        (lambda: layers.Resizing(7, 7, interpolation="lanczos3"), False),
    ],
)
def test_what_stays_not_negative(layer, known, rng):
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, layer()(layers.ReLU()(inputs)))
    graph = canonize(model)
    assert graph.output_slots[0] in nonnegative_slots(graph) or not known
    if graph.output_slots[0] in nonnegative_slots(graph):
        assert np.min(graph(rng.normal(size=(20, 4, 4, 1)))) >= 0
