"""Canonization: every pass keeps what the graph computes, on random weights and statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph.canonize.folding import fold_batchnorm
from revgraph.canonize.passes import (
    average_pooling_to_conv,
    canonize,
    prune,
    split_activations,
    split_separable,
    strip_output_activation,
)
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    Conv,
    DepthwiseConv,
    Fused,
    Opaque,
    Scale,
)
from revgraph.read import trace
from tests import oracle
from tests.models import ZOO, inputs_of, make, randomized

pytestmark = pytest.mark.usefixtures("float64")

PASSES = split_activations, split_separable, average_pooling_to_conv, fold_batchnorm, prune, canonize


def same(actual, expected, rtol=1e-10):
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def chain(shape, *sequence):
    """A functional model of layers one after the other, with random weights."""
    x = inputs = keras.Input(shape)
    for layer in sequence:
        x = layer(x)
    return randomized(keras.Model(inputs, x))


def kinds(graph):
    return [type(site.operation).__name__ for site in graph.sites]


@pytest.mark.parametrize("name", ZOO)
def test_every_pass_keeps_the_outputs(name):
    model = make(name)
    x, graph = inputs_of(model), trace(model)
    expected = model(x)
    for rewrite in PASSES:
        same(rewrite(graph)(x), expected)
        graph = rewrite(graph)
        same(graph(x), expected)


@pytest.mark.parametrize("name", ZOO)
def test_passes_leave_their_argument_as_it_was(name):
    graph = trace(make(name))
    before = graph.sites, dict(graph.specs), graph.outputs
    for rewrite in (*PASSES, strip_output_activation):
        rewrite(graph)
    assert (graph.sites, graph.specs, graph.outputs) == before


@pytest.mark.parametrize("name", ZOO)
def test_afterwards_every_site_with_weights_is_affine(name):
    graph = canonize(make(name))
    assert not any(isinstance(site.operation, Fused | AveragePool | Opaque) for site in graph.sites)
    assert canonize(graph).sites == graph.sites


# Activations.


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Dense(3, activation="relu"),
        lambda: layers.Dense(3, activation="tanh", use_bias=False),
        lambda: layers.Dense(3, activation=layers.LeakyReLU(negative_slope=0.3)),
        lambda: layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d", activation="elu"),
        lambda: layers.Conv1D(3, 2, activation="gelu"),
        lambda: layers.SeparableConv1D(3, 2, activation="softplus"),
        lambda: layers.Conv1DTranspose(3, 2, activation=lambda x: ops.square(x)),
        lambda: layers.DepthwiseConv1D(2, activation="softmax"),
    ],
)
def test_fused_activations_become_sites(layer):
    model = chain((4, 2), layer())
    x = inputs_of(model)
    graph = split_activations(trace(model))
    assert len(graph.sites) == 2 and isinstance(graph.sites[1].operation, Activation)
    assert graph.sites[1].path.startswith(graph.sites[0].path + "/")
    same(graph(x), model(x))
    same(canonize(model)(x), model(x))


@pytest.mark.parametrize(
    ("last", "stripped"),
    [
        (lambda x: layers.Dense(3, activation="softmax", name="d")(x), True),
        (lambda x: layers.Dense(3, activation="sigmoid", name="d")(x), True),
        (lambda x: layers.Softmax()(layers.Dense(3, name="d")(x)), True),
        (lambda x: layers.Activation("softmax")(layers.Dense(3, name="d")(x)), True),
        (lambda x: layers.Activation("log_softmax")(layers.Dense(3, name="d")(x)), True),
        (lambda x: ops.softmax(layers.Dense(3, name="d")(x)), True),
        (lambda x: ops.sigmoid(layers.Dense(3, name="d")(x)), True),
        (lambda x: ops.cast(ops.softmax(layers.Dense(3, name="d")(x)), "float32"), True),
        (lambda x: layers.Dense(3, activation="relu", name="d")(x), False),
        (lambda x: layers.Dense(3, name="d")(x), False),
        (lambda x: layers.Dense(3, activation="tanh", name="d")(x), False),
    ],
)
def test_probabilities_give_way_to_logits(last, stripped):
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, last(inputs)))
    x = inputs_of(model)
    graph = strip_output_activation(split_activations(trace(model)))
    logits = ops.matmul(x, model.get_layer("d").kernel) + model.get_layer("d").bias
    same(graph(x), logits if stripped else model(x), rtol=1e-7)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: layers.Reshape((3, 2))(x),
        lambda x: layers.Permute((2, 1))(layers.Reshape((2, 3))(x)),
        lambda x: x[:, ::2],
        lambda x: ops.expand_dims(ops.flip(x, axis=-1), 1),
    ],
)
def test_logits_are_moved_as_their_probabilities_are(move):
    inputs = keras.Input((4,))
    logits = layers.Dense(6, name="d")(inputs)
    model = randomized(keras.Model(inputs, move(layers.Softmax()(logits))))
    expected = keras.Model(inputs, move(logits))
    x = inputs_of(model)
    graph = strip_output_activation(trace(model))
    same(graph(x), expected(x))
    assert not any(site.operation.traits.probability for site in graph.sites)
    with pytest.warns(UserWarning, match="is a probability"):
        found = revgraph.create_analyzer("lrp.z", model).record(x).analyze((0,) * (len(model.output_shape) - 1))
    same(found, revgraph.create_analyzer("lrp.z", expected).record(x).analyze((0,) * (len(model.output_shape) - 1)))


def test_logits_of_any_number_of_steps():
    def tagger(activation):
        inputs = keras.Input((None, 4))
        tags = layers.TimeDistributed(layers.Dense(3, activation=activation))
        return keras.Model(inputs, tags(layers.LSTM(3, return_sequences=True)(inputs)))

    model, expected = randomized(tagger("softmax")), tagger(None)
    expected.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    with pytest.warns(UserWarning, match="is a probability"):
        found = revgraph.create_analyzer("lrp.epsilon", model).record(x).analyze((2, 1))
    same(found, revgraph.create_analyzer("lrp.epsilon", expected).record(x).analyze((2, 1)))


@pytest.mark.parametrize(
    "last",
    [
        lambda x: ops.max(x, axis=-1),
        lambda x: ops.sort(x),
        lambda x: ops.cumsum(x, axis=-1),
        lambda x: ops.concatenate([x, 2 * x], axis=-1),
    ],
)
def test_what_is_more_than_moved_stays_a_probability(last):
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, last(layers.Softmax()(layers.Dense(3)(inputs)))))
    x = inputs_of(model)
    same(strip_output_activation(trace(model))(x), model(x))


def test_every_head_is_stripped_and_what_nobody_reads_is_dropped():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="trunk")(inputs)
    gate = layers.Activation("sigmoid", name="gate")(x)
    outputs = {"a": layers.Softmax(name="softmax")(x), "b": layers.Dense(2, name="b")(gate), "c": gate}
    graph = strip_output_activation(trace(randomized(keras.Model(inputs, outputs))))
    assert [site.path for site in graph.sites] == ["trunk", "gate", "b"]
    assert graph.outputs["a"] == graph.outputs["c"] == graph.sites[0].outputs[0]


# Average pooling.

POOLS = [
    (layers.AveragePooling1D, (7, 2), {"pool_size": 3}),
    (layers.AveragePooling1D, (7, 2), {"pool_size": 3, "strides": 2, "padding": "same"}),
    (layers.AveragePooling1D, (7, 2), {"pool_size": 2, "strides": 1, "padding": "same"}),
    (layers.AveragePooling2D, (5, 6, 2), {"pool_size": 2}),
    (layers.AveragePooling2D, (5, 6, 2), {"pool_size": (3, 2), "strides": (1, 3), "padding": "same"}),
    (layers.AveragePooling2D, (5, 6, 2), {"pool_size": 4, "strides": 2, "padding": "same"}),
    (layers.AveragePooling3D, (4, 5, 3, 2), {"pool_size": 2}),
    (layers.AveragePooling3D, (4, 5, 3, 2), {"pool_size": (3, 2, 2), "strides": 2, "padding": "same"}),
    (layers.GlobalAveragePooling1D, (5, 2), {}),
    (layers.GlobalAveragePooling2D, (3, 4, 2), {"keepdims": True}),
    (layers.GlobalAveragePooling3D, (2, 3, 2, 2), {}),
]
if hasattr(layers, "AdaptiveAveragePooling2D"):
    POOLS += [
        (layers.AdaptiveAveragePooling1D, (7, 2), {"output_size": 3}),
        (layers.AdaptiveAveragePooling2D, (7, 5, 2), {"output_size": (3, 5)}),
    ]


def expected_pooling(cls, x, options):
    """What the pooling is defined to give, channels last: means over windows, counted out."""
    spatial = x.shape[1:-1]
    if "output_size" in options:
        sizes = np.broadcast_to(options["output_size"], len(spatial))
        windows = [[(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in zip(spatial, sizes, strict=True)]
        return oracle.means(x, windows)
    if "pool_size" not in options:
        return x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=options.get("keepdims", False))
    strides = options.get("strides", options["pool_size"])
    return oracle.average_pooling(x, options["pool_size"], strides, options.get("padding", "valid"))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("cls", "shape", "options"), POOLS)
def test_average_pooling_of_every_kind(cls, shape, options, data_format, rng):
    first = data_format == "channels_first"
    inputs = keras.Input((shape[-1], *shape[:-1]) if first else shape)
    model = keras.Model(inputs, cls(**options, data_format=data_format)(inputs))
    graph = average_pooling_to_conv(trace(model))
    assert kinds(graph) == ["ChannelDiagonalConv"]
    x = rng.normal(size=(2, *shape))
    given = tf.constant(np.moveaxis(x, -1, 1) if first else x)
    actual = np.asarray(graph(given))
    if first and actual.ndim == x.ndim:
        actual = np.moveaxis(actual, 1, -1)
    same(actual, expected_pooling(cls, x, options))
    W, _ = oracle.matrix(lambda parts: graph(parts[0]), [given.shape[1:]])
    kernel = graph.sites[0].operation.weights("float64", [given])["kernel"]
    np.testing.assert_allclose(np.broadcast_to(kernel, graph(given).shape)[0].ravel(), W.max(0))


def test_average_pooling_of_images_of_any_size(rng):
    inputs = keras.Input((None, None, 2))
    x = layers.AveragePooling2D(3, strides=2, padding="same")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    graph = canonize(model)
    for size in (4, 7):
        x = rng.normal(size=(2, size, size + 1, 2))
        same(graph(x), model(x))


@pytest.mark.parametrize("axis", [1, (1, 2), -1, (0,)])
@pytest.mark.parametrize("function", [ops.mean, ops.sum])
def test_means_and_sums_of_axes(function, axis, rng):
    inputs = keras.Input((3, 4, 2))
    model = keras.Model(inputs, function(inputs, axis=axis))
    graph = canonize(model)
    assert kinds(graph) == ["ChannelDiagonalConv"]
    x = rng.normal(size=(2, 3, 4, 2))
    same(graph(x), model(x))


# Separable convolutions.


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.SeparableConv1D(3, 2, strides=2, padding="same", depth_multiplier=2), (5, 2)),
        (lambda: layers.SeparableConv1D(3, 2, dilation_rate=2), (5, 2)),
        (lambda: layers.SeparableConv2D(3, 3, use_bias=False), (4, 5, 2)),
        (lambda: layers.SeparableConv2D(3, 2, padding="same", dilation_rate=2, activation="relu"), (4, 5, 2)),
    ],
)
def test_separable_convolutions_become_two(layer, shape):
    model = chain(shape, layer())
    graph = split_separable(split_activations(trace(model)))
    path = model.layers[-1].name
    assert [site.path for site in graph.sites][:2] == [f"{path}/depthwise", f"{path}/pointwise"]
    assert isinstance(graph.sites[0].operation, DepthwiseConv) and isinstance(graph.sites[1].operation, Conv)
    x = inputs_of(model)
    same(graph(x), model(x))


# Batch normalization.


def bn(**options):
    return layers.BatchNormalization(**{"epsilon": 0.02, **options})


LINEAR = {
    "Dense": (lambda b: layers.Dense(4, use_bias=b), (3,)),
    "Dense on a sequence": (lambda b: layers.Dense(4, use_bias=b), (5, 3)),
    "EinsumDense": (lambda b: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d" if b else None), (5, 3)),
    "Conv1D": (lambda b: layers.Conv1D(4, 2, padding="causal", use_bias=b), (5, 3)),
    "Conv2D": (lambda b: layers.Conv2D(4, 3, padding="same", strides=2, use_bias=b), (5, 4, 3)),
    "Conv2D groups": (lambda b: layers.Conv2D(4, 2, groups=2, use_bias=b), (4, 4, 6)),
    "Conv3D": (lambda b: layers.Conv3D(2, 2, padding="same", use_bias=b), (3, 3, 2, 2)),
    "Conv1DTranspose": (lambda b: layers.Conv1DTranspose(4, 3, strides=2, use_bias=b), (4, 3)),
    "Conv2DTranspose": (lambda b: layers.Conv2DTranspose(4, 3, padding="same", use_bias=b), (3, 4, 2)),
    "Conv3DTranspose": (lambda b: layers.Conv3DTranspose(2, 2, use_bias=b), (2, 2, 2, 3)),
    "DepthwiseConv1D": (lambda b: layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=b), (5, 3)),
    "DepthwiseConv2D": (
        lambda b: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=b),
        (4, 4, 3),
    ),
    "SeparableConv2D": (lambda b: layers.SeparableConv2D(4, 3, padding="same", use_bias=b), (4, 4, 3)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LINEAR)
def test_batch_normalization_after_a_linear_layer_is_folded(name, bias):
    make_layer, shape = LINEAR[name]
    model = chain(shape, make_layer(bias), bn())
    x, graph = inputs_of(model), canonize(model)
    assert not any(isinstance(site.operation, Scale) for site in graph.sites)
    assert graph.sites[-1].merged == (model.layers[-1].name,)
    same(graph(x), model(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [name for name in LINEAR if name != "EinsumDense"])
def test_batch_normalization_before_a_linear_layer_is_folded(name, bias):
    """Zeros that a convolution pads with are not shifted: the border is right, too."""
    make_layer, shape = LINEAR[name]
    model = chain(shape, bn(), make_layer(bias))
    x, graph = inputs_of(model), canonize(model)
    assert not any(isinstance(site.operation, Scale) for site in graph.sites)
    assert graph.sites[0].merged == (model.layers[1].name,)
    same(graph(x), model(x))


@pytest.mark.parametrize(
    "options", [{"center": False}, {"scale": False}, {"center": False, "scale": False}, {"epsilon": 1e-5}]
)
@pytest.mark.parametrize("before", [True, False])
def test_batch_normalization_without_parts(options, before):
    conv, norm = layers.Conv2D(4, 3, padding="same"), bn(**options)
    model = chain((4, 4, 3), *((norm, conv) if before else (conv, norm)))
    x, graph = inputs_of(model), canonize(model)
    assert kinds(graph) == ["Conv"]
    same(graph(x), model(x))


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        (lambda: [layers.Conv2D(3, 2), bn(), bn()], ["Conv"]),
        (lambda: [bn(), bn(), layers.Conv2D(3, 2, padding="same")], ["Conv"]),
        (lambda: [bn(), layers.Conv2D(3, 2, padding="same"), bn()], ["Conv"]),
        (lambda: [layers.Conv2D(3, 2), bn(), layers.Conv2D(3, 2), bn()], ["Conv", "Conv"]),
        (lambda: [bn(), bn(), layers.ReLU()], ["BatchNorm", "Activation"]),
        (lambda: [layers.ReLU(), bn(), layers.ReLU()], ["Activation", "BatchNorm", "Activation"]),
        (lambda: [layers.Conv2D(3, 2, activation="relu"), bn()], ["Conv", "Activation", "BatchNorm"]),
        (lambda: [bn(), layers.Dropout(0.5), layers.Conv2D(3, 2)], ["Conv"]),
        (lambda: [bn(axis=1), layers.Conv2D(3, 2)], ["BatchNorm", "Conv"]),
        (lambda: [layers.Conv2D(3, 2), bn(axis=1)], ["Conv", "BatchNorm"]),
        (lambda: [bn(), layers.Flatten(), layers.Dense(2)], ["Routing", "Dense"]),
        (lambda: [bn(), layers.MaxPooling2D(2)], ["BatchNorm", "Routing"]),
    ],
)
def test_chains_and_what_is_not_folded(sequence, expected):
    model = chain((4, 5, 3), *sequence())
    x, graph = inputs_of(model), canonize(model)
    assert kinds(graph) == expected
    same(graph(x), model(x))


def test_batch_normalization_along_channels_first(rng):
    """Folded along the channel axis, wherever that is; there is no CPU kernel to compare the model itself with."""
    conv, norm = layers.Conv2D(3, 2, data_format="channels_first", padding="same"), bn(axis=1)
    model = chain((2, 4, 5), norm_first := bn(axis=1), conv, norm)
    twin_conv, twins = layers.Conv2D(3, 2, padding="same"), [bn(), bn()]
    twin = chain((4, 5, 2), twins[0], twin_conv, twins[1])
    for a, b in ((norm_first, twins[0]), (conv, twin_conv), (norm, twins[1])):
        b.set_weights(a.get_weights())
    graph = canonize(model)
    assert kinds(graph) == ["Conv"]
    x = rng.normal(size=(2, 2, 4, 5))
    same(np.moveaxis(graph(x), 1, -1), twin(np.moveaxis(x, 1, -1)))


def test_what_is_read_twice_is_not_folded():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="dense")(inputs)
    y = bn(name="bn")(x)
    model = randomized(keras.Model(inputs, layers.Add()([x, y])))
    graph, data = canonize(model), inputs_of(model)
    assert kinds(graph) == ["Dense", "BatchNorm", "Sum"]
    same(graph(data), model(data))
    model = randomized(keras.Model(inputs, [x, y]))
    same(canonize(model)(data), model(data))
    assert len(canonize(model).sites) == 2


def test_what_is_kept_is_not_folded():
    model = chain((4,), layers.Dense(3, name="dense"), bn(name="bn"))
    graph = trace(model)
    (between,) = graph.sites[0].outputs
    kept = canonize(graph, keep=[between])
    assert kinds(kept) == ["Dense", "BatchNorm"]
    x = inputs_of(model)
    same(kept.run([x])[between], model.get_layer("dense")(x))


def test_a_shared_batch_normalization_is_folded_at_each_call():
    inputs = keras.Input((4,))
    norm = bn(name="bn")
    x = layers.Add()([norm(layers.Dense(3)(inputs)), norm(layers.Dense(3)(inputs))])
    model = randomized(keras.Model(inputs, x))
    graph, data = canonize(model), inputs_of(model)
    assert kinds(graph) == ["Dense", "Dense", "Sum"]
    assert sorted(site.merged for site in graph.sites[:2]) == [("bn",), ("bn#2",)]
    same(graph(data), model(data))


def test_scalars_after_a_linear_layer_are_folded():
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, layers.Dense(3)(inputs) * 0.1 - 2.0))
    graph, x = canonize(model), inputs_of(model)
    assert kinds(graph) == ["Dense"]
    same(graph(x), model(x))


def test_weights_assigned_later_are_seen_through_the_folding():
    model = chain((4, 4, 3), bn(), layers.Conv2D(3, 2, padding="same"), bn(), layers.SeparableConv2D(2, 2), bn())
    graph, x = canonize(model), inputs_of(model)
    before = model(x)
    randomized(model, seed=7)
    assert np.abs(model(x) - before).max() > 0.1
    same(graph(x), model(x))


def test_the_canonized_graph_prints_what_was_merged():
    text = str(canonize(make("cnn")))
    line = next(line for line in text.splitlines() if line.startswith("conv1"))
    assert line.split() == ["conv1", "Conv", "(?,", "8,", "8,", "4)", "bn"]


# Through what stands between the two.


def _masked(h):
    return ops.where(ops.sum(h, axis=-1, keepdims=True) > 0, h, 0.0)


BETWEEN = {
    "sort steps": (lambda h: ops.sort(h, axis=1), False),
    "sort channels": (lambda h: ops.sort(h, axis=-1), False),
    "top_k": (lambda h: ops.top_k(h, 3)[0], False),
    "max": (lambda h: ops.max(h, axis=1, keepdims=True), False),
    "max pooling": (lambda h: layers.MaxPooling1D(2)(h), False),
    "global max pooling": (lambda h: layers.GlobalMaxPooling1D()(h), False),
    "maximum with itself": (lambda h: layers.Maximum()([h, ops.flip(h, axis=1)]), False),
    "flip steps": (lambda h: ops.flip(h, axis=1), True),
    "flip channels": (lambda h: ops.flip(h, axis=-1), True),
    "roll channels": (lambda h: ops.roll(h, 1, axis=-1), True),
    "roll all": (lambda h: ops.roll(h, 3), True),
    "where": (lambda h: ops.where(h > 0.1, h, -1.0), False),
    "mask of steps": (_masked, False),
    "masking": (lambda h: layers.Masking(0.5)(h), False),
    "cumsum": (lambda h: ops.cumsum(h, axis=1), False),
    "tril": (lambda h: ops.tril(h), False),
    "some channels": (lambda h: h[..., 1:], False),
    "some steps": (lambda h: h[:, 1:3], True),
    "zero padding": (lambda h: layers.ZeroPadding1D(1)(h), False),
    "repeat channels": (lambda h: ops.repeat(h, 2, axis=-1), True),
    "sum of steps": (lambda h: ops.sum(h, axis=1), False),
    "mean of steps": (lambda h: ops.mean(h, axis=1), True),
    "mean of channels": (lambda h: ops.mean(h, axis=-1, keepdims=True), False),
    "absolute": (lambda h: ops.absolute(h), False),
    "flatten": (lambda h: layers.Flatten()(h), False),
    "permute": (lambda h: layers.Permute((2, 1))(h), False),
    "upsampling": (lambda h: layers.UpSampling1D(2)(h), True),
}
"""What stands between the two, and whether it moves channels as a whole, so that folding is possible."""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("linear", [lambda: layers.Dense(4), lambda: layers.Conv1D(4, 2, padding="same")])
@pytest.mark.parametrize("name", BETWEEN)
def test_folding_through_what_stands_between(name, linear, before):
    """With scales of both signs: what depends on values, and what mixes or drops channels, is not folded through."""
    between, moves = BETWEEN[name]
    inputs = keras.Input((6, 4))
    if before:
        h = between(bn(name="bn")(inputs))
        h = (layers.Dense(3) if len(h.shape) == 2 else linear())(h)
    else:
        h = bn(name="bn")(between(linear()(inputs)))
    model = randomized(keras.Model(inputs, h))
    norm = model.get_layer("bn")
    norm.gamma.assign(norm.gamma * (-1.0) ** np.arange(norm.gamma.shape[0]))
    x = inputs_of(model)
    graph = canonize(model)
    same(trace(model)(x), model(x))
    same(graph(x), model(x))
    if not moves and not before:
        assert any(isinstance(site.operation, Scale) for site in graph.sites)


def test_padding_of_channels_is_not_the_convolutions(rng):
    """Widths of all axes are the same here, and yet only those of space are the convolution's own."""
    inputs = keras.Input((4, 4, 2))
    x = ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (1, 1)))
    model = randomized(keras.Model(inputs, layers.Conv2D(3, 3)(x)))
    graph, x = canonize(model), inputs_of(model)
    assert len(graph.sites) == 2
    same(graph(x), model(x))


