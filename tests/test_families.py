"""What models of KerasHub's families do that others do not, in small layers."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph.read import SizesUnknown, trace
from revgraph.read.keras.signature import Sized

pytestmark = pytest.mark.usefixtures("float64")


def two_inputs():
    """A model whose list of inputs is not in the order of their names, with free lengths."""
    b, a = keras.Input((None, 3), name="b"), keras.Input((None, 2), name="a")
    pooled = [layers.GlobalAveragePooling1D()(layers.Dense(2)(x)) for x in (b, a)]
    return keras.Model([b, a], layers.Dense(4)(layers.Concatenate()(pooled)))


@pytest.fixture
def named(rng):
    return {"a": rng.normal(size=(3, 5, 2)), "b": rng.normal(size=(3, 4, 3))}


def test_a_dict_by_input_name_in_any_order(named):
    model = two_inputs()
    expected = np.asarray(model(named))
    for graph in (trace(model), trace(Sized(model, named))):
        np.testing.assert_allclose(graph(named), expected)
        np.testing.assert_allclose(graph([named["b"], named["a"]]), expected)
    # The sizes of the example go to the inputs of these names.
    assert [graph.specs[slot].shape[1:] for slot in graph.input_slots] == [(4, 3), (5, 2)]
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    for by_name, listed in zip(analyzer.analyze(named, 1), analyzer.analyze([named["b"], named["a"]], 1), strict=True):
        np.testing.assert_array_equal(by_name, listed)


def test_entries_of_a_dict_that_are_no_inputs_are_left_out_with_a_warning(named):
    analyzer = revgraph.create_analyzer("lrp.epsilon", two_inputs())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = analyzer.analyze(named, 1)
    with pytest.warns(UserWarning, match="'segment_ids': no such inputs of the model.*It takes 'b', 'a'"):
        found = analyzer.analyze({**named, "segment_ids": np.zeros((3, 5), "int32")}, 1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Heads(layers.Layer):
    """Returns two tensors, so both outputs have the name of the layer."""

    def call(self, x):
        return ops.tanh(x), ops.relu(x)


def test_every_output_has_a_name_of_its_own(rng):
    x = rng.normal(size=(2, 3))
    inputs = keras.Input((3,))
    first, second = Heads(name="heads")(layers.Dense(3)(inputs))
    listed = keras.Model(inputs, [first, second])
    nested = keras.Model(inputs, {"hidden": [first, second], "logits": layers.Dense(2, name="dense")(second)})
    assert trace(listed).output_names == ("heads", "heads#2")
    assert trace(nested).output_names == ("hidden/0", "hidden/1", "logits")
    for model, names in ((listed, ("heads", "heads#2")), (nested, ("hidden/0", "hidden/1"))):
        analyzer = revgraph.create_analyzer("gradient", model)
        for name, output in zip(names, (first, second), strict=True):
            alone = revgraph.create_analyzer("gradient", keras.Model(inputs, output))
            np.testing.assert_allclose(analyzer.analyze(x, {name: 1}), alone.analyze(x, 1), rtol=1e-12)


class OptionalPictures(layers.Layer):
    """The mean of any number of pictures, or a vector of its own where there are none."""

    def build(self, shape):
        self.none = self.add_weight(shape=(2,), initializer="ones", name="none")

    def call(self, x):
        count = ops.shape(x)[1]
        without = lambda: ops.broadcast_to(self.none, (ops.shape(x)[0], 2))  # noqa: E731
        return ops.cond(ops.equal(count, 0), without, lambda: ops.mean(x, axis=(1, 2)))


def text_and_pictures():
    text, pictures = keras.Input((3,), name="text"), keras.Input((None, 4, 2), name="pictures")
    joined = layers.Concatenate()([text, OptionalPictures(name="pictures_or_none")(pictures)])
    return keras.Model({"text": text, "pictures": pictures}, layers.Dense(2)(joined))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_branch_that_depends_on_a_size_and_an_input_that_is_empty(rng, count):
    """Which branch runs is known from the data. One of several inputs may have no entries."""
    model = text_and_pictures()
    x = {"text": rng.normal(size=(2, 3)), "pictures": rng.normal(size=(2, count, 4, 2))}
    with pytest.raises(SizesUnknown, match="which operations 'pictures_or_none/cond.*depends on a size"):
        trace(model)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    relevance = analyzer.analyze(x, 0)
    assert relevance["pictures"].shape == x["pictures"].shape
    ledger = analyzer.conservation(x, 0)
    np.testing.assert_allclose(ledger.other, 0, atol=1e-12)
    np.testing.assert_allclose(ledger.start, model(x)[:, 0], rtol=1e-9)
    # Without pictures the layer's own vector takes part.
    assert (np.abs(ledger.constants).max() > 1e-3) == (count == 0)


def test_inputs_that_are_all_empty_are_refused(rng):
    analyzer = revgraph.create_analyzer("lrp.epsilon", two_inputs())
    with pytest.raises(ValueError, match="Nothing to explain: the samples of input 'b' have no entries"):
        analyzer.analyze({"a": np.zeros((2, 0, 2)), "b": np.zeros((2, 0, 3))}, 0)


class PoolByPlace(layers.Layer):
    """Means over cells of a grid. The cell of each patch is computed from both of its coordinates."""

    def call(self, patches, places):
        wide = ops.max(places[..., 0]) // 2 + 1
        cell = places[..., 0] // 2 + wide * (places[..., 1] // 2)
        chosen = ops.one_hot(cell, 4, dtype=patches.dtype)
        return ops.matmul(ops.transpose(chosen, (0, 2, 1)), patches)


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.attnlrp", "lrp.cp"])
def test_an_index_that_is_computed_from_several_integers_chooses_and_is_no_signal(rng, name):
    patches, places = keras.Input((16, 3), name="patches"), keras.Input((16, 2), dtype="int32", name="places")
    pooled = PoolByPlace(name="pool")(patches, places)
    model = keras.Model([patches, places], layers.Dense(2)(layers.Flatten()(pooled)))
    x = rng.normal(size=(2, 16, 3))
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(1, 16, 2).repeat(2, 0).astype("int32")
    r, of_places = revgraph.create_analyzer(name, model).analyze([x, grid], 1)
    with tf.GradientTape() as tape:
        t = tf.constant(x)
        tape.watch(t)
        y = model([t, tf.constant(grid)])[:, 1]
    # The model is linear in the patches, and the places get nothing.
    np.testing.assert_allclose(r, x * tape.gradient(y, t), rtol=1e-4)
    assert not of_places.any()


class EachSample(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="normal", name="w")
        self.bias = self.add_weight(shape=(shape[-1],), initializer="normal", name="bias")

    def call(self, x):
        return tf.map_fn(lambda rows: tf.gather(rows, [0, 2]) * self.w + self.bias, x)


def test_the_ledger_of_a_loop_whose_turns_are_samples(rng):
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(EachSample(name="each")(inputs))))
    x = rng.normal(size=(4, 5, 3))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    whole = analyzer.conservation(x, 0)
    np.testing.assert_allclose(whole.other, 0, atol=1e-12)
    np.testing.assert_allclose(whole.start, model(x)[:, 0], rtol=1e-9)
    np.testing.assert_allclose(whole.input, analyzer.analyze(x, 0).sum(axis=(1, 2)), rtol=1e-6)
    for i in range(4):
        alone = analyzer.conservation(x[i : i + 1], 0)
        np.testing.assert_allclose(whole.bias[i], alone.bias[0], rtol=1e-9)
        np.testing.assert_allclose(whole.constants[i], alone.constants[0], rtol=1e-9, atol=1e-12)
    assert np.abs(whole.bias).min() > 1e-4 or np.abs(whole.constants).min() > 1e-4


def contrastive():
    """Scores of every picture with every text, as CLIP has them: the second axis is the batch, too."""
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    left, right = layers.Dense(5, name="left")(a), layers.Dense(5, name="right")(b)
    return keras.Model([a, b], ops.matmul(left, ops.transpose(right)))


def test_the_ledger_of_equal_samples_that_depend_on_each_other():
    x = [np.ones((2, 3)), np.ones((2, 4))]
    model = contrastive()
    ledger = revgraph.create_analyzer("lrp.epsilon", model).conservation(x, 0)
    np.testing.assert_allclose(ledger.start, [np.asarray(model(x))[:, 0].sum()], rtol=1e-9)
    np.testing.assert_allclose(ledger.other, 0, atol=1e-12)


@pytest.mark.parametrize("selection", [None, (1,), 0])
def test_the_ledger_of_samples_that_depend_on_each_other_is_one_for_all(rng, selection):
    model = contrastive()
    x = [rng.normal(size=(3, 3)), rng.normal(size=(3, 4))]
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    ledger = analyzer.conservation(x, selection)
    y = np.asarray(model(x))
    start = y.max(axis=1).sum() if selection is None else y[:, 1 if selection else 0].sum()
    np.testing.assert_allclose(ledger.start, [start], rtol=1e-9)
    np.testing.assert_allclose(ledger.other, 0, atol=1e-12)
    np.testing.assert_allclose(ledger.input, [sum(r.sum() for r in analyzer.analyze(x, selection))], rtol=1e-6)
    assert "one account of all samples together" in str(ledger)


class FromOneSample(layers.Layer):
    """Each sample says by its number from which sample it takes a row, as boxes say to which picture they belong."""

    def call(self, x, number):
        return ops.concatenate([x, ops.take(x, number[:, 0], axis=0)], axis=-1)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("numbers", [[0, 0, 0], [2, 2, 2], [1, 0, 2]])
def test_the_ledger_where_one_sample_takes_from_another(rng, numbers, equal):
    x, number = keras.Input((3,), name="x"), keras.Input((1,), dtype="int32", name="number")
    model = keras.Model([x, number], layers.Dense(2)(FromOneSample()(x, number)))
    rows = np.ones((3, 3)) if equal else rng.normal(size=(3, 3))
    given = [rows, np.reshape(numbers, (3, 1)).astype("int32")]
    ledger = revgraph.create_analyzer("lrp.epsilon", model).conservation(given, 0)
    np.testing.assert_allclose(ledger.start, [np.asarray(model(given))[:, 0].sum()], rtol=1e-9)
    np.testing.assert_allclose(ledger.other, 0, atol=1e-12)
