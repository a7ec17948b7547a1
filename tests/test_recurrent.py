"""LRP through recurrent layers and loops: worked numbers, unrolled layers, gradient forms, ledgers, bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import composites, rules
from revgraph.canonize import canonize
from revgraph.composites import Composite, NotAnalyzeableModelException
from revgraph.graph.analysis import Facts
from revgraph.graph.operations import Joined
from revgraph.reverse.loops import EAGER_TURNS
from tests.models import randomized
from tests.test_attention import det

pytestmark = pytest.mark.usefixtures("float64")

STEPS, FEATURES = 5, 3
TINY = rules.Epsilon(1e-30)


def network(*middle, shape=(STEPS, FEATURES)):
    """Layers, with two outputs behind them, and random weights."""
    x = y = keras.Input(shape)
    for layer in middle:
        y = layer(y)
    y = layers.Flatten()(y) if len(y.shape) > 2 else y
    return randomized(keras.Model(x, layers.Dense(2)(y)))


def explained(model, x, index=1, rule=TINY, **options):
    return revgraph.create_analyzer("lrp", model, rule=rule, **options).record(x).analyze(index)


def inside(analyzer, operation=Joined):
    """The sites inside of loops that relevance passes, with their rules."""
    flat = [each for bound in analyzer.bound for each in bound.flat()]
    return [b for b in flat if isinstance(b.site.operation, operation) and not isinstance(b.rule, rules.Unreached)]


def check_ledger(ledger):
    assert np.all(np.abs(ledger.other) <= 1e-9 * ledger.magnitude)


# Worked numbers. The weights are sin(1 + 0.7 k), row by row.


@pytest.mark.parametrize(
    ("epsilon", "steps"),
    [
        (1e-30, [-0.08816171, -0.02015176, 0.09668168, -0.14221202]),
        (1e-3, [-0.08584831, -0.0192046, 0.0944806, -0.14168295]),
    ],
)
def test_lstm_by_hand(epsilon, steps):
    """One stabiliser holds for every denominator of the loop: those of cells, and those of sums of states."""
    x = keras.Input((4, 3))
    model = keras.Model(x, layers.LSTM(2)(x))
    bias = np.full(8, 0.1)
    bias[2:4] = 1
    model.set_weights([0.8 * det(3, 8), (0.6 * det(2, 8))[:, ::-1], bias])
    h = model(det(1, 4, 3)).numpy()
    np.testing.assert_allclose(h, [[0.01515185, -0.10398785]], atol=1e-8)
    recorded = revgraph.create_analyzer("lrp.epsilon", model, epsilon=epsilon).record(det(1, 4, 3))
    np.testing.assert_allclose(recorded.analyze(initial_relevance=h).sum(-1), [steps], atol=1e-8)


def test_gru_by_hand():
    x = keras.Input((4, 3))
    model = keras.Model(x, layers.GRU(2)(x))
    model.set_weights([0.8 * det(3, 6), (0.6 * det(2, 6))[:, ::-1], np.stack([np.full(6, 0.1), np.full(6, -0.05)])])
    h = model(det(1, 4, 3)).numpy()
    found = revgraph.create_analyzer("lrp", model, rule=TINY).record(det(1, 4, 3)).analyze(initial_relevance=h)
    np.testing.assert_allclose(found[0, 0], [-0.07349032, 0.14167563, -0.0356294], atol=1e-8)
    np.testing.assert_allclose(found.sum(), 0.232542964098, atol=1e-11)


def test_gamma_on_a_cell_is_gamma_on_one_dense_layer(rng):
    """x W + h U + b has one denominator. The oracle is a dense layer on x and h side by side, one step at a time."""
    model = network(layers.SimpleRNN(2, activation="linear"), shape=(2, FEATURES))
    x = rng.normal(size=(1, 2, FEATURES))
    w, u, b, v, c = model.get_weights()
    h1 = x[0, 0] @ w + b
    kernel = np.concatenate([w, u])

    def gamma(inputs, r):
        part = lambda k, bias: np.maximum(inputs, 0) @ k + bias  # noqa: E731
        plus, minus = (np.maximum, np.minimum)
        favoured = kernel + 0.25 * plus(kernel, 0)
        z = inputs @ kernel + b
        other = kernel + 0.25 * minus(kernel, 0)
        up = part(favoured, b + 0.25 * plus(b, 0)) + np.minimum(inputs, 0) @ other
        down = np.maximum(inputs, 0) @ other + np.minimum(inputs, 0) @ favoured + b + 0.25 * minus(b, 0)
        s, t = np.where(z > 0, r / up, 0), np.where(z < 0, r / down, 0)
        high, low = np.maximum(inputs, 0), np.minimum(inputs, 0)
        return high * (favoured @ s + other @ t) + low * (other @ s + favoured @ t)

    analyzer = revgraph.create_analyzer(
        "lrp", model, rule=Composite((Joined, rules.Gamma(0.25)), (composites.LINEAR, TINY))
    )
    h2 = np.concatenate([x[0, 1], h1]) @ kernel + b
    y = h2 @ v + c
    second = gamma(np.concatenate([x[0, 1], h1]), h2 * v[:, 1])
    first = gamma(np.concatenate([x[0, 0], np.zeros(2)]), second[FEATURES:])
    found = analyzer.record(x).analyze(1)
    np.testing.assert_allclose(model(x)[0], y, rtol=1e-12)
    np.testing.assert_allclose(found[0], [first[:FEATURES], second[:FEATURES]], rtol=1e-6, atol=1e-9)


# Loops and unrolled layers.

UNROLLED = {
    "LSTM": lambda **o: layers.LSTM(4, **o),
    "GRU": lambda **o: layers.GRU(4, return_sequences=True, **o),
    "GRU, reset before": lambda **o: layers.GRU(4, reset_after=False, go_backwards=True, **o),
    "SimpleRNN": lambda **o: layers.SimpleRNN(4, activation="relu", **o),
    "hard gates": lambda **o: layers.LSTM(4, activation="relu", recurrent_activation="hard_sigmoid", **o),
}


@pytest.mark.parametrize("gate", ["signal", "uniform"])
@pytest.mark.parametrize("name", UNROLLED)
def test_a_loop_gives_what_the_unrolled_layer_gives(name, gate, rng):
    """With steps that are masked on the right, on the left, and between others."""
    x = rng.normal(size=(3, STEPS, FEATURES))
    x[0, 3:] = x[1, :2] = x[2, 2] = 0
    looped, unrolled = (network(layers.Masking(), UNROLLED[name](unroll=unroll)) for unroll in (False, True))
    unrolled.set_weights(looped.get_weights())
    expected = explained(unrolled, x, gate=gate)
    found = explained(looped, x, gate=gate)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_array_equal(found[x == 0], 0)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet", "gradient"])
def test_methods_of_the_gradient_family_reach_the_inside_of_loops(name, rng):
    looped, unrolled = (network(UNROLLED["SimpleRNN"](unroll=unroll)) for unroll in (False, True))
    unrolled.set_weights(looped.get_weights())
    x = rng.normal(size=(2, STEPS, FEATURES))
    expected = revgraph.create_analyzer(name, unrolled).record(x).analyze(1)
    found = revgraph.create_analyzer(name, looped).record(x).analyze(1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "both ways"])
def test_deep_lift_adds_up_through_loops(name, rng):
    def layer(unroll):
        if name == "both ways":
            return layers.Bidirectional(layers.LSTM(3, unroll=unroll))
        return getattr(layers, name)(3, unroll=unroll)

    looped, unrolled = (network(layer(unroll)) for unroll in (False, True))
    unrolled.set_weights(looped.get_weights())
    x, reference = rng.normal(size=(2, STEPS, FEATURES)), rng.normal(size=(STEPS, FEATURES))
    analyzers = [revgraph.create_analyzer("deep_lift", m, reference_inputs=reference) for m in (looped, unrolled)]
    found, expected = (a.record(x).analyze(1) for a in analyzers)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
    difference = (looped(x) - looped(reference[None])).numpy()[:, 1]
    np.testing.assert_allclose(found.sum((1, 2)), difference, rtol=1e-9, atol=1e-13)


# Gradient forms: where every stabiliser is 0, relevance is input times the gradient of the pass with stopped gates.

stop = tf.stop_gradient


def passing(z):
    """tanh, through which relevance passes unchanged."""
    return z * stop(tf.tanh(z) / z)


def lstm_form(x, weights, units):
    w, u, b = weights
    h = c = tf.zeros((len(x), units), x.dtype)
    for t in range(x.shape[1]):
        i, f, g, o = tf.split(x[:, t] @ w + h @ u + b, 4, axis=1)
        c = stop(tf.sigmoid(f)) * c + stop(tf.sigmoid(i)) * passing(g)
        h = stop(tf.sigmoid(o)) * passing(c)
    return h


def gru_form(x, weights, units):
    w, u, (b, a) = weights
    h = tf.zeros((len(x), units), x.dtype)
    for t in range(x.shape[1]):
        (xz, xr, xh), (hz, hr, hh) = tf.split(x[:, t] @ w + b, 3, axis=1), tf.split(h @ u + a, 3, axis=1)
        z, r = stop(tf.sigmoid(xz + hz)), stop(tf.sigmoid(xr + hr))
        h = z * h + (1 - z) * passing(xh + r * hh)
    return h


@pytest.mark.parametrize(("layer", "form"), [(layers.LSTM, lstm_form), (layers.GRU, gru_form)])
def test_without_stabilisers_it_is_input_times_the_gradient_with_stopped_gates(layer, form, rng):
    model = network(layer(4))
    x = tf.constant(rng.normal(size=(2, STEPS, FEATURES)))
    *cell, v, _ = model.get_weights()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = (form(x, cell, 4) @ v)[:, 1]
    expected = (x * tape.gradient(y, x)).numpy()
    np.testing.assert_allclose(explained(model, x), expected, rtol=1e-8, atol=1e-11 * np.abs(expected).max())


# Every layer and every loop.


class Cell(layers.Layer):
    """A cell of one's own: a minimal gated unit."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.state_size = units
        self.new, self.gate = layers.Dense(units), layers.Dense(units)

    def build(self, shape):
        self.new.build((None, shape[-1]))
        self.gate.build((None, shape[-1] + self.state_size))

    def call(self, x, states):
        (h,) = states
        gate = ops.sigmoid(self.gate(ops.concatenate([x, h], -1)))
        h = gate * h + (1 - gate) * ops.tanh(self.new(x))
        return h, [h]


