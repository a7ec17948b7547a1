"""Relevance of channels: sums, shares, ranks, contrasts, the table and the picture."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.concepts import ChannelRelevance, relevance
from tests import models
from tests.models import randomized

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("ignore:No relevance arrives")]


@pytest.fixture(scope="module")
def cnn():
    with models.precision("float64"):
        model = randomized(models.cnn())
        return model, models.inputs_of(model), revgraph.create_analyzer("lrp.epsilon", model)


def test_relevance_is_summed_over_positions(cnn):
    _, x, analyzer = cnn
    found = relevance(analyzer, x, "conv2", 1)
    _, layers_ = analyzer.analyze(x, 1, return_layers=["conv2"], layers_at="output")
    np.testing.assert_allclose(found.values, layers_["conv2"].sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.shares, found.values / np.abs(found.values).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.abs(found.shares).sum(axis=1), 1)
    for i, row in enumerate(found.values):
        assert list(found.ranking()[i]) == sorted(range(3), key=lambda c: -row[c])
    assert found.top(2).shape == (3, 2) and len(found) == 3
    np.testing.assert_array_equal(found[1].values, found.values[1:2])
    np.testing.assert_array_equal(found[1:].values, found.values[1:])


def test_dense_layers_steps_and_targets(cnn):
    _, x, analyzer = cnn
    assert relevance(analyzer, x, "dense", 1).values.shape == (3, 5)
    targets = np.array([[0, 1], [1, 2], [3, 3]])
    several = relevance(analyzer, x, "conv2", targets)
    assert several.values.shape == (3, 2, 3)
    np.testing.assert_allclose(several.values[:, 1], relevance(analyzer, x, "conv2", targets[:, 1]).values, rtol=1e-9)
    under = relevance(analyzer, x, "relu", 1, conditions=[{"conv2": c} for c in range(3)])
    np.testing.assert_allclose(under.values.sum(axis=1), relevance(analyzer, x, "relu", 1).values, rtol=1e-9)
    assert str(several) and str(under)


def test_steps_that_count_as_samples(rng):
    steps = keras.Input((3, 5))
    h = layers.TimeDistributed(randomized(models.block("block")))(steps)
    analyzer = revgraph.create_analyzer(
        "lrp.epsilon", randomized(keras.Model(steps, layers.Dense(2)(layers.Flatten()(h))))
    )
    (name,) = [call.path for call in analyzer.traced.calls if call.path.endswith("one")]
    x = rng.normal(size=(4, 3, 5))
    found = relevance(analyzer, x, name, 1)
    assert found.values.shape == (4, 5)
    np.testing.assert_allclose(found.values[1], relevance(analyzer, x[1:2], name, 1).values[0], rtol=1e-9)
    targets = np.tile([0, 1], (4, 1))
    np.testing.assert_allclose(relevance(analyzer, x, name, targets).values[:, 1], found.values, rtol=1e-9)


def test_contrasts(cnn):
    """Relevance that starts with 1 is linear in what is selected, so both ways to a contrast agree."""
    model, x, _ = cnn
    analyzer = revgraph.create_analyzer("input_t_gradient", model)
    first, second = (relevance(analyzer, x, "conv2", c) for c in (3, 1))
    contrast = relevance(analyzer, x, "conv2", lambda y: y[:, 3] - y[:, 1])
    np.testing.assert_allclose((first - second).values, contrast.values, rtol=1e-9, atol=1e-14)
    with pytest.raises(ValueError, match="same layer"):
        first - relevance(analyzer, x, "relu", 1)
    with pytest.raises(TypeError):
        first - 1


def test_no_relevance_has_no_shares():
    nothing = ChannelRelevance("conv", np.zeros((2, 3)))
    np.testing.assert_array_equal(nothing.shares, 0)
    assert "0" in str(nothing)


def test_the_table_and_the_picture_show_what_counts_most(tmp_path):
    values = np.zeros((2, 20))
    values[:, [4, 7, 9]] = [3.0, -5.0, 1.0]
    found = ChannelRelevance("conv", values)
    lines = [line.split() for line in str(found.table(3)).splitlines()]
    assert [line[:2] for line in lines[3:6]] == [["4", "3"], ["9", "1"], ["7", "-5"]]
    assert "means of 2" in str(found) and "17 more channels" in str(found.table(3))
    picture = found.plot(3, sample=1)
    (axes,) = picture.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4", "9", "7"]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [100 / 3, 100 / 9, -500 / 9])
    picture.savefig(tmp_path / "channels.png")


def test_wrong_questions(cnn):
    model, x, analyzer = cnn
    with pytest.raises(KeyError, match="Did you mean 'conv2'"):
        relevance(analyzer, x, "conv3", 1)
    with pytest.raises(TypeError, match="does not take 'return_layers'"):
        relevance(analyzer, x, "conv2", 1, return_layers=["conv1"])
    with pytest.raises(TypeError, match="does not take 'return_layers'"):
        relevance(revgraph.create_analyzer("random", model), x, "conv2", 1)
