"""Every rule on every kind of layer against the matrix oracle: the paper's formula on the layer's dense matrix."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from revgraph.canonize import canonize
from revgraph.reverse_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    WSquare,
    Z,
    ZBox,
    ZPlus,
    ZPlusFast,
)
from revgraph.reverse_rules.engine import ReplacementLayer
from revgraph.reverse_rules.innvestigate import as_innvestigate
from tests import oracle

pytestmark = pytest.mark.usefixtures("float64")

BATCH = 2


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of layer: makes it, and its inputs' shapes. `like` makes a layer of equal weights for the oracle."""

    make: Callable
    shapes: tuple[tuple[int, ...], ...]
    like: Callable | None = None


def kind(make, *shapes, like=None, **options):
    return Kind(functools.partial(make, **options), shapes, like and functools.partial(make, **{**options, **like}))


def first(make, shape, **options):
    """A channels-first layer, without a CPU kernel: the oracle calls its channels-last twin."""
    return kind(make, shape, like={"data_format": "channels_last"}, data_format="channels_first", **options)


KINDS = {
    "Dense": kind(layers.Dense, (5,), units=4),
    "Dense without bias": kind(layers.Dense, (5,), units=4, use_bias=False),
    "Dense on a sequence": kind(layers.Dense, (3, 4), units=2),
    "EinsumDense": kind(layers.EinsumDense, (5,), equation="ab,bc->ac", output_shape=4, bias_axes="c"),
    "EinsumDense heads": kind(
        layers.EinsumDense, (3, 4), equation="abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"
    ),
    "EinsumDense without bias": kind(layers.EinsumDense, (3, 4), equation="abc,bd->adc", output_shape=(2, 4)),
    "Conv1D": kind(layers.Conv1D, (6, 2), filters=3, kernel_size=3),
    "Conv1D same strides": kind(layers.Conv1D, (7, 2), filters=3, kernel_size=4, padding="same", strides=2),
    "Conv1D causal dilation": kind(
        layers.Conv1D, (6, 2), filters=3, kernel_size=2, padding="causal", dilation_rate=2, use_bias=False
    ),
    "Conv1D groups": kind(layers.Conv1D, (5, 4), filters=6, kernel_size=3, groups=2),
    "Conv1D channels first": first(layers.Conv1D, (2, 6), filters=3, kernel_size=3, padding="same"),
    "Conv2D": kind(layers.Conv2D, (4, 5, 2), filters=3, kernel_size=(3, 2)),
    "Conv2D same": kind(layers.Conv2D, (4, 5, 2), filters=3, kernel_size=3, padding="same", use_bias=False),
    "Conv2D strides": kind(layers.Conv2D, (5, 6, 2), filters=2, kernel_size=3, padding="same", strides=(2, 3)),
    "Conv2D dilation": kind(layers.Conv2D, (5, 5, 2), filters=2, kernel_size=2, dilation_rate=(2, 1)),
    "Conv2D same dilation": kind(layers.Conv2D, (4, 5, 1), filters=2, kernel_size=3, padding="same", dilation_rate=2),
    "Conv2D groups": kind(layers.Conv2D, (3, 4, 4), filters=6, kernel_size=2, groups=2, strides=2, padding="same"),
    "Conv2D depthwise groups": kind(layers.Conv2D, (4, 4, 3), filters=6, kernel_size=3, groups=3, padding="same"),
    "Conv2D depthwise groups strides": kind(
        layers.Conv2D, (4, 5, 3), filters=3, kernel_size=2, groups=3, strides=(1, 2), use_bias=False
    ),
    "Conv1D depthwise groups": kind(
        layers.Conv1D, (6, 3), filters=6, kernel_size=2, groups=3, padding="causal", dilation_rate=2
    ),
    "Conv2D channels first": first(layers.Conv2D, (2, 4, 5), filters=3, kernel_size=3, strides=2, padding="same"),
    "Conv3D": kind(layers.Conv3D, (3, 4, 3, 2), filters=2, kernel_size=2, padding="same", strides=(1, 2, 1)),
    "Conv3D dilation": kind(layers.Conv3D, (3, 4, 3, 1), filters=2, kernel_size=2, dilation_rate=2),
    "Conv3D groups": kind(layers.Conv3D, (3, 3, 2, 4), filters=4, kernel_size=2, groups=2),
    "Conv3D channels first": first(layers.Conv3D, (2, 3, 3, 3), filters=2, kernel_size=2),
    "Conv1DTranspose": kind(layers.Conv1DTranspose, (4, 3), filters=2, kernel_size=3, strides=2),
    "Conv1DTranspose channels first": first(layers.Conv1DTranspose, (3, 4), filters=2, kernel_size=3, padding="same"),
    "Conv2DTranspose": kind(layers.Conv2DTranspose, (3, 3, 2), filters=3, kernel_size=3, strides=2, padding="same"),
    "Conv2DTranspose output padding": kind(
        layers.Conv2DTranspose, (3, 2, 2), filters=2, kernel_size=3, strides=2, output_padding=1, use_bias=False
    ),
    "Conv2DTranspose channels first": first(layers.Conv2DTranspose, (2, 3, 3), filters=3, kernel_size=2, strides=2),
    "Conv3DTranspose": kind(layers.Conv3DTranspose, (2, 2, 3, 2), filters=2, kernel_size=2, strides=2),
    "DepthwiseConv1D": kind(layers.DepthwiseConv1D, (6, 3), kernel_size=3, depth_multiplier=2, padding="same"),
    "DepthwiseConv1D strides": kind(layers.DepthwiseConv1D, (7, 2), kernel_size=3, strides=2, use_bias=False),
    "DepthwiseConv2D": kind(layers.DepthwiseConv2D, (4, 5, 2), kernel_size=3, padding="same", depth_multiplier=2),
    "DepthwiseConv2D strides": kind(layers.DepthwiseConv2D, (5, 5, 2), kernel_size=2, strides=2),
    "DepthwiseConv2D dilation": kind(layers.DepthwiseConv2D, (5, 5, 2), kernel_size=2, dilation_rate=2),
    "DepthwiseConv2D channels first": first(layers.DepthwiseConv2D, (2, 4, 4), kernel_size=3, padding="same"),
    "AveragePooling1D": kind(layers.AveragePooling1D, (6, 2), pool_size=3, strides=2),
    "AveragePooling1D same": kind(layers.AveragePooling1D, (5, 2), pool_size=3, strides=2, padding="same"),
    "AveragePooling2D": kind(layers.AveragePooling2D, (4, 5, 2), pool_size=2),
    "AveragePooling2D same": kind(layers.AveragePooling2D, (4, 5, 2), pool_size=(3, 2), strides=2, padding="same"),
    "AveragePooling2D overlapping": kind(layers.AveragePooling2D, (4, 4, 2), pool_size=3, strides=1, padding="same"),
    "AveragePooling2D channels first": first(layers.AveragePooling2D, (2, 4, 5), pool_size=3, padding="same"),
    "AveragePooling3D": kind(layers.AveragePooling3D, (3, 4, 3, 2), pool_size=2, padding="same"),
    "AveragePooling3D channels first": first(layers.AveragePooling3D, (2, 3, 4, 3), pool_size=(2, 2, 1)),
    "GlobalAveragePooling1D": kind(layers.GlobalAveragePooling1D, (5, 3)),
    "GlobalAveragePooling2D": kind(layers.GlobalAveragePooling2D, (3, 4, 2), keepdims=True),
    "GlobalAveragePooling2D channels first": first(layers.GlobalAveragePooling2D, (2, 3, 4)),
    "GlobalAveragePooling3D": kind(layers.GlobalAveragePooling3D, (2, 3, 2, 2)),
    "Add": kind(layers.Add, (4, 2), (4, 2), (4, 2)),
    "Add with broadcasting": kind(layers.Add, (4, 3), (1, 3)),
    "Subtract": kind(layers.Subtract, (6,), (6,)),
    "Average": kind(layers.Average, (6,), (6,), (6,)),
}

