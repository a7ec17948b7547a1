"""Exported analyzers: SavedModels that give the same relevance where there is no revgraph."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

import revgraph
from tests.models import randomized

FRESH = """
import json, sys
import numpy as np
import tensorflow as tf

sys.modules["revgraph"] = None  # importing it fails
folder, cases = sys.argv[1], json.loads(sys.argv[2])
for name, keys in cases.items():
    serve = tf.saved_model.load(f"{folder}/{name}").signatures["serving_default"]
    data = np.load(f"{folder}/{name}.npz")
    result = serve(**{key: tf.constant(data[key]) for key in keys})
    np.savez(f"{folder}/{name}.out.npz", **{key: value.numpy() for key, value in result.items()})
"""


def classifier(shape=(8, 8, 2)):
    inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return randomized(keras.Model(inputs, layers.Dense(3, activation="softmax", name="probability")(x), name="net"))


def two_ends():
    a, b = keras.Input((4,), name="b_first"), keras.Input((3,), name="a_second")
    x = layers.Concatenate(name="joined")([a, layers.Dense(2, activation="tanh", name="inner")(b)])
    return randomized(
        keras.Model([a, b], [layers.Dense(2, name="one")(x), layers.Dense(3, name="two")(x)], name="ends")
    )


def exported(folder, name, analyzer, **data):
    """Writes an analyzer and its data, for `fresh`."""
    analyzer.export(folder / name)
    np.savez(folder / f"{name}.npz", **data)
    return list(data)


@pytest.mark.filterwarnings("ignore:The output of")
def test_a_process_without_revgraph_gives_the_same(tmp_path, rng):
    model, several = classifier(), two_ends()
    images = rng.normal(size=(5, 8, 8, 2)).astype("float32")
    b, a = (rng.normal(size=(5, n)).astype("float32") for n in (4, 3))
    chosen = np.array([-1, 0, 2, -1, 1], "int32")
    plus = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
    gradient = revgraph.create_analyzer("gradient", model)
    both = revgraph.create_analyzer("lrp.epsilon", several)
    one, two = np.array([0, -1, 1, -3, -3], "int32"), np.array([-3, -3, 2, -1, 0], "int32")
    cases = {
        "plus": exported(tmp_path, "plus", plus, image=images, neuron_selection=chosen),
        "gradient": exported(tmp_path, "gradient", gradient, image=images, neuron_selection=chosen),
        "both": exported(
            tmp_path, "both", both, a_second=a, b_first=b, neuron_selection_one=one, neuron_selection_two=two
        ),
    }
    subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path), json.dumps(cases)],
        check=True, cwd=tmp_path, env={"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""},
    )  # fmt: skip
    results = {name: np.load(tmp_path / f"{name}.out.npz") for name in cases}
    top = model.predict(images, verbose=0).argmax(1)
    for name, analyzer in (("plus", plus), ("gradient", gradient)):
        expected = analyzer.analyze(images, np.where(chosen == -1, top, chosen))
        np.testing.assert_allclose(results[name]["relevance"], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(results[name]["output"], model(images), rtol=1e-5, atol=1e-6)
    for i in range(5):
        sample = [b[i : i + 1], a[i : i + 1]]
        names = {"one": one[i], "two": two[i]}
        selection = {n: "max_activation" if c == -1 else int(c) for n, c in names.items() if c != -3}
        expected = both.analyze(sample, selection)
        for key, relevance in zip(("b_first", "a_second"), expected, strict=True):
            np.testing.assert_allclose(results["both"][f"relevance_{key}"][i : i + 1], relevance, rtol=1e-5, atol=1e-7)
    for key, output in zip(("one", "two"), several([b, a]), strict=True):
        np.testing.assert_allclose(results["both"][f"output_{key}"], output, rtol=1e-5, atol=1e-6)


def test_images_of_any_size_and_batches_of_any_size(tmp_path, rng):
    model = classifier((None, None, 2))
    with pytest.warns(UserWarning, match="probability"):
        analyzer = revgraph.create_analyzer("lrp.alpha_1_beta_0", model)
    analyzer.export(tmp_path / "any")
    serve = tf.saved_model.load(str(tmp_path / "any")).signatures["serving_default"]
    for batch, size in ((1, 8), (3, 11)):
        x = rng.normal(size=(batch, size, size, 2)).astype("float32")
        result = serve(image=tf.constant(x), neuron_selection=tf.fill([batch], -1))
        np.testing.assert_allclose(result["relevance"], analyzer.analyze(x), rtol=1e-5, atol=1e-7)
        assert result["output"].shape == (batch, 3)


@pytest.fixture
def analyzer():
    model = randomized(keras.Sequential([keras.Input((3,), name="x"), layers.Dense(2, name="dense")], name="small"))
    return revgraph.create_analyzer("lrp.epsilon", model)


@pytest.mark.parametrize("wrong", [2, 99, -4])
def test_a_class_that_is_not_there_is_an_error(analyzer, tmp_path, wrong):
    """Relevance would be zero, which is what a class may have that nothing speaks for."""
    analyzer.export(tmp_path / "e")
    serve = tf.saved_model.load(str(tmp_path / "e")).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="neuron_selection is a position") as error:
        serve(x=tf.ones((2, 3)), neuron_selection=tf.constant([0, wrong]))
    assert f"[{wrong}] [2]" in str(error.value)


def test_nothing_but_tensorflow_operations(analyzer, tmp_path):
    analyzer.export(tmp_path / "e")
    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "e" / "saved_model.pb").read_bytes())
    meta = saved.meta_graphs[0]
    graph = meta.graph_def
    types = {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not {t for t in types if "PyFunc" in t}
    assert {"serving_default"} <= set(meta.signature_def)


def test_weights_travel_as_variables(analyzer, tmp_path):
    analyzer.export(tmp_path / "e")
    names = [shape for _, shape in tf.train.list_variables(str(tmp_path / "e" / "variables" / "variables"))]
    assert [3, 2] in names and [2] in names


def test_version_directory(analyzer, tmp_path):
    assert analyzer.export(tmp_path / "served", version=2) == tmp_path / "served" / "2"
    assert (tmp_path / "served" / "2" / "saved_model.pb").is_file()
    assert analyzer.export(tmp_path / "served", version=3) == tmp_path / "served" / "3"
    for version in (0, True, "1", 1.0):
        with pytest.raises(ValueError, match=r"version is a positive int.*Received"):
            analyzer.export(tmp_path / "served", version=version)


def test_nothing_is_overwritten_unless_asked(analyzer, tmp_path):
    target = tmp_path / "e"
    analyzer.export(target)
    (target / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match=r"exists\. Pass overwrite=True"):
        analyzer.export(target)
    assert (target / "mine").read_text() == "keep"
    analyzer.export(target, overwrite=True)
    assert not (target / "mine").exists() and (target / "saved_model.pb").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_nothing_half_written_stays(analyzer, tmp_path, monkeypatch):
    def interrupted(module, path, **_):
        Path(path).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analyzer.export(tmp_path / "e")
    assert not list(tmp_path.iterdir())


def test_a_savedmodel_explains_another(analyzer, tmp_path, rng):
    analyzer.model.export(tmp_path / "model")
    again = revgraph.create_analyzer("lrp.epsilon", tmp_path / "model")
    again.export(tmp_path / "e")
    x = rng.normal(size=(4, 3)).astype("float32")
    serve = tf.saved_model.load(str(tmp_path / "e")).signatures["serving_default"]
    name = again.graph.input_names[0]
    result = serve(**{name: tf.constant(x), "neuron_selection": tf.fill([4], -1)})
    np.testing.assert_allclose(result["relevance"], analyzer.analyze(x), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_saved_model_cli(analyzer, tmp_path):
    analyzer.export(tmp_path / "e")
    np.save(tmp_path / "x.npy", np.ones((2, 3), "float32"))
    np.save(tmp_path / "n.npy", np.array([-1, 0], "int32"))
    command = [
        str(Path(sys.executable).with_name("saved_model_cli")), "run", "--dir", str(tmp_path / "e"),
        "--tag_set", "serve", "--signature_def", "serving_default",
        "--inputs", f"x={tmp_path}/x.npy;neuron_selection={tmp_path}/n.npy", "--outdir", str(tmp_path / "out"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    relevance = np.load(tmp_path / "out" / "relevance.npy")
    x = np.ones((2, 3), "float32")
    np.testing.assert_allclose(relevance[1:], analyzer.analyze(x[1:], 0), rtol=1e-5)
    np.testing.assert_allclose(relevance[:1], analyzer.analyze(x[:1]), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The output of")
def test_exporting_says_nothing(tmp_path, caplog):
    with caplog.at_level("INFO", logger="tensorflow"):
        revgraph.create_analyzer("gradient", classifier()).export(tmp_path / "explainer")
        tf.get_logger().info("heard")
    assert [record.message for record in caplog.records if record.name == "tensorflow"] == ["heard"]
