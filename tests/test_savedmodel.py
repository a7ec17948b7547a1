"""SavedModels are read into the graph that the Keras model gives, whoever wrote them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph import create_analyzer
from revgraph.graph import Graph
from revgraph.read.savedmodel.reader import read_function, read_savedmodel
from tests.models import ZOO, inputs_of, randomized

METHODS = ("gradient", "lrp.z", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.epsilon_plus_flat")

pytestmark = pytest.mark.filterwarnings("ignore:The output of", "ignore:Relevance grows", "ignore:.*retracing")

RNG = np.random.default_rng(0)


def weight(*shape):
    return tf.Variable(RNG.normal(size=shape) / 2)


W, B, GAMMA, BETA, MEAN = weight(6, 5), weight(5), weight(6), weight(6), weight(6)
VARIANCE = tf.Variable(RNG.uniform(0.5, 1.5, size=6))
K, BIAS, DEPTHWISE, TRANSPOSED, LINE = (
    weight(3, 3, 2, 4),
    weight(4),
    weight(3, 3, 2, 2),
    weight(3, 3, 4, 2),
    weight(3, 2, 4),
)
TABLE = weight(4, 3)


def graph_of(function, shape, dtype=tf.float64):
    concrete = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((None, *shape), dtype, "x"))
    return read_function(concrete), concrete


def kinds(graph):
    return [type(site.operation).__name__ for site in graph.sites]


def labels(graph):
    return [site.operation.label for site in graph.sites]


def data(shape, dtype=tf.float64):
    shape = (3, *(5 if n is None else n for n in shape))
    if dtype.is_floating:
        return np.random.default_rng(1).normal(size=shape).astype(dtype.as_numpy_dtype)
    return np.random.default_rng(1).integers(0, 4, size=shape).astype(dtype.as_numpy_dtype)


def layer_norm(x):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-3) * GAMMA + BETA


def layer_norm_by_hand(x):
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(centred * centred, -1, keepdims=True) + 1e-3) * GAMMA + BETA


def layer_norm_as_batch_norm(x):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, BETA, GAMMA, 1e-3)


def softmax(x):
    e = tf.exp(x - tf.reduce_max(x, -1, keepdims=True))
    return e / tf.reduce_sum(e, -1, keepdims=True)


def upsampled(x, size):
    return tf.nn.conv2d_transpose(x, TRANSPOSED, [tf.shape(x)[0], *size, 4], 2, "SAME") + BIAS


IMAGE = (8, 8, 2)
FUNCTIONS = {
    "dense": (lambda x: tf.nn.relu(x @ W + B), (6,), ["Dense", "relu"]),
    "transposed": (lambda x: tf.matmul(x, tf.transpose(W), transpose_b=True), (6,), ["Dense"]),
    "einsum": (lambda x: tf.einsum("bi,io->bo", x, W) + B, (6,), ["Einsum"]),
    "einsum, kernel first": (lambda x: tf.einsum("io,bi->bo", W, x) + B, (6,), ["Einsum"]),
    "tensordot": (lambda x: tf.tensordot(x, W, 1) + B, (None, 6), ["Dense"]),
    "batches": (lambda x: x @ W + B, (4, 6), ["Dense"]),
    "attention": (lambda x: tf.nn.softmax(x @ tf.transpose(x, (0, 2, 1))) @ x, (4, 6), None),
    "quotient": (lambda x: (x @ W) / (2 + tf.sigmoid(x @ W)), (6,), None),
    "scale": (lambda x: ((x - 0.5) / 0.2 * 3.0 + 1.0) @ W, (6,), None),
    "from one": (lambda x: (1 - x) @ W, (6,), ["Scale", "Dense"]),
    "parts": (lambda x: tf.concat([p @ W[:3] for p in tf.split(x, 2, 1)], 1), (6,), None),
    "stacked": (lambda x: tf.stack(tf.unstack(x, axis=1), 1)[:, 1] @ W, (3, 6), None),
    "slice": (lambda x: tf.slice(x, [0, 1], [-1, 3]) @ W[:3], (6,), ["Slice", "Dense"]),
    "gather": (lambda x: tf.gather(x, [0, 2, 1], axis=1) @ W[:3], (6,), ["GatherV2", "Dense"]),
    "top": (lambda x: tf.math.top_k(x, 3).values @ W[:3], (6,), ["TopKV2", "Dense"]),
    "tiles": (lambda x: tf.tile(x, [1, 2]) @ tf.concat([W, W], 0), (6,), ["Tile", "Dense"]),
    "flatten": (lambda x: tf.reshape(x, [tf.shape(x)[0], 12]) @ tf.concat([W, W], 0), (2, 6), ["Reshape", "Dense"]),
    "reshape, two sizes unknown": (
        lambda x: tf.reshape(x, [tf.shape(x)[0], -1, 3]) @ W[:3], (None, 6), None
    ),
    "mean of steps": (lambda x: tf.reduce_sum(x, 1) / tf.cast(tf.shape(x)[1], x.dtype) @ W, (None, 6), None),
    "broadcast": (lambda x: (x[:, :, None] - B)[:, :, 0] @ W, (6,), None),
    "batch norm": (
        lambda x: tf.nn.batch_normalization(x @ W, MEAN[:5], VARIANCE[:5], BETA[:5], GAMMA[:5], 1e-3),
        (6,),
        ["Dense", "BatchNorm"],
    ),
    "batch norm by hand": (
        lambda x: ((x - MEAN) / tf.sqrt(VARIANCE + 1e-3) * GAMMA + BETA) @ W,
        (6,),
        ["BatchNorm", "Dense"],
    ),
    "layer norm": (lambda x: layer_norm(x) @ W, (6,), ["Normalize", "Dense"]),
    "layer norm by hand": (lambda x: layer_norm_by_hand(x) @ W, (6,), ["Normalize", "Dense"]),
    "layer norm as batch norm": (lambda x: layer_norm_as_batch_norm(x) @ W, (6,), ["Normalize", "Dense"]),
    "root mean square": (
        lambda x: (x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6) * GAMMA) @ W,
        (6,),
        ["Normalize", "Dense"],
    ),
    "unit norm": (lambda x: tf.nn.l2_normalize(x, -1) @ W, (6,), ["Normalize", "Dense"]),
    "softmax inside": (lambda x: softmax(x) @ W, (6,), ["softmax", "Dense"]),
    "convolution": (lambda x: tf.nn.bias_add(tf.nn.conv2d(x, K, 2, "SAME"), BIAS), IMAGE, ["Conv"]),
    "explicit padding": (
        lambda x: tf.nn.conv2d(x, K, 1, [[0, 0], [1, 0], [2, 1], [0, 0]]) + BIAS, IMAGE, ["Pad", "Conv"]
    ),
    "dilated": (lambda x: tf.nn.convolution(x, K, padding="SAME", dilations=2) + BIAS, IMAGE, ["Conv"]),
    "atrous": (lambda x: tf.nn.atrous_conv2d(x, K, 2, "VALID") + BIAS, IMAGE, ["Conv"]),
    "atrous, any size": (lambda x: tf.nn.atrous_conv2d(x, K, 2, "SAME") + BIAS, (None, None, 2), ["Conv"]),
    "depthwise": (
        lambda x: tf.nn.depthwise_conv2d(x, DEPTHWISE, [1] * 4, "SAME", dilations=[2, 2]) + BIAS,
        IMAGE,
        ["DepthwiseConv"],
    ),
    "transposed convolution": (lambda x: upsampled(x, (16, 16)), IMAGE, ["ConvTranspose"]),
    "transposed convolution, odd": (lambda x: upsampled(x, (15, 15)), IMAGE, ["ConvTranspose"]),
    "line": (lambda x: tf.nn.conv1d(x, LINE, 2, "SAME") + BIAS, (8, 2), ["Conv"]),
    "dilated line": (
        lambda x: tf.nn.convolution(x, LINE, padding="SAME", dilations=[2]) + BIAS, (8, 2), ["Conv"]
    ),
    "pooling": (lambda x: tf.nn.max_pool2d(tf.nn.avg_pool2d(x, 3, 2, "SAME"), 2, 1, "VALID"), IMAGE, None),
    "mirror": (lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"), IMAGE, ["MirrorPad"]),
    "resized": (lambda x: tf.cast(tf.image.resize(x, [16, 16]), x.dtype), IMAGE, ["ResizeBilinear"]),
    "shapes of weights, too": (
        lambda x: tf.reshape(x, tf.concat(tf.shape_n([x, W]), 0)[:2]) @ W, (6,), ["Dense"]
    ),
    "condition": (lambda x: tf.where(x > 0.5, x, 2 * x + 1) @ W, (6,), None),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_written_by_hand(name):
    function, shape, expected = FUNCTIONS[name]
    graph, concrete = graph_of(function, shape)
    x = data(shape)
    y = concrete(tf.constant(x)).numpy()
    np.testing.assert_allclose(graph(x), y, rtol=1e-12, atol=1e-12)
    if expected is not None:
        assert labels(graph) == expected
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        output = function(inputs)
    if name not in ("dilated", "dilated line"):  # TensorFlow's own gradient of these does not run on CPUs.
        gradient = create_analyzer("gradient", graph).record(x).analyze(initial_relevance=np.ones_like(y))
        np.testing.assert_allclose(gradient, tape.gradient(output, inputs), rtol=1e-9, atol=1e-11)
    ledger = create_analyzer("lrp.epsilon", graph).conservation(x, initial_relevance=y)
    # TensorFlow resizes in float32.
    np.testing.assert_allclose(ledger.other / np.abs(ledger.start).max(), 0, atol=1e-6 if name == "resized" else 1e-9)


def test_linear_pieces_are_the_keras_layers(rng, float64):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(5, activation="relu")(inputs))
    model.layers[1].set_weights([W.numpy(), B.numpy()])
    graph, _ = graph_of(FUNCTIONS["dense"][0], (6,))
    x = data((6,))
    for method in METHODS:
        expected = create_analyzer(method, model).analyze(x, 1)
        np.testing.assert_allclose(create_analyzer(method, graph).analyze(x, 1), expected, rtol=1e-12, err_msg=method)


ACTIVATIONS = {
    "relu": lambda x: tf.maximum(x, 0.0),
    "leaky_relu": lambda x: tf.where(x > 0, x, 0.1 * x),
    "silu": lambda x: x * tf.sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + tf.math.erf(x / np.sqrt(2))),
    "gelu by tanh": lambda x: 0.5 * x * (1 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * tf.pow(x, 3)))),
    "gelu of TensorFlow": tf.nn.gelu,
    "silu of TensorFlow": tf.nn.silu,
    "hard_silu": lambda x: x * tf.nn.relu6(x + 3) / 6,
    "hard_sigmoid": lambda x: tf.clip_by_value(0.2 * x + 0.5, 0.0, 1.0),
    "bounded_relu": lambda x: tf.minimum(tf.nn.relu(x), 4.5),
    "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "elu": lambda x: tf.where(x > 0, x, tf.exp(tf.minimum(x, 0.0)) - 1),
    "log_sigmoid": lambda x: -tf.nn.softplus(-x),
    "relu6": tf.nn.relu6,
    "tanh": tf.tanh,
    "softplus": tf.nn.softplus,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_told_by_what_they_compute(name):
    function = ACTIVATIONS[name]
    graph, concrete = graph_of(lambda x: function(x @ W), (6,))
    assert labels(graph) == ["Dense", name.split()[0]]
    x = data((6,))
    np.testing.assert_allclose(graph(x), concrete(tf.constant(x)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("function", [lambda x: 0.5 * x, lambda x: x + 1e-6, lambda x: 3.0 - x])
def test_scale_and_shift_are_no_activation(function):
    graph, _ = graph_of(lambda x: function(x) @ W, (6,))
    assert kinds(graph) == ["Scale", "Dense"]


def test_a_condition_may_be_a_number_too():
    def function(x):
        active = x > 0.5
        return (x * tf.where(active, tf.cast(active, x.dtype) + 1, 0.5)) @ W

    graph, concrete = graph_of(function, (6,))
    x = data((6,))
    np.testing.assert_allclose(graph(x), concrete(tf.constant(x)), rtol=1e-12)


def test_embeddings_and_pixels():
    graph, concrete = graph_of(lambda x: tf.reduce_mean(tf.gather(TABLE, x), 1), (7,), tf.int64)
    assert labels(graph) == ["Embedding", "mean"]
    x = data((7,), tf.int64)
    relevance = create_analyzer("lrp.epsilon", graph).record(x).analyze(1)
    assert relevance.shape == x.shape
    np.testing.assert_allclose(relevance.sum(1), concrete(tf.constant(x))[:, 1], rtol=1e-5, atol=1e-6)
    graph, concrete = graph_of(lambda x: tf.cast(x, tf.float64) / 255 @ W, (6,), tf.uint8)
    x = data((6,), tf.uint8)
    relevance = create_analyzer("lrp.epsilon", graph).record(x).analyze(1)
    np.testing.assert_allclose(relevance.sum(1), concrete(tf.constant(x))[:, 1], rtol=1e-5, atol=1e-6)


INDICES = {
    "from the end": lambda i: tf.where(i < 0, i + 4, i),
    "by a product": lambda i: i + 4 * tf.cast(i < 0, i.dtype),
    "between bounds": lambda i: tf.minimum(tf.maximum(i, 0), 3),
    "of another type": lambda i: tf.cast(tf.where(i < 0, tf.cast(i, tf.int64) + 4, tf.cast(i, tf.int64)), tf.int32),
}


@pytest.mark.parametrize("name", INDICES)
def test_indices_that_are_worked_out(name):
    """Keras counts negative indices from the end before it looks them up."""
    graph, concrete = graph_of(lambda x: tf.reduce_sum(tf.gather(TABLE, INDICES[name](x)), 1), (7,), tf.int32)
    x = np.int32([[0, -1, 2, 3, -4, 1, 1], [3, 2, 1, 0, -1, -2, -3]])
    y = concrete(tf.constant(x)).numpy()
    np.testing.assert_array_equal(graph(x), y)
    rows = tf.gather(TABLE, INDICES[name](tf.constant(x))).numpy()
    for method in ("lrp.z", "lrp.alpha_1_beta_0", "input_t_gradient"):
        relevance = create_analyzer(method, graph).record(x).analyze(1)
        np.testing.assert_allclose(relevance, rows[..., 1], rtol=1e-5, atol=1e-6, err_msg=method)


def test_expressions_of_weights_are_computed_once_per_reading():
    """Forty doublings, each of which reads the one before twice, and a chain longer than Python's stack."""
    variable = tf.Variable(np.eye(3))

    def function(x):
        w = variable
        for _ in range(40):
            w = (w + w) / 2.0
        for _ in range(1500):
            w = -w
        return x @ w

    graph, _ = graph_of(function, (3,))
    x = data((3,))
    np.testing.assert_allclose(graph(x), x)
    variable.assign(2 * variable)
    np.testing.assert_allclose(graph(x), 2 * x)


