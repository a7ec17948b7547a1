"""Attention in every layer of Keras and every spelling of softmax and masks, against gradients of a changed pass.

All spellings stand in one small network with one output each, so that it is read, recorded and exported once.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import rules
from revgraph.graph.operations import Activation
from tests.models import precision, randomized
from tests.test_attention import TINY, explained, product, stop, weights_of

pytestmark = pytest.mark.usefixtures("float64")

KEEP = np.tril(np.ones((3, 3)))
"""The causal mask of three tokens."""

SINK = 0.7
"""The score of a token that is not there."""


def over_sum(e, extra=0.0):
    return e / (ops.sum(e, axis=-1, keepdims=True) + extra)


def shifted(s):
    return s - ops.max(s, axis=-1, keepdims=True)


def like(value, s):
    return ops.cast(value, s.dtype)


def with_sink(s):
    return ops.concatenate([s, ops.full_like(s[..., :1], SINK)], axis=-1)


def along_another_axis(s):
    return ops.transpose(tf.nn.softmax(ops.transpose(s, (0, 2, 1)), axis=1), (0, 2, 1))


PLAIN = {
    "a layer": lambda s, m: layers.Softmax()(s),
    "of TensorFlow, along another axis": lambda s, m: along_another_axis(s),
    "exponentials over their sum": lambda s, m: ops.exp(s) / ops.sum(ops.exp(s), axis=-1, keepdims=True),
    "without the maximum": lambda s, m: over_sum(ops.exp(shifted(s))),
    "over a sum with a small number": lambda s, m: over_sum(ops.exp(shifted(s)), 1e-12),
    "times one over the sum": lambda s, m: ops.exp(s) * ops.reciprocal(ops.sum(ops.exp(s), axis=-1, keepdims=True)),
    "of the logarithm": lambda s, m: ops.exp(ops.log_softmax(s)),
    "without the logarithm of the sum": lambda s, m: ops.exp(s - ops.logsumexp(s, axis=-1, keepdims=True)),
}
"""Spellings of softmax(s)."""

MASKED = {
    **{
        f"{low} in place": lambda s, m, low=low: ops.softmax(ops.where(KEEP > 0, s, like(low, s)))
        for low in (-1e4, -65504, -1e9, -np.inf)
    },
    **{
        f"{low} added": lambda s, m, low=low: ops.softmax(s + like(np.where(KEEP, 0, low), s))
        for low in (-1e4, -1e9, -np.inf)
    },
    "multiplied and subtracted": lambda s, m: ops.softmax(s * KEEP - 1e4 * (1 - KEEP)),
    "a layer": lambda s, m: layers.Softmax()(s, mask=ops.convert_to_tensor(KEEP > 0)[None]),
    "exponentials, multiplied": lambda s, m: over_sum(ops.exp(shifted(s)) * like(KEEP, s), 1e-12),
    "weights, multiplied, over their sum": lambda s, m: over_sum(ops.softmax(s) * like(KEEP, s)),
    "logarithm": lambda s, m: ops.exp(ops.log_softmax(ops.where(KEEP > 0, s, like(-1e9, s)))),
}
"""Spellings of a causal softmax."""

PADDED = {
    "added": lambda s, m: ops.softmax(s + -1e4 * (1 - ops.cast(m, s.dtype))[:, None]),
    "integers": lambda s, m: ops.softmax(ops.where(ops.cast(m, "int32")[:, None] > 0, s, like(-3e4, s))),
    "exponentials, multiplied": lambda s, m: over_sum(ops.exp(s) * ops.cast(m, s.dtype)[:, None], 1e-12),
}
"""Spellings of a softmax that leaves out padding."""


def PADDED_AND_CAUSAL(s, m):
    return ops.softmax(ops.where(m[:, None], s + like(np.where(KEEP, 0, -1e9), s), like(-1e9, s)))


SINKS = {
    "a score more": lambda s, m: ops.softmax(with_sink(s))[..., :-1],
    "a term in the sum": lambda s, m: over_sum(ops.exp(s), float(np.exp(SINK))),
    "a term in the sum, without the maximum": lambda s, m: over_sum(
        ops.exp(shifted(s)), ops.exp(SINK - ops.max(s, axis=-1, keepdims=True))
    ),
}
"""Spellings of a softmax with a sink, which is a score that belongs to no token."""

BIAS = np.array([[0.0, -0.3, -0.6], [-0.3, 0, -0.3], [-0.6, -0.3, 0]])
"""A table that is added to scores, as in ALiBi and in relative positions."""

CHANGED = {
    "soft cap": (lambda s, m: ops.softmax(2.0 * ops.tanh(s / 2.0)), lambda s: s * stop(2.0 * tf.tanh(s / 2.0) / s)),
    "table": (lambda s, m: ops.softmax(s + like(BIAS, s)), lambda s: s + BIAS),
}
"""Scores that are changed in front of the softmax, and how the changed pass does it."""


def sinking(s, attention):
    weights = tf.exp(s) / (np.exp(SINK) + tf.reduce_sum(tf.exp(s), -1, keepdims=True))
    return stop(weights) if attention == "cp" else weights


def masked(s, keep, attention):
    return weights_of(tf.where(tf.cast(keep, bool), s, tf.constant(-1e30, s.dtype)), attention)


SPELLINGS = [
    *((f"plain: {name}", spelt, lambda s, m, a: weights_of(s, a)) for name, spelt in PLAIN.items()),
    *((f"masked: {name}", spelt, lambda s, m, a: masked(s, KEEP[None], a)) for name, spelt in MASKED.items()),
    *((f"padded: {name}", spelt, lambda s, m, a: masked(s, m[:, None], a)) for name, spelt in PADDED.items()),
    ("padded and causal", PADDED_AND_CAUSAL, lambda s, m, a: masked(s, tf.cast(m[:, None], s.dtype) * KEEP, a)),
    *((f"sink: {name}", spelt, lambda s, m, a: sinking(s, a)) for name, spelt in SINKS.items()),
    *((f"changed: {n}", spelt, lambda s, m, a, c=c: weights_of(c(s), a)) for n, (spelt, c) in CHANGED.items()),
]


class Spelt(layers.Layer):
    """Attention with one query and key, and one output for each spelling of the softmax."""

    def __init__(self, **options):
        super().__init__(**options)
        self.q, self.k, self.v = (layers.Dense(4) for _ in range(3))

    def build(self, *shapes):
        for dense in (self.q, self.k, self.v):
            dense.build((None, 3, 4))

    def call(self, x, m):
        q, k, v = (dense(x) for dense in (self.q, self.k, self.v))
        s = ops.einsum("btd,bsd->bts", q, k)
        return ops.stack([ops.sum(ops.matmul(spelt(s, m), v), (1, 2)) for _, spelt, _ in SPELLINGS], axis=-1)

    def changed(self, x, m, attention):
        q, k, v = (dense(x) for dense in (self.q, self.k, self.v))
        s = product("btd,bsd->bts", q, k, attention)
        mixed = [product("bts,bsd->btd", form(s, m, attention), v, attention) for _, _, form in SPELLINGS]
        return tf.stack([tf.reduce_sum(t, (1, 2)) for t in mixed], axis=-1)


def heads(layer, x, attention, keep=None):
    """The changed pass of an attention of several heads, which may share keys and values."""
    wq, bq, wk, bk, wv, bv, wo, bo = layer.get_weights()
    repeats = wq.shape[1] // wk.shape[1]
    q, k, v = (tf.einsum("btd,dnh->btnh", x, w) + b for w, b in ((wq, bq), (wk, bk), (wv, bv)))
    k, v = tf.repeat(k, repeats, axis=2), tf.repeat(v, repeats, axis=2)
    s = product("btnh,bsnh->bnts", q, k, attention) * wq.shape[-1] ** -0.5
    weights = weights_of(s, attention) if keep is None else masked(s, keep, attention)
    return tf.einsum("btnh,nhd->btd", product("bnts,bsnh->btnh", weights, v, attention), wo) + bo


def scored(layer, x, s, m, attention, keep):
    """The changed pass of Attention and AdditiveAttention, from the scores on."""
    mixed = product("bts,bsd->btd", masked(s, keep, attention), x, attention)
    return mixed if m is None else mixed * tf.cast(m[..., None], x.dtype)


def squashed(x):
    return x * stop(tf.tanh(x) / x)


def dot(layer, x, m, attention):
    s = product("btd,bsd->bts", x, x, attention) * layer.get_weights()[0]
    return scored(layer, x, s, m, attention, m[:, None])


def of_sums(layer, x, m, attention):
    scale, weight = layer.get_weights()
    s = weight * tf.reduce_sum(squashed(scale * (x[:, :, None] + x[:, None])), -1)
    return scored(layer, x, s, None, attention, KEEP[None])


def additive(layer, x, m, attention):
    s = tf.reduce_sum(layer.get_weights()[0] * squashed(x[:, :, None] + x[:, None]), -1)
    return scored(layer, x, s, m, attention, m[:, None])


def over_two_axes(layer, x, m, attention):
    return heads(layer, tf.reshape(x, (-1, 6, 2)), attention)


LAYERS = {
    "MultiHeadAttention": (
        layers.MultiHeadAttention,
        (2, 3),
        lambda layer, x, m: layer(x, x, use_causal_mask=True),
        lambda layer, x, m, a: heads(layer, x, a, KEEP),
    ),
    "MultiHeadAttention with dropout": (
        lambda n, d: layers.MultiHeadAttention(n, d, dropout=0.3, value_dim=5),
        (2, 3),
        lambda layer, x, m: layer(x, x, attention_mask=m[:, None]),
        lambda layer, x, m, a: heads(layer, x, a, m[:, None, None]),
    ),
    "MultiHeadAttention over two axes": (
        lambda n, d: layers.MultiHeadAttention(n, d, attention_axes=(1, 2)),
        (2, 3),
        lambda layer, x, m: layer(*[ops.reshape(x, (-1, 3, 2, 2))] * 2),
        over_two_axes,
    ),
    "GroupQueryAttention": (
        layers.GroupQueryAttention,
        (3, 4, 2),
        lambda layer, x, m: layer(x, x, use_causal_mask=True),
        lambda layer, x, m, a: heads(layer, x, a, KEEP),
    ),
    "multi-query attention": (
        lambda *sizes: layers.GroupQueryAttention(*sizes, dropout=0.2),
        (3, 4, 1),
        lambda layer, x, m: layer(x, x, attention_mask=m[:, None]),
        lambda layer, x, m, a: heads(layer, x, a, m[:, None, None]),
    ),
    "Attention": (lambda: layers.Attention(use_scale=True), (), lambda layer, x, m: layer([x, x], mask=[m, m]), dot),
    "Attention of sums": (
        lambda: layers.Attention(use_scale=True, score_mode="concat"),
        (),
        lambda layer, x, m: layer([x, x], use_causal_mask=True),
        of_sums,
    ),
    "AdditiveAttention": (
        layers.AdditiveAttention,
        (),
        lambda layer, x, m: layer([x, x], mask=[m, m]),
        additive,
    ),
}
"""For each layer: what makes it, with which sizes, how it is called, and its changed pass."""

NAMES = [*(name for name, *_ in SPELLINGS), *LAYERS]

TOKENS = np.random.default_rng(0).normal(size=(2, 3, 4))
PADDING = np.array([[True, True, False], [True, True, True]])

DATA = {"x": np.tile(TOKENS, (len(NAMES), 1, 1)), "m": np.tile(PADDING, (len(NAMES), 1))}
"""Two samples for each output, so that one backward walk explains all of them."""

OUTPUTS = np.repeat(np.arange(len(NAMES)), 2)


def one_output_each():
    """The model, and its changed pass."""
    x, m = keras.Input((3, 4), name="x"), keras.Input((3,), dtype="bool", name="m")
    spelt = Spelt()
    made = [(make(*sizes), call, form) for make, sizes, call, form in LAYERS.values()]
    sums = [ops.sum(ops.reshape(call(layer, x, m), (-1, 12)), axis=1, keepdims=True) for layer, call, _ in made]
    model = randomized(keras.Model({"x": x, "m": m}, ops.concatenate([spelt(x, m), *sums], axis=1)))

    def changed(x, m, attention):
        each = [tf.reshape(form(layer, x, m, attention), (-1, 12)) for layer, _, form in made]
        sums = [tf.reduce_sum(t, axis=1, keepdims=True) for t in each]
        return tf.concat([spelt.changed(x, m, attention), *sums], axis=1)

    return model, changed


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The model in memory and exported, and its changed pass."""
    with precision("float64"):
        model, changed = one_output_each()
        path = str(tmp_path_factory.mktemp("attention") / "model")
        model.export(path, verbose=False)
        return model, revgraph.load_model(path), changed


