"""Activations, shape layers, pooling, masks and time: every layer without a kernel of its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph.canonize import canonize
from revgraph.fast.signs import nonnegative_slots
from revgraph.graph.operations import Activation
from revgraph.read import trace
from revgraph.reverse_rules import Z
from tests.models import inputs_of, randomized

pytestmark = pytest.mark.usefixtures("float64")

PRECISE = Z(epsilon=1e-300)
"""LRP-0 whose stabiliser hides nothing."""


def chain(shape, *sequence):
    return randomized(keras.Sequential([keras.Input(shape), *sequence]))


def between(shape, layer):
    """The layer between a linear one, for inputs of any sign, and a linear one that reads all of its output."""
    first = layers.Dense(shape[-1])
    return chain(shape, first, layer, layers.Flatten(), layers.Dense(3))


def same(actual, desired):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(desired), rtol=1e-9, atol=1e-12)


def check_graph(model, x):
    """The graph computes what the model computes, before canonization and after."""
    same(trace(model)(x), model(x, training=False))
    same(canonize(model)(x), model(x, training=False))


def explain(name, model, x, selection=1, **options):
    """Relevance, computed eagerly: for tiny networks that is faster than compiling."""
    return revgraph.create_analyzer(name, model, **options).record(x).analyze(selection)


def check_gradient_times_input(model, x, rtol=1e-9):
    """For networks that are linear in pieces, biases apart: LRP-0 is input times gradient."""
    relevance = explain("lrp", model, x, rule=PRECISE)
    expected = explain("input_t_gradient", model, x)
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(relevance - expected) <= rtol * np.linalg.norm(expected)


def check_conserved(model, x, name="lrp.epsilon", **options):
    """All relevance is found again."""
    ledger = revgraph.create_analyzer(name, model, **options).conservation(x, 1)
    assert np.abs(ledger.other).max() <= 1e-9 * np.abs(ledger.start).max()
    return ledger


# Activations.

ACTIVATIONS = [
    name
    for name in (
        "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid "
        "log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus "
        "sparse_sigmoid sparsemax squareplus tanh tanh_shrink"
    ).split()
    if hasattr(keras.activations, name)
]


def activated(name, form):
    """A network with the activation as a layer, inside a layer, or as an operation."""
    inputs = keras.Input((4,))
    dense = layers.Dense(6, activation=name if form == "fused" else None)
    x = dense(inputs)
    if form == "layer":
        x = layers.Activation(name)(x)
    elif form == "operation":
        x = getattr(ops, {"exponential": "exp"}.get(name, name))(x)
    return randomized(keras.Model(inputs, layers.Dense(3)(ops.reshape(x, (-1, 3 if name == "glu" else 6)))))


@pytest.mark.parametrize("form", ["layer", "fused", "operation"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_every_form(name, form):
    if name == "glu" and form == "fused":
        pytest.skip("Dense does not know that its output has another shape")
    if form == "operation" and name in ("linear", "mish"):
        pytest.skip("there is no such operation")
    model = activated(name, form)
    x = inputs_of(model)
    check_graph(model, x)
    relevance = explain("lrp.epsilon", model, x)
    assert relevance.shape == x.shape
    assert np.isfinite(relevance).all()
    assert relevance.any()


def test_the_three_forms_of_an_activation_agree():
    x = inputs_of(activated("tanh", "layer"))
    results = [explain("lrp.alpha_1_beta_0", activated("tanh", form), x) for form in ("layer", "fused", "operation")]
    for result in results[1:]:
        same(result, results[0])


PARAMETERS = {
    "ReLU": (lambda: layers.ReLU(), "relu", True),
    "ReLU6": (lambda: layers.ReLU(6.0), "relu6", True),
    "bounded": (lambda: layers.ReLU(2.5), "bounded_relu", True),
    "threshold": (lambda: layers.ReLU(threshold=0.3), "relu", True),
    "slope": (lambda: layers.ReLU(negative_slope=0.2), "sloped_relu", False),
    "all": (lambda: layers.ReLU(0.8, negative_slope=0.2, threshold=0.3), "bounded_sloped_relu", False),
    "LeakyReLU": (lambda: layers.LeakyReLU(0.2), "leaky_relu", False),
    "PReLU": (lambda: layers.PReLU(alpha_initializer="normal"), "prelu", False),
    "ELU": (lambda: layers.ELU(0.7), "elu", False),
    "Softmax": (lambda: layers.Softmax(), "softmax", True),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_activation_layers_and_their_parameters(name):
    make, expected, nonnegative = PARAMETERS[name]
    model = chain((4,), layers.Dense(6), make(), layers.Dense(3))
    x = inputs_of(model)
    check_graph(model, x)
    graph = trace(model)
    assert [s.operation.name for s in graph.sites if isinstance(s.operation, Activation)] == [expected]
    assert (graph.sites[1].outputs[0] in nonnegative_slots(graph)) == nonnegative
    # A slope below a threshold other than 0 has a constant part, and relevance passes it all the same.
    if name not in ("ELU", "Softmax", "all"):
        check_gradient_times_input(model, x)


@pytest.mark.parametrize("function", ["relu", "relu6"])
@pytest.mark.parametrize("form", ["layer", "fused", "operation", "parameters", "maximum"])
def test_what_counts_as_a_relu(function, form):
    """Deconvnet passes the positive part of what comes from above, whatever the sign of the input."""
    inputs = keras.Input((3,))
    bound = 6.0 if function == "relu6" else None
    if form == "maximum" and bound:
        pytest.skip("two operations")
    x = {
        "layer": lambda: layers.ReLU(bound)(inputs),
        "fused": lambda: layers.Dense(3, activation=function, name="fused")(inputs),
        "operation": lambda: getattr(ops, function)(inputs),
        "parameters": lambda: keras.activations.relu(inputs, max_value=bound),
        "maximum": lambda: ops.maximum(inputs, 0.0),
    }[form]()
    head = layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, head(x))
    head.set_weights([np.array([[1.0, 0], [-2, 0], [3, 0]])])
    if form == "fused":
        model.get_layer("fused").set_weights([np.eye(3), np.zeros(3)])
    x = np.array([[-1.0, 1, 2]])
    same(explain("deconvnet", model, x, 0), [[1, 0, 3]])
    same(explain("guided_backprop", model, x, 0), [[0, 0, 3]])


def test_own_functions_under_keras_names_are_not_taken_for_them():
    def relu(x):
        return x - 1.0

    model = chain((3,), layers.Dense(4, activation=relu), layers.Dense(2))
    graph = canonize(model)
    check_graph(model, inputs_of(model))
    assert not [s for s in graph.sites if isinstance(s.operation, Activation)]
    assert nonnegative_slots(graph).isdisjoint(graph.sites[0].outputs)


ACTIVATIONS_BY_VALUE = {
    "softmax of TensorFlow": (tf.nn.softmax, "softmax"),
    "sigmoid of TensorFlow": (lambda x: 1 / (1 + tf.exp(-x)), "sigmoid"),
    "swish of TensorFlow": (tf.nn.swish, "silu"),
    "a maximum": (lambda x: ops.maximum(x, 0.0), "relu"),
    "a product": (lambda x: x * ops.sigmoid(x), "silu"),
}


@pytest.mark.parametrize("name", ACTIVATIONS_BY_VALUE)
def test_activations_are_known_by_what_they_compute(name):
    """Whatever the function is called. The layer itself stays one site, found by its class and name."""
    function, kind = ACTIVATIONS_BY_VALUE[name]
    model = chain((3,), layers.Dense(4, activation=function, name="first"), layers.Dense(2, name="last"))
    check_graph(model, inputs_of(model))
    graph = trace(model)
    assert [(s.path.split("/")[0], s.operation.label) for s in graph.sites] == [
        ("first", "Dense"), ("first", kind), ("last", "Dense"),
    ]  # fmt: skip
    assert graph.sites[0].layer is model.get_layer("first")
    np.testing.assert_allclose(
        graph.run([inputs_of(model)])[graph.find("first").outputs[0]], model.get_layer("first")(inputs_of(model))
    )


@pytest.mark.parametrize("end", [tf.nn.softmax, lambda x: tf.exp(x) / tf.reduce_sum(tf.exp(x), -1, keepdims=True)])
def test_probabilities_by_another_name_are_explained_by_their_logits(end):
    model = chain((3,), layers.Dense(4, activation=end))
    x, logits = inputs_of(model), None
    (layer,) = model.layers[-1:]
    logits = np.asarray(x @ layer.kernel + layer.bias)
    if end is tf.nn.softmax:
        with pytest.warns(UserWarning, match="is a probability: its logits are explained"):
            relevance = explain("lrp.z_IB", model, x, 1)
        np.testing.assert_allclose(relevance.sum(1), logits[:, 1], rtol=1e-6)
    else:
        assert np.isfinite(explain("lrp.epsilon", model, x, 1)).all()


def test_layers_as_activation_functions():
    model = chain((3,), layers.Dense(4, activation=layers.LeakyReLU(0.1)), layers.Dense(2))
    check_graph(model, inputs_of(model))
    assert [site.path.rsplit("/", 1)[-1] for site in canonize(model).sites][1] == "leaky_relu"


def test_saturated_units_keep_their_relevance_under_lrp_0():
    """A saturated ReLU6 is a constant: it absorbs its relevance, and the gradient is 0, too."""
    model = keras.Sequential([keras.Input((2,)), layers.ReLU(6.0), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [2.0]])])
    x = np.array([[7.0, 2.0]])
    same(explain("lrp", model, x, 0, rule=PRECISE), [[0, 4]])
    ledger = revgraph.create_analyzer("lrp", model, rule=PRECISE).conservation(x, 0)
    same(ledger.constants, [6.0])
    same(ledger.other, [0.0])
    np.testing.assert_allclose(explain("lrp.alpha_1_beta_0", model, x, 0), [[6, 4]], rtol=1e-6)


# Shape layers and pooling.

SHAPES = {
    "UpSampling1D": (lambda: layers.UpSampling1D(2), (3, 2)),
    "UpSampling2D": (lambda: layers.UpSampling2D((2, 3)), (3, 2, 2)),
    "UpSampling2D bilinear": (lambda: layers.UpSampling2D(2, interpolation="bilinear"), (3, 2, 2)),
    "UpSampling2D bicubic": (lambda: layers.UpSampling2D(2, interpolation="bicubic"), (3, 3, 2)),
    "UpSampling3D": (lambda: layers.UpSampling3D(2), (2, 2, 2, 1)),
    "Resizing": (lambda: layers.Resizing(5, 4), (3, 3, 2)),
    "Resizing nearest": (lambda: layers.Resizing(5, 4, interpolation="nearest"), (3, 3, 2)),
    "CenterCrop": (lambda: layers.CenterCrop(2, 2), (4, 4, 2)),
    "Cropping1D": (lambda: layers.Cropping1D((1, 2)), (5, 2)),
    "Cropping2D": (lambda: layers.Cropping2D(((1, 0), (0, 2))), (4, 4, 2)),
    "Cropping3D": (lambda: layers.Cropping3D(1), (3, 3, 3, 1)),
    "ZeroPadding1D": (lambda: layers.ZeroPadding1D((1, 2)), (3, 2)),
    "ZeroPadding2D": (lambda: layers.ZeroPadding2D(((1, 0), (0, 2))), (3, 3, 2)),
    "ZeroPadding3D": (lambda: layers.ZeroPadding3D(1), (2, 2, 2, 1)),
    "Permute": (lambda: layers.Permute((2, 1)), (3, 2)),
    "Reshape": (lambda: layers.Reshape((2, -1)), (4, 3)),
    "RepeatVector": (lambda: layers.RepeatVector(3), (4,)),
    "MaxPooling1D": (lambda: layers.MaxPooling1D(2, 1), (5, 2)),
    "MaxPooling2D": (lambda: layers.MaxPooling2D(3, 2, padding="same"), (5, 4, 2)),
    "AveragePooling1D": (lambda: layers.AveragePooling1D(3, 2, padding="same"), (5, 2)),
    "AveragePooling2D": (lambda: layers.AveragePooling2D(2, 1), (4, 3, 2)),
    "GlobalMaxPooling1D": (lambda: layers.GlobalMaxPooling1D(), (4, 2)),
    "GlobalMaxPooling2D": (lambda: layers.GlobalMaxPooling2D(), (3, 4, 2)),
    "GlobalMaxPooling3D": (lambda: layers.GlobalMaxPooling3D(keepdims=True), (2, 3, 2, 2)),
    "GlobalAveragePooling1D": (lambda: layers.GlobalAveragePooling1D(), (4, 2)),
    "GlobalAveragePooling2D": (lambda: layers.GlobalAveragePooling2D(keepdims=True), (3, 4, 2)),
    "GlobalAveragePooling3D": (lambda: layers.GlobalAveragePooling3D(), (2, 3, 2, 2)),
    "Masking": (lambda: layers.Masking(), (4, 2)),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Conv1D(3, 2, activation="relu")), (2, 4, 3)),
}
SHAPES |= {
    f"Adaptive{kind}Pooling{n}D": (
        lambda kind=kind, n=n: getattr(layers, f"Adaptive{kind}Pooling{n}D")(2),
        (*(3, 5, 4)[:n], 2),
    )
    for kind in ("Average", "Max")
    for n in (1, 2)
    if hasattr(layers, f"Adaptive{kind}Pooling{n}D")
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_layers_and_pooling(name):
    make, shape = SHAPES[name]
    model = between(shape, make())
    x = inputs_of(model)
    check_graph(model, x)
    # TensorFlow interpolates in float32, whatever it is given.
    check_gradient_times_input(model, x, rtol=1e-6 if "bi" in name or name == "Resizing" else 1e-9)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", ["MaxPooling3D", "AveragePooling3D"])
def test_pooling_in_three_dimensions_in_float64(name, padding, data_format):
    """TensorFlow has no CPU kernels for it, so that the model itself cannot be run."""
    options = {"pool_size": (2, 3, 2), "strides": (1, 2, 2), "padding": padding}
    shape = (3, 5, 4, 2) if data_format == "channels_last" else (2, 3, 5, 4)
    model = chain(shape, getattr(layers, name)(data_format=data_format, **options), layers.Flatten(), layers.Dense(2))
    x = inputs_of(model)
    check_gradient_times_input(model, x)
    pool = getattr(layers, name)(dtype="float32", **options)
    moved = x if data_format == "channels_last" else np.moveaxis(x, 1, -1)
    expected = pool(moved.astype("float32")).numpy()
    graph = trace(model)
    actual = graph.run([x])[graph.sites[0].outputs[0]]
    actual = actual if data_format == "channels_last" else np.moveaxis(actual, 1, -1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_presets_route_upsampling_by_the_transposed_map(interpolation):
    """Each output's weights sum to one, so that nothing is lost, whatever the signs of the inputs."""
    model = chain((2, 2, 1), layers.UpSampling2D(2, interpolation=interpolation), layers.Flatten(), layers.Dense(2))
    x = inputs_of(model)
    ledger = revgraph.create_analyzer("lrp.epsilon_plus", model).conservation(x, 1)
    (entry,) = [e for e in ledger.layers if "up_sampling" in e.path]
    np.testing.assert_allclose(entry.input, entry.start, rtol=1e-6)