class Scan(layers.Layer):
    """A recurrent layer by `keras.ops.scan`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.w, self.u = layers.Dense(4), layers.Dense(4)

    def build(self, shape):
        self.w.build((None, shape[-1]))
        self.u.build((None, 4))

    def call(self, x):
        def step(h, xt):
            h = ops.tanh(self.w(xt) + self.u(h))
            return h, h

        first = ops.zeros((ops.shape(x)[0], 4), x.dtype)
        return ops.transpose(ops.scan(step, first, ops.transpose(x, (1, 0, 2)))[1], (1, 0, 2))


class Again(layers.Layer):
    """A layer that is applied again and again, by one of the loops of `keras.ops`."""

    def __init__(self, how, **options):
        super().__init__(**options)
        self.how, self.dense = how, layers.Dense(FEATURES)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        if self.how == "fori":
            return ops.fori_loop(0, 3, lambda i, h: h + ops.tanh(self.dense(h)), x)
        return ops.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, ops.relu(self.dense(h))), (0, x))[1]


def bidirectional(**options):
    return lambda x: layers.Bidirectional(layers.GRU(3, **options.pop("of", {})), **options)(x)


EVERY = {
    "stacked": lambda x: layers.GRU(3)(layers.LSTM(4, return_sequences=True)(x)),
    "stacked cells": lambda x: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)]))(x),
    "own cell": lambda x: layers.RNN(Cell(4), return_sequences=True)(x),
    "both ways": lambda x: layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Masking()(x)),
    "both ways, mul": bidirectional(merge_mode="mul"),
    "both ways, ave, own": lambda x: layers.Bidirectional(
        layers.GRU(3), merge_mode="ave", backward_layer=layers.LSTM(3, go_backwards=True)
    )(x),
    "encoder": lambda x: layers.LSTM(4)(x[:, :2], initial_state=layers.LSTM(4, return_state=True)(x)[1:]),
    "states": lambda x: layers.Concatenate()(layers.LSTM(4, return_state=True, dropout=0.2)(x)),
    "convolutions": lambda x: layers.ConvLSTM1D(2, 2, padding="same")(layers.Reshape((STEPS, 3, 1))(x)),
    "distributed": lambda x: layers.TimeDistributed(layers.LSTM(2))(layers.Reshape((STEPS, 3, 1))(x)),
    "scan": lambda x: Scan()(x),
    "fori": lambda x: Again("fori")(x),
    "while": lambda x: Again("while")(x),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_layer_closes_the_ledger_and_a_batch_is_its_samples(name, rng):
    model = network(EVERY[name])
    x = rng.normal(size=(2, STEPS, FEATURES))
    x[1, 3:] = 0
    analyzer = revgraph.create_analyzer("lrp.gamma", model)
    found = analyzer.record(x).analyze(1)
    ledger = analyzer.conservation(x, 1)
    check_ledger(ledger)
    assert np.abs(found).max() > 1e-6
    np.testing.assert_allclose(found.sum((1, 2)), ledger.input, rtol=1e-8, atol=1e-10)
    alone = np.concatenate([analyzer.record(x[i : i + 1]).analyze(1) for i in range(2)])
    np.testing.assert_allclose(found, alone, rtol=1e-9, atol=1e-12)


def test_compiled_for_any_length_and_several_targets_and_exported_is_in_memory(rng, tmp_path):
    x = keras.Input((None, FEATURES))
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    h = layers.GRU(3)(Scan()(h))
    model = randomized(keras.Model(x, layers.Dense(2)(h)))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    model.export(str(tmp_path / "m"))
    exported = revgraph.create_analyzer("lrp.epsilon", revgraph.load_model(str(tmp_path / "m")))
    for steps in (2, 6):
        data = rng.normal(size=(2, steps, FEATURES))
        found = analyzer.record(data).analyze(1)
        np.testing.assert_allclose(analyzer.analyze(data, 1), found, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(exported.record(data).analyze(1), found, rtol=1e-9, atol=1e-13)
    several = analyzer.analyze(data, [[0, 1], [1, 1]])
    np.testing.assert_allclose(several[:, 1], found, rtol=1e-9, atol=1e-13)


def test_weights_are_live_and_a_recorded_pass_keeps_its_own(rng):
    model, x = network(layers.LSTM(3)), rng.normal(size=(2, STEPS, FEATURES))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    recorded = analyzer.record(x)
    before = recorded.analyze(1)
    model.set_weights([1.5 * w for w in model.get_weights()])
    np.testing.assert_array_equal(recorded.analyze(1), before)
    after = revgraph.create_analyzer("lrp.epsilon", model).record(x).analyze(1)
    np.testing.assert_array_equal(analyzer.record(x).analyze(1), after)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_explained_in_float32(policy, rng):
    x = rng.normal(size=(2, STEPS, FEATURES)).astype("float32")
    plain, mixed = (
        keras.Sequential(
            [keras.Input((STEPS, FEATURES), dtype="float32"), layers.LSTM(3, dtype=d), layers.Dense(2, dtype=d)]
        )
        for d in ("float32", policy)
    )
    randomized(plain)
    mixed.set_weights(plain.get_weights())
    found, expected = (revgraph.create_analyzer("lrp.epsilon", m) for m in (mixed, plain))
    np.testing.assert_allclose(found.record(x).analyze(1), expected.record(x).analyze(1), rtol=1e-4, atol=1e-6)
    check_ledger(found.conservation(x, 1))


def test_a_stateful_layer_is_explained_from_its_states_which_are_constants(rng):
    x = rng.normal(size=(1, STEPS, FEATURES))
    inputs = keras.Input((STEPS, FEATURES), batch_size=1)
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.LSTM(3, stateful=True)(inputs))))
    model(x)
    ledger = revgraph.create_analyzer("lrp.epsilon", model).conservation(x, 1)
    check_ledger(ledger)
    assert np.abs(ledger.constants) > 1e-4
    np.testing.assert_allclose(ledger.start, model.predict(x, verbose=0)[:, 1], rtol=1e-6)


def test_tokens_behind_a_mask(rng):
    ids = keras.Input((None,), dtype="int32")
    h = layers.Bidirectional(layers.LSTM(3))(layers.Embedding(9, 4, mask_zero=True)(ids))
    model = randomized(keras.Model(ids, layers.Dense(2)(h)))
    x = np.int32([[3, 8, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    found = revgraph.create_analyzer("lrp.epsilon", model).record(x).analyze(1)
    np.testing.assert_array_equal(found != 0, x != 0)
    short = revgraph.create_analyzer("lrp.epsilon", model).record(x[:1, :3]).analyze(1)
    np.testing.assert_allclose(found[:1, :3], short, rtol=1e-9)


# The ledger over time.


def test_the_ledger_over_time(rng):
    model = network(layers.LSTM(3, name="memory"), layers.Reshape((3, 1)), layers.GRU(2, name="second"))
    x = rng.normal(size=(2, STEPS, FEATURES))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model, epsilon=1e-2)
    ledger = analyzer.conservation(x, 1)
    steps = ledger.over_time("memory")
    assert steps.start.shape == (2, STEPS)
    np.testing.assert_allclose(steps.start, steps.input + steps.states + steps.absorbed, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(steps.input, analyzer.record(x).analyze(1).sum(-1), rtol=1e-8, atol=1e-12)
    # What a step hands back arrives at the step in front of it.
    np.testing.assert_allclose(steps.states[:, 1:], steps.start[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(steps.states[:, 0], 0, atol=1e-15)
    np.testing.assert_allclose(ledger[1].over_time("memory").input, steps.input[1:])
    assert ledger.over_time("second").start.shape == (2, 3)
    assert "memory/while" in str(steps) and len(steps.plot().axes) == 2
    with pytest.raises(KeyError, match="no loop that is named 'other'. It passed .*'memory/while'"):
        ledger.over_time("other")


def test_the_relevance_inside_of_a_loop_is_returned_for_every_turn(rng):
    model = network(layers.LSTM(3, name="memory"))
    x = rng.normal(size=(2, STEPS, FEATURES))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    relevance, at = analyzer.analyze(x, 1, return_layers=["memory/lstm_cell", "memory"])
    of_input, of_state = at["memory/lstm_cell"]
    np.testing.assert_allclose(of_input, relevance, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(at["memory"], relevance)
    _, cell = analyzer.analyze(x, 1, return_layers="memory/lstm_cell", layers_at="output")
    z = cell["memory/lstm_cell"]
    assert of_state.shape == (2, STEPS, 3) and z.shape == (2, STEPS, 12)
    # The candidate of an LSTM has the third quarter of the units. The rest are gates, and get nothing.
    assert np.all(z[..., :6] == 0) and np.all(z[..., 9:] == 0) and np.any(z[..., 6:9])
    with pytest.raises(KeyError, match="no layer 'memory/cell'"):
        analyzer.analyze(x, 1, return_layers="memory/cell")


@pytest.mark.parametrize("steps", [EAGER_TURNS, EAGER_TURNS + 1])
def test_the_ledger_of_many_turns_is_compiled_and_says_the_same(steps, rng):
    x = keras.Input((steps, FEATURES))
    h = layers.LSTM(3, name="memory", return_sequences=True)(x)
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(h))))
    data = rng.normal(size=(2, steps, FEATURES))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model, epsilon=1e-2)
    ledger = analyzer.conservation(data, 1)
    check_ledger(ledger)
    found = analyzer.record(data).analyze(1)
    np.testing.assert_allclose(ledger.over_time("memory").input, found.sum(-1), rtol=1e-8, atol=1e-12)
    assert np.abs(ledger.bias).min() > 1e-6 and np.abs(ledger.stabiliser).min() > 1e-6


class Until(layers.Layer):
    """Doubles its input until an entry is large, which a batch may need no turn for."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(FEATURES, kernel_initializer=keras.initializers.Identity(2.0), name="d")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.while_loop(lambda h: ops.max(ops.abs(h)) < 8.0, lambda h: (self.dense(h),), (x,))[0]


