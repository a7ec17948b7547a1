"""The attribution graph: which concepts feed which, compared with numbers by hand."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import rules
from revgraph.concepts import graph, relevance
from tests import models
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def mlp():
    """A network of three layers of ReLUs, one sample, its activations and weights, and LRP without a stabiliser."""
    with models.precision("float64"):
        x = keras.Input((6,))
        h = x
        for name, width in (("low", 7), ("middle", 6), ("high", 5)):
            h = layers.Dense(width, activation="relu", name=name)(h)
        model = alive(keras.Model(x, layers.Dense(3, name="logits")(h)))
        data = np.random.default_rng(3).normal(size=(1, 6))
        analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(1e-30))
    return by_hand(model, data[0]), data, analyzer


def alive(model):
    """The model with random weights, and biases that let relevance through."""
    randomized(model)
    for variable in model.variables:
        if "bias" in variable.path:
            variable.assign(np.abs(variable.numpy()) + 0.3)
    return model


def by_hand(model, x):
    """A function of masks by layer and of a neuron: relevance by layer, from the gradient with masks."""
    weights = [layer.get_weights() for layer in model.layers[1:]]
    names = [layer.name for layer in model.layers[1:]]
    values = [x]
    for i, (w, b) in enumerate(weights):
        z = values[-1] @ w + b
        values.append(z if i == len(weights) - 1 else np.maximum(z, 0))

    def under(condition, neuron):
        gradient = np.eye(len(values[-1]))[neuron]
        found = {}
        for (w, _), name, above in zip(weights[::-1], names[::-1], values[:0:-1], strict=True):
            found[name] = gradient * above
            if name in condition:
                gradient = gradient * np.isin(np.arange(len(gradient)), condition[name])
            gradient = w @ (gradient * (above > 0) if name != "logits" else gradient)
        return {**found, "input": gradient * x}

    return under


def expected(under, neuron, widths, begin=()):
    """Edges by hand: a dict of (upper, lower) to relevance and share."""
    order = ["high", "middle", "low"]
    begin = dict(begin)
    edges = {}

    def feed(key, layer, values, width):
        keys = []
        for c in np.argsort(np.where(values == 0, np.inf, -values))[:width]:
            if values[c] != 0:
                edges[key, (layer, c)] = values[c], values[c] / np.abs(values).sum()
                keys.append((layer, c))
        return keys

    if begin:
        keys = [("high", c) for c in begin["high"]]
    else:
        keys = feed(("prediction", 0), "high", under({}, neuron)["high"], widths[0])
        widths = widths[1:]
    for layer, width in zip(order[1:], widths, strict=True):
        fed = []
        for above, c in keys:
            fed += feed((above, c), layer, under({**begin, above: [c]}, neuron)[layer], width)
        keys = list(dict.fromkeys(fed))
    return edges


def check(found, edges):
    assert {(e.upper, e.lower) for e in found.edges} == edges.keys() and len(found.edges) == len(edges)
    for edge in found.edges:
        np.testing.assert_allclose((edge.relevance, edge.share), edges[edge.upper, edge.lower], rtol=1e-9)


@pytest.mark.parametrize("neuron", [0, 1, 2])
def test_the_graph_of_a_prediction(neuron, mlp):
    under, x, analyzer = mlp
    found = graph(analyzer, x, ["low", "high", "middle"], neuron, widths=(3, 2, 2))
    check(found, expected(under, neuron, (3, 2, 2)))
    assert found.layers == ("high", "middle", "low")
    whole = under({}, neuron)
    for node in found.nodes:
        if node.layer == "prediction":
            np.testing.assert_allclose(node.relevance, whole["logits"].sum(), rtol=1e-9)
            np.testing.assert_allclose(node.heatmap, whole["input"], rtol=1e-9)
            continue
        values = whole[node.layer]
        np.testing.assert_allclose(node.relevance, values[node.channel], rtol=1e-9)
        np.testing.assert_allclose(node.share, values[node.channel] / np.abs(values).sum(), rtol=1e-9)
        heatmap = under({node.layer: [node.channel]}, neuron)["input"]
        np.testing.assert_allclose(node.heatmap, heatmap, rtol=1e-8, atol=1e-12)
    assert {node.key for node in found.nodes} == {key for e in found.edges for key in (e.upper, e.lower)}


@pytest.mark.parametrize("concepts", [[1], [4, 2]])
def test_the_graph_of_a_concept(concepts, mlp):
    """All relevance in it passes the concept that it begins with."""
    under, x, analyzer = mlp
    concepts = [c for c in concepts if under({}, 1)["high"][c] != 0] or [int(np.argmax(under({}, 1)["high"]))]
    found = graph(analyzer, x, ["high", "middle", "low"], 1, concepts=concepts, widths=[3, 2])
    check(found, expected(under, 1, [3, 2], {"high": concepts}))
    whole = under({"high": concepts}, 1)
    for node in found.nodes:
        np.testing.assert_allclose(node.relevance, whole[node.layer][node.channel], rtol=1e-9)


def test_shortcuts_count_only_if_they_are_let_in(rng):
    model = randomized(models.residual(), seed=4)
    x = models.inputs_of(model, 1)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    for around in (False, True):
        found = graph(analyzer, x, ["relu1", "stem", "relu2"], 1, widths=3, around=around)
        assert any(edge.upper[0] == "relu1" for edge in found.edges)
        for edge in found.edges:
            condition = None if edge.upper[0] == "prediction" else {edge.upper[0]: edge.upper[1]}
            options = {"conditions": condition, "around": around} if condition else {}
            values = relevance(analyzer, x, edge.lower[0], 1, **options).values[0]
            np.testing.assert_allclose(edge.relevance, values[edge.lower[1]], rtol=1e-8)


def test_a_shortcut_feeds_what_it_leads_to():
    """stem feeds the sum behind relu2 through conv2, and around it."""
    model = randomized(models.residual(), seed=4)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    found = graph(analyzer, models.inputs_of(model, 1), ["stem", "conv2", "relu2"], 1, widths=(3, 2, 1))
    pairs = [(edge.upper[0], edge.lower[0]) for edge in found.edges]
    assert set(pairs) == {("prediction", "relu2"), ("relu2", "conv2"), ("relu2", "stem"), ("conv2", "stem")}
    counts = {upper: sum(1 for edge in found.edges if edge.upper == upper) for upper in {e.upper for e in found.edges}}
    # Two channels of either layer feed one of relu2, and one channel of stem feeds one of conv2.
    assert all(count <= {"relu2": 4, "conv2": 1, "prediction": 3}[layer] for (layer, _), count in counts.items())
    assert [node.layer for node in found.nodes] == sorted(
        (node.layer for node in found.nodes), key=("prediction", *found.layers).index
    )
    below = graph(analyzer, models.inputs_of(model, 1), ["stem", "conv2"], 1)
    assert {("prediction", "stem"), ("prediction", "conv2")} < {(e.upper[0], e.lower[0]) for e in below.edges}


def test_layers_beside_each_other(rng):
    x = keras.Input((5,))
    stem = layers.Dense(4, activation="relu", name="stem")(x)
    one, two = (layers.Dense(4, activation="relu", name=name)(stem) for name in ("one", "two"))
    h = layers.Dense(4, activation="relu", name="top")(layers.Concatenate()([one, two]))
    model = alive(keras.Model(x, layers.Dense(3)(h)))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    data = rng.normal(size=(1, 5))
    found = graph(analyzer, data, ["stem", "one", "two", "top"], 1, widths=(2, 3, 1))
    pairs = {(e.upper[0], e.lower[0]) for e in found.edges}
    assert pairs == {("prediction", "top"), ("top", "one"), ("top", "two"), ("one", "stem"), ("two", "stem")}
    both = graph(analyzer, data, ["one", "two"], 1, widths=2)
    assert {e.upper[0] for e in both.edges} == {"prediction"}
    with pytest.raises(ValueError, match="'one' and 'two' lie beside each other"):
        graph(analyzer, data, ["one", "two"], 1, concepts=0)


def test_tables_pictures_and_networkx(mlp, tmp_path, monkeypatch):
    _, x, analyzer = mlp
    found = graph(analyzer, x, ["high", "middle"], 1, widths=2)
    assert str(found).count("\n") == len(found.edges) + 3 and "prediction" in str(found)
    node = found.nodes[1]
    assert found.node(*node.key) is node
    fed = found.feeding(*node.key)
    assert [e.relevance for e in fed] == sorted((e.relevance for e in fed), reverse=True)
    with pytest.raises(KeyError, match="no node 'high', 99"):
        found.node("high", 99)
    picture = found.plot()
    assert len(picture.axes) == 1 + len(found.nodes) and len(picture.axes[0].lines) == len(found.edges)
    picture.savefig(tmp_path / "graph.png")
    networkx = pytest.importorskip("networkx")
    made = found.to_networkx()
    assert networkx.is_directed_acyclic_graph(made) and made.number_of_edges() == len(found.edges)
    edge = found.edges[0]
    assert made.edges[edge.lower, edge.upper] == {"relevance": edge.relevance, "share": edge.share}
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match="pip install networkx"):
        found.to_networkx()


def test_images_have_heat_maps_on_the_nodes(tmp_path):
    model = randomized(models.cnn())
    found = graph(revgraph.create_analyzer("lrp.epsilon", model), models.inputs_of(model, 1), ["conv2", "relu"], 1)
    assert all(node.heatmap.shape == (8, 8, 2) for node in found.nodes)
    found.plot(percentile=99).savefig(tmp_path / "graph.png")


@pytest.mark.parametrize(
    "layers_, options, error, message",
    [
        ([], {}, ValueError, "layers is empty"),
        ("higher", {}, KeyError, "Did you mean 'high'"),
        (["higher"], {}, KeyError, "Did you mean 'high'"),
        (
            ["high", "low"],
            {"widths": (1, 2, 3)},
            ValueError,
            "one number, or 2, one for each step down from the prediction",
        ),
        (
            ["high", "low"],
            {"widths": (1, 2), "concepts": 0},
            ValueError,
            "or 1, one for each step down from the highest",
        ),
        (["high"], {"widths": 0}, ValueError, "widths must be a positive int"),
        (["high"], {"concepts": 5}, ValueError, "there are 5 channels, 0 to 4"),
        (["high"], {"concepts": "all"}, TypeError, "a channel or a list of channels"),
        (["high"], {"concepts": []}, TypeError, "a channel or a list of channels"),
        (["high"], {"conditions": {"low": 0}}, TypeError, "makes conditions of its own"),
    ],
)
def test_wrong_questions(layers_, options, error, message, mlp):
    _, x, analyzer = mlp
    with pytest.raises(error, match=message):
        graph(analyzer, x, layers_, 1, **options)


def test_a_layer_that_is_called_like_the_prediction_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="h"), layers.Dense(2, name="prediction")])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    with pytest.raises(ValueError, match="'prediction' stands for what is explained"):
        graph(analyzer, np.ones((1, 3)), ["h", "prediction"], 1)
    assert graph(analyzer, np.ones((1, 3)), ["h"], 1).edges


def test_one_sample_and_one_target(mlp):
    _, x, analyzer = mlp
    with pytest.raises(ValueError, match=r"there are 2\. Pass one sample.*x\[:1\]"):
        graph(analyzer, np.concatenate([x, x]), ["high"], 1)
    with pytest.raises(ValueError, match="there are 1 x 2"):
        graph(analyzer, x, ["high"], np.array([[0, 1]]))


def test_what_speaks_against_a_class_is_followed_where_nothing_speaks_for_it():
    """Channels without relevance do not take the place of those that have it, whatever their sign."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(5, activation="relu", name="h"), layers.Dense(2)])
    rng = np.random.default_rng(0)
    kernel = np.abs(rng.normal(size=(3, 5)))
    kernel[:, :3] *= -1  # Three channels are never active.
    outwards = np.abs(rng.normal(size=(5, 2)))
    outwards[:, 0] *= -1
    model.set_weights([kernel, np.zeros(5), outwards, np.zeros(2)])
    x = rng.uniform(0.5, 1, (1, 3))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    found = graph(analyzer, x, "h", 0, widths=2)
    of_channels = relevance(analyzer, x, "h", 0).values[0]
    assert sorted(edge.lower[1] for edge in found.edges) == [3, 4] and (of_channels[3:] < 0).all()
    with pytest.raises(TypeError, match="that of one layer"):
        relevance(analyzer, x, ["h"], 0)