INFERENCE = [
    name
    for name in (
        "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise Identity SpatialDropout1D "
        "SpatialDropout2D SpatialDropout3D AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
        "RandomColorJitter RandomContrast RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
        "RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation "
        "RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom"
    ).split()
    if hasattr(layers, name)
]


@pytest.mark.parametrize("name", INFERENCE)
def test_layers_that_do_nothing_in_inference(name):
    options = {
        "RandomBrightness": {"factor": 0.2},
        "RandomColorDegeneration": {"factor": 0.2},
        "RandomContrast": {"factor": 0.2},
        "RandomGrayscale": {"factor": 0.2},
        "RandomHue": {"factor": 0.2},
        "RandomPosterization": {"factor": 4},
        "RandomRotation": {"factor": 0.2},
        "RandomSaturation": {"factor": 0.2},
        "RandomSharpness": {"factor": 0.2},
        "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
        "RandomZoom": {"height_factor": 0.2},
    }.get(name, {"rate": 0.5} if "Dropout" in name else {"stddev": 0.5} if name == "GaussianNoise" else {})
    shape = (3, 2) if name.endswith("1D") else (3, 3, 3, 1) if name.endswith("3D") else (4, 4, 3)
    layer = getattr(layers, name)(**options)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, ops.relu(layer(inputs)))
    assert len(trace(model).sites) == 1
    x = np.random.default_rng(0).uniform(0, 1, (2, *shape))
    same(layer(x, training=False) if "training" in layer.call.__code__.co_varnames else layer(x), x)


