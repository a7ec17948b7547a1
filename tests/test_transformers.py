"""Transformers of well-known families: what their parts do to relevance, and reference numbers of another library."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import rules
from revgraph.composites import vit
from tests import transformers
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

TINY = 1e-30
"""A stabiliser that changes nothing."""


class Code(layers.Layer):
    """A layer whose `call` is a function."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, shape):
        return shape


def places(x):
    """The positions 1, 2, ... of (batch, positions, features), whose number is not known before."""
    return ops.arange(1, 1 + ops.shape(x)[1], dtype=x.dtype)


CONSTANT_FACTORS = {
    "positions": lambda x: x * ops.cos(places(x))[:, None],
    "positions of the shape of the signal": lambda x: x * (places(x)[:, None] + ops.zeros_like(x)),
    "a mask": lambda x: x * ops.cast(ops.max(x, axis=-1, keepdims=True) > 0, x.dtype),
    "signs": lambda x: x * ops.sign(x),
    "a matrix of positions": lambda x: ops.matmul(ops.cos(places(x)[:, None] * places(x)), x),
}


@pytest.mark.parametrize("name", CONSTANT_FACTORS)
@pytest.mark.parametrize("method", ["lrp.attnlrp", "lrp.cp"])
def test_a_factor_that_is_constant_gets_nothing(name, method, rng):
    x = keras.Input((None, 4))
    model = keras.Model(x, layers.GlobalAveragePooling1D()(Code(CONSTANT_FACTORS[name])(x)))
    data = rng.normal(size=(2, 3, 4))
    found = revgraph.create_analyzer(method, model, epsilon=TINY).record(data).analyze(1)
    t = tf.constant(data)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = model(t)[:, 1]
    np.testing.assert_allclose(found, data * tape.gradient(y, t), rtol=1e-9, atol=1e-12)


def mean_square(x):
    return ops.mean(ops.square(x), axis=-1, keepdims=True)


RMS_NORMS = {
    "rsqrt": lambda x: x * ops.rsqrt(mean_square(x) + 1e-6),
    "power": lambda x: x * ops.power(ops.mean(ops.power(x, 2), axis=-1, keepdims=True) + 1e-6, -0.5),
    "reciprocal": lambda x: x * ops.reciprocal(ops.sqrt(mean_square(x) + 1e-6)),
    "number over root": lambda x: (2.0 / ops.sqrt(mean_square(x) + 1e-6)) * x,
    "divided": lambda x: x / ops.sqrt(mean_square(x) + 1e-6),
    "epsilon behind the root": lambda x: x * (1.0 / (ops.sqrt(mean_square(x)) + 1e-6)),
    "another power": lambda x: x * ops.power(ops.mean(x**4, axis=-1, keepdims=True) + 1e-6, -0.25),
    "absolute values": lambda x: x * ops.reciprocal(ops.mean(ops.abs(x), axis=-1, keepdims=True)),
    "of another tensor": lambda x: x * ops.rsqrt(mean_square(ops.tanh(x)) + 1e-6),
}


@pytest.mark.parametrize("name", RMS_NORMS)
@pytest.mark.parametrize("method", ["lrp.attnlrp", "lrp.cp"])
def test_divisors_get_nothing_however_they_are_written(name, method, rng):
    x = keras.Input((3, 4))
    model = keras.Model(x, Code(RMS_NORMS[name])(x))
    data, start = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    found = revgraph.create_analyzer(method, model, epsilon=TINY).record(data).analyze(initial_relevance=start)
    np.testing.assert_allclose(found, start, rtol=1e-12)


def test_the_preset_for_vision_transformers_without_gamma_is_cp(rng):
    """Positions, normalizations and biases get their share under both."""
    sizes = {"image": 8, "patch": 4, "width": 8, "inner": 12, "heads": 2, "blocks": 1, "classes": 3}
    model, x = transformers.vit(transformers.Numbers(), **sizes), rng.normal(size=(1, 8, 8, 3))
    found = revgraph.create_analyzer("lrp", model, rule=vit(TINY, gamma=0, patch_gamma=0)).record(x).analyze(1)
    expected = revgraph.create_analyzer("lrp.cp", model, epsilon=TINY).record(x).analyze(1)
    # The stabiliser of gamma is 1e-7.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


SMALL = {"vocabulary": 7, "width": 8, "heads": 2, "blocks": 2}
LLM = {**SMALL, "inner": 6}
IDS = np.int32([[3, 1, 4, 5]])
TEXT = [IDS, np.int32([[0, 0, 1, 1]]), np.int32([[1, 1, 1, 0]])]
IMAGE = np.sin(1 + 0.7 * np.arange(192)).reshape(1, 8, 8, 3)
VIT = {"image": 8, "patch": 4, "width": 8, "inner": 12, "heads": 2, "blocks": 2, "classes": 3}

FAMILIES = {
    "llama": (lambda w: transformers.llama(w, 4, **{**LLM, "heads": 4}, kv_heads=2), IDS),
    "gemma": (
        lambda w: transformers.llama(w, 4, **LLM, kv_heads=1, size=4, gemma=True, tied=True, window=2, epsilon=1e-6),
        IDS,
    ),
    "gpt2": (lambda w: transformers.gpt2(w, 4, **SMALL), IDS),
    "bert": (lambda w: transformers.bert(w, 4, **SMALL, inner=12, classes=3), TEXT),
    "vit": (lambda w: transformers.vit(w, **VIT), IMAGE),
}
"""Small models as functions of their weights, and what is explained."""

