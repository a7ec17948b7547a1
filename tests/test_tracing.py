"""Tracing: a model of any make becomes a flat graph that computes the same, and stays as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from revgraph import check, create_analyzer
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    Conv,
    Dense,
    DepthwiseConv,
    Opaque,
    Product,
    Routing,
    Scale,
    Sum,
)
from revgraph.read import SizesUnknown, trace
from tests.models import ZOO, inputs_of, make, randomized

pytestmark = pytest.mark.usefixtures("float64")


def paths(model):
    return [site.path for site in trace(model).sites]


def same_values(graph, model, x):
    expected = model(x)
    keras.tree.assert_same_structure(graph(x), expected)
    for a, b in zip(keras.tree.flatten(graph(x)), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ZOO)
def test_the_graph_computes_what_the_model_computes(name):
    model = make(name)
    graph = trace(model)
    assert graph.dtype == "float64"
    same_values(graph, model, inputs_of(model))
    same_values(graph, model, inputs_of(model, batch=1, seed=5))


def state_of(model):
    """All that an analysis could change, with the identity of every node."""
    everything = list(model._flatten_layers())
    return (
        [(id(x), list(map(id, x._inbound_nodes)), list(map(id, x._outbound_nodes)), x.trainable) for x in everything],
        [w.numpy().tobytes() for w in model.variables],
        [sorted(vars(x)) for x in everything],
    )


@pytest.mark.parametrize("name", ZOO)
def test_the_model_stays_as_it_was(name):
    model = make(name)
    model.layers[0].trainable = False
    before = state_of(model)
    trace(model)
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", ["one", "two", "three"]),
        ("cnn", ["conv1", "bn", "relu", "average", "conv2", "max", "flatten", "dense", "logits"]),
        ("nested", ["block/one", "block/two", "act", "head/deep/one", "head/deep/two", "head/logits"]),
        (
            "shared",
            ["dense", "dense#2", "twin/one", "twin/two", "twin#2/one", "twin#2/two", "join", "logits"],
        ),
        ("subclassed", ["stem", "step0", "Relu", "add", "step1", "Relu#2", "add#2", "head"]),
    ],
)
def test_paths_say_where_a_call_stands(name, expected):
    model = make(name)
    assert paths(model) == expected
    assert paths(model) == expected


def test_inputs_and_outputs_keep_their_structure():
    graph = trace(make("two_inputs"))
    assert set(graph.inputs) == {"image", "table"} and graph.input_names == ("image", "table")
    graph = trace(make("two_outputs"))
    assert set(graph.outputs) == {"kind", "size"} and graph.output_names == ("kind", "size")
    graph = trace(make("shared"))
    assert isinstance(graph.inputs, list) and graph.input_names == ("a", "b")
    assert isinstance(trace(make("mlp")).inputs, int)

    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model((a, {"x": b}), [layers.Add()([a, b]), (a * b,)])
    x = np.ones((2, 3)), {"x": np.full((2, 3), 2.0)}
    graph = trace(model)
    first, (second,) = graph(x)
    np.testing.assert_array_equal(first, np.full((2, 3), 3))
    np.testing.assert_array_equal(second, np.full((2, 3), 2))


def test_outputs_may_be_inputs_or_stand_twice():
    inputs = keras.Input((3,))
    x = layers.ReLU()(inputs)
    model = keras.Model(inputs, [inputs, x, x])
    same_values(trace(model), model, np.array([[-1.0, 0.0, 2.0]]))


@pytest.mark.filterwarnings("error")
def test_layers_that_do_nothing_in_inference_are_no_sites():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.RandomFlip(seed=1),
            layers.GaussianNoise(0.3),
            layers.Conv2D(2, 2, name="conv"),
            layers.SpatialDropout2D(0.5),
            layers.Identity(),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.5),
            layers.ActivityRegularization(),
        ]
    )
    assert paths(randomized(model)) == ["conv", "flatten"]
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    np.testing.assert_allclose(trace(model)(x), model(x, training=False), rtol=1e-11)


def test_a_graph_prints_as_a_table():
    text = str(trace(make("shared")))
    assert text.splitlines()[0] == "Graph 'shared': 8 sites, float64"
    for path in ("twin#2/one", "join", "Dense + relu", "(?, 10)"):
        assert path in text


def test_weights_assigned_later_are_seen():
    model = make("mlp")
    graph, x = trace(model), inputs_of(model)
    before = graph(x).numpy()
    for variable in model.variables:
        variable.assign(2 * variable)
    assert np.abs(graph(x) - before).max() > 0.1
    same_values(graph, model, x)


def test_layers_are_found_by_name_path_and_object():
    model = make("nested")
    graph = trace(model)
    assert graph.find("act").path == "act"
    assert graph.find("head/deep/one").layer is model.get_layer("head").get_layer("deep").get_layer("one")
    assert graph.find(model.get_layer("act")).path == "act"
    with pytest.raises(KeyError, match=r"'one' is called 2 times; name one of the calls: 'block/one', 'head/deep/one'"):
        graph.find("one")
    with pytest.raises(KeyError, match=r"has no layer 'logit'. Did you mean .*'logits'"):
        graph.find("logit")
    model = make("shared")
    with pytest.raises(KeyError, match="is called 2 times; name one of the calls: 'dense', 'dense#2'"):
        trace(model).find(model.get_layer("dense"))


class Flow(keras.Model):
    """A model whose Python depends on values."""

    def __init__(self):
        super().__init__(name="flow")
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x) if float(ops.sum(x)) > 0 else x


class Lost(keras.Model):
    """A model that leaves the graph of symbolic tensors."""

    def __init__(self):
        super().__init__(name="lost")
        self.dense = layers.Dense(3)

    def call(self, x):
        return np.asarray(self.dense(x))


class Late(Flow):
    """The same, of a shape that is declared."""

    def build(self, shape):
        self.dense.build(shape)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `build")
@pytest.mark.parametrize("cls", [Flow, Lost, Late])
def test_python_that_depends_on_values_is_an_error(cls):
    model = cls()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match=rf"Cannot trace '{model.name}' .*depend on the values of tensors"):
        create_analyzer("gradient", model).analyze(np.ones((2, 3)))


def test_only_built_models_are_traced():
    with pytest.raises(ValueError, match=r"'open' is not built.*keras.Input\(shape\)"):
        trace(keras.Sequential([layers.Dense(3)], name="open"))
    with pytest.raises(ValueError, match=r"'flow' is not built.*Call it once on data"):
        trace(Flow())
    for wrong in (layers.Dense(3), lambda x: x, None, "model.keras"):
        with pytest.raises(TypeError, match="Expected a Keras model.*Received"):
            trace(wrong)


class Scaled(layers.Layer):
    """A layer of the user's own, of simple operations."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.gain = self.add_weight(shape=(3,), name="gain")

    def call(self, x, bias=1.0):
        return ops.relu(ops.matmul(x, self.kernel) * self.gain + bias)