# Masks.


def test_padding_steps_get_no_relevance():
    model = chain((4, 2), layers.Masking(), layers.Dense(3), layers.GlobalAveragePooling1D(), layers.Dense(2))
    x = inputs_of(model)
    x[0, 2:], x[1, 3:] = 0, 0
    check_graph(model, x)
    for name in ("lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.flat", "lrp.epsilon_plus_flat", "gradient"):
        relevance = explain(name, model, x)
        assert not relevance[0, 2:].any(), name
        assert not relevance[1, 3:].any(), name
        assert relevance[0, :2].any(), name


def test_masks_of_embeddings_pass_through_layers_and_nested_models():
    tokens = keras.Input((5,), dtype="int32")
    steps = keras.Input((None, 3))
    inner = keras.Model(steps, layers.GlobalAveragePooling1D()(layers.Dense(3, activation="relu")(steps)))
    x = layers.Embedding(6, 3, mask_zero=True)(tokens)
    x = layers.Dropout(0.5)(layers.Activation("tanh")(x))
    model = randomized(keras.Model(tokens, layers.Dense(2)(inner(x))))
    x = np.array([[1, 2, 0, 0, 0], [3, 0, 4, 5, 1]])
    check_graph(model, x)
    assert not explain("lrp.epsilon", model, x)[x == 0].any()
    check_conserved(model, x)


