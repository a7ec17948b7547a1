"""The ledger: what is absorbed where, how it prints, what it draws."""

import json
import warnings

import keras
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.canonize import canonize
from revgraph.composites import everywhere
from revgraph.reverse import ledger as conservation
from revgraph.reverse.dangers import growths, warn_of_growth
from revgraph.reverse.ledger import Conservation, Entry
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse_rules import Epsilon

DOUBLE = {"dtype": "float64"}


def dense(kernel, bias):
    """A model of one unit."""
    x = keras.Input((len(kernel),), name="x", **DOUBLE)
    unit = layers.Dense(1, name="unit", **DOUBLE)
    model = keras.Model(x, unit(x), name="one")
    unit.set_weights([np.reshape(kernel, (-1, 1)), np.reshape(bias, (1,))])
    return model


def convolutional():
    """A residual block between convolutions, with random weights and statistics."""
    image = keras.Input((6, 6, 2), name="image", **DOUBLE)
    x = layers.Conv2D(4, 3, padding="same", name="conv", **DOUBLE)(image)
    x = layers.BatchNormalization(name="bn", **DOUBLE)(x)
    x = layers.ReLU(name="relu", **DOUBLE)(x)
    branch = layers.Conv2D(4, 3, padding="same", name="branch", **DOUBLE)(x)
    x = layers.Add(name="add", **DOUBLE)([x, branch])
    x = layers.AveragePooling2D(2, name="pool", **DOUBLE)(x)
    x = layers.Flatten(name="flatten", **DOUBLE)(x)
    model = keras.Model(image, layers.Dense(3, name="logits", **DOUBLE)(x), name="small")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        values = rng.normal(size=variable.shape)
        variable.assign(0.1 + values**2 if "variance" in variable.path else values)
    return model


X = np.random.default_rng(1).normal(size=(5, 6, 6, 2))


@pytest.fixture(scope="module")
def analyzer():
    return revgraph.create_analyzer("lrp.epsilon", convolutional(), epsilon=0.01)


@pytest.fixture(scope="module")
def report(analyzer):
    return analyzer.conservation(X)


def test_one_unit_by_hand():
    # z = 1 + 2 + 1 = 4, s = R / (z + epsilon) = 4 / 4.5: the bias keeps 1 * s, the stabiliser epsilon * s.
    report = revgraph.create_analyzer("lrp.epsilon", dense([1, 1], 1), epsilon=0.5).conservation([[1.0, 2.0]])
    assert len(report) == 1
    np.testing.assert_allclose(report.start, [4])
    np.testing.assert_allclose(report.input, [3 * 4 / 4.5])
    np.testing.assert_allclose(report.bias, [4 / 4.5])
    np.testing.assert_allclose(report.stabiliser, [0.5 * 4 / 4.5])
    np.testing.assert_allclose(report.other, [0], atol=1e-12)
    (entry,) = report.layers
    np.testing.assert_allclose(entry.growth, [3 / 4.5])
    np.testing.assert_allclose(entry.lost, [4 - 3 * 4 / 4.5])


@pytest.mark.parametrize(
    "name",
    ["lrp.z", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.alpha_2_beta_1", "lrp.epsilon_plus_flat"],
)
def test_nothing_is_lost_unaccounted_for(name):
    report = revgraph.create_analyzer(name, convolutional()).conservation(X)
    for entry in (report, *report.layers):
        np.testing.assert_allclose(entry.start, sum(getattr(entry, name) for name in conservation.FIELDS[1:]))
    assert np.all(np.abs(report.other) <= 1e-9 * np.abs(report.start))
    for name in conservation.ABSORBED:
        np.testing.assert_allclose(getattr(report, name), sum(getattr(entry, name) for entry in report.layers))


def test_one_sample_is_the_row_of_the_batch(analyzer, report):
    alone = analyzer.conservation(X[3:4])
    for one in (report[3], report[3:4], report[-2], report[[3]]):
        assert len(one) == 1
        np.testing.assert_allclose(one.input, alone.input)
        np.testing.assert_allclose(one.layers[0].growth, alone.layers[0].growth)
    assert len(report[[0, 2]]) == 2
    with pytest.raises(IndexError):
        report[5]


def test_batches_are_joined(analyzer, report):
    batched = analyzer.conservation(X, batch_size=2)
    for a, b in zip([report, *report.layers], [batched, *batched.layers], strict=True):
        for name in conservation.FIELDS:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-12)


