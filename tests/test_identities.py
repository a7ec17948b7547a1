"""Identities that hold whatever the network: between rules, with the gradient, and between graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from revgraph import create_analyzer
from revgraph.canonize import canonize
from revgraph.composites import LINEAR, Composite, everywhere
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse_rules import AlphaBeta, Epsilon, Flat, Gamma, Z, ZPlus
from tests.models import (
    block,
    inlined,
    inputs_of,
    make,
    randomized,
)

pytestmark = pytest.mark.usefixtures("float64")


def relevance(model, rule, x, scale=1.0, fast=True, composite=everywhere):
    """Relevance at the input from `scale` at every logit, on the eager walk: an independent way to the analyzers'."""
    graph = canonize(model)
    walk = ReverseGraph(graph, composite(rule).bind(graph), fast=fast)
    forward = walk.forward(keras.tree.flatten(x))
    seeds = {slot: scale * forward.values[slot] for slot in graph.output_slots}
    arrived = walk.relevance(forward, seeds)
    return [arrived[slot].numpy() for slot in graph.input_slots]


def linear(rule):
    """The rule on linear layers only; a batch normalization that is not folded passes relevance."""
    return Composite((LINEAR, rule))


def same(actual, expected, rtol=1e-9):
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def without_biases(model):
    """The model with zero biases and shifts: batch normalization only scales."""
    for variable in model.variables:
        if variable.path.split("/")[-1] in ("bias", "beta", "moving_mean"):
            variable.assign(np.zeros(variable.shape))
    return model


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "shared"])
def test_z_plus_is_alpha_1_beta_0(name):
    model = make(name)
    x = inputs_of(model)
    same(relevance(model, ZPlus(), x), relevance(model, AlphaBeta(1, 0), x))


@pytest.mark.parametrize("generalized", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
def test_gamma_0_is_epsilon(name, generalized):
    model = make(name)
    x = inputs_of(model)
    same(relevance(model, Gamma(0, generalized=generalized), x), relevance(model, Epsilon(), x))


def test_large_gamma_is_z_plus():
    """With nothing but positive outputs gamma goes to z+ as it grows."""
    inputs = keras.Input((6,))
    model = randomized(keras.Model(inputs, layers.Dense(4)(inputs)))
    layer = model.layers[-1]
    layer.set_weights([layer.get_weights()[0], np.full(4, 20.0)])
    x = inputs_of(model)
    same(relevance(model, Gamma(1e9), x), relevance(model, ZPlus(), x), rtol=1e-8)


PIECEWISE_LINEAR = {
    "mlp": lambda: make("mlp"),
    "cnn": lambda: make("cnn"),
    "residual": lambda: make("residual"),
    "nested": lambda: make("nested"),
    "shared": lambda: make("shared"),
    "two_inputs": lambda: make("two_inputs"),
    "subclassed": lambda: make("subclassed"),
    "operators": lambda: make("operators"),
    "separable": lambda: randomized(separable()),
}


def separable():
    """Separable and transposed convolutions, every kind of pooling and merging."""
    inputs = keras.Input((6, 6, 2))
    x = layers.SeparableConv2D(3, 3, padding="same", activation="relu", depth_multiplier=2)(inputs)
    y = layers.Conv2DTranspose(3, 2, strides=2)(layers.AveragePooling2D(2, padding="same")(x))
    x = layers.Subtract()([x, layers.Maximum()([x, y])])
    x = layers.Average()([layers.DepthwiseConv2D(3, padding="same")(x), layers.ZeroPadding2D(1)(y)[:, 1:7, 1:7]])
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(ops.relu(x))])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_lrp_0_is_gradient_times_input(name):
    """For piecewise linear networks, with activations so large that the stabiliser hides nothing."""
    model = PIECEWISE_LINEAR[name]()
    x = keras.tree.map_structure(lambda t: 1e4 * t, inputs_of(model))
    for variable in model.variables:
        if variable.path.split("/")[-1] in ("bias", "beta", "moving_mean"):
            variable.assign(1e4 * variable)
    lrp = create_analyzer("lrp.z", model).record(x).analyze(neuron_selection=1, initial_relevance=lambda y: y)
    gradient = create_analyzer("input_t_gradient", model).record(x).analyze(neuron_selection=1)
    same(lrp, gradient, rtol=1e-6)  # 1e-7 is the stabiliser.


