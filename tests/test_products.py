"""Products of several factors: the same relevance however they are bracketed, and which factors are gates."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph
from revgraph.canonize import canonize
from revgraph.graph.analysis import Facts
from revgraph.graph.operations import Product
from revgraph.read import trace
from revgraph.reverse_rules import Equal, Only

pytestmark = pytest.mark.usefixtures("float64")


def bracketed(*factors):
    """Every way to multiply the factors two by two, in every order of two halves."""
    if len(factors) == 1:
        yield lambda xs: xs[factors[0]]
        return
    for i in range(1, len(factors)):
        for left in bracketed(*factors[:i]):
            for right in bracketed(*factors[i:]):
                yield lambda xs, left=left, right=right: left(xs) * right(xs)
                yield lambda xs, left=left, right=right: layers.Multiply()([right(xs), left(xs)])


def model_of(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layers.Flatten()(function(inputs)))


def explain(model, x, name="lrp.epsilon", **options):
    x = [np.asarray(each, "float64") for each in x]
    np.testing.assert_allclose(canonize(model)(x), model(x), rtol=1e-12)
    return revgraph.create_analyzer(name, model, **options).record(x).analyze(0)


@pytest.mark.parametrize("product", list(bracketed(0, 1, 2)))
def test_three_factors_get_a_third_each_however_they_are_bracketed(product):
    model = model_of(product, (1,), (1,), (1,))
    for gate in ("uniform", "signal"):
        found = explain(model, [[[2]], [[3]], [[4]]], gate=gate)
        np.testing.assert_allclose(found, np.full((3, 1, 1), 8))


@pytest.mark.parametrize("product", list(bracketed(0, 1, 2, 3)))
def test_four_factors_of_several_shapes(product):
    """The relevance of the first output is shared in four, and that of a broadcast factor is a sum."""
    shapes = [(2, 3), (1, 3), (2, 1), (1, 1)]
    model = model_of(product, *shapes)
    xs = [np.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape) + i for i, shape in enumerate(shapes)]
    found = explain(model, xs, gate="uniform")
    share = float(np.prod([x[0, 0, 0] for x in xs])) / 4
    for relevance, shape in zip(found, shapes, strict=True):
        expected = np.zeros((1, *shape))
        expected[0, 0, 0] = share
        np.testing.assert_allclose(relevance, expected)


@pytest.mark.parametrize(
    "product",
    [
        lambda xs: (xs[0] * xs[1] * 0.5) * xs[2],
        lambda xs: xs[0] * (2.0 * (xs[1] * xs[2])) * 3.0,
        lambda xs: xs[0] * ((xs[1] * xs[2]) * np.array([2.0, -1.0]) / 4.0),
        lambda xs: -(xs[0] * xs[1]) * xs[2],
    ],
)
def test_scales_between_products_are_seen_through(product):
    model = model_of(product, (2,), (2,), (2,))
    x = [[[2, 1]], [[3, 5]], [[4, 7]]]
    found = explain(model, x, gate="uniform")
    output = float(np.asarray(model([np.asarray(each, "float64") for each in x]))[0, 0])
    np.testing.assert_allclose(found, np.full((3, 1, 2), [output / 3, 0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("product", "shares"),
    [
        (lambda xs: (xs[0] * xs[1] + 1.0) * xs[2], None),
        (lambda xs: ops.relu(xs[0] * xs[1]) * xs[2], (1 / 4, 1 / 4, 1 / 2)),
    ],
)
def test_other_operations_between_products_are_not(product, shares):
    model = model_of(product, (1,), (1,), (1,))
    found = np.ravel(explain(model, [[[2]], [[3]], [[4]]], gate="uniform"))
    output = (2 * 3 + 1.0) * 4 if shares is None else 24
    expected = np.array([output / 2 * 6 / 7 / 2] * 2 + [output / 2]) if shares is None else 24 * np.array(shares)
    if shares is None:
        # The scale's shift takes part under Epsilon, and absorbs its share.
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        np.testing.assert_allclose(found, expected)


def test_what_somebody_reads_or_asks_for_stays():
    inputs = [keras.Input((1,), name=name) for name in "abc"]
    inner = layers.Multiply(name="inner")(inputs[:2])
    model = keras.Model(inputs, [inner * inputs[2], inner])
    graph = canonize(model)
    assert [len(s.inputs) for s in graph.sites if isinstance(s.operation, Product)] == [2, 2]
    model = keras.Model(inputs, inner * inputs[2])
    assert [len(s.inputs) for s in canonize(model).sites if isinstance(s.operation, Product)] == [3]
    slot = trace(model).find("inner").outputs[0]
    assert len([s for s in canonize(model, [slot]).sites if isinstance(s.operation, Product)]) == 2


def test_canonization_can_be_done_twice():
    inputs = [keras.Input((2,)) for _ in range(3)]
    y = inputs[0] * (ops.sigmoid(inputs[0]) * (inputs[1] * 2.0 * inputs[2]))
    graph = canonize(keras.Model(inputs, y))
    assert canonize(graph).sites == graph.sites


# Gates.


def signals(function, count=3, shape=(2,)):
    """For every product of a model after canonization, the positions of its signals and the number of factors."""
    inputs = [keras.Input(shape) for _ in range(count)]
    graph = canonize(keras.Model(inputs, function(*inputs)))
    facts = Facts(graph)
    return [(facts.signals(s), len(s.inputs)) for s in graph.sites if isinstance(s.operation, Product)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b, c: ops.sigmoid(a) * b * c, [((1, 2), 3)]),
        (lambda a, b, c: b * (ops.sigmoid(a) * ops.tanh(c)), [((0,), 3)]),
        (lambda a, b, c: ops.sigmoid(a) * ops.sigmoid(b) * ops.sigmoid(c), [((0, 1, 2), 3)]),
        (lambda a, b, c: ops.sigmoid(a) * (ops.sigmoid(b) * c), [((2,), 3)]),
        (lambda a, b, c: ops.tanh(a) * ops.tanh(b) * c, [((2,), 3)]),
        (lambda a, b, c: ops.silu(a) * b, [((1,), 2)]),
        (lambda a, b, c: ops.gelu(a) * ops.sigmoid(b), [((0,), 2)]),
        (lambda a, b, c: ops.relu(a) * b, [((0, 1), 2)]),
        (lambda a, b, c: (1.0 - ops.sigmoid(a)) * b, [((1,), 2)]),
        (lambda a, b, c: a * ops.cast(b > 0.5, "float64"), [((0,), 2)]),
        (lambda a, b, c: a * ops.where(b > 0.5, ops.sigmoid(c), 0.0), [((0,), 2)]),
        (lambda a, b, c: a * ops.sum(b, axis=-1, keepdims=True), [((0,), 2)]),
        (lambda a, b, c: a * b * ops.sum(c, axis=-1, keepdims=True), [((0, 1), 3)]),
    ],
)
def test_gates_and_signals(function, expected):
    assert signals(function) == expected


@pytest.mark.parametrize(
    "silu",
    [
        lambda a, b: a * ops.sigmoid(a) * b,
        lambda a, b: a * (ops.sigmoid(a) * b),
        lambda a, b: b * ops.sigmoid(a) * a,
        lambda a, b: layers.Multiply()([a, b, ops.sigmoid(a)]),
        lambda a, b: layers.Multiply()([b, a * ops.sigmoid(a)]),
    ],
)
def test_a_silu_spelt_out_is_one_gate_of_a_gated_linear_unit(silu):
    """As `ops.silu(a) * b`: all to b by default; half each, and all of a's half to a, with uniform gates."""
    x = [[[2.0]], [[3.0]]]
    z = 2 / (1 + np.exp(-2)) * 3
    for function in (silu, lambda a, b: ops.silu(a) * b):
        model = model_of(lambda xs, f=function: f(*xs), (1,), (1,))
        np.testing.assert_allclose(np.ravel(explain(model, x)), [0, z])
        np.testing.assert_allclose(np.ravel(explain(model, x, gate="uniform")), [z / 2, z / 2])


