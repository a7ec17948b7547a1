"""Perturbation analysis and pixel flipping."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.perturbation import Perturbation, PerturbationAnalysis, pixel_flipping

pytestmark = pytest.mark.usefixtures("float64")


def ramp(height=4, width=6, channels=2):
    """Images whose entries are all different, and relevance that falls from left to right and top to bottom."""
    x = np.arange(2.0 * height * width * channels).reshape(2, height, width, channels) + 1
    place = np.arange(height * width, dtype=float)[::-1].reshape(1, height, width, 1)
    return x, np.broadcast_to(place, x.shape)


@pytest.mark.parametrize(
    "function, expected",
    [
        ("zeros", lambda region: 0),
        ("invert", lambda region: -region),
        ("mean", lambda region: region.mean()),
        (lambda region: region + 1, lambda region: region + 1),
    ],
)
def test_the_most_relevant_regions_are_changed(function, expected):
    x, relevance = ramp()
    before = x.copy()
    found = Perturbation(function, num_perturbed_regions=2, region_shape=(2, 3)).perturbate_on_batch(x, relevance)
    wanted = x.copy()
    for sample in range(2):
        for columns in (slice(0, 3), slice(3, 6)):
            for channel in range(2):
                wanted[sample, :2, columns, channel] = expected(x[sample, :2, columns, channel])
    np.testing.assert_allclose(found, wanted)
    np.testing.assert_array_equal(x, before)


def test_channels_first_gives_the_same():
    x, relevance = ramp()
    last = Perturbation("zeros", 3, (2, 2)).perturbate_on_batch(x, relevance)
    first = Perturbation("zeros", 3, (2, 2), data_format="channels_first").perturbate_on_batch(
        np.moveaxis(x, -1, 1), np.moveaxis(relevance, -1, 1)
    )
    np.testing.assert_array_equal(np.moveaxis(first, 1, -1), last)


@pytest.mark.parametrize("shape", [(4, 6), (3, 6), (4, 5), (5, 7)])
def test_images_that_are_no_multiple_of_the_region(shape):
    # iNNvestigate fails where one of the two axes is a multiple and the other is not.
    x, relevance = ramp(*shape)
    found = Perturbation("zeros", num_perturbed_regions=1, region_shape=(2, 3)).perturbate_on_batch(x, relevance)
    assert found.shape == x.shape
    changed = (found != x).all(axis=-1)
    assert changed[:, 0, 0].all() and not changed[:, -1, -1].any()
    assert (changed.sum(axis=(1, 2)) <= 6).all()
    everything = Perturbation("zeros", num_perturbed_regions=100, region_shape=(2, 3)).perturbate_on_batch(x, relevance)
    assert not everything.any()


def test_noise_ranges_and_in_place():
    x, relevance = ramp()
    noisy = [Perturbation("gaussian", 8, (2, 3), seed=3).perturbate_on_batch(x, relevance) for _ in range(2)]
    np.testing.assert_array_equal(*noisy)
    assert 0.1 < noisy[0].std() < 0.6
    clipped = Perturbation("invert", 8, (2, 3), value_range=(-5, 5)).perturbate_on_batch(x, relevance)
    assert clipped.min() == -5 and clipped.max() <= 5
    same = Perturbation("zeros", 8, (2, 3), in_place=True).perturbate_on_batch(x, relevance)
    assert same is x and not x.any()


def trained(rng):
    """A classifier that looks at the left half of the image only, and images that are all positive or all negative."""
    x = rng.choice([-1, 1], size=(40, 1, 1, 1)) * rng.random(size=(40, 4, 4, 1))
    y = (x[:, :, :2].sum(axis=(1, 2, 3)) > 0).astype(int)
    model = keras.Sequential([layers.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    kernel = np.zeros((4, 4, 2))
    kernel[:, :2] = [-1, 1]
    model.set_weights([kernel.reshape(16, 2), np.zeros(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model, x, y


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.x[i * 10 : i * 10 + 10], self.y[i * 10 : i * 10 + 10]


@pytest.mark.parametrize("recompute", [False, True])
def test_scores_fall_as_what_matters_is_perturbed(recompute, rng):
    model, x, y = trained(rng)
    analyzer = revgraph.create_analyzer("lrp.z", model)
    perturbation = Perturbation("zeros", num_perturbed_regions=7, region_shape=(1, 1))
    analysis = PerturbationAnalysis(
        analyzer, model, (x, y), perturbation, steps=4, regions_per_step=2, recompute_analysis=recompute
    )
    scores = analysis.compute_perturbation_analysis()
    losses, accuracies = np.transpose(scores)
    assert len(scores) == 5 and accuracies[0] == 1
    np.testing.assert_allclose(scores[0], model.evaluate(x, y, verbose=0), rtol=1e-6)
    assert np.all(np.diff(losses) > 0)
    # After 8 single pixels, all 8 that the model looks at are gone, which leaves the loss log 2.
    np.testing.assert_allclose(losses[-1], np.log(2), rtol=1e-6)
    assert perturbation.num_perturbed_regions == 7


def test_batches_of_every_kind(rng):
    model, x, y = trained(rng)
    analyzer, scores = revgraph.create_analyzer("lrp.z", model), []
    kinds = (
        (x, y),
        Batches(x, y),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(10),
        [(x[:15], y[:15]), (x[15:], y[15:])],
        ((x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)),
    )
    for batches in kinds:
        analysis = PerturbationAnalysis(analyzer, model, batches, Perturbation("zeros", region_shape=(2, 2)), steps=2)
        scores.append(analysis.compute_perturbation_analysis())
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-6)


def test_one_batch(rng):
    model, x, y = trained(rng)
    analyzer = revgraph.create_analyzer("lrp.z", model)
    analysis = PerturbationAnalysis(analyzer, model, (x, y), Perturbation("zeros", 2, (2, 2)), verbose=True)
    perturbed, relevance = analysis.compute_on_batch(x, return_analysis=True)
    np.testing.assert_array_equal(relevance, analyzer.analyze(x))
    np.testing.assert_array_equal(perturbed, analysis.compute_on_batch(x, relevance))
    expected = model.evaluate(perturbed, y, verbose=0)
    np.testing.assert_allclose(analysis.evaluate_on_batch(x, y), expected, rtol=1e-6)


def test_pixel_flipping_by_hand():
    # y = 1 x1 + 2 x2 + 3 x3 + 4 x4 at ones: relevance 4, 3, 2, 1 falls away in this order.
    model = keras.Sequential([layers.Input((4,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [2], [3], [4]])])
    x = np.ones((1, 4))
    relevance = revgraph.create_analyzer("lrp.z", model).analyze(x)
    curve = pixel_flipping(model, x, relevance, steps=4)
    np.testing.assert_allclose(curve.scores, [[10, 6, 3, 1, 0]])
    np.testing.assert_allclose(curve.fractions, [0, 0.25, 0.5, 0.75, 1])
    # Trapezoids: (16 + 9 + 4 + 1) / 2 / 4; the mean drop: (0 + 4 + 7 + 9 + 10) / 5.
    np.testing.assert_allclose(curve.area, [3.75])
    np.testing.assert_allclose(curve.aopc, [6])
    least = pixel_flipping(model, x, relevance, steps=4, order="least_relevant_first")
    np.testing.assert_allclose(least.scores, [[10, 9, 7, 4, 0]])
    assert curve.area < pixel_flipping(model, x, relevance, steps=4, order="random").area < least.area
    half = pixel_flipping(model, x, relevance, steps=2, replacement=0.5)
    np.testing.assert_allclose(half.scores, [[10, 6.5, 5]])
    assert "area 3.75" in str(curve) and "1 samples" in repr(curve)


def test_pixel_flipping_of_images(rng):
    model, x, _ = trained(rng)
    x = np.abs(x)
    analyzer = revgraph.create_analyzer("lrp.z", model)
    curve = pixel_flipping(model, x, analyzer, 1, steps=8, batch_size=16)
    np.testing.assert_allclose(curve.scores[:, 0], model(x).numpy()[:, 1])
    # The left half holds all of the relevance: half of the pixels take the score to 0, where it stays.
    np.testing.assert_allclose(curve.scores[:, 4:], 0, atol=1e-12)
    assert np.all(curve.scores[:, 1] < curve.scores[:, 0])
    relevance = analyzer.analyze(x, 1)
    last = pixel_flipping(model, x, analyzer, -1, steps=8, batch_size=16)
    np.testing.assert_array_equal(last.scores, curve.scores)
    per_pixel = pixel_flipping(model, x, relevance[..., 0], 1, steps=8)
    np.testing.assert_allclose(per_pixel.scores, curve.scores)
    mean = pixel_flipping(model, x, relevance, 1, steps=1, replacement="mean")
    np.testing.assert_allclose(mean.scores[:, 1], x.mean(axis=(1, 2, 3)) * 8)
    own = pixel_flipping(model, x, relevance, 1, steps=1, replacement=lambda x: 2 * x)
    np.testing.assert_allclose(own.scores[:, 1], 2 * curve.scores[:, 0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda m, a, x: Perturbation("blur"), ValueError, "one of 'zeros', 'gaussian'.*Received: 'blur'"),
        (lambda m, a, x: Perturbation(3), TypeError, "a function or a name"),
        (lambda m, a, x: Perturbation("zeros", region_shape=(0, 3)), ValueError, "positive ints"),
        (
            lambda m, a, x: Perturbation("zeros").perturbate_on_batch(x, x[:1]),
            ValueError,
            r"same shape. Received shapes \(40, 4, 4, 1\) and \(1, 4, 4, 1\)",
        ),
        (lambda m, a, x: PerturbationAnalysis(a, m, [x], Perturbation("zeros")), ValueError, "pairs .x, y."),
        (lambda m, a, x: PerturbationAnalysis(a, m, [], Perturbation("zeros")), ValueError, "gave no batches"),
        (
            lambda m, a, x: PerturbationAnalysis(a, m, [(x, x)], "zeros"),
            TypeError,
            "revgraph.perturbation.Perturbation",
        ),
        (lambda m, a, x: pixel_flipping(m, x, x[:, :2]), ValueError, r"the shape of x, \(40, 4, 4, 1\)"),
        (lambda m, a, x: pixel_flipping(m, x, x, 2), ValueError, "there are 2 neurons, 0 to 1. Received: 2"),
        (lambda m, a, x: pixel_flipping(m, x, x, steps=0), ValueError, "steps must be a positive int"),
        (lambda m, a, x: pixel_flipping(m, x, x, order="up"), ValueError, "order is one of"),
        (
            lambda m, a, x: pixel_flipping(m, x, x, replacement=np.ones(3)),
            ValueError,
            r"one sample of shape \(4, 4, 1\)",
        ),
    ],
)
def test_bad_input(call, error, message, rng):
    model, x, _ = trained(rng)
    with pytest.raises(error, match=message):
        call(model, revgraph.create_analyzer("lrp.z", model), x)
