"""PatternNet and PatternAttribution: the estimators written in NumPy on the patches that each output sees."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph

pytestmark = pytest.mark.usefixtures("float64")

REGIMES = {"relu": lambda z: z > 0, "relu.negative": lambda z: z <= 0, "linear": lambda z: np.full(z.shape, True)}


def pattern(X, W, b, regime):
    """a = (E+[x y] - E+[x] E[y]) / (w^T (E+[x y] - E+[x] E[y])) for X (samples, inputs), W (inputs, outputs)."""
    y = X @ W
    a = np.zeros_like(W)
    for k in range(W.shape[1]):
        part = regime(y[:, k] + b[k])
        if not part.any():
            continue
        covariance = (X[part] * y[part, k : k + 1]).mean(axis=0) - X[part].mean(axis=0) * y[:, k].mean()
        a[:, k] = covariance / (W[:, k] @ covariance)
    return a


def dense_model(rng):
    model = keras.Sequential([layers.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(3)])
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def data(rng, n=150):
    return rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)


@pytest.mark.parametrize("kind", REGIMES)
def test_patterns_of_dense_layers(kind, rng):
    model, X = dense_model(rng), data(rng)
    analyzer = revgraph.create_analyzer("pattern.net", model, pattern_type=kind).fit(X, batch_size=40)
    W1, b1, W2, b2 = model.get_weights()
    hidden = np.maximum(X @ W1 + b1, 0)
    np.testing.assert_allclose(analyzer.patterns[0], pattern(X, W1, b1, REGIMES[kind]))
    np.testing.assert_allclose(analyzer.patterns[1], pattern(hidden, W2, b2, REGIMES[kind]))


def test_the_way_back(rng):
    model, X = dense_model(rng), data(rng)
    analyzer = revgraph.create_analyzer("pattern.net", model).fit(X)
    A1, A2 = analyzer.patterns
    W1, b1, W2, b2 = model.get_weights()
    x = X[:4]
    z = x @ W1 + b1
    R = np.zeros((4, 3))
    R[:, 1] = (np.maximum(z, 0) @ W2 + b2)[:, 1]
    np.testing.assert_allclose(analyzer.analyze(x, 1), ((R @ A2.T) * (z > 0)) @ A1.T)
    attribution = revgraph.create_analyzer("pattern.attribution", model, patterns=analyzer.patterns)
    np.testing.assert_allclose(attribution.analyze(x, 1), ((R @ (A2 * W2).T) * (z > 0)) @ (A1 * W1).T)


def test_a_signal_that_hides_behind_a_distractor():
    # x = s (1, 0) + d (1, 1) with y = s, the example of the paper: w = (1, -1), and the pattern is the signal (1, 0).
    rng = np.random.default_rng(1)
    s, d = rng.normal(size=(2, 20000))
    X = s[:, None] * [1.0, 0.0] + d[:, None] * [1.0, 1.0]
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [-1.0]])])
    analyzer = revgraph.create_analyzer("pattern.net", model, pattern_type="linear").fit(X, batch_size=4096)
    np.testing.assert_allclose(analyzer.patterns[0], [[1], [0]], atol=0.03)


@pytest.mark.parametrize(
    "make, rows",
    [
        (lambda: layers.Conv2D(3, (2, 3), strides=2, activation="relu"), (2, 3)),
        (lambda: layers.Conv2D(3, 3, padding="same", activation="relu"), (3, 3)),
        (lambda: layers.Conv2D(3, 2, dilation_rate=2, activation="relu"), (2, 2)),
    ],
)
def test_patterns_of_convolutions(make, rows, rng):
    model = keras.Sequential([layers.Input((6, 6, 2)), make()])
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    X = rng.normal(size=(20, 6, 6, 2)) + 0.5
    analyzer = revgraph.create_analyzer("pattern.attribution", model).fit(X, batch_size=8)
    layer = model.layers[0]
    patches = tf.image.extract_patches(
        X, (1, *rows, 1), (1, *layer.strides, 1), (1, *layer.dilation_rate, 1), layer.padding.upper()
    ).numpy()
    kernel, bias = layer.get_weights()
    expected = pattern(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, 3), bias, REGIMES["relu"])
    np.testing.assert_allclose(analyzer.patterns[0], expected.reshape(kernel.shape))


@pytest.mark.parametrize("kind", ["depthwise", "transposed", "grouped", "separable"])
def test_patterns_of_other_convolutions_give_back_the_output(kind, rng):
    # By its definition w^T a = 1: the signal of one linear layer, seen through its weights again, is its output.
    layer = {
        "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        "transposed": lambda: layers.Conv2DTranspose(3, 2, strides=2),
        "grouped": lambda: layers.Conv2D(4, 3, groups=2),
        "separable": lambda: layers.SeparableConv2D(4, 3),
    }[kind]()
    model = keras.Sequential([layers.Input((6, 6, 2)), layer, layers.BatchNormalization(), layers.ReLU()])
    for weight in model.weights:
        weight.assign(np.abs(rng.normal(size=weight.shape)))
    X = rng.normal(size=(10, 6, 6, 2))
    analyzer = revgraph.create_analyzer("pattern.net", model, pattern_type="linear").fit(X)
    assert len(analyzer.patterns) == (2 if kind == "separable" else 1)
    sites = [s for s in analyzer.graph.sites if "kernel" in s.operation.read("float64")]
    for site, found in zip(sites, analyzer.patterns, strict=True):
        kernel = site.operation.read("float64")["kernel"].numpy()
        axes = {"depthwise": (0, 1), "transposed": (0, 1, 3)}.get(kind, (0, 1, 2))
        axes = (0, 1) if site.path.endswith("/depthwise") else axes
        np.testing.assert_allclose((kernel * found).sum(axis=axes), 1)


def test_fit_streams_datasets(rng):
    model, X = dense_model(rng), data(rng)
    whole = revgraph.create_analyzer("pattern.net", model).fit(X, batch_size=len(X))
    stream = revgraph.create_analyzer("pattern.net", model).fit(tf.data.Dataset.from_tensor_slices(X).batch(32))
    generator = revgraph.create_analyzer("pattern.net", model).fit(X[i : i + 50] for i in range(0, len(X), 50))
    for other in (stream, generator):
        for a, b in zip(whole.patterns, other.patterns, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_unit_that_never_takes_part_has_no_pattern(rng):
    model, X = dense_model(rng), data(rng)
    model.layers[0].bias.assign(np.full(5, -1e6))
    analyzer = revgraph.create_analyzer("pattern.net", model).fit(X)
    np.testing.assert_array_equal(analyzer.patterns[0], 0)
    np.testing.assert_array_equal(analyzer.analyze(X[:2]), 0)


def test_the_model_stays_as_it_is(rng):
    model, X = dense_model(rng), data(rng)
    before, nodes = model.get_weights(), [len(layer._inbound_nodes) for layer in model.layers]
    revgraph.create_analyzer("pattern.net", model).fit(X).analyze(X[:2])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]


def test_bad_input(rng):
    model, X = dense_model(rng), data(rng)
    analyzer = revgraph.create_analyzer("pattern.net", model)
    with pytest.raises(ValueError, match="has no patterns yet: call fit"):
        analyzer.analyze(X[:1])
    with pytest.raises(ValueError, match="wrong shape"):
        analyzer.fit(np.zeros((4, 7)))
    with pytest.raises(ValueError, match="empty"):
        analyzer.fit(np.zeros((0, 6)))
    with pytest.raises(ValueError, match="not finite"), pytest.warns(UserWarning, match="NaN"):
        analyzer.fit(np.full((4, 6), np.nan))
    with pytest.raises(ValueError, match="pattern_type is one of.*'relu'.*Received: 'mean'"):
        revgraph.create_analyzer("pattern.net", model, pattern_type="mean")
    with pytest.raises(ValueError, match=r"one array for each linear layer.*\(6, 5\), \(5, 3\).*Received"):
        revgraph.create_analyzer("pattern.net", model, patterns=[np.ones((6, 5))])
