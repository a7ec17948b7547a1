"""The ledger's columns and shares, on every model, and the warnings of relevance that vanishes."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph.analyzers import GaussianSmoother, PathIntegrator
from revgraph.reverse.ledger import ABSORBED, FIELDS
from revgraph.reverse_rules import Absorbed, Epsilon, Pullback, Rule, ZPlus
from revgraph.reverse_rules.folding import per_sample
from tests import models

LRP = [name for name in revgraph.ANALYZERS if name.startswith(("lrp", "deep_taylor", "excitation"))]
ARGUMENTS = {
    "lrp": {"rule": Epsilon(0.01)},
    "lrp.sequential_preset_b_flat_until_idx": {"until_layer_idx": 1},
    "lrp.epsilon_gamma_box": {"low": -3, "high": 3},
    "deep_taylor.bounded": {"low": -3, "high": 3},
}


@pytest.fixture(autouse=True, scope="module")
def in_float64():
    with models.precision("float64"):
        yield


def one_unit(kernel, bias=None):
    x = keras.Input((len(kernel),), name="x")
    unit = layers.Dense(1, use_bias=bias is not None, name="unit")
    model = keras.Model(x, unit(x))
    unit.set_weights([np.reshape(kernel, (-1, 1)).astype(float), *([] if bias is None else [np.array([bias])])])
    return model


def columns(report):
    return {name: float(getattr(report, name)[0]) for name in FIELDS}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", LRP)
@pytest.mark.parametrize("kind", ["mlp", "cnn", "residual", "operators"])
def test_everything_is_accounted_for(kind, name):
    model = models.randomized(models.ZOO[kind]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer = revgraph.create_analyzer(name, model, **ARGUMENTS.get(name, {}))
    report = analyzer.conservation(models.inputs_of(model))
    for entry in (report, *report.layers):
        assert np.all(np.abs(entry.other) <= 1e-6 * np.maximum(report.magnitude, 1e-300))
    assert report.note is None


def test_a_sample_has_its_own_share():
    # z = 10 x + 1 for x = 1 and x = -1.2: both start alike but for the sign, and ten elevenths arrive,
    # but for the share of the stabiliser, 1e-7 beside 11.
    model = one_unit([10.0], 1.0)
    report = revgraph.create_analyzer("lrp.z", model).conservation([[1.0], [-1.2]])
    np.testing.assert_allclose(report.start, [11, -11])
    np.testing.assert_allclose(report.share(report.input), [10 / 11, 12 / 11], rtol=1e-7)
    np.testing.assert_allclose(report.share(report.bias), [1 / 11, -1 / 11], rtol=1e-7)
    assert "on average 100.0% of it found" in str(report) and "2 samples, means: " in str(report)
    assert "sample, 90.9% of it found" in str(report[0]) and "average" not in str(report[0])


def test_samples_of_opposite_sign_do_not_cancel():
    # Each sample loses a part in eleven to the stabiliser; the sums would be 990 and -909, nearly nothing together.
    analyzer = revgraph.create_analyzer("lrp.epsilon", one_unit([1.0]), epsilon=1.0)
    report = analyzer.conservation([[10.0], [-10.0], [10.0]])
    np.testing.assert_allclose(report.share(report.input), 10 / 11)
    assert report.mean_share(report.stabiliser) == pytest.approx(1 / 11)
    assert "90.9% of it found" in str(report)
    remaining, absorbed = report.plot().axes
    assert remaining.patches[0].get_width() == pytest.approx(1000 / 11)
    assert sum(bar.get_width() for bar in absorbed.patches) == pytest.approx(100 / 11)


def test_shares_are_of_the_absolute_relevance_at_the_start():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.diag([3.0, -1.0])])
    report = revgraph.create_analyzer("lrp.z", model).conservation([[1.0, 1.0]], neuron_selection="all")
    assert columns(report)["start"] == pytest.approx(2) and report.magnitude[0] == pytest.approx(4)
    assert report.share(report.input)[0] == pytest.approx(0.5, rel=1e-6)


def test_bias_and_stabiliser_by_hand():
    # z = 1 + 2 + 1 = 4 and s = 4 / 4.5.
    report = revgraph.create_analyzer("lrp.epsilon", one_unit([1, 1], 1.0), epsilon=0.5).conservation([[1.0, 2.0]])
    expected = dict.fromkeys(FIELDS, 0.0) | {"start": 4, "input": 12 / 4.5, "bias": 4 / 4.5, "stabiliser": 2 / 4.5}
    assert columns(report) == pytest.approx(expected)


def test_saturated_units_are_constants():
    # relu6 of (9, 2) is (6, 2): the first unit is at its bound and absorbs its 6.
    x = keras.Input((2,))
    model = keras.Model(x, one_unit([1.0, 1.0])(ops.relu6(x)))
    report = revgraph.create_analyzer("lrp.z", model).conservation([[9.0, 2.0]])
    expected = dict.fromkeys(FIELDS, 0.0) | {"start": 8, "input": 2, "constants": 6}
    assert columns(report) == pytest.approx(expected, abs=1e-5)


def test_padding_is_a_constant():
    # Flat shares: each of the 4 rows of a padded (2, 1) gets a quarter, two of them are padding.
    model = keras.Sequential(
        [keras.Input((2, 1)), layers.ZeroPadding1D(1), layers.Flatten(), layers.Dense(1, use_bias=False)]
    )
    model.set_weights([np.array([[7.0], [1.0], [2.0], [7.0]])])
    report = revgraph.create_analyzer("lrp.flat", model).conservation([[[1.0], [2.0]]])
    expected = dict.fromkeys(FIELDS, 0.0) | {"start": 5, "input": 2.5, "constants": 2.5}
    assert columns(report) == pytest.approx(expected, abs=1e-5)


@dataclasses.dataclass(frozen=True)
class Tithe(Rule):
    """A rule that keeps a tenth of what it gets, by design, and says so."""

    def record(self, call):
        return call.outputs, Pullback(
            lambda r: (0.9 * r * tf.ones_like(call.inputs[0]),), lambda r: Absorbed(rule=0.1 * per_sample(r))
        )


def test_what_a_rule_drops_has_a_column():
    report = revgraph.create_analyzer("lrp", one_unit([2.0]), rule=Tithe()).conservation([[5.0]])
    expected = dict.fromkeys(FIELDS, 0.0) | {"start": 10, "input": 9, "rule": 1}
    assert columns(report) == pytest.approx(expected)
    assert report.layers[0].rule[0] == pytest.approx(1)


def test_units_without_positive_contributions_are_dropped_by_the_rule():
    report = revgraph.create_analyzer("lrp", one_unit([-2.0]), rule=ZPlus()).conservation([[3.0]])
    expected = dict.fromkeys(FIELDS, 0.0) | {"start": -6, "rule": -6}
    assert columns(report) == pytest.approx(expected)


def time_first():
    """The batch is the second axis inside, and then steps and samples are one axis."""
    x = keras.Input((3, 2))
    h = ops.relu(ops.transpose(x, (1, 0, 2)) - 0.2)
    h = ops.transpose(h, (1, 0, 2))
    return keras.Model(x, layers.Dense(2, use_bias=False)(layers.Flatten()(h)))


class StepsBySamples(layers.Layer):
    """Applies a kernel to steps and samples as one axis, the samples of one step beside each other."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2))
        self.bias = self.add_weight(shape=(2,), initializer="ones")

    def call(self, x):
        steps, features = x.shape[1:]
        h = ops.reshape(ops.transpose(x, (1, 0, 2)), (-1, features))
        h = ops.relu(ops.matmul(h, self.kernel) + self.bias)
        return ops.transpose(ops.reshape(h, (steps, -1, 2)), (1, 0, 2))


