"""Concepts beside zennit-crp 0.6.0: conditional maps, relevance of channels, rankings of every channel, graphs.

`data/zennit_crp.npz` has two networks, 60 samples, and what zennit-crp computed. `cnn` was trained on the first 1400 of
scikit-learn's digits; `residual` has random weights. Both were written down again in PyTorch, in float64, with
`zennit.layer.Sum` where they add, and the weights were copied. The samples are the digits 1400 to 1459, and the
composite is zennit's EpsilonPlus.

* `FeatureVisualization(..., max_target, abs_norm).run` gave the first 12 places of RelMax and ActMax, for both targets,
  with abs_norm and without; and the first 3 for each class. Layers are the modules of the ReLUs.
* `CondAttribution` gave the maps of three samples, for class 3, with exclude_parallel and without.
* `ChannelConcept().attribute` gave the relevance of channels.
* `AttributionGraph` gave the graph of the most relevant channel of the last of the layers, for class 3 and one sample.

Stabilisers are 1e-6 there, and so they are 1e-6 here. By default they are 1e-7, and sums near zero differ in the fourth
digit.
"""

import functools
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import concepts
from revgraph.composites import CONVOLUTION, DENSE, POOLING, SUM, Composite
from revgraph.reverse_rules import Epsilon, Norm, ZPlus
from tests import models

SETTINGS = [("sum", True), ("sum", False), ("max", True), ("max", False)]
KINDS = ["relevance", "activation"]
LAYERS = {"cnn": ["conv1", "conv2", "dense"], "residual": ["a", "b", "c", "sum", "d"]}
CONDITIONS = {
    "cnn": [
        {"conv2": [3, 7]},
        {"conv1": [0, 1, 2]},
        {"conv2": [5, 1, 2], "conv1": [4, 5, 2]},
        {"dense": [0, 1, 2, 3, 4, 5, 6], "conv2": [1, 4, 5, 6]},
    ],
    "residual": [
        {"d": [1, 4]},
        {"b": [0, 2, 3]},
        {"d": [1, 2, 3, 4], "b": [1, 2]},
        {"sum": [0, 1, 2, 3], "a": [1, 4]},
        {"c": [1, 3]},
    ],
}
IN_GRAPH = {"cnn": ["conv1", "conv2", "dense"], "residual": ["a", "b", "c", "d"]}
WIDTHS = {"cnn": (3, 2), "residual": (3, 3, 3)}
CLOSE = 1e-6
"""Of the largest number: they are kept in float32."""

OF_RANKINGS = 3e-5
"""The same for rankings. They add 1e-10 to the sum by which shares divide, and some samples have hardly more of it."""

STABLE = 1e-6
COMPOSITE = Composite(
    (CONVOLUTION, ZPlus(epsilon=STABLE)),
    (DENSE, Epsilon(STABLE)),
    (SUM, Epsilon(STABLE)),
    (POOLING, Norm(epsilon=STABLE)),
)
"""EpsilonPlus, with zennit's stabiliser."""

REFERENCE = dict(np.load(Path(__file__).parent / "data" / "zennit_crp.npz"))


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(12, activation="relu", name="dense"),
            layers.Dense(10, name="logits"),
        ]
    )


def residual():
    x = keras.Input((8, 8, 1))
    a = layers.Conv2D(5, 3, padding="same", activation="relu", name="a")(x)
    b = layers.Conv2D(5, 3, padding="same", activation="relu", name="b")(a)
    c = layers.Conv2D(5, 3, padding="same", name="c")(b)
    h = layers.ReLU(name="sum")(layers.Add()([a, c]))
    d = layers.Conv2D(6, 3, padding="same", activation="relu", name="d")(h)
    return keras.Model(x, layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(d)))


