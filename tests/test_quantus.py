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


def same(ours, theirs, **options):
    np.testing.assert_allclose(ours, np.asarray(theirs, float).ravel(), **{"rtol": 1e-4, **options})


def test_our_numbers_are_theirs(analyzer, data):
    """On the same relevance, without signs, which Quantus takes away by default."""
    x, y, truth = data
    relevance = np.abs(analyzer.analyze(x, y)).sum(axis=-1)
    adapter, given = evaluate.quantus(analyzer), {"relevance": relevance}
    plain = {**QUIET, "normalise": False, "abs": False}

    def theirs(name, **options):
        return score(adapter, getattr(quantus, name)(**options, **plain), x, y, truth, a_batch=relevance[:, None])

    same(evaluate.Sparseness()(analyzer, x, y, **given).values, theirs("Sparseness"), rtol=1e-3)
    same(evaluate.Entropy()(analyzer, x, y, **given).values, theirs("Complexity"))
    located = {"truth": truth, **given}
    same(evaluate.PointingGame()(analyzer, x, y, **located).values, theirs("PointingGame"))
    same(evaluate.RelevanceMass()(analyzer, x, y, **located).values, theirs("RelevanceMassAccuracy"))
    same(evaluate.RelevanceRank()(analyzer, x, y, **located).values, theirs("RelevanceRankAccuracy"))


def test_the_curve_of_pixel_flipping_is_theirs():
    rng = np.random.default_rng(1)
    stack = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
    model = randomized(keras.Sequential([keras.Input((8, 8, 1)), *stack]))
    analyzer, x = revgraph.create_analyzer("input_t_gradient", model), rng.uniform(size=(4, 8, 8, 1)).astype("float32")
    options = {"features_in_step": 8, "perturb_baseline": 0.0, "normalise": False, "abs": False}
    theirs = score(evaluate.quantus(analyzer), quantus.PixelFlipping(**options, **QUIET), x, 1, softmax=None)
    np.testing.assert_allclose(
        evaluate.Deletion(8)(analyzer, x, 1).curve[:, 1:], np.stack(theirs), rtol=1e-4, atol=1e-6
    )


def test_other_models_are_refused(analyzer, tmp_path):
    analyzer.model.export(tmp_path / "model", verbose=False)
    with pytest.raises(TypeError, match="The metrics of revgraph.evaluate take it"):
        evaluate.quantus(revgraph.create_analyzer("gradient", revgraph.load_model(tmp_path / "model")))
