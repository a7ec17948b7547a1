"""Operations that merge tensors: sums, products, gates, products of matrices."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph
from revgraph.canonize import canonize
from revgraph.graph.analysis import Facts
from revgraph.graph.operations import Product, Sum
from revgraph.read import trace
from revgraph.reverse_rules import Bilinear, Equal, Only, Unreached, Z
from tests.models import inputs_of, randomized

pytestmark = pytest.mark.usefixtures("float64")

PRECISE = Z(epsilon=1e-300)


def explain(name, model, x, selection=1, **options):
    return revgraph.create_analyzer(name, model, **options).record(x).analyze(selection)


def same(actual, desired, rtol=1e-9):
    several = isinstance(desired, list)
    for a, b in zip(actual, desired, strict=True) if several else [(actual, desired)]:
        np.testing.assert_allclose(np.asarray(a), b, rtol=rtol, atol=1e-12)


def two_branches(merge, shape=(4,), other=None):
    """Two inputs, each through a linear layer, merged, and a linear layer."""
    a, b = keras.Input(shape, name="a"), keras.Input(other or shape, name="b")
    x = merge(layers.Dense(shape[-1])(a), layers.Dense((other or shape)[-1])(b))
    return randomized(keras.Model([a, b], layers.Dense(2)(layers.Flatten()(x))))


MERGES = {
    "Add": lambda a, b: layers.Add()([a, b]),
    "Subtract": lambda a, b: layers.Subtract()([a, b]),
    "Average": lambda a, b: layers.Average()([a, b]),
    "Maximum": lambda a, b: layers.Maximum()([a, b]),
    "Minimum": lambda a, b: layers.Minimum()([a, b]),
    "Concatenate": lambda a, b: layers.Concatenate()([a, b]),
    "three": lambda a, b: layers.Add()([a, b, a]),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "ops.add": ops.add,
    "ops.subtract": ops.subtract,
    "ops.maximum": ops.maximum,
    "ops.minimum": ops.minimum,
    "ops.concatenate": lambda a, b: ops.concatenate([a, b], axis=-1),
    "ops.stack": lambda a, b: ops.stack([a, b], axis=1),
    "ops.where": lambda a, b: ops.where(a > b, a, b),
    "constants": lambda a, b: (a * 2.0 - 1.0) / np.arange(1.0, 5.0) + (3.0 - b),
}


@pytest.mark.parametrize("name", MERGES)
def test_sums_and_selections(name):
    """Linear in pieces: LRP-0 is input times gradient."""
    model = two_branches(MERGES[name])
    x = inputs_of(model)
    same(canonize(model)(x), model(x))
    same(explain("lrp", model, x, rule=PRECISE), explain("input_t_gradient", model, x))


@pytest.mark.parametrize("name", ["Add", "Subtract", "Maximum", "Multiply"])
def test_merging_tensors_of_different_rank(name):
    """Keras puts the missing axes behind the batch axis, where NumPy would put them in front."""
    model = two_branches(lambda a, b: getattr(layers, name)()([a, b]), (3, 4), (4,))
    x = inputs_of(model)
    same(trace(model)(x), model(x))
    same(canonize(model)(x), model(x))
    if name != "Multiply":
        same(explain("lrp", model, x, rule=PRECISE), explain("input_t_gradient", model, x))


def test_what_is_broadcast_gets_the_sum():
    model = two_branches(lambda a, b: layers.Add()([a, b]), (3, 4), (1, 4))
    x = inputs_of(model)
    same(explain("lrp", model, x, rule=PRECISE), explain("input_t_gradient", model, x))
    for add in ("equal", "z_plus", "identity"):
        shapes = [r.shape for r in explain("lrp.epsilon", model, x, add=add)]
        assert shapes == [(3, 3, 4), (3, 1, 4)]


@pytest.mark.parametrize("merge", [lambda x: layers.Add()([x, x]), lambda x: x + x, lambda x: x * x], ids="abc")
def test_a_tensor_merged_with_itself(merge):
    """Each occurrence has a gradient of its own; once they were counted twice."""
    inputs = keras.Input((3,))
    model = randomized(keras.Model(inputs, layers.Dense(2)(merge(inputs))))
    x = inputs_of(model)
    slope = 2 * x if isinstance(trace(model).sites[0].operation, Product) else 2
    expected = slope * model.layers[-1].kernel.numpy()[:, 1] * np.ones_like(x)
    same(explain("gradient", model, x), expected)
    ledger = revgraph.create_analyzer("lrp.epsilon", model).conservation(x, 1)
    assert np.abs(ledger.other).max() < 1e-9


# Residual sums.


def residual(projection=False):
    """x + branch(x), x of shape (2,), the branch [1, 1] W with W = [[1, 0], [0, 3]]; a head that adds up."""
    inputs = keras.Input((2,))
    branch = layers.Dense(2, use_bias=False, name="second")(layers.Dense(2, use_bias=False, name="first")(inputs))
    shortcut = layers.Dense(2, use_bias=False, name="shortcut")(inputs) if projection else inputs
    x = layers.Add(name="add")([branch, shortcut])
    model = keras.Model(inputs, layers.Dense(1, use_bias=False, name="head")(x))
    weights = {"first": np.eye(2), "second": np.diag([1.0, 3.0]), "shortcut": np.eye(2), "head": np.ones((2, 1))}
    for name, value in weights.items():
        if projection or name != "shortcut":
            model.get_layer(name).set_weights([value])
    return model


@pytest.mark.parametrize("projection", [False, True])
def test_ways_to_share_relevance_between_branch_and_shortcut(projection):
    """At x = [1, 2] the sum is [1, 6] + [1, 2] = [2, 8], and relevance above it is the same."""
    model, x = residual(projection), np.array([[1.0, 2.0]])

    def at(name, add):
        analyzer = revgraph.create_analyzer("lrp.epsilon", model, add=add, epsilon=1e-12)
        return analyzer.analyze(x, return_layers=[name])[1][name]

    for add, above_branch in {"proportional": [1, 6], "equal": [1, 4], "identity": [0, 0], "z_plus": [1, 6]}.items():
        same(at("second", add), np.array([above_branch]), rtol=1e-6)
        same(explain("lrp.epsilon", model, x, 0, add=add), np.array([[2, 8]]), rtol=1e-6)


def test_z_plus_on_the_summands():
    """[3, -2] + [-1, -1] = [2, -3]: the positive summand gets all; where there is none, nothing is shared out."""
    a, b = keras.Input((2,)), keras.Input((2,))
    model = keras.Model([a, b], layers.Dense(1, use_bias=False)(layers.Add()([a, b])))
    model.set_weights([np.array([[1.0], [0.0]])])
    x = [np.array([[3.0, -2.0]]), np.array([[-1.0, -1.0]])]
    first, second = explain("lrp.epsilon", model, x, 0, add="z_plus")
    same(first, np.array([[2, 0]]), rtol=1e-6)
    same(second, np.array([[0, 0]]))


def test_the_shortcut_is_found_in_the_graph():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, name="stem")(inputs)
    for i in range(3):
        y = layers.Conv2D(2, 3, padding="same")(layers.ReLU()(x))
        y = layers.Conv2D(2, 3, padding="same")(layers.BatchNormalization()(y))
        shortcut = layers.Conv2D(2, 1)(x) if i == 1 else x
        x = layers.Add(name=f"add{i}")([shortcut, y] if i else [y, shortcut])
    parallel = layers.Add(name="parallel")([layers.Conv2D(2, 3)(x), layers.Conv2D(2, 3)(x)])
    graph = canonize(keras.Model(inputs, parallel))
    facts = Facts(graph)
    found = {s.path: facts.identity_branch(s) for s in graph.sites if isinstance(s.operation, Sum)}
    assert found == {"add0": 1, "add1": 0, "add2": 0, "parallel": None}


@pytest.mark.parametrize("options", [{"add": "half"}, {"gate": "none"}])
def test_unknown_ways_to_share(options):
    with pytest.raises(ValueError, match="is one of '.*Received"):
        revgraph.create_analyzer("lrp.epsilon", residual(), **options)


# Gates.


def gated(gate, shape=(4,)):
    """A network in which `gate(x)` stands between two linear layers."""
    inputs = keras.Input(shape)
    x = gate(layers.Dense(4, name="signal")(inputs))
    return randomized(keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x))))


def squeeze_and_excite(x):
    gate = layers.GlobalAveragePooling1D(keepdims=True)(x)
    gate = layers.Dense(4, activation="sigmoid", name="excite")(
        layers.Dense(2, activation="relu", name="squeeze")(gate)
    )
    return layers.Multiply()([gate, x])


def attended(x):
    weights = layers.Softmax(axis=1)(layers.Dense(1, name="score")(x))
    return ops.sum(weights * x, axis=1)


GATES = {
    "swish": (lambda x: x * ops.sigmoid(x), (4,)),
    "sigmoid first": (lambda x: layers.Multiply()([layers.Activation("sigmoid")(x), x]), (4,)),
    "hard swish": (lambda x: x * ops.relu6(x + 3.0) / 6.0, (4,)),
    "hard swish of layers": (lambda x: layers.Multiply()([x, layers.ReLU(6.0)(x + 3.0) * (1 / 6)]), (4,)),
    "gelu": (lambda x: 0.5 * x * (1.0 + ops.erf(x / 2**0.5)), (4,)),
    "gelu by tanh": (lambda x: 0.5 * x * (1.0 + ops.tanh(0.8 * (x + 0.045 * ops.power(x, 3)))), (4,)),
    "mish": (lambda x: x * ops.tanh(ops.softplus(x)), (4,)),
    "gated linear unit": (lambda x: x[..., :2] * ops.sigmoid(x[..., 2:]), (4,)),
    "glu": (lambda x: ops.glu(x), (4,)),
    "squeeze and excite": (squeeze_and_excite, (3, 4)),
    "attention": (attended, (3, 4)),
    "residual gate": (lambda x: x * (1.0 + ops.sigmoid(layers.Dense(4, name="gate")(x))), (4,)),
    "broadcast": (lambda x: x * layers.Dense(1, name="gate")(x), (4,)),
    "two gates": (lambda x: layers.Multiply()([ops.sigmoid(x), x, ops.hard_sigmoid(x)]), (4,)),
    "tanh and sigmoid": (lambda x: ops.tanh(x) * ops.sigmoid(layers.Dense(4, name="gate")(x)), (4,)),
    "quotient": (lambda x: x / (1.0 + ops.exp(-x)), (4,)),
}
if not hasattr(ops, "glu"):
    del GATES["glu"]


@pytest.mark.parametrize("name", GATES)
def test_all_relevance_goes_to_the_signal(name):
    """What comes out of a gate goes back to the signal, and layers that only make the gate get none."""
    gate, shape = GATES[name]
    model = gated(gate, shape)
    x = inputs_of(model)
    same(canonize(model)(x), model(x))
    analyzer = revgraph.create_analyzer("lrp.epsilon_IB", model)
    for bound in analyzer.bound:
        if bound.site.path in ("gate", "gate/sigmoid", "squeeze", "excite", "score"):
            assert isinstance(bound.rule, Unreached)
    ledger = analyzer.conservation(x, 1)
    assert np.abs(ledger.other).max() < 1e-9 * np.abs(ledger.start).max()
    # Stabilisers take the rest.
    np.testing.assert_allclose(ledger.input + ledger.stabiliser, ledger.start, rtol=1e-10)
    np.testing.assert_allclose(ledger.input, ledger.start, rtol=1e-3)


def test_swish_passes_relevance_like_an_activation():
    x = inputs_of(gated(lambda x: x * ops.sigmoid(x)))
    written, layer = (gated(g) for g in (lambda x: x * ops.sigmoid(x), layers.Activation("silu")))
    same(explain("lrp.alpha_1_beta_0", written, x), explain("lrp.alpha_1_beta_0", layer, x))


def test_gates_need_no_rules_of_their_own():
    """An operation that has no rule is an error only where relevance comes to it."""

    def standardized(x):
        return (x - ops.mean(x, axis=-1, keepdims=True)) / (ops.std(x, axis=-1, keepdims=True) + 1e-3)

    model = gated(standardized)
    x = inputs_of(model)
    assert np.isfinite(explain("lrp.epsilon", model, x)).all()
    with pytest.raises(ValueError, match="No rule for .*cumprod"):
        revgraph.create_analyzer("lrp.epsilon", gated(lambda x: ops.cumprod(x, axis=-1)))


def test_the_signal_of_a_product_shows_in_the_summary():
    analyzer = revgraph.create_analyzer("lrp.epsilon", gated(squeeze_and_excite, (3, 4)))
    rules = {b.site.operation.label: b.rule for b in analyzer.bound}
    assert rules["Product"] == Only(1)
    uniform = revgraph.create_analyzer("lrp.epsilon", gated(squeeze_and_excite, (3, 4)), gate="uniform")
    rules = {b.site.operation.label: b.rule for b in uniform.bound}
    assert rules["Product"] == Equal()


def test_where_no_factor_is_the_gate_all_get_the_same():
    model = two_branches(lambda a, b: a * b)
    x = inputs_of(model)
    analyzer = revgraph.create_analyzer("lrp.epsilon_IB", model)
    assert [b.rule for b in analyzer.bound if isinstance(b.site.operation, Product)] == [Equal()]
    a, b = analyzer.record(x).analyze(1)
    # The stabiliser, 1e-7, takes another share of either.
    np.testing.assert_allclose(a.sum(axis=1), b.sum(axis=1), rtol=1e-5)


def test_uniform_gates_share_with_the_gate():
    """R / 2 to the signal, R / 2 to the gate."""
    a, b = keras.Input((1,)), keras.Input((1,))
    model = keras.Model([a, b], layers.Dense(1, use_bias=False)(a * ops.sigmoid(b)))
    model.set_weights([np.array([[4.0]])])
    x = [np.array([[3.0]]), np.array([[0.0]])]
    same(explain("lrp.epsilon", model, x, 0), [[[6.0]], [[0.0]]], rtol=1e-6)
    same(explain("lrp.epsilon", model, x, 0, gate="uniform"), [[[3.0]], [[3.0]]], rtol=1e-6)


# Products of two tensors.

CONTRACTIONS = {
    "Dot": (lambda a, b: layers.Dot(axes=(2, 2))([a, b]), "bij,bkj->bik"),
    "matmul": (lambda a, b: ops.matmul(a, ops.transpose(b, (0, 2, 1))), "bij,bkj->bik"),
    "einsum": (lambda a, b: ops.einsum("bij,bkj->bik", a, b), "bij,bkj->bik"),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_products_of_matrices_give_half_to_each(name):
    """R_ij = 1/2 sum_k a_ij b_kj / z_ik R_ik, written out."""
    function, equation = CONTRACTIONS[name]
    a, b = keras.Input((2, 3)), keras.Input((4, 3))
    model = keras.Model([a, b], layers.Flatten()(function(a, b)))
    x = inputs_of(model)
    same(canonize(model)(x), model(x))
    z = np.einsum(equation, *x)
    share = np.zeros_like(z)
    share.reshape(3, -1)[:, 1] = z.reshape(3, -1)[:, 1]
    share = share / z
    expected = [
        0.5 * x[0] * np.einsum("bik,bkj->bij", share, x[1]),
        0.5 * x[1] * np.einsum("bik,bij->bkj", share, x[0]),
    ]
    # The rule of products has a stabiliser of its own, 1e-7.
    same(explain("lrp.epsilon", model, x, epsilon=1e-12), expected, rtol=1e-6)


def test_attention_weights_count_as_constants():
    """softmax(q k) v: all relevance to v; half each with gate="uniform"."""
    inputs = keras.Input((3, 4))
    query, key, value = (layers.Dense(4, name=n, use_bias=False)(inputs) for n in ("query", "key", "value"))
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))) / 2.0)
    model = randomized(
        keras.Model(inputs, layers.Dense(2, use_bias=False)(layers.Flatten()(ops.matmul(weights, value))))
    )
    x = inputs_of(model)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    rules = {b.site.path: b.rule for b in analyzer.bound}
    assert isinstance(rules["query"], Unreached) and isinstance(rules["key"], Unreached)
    assert Bilinear(1) in rules.values()
    uniform = revgraph.create_analyzer("lrp.epsilon", model, gate="uniform")
    for ledger in analyzer.conservation(x, 1), uniform.conservation(x, 1):
        np.testing.assert_allclose(ledger.input + ledger.stabiliser, ledger.start, rtol=1e-10)
        np.testing.assert_allclose(ledger.input, ledger.start, rtol=1e-5)


def test_cosine_similarity():
    """Normalized factors: their norms count as constants."""
    a, b = keras.Input((3, 4)), keras.Input((2, 4))
    x = layers.Dot(axes=(2, 2), normalize=True)([a, b])
    model = randomized(keras.Model([a, b], layers.Dense(2, use_bias=False)(layers.Flatten()(x))))
    x = inputs_of(model)
    same(canonize(model)(x), model(x))
    ledger = revgraph.create_analyzer("lrp.epsilon", model).conservation(x, 1)
    np.testing.assert_allclose(ledger.input + ledger.stabiliser, ledger.start, rtol=1e-10)
    np.testing.assert_allclose(ledger.input, ledger.start, rtol=1e-5)


def test_products_with_constant_matrices_are_linear_layers():
    kernel = np.random.default_rng(0).normal(size=(3, 3))
    for function in (
        lambda x: ops.matmul(x, kernel),
        lambda x: ops.matmul(kernel, x),
        lambda x: ops.einsum("bij,jk->bik", x, kernel),
        lambda x: ops.einsum("ji,bjk->bik", kernel, x),
    ):
        inputs = keras.Input((3, 3))
        model = randomized(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(function(inputs)))))
        x = inputs_of(model)
        same(canonize(model)(x), model(x))
        same(explain("lrp", model, x, rule=PRECISE), explain("input_t_gradient", model, x))
