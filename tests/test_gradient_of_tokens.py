"""Gradients of tokens: the norm over the embedding, or the sum on request."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

IDS = np.array([[3, 1, 0, 3], [2, 2, 4, 1]], "int32")


def close(actual, expected, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10 * scale)


class RMS(layers.Layer):
    def call(self, x):
        return x / ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)


NETWORKS = {
    "dense": lambda rows: layers.Flatten()(rows),
    "behind LayerNormalization": lambda rows: layers.Flatten()(layers.LayerNormalization(center=False)(rows)),
    "behind a normalization of its own": lambda rows: layers.Flatten()(RMS()(rows)),
    "behind ReLU": lambda rows: layers.Flatten()(layers.ReLU()(rows)),
}


def network(name):
    """A model of ids, and the same on their embeddings."""
    ids, rows = keras.Input((4,), dtype="int32"), keras.Input((4, 3))
    table = layers.Embedding(5, 3)
    body = keras.Model(rows, layers.Dense(2, name="out")(NETWORKS[name](rows)))
    return randomized(keras.Model(ids, body(table(ids)))), table, body


def gradient_of_rows(table, body, ids, index):
    rows = tf.gather(tf.convert_to_tensor(table.embeddings), ids)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        y = body(rows)[:, index]
    return tape.gradient(y, rows).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_norm_over_the_embedding_or_the_sum(name):
    model, table, body = network(name)
    g = gradient_of_rows(table, body, IDS, 1)
    analyzer = revgraph.create_analyzer("gradient", model)
    close(analyzer.analyze(IDS, 1), np.linalg.norm(g, axis=-1))
    close(analyzer.record(IDS).analyze(1), np.linalg.norm(g, axis=-1))
    summed = revgraph.create_analyzer("gradient", model, reduce="sum")
    close(summed.record(IDS).analyze(1), g.sum(axis=-1), scale=np.abs(g).max())
    absolute = revgraph.create_analyzer("gradient.baseline", model, reduce="sum", postprocess="abs")
    close(absolute.record(IDS).analyze(1), np.abs(g.sum(axis=-1)), scale=np.abs(g).max())


def test_behind_a_normalization_the_sum_is_rounding():
    model, *_ = network("behind LayerNormalization")
    norm, total = (
        revgraph.create_analyzer("gradient", model, reduce=reduce).record(IDS).analyze(0) for reduce in ("norm", "sum")
    )
    assert np.abs(total).max() < 1e-10 < 1e-3 < norm.min()


def test_several_targets_have_norms_of_their_own():
    model, table, body = network("dense")
    found = revgraph.create_analyzer("gradient", model).analyze(IDS, np.array([[0, 1], [1, 0]]))
    for t, indices in enumerate(([0, 1], [1, 0])):
        for sample, index in enumerate(indices):
            close(found[sample, t], np.linalg.norm(gradient_of_rows(table, body, IDS, index)[sample], axis=-1))


@pytest.mark.parametrize("name", ["deconvnet", "guided_backprop", "beta_smooth"])
def test_the_other_gradients_too(name):
    model, table, body = network("behind ReLU")
    rows = table(IDS).numpy()
    expected = revgraph.create_analyzer(name, body).record(rows).analyze(1)
    close(revgraph.create_analyzer(name, model).record(IDS).analyze(1), np.linalg.norm(expected, axis=-1))
    close(revgraph.create_analyzer(name, model, reduce="sum").record(IDS).analyze(1), expected.sum(axis=-1))


def test_ids_in_a_floating_input(float64):
    model, table, body = network("dense")
    ids = keras.Input((4,))
    floating = keras.Model(ids, body(table(ids)))
    expected = np.linalg.norm(gradient_of_rows(table, body, IDS, 1), axis=-1)
    close(revgraph.create_analyzer("gradient", floating).record(IDS.astype("float64")).analyze(1), expected)


def test_input_times_gradient_and_lrp_keep_the_sum():
    model, table, body = network("dense")
    expected = (table(IDS).numpy() * gradient_of_rows(table, body, IDS, 1)).sum(axis=-1)
    close(revgraph.create_analyzer("input_t_gradient", model).record(IDS).analyze(1), expected)
    # Without a stabiliser, because outputs may be small.
    analyzer = revgraph.create_analyzer("lrp", model, rule=revgraph.rules.Z(epsilon=1e-300))
    close(analyzer.record(IDS).analyze(1), expected)


def test_reduce_is_saved(tmp_path):
    model, *_ = network("dense")
    analyzer = revgraph.create_analyzer("gradient", model, reduce="sum")
    analyzer.save(tmp_path / "sum.revgraph")
    loaded = revgraph.load_analyzer(tmp_path / "sum.revgraph")
    np.testing.assert_array_equal(loaded.record(IDS).analyze(1), analyzer.record(IDS).analyze(1))


@pytest.mark.parametrize(("name", "wrong"), [("gradient", "mean"), ("gradient", 3), ("input_t_gradient", "norm")])
def test_another_word_is_refused(name, wrong):
    model, *_ = network("dense")
    with pytest.raises(ValueError, match=rf"reduce is .*\"?sum.*Received: {wrong!r}"):
        revgraph.create_analyzer(name, model, reduce=wrong)