def test_weights_assigned_later_are_seen():
    variable = weight(6, 5)
    graph, concrete = graph_of(lambda x: x @ variable, (6,))
    x, analyzer = data((6,)), create_analyzer("lrp.epsilon", graph)
    before = analyzer.analyze(x, 0)
    variable.assign(2 * variable)
    np.testing.assert_allclose(graph(x), concrete(tf.constant(x)))
    np.testing.assert_allclose(analyzer.analyze(x, 0), 2 * before, rtol=1e-5)


def test_what_has_no_rule_is_named():
    graph, _ = graph_of(lambda x: tf.math.erfinv(tf.tanh(x)) @ W, (6,))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match=r"No rule for '.*Erfinv' \(Erfinv\)"):
        create_analyzer("lrp.epsilon", graph)
    assert create_analyzer("gradient", graph).record(data((6,))).analyze(0).any()


def test_loops_and_branches_work_for_gradients():
    def loop(x):
        return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y) * 2), (0, x))[1] @ W

    def branch(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ W, lambda: -(x @ W))

    for function in (loop, branch):
        graph, concrete = graph_of(function, (6,))
        x = data((6,))
        with tf.GradientTape() as tape:
            inputs = tf.constant(x)
            tape.watch(inputs)
            output = concrete(inputs)
        np.testing.assert_allclose(graph(x), output)
        gradient = create_analyzer("gradient", graph).record(x).analyze(initial_relevance=np.ones((3, 5)))
        np.testing.assert_allclose(gradient, tape.gradient(output, inputs), rtol=1e-9)


