"""The speed layer changes nothing: every tactic against the formula as it is written, in float64."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.canonize import canonize
from revgraph.composites import ANY, Composite, everywhere
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse_rules import AlphaBeta, Epsilon, Flat, Gamma, Part, Rule, Term, ZBox, ZPlus, neg, on, pos
from tests.fast.tools import ARGUMENTS, NAMES, literally, same, small
from tests.models import inputs_of, make


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_formula_as_written(name, model, rng):
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    x = rng.normal(size=(3, 8, 8, 3))
    fast = analyzer.analyze(x, 2)
    assert (np.abs(fast).max(axis=(1, 2, 3)) > 0).all()
    plain = literally(analyzer, x, neuron_selection=2)
    same(fast, plain)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.z_plus", "lrp.gamma", "lrp.alpha_2_beta_1"])
@pytest.mark.parametrize(
    "function",
    [
        lambda h: layers.Add()([h, h]),
        lambda h: layers.Average()([h, layers.ReLU()(h), h]),
        lambda h: layers.LayerNormalization()(layers.ReLU()(h)),
        lambda h: layers.Add()([layers.Dense(6)(layers.ReLU()(layers.Dense(4)(h))), h]),
    ],
    ids=["twice", "twice and rectified", "normalized", "residual"],
)
def test_equal_to_the_formula_as_written_on_small_models(function, name, float64, rng):
    model, x = small(rng, function)
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    fast = analyzer.analyze(x, 1)
    several = analyzer.analyze(x, [[1, 2]] * 3)
    plain = literally(analyzer, x, neuron_selection=1)
    same(fast, plain)
    same(several[:, 0], plain)


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "shared", "subclassed", "operators"])
@pytest.mark.parametrize("rule", [Epsilon(), ZPlus(), AlphaBeta(2, 1), Gamma(0.5), Flat()], ids=str)
def test_equal_to_the_formula_as_written_without_compiling(name, rule, float64):
    model = make(name)
    graph = canonize(model)

    def relevance(fast):
        walk = ReverseGraph(graph, everywhere(rule).bind(graph), fast=fast)
        forward = walk.forward(keras.tree.flatten(inputs_of(model)))
        arrived = walk.relevance(forward, {slot: forward.values[slot] for slot in graph.output_slots})
        return [arrived[slot] for slot in graph.input_slots]

    for found, expected in zip(relevance(fast=True), relevance(fast=False), strict=True):
        same(found, expected)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", NAMES)
def test_several_targets_equal_one_by_one(name, model, rng):
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    x = rng.normal(size=(3, 8, 8, 3))
    one_by_one = np.stack([analyzer.analyze(x, target) for target in (2, 0)], axis=1)
    together = analyzer.analyze(x, [[2, 0]] * 3)
    same(together, one_by_one)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rule", [AlphaBeta(2, 1), Gamma(0.5), ZBox(-3, 2)], ids=lambda rule: type(rule).__name__)
def test_rules_on_images(rule, data_format, float64, rng):
    shape = (9, 9, 3) if data_format == "channels_last" else (3, 9, 9)
    kind = {"data_format": data_format, "bias_initializer": "random_normal"}
    x = keras.Input(shape)
    convolved = layers.Conv2D(4, 3, strides=2, padding="same", **kind)(x)
    grouped = layers.Conv2D(3, 5, groups=3, **kind)(x)
    model = keras.Model(x, layers.Dense(2)(layers.Concatenate()([layers.Flatten()(t) for t in (convolved, grouped)])))
    analyzer = revgraph.create_analyzer("lrp", model, rule=Composite((ANY, rule)), max_growth=np.inf)
    images = rng.uniform(-3, 2, size=(3, *shape))
    plain = literally(analyzer, images, neuron_selection=1)
    for options in ({}, {"freeze": True}):
        fast = revgraph.create_analyzer("lrp", model, rule=Composite((ANY, rule)), max_growth=np.inf, **options)
        same(fast.analyze(images, 1), plain)


@dataclasses.dataclass(frozen=True)
class Halves(Rule):
    """z^+ and z^- as terms of the input as it is."""

    def parts(self):
        return (Part((Term(weights=on(pos)), Term(weights=on(neg, bias=False)))),)


@dataclasses.dataclass(frozen=True)
class Negated(Rule):
    """The negative of z."""

    def parts(self):
        return (Part((Term(sign=-1.0),)),)


@pytest.mark.parametrize("rule", [Halves(), Negated()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("positive", [False, True])
def test_rules_of_ones_own_on_images(rule, positive, float64, rng):
    """Terms of the same tensor have a share each; in front of a ReLU the sign of z is known, also of -z."""
    x = keras.Input((6, 6, 3))
    h = layers.ReLU()(x) if positive else x
    h = layers.ReLU()(layers.Conv2D(4, 3, bias_initializer="random_normal", name="seen")(h))
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Flatten()(h)))
    rules = Composite(("seen", rule), ("out", Epsilon()))
    analyzer = revgraph.create_analyzer("lrp", model, rule=rules, max_growth=np.inf)
    images = rng.normal(size=(3, 6, 6, 3))
    alone, several = analyzer.analyze(images, 1), analyzer.analyze(images, [[1, 0]] * 3)[:, 0]
    recorded = analyzer.record(images).analyze(1)
    plain = literally(analyzer, images, neuron_selection=1)
    for found in alone, several, recorded:
        same(found, plain)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("freeze", "lrp.alpha_2_beta_1"),
        ("freeze", "lrp.gamma"),
        ("jit_compile", "lrp.epsilon"),
        ("jit_compile", "lrp.gamma"),
    ],
)
def test_options_change_nothing(option, name, model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    usual = revgraph.create_analyzer(name, model, max_growth=np.inf).analyze(x, 2)
    optional = revgraph.create_analyzer(name, model, max_growth=np.inf, **{option: True}).analyze(x, 2)
    same(optional, usual)


def test_frozen_weights_stay_as_they_were(model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    frozen = revgraph.create_analyzer("lrp.z_plus", model, freeze=True)
    live = revgraph.create_analyzer("lrp.z_plus", model)
    before = frozen.analyze(x, 2)
    model.set_weights([0.9 * w for w in model.get_weights()])
    np.testing.assert_array_equal(frozen.analyze(x, 2), before)
    assert np.abs(live.analyze(x, 2) - before).max() > 1e-3 * np.abs(before).max()


@pytest.mark.parametrize("name", ["lrp.alpha_2_beta_1", "lrp.gamma"])
def test_the_same_bit_for_bit_each_time(name, model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    first = analyzer.analyze(x)
    for _ in range(100):
        np.testing.assert_array_equal(analyzer.analyze(x), first)


IN_FLOAT32 = """
import keras, numpy as np, tensorflow as tf
from keras import layers
import revgraph
from revgraph.reverse_rules.terms import Signed
from tests.fast.tools import ARGUMENTS, literally