@pytest.mark.parametrize("shape", [(1,), (5, 1), (1, 3), (5, 3)])
def test_a_scale_that_makes_its_input_larger(shape, rng):
    inputs = keras.Input(shape)
    h = layers.Dense(1)(inputs) * np.array([2.0, -1.0, 0.5]) + np.array([1.0, 2.0, 3.0])
    model = randomized(keras.Model(inputs, layers.Dense(2)(bn()(h))))
    graph, x = canonize(model), inputs_of(model)
    same(trace(model)(x), model(x))
    same(graph(x), model(x))


def test_an_einsum_with_axes_that_are_not_named(rng):
    """The input's channels are counted from the end, as the equation does not name the axes at the front."""
    kernel = rng.normal(size=(3, 3))
    inputs = keras.Input((2, 3))
    norm = bn()
    model = randomized(keras.Model(inputs, ops.einsum("...j,jk->...k", norm(inputs), kernel)))
    graph, x = canonize(model), inputs_of(model)
    same(graph(x), model(x))


def test_a_layer_called_twice_is_folded_at_each_call():
    dense, norm = layers.Dense(3), bn()
    inputs = keras.Input((4, 3))
    h = norm(dense(ops.flip(norm(dense(inputs)), axis=1)))
    model = randomized(keras.Model(inputs, h))
    graph, x = canonize(model), inputs_of(model)
    assert not any(isinstance(site.operation, Scale) for site in graph.sites)
    same(graph(x), model(x))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("pool", ["global", "windows"])
def test_a_scale_along_an_axis_that_is_averaged_is_not_folded(pool, size, float64, rng):
    """The mean over evenly numbered entries is the number of the one in the middle: it is still no copy of that one."""
    x = keras.Input((size, 4, 2))
    h = layers.BatchNormalization(axis=1)(x)
    h = layers.GlobalAveragePooling2D()(h) if pool == "global" else layers.AveragePooling2D((size, 1))(h)
    model = keras.Model(x, layers.Dense(2, use_bias=False)(layers.Flatten()(h)))
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    values = rng.normal(size=(3, size, 4, 2))
    np.testing.assert_allclose(canonize(model)(values), model(values), rtol=1e-10, atol=1e-12)
    assert any("batch_normalization" in site.path for site in canonize(model).sites)
    z, expected = (
        revgraph.create_analyzer(name, model).record(values).analyze(1) for name in ("lrp.z", "input_t_gradient")
    )
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-6)
