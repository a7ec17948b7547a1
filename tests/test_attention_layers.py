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
    "added": lambda s, m: ops.softmax(s + -1e9 * (1 - ops.cast(m, s.dtype))[:, None]),
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


NUMBER = len(SPELLINGS)

TOKENS = np.random.default_rng(0).normal(size=(2, 3, 4))
PADDING = np.array([[True, True, False], [True, True, True]])

DATA = [np.tile(TOKENS, (NUMBER, 1, 1)), np.tile(PADDING, (NUMBER, 1))]
"""Two samples for each spelling, so that one backward walk explains all of them."""

OUTPUTS = np.repeat(np.arange(NUMBER), 2)


def spelt_out():
    x, m = keras.Input((3, 4), name="x"), keras.Input((3,), dtype="bool", name="m")
    layer = Spelt()
    return randomized(keras.Model([x, m], layer(x, m))), layer


@pytest.fixture(scope="module", params=["cp", "attnlrp"])
def spellings(request):
    """The relevance under every spelling, what it should be, the ledger, the graph, and the kind of attention."""
    with precision("float64"):
        model, layer = spelt_out()
        analyzer = revgraph.create_analyzer("lrp", model, rule=rules.Epsilon(TINY), attention=request.param)
        found, _ = analyzer.record(DATA).analyze(OUTPUTS)
        x, m = map(tf.constant, DATA)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer.changed(x, m, request.param)
            selected = tf.gather(y, OUTPUTS, batch_dims=1)
        np.testing.assert_allclose(model(DATA), y, rtol=1e-6)
        expected = (x * tape.gradient(selected, x)).numpy()
        ledger = analyzer.conservation(DATA, OUTPUTS)
    return found, expected, ledger, analyzer, request.param


@pytest.mark.parametrize("index", range(NUMBER), ids=[name for name, *_ in SPELLINGS])
def test_every_spelling_of_softmax_is_input_times_the_gradient_of_the_changed_pass(spellings, index):
    found, expected, ledger, *_ = spellings
    own = index == OUTPUTS
    atol = 1e-9 * np.abs(expected[own]).max()
    np.testing.assert_allclose(found[own], expected[own], rtol=1e-8, atol=atol)
    assert np.all(np.abs(ledger.other[own]) <= 1e-9 * ledger.magnitude[own])


def test_only_attnlrp_goes_through_the_softmax(spellings):
    *_, ledger, _, attention = spellings
    assert np.all(ledger.softmax != 0) if attention == "attnlrp" else np.all(ledger.softmax == 0)


def test_every_spelling_is_one_site(spellings):
    *_, analyzer, _ = spellings
    names = [b.site.operation.name for b in analyzer.bound if isinstance(b.site.operation, Activation)]
    assert sorted(set(names)) == ["softmax", "tanh"] and names.count("softmax") == NUMBER


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