def test_a_loop_may_have_no_turn_and_batches_may_have_different_numbers_of_turns():
    x = keras.Input((FEATURES,))
    model = keras.Model(x, layers.Dense(2)(Until(name="until")(x)))
    data = np.array([[1.0, 0.5, -0.5], [3.0, 1.0, 1.0]])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    none = analyzer.conservation(9 * data, 1)
    check_ledger(none)
    np.testing.assert_allclose(none.input + none.stabiliser, none.start, rtol=1e-12)
    relevance, at = analyzer.analyze(data, 1, batch_size=1, return_layers="until/d")
    (turns,) = at.values()
    assert turns.shape == (2, 3, FEATURES) and not turns[1, 2].any() and turns[1, 1].any()
    np.testing.assert_allclose(turns[:, 0], relevance, rtol=1e-9)


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.z_plus"])
def test_the_speed_layer_inside_of_loops_computes_the_formula(name, rng):
    model = network(layers.GRU(3, return_sequences=True), layers.SimpleRNN(4, activation="relu"))
    x = rng.normal(size=(2, STEPS, FEATURES))
    fast, literal = (revgraph.create_analyzer(name, model, literal=slow).record(x).analyze(1) for slow in (False, True))
    np.testing.assert_allclose(fast, literal, rtol=1e-9, atol=1e-12 * np.abs(literal).max())