def test_masks_of_merged_sequences():
    """A step counts if it counts in any of the summands; products take masked factors as ones."""
    a, b = keras.Input((4, 2)), keras.Input((4, 2))
    masked = [layers.Masking()(x) for x in (a, b)]
    mixed = layers.Add()([layers.Add()(masked), layers.Multiply()(masked)])
    model = randomized(keras.Model([a, b], layers.Dense(2)(layers.GlobalAveragePooling1D()(mixed))))
    x = inputs_of(model)
    x[0][0, 2:], x[1][0, 1:] = 0, 0
    check_graph(model, x)
    relevance = explain("lrp.epsilon", model, x)
    assert all(np.isfinite(r).all() for r in relevance)
    assert not relevance[0][0, 2:].any()


def test_masks_of_softmax():
    inputs = keras.Input((4, 2))
    scores = layers.Reshape((4,))(layers.Dense(1)(inputs))
    weights = layers.Softmax()(scores, mask=ops.any(ops.not_equal(inputs, 0.0), axis=-1))
    x = layers.Dot(axes=1)([weights, inputs])
    model = randomized(keras.Model(inputs, layers.Dense(2)(x)))
    x = inputs_of(model)
    x[:, 2:] = 0
    check_graph(model, x)
    assert not explain("lrp.epsilon", model, x)[:, 2:].any()


