"""What is inside of attention: maps, relevance of heads and of tokens, and their pictures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import rules, visualize
from revgraph.graph.operations import spelt_out
from tests.models import randomized
from tests.test_attention import Attention, vit

pytestmark = pytest.mark.usefixtures("float64")

HEADS, SIZE, TOKENS, WIDTH = 2, 4, 4, 6
ROWS = "bhqk,bhkd->bhqd"


def by_numpy(layer, x):
    """Attention maps (batch, heads, queries, keys), and what each head adds to the output, (..., queries, width)."""
    (q, bq), (k, bk), (v, bv), (o, _) = ([np.array(w) for w in d.get_weights()] for d in parts(layer))
    q, k, v = (np.einsum("btw,whd->bhtd", x, w) + b[:, None] for w, b in ((q, bq), (k, bk), (v, bv)))
    scores = np.exp(np.einsum("bhqd,bhkd->bhqk", q, k) / np.sqrt(SIZE))
    maps = scores / scores.sum(-1, keepdims=True)
    return maps, np.einsum("bhqd,hdw->bhqw", np.einsum(ROWS, maps, v), o)


def parts(layer):
    return layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense


@pytest.fixture
def one_attention(rng):
    x = keras.Input((TOKENS, WIDTH))
    layer = layers.MultiHeadAttention(HEADS, SIZE, name="attention")
    h = layers.LayerNormalization()(x)
    return randomized(keras.Model(x, layer(h, h))), layer, rng.normal(size=(3, TOKENS, WIDTH))


@pytest.mark.parametrize("attention", ["cp", "attnlrp"])
def test_maps_and_heads_of_one_layer_are_those_of_the_formula(attention, one_attention):
    """The output is a sum over heads and a bias. So the relevance of a head is what it adds to the output."""
    model, layer, x = one_attention
    maps, added = by_numpy(layer, model.layers[1](x).numpy())
    analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(1e-30), attention=attention)
    inside = analyzer.attentions(x, (2, 5))
    assert list(inside.maps) == list(inside.heads) == list(inside.tokens) == ["attention"]
    np.testing.assert_allclose(inside.maps["attention"], maps, rtol=1e-10)
    expected = np.zeros((3, HEADS, TOKENS))
    expected[:, :, 2] = added[:, :, 2, 5]
    np.testing.assert_allclose(inside.heads["attention"], expected, rtol=1e-9, atol=1e-12)
    # The layer reads the input of the model, behind its normalization.
    relevance = analyzer.record(x).analyze((2, 5))
    np.testing.assert_allclose(inside.tokens["attention"], relevance.sum(-1), rtol=1e-9, atol=1e-12)
    assert "2 " in str(inside) and "attention" in str(inside) and len(inside) == 3
    parts = [analyzer.attentions(part, (2, 5)) for part in (x[:2], x[2:])]
    np.testing.assert_allclose(np.concatenate([p.heads["attention"] for p in parts]), expected, rtol=1e-9, atol=1e-12)
    split = analyzer.attentions(x, (2, 5), batch_size=2)
    np.testing.assert_allclose(split.maps["attention"], maps, rtol=1e-10)


class Grouped(layers.Layer):
    """Attention of 4 tokens of width 6 in one of several layouts. Its output has 6 features again."""

    def __init__(self, layout, **options):
        super().__init__(**options)
        self.layout = layout
        self.dense = layers.Dense(6 if layout != "multi-query" else 3)
        self.dense.build((None, None, 6))

    def call(self, x):
        softmax = ops.softmax
        if self.layout == "batch times heads":
            h = ops.reshape(ops.transpose(ops.reshape(self.dense(x), (-1, 4, 2, 3)), (0, 2, 1, 3)), (-1, 4, 3))
            mixed = ops.matmul(softmax(ops.matmul(h, ops.transpose(h, (0, 2, 1)))), h)
            return ops.reshape(ops.transpose(ops.reshape(mixed, (-1, 2, 4, 3)), (0, 2, 1, 3)), (-1, 4, 6))
        if self.layout == "windows":
            windows = ops.reshape(x, (-1, 2, 6))
            h = ops.transpose(ops.reshape(self.dense(windows), (-1, 2, 2, 3)), (0, 2, 1, 3))
            mixed = tf.matmul(softmax(tf.matmul(h, h, transpose_b=True)), h)
            return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, 4, 6))
        if self.layout == "multi-query":
            q, v = ops.reshape(x, (-1, 4, 2, 3)), self.dense(x)
            mixed = ops.einsum("bhqk,bkd->bqhd", softmax(ops.einsum("bqhd,bkd->bhqk", q, v)), v)
            return ops.reshape(mixed, (-1, 4, 6))
        v = ops.reshape(self.dense(x), (-1, 4, 2, 3))
        mixed = ops.einsum("...hqk,...khd->...qhd", softmax(ops.einsum("bqhd,bkhd->bhqk", v, v)), v)
        return ops.reshape(mixed, (-1, 4, 6))


@pytest.mark.parametrize("layout", ["batch times heads", "windows", "multi-query", "ellipsis"])
def test_heads_queries_and_keys_in_every_layout(layout, rng):
    x = keras.Input((4, 6))
    model = randomized(keras.Model(x, layers.Flatten()(Grouped(layout, name="mix")(layers.Dense(6)(x)))))
    data = rng.normal(size=(3, 4, 6))
    analyzer = revgraph.create_analyzer("lrp.cp", model)
    inside = analyzer.attentions(data, 7)
    keys = 2 if layout == "windows" else 4
    assert inside.maps["mix"].shape == (3, 2, 4, keys) and inside.heads["mix"].shape == (3, 2, 4)
    assert inside.tokens["mix"].shape == (3, 4)
    np.testing.assert_allclose(inside.maps["mix"].sum(-1), 1, rtol=1e-9)
    # Feature 7 is the second of token 1, which is of the first head. Its windows are tokens 0 and 1, and 2 and 3.
    relevant = np.zeros((2, 4), bool)
    relevant[0, 1] = True
    np.testing.assert_array_equal(inside.heads["mix"] != 0, np.broadcast_to(relevant, (3, 2, 4)))
    if layout == "windows":
        np.testing.assert_array_equal(inside.tokens["mix"][:, 2:], 0)
    for i in range(3):
        alone = analyzer.attentions(data[i : i + 1], 7)
        np.testing.assert_allclose(alone.tokens["mix"][0], inside.tokens["mix"][i], rtol=1e-9, atol=1e-12)


KERAS = {
    "grouped": (lambda x: layers.GroupQueryAttention(3, 4, 2, name="a")(x, x), (4, 5, 5), 5),
    "no heads": (lambda x: layers.Attention(name="a")([x, x]), (1, 5, 5), 5),
    "additive": (lambda x: layers.AdditiveAttention(name="a")([x, x]), (1, 5, 5), 5),
    "spelt out": (lambda x: Attention("spelt out", name="a")(x[:, :3]), (2, 3, 3), 3),
    "two axes": (
        lambda x: layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), name="a")(*[layers.Reshape((5, 2, 4))(x)] * 2),
        (2, 10, 10),
        10,
    ),
}


@pytest.mark.parametrize("name", KERAS)
def test_layers_of_keras(name, rng):
    make, shape, tokens = KERAS[name]
    x = keras.Input((5, 8))
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(make(layers.Dense(8)(x))))))
    inside = revgraph.create_analyzer("lrp.cp", model).attentions(rng.normal(size=(2, 5, 8)), 1)
    assert inside.maps["a"].shape == (2, *shape) and inside.heads["a"].shape == (2, *shape[:2])
    assert inside.tokens["a"].shape == (2, tokens)
    np.testing.assert_allclose(inside.maps["a"].sum(-1), 1, rtol=1e-9)


def test_the_tokens_of_a_block_have_all_relevance_and_exported_is_in_memory(rng, tmp_path):
    model, x = vit(rng), rng.normal(size=(2, 8, 8, 1))
    analyzer = revgraph.create_analyzer("lrp.attnlrp", model)
    inside = analyzer.attentions(x, 2)
    assert list(inside.heads) == ["attention0", "attention1"]
    _, at = analyzer.analyze(x, 2, return_layers=[model.layers[3], model.layers[8]])
    sums = [r.sum(-1) for r in at.values()]
    np.testing.assert_allclose(list(inside.tokens.values()), sums, rtol=1e-9, atol=1e-12)
    model.export(str(tmp_path / "m"))
    again = revgraph.create_analyzer("lrp.attnlrp", revgraph.load_model(str(tmp_path / "m"))).attentions(x, 2)
    for one, other in ((inside.maps, again.maps), (inside.heads, again.heads), (inside.tokens, again.tokens)):
        np.testing.assert_allclose(list(other.values()), list(one.values()), rtol=1e-8, atol=1e-10)


def test_two_attentions_of_one_path_are_told_apart(rng):
    x = keras.Input((3, 4))
    twice = layers.MultiHeadAttention(2, 2, name="a")
    model = randomized(keras.Model(x, twice(twice(x, x), x)))
    inside = revgraph.create_analyzer("lrp.cp", model).attentions(rng.normal(size=(1, 3, 4)), (0, 0))
    assert list(inside.heads) == ["a", "a#2"]


class Learned(layers.Layer):
    """Attention of learned queries."""

    def build(self, shape):
        self.queries = self.add_weight(shape=(1, 5, shape[-1]))

    def call(self, x):
        q = ops.broadcast_to(self.queries, (ops.shape(x)[0], *self.queries.shape[1:]))
        return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(x, (0, 2, 1)))), x)


def test_a_product_with_learned_queries_is_no_attention(rng):
    x = keras.Input((4, 6))
    model = randomized(keras.Model(x, layers.Flatten()(Learned(name="pool")(x))))
    inside = revgraph.create_analyzer("lrp.cp", model).attentions(rng.normal(size=(2, 4, 6)), 3)
    assert {path: maps.shape for path, maps in inside.maps.items()} == {"pool": (2, 1, 5, 4)}


def test_what_cannot_be_asked():
    image = keras.Input((4, 4, 1))
    plain = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    with pytest.raises(ValueError, match="has no attention"):
        revgraph.create_analyzer("lrp.epsilon", plain).attentions(np.ones((1, 4, 4, 1)))
    x = keras.Input((3, 4))
    model = keras.Model(x, layers.Flatten()(layers.MultiHeadAttention(2, 2)(x, x)))
    data = np.ones((2, 3, 4))
    with pytest.raises(TypeError, match="'gradient' has no attentions"):
        revgraph.create_analyzer("gradient", model).attentions(data)
    analyzer = revgraph.create_analyzer("lrp.cp", model)
    with pytest.raises(ValueError, match="attentions follows one target per sample"):
        analyzer.attentions(data, [[1, 2], [0, 1]])
    with pytest.raises(TypeError, match="attentions does not take 'return_layers'"):
        analyzer.attentions(data, 1, return_layers="all")


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("...ij,...jk->...ik", (2, 2), "ij,jk->ik"),
        ("...ij,...jk->...ik", (4, 3), "abij,bjk->abik"),
        ("b h q k, b k d -> b q h d", (4, 3), "bhqk,bkd->bqhd"),
    ],
)
def test_equations_are_spelt_out(equation, ranks, expected):
    assert spelt_out(equation, ranks) == expected


def test_pictures(rng):
    model = vit(rng)
    inside = revgraph.create_analyzer("lrp.cp", model).attentions(rng.normal(size=(2, 8, 8, 1)), 1)
    words = ["a", "cat", "sat"]
    heads = visualize.plot_heads(inside, 1)
    (axes,) = heads.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["attention0", "attention1"]
    shown = np.ravel([h[1].sum(-1) for h in inside.heads.values()])
    assert [text.get_text() for text in axes.texts] == [f"{r:+.2g}" for r in shown]
    (axes,) = visualize.plot_tokens(inside, tokens=words).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == words
    assert axes.images[0].get_array().shape[:2] == (2, 3)
    maps = visualize.plot_attention(inside, "attention0", tokens=words)
    np.testing.assert_allclose(maps.axes[1].images[0].get_array(), inside.maps["attention0"][0, 1, :3, :3])
    assert "head 1: relevance" in maps.axes[1].get_title()
    with pytest.raises(KeyError, match="no attention 'b'. There are 'attention0'"):
        visualize.plot_attention(inside, "b")
    with pytest.raises(IndexError, match="place of one of 2 attentions. Received: 2"):
        visualize.plot_attention(inside, 2)
    with pytest.raises(IndexError, match="2 samples. Received: sample=2"):
        visualize.plot_heads(inside, 2)
    with pytest.raises(ValueError, match="There are 4 tokens. Received 5 names"):
        visualize.plot_tokens(inside, tokens=["a"] * 5)
    with pytest.raises(TypeError, match=r"analyzer.attentions\(x\)"):
        visualize.plot_heads(np.ones((2, 2)))