def steps_by_samples():
    x = keras.Input((3, 2))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(StepsBySamples()(x))))


@pytest.mark.parametrize("make", [time_first, steps_by_samples])
def test_the_batch_axis_may_be_anywhere(make):
    model = models.randomized(make())
    analyzer = revgraph.create_analyzer("lrp.epsilon", model, epsilon=0.1)
    x = np.random.default_rng(0).normal(size=(4, 3, 2))
    together = analyzer.conservation(x, [0, 1, 1, 0])
    for i, c in enumerate([0, 1, 1, 0]):
        alone = analyzer.conservation(x[i : i + 1], c)
        for a, b in zip((together, *together.layers), (alone, *alone.layers), strict=True):
            for name in FIELDS:
                np.testing.assert_allclose(getattr(a, name)[i], getattr(b, name)[0], atol=1e-12)
    np.testing.assert_allclose(together.input, analyzer.analyze(x, [0, 1, 1, 0]).sum((1, 2)), rtol=1e-9)
    assert np.all(np.abs(together.other) <= 1e-9 * together.magnitude)


def test_the_batch_size_may_be_fixed():
    x = keras.Input(batch_shape=(4, 3))
    model = models.randomized(keras.Model(x, layers.Dense(2)(ops.reshape(layers.Dense(4)(x), (4, 4)))))
    analyzer = revgraph.create_analyzer("lrp.z", model)
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(analyzer.conservation(x).input, analyzer.analyze(x).sum(1), rtol=1e-9)