LOW, HIGH = -3.3, 4.1

RULES = {
    "Z": (Z(), oracle.lrp_0),
    "Z without bias": (Z(bias=False), functools.partial(oracle.lrp_0, bias=False)),
    "Z exact": (Z(epsilon=0), functools.partial(oracle.lrp_0, epsilon=0)),
    "Epsilon": (Epsilon(0.1), functools.partial(oracle.lrp_epsilon, epsilon=0.1)),
    "Epsilon without bias": (Epsilon(0.1, bias=False), functools.partial(oracle.lrp_epsilon, bias=False, epsilon=0.1)),
    "ZPlus": (ZPlus(), oracle.z_plus),
    "ZPlus without bias": (ZPlus(bias=False, epsilon=0.1), functools.partial(oracle.z_plus, bias=False, epsilon=0.1)),
    "ZPlusFast": (ZPlusFast(), oracle.z_plus_fast),
    "AlphaBeta 1 0": (AlphaBeta(1, 0), functools.partial(oracle.alpha_beta, alpha=1, beta=0)),
    "AlphaBeta 2 1": (AlphaBeta(2, 1), functools.partial(oracle.alpha_beta, alpha=2, beta=1)),
    "AlphaBeta 3 2": (
        AlphaBeta(beta=2, epsilon=0.1),
        functools.partial(oracle.alpha_beta, alpha=3, beta=2, epsilon=0.1),
    ),
    "AlphaBeta without bias": (
        AlphaBeta(2, 1, bias=False),
        functools.partial(oracle.alpha_beta, alpha=2, beta=1, bias=False),
    ),
    "AlphaBeta rare neurons": (
        AlphaBeta(1.5, 0.5, bias=False, rare_neurons=True),
        functools.partial(oracle.alpha_beta, alpha=1.5, beta=0.5, bias=False, rare_neurons=True),
    ),
    "Gamma": (Gamma(0.25), functools.partial(oracle.gamma, gamma=0.25)),
    "Gamma without bias": (Gamma(2, bias=False), functools.partial(oracle.gamma, gamma=2, bias=False)),
    "Gamma simple": (
        Gamma(0.5, generalized=False),
        functools.partial(oracle.gamma, gamma=0.5, generalized=False),
    ),
    "Gamma simple without bias": (
        Gamma(0.5, generalized=False, bias=False),
        functools.partial(oracle.gamma, gamma=0.5, generalized=False, bias=False),
    ),
    "ZBox": (ZBox(LOW, HIGH), functools.partial(oracle.z_box, low=LOW, high=HIGH)),
    "WSquare": (WSquare(), oracle.w_square),
    "Flat": (Flat(), oracle.flat_rule),
    "Flat epsilon": (Flat(epsilon=0.1), functools.partial(oracle.flat_rule, epsilon=0.1)),
    "Norm": (Norm(), oracle.lrp_0),
    "iNNvestigate Z": (as_innvestigate(Z()), oracle.innvestigate_z),
    "iNNvestigate ZPlus": (
        as_innvestigate(ZPlus()),
        functools.partial(oracle.innvestigate_alpha_beta, alpha=1, beta=0, bias=False),
    ),
    "iNNvestigate ZPlusFast": (as_innvestigate(ZPlusFast()), oracle.innvestigate_z_plus_fast),
    "iNNvestigate AlphaBeta 1 0": (
        as_innvestigate(AlphaBeta(1, 0)),
        functools.partial(oracle.innvestigate_alpha_beta, alpha=1, beta=0),
    ),
    "iNNvestigate AlphaBeta 2 1": (
        as_innvestigate(AlphaBeta(2, 1)),
        functools.partial(oracle.innvestigate_alpha_beta, alpha=2, beta=1),
    ),
    "iNNvestigate AlphaBeta without bias": (
        as_innvestigate(AlphaBeta(2, 1, bias=False)),
        functools.partial(oracle.innvestigate_alpha_beta, alpha=2, beta=1, bias=False),
    ),
    "iNNvestigate Bounded": (
        as_innvestigate(ZBox(LOW, HIGH)),
        functools.partial(oracle.innvestigate_bounded, low=LOW, high=HIGH),
    ),
    "iNNvestigate WSquare": (as_innvestigate(WSquare()), oracle.innvestigate_w_square),
    "iNNvestigate Flat": (as_innvestigate(Flat()), oracle.innvestigate_flat),
}


