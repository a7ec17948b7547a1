"""What can be explained exported can be explained in memory, with the same numbers, whatever the model is made of."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import revgraph
from revgraph import NotAnalyzeableModelException, create_analyzer
from tests.models import randomized

pytestmark = pytest.mark.filterwarnings(
    "ignore:The output of",
    "ignore:Relevance",
    "ignore:.*retracing",
    "ignore:Layer .*mask",
    "ignore:The model in .* draws",
)

METHODS = ("lrp.epsilon", "lrp.alpha_1_beta_0", "input_t_gradient")


class Plain(L.Layer):
    """TensorFlow's own functions on a weight."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")

    def call(self, x):
        return tf.nn.relu(tf.einsum("...i,ij->...j", x, tf.convert_to_tensor(self.w)) + 0.1)


class Block(L.Layer):
    """Layers in a layer, one of them called twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two, self.norm = L.Dense(5, activation="gelu"), L.Dense(5), L.LayerNormalization()

    def build(self, shape):
        self.one.build(shape)
        self.two.build((*shape[:-1], 5))
        self.norm.build((*shape[:-1], 5))

    def call(self, x):
        h = self.one(x)
        return self.norm(h + self.two(self.two(h)))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)


class ClassToken(L.Layer):
    """A learned token in front of the others, for a batch of any size."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)


class Positions(L.Layer):
    """A table that is looked up at positions made of the number of steps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = L.Embedding(9, 3)

    def call(self, x):
        return x + self.table(ops.arange(ops.shape(x)[1]))


class Pieces(L.Layer):
    """Takes and returns a dict."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = L.Dense(4), L.Dense(4)

    def call(self, parts):
        return {"sum": self.left(parts["a"]) + self.right(parts["b"]), "a": parts["a"]}


class Python(L.Layer):
    """Python that depends on shapes."""

    def call(self, x):
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = ops.tanh(h * 0.5 + x[:, t])
        return h