def test_one_input_with_several_selections():
    model = models.randomized(steps_by_samples())
    analyzer = revgraph.create_analyzer("lrp.z", model)
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 3, 2)), 2, axis=0)
    np.testing.assert_allclose(analyzer.conservation(x, [0, 1]).input, analyzer.analyze(x, [0, 1]).sum((1, 2)))


def several():
    tokens, image = keras.Input((3,), dtype="int32", name="tokens"), keras.Input((4, 4, 1), name="image")
    h = layers.Concatenate()(
        [layers.Flatten()(layers.Embedding(5, 2)(tokens)), layers.Flatten()(layers.Conv2D(2, 3)(image))]
    )
    return keras.Model(
        {"tokens": tokens, "image": image}, {"a": layers.Dense(2, name="a")(h), "b": layers.Dense(3, name="b")(h)}
    )


def test_several_inputs_and_outputs_tokens_and_batches():
    model = models.randomized(several())
    rng = np.random.default_rng(0)
    x = {"tokens": rng.integers(0, 5, (5, 3)), "image": rng.normal(size=(5, 4, 4, 1))}
    analyzer = revgraph.create_analyzer("lrp.z", model)
    selection = {"a": 1, "b": [0, 1, 2, 0, 1]}
    report = analyzer.conservation(x, selection, batch_size=2)
    relevance = analyzer.analyze(x, selection)
    found = relevance["tokens"].sum(1) + relevance["image"].sum((1, 2, 3))
    np.testing.assert_allclose(report.input, found, rtol=1e-9)
    y = {name: np.asarray(v) for name, v in model(x).items()}
    np.testing.assert_allclose(report.start, y["a"][:, 1] + y["b"][range(5), [0, 1, 2, 0, 1]], rtol=1e-9)
    assert np.all(np.abs(report.other) <= 1e-9 * report.magnitude)


def test_streams_and_sizes_that_are_free():
    x = keras.Input((None, None, 1))
    h = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, padding="same", activation="relu")(x))
    model = models.randomized(keras.Model(x, layers.Dense(2)(h)))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    images = np.random.default_rng(0).normal(size=(5, 6, 7, 1))
    whole = analyzer.conservation(images)
    streamed = analyzer.conservation(images[i : i + 2] for i in (0, 2, 4))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), atol=1e-12)


def test_several_targets_are_refused():
    analyzer = revgraph.create_analyzer("lrp.z", one_unit([1.0]))
    with pytest.raises(ValueError, match="one target per sample"):
        analyzer.conservation([[1.0]], np.array([[0, 0]]))
    with pytest.raises(ValueError, match="one target per sample"):
        revgraph.create_analyzer("integrated_gradients", one_unit([1.0])).conservation([[1.0]], np.array([[0, 0]]))


def test_code_that_computes_in_float32_only():
    class Single(layers.Layer):
        def call(self, x):
            return x * tf.constant([1.0, 2.0])

    x = keras.Input((2,), dtype="float32")
    h = Single(dtype="float32")(x)
    model = keras.Model(x, layers.Dense(1, use_bias=False, dtype="float32")(h))
    analyzer = revgraph.create_analyzer("lrp.z", model)
    report = analyzer.conservation([[1.0, 2.0]])
    np.testing.assert_allclose(report.input, analyzer.analyze(np.array([[1.0, 2.0]])).sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["gradient", "input_t_gradient", "deconvnet", "guided_backprop", "beta_smooth"])
def test_the_ledger_says_that_gradients_do_not_add_up(name):
    model = models.randomized(models.mlp())
    report = revgraph.create_analyzer(name, model).conservation(models.inputs_of(model))
    assert "does not add up" in report.note and report.note in str(report)
    assert report[1].note == report.note


