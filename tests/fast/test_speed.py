"""The speed layer changes nothing: every tactic against the formula as it is written, in float64."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.composites import ANY, Composite
from revgraph.fast import memory
from revgraph.fast.signs import where_relevance_arrives
from revgraph.reverse.dangers import growths
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse.walk import Question, Walk
from revgraph.reverse_rules import AlphaBeta, Epsilon, Gamma, Part, Rule, Term, ZBox, ZPlus, neg, on, pos

ARGUMENTS = {
    "lrp.epsilon_gamma_box": {"low": -5, "high": 5},
    "deep_taylor.bounded": {"low": -5, "high": 5},
    "lrp.alpha_2_beta_1_IB": {"convention": "innvestigate"},
    "deep_taylor": {"convention": "innvestigate"},
}
NAMES = (
    "lrp.z lrp.epsilon_IB lrp.gamma lrp.w_square lrp.flat lrp.alpha_2_beta_1 lrp.alpha_2_beta_1_IB lrp.alpha_1_beta_0 "
    "lrp.z_plus lrp.b_rule lrp.sequential_preset_b_flat lrp.epsilon_gamma_box deep_taylor deep_taylor.bounded".split()
)


@pytest.fixture
def model(float64, rng):
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, activation="relu")(x)
    h = r = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(h))
    h = layers.Conv2D(4, 3, padding="same", activation="relu", name="positive")(layers.ReLU()(h))
    h = layers.ReLU()(layers.Add()([layers.Conv2D(4, 3, padding="same", name="summand")(h), r]))
    h = layers.Flatten()(layers.AveragePooling2D(2)(layers.MaxPooling2D(2)(h)))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu")(h)))
    model.set_weights(
        [rng.normal(size=w.shape) if w.ndim > 1 else rng.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    )
    return model


def literally(analyzer, x, **options):
    """What the analyzer gives without the speed layer."""
    question = Question(analyzer.graph.output_slots)
    reverse = analyzer.walk(question).reverse
    literal = ReverseGraph(reverse.graph, reverse.bound, question.starts, fast=False)
    analyzer._walks[question] = Walk(literal, question, analyzer._own_start, analyzer._finish)
    return analyzer.analyze(x, **options)


def used_operations(walk):
    """The operations of a walk's function that have a use."""
    target = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float64))
    specs = walk.input_specs()
    graph = tf.function(lambda x, i: walk._trace_relevance([x], [i])).get_concrete_function(specs[0], target).graph
    outputs = [t.op.name for t in graph.outputs]
    used = {node.name for node in tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), outputs).node}
    return [operation for operation in graph.get_operations() if operation.name in used]


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_formula_as_written(name, model, rng):
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    x = rng.normal(size=(3, 8, 8, 3))
    fast = analyzer.analyze(x, 2)
    assert (np.abs(fast).max(axis=(1, 2, 3)) > 0).all()
    plain = literally(analyzer, x, neuron_selection=2)
    np.testing.assert_allclose(fast, plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


def small(rng, function):
    """A model of a dense layer, a function of its output, and another dense layer; and inputs."""
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(3)(function(layers.Dense(6)(x))))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model, rng.normal(size=(3, 5))


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
    np.testing.assert_allclose(fast, plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())
    np.testing.assert_allclose(several[:, 0], plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


@pytest.mark.parametrize("rule", [ZPlus(), Gamma(0.25)], ids=str)
def test_signs_are_not_taken_for_known_where_a_mean_is_subtracted(rule, float64, rng):
    """z+ of a normalization grows sum |R|, though its input is not negative; z+ and z- are not of one sign there."""
    model, x = small(rng, lambda h: layers.LayerNormalization()(layers.ReLU()(h)))
    analyzer = revgraph.create_analyzer("lrp", model, rule=Composite((ANY, rule)))
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    pullbacks = walk.reverse.forward([tf.constant(x)]).pullbacks
    growths = {site.operation.label: p.growth for site, p in zip(walk.graph.sites, pullbacks, strict=True)}
    assert growths["Normalize"] == np.inf


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.gamma"])
def test_a_forward_walk_can_be_pulled_in_a_loop_and_outside_of_it(name, float64, rng):
    model, x = small(rng, lambda h: layers.Add()([h, layers.Dense(6)(layers.ReLU()(layers.Dense(4)(h)))]))
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    amount = tf.constant([[1.0]] * 3, tf.float64)

    def pulled(forward, target):
        chosen = [(tf.fill([3], target), amount)]
        return walk.pulled(forward, chosen)["relevance"][0]

    @tf.function(autograph=False)
    def both(x):
        forward = walk.reverse.forward([x])
        looped = tf.map_fn(lambda t: pulled(forward, t), tf.constant([2, 1]), fn_output_signature=tf.float64)
        return looped, pulled(forward, tf.constant(1))

    looped, outside = both(tf.constant(x))
    expected = [analyzer.analyze(x, target, initial_relevance=1.0) for target in (2, 1)]
    np.testing.assert_allclose(looped, expected, rtol=1e-10)
    np.testing.assert_allclose(outside, expected[1], rtol=1e-10)


def test_a_modifier_of_inputs_may_lose_their_shape(float64, rng):
    def unshaped(t):
        return tf.py_function(lambda t: t, [t], t.dtype)

    @dataclasses.dataclass(frozen=True)
    class Unshaped(Rule):
        def parts(self):
            return (Part((Term(unshaped, on()),)),)

    model, x = small(rng, layers.ReLU())
    found = revgraph.create_analyzer("lrp", model, rule=Unshaped(), max_growth=np.inf).analyze(x, 1)
    np.testing.assert_allclose(found, revgraph.create_analyzer("lrp", model, rule=Epsilon()).analyze(x, 1), rtol=1e-10)


def ancestors(operation):
    """The operations that come before one, for what they give or because it waits for them."""
    found, waiting = set(), [operation]
    while waiting:
        one = waiting.pop()
        before = {*(t.op for t in one.inputs), *one.control_inputs} - found
        found |= before
        waiting.extend(before)
    return found


def test_sites_that_make_kernels_come_one_after_the_other(float64):
    """Branches do not depend on each other, but their kernels would be in memory at the same time."""
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, activation="relu")(x)
    branches = [layers.ReLU()(layers.Conv2D(4, 3)(h)), layers.Conv2D(4, 3)(h), layers.ReLU()(layers.Conv2D(4, 3)(h))]
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.Add()(branches))))
    analyzer = revgraph.create_analyzer("lrp.z_plus", model)
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    of_branches = [op for op in used_operations(walk) if op.type == "Conv2DBackpropInput"][:3]
    for a, b in itertools.combinations(of_branches, 2):
        assert a in ancestors(b) or b in ancestors(a)


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_equal_one_by_one(name, model, rng):
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    x = rng.normal(size=(3, 8, 8, 3))
    one_by_one = np.stack([analyzer.analyze(x, target) for target in (2, 0)], axis=1)
    together = analyzer.analyze(x, [[2, 0]] * 3)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-10, atol=1e-10 * np.abs(one_by_one).max())


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("lrp.epsilon", (1, 1, 1, 1), (1, 1, 1, 1)),
        ("lrp.z_plus", (3, 2, 2, 2), (2, 1, 1, 1)),
        ("lrp.alpha_2_beta_1", (5, 3, 2, 3), (4, 2, 2, 2)),
        ("lrp.gamma", (3, 2, 2, 2), (2, 2, 1, 2)),
    ],
)
@pytest.mark.parametrize("cheap", [0, memory.CHEAP])
def test_nothing_is_computed_twice(name, forward, backward, cheap, model, monkeypatch):
    """The convolutions of each layer: of an input of both signs, before a sum, before a ReLU, before a sum.

    The summands, which are cheap, are computed again rather than kept.
    """
    monkeypatch.setattr(memory, "CHEAP", cheap)
    analyzer = revgraph.create_analyzer(name, model)
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    kinds = [operation.type for operation in used_operations(walk)]
    again = 2 if cheap else 0
    assert (kinds.count("Conv2D"), kinds.count("Conv2DBackpropInput")) == (sum(forward) + again, sum(backward))


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
        np.testing.assert_allclose(fast.analyze(images, 1), plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


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
        np.testing.assert_allclose(found, plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


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
    np.testing.assert_allclose(optional, usual, rtol=1e-10, atol=1e-10 * np.abs(usual).max())


def test_frozen_weights_stay_as_they_were(model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    frozen = revgraph.create_analyzer("lrp.z_plus", model, freeze=True)
    live = revgraph.create_analyzer("lrp.z_plus", model)
    before = frozen.analyze(x, 2)
    model.set_weights([0.9 * w for w in model.get_weights()])
    np.testing.assert_array_equal(frozen.analyze(x, 2), before)
    assert np.abs(live.analyze(x, 2) - before).max() > 1e-3 * np.abs(before).max()


def test_zeros_of_relevance_are_known_only_behind_a_rectifier(model):
    analyzer = revgraph.create_analyzer("lrp.gamma", model)
    reverse = analyzer.walk(Question(analyzer.graph.output_slots)).reverse
    positive, nonzero = where_relevance_arrives(reverse.graph, reverse.bound, analyzer.graph.output_slots)
    assert "positive" in {s.path for s in positive} and "summand" not in {s.path for s in positive}
    assert "summand" in {s.path for s in nonzero}
    flat = revgraph.create_analyzer("lrp.flat", model)
    reverse = flat.walk(Question(flat.graph.output_slots)).reverse
    positive, nonzero = where_relevance_arrives(reverse.graph, reverse.bound, flat.graph.output_slots)
    assert "positive" not in {s.path for s in positive | nonzero} and "summand" in {s.path for s in nonzero}


@pytest.mark.parametrize("name", ["lrp.alpha_2_beta_1", "lrp.gamma"])
def test_the_same_bit_for_bit_each_time(name, model, rng):
    x = rng.normal(size=(3, 8, 8, 3))
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    first = analyzer.analyze(x)
    for _ in range(100):
        np.testing.assert_array_equal(analyzer.analyze(x), first)


@pytest.mark.parametrize("units", [7, 8])
@pytest.mark.parametrize("name", NAMES)
def test_large_kernels_block_by_block(name, units, float64, rng, monkeypatch):
    x = keras.Input((6, 5))
    h = layers.Dense(units, activation="relu")(layers.Flatten()(layers.Dense(8, activation="relu")(x)))
    h = layers.ReLU()(layers.Add()([layers.Dense(units, name="summand")(layers.Flatten()(layers.ReLU()(x))), h]))
    model = keras.Model(x, layers.Dense(3)(h))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf, **ARGUMENTS.get(name, {}))
    x = rng.uniform(size=(4, 6, 5))
    monkeypatch.setattr(memory, "BLOCK", 16 * units * 8)
    fast = analyzer.analyze(x, 2), analyzer.analyze(x, [[2, 0]] * 4)
    monkeypatch.undo()
    plain = literally(analyzer, x, neuron_selection=2)
    for found in fast[0], fast[1][:, 0]:
        np.testing.assert_allclose(found, plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


@pytest.mark.parametrize("name", ["lrp.z_plus", "lrp.alpha_2_beta_1", "lrp.gamma"])
def test_large_kernels_are_never_modified_as_a_whole(name, float64, monkeypatch):
    """That would take as much memory as the kernel, 400 MB in VGG16."""
    x = keras.Input((48,))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(7, activation="relu")(layers.ReLU()(x))))
    monkeypatch.setattr(memory, "BLOCK", 8 * 7 * 8)
    analyzer = revgraph.create_analyzer(name, model)
    made = [
        operation
        for operation in used_operations(analyzer.walk(Question(analyzer.graph.output_slots)))
        if operation.type not in ("Placeholder", "ReadVariableOp", "Identity")
        and any(tuple(t.shape) == (48, 7) for t in operation.outputs if t.shape.rank == 2)
    ]
    assert not made


@pytest.mark.parametrize("units", [7, 8])
def test_large_kernels_are_modified_two_blocks_at_a_time(units, float64, monkeypatch):
    """Else all blocks would be there at once, which is the kernel as a whole. Rows of 8 float64 are aligned."""
    x = keras.Input((96,))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(units, activation="relu")(layers.ReLU()(x))))
    monkeypatch.setattr(memory, "BLOCK", 16 * units * 8)
    analyzer = revgraph.create_analyzer("lrp.z_plus", model)
    used = used_operations(analyzer.walk(Question(analyzer.graph.output_slots)))
    made = [op for op in used if op.type == "Relu" and tuple(op.outputs[0].shape) == (16, units)]
    assert len(made) == 2 * 6
    for earlier, later in zip(made, made[memory.LANES :], strict=False):
        assert earlier in ancestors(later)


