"""`revgraph.load_model`: files of every kind, and what is said of those that are none."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

import revgraph
from revgraph.graph import Graph
from tests.models import OLDER_KERAS, cnn, inputs_of, mlp, randomized


def lambda_model():
    return keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x * 2.0, output_shape=(3,)), layers.Dense(2)])


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_of_keras(tmp_path, ending):
    model = randomized(cnn())
    model.save(tmp_path / f"model{ending}")
    x = inputs_of(model)
    loaded = revgraph.load_model(tmp_path / f"model{ending}")
    assert isinstance(loaded, keras.Model)
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)
    expected = revgraph.create_analyzer("lrp.epsilon", model).analyze(x, 0)
    for path in (tmp_path / f"model{ending}", str(tmp_path / f"model{ending}")):
        found = revgraph.create_analyzer("lrp.epsilon", path).analyze(x, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_savedmodels(tmp_path):
    model = randomized(cnn())
    model.export(tmp_path / "model")
    x = inputs_of(model)
    for path in (tmp_path / "model", tmp_path / "model" / "saved_model.pb"):
        graph = revgraph.load_model(path)
        assert isinstance(graph, Graph) and repr(graph).startswith("<Graph 'model':")
        np.testing.assert_allclose(graph(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    """A SavedModel of a plain module with two signatures, neither the default one."""
    module = tf.Module()
    module.w = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
    spec = tf.TensorSpec((None, 2), tf.float32, "x")
    once = tf.function(lambda x: {"y": x @ module.w}).get_concrete_function(spec)
    twice = tf.function(lambda x: {"y": 2 * x @ module.w}).get_concrete_function(spec)
    folder = tmp_path_factory.mktemp("modules")
    tf.saved_model.save(module, str(folder / "two"), signatures={"once": once, "twice": twice})
    tf.saved_model.save(module, str(folder / "one"), signatures={"only": once})
    tf.saved_model.save(module, str(folder / "none"))
    return folder


def test_a_signature_by_name(signatures):
    x = np.array([[1.0, 1.0]], "float32")
    np.testing.assert_allclose(revgraph.load_model(signatures / "two", signature="twice")(x), [[8, 12]])
    np.testing.assert_allclose(revgraph.load_model(signatures / "one")(x), [[4, 6]])
    analyzer = revgraph.create_analyzer("lrp.z", signatures / "two", signature="once")
    np.testing.assert_allclose(analyzer.analyze(x, 1), [[2, 4]], rtol=1e-5)


def test_signatures_that_are_not_there(signatures):
    with pytest.raises(KeyError, match=r"no signature 'serving'\. Its signatures are 'once', 'twice'"):
        revgraph.load_model(signatures / "two", signature="serving")
    with pytest.raises(ValueError, match=r"several signatures: choose one.*'once', 'twice'"):
        revgraph.load_model(signatures / "two")
    with pytest.raises(ValueError, match=r"has no signatures.*Save it again with one"):
        revgraph.load_model(signatures / "none")
    with pytest.raises(TypeError, match="signature= goes with the path"):
        revgraph.create_analyzer("lrp.z", mlp(), signature="once")


def test_a_signature_of_a_file(tmp_path):
    mlp().save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="signature= is for SavedModel directories"):
        revgraph.load_model(tmp_path / "m.keras", signature="once")


def test_no_such_path(tmp_path):
    for call in (revgraph.load_model, lambda path: revgraph.create_analyzer("lrp.z", path)):
        with pytest.raises(FileNotFoundError, match=r"There is no file or directory '.*missing\.keras'"):
            call(tmp_path / "missing.keras")


def test_not_a_model(tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"'.*notes\.txt' is not a model: models are"):
        revgraph.load_model(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"'.*folder' is not a SavedModel: it has no saved_model\.pb"):
        revgraph.load_model(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"'.*other\.zip' is not a model that Keras wrote"):
        revgraph.load_model(tmp_path / "other.zip")


def test_the_directory_above_versions(signatures, tmp_path):
    (tmp_path / "served").mkdir()
    for version in ("2", "10"):
        (tmp_path / "served" / version).mkdir()
        (tmp_path / "served" / version / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match=r"It has SavedModels in it, though, such as '.*served/10'"):
        revgraph.load_model(tmp_path / "served")


def test_weights_alone_are_no_model(tmp_path):
    mlp().save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=r"holds no model, only weights"):
        revgraph.load_model(tmp_path / "m.weights.h5")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_cut_short(tmp_path, ending, share):
    path = tmp_path / f"m{ending}"
    mlp().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"'.*m\.(keras|h5)' is damaged|Keras cannot read") as error:
        revgraph.load_model(path)
    assert "\n" not in str(error.value)


def test_operations_that_tensorflow_does_not_have(tmp_path):
    randomized(cnn()).export(tmp_path / "m")
    path = tmp_path / "m" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.op = {"Relu": "FancyRelu", "MaxPool": "FancyPool"}.get(node.op, node.op)
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(ValueError, match=r"nodes .*/Relu' \(FancyRelu\), .*' \(FancyPool\)") as error:
        revgraph.load_model(tmp_path / "m")
    assert "tf.load_op_library" in str(error.value) and "\n" not in str(error.value)
    assert "(Conv2D)" not in str(error.value)


def test_a_damaged_savedmodel(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"\x0a\xff\xff not a protobuf")
    with pytest.raises(ValueError, match=r"The SavedModel '.*m' cannot be read") as error:
        revgraph.load_model(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_lambda_code_runs_only_when_allowed(tmp_path, ending):
    path = tmp_path / f"m{ending}"
    lambda_model().save(path)
    for call in (revgraph.load_model, lambda path: revgraph.create_analyzer("gradient", path)):
        with pytest.raises(ValueError, match=r"has Lambda layers.*safe_mode=False"):
            call(path)
    assert isinstance(revgraph.load_model(path, safe_mode=False), keras.Model)
    options = {"allow_lambda_layers": True, "safe_mode": False}
    assert revgraph.create_analyzer("gradient", path, **options).analyze(np.ones((1, 3)), 0).all()
    assert revgraph.check(path, "gradient", **options).supported


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


class Tripled(layers.Layer):
    def call(self, x):
        return 3 * x

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("of_my_own", "Halved")
class Halved(Tripled):
    pass


def doubled(x):
    return 2 * x


class AllOnes(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.ones(shape, dtype)

    def get_config(self):
        return {}


OWN = {
    "Tripled": (Tripled, lambda: Tripled()),
    "of_my_own>Halved": (Halved, lambda: Halved()),
    "doubled": (doubled, lambda: layers.Dense(3, activation=doubled)),
    "AllOnes": (AllOnes, lambda: layers.Dense(3, kernel_initializer=AllOnes())),
}


def test_registered_classes_need_not_be_given(tmp_path):
    keras.Sequential([keras.Input((3,)), Doubled(), layers.Dense(2)]).save(tmp_path / "m.keras")
    assert revgraph.load_model(tmp_path / "m.keras").layers


@pytest.mark.skipif(OLDER_KERAS, reason="older versions import the module that a file names")
@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("wrap", [lambda layer: layer, layers.TimeDistributed], ids=["plain", "wrapped"])
def test_classes_and_functions_of_ones_own(name, ending, wrap, tmp_path, monkeypatch):
    """The error stands once, and what it says works."""
    own, make = OWN[name]
    path = tmp_path / f"m{ending}"
    model = keras.Sequential([keras.Input((4, 3)), wrap(make()), layers.Flatten(), layers.Dense(2)])
    model.save(path)
    monkeypatch.delitem(keras.saving.get_custom_objects(), name, raising=False)
    calls = [
        revgraph.load_model,
        lambda path, **given: revgraph.create_analyzer("gradient", path, **given),
        lambda path, **given: revgraph.check(path, "gradient", **given),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"Pass custom_objects={{'{name}': ...}}") as error:
            call(path)
        assert str(error.value).count("custom_objects") == 1 and "\n" not in str(error.value)
        call(path, custom_objects={name: own})
    x = np.ones((2, 4, 3), "float32")
    analyzer = revgraph.create_analyzer("gradient", path, custom_objects={name: own})
    np.testing.assert_allclose(analyzer.graph(x), model(x), rtol=1e-6)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_function_is_named_where_keras_says_only_that_it_is_one(ending, tmp_path, monkeypatch):
    """Keras 3.5 does so."""
    path = tmp_path / f"m{ending}"
    keras.Sequential([keras.Input((3,)), layers.Dense(3, activation=doubled)]).save(path)

    def load_model(*args, **kwargs):
        told = "{'module': 'builtins', 'class_name': 'function', 'config': 'doubled'}"
        raise TypeError(f"Could not interpret activation function identifier: {told}")

    monkeypatch.setattr(keras.models, "load_model", load_model)
    with pytest.raises(ValueError, match=r"Pass custom_objects=\{'doubled': ...\}"):
        revgraph.load_model(path)


def test_the_error_of_both_versions_of_keras_stands_once(tmp_path):
    pytest.importorskip("tf_keras")
    path = tmp_path / "m.h5"
    keras.Sequential([keras.Input((3,)), Tripled(), layers.Dense(2)]).save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.15.0"
    with pytest.raises(ValueError, match=r"Pass custom_objects=\{'Tripled': ...\}") as error:
        revgraph.load_model(path)
    assert str(error.value).count("Tripled") == 2


def test_custom_objects_go_with_a_path():
    for call in (
        lambda **k: revgraph.create_analyzer("lrp.z", mlp(), **k),
        lambda **k: revgraph.check(mlp(), "lrp.z", **k),
    ):
        with pytest.raises(TypeError, match="custom_objects= goes with the path of a model"):
            call(custom_objects={"Tripled": Tripled})


@pytest.fixture(scope="module")
def old_model():
    """A model of Keras 2 with arithmetic between its layers, which Keras 3 does not read."""
    keras_2 = pytest.importorskip("tf_keras")
    inputs = keras_2.Input((4,), name="features")
    x = tf.nn.relu(keras_2.layers.Dense(3)(inputs) * 2 + 1)
    return keras_2.Model(inputs, keras_2.layers.Dense(2)(x), name="old")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_of_keras_2(old_model, tmp_path, ending):
    path = tmp_path / f"m{ending}"
    old_model.save(path)
    graph = revgraph.load_model(path)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(graph(x), old_model(x), rtol=1e-6, atol=1e-6)
    ledger = revgraph.create_analyzer("lrp.epsilon", path).conservation(x, 1)
    np.testing.assert_allclose(ledger.other, 0, atol=1e-5)


def test_lambda_code_of_keras_2_runs_only_when_allowed(tmp_path):
    keras_2 = pytest.importorskip("tf_keras")
    inputs = keras_2.Input((4,), name="features")
    x = keras_2.layers.Lambda(lambda x: x * 2.0)(inputs)
    model = keras_2.Model(inputs, keras_2.layers.Dense(2)(x) * 3)
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="safe_mode=False if you trust"):
        revgraph.load_model(tmp_path / "m.keras")
    x = np.ones((3, 4), "float32")
    np.testing.assert_allclose(revgraph.load_model(tmp_path / "m.keras", safe_mode=False)(x), model(x), rtol=1e-6)


def test_keras_2_without_tf_keras(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tf_keras", None)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Unknown", "config": {}})
    with pytest.raises(ValueError, match=r"written by Keras 2, and Keras 3 cannot read it.*pip install tf_keras"):
        revgraph.load_model(tmp_path / "m.h5")


def in_training():
    i = keras.Input((4, 4, 3))
    h = layers.GaussianNoise(0.1, name="noise")(layers.Conv2D(2, 3)(i))
    return keras.Model(i, layers.Dense(2)(layers.Dropout(0.5, name="drop")(layers.Flatten()(h))))


def exported_in_training(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default", lambda x: model(x, training=True), [tf.TensorSpec((None, *model.input_shape[1:]), name="x")]
    )
    archive.write_out(path)


def with_a_choice(path):
    """Chance inside a branch, and in a function whose result nobody uses."""
    module = tf.Module()
    unused = tf.function(lambda x: (x * 2, tf.random.normal(tf.shape(x), name="unused")))

    @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
    def serve(x):
        y, _ = unused(x)
        return {"y": tf.cond(tf.reduce_sum(y) > 0, lambda: y + tf.random.uniform(tf.shape(y), name="dice"), lambda: y)}

    tf.saved_model.save(module, str(path), signatures=serve)


def warned_of_chance(path, recwarn):
    recwarn.clear()
    revgraph.load_model(path)
    return [str(w.message) for w in recwarn if "depend on chance" in str(w.message)]


def test_savedmodels_that_draw_random_numbers_say_so_once(tmp_path, recwarn):
    exported_in_training(in_training(), tmp_path / "training")
    (message,) = warned_of_chance(tmp_path / "training", recwarn)
    assert "noise" in message and "drop" in message and "conv" not in message
    in_training().export(tmp_path / "inference")
    assert not warned_of_chance(tmp_path / "inference", recwarn)
    i = keras.Input((4,))
    keras.Model(i, layers.Dropout(0.5)(layers.Dense(2)(i), training=True)).export(tmp_path / "always")
    assert len(warned_of_chance(tmp_path / "always", recwarn)) == 1


def test_chance_in_branches_and_where_nobody_uses_it(tmp_path, recwarn):
    with_a_choice(tmp_path / "m")
    (message,) = warned_of_chance(tmp_path / "m", recwarn)
    assert "dice" in message and "unused" not in message


def test_a_model_that_augments_its_inputs(tmp_path, recwarn):
    """Keras exports these layers as they are in training, whatever the model is exported for."""
    i = keras.Input((4, 4, 3))
    keras.Model(i, layers.Flatten()(layers.RandomFlip(name="flip")(i))).export(tmp_path / "m")
    (message,) = warned_of_chance(tmp_path / "m", recwarn)
    assert "flip" in message and "without layers that augment" in message
