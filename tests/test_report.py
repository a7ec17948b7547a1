"""`visualize.report`: a page of HTML about a few explanations."""

import html
import re

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.visualize import report

NAMES = ["cat & dog", "<b>", "fish"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 1)), *body], name="animals")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((3, 6, 6, 1)).astype("float32")


@pytest.fixture(scope="module")
def analyzer(model):
    return revgraph.create_analyzer("lrp.epsilon", model)


def pictures_of(page):
    return re.findall(r'<img [^>]*src="data:image/png;base64,[^"]+"', page)


def test_a_page_needs_nothing_from_elsewhere(analyzer, x):
    page = report(analyzer, x, class_names=NAMES).page
    assert len(pictures_of(page)) == len(x)
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and "http" not in page and "<script" not in page


def test_a_page_says_what_is_explained_and_how(analyzer, model, x):
    outputs = model.predict(x[:1], verbose=0)[0]
    page = report(analyzer, x[:1], 2, NAMES, labels=[1], titles=["the first"]).page
    assert f"Explained: <b>fish: {outputs[2]:.3g}</b>" in page
    assert "True class: <b>&lt;b&gt;</b>" in page and "<h2>the first</h2>" in page and "cat &amp; dog" in page
    assert html.escape(str(analyzer.conservation(x[:1], 2))) in page
    assert "Bach et al., 2015" in page and "&quot;model_sha256&quot;" in page


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_outputs_are_those_of_the_model_and_not_its_logits(activation, x):
    keras.utils.set_random_seed(0)
    body = [layers.Flatten(), layers.Dense(3 if activation == "softmax" else 1, activation=activation)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *body])
    with pytest.warns(UserWarning, match="is a probability"):
        analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    page = report(analyzer, x[:1]).page
    told = re.findall(r'<td style="text-align:right">([^<]*)</td>', page)
    np.testing.assert_allclose(sorted(map(float, told)), np.sort(model.predict(x[:1], verbose=0)[0]), rtol=1e-3)


def test_each_sample_has_the_class_that_is_selected_for_it(analyzer, x):
    page = report(analyzer, x, [0, 2, 1], ["a", "b", "c"]).page
    assert re.findall(r"Explained: <b>(\w)", page) == ["a", "c", "b"]


def test_methods_stand_side_by_side(analyzer, model, x):
    page = report([analyzer, analyzer, revgraph.create_analyzer("random", model)], x[:1]).page
    assert re.findall(r"<li><b>([^<]*)</b>", page) == ["lrp.epsilon", "lrp.epsilon (2)", "random"]
    # Noise has no ledger.
    assert page.count("where relevance went") == 2 and len(pictures_of(page)) == 1


def test_only_so_many_samples_are_explained(analyzer, x):
    assert len(pictures_of(report(analyzer, x, samples=2).page)) == 2


def test_every_input_has_a_picture():
    one, two = keras.Input((4,), name="table"), keras.Input((5, 5, 1), name="image")
    hidden = layers.Concatenate()([layers.Dense(2)(one), layers.Dense(2)(layers.Flatten()(two))])
    model = keras.Model({"table": one, "image": two}, layers.Dense(1, activation="sigmoid")(hidden))
    x = {"table": np.ones((2, 4)), "image": np.ones((2, 5, 5, 1))}
    page = report(revgraph.create_analyzer("gradient", model), x, class_names=["no", "yes"]).page
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == ["gradient"] * 2 and len(pictures_of(page)) == 2
    # An option may be of one input alone.
    options = {"feature_names": ["a", "b", "c", "d"], "overlay": 0.5}
    both = [revgraph.create_analyzer(name, model) for name in ("gradient", "lrp.epsilon")]
    assert len(pictures_of(report(both, x, class_names=["no", "yes"], **options).page)) == 4


@pytest.mark.parametrize("pack", [np.array, list], ids=["array", "list"])
def test_words_are_coloured(pack):
    words = layers.TextVectorization(output_sequence_length=4, vocabulary=["good", "bad", "film"])
    body = [layers.Embedding(5, 3), layers.GlobalAveragePooling1D(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((), dtype="string"), words, *body])
    page = report(revgraph.create_analyzer("lrp.epsilon", model), pack(["good film", "bad film"])).page
    assert re.findall(r"<span [^>]*>(\w+)</span>", page) == ["good", "film", "bad", "film"]


def test_a_page_is_written_once(analyzer, x, tmp_path):
    made = report(analyzer, x[:1])
    path = made.save(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == made.page
    with pytest.raises(FileExistsError, match="overwrite=True"):
        made.save(path)
    made.save(path, overwrite=True)
    assert html.escape(made.page) in made._repr_html_()


def test_bad_input_is_refused(analyzer, model, x):
    with pytest.raises(TypeError, match="Received: Sequential"):
        report(model, x)
    with pytest.raises(TypeError, match="Received: none"):
        report([], x)
    other = revgraph.create_analyzer("gradient", keras.models.clone_model(model))
    with pytest.raises(ValueError, match="one model"):
        report([analyzer, other], x)
    with pytest.raises(ValueError, match="2 titles for 3 samples"):
        report(analyzer, x, titles=["a", "b"])
    with pytest.raises(ValueError, match="from 0 to 2"):
        report(analyzer, x, labels=[0, 1, 3])
    with pytest.raises(ValueError, match="2 class names for 3 outputs"):
        report(analyzer, x, class_names=["a", "b"])