def test_it_prints_what_is_lost_first(report):
    rows = [line.split() for line in str(report).splitlines()[3:]]
    assert rows[0][0] == "total"
    lost = [abs(float(start) - float(found)) for _, start, found, *_ in rows[1:]]
    assert {path for path, *_ in rows[1:]} == {entry.path for entry in report.layers}
    averages = [np.mean(np.abs(entry.lost) / np.abs(report.start)) for entry in report.sorted_layers()]
    assert averages == sorted(averages, reverse=True) and len(lost) == len(averages)
    assert rows[1][0] == report.sorted_layers()[0].path
    assert float(rows[0][1]) == pytest.approx(report.start.mean(), rel=1e-3)
    assert str(report).startswith("Relevance of 5 samples, ")


def test_long_ledgers_list_what_loses_something(monkeypatch, report):
    monkeypatch.setattr(conservation, "LISTED", 3)
    text = str(report)
    assert "conv" in text and "relu" not in text
    hidden = sum(not np.mean(np.abs(e.lost) / np.abs(report.start)) > 1e-6 for e in report.layers)
    assert f"{hidden} more sites hand on all they get." in text


def test_to_dict_is_for_json(report):
    loaded = json.loads(json.dumps(report.to_dict()))
    np.testing.assert_allclose(loaded["start"], report.start)
    assert [entry["path"] for entry in loaded["layers"]] == [entry.path for entry in report.layers]
    np.testing.assert_allclose(loaded["magnitude"], np.abs(report.start))
    assert loaded["layers"][0].keys() == {"path", *conservation.FIELDS, "growth"}


def test_the_picture_has_a_bar_per_site(report, tmp_path):
    picture = report.plot()
    remaining, absorbed = picture.axes
    assert [label.get_text() for label in remaining.get_yticklabels()] == [entry.path for entry in report.layers]
    left = [bar.get_width() for bar in remaining.patches]
    lost = np.mean(sum(entry.lost for entry in report.layers) / report.start)
    assert left[-1] == pytest.approx(100 * (1 - lost))
    widths = sum(bar.get_width() for bar in absorbed.patches)
    assert widths == pytest.approx(100 * lost)
    assert [text.get_text() for text in absorbed.get_legend().get_texts()] == [*conservation.ABSORBED, "other"]
    picture.savefig(tmp_path / "ledger.png")
    assert matplotlib.image.imread(tmp_path / "ledger.png").std() > 0
    assert picture._repr_png_().startswith(b"\x89PNG")


def test_the_picture_of_a_long_ledger_has_those_that_lose_most(monkeypatch, report):
    monkeypatch.setattr(conservation, "LISTED", 3)
    remaining = report.plot().axes[0]
    most = {entry.path for entry in report.sorted_layers()[:3]}
    assert [label.get_text() for label in remaining.get_yticklabels()] == [
        e.path for e in report.layers if e.path in most
    ]
    above = report.layers[: 1 + [e.path in most for e in report.layers].index(True)]
    lost = np.mean(sum(entry.lost for entry in above) / report.start)
    assert remaining.patches[0].get_width() == pytest.approx(100 * (1 - lost))


def test_relevance_that_starts_at_zero_prints_and_draws():
    zero = np.zeros(2)
    report = Conservation(*[zero] * 8, (Entry("a", *[zero] * 9),))
    assert "none of it found" in str(report)
    assert report.plot().axes


def test_growth_by_hand():
    # R = [1000, -999] from a start of 1; the stabiliser, 1e-7, takes its share.
    report = revgraph.create_analyzer("lrp.z", dense([1000.0, -999.0], 0)).conservation([[1.0, 1.0]])
    np.testing.assert_allclose(report.layers[0].growth, [1999], rtol=1e-6)
    np.testing.assert_allclose(report.input, report.start, rtol=1e-6)


def test_what_gets_no_relevance_does_not_grow():
    ledger = revgraph.create_analyzer("lrp.z", dense([1.0, -1.0], 0)).conservation([[2.0, 2.0]])
    np.testing.assert_array_equal([ledger.layers[0].growth, ledger.start, ledger.input], 0)


def test_a_model_without_any_site_hands_on_all():
    x = keras.Input((3,), **DOUBLE)
    with pytest.warns(UserWarning, match="probability"):
        analyzer = revgraph.create_analyzer("lrp.z", keras.Model(x, layers.Softmax(**DOUBLE)(x)))
    report = analyzer.conservation([[1.0, 3.0, 2.0]])
    np.testing.assert_allclose([report.start, report.input, report.bias, report.other], [[3], [3], [0], [0]])
    assert report.layers == ()
    assert report.plot() is not None