def random_weights(layer, rng):
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def channels_first(x):
    return np.moveaxis(x, -1, 1)


@dataclasses.dataclass(frozen=True)
class Example:
    """A layer with its matrix, inputs, and the relevance of its output."""

    site: object
    layer: keras.Layer
    W: np.ndarray
    b: np.ndarray
    x: list[np.ndarray]
    y: np.ndarray
    R: np.ndarray

    @property
    def x_flat(self):
        return np.concatenate([oracle.flat(x) for x in self.x], axis=1)

    def check(self, rule, formula):
        outputs, pullback = ReplacementLayer(self.site, rule, "float64")(*self.x)
        np.testing.assert_allclose(outputs[0], self.y, rtol=1e-12, atol=1e-12)
        relevance = np.concatenate([oracle.flat(r) for r in pullback(self.R)], axis=1)
        expected = formula(self.W, self.b, self.x_flat, oracle.flat(self.R))
        np.testing.assert_allclose(relevance, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())


@functools.cache
def example(name):
    rng = np.random.default_rng(0)
    kind = KINDS[name]
    inputs = [keras.Input(shape) for shape in kind.shapes]
    layer = kind.make()
    outputs = layer(inputs if len(inputs) > 1 else inputs[0])
    random_weights(layer, rng)
    (site,) = canonize(keras.Model(inputs, outputs)).sites
    x = [rng.normal(size=(BATCH, *shape)) for shape in kind.shapes]
    if kind.like is None:
        W, b = oracle.matrix(lambda parts: _call(layer, parts), kind.shapes)
        y = _call(layer, x)
    else:
        twin = kind.like()
        twin.build((None, *channels_last(x[0]).shape[1:]))
        twin.set_weights(layer.get_weights())

        def through_twin(parts):
            y = _call(twin, [channels_last(parts[0])])
            return channels_first(y) if y.ndim > 2 else y

        W, b = oracle.matrix(through_twin, kind.shapes)
        y = through_twin(x)
    return Example(site, layer, W, b, x, y, rng.normal(size=y.shape))


