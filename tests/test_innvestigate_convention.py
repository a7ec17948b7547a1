"""`convention="innvestigate"`: the numbers of iNNvestigate 2.1.2, layer by layer on dense matrices."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from tests import oracle
from tests.oracle import flat, matrix

pytestmark = pytest.mark.usefixtures("float64")


def analyze(name, model, x, selection=None, **options):
    return revgraph.create_analyzer(name, model, convention="innvestigate", **options).analyze(x, selection)


def dense(W, b):
    """A model of one dense layer; W has one row per output."""
    model = keras.Sequential([layers.Input((len(W[0]),)), layers.Dense(len(W))])
    model.set_weights([np.array(W, float).T, np.array(b, float)])
    return model


def test_the_bias_is_whole_in_both_denominators():
    model = dense([[1, -3, 2], [-2, 0.5, 1]], [-2, 1.5])
    x = np.array([[1.0, 2.0, 3.0]])
    found = analyze("lrp.alpha_2_beta_1", model, x)
    np.testing.assert_allclose(found, [[-14, 1.273, 3.818]], atol=5e-4)
    paper = revgraph.create_analyzer("lrp.alpha_2_beta_1", model).analyze(x)
    np.testing.assert_allclose(paper, [[-3.5, 1.273, 3.818]], atol=5e-4)


@pytest.mark.filterwarnings("ignore:Relevance explodes")
def test_only_exact_zeros_are_stabilised():
    # z+ = 1 and b = -1: the denominator of the positive part is 0, and R / 1e-7 is what comes out.
    model = dense([[1, -1]], [-1])
    x = np.ones((1, 2))
    np.testing.assert_allclose(analyze("lrp.alpha_1_beta_0", model, x, "all"), [[-1e7, 0]])
    np.testing.assert_allclose(revgraph.create_analyzer("lrp.alpha_1_beta_0", model).analyze(x, "all"), [[-1, 0]])


def network(rng):
    """Two branches that meet, with every kind of layer that the convention speaks of."""
    image = layers.Input((6, 6, 2))
    h = layers.Conv2D(3, 3, activation="relu", name="first")(image)
    left = layers.LeakyReLU(negative_slope=0.3, name="leaky")(layers.Conv2D(3, 3, padding="same", name="left")(h))
    h = layers.Add(name="add")([h, left])
    h = layers.AveragePooling2D(2, name="pool")(h)
    h = layers.Average(name="average")([h, layers.Activation("tanh", name="act")(h)])
    h = layers.Flatten(name="flat")(h)
    h = layers.ReLU(name="relu")(layers.Dense(5, name="hidden")(h))
    model = keras.Model(image, layers.Dense(3, name="logits")(h))
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


class Reference:
    """Relevance of `network`, written down by hand from iNNvestigate's rules."""

    def __init__(self, model, x, kernel_rules, deep_taylor=False):
        names = ("first", "left", "leaky", "add", "pool", "act", "average", "flat", "hidden", "relu", "logits")
        tensors = keras.Model(model.input, [model.get_layer(name).output for name in names])(x)
        self.t = dict(zip(names, (np.asarray(t) for t in tensors), strict=True))
        self.model, self.x, self.rules, self.deep_taylor = model, x, kernel_rules, deep_taylor

    def kernel(self, name, x, R):
        layer = self.model.get_layer(name)
        activation, layer.activation = layer.activation, keras.activations.linear
        W, b = matrix(lambda t: layer(t[0]), [x.shape[1:]])
        layer.activation = activation
        return self.rules[name](W, b, flat(x), flat(R)).reshape(x.shape)

    def shared(self, parts, R):
        """The Z rule on a sum."""
        z = sum(parts)
        s = oracle.safe_divide_zeros(R, z)
        return [part * s for part in parts]

    def pooled(self, x, R):
        """The Z rule on 2 x 2 average pooling, or its transposed Jacobian."""
        up = np.repeat(np.repeat(R, 2, axis=1), 2, axis=2) / 4
        if self.deep_taylor:
            return up
        z = x.reshape(len(x), 2, 2, 2, 2, 3).mean(axis=(2, 4))
        return x * np.repeat(np.repeat(oracle.safe_divide_zeros(R, z), 2, axis=1), 2, axis=2) / 4

    def relevance(self):
        t, logits = self.t, self.t["logits"]
        R = logits * (logits == logits.max(axis=1, keepdims=True))
        if self.deep_taylor:
            R = np.maximum(R, 0)
        R = self.kernel("logits", t["relu"], R)
        R = R * (t["hidden"] > 0)
        R = self.kernel("hidden", t["flat"], R).reshape(t["average"].shape) / 2
        R = R + (R * (1 - t["act"] ** 2) if self.deep_taylor else R)
        R = self.pooled(t["add"], R)
        direct, branch = (R, R) if self.deep_taylor else self.shared([t["first"], t["leaky"]], R)
        branch = branch * np.where(t["left"] >= 0, 1, 0.3)
        R = direct + self.kernel("left", t["first"], branch)
        return self.kernel("first", self.x, R)


