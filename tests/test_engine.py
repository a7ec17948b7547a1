"""The engine: safe division, terms and parts, replacement layers, and what they know without computing it."""

import copy
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from revgraph import reverse_rules
from revgraph.canonize import canonize
from revgraph.graph.operations import Opaque
from revgraph.read import trace
from revgraph.reverse_rules import (
    AlphaBeta,
    DeconvNet,
    Epsilon,
    Flat,
    Gamma,
    GuidedBackprop,
    Jacobian,
    Norm,
    Part,
    Pass,
    Rule,
    SumOverEmbedding,
    Term,
    WSquare,
    Z,
    ZBox,
    ZPlus,
    ZPlusFast,
    identity,
    merging,
    neg,
    on,
    ones,
    pos,
    rules,
    tensorwatch,
)
from revgraph.reverse_rules.engine import ReplacementLayer, SafeDivide
from revgraph.reverse_rules.innvestigate import as_innvestigate
from tests import oracle
from tests.models import randomized

pytestmark = pytest.mark.usefixtures("float64")

RULES = [
    Z(),
    Epsilon(0.1),
    Epsilon(0.1, bias=False),
    ZPlus(),
    ZPlus(bias=False),
    ZPlusFast(),
    AlphaBeta(1, 0),
    AlphaBeta(2, 1),
    AlphaBeta(1.5, 0.5, bias=False, rare_neurons=True),
    Gamma(0.25),
    Gamma(0.5, generalized=False),
    Gamma(0.5, bias=False),
    ZBox(-3.3, 4.1),
    WSquare(),
    Flat(),
    Norm(),
    as_innvestigate(AlphaBeta(2, 1)),
]


def site_of(*layer_or_layers, shapes=((4,),), dtype=None):
    """The one site of a model that calls the layer once, with random weights."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    (layer,) = layer_or_layers
    model = randomized(keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0])))
    (site,) = canonize(model).sites
    return site


SITES = {
    "Dense": lambda: (site_of(layers.Dense(5)), [(4,)]),
    "Conv2D": lambda: (site_of(layers.Conv2D(3, 3, padding="same"), shapes=[(4, 4, 2)]), [(4, 4, 2)]),
    "AveragePooling2D": lambda: (
        site_of(layers.AveragePooling2D(2, padding="same"), shapes=[(3, 3, 2)]),
        [(3, 3, 2)],
    ),
    "Add": lambda: (site_of(layers.Add(), shapes=[(3,), (3,)]), [(3,), (3,)]),
}


@pytest.mark.parametrize(
    ("r", "z", "epsilon", "expected"),
    [
        (1.0, 2.0, 0.5, 1 / 2.5),
        (1.0, -2.0, 0.5, 1 / -2.5),
        (3.0, 0.0, 0.5, 6.0),  # sgn(0) = +1
        (3.0, -0.0, 0.5, 6.0),
        (3.0, 0.5, 0.0, 6.0),
        (0.0, 0.0, 1e-7, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0),
        (0.0, -0.5, 0.5, 0.0),
        (-1.0, 1e-300, 1e-7, -1e7),
    ],
)
def test_safe_divide(r, z, epsilon, expected):
    given = tf.constant([r], tf.float64), tf.constant([z], tf.float64)
    np.testing.assert_allclose(SafeDivide(epsilon)(*given), [expected], rtol=1e-12)


@pytest.mark.parametrize(("r", "z", "expected"), [(1, 0, 1e7), (1, 1e-9, 1e9), (1, -2, -0.5), (0, 0, 0)])
def test_safe_divide_of_zeros_only(r, z, expected):
    divide = SafeDivide(1e-7, zeros_only=True)
    np.testing.assert_allclose(divide(tf.constant([r], tf.float64), tf.constant([z], tf.float64)), [expected], 1e-12)


def test_safe_divide_keeps_the_digits_of_epsilon():
    assert SafeDivide(0.1)(tf.constant(1.0, tf.float64), tf.constant(0.0, tf.float64)).numpy() == 10


def test_modifiers():
    t = tf.constant([-2.0, 0.0, 3.0], tf.float64)
    for modifier, expected in ((identity, [-2, 0, 3]), (pos, [0, 0, 3]), (neg, [-2, 0, 0]), (ones, [1, 1, 1])):
        np.testing.assert_array_equal(modifier(t), expected)


def test_on_selects_weights_by_name():
    weights = {"kernel": tf.constant([-1.0, 2.0]), "bias": tf.constant([-3.0, 4.0])}

    def modified(modify):
        return {name: w.numpy().tolist() for name, w in modify(weights).items()}

    assert modified(on()) == {"kernel": [-1, 2], "bias": [-3, 4]}
    assert modified(on(pos)) == {"kernel": [0, 2], "bias": [0, 4]}
    assert modified(on(pos, bias=neg)) == {"kernel": [0, 2], "bias": [-3, 0]}
    assert modified(on(neg, bias=False)) == {"kernel": [-1, 0]}
    assert modified(on(pos, bias=True)) == modified(on(pos)) and on(pos, bias=True) == on(pos)
    assert modified(on(neg, beta=False)) == {"kernel": [-1, 0], "bias": [-3, 0]}
    assert on(pos, bias=False) == on(pos, bias=False) and on(pos) != on(neg)


@dataclasses.dataclass(frozen=True)
class Halves(Rule):
    """Two parts with weights, signs, gates and modifiers of one's own."""

    def parts(self):
        def even(z, zs):
            return tf.constant([1.0, 0.0, 1.0], z.dtype)

        def second(z, zs):
            return zs[0] > 0

        first = Part(
            (Term(tf.square, on(tf.abs, bias=identity)), Term(identity, on(bias=False), sign=-1.0)), 0.25, even
        )
        return first, Part((Term(pos, on(tf.square)),), -2.0, second)