@pytest.fixture(scope="module", params=["cp", "attnlrp"])
def explained_outputs(request, network):
    """The relevance, what it should be, the ledger, the analyzer, and the kind of attention."""
    with precision("float64"):
        model, _, changed = network
        analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(TINY), attention=request.param)
        found = analyzer.record(DATA).analyze(OUTPUTS)["x"]
        x, m = tf.constant(DATA["x"]), tf.constant(DATA["m"])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = changed(x, m, request.param)
            selected = tf.gather(y, OUTPUTS, batch_dims=1)
        np.testing.assert_allclose(model(DATA), y, rtol=1e-6, atol=1e-7)
        expected = (x * tape.gradient(selected, x)).numpy()
        ledger = analyzer.conservation(DATA, OUTPUTS)
    return found, expected, ledger, analyzer, request.param


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_attention_is_input_times_the_gradient_of_the_changed_pass(explained_outputs, index):
    """Keras computes the scale of scores in float32."""
    found, expected, ledger, *_ = explained_outputs
    own = index == OUTPUTS
    np.testing.assert_allclose(found[own], expected[own], rtol=1e-6, atol=1e-7 * np.abs(expected[own]).max())
    assert np.all(np.abs(ledger.other[own]) <= 1e-9 * ledger.magnitude[own])