class Inverse(layers.Layer):
    """A layer of the user's own with an operation that has no rule."""

    def call(self, x):
        return ops.inv(x)


def test_own_layers_are_looked_into():
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, Scaled(name="own")(inputs, bias=0.5)))
    graph = trace(model)
    assert [site.path for site in graph.sites] == ["own/MatMul", "own/mul", "own/Relu"]
    assert [type(site.operation) for site in graph.sites] == [Dense, Scale, Activation]
    same_values(graph, model, np.random.default_rng(0).normal(size=(2, 4)))
    (site,) = trace(model, keep=(Scaled,)).sites
    assert site.path == "own" and isinstance(site.operation, Opaque)


def test_an_operation_without_a_rule_is_a_site_of_its_own():
    inputs = keras.Input((2, 2))
    model = keras.Model(inputs, Inverse(name="own")(inputs))
    (site,) = trace(model).sites
    assert (site.path, site.operation.label) == ("own/MatrixInverse", "MatrixInverse")
    (whole,) = trace(model, keep=(Inverse,)).sites
    assert (whole.path, whole.operation.label) == ("own", "Inverse")
    same_values(trace(model), model, np.array([[[3.0, 1.0], [2.0, 1.0]]]))


K = np.random.default_rng(0).normal(size=(3, 2, 3))
OPS = {
    "x + y": (lambda x, y: x + y, Sum),
    "x - y": (lambda x, y: x - y, Sum),
    "x * y": (lambda x, y: x * y, Product),
    "x + 2": (lambda x, y: x + 2, Scale),
    "2 - x": (lambda x, y: 2 - x, Scale),
    "x * 0.1": (lambda x, y: x * 0.1, Scale),
    "0.1 * x": (lambda x, y: 0.1 * x, Scale),
    "x / 3": (lambda x, y: x / 3, Scale),
    "-x": (lambda x, y: -x, Scale),
    "x - array": (lambda x, y: x - np.array([0.1, 0.2]), Scale),
    "x @ kernel": (lambda x, y: ops.matmul(x, K[0]), Dense),
    "einsum": (lambda x, y: ops.einsum("abc,cd->abd", x, K[0]), Dense),
    "conv": (lambda x, y: ops.conv(x, K, padding="same"), Conv),
    "depthwise_conv": (lambda x, y: ops.depthwise_conv(x, K), DepthwiseConv),
    "mean": (lambda x, y: ops.mean(x, axis=1), AveragePool),
    "sum": (lambda x, y: ops.sum(x, axis=-1, keepdims=True), AveragePool),
    "average_pool": (lambda x, y: ops.average_pool(x, 2, padding="same"), AveragePool),
    "max_pool": (lambda x, y: ops.max_pool(x, 2), Routing),
    "max": (lambda x, y: ops.max(x, axis=1), Routing),
    "maximum": (lambda x, y: ops.maximum(x, y), Routing),
    "maximum of 0": (lambda x, y: ops.maximum(x, 0.0), Activation),
    "relu": (lambda x, y: ops.relu(x), Activation),
    "tanh": (lambda x, y: ops.tanh(x), Activation),
    "softmax": (lambda x, y: ops.softmax(x), Activation),
    "x[:, 0]": (lambda x, y: x[:, 0], Routing),
    "x[..., None]": (lambda x, y: x[..., None], Routing),
    "reshape": (lambda x, y: ops.reshape(x, (-1, 8)), Routing),
    "transpose": (lambda x, y: ops.transpose(x, (0, 2, 1)), Routing),
    "concatenate": (lambda x, y: ops.concatenate([x, y, x], axis=1), Routing),
    "stack": (lambda x, y: ops.stack([x, y], axis=1), Routing),
    "split": (lambda x, y: ops.split(x, 2, axis=1)[1], Routing),
    "pad": (lambda x, y: ops.pad(x, ((0, 0), (1, 2), (0, 0))), Routing),
    "squeeze": (lambda x, y: ops.squeeze(ops.expand_dims(x, 1), 1), Routing),
    "flip": (lambda x, y: ops.flip(x, axis=1), Routing),
}