def test_parts_follow_the_formula(rng):
    site = site_of(layers.Dense(3))
    W, b = (w.numpy() for w in site.layer.weights)
    x, R = rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    _, pullback = ReplacementLayer(site, Halves(epsilon=0.1), "float64")(x)
    first = (x**2)[:, :, None] * np.abs(W), -x[:, :, None] * W
    zs = first[0].sum(1) + b + first[1].sum(1), (oracle.pos(x)[:, :, None] * W**2).sum(1) + b**2
    s = oracle.safe_divide(R * [1, 0, 1], zs[0], 0.1), oracle.safe_divide(R * (zs[0] > 0), zs[1], 0.1)
    expected = 0.25 * np.einsum("njk,nk->nj", first[0] + first[1], s[0])
    expected -= 2 * np.einsum("njk,nk->nj", oracle.pos(x)[:, :, None] * W**2, s[1])
    np.testing.assert_allclose(pullback(R)[0], expected, rtol=1e-10)


def test_a_rule_without_parts_says_so():
    with pytest.raises(NotImplementedError, match="Rule defines neither `parts` nor `record`"):
        ReplacementLayer(site_of(layers.Dense(3)), Rule())(np.zeros((1, 4), "float32"))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_two_calls_are_independent(rule, rng):
    """Pullbacks remember their own call, can be called in any order and again, and leave no trace on the layer."""
    layer = ReplacementLayer(SITES["Dense"]()[0], rule, "float64")
    before = copy.copy(vars(layer)), copy.copy(vars(layer.site)), copy.copy(vars(layer.rule))
    x, R = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 5))
    alone = [layer(x[i])[1](R[i])[0].numpy() for i in range(2)]
    (_, first), (_, second) = layer(x[0]), layer(x[1])
    for pullback, i in ((second, 1), (first, 0), (first, 0), (second, 1)):
        np.testing.assert_array_equal(pullback(R[i])[0], alone[i])
    assert (vars(layer), vars(layer.site), vars(layer.rule)) == before


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_inside_a_function_as_outside(rule, rng):
    """Compiled, a pullback can be called again, and gives what it gives eagerly."""
    layer = ReplacementLayer(SITES["Conv2D"]()[0], rule, "float64")
    x, R = tf.constant(rng.normal(size=(2, 4, 4, 2))), tf.constant(rng.normal(size=(2, 4, 4, 3)))

    @tf.function(autograph=False)
    def compiled(x, R):
        _, pullback = layer(x)
        return pullback(R)[0], pullback(2 * R)[0], pullback.absorbed(R).bias

    _, pullback = layer(x)
    once, twice, bias = compiled(x, R)
    np.testing.assert_allclose(once, pullback(R)[0], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(bias, pullback.absorbed(R).bias, rtol=1e-10, atol=1e-13)


def test_the_pullback_belongs_to_the_weights_of_its_call(rng):
    site = site_of(layers.Dense(3))
    layer, x, R = ReplacementLayer(site, Epsilon(), "float64"), rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    _, pullback = layer(x)
    before = pullback(R)[0].numpy()
    site.layer.kernel.assign(2 * site.layer.kernel)
    np.testing.assert_array_equal(pullback(R)[0], before)
    assert np.abs(layer(x)[1](R)[0] - before).max() > 1e-3


def test_variables_are_not_watched():
    """An outer tape that watches variables sees none of them through relevance: weights are read, not tracked."""
    site = site_of(layers.Dense(3))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        ReplacementLayer(site, AlphaBeta(2, 1), "float64")(np.ones((2, 4)))
    assert tape.watched_variables() == ()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", SITES)
def test_ledger_of_a_site(name, rule, rng):
    """What goes in at the top comes out at the bottom, or has a column of its own."""
    site, shapes = SITES[name]()
    x = [rng.normal(size=(3, *shape)) for shape in shapes]
    (y,), pullback = ReplacementLayer(site, rule, "float64")(*x)
    R = rng.normal(size=y.shape)
    absorbed = pullback.absorbed(R)
    arrived = sum(oracle.flat(r).sum(1) for r in pullback(R))
    elsewhere = absorbed.bias + absorbed.constants + absorbed.rule + absorbed.stabiliser
    np.testing.assert_allclose(oracle.flat(R).sum(1), arrived + elsewhere, rtol=1e-10)
    takes_bias = getattr(rule, "bias", False) or isinstance(rule, Norm)
    if not takes_bias or name in ("AveragePooling2D", "Add"):
        np.testing.assert_array_equal(absorbed.bias, 0)


@pytest.mark.parametrize("rule", [AlphaBeta(1.5, 0.5, bias=False, rare_neurons=True)], ids=str)
def test_ledger_of_rare_neurons(rule):
    """A unit with one part hands on all its relevance; the rule drops that of a unit with no part."""
    layer = layers.Dense(3, use_bias=False)
    site = site_of(layer, shapes=[(2,)])
    layer.set_weights([np.array([[1.0, -1.0, 0.0], [2.0, -3.0, 0.0]])])
    _, pullback = ReplacementLayer(site, rule, "float64")(np.array([[1.0, 1.0]]))
    for R, lost in (([[5.0, 0.0, 0.0]], 0.0), ([[0.0, 5.0, 0.0]], 0.0), ([[0.0, 0.0, 5.0]], 5.0)):
        R = np.array(R)
        np.testing.assert_allclose(np.sum(pullback(R)[0]), 5 - lost, rtol=1e-6)
        np.testing.assert_allclose(pullback.absorbed(R).stabiliser, [0], atol=1e-6)
        np.testing.assert_allclose(pullback.absorbed(R).rule, [lost], atol=1e-6)


def test_ledger_of_what_a_rule_drops():
    """z+ drops the relevance of units without positive contributions; alpha-beta adds to those without negative ones.

    Units: 3 + 2, 3 - 2, -3 - 2 on x = (3, 2), each with R = 10.
    """
    layer = layers.Dense(3, use_bias=False)
    site = site_of(layer, shapes=[(2,)])
    layer.set_weights([np.array([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])])
    x, R = np.array([[3.0, 2.0]]), np.full((1, 3), 10.0)
    for rule, dropped in ((ZPlus(), 10.0), (AlphaBeta(2, 1), 20.0 - 10.0), (Epsilon(), 0.0)):
        _, pullback = ReplacementLayer(site, rule, "float64")(x)
        absorbed = pullback.absorbed(R)
        np.testing.assert_allclose(absorbed.rule, [dropped], atol=1e-9)
        np.testing.assert_allclose(absorbed.stabiliser, [0], atol=1e-5)
        np.testing.assert_allclose(np.sum(pullback(R)[0]), 30 - dropped, rtol=1e-6)


def test_a_rule_that_names_its_kernel_drops_as_well():
    @dataclasses.dataclass(frozen=True)
    class Named(Rule):
        def parts(self):
            return (Part((Term(pos, on(kernel=pos)),)),)

    layer = layers.Dense(1, use_bias=False)
    site = site_of(layer, shapes=[(2,)])
    layer.set_weights([np.array([[-1.0], [-2.0]])])
    _, pullback = ReplacementLayer(site, Named(), "float64")(np.array([[1.0, 1.0]]))
    absorbed = pullback.absorbed(np.array([[5.0]]))
    np.testing.assert_allclose([absorbed.rule, absorbed.stabiliser], [[5.0], [0.0]], atol=1e-9)


@pytest.mark.parametrize("rule", [AlphaBeta(2, 1), Epsilon(1e-2)], ids=str)
def test_indices_get_no_relevance(rule):
    layer = layers.Embedding(7, 5)
    _, pullback = ReplacementLayer(site_of(layer, shapes=[(4,)], dtype="int32"), rule)(
        np.array([[1, 2, 3, 0]], "int32")
    )
    assert pullback(np.ones((1, 4, 5), "float32")) == (None,)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_dead_inputs(rule):
    """Inputs that are zero give neither NaN nor relevance to themselves, but for the rules that ignore the input."""
    site = site_of(layers.Dense(5, use_bias=False))
    _, pullback = ReplacementLayer(site, rule, "float64")(np.zeros((2, 4)))
    (relevance,) = pullback(np.ones((2, 5)))
    assert np.isfinite(relevance).all()
    if not isinstance(rule, ZBox | WSquare | Flat):
        np.testing.assert_array_equal(relevance, 0)


@keras.saving.register_keras_serializable("revgraph_tests")
class Own(layers.Layer):
    """A dense layer of the user's own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel", initializer="normal")
        self.bias = self.add_weight(shape=(3,), name="bias", initializer="normal")

    def call(self, x):
        return keras.ops.matmul(x, self.kernel) + self.bias


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rule_on_a_layer_kept_whole(rule, rng):
    """A layer of the user's own gets the same relevance from a rule as the built-in layer with its weights."""
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, Own()(inputs)))
    (site,) = trace(model, keep=(Own,)).sites
    assert site.operation.label == "Own"
    like = site_of(layers.Dense(3))
    like.layer.set_weights(model.get_weights())
    x, R = rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    (y,), pullback = ReplacementLayer(site, rule, "float64")(x)
    (expected_y,), expected = ReplacementLayer(like, rule, "float64")(x)
    np.testing.assert_allclose(y, expected_y, rtol=1e-12)
    np.testing.assert_allclose(pullback(R)[0], expected(R)[0], rtol=1e-9)