def test_only_attnlrp_goes_through_the_softmax(explained_outputs):
    *_, ledger, _, attention = explained_outputs
    assert np.all(ledger.softmax != 0) if attention == "attnlrp" else np.all(ledger.softmax == 0)


def test_every_spelling_is_one_site(explained_outputs):
    *_, analyzer, _ = explained_outputs
    names = [b.site.operation.name for b in analyzer.bound if isinstance(b.site.operation, Activation)]
    assert sorted(set(names)) == ["softmax", "tanh"] and names.count("softmax") == len(NAMES)


def test_exported_attention_is_that_in_memory(explained_outputs, network):
    found, *_, attention = explained_outputs
    analyzer = revgraph.create_analyzer("lrp", network[1], rule=rules.Epsilon(TINY), attention=attention)
    again = analyzer.record(DATA).analyze(OUTPUTS)["x"]
    np.testing.assert_allclose(again, found, rtol=1e-9, atol=1e-11 * np.abs(found).max())


@pytest.mark.parametrize("explained_outputs", ["attnlrp"], indirect=True)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_other_precisions_come_close(policy, explained_outputs, network):
    """Relevance is computed in float32. The constants of a model are rounded to its precision."""
    found, *_, attention = explained_outputs
    floatx, before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    try:
        model, _ = one_output_each()
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(before)
    model.set_weights(network[0].get_weights())
    analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(1e-9), attention=attention)
    again = analyzer.record(DATA).analyze(OUTPUTS)["x"]
    scale = np.abs(found).max(axis=(1, 2), keepdims=True)
    error = dict(zip(NAMES, (np.abs(again - found) / scale).max(axis=(1, 2))[::2], strict=True))
    assert not {name: e for name, e in error.items() if not e < 3e-3}