@pytest.mark.parametrize(("large", "turns"), [(600, True), (700, False)])
def test_large_kernels_take_turns(large, turns, float64, monkeypatch):
    """A kernel of 3 x 3 x 8 x 9 = 648 entries, on samples of 128."""
    monkeypatch.setattr(memory, "LARGE", large)
    x = keras.Input((4, 4, 8))
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.Conv2D(9, 3, activation="relu")(layers.ReLU()(x)))))
    analyzer = revgraph.create_analyzer("lrp.alpha_2_beta_1", model)
    used = used_operations(analyzer.walk(Question(analyzer.graph.output_slots)))
    first, second = [op for op in used if op.type == "Conv2DBackpropInput"]
    assert (first in ancestors(second)) == turns


@pytest.mark.parametrize("large", [0, 2**20])
def test_kernels_take_turns_on_large_inputs_only(large, model, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", large)
    analyzer = revgraph.create_analyzer("lrp.alpha_2_beta_1", model)
    used = used_operations(analyzer.walk(Question(analyzer.graph.output_slots)))
    first, second = [op for op in used if op.type == "Conv2DBackpropInput"][:2]
    assert (first in ancestors(second)) == (large == 0)


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.z_plus"])
def test_few_outputs_are_scaled_rather_than_kernels(name, float64, rng):
    """BatchNormalization behind layers with many weights, one of them also in front of a layer."""
    x = keras.Input((3, 3, 8))
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(x)))
    h = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(layers.BatchNormalization()(h)))
    h = layers.Dense(9)(layers.BatchNormalization()(layers.Dense(12)(layers.Flatten()(layers.ReLU()(h)))))
    model = keras.Model(x, layers.Dense(3)(layers.ReLU()(layers.BatchNormalization(scale=False)(h))))
    model.set_weights(
        [rng.normal(size=w.shape) if w.ndim > 1 else rng.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    )
    analyzer = revgraph.create_analyzer(name, model, max_growth=np.inf)
    assert sum(getattr(site.operation, "multiple", None) is not None for site in analyzer.graph.sites) >= 3
    x = rng.normal(size=(4, 3, 3, 8))
    fast = analyzer.analyze(x, 2)
    plain = literally(analyzer, x, neuron_selection=2)
    np.testing.assert_allclose(fast, plain, rtol=1e-10, atol=1e-10 * np.abs(plain).max())


def test_growth_is_watched_where_a_rule_does_not_bound_it(model):
    def watched(name, **options):
        analyzer = revgraph.create_analyzer(name, model, **options)
        walk = analyzer.walk(Question(analyzer.graph.output_slots))
        forward = walk.reverse.forward([tf.ones((1, 8, 8, 3), tf.float64)])
        seeds = {slot: forward.values[slot] for slot in walk.question.starts}
        found = growths(walk.graph, forward, walk.reverse.relevance(forward, seeds), seeds, walk.limit)
        return {path.strip("'") for paths in found for path in paths.split(" or ")}

    layers_with_weights = {"conv2d", "conv2d_1", "positive", "summand", "dense", "dense_1"}
    named = {site.path for site in revgraph.create_analyzer("lrp.z", model).graph.sites}
    assert len(watched("lrp.epsilon") & named) >= len(layers_with_weights)
    # z+ hands on what it gets, alpha 2 beta 1 at most three times as much, gamma (2 + gamma) / gamma on either side.
    assert "positive" not in watched("lrp.z_plus") and "positive" not in watched("lrp.alpha_2_beta_1")
    assert "positive" in watched("lrp.alpha_2_beta_1", max_growth=2.9)
    assert "summand" not in watched("lrp.gamma") and "summand" in watched("lrp.gamma", max_growth=17)


IN_FLOAT32 = """
import keras, numpy as np, tensorflow as tf
from keras import layers
import revgraph
from revgraph.reverse_rules.terms import Signed
from tests.fast.test_speed import ARGUMENTS, literally

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
