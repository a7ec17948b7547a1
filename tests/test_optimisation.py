"""What the engine knows and reuses changes nothing: every optimisation against the plain path, in float64."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.analyzers.knowledge import positive_sites
from revgraph.analyzers.reverse_graph import ReverseGraph
from revgraph.analyzers.walk import Question, Walk

ARGUMENTS = {
    "lrp.epsilon_gamma_box": {"low": -5, "high": 5},
    "deep_taylor.bounded": {"low": -5, "high": 5},
    "lrp.alpha_2_beta_1_IB": {"convention": "innvestigate"},
    "deep_taylor": {"convention": "innvestigate"},
}
NAMES = (
    "lrp.z lrp.epsilon_IB lrp.gamma lrp.w_square lrp.flat lrp.alpha_2_beta_1 lrp.alpha_2_beta_1_IB lrp.alpha_1_beta_0 "
    "lrp.z_plus lrp.b_rule lrp.sequential_preset_b_flat lrp.epsilon_gamma_box deep_taylor deep_taylor.bounded".split()
)


@pytest.fixture
def model(float64, rng):
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, activation="relu")(x)
    h = r = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(h))
    h = layers.Conv2D(4, 3, padding="same", activation="relu", name="positive")(layers.ReLU()(h))
    h = layers.ReLU()(layers.Add()([layers.Conv2D(4, 3, padding="same", name="summand")(h), r]))
    h = layers.Flatten()(layers.AveragePooling2D(2)(layers.MaxPooling2D(2)(h)))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu")(h)))
    model.set_weights(
        [rng.normal(size=w.shape) if w.ndim > 1 else rng.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    )
    return model


def plainly(analyzer, x, **options):
    """What the analyzer gives without any optimisation."""
    question = Question(analyzer.graph.output_slots)
    reverse = analyzer._walk(question).reverse
    plain = ReverseGraph(reverse.graph, reverse.bound, question.starts, plain=True)
    analyzer._walks[question] = Walk(plain, question, analyzer._own_start, analyzer._finish)
    return analyzer.analyze(x, **options)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_plain_path(name, model, rng):
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    x = rng.normal(size=(3, 8, 8, 3))
    fast = analyzer.analyze(x, 2)
    assert (np.abs(fast).max(axis=(1, 2, 3)) > 0).all()
    plain = plainly(analyzer, x, neuron_selection=2)
    np.testing.assert_allclose(fast, plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("freeze", "lrp.alpha_2_beta_1"),
        ("freeze", "lrp.gamma"),
        ("jit_compile", "lrp.epsilon"),
        ("jit_compile", "lrp.gamma"),
    ],
)
def test_options_change_nothing(option, name, model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    usual = revgraph.create_analyzer(name, model, max_growth=np.inf).analyze(x, 2)
    optional = revgraph.create_analyzer(name, model, max_growth=np.inf, **{option: True}).analyze(x, 2)
    np.testing.assert_allclose(optional, usual, rtol=1e-10, atol=1e-10 * np.abs(usual).max())


def test_frozen_weights_stay_as_they_were(model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    frozen = revgraph.create_analyzer("lrp.z_plus", model, freeze=True)
    live = revgraph.create_analyzer("lrp.z_plus", model)
    before = frozen.analyze(x, 2)
    model.set_weights([0.9 * w for w in model.get_weights()])
    np.testing.assert_array_equal(frozen.analyze(x, 2), before)
    assert np.abs(live.analyze(x, 2) - before).max() > 1e-3 * np.abs(before).max()


def test_zeros_of_relevance_are_known_only_behind_a_rectifier(model):
    analyzer = revgraph.create_analyzer("lrp.gamma", model)
    reverse = analyzer._walk(Question(analyzer.graph.output_slots)).reverse
    known = {site.path for site in positive_sites(reverse.graph, reverse.bound, analyzer.graph.output_slots)}
    assert "positive" in known and "summand" not in known
    flat = revgraph.create_analyzer("lrp.flat", model)
    reverse = flat._walk(Question(flat.graph.output_slots)).reverse
    assert "positive" not in {s.path for s in positive_sites(reverse.graph, reverse.bound, flat.graph.output_slots)}


@pytest.mark.parametrize("name", ["lrp.alpha_2_beta_1", "lrp.gamma"])
def test_the_same_bit_for_bit_each_time(name, model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    first = analyzer.analyze(x)
    for _ in range(100):
        np.testing.assert_array_equal(analyzer.analyze(x), first)


def test_gamma_in_float32_on_a_residual_network():
    """Compiled, a forward pass and denominators that round differently once gave relevance of nothing."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    h = layers.Conv2D(16, 3, padding="same", use_bias=False, dtype="float32")(inputs)
    h = r = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(h))
    h = layers.AveragePooling2D(2)(layers.ReLU()(layers.Add()([h, r])))
    h = layers.Flatten()(layers.Conv2D(32, 3, padding="same", activation="relu")(h))
    model = keras.Model(inputs, layers.Dense(10)(h))
    x = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    analyzer = revgraph.create_analyzer("lrp.epsilon_gamma_box", model, low=0, high=1, gamma=0.5, max_growth=np.inf)
    fast = analyzer.analyze(x)
    np.testing.assert_allclose(fast, plainly(analyzer, x), rtol=1e-3, atol=1e-4 * np.abs(fast).max())
