"""Plans: what is known of a call saves work and changes nothing, whichever rewrites are left out."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.fast import REWRITES, Recorder, Signs
from revgraph.fast.plan import growth, literal, plan_of
from revgraph.fast.signs import Known
from revgraph.graph.operations import Dense, reading
from revgraph.reverse.dangers import growths
from revgraph.reverse.walk import Question
from revgraph.reverse_rules import (
    AlphaBeta,
    Epsilon,
    Gamma,
    Part,
    Rule,
    Term,
    ZPlus,
    identity,
    neg,
    on,
    pos,
)
from revgraph.reverse_rules.engine import ReplacementLayer
from revgraph.reverse_rules.terms import Signed, where_negative, where_positive
from tests.test_engine import RULES, SITES, site_of

pytestmark = pytest.mark.usefixtures("float64")


def fast_layer(site, rule, dtype, without=(), **known):
    """The site under the rule with the speed layer, which is told what is known."""
    return ReplacementLayer(site, rule, dtype, Recorder(Signs(**known), without))


@dataclasses.dataclass(frozen=True)
class FavouredKernel(Rule):
    """Like generalised gamma, but for the bias, which is as it is."""

    def parts(self):
        more, less = on(Signed(1.5, 1.0), bias=identity), on(Signed(1.0, 1.5), bias=identity)
        return Part((Term(pos, more),), gate=where_positive), Part((Term(pos, less),), gate=where_negative)


@dataclasses.dataclass(frozen=True)
class Sided(Rule):
    """p W^+ + n W^- where z >= 0, n' W^+ + p' W^- where z < 0."""

    above: tuple = (1.0, 0.5)
    below: tuple = (0.5, 1.0)
    weight: float = 1.0

    def parts(self):
        above, below = on(Signed(*self.above)), on(Signed(*self.below))
        return Part((Term(pos, above),), gate=where_positive), Part((Term(pos, below),), self.weight, where_negative)


@dataclasses.dataclass(frozen=True)
class Compared(Rule):
    """Relevance to the larger denominator."""

    def parts(self):
        return (
            Part((Term(identity, on(Signed(4.0, 1.0))),), gate=lambda z, zs: zs[0] > zs[1]),
            Part((Term(),), gate=lambda z, zs: zs[0] <= zs[1]),
        )


@dataclasses.dataclass(frozen=True)
class Multiple(Rule):
    """p W^+ + n W^-."""

    positive: float = 2.0
    negative: float = 1.0

    def parts(self):
        return (Part((Term(identity, on(Signed(self.positive, self.negative))),)),)


@dataclasses.dataclass(frozen=True)
class Clamped(Multiple):
    """Divides by nothing smaller than 0.5."""

    @property
    def divide(self):
        return lambda r, z, sign=None: r / tf.where(tf.abs(z) < 0.5, tf.constant(0.5, z.dtype), z)


SIDED = [
    Sided(),
    Sided(epsilon=0.1),
    Sided((3.0, 0.0), (0.0, 3.0)),
    Sided((3.0, 1.0), (0.5, 2.5), epsilon=0.1),
    Sided((3.0, 1.0), (0.5, 2.0)),
    Sided(weight=-0.5),
]
MULTIPLES = [Multiple(), Multiple(epsilon=0.1), Multiple(-1.0, -2.0, epsilon=0.1), Multiple(0.0, 2.0), Clamped()]


@pytest.mark.parametrize(
    "rule", [*RULES, FavouredKernel(), Compared(), Gamma(0.25, epsilon=0.1), *SIDED, *MULTIPLES], ids=str
)
@pytest.mark.parametrize("name", SITES)
def test_knowledge_does_not_change_the_result(name, rule, rng):
    """Known signs, zeros and sums save work: the result is that of every term computed as it is written.

    And relevance grows by no more than the pullback promises.
    """
    site, shapes = SITES[name]()
    signed = [rng.normal(size=(3, *shape)) for shape in shapes]
    for x, known in (
        (signed, {}),
        ([np.abs(t) for t in signed], {"nonnegative": True}),
        (signed, {"positive": True}),
        (signed, {"nonzero": True}),
        ([t * (rng.uniform(size=t.shape) < 0.3) for t in signed], {"nonzero": True}),
        ([np.abs(t) for t in signed], {"nonnegative": True, "positive": True}),
    ):
        (y,), plain = ReplacementLayer(site, rule, "float64")(*x)
        (same,), pullback = fast_layer(site, rule, "float64", **known)(*x)
        np.testing.assert_allclose(same, y, rtol=1e-10, atol=1e-12)
        R = rng.normal(size=y.shape)
        R = R * (y.numpy() > 0 if known.get("positive") else y.numpy() != 0 if known.get("nonzero") else 1)
        relevance = pullback(R)
        for actual, expected in zip(relevance, plain(R), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)
        assert sum(np.abs(r).sum() for r in relevance) <= (1 + 1e-9) * pullback.growth * np.abs(R).sum()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", [Gamma(0.25), Gamma(4.0, epsilon=0.1), *SIDED], ids=str)
def test_an_output_of_zero_counts_as_positive(rule, dtype):
    """In every dtype, whether parts that z chooses between are computed one by one or as one."""
    layer = layers.Dense(3, use_bias=False)
    site = site_of(layer, shapes=[(2,)])
    layer.set_weights([np.array([[1.0, 1.0, -2.0], [-1.0, 2.0, 1.0]])])
    x, R = np.array([[1.0, 1.0]], dtype), np.array([[1.0, 2.0, 3.0]], dtype)
    _, plain = ReplacementLayer(site, rule, dtype)(x)
    _, pullback = fast_layer(site, rule, dtype, nonnegative=True)(x)
    # The first output is 1 - 1: the positive contribution is favoured there.
    (p, n), divisor = rule.above if isinstance(rule, Sided) else (1 + rule.gamma, 1.0), rule.epsilon
    np.testing.assert_allclose(
        plain(R * np.array([1, 0, 0], dtype))[0], [np.array([p, -n]) / (p - n + divisor)], rtol=1e-6
    )
    np.testing.assert_allclose(pullback(R)[0], plain(R)[0], rtol=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("known", [{}, {"nonnegative": True}, {"nonzero": True}])
@pytest.mark.parametrize("rule", MULTIPLES, ids=str)
def test_a_denominator_of_zero_is_stabilised_as_if_positive(rule, known):
    p, n = rule.positive, rule.negative
    layer = layers.Dense(1, use_bias=False)
    site = site_of(layer, shapes=[(2,)])
    layer.set_weights([np.array([[1.0], [-1.0]])])
    # p x_1 - n x_2 = 0, but x_1 - x_2 is not.
    x, R = np.array([[n, p]]) * (1 if n > 0 else -1), np.array([[2.0]])
    _, plain = ReplacementLayer(site, rule, "float64")(x)
    _, pullback = fast_layer(site, rule, "float64", **known)(x)
    np.testing.assert_allclose(pullback(R)[0], plain(R)[0], rtol=1e-12)


def test_relevance_at_an_output_of_zero_is_handed_on():
    layer = layers.Dense(1, use_bias=False)
    site = site_of(layer, shapes=[(2,)])
    layer.set_weights([np.array([[1.0], [-1.0]])])
    _, pullback = fast_layer(site, Epsilon(0.1), "float64", nonnegative=True)(np.array([[1.0, 1.0]]))
    np.testing.assert_allclose(pullback(np.array([[2.0]]))[0], [[20.0, -20.0]], rtol=1e-12)


NAMES = [rewrite.__name__ for rewrite in REWRITES]


@pytest.mark.parametrize("left_out", [*NAMES, "all"])
@pytest.mark.parametrize(
    "rule",
    [Epsilon(1e-3), ZPlus(), AlphaBeta(2, 1), AlphaBeta(2, 1, bias=False), Gamma(0.25), Gamma(4.0, bias=False), *SIDED],
    ids=str,
)
def test_every_rewrite_can_be_left_out(rule, left_out, rng):
    without = NAMES if left_out == "all" else [left_out]
    site = site_of(layers.Dense(5, bias_initializer="random_normal"))
    x, R = np.abs(rng.normal(size=(3, 4))), rng.normal(size=(3, 5))
    (y,), plain = ReplacementLayer(site, rule, "float64")(x)
    for known in (
        {"nonnegative": True},
        {"nonnegative": True, "positive": True},
        {"nonnegative": True, "nonzero": True},
    ):
        seen = R * (y.numpy() > 0 if "positive" in known else 1)
        (same,), pullback = fast_layer(site, rule, "float64", without, **known)(x)
        np.testing.assert_allclose(same, y, rtol=1e-12)
        np.testing.assert_allclose(pullback(seen)[0], plain(seen)[0], rtol=1e-10, atol=1e-12)


def known_dense(**facts):
    return Known(Dense(reading({})), ("kernel",), True, **facts)


def terms(plan):
    return [term for part in plan for term in part.terms]


def test_open_gates():
    gated = Gamma(0.25).parts()
    assert len(literal(gated)) == 2
    (part,) = plan_of(gated, known_dense(positive=True))
    assert part.gate is None
    assert [p.gate for p in plan_of(gated, known_dense(), ["use_magnitudes"])] == [where_positive, where_negative]


def test_gates_of_ones_own_keep_their_places():
    above, below = Gamma(0.25).parts()
    own = dataclasses.replace(above, gate=lambda z, zs: zs[1] < zs[2])
    assert len(plan_of((below, own, above), known_dense(positive=True))) == 3
    # And denominators that they may read keep their signs.
    assert all(part.sides is None for part in plan_of((below, own, above), known_dense()))


def test_drop_zero_terms():
    assert len(terms(literal(ZPlus().parts()))) == 2
    (term,) = terms(plan_of(ZPlus().parts(), known_dense(nonnegative=True)))
    assert term.term.inputs == identity
    # A bias of its own keeps a term without inputs.
    kept = (Part((Term(neg, on(pos)),)),)
    assert len(terms(plan_of(kept, known_dense(nonnegative=True)))) == 1


def test_note_signs():
    gain, loss = plan_of(AlphaBeta(2, 1).parts(), known_dense(nonnegative=True))
    assert [t.sign for t in (*gain.terms, *loss.terms)] == [1, -1]
    assert terms(plan_of(Epsilon().parts(), known_dense(nonnegative=True)))[0].sign is None


def test_share_halves():
    """W^+ of x^+ and W^- of x^+ beside W of x are two kernels of one family; combinations of both are made of these."""
    rule = Sided((3.0, 1.0), (0.5, 2.5))
    plan = plan_of(rule.parts(), known_dense(nonnegative=True), without=["use_magnitudes"])
    assert [[factor for factor, _, _ in t.pieces] for t in terms(plan)] == [[3.0, 1.0], [0.5, 2.5]]
    assert {weights.modifier for t in terms(plan) for _, _, weights in t.pieces} == {pos, neg}
    # z^+ alone is not cheaper in pieces.
    (term,) = terms(plan_of(ZPlus().parts(), known_dense(nonnegative=True)))
    assert len(term.pieces) == 1


def test_take_sides():
    rule = AlphaBeta(2, 1)
    plan = plan_of(rule.parts(), known_dense(nonnegative=True, positive=True))
    assert [(t.sign, t.half) for t in terms(plan)] == [(1, neg), (-1, None)]
    assert [t.half for t in terms(plan_of(rule.parts(), known_dense(nonnegative=True)))] == [None] * 2


def test_use_magnitudes():
    """One part for outputs of either sign, where contributions are told apart by nothing but their sign."""
    (part,) = plan_of(Gamma(0.25).parts(), known_dense())
    assert (part.sides, part.gate, part.terms) == ((1.25, 1.0), None, ())
    (in_front_of_relu,) = plan_of(Gamma(0.25).parts(), known_dense(positive=True))
    assert in_front_of_relu.sides == (1.25, 1.0)
    # There one kernel is enough, if the inputs are not negative.
    assert [len(p.terms) for p in plan_of(Gamma(0.25).parts(), known_dense(positive=True, nonnegative=True))] == [1]
    # Two parts, because the factors for z >= 0 are not those for z < 0.
    uneven = plan_of(Sided((3.0, 1.0), (0.5, 2.0)).parts(), known_dense(nonnegative=True))
    assert [(p.sides, p.gate) for p in uneven] == [((3.0, 1.0), where_positive), ((2.0, 0.5), where_negative)]
    # Without its bias, z may have another sign than the output. Without negative inputs, magnitudes are not all there.
    for rule in (Gamma(0.25, bias=False), Gamma(0.0), ZPlus(), AlphaBeta(2, 1), Sided()):
        assert all(p.sides is None for p in plan_of(rule.parts(), known_dense()))


@pytest.mark.parametrize(
    ("rule", "facts", "expected"),
    [
        (ZPlus(), {"nonnegative": True}, 1.0),
        (AlphaBeta(2, 1), {"nonnegative": True}, 3.0),
        # The sum of |contributions| is at most (p + n) / (p - n) times |z_t|.
        (Gamma(0.25), {"nonnegative": True}, 2.25 / 0.25),
        (Epsilon(), {"nonnegative": True}, np.inf),
        (Gamma(0.25), {}, 2.25 / 0.25),
        (Gamma(0.25, bias=False), {}, np.inf),
    ],
    ids=str,
)
def test_growth_that_a_plan_bounds(rule, facts, expected):
    known = known_dense(**facts)
    np.testing.assert_allclose(growth(plan_of(rule.parts(), known), known), expected)
    assert growth(literal(rule.parts()), known) == np.inf


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
    # z+ hands on what it gets, alpha 2 beta 1 at most 3 times as much, gamma at most (2 + gamma) / gamma times.
    assert "positive" not in watched("lrp.z_plus") and "positive" not in watched("lrp.alpha_2_beta_1")
    assert "positive" in watched("lrp.alpha_2_beta_1", max_growth=2.9)
    assert "summand" not in watched("lrp.gamma") and "summand" in watched("lrp.gamma", max_growth=8)
