"""What docs/migrating.md and docs/custom-rules.md promise: the names of analyzers, and `check_rule`."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.reverse_rules import AlphaBeta, Epsilon, Flat, Only, Pullback, Rule
from revgraph.testing import check_rule

# iNNvestigate 2.1.2, and what its version 1 had beside these.
NAMES = """
    input random gradient gradient.baseline input_t_gradient deconvnet guided_backprop integrated_gradients
    smoothgrad lrp lrp.z lrp.epsilon lrp.w_square lrp.flat lrp.alpha_beta lrp.alpha_2_beta_1
    lrp.alpha_2_beta_1_IB lrp.alpha_1_beta_0 lrp.alpha_1_beta_0_IB lrp.z_plus lrp.z_plus_fast
    lrp.sequential_preset_a lrp.sequential_preset_b lrp.sequential_preset_a_flat lrp.sequential_preset_b_flat
    lrp.sequential_preset_b_flat_until_idx deep_taylor deep_taylor.bounded lrp.z_IB lrp.epsilon_IB pattern.net
    pattern.attribution deep_lift
""".split()


def test_every_name_is_there():
    assert set(NAMES) <= set(revgraph.ANALYZERS)
    for name, method in revgraph.ANALYZERS.items():
        assert method.computes, name
        assert method.paper or name in ("input", "random"), name
    table = str(revgraph.ANALYZERS)
    assert all(column in table for column in ("name", "computes", "paper"))
    with pytest.raises(KeyError, match=r"No analyzer is named 'lrp.y'.*Did you mean 'lrp.z'.*deep_taylor.bounded"):
        revgraph.create_analyzer("lrp.y", None)


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: layers.Dense(4, bias_initializer="normal"), (5,)),
        (lambda: layers.Conv2D(4, 3, strides=2, padding="same", groups=2, bias_initializer="normal"), (6, 5, 2)),
        (lambda: layers.Conv1D(2, 2, dilation_rate=2, padding="causal"), (6, 3)),
        (lambda: layers.SeparableConv2D(3, 2), (4, 4, 2)),
        (lambda: layers.AveragePooling2D(2), (4, 4, 2)),
        (lambda: layers.Add(), [(3,), (3,)]),
    ],
)
def test_check_rule_passes_what_is_right(make, shape):
    for rule in (Epsilon(0.1), AlphaBeta(2, 1), Flat()):
        for entry in check_rule(make(), rule, shape):
            parts = entry.input + entry.bias + entry.constants + entry.rule + entry.stabiliser + entry.other
            np.testing.assert_allclose(parts, entry.start, atol=1e-5)
            np.testing.assert_allclose(entry.other, 0, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_check_rule_knows_inputs_that_get_no_relevance(index):
    (entry,) = check_rule(layers.Add(), Only(index), [(3,), (3,)])
    np.testing.assert_allclose(entry.input, entry.start, rtol=1e-9)
    check_rule(layers.Add(), Only(index), [(3,), (3,)], formula=lambda W, b, x, R: R @ np.eye(3, 6, 3 * index))


def test_check_rule_uses_the_weights_of_the_layer():
    layer = layers.Dense(2)
    layer.build((None, 3))
    seen = []
    check_rule(layer, Epsilon(0.1), (3,), formula=lambda W, b, x, R: seen.append(W) or epsilon(W, b, x, R))
    np.testing.assert_allclose(seen[0], layer.get_weights()[0])


def epsilon(W, b, x, R):
    z = x @ W + b
    return x * ((R / (z + 0.1 * np.where(z >= 0, 1, -1))) @ W.T)


@dataclasses.dataclass(frozen=True)
class Flipped(Rule):
    """Goes back through the kernel upside down, which a dense matrix has upside down in another way."""

    def record(self, call):
        flipped = {name: w[::-1] if name == "kernel" else w for name, w in call.weights.items()}
        return call.outputs, Pullback(call.record(call.inputs, flipped).transposed)


def test_check_rule_finds_what_is_wrong():
    with pytest.raises(AssertionError, match="differs from the formula on the layer's dense matrix by"):
        check_rule(layers.Dense(4), Epsilon(0.1), (5,), formula=lambda W, b, x, R: R @ W.T)
    with pytest.raises(AssertionError, match="differs from the rule on the layer's dense matrix by"):
        check_rule(layers.Conv1D(2, 3), Flipped(), (6, 2))
    with pytest.raises(TypeError, match="Expected a rule"):
        check_rule(layers.Dense(4), "Epsilon", (5,))
    with pytest.raises(ValueError, match="no dense matrix"):
        check_rule(layers.Flatten(), Epsilon(), (3, 2))


class OwnDense(layers.Layer):
    def build(self, shape):
        self.weight = self.add_weight(name="weight", shape=(shape[-1], 3))
        self.shift = self.add_weight(name="shift", shape=(3,), initializer="normal")

    def call(self, x):
        return keras.ops.matmul(x, self.weight) + self.shift


class Squared(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(shape[-1],))

    def call(self, x):
        return self.scale * x * x


def test_check_rule_on_a_layer_of_ones_own():
    (entry,) = check_rule(OwnDense(), Epsilon(0.1), (4,), formula=epsilon)
    assert entry.difference < 1e-4
    with pytest.raises(ValueError, match="is not affine"):
        check_rule(Squared(), Epsilon(0.1), (4,))