def alpha_beta(alpha, beta, bias=True):
    return lambda W, b, x, R: oracle.innvestigate_alpha_beta(W, b, x, R, alpha, beta, bias)


def epsilon(value):
    return lambda W, b, x, R: oracle.lrp_epsilon(W, b, x, R, epsilon=value)


def everywhere(rule, **others):
    return {**dict.fromkeys(("first", "left", "hidden", "logits"), rule), **others}


def preset(alpha, beta, **others):
    convolutions = dict.fromkeys(("first", "left"), alpha_beta(alpha, beta))
    return {**everywhere(epsilon(0.1)), **convolutions, **others}


CASES = {
    "lrp.z": (everywhere(oracle.innvestigate_z), {}),
    "lrp.epsilon": (everywhere(epsilon(1e-7)), {}),
    "lrp.w_square": (everywhere(oracle.innvestigate_w_square), {}),
    "lrp.flat": (everywhere(oracle.innvestigate_flat), {}),
    "lrp.alpha_beta": (everywhere(alpha_beta(3, 2)), {"alpha": 3, "beta": 2}),
    "lrp.alpha_2_beta_1": (everywhere(alpha_beta(2, 1)), {}),
    "lrp.alpha_2_beta_1_IB": (everywhere(alpha_beta(2, 1, False)), {}),
    "lrp.alpha_1_beta_0": (everywhere(alpha_beta(1, 0)), {}),
    "lrp.alpha_1_beta_0_IB": (everywhere(alpha_beta(1, 0, False)), {}),
    "lrp.z_plus": (everywhere(alpha_beta(1, 0, False)), {}),
    "lrp.z_plus_fast": (everywhere(oracle.innvestigate_z_plus_fast), {}),
    "lrp.sequential_preset_a": (preset(1, 0), {}),
    "lrp.sequential_preset_b": (preset(2, 1), {}),
    "lrp.sequential_preset_a_flat": (preset(1, 0, first=oracle.innvestigate_flat), {}),
    "lrp.sequential_preset_b_flat": (preset(2, 1, first=oracle.innvestigate_flat), {}),
    "lrp.sequential_preset_b_flat_until_idx": (
        preset(2, 1, first=oracle.innvestigate_flat, left=oracle.innvestigate_flat),
        {"until_layer_idx": 2},
    ),
    "deep_taylor": (everywhere(alpha_beta(1, 0, False)), {}),
    "deep_taylor.bounded": (
        everywhere(
            alpha_beta(1, 0, False), first=lambda W, b, x, R: oracle.innvestigate_bounded(W, b, x, R, -4.0, 5.0)
        ),
        {"low": -4, "high": 5},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Relevance explodes")
def test_networks(name, rng):
    model, x = network(rng), rng.normal(size=(2, 6, 6, 2))
    rules, options = CASES[name]
    expected = Reference(model, x, rules, deep_taylor=name.startswith("deep_taylor")).relevance()
    assert model.layers[2].name == "left"
    found = analyze(name, model, x, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def test_deep_taylor_explains_no_negative_output(rng):
    model = dense([[1, 2]], [-10])
    np.testing.assert_array_equal(analyze("deep_taylor", model, np.ones((1, 2))), 0)


@pytest.mark.parametrize(
    "before, is_first",
    [
        (lambda: layers.Reshape((4, 4, 1)), True),
        (lambda: layers.Permute((2, 1, 3)), True),
        (lambda: layers.ZeroPadding2D(1), False),
        (lambda: layers.Rescaling(0.5), False),
        (lambda: layers.Activation("relu"), False),
    ],
)
def test_the_first_layer_is_seen_through_reshapes_only(before, is_first):
    shape = (16,) if isinstance(before(), layers.Reshape) else (4, 4, 1)
    model = keras.Sequential([layers.Input(shape), before(), layers.Conv2D(2, 2, name="conv"), layers.Flatten()])
    analyzer = revgraph.create_analyzer("lrp.sequential_preset_a_flat", model, convention="innvestigate")
    rules = {bound.site.path: type(bound.rule).__name__ for bound in analyzer.composite.bind(analyzer.graph)}
    assert (rules["conv"] == "InnvestigateFlat") is is_first


def test_a_nested_relu_layer_takes_the_gradient(rng):
    inner = keras.Sequential([layers.Input((4,)), layers.ReLU(name="relu")], name="inner")
    model = keras.Sequential([layers.Input((4,)), inner, layers.Dense(2, use_bias=False)])
    x = rng.normal(size=(3, 4))
    found = analyze("lrp.z", model, x)
    assert np.all(found[x < 0] == 0) and np.any(found)


def test_a_separable_convolution_is_one_site(rng):
    model = keras.Sequential([layers.Input((5, 5, 2)), layers.SeparableConv2D(3, 2, name="conv"), layers.Flatten()])
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    x = rng.normal(size=(2, 5, 5, 2))
    W, b = matrix(lambda t: model(t[0]), [(5, 5, 2)])
    expected = oracle.innvestigate_z(W, b, flat(x), model(x).numpy())
    np.testing.assert_allclose(flat(analyze("lrp.z", model, x, "all")), expected, rtol=1e-9)
    summary = revgraph.create_analyzer("lrp.z", model, convention="innvestigate").summary()
    assert "conv/depthwise" not in summary


def test_where_relevance_starts(rng):
    model = dense([[2, 1], [2, 1], [0, -1]], [0, 0, 1])
    x = np.array([[1.0, 3.0]])
    # Two equal maxima of 5 share equally; all logits are 5, 5 and -2; the gradient starts from ones.
    np.testing.assert_allclose(analyze("lrp.z", model, x).sum(), 5)
    np.testing.assert_allclose(analyze("gradient", model, x), [[2, 1]])
    np.testing.assert_allclose(analyze("gradient", model, x, "all"), [[4, 1]])
    for name in ("deconvnet", "guided_backprop"):
        np.testing.assert_allclose(analyze(name, model, x), [[10, 5]])
        np.testing.assert_allclose(revgraph.create_analyzer(name, model).analyze(x), [[2, 1]])


def test_integrated_gradients_and_smoothgrad(rng):
    model, x = network(rng), rng.normal(size=(2, 6, 6, 2))
    gradient = revgraph.create_analyzer("gradient", model)
    neuron = model(x).numpy().argmax(axis=1)
    points = [gradient.analyze(x * k / 64, neuron) for k in range(64)]
    np.testing.assert_allclose(analyze("integrated_gradients", model, x), x * np.mean(points, axis=0))
    noise = np.random.default_rng(3).normal(0, 1, (64, *x.shape))
    expected = np.mean([gradient.analyze(x + n, neuron) for n in noise], axis=0)
    np.testing.assert_allclose(analyze("smoothgrad", model, x, seed=3), expected)


@pytest.mark.parametrize("name", ["lrp.z", "deep_taylor"])
def test_an_unknown_convention(name):
    with pytest.raises(ValueError, match='convention is "paper" or "innvestigate". Received: \'captum\''):
        revgraph.create_analyzer(name, dense([[1, 2]], [0]), convention="captum")
