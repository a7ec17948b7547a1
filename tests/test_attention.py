"""Attention: the softmax rule, CP and AttnLRP, against numbers and against gradients.

Where every stabiliser is 0, relevance is input times the gradient of a changed forward pass. Under CP the weights of
the attention are constants. Under AttnLRP each operand of a product of matrices counts half.
`test_attention_layers.py` has every layer and every spelling of softmax.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import rules
from revgraph.composites import everywhere
from revgraph.reverse_rules import ReplacementLayer
from tests.models import randomized
from tests.test_engine import site_of

pytestmark = pytest.mark.usefixtures("float64")

TINY = 1e-30
"""A stabiliser that changes nothing."""


def det(*shape):
    """The numbers sin(1 + 0.7 k), row by row."""
    return np.sin(1 + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def test_the_softmax_rule_by_hand():
    x = np.array([[0.84147098, 0.99166481, 0.67546318, 0.04158066]])
    R = np.array([[1.0, -2.0, 0.5, 3.0]])
    site = site_of(layers.Softmax(), shapes=[(4,)])
    _, pullback = ReplacementLayer(site, rules.SoftmaxTaylor(), "float64")(x)
    np.testing.assert_allclose(pullback(R)[0], [[0.23320403, -2.816336, -0.07584932, 0.111235]], atol=1e-8)
    y = np.exp(x) / np.exp(x).sum()
    np.testing.assert_allclose(pullback(R)[0], x * (R - y * R.sum()), rtol=1e-12)
    np.testing.assert_allclose(pullback.absorbed(R).softmax, R.sum() - (x * (R - y * R.sum())).sum(), rtol=1e-12)


def test_layer_normalization_with_constant_std_by_hand():
    x = np.array([[0.84147098, 0.99166481, 0.67546318, 0.04158066]])
    R = np.array([[1.0, -2.0, 0.5, 3.0]])
    layer = layers.LayerNormalization(epsilon=1e-3)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([1, 0.5, -1, 2.0]), np.array([0.1, 0, -0.1, 0.2])])
    analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(TINY))
    found = analyzer.record(x).analyze(initial_relevance=R)
    np.testing.assert_allclose(found, [[3.52584352, -5.57329855, 4.56810079, -0.22174417]], atol=1e-8)
    identity = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(TINY), normalization="identity")
    np.testing.assert_allclose(identity.record(x).analyze(initial_relevance=R), R, rtol=1e-12)


@pytest.fixture
def by_hand():
    """Multi-head attention of 3 tokens, width 4, 2 heads of size 2, with fixed weights."""
    x = keras.Input((3, 4))
    layer = layers.MultiHeadAttention(2, 2)
    model = keras.Model(x, layer(x, x))
    q = 0.9 * det(4, 4)
    k, v, o = -q[::-1], (0.63 * det(4, 4)).T, (1.17 * det(4, 4))[:, ::-1]
    kernels = [w.reshape(4, 2, 2) for w in (q, k, v)]
    biases = [np.full((2, 2), b) for b in (0.1, -0.1, 0.05)]
    pairs = [w for pair in zip(kernels, biases, strict=True) for w in pair]
    layer.set_weights([*pairs, o.reshape(2, 2, 4), np.full(4, 0.02)])
    return model, det(1, 3, 4)


@pytest.mark.parametrize(
    ("attention", "tokens"),
    [("attnlrp", [0.37966068, -0.49972261, 0.49475914]), ("cp", [0.7669466, -0.98694533, 1.02906908])],
)
def test_multi_head_attention_by_hand(attention, tokens, by_hand):
    model, x = by_hand
    np.testing.assert_allclose(model(x)[0, 2, 0], 0.79720078, atol=1e-8)
    analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(TINY), attention=attention)
    found = analyzer.record(x).analyze((2, 0))
    np.testing.assert_allclose(found.sum(axis=-1), [tokens], atol=1e-8)


# Gradient forms.

stop = tf.stop_gradient


def half(t):
    """t, whose gradient counts half."""
    return (t + stop(t)) / 2


def weights_of(scores, attention):
    y = tf.nn.softmax(scores)
    return stop(y) if attention == "cp" else y


def product(equation, a, b, attention):
    if attention == "attnlrp":
        a, b = half(a), half(b)
    return tf.einsum(equation, a, b)


class Attention(layers.Layer):
    """Self-attention by hand, in one of several spellings."""

    def __init__(self, spelling="einsum", heads=2, masked=False, **options):
        super().__init__(**options)
        self.spelling, self.heads, self.masked = spelling, heads, masked
        self.q, self.k, self.v, self.o = (layers.Dense(8) for _ in range(4))

    def build(self, shape):
        for dense in (self.q, self.k, self.v, self.o):
            dense.build(shape)

    def split(self, t):
        return ops.transpose(ops.reshape(t, (-1, 3, self.heads, 8 // self.heads)), (0, 2, 1, 3))

    def call(self, x, form=None):
        q, k, v = (self.split(dense(x)) for dense in (self.q, self.k, self.v))
        scale = (8 // self.heads) ** -0.5
        mask = tf.constant(np.tril(np.ones((3, 3))), x.dtype) if self.masked else None
        if form is not None:
            scores = product("bhqd,bhkd->bhqk", q * scale, k, form)
            if mask is not None:
                scores = tf.where(mask > 0, scores, tf.constant(-1e9, x.dtype))
            mixed = product("bhqk,bhkd->bhqd", weights_of(scores, form), v, form)
        else:
            matmul = {
                "einsum": lambda a, b, e: ops.einsum(e, a, b),
                "matmul": lambda a, b, e: ops.matmul(a, ops.transpose(b, (0, 1, 3, 2)) if e.endswith("k") else b),
                "tf": lambda a, b, e: tf.matmul(a, b, transpose_b=e.endswith("k")),
                "spelt out": lambda a, b, e: ops.einsum(e, a, b),
            }[self.spelling]
            scores = matmul(q * scale, k, "bhqd,bhkd->bhqk")
            if mask is not None:
                scores = ops.where(mask > 0, scores, ops.cast(-1e9, x.dtype))
            e = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
            spelt_out = self.spelling == "spelt out"
            weights = e / ops.sum(e, axis=-1, keepdims=True) if spelt_out else ops.softmax(scores)
            mixed = matmul(weights, v, "bhqk,bhkd->bhqd")
        return self.o(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, 3, 8)))


def explained(model, x, attention, path=None, index=1):
    if path is not None:
        model.export(str(path))
        model = revgraph.load_model(str(path))
    analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(TINY), attention=attention)
    recorded = analyzer.record(x)
    return recorded.analyze(index), analyzer.conservation(x, index)


@pytest.mark.parametrize("attention", ["cp", "attnlrp"])
@pytest.mark.parametrize(
    ("spelling", "masked"), [("einsum", False), ("matmul", True), ("tf", True), ("spelt out", True)]
)
def test_every_spelling_is_input_times_the_gradient_of_the_changed_pass(spelling, masked, attention, rng):
    x = keras.Input((3, 8))
    layer, head = Attention(spelling, masked=masked), layers.Dense(2, use_bias=False)
    model = randomized(keras.Model(x, head(layers.Flatten()(x + layer(x)))))
    data = rng.normal(size=(2, 3, 8))
    found, ledger = explained(model, data, attention)
    t = tf.constant(data)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = head(tf.reshape(t + layer(t, form=attention), (2, 24)))[:, 1]
    expected = data * tape.gradient(y, t).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())
    assert np.all(np.abs(ledger.other) <= 1e-9 * ledger.magnitude)
    assert np.any(ledger.softmax) == (attention == "attnlrp")


@pytest.mark.parametrize("attention", ["cp", "attnlrp"])
def test_exported_attention_is_that_in_memory(attention, rng, tmp_path):
    ids = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 4, mask_zero=True)(ids)
    h = layers.LayerNormalization()(layers.Add()([h, layers.MultiHeadAttention(2, 2)(h, h, use_causal_mask=True)]))
    h = layers.Add()([h, layers.Dense(4)(layers.Dense(6, activation="gelu")(h))])
    model = randomized(keras.Model(ids, layers.Dense(2)(layers.GlobalAveragePooling1D()(h))))
    x = np.int32([[3, 8, 1, 0, 0], [2, 2, 7, 5, 0]])
    found, ledger = explained(model, x, attention)
    again, _ = explained(model, x, attention, tmp_path / "model")
    np.testing.assert_allclose(found, again, rtol=1e-8, atol=1e-10 * np.abs(found).max())
    np.testing.assert_array_equal(found[x == 0], 0)
    assert np.all(np.abs(ledger.other) <= 1e-8 * ledger.magnitude)


KERAS = {
    "MultiHeadAttention": lambda q, v: layers.MultiHeadAttention(2, 3)(q, v),
    "MultiHeadAttention, other width of values": lambda q, v: layers.MultiHeadAttention(2, 3, value_dim=5)(q, v),
    "GroupQueryAttention": lambda q, v: layers.GroupQueryAttention(3, 4, 2)(q, v),
    "Attention": lambda q, v: layers.Attention(use_scale=True)([q, v]),
    "AdditiveAttention": lambda q, v: layers.AdditiveAttention()([q, v]),
}


@pytest.mark.parametrize("name", KERAS)
def test_layers_of_keras_conserve_and_cp_stops_at_the_weights(name, rng):
    """Under CP the query gets nothing, because it only makes the weights of the attention."""
    q, v = keras.Input((2, 4)), keras.Input((3, 4))
    model = randomized(keras.Model([q, v], layers.Dense(2)(layers.Flatten()(KERAS[name](q, v)))))
    data = [rng.normal(size=(2, 2, 4)), rng.normal(size=(2, 3, 4))]
    for attention in ("cp", "attnlrp"):
        (of_query, of_values), ledger = explained(model, data, attention)
        assert np.abs(of_values).max() > 1e-3
        assert (np.abs(of_query).max() > 1e-3) == (attention == "attnlrp")
        assert np.all(np.abs(ledger.other) <= 1e-8 * ledger.magnitude)


MASKS = {
    "a number in place": lambda x, mask: ops.where(mask, x, ops.cast(-1e9, "float64")),
    "minus infinity in place": lambda x, mask: ops.where(mask, x, ops.cast(-np.inf, "float64")),
    "a number added": lambda x, mask: x + (1.0 - ops.cast(mask, "float64")) * -1e9,
}


@pytest.mark.parametrize("how", MASKS)
def test_rows_that_are_masked_altogether_have_no_relevance_of_their_scores(how, rng):
    """What the mask leaves of such a row says nothing. The ledger closes without NaN."""
    x, mask = keras.Input((3,)), keras.Input((3,), dtype="bool")
    y = ops.softmax(MASKS[how](2.0 * x, mask))
    model = randomized(keras.Model([x, mask], layers.Dense(2)(ops.where(mask, y, 0.0))))
    data = [rng.normal(size=(2, 3)), np.array([[True, False, True], [False, False, False]])]
    analyzer = revgraph.create_analyzer("lrp", model, rule="Epsilon", attention="attnlrp")
    found = analyzer.record(data).analyze(1)[0]
    assert np.isfinite(found).all() and found[0, 0] != 0 and found[0, 1] == 0
    np.testing.assert_array_equal(found[1], 0)
    ledger = analyzer.conservation([x[:1] for x in data], 1)
    assert np.all(np.abs(ledger.other) <= 1e-9 * ledger.magnitude) and np.isfinite(ledger.constants).all()


@pytest.mark.parametrize("how", MASKS)
def test_the_rule_gives_nothing_to_what_is_left_out(how):
    """Not even where relevance arrives, as it does for a row that is left out altogether."""
    scores = tf.constant(MASKS[how](np.array([[0.3, -1.2], [0.4, 0.9]]), np.array([[True, False], [False, False]])))
    if np.isinf(scores.numpy()[1]).all():
        scores = scores[:1]
    site = site_of(layers.Softmax(), shapes=[(2,)])
    _, pullback = ReplacementLayer(site, rules.SoftmaxTaylor(left_out=-5e3), "float64")(scores)
    found = pullback(tf.constant([[1.0, 3.0]] * len(scores), tf.float64))[0].numpy()
    assert np.isfinite(found).all() and found[0, 1] == 0
    np.testing.assert_array_equal(found[1:], 0)


def test_products_of_three_signals_are_uniform_however_they_are_bracketed():
    a, b, c = (keras.Input((1,)) for _ in range(3))
    data = [np.array([[v]]) for v in (2.0, 3.0, 4.0)]
    for y in ((a * b) * c, a * (b * c), layers.Multiply()([a, b, c])):
        analyzer = revgraph.create_analyzer("lrp.attnlrp", keras.Model([a, b, c], y))
        np.testing.assert_allclose(analyzer.record(data).analyze(), [[[8]], [[8]], [[8]]], rtol=1e-12)


def vit(rng):
    image = keras.Input((8, 8, 1))
    h = layers.Reshape((4, 6))(layers.Conv2D(6, 4, strides=4, name="patches")(image))
    for block in range(2):
        n = layers.LayerNormalization()(h)
        h = h + layers.MultiHeadAttention(2, 3, name=f"attention{block}")(n, n)
        n = layers.LayerNormalization()(h)
        h = h + layers.Dense(6, name=f"out{block}")(layers.Dense(8, activation="gelu", name=f"in{block}")(n))
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    return randomized(keras.Model(image, layers.Dense(3, name="head")(h)))


def test_the_preset_for_vision_transformers(rng):
    model = vit(rng)
    analyzer = revgraph.create_analyzer("lrp.vit", model)
    given = {b.site.path: b.rule for b in analyzer.bound}
    assert given["patches"] == rules.Gamma(0.25) and given["head"] == given["in0"] == given["out1"] == rules.Gamma(0.05)
    assert given["attention0/value"] == given["attention1/attention_output"] == rules.Epsilon(1e-6)
    ledger = analyzer.conservation(rng.normal(size=(2, 8, 8, 1)), 1)
    assert np.all(np.abs(ledger.other) <= 1e-8 * ledger.magnitude) and not ledger.softmax.any()
    assert "softmax" not in str(ledger)
    assert "softmax" in str(revgraph.create_analyzer("lrp.attnlrp", model).conservation(np.ones((1, 8, 8, 1)), 1))


def test_the_presets_are_their_arguments(rng):
    model, x = vit(rng), rng.normal(size=(2, 8, 8, 1))
    for name, options in (
        ("lrp.cp", {"attention": "cp", "gate": "signal"}),
        ("lrp.attnlrp", {"attention": "attnlrp", "gate": "uniform"}),
    ):
        written = revgraph.create_analyzer("lrp", model, rule=everywhere(rules.Epsilon(1e-6)), **options)
        found = revgraph.create_analyzer(name, model).record(x).analyze(2)
        np.testing.assert_array_equal(found, written.record(x).analyze(2))
    overridden = revgraph.create_analyzer("lrp.attnlrp", model, attention="cp", gate="signal")
    np.testing.assert_array_equal(
        overridden.record(x).analyze(2), revgraph.create_analyzer("lrp.cp", model).record(x).analyze(2)
    )


@pytest.mark.parametrize("argument", ["attention", "normalization"])
@pytest.mark.parametrize("wrong", ["all", 1, None])
def test_another_word_is_refused(argument, wrong):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match=f"^{argument} is one of .*Received: {wrong!r}"):
        revgraph.create_analyzer("lrp.z", model, **{argument: wrong})