LXT = {
    ("llama", "attnlrp"): {
        "tokens": [-0.028024051, 0.00065160546, 0.10436492, -0.25639761],
        "block0": [0.058363252, 0.0192265, 5.588818e-05, -0.31079811],
    },
    ("llama", "cp"): {
        "tokens": [-0.05347158, -0.0027701375, 0.15862671, -0.27147142],
        "block0": [0.10659035, 0.041610711, -0.0013921286, -0.31589539],
    },
    ("gemma", "attnlrp"): {
        "tokens": [0.0, -0.24240507, 6.0127721, -3.2272909],
        "block0": [0.0, 0.0, 0.56345749, 5.3512307],
    },
    ("gemma", "cp"): {
        "tokens": [0.0, -1.0607251, 10.89451, -3.1977877],
        "block0": [0.0, 0.0, 1.1126285, 5.5233698],
    },
    ("gpt2", "attnlrp"): {
        "tokens": [9.3263947e-05, 5.3423709e-05, 0.0032383638, 0.0022861964],
        "positions": [0.00018807203, -0.0029800039, -0.0049045398, -0.019182467],
        "block0": [-0.00055445176, -0.00015560367, -6.2348478e-05, 0.013997714],
    },
    ("gpt2", "cp"): {
        "tokens": [0.00063836077, -0.00020147538, 0.0064804364, 0.0039429339],
        "positions": [0.00010930158, -0.0044854094, -0.0098450178, -0.02359567],
        "block0": [-0.0011720187, -0.00030827938, -0.00011952472, 0.013984967],
    },
    ("bert", "attnlrp"): {
        "tokens": [-0.016990585, -0.036374819, 0.10844867, 0.0],
        "positions": [0.019739824, -0.064800222, -0.079988613, 0.0],
        "block0": [-0.011219024, -0.018607234, 0.0095042627, 0.0],
    },
    ("vit", "cp"): {
        "patches": [0.0037437421, -0.0027552301, 0.00088355523, 0.0021879977],
        "block0": [-0.2711363, 0.017233746, 0.0010080094, 0.0073711366, 0.019542938],
    },
    ("vit", "gamma"): {
        "patches": [0.0058830433, -0.0011794657, 0.00062262385, 0.0069131381],
        "block0": [-0.24810203, 0.01614594, 0.00094648842, 0.0069080704, 0.018304135],
    },
}
"""What LXT 2.1 gives with transformers 4.52.4 and torchvision 0.28 for the same weights, summed over features.

It is the relevance of logit 1, for language models that of logit 1 less logit 2 of the last token. LXT computes RMSNorm
in float32.
"""

ANALYZERS = {"attnlrp": "lrp.attnlrp", "cp": "lrp.cp", "gamma": "lrp.vit"}


@pytest.mark.parametrize(("family", "mode"), LXT)
def test_relevance_is_that_of_lxt(family, mode):
    make, x = FAMILIES[family]
    expected, model = dict(LXT[family, mode]), make(transformers.Numbers())
    inner = [name for name in expected if name in ("positions", "block0")]
    last = (lambda y: y[:, 1]) if family in ("bert", "vit") else (lambda y: y[:, -1, 1] - y[:, -1, 2])
    analyzer = revgraph.create_analyzer(ANALYZERS[mode], model, epsilon=1e-12)
    of_input, found = analyzer.analyze(x, last, return_layers=inner, layers_at="output")
    of_input = of_input[0] if isinstance(of_input, list) else of_input
    found = {name: r[0].sum(axis=-1) for name, r in found.items()}
    found["tokens"] = of_input[0]
    found["patches"] = of_input.reshape(2, 4, -1, 12).sum(axis=(1, 3)).ravel() if family == "vit" else None
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=2e-5, atol=2e-5 * np.abs(numbers).max(), err_msg=name)


@pytest.mark.parametrize("length", [3, None])
def test_a_table_that_is_added_has_relevance_of_its_own(length, rng, tmp_path):
    """It is the same whether the number of positions is known before, and whether the model was exported."""
    x = keras.Input((length, 4))
    table = layers.Embedding(3, 4)
    h = x + transformers.Positions(table, name="positions")(x)
    model = randomized(keras.Model(x, layers.Dense(2, use_bias=False)(layers.GlobalAveragePooling1D()(h))))
    data = rng.normal(size=(2, 3, 4))
    added = np.asarray(table.embeddings)
    for rule in (rules.Epsilon(TINY), rules.ZPlus()):
        analyzer = revgraph.create_analyzer("lrp", model, rule=rule)
        of_input, found = analyzer.analyze(data, 1, return_layers=["positions"], layers_at="output")
        if length:
            np.testing.assert_allclose(found["positions"] / added, of_input / data, rtol=1e-6)
        ledger = analyzer.conservation(data, 1)
        assert np.all(np.abs(ledger.other) <= 1e-9 * ledger.magnitude) and np.all(ledger.constants != 0)
        model.export(str(tmp_path / "model"), verbose=False)
        again = revgraph.create_analyzer("lrp", revgraph.load_model(str(tmp_path / "model")), rule=rule)
        np.testing.assert_allclose(again.record(data).analyze(1), of_input, rtol=1e-9, atol=1e-12)
