"""`.h5` files as Keras 2.3 and before wrote them: Sequential models without an InputLayer."""

import hashlib
import json

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from tests.models import randomized

RECURRENT = ("bidirectional", "cells")


def inner():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten()], name="inner"
    )


def functional():
    i = keras.Input((8, 8, 3))
    return keras.Model(i, layers.Dense(2)(inner()(i)))


def sequential(shape, *stack, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


MODELS = {
    "dense": lambda: sequential((4,), layers.Dense(5, activation="relu"), layers.Dense(2)),
    "convolutions": lambda: sequential(
        (8, 8, 1),
        layers.Conv2D(3, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(2),
    ),
    "any_size": lambda: sequential((None, None, 3), layers.Conv2D(4, 3), layers.GlobalMaxPooling2D(), layers.Dense(2)),
    "embedding": lambda: sequential(
        (6,), layers.Embedding(9, 4), layers.GlobalAveragePooling1D(), layers.Dense(2), dtype="int32"
    ),
    "nested": lambda: sequential((8, 8, 3), inner(), layers.Dense(2)),
    "inside_a_functional_model": functional,
    "every_step": lambda: sequential(
        (5, 4), layers.TimeDistributed(layers.Dense(3)), layers.Flatten(), layers.Dense(2)
    ),
    "a_model_at_every_step": lambda: sequential(
        (5, 4), layers.TimeDistributed(sequential((4,), layers.Dense(3))), layers.Flatten(), layers.Dense(2)
    ),
    "bidirectional": lambda: sequential((5, 4), layers.Bidirectional(layers.LSTM(3)), layers.Dense(2)),
    "cells": lambda: sequential((5, 4), layers.RNN(layers.LSTMCell(3)), layers.Dense(2)),
}


def old(code):
    """A configuration as an old Keras wrote it: the shape stands at the first layer, and classes have no modules."""
    if isinstance(code, list):
        return [old(part) for part in code]
    if not isinstance(code, dict):
        return code
    if code.get("class_name") == "DTypePolicy":
        return code["config"]["name"]
    code = {k: old(v) for k, v in code.items() if k not in ("module", "registered_name", "build_config")}
    if code.get("class_name") == "Sequential":
        first, *rest = code["config"]["layers"]
        rest[0]["config"]["batch_input_shape"] = first["config"]["batch_shape"]
        code["config"] = {"name": code["config"]["name"], "layers": rest}
    return code


def with_input_length(code):
    code = old(code)
    code["config"]["layers"][0]["config"]["input_length"] = 6
    return code


def with_shape_inside_only(code):
    """Keras 2.2 took the shape of a model that begins with a model from that one."""
    code = old(code)
    code["config"]["layers"][0]["config"].pop("batch_input_shape", None)
    return code


def as_list(code):
    """Before Keras 2.2.3."""
    return {"class_name": "Sequential", "config": old(code)["config"]["layers"]}


def written(model, path, rewrite):
    model.save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(rewrite(json.loads(file.attrs["model_config"])))
        file.attrs["keras_version"] = "2.2.4"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.filterwarnings("ignore:Argument `input_length` is deprecated")
@pytest.mark.parametrize(
    ("name", "rewrite"),
    [*((name, old) for name in MODELS), ("embedding", with_input_length), ("nested", with_shape_inside_only)]
    + [("dense", as_list), ("convolutions", as_list)],
)
def test_sequential_models_without_an_input_layer(name, rewrite, tmp_path, rng, recwarn):
    model, path = randomized(MODELS[name]()), tmp_path / "old.h5"
    digest = written(model, path, rewrite)
    shape = tuple(size or 7 for size in model.input_shape[1:])
    x = rng.integers(0, 9, (3, *shape)) if name == "embedding" else rng.normal(size=(3, *shape)).astype("float32")
    loaded = revgraph.load_model(path)
    assert isinstance(loaded, keras.Model) and loaded.input_shape == model.input_shape
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)
    assert not [w for w in recwarn if "input_shape" in str(w.message)]
    if name not in RECURRENT:
        expected = revgraph.create_analyzer("lrp.epsilon", model).analyze(x, 0)
        np.testing.assert_allclose(revgraph.create_analyzer("lrp.epsilon", path).analyze(x, 0), expected, rtol=1e-6)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert list(tmp_path.iterdir()) == [path]


def test_the_input_has_the_precision_of_the_first_layer(tmp_path):
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layers.Dense(2, dtype="float64")])
    written(model, tmp_path / "old.h5", old)
    assert revgraph.create_analyzer("gradient", tmp_path / "old.h5").analyze(np.ones((1, 3))).dtype == "float64"
