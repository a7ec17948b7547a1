"""Path methods and DeepLIFT on ids: rows of tables are moved and compared, and contributions add up."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import create_analyzer
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

X = np.array([[1, 2, 3, 0], [4, 5, 5, 6]])
PATHS = {"integrated_gradients": {"steps": 50}, "deep_lift": {}}


def attention(rows):
    h = layers.LayerNormalization()(layers.MultiHeadAttention(2, 3)(rows, rows))
    return layers.GlobalAveragePooling1D()(h)


NETWORKS = {
    "dense": lambda rows: layers.Dense(6, "tanh")(layers.Flatten()(rows)),
    "attention": attention,
    "masked attention": attention,
    "masked LSTM": lambda rows: layers.LSTM(4)(rows),
}


def network(name):
    """A model of ids, and its embedding."""
    ids = keras.Input((4,), dtype="int32", name="ids")
    table = layers.Embedding(8, 5, mask_zero="masked" in name)
    return randomized(keras.Model(ids, layers.Dense(3)(NETWORKS[name](table(ids))))), table


def output(model, x):
    return np.asarray(model(x))[:, 1]


def output_at(model, table, row):
    """The output if every id looked up this row. What a mask leaves out stays left out."""
    kept = table.embeddings.numpy()
    table.embeddings.assign(np.broadcast_to(row, kept.shape))
    y = output(model, X)
    table.embeddings.assign(kept)
    return y


@pytest.mark.parametrize("reference", ["zeros", 7])
@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_contributions_add_up_to_the_difference(name, method, reference):
    model, table = network(name)
    analyzer = create_analyzer(method, model, reference_inputs=reference, **PATHS[method])
    row = np.zeros(5) if reference == "zeros" else table.embeddings.numpy()[reference]
    difference = output(model, X) - output_at(model, table, row)
    found, delta = analyzer.analyze(X, 1, return_convergence_delta=True)
    tolerance = 1e-9 if method == "deep_lift" else 1e-3
    np.testing.assert_allclose(found.sum(axis=1), difference, atol=tolerance)
    np.testing.assert_allclose(delta, 0, atol=tolerance)
    np.testing.assert_allclose(analyzer.conservation(X, 1).start, difference, atol=1e-9)
    if "masked" in name:
        assert found[0, 3] == 0
    # A batch gives what its samples give.
    np.testing.assert_allclose(found[1:], analyzer.analyze(X[1:], 1), atol=1e-12)


def test_zero_rows_are_the_default():
    model, _ = network("dense")
    for method, options in PATHS.items():
        default, named = (create_analyzer(method, model, **options, **r) for r in ({}, {"reference_inputs": "zeros"}))
        np.testing.assert_array_equal(default.analyze(X, 1), named.analyze(X, 1))


def test_on_a_linear_model_a_contribution_is_known():
    ids = keras.Input((4,), dtype="int32")
    table = layers.Embedding(8, 5)
    model = randomized(keras.Model(ids, layers.Dense(2)(layers.Flatten()(table(ids)))))
    rows, kernel = table.embeddings.numpy(), model.layers[-1].kernel.numpy()[:, 1].reshape(4, 5)
    for method in PATHS:
        for reference, row in (("zeros", 0), (6, rows[6])):
            found = create_analyzer(method, model, reference_inputs=reference).analyze(X, 1)
            np.testing.assert_allclose(found, ((rows[X] - row) * kernel).sum(axis=-1), rtol=1e-12)


def test_integrated_gradients_are_the_integral_of_a_tape():
    model, table = network("attention")
    body = keras.Model(model.layers[1].output, model.output)
    rows, steps = table.embeddings.numpy()[X], 16
    total = np.zeros_like(rows)
    for k in range(steps):
        with tf.GradientTape() as tape:
            point = tf.Variable((k + 0.5) / steps * rows)
            y = tf.reduce_sum(body(point)[:, 1])
        total += tape.gradient(y, point).numpy() / steps
    found = create_analyzer("integrated_gradients", model, steps=steps).analyze(X, 1)
    np.testing.assert_allclose(found, (rows * total).sum(axis=-1), rtol=1e-10)


def test_smoothgrad_puts_noise_on_the_rows():
    model, _ = network("attention")
    for reduce in ("norm", "sum"):
        still = create_analyzer("smoothgrad", model, noise_scale=0, augment_by_n=3, reduce=reduce)
        gradient = create_analyzer("gradient", model, reduce=reduce)
        np.testing.assert_allclose(still.analyze(X, 1), gradient.analyze(X, 1), atol=1e-12)
    noisy = create_analyzer("smoothgrad", model, noise_scale=0.1, seed=3)
    first = noisy.analyze(X, 1)
    np.testing.assert_array_equal(first, noisy.analyze(X, 1))
    assert not np.allclose(first, create_analyzer("gradient", model).analyze(X, 1), rtol=1e-3)
    # On a linear model noise changes no gradient.
    ids = keras.Input((4,), dtype="int32")
    linear = randomized(keras.Model(ids, layers.Dense(2)(layers.Flatten()(layers.Embedding(8, 5)(ids)))))
    found = create_analyzer("smoothgrad", linear, seed=0).analyze(X, 1)
    np.testing.assert_allclose(found, create_analyzer("gradient", linear).analyze(X, 1), rtol=1e-9)


def test_noise_differs_between_variants_tokens_and_tables():
    a, b = (keras.Input((4,), dtype="int32") for _ in range(2))
    rows = [layers.Embedding(8, 5)(ids) for ids in (a, b)]
    model = randomized(keras.Model([a, b], layers.Dense(2)(layers.Flatten()(ops.tanh(layers.Add()(rows))))))
    graph = revgraph.canonize.paths.with_noise(revgraph.read.trace(model), 1.0)
    lookups = [site for site in graph.sites if "Noisy" in site.operation.label]
    values = graph.run([X, X, np.array([1.0, 2.0])])
    plain = revgraph.read.trace(model).run([X, X])
    noise = [np.asarray(values[site.outputs[0]] - plain[site.outputs[0]]) for site in lookups]
    every = np.stack(noise).ravel()
    assert len(np.unique(every)) == every.size == 80 and 0.7 < every.std() < 1.3


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("method", PATHS)
def test_ids_that_are_moved_on_their_way(method, together):
    ids = keras.Input((4,), dtype="int32")
    table = layers.Embedding(9, 5)

    def rows(ids):
        if together:
            # The first axis is no longer that of the samples.
            return ops.transpose(table(ops.transpose(ids + 1)), (1, 0, 2))
        return table(ops.concatenate([ids[:, 2:], ids[:, :2] + 1], axis=1))

    model = randomized(keras.Model(ids, layers.Dense(3)(layers.Dense(6, "tanh")(layers.Flatten()(rows(ids))))))
    for reference in ("zeros", 2):
        y = output(model, np.full_like(X, 2)) if reference == 2 else output_at(model, table, np.zeros(5))
        found = create_analyzer(method, model, reference_inputs=reference, **PATHS[method]).analyze(X, 1)
        np.testing.assert_allclose(found.sum(axis=1), output(model, X) - y, atol=1e-4)
        if reference == 2:
            # What is the same as in the reference contributes nothing.
            assert found[0, 1] == 0


@pytest.mark.parametrize("method", PATHS)
def test_several_inputs_and_what_stays_as_it_is(method):
    inputs = {name: keras.Input((4,), dtype="int32", name=name) for name in ("tokens", "segments", "mask")}
    rows = layers.Add()([layers.Embedding(8, 5)(inputs["tokens"]), layers.Embedding(2, 5)(inputs["segments"])])
    shared = ops.cast(inputs["mask"][:, None, :], "bool")
    h = layers.MultiHeadAttention(2, 3)(rows, rows, attention_mask=shared)
    model = randomized(keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(h)[:, 0])))
    x = {"tokens": X, "segments": X % 2, "mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1]])}
    for reference in ("zeros", {"tokens": 7, "segments": "same", "mask": "same"}):
        analyzer = create_analyzer(method, model, reference_inputs=reference, **PATHS[method])
        found = analyzer.analyze(x, 1)
        assert not found["mask"].any() and found["tokens"][0, 3] == 0
        if reference == "zeros":
            assert found["segments"].any()
            continue
        assert not found["segments"].any()
        replaced = {**x, "tokens": np.full_like(X, 7)}
        np.testing.assert_allclose(found["tokens"].sum(axis=1), output(model, x) - output(model, replaced), atol=1e-4)


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
@pytest.mark.parametrize(
    "take",
    [
        lambda h, places: ops.take_along_axis(h, places[:, :, None], axis=1),
        lambda h, places: ops.take_along_axis(h, ops.cast(places, "int64")[:, :, None] + 1, axis=1),
    ],
)
def test_places_of_tokens_stay_as_they_are(method, take):
    """As those of a masked language model, which says where it was given no token."""
    ids, places = keras.Input((4,), dtype="int32", name="ids"), keras.Input((2,), dtype="int32", name="places")
    h = layers.LayerNormalization()(layers.MultiHeadAttention(2, 3)(*2 * [layers.Embedding(8, 5)(ids)]))
    model = randomized(keras.Model([ids, places], layers.Dense(3)(layers.Flatten()(take(h, places)))))
    x = [X, np.array([[0, 2], [1, 2]])]
    reference = {"reference_inputs": 7} if method != "smoothgrad" else {}
    analyzer = create_analyzer(method, model, **reference, **PATHS.get(method, {"seed": 0, "augment_by_n": 4}))
    found = analyzer.analyze(x, 1)
    assert found[0].any(axis=1).all() and not found[1].any()
    if method != "smoothgrad":
        difference = output(model, x) - output(model, [np.full_like(X, 7), x[1]])
        np.testing.assert_allclose(found[0].sum(axis=1), difference, atol=1e-3)


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
def test_integers_that_choose_between_constants_are_no_places(method):
    counts = keras.Input((4,), dtype="int32", name="counts")
    model = keras.Model(counts, layers.Dense(3)(ops.where(counts > 2, 1.0, 0.0)))
    with pytest.raises(TypeError, match="counts holds integers that are not looked up in a table"):
        create_analyzer(method, model)


@pytest.mark.parametrize("method", PATHS)
def test_integers_that_are_numbers_are_not_taken_for_masks(method):
    counts = keras.Input((4,), dtype="int32", name="counts")
    model = randomized(keras.Model(counts, layers.Dense(3)(counts)))
    if method == "integrated_gradients":
        with pytest.raises(TypeError, match="counts holds integers that are not looked up in a table.*deep_lift"):
            create_analyzer(method, model)
        return
    found = create_analyzer(method, model).analyze(X, 1)
    np.testing.assert_allclose(found, X * model.layers[-1].kernel.numpy()[:, 1], rtol=1e-12)


def test_no_postprocess_of_the_contributions_of_ids():
    with pytest.raises(ValueError, match="takes no postprocess.*Received: 'abs'. Leave it out"):
        create_analyzer("integrated_gradients", network("dense")[0], postprocess="abs")


def test_they_are_saved(tmp_path):
    model, _ = network("attention")
    for method in (*PATHS, "smoothgrad"):
        options = {"seed": 0} if method == "smoothgrad" else {"reference_inputs": 3}
        analyzer = create_analyzer(method, model, **options)
        analyzer.save(tmp_path / method)
        np.testing.assert_array_equal(revgraph.load_analyzer(tmp_path / method).analyze(X, 1), analyzer.analyze(X, 1))


def test_wrappers_that_do_not_know_rows_say_which_analyzers_do():
    inner = create_analyzer("lrp.epsilon", network("dense")[0])
    with pytest.raises(TypeError, match='holds indices. The analyzers "integrated_gradients" and "smoothgrad"'):
        revgraph.analyzers.PathIntegrator(inner)


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
@pytest.mark.parametrize("wrong, message", [(-1, "from 0 on"), (0.5, "from 0 on"), (True, "from 0 on"), (99, "no row")])
def test_references_that_are_no_ids(method, wrong, message):
    model = randomized(keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(5, 3), layers.Flatten(),
                                         layers.Dense(2)]))  # fmt: skip
    ids = np.array([[1, 2, 3, 4]])
    with pytest.raises(ValueError, match=message):
        revgraph.create_analyzer(method, model, reference_inputs=wrong).analyze(ids, 0)
    revgraph.create_analyzer(method, model, reference_inputs=4.0).analyze(ids, 0)
