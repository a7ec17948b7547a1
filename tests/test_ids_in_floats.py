"""Ids that come in a floating input are ids: they are looked up, and no method multiplies by them or changes them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph
from revgraph import create_analyzer
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

COUNT, WIDTH = 9, 3
IDS = np.array([[3.0, 7.0, 2.0, 1.0], [8.0, 0.0, 5.0, 5.0]])


def whole(ids, look_up):
    return layers.Flatten()(look_up(ids))


def columns(ids, look_up):
    numbers = ops.cast(ids, "int32")
    return ops.concatenate([look_up(numbers[:, t]) for t in range(4)], axis=-1)


def slices(ids, look_up):
    return ops.concatenate([layers.Flatten()(look_up(part)) for part in ops.split(ids, 2, axis=1)], axis=-1)


def shifted(ids, look_up):
    return layers.Flatten()(look_up(ops.cast(ids, "int32")))


FORMS = {"whole": whole, "columns": columns, "slices": slices, "cast": shifted}


def network(form):
    """Rows of a table, side by side, into a dense layer; and the rows that ids look up."""
    ids, table = keras.Input((4,), name="ids"), layers.Embedding(COUNT, WIDTH)
    model = randomized(keras.Model(ids, layers.Dense(2)(form(ids, table))))
    return model, table.embeddings.numpy(), model.layers[-1].kernel.numpy()[:, 1].reshape(4, WIDTH)


@pytest.fixture(params=["in memory", "exported"])
def of(request, tmp_path):
    """The model, or what `model.export` writes of it."""

    def given(model):
        if request.param == "in memory":
            return model
        model.export(tmp_path / "model")
        return revgraph.load_model(tmp_path / "model")

    return given


@pytest.mark.parametrize("form", FORMS)
def test_relevance_is_that_of_the_rows(form, of):
    model, table, kernel = network(FORMS[form])
    source = of(model)
    rows = table[IDS.astype(int)]
    for method in ("lrp.z", "input_t_gradient"):
        found = create_analyzer(method, source).analyze(IDS, 1)
        np.testing.assert_allclose(found, (rows * kernel).sum(-1), rtol=1e-5, atol=1e-8, err_msg=method)


@pytest.mark.parametrize("form", FORMS)
def test_deep_lift_compares_rows(form, of):
    model, table, kernel = network(FORMS[form])
    found = create_analyzer("deep_lift", of(model), reference_inputs=4).analyze(IDS, 1)
    np.testing.assert_allclose(found, ((table[IDS.astype(int)] - table[4]) * kernel).sum(-1), rtol=1e-9, atol=1e-12)
    difference = np.asarray(model(IDS) - model(np.full((2, 4), 4.0)))[:, 1]
    np.testing.assert_allclose(found.sum(1), difference, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_methods_that_change_inputs_move_the_rows(form, of):
    model, table, kernel = network(FORMS[form])
    source = of(model)
    found = create_analyzer("integrated_gradients", source, steps=2).analyze(IDS, 1)
    np.testing.assert_allclose(found, (table[IDS.astype(int)] * kernel).sum(-1), rtol=1e-9, atol=1e-12)
    # On a linear model noise changes no gradient.
    smooth = create_analyzer("smoothgrad", source, augment_by_n=2, seed=0).analyze(IDS, 1)
    np.testing.assert_allclose(smooth, np.broadcast_to(np.linalg.norm(kernel, axis=-1), IDS.shape), rtol=1e-9)


def test_a_mask_of_ids_is_made_of_their_numbers(of):
    ids = keras.Input((4,), name="ids")
    rows = layers.Embedding(COUNT, WIDTH, mask_zero=True)(ids)
    model = randomized(keras.Model(ids, layers.Dense(2)(layers.GlobalAveragePooling1D()(rows))))
    source, x = of(model), np.array([[3.0, 7.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0]])
    analyzer = create_analyzer("lrp.z", source)
    np.testing.assert_allclose(analyzer.graph(x), np.asarray(model(x)), rtol=1e-9)
    found = analyzer.analyze(x, 1)
    assert (found[x == 0] == 0).all() and (found[x != 0] != 0).all()


def mixed():
    """Two columns of ids beside two of numbers."""
    x, table = keras.Input((4,), name="table"), layers.Embedding(COUNT, WIDTH)
    rows = layers.Flatten()(table(ops.cast(x[:, :2], "int32")))
    return randomized(keras.Model(x, layers.Dense(2)(ops.concatenate([rows, x[:, 2:]], axis=1)))), table


def test_ids_beside_numbers_have_relevance_under_lrp(of):
    model, table = mixed()
    x = np.array([[3.0, 7.0, 0.5, -1.0], [8.0, 0.0, 2.0, 0.3]])
    kernel = model.layers[-1].kernel.numpy()[:, 1]
    rows = table.embeddings.numpy()[x[:, :2].astype(int)]
    expected = [(rows * kernel[: 2 * WIDTH].reshape(2, WIDTH)).sum(-1), x[:, 2:] * kernel[2 * WIDTH :]]
    found = create_analyzer("lrp.z", of(model)).analyze(x, 1)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", ["input_t_gradient", "deep_lift", "integrated_gradients", "smoothgrad"])
def test_ids_beside_numbers_are_refused_where_inputs_are_changed_or_multiplied_by(method, of):
    with pytest.raises(TypeError, match="'table' has ids beside other numbers.*an input of their own"):
        create_analyzer(method, of(mixed()[0]))


def test_numbers_that_are_rounded_are_no_ids():
    x = keras.Input((4,), name="x")
    rounded = ops.cast(ops.cast(x, "int32"), "float64")
    model = randomized(keras.Model(x, layers.Dense(2)(rounded + x)))
    graph = revgraph.read.trace(model)
    assert graph.specs[graph.input_slots[0]].dtype == "float64"
    np.testing.assert_allclose(create_analyzer("integrated_gradients", model, steps=2).analyze(IDS, 1).shape, IDS.shape)