def test_integrated_gradients_are_complete():
    model = models.randomized(models.mlp("tanh"))
    x = models.inputs_of(model)
    analyzer = revgraph.create_analyzer("integrated_gradients", model, steps=200, reference_inputs=0.1)
    report = analyzer.conservation(x, 2)
    y = np.asarray(model(x))[:, 2] - np.asarray(model(np.full_like(x, 0.1)))[:, 2]
    np.testing.assert_allclose(report.start, y)
    np.testing.assert_allclose(report.input, analyzer.analyze(x, 2).sum(1))
    np.testing.assert_allclose(report.other, y - report.input)
    assert np.all(np.abs(report.other) < 1e-3) and report.layers == ()
    assert str(report).startswith("Difference from the reference's output of 3 samples")
    assert report.plot() is not None and len(report[:2]) == 2
    around = PathIntegrator(revgraph.create_analyzer("lrp.epsilon", model), 4).conservation(x)
    np.testing.assert_allclose(around.start, around.input + around.other)


@pytest.mark.parametrize("name", ["input", "random", "smoothgrad"])
def test_what_keeps_no_account_says_so(name):
    analyzer = revgraph.create_analyzer(name, one_unit([1.0]))
    with pytest.raises(TypeError, match=f"'{name}' has no ledger"):
        analyzer.conservation([[1.0]])
    with pytest.raises(TypeError, match="has no ledger"):
        GaussianSmoother(revgraph.create_analyzer("lrp.z", one_unit([1.0]))).conservation([[1.0]])


def test_relevance_that_vanishes_is_warned_of_once():
    # z / (z + 99 z) is a hundredth.
    analyzer = revgraph.create_analyzer("lrp.epsilon", one_unit([1.0]), epsilon=99.0)
    with pytest.warns(UserWarning, match=r"vanishes.* 0\.01 of that at the start.*`conservation`") as caught:
        analyzer.analyze(np.array([[1.0], [-1.0], [0.0]]))
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyzer.analyze(np.array([[1.0]]))


@pytest.mark.parametrize(
    ("name", "options", "x"),
    [
        ("lrp.epsilon", {"epsilon": 8.0}, [[1.0]]),
        ("lrp.epsilon", {"epsilon": 99.0}, [[0.0]]),
        ("lrp.epsilon", {"epsilon": 99.0}, [[1e3], [1e3], [1.0]]),
        ("lrp.epsilon", {"epsilon": 99.0, "reverse_clip_values": (-1, 1)}, [[1.0]]),
        ("input_t_gradient", {}, [[0.001]]),
    ],
)
def test_no_warning_where_nothing_vanishes(name, options, x):
    analyzer = revgraph.create_analyzer(name, one_unit([1.0]), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyzer.analyze(np.array(x))


def test_deep_taylor_says_that_it_explains_positive_outputs():
    analyzer = revgraph.create_analyzer("deep_taylor", one_unit([1.0]))
    with pytest.warns(UserWarning, match="explains positive outputs.*not positive for 1 of 2 samples") as caught:
        relevance = analyzer.analyze(np.array([[1.0], [-1.0]]))
    assert len(caught) == 1 and caught[0].filename == __file__ and relevance[1] == 0


@pytest.mark.parametrize("name", ["deconvnet", "guided_backprop", "beta_smooth"])
@pytest.mark.parametrize("activation", ["elu", "gelu", "tanh", None])
def test_methods_that_change_relus_say_that_there_is_none(name, activation):
    with pytest.warns(UserWarning, match=f"no ReLU.*{name} changes: it equals the gradient"):
        revgraph.create_analyzer(name, models.mlp(activation))


def test_networks_with_relus_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        revgraph.create_analyzer("deconvnet", models.mlp())


def test_absorbed_are_the_columns():
    assert FIELDS == ("start", "input", "bias", "constants", "rule", "softmax", "stabiliser", "condition", "other")
    assert FIELDS[2:-2] == ABSORBED


def test_masks_do_not_keep_the_ledger_from_float64():
    x = keras.Input((6,), dtype="int32")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(9, 3, mask_zero=True, dtype="float32")(x))
    model = models.randomized(keras.Model(x, layers.Dense(2, dtype="float32")(h)))
    report = revgraph.create_analyzer("lrp.z", model).conservation(np.array([[1, 2, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8]]))
    assert np.all(np.abs(report.other) <= 1e-12 * report.magnitude)
