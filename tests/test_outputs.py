"""Models with outputs of which no relevance can start, of sizes that are not known, or one tensor twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph

NAMES = ["lrp.epsilon", "gradient", "deep_lift", "integrated_gradients"]


def body(make_second):
    i = keras.Input((4,), name="x")
    h = layers.Dense(5, activation="relu")(i)
    y = layers.Dense(3, name="score")(h)
    return i, y, make_second(h, y)


SECOND = {
    "integers": lambda h, y: keras.ops.argmax(y, axis=-1),
    "integers_of_rank_2": lambda h, y: keras.ops.cast(h > 0.5, "int32"),
    "booleans": lambda h, y: h > 0.5,
    "no_axes": lambda h, y: keras.ops.mean(h),
    "no_batch": lambda h, y: keras.ops.mean(h, axis=0),
}


@pytest.fixture
def x(rng):
    return rng.normal(size=(3, 4)).astype("float32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SECOND)
def test_an_output_that_cannot_be_explained_beside_one_that_can(name, kind, x):
    i, y, second = body(SECOND[kind])
    model, plain = keras.Model(i, {"score": y, "second": second}), keras.Model(i, y)
    analyzer, other = revgraph.create_analyzer(name, model), revgraph.create_analyzer(name, plain)
    for selection in ({"score": 1}, {"score": None}, 1, [0, 1, 2]):
        expected = other.analyze(x, selection["score"] if isinstance(selection, dict) else selection)
        np.testing.assert_allclose(analyzer.analyze(x, selection), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(analyzer.conservation(x, {"score": 1}).start, other.conservation(x, 1).start, rtol=1e-5)
    with pytest.raises(ValueError, match="The output 'second' cannot be explained: it(s shape| holds)"):
        analyzer.analyze(x, {"second": 0})
    with pytest.raises(ValueError, match="The output 'second' cannot be explained"):
        analyzer.analyze(x, {"score": 0, "second": None})


@pytest.mark.parametrize("kind", ["integers", "no_batch"])
def test_records_and_exports_of_such_models(kind, x, tmp_path):
    i, y, second = body(SECOND[kind])
    model = keras.Model(i, {"score": y, "second": second})
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    expected = analyzer.analyze(x, {"score": 1})
    np.testing.assert_allclose(analyzer.record(x).analyze({"score": 1}), expected, rtol=1e-5, atol=1e-6)
    analyzer.export(tmp_path / "e")
    serve = tf.saved_model.load(str(tmp_path / "e")).signatures["serving_default"]
    answer = serve(x=x, neuron_selection_score=tf.ones(3, tf.int32))
    np.testing.assert_allclose(answer["relevance"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer["output_score"], model(x)["score"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer["output_second"], model(x)["second"], rtol=1e-5, atol=1e-6)


def test_a_savedmodel_with_such_outputs(x, tmp_path):
    i, y, second = body(SECOND["integers"])
    model = keras.Model(i, {"score": y, "second": second})
    model.export(tmp_path / "m")
    analyzer = revgraph.create_analyzer("lrp.epsilon", tmp_path / "m")
    expected = revgraph.create_analyzer("lrp.epsilon", model).analyze(x, {"score": 1})
    np.testing.assert_allclose(analyzer.analyze(x, {"score": 1}), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'second' cannot be explained: it holds int"):
        analyzer.analyze(x, {"second": 0})


def test_a_model_of_nothing_but_such_outputs_can_be_explained_inside(x):
    i, y, second = body(SECOND["integers"])
    analyzer = revgraph.create_analyzer("gradient", keras.Model(i, second))
    with pytest.raises(ValueError, match="cannot be explained: it holds int"):
        analyzer.analyze(x, 0)
    expected = revgraph.create_analyzer("gradient", keras.Model(i, y)).analyze(x, 2)
    np.testing.assert_allclose(analyzer.analyze(x, 2, layer="score"), expected, rtol=1e-5)


def test_relevance_does_not_start_at_integers_inside(x):
    i = keras.Input((4,), dtype="int32")
    model = keras.Model(
        i, layers.Dense(2)(layers.Flatten()(layers.Embedding(9, 3)(layers.Reshape((4,), name="ids")(i))))
    )
    with pytest.raises(ValueError, match="Relevance cannot start at 'ids': it holds int32"):
        revgraph.create_analyzer("gradient", model).analyze(np.ones((2, 4), int), 0, layer="ids")


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_as_two_outputs(name, x):
    i, y, _ = body(SECOND["integers"])
    analyzer = revgraph.create_analyzer(name, keras.Model(i, {"a": y, "b": y}))
    expected = revgraph.create_analyzer(name, keras.Model(i, y)).analyze(x, 1)
    for output in ("a", "b"):
        np.testing.assert_allclose(analyzer.analyze(x, {output: 1}), expected, rtol=1e-5, atol=1e-6)


def any_size():
    i = keras.Input((None, None, 2))
    return keras.Model(i, layers.Conv2D(3, 3, padding="same", name="map")(i))


@pytest.mark.parametrize("name", ["lrp.epsilon", "gradient", "deep_lift", "smoothgrad"])
def test_tuples_where_the_size_is_free(name, rng):
    model = any_size()
    fixed = keras.Model(i := keras.Input((6, 5, 2)), model(i))
    data = rng.normal(size=(3, 6, 5, 2)).astype("float32")
    seeded = {"seed": 0} if name == "smoothgrad" else {}
    free, known = (revgraph.create_analyzer(name, m, **seeded) for m in (model, fixed))
    for selection in ((2, 3, 1), (slice(None), 0, slice(0, 2)), (slice(1, 3), slice(None), 2)):
        expected = known.analyze(data, selection)
        np.testing.assert_allclose(free.analyze(data, selection), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(free.analyze(data, selection, batch_size=2), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(free.analyze(data, (2, 3, 1))).any()
    small = rng.normal(size=(1, 3, 3, 2)).astype("float32")
    with pytest.raises(ValueError, match=r"out of range on axis 1: 5 for size 3\. The shape is \(batch, 3, 3, 3\)"):
        free.analyze(small, (5, 0, 0))
    with pytest.raises(ValueError, match=r"out of range on axis 3: 3 for size 3"):
        free.analyze(small, (0, 0, 3))


def test_indices_where_the_size_is_free(rng):
    i = keras.Input((None,))
    analyzer = revgraph.create_analyzer("gradient", keras.Model(i, layers.Activation("tanh")(i)))
    data = np.zeros((2, 4), "float32")
    np.testing.assert_array_equal(analyzer.analyze(data, [1, 3]), np.eye(4)[[1, 3]])
    np.testing.assert_array_equal(analyzer.analyze(data, [[1, 0], [3, 2]]), np.eye(4)[[[1, 0], [3, 2]]])
    np.testing.assert_array_equal(analyzer.analyze(data, [1, 3], batch_size=1), np.eye(4)[[1, 3]])
    np.testing.assert_array_equal(analyzer.analyze(data, 2, initial_relevance=5.0), 5 * np.eye(4)[[2, 2]])
    with pytest.raises(ValueError, match="out of range: there are 4 neurons"):
        analyzer.analyze(data, 4)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_a_tuple_is_one_entry_per_axis_whatever_the_batch(batch, rng):
    """It is not one index per sample by accident of the batch size."""
    i = keras.Input((4,))
    analyzer = revgraph.create_analyzer("gradient", keras.Model(i, layers.Dense(5)(i)))
    data = rng.normal(size=(batch, 4)).astype("float32")
    for selection in ((1, 2), (1, 2, 3), ()):
        with pytest.raises(ValueError, match=r"each of the 1 axes after the batch: the shape is \(batch, 5\)"):
            analyzer.analyze(data, selection)
    np.testing.assert_array_equal(analyzer.analyze(data, (3,)), analyzer.analyze(data, 3))


def test_wrappers_take_tuples_as_they_are(rng):
    """Also where the batch has as many samples as the tuple has entries."""
    i = keras.Input((4, 4, 1))
    model = keras.Model(i, layers.Conv2D(3, 3, padding="same")(i))
    data = rng.normal(size=(3, 4, 4, 1)).astype("float32")
    gradient = revgraph.create_analyzer("gradient", model).analyze(data, (1, 2, 0))
    smooth = revgraph.create_analyzer("smoothgrad", model, augment_by_n=4).analyze(data, (1, 2, 0))
    np.testing.assert_allclose(smooth, gradient, rtol=1e-5, atol=1e-6)
