"""Quantus on Keras 3: its metrics run on our analyzers, and its numbers are ours where both have a metric."""

import contextlib
import io
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import evaluate
from tests.models import randomized

quantus = pytest.importorskip("quantus")

QUIET = {"disable_warnings": True, "display_progressbar": False}

METRICS = {
    "AUC": {},
    "AttributionLocalisation": {},
    "AvgSensitivity": {"nr_samples": 2},
    "Complexity": {},
    "Consistency": {},
    "EffectiveComplexity": {},
    "FaithfulnessCorrelation": {"subset_size": 30, "nr_runs": 5},
    "FaithfulnessEstimate": {"features_in_step": 36},
    "LocalLipschitzEstimate": {"nr_samples": 2},
    "MPRT": {},
    "MaxSensitivity": {"nr_samples": 2},
    "Monotonicity": {"features_in_step": 36},
    "MonotonicityCorrelation": {"features_in_step": 36, "nr_samples": 2},
    "PixelFlipping": {"features_in_step": 36},
    "PointingGame": {},
    "RandomLogit": {"num_classes": 5},
    "RegionPerturbation": {"patch_size": 4},
    "RelativeInputStability": {"nr_samples": 2},
    "RelativeOutputStability": {"nr_samples": 2},
    "RelevanceMassAccuracy": {},
    "RelevanceRankAccuracy": {},
    "Selectivity": {"patch_size": 4},
    "SensitivityN": {"features_in_step": 36, "n_max_percentage": 0.5},
    "Sparseness": {},
    "TopKIntersection": {"k": 20},
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    truth = np.zeros((5, 12, 12), bool)
    truth[:, 3:7, 3:7] = True
    return rng.uniform(size=(5, 12, 12, 3)).astype("float32"), rng.integers(0, 5, 5), truth


@pytest.fixture(scope="module")
def analyzer():
    keras.utils.set_random_seed(0)
    stack = [
        layers.Conv2D(4, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
        layers.Dense(5, activation="softmax"),
    ]
    model = randomized(keras.Sequential([keras.Input((12, 12, 3)), *stack]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return revgraph.create_analyzer("input_t_gradient", model)


def score(adapter, metric, *args, **options):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return adapter.score(metric, *args, **options)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_quantus_run(name, analyzer, data):
    metric = getattr(quantus, name)(**METRICS[name], **QUIET)
    found = score(evaluate.quantus(analyzer), metric, *data)
    values = found if not isinstance(found, dict) else list(found.values())
    assert len(values) and np.isfinite(np.asarray(keras.tree.flatten(values), float)).any()


def test_the_model_with_channels_first_is_the_same(analyzer, data):
    adapter, (x, y, _) = evaluate.quantus(analyzer), data
    first = np.moveaxis(x, -1, 1)
    np.testing.assert_allclose(adapter.model(first), analyzer.model(x), rtol=1e-6)
    found = adapter(adapter.model, first, y)
    np.testing.assert_allclose(found[:, 0], analyzer.analyze(x, y).sum(axis=-1), rtol=1e-4, atol=1e-6)
    assert [layer.name for layer in adapter.model.layers if layer.weights] == [
        layer.name for layer in analyzer.model.layers if layer.weights
    ]


# The numbers of both, on the same relevance in float64.

PLAIN = {**QUIET, "normalise": False}
ZERO = {**PLAIN, "perturb_baseline": 0.0}
ROUNDED = 1e-5
"""How near outputs are: `predict`, which Quantus calls, rounds samples to float32."""


@pytest.fixture(scope="module")
def pair():
    """An analyzer of a model in float64 with pictures of one channel and two classes; samples, truth, relevance."""
    rng = np.random.default_rng(1)
    inputs = keras.Input((4, 4, 1), dtype="float64")
    h = layers.Conv2D(4, 2, activation="relu", dtype="float64")(inputs)
    model = randomized(keras.Model(inputs, layers.Dense(2, dtype="float64")(layers.Flatten(dtype="float64")(h))))
    analyzer, x = revgraph.create_analyzer("input_t_gradient", model), rng.uniform(size=(4, 4, 4, 1))
    truth = np.zeros((4, 4, 4), bool)
    truth[:, 1:3, 1:4] = True
    return analyzer, x, np.array([0, 1, 1, 0]), truth, analyzer.analyze(x, [0, 1, 1, 0])[..., 0]


def theirs(pair, name, **options):
    analyzer, x, y, truth, relevance = pair
    metric = getattr(quantus, name)(**options)
    asked = {"softmax": None, "a_batch": relevance[:, None].copy()}
    found = score(evaluate.quantus(analyzer), metric, x, y, truth, **asked)
    return np.asarray(found, float)


def ours(pair, metric, **options):
    analyzer, x, y, truth, _ = pair
    return metric(analyzer, x, y, truth=truth, **options)


SAME = {
    # Quantus adds 1e-7 to each entry.
    "Sparseness": (evaluate.Sparseness(), PLAIN, 1e-4),
    "Complexity": (evaluate.Entropy(), PLAIN, 1e-8),
    "PointingGame": (evaluate.PointingGame(), PLAIN, 0),
    "RelevanceRankAccuracy": (evaluate.RelevanceRank(), PLAIN, 0),
    "TopKIntersection": (evaluate.RelevanceRank(), {"k": 6, **PLAIN}, 0),
    "FaithfulnessEstimate": (
        evaluate.LeaveOneOut(), {"similarity_func": quantus.similarity_func.correlation_spearman, **ZERO}, 1e-9,
    ),
}  # fmt: skip
"""Metrics of Quantus whose number is one of ours; options that make it so; and how near they are."""

WITHOUT_SIGNS = {
    "PointingGame": evaluate.PointingGame(absolute=True),
    "RelevanceMassAccuracy": evaluate.RelevanceMass(absolute=True),
    "RelevanceRankAccuracy": evaluate.RelevanceRank(absolute=True),
    "AttributionLocalisation": evaluate.RelevanceMass(absolute=True),
}
"""The same under abs=True."""

CURVES = {
    "PixelFlipping": (evaluate.Deletion(steps=4), {"features_in_step": 4}),
    "Selectivity": (evaluate.Deletion(steps=4, regions=2), {"patch_size": 2}),
}
"""Metrics of Quantus that return our curve behind its first point."""


@pytest.mark.parametrize("name", SAME)
def test_our_numbers_are_theirs(name, pair):
    metric, options, near = SAME[name]
    np.testing.assert_allclose(ours(pair, metric).values, theirs(pair, name, **options), rtol=near, atol=1e-12)


@pytest.mark.parametrize("name", WITHOUT_SIGNS)
def test_our_numbers_without_signs_are_theirs(name, pair):
    found = theirs(pair, name, **{**PLAIN, "abs": True})
    np.testing.assert_allclose(ours(pair, WITHOUT_SIGNS[name]).values, found, rtol=1e-8)


@pytest.mark.parametrize("name", CURVES)
def test_our_curves_are_theirs(name, pair):
    metric, options = CURVES[name]
    np.testing.assert_allclose(
        ours(pair, metric).curve[:, 1:], theirs(pair, name, **options, **ZERO), rtol=ROUNDED, atol=1e-6
    )


def test_the_fall_by_regions_is_theirs(pair):
    for order, largest_first in (("morf", True), ("lerf", False)):
        found = theirs(pair, "RegionPerturbation", patch_size=2, order=order, **ZERO)
        analyzer, x, y, _, _ = pair
        explained = evaluate.explained.Explained(analyzer, x, y)
        curve = evaluate.Deletion(steps=4, regions=2).curve(explained, largest_first)
        np.testing.assert_allclose(explained.scores[:, None] - curve[:, 1:], found, rtol=ROUNDED, atol=1e-6)


def test_our_inpainting_is_that_of_their_road(pair, monkeypatch):
    analyzer, x, y, _, _ = pair
    monkeypatch.setattr(evaluate.changing, "NOISE", 0.0)
    mask = np.random.default_rng(0).random((4, 16)) < 0.4
    (filled,) = evaluate.changing.changer(evaluate.explained.Explained(analyzer, x, y), "inpaint")(mask)
    for sample, result, missing in zip(x, filled, mask, strict=True):
        fill = quantus.perturb_func.noisy_linear_imputation
        expected = fill(np.moveaxis(sample, -1, 0), np.flatnonzero(missing), noise=0.0)
        np.testing.assert_allclose(result[..., 0], expected[0], atol=1e-9)


def test_the_faithfulness_correlation_is_theirs_for_the_same_sets(pair, monkeypatch):
    random = np.random.default_rng(4)
    drawn = (row for _ in range(20) for row in random.random((4, 16)).argsort(axis=1)[:, :6])
    monkeypatch.setattr(np.random, "choice", lambda count, size, replace: next(drawn))
    found = theirs(pair, "FaithfulnessCorrelation", subset_size=6, nr_runs=20, return_aggregate=False, **ZERO)
    values = ours(pair, evaluate.FaithfulnessCorrelation(6, subsets=20, seed=4)).values
    np.testing.assert_allclose(values, found, rtol=ROUNDED, atol=1e-6)


def test_robustness_is_theirs_for_the_same_noise(pair):
    _, x, _, _, _ = pair

    def noise():
        random, radius = np.random.default_rng(3), 0.05 * float(np.ptp(x))
        return lambda arr, indices, **options: arr + random.uniform(-radius, radius, x.shape).reshape(arr.shape)

    for metric, name in (
        (evaluate.MaxSensitivity, "MaxSensitivity"),
        (evaluate.LocalLipschitz, "LocalLipschitzEstimate"),
    ):
        found = theirs(pair, name, nr_samples=3, perturb_func=noise(), **PLAIN)
        np.testing.assert_allclose(ours(pair, metric(0.05, 3, seed=3)).values, found, rtol=1e-6)


def test_the_other_of_two_classes_is_theirs_but_for_the_sign(pair):
    spearman = quantus.similarity_func.correlation_spearman
    found = theirs(pair, "RandomLogit", num_classes=2, similarity_func=spearman, **PLAIN)
    np.testing.assert_allclose(ours(pair, evaluate.RandomLogit()).values, np.abs(found), rtol=1e-9)


def test_their_completeness_asks_for_equal_floats(pair):
    """Ours says how much is missing. Theirs is true where nothing is, to the last bit."""
    found = theirs(pair, "Completeness", **ZERO)
    values = ours(pair, evaluate.Completeness(baseline="zero")).values
    assert set(found) <= {0.0, 1.0} and (values[found == 1] == 0).all() and (found[values > 1e-6] == 0).all()


def test_mass_with_signs_is_not_theirs(pair):
    """Theirs divides by a sum in which signs cancel. Ours compares what is positive."""
    *_, truth, relevance = pair
    found, values = theirs(pair, "RelevanceMassAccuracy", **PLAIN), ours(pair, evaluate.RelevanceMass()).values
    np.testing.assert_allclose(found, (relevance * truth).sum((1, 2)) / relevance.sum((1, 2)), rtol=1e-9)
    assert ((values >= 0) & (values <= 1)).all() and (np.abs(values - found) > 0.01).any()


def test_other_models_are_refused(analyzer, tmp_path):
    analyzer.model.export(tmp_path / "model", verbose=False)
    with pytest.raises(TypeError, match="The metrics of revgraph.evaluate take it"):
        evaluate.quantus(revgraph.create_analyzer("gradient", revgraph.load_model(tmp_path / "model")))
