"""Names of classes, wherever they are taken: one for each output, or two for the single unit of a binary classifier."""

import json
import re

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import visualize
from revgraph.class_names import gives_logits, predicted
from revgraph.cli import main
from revgraph.datasets import HDF5, open_dataset

X = np.random.default_rng(0).random((4, 6, 6, 1)).astype("float32")
R = X - 0.5
P = np.array([[0.2], [0.9], [0.5], [0.51]])


def binary(activation=None, spelt_out=False):
    """A network that is sure of the first class for the first two samples and of the second for the others."""
    x = keras.Input((6, 6, 1))
    y = layers.Dense(1, activation=activation)(layers.Flatten()(x))
    y = 1 / (1 + keras.ops.exp(-y)) if spelt_out else y
    model = keras.Model(x, y)
    w = np.linalg.lstsq(X.reshape(4, -1), np.array([-3.0, -2.0, 2.0, 3.0]), rcond=None)[0]
    model.layers[-1 if not spelt_out else 2].set_weights([w[:, None], np.zeros(1)])
    return model


def titles(picture):
    return [axes.get_ylabel() for axes in picture.axes if axes.get_ylabel()]


def test_one_unit_tells_two_classes_apart():
    assert titles(visualize.plot(X, R, P, ["cat", "dog"])) == [
        "cat: 0.8", "dog: 0.9", "cat: 0.5", "dog: 0.51",
    ]  # fmt: skip
    # What was selected is the unit, which stands for the second class.
    shown = visualize.plot(X, R, P, ["cat", "dog"], neuron_selection=0)
    assert titles(shown) == ["dog: 0.2", "dog: 0.9", "dog: 0.5", "dog: 0.51"]
    for selection, expected in (
        ("positive", ["dog: 0.2", "dog: 0.9", "dog: 0.5", "dog: 0.51"]),
        ("negative", ["cat: 0.8", "cat: 0.1", "cat: 0.5", "cat: 0.49"]),
        (["negative", "positive"] * 2, ["cat: 0.8", "dog: 0.9", "cat: 0.5", "dog: 0.51"]),
    ):
        assert titles(visualize.plot(X, R, P, ["cat", "dog"], selection)) == expected
    assert titles(visualize.plot(X, R, P, ["price"]))[0] == "price: 0.2"
    for selection in (None, "positive", "negative", 0):
        assert titles(visualize.plot(X, R, 10 * P, ["price"], selection, unit="€"))[0] == "price: 2 €"
    assert titles(visualize.plot(X, R, P))[0] == "output 0: 0.2"


@pytest.mark.parametrize(
    "selection, title",
    [
        (None, "dog: 5"),
        ("max_activation", "dog: 5"),
        (0, "cat: 2"),
        ([0, 1, 2, 1], "cat: 2"),
        ((2,), "cow: -1"),
        (lambda y: y[:, 0] - y[:, 1], "cat - dog: -3"),
        (lambda y: y[:, 2] + y[:, 1] - y[:, 0], "dog + cow - cat: 2"),
        (lambda y: -y[:, 2], "- cow: 1"),
        (np.eye(3, dtype=bool)[[0, 0, 1, 1]], "cat: 2"),
        (np.array([[1.0, 0, -1]] * 4), "cat - cow: 3"),
    ],
)
def test_a_title_names_what_was_explained(selection, title):
    outputs = np.array([[2.0, 5.0, -1.0]] * 4)
    assert titles(visualize.plot(X, R, outputs, ["cat", "dog", "cow"], selection))[0] == title


@pytest.mark.parametrize(
    "selection", [lambda y: 0.5 * y[:, 0], lambda y: y[:, 0] * y[:, 1], "all", [[0, 1]] * 4, np.full((4, 5), 0.2)]
)
def test_what_is_no_sum_of_a_few_classes_has_no_title(selection):
    assert titles(visualize.plot(X, R, np.array([[2.0, 5.0, -1.0, 0, 1]] * 4), neuron_selection=selection)) == []


def test_titles_of_an_analyzer():
    model = binary("sigmoid")
    analyzer = revgraph.create_analyzer("gradient", model)
    found = visualize.titles(analyzer, X, class_names=["cat", "dog"])
    assert found == titles(visualize.compare(model, X, [analyzer], class_names=["cat", "dog"]))
    assert [title.split(":")[0] for title in visualize.titles(analyzer, X, 0, ["cat", "dog"])] == 4 * ["dog"]


def test_negative_numbers_count_from_the_end():
    outputs = np.array([[0.1, 0.2, 0.7]] * 4)
    for negative, positive in ((-1, 2), ([-1, 0, -2, 1], [2, 0, 1, 1])):
        shown, expected = (titles(visualize.plot(X, R, outputs, ["a", "b", "c"], s)) for s in (negative, positive))
        assert shown == expected and shown[0] == "c: 0.7"


