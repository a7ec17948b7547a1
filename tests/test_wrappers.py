"""Wrappers around analyzers: integrals along paths, averages over noise, variants of one's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.analyzers import AugmentReduceBase, GaussianSmoother, PathIntegrator

pytestmark = pytest.mark.usefixtures("float64")


def convolutional(rng):
    model = keras.Sequential(
        [
            layers.Input((5, 5, 2)),
            layers.Conv2D(3, 3, activation="tanh", name="conv"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def squared():
    """y = (x1^2, x2^2), whose gradient is 2x."""
    x = layers.Input((2,))
    return keras.Model(x, layers.Multiply()([x, x]))


@pytest.mark.parametrize("shape", [(), (5, 5, 2), (3, 5, 5, 2), (1, 5, 5, 2)])
def test_integrated_gradients_add_up_to_the_difference(shape, rng):
    model, x, reference = convolutional(rng), rng.normal(size=(3, 5, 5, 2)), rng.normal(size=shape)
    analyzer = revgraph.create_analyzer("integrated_gradients", model, steps=300, reference_inputs=reference)
    relevance, delta = analyzer.analyze(x, neuron_selection=1, return_convergence_delta=True)
    difference = (model(x) - model(np.broadcast_to(reference, x.shape))).numpy()[:, 1]
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), difference, atol=1e-3)
    np.testing.assert_allclose(delta, difference - relevance.sum(axis=(1, 2, 3)), atol=1e-12)


def test_midpoints_and_left_ends():
    # Of the gradient 2x from 0 to x the midpoint rule gives x exactly; the left ends with n steps give x (n - 1) / n.
    x = np.array([[3.0, -1.0]])
    paper = revgraph.create_analyzer("integrated_gradients", squared(), steps=5)
    np.testing.assert_allclose(paper.analyze(x, "all"), x**2)
    old = revgraph.create_analyzer("integrated_gradients", squared(), steps=5, convention="innvestigate")
    np.testing.assert_allclose(old.analyze(x, "all"), x**2 * 4 / 5)
    assert paper.augment_by_n == 5
    assert revgraph.create_analyzer("integrated_gradients", squared()).augment_by_n == 64


def test_the_neuron_of_the_input_itself_is_explained_on_the_whole_path():
    # y = (x, 0.6): at x = 1 the first is the largest, near the reference 0 the second, which has no gradient.
    model = keras.Sequential([layers.Input((1,)), layers.Dense(2)])
    model.set_weights([np.array([[1.0, 0.0]]), np.array([0.0, 0.6])])
    for convention in ("paper", "innvestigate"):
        analyzer = revgraph.create_analyzer("integrated_gradients", model, convention=convention)
        np.testing.assert_allclose(analyzer.analyze(np.array([[1.0], [0.5]])), [[1], [0]])


@pytest.mark.parametrize("start", [2.0, [2.0, 2.0], np.array([2.0, 2.0]), lambda y: 2 * tf.ones_like(y)])
def test_the_neuron_of_the_input_gets_the_start_relevance(start):
    model = keras.Sequential([layers.Input((1,)), layers.Dense(2)])
    model.set_weights([np.array([[1.0, 0.0]]), np.array([0.0, 0.6])])
    analyzer = revgraph.create_analyzer("integrated_gradients", model)
    x = np.array([[1.0], [0.5]])
    np.testing.assert_allclose(analyzer.analyze(x, initial_relevance=start), [[2], [0]])
    # An array of the output's shape is the start itself, of all neurons.
    start = np.array([[3.0, 1.0], [3.0, 1.0]])
    for given in (start, start.tolist()):
        np.testing.assert_allclose(analyzer.analyze(x, initial_relevance=given), 3 * x)


def test_the_largest_neuron_of_outputs_with_more_axes(rng):
    model = keras.Sequential([layers.Input((4, 2)), layers.Conv1D(3, 2, activation="tanh")])
    x = rng.normal(size=(3, 4, 2))
    index = [np.unravel_index(y.argmax(), y.shape) for y in model(x).numpy()]
    analyzer = revgraph.create_analyzer("integrated_gradients", model, steps=8)
    expected = [analyzer.analyze(x[i : i + 1], tuple(int(k) for k in place))[0] for i, place in enumerate(index)]
    np.testing.assert_allclose(analyzer.analyze(x), expected)


def test_a_path_around_any_analyzer(rng):
    model, x = convolutional(rng), rng.normal(size=(2, 5, 5, 2))
    lrp = revgraph.create_analyzer("lrp.epsilon", model)
    t = (np.arange(6) + 0.5) / 6
    expected = (x - 0.5) * np.mean([lrp.analyze(0.5 + k * (x - 0.5), 2) for k in t], axis=0)
    np.testing.assert_allclose(PathIntegrator(lrp, steps=6, reference_inputs=0.5).analyze(x, 2), expected)


def test_smoothgrad_is_the_mean_gradient_of_noisy_inputs():
    # The gradient of x^2 is 2x: what remains is twice the mean noise, whose scale is honoured.
    x = np.array([[3.0, -1.0]])
    for scale in (0.0, 0.1, 10.0):
        analyzer = revgraph.create_analyzer("smoothgrad", squared(), augment_by_n=2000, noise_scale=scale, seed=4)
        error = analyzer.analyze(x, "all") - 2 * x
        assert np.all(np.abs(error) <= 5 * 2 * scale / np.sqrt(2000))
        assert scale == 0 or np.all(np.abs(error) > 1e-4 * scale)
    squares = revgraph.create_analyzer("smoothgrad", squared(), noise_scale=0, postprocess="square")
    np.testing.assert_allclose(squares.analyze(x, "all"), (2 * x) ** 2)


def test_a_seed_makes_noise_repeatable(rng):
    model, x = convolutional(rng), rng.normal(size=(3, 5, 5, 2))
    seeded = revgraph.create_analyzer("smoothgrad", model, augment_by_n=4, seed=1)
    first = seeded.analyze(x)
    np.testing.assert_array_equal(first, seeded.analyze(x))
    np.testing.assert_allclose(first, seeded.analyze(x, batch_size=1), rtol=1e-10)
    other = revgraph.create_analyzer("smoothgrad", model, augment_by_n=4)
    assert not np.allclose(other.analyze(x), other.analyze(x))


def test_noise_around_any_analyzer(rng):
    model, x = convolutional(rng), rng.normal(size=(2, 5, 5, 2))
    lrp = revgraph.create_analyzer("lrp.alpha_2_beta_1", model)
    smooth = GaussianSmoother(lrp, augment_by_n=3, noise_scale=0)
    relevance, layer = smooth.analyze(x, 1, return_layers=["conv"])
    plain, plain_layer = lrp.analyze(x, 1, return_layers=["conv"])
    np.testing.assert_allclose(relevance, plain)
    np.testing.assert_allclose(layer["conv"], plain_layer["conv"])
    path = PathIntegrator(smooth, steps=2)
    np.testing.assert_allclose(path.analyze(x, 1), x * (lrp.analyze(x / 4, 1) + lrp.analyze(x * 3 / 4, 1)) / 2)


class Mirrored(AugmentReduceBase):
    """The mean relevance of an image and its mirror image, seen from the image."""

    def augment(self, inputs, step):
        return [x[:, :, ::-1] if step else x for x in inputs]

    def reduce(self, mean, inputs):
        return [2 * m for m in mean]


def test_variants_of_ones_own(rng):
    model, x = convolutional(rng), rng.normal(size=(2, 5, 5, 2))
    gradient = revgraph.create_analyzer("gradient", model)
    expected = gradient.analyze(x, 0) + gradient.analyze(x[:, :, ::-1], 0)
    np.testing.assert_allclose(Mirrored(gradient, augment_by_n=2).analyze(x, 0), expected)


SELECTIONS = {
    "largest": None,
    "word": "max_activation",
    "all": "all",
    "index": 2,
    "one per sample": [0, 3, 1],
    "array": np.array([0, 3, 1]),
    "several": np.array([[0, 1], [2, 3], [1, 1]]),
    "slice": (slice(0, 2),),
    "mask": np.eye(4, dtype=bool)[[0, 3, 1]],
    "contrast": lambda y: y[:, 0] - y[:, 2],
}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_any_selection(selection, rng):
    # Without noise, all variants are the input itself.
    model, x = convolutional(rng), rng.normal(size=(3, 5, 5, 2))
    lrp = revgraph.create_analyzer("lrp.epsilon", model)
    found = GaussianSmoother(lrp, augment_by_n=3, noise_scale=0).analyze(x, selection)
    np.testing.assert_allclose(found, lrp.analyze(x, selection), atol=1e-12)
    if not isinstance(selection, str):
        path = revgraph.create_analyzer("integrated_gradients", model, steps=200)
        _, delta = path.analyze(x, selection, return_convergence_delta=True)
        np.testing.assert_allclose(delta, 0, atol=0.01)


def test_start_relevance_inner_layers_and_modes(rng):
    model, x = convolutional(rng), rng.normal(size=(3, 5, 5, 2))
    lrp = revgraph.create_analyzer("lrp.epsilon", model, neuron_selection_mode="all")
    smooth = GaussianSmoother(lrp, augment_by_n=2, noise_scale=0)
    np.testing.assert_allclose(smooth.analyze(x), lrp.analyze(x))
    for start in (2.0, np.array([1.0, 2.0, 3.0]), rng.normal(size=(3, 4)), lambda y: 2 * y):
        expected = lrp.analyze(x, 1, initial_relevance=start)
        np.testing.assert_allclose(smooth.analyze(x, 1, initial_relevance=start), expected)
    for chosen in (None, (0, 1, slice(None))):
        expected = lrp.analyze(x, chosen or "max_activation", layer="conv")
        found = smooth.analyze(x, chosen or "max_activation", layer="conv")
        np.testing.assert_allclose(found, expected)
    index = GaussianSmoother(revgraph.create_analyzer("gradient", model, neuron_selection_mode="index"))
    with pytest.raises(ValueError, match='neuron_selection_mode="index": pass neuron_selection'):
        index.analyze(x)


def test_several_inputs_and_outputs(rng):
    a, b = layers.Input((3,), name="a"), layers.Input((2,), name="b")
    h = layers.Concatenate()([layers.Dense(4, activation="tanh")(a), b])
    model = keras.Model([a, b], {"first": layers.Dense(3)(h), "second": layers.Dense(2)(h)})
    x = [rng.normal(size=(4, 3)), rng.normal(size=(4, 2))]
    reference = [rng.normal(size=3), 0.5]
    analyzer = revgraph.create_analyzer("integrated_gradients", model, steps=200, reference_inputs=reference)
    for chosen in ({"first": None}, {"second": 1, "first": [0, 1, 2, 0]}):
        relevance, delta = analyzer.analyze(x, chosen, return_convergence_delta=True)
        assert [r.shape for r in relevance] == [(4, 3), (4, 2)]
        np.testing.assert_allclose(delta, 0, atol=1e-3)
    by_name = revgraph.create_analyzer(
        "integrated_gradients", model, steps=200, reference_inputs={"b": 0.5, "a": reference[0]}
    )
    np.testing.assert_allclose(by_name.analyze(x, {"first": 0})[1], analyzer.analyze(x, {"first": 0})[1])


def test_datasets_and_batches(rng):
    model, x = convolutional(rng), rng.normal(size=(5, 5, 5, 2))
    analyzer = revgraph.create_analyzer("integrated_gradients", model, steps=4)
    expected = analyzer.analyze(x)
    np.testing.assert_allclose(analyzer.analyze(x, batch_size=2), expected)
    np.testing.assert_allclose(analyzer.analyze(tf.data.Dataset.from_tensor_slices(x).batch(2)), expected)
    for i in range(5):
        np.testing.assert_allclose(analyzer.analyze(x[i : i + 1])[0], expected[i])


def test_memory_is_bounded(rng, monkeypatch):
    model, x = convolutional(rng), rng.normal(size=(3, 5, 5, 2))
    gradient = revgraph.create_analyzer("gradient", model)
    sizes = []
    monkeypatch.setattr(gradient, "analyze", lambda x, *_, **__: sizes.append(len(x)) or np.zeros_like(x))
    PathIntegrator(gradient, steps=50).analyze(x, 0)
    assert max(sizes) <= 64 and sum(sizes) == 150


def test_an_analyzer_around_one_without_neurons(rng):
    x = rng.normal(size=(2, 5, 5, 2))
    control = revgraph.create_analyzer("input", convolutional(rng))
    np.testing.assert_allclose(PathIntegrator(control, steps=4).analyze(x), x * x / 2)


def test_bad_input(rng):
    model, x = convolutional(rng), rng.normal(size=(2, 5, 5, 2))
    gradient = revgraph.create_analyzer("gradient", model)
    with pytest.raises(TypeError, match="wraps an analyzer of revgraph"):
        GaussianSmoother(model)
    with pytest.raises(ValueError, match="steps must be a positive int. Received: 0"):
        PathIntegrator(gradient, steps=0)
    with pytest.raises(ValueError, match="noise_scale must be a number >= 0"):
        GaussianSmoother(gradient, noise_scale=-1)
    with pytest.raises(ValueError, match="relevance for inputs only"):
        PathIntegrator(gradient).analyze(x, return_layers="all")
    with pytest.raises(ValueError, match=r"one sample's shape \(5, 5, 2\).*Received shape \(5, 5\)"):
        PathIntegrator(gradient, reference_inputs=np.zeros((5, 5))).analyze(x)
    tokens = keras.Sequential([layers.Input((3,), dtype="int32"), layers.Embedding(4, 2), layers.Flatten()])
    with pytest.raises(TypeError, match="holds indices"):
        GaussianSmoother(revgraph.create_analyzer("gradient", tokens))
