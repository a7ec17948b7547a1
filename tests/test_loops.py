"""Loops: recurrent layers and `tf.while_loop`, read as operations with graphs inside."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import create_analyzer
from revgraph.graph.loops import Loop
from revgraph.read.savedmodel.reader import read_function

STEPS, FEATURES, BATCH = 5, 3, 4


@pytest.fixture
def exported(tmp_path):
    """Exports a model and reads it again."""

    def export(model):
        path = tmp_path / "model"
        model.export(path)
        return revgraph.load_model(path)

    return export


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def data(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def network(*middle, shape=(STEPS, FEATURES), batch=None, dtype="float64"):
    """Layers, and two outputs behind them."""
    with_dtype = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        inputs = x = keras.Input(shape, batch_size=batch, dtype=dtype)
        for layer in middle:
            x = layer()(x)
        x = layers.Flatten()(x) if None not in x.shape[1:] else layers.GlobalAveragePooling1D()(x)
        return keras.Model(inputs, layers.Dense(2)(x))
    finally:
        keras.config.set_dtype_policy(with_dtype)


def gradient(function, x, index):
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        output = function(inputs)[:, index]
    return tape.gradient(output, inputs).numpy()


def loops(graph):
    return [site for site in graph.sites if isinstance(site.operation, Loop)]


def handles(graph):
    """The dtypes of what no slot should hold: lists of tensors and handles of variables."""
    inside = [spec for site in loops(graph) for spec in handles(site.operation.body)]
    return inside + [spec.dtype for spec in graph.specs.values() if spec.dtype in ("variant", "resource")]


def check_gradients(graph, function, x, precision=1e-10, ledger=True):
    """The graph, its gradient and its ledger are those of the function."""
    np.testing.assert_allclose(graph(x), function(tf.constant(x)), rtol=precision, atol=precision)
    expected = gradient(function, x, 1)
    analyzer = create_analyzer("gradient", graph)
    np.testing.assert_allclose(analyzer.analyze(x, 1), expected, rtol=precision, atol=precision)
    product = create_analyzer("input_t_gradient", graph)
    np.testing.assert_allclose(product.analyze(x, 1), x * expected, rtol=precision, atol=precision)
    if ledger:
        summed = expected.reshape(BATCH, -1).sum(axis=1)
        np.testing.assert_allclose(analyzer.conservation(x, 1).input, summed, rtol=precision, atol=10 * precision)


RECURRENT = {
    "lstm": lambda: layers.LSTM(4),
    "lstm, all steps": lambda: layers.LSTM(4, return_sequences=True),
    "gru": lambda: layers.GRU(4, return_sequences=True),
    "gru, reset before": lambda: layers.GRU(4, reset_after=False),
    "simple": lambda: layers.SimpleRNN(4),
    "backwards": lambda: layers.GRU(4, go_backwards=True, return_sequences=True),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
    "stacked cells": lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])),
}


def at_length(names, default):
    """Parameters of a test: some by default, the others under `slow`."""
    return [name if name in default else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", at_length(RECURRENT, {"lstm", "gru", "simple", "bidirectional"}))
def test_recurrent_layers(name, exported):
    model = network(RECURRENT[name])
    graph = exported(model)
    assert len(loops(graph)) == (2 if name == "bidirectional" else 1) and handles(graph) == []
    check_gradients(graph, model, data((BATCH, STEPS, FEATURES)))


@pytest.mark.parametrize("layer", [layers.LSTM, pytest.param(layers.GRU, marks=pytest.mark.slow)])
def test_masked_steps(layer, exported):
    x = data((BATCH, STEPS, FEATURES))
    x[:2, 3:], x[2, :2] = 0, 0
    model = network(layers.Masking, lambda: layers.Bidirectional(layer(4, return_sequences=True)))
    check_gradients(exported(model), model, x)


def test_any_number_of_steps(exported):
    model = network(lambda: layers.LSTM(4, return_sequences=True), shape=(None, FEATURES))
    graph = exported(model)
    for steps in (2, 7):
        check_gradients(graph, model, data((BATCH, steps, FEATURES)))


def test_convolutions_that_recur(exported):
    model = network(lambda: layers.ConvLSTM2D(2, 2, return_sequences=True), shape=(3, 4, 4, 2))
    check_gradients(exported(model), model, data((BATCH, 3, 4, 4, 2)))


def test_the_state_of_a_stateful_layer_is_read_and_kept(exported):
    model = network(lambda: layers.LSTM(4, stateful=True), batch=BATCH, dtype="float32")
    graph = exported(model)
    x = data((BATCH, STEPS, FEATURES)).astype("float32")
    first = np.asarray(graph(x))
    np.testing.assert_array_equal(graph(x), first)
    np.testing.assert_allclose(first, model(x), rtol=1e-5)
    assert np.abs(model(x) - first).max() > 1e-4


def test_float32(exported):
    model = network(lambda: layers.LSTM(4, return_sequences=True), dtype="float32")
    x = data((BATCH, STEPS, FEATURES)).astype("float32")
    graph = exported(model)
    assert graph.dtype == "float32"
    check_gradients(graph, model, x, 1e-5)


W = tf.Variable(data((FEATURES, FEATURES), 1), dtype=tf.float64)
END = tf.constant(data((FEATURES, 2), 2))


def steps_first(x):
    return tf.transpose(x, (1, 0, 2))


def nested(x):
    def outer(i, y):
        def inner(j, z):
            return j + 1, tf.tanh(z @ W) + tf.cast(i, z.dtype) * 0.1

        return i + 1, tf.while_loop(lambda j, z: j < 2, inner, (0, y))[1]

    return tf.while_loop(lambda i, y: i < 3, outer, (0, x[:, 0]))[1]


def scanned_rows(x):
    def row(r):
        return tf.scan(lambda c, e: tf.tanh(tf.linalg.matvec(W, c) + e), r, initializer=tf.zeros_like(r[0]))[-1]

    return tf.map_fn(row, x)


def keras_scan(x):
    def turn(carry, e):
        carry = ops.tanh(ops.matmul(carry, W) + e)
        return carry, carry

    return ops.scan(turn, ops.zeros_like(x[:, 0]), steps_first(x))[1][-1]


def growing_list(x):
    items = tf.TensorArray(x.dtype, size=0, dynamic_size=True, element_shape=(None, FEATURES))

    def turn(i, items, c):
        c = tf.tanh(c @ W + x[:, i])
        return i + 1, items.write(i, c), c

    _, items, _ = tf.while_loop(lambda i, *_: i < tf.shape(x)[1], turn, (0, items, tf.zeros_like(x[:, 0])))
    return tf.reduce_sum(items.stack(), 0)


def several_writes(x):
    def turn(i, items):
        return i + 2, items.write(i, x[:, i] * 2.0).write(i + 1, tf.tanh(x[:, i + 1]))

    _, items = tf.while_loop(lambda i, _: i < 4, turn, (0, tf.TensorArray(x.dtype, size=4)))
    return tf.reduce_sum(items.stack() ** 2, 0)


def list_that_is_read_and_written(x):
    items = tf.TensorArray(x.dtype, size=STEPS, clear_after_read=False).write(0, x[:, 0])

    def turn(i, items):
        return i + 1, items.write(i, tf.tanh(items.read(i - 1) @ W) + x[:, i])

    _, items = tf.while_loop(lambda i, _: i < STEPS, turn, (1, items))
    return tf.reduce_sum(items.stack(), 0)


def list_that_is_read_twice(x):
    items = tf.TensorArray(x.dtype, size=STEPS, clear_after_read=False).unstack(steps_first(x))

    def turn(i, c):
        return i + 1, tf.tanh(c @ W) + items.read(i) * items.read(STEPS - 1 - i)

    return tf.while_loop(lambda i, _: i < STEPS, turn, (0, x[:, 0]))[1]


def list_of_an_outer_loop(x):
    """An outer loop hands a list on that only the inner one writes."""

    def outer(i, items):
        def inner(j, items):
            return j + 1, items.write(2 * i + j, tf.tanh(x[:, i] * x[:, j + 1]))

        return i + 1, tf.while_loop(lambda j, _: j < 2, inner, (0, items))[1]

    items = tf.TensorArray(x.dtype, size=4).unstack(tf.zeros_like(steps_first(x)[:4]))
    _, items = tf.while_loop(lambda i, _: i < 2, outer, (0, items))
    return tf.reduce_sum(items.stack(), 0)


OWN = {
    "while": lambda x: tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y @ W)), (0, x[:, 0]))[1],
    "until a value": lambda x: tf.while_loop(
        lambda y: tf.reduce_sum(tf.abs(y)) > 3, lambda y: (tf.tanh(y) * 0.9,), (x[:, 0],)
    )[0],
    "scan": lambda x: tf.scan(lambda c, e: c * tf.tanh(e @ W) + e, steps_first(x))[-1],
    "scan, reversed": lambda x: tf.scan(lambda c, e: c * tf.tanh(e) + e, steps_first(x), reverse=True)[0],
    "map": lambda x: tf.map_fn(lambda e: tf.tanh(e[0] @ W) if e.shape.rank > 2 else e[0] * tf.tanh(e[1]), x),
    "keras scan": keras_scan,
    "keras fori": lambda x: ops.fori_loop(0, 3, lambda i, y: ops.tanh(ops.matmul(y, W)), x[:, 0]),
    "keras map": lambda x: ops.map(lambda e: ops.tanh(ops.matmul(e, W))[0], x),
    "nested": nested,
    "nested scan": scanned_rows,
    "growing list": growing_list,
    "several writes": several_writes,
    "list read and written": list_that_is_read_and_written,
    "list read twice": list_that_is_read_twice,
    "list of an outer loop": list_of_an_outer_loop,
    "branch inside": lambda x: tf.while_loop(
        lambda i, y: i < 3,
        lambda i, y: (i + 1, tf.cond(i % 2 == 0, lambda: tf.tanh(y @ W), lambda: y * 1.1)),
        (0, x[:, 0]),
    )[1],
}


def graph_of(function, spec=None):
    function = tf.function(function)
    concrete = function.get_concrete_function(spec or tf.TensorSpec((None, STEPS, FEATURES), tf.float64))
    return read_function(concrete), concrete


@pytest.mark.parametrize(
    "name", at_length(OWN, {"while", "until a value", "scan", "keras scan", "nested", "several writes"})
)
def test_loops_of_ones_own(name):
    graph, function = graph_of(lambda x: tf.ensure_shape(OWN[name](x), (None, FEATURES)) @ END)
    assert len(loops(graph)) == 1 and handles(graph) == []
    # The ledger takes one sample at a time, and here the samples say together when to stop.
    check_gradients(graph, function, data((BATCH, STEPS, FEATURES)), ledger=name != "until a value")


def test_weights_inside_are_live():
    weight = tf.Variable(np.eye(FEATURES))
    graph, function = graph_of(
        lambda x: tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y @ (2 * weight))), (0, x[:, 0]))[1]
    )
    x, analyzer = data((BATCH, STEPS, FEATURES)), create_analyzer("gradient", graph)
    frozen = create_analyzer("gradient", graph, freeze=True)
    before = gradient(function, x, 1)
    np.testing.assert_allclose(analyzer.analyze(x, 1), before, rtol=1e-10)
    np.testing.assert_allclose(frozen.analyze(x, 1), before, rtol=1e-10)
    weight.assign(data((FEATURES, FEATURES), 3))
    np.testing.assert_allclose(analyzer.analyze(x, 1), gradient(function, x, 1), rtol=1e-10)
    np.testing.assert_allclose(frozen.analyze(x, 1), before, rtol=1e-10)


def test_what_a_loop_says_of_itself():
    """Counters and shapes are no signals; lists that are read are constants; lists that are written are outputs."""

    def function(x):
        items = tf.TensorArray(x.dtype, size=STEPS, element_shape=(None, FEATURES)).unstack(steps_first(x))
        written = tf.TensorArray(x.dtype, size=STEPS, element_shape=(None, FEATURES))

        def turn(i, time, c, written):
            c = tf.tanh(c @ W) + items.read(i) * time
            return i + 1, time * 0.5, c, written.write(i, c)

        start = (0, tf.constant(1.0, tf.float64), tf.zeros_like(x[:, 0]), written)
        return tf.reduce_sum(tf.while_loop(lambda i, *_: i < STEPS, turn, start)[3].stack(), 0)

    graph, _ = graph_of(function)
    (site,) = loops(graph)
    loop = site.operation
    states = loop.body.input_slots[: loop.states]
    assert [loop.body.specs[states[i]].shape for i in loop.signals] == [(None, FEATURES)]
    assert len(loop.read_lists) == 1 and len(loop.lists) == 1 and loop.lists[0].shape == (None, FEATURES)
    assert graph.specs[site.outputs[-1]].shape == (STEPS, None, FEATURES)
    kinds = [inner.operation.label for inner in loop.body.sites]
    assert {"Dense", "tanh", "TensorListGetItem", "Product", "Sum"} <= set(kinds)
    assert loop.label == f"Loop of {len(kinds)} sites" and loop.label in str(graph)


def test_loops_over_weights_and_shapes_are_constants():
    def function(x):
        start = (0, tf.ones(FEATURES, tf.float64))
        v = tf.while_loop(lambda i, _: i < 5, lambda i, v: (i + 1, tf.tanh(tf.linalg.matvec(W, v))), start)[1]
        places = tf.map_fn(lambda i: tf.sin(tf.cast(i, x.dtype)), tf.range(tf.shape(x)[1]), fn_output_signature=x.dtype)
        return tf.einsum("btf,t->bf", x, places) @ W * v

    graph, concrete = graph_of(function, tf.TensorSpec((None, None, FEATURES), tf.float64))
    assert loops(graph) == []
    x = data((BATCH, STEPS, FEATURES))
    np.testing.assert_allclose(graph(x), concrete(tf.constant(x)), rtol=1e-10)
    np.testing.assert_allclose(
        create_analyzer("input_t_gradient", graph).analyze(x, 1), x * gradient(concrete, x, 1), rtol=1e-10
    )


def test_relevance_of_all_layers_is_returned(exported):
    model = network(lambda: layers.LSTM(4, return_sequences=True))
    graph, x = exported(model), data((BATCH, STEPS, FEATURES))
    (site,) = loops(graph)
    for at in ("input", "output"):
        _, relevance = create_analyzer("gradient", graph).analyze(x, 1, return_layers="all", layers_at=at)
        assert site.path in relevance
        for path, found in relevance.items():
            assert all(np.ndim(r) for r in (found if isinstance(found, list) else [found])), path


def test_a_loop_without_rules_is_refused(exported):
    """iNNvestigate explains no loop. DeepLIFT has no rule for masks."""
    graph = exported(network(layers.Masking, lambda: layers.Bidirectional(layers.LSTM(4))))
    for method, options, message in (
        ("lrp.epsilon", {"convention": "innvestigate"}, "leave that argument out"),
        ("deep_lift", {}, "integrated_gradients"),
    ):
        with pytest.raises(revgraph.NotAnalyzeableModelException, match=message) as error:
            create_analyzer(method, graph, **options)
        assert all(site.path in str(error.value) for site in loops(graph))
        report = revgraph.check(graph, method, **options)
        assert not report.supported and report.unsupported


@pytest.mark.parametrize("kind", ["If", "Case"])
def test_rules_refuse_a_choice_between_functions(kind):
    def chosen(x):
        x = x[:, 0]
        if kind == "If":
            return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ W, lambda: tf.tanh(x))
        return tf.switch_case(tf.cast(tf.reduce_sum(x) > 0, tf.int32), [lambda: tf.tanh(x), lambda: x @ W])

    graph, function = graph_of(chosen)
    check_gradients(graph, function, data((BATCH, STEPS, FEATURES)))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match=r"chooses by the value.*tf\.where") as error:
        create_analyzer("lrp.epsilon", graph)
    assert "Jacobian" not in str(error.value)


def test_a_list_that_is_handled_in_another_way_is_one_site():
    def function(x):
        items = tf.TensorArray(x.dtype, size=STEPS, element_shape=(None, FEATURES))
        _, items = tf.while_loop(lambda i, _: i < STEPS, lambda i, a: (i + 1, a.write(i, tf.tanh(x[:, i]))), (0, items))
        return tf.reduce_sum(tf.reshape(items.concat(), (STEPS, -1, FEATURES)), 0)

    graph, concrete = graph_of(function)
    check_gradients(graph, concrete, data((BATCH, STEPS, FEATURES)))
    assert not revgraph.check(graph, "lrp.epsilon").supported


def test_ids_that_are_looked_up_in_a_loop_are_refused():
    """Their relevance would be lost in it. In front of the loop they are looked up as ever."""
    table = tf.constant(np.random.default_rng(0).normal(size=(5, FEATURES)))
    spec = tf.TensorSpec((None, STEPS), tf.int32, "ids")

    def inside(ids):
        rows = tf.map_fn(lambda i: tf.gather(table, i), tf.transpose(ids), fn_output_signature=tf.float64)
        return tf.ensure_shape(tf.reduce_sum(rows, 0), (None, FEATURES)) @ END

    graph, _ = graph_of(inside, spec)
    for method in ("gradient", "input_t_gradient", "lrp.epsilon"):
        with pytest.raises(revgraph.NotAnalyzeableModelException, match="loop"):
            create_analyzer(method, graph)