def test_a_logit_is_not_taken_for_a_probability():
    with pytest.raises(ValueError, match=r"values from -2 to 3.*1 / \(1 \+ np.exp\(-outputs\)\)"):
        visualize.plot(X, R, np.array([[-2.0], [3.0], [0.1], [0.2]]), ["cat", "dog"])


@pytest.mark.parametrize("units, count", [(1, 3), (2, 1), (2, 3), (3, 2), (5, 1), (5, 4), (4, 0)])
@pytest.mark.parametrize("selection", [None, 0, "all"])
def test_as_many_names_as_outputs(units, count, selection):
    names = [f"class {i}" for i in range(count)]
    message = rf"{count} class names.*{units} outputs?\b.*one name for each"
    with pytest.raises(ValueError, match=message):
        visualize.plot(X, R, np.full((4, units), 0.3), names, selection)
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(units)])
    with pytest.raises(ValueError, match=message):
        visualize.compare(model, X, ["gradient"], None, names)


@pytest.mark.parametrize(
    "outputs, selection, message",
    [
        (np.zeros((3, 2)), None, "outputs of 3 samples, and x has 4"),
        (np.zeros((4, 2)), 2, "neuron_selection is out of range: there are 2 neurons, 0 to 1"),
        (np.zeros((4, 2)), -3, "neuron_selection is out of range"),
        (P, [0, 1, 1, 0], "there is 1 neuron, 0. Received"),
        (np.zeros((4, 2)), [0, 1, 0], "3 entries for 4 samples"),
    ],
)
def test_what_else_does_not_fit(outputs, selection, message):
    with pytest.raises(ValueError, match=message):
        visualize.plot(X, R, outputs, ["cat", "dog"], selection)


@pytest.mark.parametrize("options", [{"activation": "sigmoid"}, {}, {"spelt_out": True}], ids=str)
def test_compare_knows_what_the_unit_gives(options):
    found = titles(visualize.compare(binary(**options), X, ["gradient"], class_names=["cat", "dog"]))
    assert [title.split(":")[0] for title in found] == ["cat", "cat", "dog", "dog"]
    # A network that ends in a probability has its probability in the title, whatever the method starts with.
    model = binary(**options)
    y = model.predict(X, verbose=0)[:, 0]
    values = np.abs(y) if options == {} else np.maximum(y, 1 - y)
    np.testing.assert_allclose([float(title.split(":")[1]) for title in found], values, rtol=1e-2)
    for method in ("lrp.epsilon", "integrated_gradients"):
        shown = titles(visualize.compare(model, X, [method], "negative", class_names=["cat", "dog"]))
        np.testing.assert_allclose(
            [float(title.removeprefix("cat: ")) for title in shown], -y if options == {} else 1 - y, rtol=1e-2
        )


def test_words_are_cut_to_the_samples_that_are_drawn():
    words = ["negative", "positive", "negative", "positive"]
    found = titles(visualize.compare(binary(), X, ["gradient"], words, ["cat", "dog"], samples=2))
    assert [title.split(":")[0] for title in found] == ["cat", "dog"]
    assert titles(visualize.plot(X, R, np.full((4, 3), 0.3), ["a", "b", "c"], "negative")) == []


@pytest.mark.parametrize("options", [{"activation": "sigmoid"}, {}, {"spelt_out": True}], ids=str)
def test_predictions_of_every_kind_of_unit(options):
    model = binary(**options)
    y = model.predict(X, verbose=0)
    logits = gives_logits(model)
    assert logits == (options == {})
    classes, values = predicted(y, ["cat", "dog"], logits)
    assert classes.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(values, np.maximum(y, -y if logits else 1 - y)[:, 0])


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    binary("sigmoid").save("model.keras")
    np.save("x.npy", X)
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "three.txt").write_text("cat\ndog\ncow\n")
    return tmp_path


