"""TensorWatch's e-rule and b-rule against their formulas on the dense matrix of each layer, written in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.reverse_rules import BRule, ERule
from tests.oracle import flat, matrix

pytestmark = pytest.mark.usefixtures("float64")

CASES = {
    "dense": (lambda: layers.Dense(4), (5,)),
    "conv1d dilated": (lambda: layers.Conv1D(3, 3, dilation_rate=2), (8, 2)),
    "conv1d causal": (lambda: layers.Conv1D(3, 3, padding="causal"), (6, 2)),
    "conv2d strided": (lambda: layers.Conv2D(3, 3, strides=2, padding="same"), (6, 5, 2)),
    "conv2d grouped": (lambda: layers.Conv2D(4, 2, groups=2), (4, 4, 4)),
    "conv3d": (lambda: layers.Conv3D(2, 2, strides=2), (4, 4, 4, 2)),
}


def e_rule(W, x, R, p, epsilon):
    c = x[:, :, None] ** p * W[None] ** p
    z = c.sum(axis=1)
    s = np.divide(R, z + epsilon * np.sign(z), out=np.zeros_like(R), where=z != 0)
    return np.einsum("njk,nk->nj", c, s)


def b_rule(W, x, R, beta, epsilon, rare_neurons=True):
    c = x[:, :, None] * W[None]
    gain, loss = np.maximum(c, 0), np.minimum(c, 0)
    P, N = gain.sum(axis=1), loss.sum(axis=1)
    a, b = np.full(R.shape, 1 + beta), np.full(R.shape, -beta)
    if rare_neurons:
        a = np.where((N == 0) & (a != 0), 1, a)
        b = np.where((P == 0) & (b != 0), 1, b)
    s = np.divide(a * R, P + epsilon, out=np.zeros_like(R), where=P != 0)
    t = np.divide(b * R, N - epsilon, out=np.zeros_like(R), where=N != 0)
    return np.einsum("njk,nk->nj", gain, s) + np.einsum("njk,nk->nj", loss, t)


def single(case, rng):
    """A model of one layer with a bias, its matrix, and inputs."""
    make, shape = CASES[case]
    model = keras.Sequential([layers.Input(shape), make(), layers.Flatten()])
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model, *matrix(lambda x: model(x[0]), [shape]), rng.normal(size=(3, *shape))


@pytest.mark.parametrize("exponent", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_e_rule(case, exponent, rng):
    model, W, _, x = single(case, rng)
    analyzer = revgraph.create_analyzer("lrp.e_rule", model, exponent=exponent, epsilon=1e-3)
    relevance = analyzer.analyze(x, neuron_selection="all")
    np.testing.assert_allclose(flat(relevance), e_rule(W, flat(x), model(x).numpy(), exponent, 1e-3), atol=1e-10)


@pytest.mark.parametrize("rare_neurons", [True, False])
@pytest.mark.parametrize("beta", [0.5, 0.0, -1.0, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_b_rule(case, beta, rare_neurons, rng):
    model, W, _, x = single(case, rng)
    analyzer = revgraph.create_analyzer("lrp.b_rule", model, beta=beta, rare_neurons=rare_neurons)
    relevance = analyzer.analyze(x, neuron_selection="all")
    expected = b_rule(W, flat(x), model(x).numpy(), beta, 1e-6, rare_neurons)
    np.testing.assert_allclose(flat(relevance), expected, atol=1e-10)


def dense(W):
    """A model of one dense layer whose bias gives both units a value of their own."""
    model = keras.Sequential([layers.Input((len(W),)), layers.Dense(len(W[0]))])
    model.set_weights([np.array(W, "float64"), np.full(len(W[0]), 5.0)])
    return model


@pytest.mark.parametrize(
    "beta, W, expected",
    [
        # A unit with a positive part only passes all of its relevance (1 + 3 + bias 5 = 9) through that part.
        (0.5, [[1], [3]], [9 / 4, 27 / 4]),
        # One with a negative part only (-4 + 5 = 1) likewise.
        (0.5, [[-1], [-3]], [1 / 4, 3 / 4]),
        # With beta 0 the negative part weighs nothing, so that it is lost; with beta -1 the positive one.
        (0.0, [[-1], [-3]], [0, 0]),
        (-1.0, [[1], [3]], [0, 0]),
        # Neither part: lost.
        (0.5, [[0], [0]], [0, 0]),
        # Both parts: 1.5 and -0.5 of 1 - 3 + 5 = 3.
        (0.5, [[1], [-3]], [4.5, -1.5]),
    ],
)
def test_rare_neurons(beta, W, expected):
    relevance = revgraph.create_analyzer("lrp.b_rule", dense(W), beta=beta).analyze(np.ones((1, 2)), 0)
    np.testing.assert_allclose(relevance, [expected], atol=1e-5)


def test_a_unit_at_zero_drops_its_relevance():
    # x W = 0, and the bias alone makes the output 5.
    relevance = revgraph.create_analyzer("lrp.e_rule", dense([[1], [-1]])).analyze(np.ones((1, 2)), 0)
    np.testing.assert_array_equal(relevance, [[0, 0]])


@pytest.mark.parametrize("name", ["lrp.e_rule", "lrp.b_rule"])
def test_relevance_sums_to_the_logit_and_batch_normalization_passes_it(name, rng):
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, use_bias=False),
        ]
    )
    for weight in model.weights:
        weight.assign(rng.random(weight.shape) + 0.5)
    x = rng.random((2, 6, 6, 2))
    analyzer = revgraph.create_analyzer(name, model)
    relevance = analyzer.analyze(x)
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), model(x).numpy().max(axis=1), rtol=1e-4)
    rules = {bound.site.path: str(bound.rule) for bound in analyzer.composite.bind(analyzer.graph)}
    assert rules["norm"] == "Pass()"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ERule(exponent=0), r"exponent must be a whole number from 1.*Received: 0"),
        (lambda: ERule(exponent=0.5), r"exponent must be a whole number"),
        (lambda: ERule(epsilon=-1), r"epsilon must be a number >= 0"),
        (lambda: BRule(beta="half"), r"beta must be a number. Received: 'half'"),
    ],
)
def test_illegal_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
