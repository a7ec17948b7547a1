"""Metrics, each against its formula written out for single samples, and against what it claims to see."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats

import revgraph
from revgraph import evaluate
from revgraph.analyzers.wrappers import GaussianSmoother
from tests.models import precision, randomized

pytestmark = pytest.mark.filterwarnings("ignore:The output of .* is a probability")

UNITS = 36


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    truth = np.zeros((4, 6, 6), bool)
    truth[:, 1:4, 2:5] = True
    return rng.uniform(0.1, 1, (4, 6, 6, 2)), np.array([2, 0, 1, 2]), truth


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    # Batches of other sizes are rounded in other places, which in float32 shows.
    with precision("float64"):
        stack = [layers.Conv2D(3, 3, activation="relu"), layers.Flatten(), layers.Dense(3, activation="softmax")]
        return randomized(keras.Sequential([keras.Input((6, 6, 2)), *stack]))


@pytest.fixture(scope="module")
def analyzer(model):
    return revgraph.create_analyzer("input_t_gradient", model)


def score(model, x, label):
    return float(np.asarray(model(x[None]))[0, label])


def flipped(model, x, label, relevance, shares, fill=0.0, keep=False, largest_first=True):
    """The output while pixels are replaced, sample by sample and pixel by pixel."""
    order = np.argsort(-relevance.ravel() if largest_first else relevance.ravel(), kind="stable")
    curve = []
    for share in shares:
        mask = np.zeros(order.size, bool)
        mask[order[: int(np.floor(share * order.size + 0.5))]] = True
        mask = mask.reshape(relevance.shape)
        mask = ~mask if keep else mask
        curve.append(score(model, np.where(mask[..., None], fill, x), label))
    return np.array(curve)


def each(data, analyzer):
    x, y, truth = data
    relevance = analyzer.analyze(x, y).sum(axis=-1)
    return zip(x, y, truth, relevance, strict=True)


def test_deletion_insertion_and_gain(data, model, analyzer):
    x, y, _ = data
    shares = np.linspace(0, 1, 5)

    def area(**how):
        curves = [flipped(model, x, label, r, shares, **how) for x, label, _, r in each(data, analyzer)]
        return np.array([np.trapezoid(curve, shares) for curve in curves])

    close = {"rtol": 1e-6}
    np.testing.assert_allclose(evaluate.Deletion(4)(analyzer, x, y).values, area(), **close)
    np.testing.assert_allclose(evaluate.Deletion(4, 0.5)(analyzer, x, y).values, area(fill=0.5), **close)
    np.testing.assert_allclose(evaluate.Insertion(4)(analyzer, x, y).values, area(keep=True), **close)
    gain = area(largest_first=False) - area()
    np.testing.assert_allclose(evaluate.RelevanceGain(4)(analyzer, x, y).values, gain, **close)
    means = [flipped(model, x, la, r, shares, fill=x.mean(axis=(0, 1))) for x, la, _, r in each(data, analyzer)]
    np.testing.assert_allclose(evaluate.Deletion(4, "mean")(analyzer, x, y).curve, means, **close)


def test_whole_regions_are_taken_away(data, model, analyzer):
    x, y, _ = data
    scores = evaluate.Deletion(9, regions=2)(analyzer, x, y)
    for curve, (x, label, _, r) in zip(scores.curve, each(data, analyzer), strict=True):
        sums = {(i, j): r[i : i + 2, j : j + 2].sum() for i in range(0, 6, 2) for j in range(0, 6, 2)}
        (i, j), changed = max(sums, key=sums.get), x.copy()
        changed[i : i + 2, j : j + 2] = 0
        assert curve[1] == pytest.approx(score(model, changed, label))
    numbers = np.arange(UNITS).reshape(6, 6) // 12
    assert evaluate.Deletion(3, regions=numbers)(analyzer, data[0], data[1]).curve.shape == (4, 4)


def test_road_solves_for_the_missing_pixels(data, analyzer):
    """Each missing pixel is the mean of its neighbours, those at its edges twice, and the others stay."""
    x, y, _ = data
    explained = evaluate.explained.Explained(analyzer, x, y)
    mask = np.zeros((4, 6, 6), bool)
    mask[:, 2:4, 1:3] = mask[:, 0, 0] = True
    evaluate.changing.NOISE, before = 0.0, evaluate.changing.NOISE
    try:
        (filled,) = evaluate.changing.changer(explained, "inpaint")(mask.reshape(4, UNITS))
    finally:
        evaluate.changing.NOISE = before
    np.testing.assert_array_equal(filled[~mask], x[~mask])
    for sample, missing in zip(filled, mask, strict=True):
        for i, j in np.argwhere(missing):
            weights, total = 0.0, 0.0
            for a, b in np.ndindex(3, 3):
                k, m = i + a - 1, j + b - 1
                if (a, b) != (1, 1) and 0 <= k < 6 and 0 <= m < 6:
                    weight = 2 if 1 in (a, b) else 1
                    weights, total = weights + weight, total + weight * sample[k, m]
            np.testing.assert_allclose(sample[i, j], total / weights, atol=1e-9)
    (noisy,) = evaluate.changing.changer(explained, "inpaint")(mask.reshape(4, UNITS))
    assert 0 < np.abs(noisy - filled).max() < 0.1


def _linear(shape, form):
    """A linear model of samples of a shape, with `form` in front."""
    flat = [layers.Flatten()] if len(shape) > 1 else []
    return randomized(keras.Sequential([keras.Input(shape, dtype="float64"), *form, *flat, layers.Dense(2)]))


def _without_regions(model, x, relevance, regions, axis, steps):
    """The output while regions are set to zero, the most relevant ones first; sample by sample."""
    curves = []
    for sample, r, region in zip(x, relevance, regions, strict=True):
        names = np.unique(region)
        order = sorted(names, key=lambda name: -r[region == name].sum())
        curve = []
        for step in range(steps + 1):
            taken = np.isin(region, order[: int(np.ceil(step / steps * len(names) - 0.5))])
            changed = np.where(taken if axis is None else np.expand_dims(taken, axis), 0, sample)
            curve.append(score(model, changed, 0))
        curves.append(curve)
    return np.array(curves)


@pytest.mark.parametrize("shape, axis", [((12, 12, 1), -1), ((12, 12, 3), -1), ((3, 12, 12), 1), ((12, 12), None)])
def test_superpixels(shape, axis):
    segmentation = pytest.importorskip("skimage.segmentation")
    x = np.random.default_rng(0).uniform(size=(3, *shape))
    x[:, 4:8, 4:8] += 2
    model = _linear(shape, [layers.ReLU()])
    analyzer = revgraph.create_analyzer("input_t_gradient", model)
    inner = None if axis is None else axis % 4 - 1
    pictures = x if inner is None else np.moveaxis(x, axis, -1)
    regions = np.stack(
        [segmentation.slic(p, n_segments=50, channel_axis=None if axis is None else -1) for p in pictures]
    )
    assert len(np.unique(regions)) > 5
    relevance = analyzer.analyze(x, 0)
    relevance = relevance if axis is None else relevance.sum(axis=axis)
    found = evaluate.Deletion(4, regions="superpixels")(analyzer, x, 0, channel_axis=axis)
    np.testing.assert_allclose(found.curve, _without_regions(model, x, relevance, regions, inner, 4), rtol=1e-4)


@pytest.mark.parametrize("shape", [(10,), (10, 2)])
def test_segments_of_a_series(shape):
    x = np.random.default_rng(1).normal(size=(3, *shape))
    model = _linear(shape, [layers.ReLU()])
    analyzer = revgraph.create_analyzer("input_t_gradient", model)
    relevance = analyzer.analyze(x, 0).reshape(3, 10, -1).sum(axis=-1)
    segments, axis = np.tile(np.arange(10) // 4, (3, 1)), None if len(shape) == 1 else -1
    expected = _without_regions(model, x, relevance, segments, axis, 3)
    np.testing.assert_allclose(evaluate.Deletion(3, regions=4)(analyzer, x, 0).curve, expected, rtol=1e-6)
    # Segments of any length, which differ from sample to sample.
    own = np.sort(np.random.default_rng(2).integers(5, 9, (3, 10)), axis=1)
    found = evaluate.Deletion(2, regions=own)(analyzer, x, 0).curve
    np.testing.assert_allclose(found, _without_regions(model, x, relevance, own, axis, 2), rtol=1e-6)


def test_correlations(data, model, analyzer):
    x, y, _ = data
    found = evaluate.LeaveOneOut()(analyzer, x, y).values
    for value, (x, label, _, r) in zip(found, each(data, analyzer), strict=True):
        falls = []
        for i, j in np.ndindex(6, 6):
            changed = x.copy()
            changed[i, j] = 0
            falls.append(score(model, x, label) - score(model, changed, label))
        assert value == pytest.approx(stats.spearmanr(r.ravel(), falls).statistic)
    # Where the output is a sum of the inputs' shares, both sides of the correlation are the same.
    linear = randomized(keras.Sequential([keras.Input((9,), dtype="float64"), layers.Dense(2)]))
    sums = evaluate.FaithfulnessCorrelation((3, 0.5), subsets=20)
    exact = revgraph.create_analyzer("input_t_gradient", linear)
    z = np.random.default_rng(0).normal(size=(3, 9))
    scores = sums(exact, z)
    np.testing.assert_allclose(scores.curve, 1, rtol=1e-5)
    assert scores.positions == (3, 4)
    np.testing.assert_allclose(sums(exact, z, relevance=-exact.analyze(z)).values, -1, rtol=1e-5)


def test_comprehensiveness_and_sufficiency(data, model, analyzer):
    x, y, _ = data
    shares = (0.01, 0.25, 0.5)
    without, only = evaluate.Comprehensiveness(shares)(analyzer, x, y), evaluate.Sufficiency(shares)(analyzer, x, y)
    for a, b, (x, label, _, r) in zip(without.values, only.values, each(data, analyzer), strict=True):
        used = [1 / UNITS, *shares[1:]]
        full = score(model, x, label)
        assert a == pytest.approx(np.mean(full - flipped(model, x, label, r, used)))
        assert b == pytest.approx(np.mean(full - flipped(model, x, label, r, used, keep=True)))


def test_localisation(data, analyzer):
    x, y, truth = data
    names = ("pointing_game", "relevance_mass", "relevance_rank", "earth_movers_distance")
    scores = {name: evaluate.METRICS[name]()(analyzer, x, y, truth=truth).values for name in names}
    for i, (_, _, there, r) in enumerate(each(data, analyzer)):
        assert scores["pointing_game"][i] == there.ravel()[r.argmax()]
        assert scores["relevance_mass"][i] == pytest.approx(r[there & (r > 0)].sum() / r[r > 0].sum())
        top = np.argsort(-r.ravel())[: there.sum()]
        assert scores["relevance_rank"][i] == pytest.approx(there.ravel()[top].mean())
    perfect = truth.astype(float)
    for name, best in zip(names, (1, 1, 1, 0), strict=True):
        found = evaluate.METRICS[name]()(analyzer, x, y, truth=truth, relevance=perfect).values
        np.testing.assert_allclose(found, best, atol=1e-9)


def test_the_size_of_relevance_and_equal_values(data, analyzer):
    x, y, truth = data
    against = np.where(truth, -3.0, 1.0)
    for name, signed in (("pointing_game", 0), ("relevance_mass", 0), ("relevance_rank", 0)):
        metric = evaluate.METRICS[name]
        np.testing.assert_allclose(metric()(analyzer, x, y, truth=truth, relevance=against).values, signed)
        sizes = metric(absolute=True)(analyzer, x, y, truth=truth, relevance=against).values
        np.testing.assert_allclose(sizes, 27 / 54 if name == "relevance_mass" else 1)
    # A map that is the same everywhere is worth as much as a guess, wherever the truth is.
    same = evaluate.RelevanceRank()(analyzer, x, y, truth=truth, relevance=np.ones(truth.shape))
    np.testing.assert_allclose(same.values, 9 / UNITS)


def test_a_function_is_measured_like_an_analyzer(data, model, analyzer):
    x, y, _ = data

    def mine(of, samples, classes):
        assert of is model
        return revgraph.create_analyzer("input_t_gradient", of).analyze(samples, classes)

    own = evaluate.FunctionAnalyzer(model, mine)
    assert own.name == "mine" and evaluate.FunctionAnalyzer(model, mine, "other").name == "other"
    expected = analyzer.analyze(x, y)
    np.testing.assert_allclose(own.analyze(x, y, batch_size=3), expected)
    np.testing.assert_allclose(own.analyze(x), analyzer.analyze(x))
    result = evaluate.compare(model, x, y, analyzers=[mine, analyzer], metrics=["deletion", "random_logit"])
    for metric in result.metrics:
        np.testing.assert_allclose(*(result.scores[name][metric].values for name in result.scores))
    # Relevance without channels is enough.
    flat = evaluate.FunctionAnalyzer(model, lambda of, samples, classes: analyzer.analyze(samples, classes).sum(-1))
    np.testing.assert_allclose(evaluate.Deletion()(flat, x, y).values, evaluate.Deletion()(analyzer, x, y).values)
    for wrong in (3, np.abs, lambda samples: samples):
        with pytest.raises(TypeError, match=r"such as lambda model, x, y: mine\(x\)"):
            evaluate.FunctionAnalyzer(model, wrong)
    with pytest.raises(TypeError, match="does not take 'layer'"):
        own.analyze(x, layer="dense")
    with pytest.raises(TypeError, match=r"FunctionAnalyzer\(model, function\)"):
        evaluate.Deletion()(mine, x, y)
    for wrong in (3, model):
        with pytest.raises(TypeError, match="An analyzer is a name"):
            evaluate.compare(model, x, y, analyzers={"wrong": wrong}, metrics=["deletion"])


def test_the_distance_that_earth_is_moved(analyzer, data):
    """Along one line the distance is the area between the two sums."""
    line = np.zeros((1, 6, 6))
    line[0, 2] = [0, 1, 0, 0, 0, 3]
    truth = np.zeros((1, 6, 6), bool)
    truth[0, 2, :2] = True
    found = evaluate.EarthMoversDistance()(analyzer, data[0][:1], 0, truth=truth, relevance=line).values
    moved = stats.wasserstein_distance(range(6), [0, 1], [0, 1, 0, 0, 0, 3])
    np.testing.assert_allclose(found, moved / np.hypot(5, 5))


def test_complexity(data, analyzer):
    x, y, _ = data
    gini, entropy = evaluate.Sparseness()(analyzer, x, y).values, evaluate.Entropy()(analyzer, x, y).values
    for i, (*_, r) in enumerate(each(data, analyzer)):
        r = np.abs(r.ravel())
        # Gini: half the mean difference of two units, relative to the mean.
        assert gini[i] == pytest.approx(np.abs(r[:, None] - r).mean() / (2 * r.mean()))
        assert entropy[i] == pytest.approx(stats.entropy(r))
    one = np.zeros((4, 6, 6))
    one[:, 2, 2] = 7
    np.testing.assert_allclose(evaluate.Entropy()(analyzer, x, y, relevance=one).values, 0)
    np.testing.assert_allclose(evaluate.Sparseness()(analyzer, x, y, relevance=one).values, 1 - 1 / UNITS)
    nothing = evaluate.Sparseness()(analyzer, x, y, relevance=0 * one)
    assert np.isnan(nothing.values).all() and np.isnan(nothing.mean) and "not defined for 4" in nothing.table()


def test_robustness(data, model, analyzer):
    x, y, _ = data
    # The relevance of a linear model is x * w, so noise n changes it by n * w.
    stack = [layers.Flatten(), layers.Dense(3)]
    linear = randomized(keras.Sequential([keras.Input((6, 6, 2), dtype="float64"), *stack]))
    exact = revgraph.create_analyzer("input_t_gradient", linear)
    random, radius = np.random.default_rng(1), 0.05 * np.ptp(x)
    w = np.moveaxis(np.asarray(linear.layers[-1].kernel).reshape(6, 6, 2, 3), -1, 0)[y]
    sensitive, slopes = [], []
    for _ in range(3):
        noise = random.uniform(-radius, radius, x.shape)
        change = np.linalg.norm((noise * w).reshape(4, -1), axis=1)
        sensitive.append(change / np.linalg.norm((x * w).reshape(4, -1), axis=1))
        slopes.append(change / np.linalg.norm(noise.reshape(4, -1), axis=1))
    found = evaluate.MaxSensitivity(0.05, 3, seed=1)(exact, x, y).values
    np.testing.assert_allclose(found, np.max(sensitive, axis=0), rtol=1e-6)
    found = evaluate.LocalLipschitz(0.05, 3, seed=1)(exact, x, y).values
    np.testing.assert_allclose(found, np.max(slopes, axis=0), rtol=1e-6)
    constant = revgraph.create_analyzer("gradient", linear)
    np.testing.assert_allclose(evaluate.MaxSensitivity()(constant, x, y).values, 0, atol=1e-12)


def test_randomisation_leaves_the_model_as_it_was(data, model, analyzer):
    x, y, _ = data
    before, relevance = [w.numpy() for w in model.weights], analyzer.analyze(x, y)
    scores = evaluate.ParameterRandomisation()(analyzer, x, y)
    assert [name.split("_")[0] for name in scores.positions] == ["dense", "conv2d"]
    assert scores.curve.shape == (4, 2) and scores.mean < 0.9
    single = evaluate.ParameterRandomisation(cascading=False)(analyzer, x, y)
    # The layer at the output is the first of both, and the second differs.
    np.testing.assert_allclose(single.curve[:, 0], scores.curve[:, 0])
    assert (np.abs(single.curve[:, 1] - scores.curve[:, 1]) > 1e-6).any()
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    np.testing.assert_array_equal(analyzer.analyze(x, y), relevance)
    # What does not look at the model does not change.
    blind = evaluate.ParameterRandomisation()(revgraph.create_analyzer("input", model), x, y)
    np.testing.assert_allclose(blind.values, 1)


@pytest.mark.parametrize("cascading", [True, False])
@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_leaves_the_model_as_it_was(cascading, at, data, model, analyzer, monkeypatch):
    x, y, _ = data
    before, calls = [w.numpy().tobytes() for w in model.weights], []

    def explain(self, xs=None, index=None):
        calls.append(None)
        if len(calls) == at:
            assert [w.numpy().tobytes() for w in model.weights] != before
            raise KeyboardInterrupt
        return [np.asarray(analyzer.analyze(x, self.index))]

    monkeypatch.setattr(evaluate.explained.Explained, "explain", explain)
    with pytest.raises(KeyboardInterrupt):
        evaluate.ParameterRandomisation(cascading)(analyzer, x, y)
    assert [w.numpy().tobytes() for w in model.weights] == before


def test_other_classes_and_axioms(data, model, analyzer):
    x, y, _ = data
    blind = revgraph.create_analyzer("input", model)
    np.testing.assert_allclose(evaluate.RandomLogit()(blind, x, y).values, 1)
    assert evaluate.RandomLogit()(analyzer, x, y).mean < 0.9
    exact = revgraph.create_analyzer("lrp.z", randomized(_without_biases(model)))
    np.testing.assert_allclose(evaluate.Completeness()(exact, x, y).values, 0, atol=1e-6)
    path = revgraph.create_analyzer("integrated_gradients", model, steps=200)
    assert evaluate.Completeness(baseline="zero")(path, x, y).mean < 0.02
    assert evaluate.Completeness()(revgraph.create_analyzer("gradient", model), x, y).mean > 0.1


def test_a_map_that_is_turned_over_is_the_same_map(data):
    """The second class is the first with another sign, and so is its relevance."""
    x = data[0]
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Flatten(), layers.Dense(2, use_bias=False)])
    half = np.random.default_rng(0).normal(size=(x[0].size, 1))
    model.set_weights([np.concatenate([half, -half], axis=1)])
    analyzer = revgraph.create_analyzer("gradient", model)
    np.testing.assert_allclose(evaluate.RandomLogit()(analyzer, x, 0).values, 1, rtol=1e-6)


def _without_biases(model):
    twin = keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config({**layer.get_config(), "use_bias": False})
        if hasattr(layer, "use_bias") else type(layer).from_config(layer.get_config()),
    )  # fmt: skip
    return twin


def test_the_same_function_in_another_form(data, model):
    x, y, _ = data
    twin = evaluate.axioms.split_layers(model)
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-6)
    assert len(twin.layers) > len(model.layers) + 1
    invariant = evaluate.ImplementationInvariance()(revgraph.create_analyzer("gradient", model), x, y)
    np.testing.assert_allclose(invariant.values, 0, atol=1e-6)
    differs = evaluate.ImplementationInvariance()(revgraph.create_analyzer("lrp.alpha_2_beta_1", model), x, y)
    assert differs.mean > 0.01
    wrapper = GaussianSmoother(revgraph.create_analyzer("gradient", model), 4, 0.1, seed=0)
    for each in (revgraph.create_analyzer("smoothgrad", model, augment_by_n=4, noise_scale=0.1, seed=0), wrapper):
        np.testing.assert_allclose(evaluate.ImplementationInvariance()(each, x, y).values, 0, atol=1e-5)
    given = evaluate.ImplementationInvariance(twin)(revgraph.create_analyzer("gradient", model), x, y)
    np.testing.assert_allclose(given.values, 0, atol=1e-6)
    twin.set_weights([2 * weight for weight in twin.get_weights()])
    with pytest.raises(ValueError, match="not the same function"):
        evaluate.ImplementationInvariance(twin)(revgraph.create_analyzer("gradient", model), x, y)


# Analyzers that are wrong on purpose.

BOTH = {"shuffled", "other model"}
SEES = {
    **dict.fromkeys(("deletion", "insertion", "relevance_gain", "comprehensiveness", "sufficiency"), BOTH),
    **dict.fromkeys(("faithfulness_correlation", "leave_one_out"), BOTH),
    **dict.fromkeys(("pointing_game", "relevance_mass", "relevance_rank", "earth_movers_distance"), BOTH),
    # What was learned does not matter to an analyzer of another model, and chance depends on nothing.
    "parameter_randomisation": {"other model"},
    "random_logit": {"one class"},
    "max_sensitivity": {"shuffled"},
    "local_lipschitz": {"shuffled"},
    "completeness": {"other model"},
    "implementation_invariance": {"shuffled"},
    "sparseness": set(),
    "entropy": set(),
}
"""Which wrong analyzers each metric claims to see."""

CANNOT = {
    "sparseness": {"shuffled"},
    "entropy": {"shuffled"},
    "completeness": {"shuffled"},
}
"""Wrong analyzers that have the same score as the right one."""


@pytest.fixture(scope="module")
def solved():
    train, test = evaluate.problems.motif(1500, 32), evaluate.problems.motif(150, 32, seed=1)
    model = train.fitted()
    assert test.solved(model).mean() > 0.95
    return model, test[test.solved(model)]


@pytest.fixture(scope="module")
def measured(solved):
    """The score of a right analyzer and of wrong ones under every metric."""
    model, test = solved
    test, random, made = test[:40], np.random.default_rng(0), {}
    other = revgraph.create_analyzer("gradient", evaluate.problems.motif(8, 32).model())

    def right(of, x, y):
        if id(of) not in made:
            made[id(of)] = of, revgraph.create_analyzer("lrp.epsilon", of, epsilon=1e-3)
        return made[id(of)][1].analyze(x, y)

    functions = {
        "right": right,
        "shuffled": lambda of, x, y: random.permuted(right(of, x, y), axis=1),
        "other model": lambda of, x, y: other.analyze(x, y),
        "one class": lambda of, x, y: right(of, x, 0),
    }

    def scores(name):
        metric = evaluate.METRICS[name]()
        found = {}
        for kind, function in functions.items():
            analyzer = evaluate.FunctionAnalyzer(model, function, kind)
            sign = 1 if metric.higher_is_better else -1
            found[kind] = sign * metric(analyzer, test.x, test.y, truth=test.truth, batch_size=64).mean
        return found

    return scores


def test_it_is_known_of_every_metric_what_it_sees():
    assert SEES.keys() == evaluate.METRICS.keys()


@pytest.mark.parametrize("name", SEES)
def test_wrong_analyzers_lose_where_a_metric_sees_them(name, measured):
    found = measured(name)
    for wrong in SEES[name]:
        assert found["right"] > found[wrong], wrong
    for wrong in CANNOT.get(name, ()):
        assert found["right"] == pytest.approx(found[wrong], rel=1e-4), wrong


# Comparisons.


def test_a_comparison(solved, tmp_path, monkeypatch):
    model, test = solved
    arguments = {"analyzers": ["lrp.epsilon", "random"], "metrics": ["relevance_mass", evaluate.Deletion(4)]}
    out = tmp_path / "scores.json"
    result = evaluate.compare(model, test.x, test.y, truth=test.truth, out=out, **arguments)
    assert result.ranks == {
        "lrp.epsilon": dict.fromkeys(result.metrics, 1.0),
        "random": dict.fromkeys(result.metrics, 2.0),
    }
    table = result.table()
    assert table.index("lrp.epsilon") < table.index("random") and "may be chance" in table
    low, high = result.scores["random"]["deletion"].interval()
    assert low < result.scores["random"]["deletion"].mean < high
    result.plot()
    result.save(tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 5
    result.save(tmp_path / "all.json")
    loaded = evaluate.Comparison.load(tmp_path / "all.json")
    assert loaded.table() == table and loaded.ranks == result.ranks
    (tmp_path / "other.json").write_text("[1]")
    for path in ("other.json", "table.csv"):
        with pytest.raises(ValueError, match="is no comparison that was saved"):
            evaluate.Comparison.load(tmp_path / path)
    # The same call reads the file, and computes what is new.
    monkeypatch.setattr(evaluate.Deletion, "values", lambda self, explained: pytest.fail("computed again"))
    again = evaluate.compare(model, test.x, test.y, truth=test.truth, out=out, **arguments)
    assert again.table() == table
    with pytest.raises(ValueError, match="another model or of other samples"):
        evaluate.compare(model, test.x[:-1], test.y[:-1], truth=test.truth[:-1], out=out, **arguments)
    out.write_text("[]")
    with pytest.raises(ValueError, match="does not keep scores"):
        evaluate.compare(model, test.x, test.y, truth=test.truth, out=out, **arguments)


def test_scores_are_taken_from_a_file_only_if_nothing_has_changed(data, model, tmp_path):
    x, y, _ = data

    def deletion(fill):
        metric = evaluate.Deletion(2, lambda x: np.full_like(x, fill))
        result = evaluate.compare(model, x, y, analyzers=["gradient"], metrics=[metric], out=tmp_path / "kept.json")
        return result.scores["gradient"]["deletion"].curve[:, -1]

    # Both functions are called <lambda>.
    assert not np.allclose(deletion(0), deletion(1))

    def entropy(analyzer, of=model):
        arguments = {"analyzers": {"a": analyzer}, "metrics": ["entropy"], "out": tmp_path / "other.json"}
        return evaluate.compare(of, x, y, **arguments).scores["a"]["entropy"].mean

    # Two analyzers have one name in the table.
    assert entropy("lrp.epsilon") != entropy(revgraph.create_analyzer("lrp.epsilon", model, epsilon=10))
    # The path of a file stays, and the model in it is another one.
    twin = keras.models.clone_model(model)
    twin.set_weights([2 * weight for weight in model.get_weights()])
    model.save(tmp_path / "model.keras")
    entropy("gradient", tmp_path / "model.keras")
    twin.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="another model or of other samples"):
        entropy("gradient", tmp_path / "model.keras")
    with pytest.raises(ValueError, match="'a' is an analyzer of another model"):
        entropy(revgraph.create_analyzer("gradient", twin))


def test_equal_scores_share_their_places(data, model):
    x, y, truth = data
    same = {"a": "gradient", "b": "gradient", "c": lambda of, samples, classes: np.ones_like(samples)}
    result = evaluate.compare(model, x, y, analyzers=same, metrics={"few": "entropy"})
    assert result.ranks["a"]["few"] == result.ranks["b"]["few"] == 1.5 and result.ranks["c"]["few"] == 3


def test_scores_are_saved_and_drawn(data, analyzer, tmp_path):
    x, y, _ = data
    scores = evaluate.Deletion(4)(analyzer, x, y, verbose=0)
    scores.plot(), evaluate.Entropy()(analyzer, x, y).plot(), evaluate.ParameterRandomisation()(analyzer, x, y).plot()
    scores.save(tmp_path / "scores.json")
    again = evaluate.Scores.from_dict(json.loads((tmp_path / "scores.json").read_text()))
    np.testing.assert_array_equal(again.values, scores.values)
    np.testing.assert_array_equal(again.curve, scores.curve)
    nothing = evaluate.Sparseness()(analyzer, x, y, relevance=np.zeros((4, 6, 6)))
    fields = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert fields["mean"] is None and np.isnan(evaluate.Scores.from_dict(fields).values).all()
    scores.save(tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "sample,analyzer,deletion" and len(lines) == 5
    with pytest.raises(ValueError, match=r"\.json or \.csv"):
        scores.save(tmp_path / "scores.txt")


def test_tokens_are_units():
    problem = evaluate.problems.needle(6, 16, 6)
    analyzer = revgraph.create_analyzer("lrp.cp", problem.model())
    for metric in (
        evaluate.Deletion(4),
        evaluate.LeaveOneOut(),
        evaluate.Comprehensiveness((0.2,)),
        evaluate.Sparseness(),
    ):
        assert metric(analyzer, problem.x, problem.y).values.shape == (6,)
    masked = evaluate.Deletion(1, baseline=3)(analyzer, problem.x, 0).curve[:, 1]
    np.testing.assert_allclose(masked, masked[0], rtol=1e-5)
    with pytest.raises(ValueError, match="ids"):
        evaluate.Deletion(regions=3)(analyzer, problem.x, problem.y)
    with pytest.raises(ValueError, match="Pass the id"):
        evaluate.Deletion(baseline="blur")(analyzer, problem.x, problem.y)
    with pytest.raises(ValueError, match="ids have no neighbours"):
        evaluate.MaxSensitivity()(analyzer, problem.x, problem.y)


# Bad input.


@pytest.mark.parametrize(
    "metric, options, error, message",
    [
        ("deletion", {"y": [9, 0, 0, 0]}, ValueError, "out of range"),
        ("deletion", {"y": [0.5, 0, 0, 0]}, ValueError, "one int per sample"),
        ("deletion", {"y": [0, 1]}, ValueError, "one int per sample"),
        ("deletion", {"relevance": np.zeros((4, 6))}, ValueError, "that without channels"),
        ("deletion", {"relevance": np.full((4, 6, 6), np.nan)}, ValueError, "must be finite"),
        ("relevance_mass", {}, ValueError, "pass truth="),
        ("relevance_mass", {"truth": np.ones((4, 5, 6), bool)}, ValueError, "truth is an array of bool of shape"),
        ("relevance_mass", {"truth": np.ones((4, 6, 6))}, ValueError, "Received: float64"),
        ("relevance_mass", {"truth": np.zeros((4, 6, 6), bool)}, ValueError, "names none in sample 0"),
        ("deletion", {"batch_size": 0}, ValueError, "batch_size must be a positive int"),
    ],
)
def test_bad_data(metric, options, error, message, data, analyzer):
    with pytest.raises(error, match=message):
        evaluate.METRICS[metric]()(analyzer, data[0], **options)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: evaluate.Deletion(0), ValueError, "steps must be a positive int"),
        (lambda: evaluate.Deletion(baseline="grey"), ValueError, "baseline is a number"),
        (lambda: evaluate.Deletion(baseline=np.zeros(5)), ValueError, "must broadcast"),
        (lambda: evaluate.Deletion(regions=(2,)), ValueError, "a size for each of the axes"),
        (lambda: evaluate.Deletion(regions="words"), ValueError, "superpixels"),
        (lambda: evaluate.Deletion(baseline="mask"), ValueError, "no tokenizer says"),
        (lambda: evaluate.Deletion(regions=np.zeros(3, int)), ValueError, "regions is an array of ints"),
        (lambda: evaluate.FaithfulnessCorrelation(36), ValueError, "below all 36"),
        (lambda: evaluate.MaxSensitivity(0), ValueError, "radius must be a number > 0"),
    ],
)
def test_bad_options(make, error, message, data, analyzer):
    with pytest.raises(error, match=message):
        make()(analyzer, data[0])


def test_what_metrics_refuse(data, model, tmp_path):
    x, y, truth = data
    with pytest.raises(TypeError, match="takes an analyzer"):
        evaluate.Deletion()(model, x, y)
    one = keras.Input((2,))
    heads = keras.Model(one, [layers.Dense(2)(one), layers.Dense(3)(one)])
    with pytest.raises(TypeError, match="the only output of a model"):
        evaluate.Deletion()(revgraph.create_analyzer("gradient", heads), np.ones((2, 2)))
    deciding = keras.Model(one, keras.ops.argmax(layers.Dense(2)(one), axis=-1))
    with pytest.raises((TypeError, ValueError)):
        evaluate.Deletion()(revgraph.create_analyzer("gradient", deciding), np.ones((2, 2)))
    steps = keras.Sequential([keras.Input((4, 2)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"keras.Model\(model.inputs, model.outputs\[0\]\[:, -1\]\)"):
        evaluate.Deletion()(revgraph.create_analyzer("gradient", steps), np.ones((2, 4, 2)))
    last = keras.Model(steps.inputs, steps.outputs[0][:, -1])
    assert evaluate.Deletion()(revgraph.create_analyzer("gradient", last), np.ones((2, 4, 2))).values.shape == (2,)
    with pytest.raises(KeyError, match="no metric 'delete'"):
        evaluate.compare(model, x, y, analyzers=["gradient"], metrics=["delete"])
    with pytest.raises(ValueError, match="is there twice"):
        evaluate.compare(model, x, y, analyzers=["gradient", "gradient"], metrics=["deletion"])
    with pytest.raises(ValueError, match="lists, or dicts"):
        evaluate.compare(model, x, y, analyzers="gradient", metrics=["deletion"])
    with pytest.raises(ValueError, match="'relevance_mass' compare with the truth"):
        evaluate.compare(model, x, y, analyzers=["gradient"], metrics=["relevance_mass"])
    frozen = revgraph.create_analyzer("lrp.epsilon", model, freeze=True)
    with pytest.raises(TypeError, match="without freeze=True"):
        evaluate.ParameterRandomisation()(frozen, x, y)
    model.export(tmp_path / "exported", verbose=False)
    exported = revgraph.create_analyzer("gradient", revgraph.load_model(tmp_path / "exported"))
    with pytest.raises(TypeError, match="no Keras model"):
        evaluate.ParameterRandomisation()(exported, x, y)
    # What needs no weights works for it.
    expected = evaluate.Deletion(3)(revgraph.create_analyzer("gradient", model), x, y).values
    np.testing.assert_allclose(evaluate.Deletion(3)(exported, x, y).values, expected, rtol=1e-4)
    one = randomized(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))
    with pytest.raises(ValueError, match="has one only"):
        evaluate.RandomLogit()(revgraph.create_analyzer("gradient", one), np.ones((2, 3)))
