"""What sites without kernels hand on, entry by entry, and what they absorb."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph.canonize import canonize
from revgraph.graph.operations import (
    Activation,
    Contraction,
    Routing,
    Scale,
    Sum,
    Table,
    ZeroPad,
    constant,
    reading,
)
from revgraph.read import trace
from revgraph.reverse_rules import (
    Bilinear,
    Epsilon,
    Equal,
    Jacobian,
    Only,
    Padding,
    Pass,
    Saturation,
    Z,
)
from revgraph.reverse_rules.engine import ReplacementLayer
from tests.models import OLDER_KERAS, randomized

pytestmark = pytest.mark.usefixtures("float64")


def pulled(operation, rule, *inputs, relevance=None):
    """Outputs, relevance of the inputs, and what is absorbed, with the outputs as their own relevance by default."""
    outputs, pullback = ReplacementLayer(operation, rule, "float64")(*(np.asarray(x, "float64") for x in inputs))
    given = outputs if relevance is None else [tf.constant(relevance, "float64")]
    return outputs, pullback(*given), pullback.absorbed(*given)


def closes(outputs, taken, absorbed):
    """Whether what the inputs got and what was absorbed add up to the outputs, sample by sample."""

    def sums(tensors):
        return sum(np.reshape(t, (len(t), -1)).sum(axis=1) for t in tensors if t is not None)

    columns = (absorbed.bias, absorbed.constants, absorbed.rule, absorbed.stabiliser)
    np.testing.assert_allclose(sums(taken) + sum(columns), sums(outputs), rtol=1e-10)


CENTRES = np.array([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    "operation",
    [
        Scale(reading({"kernel": constant(1.0), "bias": constant(-CENTRES[0])}), 1),
        Scale(reading({"kernel": constant(CENTRES)})),
        Activation(lambda x: tf.maximum(x, CENTRES), "maximum"),
        Activation(lambda x: tf.pow(x, CENTRES), "power"),
    ],
)
def test_what_is_made_larger_gets_the_sum_of_its_copies(operation):
    x, relevance = [[0.5], [2.5]], np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    _, (taken,), _ = pulled(operation, Pass(), x, relevance=relevance)
    np.testing.assert_allclose(taken, [[7], [56]])


def test_saturation_of_what_is_made_larger():
    """max(x, 1), max(x, 2), max(x, 3) at 2.5: the last is a constant, and absorbs its relevance."""
    operation = Activation(lambda x: tf.maximum(x, CENTRES), "maximum")
    _, (taken,), absorbed = pulled(operation, Saturation(), [[2.5], [0.5]], relevance=[[1, 2, 4], [8, 16, 32]])
    np.testing.assert_allclose(taken, [[3], [0]])
    np.testing.assert_allclose(absorbed.constants, [4, 56])


def test_fill_values_and_class_tokens_are_constants():
    tokens = tf.constant([[[5.0, 7.0]]], "float64")
    concatenate = Routing(
        lambda x: tf.concat([tf.repeat(tokens, tf.shape(x)[0], 0), x], 1), "Concatenate", fixed=True, fills=True
    )
    x = [[[1.0, 2.0]], [[3.0, 4.0]]]
    _, (taken,), absorbed = pulled(concatenate, Jacobian(), x)
    np.testing.assert_allclose(taken, x)
    np.testing.assert_allclose(absorbed.constants, [12, 12])
    assert pulled(Routing(tf.identity, "Identity"), Jacobian(), x)[2].constants == 0


@pytest.mark.parametrize("rule", [Jacobian(), Padding()])
def test_padding_absorbs(rule):
    pad = ZeroPad(lambda x: tf.pad(x, ((0, 0), (1, 1))), "Pad", widths=((0, 0), (1, 1)))
    _, (taken,), absorbed = pulled(pad, rule, [[1.0, 2.0]], relevance=[[3, 4, 5, 6]])
    np.testing.assert_allclose(taken, [[4, 5]])
    np.testing.assert_allclose(absorbed.constants, [9])


def test_steps_that_are_samples_are_counted_with_their_sample():
    merge = Routing(lambda x: tf.reshape(x, (-1, 2)), "Reshape", fixed=True, fills=True)
    _, _, absorbed = pulled(merge, Jacobian(), np.ones((3, 4, 2)))
    np.testing.assert_allclose(absorbed.constants, [0, 0, 0])


def test_what_has_no_input_is_a_constant():
    table = Routing(lambda: tf.constant([[1.0, 2.0], [3.0, 4.0]], "float64"), "Const")
    _, taken, absorbed = pulled(table, Jacobian())
    assert list(taken) == []
    np.testing.assert_allclose(absorbed.constants, [3, 7])


@pytest.mark.parametrize(
    ("operation", "rule", "shapes"),
    [
        (Contraction(lambda a, b: a @ b, "matmul", "ij,jk->ik"), Bilinear(epsilon=1e-2), [(2, 3), (3, 4)]),
        (Contraction(lambda a, b: a @ b, "matmul", "ij,jk->ik"), Bilinear(1, epsilon=1e-2), [(2, 3), (3, 4)]),
        (Contraction(lambda a, b, c: a @ b @ c, "einsum", "ij,jk,kl->il"), Bilinear((0, 2)), [(2, 3), (3, 4), (4, 2)]),
        (Contraction(lambda a, b, c: a @ b @ c, "einsum", "ij,jk,kl->il"), Bilinear(), [(2, 3), (3, 4), (4, 2)]),
        (Sum(reading({"kernel": constant([1.0, -1.0])})), Equal(), [(2, 3), (1, 3)]),
        (Sum(reading({"kernel": constant([1.0, -1.0])})), Only(1), [(2, 3), (2, 1)]),
        (Sum(reading({"kernel": constant([1.0, 1.0, 1.0])})), Equal((0, 2)), [(2, 3), (2, 3), (1, 1)]),
        (Activation(tf.nn.relu6, "relu6"), Saturation(), [(2, 30)]),
    ],
)
def test_nothing_is_lost_without_a_name(operation, rule, shapes, rng):
    closes(*pulled(operation, rule, *(rng.normal(size=(3, *shape), scale=5) for shape in shapes)))


STEPS = {
    "sign": ops.sign,
    "round": ops.round,
    "floor": ops.floor,
    "ceil": ops.ceil,
    "trunc": lambda x: ops.trunc(x),
    "stop_gradient": ops.stop_gradient,
}


if OLDER_KERAS:
    # It takes no symbolic tensors there.
    del STEPS["stop_gradient"]


@pytest.mark.parametrize(
    "method", ["lrp.z", "lrp.epsilon", "lrp.alpha_2_beta_1", "lrp.gamma", "deep_taylor", "lrp.flat"]
)
@pytest.mark.parametrize("name", STEPS)
def test_step_functions_absorb_their_relevance(name, method, rng):
    """Whatever the rule of the layers around: the output does not depend on what is below."""
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, layers.Dense(2)(STEPS[name](layers.Dense(5)(inputs)))))
    analyzer = revgraph.create_analyzer(method, model)
    np.testing.assert_array_equal(analyzer.analyze(rng.normal(size=(2, 4)), 1), 0)
    operation = next(s.operation for s in canonize(model).sites if isinstance(s.operation, Activation))
    outputs, taken, absorbed = pulled(operation, Saturation(), [[1.3, -2.7, 0.2]])
    np.testing.assert_array_equal(taken[0], 0)
    np.testing.assert_allclose(absorbed.constants, np.sum(outputs[0], axis=1))


@pytest.mark.skipif(OLDER_KERAS, reason="ops.stop_gradient takes no symbolic tensors there")
def test_lrp_0_is_input_times_gradient_with_step_functions(rng):
    """A straight-through estimator: the signal passes beside the step."""
    inputs = keras.Input((4,))
    h = layers.Dense(5, use_bias=False)(inputs)
    h = layers.Add()([h, ops.stop_gradient(ops.round(h)), ops.sign(h)])
    model = randomized(keras.Model(inputs, layers.Dense(2, use_bias=False)(ops.relu(h))))
    x = rng.normal(size=(3, 4))
    expected = revgraph.create_analyzer("input_t_gradient", model).record(x).analyze(1)
    found = revgraph.create_analyzer("lrp", model, rule=Z(epsilon=1e-300)).record(x).analyze(1)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_other_activations_pass():
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, layers.Dense(2, activation="selu")(inputs)))
    bound = revgraph.create_analyzer("lrp.flat", model).bound
    assert [b.rule for b in bound if isinstance(b.site.operation, Activation)] == [Pass()]


@pytest.mark.parametrize(
    ("shape", "table"),
    [((5, 3), True), ((1, 5, 3), True), ((3,), False), ((5, 1), False), ((1,), False), ((), False)],
)
def test_which_shifts_are_tables(shape, table):
    inputs = keras.Input((5, 3))
    first, *behind = trace(keras.Model(inputs, inputs + np.ones(shape))).sites
    assert isinstance(first.operation, Table) == bool(behind) == table
    assert not layers_scale().bias_is_table


def layers_scale():
    """A scale without a shift."""
    return Scale(reading({"kernel": constant(np.ones((5, 3)))}))


def test_a_table_takes_its_share_of_z():
    """x + t at x = 1, t = 3: a quarter to x."""
    shift = Scale(reading({"kernel": constant(1.0), "bias": constant(np.full((2, 2), 3.0))}))
    _, (taken,), absorbed = pulled(shift, Epsilon(0.0), np.ones((1, 2, 2)))
    np.testing.assert_allclose(taken, np.ones((1, 2, 2)))
    np.testing.assert_allclose(absorbed.bias + absorbed.constants, [12])
