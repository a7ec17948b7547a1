"""Reference samples with heat maps and crops, prototypes, and the figures of both."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import concepts, visualize
from tests.models import make, precision

COUNT = 24


@pytest.fixture(scope="module")
def analyzer():
    with precision("float64"):
        return revgraph.create_analyzer("lrp.epsilon", make("cnn"))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).normal(size=(COUNT, 8, 8, 2))


@pytest.fixture(scope="module")
def found(analyzer, x, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "concepts.h5"
    return concepts.collect(analyzer, x, ["conv1", "conv2", "dense"], out, n=6, verbose=0)


def test_heat_maps_are_conditional_on_the_channel(found, analyzer, x):
    got = concepts.references(found, "conv2", [0, 2], analyzer, x, n=3, unit=False)
    for channel in (0, 2):
        ranking = found.ranking("conv2")
        assert [r.sample for r in got[channel]] == ranking.samples[:3, channel].tolist()
        for each in got[channel]:
            one = x[each.sample : each.sample + 1]
            wanted = analyzer.analyze(one, conditions={"conv2": [channel]})[0]
            np.testing.assert_allclose(each.relevance, wanted, atol=1e-12)
            np.testing.assert_array_equal(each.x, one[0])
            # In a chain all that is relevant in the channel arrives at the input, but for what biases absorb.
            assert np.abs(each.relevance).sum() > 0


def test_a_unit_lies_in_its_receptive_field(found, analyzer, x):
    for by in ("relevance", "activation"):
        got = concepts.references(found, "conv2", 1, analyzer, x, n=6, by=by)
        for each in got[1]:
            outside = np.ones(each.relevance.shape, bool)
            outside[each.field] = False
            assert not each.relevance[outside].any()
            row, column = each.position
            # conv1 is 3 wide and padded, the pooling is 2 wide, conv2 is 2 wide.
            assert each.field[0] == slice(max(0, 2 * row - 1), min(8, 2 * row + 5))
            assert each.field[1] == slice(max(0, 2 * column - 1), min(8, 2 * column + 5))


def test_it_starts_at_the_layer(found, analyzer, x):
    (each, *_) = concepts.references(found, "conv2", 1, analyzer, x, by="activation")[1]
    one = x[each.sample : each.sample + 1]
    wanted = analyzer.analyze(one, (*each.position, 1), layer="conv2")[0]
    np.testing.assert_allclose(each.relevance, wanted, atol=1e-12)
    inner = keras.Model(analyzer.model.inputs[0], analyzer.model.get_layer("conv2").output)
    with precision("float64"):
        activation = inner(one).numpy()
    assert activation[(0, *each.position, 1)] == pytest.approx(activation[..., 1].max())
    assert each.value == pytest.approx(activation[..., 1].sum())


def test_dense_layers_classes_and_paths(found, analyzer, x):
    label = int(found.classes[0])
    got = concepts.references(str(found.path), "dense", 0, analyzer, x, of_class=label, n=2)
    for each in got[0]:
        assert found.classes[each.sample] == label and each.position == () and each.field[0] == slice(0, 8)
    assert "channel" in str(got) and "dense" in repr(got)


def test_datasets_that_are_streams(found, analyzer, x):
    def batches():
        yield x[:5]
        yield x[5:]

    first = concepts.references(found, "conv2", 1, analyzer, x, n=2)
    second = concepts.references(found, "conv2", 1, analyzer, batches(), n=2)
    for one, other in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(one.relevance, other.relevance)


def test_several_inputs(tmp_path):
    with precision("float64"):
        analyzer = revgraph.create_analyzer("lrp.epsilon", make("two_inputs"))
    rng = np.random.default_rng(0)
    x = {"image": rng.normal(size=(8, 6, 6, 1)), "table": rng.normal(size=(8, 4))}
    found = concepts.collect(analyzer, x, "conv", tmp_path / "c.h5", verbose=0)
    (each, *_) = concepts.references(found, "conv", 0, analyzer, x)[0]
    assert each.x.keys() == each.relevance.keys() == {"image", "table"}
    assert each.field["table"] == (slice(0, 0),)
    with pytest.raises(ValueError, match="drawn for images .* several inputs"):
        concepts.references(found, "conv", 0, analyzer, x).plot()


def test_a_function_has_to_be_named_again(analyzer, x, tmp_path):
    def contrast(y):
        return y[:, 0] - y[:, 1]

    found = concepts.collect(analyzer, x, "conv2", tmp_path / "c.h5", neuron_selection=contrast, verbose=0)
    with pytest.raises(ValueError, match="neuron_selection=..., or start"):
        concepts.references(found, "conv2", 0, analyzer, x)
    (each, *_) = concepts.references(found, "conv2", 0, analyzer, x, neuron_selection=contrast, unit=False)[0]
    wanted = analyzer.analyze(x[each.sample : each.sample + 1], contrast, conditions={"conv2": [0]})[0]
    np.testing.assert_allclose(each.relevance, wanted, atol=1e-12)
    assert concepts.references(found, "conv2", 0, analyzer, x, start="layer")[0]


def test_what_collect_returned_remembers_analyzer_and_dataset(found, analyzer, x):
    first = concepts.references(found, "conv2", 1, n=2)
    second = concepts.references(found.path, "conv2", 1, analyzer, x, n=2)
    for one, other in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(one.relevance, other.relevance)
    with pytest.raises(TypeError, match="needs the analyzer, which the file .* does not have"):
        concepts.references(found.path, "conv2", 1)
    with pytest.raises(TypeError, match="needs the dataset"):
        concepts.references(found.path, "conv2", 1, analyzer)


def test_more_samples_than_were_kept_are_refused(found):
    assert len(concepts.references(found, "conv2", 1)[1]) == 6
    with pytest.raises(ValueError, match="n=7 samples of each channel, and .* keeps 6: collect it with n=7"):
        concepts.references(found, "conv2", 1, n=7)


def test_heat_maps_of_another_method_are_warned_of(found, analyzer, recwarn):
    concepts.references(found, "conv2", 1, n=1)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="ranked by 'lrp.epsilon', and heat maps are made by 'gradient'"):
        concepts.references(found, "conv2", 1, revgraph.create_analyzer("gradient", analyzer.model), n=1)
    other = revgraph.create_analyzer("lrp.epsilon", analyzer.model, epsilon=0.1)
    with pytest.warns(UserWarning, match="made by 'lrp.epsilon' with other rules"):
        concepts.references(found, "conv2", 1, other, n=1)


def test_wrong_arguments(found, analyzer, x):
    with pytest.raises(IndexError, match="'conv2' has the channels 0 to 2. Received: 3"):
        concepts.references(found, "conv2", 3, analyzer, x)
    with pytest.raises(IndexError, match=re.escape("Received: [0, -1]")):
        concepts.references(found, "conv2", [0, -1], analyzer, x)
    with pytest.raises(KeyError, match="'conv3' was not collected"):
        concepts.references(found, "conv3", 0, analyzer, x)
    with pytest.raises(ValueError, match="n must be a positive int"):
        concepts.references(found, "conv2", 0, analyzer, x, n=0)
    with pytest.raises(ValueError, match='start is "output", "layer" or None'):
        concepts.references(found, "conv2", 0, analyzer, x, start="input")
    with pytest.raises(TypeError, match="takes an analyzer that walks backwards"):
        concepts.references(found, "conv2", 0, revgraph.create_analyzer("random", analyzer.model), x)
    with pytest.raises(ValueError, match="sample [0-9]+ differs"):
        concepts.references(found, "conv2", 0, analyzer, x[::-1])
    with pytest.raises(ValueError, match="it ends before sample"):
        concepts.references(found, "conv2", 0, analyzer, x[:1])
    with precision("float64"):
        other = revgraph.create_analyzer("lrp.epsilon", make("cnn", seed=5))
    with pytest.raises(ValueError, match="collected from another model"):
        concepts.references(found, "conv2", 0, other, x)


# Prototypes.


def planted(tmp_path, ways=(14, 9, 7)):
    """A linear model that decides for class 0 in as many ways as there are groups, and the group of each sample."""
    rng = np.random.default_rng(0)
    count = sum(ways)
    way = np.repeat(np.arange(len(ways)), ways)
    x = np.abs(rng.normal(size=(count, 5), scale=0.05))
    x[np.arange(count), way] += 3
    order = rng.permutation(count)
    with precision("float64"):
        model = keras.Sequential(
            [keras.Input((5,)), layers.Dense(5, "relu", name="concepts"), layers.Dense(2, name="logits")]
        )
    model.set_weights([np.eye(5), np.zeros(5), np.stack([np.ones(5), -np.ones(5)], axis=1), np.zeros(2)])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    return analyzer, x[order], way[order], tmp_path / "concepts.h5"


def test_prototypes_are_the_ways_that_were_planted(tmp_path):
    analyzer, x, way, out = planted(tmp_path)
    found = concepts.collect(analyzer, x, "concepts", out, verbose=0)
    np.testing.assert_allclose(found.relevance("concepts"), x, atol=1e-4)
    ways = concepts.prototypes(found, "concepts", n=3)
    assert list(ways.mixtures) == [0] and len(ways[0]) == 3
    assert [prototype.share for prototype in ways[0]] == pytest.approx([14 / 30, 9 / 30, 7 / 30])
    for number, prototype in enumerate(ways[0]):
        assert prototype.top(1)[0] == number
        shares = x / np.abs(x).sum(1, keepdims=True)
        np.testing.assert_allclose(prototype.mean, shares[way == number].mean(0), atol=1e-3)
        assert set(prototype.samples[: np.sum(way == number)]) == set(np.flatnonzero(way == number))
    assert "47%" in str(ways)


def test_the_likelihood_is_that_of_the_mixture(tmp_path):
    """By the definition of a mixture of Gaussians."""
    analyzer, x, _, out = planted(tmp_path)
    ways = concepts.prototypes(concepts.collect(analyzer, x, "concepts", out, verbose=0), "concepts", n=2)
    model = ways.mixtures[0].model
    new = np.abs(np.random.default_rng(5).normal(size=(4, 5)))
    shares = new / new.sum(1, keepdims=True)
    density = 0
    for weight, mean, covariance in zip(model.weights_, model.means_, model.covariances_, strict=True):
        away = shares - mean
        exponent = np.einsum("bi,ij,bj->b", away, np.linalg.inv(covariance), away)
        density += weight * np.exp(-0.5 * exponent) / np.sqrt(np.linalg.det(2 * np.pi * covariance))
    with np.errstate(divide="ignore"):
        wanted = np.log(density)
    got = ways.log_likelihood(new, 0)
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(got[finite], wanted[finite], rtol=1e-5)
    assert np.all(got[~finite] < -300)


def test_what_is_unusual_is_found(tmp_path):
    analyzer, x, way, out = planted(tmp_path, (40, 30, 30))
    ways = concepts.prototypes(concepts.collect(analyzer, x, "concepts", out, verbose=0), "concepts", n=3)
    usual, unusual = x[:3], np.array([[0, 0, 0, 0, 3.0], [1, 1, 1, 1, 1]])
    judged = ways.judge(analyzer, np.concatenate([usual, unusual]))
    assert judged.unusual(0.005).tolist()[3:] == [True, True] and not judged.unusual(0.005)[:3].all()
    assert judged.nearest[:3].tolist() == way[:3].tolist()
    assert np.abs(judged.distance[3]).argmax() in (4, judged.nearest[3])
    known = judged.log_likelihood[:3]
    np.testing.assert_allclose(known, ways.log_likelihood(usual, 0), rtol=1e-3)
    assert "2 unusual" in repr(judged) and "nearest prototype" in str(judged)


def test_only_correct_samples(tmp_path):
    analyzer, x, way, out = planted(tmp_path)
    labels = (way == 2).astype(int)
    found = concepts.collect(analyzer, x, "concepts", out, labels=labels, verbose=0)
    ways = concepts.prototypes(found, "concepts", n=2, correct=True)
    assert sorted(part.share for part in ways[0]) == pytest.approx([9 / 23, 14 / 23])
    assert len(ways.mixtures[0].log_likelihoods) == 23


def test_wrong_arguments_of_prototypes(tmp_path):
    analyzer, x, _, out = planted(tmp_path, (4, 3, 2))
    found = concepts.collect(analyzer, x, "concepts", out, verbose=0)
    with pytest.raises(ValueError, match="A mixture of n=8 prototypes needs 16 samples or more .* class 0 has 9"):
        concepts.prototypes(found, "concepts")
    ways = concepts.prototypes(found, "concepts", n=4)
    with pytest.raises(ValueError, match="n must be a positive int"):
        concepts.prototypes(found, "concepts", n=0)
    with pytest.raises(KeyError, match=re.escape("is of class 1. There are: [0]")):
        concepts.prototypes(found, "concepts", classes=[1])
    with pytest.raises(KeyError, match="was not collected"):
        concepts.prototypes(found, "logits")
    with pytest.raises(ValueError, match="has none. Collect with labels"):
        concepts.prototypes(found, "concepts", n=2, correct=True)
    with pytest.raises(KeyError, match="There are no prototypes of class 1"):
        ways[1]
    with pytest.raises(KeyError, match="There are no prototypes of class 1"):
        ways.judge(analyzer, x[:2], 1)
    with pytest.raises(ValueError, match="No single class is explained"):
        ways.judge(analyzer, x[:2], lambda y: y[:, 0])
    with pytest.raises(ValueError, match="this analyzer is 'lrp.epsilon' with other rules"):
        ways.judge(revgraph.create_analyzer("lrp.epsilon", analyzer.model, epsilon=0.5), x[:2])
    with pytest.raises(ValueError, match="collected with 'lrp.epsilon', and this analyzer is 'lrp.z'"):
        ways.judge(revgraph.create_analyzer("lrp.z", analyzer.model), x[:2])
    other = concepts.collect(analyzer, x, "concepts", tmp_path / "d.h5", neuron_selection=lambda y: y[:, 0], verbose=0)
    with pytest.raises(ValueError, match="has no classes, because no single class was explained"):
        concepts.prototypes(other, "concepts", n=2)


# Pictures.


def test_pictures_of_references(found, analyzer, x):
    got = concepts.references(found, "conv2", [0, 1], analyzer, x, n=4)
    picture = got.plot(heatmaps=True)
    shown = [axes for axes in picture.axes if axes.images]
    assert len(shown) == 16 and [axes.get_ylabel() for axes in picture.axes[::8]] == ["channel 0", "channel 1"]
    first = got[0][0]
    rows, columns = first.field[:2]
    height, width = shown[0].images[0].get_array().shape[:2]
    assert height == width <= max(rows.stop - rows.start, columns.stop - columns.start)
    whole = visualize.plot_references(got, crop=None, mask=None)
    assert whole.axes[0].images[0].get_array().shape == (8, 8, 3)
    darkened = visualize.plot_references(got, crop=None, mask=0.2, opacity=0)
    image = np.asarray(darkened.axes[0].images[0].get_array())
    outside = np.ones((8, 8), bool)
    outside[first.field[:2]] = False
    assert not image[outside].any() and image.any()
    gray = visualize.plot_references(got, pictures=lambda one: np.full((8, 8, 3), 0.5), mask=None)
    assert np.allclose(gray.axes[0].images[0].get_array(), 0.5)
    with pytest.raises(ValueError, match="crop is a number from 0 to 1"):
        got.plot(crop=2)
    with pytest.raises(ValueError, match="height and width must agree"):
        got.plot(pictures=lambda one: np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="Expected what revgraph.concepts.references returns"):
        visualize.plot_references(found)


def test_pictures_of_prototypes(analyzer, x, tmp_path):
    labels = np.zeros(COUNT, int)
    found = concepts.collect(analyzer, x, "conv2", tmp_path / "c.h5", neuron_selection=0, labels=labels, verbose=0)
    ways = concepts.prototypes(found, "conv2", n=3)
    picture = ways.plot(0, x, analyzer=analyzer, samples=2)
    images = [axes for axes in picture.axes if axes.images and axes.images[0].get_array().shape == (8, 8, 3)]
    assert len(images) == 6
    assert images[0].get_xlabel() == str(ways[0][0].samples[0])
    (table,) = (axes for axes in picture.axes if axes.get_xlabel() == "prototype")
    written = {text.get_text() for text in table.texts}
    assert f"{ways[0][0].mean[ways[0][0].top(1)[0]]:+.2g}" in written
    assert ways.plot(0).axes
    with pytest.raises(ValueError, match="need the analyzer, too"):
        ways.plot(0, x)
    with pytest.raises(KeyError, match="no prototypes of class 4"):
        ways.plot(4)


def test_pictures_of_clusters(analyzer, x, tmp_path):
    revgraph.explain_dataset(analyzer, x, tmp_path / "r.h5", labels=np.zeros(COUNT, int), verbose=0)
    found = concepts.clusters(tmp_path / "r.h5", picture=None, k=[2, 3])
    picture = found.plot(0, "kmeans-03")
    maps = [axes for axes in picture.axes if axes.images]
    assert len(maps) == 3 and [axes.get_title().split(":")[0] for axes in maps] == [f"cluster {i}" for i in range(3)]
    relevance = analyzer.analyze(x).sum(-1)
    relevance /= np.abs(relevance).sum((1, 2), keepdims=True)
    inside = found[0].clusters["kmeans-03"] == 1
    np.testing.assert_allclose(found.mean_map(0, "kmeans-03", 1), relevance[inside].mean(0), atol=1e-6)
    assert found.plot().axes
    with pytest.raises(KeyError, match="no clustering 'kmeans-09'. There are 'spectral-02'"):
        found.plot(0, "kmeans-09")
    with pytest.raises(KeyError, match="There are no clusters of 3"):
        found.plot(3)


def test_what_is_missing_is_said(found, analyzer, x, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "scipy.ndimage", None)
        with pytest.raises(
            ImportError, match=re.escape('plot_references needs SciPy: pip install "revgraph[evaluate]"')
        ):
            concepts.references(found, "dense", 0, analyzer, x, n=1).plot()
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(ImportError, match=re.escape('prototypes needs scikit-learn: pip install "revgraph[concepts]"')):
        concepts.prototypes(found, "dense")


def test_collecting_needs_no_extra():
    extras = ["matplotlib", "PIL", "sklearn", "scipy", "networkx", "umap"]
    code = f"import sys; sys.modules.update(dict.fromkeys({extras})); from revgraph.concepts import collect, references"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