def test_masks_inside_own_layers():
    class Pool(layers.Layer):
        def call(self, x, mask=None):
            weight = ops.expand_dims(ops.cast(mask, x.dtype), -1)
            return ops.sum(x * weight, axis=1)

    model = chain((4, 2), layers.Masking(), Pool(), layers.Dense(2))
    x = inputs_of(model)
    x[:, 2:] = 0
    check_graph(model, x)
    assert not explain("lrp.epsilon", model, x)[:, 2:].any()


# Time.


def image_model():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 3, activation="relu")(layers.ZeroPadding2D(1)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    return keras.Model(inputs, x, name="image_model")


DISTRIBUTED = {
    "Dense": (lambda: layers.Dense(2, activation="relu"), (3, 4)),
    "Conv2D": (lambda: layers.Conv2D(2, 2, activation="relu"), (3, 4, 4, 2)),
    "BatchNormalization": (lambda: layers.BatchNormalization(), (3, 4)),
    "MaxPooling2D": (lambda: layers.MaxPooling2D(2), (3, 4, 4, 1)),
    "Flatten": (lambda: layers.Flatten(), (3, 2, 2)),
    "model": (image_model, (3, 4, 4, 2)),
    "Sequential": (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.ReLU()]), (3, 4)),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(2)), (2, 3, 4)),
}


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_time_distributed(name):
    make, shape = DISTRIBUTED[name]
    model = chain(shape, layers.TimeDistributed(make()), layers.Flatten(), layers.Dense(3))
    x = inputs_of(model)
    check_graph(model, x)
    check_gradient_times_input(model, x)
    ledger = check_conserved(model, x)
    assert all(entry.start.shape == (3,) for entry in ledger.layers)