def test_the_watch_names_the_site_that_explodes():
    x = keras.Input((2,), name="x", **DOUBLE)
    gentle = layers.Dense(2, name="gentle", use_bias=False, **DOUBLE)
    unit = layers.Dense(1, name="unit", use_bias=False, **DOUBLE)
    model = keras.Model(x, unit(layers.ReLU(**DOUBLE)(gentle(x))))
    gentle.set_weights([np.eye(2)])
    unit.set_weights([np.array([[1e4], [1 - 1e4]])])
    graph = canonize(model)
    reverse = ReverseGraph(graph, everywhere(Epsilon()).bind(graph), graph.output_slots)
    forward = reverse.forward([tf.ones((3, 2), tf.float64)])
    seeds = {graph.output_slots[0]: forward.values[graph.output_slots[0]]}
    factors = growths(graph, forward, reverse.relevance(forward, seeds), seeds)
    assert factors.keys() == {"'unit'", "'gentle'"}
    np.testing.assert_allclose([factors["'unit'"], factors["'gentle'"]], [2e4 - 1, 1], rtol=1e-6)
    with pytest.warns(UserWarning, match=r"explodes at 'unit'.*2e\+04-fold.*Composite\(\('unit', Epsilon"):
        assert warn_of_growth(factors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_of_growth(factors, limit=1e5)
        assert not warn_of_growth({})


def test_growth_is_that_of_a_tensor_over_all_of_its_readers():
    """A branch with little relevance is not blamed for what its neighbour hands on; a start is not taken for growth."""
    x = keras.Input((2,), name="x", **DOUBLE)
    h = layers.Dense(2, name="below", use_bias=False, **DOUBLE)(x)
    little, much = (layers.Dense(1, name=name, use_bias=False, **DOUBLE)(h) for name in ("little", "much"))
    model = keras.Model(x, [little, much])
    for name, kernel in {"below": np.eye(2), "little": [[1e-6], [1e-6]], "much": [[1.0], [1.0]]}.items():
        model.get_layer(name).set_weights([np.array(kernel)])
    graph = canonize(model)
    reverse = ReverseGraph(graph, everywhere(Epsilon(epsilon=1e-15)).bind(graph), graph.output_slots)
    forward = reverse.forward([tf.ones((3, 2), tf.float64)])
    seeds = {slot: forward.values[slot] for slot in graph.output_slots}
    factors = growths(graph, forward, reverse.relevance(forward, seeds), seeds)
    assert {name for name in factors if "or" in name} <= {"'little' or 'much'", "'much' or 'little'"}
    np.testing.assert_allclose([factors[name] for name in sorted(factors)], [1, 1], rtol=1e-6)
    (inner,) = (site.outputs[0] for site in graph.sites if site.path == "below")
    seeds[inner] = tf.fill((3, 2), tf.constant(1e3, tf.float64))
    factors = growths(graph, forward, reverse.relevance(forward, seeds), seeds)
    assert {name for name in factors if "or" in name} <= {"'little' or 'much'", "'much' or 'little'"}
    np.testing.assert_allclose([factors[name] for name in sorted(factors)], [1, 1], rtol=1e-6)


def test_analyze_warns_once_of_cancelling_branches():
    # z = x - (1 - 1e-5) x: each branch gets 1e5 times the relevance, of opposite sign, and their sum is harmless.
    x = keras.Input((3,), name="x", **DOUBLE)
    scaled = layers.Dense(3, use_bias=False, name="scaled", **DOUBLE)
    y = layers.Add(name="residual", **DOUBLE)([x, scaled(x)])
    model = keras.Model(x, layers.Dense(1, name="out", kernel_initializer="ones", use_bias=False, **DOUBLE)(y))
    scaled.set_weights([-(1 - 1e-5) * np.eye(3)])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model, epsilon=1e-12)
    with pytest.warns(UserWarning, match="explodes at 'residual'.*ZPlus") as caught:
        analyzer.analyze(np.ones((2, 3)))
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyzer.analyze(np.ones((2, 3)))


def test_rounding_is_not_shown_as_lost():
    """In float32 contributions that cancel make relevance so large that its rounding is a share of the start."""
    keras.utils.set_random_seed(0)
    x = keras.Input((16,), dtype="float32")
    h = x
    for _ in range(6):
        h = layers.Dense(64, activation="gelu", dtype="float32")(h)
    model = keras.Model(x, layers.Dense(2, dtype="float32")(h))
    image = np.random.default_rng(0).normal(size=(8, 16)).astype("float32")
    analyzer = revgraph.create_analyzer("lrp.z", model, max_growth=np.inf)
    report = analyzer.conservation(image)
    off = np.abs(analyzer.analyze(image).sum(axis=1) + report.bias + report.stabiliser - report.start)
    assert np.max(off / np.abs(report.start)) > 1e-6
    assert np.all(np.abs(report.other) < 1e-12 * np.abs(report.start))
    model.layers[-1].kernel.assign(2 * model.layers[-1].kernel)
    model.layers[-1].bias.assign(2 * model.layers[-1].bias)
    np.testing.assert_allclose(analyzer.conservation(image).start, 2 * report.start, rtol=1e-6)