def test_an_input_of_unknown_rank_says_what_to_do():
    concrete = tf.function(lambda x: tf.nn.relu(x)).get_concrete_function(tf.TensorSpec(None, tf.float32, "x"))
    with pytest.raises(ValueError, match=r"number of axes of input.*Export the model with a signature"):
        read_function(concrete)


CENTRES, BINS = weight(3, 6), tf.constant([0.1, -0.2, 0.3], tf.float64)
LARGER = {
    "centres": (lambda x: tf.nn.relu(x[:, None] - CENTRES), (6,), True),
    "prototypes": (lambda x: tf.nn.relu(CENTRES - x[:, None]), (6,), True),
    "bins": (lambda x: tf.nn.relu(x - BINS), (1,), True),
    "scales": (lambda x: tf.nn.relu(x * BINS), (1,), True),
    "divisors": (lambda x: tf.nn.relu(x / BINS), (1,), True),
    "zeros": (lambda x: x + tf.zeros(3, tf.float64), (1,), True),
    "ones": (lambda x: tf.nn.relu(x[..., None] * tf.ones((4, 3), tf.float64)), (4,), True),
    "more axes": (lambda x: tf.squeeze(tf.nn.relu(x + tf.ones((1, 1, 4), tf.float64)), 0), (4,), True),
    "more axes, an activation": (lambda x: tf.squeeze(tf.maximum(x, tf.zeros((1, 1, 4), tf.float64)), 0), (4,), True),
    "any size": (lambda x: tf.reduce_sum(tf.nn.relu(x - BINS), 1), (None, 1), True),
    "maximum": (lambda x: tf.maximum(x[:, None], CENTRES), (6,), False),
    "minimum": (lambda x: tf.minimum(CENTRES, x[:, None]), (6,), False),
    "power": (lambda x: tf.pow(tf.abs(x) + 1, 2 + BINS), (1,), False),
    "base": (lambda x: tf.pow(2 + BINS, x), (1,), False),
    "squared difference": (lambda x: tf.math.squared_difference(x[:, None], CENTRES), (6,), False),
    "reciprocal": (lambda x: BINS / (tf.abs(x) + 1), (1,), False),
    "where": (lambda x: tf.where(x > 0, x, BINS), (1,), True),
    "where, of weights": (lambda x: tf.where(BINS > 0, x, 2 * x), (1,), True),
    "where, of another": (lambda x: tf.where(x[:, None] > CENTRES, x[:, None], -1.0), (6,), True),
    "batches of matrices": (lambda x: x[:, None] @ tf.reshape(W, (1, 3, 2, 5)), (1, 2), True),
}
"""What makes a larger tensor of x by a weight; the shape of x; whether it is linear in pieces."""


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LARGER)
def test_relevance_has_the_shape_of_the_input(name, batch):
    function, shape, pieces = LARGER[name]
    graph, concrete = graph_of(lambda x: tf.reshape(function(x), [tf.shape(x)[0], -1]), shape)
    x = data(shape)[:batch]
    y = concrete(tf.constant(x)).numpy()
    np.testing.assert_allclose(graph(x), y, rtol=1e-12)
    relevance = create_analyzer("lrp.z", graph).record(x).analyze(initial_relevance=y)
    assert relevance.shape == x.shape
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        output = tf.reshape(function(inputs), y.shape)
    gradient = tape.gradient(output, inputs, np.ones_like(y))
    found = create_analyzer("gradient", graph).record(x).analyze(initial_relevance=np.ones_like(y))
    np.testing.assert_allclose(found, gradient, rtol=1e-9, atol=1e-11)
    if pieces:
        np.testing.assert_allclose(relevance, x * gradient, rtol=1e-4, atol=1e-6)
    assert create_analyzer("lrp.alpha_1_beta_0", graph).record(x).analyze(0).shape == x.shape


