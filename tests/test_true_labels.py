"""Titles with true labels: what is true, what the model predicts, and whether that is wrong."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import visualize

pytestmark = pytest.mark.filterwarnings("ignore:The output of .* is a probability")

X = np.random.default_rng(0).random((4, 6, 6, 1)).astype("float32")
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]])
NAMES = ["cat", "dog", "cow"]
LABELS = [0, 2, 2, 1]


def titles(picture):
    return [axes.get_ylabel() for axes in picture.axes if axes.get_ylabel()]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])


@pytest.mark.parametrize("kind", [list, np.array, lambda v: np.array(v, np.uint8), lambda v: np.array(v, float)])
def test_a_title_says_the_true_class_and_whether_the_prediction_is_wrong(kind):
    assert titles(visualize.plot(X, X, P, NAMES, labels=kind(LABELS))) == [
        "cat: 0.7\nlabel cat", "dog: 0.8\nwrong: label cow", "cow: 0.6\nlabel cow", "cat: 0.5\nwrong: label dog",
    ]  # fmt: skip
    assert titles(visualize.plot(X, X, P, labels=kind(LABELS)))[1] == "output 1: 0.8\nwrong: label output 2"


def test_what_is_explained_is_told_apart_from_the_prediction():
    found = titles(visualize.plot(X, X, P, NAMES, 2, labels=LABELS))
    assert found[:2] == ["cow: 0.1\nprediction cat: 0.7\nlabel cat", "cow: 0.1\nprediction dog: 0.8\nwrong: label cow"]
    # There is no title for a mixture of outputs.
    mixed = titles(visualize.plot(X, X, P, NAMES, lambda y: 0.5 * y[:, 0], labels=LABELS))
    assert mixed[1] == "prediction dog: 0.8\nwrong: label cow"


def test_titles_of_the_user_stand_above():
    found = titles(visualize.plot(X, X, P, NAMES, titles=list("abcd"), labels=LABELS))
    assert found[3] == "d\nprediction cat: 0.5\nwrong: label dog"


def test_a_unit_that_tells_two_classes_apart():
    p = np.array([0.2, 0.9, 0.6, 0.4])
    found = titles(visualize.plot(X, X, p, ["cat", "dog"], labels=[0, 1, 0, 1]))
    assert found == [
        "cat: 0.8\nlabel cat", "dog: 0.9\nlabel dog", "dog: 0.6\nwrong: label cat", "cat: 0.6\nwrong: label dog",
    ]  # fmt: skip
    negative = titles(visualize.plot(X, X, p, ["cat", "dog"], "negative", labels=[0, 1, 0, 1]))
    assert negative[2] == "cat: 0.4\nprediction dog: 0.6\nwrong: label cat"


def test_a_regression_has_true_numbers():
    prices = np.array([3.0, 4.5, 1.0, 2.0])
    assert (
        titles(visualize.plot(X, X, prices, ["price"], unit="€", labels=prices + 0.5))[1] == "price: 4.5 €\nlabel 5 €"
    )


def test_compare_takes_predictions_from_the_model(model):
    y = model.predict(X, verbose=0)
    best = y.argmax(axis=1)
    labels = np.where(np.arange(4) < 2, best, (best + 1) % 3)
    found = titles(visualize.compare(model, X, ["gradient"], class_names=NAMES, labels=labels, samples=3))
    expected = [f"{NAMES[b]}: {y[i].max():.3g}\nlabel {NAMES[b]}" for i, b in enumerate(best[:2])]
    assert found[:2] == expected and len(found) == 3
    assert found[2] == f"{NAMES[best[2]]}: {y[2].max():.3g}\nwrong: label {NAMES[labels[2]]}"
    own = titles(visualize.compare(model, X, ["gradient"], class_names=NAMES, labels=labels, titles=list("abcd")))
    assert own[0] == f"a\nprediction {expected[0]}"
    analyzer = revgraph.create_analyzer("gradient", model)
    assert visualize.titles(analyzer, X[:3], class_names=NAMES, labels=labels[:3]) == found


def test_titles_above_pictures_have_room_for_their_lines():
    table = np.random.default_rng(0).normal(size=(4, 5))
    plain, labelled = (visualize.plot(table, table, P, NAMES, labels=labels) for labels in (None, LABELS))
    assert labelled.axes[1].get_title(loc="left") == "dog: 0.8\nwrong: label cow"
    assert labelled.get_figheight() == pytest.approx(plain.get_figheight() + 4 * 0.15)


def test_long_lines_beside_pictures_do_not_reach_the_next_row():
    names = ["Siberian husky of the far north", "Alaskan malamute", "timber wolf"]
    picture = visualize.plot(X, X, P, names, 1, labels=LABELS)
    picture.canvas.draw()
    boxes = [axes.yaxis.label.get_window_extent() for axes in picture.axes if axes.get_ylabel()]
    assert all(below.y1 <= above.y0 for above, below in zip(boxes, boxes[1:], strict=False))
    assert titles(picture)[0].replace("\n", " ") == (
        "Alaskan malamute: 0.2 prediction Siberian husky of the far north: 0.7 label Siberian husky of the far north"
    )


def test_lines_of_titles_in_texts():
    text = visualize.text([["good", "film"]], [[1.0, 2.0]], titles=["a <b>\nlabel c"])
    assert "a &lt;b&gt;<br>label c" in text.to_html()
    assert [each.get_text() for each in text.picture().texts[:2]] == ["a <b>", "label c"]


def test_a_report_says_that_the_model_is_wrong(model):
    analyzer = revgraph.create_analyzer("gradient", model)
    best = model.predict(X[:2], verbose=0).argmax(axis=1)
    page = visualize.report(analyzer, X[:2], class_names=NAMES, labels=[best[0], (best[1] + 1) % 3]).page
    told = re.findall("<p>True class: (.*?)</p>", page)
    assert told[0] == f"<b>{NAMES[best[0]]}</b>"
    assert told[1].endswith(f"The model is <b>wrong</b>: it predicts {NAMES[best[1]]}.")


def test_a_report_knows_a_logit_from_a_probability():
    # A logit of 0.3 speaks for the second class, and a probability of 0.3 for the first.
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, kernel_initializer="ones")])
    x = np.full((1, 2), 0.15, "float32")
    page = visualize.report(revgraph.create_analyzer("gradient", model), x, class_names=["no", "yes"], labels=[1]).page
    assert "<p>True class: <b>yes</b></p>" in page
    number = visualize.report(revgraph.create_analyzer("gradient", model), x, labels=[0.25]).page
    assert "<p>True value: <b>0.25</b></p>" in number


@pytest.mark.parametrize(
    "labels, message, remedy",
    [
        ([0, 1], "2 labels for 4 samples", [0, 1, 2, 0]),
        ([[0], [1], [2], [0]], r"labels\[:, 0\]", np.array([[0], [1], [2], [0]])[:, 0]),
        (np.eye(4, 3), r"labels.argmax\(axis=1\)", np.eye(4, 3).argmax(axis=1)),
        (["cat", "dog", "cow", "cat"], "class_names.index", [NAMES.index(n) for n in ["cat", "dog", "cow", "cat"]]),
        ([0, 1, 3, 0], "from 0 to 2.*Received: 3", [0, 1, 2, 0]),
        ([0, 1, -1, 0], "from 0 to 2.*Received: -1", [0, 1, 2, 0]),
        ([0, 1, 0.5, 0], "from 0 to 2.*Received: 0.5", [0, 1, 2, 0]),
    ],
)
def test_labels_that_do_not_fit(labels, message, remedy, model):
    analyzer = revgraph.create_analyzer("gradient", model)
    for draw in (
        lambda labels: visualize.plot(X, X, P, NAMES, labels=labels),
        lambda labels: visualize.compare(model, X, [analyzer], class_names=NAMES, labels=labels),
        lambda labels: visualize.report(analyzer, X, class_names=NAMES, labels=labels),
    ):
        with pytest.raises(ValueError, match=message):
            draw(labels)
        assert draw(remedy)


def test_labels_need_outputs_to_compare_with():
    with pytest.raises(ValueError, match=r"outputs=model.predict\(x\)"):
        visualize.plot(X, X, labels=LABELS)
    with pytest.raises(ValueError, match="Leave out labels"):
        visualize.plot(X, X, np.ones((4, 2, 2)), labels=LABELS)
    with pytest.raises(ValueError, match="3 titles for 4 samples"):
        visualize.plot(X, X, P, titles=["a", "b", "c"], labels=LABELS)
    with pytest.raises(ValueError, match="2 class names for 3 outputs"):
        visualize.plot(X, X, P, ["a", "b"], titles=list("abcd"), labels=LABELS)


def test_labels_of_several_outputs():
    x = keras.Input((6, 6, 1))
    flat = layers.Flatten()(x)
    model = keras.Model(x, [layers.Dense(3)(flat), layers.Dense(2)(flat)])
    analyzer = revgraph.create_analyzer("gradient", model)
    with pytest.raises(ValueError, match="this model has 2. Leave out labels"):
        visualize.titles(analyzer, X, labels=LABELS)
    with pytest.raises(ValueError, match=r"one output .*\(1, 3\), \(1, 2\). Leave out labels"):
        visualize.report(analyzer, X, neuron_selection={0: 1}, labels=LABELS)