def test_several_signals_share_what_a_gate_gets_none_of():
    model = model_of(lambda xs: ops.sigmoid(xs[0]) * xs[1] * xs[2], (1,), (1,), (1,))
    found = np.ravel(explain(model, [[[0.0]], [[3.0]], [[4.0]]]))
    np.testing.assert_allclose(found, [0, 3, 3])
    rules = [b.rule for b in revgraph.create_analyzer("lrp.epsilon", model).bound]
    assert Equal((1, 2)) in rules and Only(1) not in rules


def test_relevance_of_factors_whose_size_is_not_known_is_summed(rng):
    a, b = keras.Input((None, 3)), keras.Input((None, 3))
    y = layers.Dense(2, use_bias=False)(ops.sum(a * b, axis=1))
    model = keras.Model([a, b], y)
    x = [rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 1, 3))]
    for selection in (1, np.tile([0, 1], (2, 1)), None):
        one, two = revgraph.create_analyzer("lrp.z", model).record(x).analyze(selection)
        assert one.shape[-2:] == (4, 3) and two.shape[-2:] == (1, 3)
        np.testing.assert_allclose(one.sum((-1, -2)), two.sum((-1, -2)), rtol=1e-6)


def test_the_innvestigate_convention_keeps_its_numbers():
    """Gradients, times the input: every factor gets it all."""
    model = model_of(lambda xs: layers.Dense(1, use_bias=False)(xs[0] * xs[1] * xs[2]), (1,), (1,), (1,))
    model.set_weights([np.array([[1.0]])])
    found = np.ravel(explain(model, [[[2]], [[3]], [[4]]], name="lrp.z", convention="innvestigate"))
    np.testing.assert_allclose(found, [24 * 12, 24 * 8, 24 * 6])