@pytest.mark.parametrize("target", ["top1", "dog", "1"])
def test_the_command_line(target, files, capsys):
    line = ["explain", "model.keras", "x.npy", "--classes", "two.txt", "--json", "--target", target]
    assert main(line) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    p = binary("sigmoid").predict(X, verbose=0)[:, 0]
    assert [r["prediction"]["name"] for r in results] == ["cat", "cat", "dog", "dog"]
    assert [r["prediction"]["index"] for r in results] == [0, 0, 1, 1]
    np.testing.assert_allclose([r["prediction"]["value"] for r in results], np.maximum(p, 1 - p), rtol=1e-5)
    explained = [r["explained"][0]["target"] for r in results]
    assert [(t["name"], t["index"]) for t in explained] == [("dog", 1)] * 4
    np.testing.assert_allclose([t["value"] for t in explained], p, rtol=1e-5)
    expected = revgraph.create_analyzer("lrp.epsilon_plus_flat", binary("sigmoid")).analyze(X)
    np.testing.assert_allclose(np.load("explained/x-0.relevance.npy"), expected[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("command", ["explain", "explain-dataset"])
@pytest.mark.parametrize(
    "more, code, message",
    [
        ("--classes three.txt", 1, "has 3 names, and the model 1 output"),
        ("--classes two.txt --target 2", 2, "2 classes, 0 to 1"),
        ("--target 1", 2, "1 output, 0"),
    ],
)
def test_the_command_line_refuses(command, more, code, message, files, capsys):
    line = [command, "model.keras", "x.npy", *more.split(), *(["--out", "o.h5"] if command != "explain" else [])]
    assert main(line) == code
    err = capsys.readouterr().err
    assert re.search(message, err)


@pytest.mark.parametrize("target", [[], ["--target", "dog"]])
def test_a_dataset_is_labelled_with_the_predicted_class(target, files):
    line = ["explain-dataset", "model.keras", "x.npy", "--classes", "two.txt", "--out", "o.h5", "--project", *target]
    assert main(line) == 0
    with h5py.File("o.h5") as file:
        assert file["label"][:].tolist() == [0, 0, 1, 1]
    assert [entry["name"] for entry in json.loads((files / "o.label-map.json").read_text())] == ["cat", "dog"]


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c", "d")])
def test_sinks_and_datasets_take_a_name_for_each_output(names, tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3)])
    analyzer = revgraph.create_analyzer("gradient", model)
    with pytest.raises(ValueError, match=f"{len(names)} class names.*3 outputs"):
        revgraph.explain_dataset(analyzer, X, HDF5(tmp_path / "o.h5", class_names=names), verbose=0)
    (tmp_path / "images/a").mkdir(parents=True)
    keras.utils.save_img(tmp_path / "images/a/1.png", X[0])
    with pytest.raises(ValueError, match=f"{len(names)} class names.*3 outputs"):
        open_dataset(tmp_path / "images", analyzer, class_names=names)


@pytest.mark.parametrize("target", ["cat", "0"])
def test_the_first_class_on_the_command_line(target, files, capsys):
    line = ["explain", "model.keras", "x.npy", "--classes", "two.txt", "--json", "--target", target]
    assert main(line) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    p = binary("sigmoid").predict(X, verbose=0)[:, 0]
    explained = [r["explained"][0]["target"] for r in results]
    assert [(t["name"], t["index"]) for t in explained] == [("cat", 0)] * 4
    np.testing.assert_allclose([t["value"] for t in explained], 1 - p, rtol=1e-5)
    expected = revgraph.create_analyzer("lrp.epsilon_plus_flat", binary("sigmoid")).analyze(X, "negative")
    np.testing.assert_allclose(np.load("explained/x-0.relevance.npy"), expected[0], rtol=1e-3, atol=1e-6)
    line = ["explain-dataset", "model.keras", "x.npy", "--classes", "two.txt", "--out", "o.h5", "--target", target]
    assert main(line) == 0
    with h5py.File("o.h5") as file:
        np.testing.assert_allclose(np.moveaxis(file["attribution"][:], 1, -1), expected, rtol=1e-3, atol=1e-6)


def test_labels_select_one_of_two_classes(tmp_path):
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        keras.utils.save_img(tmp_path / name / "1.png", X[i])
    analyzer = revgraph.create_analyzer("gradient", binary())
    plain = analyzer.analyze(X)
    for labels in (np.array([0, 1, 1, 0]), np.array([[0], [1], [1], [0]]), np.array([0.0, 1, 1, 0])):
        revgraph.explain_dataset(analyzer, (X, labels), tmp_path / "o.h5", "label", verbose=0, overwrite=True)
        with h5py.File(tmp_path / "o.h5") as file:
            signs = np.array([-1, 1, 1, -1])[:, None, None, None]
            np.testing.assert_allclose(np.moveaxis(file["attribution"][:], 1, -1), signs * plain, rtol=1e-5)
    words = ["negative", "positive", "positive", "negative"]
    revgraph.explain_dataset(analyzer, X, tmp_path / "words.h5", words, batch_size=3, verbose=0)
    with h5py.File(tmp_path / "words.h5") as file:
        np.testing.assert_allclose(np.moveaxis(file["attribution"][:], 1, -1), signs * plain, rtol=1e-5)
    with pytest.raises(ValueError, match=r"tells the labels 0 and 1 apart. The dataset has the labels \[0, 2\]"):
        revgraph.explain_dataset(
            analyzer, (X, np.array([0, 2, 2, 0])), tmp_path / "two.h5", "label", verbose=0, on_failure="raise"
        )
    found = revgraph.explain_dataset(analyzer, tmp_path, tmp_path / "files.h5", "label", verbose=0)
    assert found.explained == 2
    assert revgraph.explain_dataset(analyzer, tmp_path, tmp_path / "again.h5", verbose=0).explained == 2
