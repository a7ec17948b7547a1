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


# What Keras 2 and Keras 3 call by the same name, and compute in another way.


def as_keras_2(name, path):
    """A model with hard sigmoids, written by Keras 2."""
    tf_keras = pytest.importorskip("tf_keras")
    old_layers = tf_keras.layers
    stacks = {
        "dense": ((4,), lambda: [old_layers.Dense(3, activation="hard_sigmoid")]),
        "a layer": ((4,), lambda: [old_layers.Dense(3), old_layers.Activation("hard_sigmoid")]),
        "inside": ((5, 4), lambda: [old_layers.TimeDistributed(old_layers.Dense(3, activation="hard_sigmoid"))]),
        "gates": ((5, 4), lambda: [old_layers.LSTM(3, recurrent_activation="hard_sigmoid")]),
        "cells": ((5, 4), lambda: [old_layers.RNN(old_layers.GRUCell(3, recurrent_activation="hard_sigmoid"))]),
    }
    shape, stack = stacks[name]
    model = tf_keras.Sequential([old_layers.InputLayer(shape), *stack()])
    model.save(path)
    return model


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["dense", "a layer", "inside", "gates", "cells"])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_the_hard_sigmoid_of_keras_2(name, suffix, tmp_path, rng):
    model = as_keras_2(name, tmp_path / f"old{suffix}")
    x = rng.normal(size=(2, *model.input_shape[1:])).astype("float32") * 3
    analyzer = revgraph.create_analyzer("gradient", tmp_path / f"old{suffix}")
    (found,) = analyzer.walk(analyzer.question).outputs([x])
    np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=1e-6)


def test_old_recurrent_layers_without_newer_arguments(tmp_path, rng):
    """Keras 2.2 had hard sigmoids as gates by default, and no `time_major`, so that Keras 3 reads its files."""

    def older(code):
        code = old(code)
        for layer in code["config"]["layers"]:
            if layer["class_name"] == "LSTM":
                layer["config"]["recurrent_activation"] = "hard_sigmoid"
        return code

    model = sequential((5, 4), layers.LSTM(3), layers.Dense(2))
    written(model, tmp_path / "old.h5", older)
    loaded = revgraph.load_model(tmp_path / "old.h5")
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    gates = sequential((5, 4), layers.LSTM(3, recurrent_activation=lambda x: keras.ops.clip(x / 5 + 0.5, 0, 1)))
    gates.set_weights(model.layers[0].get_weights())
    np.testing.assert_allclose(loaded(x), model.layers[1](gates(x)), rtol=1e-5)
    assert "hard_sigmoid" in revgraph.create_analyzer("lrp.epsilon", loaded).summary()
    path = tmp_path / "analyzer.revgraph"
    revgraph.create_analyzer("lrp.epsilon", loaded).save(path)
    expected = revgraph.create_analyzer("lrp.epsilon", loaded).analyze(x, 1)
    np.testing.assert_allclose(revgraph.load_analyzer(path).analyze(x, 1), expected, rtol=1e-6)


@keras.saving.register_keras_serializable("tests_of_old_files")
class Squeezed(layers.Layer):
    def call(self, x):
        return keras.ops.squeeze(x, axis=-1)


def test_names_with_slashes_and_own_layers(tmp_path, rng):
    inputs = keras.Input((4, 1), name="sound_power")
    model = keras.Model(inputs, layers.Dense(2, name="chord_root")(Squeezed(name="all_squeezed")(inputs)))

    def slashed(code):
        return json.loads(
            json.dumps(old(code)).replace("sound_power", "sound/power").replace("chord_root", "chord/root")
        )

    written(model, tmp_path / "old.h5", slashed)
    loaded = revgraph.load_model(tmp_path / "old.h5", custom_objects={"Squeezed": Squeezed})
    x = rng.normal(size=(2, 4, 1)).astype("float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)
    assert [layer.name for layer in loaded.layers] == ["sound_power", "all_squeezed", "chord_root"]