# Composites.


@pytest.mark.parametrize(
    "match",
    ["memory", "memory/lstm_cell", "memory/*", layers.LSTM, lambda layer: isinstance(layer, layers.LSTM), Joined],
)
def test_entries_of_composites_name_the_inside_of_a_loop(match, rng):
    model = network(layers.LSTM(3, name="memory"))
    composite = Composite((match, rules.Gamma(0.3)), (composites.LINEAR, TINY))
    given = inside(revgraph.create_analyzer("lrp", model, rule=composite))
    assert [str(b.rule) for b in given] == ["Gamma(gamma=0.3)"] and given[0].site.path == "memory/lstm_cell"


def test_a_path_without_numbers_names_every_call_and_every_layer_of_a_cell(rng):
    """A GRU has three linear layers, of which relevance passes the candidate. A shared layer has a loop per call."""
    one, two = keras.Input((STEPS, FEATURES)), keras.Input((STEPS - 1, FEATURES))
    shared = layers.GRU(3, name="shared")
    model = randomized(keras.Model([one, two], layers.Dense(2)(layers.Subtract()([shared(one), shared(two)]))))
    composite = Composite(("shared/gru_cell", rules.Gamma(0.3)), (composites.LINEAR, TINY))
    analyzer = revgraph.create_analyzer("lrp", model, rule=composite)
    assert [str(b.rule) for b in inside(analyzer)] == ["Gamma(gamma=0.3)"] * 2
    x = [rng.normal(size=(2, *i.shape[1:])) for i in model.inputs]
    with pytest.raises(KeyError, match="'shared' is the name of 2 loops"):
        analyzer.conservation(x, 1).over_time("shared")
    with pytest.raises(KeyError, match="'shared/gru_cell' stands for 2 sites"):
        analyzer.analyze(x, 1, return_layers="shared/gru_cell")