def test_rules_of_sites_without_weights(rng):
    x, R = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    site = site_of(layers.ReLU())
    for rule, expected in (
        (Pass(), R),
        (Jacobian(), R * (x > 0)),
        (DeconvNet(), oracle.pos(R)),
        (GuidedBackprop(), oracle.pos(R) * (x > 0)),
    ):
        (y,), pullback = ReplacementLayer(site, rule, "float64")(x)
        np.testing.assert_allclose(y, oracle.pos(x))
        np.testing.assert_allclose(pullback(R)[0], expected)
        absorbed = pullback.absorbed(R)
        assert not np.any(absorbed.bias) and not np.any(absorbed.stabiliser)


def test_relevance_of_an_index_is_that_of_its_embedding(rng):
    inputs = keras.Input((3,), dtype="int32")
    model = randomized(keras.Model(inputs, layers.Embedding(5, 2)(inputs)))
    (site,) = canonize(model).sites
    x, R = np.array([[0, 4, 2]]), rng.normal(size=(1, 3, 2))
    (y,), pullback = ReplacementLayer(site, SumOverEmbedding(), "float64")(x)
    np.testing.assert_allclose(y, model(x))
    np.testing.assert_allclose(pullback(R)[0], R.sum(-1))


def test_an_operation_stands_for_its_site():
    """Also one that has a layer or operation of Keras inside, which is not the operation that is meant."""
    operation = Opaque(layers.ReLU(), tf.nn.relu)
    (y,), pullback = ReplacementLayer(operation, Jacobian(), "float64")(np.array([[-1.0, 2.0]]))
    np.testing.assert_array_equal(y, [[0, 2]])
    np.testing.assert_array_equal(pullback(np.array([[3.0, 4.0]]))[0], [[0, 4]])


def test_every_rule_can_be_imported_from_the_room():
    """Archives of analyzers find rules by these names."""
    found = {
        name
        for module in (rules, merging, tensorwatch)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Rule)
    }
    assert found <= set(reverse_rules.__all__)


def test_a_replacement_layer_shows_its_site_and_rule():
    assert (
        repr(ReplacementLayer(site_of(layers.Dense(3, name="unit")), Epsilon())) == "<ReplacementLayer unit: Epsilon()>"
    )