def test_scores_without_a_mask_are_never_left_out(rng):
    """Distances may be as large as the numbers of masks."""
    x, head = keras.Input((3,)), layers.Dense(2, use_bias=False)
    model = randomized(keras.Model(x, head(ops.softmax(-1e5 - ops.square(x)))))
    data = rng.normal(size=(2, 3))
    t = tf.constant(data)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = head(tf.nn.softmax(-1e5 - t * stop(t)))[:, 1]
    expected = data * tape.gradient(y, t).numpy()
    np.testing.assert_allclose(explained(model, data, "attnlrp")[0], expected, rtol=1e-9)


def test_masks_and_mixed_weights_of_attention_are_no_signals(rng):
    """Routing by one-hot weights, and the difference of two softmaxes. All relevance goes to what they weigh."""
    x, k = keras.Input((3, 4)), 2
    logits = layers.Dense(3)(x)
    best, which = ops.top_k(ops.softmax(logits), k)
    best = best / ops.sum(best, axis=-1, keepdims=True)
    routed = ops.sum(ops.one_hot(which, 3, dtype="float64") * best[..., None], axis=-2)
    experts = [layers.Dense(4, use_bias=False) for _ in range(3)]
    h = ops.einsum("bted,bte->btd", ops.stack([expert(x) for expert in experts], axis=2), routed)
    other = layers.Dense(3)(x)
    v = layers.Dense(4, use_bias=False)(h)
    y = ops.matmul(ops.softmax(logits) - 0.3 * ops.softmax(other), v)
    model = randomized(keras.Model(x, layers.Dense(2, use_bias=False)(layers.Flatten()(y))))
    found, ledger = explained(model, rng.normal(size=(2, 3, 4)), "cp")
    assert np.all(np.abs(ledger.other) <= 1e-9 * ledger.magnitude) and not ledger.softmax.any()
    np.testing.assert_allclose(found.sum((1, 2)), ledger.start, rtol=1e-9)