@pytest.mark.parametrize("match", [layers.LSTMCell, "memory/lstm*"])
def test_an_entry_that_names_a_cell_gives_its_rule_to_linear_layers_alone(match, rng):
    model, x = network(layers.LSTM(3, name="memory")), rng.normal(size=(2, STEPS, FEATURES))
    named, cell = (
        revgraph.create_analyzer("lrp", model, rule=Composite((m, rules.Gamma(0.3)), (composites.LINEAR, TINY)))
        for m in (match, "memory/lstm_cell")
    )
    np.testing.assert_allclose(named.record(x).analyze(1), cell.record(x).analyze(1), rtol=1e-12)
    check_ledger(named.conservation(x, 1))


def test_several_series_in_a_sample_are_one_account_over_time(rng):
    series = keras.Input((2, STEPS, FEATURES))
    h = layers.TimeDistributed(layers.LSTM(3), name="each")(series)
    model = randomized(keras.Model(series, layers.Dense(2)(layers.Flatten()(h))))
    x = rng.normal(size=(3, 2, STEPS, FEATURES))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    steps = analyzer.conservation(x, 1).over_time("each")
    np.testing.assert_allclose(steps.input, analyzer.record(x).analyze(1).sum((1, 3)), rtol=1e-8, atol=1e-12)