def _call(layer, parts):
    """Calls a Keras layer; 3D average pooling, which has no float64 kernel, by counting out its windows."""
    parts = [np.asarray(part) for part in parts]
    if isinstance(layer, layers.AveragePooling3D):
        return oracle.average_pooling(parts[0], layer.pool_size, layer.strides, layer.padding)
    return np.asarray(layer(parts if len(parts) > 1 else parts[0]))


EVERY_RULE = (
    "Dense", "EinsumDense heads", "Conv1D causal dilation", "Conv2D", "Conv2D strides", "Conv2D groups", "Conv3D",
    "Conv2DTranspose", "DepthwiseConv2D", "AveragePooling2D same", "GlobalAveragePooling2D", "Add", "Subtract",
)  # fmt: skip
GEOMETRY = ("Z", "ZPlus", "AlphaBeta 2 1", "Gamma", "ZBox", "WSquare", "Flat", "iNNvestigate AlphaBeta 2 1")


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("name", "rule"), [(name, rule) for name in KINDS for rule in (RULES if name in EVERY_RULE else GEOMETRY)]
)
def test_rule_on_layer(name, rule):
    example(name).check(*RULES[rule])


@pytest.mark.parametrize("rule", GEOMETRY)
@pytest.mark.parametrize(
    ("make", "depthwise", "shape", "options"),
    [
        (layers.SeparableConv1D, layers.DepthwiseConv1D, (6, 2), {"strides": 2, "padding": "same"}),
        (layers.SeparableConv2D, layers.DepthwiseConv2D, (5, 4, 2), {"depth_multiplier": 2}),
    ],
    ids=["1D", "2D"],
)
def test_rule_on_separable_convolution(make, depthwise, shape, options, rule, rng):
    """The rule walks back through the pointwise convolution, then through the depthwise one."""
    inputs = keras.Input(shape)
    layer = make(3, 3, **options)
    model = keras.Model(inputs, layer(inputs))
    random_weights(layer, rng)
    first_kernel, second_kernel, bias = layer.get_weights()
    one = depthwise(3, use_bias=False, **options)
    one.build((None, *shape))
    one.set_weights([first_kernel])

    x = rng.normal(size=(BATCH, *shape))
    middle = np.asarray(one(x))
    R = rng.normal(size=(*middle.shape[:-1], 3))
    rule, formula = RULES[rule]
    W, b = oracle.matrix(lambda parts: one(parts[0]), [shape])
    kernel = np.kron(np.eye(middle[0, ..., 0].size), second_kernel.reshape(-1, 3))
    expected = formula(kernel, np.tile(bias, middle[0, ..., 0].size), oracle.flat(middle), oracle.flat(R))
    expected = formula(W, b, oracle.flat(x), expected)

    pullbacks, z = [], x
    for site in canonize(model).sites:
        (z,), pullback = ReplacementLayer(site, rule, "float64")(z)
        pullbacks.append(pullback)
    np.testing.assert_allclose(z, model(x), rtol=1e-12, atol=1e-12)
    for pullback in reversed(pullbacks):
        (R,) = pullback(R)
    np.testing.assert_allclose(oracle.flat(R), expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["Conv2D same", "Conv2D channels first", "DepthwiseConv2D"])
