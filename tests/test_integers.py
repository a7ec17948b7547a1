"""Relevance passes integers: token ids that are moved on their way to an embedding, and pixels that become numbers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph

pytestmark = pytest.mark.usefixtures("float64")

LRP = ["lrp.z", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.gamma", "lrp.z_plus"]

MOVES = {
    "one by one": lambda ids, look_up: layers.Concatenate()([look_up(ids[:, k]) for k in range(3)]),
    "flipped": lambda ids, look_up: layers.Flatten()(look_up(ops.flip(ids, axis=1))),
    "split": lambda ids, look_up: layers.Flatten()(ops.concatenate([look_up(t) for t in ops.split(ids, 3, axis=1)], 1)),
    "reshaped": lambda ids, look_up: layers.Flatten()(look_up(layers.Reshape((3, 1))(ids))),
    "joined": lambda ids, look_up: layers.Flatten()(look_up(ops.concatenate([ids[:, 1:], ids[:, :1]], axis=1))),
    "cast": lambda ids, look_up: layers.Flatten()(look_up(ops.cast(ids, "int64"))),
    "time distributed": lambda ids, look_up: layers.Flatten()(
        layers.TimeDistributed(look_up)(layers.Reshape((3, 1))(ids))
    ),
}


def with_weights(model, rng):
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("name", [*LRP, "input_t_gradient", "gradient", "deep_lift"])
@pytest.mark.parametrize("move", MOVES)
def test_ids_that_are_moved_have_the_relevance_of_their_embeddings(move, name, rng):
    """It is that of the same network on the embeddings, summed over each."""
    look_up = layers.Embedding(7, 4)
    ids = keras.Input((3,), dtype="int32")
    model = with_weights(keras.Model(ids, layers.Dense(2)(MOVES[move](ids, look_up))), rng)
    x = np.array([[1, 5, 2], [3, 3, 6]])

    rows = keras.Input((3, 4))
    moved = {
        "one by one": lambda e: layers.Flatten()(e),
        "flipped": lambda e: layers.Flatten()(ops.flip(e, axis=1)),
        "joined": lambda e: layers.Flatten()(ops.concatenate([e[:, 1:], e[:, :1]], axis=1)),
    }.get(move, lambda e: layers.Flatten()(e))
    twin = keras.Model(rows, layers.Dense(2)(moved(rows)))
    twin.set_weights(model.get_weights()[1:])
    embedded = model.get_weights()[0][x]
    expected = revgraph.create_analyzer(name, twin).analyze(embedded, 1)
    found = revgraph.create_analyzer(name, model).analyze(x, 1)
    assert found.shape == x.shape
    if name == "deep_lift":
        # The reference of an id is another id, that of the twin is zero.
        reference = model.get_weights()[0][np.zeros_like(x)]
        expected = revgraph.create_analyzer(name, twin, reference_inputs=reference).analyze(embedded, 1)
    np.testing.assert_allclose(found, expected.sum(-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*LRP, "input_t_gradient", "gradient", "deep_lift"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize(
    "scale",
    [
        lambda x: ops.cast(x, "float64") / 255.0,
        lambda x: layers.Rescaling(1 / 255.0, -0.5)(x),
        lambda x: ops.cast(ops.flip(x, axis=2), "float64") / 255.0,
        lambda x: layers.Normalization(mean=[100.0, 90.0], variance=[900.0, 400.0])(ops.cast(x, "float64")),
    ],
)
def test_pixels_have_the_relevance_of_floating_pixels(scale, dtype, name, rng):
    def network(dtype):
        x = keras.Input((4, 4, 2), dtype=dtype)
        h = layers.Conv2D(3, 2, activation="relu")(scale(x))
        return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))

    model, twin = network(dtype), network("float64")
    twin.set_weights(with_weights(model, rng).get_weights())
    x = rng.integers(0, 256, (3, 4, 4, 2)).astype(dtype)
    found = revgraph.create_analyzer(name, model).analyze(x, 1)
    expected = revgraph.create_analyzer(name, twin).analyze(x.astype("float64"), 1)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_ledger_of_integers_closes(rng):
    ids = keras.Input((4,), dtype="int32")
    h = layers.Embedding(7, 2)(ops.flip(ids[:, 1:], axis=1))
    model = with_weights(keras.Model(ids, layers.Dense(2)(layers.Flatten()(h))), rng)
    report = revgraph.create_analyzer("lrp.z", model).conservation(np.array([[1, 2, 3, 4], [6, 5, 4, 3]]))
    assert np.all(np.abs(report.other) <= 1e-9 * report.magnitude)


def test_a_padded_id_is_a_constant(rng):
    ids = keras.Input((2,), dtype="int32")
    model = with_weights(
        keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(7, 2)(ops.pad(ids, ((0, 0), (1, 0))))))), rng
    )
    table, kernel, bias = model.get_weights()
    x = np.array([[3, 4]])
    report = revgraph.create_analyzer("lrp.z", model).conservation(x)
    contributions = table[[0, 3, 4]].reshape(-1) * kernel[:, 0]
    np.testing.assert_allclose(report.constants, contributions[:2].sum(), rtol=1e-5)
    np.testing.assert_allclose(report.input, contributions[2:].sum(), rtol=1e-5)


@pytest.mark.parametrize("name", [*LRP, "gradient"])
@pytest.mark.parametrize("how", ["argmax", "truncated"])
def test_integers_that_are_computed_are_constants(how, name, rng):
    """They are steps: what they add is that of a constant in their place."""

    def network(constant):
        x, c = keras.Input((4,)), keras.Input((3,))
        h = layers.Dense(3, use_bias=False, name="first")(x)
        if how == "argmax":
            steps = ops.cast(ops.argmax(h, axis=-1, keepdims=True), "float64") * np.ones((1, 3))
        else:
            steps = ops.cast(ops.cast(3 * h, "int32"), "float64")
        y = layers.Dense(2, use_bias=False, name="last")(layers.Concatenate()([h, c if constant else steps]))
        return keras.Model([x, c] if constant else x, y), keras.Model(x, steps)

    model, steps = network(False)
    twin, _ = network(True)
    weights = [rng.normal(size=w.shape) for w in model.get_weights()]
    for each in (model, twin):
        each.set_weights(weights)
    steps.set_weights(weights[:1])
    x = rng.normal(size=(3, 4))
    found = revgraph.create_analyzer(name, model).analyze(x, 1)
    expected, _ = revgraph.create_analyzer(name, twin).analyze([x, np.asarray(steps(x))], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if name in LRP:
        report = revgraph.create_analyzer(name, model).conservation(x, 1)
        assert np.all(np.abs(report.other) <= 1e-9 * report.magnitude)


def test_ids_that_are_chosen_by_a_mask(rng):
    ids = keras.Input((4,), dtype="int32")
    model = keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(9, 2)(ops.where(ids > 3, ids, 0)))))
    table, kernel, _ = with_weights(model, rng).get_weights()
    x = np.array([[1, 5, 2, 7]])
    contributions = (table[[0, 5, 0, 7]] * kernel.reshape(4, 2)).sum(-1)
    report = revgraph.create_analyzer("lrp.z", model)
    np.testing.assert_allclose(report.analyze(x), [contributions * [0, 1, 0, 1]], rtol=1e-5)
    np.testing.assert_allclose(report.conservation(x).constants, contributions[[0, 2]].sum(), rtol=1e-5)


def test_ids_that_choose_among_ids_are_refused():
    """Which of them is moved cannot be told, and zero would be wrong without a word."""
    ids = keras.Input((4,), dtype="int32")
    chosen = ops.take_along_axis(ids, ops.flip(ids, axis=1), axis=1)
    model = keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(9, 2)(chosen))))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match="No rule for"):
        revgraph.create_analyzer("lrp.z", model)
