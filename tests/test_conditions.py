"""Conditions: relevance only through some channels, units or heads of layers that are named."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph import rules
from revgraph.analyzers import reverse_analyzer
from tests import models
from tests.models import randomized

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:No relevance arrives"),
    pytest.mark.filterwarnings("ignore:Relevance explodes"),
    pytest.mark.filterwarnings("ignore:Relevance vanishes"),
]

SHAPE = (6, 6, 2)


class Gated:
    """A residual network in plain TensorFlow, whose gradient passes only what it is told to.

    Without stabilisers relevance is value times gradient. So the gradient form is an oracle for conditions on LRP.

    Args:
        rng: Makes the weights.
    """

    def __init__(self, rng):
        self.kernels = [rng.normal(size=(3, 3, a, b)) / 3 for a, b in ((2, 4), (4, 4), (4, 4), (4, 4))]
        self.biases = [rng.normal(size=4) / 4 for _ in self.kernels]
        self.dense = rng.normal(size=(4, 3)), rng.normal(size=3) / 4

    def keras(self):
        x = keras.Input(SHAPE)

        def conv(h, i, activation=None):
            layer = layers.Conv2D(4, 3, padding="same", activation=activation, name=f"conv{i}")
            h = layer(h)
            layer.set_weights([self.kernels[i], self.biases[i]])
            return h

        stem = conv(x, 0, "relu")
        branch = conv(layers.ReLU(name="relu1")(conv(stem, 1)), 2)
        h = layers.ReLU(name="relu2")(layers.Add(name="add")([stem, branch]))
        h = layers.GlobalAveragePooling2D(name="pool")(conv(h, 3, "relu"))
        head = layers.Dense(3, name="logits")
        model = keras.Model(x, head(h))
        head.set_weights(self.dense)
        return model

    def __call__(self, x, passes, shortcut):
        """The output. `passes` are masks by the name of a layer; the shortcut passes nothing if it is not open."""

        def gate(h, name):
            mask = passes.get(name, 1.0)
            return h * mask + tf.stop_gradient(h * (1 - mask))

        def conv(h, i):
            return tf.nn.conv2d(h, self.kernels[i], 1, "SAME") + self.biases[i]

        stem = gate(tf.nn.relu(conv(x, 0)), "conv0")
        branch = gate(conv(gate(tf.nn.relu(gate(conv(stem, 1), "conv1")), "relu1"), 2), "conv2")
        h = gate((stem if shortcut else tf.stop_gradient(stem)) + branch, "add")
        h = gate(tf.nn.relu(conv(gate(tf.nn.relu(h), "relu2"), 3)), "conv3")
        kernel, bias = self.dense
        return tf.reduce_mean(h, [1, 2]) @ kernel + bias

    def gradient(self, x, condition, neuron, around):
        masks = {name: np.isin(np.arange(4), channels).astype(float) for name, channels in condition.items()}
        inside = {"conv1", "relu1", "conv2"}
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self(x, masks, shortcut=around or inside.isdisjoint(condition))[:, neuron]
        return tape.gradient(y, x).numpy()


CONDITIONS = [
    {"conv3": [1, 2]},
    {"relu1": [0, 3]},
    {"conv2": [2]},
    {"add": [0, 1]},
    {"conv0": [1]},
    {"conv3": [0, 2], "conv0": [1, 3]},
    {"conv1": [0, 1, 2], "conv3": [3, 1]},
    {"conv0": [0, 1], "relu1": [1, 2], "relu2": [0, 2]},
]


@pytest.fixture(scope="module")
def gated():
    network = Gated(np.random.default_rng(5))
    with models.precision("float64"):
        return network, network.keras(), np.random.default_rng(6).normal(size=(3, *SHAPE))


@pytest.fixture(scope="module")
def lrp(gated):
    with models.precision("float64"):
        return revgraph.create_analyzer("lrp", gated[1], rule=rules.Epsilon(1e-30))


@pytest.fixture(scope="module")
def gradient(gated):
    with models.precision("float64"):
        return revgraph.create_analyzer("gradient", gated[1])


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_a_condition_is_the_gradient_form_with_masks(condition, around, gated, lrp, gradient):
    network, _, x = gated
    expected = network.gradient(x, condition, 1, around)
    assert np.abs(expected).max() > 1e-3
    found = lrp.analyze(x, 1, conditions=condition, around=around)
    np.testing.assert_allclose(found, x * expected, rtol=1e-5, atol=1e-7)
    found = gradient.analyze(x, 1, conditions=condition, around=around)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("around", [False, True])
def test_several_conditions_are_one_walk_in_their_order(around, gated, lrp, monkeypatch):
    _, _, x = gated
    alone = [lrp.analyze(x, 1, conditions=one, around=around) for one in CONDITIONS]
    together = lrp.analyze(x, 1, conditions=CONDITIONS, around=around)
    assert together.shape == (3, len(CONDITIONS), *SHAPE)
    np.testing.assert_allclose(together, np.stack(alone, axis=1), rtol=1e-10, atol=1e-14)
    monkeypatch.setattr(reverse_analyzer, "AT_ONCE", 3)
    cut = lrp.analyze(x, 1, conditions=CONDITIONS, around=around, batch_size=2)
    np.testing.assert_allclose(cut, together, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", ["lrp.alpha_2_beta_1", "lrp.epsilon_plus_flat", "gradient"])
def test_all_channels_of_a_layer_add_up_to_the_whole(method, gated):
    """That holds where all relevance passes the layer, and the way back is linear."""
    _, model, x = gated
    analyzer = revgraph.create_analyzer(method, model)
    for layer in ("conv3", "add", "conv0"):
        each = analyzer.analyze(x, 2, conditions=[{layer: c} for c in range(4)])
        np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(x, 2), rtol=1e-9, atol=1e-12)


def test_what_passes_around_is_what_the_named_layer_does_not_get(gated, lrp):
    _, _, x = gated
    through = lrp.analyze(x, 1, conditions=[{"relu1": c} for c in range(4)])
    around = lrp.analyze(x, 1, conditions=[{"relu1": c} for c in range(4)], around=True)
    shortcut = around - through
    np.testing.assert_allclose(shortcut, shortcut[:, :1].repeat(4, axis=1), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(through.sum(axis=1) + shortcut[:, 0], lrp.analyze(x, 1), rtol=1e-9, atol=1e-13)


def test_conditions_of_each_sample(gated, lrp):
    _, _, x = gated
    rows = [[CONDITIONS[0], CONDITIONS[5]], [CONDITIONS[1], CONDITIONS[2]], [CONDITIONS[6], CONDITIONS[3]]]
    expected = np.stack([lrp.analyze(x[i : i + 1], 1, conditions=row)[0] for i, row in enumerate(rows)])
    np.testing.assert_allclose(lrp.analyze(x, 1, conditions=rows), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(lrp.analyze(x, 1, 2, conditions=rows), expected, rtol=1e-10, atol=1e-14)


def test_several_targets_and_several_conditions(gated, lrp):
    _, _, x = gated
    targets = np.array([[0, 2], [1, 0], [2, 2]])
    both = lrp.analyze(x, targets, conditions=CONDITIONS[:3])
    assert both.shape == (3, 2, 3, *SHAPE)
    for t in range(2):
        expected = lrp.analyze(x, targets[:, t], conditions=CONDITIONS[:3])
        np.testing.assert_allclose(both[:, t], expected, rtol=1e-10, atol=1e-14)
    one = lrp.analyze(x, targets, conditions=CONDITIONS[1])
    np.testing.assert_allclose(one, both[:, :, 1], rtol=1e-10, atol=1e-14)


def test_what_is_returned_of_a_named_layer_is_in_front_of_its_mask(gated, lrp):
    _, _, x = gated
    layers_ = ["conv3", "relu1", "conv0"]
    _, whole = lrp.analyze(x, 1, return_layers=layers_, layers_at="output")
    found, inside = lrp.analyze(
        x, 1, return_layers=layers_, layers_at="output", conditions=[{"conv3": [1]}, {"conv3": [1], "conv0": [0]}]
    )
    for i in range(2):
        np.testing.assert_allclose(inside["conv3"][:, i], whole["conv3"], rtol=1e-12)
    assert not np.allclose(inside["relu1"][:, 0], whole["relu1"])
    np.testing.assert_allclose(inside["conv0"][:, 0], inside["conv0"][:, 1], rtol=1e-12)
    assert not np.allclose(found[:, 0], found[:, 1])


def test_units_slices_and_masks(gated, lrp):
    _, _, x = gated
    mask = np.zeros((6, 6, 4), bool)
    mask[2, 3, 1] = mask[5, 0, 3] = True

    def same(one, other):
        results = [lrp.analyze(x, 1, conditions={"conv0": chosen}) for chosen in (one, other)]
        np.testing.assert_allclose(*results, rtol=1e-12, atol=1e-15)
        assert np.abs(results[0]).max() > 0

    same([(2, 3, 1), (5, 0, 3)], mask)
    same([(2, 3, 1), (-1, 0, -1)], mask)
    same(mask, np.stack([mask] * 3))
    same(mask, tf.constant(mask))
    same((slice(None), slice(None), 2), 2)
    same([1, 3], [False, True, False, True])
    same([1, 3], np.array([1, 3]))
    same([1, 3], tf.constant([1, 3]))
    same([-3, -1], np.array([[[[False, True, False, True]]]]))
    same([(slice(None), slice(None), 2), 3], range(2, 4))
    corner = np.zeros((6, 6, 1), bool)
    corner[:3] = True
    same((slice(0, 3), slice(None), slice(None)), corner)
    rows = np.stack([mask, ~mask, np.ones_like(mask)])
    whole = lrp.analyze(x, 1, conditions={"conv0": rows})
    for i in range(3):
        np.testing.assert_allclose(whole[i], lrp.analyze(x[i : i + 1], 1, conditions={"conv0": rows[i]})[0], atol=1e-12)
    np.testing.assert_allclose(lrp.analyze(x, 1, 2, conditions={"conv0": rows}), whole, atol=1e-12)


def test_neurons_of_dense_layers(rng):
    model = randomized(models.mlp())
    x = models.inputs_of(model)
    (w1, b1), (w2, b2), (w3, _) = (layer.get_weights() for layer in model.layers)
    h1 = np.maximum(x @ w1 + b1, 0)
    h2 = np.maximum(h1 @ w2 + b2, 0)
    passes = np.isin(np.arange(4), [0, 2])
    gradient = ((((w3[:, 1] * passes) * (h2 > 0)) @ w2.T) * (h1 > 0)) @ w1.T
    found = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(1e-30)).analyze(x, 1, conditions={"two": [0, 2]})
    np.testing.assert_allclose(found, x * gradient, rtol=1e-9, atol=1e-12)


def attending():
    x = keras.Input((4, 6))
    h = layers.LayerNormalization(name="norm")(x)
    h = layers.MultiHeadAttention(3, 2, name="attention")(h, h)
    h = layers.Add(name="stream")([x, h])
    return randomized(keras.Model(x, layers.Dense(3, name="logits")(layers.Flatten()(h))))


@pytest.mark.parametrize("method", ["lrp.attnlrp", "lrp.cp"])
def test_heads_are_masked_before_the_output_projection(method, rng):
    model, x = attending(), rng.normal(size=(2, 4, 6))
    analyzer = revgraph.create_analyzer(method, model)
    each = analyzer.analyze(x, 1, conditions=[{"attention": {"heads": [h]}} for h in range(3)])
    two = analyzer.analyze(x, 1, conditions={"attention": {"heads": [0, -1]}})
    np.testing.assert_allclose(each[:, 0] + each[:, 2], two, rtol=1e-9, atol=1e-13)
    heads = analyzer.attentions(x, 1).heads["attention"].sum(axis=-1)
    report = analyzer.conservation(x, 1, conditions={"attention": {"heads": 1}}, around=True)
    np.testing.assert_allclose(report.condition, heads[:, 0] + heads[:, 2], rtol=1e-7)
    _, inside = analyzer.analyze(
        x, 1, return_layers=["norm"], layers_at="output", conditions={"attention": {"heads": 1}}, around=True
    )
    _, through = analyzer.analyze(
        x, 1, return_layers=["norm"], layers_at="output", conditions={"attention": {"heads": 1}}
    )
    np.testing.assert_allclose(inside["norm"], through["norm"], rtol=1e-9, atol=1e-13)


def test_heads_of_a_saved_model(rng, tmp_path):
    model, x = attending(), rng.normal(size=(2, 4, 6))
    expected = revgraph.create_analyzer("lrp.cp", model).analyze(x, 1, conditions={"attention": {"heads": [2]}})
    model.export(str(tmp_path / "exported"), verbose=False)
    analyzer = revgraph.create_analyzer("lrp.cp", revgraph.load_model(str(tmp_path / "exported")))
    (path,) = analyzer.attentions(x, 1).heads
    found = analyzer.analyze(x, 1, conditions={path: {"heads": [2]}})
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


class Folded(layers.Layer):
    """Attention whose heads stand in the axis of the samples."""

    def call(self, x):
        h = keras.ops.reshape(keras.ops.transpose(keras.ops.reshape(x, (-1, 4, 2, 3)), (0, 2, 1, 3)), (-1, 4, 3))
        mixed = keras.ops.matmul(keras.ops.softmax(keras.ops.matmul(h, keras.ops.transpose(h, (0, 2, 1)))), h)
        return keras.ops.reshape(keras.ops.transpose(keras.ops.reshape(mixed, (-1, 2, 4, 3)), (0, 2, 1, 3)), (-1, 4, 6))


def test_heads_in_the_axis_of_the_samples_are_refused(rng):
    """The remedy names the channels that the heads give to the layer that reads them."""
    x = keras.Input((4, 6))
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(Folded(name="attention")(x)))))
    analyzer, data = revgraph.create_analyzer("lrp.cp", model), rng.normal(size=(2, 4, 6))
    with pytest.raises(ValueError, match="cannot be told apart.*Name the channels of a head"):
        analyzer.analyze(data, 1, conditions={"attention": {"heads": [0]}})
    each = analyzer.analyze(data, 1, conditions=[{"attention": range(3)}, {"attention": range(3, 6)}])
    heads = analyzer.attentions(data, 1).heads["attention"].sum(axis=-1)
    np.testing.assert_allclose(
        analyzer.conservation(data, 1, conditions={"attention": range(3)}).condition, heads[:, 1], rtol=1e-7
    )
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(data, 1), rtol=1e-8, atol=1e-12)


def test_features_of_a_residual_stream(rng):
    model, x = attending(), rng.normal(size=(2, 4, 6))
    analyzer = revgraph.create_analyzer("lrp.cp", model)
    each = analyzer.analyze(x, 1, conditions=[{"stream": f} for f in range(6)])
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(x, 1), rtol=1e-9, atol=1e-12)


def grouped():
    x = keras.Input((4, 6))
    h = layers.GroupQueryAttention(2, 4, 2, name="attention")(x, x)
    return randomized(keras.Model(x, layers.Dense(3)(layers.Flatten()(h))))


def test_heads_that_share_their_values(rng):
    """The mask of a head is what `attentions` shows of it."""
    model, x = grouped(), rng.normal(size=(2, 4, 6))
    analyzer = revgraph.create_analyzer("lrp.cp", model)
    heads = analyzer.attentions(x, 1).heads["attention"].sum(axis=-1)
    for h in range(4):
        report = analyzer.conservation(x, 1, conditions={"attention": {"heads": h}})
        np.testing.assert_allclose(report.condition, heads.sum(axis=-1) - heads[:, h], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("condition", [CONDITIONS[i] for i in (0, 1, 5, 7)], ids=str)
def test_the_ledger_has_a_column_for_what_is_masked(condition, around, gated):
    _, model, x = gated
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    report = analyzer.conservation(x, 1, conditions=condition, around=around)
    found = analyzer.analyze(x, 1, conditions=condition, around=around)
    np.testing.assert_allclose(report.input, found.sum(axis=(1, 2, 3)), rtol=1e-9)
    assert np.all(np.abs(report.condition) > 1e-6)
    assert np.all(np.abs(report.other) < 1e-12)
    for entry in report.layers:
        assert np.all(np.abs(entry.other) < 1e-12)
        parts = (entry.input, entry.bias, entry.constants, entry.rule, entry.softmax, entry.stabiliser, entry.condition)
        np.testing.assert_allclose(entry.start, sum(parts), atol=1e-12)
    at = {entry.path for entry in report.layers if np.any(entry.condition)}
    shortcut = {"add"} if not around and not {"relu1"}.isdisjoint(condition) else set()
    assert {path.split("/")[0] for path in at} == {*condition} | shortcut
    assert "condition" in str(report) and report.to_dict()["condition"] == report.condition.tolist()
    assert "condition" not in str(analyzer.conservation(x, 1))
    rows = [analyzer.conservation(x[i : i + 1], 1, conditions=condition, around=around) for i in range(3)]
    np.testing.assert_allclose(report.condition, [row.condition[0] for row in rows])
    names = [text.get_text() for text in report.plot().axes[1].get_legend().get_texts()]
    assert "condition" in names


def two_outputs():
    x = keras.Input((5,))
    h = layers.Dense(4, activation="relu", name="shared")(x)
    aside = layers.Dense(2, name="aside")(h)
    g = layers.Dense(4, activation="relu", name="deep")(h)
    return randomized(keras.Model(x, [layers.Dense(3, name="main")(g), aside]))


def test_an_output_that_does_not_pass_a_layer_is_masked_at_its_start(rng):
    model, x = two_outputs(), rng.normal(size=(3, 5))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    whole = analyzer.analyze(x, {"main": 1}, conditions={"deep": [0, 1, 2, 3]})
    np.testing.assert_allclose(whole, analyzer.analyze(x, {"main": 1}), rtol=1e-9, atol=1e-13)
    both = analyzer.analyze(x, {"main": 1, "aside": 0}, conditions={"deep": [0, 1, 2, 3]})
    np.testing.assert_allclose(both, whole, rtol=1e-9, atol=1e-13)
    report = analyzer.conservation(x, {"main": 1, "aside": 0}, conditions={"deep": [0, 1, 2, 3]})
    np.testing.assert_allclose(report.condition, model.predict(x, verbose=0)[1][:, 0], rtol=1e-9)
    assert np.all(np.abs(report.other) < 1e-12)
    np.testing.assert_allclose(
        analyzer.analyze(x, {"main": 1, "aside": 0}, conditions={"deep": [0, 1, 2, 3]}, around=True),
        analyzer.analyze(x, {"main": 1, "aside": 0}),
        rtol=1e-9,
        atol=1e-13,
    )


def test_relevance_may_start_at_the_layer_that_is_named(gated, lrp):
    _, _, x = gated
    start = {"layer": "conv3", "neuron_selection": "all"}
    each = lrp.analyze(x, **start, conditions=[{"conv3": c} for c in range(4)])
    masks = [lrp.analyze(x, (slice(None), slice(None), c), layer="conv3") for c in range(4)]
    np.testing.assert_allclose(each, np.stack(masks, axis=1), rtol=1e-9, atol=1e-13)


def test_a_named_layer_is_not_folded(rng):
    model = randomized(models.cnn())
    x = models.inputs_of(model)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    for layer in ("conv1", "bn"):
        each = analyzer.analyze(x, 1, conditions=[{layer: c} for c in range(4)])
        whole, _ = analyzer.analyze(x, 1, return_layers=[layer], layers_at="output")
        np.testing.assert_allclose(each.sum(axis=1), whole, rtol=1e-8, atol=1e-12)


def test_names_are_those_of_return_layers(gated):
    """Paths, names and layers, inside of a model that is a layer, too."""
    _, model, x = gated
    outer_in = keras.Input(SHAPE)
    outer = keras.Model(outer_in, layers.Dense(2, name="last")(model(outer_in)))
    analyzer = revgraph.create_analyzer("lrp.epsilon", randomized(outer))
    path = f"{model.name}/relu1"
    results = [analyzer.analyze(x, 1, conditions={name: [1]}) for name in (path, "relu1", model.get_layer("relu1"))]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_saved_models_are_conditioned_as_in_memory(gated, tmp_path):
    _, model, x = gated
    model.export(str(tmp_path / "exported"), verbose=False)
    loaded = revgraph.load_model(str(tmp_path / "exported"))
    calls = [call.path for call in revgraph.create_analyzer("lrp.epsilon", loaded).traced.calls]
    name = next(path for path in calls if "relu1" in path)
    expected = revgraph.create_analyzer("lrp.epsilon", model).analyze(x, 1, conditions=[{"relu1": c} for c in range(4)])
    found = revgraph.create_analyzer("lrp.epsilon", loaded).analyze(x, 1, conditions=[{name: c} for c in range(4)])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_one_program_for_all_channels_and_weights_are_live(rng):
    model = randomized(models.mlp())
    x = models.inputs_of(model)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    analyzer.analyze(x, 1, conditions={"one": [0], "two": [1]})
    walks = dict(analyzer._walks)
    programs = {question: dict(walk._compiled) for question, walk in walks.items()}
    analyzer.analyze(x[:2], 0, conditions={"two": [3, 2], "one": [4]})
    assert dict(analyzer._walks) == walks
    assert {question: dict(walk._compiled) for question, walk in walks.items()} == programs
    model.get_layer("one").kernel.assign(2 * model.get_layer("one").kernel)
    fresh = revgraph.create_analyzer("lrp.epsilon", model).analyze(x, 1, conditions={"one": [0], "two": [1]})
    np.testing.assert_allclose(analyzer.analyze(x, 1, conditions={"one": [0], "two": [1]}), fresh, rtol=1e-12)


def test_sizes_that_only_data_have(rng):
    x = keras.Input((None, None, 2))
    h = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(x)
    model = randomized(keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(h))))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    data = rng.normal(size=(2, 5, 7, 2))
    mask = np.zeros((5, 7, 4), bool)
    mask[-1, 2, 1] = True
    unit = analyzer.analyze(data, 1, conditions={"conv": [(-1, 2, 1)]})
    np.testing.assert_allclose(unit, analyzer.analyze(data, 1, conditions={"conv": mask}), rtol=1e-12)
    each = analyzer.analyze(data, 1, conditions=[{"conv": c} for c in range(4)])
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(data, 1), rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match=r"5 places on axis 1, 0 to 4. Received: 5"):
        analyzer.analyze(data, 1, conditions={"conv": [(5, 0, 0)]})
    with pytest.raises(ValueError, match=r"the shape \(5, 7, 4\) of a sample"):
        analyzer.analyze(data, 1, conditions={"conv": mask[:4]})


def test_steps_that_count_as_samples(rng):
    """Inside of TimeDistributed the first axis is the batch times steps."""
    x = keras.Input((3, 5))
    h = layers.TimeDistributed(randomized(models.block("block")))(x)
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(h))))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    (name,) = [call.path for call in analyzer.traced.calls if call.path.endswith("one")]
    data = rng.normal(size=(4, 3, 5))
    rows = [[{name: [i % 5, 1]}] for i in range(4)]
    found = analyzer.analyze(data, 1, conditions=rows)
    for i in range(4):
        alone = analyzer.analyze(data[i : i + 1], 1, conditions=rows[i][0])
        np.testing.assert_allclose(found[i, 0], alone[0], rtol=1e-9, atol=1e-13)


class Turned(layers.Layer):
    """Has the steps in front of the samples."""

    def call(self, x):
        return keras.ops.transpose(x, (1, 0, 2))


def test_samples_that_are_not_in_front(rng):
    """One condition for all samples holds anyway, and so does the remedy."""
    x = keras.Input((None, 5))
    h = layers.Dense(3, activation="relu", name="steps")(Turned(name="turn")(layers.Dense(4, name="in")(x)))
    model = randomized(keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(Turned(name="back")(h)))))
    analyzer, data = revgraph.create_analyzer("lrp.epsilon", model), rng.normal(size=(2, 4, 5))
    each = analyzer.analyze(data, 1, conditions=[{"steps": c} for c in range(3)])
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(data, 1), rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="samples on their first axis. Explain the samples one by one"):
        analyzer.analyze(data, 1, conditions=[[{"steps": 0}], [{"steps": 1}]])
    for i in range(2):
        alone = analyzer.analyze(data[i : i + 1], 1, conditions=[[{"steps": i}]])
        np.testing.assert_allclose(alone[0, 0], each[i, i], rtol=1e-9, atol=1e-13)


def test_recurrent_layers(rng):
    x = keras.Input((5, 3))
    h = layers.LSTM(4, return_sequences=True, name="first")(x)
    model = randomized(keras.Model(x, layers.Dense(2)(layers.LSTM(3, name="second")(h))))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model, epsilon=1e-9)
    data = rng.normal(size=(2, 5, 3))
    each = analyzer.analyze(data, 1, conditions=[{"first": f} for f in range(4)])
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(data, 1), rtol=1e-6, atol=1e-10)
    whole, inside = analyzer.analyze(
        data, 1, conditions={"second": [1]}, return_layers=["second/lstm_cell"], layers_at="output"
    )
    start = analyzer.analyze(data, (1,), layer="second", initial_relevance=0.0)
    assert not start.any()
    _, arrived = analyzer.analyze(data, 1, return_layers=["second"], layers_at="output")
    alone, expected = analyzer.analyze(
        data, (1,), layer="second", initial_relevance=arrived["second"][:, 1], return_layers=["second/lstm_cell"],
        layers_at="output",
    )  # fmt: skip
    np.testing.assert_allclose(whole, alone, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(inside["second/lstm_cell"], expected["second/lstm_cell"], rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="inside of a loop.*name the layer around it"):
        analyzer.analyze(data, 1, conditions={analyzer._path_in_loops("second/lstm_cell"): [0]})


def test_wrappers_pass_conditions_on(gated, gradient):
    _, model, x = gated
    rows = [[{"conv0": [i, 3]}, {"conv3": [i]}] for i in range(3)]
    for conditions in ({"conv0": [0, 1]}, CONDITIONS[:3], rows, {"conv0": rng_mask()}):
        smooth = revgraph.create_analyzer("smoothgrad", model, augment_by_n=3, noise_scale=0.1, seed=0)
        noise = np.random.default_rng(0)
        expected = np.mean(
            [gradient.analyze(x + noise.normal(0, 0.1, x.shape), 1, conditions=conditions) for _ in range(3)], axis=0
        )
        with warnings.catch_warnings():
            # A variant may have no relevance in a channel where the mean has some.
            warnings.simplefilter("error")
            found = smooth.analyze(x, 1, conditions=conditions)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_a_variant_without_relevance_is_no_warning():
    """The unit is active on some of the noisy samples only, and so has relevance on average."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, activation="relu", name="unit"), layers.Dense(2)])
    model.set_weights([np.ones((3, 1)), np.zeros(1), np.ones((1, 2)), np.zeros(2)])
    x = np.zeros((2, 3))
    smooth = revgraph.create_analyzer("smoothgrad", model, augment_by_n=20, noise_scale=1, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = smooth.analyze(x, 1, conditions={"unit": 0})
    assert (found > 0).all() and (found < 1).all()


def rng_mask():
    return np.random.default_rng(1).random((3, 6, 6, 4)) > 0.5


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_what_conditions_mask_of_a_difference(method, gated):
    _, model, x = gated
    analyzer = revgraph.create_analyzer(method, model)
    whole = analyzer.conservation(x, 1)
    report = analyzer.conservation(x, 1, conditions={"conv0": [0, 1]})
    found = analyzer.analyze(x, 1, conditions={"conv0": [0, 1]})
    np.testing.assert_allclose(report.input, found.sum(axis=(1, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(report.condition, whole.input - report.input, rtol=1e-9)
    np.testing.assert_allclose(report.other, whole.other, atol=1e-12)
    np.testing.assert_allclose(report.start, whole.start, rtol=1e-9)
    each, delta = analyzer.analyze(x, 1, conditions=[{"conv0": c} for c in range(4)], return_convergence_delta=True)
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(x, 1), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(whole.start[:, None] + np.zeros((3, 4)), delta + each.sum(axis=(2, 3, 4)), rtol=1e-9)


def test_the_speed_layer_is_as_the_formula(gated):
    _, model, x = gated
    for method in ("lrp.alpha_2_beta_1", "lrp.epsilon_gamma_box"):
        options = {"low": -4, "high": 4} if method.endswith("box") else {}
        fast, slow = (revgraph.create_analyzer(method, model, literal=literal, **options) for literal in (False, True))
        found = [each.analyze(x, 1, conditions=CONDITIONS) for each in (fast, slow)]
        np.testing.assert_allclose(*found, rtol=1e-8, atol=1e-12)


def test_the_convention_of_innvestigate(gated):
    _, model, x = gated
    analyzer = revgraph.create_analyzer("lrp.z", model, convention="innvestigate")
    each = analyzer.analyze(x, 1, conditions=[{"conv3": c} for c in range(4)])
    np.testing.assert_allclose(each.sum(axis=1), analyzer.analyze(x, 1), rtol=1e-9, atol=1e-12)


def test_conditions_that_leave_nothing_are_warned_of(gated, lrp):
    _, _, x = gated
    with pytest.warns(
        UserWarning, match=r"No relevance arrives at the inputs of samples 0, 1, 2: the condition leaves"
    ):
        assert not lrp.analyze(x, 1, conditions={"conv3": []}).any()
    with pytest.warns(UserWarning, match=r"samples 0, 1, 2: of the conditions, 1 leave nothing") as caught:
        lrp.analyze(x, 1, conditions=[{"conv3": [1, 2]}, {"conv3": []}])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrp.analyze(x, 1, conditions={"conv3": [0, 1, 2, 3]})


@pytest.mark.parametrize(
    "conditions, error, message",
    [
        ({"conv": [1]}, KeyError, "Did you mean 'conv"),
        ({"conv0": [4]}, ValueError, r"'conv0' is out of range: there are 4 channels, 0 to 3. Received: 4.*-4 to -1"),
        ({"conv0": [-5]}, ValueError, "Received: -5"),
        ({"conv0": [(6, 0, 0)]}, ValueError, "6 places on axis 1"),
        ({"conv0": (0, 1)}, ValueError, r"for each of the 3 axes.*Channels are a list, such as \[0, 1\]"),
        ({"conv0": [1.0]}, TypeError, "takes an int or a list of ints"),
        ({"conv0": True}, TypeError, "Received: True"),
        ({"conv0": "all"}, TypeError, "Received: 'all'"),
        (
            {"conv0": np.ones((6, 6), bool)},
            ValueError,
            r"the shape \(6, 6, 4\) of a sample or \(3, 6, 6, 4\).*\(6, 6\)",
        ),
        ({"conv0": np.ones(5, bool)}, ValueError, "each of the 4 channels"),
        ({"conv0": np.ones((2, 6, 6, 4), bool)}, ValueError, r"Received \(2, 6, 6, 4\)"),
        ({"logits": {"heads": [0]}}, ValueError, "0 attentions.*There are: none"),
        ({"conv0": {"head": [0]}}, ValueError, "names heads of an attention"),
        ({}, ValueError, "names no layer"),
        ([], TypeError, "a list of such dicts"),
        ("conv0", TypeError, "a dict by layer"),
        ([{"conv0": [0]}, "conv0"], TypeError, "a dict by layer"),
        ([[{"conv0": [0]}], [{"conv0": [0]}, {"conv0": [1]}], []], ValueError, "lists of 0 and 1 and 2 conditions"),
        ([[{"conv0": [0]}]] * 2, ValueError, "for 2 samples, and 3 samples"),
    ],
    ids=str,
)
def test_bad_conditions(conditions, error, message, gated, lrp):
    _, _, x = gated
    with pytest.raises(error, match=message):
        lrp.analyze(x, 1, conditions=conditions)


def test_layers_that_relevance_never_passes(gated, lrp):
    _, _, x = gated
    with pytest.raises(ValueError, match="'conv3'.*comes after the tensor at which relevance starts"):
        lrp.analyze(x, "all", layer="relu1", conditions={"conv3": [0]})
    with pytest.raises(ValueError, match="around=True goes with conditions"):
        lrp.analyze(x, 1, around=True)
    analyzer = revgraph.create_analyzer("lrp.epsilon", two_outputs())
    with pytest.raises(ValueError, match="'main'.*is not computed from it"):
        analyzer.analyze(np.ones((1, 5)), 0, layer="aside", conditions={"main": [0]})


def test_what_does_nothing_to_an_input_is_the_input():
    model = randomized(keras.Sequential([keras.Input((5,)), layers.Dropout(0.5, name="dropout"), layers.Dense(2)]))
    with pytest.raises(ValueError, match="'dropout' is an input of the model, where relevance ends"):
        revgraph.create_analyzer("lrp.epsilon", model).analyze(np.ones((1, 5)), 0, conditions={"dropout": [0]})


def test_layers_beside_each_other_are_added(rng):
    """The remedy of the error gives what a walk through both would give."""
    x = keras.Input((5,))
    one, two = (layers.Dense(4, activation="relu", name=name)(x) for name in ("one", "two"))
    model = randomized(keras.Model(x, layers.Dense(3)(layers.Concatenate()([one, two]))))
    analyzer, data = revgraph.create_analyzer("lrp.epsilon", model), rng.normal(size=(3, 5))
    with pytest.raises(ValueError, match="No way leads through both 'one' and 'two'"):
        analyzer.analyze(data, 1, conditions={"one": [0], "two": [1]})
    each = analyzer.analyze(data, 1, conditions=[{"one": [0]}, {"two": [1]}])
    both = analyzer.analyze(data, 1, conditions={"one": [0], "two": [1]}, around=True)
    np.testing.assert_allclose(each.sum(axis=1), both, rtol=1e-9, atol=1e-13)


def test_the_ledger_follows_one_condition(gated, lrp):
    _, _, x = gated
    with pytest.raises(ValueError, match=r"one condition per sample, and there are 2.*conditions=conditions\[0\]"):
        lrp.conservation(x, 1, conditions=CONDITIONS[:2])
    rows = [[CONDITIONS[0]], [CONDITIONS[1]], [CONDITIONS[2]]]
    report = lrp.conservation(x, 1, conditions=rows)
    expected = [lrp.conservation(x[i : i + 1], 1, conditions=rows[i][0]).condition[0] for i in range(3)]
    np.testing.assert_allclose(report.condition, expected, rtol=1e-9)
    with pytest.raises(TypeError, match="does not take 'conditions'"):
        revgraph.create_analyzer("random", gated[1]).analyze(x, conditions={"conv0": [0]})


def test_streams(gated, lrp):
    _, _, x = gated
    expected = lrp.analyze(x, 1, conditions=CONDITIONS[:2])
    found = lrp.analyze(tf.data.Dataset.from_tensor_slices(x).batch(2), 1, conditions=CONDITIONS[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
