"""Models whose one input stands in a list or a dict: what `analyze` takes and returns, pictures, files, the shell."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.cli import main

METHODS = ["lrp.epsilon", "gradient", "deep_lift", "integrated_gradients", "smoothgrad", "input", "random"]


def in_structure(structure):
    """A model of images whose input stands in a structure, and the same model with a plain input."""
    i = keras.Input((6, 6, 1), name="image")
    y = layers.Dense(3)(layers.Flatten()(layers.Conv2D(2, 3, activation="relu", name="conv")(i)))
    return keras.Model(structure(i), y, name="in_structure"), keras.Model(i, y, name="plain")


def in_list(i):
    return [i]


def in_lists(i):
    return [[i]]


def in_dict(i):
    return {"picture": i}


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 6, 6, 1)).astype("float32")


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("structure", [in_list, in_lists, in_dict])
def test_one_input_in_a_structure(name, structure, x):
    model, plain = in_structure(structure)
    seeded = {"seed": 0} if name in ("smoothgrad", "random") else {}
    analyzer = revgraph.create_analyzer(name, model, **seeded)
    expected = revgraph.create_analyzer(name, plain, **seeded).analyze(x, 1)
    for given in (x, [x], (x,), tf.constant(x), {analyzer.graph.input_names[0]: x}):
        if name == "random":
            analyzer = revgraph.create_analyzer(name, model, **seeded)
        found = analyzer.analyze(given, 1)
        if structure is in_dict:
            assert list(found) == ["picture"]
            found = found["picture"]
        assert isinstance(found, np.ndarray) and found.shape == x.shape
        close(found, expected)


def test_a_list_of_samples_is_a_batch(x):
    model, _ = in_structure(in_list)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    close(analyzer.analyze(list(x), 0), analyzer.analyze(x, 0))
    close(analyzer.analyze(x[:1].tolist(), 0), analyzer.analyze(x[:1], 0))
    close(analyzer.analyze([x[:1].tolist()], 0), analyzer.analyze(x[:1], 0))
    close(analyzer.analyze(tf.data.Dataset.from_tensor_slices(x).batch(3), 0), analyzer.analyze(x, 0))


@pytest.mark.parametrize("structure", [in_list, in_dict])
def test_everything_that_an_analyzer_does(structure, x, tmp_path):
    model, plain = in_structure(structure)
    analyzer, other = (revgraph.create_analyzer("lrp.epsilon", m) for m in (model, plain))
    close(analyzer.conservation([x], 1).input, other.conservation(x, 1).input)
    relevance, by_layer = analyzer.analyze(x, 1, return_layers=["conv"])
    close(by_layer["conv"], other.analyze(x, 1, return_layers=["conv"])[1]["conv"])
    close(analyzer.record([x]).analyze(1)["picture" if structure is in_dict else ...], other.analyze(x, 1))
    analyzer.save(tmp_path / "a.revgraph")
    loaded = revgraph.load_analyzer(tmp_path / "a.revgraph").analyze(x, 1)
    assert type(loaded) is type(relevance)
    close(keras.tree.flatten(loaded)[0], other.analyze(x, 1))
    analyzer.export(tmp_path / "exported")
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (name,) = analyzer.graph.input_names
    close(serve(**{name: x, "neuron_selection": tf.ones(4, tf.int32)})["relevance"], other.analyze(x, 1))
    report = revgraph.explain_dataset(analyzer, x, tmp_path / "r.h5")
    assert report.explained == 4


@pytest.mark.parametrize("structure", [in_list, in_dict])
def test_references_of_one_input(structure, x):
    model, plain = in_structure(structure)
    expected = revgraph.create_analyzer("deep_lift", plain, reference_inputs=x[::-1]).analyze(x, 1)
    references = {"picture": x[::-1]} if structure is in_dict else [x[::-1]]
    found = revgraph.create_analyzer("deep_lift", model, reference_inputs=references).analyze(x, 1)
    close(keras.tree.flatten(found)[0], expected)


@pytest.mark.parametrize("structure", [in_list, in_dict])
def test_pictures(structure, x):
    pytest.importorskip("matplotlib")
    model, _ = in_structure(structure)
    relevance = revgraph.create_analyzer("lrp.epsilon", model).analyze(x)
    given = {"picture": x} if structure is in_dict else x
    picture = revgraph.visualize.plot(given, relevance, model.predict(x, verbose=0), ["a", "b", "c"])
    assert sum(bool(axes.images) for axes in picture.axes) >= 8
    assert revgraph.visualize.compare(model, given, ["gradient", "lrp.epsilon"]).axes


def test_an_output_in_a_list_has_titles(x):
    pytest.importorskip("matplotlib")
    _, plain = in_structure(in_list)
    model = keras.Model(plain.input, [plain.output])
    picture = revgraph.visualize.compare(model, x, ["gradient"], class_names=["cat", "cat", "cat"])
    assert any("cat" in axes.get_ylabel() for axes in picture.axes)


@pytest.mark.parametrize("structure", [in_list, in_dict])
def test_the_command_line(structure, x, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, plain = in_structure(structure)
    model.save("model.keras")
    np.save("x.npy", x[:1])
    assert main(["explain", "model.keras", "x.npy", "--json", "--method", "lrp.epsilon"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    names = sorted(path.rpartition("/")[2] for path in result["explained"][0]["files"])
    assert names == ["x.heatmap.png", "x.json", "x.overlay.png", "x.relevance.npy"]
    close(np.load("explained/x.relevance.npy"), revgraph.create_analyzer("lrp.epsilon", plain).analyze(x[:1])[0])
    assert main(["explain-dataset", "model.keras", "x.npy", "--out", "r.h5", "--json"]) == 0
