"""Heatmaps and conservation in TensorBoard during `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.util import event_pb2

import revgraph
from revgraph.callbacks import RelevanceCallback
from revgraph.reverse.ledger import FIELDS


def written(folder):
    """Tag -> {step: tensor} of all event files in a folder."""
    values = {}
    for path in folder.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                values.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
    return values


@pytest.fixture
def model():
    x = keras.Input((6, 6, 1))
    y = layers.Dense(2)(layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(x)))
    model = keras.Model(x, y)
    model.compile("sgd", "mse")
    return model


X = np.random.default_rng(0).random((8, 6, 6, 1)).astype("float32")


def test_every_epoch_is_written(model, tmp_path):
    callback = RelevanceCallback(X[:3], tmp_path, "lrp.epsilon", [0, 1, 0])
    model.fit(X, np.ones((8, 2)), epochs=3, verbose=0, callbacks=[callback])
    values = written(tmp_path)
    assert set(values) == {"relevance", *(f"conservation/{n}" for n in FIELDS[1:])}
    assert all(sorted(steps) == [0, 1, 2] for steps in values.values())
    shares = [sum(float(values[f"conservation/{n}"][e]) for n in FIELDS[1:]) for e in (0, 2)]
    np.testing.assert_allclose(shares, 1, rtol=1e-4)

    width, height, *pngs = values["relevance"][2]
    assert (int(width), int(height), len(pngs)) == (12, 6, 3)
    shown = tf.io.decode_png(pngs[1]).numpy() / 255
    relevance = revgraph.create_analyzer("lrp.epsilon", model).analyze(X[:3], [0, 1, 0])
    np.testing.assert_allclose(shown[:, 6:], revgraph.visualize.heatmap(relevance)[1], atol=0.01)
    np.testing.assert_allclose(shown[:, :6], np.repeat(X[1], 3, -1), atol=0.01)
    assert not np.array_equal(values["relevance"][0], values["relevance"][2])


def test_every_second_epoch_with_an_analyzer_of_ones_own(model, tmp_path):
    analyzer = revgraph.create_analyzer("lrp.z", model)
    callback = RelevanceCallback(X[:1], tmp_path, analyzer, every=2, conservation=False, cmap_type="bwr")
    model.fit(X, np.ones((8, 2)), epochs=5, verbose=0, callbacks=[callback])
    assert {tag: sorted(steps) for tag, steps in written(tmp_path).items()} == {"relevance": [1, 3]}


def test_arguments_of_the_analyzer_and_what_is_not_an_image(tmp_path):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="relu"), layers.Dense(2)])
    model.compile("sgd", "mse")
    callback = RelevanceCallback(X[:2, 0, :5, 0], tmp_path, ("lrp.epsilon", {"epsilon": 0.5}), 1)
    model.fit(X[:, 0, :5, 0], np.ones((8, 2)), epochs=1, verbose=0, callbacks=[callback])
    values = written(tmp_path)
    assert float(values["conservation/stabiliser"][0]) > 0
    assert len(values["relevance"][0]) == 4


def test_an_illegal_number_of_epochs(tmp_path):
    with pytest.raises(ValueError, match="every is a positive number of epochs. Received: 0"):
        RelevanceCallback(X, tmp_path, every=0)