def test_box_with_bounds_per_channel(name):
    """Bounds per channel broadcast against the input; there is no bound in the padding."""
    case = example(name)
    (x,) = case.x
    axes = (0, 2, 3) if "first" in name else (0, 1, 2)
    low, high = x.min(axes, keepdims=True)[0] - 0.3, x.max(axes, keepdims=True)[0] + 0.2
    every = [oracle.flat(np.broadcast_to(bound, x.shape)) for bound in (low, high)]
    case.check(ZBox(low, high), functools.partial(oracle.z_box, low=every[0], high=every[1]))


def test_average_pooling_stays_in_its_channel():
    """Flat shares out equally within the window, and to no other channel; elements of the padding take no share."""
    pool = layers.AveragePooling1D(2, padding="same")
    inputs = keras.Input((3, 2))
    (site,) = canonize(keras.Model(inputs, pool(inputs))).sites
    _, pullback = ReplacementLayer(site, Flat(epsilon=0), "float64")(np.full((1, 3, 2), 7.0))
    (relevance,) = pullback(np.array([[[2.0, 0.0], [3.0, 0.0]]]))
    np.testing.assert_allclose(relevance, [[[1, 0], [1, 0], [3, 0]]])


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([1.0, 2.0], [18.0, -6.0]),  # both: 1.5 * 12 through P, -0.5 * 12 through N
        ([1.0, 0.0], [12.0, 0.0]),  # only P: all of it, once
        ([0.0, 2.0], [0.0, 12.0]),  # only N: all of it, once
        ([0.0, 0.0], [0.0, 0.0]),  # neither: lost
    ],
)
def test_rare_neurons_pass_their_relevance_once(x, expected):
    layer = layers.Dense(1, use_bias=False)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([[1.0], [-2.0]])])
    rule = AlphaBeta(1.5, 0.5, bias=False, rare_neurons=True, epsilon=0)
    _, pullback = ReplacementLayer(canonize(model).sites[0], rule, "float64")(np.array([x]))
    np.testing.assert_allclose(pullback(np.array([[12.0]]))[0], [expected])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: AlphaBeta(2, 2), r"AlphaBeta: alpha - beta must be 1 .*Received: alpha=2, beta=2"),
        (lambda: AlphaBeta(0.5, -0.5), r"alpha >= 1 and beta >= 0.*alpha=0.5"),
        (lambda: AlphaBeta(alpha=float("nan")), "alpha - beta"),
        (lambda: Epsilon(-1), r"Epsilon: epsilon must be a number >= 0. Received: -1"),
        (lambda: Z(epsilon=float("nan")), "Z: epsilon must be a number >= 0"),
        (lambda: Gamma(-0.25), r"Gamma: gamma must be a number >= 0. Received: -0.25"),
        (lambda: ZBox(1, 0), r"ZBox: .*low must not exceed high. Received: low=1, high=0"),
        (lambda: ZBox([0, 2], [1, 1]), "low must not exceed high"),
    ],
)
def test_illegal_parameters(rule, message):
    with pytest.raises(ValueError, match=message):
        rule()


@pytest.mark.parametrize(
    ("given", "alpha", "beta"), [({}, 2, 1), ({"alpha": 3}, 3, 2), ({"beta": 0.5}, 1.5, 0.5), ({"alpha": 1}, 1, 0)]
)
def test_alpha_or_beta_is_inferred(given, alpha, beta):
    rule = AlphaBeta(**given)
    assert (rule.alpha, rule.beta) == (alpha, beta)


def test_rules_are_values():
    assert AlphaBeta(2, 1) == AlphaBeta() and hash(AlphaBeta(2, 1)) == hash(AlphaBeta())
    assert Epsilon(0.1) != Epsilon(0.2) and as_innvestigate(Z()) != Z()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Epsilon().epsilon = 1.0
    assert str(Epsilon(0.25, bias=False)) == "Epsilon(epsilon=0.25, bias=False)"
