"""DeepLIFT: contributions derived by hand, and the summation to the difference on networks of every kind."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph

pytestmark = pytest.mark.usefixtures("float64")


def randomize(model, rng):
    for weight in model.weights:
        values = rng.normal(size=weight.shape)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.path else values)
    return model


def convolutional(rng):
    """Every kind of operation that DeepLIFT has a rule for."""
    image = layers.Input((6, 6, 2))
    h = layers.Conv2D(3, 3, activation="relu", padding="same", name="first")(image)
    h = layers.MaxPooling2D()(h)
    gate = layers.Dense(3, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(h))
    h = layers.Multiply()([h, gate])
    h = layers.Maximum()([h, layers.Conv2D(3, 1)(h)])
    h = layers.Minimum()([h, layers.Conv2D(3, 1)(h)])
    h = layers.BatchNormalization()(h)
    h = layers.Concatenate()([h, layers.Activation("tanh")(h)])
    h = layers.Flatten()(h)
    h = ops.relu(layers.Dense(4)(h))
    return randomize(keras.Model(image, layers.Dense(3, activation="softmax")(h)), rng)


@pytest.mark.parametrize("reference", ["number", "sample", "batch", "one"])
@pytest.mark.filterwarnings("ignore:The output of")
def test_contributions_sum_to_the_difference(reference, rng):
    model, x = convolutional(rng), rng.normal(size=(3, 6, 6, 2))
    shapes = {"number": (), "sample": (6, 6, 2), "batch": (3, 6, 6, 2), "one": (1, 6, 6, 2)}
    reference = rng.normal(size=shapes[reference])
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference)
    logits = revgraph.model_wo_softmax(model)
    difference = (logits(x) - logits(np.broadcast_to(reference, x.shape))).numpy()
    for neuron in range(3):
        contributions, delta = analyzer.analyze(x, neuron, batch_size=2, return_convergence_delta=True)
        np.testing.assert_allclose(contributions.sum(axis=(1, 2, 3)), difference[:, neuron], atol=1e-10)
        np.testing.assert_allclose(delta, 0, atol=1e-10)


def test_the_rescale_rule_by_hand():
    # z = x1 + x2 - 1, y = relu(z). At x = (2, 1) z = 2, at the reference (0, 0) z = -1: multiplier 2 / 3.
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1, activation="relu"), layers.Dense(1)])
    model.set_weights([np.ones((2, 1)), np.array([-1.0]), np.array([[3.0]]), np.zeros(1)])
    contributions = revgraph.create_analyzer("deep_lift", model).analyze(np.array([[2.0, 1.0]]))
    np.testing.assert_allclose(contributions, [[4, 2]])
    # At the reference (2, 0): z = 1, so that the multiplier is 1 and only x2 differs.
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=np.array([2.0, 0.0]))
    np.testing.assert_allclose(analyzer.analyze(np.array([[2.0, 1.0]])), [[0, 3]])


def test_max_pooling_by_hand():
    # max(1, 5) = 5 against max(2, 3) = 3: both were chosen at the second place, whose difference is 2.
    # max(4, 1) = 4 against max(2, 3) = 3: of the difference 1, all is due to the first place (4 - 2 = 2).
    # max(1, 2) = 2 against max(3, 0) = 3: all is due to the first place, which fell by 2.
    model = keras.Sequential([layers.Input((2, 1)), layers.MaxPooling1D(2), layers.Flatten()])
    for x, reference, expected in (([1, 5], [2, 3], [0, 2]), ([4, 1], [2, 3], [1, 0]), ([1, 2], [3, 0], [-1, 0])):
        reference = np.array(reference, float).reshape(2, 1)
        analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference)
        found = analyzer.analyze(np.array(x, float).reshape(1, 2, 1))
        np.testing.assert_allclose(found.reshape(-1), expected, err_msg=f"{x} against {reference}")


def test_a_product_shares_equally():
    # 3 * 5 - 1 * 2 = 13 = (3 - 1) * (5 + 2) / 2 + (5 - 2) * (3 + 1) / 2 = 7 + 6.
    a, b = layers.Input((1,)), layers.Input((1,))
    model = keras.Model([a, b], layers.Multiply()([a, b]))
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=[1, np.array([2.0])])
    first, second = analyzer.analyze([np.array([[3.0]]), np.array([[5.0]])])
    np.testing.assert_allclose([first, second], [[[7]], [[6]]])


def test_a_product_of_three_sums_to_the_difference(rng):
    inputs = [layers.Input((2,)) for _ in range(3)]
    model = keras.Model(inputs, layers.Multiply()(inputs))
    x, r = rng.normal(size=(2, 3, 4, 2))
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=list(r))
    contributions = analyzer.analyze(list(x), neuron_selection="all")
    np.testing.assert_allclose(sum(contributions), x.prod(axis=0) - r.prod(axis=0))


def test_a_piecewise_linear_network_far_from_its_kinks_gives_gradient_times_difference(rng):
    model = randomize(keras.Sequential([layers.Input((3,)), layers.Dense(4, activation="relu"), layers.Dense(2)]), rng)
    model.layers[0].bias.assign(np.full(4, 100.0))
    x, r = rng.normal(size=(2, 5, 3))
    found = revgraph.create_analyzer("deep_lift", model, reference_inputs=r).analyze(x, 0)
    np.testing.assert_allclose(found, revgraph.create_analyzer("gradient", model).analyze(x, 0) * (x - r))


def test_tokens_are_compared_with_the_reference_token(rng):
    tokens = layers.Input((4,), dtype="int32")
    h = layers.Flatten()(layers.Embedding(5, 3)(tokens))
    model = randomize(keras.Model(tokens, layers.Dense(2)(layers.Dense(4, activation="relu")(h))), rng)
    x = np.array([[1, 2, 0, 4], [0, 0, 0, 0]])
    contributions = revgraph.create_analyzer("deep_lift", model, reference_inputs=0).analyze(x, 1)
    difference = (model(x) - model(np.zeros_like(x))).numpy()[:, 1]
    np.testing.assert_allclose(contributions.sum(axis=1), difference, atol=1e-12)
    assert contributions[0, 2] == 0


@pytest.mark.filterwarnings("ignore:The output of")
def test_selections_layers_and_recorded_passes(rng):
    model, x = convolutional(rng), rng.normal(size=(2, 6, 6, 2))
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=0.5)
    several = analyzer.analyze(x, np.array([[0, 2], [1, 1]]))
    np.testing.assert_allclose(several[0, 1], analyzer.analyze(x, 2)[0])
    inner, delta = analyzer.analyze(
        x, layer="first", neuron_selection=(0, slice(None), 1), return_convergence_delta=True
    )
    assert inner.shape == x.shape
    np.testing.assert_allclose(delta, 0, atol=1e-10)
    np.testing.assert_allclose(analyzer.record(x).analyze(1), analyzer.analyze(x, 1))


@pytest.mark.filterwarnings("ignore:The output of")
def test_intermediate_multipliers_are_kept(rng):
    model, x = convolutional(rng), rng.normal(size=(2, 6, 6, 2))
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=0.5, reverse_keep_tensors=True)
    contributions = analyzer.analyze(x, 1)
    kept = analyzer.reversed_tensors
    assert not any("reference" in path for path in kept)
    np.testing.assert_allclose(kept["first"] * (x - 0.5), contributions)


@pytest.mark.parametrize(
    "reference, error, message",
    [
        (
            np.zeros((2, 3)),
            ValueError,
            r"array of one sample's shape \(3,\) or of the batch's shape \(4, 3\).*\(2, 3\)",
        ),
        ("zero", TypeError, r"must be numbers"),
    ],
)
def test_wrong_references(reference, error, message, rng):
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    with pytest.raises(error, match=message):
        revgraph.create_analyzer("deep_lift", model, reference_inputs=reference).analyze(np.zeros((4, 3)))


def test_wrong_number_of_references():
    inputs = [layers.Input((2,)), layers.Input((2,))]
    model = keras.Model(inputs, layers.Add()(inputs))
    x = [np.ones((1, 2)), np.ones((1, 2))]
    with pytest.raises(ValueError, match="one entry for each of the 2 inputs"):
        revgraph.create_analyzer("deep_lift", model, reference_inputs=[0, 0, 0]).analyze(x)
    with pytest.raises(ValueError, match="a list with one entry for each"):
        revgraph.create_analyzer("deep_lift", model, reference_inputs=np.zeros(2)).analyze(x)


def test_the_ledger_of_multipliers_is_completeness():
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, activation="tanh"), layers.Dense(2)])
    x, reference = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]]), np.array([0.1, -0.2, 0.3])
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference)
    report = analyzer.conservation(x, neuron_selection=1)
    expected = np.asarray(model(x))[:, 1] - np.asarray(model(reference[None]))[0, 1]
    np.testing.assert_allclose(report.start, expected, rtol=1e-5)
    np.testing.assert_allclose(report.input, analyzer.analyze(x, 1).sum(1), rtol=1e-5)
    np.testing.assert_allclose(report.other, 0, atol=1e-12)
    assert report.layers == () and "the reference's output of 2 samples" in str(report)


NORMALIZATIONS = {
    "layer": lambda: layers.LayerNormalization(),
    "layer over two axes": lambda: layers.LayerNormalization(axis=(1, 2)),
    "layer by root mean square": lambda: layers.RMSNormalization(),
    "unit": lambda: layers.UnitNormalization(),
    "groups": lambda: layers.GroupNormalization(2),
    "instances": lambda: layers.GroupNormalization(-1),
}


@pytest.mark.parametrize("reference", [0, 0.3, "batch"])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_contributions_through_normalizations_sum_to_the_difference(name, reference, rng):
    inputs = layers.Input((3, 4))
    h = NORMALIZATIONS[name]()(layers.Dense(4)(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(ops.tanh(h)))), rng)
    x = rng.normal(size=(5, 3, 4))
    reference = rng.normal(size=x.shape) if reference == "batch" else reference
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference)
    for selection in (1, np.tile([0, 1], (5, 1))):
        _, delta = analyzer.analyze(x, selection, return_convergence_delta=True)
        np.testing.assert_allclose(delta, 0, atol=1e-10)


def test_layer_normalization_by_hand():
    """c = (x - mean), f = 1 / sqrt(mean(c^2) + epsilon): Dy_i = Dc_i (f + f0) / 2 + Df (c_i + c0_i) / 2.

    Of Df every entry gets what it adds to the difference of the mean of squares, (c_j^2 - c0_j^2) / n.
    """
    model = keras.Sequential([layers.Input((4,)), layers.LayerNormalization(epsilon=1e-3)])
    x, reference = np.array([[1.0, 2.0, 4.0, 0.0]]), np.array([[0.5, -1.0, 0.0, 2.0]])
    found = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference).analyze(x, 2)
    c, c0 = x - x.mean(), reference - reference.mean()
    f, f0 = (1 / np.sqrt(np.mean(each**2) + 1e-3) for each in (c, c0))
    share = (c[0] ** 2 - c0[0] ** 2) / (c[0] ** 2 - c0[0] ** 2).sum() * (f - f0) * (c + c0)[0, 2] / 2
    by_c = share / (c - c0)[0]
    by_c[2] += (f + f0) / 2
    np.testing.assert_allclose(found[0], (by_c - by_c.mean()) * (x - reference)[0], rtol=1e-9)
    np.testing.assert_allclose(found.sum(), 1.867, atol=1e-3)


@pytest.mark.parametrize(
    "function", [lambda x: ops.sort(x, axis=-1), lambda x: ops.top_k(x, 2)[0], lambda x: ops.where(x > 0.1, x, -1.0)]
)
def test_what_depends_on_values_is_refused(function, rng):
    inputs = layers.Input((4,))
    model = randomize(keras.Model(inputs, layers.Dense(2)(function(inputs))), rng)
    with pytest.raises(revgraph.NotAnalyzeableModelException, match='"integrated_gradients" explains the same'):
        revgraph.create_analyzer("deep_lift", model)
    # The remedy works.
    report = revgraph.create_analyzer("integrated_gradients", model, steps=2).conservation(rng.normal(size=(2, 4)))
    assert np.isfinite(report.input).all()


def attention(h, **options):
    tokens = layers.Reshape((2, 2))(h)
    return layers.Flatten()(layers.MultiHeadAttention(2, 2)(tokens, tokens, **options))


ACCEPTED = {
    "softmax": ops.softmax,
    "log softmax": ops.log_softmax,
    "product of three": lambda h: h[:, :1] * h[:, 1:2] * h[:, 2:3],
    "gate": lambda h: h[:, :2] * ops.sigmoid(h[:, 2:]),
    "quotient": lambda h: h[:, :2] / (1 + h[:, 2:] ** 2),
    "quotient that broadcasts": lambda h: h / (2 + ops.tanh(h[:, 1:2])),
    "quotient that changes sign": lambda h: h[:, :2] / h[:, 2:],
    "matrix product": lambda h: layers.Flatten()(ops.matmul(layers.Reshape((2, 2))(h), layers.Reshape((2, 2))(h))),
    "three in an einsum": lambda h: ops.einsum("bi,bi,bj->bj", h, ops.tanh(h), h),
    "attention": attention,
    "attention to the past": lambda h: attention(h, use_causal_mask=True),
    "unrolled LSTM": lambda h: layers.LSTM(2, unroll=True)(layers.Reshape((2, 2))(h)),
    "largest": lambda h: ops.max(h, axis=1, keepdims=True),
    "least of two": lambda h: ops.minimum(h[:, :2], h[:, 2:]),
    "max pooling": lambda h: layers.Flatten()(layers.MaxPooling1D(2)(layers.Reshape((4, 1))(h))),
    "variance": lambda h: ops.var(h, axis=1, keepdims=True),
    "steps": lambda h: ops.round(h) * h,
    "clipped": lambda h: ops.clip(h, -0.3, 0.4),
    "exponential": lambda h: ops.exp(0.3 * h),
    "length": lambda h: ops.norm(h, axis=1, keepdims=True),
    "Fourier": lambda h: ops.fft((h, ops.zeros_like(h)))[0],
    "GELU": ops.gelu,
    "PReLU": lambda h: layers.PReLU()(h),
}
"""Functions of four numbers that depend on values."""


@pytest.mark.parametrize("name", ACCEPTED)
def test_whatever_is_accepted_sums_to_the_difference(name, rng):
    """Entries that agree with the reference, too, where differences are zero."""
    inputs = layers.Input((4,))
    model = randomize(keras.Model(inputs, layers.Dense(2)(ACCEPTED[name](layers.Dense(4)(inputs)))), rng)
    x, reference = 2 * rng.normal(size=(5, 4)), rng.normal(size=4)
    x[1], x[2, :2] = reference, reference[:2]
    analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference)
    difference = model(x).numpy() - model(reference[None]).numpy()
    recorded = analyzer.record(x)
    for neuron in range(2):
        contributions = recorded.analyze(neuron)
        scale = max(1, np.abs(contributions).max())
        np.testing.assert_allclose(contributions.sum(axis=1), difference[:, neuron], rtol=0, atol=1e-9 * scale)
        assert not contributions[1].any()


def test_a_quotient_by_hand():
    # 6 / 3 - 1 / 2 = 1.5 = (6 - 1) * (1 / 3 + 1 / 2) / 2 + (1 / 3 - 1 / 2) * (6 + 1) / 2 = 25 / 12 - 7 / 12.
    a, b = layers.Input((1,)), layers.Input((1,))
    analyzer = revgraph.create_analyzer("deep_lift", keras.Model([a, b], a / b), reference_inputs=[1, 2])
    first, second = analyzer.record([np.array([[6.0]]), np.array([[3.0]])]).analyze()
    np.testing.assert_allclose([first, second], [[[25 / 12]], [[-7 / 12]]])


STEPS = {
    "cast to integers": lambda x: ops.cast(ops.cast(x, "int32"), "float64"),
    "bins": lambda x: ops.cast(layers.Flatten()(layers.Discretization([-1.0, 0.0, 1.0])(x)), "float64"),
}


@pytest.mark.parametrize("name", STEPS)
def test_integers_that_are_made_of_numbers_are_refused(name):
    """Their difference from the reference is a step, and zero would be wrong without a word."""
    inputs = layers.Input((4,))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match="No rule for"):
        revgraph.create_analyzer("deep_lift", keras.Model(inputs, layers.Dense(2)(STEPS[name](inputs))))


def test_functions_of_the_output_have_to_be_linear(rng):
    inputs = layers.Input((4,))
    model = randomize(keras.Model(inputs, layers.Dense(3)(ops.tanh(inputs))), rng)
    analyzer, x = revgraph.create_analyzer("deep_lift", model), rng.normal(size=(2, 4))
    y, y_ref = model(x).numpy(), model(np.zeros((1, 4))).numpy()
    difference = (y - y_ref)[:, 2] - (y - y_ref)[:, 0]
    for ask in (analyzer, analyzer.record(x)):
        given = () if ask is not analyzer else (x,)
        found = ask.analyze(*given, lambda y: y[:, 2] - y[:, 0])
        np.testing.assert_allclose(found.sum(axis=1), difference, rtol=1e-10)
        with pytest.raises(ValueError, match="only functions that are linear in the output"):
            ask.analyze(*given, lambda y: y[:, 0] ** 2)


@pytest.mark.parametrize("name", ["deep_lift", "integrated_gradients"])
@pytest.mark.parametrize("wrong", ["0.1", None, np.nan, [1.0, np.inf]])
def test_references_that_are_no_numbers(name, wrong):
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1)])
    with pytest.raises((TypeError, ValueError), match="^reference_inputs must be (numbers|finite). Received: "):
        revgraph.create_analyzer(name, model, reference_inputs=wrong)


def test_a_contrast_of_large_outputs_near_the_reference_is_linear():
    """It is rounded by more than the outputs differ from those of the reference."""
    inputs = layers.Input((2,), dtype="float32")
    model = keras.Model(inputs, layers.Dense(3, dtype="float32")(inputs))
    model.set_weights([np.ones((2, 3)) * [1.0, 2.0, 3.0], np.array([1e3, 3e3, 2e3])])
    x = np.full((2, 2), 1e-4, "float32")
    recorded = revgraph.create_analyzer("deep_lift", model).record(x)
    np.testing.assert_allclose(recorded.analyze(lambda y: y[:, 2] - y[:, 0]), 2e-4, rtol=1e-5)