def assert_equal_relevance(model, graph, x, share=1e-7, methods=METHODS):
    for method in methods:
        names = getattr(model, "output_names", [])
        selection = {graph.output_names[-1]: 0} if len(names) > 1 else 0
        expected = create_analyzer(method, model).record(x).analyze({names[-1]: 0} if len(names) > 1 else 0)
        found = create_analyzer(method, graph).record(x).analyze(selection)
        for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=share * np.abs(b).max(), err_msg=method)


@pytest.mark.parametrize("name", ["cnn", "nested", "operators", "residual", "shared"])
def test_the_zoo_exported(name, tmp_path, float64):
    model = randomized(ZOO[name]())
    x = inputs_of(model)
    model.export(tmp_path / "model")
    graph = read_savedmodel(tmp_path / "model")
    assert isinstance(graph, Graph) and graph.dtype == "float64"
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-7, atol=1e-9)
    assert_equal_relevance(model, graph, x, methods=("gradient", "lrp.epsilon_plus_flat"))


def blocks():
    """What keras.applications are made of, small."""
    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.Activation("silu")(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    y = layers.Multiply()([y, gate])
    y = layers.BatchNormalization()(layers.SeparableConv2D(8, 3, padding="same", activation="relu")(y))
    x = layers.Add()([x, y])
    z = layers.LayerNormalization(epsilon=1e-6)(x)
    z = layers.Dense(12, activation="gelu")(z)
    z = layers.Dense(8)(z)
    x = layers.Concatenate()([x, z])
    x = layers.BatchNormalization()(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.GroupNormalization(4)(x)
    x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="leaky_relu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = layers.Reshape((36, 6))(x)
    x = layers.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="elu")(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="last")(x), name="blocks")


