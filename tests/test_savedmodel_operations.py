"""What TensorFlow's graphs spell out is read as what it computes, with the relevance that this has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from revgraph import NotAnalyzeableModelException, check, create_analyzer, load_model
from revgraph.read.savedmodel.reader import read_function

pytestmark = pytest.mark.filterwarnings("ignore:Relevance", "ignore:.*retracing")

RNG = np.random.default_rng(0)
W = tf.constant(RNG.normal(size=(4, 5)))
X = RNG.normal(size=(3, 6, 4))
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


def graph_of(function, *specs):
    specs = specs or (tf.TensorSpec((None, 6, 4), tf.float64),)
    return read_function(tf.function(function, autograph=False).get_concrete_function(*specs))


def labels(graph):
    return [site.operation.label for site in graph.sites]


def columns(x):
    return tf.transpose(x, (1, 0, 2))


LINEAR = {
    "fft": lambda x: tf.math.real(tf.signal.fft(tf.cast(x, tf.complex128))),
    "rfft, imaginary": lambda x: tf.math.imag(tf.signal.rfft(x)),
    "a filter of frequencies": lambda x: tf.signal.irfft(
        tf.signal.rfft(x) * tf.constant([1.0, 0.5, 0.0], tf.complex128), [4]
    ),
    "both parts": lambda x: tf.concat(ops.rfft(x), -1),
    "one part, then the other": lambda x: 2 * tf.math.real(z := tf.signal.rfft(x)) + tf.math.imag(z),
    "scatter, added": lambda x: columns(tf.tensor_scatter_nd_add(columns(x), [[1], [1]], columns(x)[:2])),
    "scatter, subtracted": lambda x: columns(tf.tensor_scatter_nd_sub(columns(x), [[1], [3]], columns(x)[:2])),
    "scatter": lambda x: columns(tf.scatter_nd([[1], [3]], columns(x)[:2], [6, tf.shape(x)[0], 4])),
    "scatter to one place": lambda x: columns(tf.scatter_nd([[1], [1]], columns(x)[:2], [6, tf.shape(x)[0], 4])),
    "segments": lambda x: columns(tf.math.unsorted_segment_sum(columns(x), [0, 0, 1, 1, 0, 2], 3)),
    "a block, replaced": lambda x: ops.slice_update(x, (0, 1, 0), 2 * x[:, 3:5]),
    "a slice at a computed place": lambda x: tf.slice(x, [0, tf.shape(x)[1] // 2, 0], [-1, 2, -1]),
    "diagonals": tf.linalg.diag,
    "repeated as often as there are steps": lambda x: tf.tile(x[:, :1], [1, tf.shape(x)[1], 1]) + x,
}


UNKNOWN_AXES = {
    "a mean, kept": lambda x, axis: x - tf.reduce_mean(x, axis, keepdims=True),
    "a sum, kept": lambda x, axis: x / tf.reduce_sum(x, axis, keepdims=True),
    "a softmax": lambda x, axis: tf.exp(x) / tf.reduce_sum(tf.exp(x), axis, keepdims=True),
}


@pytest.mark.parametrize("given", ["as an input", "by a size"])
@pytest.mark.parametrize("name", UNKNOWN_AXES)
def test_axes_may_be_unknown(name, given):
    function = UNKNOWN_AXES[name]
    if given == "as an input":
        graph = graph_of(function, tf.TensorSpec((None, 6, 4), tf.float64), tf.TensorSpec((), tf.int32))
        inputs = [X, np.int32(1)]
    else:
        graph = graph_of(lambda x: function(x, tf.shape(x)[0] % 2), tf.TensorSpec((None, 6, 4), tf.float64))
        inputs = X
    np.testing.assert_allclose(graph(inputs), function(X, 1), rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_have_input_times_gradient(name):
    function = LINEAR[name]
    graph, x = graph_of(lambda x: tf.ensure_shape(function(x), function(tf.constant(X)).shape[1:].as_list() and [
        None, *function(tf.constant(X)).shape[1:]])), tf.constant(X)  # fmt: skip
    weights = RNG.normal(size=function(x)[0].shape)
    # The Jacobian by columns, because TensorFlow has no gradient of some operations.
    zero = function(tf.zeros_like(x))
    slopes = np.stack([
        np.sum((function(tf.constant(np.broadcast_to(unit.reshape(6, 4), X.shape))) - zero).numpy()[0] * weights)
        for unit in np.eye(24)
    ]).reshape(6, 4)  # fmt: skip
    np.testing.assert_allclose(graph(X), function(x))
    start = np.broadcast_to(weights, (3, *weights.shape))
    found = create_analyzer("gradient", graph).record(X).analyze(initial_relevance=start)
    np.testing.assert_allclose(found, np.broadcast_to(slopes, X.shape), rtol=1e-9, atol=1e-10)
    y = np.asarray(function(x))
    found = create_analyzer("lrp.z", graph).record(X).analyze(initial_relevance=weights * y)
    np.testing.assert_allclose(found, X * slopes, rtol=1e-5, atol=1e-5)


def test_the_modulus_of_complex_numbers_is_refused_by_lrp_and_differentiated():
    graph = graph_of(lambda x: tf.abs(tf.signal.rfft(x)))
    with pytest.raises(NotAnalyzeableModelException, match="No rule"):
        create_analyzer("lrp.z", graph)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(tf.abs(tf.signal.rfft(x)))
    found = create_analyzer("gradient", graph).record(X).analyze(initial_relevance=np.ones((3, 6, 3)))
    np.testing.assert_allclose(found, tape.gradient(y, x))


def test_complex_numbers_that_depend_on_real_ones_in_between():
    """The frequencies pass a gate that is computed from themselves."""

    def function(x):
        z = tf.signal.rfft(x)
        gate = tf.sigmoid(tf.math.real(z))
        return tf.signal.irfft(z * tf.cast(gate, tf.complex128), [4])

    graph, x = graph_of(function), tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    np.testing.assert_allclose(graph(X), y)
    found = create_analyzer("gradient", graph).record(X).analyze(initial_relevance=np.ones(y.shape))
    np.testing.assert_allclose(found, tape.gradient(y, x))


NAMED = {
    "cbrt": (lambda h: ops.cbrt(h), ["Dense", "cbrt"]),
    "celu": (lambda h: ops.celu(h, 0.7), ["Dense", "celu"]),
    "soft_shrink": (lambda h: ops.soft_shrink(h, 0.3), ["Dense", "soft_shrink"]),
    "sort": (lambda h: ops.sort(h, axis=1), ["Dense", "Transpose"]),
    "softmax over two axes": (
        lambda h: layers.Softmax(axis=(1, 2), dtype="float64")(h),
        ["Dense", "Max", "IsFinite", "softmax"],
    ),
    "a second shift": (lambda h: h + tf.constant(0.3, tf.float64) + W[0], ["Dense", "Scale"]),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_spelt_out_has_its_name(name):
    function, expected = NAMED[name]
    graph = graph_of(lambda x: function(x @ W))
    assert labels(graph) == expected
    np.testing.assert_allclose(graph(X), function(tf.constant(X) @ W))


def test_sorting_upwards_keeps_signs():
    graph = graph_of(lambda x: ops.sort(x, axis=1))
    (site,) = graph.sites
    assert site.operation.copies and site.operation.keeps_sign and not site.operation.fixed


def test_patches_are_selections():
    graph = graph_of(lambda x: ops.image.extract_patches(tf.reshape(x, (-1, 3, 4, 2)), 2, padding="same"))
    operation = graph.sites[-1].operation
    assert operation.copies and operation.fixed and operation.keeps_sign and operation.fills


SOFTMAXES = {
    "a choice before and behind": lambda s, m: tf.where(m, tf.nn.softmax(tf.where(m, s, -1e9)), 0.0),
    "a shift": lambda s, m: tf.nn.softmax(s + (1 - tf.cast(m, s.dtype)) * -1e9),
    "a large negative": lambda s, m: tf.nn.softmax(tf.where(m, s, -1e30)),
    "a factor behind": lambda s, m: tf.nn.softmax(tf.where(m, s, -1e9)) * tf.cast(m, s.dtype),
    "Keras's layer": lambda s, m: layers.Softmax(dtype="float64")(s, mask=m),
    "Keras's layer, one axis in a tuple": lambda s, m: layers.Softmax(axis=(-1,), dtype="float64")(s, mask=m),
    "Keras's layer, two axes": lambda s, m: layers.Softmax(axis=(1, 2), dtype="float64")(
        s, mask=tf.broadcast_to(m, tf.shape(s))
    ),
}


@pytest.mark.parametrize("dtype", [tf.bool, tf.int32])
@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_masked_softmax_is_a_gate(name, dtype):
    """All relevance of attention goes to the values: R_j = v_j sum_i p_ij R_i / (p v)_i."""

    def weights(h, m):
        return SOFTMAXES[name](tf.matmul(h, h, transpose_b=True), tf.cast(m, tf.bool)[:, None])

    def function(x, m):
        return tf.matmul(weights(x @ W, m), x @ W)

    graph = graph_of(function, tf.TensorSpec((None, 6, 4), tf.float64), tf.TensorSpec((None, 6), dtype))
    assert "softmax" in labels(graph)
    mask = MASK.astype(dtype.as_numpy_dtype)
    y = np.asarray(function(tf.constant(X), mask))
    np.testing.assert_allclose(graph([X, mask]), y, rtol=1e-9)
    found = create_analyzer("lrp.z", graph).record([X, mask]).analyze(initial_relevance=y)[0]
    values = tf.constant(X) @ W
    expected = X * (tf.matmul(weights(values, mask), tf.ones_like(y), transpose_a=True).numpy() @ W.numpy().T)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_numbers_of_strings_alone_are_not_explained():
    graph = graph_of(tf.strings.length, tf.TensorSpec((None,), tf.string))
    analyzer = create_analyzer("lrp.z", graph)
    for ask in analyzer.analyze, analyzer.record:
        with pytest.raises(ValueError, match="cannot be explained: it holds int32"):
            ask(["abc", "d"])


@pytest.mark.parametrize("kind", ["cond", "while"])
@pytest.mark.parametrize("name", ["lrp.z", "gradient"])
def test_control_flow_of_tensorflow_1_is_refused(kind, name, tmp_path):
    v1, path = tf.compat.v1, str(tmp_path / "model")
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default():
            x = v1.placeholder(tf.float32, (None, 4), "x")
            if kind == "cond":
                y = v1.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1)
            else:
                y = v1.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, tf.tanh(h)), [0, x])[1]
            with v1.Session() as session:
                v1.saved_model.simple_save(session, path, {"x": x}, {"y": y})
    finally:
        v1.enable_control_flow_v2()
    with pytest.raises(ValueError, match="Control flow of TensorFlow 1"):
        create_analyzer(name, path)
    if kind == "cond":
        assert not check(path, name).supported


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8", "float32"])
def test_masks_of_any_dtype(dtype, tmp_path):
    """A mean over the steps that a mask has."""
    x, m = keras.Input((6, 4), name="x"), keras.Input((6,), dtype=dtype, name="m")
    weight = ops.expand_dims(ops.cast(m, "float32"), -1)
    h = layers.Dense(5, activation="relu")(x)
    h = ops.sum(h * weight, 1) / ops.maximum(ops.sum(weight, 1), 1.0)
    model = keras.Model([x, m], layers.Dense(2)(h))
    model.export(str(tmp_path / "model"))
    graph, given = load_model(str(tmp_path / "model")), [X.astype("float32"), MASK.astype(dtype)]
    for name in ("lrp.z", "lrp.alpha_1_beta_0", "gradient"):
        expected = create_analyzer(name, model).record(given).analyze(1)[0]
        found = create_analyzer(name, graph).record(dict(zip(("x", "m"), given, strict=True))).analyze(1)["x"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