class Decorated(L.Layer):
    """A `call` that TensorFlow compiles."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    @tf.function
    def call(self, x):
        return tf.nn.relu(self.dense(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def attention(make, **options):
    return lambda x: make()(x, x, **options)


def image_patches(x):
    """The first steps of a vision transformer."""
    h = L.Reshape((4, 3))(L.Conv2D(3, 2, strides=2)(L.Reshape((4, 4, 1))(L.Dense(16)(L.Flatten()(x)))))
    return Positions()(ClassToken()(h))


def nested(x):
    inner = keras.Sequential([keras.Input((4, 3)), L.Dense(3, activation="relu"), Block()])
    return L.Concatenate()([inner(x), inner(ops.flip(x, axis=1))])


def dicts(x):
    parts = Pieces()({"a": x, "b": ops.flip(x, axis=1)})
    return ops.concatenate([parts["sum"], parts["a"]], axis=-1)


MODELS = {
    "tf functions": lambda x: Plain()(x),
    "own layers": lambda x: Block()(x),
    "nested and shared": nested,
    "dicts": dicts,
    "class token": lambda x: ClassToken()(x),
    "positions": lambda x: Positions()(x),
    "vision transformer": image_patches,
    "python on shapes": lambda x: Python()(x),
    "tf.function": lambda x: Decorated()(x),
    "Lambda": lambda x: L.Lambda(lambda t: tf.nn.relu(t) * 2.0, output_shape=lambda s: s)(x),
    "MultiHeadAttention": attention(lambda: L.MultiHeadAttention(2, 3)),
    "MultiHeadAttention, causal": attention(lambda: L.MultiHeadAttention(2, 3), use_causal_mask=True),
    "MultiHeadAttention, mask": lambda x: L.MultiHeadAttention(2, 3)(
        x, x, attention_mask=ops.ones_like(x[:, :1, :1]) > 0
    ),
    "GroupQueryAttention": attention(lambda: L.GroupQueryAttention(3, 4, 2)),
    "Attention": lambda x: L.Attention()([x, ops.flip(x, axis=1)]),
    "Attention, scale": lambda x: L.Attention(use_scale=True)([x, x]),
    "Attention, concat": lambda x: L.Attention(score_mode="concat")([x, x]),
    "AdditiveAttention": lambda x: L.AdditiveAttention()([x, x]),
    "dot_product_attention": lambda x: ops.reshape(
        ops.dot_product_attention(x[:, :, None], x[:, :, None], x[:, :, None]), (-1, 4, 3)
    ),
    "LSTM, unrolled": lambda x: L.LSTM(3, unroll=True)(x),
    "GRU, unrolled": lambda x: L.GRU(3, unroll=True, return_sequences=True)(x),
    "SimpleRNN, unrolled": lambda x: L.SimpleRNN(3, unroll=True)(x),
    "Bidirectional, unrolled": lambda x: L.Bidirectional(L.LSTM(2, unroll=True))(x),
    "LSTM": lambda x: L.LSTM(3)(x),
    "GRU": lambda x: L.GRU(3, return_sequences=True, go_backwards=True)(x),
    "SimpleRNN": lambda x: L.SimpleRNN(3)(x),
    "Bidirectional": lambda x: L.Bidirectional(L.GRU(2, return_sequences=True), merge_mode="sum")(x),
    "ConvLSTM1D": lambda x: L.ConvLSTM1D(2, 2, padding="same")(x[:, :, :, None]),
    "stacked cells": lambda x: L.RNN([L.LSTMCell(2), L.GRUCell(3)])(x),
    "TimeDistributed": lambda x: L.TimeDistributed(Block())(x),
    "SpectralNormalization": lambda x: L.SpectralNormalization(L.Dense(3))(x),
    "GroupNormalization": lambda x: L.GroupNormalization(groups=3)(x),
    "RMSNormalization": lambda x: L.RMSNormalization()(x),
    "UnitNormalization": lambda x: L.UnitNormalization()(x),
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "glu": lambda x: ops.glu(ops.concatenate([x, ops.flip(x, 2)], 2)),
    "std": lambda x: ops.concatenate([x, ops.std(x, axis=-1, keepdims=True)], axis=-1),
    "fft": lambda x: ops.fft((x, ops.flip(x, axis=1)))[0],
    "cumprod": lambda x: ops.cumprod(x, axis=1),
    "scan": lambda x: ops.transpose(
        ops.scan(lambda c, t: (c + t, c * 0.5 + t), ops.zeros_like(x[:, 0]), ops.transpose(x, (1, 0, 2)))[1], (1, 0, 2)
    ),
    "map": lambda x: ops.transpose(ops.map(lambda t: ops.relu(t - 0.1), ops.transpose(x, (1, 0, 2))), (1, 0, 2)),
    "slice_update": lambda x: ops.slice_update(x, (0, 1, 0), ops.relu(x[:, :2])),
    "scatter_update": lambda x: ops.transpose(
        ops.scatter_update(ops.transpose(x, (1, 0, 2)), [[0]], ops.transpose(ops.relu(x[:, 1:2]), (1, 0, 2))), (1, 0, 2)
    ),
    "top_k": lambda x: ops.top_k(x, 2)[0],
    "einsum": lambda x: ops.einsum("bij,bkj->bik", x, x),
    "image": lambda x: ops.image.resize(x[..., None], (3, 2))[..., 0],
    "where and masks": lambda x: ops.where(x > 0.1, x, ops.minimum(x, -0.2)),
    "squeeze and excite": lambda x: x * ops.sigmoid(L.Dense(3)(ops.mean(x, axis=1, keepdims=True))),
    "mixture of experts": lambda x: ops.sum(
        ops.stack([L.Dense(3)(x), L.Dense(3)(x)], -1) * ops.softmax(L.Dense(2)(x))[..., None, :], -1
    ),
}
"""What stands between a dense layer on tensors of shape (None, 4, 3) and the head."""


def network(function, **options):
    x = keras.Input((4, 3), name="x")
    h = L.Dense(3, name="first")(x)
    return randomized(keras.Model(x, L.Dense(2, name="last")(L.Flatten()(function(h)))))


def answer(method, model, x):
    """The relevance; None where the method refuses the model."""
    try:
        # A recorded pass is not compiled, which takes less time for one question.
        return create_analyzer(method, model, max_growth=np.inf).record(x).analyze(1)
    except NotAnalyzeableModelException:
        return None


def gradient(model, x, index=1):
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(x)
        tape.watch(x)
        y = model(x)[:, index]
    return tape.gradient(y, x).numpy()


def compare(model, path, x, tolerance, methods=METHODS, has_gradient=True):
    """In memory, exported, and the model's own gradient."""
    model.export(path)
    exported = revgraph.load_model(path)
    np.testing.assert_allclose(revgraph.read.trace(model)(x), model(x), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(exported(x), model(x), rtol=tolerance, atol=tolerance)
    supported = []
    for method in methods:
        ours, theirs = (answer(method, m, x) for m in (model, exported))
        assert (ours is None) == (theirs is None), (
            f"{method}: in memory {ours is not None}, exported {theirs is not None}"
        )
        if ours is not None:
            scale = max(np.abs(theirs).max(), 1e-6)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=10 * tolerance * scale, err_msg=method)
            supported.append(method)
    assert "input_t_gradient" in supported
    if has_gradient:
        expected = x * gradient(model, x)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=10 * tolerance * max(np.abs(expected).max(), 1e-6))
    return supported


REFUSED = {"cumprod"}
"""What has no rules yet."""


NO_GRADIENT = {"slice_update"}
"""What TensorFlow itself has no gradient of."""


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", MODELS)
def test_in_memory_as_exported(name, tmp_path, rng):
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    supported = compare(network(MODELS[name]), tmp_path / "model", x, 1e-5, has_gradient=name not in NO_GRADIENT)
    assert supported == (["input_t_gradient"] if name in REFUSED else list(METHODS))


FLOAT32_ONLY = {"image"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in REFUSED)) for name in MODELS if name not in FLOAT32_ONLY],
)
@pytest.mark.usefixtures("float64")
def test_in_memory_as_exported_in_float64(name, tmp_path, rng):
    x = rng.normal(size=(2, 4, 3))
    compare(network(MODELS[name]), tmp_path / "model", x, 1e-10, has_gradient=name not in NO_GRADIENT)


@pytest.mark.parametrize("form", ["in memory", "exported"])
def test_the_ledger_of_a_float32_model_is_in_float64(form, tmp_path, rng):
    model, x = network(MODELS["own layers"]), rng.normal(size=(2, 4, 3)).astype("float32")
    model.export(tmp_path / "model")
    graph = revgraph.read.trace(model) if form == "in memory" else revgraph.load_model(tmp_path / "model")
    precise = revgraph.read.trace(graph, dtype="float64")
    assert (graph.dtype, precise.dtype, precise(x).dtype) == ("float32", "float64", tf.float64)
    np.testing.assert_allclose(precise(x), graph(x), rtol=1e-4, atol=1e-5)
    report = create_analyzer("lrp.epsilon", graph).conservation(x, 1)
    assert np.abs(report.other).max() < 1e-12