def slope(function, x):
    """The gradient, from TensorFlow's own tape."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "nested", "subclassed", "operators"])
def test_the_gradient_is_the_tapes(name):
    model = make(name)
    x = inputs_of(model)
    gradient = create_analyzer("gradient", model).record(x).analyze(neuron_selection=2)
    same(gradient, slope(lambda t: model(t)[:, 2], x))


@pytest.mark.parametrize("rule", [Z(), ZPlus(), AlphaBeta(2, 1), Gamma(0.25), Flat()], ids=str)
def test_linear_in_relevance(rule):
    model = make("residual")
    x = inputs_of(model)
    same(relevance(model, rule, x, scale=-2.5), [-2.5 * r for r in relevance(model, rule, x)])


@pytest.mark.parametrize(
    ("rule", "positive"),
    [
        (Z(epsilon=0), False),
        (ZPlus(epsilon=0), True),
        (AlphaBeta(1, 0, epsilon=0), True),
        (Gamma(epsilon=0), False),
        (Flat(epsilon=0), True),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "nested", "shared"])
def test_conservation_without_biases(name, rule, positive):
    """What starts at the output arrives at the input: sums are equal, sample by sample."""
    model = without_biases(make(name))
    if positive:
        # So that no unit lacks a positive part.
        for variable in model.trainable_variables:
            variable.assign(np.abs(variable))
    x = inputs_of(model, positive=positive)
    arrived = sum(r.reshape(len(r), -1).sum(1) for r in relevance(model, rule, x))
    # The rules of pooling and sums have stabilisers of their own, 1e-7.
    same(arrived, np.asarray(model(x)).sum(1), rtol=1e-6 if name in ("cnn", "residual") else 1e-9)


@pytest.mark.parametrize("name", ["cnn", "shared", "two_inputs"])
def test_a_row_of_a_batch_is_the_sample_alone(name):
    model = make(name)
    x = inputs_of(model, batch=4)
    analyzer = create_analyzer("lrp.sequential_preset_b", model)
    together = analyzer.analyze(x)
    for i in range(4):
        alone = analyzer.analyze(keras.tree.map_structure(lambda t, i=i: t[i : i + 1], x))
        same(alone, keras.tree.map_structure(lambda r, i=i: r[i : i + 1], together), rtol=1e-10)
    same(analyzer.analyze(x, batch_size=3), together, rtol=1e-10)


RULES_FOR_GRAPHS = [Epsilon(0.01), AlphaBeta(2, 1), Gamma(0.25), Flat()]


@pytest.mark.parametrize("rule", RULES_FOR_GRAPHS, ids=str)
def test_nested_is_inlined(rule):
    model = make("nested")
    flat = inlined(model)
    x = inputs_of(model)
    same(flat(x), model(x))
    same(relevance(model, rule, x), relevance(flat, rule, x))


@pytest.mark.parametrize("rule", RULES_FOR_GRAPHS, ids=str)
def test_sequential_is_functional(rule):
    model = make("cnn")
    x = inputs = keras.Input((8, 8, 2))
    for layer in model.layers:
        x = layer(x)
    data = inputs_of(model)
    same(relevance(keras.Model(inputs, x), rule, data), relevance(model, rule, data))


@pytest.mark.parametrize("rule", RULES_FOR_GRAPHS, ids=str)
def test_a_shared_layer_is_two_layers_of_equal_weights(rule):
    model = make("shared")
    a, b = keras.Input((5,)), keras.Input((5,))
    twins = [[layers.Dense(5, activation="relu"), block(f"twin{i}")] for i in range(2)]
    x = layers.Concatenate()([twins[i][1](twins[i][0](t)) for i, t in enumerate((a, b))])
    split = keras.Model([a, b], layers.Dense(3)(x))
    for dense, inner in twins:
        dense.set_weights(model.get_layer("dense").get_weights())
        inner.set_weights(model.get_layer("twin").get_weights())
    split.layers[-1].set_weights(model.get_layer("logits").get_weights())
    x = inputs_of(model)
    same(split(x), model(x))
    same(relevance(split, rule, x), relevance(model, rule, x))


@pytest.mark.parametrize("rule", RULES_FOR_GRAPHS, ids=str)
def test_subclassed_is_functional(rule):
    model = make("subclassed")
    inputs = keras.Input((6,))
    x = model.stem(inputs)
    for step in model.steps:
        x = layers.Add()([layers.ReLU()(step(x)), x])
    functional = keras.Model(inputs, model.head(x))
    x = inputs_of(model)
    same(relevance(functional, rule, x), relevance(model, rule, x))


def test_the_compiled_walk_is_the_eager_one():
    for name in ("cnn", "residual", "operators"):
        model = make(name)
        x = inputs_of(model)
        start = {"neuron_selection": "all"}
        same(create_analyzer("lrp.alpha_2_beta_1", model).analyze(x, **start), relevance(model, AlphaBeta(2, 1), x)[0])


STEPS = "conv", "conv relu", "depthwise", "bn", "relu", "leaky", "max", "average", "residual", "padding", "swap"
ARCHITECTURES = st.tuples(
    st.lists(st.sampled_from(STEPS), min_size=2, max_size=6), st.sampled_from(["flatten", "mean", "max"])
)


def build(steps, end):
    """A small network of these steps, for images of 6 x 6 x 2."""
    x = inputs = keras.Input((6, 6, 2))
    for step in steps:
        if step in ("conv", "conv relu"):
            x = layers.Conv2D(3, 2, padding="same", activation="relu" if "relu" in step else None)(x)
        elif step == "depthwise":
            x = layers.DepthwiseConv2D(2, padding="same")(x)
        elif step == "bn":
            x = layers.BatchNormalization()(x)
        elif step in ("relu", "leaky"):
            x = layers.ReLU(negative_slope=0.2 if step == "leaky" else 0.0)(x)
        elif step in ("max", "average"):
            pool = layers.MaxPooling2D if step == "max" else layers.AveragePooling2D
            x = pool(2, strides=1, padding="same")(x)
        elif step == "residual":
            x = layers.Add()([x, layers.Conv2D(x.shape[-1], 3, padding="same")(layers.ReLU()(x))])
        elif step == "padding":
            x = layers.Cropping2D(((0, 1), (1, 0)))(layers.ZeroPadding2D(((1, 0), (0, 1)))(x))
        elif step == "swap":
            x = layers.Permute((2, 1, 3))(x) * 0.5 + 0.1
    if end == "flatten":
        x = layers.Flatten()(x)
    else:
        x = (layers.GlobalAveragePooling2D if end == "mean" else layers.GlobalMaxPooling2D)()(x)
    return randomized(keras.Model(inputs, layers.Dense(3)(x)), seed=len(steps))


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARCHITECTURES)
def test_random_architectures(architecture):
    model = build(*architecture)
    x = inputs_of(model, batch=2)
    y = np.asarray(model(x))
    same(canonize(model)(x), y, rtol=1e-9)
    same(relevance(model, ZPlus(), x), relevance(model, AlphaBeta(1, 0), x))
    gamma, epsilon = (relevance(model, rule, x, composite=linear) for rule in (Gamma(0), Epsilon()))
    same(gamma, epsilon)
    for rule in (AlphaBeta(2, 1), Gamma(0.25)):
        same(relevance(model, rule, x), relevance(model, rule, x, fast=False))
    x = 1e4 * x
    lrp = relevance(model, Epsilon(0), x)[0]
    same(lrp[:1], relevance(model, Epsilon(0), x[:1])[0])
    same(lrp, x * slope(lambda t: tf.reduce_sum(model(t)), x))
