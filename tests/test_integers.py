"""Relevance passes integers: token ids that are moved on their way to an embedding, and pixels that become numbers.

It does so in memory and in what `model.export` writes.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

LRP = ["lrp.z", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.gamma", "lrp.z_plus"]

EXPORTED = ["lrp.z", "lrp.alpha_1_beta_0", "gradient", "input_t_gradient"]
"""The methods that exported models are explained by."""

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


@pytest.fixture(params=["in memory", "exported"])
def read(request, tmp_path):
    """A model as it is, or what is read from its export."""

    def read(model):
        if request.param == "in memory":
            return model
        if request.node.callspec.params.get("name", "lrp.z") not in EXPORTED:
            pytest.skip("an export takes a second")
        model.export(str(tmp_path / "model"))
        return revgraph.load_model(str(tmp_path / "model"))

    return read


def with_weights(model, rng):
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", [*LRP, "input_t_gradient", "gradient", "deep_lift"])
@pytest.mark.parametrize("move", MOVES)
def test_ids_that_are_moved_have_the_relevance_of_their_embeddings(move, name, rng, read):
    """It is that of the same network on the embeddings, summed over each; of gradients the norm."""
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
    expected = revgraph.create_analyzer(name, twin).record(embedded).analyze(1)
    found = revgraph.create_analyzer(name, read(model)).record(x).analyze(1)
    assert found.shape == x.shape
    reduced = np.linalg.norm(expected, axis=-1) if name == "gradient" else expected.sum(-1)
    np.testing.assert_allclose(found, reduced, rtol=1e-9, atol=1e-12)


@pytest.mark.sweep(3)
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
def test_pixels_have_the_relevance_of_floating_pixels(scale, dtype, name, rng, read):
    def network(dtype):
        x = keras.Input((4, 4, 2), dtype=dtype)
        h = layers.Conv2D(3, 2, activation="relu")(scale(x))
        return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))

    model, twin = network(dtype), network("float64")
    twin.set_weights(with_weights(model, rng).get_weights())
    x = rng.integers(0, 256, (3, 4, 4, 2)).astype(dtype)
    found = revgraph.create_analyzer(name, read(model)).record(x).analyze(1)
    expected = revgraph.create_analyzer(name, twin).record(x.astype("float64")).analyze(1)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_ledger_of_integers_closes(rng, read):
    ids = keras.Input((4,), dtype="int32")
    h = layers.Embedding(7, 2)(ops.flip(ids[:, 1:], axis=1))
    model = with_weights(keras.Model(ids, layers.Dense(2)(layers.Flatten()(h))), rng)
    report = revgraph.create_analyzer("lrp.z", read(model)).conservation(np.array([[1, 2, 3, 4], [6, 5, 4, 3]]))
    assert np.all(np.abs(report.other) <= 1e-9 * report.magnitude)


def test_a_padded_id_is_a_constant(rng, read):
    ids = keras.Input((2,), dtype="int32")
    model = with_weights(
        keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(7, 2)(ops.pad(ids, ((0, 0), (1, 0))))))), rng
    )
    table, kernel, bias = model.get_weights()
    x = np.array([[3, 4]])
    report = revgraph.create_analyzer("lrp.z", read(model)).conservation(x)
    contributions = table[[0, 3, 4]].reshape(-1) * kernel[:, 0]
    np.testing.assert_allclose(report.constants, contributions[:2].sum(), rtol=1e-5)
    np.testing.assert_allclose(report.input, contributions[2:].sum(), rtol=1e-5)


@pytest.mark.parametrize("name", [*LRP, "gradient"])
@pytest.mark.parametrize("how", ["argmax", "truncated"])
def test_integers_that_are_computed_are_constants(how, name, rng, read):
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
    found = revgraph.create_analyzer(name, read(model)).record(x).analyze(1)
    expected, _ = revgraph.create_analyzer(name, twin).record([x, np.asarray(steps(x))]).analyze(1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if name in LRP:
        report = revgraph.create_analyzer(name, read(model)).conservation(x, 1)
        assert np.all(np.abs(report.other) <= 1e-9 * report.magnitude)


def test_ids_that_are_chosen_by_a_mask(rng, read):
    ids = keras.Input((4,), dtype="int32")
    model = keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(9, 2)(ops.where(ids > 3, ids, 0)))))
    table, kernel, _ = with_weights(model, rng).get_weights()
    x = np.array([[1, 5, 2, 7]])
    contributions = (table[[0, 5, 0, 7]] * kernel.reshape(4, 2)).sum(-1)
    report = revgraph.create_analyzer("lrp.z", read(model))
    np.testing.assert_allclose(report.analyze(x), [contributions * [0, 1, 0, 1]], rtol=1e-5)
    np.testing.assert_allclose(report.conservation(x).constants, contributions[[0, 2]].sum(), rtol=1e-5)


def test_ids_that_choose_among_ids_are_refused(read):
    """Which of them is moved cannot be told, and zero would be wrong without a word."""
    ids = keras.Input((4,), dtype="int32")
    chosen = ops.take_along_axis(ids, ops.flip(ids, axis=1), axis=1)
    model = keras.Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(9, 2)(chosen))))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match="No rule for"):
        revgraph.create_analyzer("lrp.z", read(model))


def exported(model, path):
    model.export(str(path))
    return revgraph.load_model(str(path))


NUMBERED = {
    "shifted": lambda i: i + 1,
    "shifted, then moved": lambda i: ops.flip(i + 1, axis=1),
    "moved, then shifted": lambda i: ops.flip(i, axis=1) + 1,
    "by a remainder": lambda i: i % 4,
    "by a quotient": lambda i: i // 2,
    "between bounds": lambda i: ops.clip(i, 1, 3),
    "from the end": lambda i: ops.where(i < 4, i + 2, i - 1),
    "of another type": lambda i: ops.cast(ops.cast(i, "int64") + 1, "int32"),
}


@pytest.mark.parametrize("how", NUMBERED)
def test_ids_that_get_other_numbers(how, rng, tmp_path):
    """The row that is looked up belongs to the id, whatever its number in the table is."""
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, layers.Dense(2)(layers.Flatten()(layers.Embedding(9, 4)(NUMBERED[how](ids)))))
    table, kernel, _ = with_weights(model, rng).get_weights()
    x = np.int32([[0, 5, 2], [3, 3, 6]])
    rows, slopes = table[np.asarray(NUMBERED[how](x))], kernel.reshape(3, 4, 2)[..., 1]
    graph = exported(model, tmp_path / "model")
    for name, expected in [
        ("lrp.z", (rows * slopes).sum(-1)),
        ("input_t_gradient", (rows * slopes).sum(-1)),
        ("gradient", np.ones((2, 1)) * np.linalg.norm(slopes, axis=-1)),
    ]:
        found = revgraph.create_analyzer(name, graph).record(x).analyze(1)
        np.testing.assert_allclose(found, expected[:, ::-1] if "moved" in how else expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["lrp.z", "gradient"])
def test_one_hot_is_an_embedding(name, rng, tmp_path):
    ids = keras.Input((3,), dtype="int32")
    model = with_weights(keras.Model(ids, layers.Dense(2)(layers.Flatten()(ops.one_hot(ids, 5)))), rng)
    kernel = model.get_weights()[0].reshape(3, 5, 2)[..., 1]
    x = np.int32([[0, 4, 2], [3, 3, 1]])
    found = revgraph.create_analyzer(name, exported(model, tmp_path / "model")).record(x).analyze(1)
    expected = kernel[np.arange(3), x] if name == "lrp.z" else np.broadcast_to(np.linalg.norm(kernel, axis=-1), (2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["lrp.z", "lrp.alpha_1_beta_0", "input_t_gradient"])
def test_arithmetic_of_integers_that_become_numbers(name, rng, tmp_path):
    """A negative is made of pixels before they are floating."""

    def network(dtype):
        x = keras.Input((3,), dtype=dtype)
        return keras.Model(x, layers.Dense(2)(ops.cast(2 * (255 - x[:, 1:]), "float64") / 255.0))

    model, twin = network("int32"), network("float64")
    twin.set_weights(with_weights(model, rng).get_weights())
    x = rng.integers(0, 256, (4, 3)).astype("int32")
    found = revgraph.create_analyzer(name, exported(model, tmp_path / "model")).record(x).analyze(1)
    expected = revgraph.create_analyzer(name, twin).record(x.astype("float64")).analyze(1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


COMPUTED = {
    "steps of pixels": lambda i: ops.cast(i // 2, "float64"),
    "steps of small pixels": lambda i: ops.cast(ops.cast(i, "uint8") + 250, "float64"),
    "ids of sums": lambda i: layers.Embedding(30, 2)(ops.sum(i, axis=1, keepdims=True)),
    "ids of running sums": lambda i: layers.Embedding(30, 2)(ops.cumsum(i, axis=1)),
    "ids of the largest": lambda i: layers.Embedding(30, 2)(ops.cast(ops.argmax(i, axis=1, keepdims=True), "int32")),
}


@pytest.mark.parametrize("how", COMPUTED)
def test_integers_of_which_nothing_is_known_are_refused(how, rng, tmp_path):
    """Zero would be wrong without a word."""
    ids = keras.Input((3,), dtype="int32")
    model = with_weights(keras.Model(ids, layers.Dense(2)(layers.Flatten()(COMPUTED[how](ids)))), rng)
    graph = exported(model, tmp_path / "model")
    for name in ("lrp.z", "gradient", "input_t_gradient"):
        with pytest.raises(revgraph.NotAnalyzeableModelException, match="No rule for"):
            revgraph.create_analyzer(name, graph)


SUMS = {
    "running sums": lambda i: (ops.cumsum(i, axis=-1) - 1) * i,
    "sums": lambda i: ops.sum(i, axis=-1, keepdims=True) + i,
}
"""Arithmetic of integers that is the same with floating numbers."""


@pytest.mark.parametrize("method", ["gradient", "lrp.z", "input_t_gradient"])
@pytest.mark.parametrize("name", SUMS)
def test_sums_of_integers_are_those_of_floating_numbers(name, method):
    """Alibi tables, for example, are running sums of a mask of integers."""
    x, head = np.array([[1, 2, 0, 3], [4, 0, 1, 1]]), layers.Dense(2)
    models = []
    for dtype in ("int32", "float64"):
        i = keras.Input((4,), dtype=dtype)
        models.append(keras.Model(i, head(ops.cast(SUMS[name](i), "float64"))))
    randomized(models[0])
    found, expected = (revgraph.create_analyzer(method, m).record(x).analyze(0) for m in models)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["gradient", "lrp.z", "input_t_gradient"])
def test_integers_that_are_repeated_to_a_shape_known_later(method):
    """The shape is made of integers, too, and says where the others go."""
    x, h = np.array([[1, 2, 0], [3, 1, 1]]), np.random.default_rng(0).normal(size=(2, 4, 3))
    models, head = [], layers.Dense(2)
    for dtype in ("int32", "float64"):
        i, signal = keras.Input((3,), dtype=dtype, name="i"), keras.Input((None, 3), name="h")
        repeat = layers.Lambda(
            lambda both: tf.cast(tf.broadcast_to(both[0][:, None], tf.shape(both[1])), "float64") + both[1],
            output_shape=(None, 3),
        )
        models.append(keras.Model({"i": i, "h": signal}, head(ops.mean(repeat([i, signal]), axis=1))))
    randomized(models[0])
    found, expected = (revgraph.create_analyzer(method, m).record({"i": x, "h": h}).analyze(0) for m in models)
    np.testing.assert_allclose(found["i"], expected["i"], rtol=1e-9, atol=1e-12)
    assert np.abs(expected["i"]).max() > 0.01