@pytest.mark.parametrize("name", OPS)
def test_raw_operations(name, rng):
    function, kind = OPS[name]
    x, y = keras.Input((4, 2)), keras.Input((4, 2))
    model = keras.Model([x, y], function(x, y))
    graph = trace(model)
    assert any(isinstance(site.operation, kind) for site in graph.sites)
    same_values(graph, model, [rng.normal(size=(2, 4, 2)) for _ in range(2)])


def test_constants_have_the_digits_that_they_have_in_the_model():
    inputs = keras.Input((1,))
    rescaled = layers.Rescaling(1 / 255, offset=0.1)(inputs)
    model = keras.Model(inputs, [rescaled, inputs * (1 / 255) + 0.1])
    x = np.ones((1, 1))
    for ours, theirs in zip(trace(model)(x), model(x), strict=True):
        assert ours.numpy().item() == pytest.approx(theirs.numpy().item(), rel=1e-15)


class Steps(layers.Layer):
    """Python that runs over the steps of a sequence."""

    def call(self, x):
        total = 0.0
        for t in range(x.shape[1]):
            total = total + (t + 1.0) * x[:, t]
        return total


class OfAnyLength(keras.Model):
    def __init__(self):
        super().__init__()
        self.steps, self.head = Steps(), layers.Dense(2)

    def build(self, shape):
        self.head.build((None, shape[-1]))

    def call(self, x):
        return self.head(self.steps(x))