def test_time_distributed_is_the_layer_at_every_step():
    model = chain((3, 4, 4, 2), layers.TimeDistributed(image_model()))
    steps = model.layers[0].layer
    x = inputs_of(model)
    whole = explain("lrp.alpha_1_beta_0", model, x, (1, 2))
    single = explain("lrp.alpha_1_beta_0", steps, x[:, 1], 2)
    same(whole[:, 1], single)
    assert not whole[:, [0, 2]].any()


def test_sequences_of_any_length():
    model = chain((None, 4), layers.TimeDistributed(layers.Dense(3, activation="relu")), layers.GlobalMaxPooling1D())
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    check_graph(model, x)
    check_conserved(model, x)


# Whole networks.


def u_net(n=2, upsampling="UpSampling"):
    """Encoder and decoder with a skip connection, in n dimensions."""

    def layer(name, *args, **kwargs):
        return getattr(layers, f"{name}{n}D" if "Transpose" not in name else f"Conv{n}DTranspose")(*args, **kwargs)

    inputs = keras.Input((4,) * n + (2,))
    down = layer("Conv", 3, 3, padding="same", activation="relu")(inputs)
    x = layer("Conv", 4, 3, padding="same", activation="relu")(layer("MaxPooling", 2)(down))
    if upsampling == "ConvTranspose":
        x = layer("ConvTranspose", 3, 2, strides=2)(x)
    else:
        x = layer("UpSampling", 2, **({"interpolation": "bilinear"} if n == 2 else {}))(x)
    x = layers.BatchNormalization()(layers.Concatenate()([down, x]))
    x = layer("Conv", 2, 3, padding="same", activation="relu")(layer("ZeroPadding", 1)(x))
    return randomized(keras.Model(inputs, layer("Conv", 2, 1)(x)))


@pytest.mark.parametrize("upsampling", ["UpSampling", "ConvTranspose"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_u_nets_in_one_two_and_three_dimensions(n, upsampling):
    model = u_net(n, upsampling)
    x = inputs_of(model, batch=2)
    if n < 3:
        check_graph(model, x)
    selected = (*(1,) * n, 0)
    relevance = explain("lrp", model, x, selected, rule=PRECISE)
    expected = explain("input_t_gradient", model, x, selected)
    np.testing.assert_allclose(relevance, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    for name in ("lrp.epsilon_plus_flat", "lrp.alpha_1_beta_0"):
        assert np.isfinite(explain(name, model, x, selected)).all()