def test_building_blocks_of_applications(tmp_path, float64):
    model = randomized(blocks())
    x = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3))
    model.export(tmp_path / "model")
    graph = read_savedmodel(tmp_path / "model")
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-7)
    assert not [s for s in graph.sites if type(s.operation).__name__ == "TensorFlowOperation"]
    assert_equal_relevance(
        model, graph, x, methods=("gradient", "lrp.z", "lrp.alpha_1_beta_0", "lrp.epsilon_plus_flat")
    )


def test_several_inputs_and_outputs(tmp_path, rng):
    b, a = keras.Input((4,), name="b"), keras.Input((3,), name="a")
    x = layers.Concatenate()([b, layers.Dense(2, activation="tanh")(a)])
    model = randomized(keras.Model([b, a], {"z": layers.Dense(2)(x), "y": layers.Dense(3)(x)}))
    model.export(tmp_path / "model")
    graph = read_savedmodel(tmp_path / "model")
    assert graph.input_names == ("a", "b") and graph.output_names == ("y", "z")
    x = {"a": rng.normal(size=(2, 3)).astype("float32"), "b": rng.normal(size=(2, 4)).astype("float32")}
    relevance = create_analyzer("lrp.epsilon", graph).record(x).analyze({"z": 1})
    expected = create_analyzer("lrp.epsilon", model).record([x["b"], x["a"]]).analyze({"z": 1})
    np.testing.assert_allclose(relevance["b"], expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(relevance["a"], expected[1], rtol=1e-5, atol=1e-7)
    outputs = graph(x)
    np.testing.assert_allclose(outputs["y"], model([x["b"], x["a"]])["y"], rtol=1e-5, atol=1e-6)


def small_network(keras):
    """A model of Keras 2 or 3, whose layers have names and arguments that both know."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, activation="swish")(x)
    x = layers.LayerNormalization()(x)
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x))
    x = layers.Add()([x, layers.Dense(4, activation="gelu")(x)])
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D(2)(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def test_models_of_keras_2_have_the_relevance_of_keras_3(tmp_path):
    old, new = small_network(pytest.importorskip("tf_keras")), small_network(keras)
    rng = np.random.default_rng(0)
    for v in old.variables:
        v.assign(rng.uniform(0.5, 1.5, v.shape) if "variance" in v.name else rng.normal(size=v.shape) / 3)
    for layer, twin in zip(old.layers, new.layers, strict=True):
        twin.set_weights(layer.get_weights())
    old.save(tmp_path / "model", save_format="tf")
    graph = read_savedmodel(tmp_path / "model")
    assert kinds(graph).count("BatchNorm") == kinds(graph).count("Normalize") == 1
    x = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(graph(x), old(x), rtol=1e-5, atol=1e-6)
    assert_equal_relevance(new, graph, x, share=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.where(x > 0.01, x, tf.zeros_like(x)),
        lambda x: tf.minimum(tf.nn.relu(x), 100.0) * 1.0 + tf.minimum(x - 200.0, 0.0) * 0.0,
        lambda x: tf.nn.relu(tf.stop_gradient(x)),
    ],
)
def test_what_is_no_relu(function):
    """A threshold above zero, a bound far away, and a ReLU that no gradient comes through."""
    graph, concrete = graph_of(function, (6,))
    x = np.float64([[0.005, -1.0, 0.02, 99.0, 150.0, -300.0]])
    np.testing.assert_allclose(graph(x), concrete(tf.constant(x)), rtol=1e-12)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        output = function(inputs)
    expected = tape.gradient(output, inputs)
    expected = np.zeros_like(x) if expected is None else np.asarray(expected)
    gradient = create_analyzer("gradient", graph).record(x).analyze(initial_relevance=np.ones_like(x))
    np.testing.assert_allclose(gradient, expected)


SINGLE = tf.Variable(RNG.normal(size=(4, 3)).astype("float32"))
TOKEN = tf.Variable(RNG.normal(size=(1, 1, 4)).astype("float32"))
KERNEL = tf.Variable(RNG.normal(size=(3, 3, 2, 1)).astype("float32"))


def attention(x, mask):
    scores = x @ tf.transpose(x, (0, 2, 1)) + (1 - tf.cast(mask, x.dtype))[:, None] * -1e9
    return tf.reduce_mean(tf.nn.softmax(scores) @ x, 1) @ SINGLE


def masked_mean(x, mask):
    mask = tf.cast(mask, x.dtype)[..., None]
    return tf.math.divide_no_nan(tf.reduce_sum(x * mask, 1), tf.reduce_sum(mask, 1)) @ SINGLE


STEPS, STEPS_MASK = ((3, 4), tf.float32), ((3,), tf.int32)
LEDGERS = {
    "an integer mask": (lambda x, m: tf.reduce_sum(tf.where(m[..., None] > 0, x, -1.0), 1) @ SINGLE, STEPS, STEPS_MASK),
    "a mask of scores": (attention, STEPS, STEPS_MASK),
    "a mean over steps": (masked_mean, STEPS, STEPS_MASK),
    "a length": (lambda x, m: tf.reduce_sum(x, 1) / tf.cast(tf.reduce_sum(m, 1, True) + 1, x.dtype), STEPS, STEPS_MASK),
    "one channel": (lambda x: tf.nn.bias_add(tf.nn.conv2d(x, KERNEL, 1, "SAME"), [0.3]), ((4, 4, 2), tf.float32)),
    "nothing for zero": (lambda x: tf.math.divide_no_nan(x, [1.0, 0.0, 2.0, 3.0]) @ SINGLE, ((4,), tf.float32)),
    "tiles": (lambda x: tf.tile(x[:, None], [1, 3, 1]) @ SINGLE, ((4,), tf.float32)),
    "a token, tiled": (
        lambda x: tf.concat([tf.tile(TOKEN, [tf.shape(x)[0], 1, 1]), x], 1) @ SINGLE, ((2, 4), tf.float32)
    ),
    "a token, added to zeros": (
        lambda x: tf.concat([tf.zeros_like(x[:, :1]) + TOKEN, x], 1) @ SINGLE, ((2, 4), tf.float32)
    ),
    "ones": (lambda x: (x + tf.ones_like(x)) @ SINGLE, ((4,), tf.float32)),
    "float32 in float64": (lambda x: tf.cast(tf.cast(x, tf.float32) @ SINGLE + 0.1, tf.float64), ((4,), tf.float64)),
    "constants in float32": (
        lambda x: x * tf.cast(tf.sqrt(tf.constant([0.1, 0.2, 0.3, 0.4])), tf.float64), ((4,), tf.float64)
    ),
    "steps first": (
        lambda x: tf.transpose(tf.transpose(x, (1, 0, 2)) @ SINGLE + 1.0, (1, 0, 2)), ((3, 4), tf.float32)
    ),
    "samples last": (lambda x: tf.transpose(tf.transpose(SINGLE) @ tf.transpose(x)), ((4,), tf.float32)),
    "scatter": (lambda x: tf.tensor_scatter_nd_update(x, [[0, 1]], [5.0]) @ SINGLE, ((4,), tf.float32)),
}  # fmt: skip


@pytest.mark.parametrize("name", LEDGERS)
def test_relevance_is_accounted_for(name):
    function, *inputs = LEDGERS[name]
    specs = [tf.TensorSpec((None, *shape), dtype, f"x{i}") for i, (shape, dtype) in enumerate(inputs)]
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    graph, x = read_function(concrete), [data(shape, dtype) for shape, dtype in inputs]
    y = concrete(*map(tf.constant, x)).numpy()
    x = x[0] if len(x) == 1 else x
    for method in ("lrp.z", "lrp.epsilon_plus_flat"):
        ledger = create_analyzer(method, graph).conservation(x, initial_relevance=y)
        np.testing.assert_allclose(ledger.other, 0, atol=2e-6 * np.abs(y).sum(), err_msg=method)