def test_a_loop_counts_with_its_linear_layers(rng):
    model = network(layers.TimeDistributed(layers.Dense(2)), layers.LSTM(3))
    analyzer = revgraph.create_analyzer("lrp", model, rule=["Flat", "WSquare", "Epsilon"])
    assert [str(b.rule) for b in inside(analyzer)] == ["WSquare()"]
    first = revgraph.create_analyzer("lrp.epsilon_plus_flat", network(layers.LSTM(3)))
    assert [str(b.rule) for b in inside(first)] == ["Flat()"]
    behind = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
    assert "Flat" not in str(inside(behind)[0].rule)


def test_a_layer_of_which_only_the_shape_is_read_does_not_count(rng):
    """In front of a masked loop Keras computes one step, and takes nothing but its shape."""
    model = network(layers.Masking(), layers.LSTM(3, name="memory"))
    composite = Composite((composites.position(0), rules.Flat()), (composites.LINEAR, TINY))
    analyzer = revgraph.create_analyzer("lrp", model, rule=composite)
    given = {b.site.path: str(b.rule) for bound in analyzer.bound for b in bound.flat()}
    assert given["memory/lstm_cell"] == "Flat()" and given["memory/lstm_cell/MatMul"] == "Unreached()"
    check_ledger(analyzer.conservation(rng.normal(size=(2, STEPS, FEATURES)), 1))


