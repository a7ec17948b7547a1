"""Memory: what is computed again, block by block, or one after the other, so that little is there at a time."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.fast import memory
from revgraph.reverse.walk import Question
from tests.fast.tools import ARGUMENTS, NAMES, ancestors, literally, same, used_operations


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("lrp.epsilon", (1, 1, 1, 1), (1, 1, 1, 1)),
        ("lrp.z_plus", (3, 2, 2, 2), (2, 1, 1, 1)),
        ("lrp.alpha_2_beta_1", (5, 3, 2, 3), (4, 2, 2, 2)),
        ("lrp.gamma", (2, 2, 2, 2), (2, 2, 1, 2)),
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


@pytest.mark.sweep(3)
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
        same(found, plain)


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


@pytest.mark.parametrize("name", ["lrp.z_plus", "lrp.gamma"])
def test_kernels_are_modified_when_relevance_has_come(name, float64, monkeypatch):
    """Else those of all layers would be there at once."""
    monkeypatch.setattr(memory, "CHEAP", 0)
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(6)(layers.Dense(4)(x))))
    analyzer = revgraph.create_analyzer(name, model)
    used = used_operations(analyzer.walk(Question(analyzer.graph.output_slots)))
    shapes = [(6, 3), (4, 6), (5, 4)]
    modified = [
        [op for op in used if op.type in ("Relu", "Minimum", "Abs") and op.outputs[0].shape == s] for s in shapes
    ]
    for before, made in itertools.pairwise(modified):
        assert made and all(set(before) & ancestors(op) for op in made)


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