keras.utils.set_random_seed(0)
inputs = keras.Input((8, 8, 1))
h = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
h = r = layers.ReLU()(layers.BatchNormalization()(h))
h = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(h))
h = layers.AveragePooling2D(2)(layers.ReLU()(layers.Add()([h, r])))
h = layers.Flatten()(layers.Conv2D(32, 3, padding="same", activation="relu")(h))
model = keras.Model(inputs, layers.Dense(10)(h))
x = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
for name in ("lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.z_plus", "lrp.epsilon_gamma_box"):
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    fast = analyzer.analyze(x)
    plain = literally(analyzer, x)
    several = analyzer.analyze(x, [[0, 1]] * 16)[:, 1]
    for kind, found, expected in ("one", fast, plain), ("several", several, analyzer.analyze(x, 1)):
        apart = np.abs(found - expected).max(axis=(1, 2, 3)) / np.abs(expected).max(axis=(1, 2, 3))
        print(f"{name},{kind}", np.median(apart), flush=True)
w = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
for p, n in ((1.25, 1.0), (1.0, 1.25), (1.0, 0.5), (0.5, 1.0), (1.0, -0.5), (2.0, 0.0), (-1.0, 1.0), (0.0, 2.0)):
    found = tf.function(lambda t: 1.5 * Signed(p, n)(t))(tf.constant(w))
    print(f"Signed({p},{n})", np.abs(found - 1.5 * np.where(w >= 0, p * w, n * w)).max(), flush=True)
"""


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_in_float32_with_and_without_onednn(onednn):
    """What TensorFlow's optimizer makes of a graph depends on the precision, and on the library of its kernels.

    It takes the maximum of a kernel and 1.25 times it for a leaky ReLU. Single samples may differ more than the median:
    where a sum crosses zero its sign is rounding.
    """
    root = Path(__file__).parent.parent.parent
    settings = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(root)}
    ran = subprocess.run([sys.executable, "-c", IN_FLOAT32], env=settings, capture_output=True, text=True, cwd=root)
    apart = dict(line.split() for line in ran.stdout.splitlines())
    assert len(apart) == 18, ran.stderr
    assert all(float(a) < 1e-5 for a in apart.values()), apart