class BuiltWithoutShape(OfAnyLength):
    def build(self):
        self.head.build((None, 3))


@pytest.mark.parametrize("form", ["of any length", "built on other sizes", "built without a shape"])
def test_sizes_that_the_model_does_not_say_are_those_of_the_data(form, rng):
    model = BuiltWithoutShape() if form == "built without a shape" else OfAnyLength()
    if form == "of any length":
        model.build((None, None, 3))
        with pytest.raises(SizesUnknown, match="Cannot trace"):
            trace(model)
        report = check(model, "lrp.z")
        assert not report.supported and "example=x" in report.problems[0]
        assert check(model, "lrp.z", example=np.ones((1, 4, 3))).supported
    else:
        model(np.ones((1, 2, 3)))
    analyzer = create_analyzer("lrp.z", randomized(model))
    for length in (4, 5, 4):
        x = rng.normal(size=(2, length, 3))
        expected = x * np.arange(1, length + 1)[:, None] * model.head.kernel.numpy()[:, 1]
        # But for the stabiliser, 1e-7.
        np.testing.assert_allclose(analyzer.analyze(x, 1), expected, rtol=1e-5)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(1)
    if form != "built on other sizes":
        np.testing.assert_allclose(analyzer.analyze(batches, 1), expected, rtol=1e-5)
    with pytest.raises(ValueError):
        analyzer.analyze(np.ones((2, 4, 7)), 1)


def _padded(x, y):
    """y with zeros behind it until it has as many steps as x: a difference of two sizes."""
    missing = tf.shape(x)[1] - tf.shape(y)[1]
    return x + tf.pad(y, [[0, 0], [0, missing], [0, 0]])


SIZES_COMPUTED = {
    "a difference": _padded,
    "a minimum": lambda x, y: x[:, : tf.minimum(tf.shape(x)[1], 4)],
    "a quotient": lambda x, y: tf.repeat(y, tf.shape(x)[1] // tf.shape(y)[1], axis=1),
    "a remainder": lambda x, y: tf.roll(x, tf.shape(x)[1] % 3, axis=1),
}


@pytest.mark.parametrize("name", SIZES_COMPUTED)
def test_what_is_computed_from_sizes_is_no_constant(name, rng):
    function = SIZES_COMPUTED[name]
    x, y = keras.Input((None, 3)), keras.Input((None, 3))
    joined = layers.Lambda(lambda both: function(*both), output_shape=(None, 3))([x, y])
    model = randomized(keras.Model([x, y], layers.Dense(2)(layers.GlobalMaxPooling1D()(joined))))
    graph = trace(model)
    for long, short in ((4, 2), (9, 9), (3, 1), (12, 3), (1, 1), (20, 2)):
        same_values(graph, model, [rng.normal(size=(2, long, 3)), rng.normal(size=(2, short, 3))])


def test_bins_are_constants():
    """Sorting numbers into bins has no gradient, not even one that is zero, in TensorFlow."""
    x = keras.Input((1,))
    rows = layers.Flatten()(layers.Embedding(4, 3)(layers.Discretization(bin_boundaries=[0.0, 1.0, 2.0])(x)))
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Concatenate()([rows, x]))))
    data = np.array([[0.5], [1.5]])
    report = create_analyzer("lrp.z", model).conservation(data, 1)
    np.testing.assert_allclose(report.input, data[:, 0] * model.layers[-1].kernel.numpy()[-1, 1], rtol=1e-6)
    np.testing.assert_allclose(report.start, report.input + report.bias + report.constants, rtol=1e-6)


class AsInTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.norm, self.drop = layers.Dense(4), layers.BatchNormalization(name="norm"), layers.Dropout(0.9)

    def call(self, x):
        return self.drop(self.norm(self.dense(x), training=True), training=True)


def test_a_layer_called_as_in_training_is_explained_as_in_inference(rng):
    model, x = AsInTraining(), rng.normal(size=(3, 4))
    model(x)
    randomized(model)
    with pytest.warns(UserWarning, match="'norm' is called with training=True"):
        graph = trace(model)
    np.testing.assert_allclose(graph(x), model.norm(model.dense(x), training=False), rtol=1e-11)
