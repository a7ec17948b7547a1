"""Several references for each input, and statistics of noisy variants, against loops in float64 and Captum."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import create_analyzer
from revgraph.analyzers import GaussianSmoother
from tests import captum
from tests.models import inputs_of, make, randomized

X, REFERENCES, TARGETS = captum.X, captum.REFERENCES, captum.TARGETS


@pytest.fixture(scope="module")
def model():
    return captum.model()


@pytest.mark.parametrize("name", ["deep_lift", "integrated_gradients"])
def test_a_background_is_the_mean_over_its_samples(name, model):
    options = {"steps": 8} if name == "integrated_gradients" else {}
    several = create_analyzer(name, model, background=REFERENCES, **options)
    each = [
        create_analyzer(name, model, reference_inputs=reference, **options).analyze(X, TARGETS)
        for reference in REFERENCES
    ]
    expected = np.mean(each, axis=0)
    np.testing.assert_allclose(several.analyze(X, TARGETS), expected, atol=1e-12)
    np.testing.assert_allclose(several.analyze(X, TARGETS, batch_size=1), expected, atol=1e-12)
    both = several.analyze(X, np.array([[2, 1], [0, 1]]))
    np.testing.assert_allclose(both[:, 0], expected, atol=1e-12)
    # As many references as samples are no reference for each sample.
    two = create_analyzer(name, model, background=REFERENCES[:2], **options).analyze(X, TARGETS)
    np.testing.assert_allclose(two, np.mean(each[:2], axis=0), atol=1e-12)


def test_deep_lift_is_deep_lift_shap_of_captum(model):
    row = [
        0.11716803, 0.29041775, 0.11777527, -0.03354675, 0.03616545, 0.24441038, 0.30730052, 0.0500783, -0.07008317,
        -0.00874178, 0.01140585, 0.01001239, 0, 0,
    ]  # fmt: skip
    analyzer = create_analyzer("deep_lift", model, background=REFERENCES)
    captum.check(analyzer.analyze(X, TARGETS), [-0.4851488, 0.55565341], row)


def test_integrated_gradients_are_those_of_captum(model):
    row = [
        0.11719055, 0.29041954, 0.1177734, -0.03354684, 0.03616146, 0.24439972, 0.30732045, 0.05008621, -0.07008405,
        -0.00874299, 0.01140352, 0.01001321, 0, 0,
    ]  # fmt: skip
    found = create_analyzer("integrated_gradients", model, background=REFERENCES, steps=1000).analyze(X, TARGETS)
    # Both integrals are sums, over 1000 and over 3000 points.
    np.testing.assert_allclose(found[1, 3].ravel(), row, atol=3e-4)


def test_they_add_up_to_the_mean_difference(model):
    difference = (np.asarray(model(X)) - np.asarray(model(REFERENCES)).mean(axis=0))[[0, 1], TARGETS]
    analyzer = create_analyzer("deep_lift", model, background=REFERENCES)
    relevance, delta = analyzer.analyze(X, TARGETS, return_convergence_delta=True)
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), difference, atol=1e-12)
    np.testing.assert_allclose(delta, 0, atol=1e-12)
    for name, gap in (("deep_lift", 1e-12), ("integrated_gradients", 1e-2)):
        report = create_analyzer(name, model, background=REFERENCES).conservation(X, TARGETS)
        np.testing.assert_allclose(report.start, difference, atol=1e-9)
        np.testing.assert_allclose(report.other, 0, atol=gap)


def test_several_inputs_and_ids(float64):
    model = make("two_inputs")
    x, background = inputs_of(model), inputs_of(model, batch=4, seed=5)
    found = create_analyzer("deep_lift", model, background=background).analyze(x, 1)
    each = [
        create_analyzer("deep_lift", model, reference_inputs={k: v[i] for k, v in background.items()}).analyze(x, 1)
        for i in range(4)
    ]
    for name in x:
        np.testing.assert_allclose(found[name], np.mean([e[name] for e in each], axis=0), atol=1e-12)
    ids = keras.Input((4,), dtype="int32")
    y = layers.Dense(3, activation="tanh")(layers.Flatten()(layers.Embedding(6, 3)(ids)))
    words = randomized(keras.Model(ids, layers.Dense(2)(y)))
    x, background = np.array([[1, 2, 3, 4], [5, 1, 1, 2]]), np.array([[0, 0, 0, 0], [1, 1, 5, 5], [3, 2, 2, 0]])
    difference = (np.asarray(words(x)) - np.asarray(words(background)).mean(axis=0))[:, 1]
    for name in ("deep_lift", "integrated_gradients", "expected_gradients"):
        options = {"seed": 0, "augment_by_n": 3000} if name == "expected_gradients" else {}
        found = create_analyzer(name, words, background=background, **options).analyze(x, 1, batch_size=64)
        tolerance = 0.05 if options else 1e-2 if name == "integrated_gradients" else 1e-10
        np.testing.assert_allclose(found.sum(axis=1), difference, atol=tolerance)


def gradient(model, x, targets):
    return create_analyzer("gradient", model).analyze(x, targets)


def test_expected_gradients_are_the_mean_over_draws(model):
    analyzer = create_analyzer("expected_gradients", model, background=REFERENCES, augment_by_n=5, seed=3)
    generator, expected = np.random.default_rng(3), 0
    for _ in range(5):
        r, t = REFERENCES[generator.integers(3, size=2)], generator.random()
        expected = expected + (X - r) * gradient(model, r + t * (X - r), TARGETS) / 5
    for batch_size in (None, 1, 3):
        np.testing.assert_allclose(analyzer.analyze(X, TARGETS, batch_size=batch_size), expected, atol=1e-12)
    other = create_analyzer("expected_gradients", model, background=REFERENCES, augment_by_n=5, seed=4)
    assert not np.allclose(other.analyze(X, TARGETS), expected)


def test_expected_gradients_tend_to_integrated_gradients(model):
    analyzer = create_analyzer("expected_gradients", model, background=REFERENCES, augment_by_n=4000, seed=0)
    limit = create_analyzer("integrated_gradients", model, background=REFERENCES, steps=100).analyze(X, TARGETS)
    np.testing.assert_allclose(analyzer.analyze(X, TARGETS), limit, atol=0.01)
    report = analyzer.conservation(X, TARGETS)
    np.testing.assert_allclose(report.start, limit.sum(axis=(1, 2, 3)), atol=0.05)


class Noise:
    """Gives the noise with which Captum was asked."""

    def __init__(self):
        self.left = iter(captum.NOISE)

    def normal(self, *_):
        return next(self.left)


@pytest.mark.parametrize(
    ("statistic", "sums", "row"),
    [
        (
            "mean", [-0.08800569, -0.0069305],
            [0.26424643, 0.45799046, 0.25582981, 0.01056274, -0.25986233, -0.31636584, -0.38127668, -0.13064495,
             0.10421882, 0.05283439, -0.02441215, -0.02531015, 0.0, 0.0],
        ),
        (
            "squared", [3.49012548, 3.38713185],
            [0.08048306, 0.21541702, 0.07713679, 0.00082461, 0.0956729, 0.10501496, 0.15579508, 0.07979521,
             0.01594126, 0.02545104, 0.00333511, 0.0026731, 0.0, 0.0],
        ),
        (
            "variance", [2.22067861, 1.59155538],
            [0.01065688, 0.00566176, 0.01168789, 0.00071304, 0.02814446, 0.00492762, 0.01042318, 0.06272711,
             0.0050797, 0.02265956, 0.00273916, 0.00203249, 0.0, 0.0],
        ),
    ],
)  # fmt: skip
def test_statistics_are_those_of_captums_noise_tunnel(statistic, sums, row, model, monkeypatch):
    analyzer = create_analyzer("smoothgrad", model, augment_by_n=4, statistic=statistic)
    monkeypatch.setattr(analyzer, "_begin", lambda: setattr(analyzer._noise, "generator", Noise()))
    found = analyzer.analyze(X, TARGETS)
    captum.check(found, sums, row)
    each = np.stack([gradient(model, X + noise, TARGETS) for noise in captum.NOISE])
    expected = {"mean": each.mean(0), "squared": (each**2).mean(0), "variance": each.var(0)}[statistic]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_statistics_around_any_analyzer(model):
    lrp = create_analyzer("lrp.epsilon", model)
    smooth = {s: GaussianSmoother(lrp, 6, 0.1, seed=2, statistic=s) for s in ("mean", "squared", "variance")}
    found = {s: analyzer.analyze(X, TARGETS) for s, analyzer in smooth.items()}
    np.testing.assert_allclose(found["variance"], found["squared"] - found["mean"] ** 2, atol=1e-12)
    assert (found["variance"] >= 0).all() and found["variance"].max() > 0
    relevance, inside = smooth["squared"].analyze(X, TARGETS, return_layers=["one"])
    np.testing.assert_allclose(relevance, found["squared"])
    assert (inside["one"] >= 0).all()
    none = GaussianSmoother(lrp, 3, 0, statistic="variance").analyze(X, TARGETS)
    np.testing.assert_allclose(none, 0, atol=1e-12)


def test_bad_backgrounds(model):
    with pytest.raises(TypeError, match=r"expected_gradients needs background=.*\"integrated_gradients\""):
        create_analyzer("expected_gradients", model)
    for name in ("deep_lift", "integrated_gradients"):
        with pytest.raises(TypeError, match="reference_inputs and background exclude each other"):
            create_analyzer(name, model, reference_inputs=0.5, background=REFERENCES)
        with pytest.raises(ValueError, match=r"wrong shape.*\(3, 7, 6, 2\)"):
            create_analyzer(name, model, background=REFERENCES[:, :, :6])
        with pytest.raises(ValueError, match=r"One sample needs a batch axis too: x\[None\]"):
            create_analyzer(name, model, background=REFERENCES[0])
        analyzer = create_analyzer(name, model, background=REFERENCES[0][None])
        same = create_analyzer(name, model, reference_inputs=REFERENCES[0])
        np.testing.assert_allclose(analyzer.analyze(X, 1), same.analyze(X, 1), atol=1e-12)
    analyzer = create_analyzer("deep_lift", model, background=REFERENCES)
    for ask in (lambda: analyzer.record(X), lambda: analyzer.export("nowhere")):
        with pytest.raises(revgraph.analyzers.analyzer.Unsupported, match="background of 3.*reference_inputs="):
            ask()
    create_analyzer("deep_lift", model, reference_inputs=REFERENCES[0]).record(X).analyze(1)
    with pytest.raises(ValueError, match="statistic is \"?'mean', 'squared', 'variance'. Received: 'median'"):
        create_analyzer("smoothgrad", model, statistic="median")
    with pytest.raises(ValueError, match="adds up to nothing.*Leave out return_convergence_delta"):
        create_analyzer("smoothgrad", model, statistic="squared").analyze(X, return_convergence_delta=True)


def test_a_background_is_saved(tmp_path):
    network = captum.model("float32")
    x = X.astype("float32")
    for name in ("deep_lift", "integrated_gradients"):
        analyzer = create_analyzer(name, network, background=REFERENCES)
        analyzer.save(tmp_path / "a.revgraph", overwrite=True)
        np.testing.assert_array_equal(revgraph.load_analyzer(tmp_path / "a.revgraph").analyze(x), analyzer.analyze(x))