def test_turns_are_for_loops_alone(rng):
    """Another site gets the next rule that matches it."""
    model = network(layers.LSTM(3, name="memory"))
    composite = Composite((composites.ANY, rules.Turns()), (composites.LINEAR, TINY))
    given = {
        type(b.rule) for bound in revgraph.create_analyzer("lrp", model, rule=composite).bound for b in bound.flat()
    }
    assert rules.Turns not in given and rules.Epsilon in given


def test_a_loop_may_be_taken_as_a_whole(rng):
    model, x = network(layers.LSTM(3, name="memory")), rng.normal(size=(2, STEPS, FEATURES))
    composite = Composite((layers.LSTM, rules.Jacobian()), (composites.LINEAR, rules.Jacobian()))
    found = revgraph.create_analyzer("lrp", model, rule=composite).record(x).analyze(1, initial_relevance=1.0)
    np.testing.assert_allclose(found, revgraph.create_analyzer("gradient", model).record(x).analyze(1), rtol=1e-9)


def test_the_affine_part_of_a_cell_is_one_site(rng):
    graph = canonize(network(layers.LSTM(3), layers.Reshape((3, 1)), layers.GRU(2)))
    labels = [site.operation.label for site in Facts(graph).linear]
    assert labels == ["Dense + Dense"] * 4 + ["Dense"]
    x = rng.normal(size=(2, STEPS, FEATURES))
    model = network(layers.GRU(2))
    np.testing.assert_allclose(canonize(model)(x), model(x), rtol=1e-10)


# Bad input.


class Unknown(Cell):
    def call(self, x, states):
        return tf.math.cumprod(x[:, :1] + states[0], axis=1), [tf.math.cumprod(x[:, :1] + states[0], axis=1)]


def test_an_operation_without_a_rule_is_named_inside_of_its_cell():
    with pytest.raises(NotAnalyzeableModelException, match=r"No rule for 'memory/strange.*Cumprod"):
        revgraph.create_analyzer("lrp.epsilon", network(layers.RNN(Unknown(3, name="strange"), name="memory")))


def test_sequences_of_no_step():
    x = keras.Input((None, FEATURES))
    model = keras.Model(x, layers.Dense(2)(layers.LSTM(3)(x)))
    with pytest.raises(ValueError, match=r"have no entries, because its shape is \(2, 0, 3\)"):
        revgraph.create_analyzer("lrp.epsilon", model).analyze(np.zeros((2, 0, FEATURES)))


def test_what_loops_do_not_take():
    model = network(layers.LSTM(3, name="memory"))
    with pytest.raises(NotAnalyzeableModelException, match="leave that argument out"):
        revgraph.create_analyzer("lrp.epsilon", model, convention="innvestigate")
    for name in ("lrp.epsilon", "gradient"):
        with pytest.raises(ValueError, match="jit_compile=True does not take 'memory/while'"):
            revgraph.create_analyzer(name, model, jit_compile=True)


def test_a_first_state_of_the_wrong_shape(rng):
    x, state = keras.Input((STEPS, FEATURES)), keras.Input((3,))
    model = keras.Model([x, state], layers.Dense(2)(layers.GRU(3)(x, initial_state=state)))
    with pytest.raises(ValueError, match="wrong shape: expected .*3.*, received .*4"):
        revgraph.create_analyzer("lrp.epsilon", model).analyze([np.ones((2, STEPS, FEATURES)), np.ones((2, 4))])