@functools.cache
def analyzer_of(name):
    with models.precision("float64"):
        model = {"cnn": cnn, "residual": residual}[name]()
        for layer in model.layers:
            if layer.weights:
                layer.set_weights([REFERENCE[f"{name}/{layer.name}/{kind}"] for kind in ("kernel", "bias")])
        return revgraph.create_analyzer("lrp", model, rule=COMPOSITE)


X = REFERENCE["x"] / 16
Y = REFERENCE["y"].astype(int)

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.parametrize("name", ["cnn", "residual"])]


def close(found, expected, tolerance=CLOSE):
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_conditional_maps_of_sets_of_channels_in_one_and_two_layers(name):
    analyzer = analyzer_of(name)
    for number, condition in enumerate(CONDITIONS[name]):
        for around in (False, True):
            found = analyzer.analyze(X[:3], 3, conditions=condition, around=around)
            close(found[..., 0], REFERENCE[f"{name}/maps"][number, int(around)])


def test_relevance_of_channels(name):
    for layer in LAYERS[name]:
        found = concepts.relevance(analyzer_of(name), X[:3], layer, 3)
        close(found.values, REFERENCE[f"{name}/{layer}/channels"])
        close(found.shares, REFERENCE[f"{name}/{layer}/channel_shares"])


def same_ranking(found, samples, values, places=None, width=8):
    """Every sample has the place that it has there, but for samples whose values are as good as equal."""
    count = len(samples)
    close(found.values[:count], values, OF_RANKINGS)
    scale = OF_RANKINGS * np.abs(values).max()
    differ = found.samples[:count] != samples
    ties = np.zeros_like(differ)
    steps = np.abs(np.diff(values, axis=0)) <= scale
    ties[1:] |= steps
    ties[:-1] |= steps
    ties[-1] |= np.abs(found.values[count : count + 1] - values[-1:]).min(axis=0, initial=np.inf) <= scale
    assert not (differ & ~ties).any()
    assert (~ties).mean() > 0.5
    if places is not None and found.positions.shape[-1]:
        flat = found.positions[:count] @ np.array([width, 1])
        clear = ~differ & (values > scale)
        assert np.array_equal(flat[clear], places[clear])


@pytest.mark.parametrize("over, shares", SETTINGS)
def test_rankings_of_every_channel(over, shares, name, tmp_path):
    found = concepts.collect(
        analyzer_of(name), X, LAYERS[name], tmp_path / "c.h5", "label", labels=Y, over=over, shares=shares, verbose=0
    )
    setting = SETTINGS.index((over, shares))
    for layer in LAYERS[name]:
        there = {what: REFERENCE[f"{name}/{layer}/{what}"][setting] for what in ("samples", "values", "places")}
        for kind, samples, values, places in zip(KINDS, *there.values(), strict=True):
            same_ranking(found.ranking(layer, kind), samples, values, places, 4 if layer == "conv2" else 8)
    if (over, shares) == SETTINGS[0]:
        for layer in LAYERS[name]:
            of_classes = (REFERENCE[f"{name}/{layer}/classes/{what}"] for what in ("samples", "values"))
            for kind, samples, values in zip(KINDS, *of_classes, strict=True):
                for label in range(10):
                    ranking = found.ranking(layer, kind, of_class=label)
                    same_ranking(ranking, samples[label], values[label])


def test_attribution_graphs(name):
    """Their graphs have channels without relevance where ours have those of negative relevance."""
    order = IN_GRAPH[name]
    concept = int(REFERENCE[f"{name}/graph/concept"])
    found = concepts.graph(analyzer_of(name), X[:1], order, 3, concepts=concept, widths=WIDTHS[name], around=True)
    edges = {(e.upper, e.lower): e.share for e in found.edges}
    expected = {
        ((order[int(u)], int(i)), (order[int(v)], int(j))): share for u, i, v, j, share in REFERENCE[f"{name}/graph"]
    }
    assert edges.keys() == expected.keys() and all(expected.values())
    np.testing.assert_allclose([edges[key] for key in expected], list(expected.values()), atol=CLOSE)
