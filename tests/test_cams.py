"""Class activation maps, against the formulas of the papers with a tape in float64, and against Captum."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph import create_analyzer
from revgraph.analyzers.cams import spread
from tests import captum
from tests.models import Subclassed, inputs_of, make, randomized
from tests.test_precision import same, under

NAMES = ("grad_cam", "grad_cam_plus_plus", "grad_cam++", "layer_cam")


def formula(name, activations, gradients, relu=True):
    """The map (batch, places...) as the papers write it, in NumPy."""
    places = tuple(range(1, activations.ndim - 1))
    if name == "grad_cam":
        weights = gradients.mean(axis=places, keepdims=True)
    elif name == "layer_cam":
        weights = np.maximum(gradients, 0)
    else:
        total = activations.sum(axis=places, keepdims=True)
        below = 2 * gradients**2 + total * gradients**3
        alpha = np.where(gradients == 0, 0, gradients**2 / np.where(below == 0, 1, below))
        weights = (alpha * np.maximum(gradients, 0)).sum(axis=places, keepdims=True)
    found = (weights * activations).sum(axis=-1)
    return np.maximum(found, 0) if relu else found


def by_tape(model, layer, x, index):
    """The output of a layer, and the gradient of a neuron with respect to it."""
    inner = keras.Model(model.inputs, [model.get_layer(layer).output, model.outputs[0]])
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        made, y = inner(x)
        value = tf.reduce_sum(tf.gather(y, index, axis=1, batch_dims=1))
    return made.numpy(), tape.gradient(value, made).numpy()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_papers(name, relu):
    model = captum.model()
    for layer in ("one", "two"):
        expected = formula(name, *by_tape(model, layer, captum.X, captum.TARGETS), relu)
        analyzer = create_analyzer(name, model, layer=layer, relu=relu, upsample=False)
        raw = analyzer.analyze(captum.X, captum.TARGETS)
        np.testing.assert_allclose(raw, expected, rtol=1e-9, atol=1e-12)
        full = create_analyzer(name, model, layer=layer, relu=relu).analyze(captum.X, captum.TARGETS)
        resized = tf.image.resize(expected[..., None], (7, 7)).numpy()[..., 0]
        assert full.shape == captum.X.shape
        # tf.image.resize computes in float32.
        np.testing.assert_allclose(full.sum(axis=-1), resized, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(full[..., 0], full[..., 1])


def test_grad_cam_is_that_of_captum():
    model = captum.model()
    raw = create_analyzer("grad_cam", model, layer="one", upsample=False).analyze(captum.X, captum.TARGETS)
    captum.check(raw, [0, 0.70114088], [0.01268394, 0.04598232, 0.05691904, 0.04116602, 0.0067827])
    # LayerAttribution.interpolate(..., "bilinear")
    row = [0.05484644, 0.05327314, 0.04455849, 0.02572182, 0.01484, 0.01628469, 0.02401457]
    for relu, first in ((True, 0), (False, -0.82724766)):
        full = create_analyzer("grad_cam", model, layer="one", relu=relu).analyze(captum.X, captum.TARGETS)
        captum.check(full.sum(axis=-1), [first, 1.38229932], row)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maps_are_scaled_linearly_along_each_axis(rank, rng):
    maps, sizes = rng.normal(size=(2, *range(3, 3 + rank))), tuple(range(7, 7 + rank))
    expected = maps
    for axis, size in enumerate(sizes, start=1):
        n = expected.shape[axis]
        places = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        expected = np.apply_along_axis(lambda line, p=places, n=n: np.interp(p, np.arange(n), line), axis, expected)
    found = spread(tf.constant(maps), tf.zeros((2, *sizes, 4), "float64")).numpy()
    np.testing.assert_allclose(found.sum(axis=-1), expected, atol=1e-12)


def convolutional(rank, first=layers.Conv1D):
    x = keras.Input((9,) * rank + (2,))
    y = first(3, 3, activation="relu", name="conv")(x)
    pool = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)[rank - 1](2, name="pool")(y)
    return randomized(keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5, name="drop")(pool)))))


@pytest.mark.parametrize(("rank", "first"), [(1, layers.Conv1D), (2, layers.Conv2D), (3, layers.Conv3D)])
def test_the_last_layer_with_places_is_the_default(rank, first):
    model = convolutional(rank, first)
    analyzer = create_analyzer("grad_cam", model)
    assert set(analyzer.feature_maps.values()) <= {"pool", "drop"}
    x = inputs_of(model)
    named = create_analyzer("grad_cam", model, layer="pool").analyze(x, 1)
    np.testing.assert_array_equal(analyzer.analyze(x, 1), named)
    assert named.shape == x.shape and named.max() > 0
    by_layer = create_analyzer("grad_cam", model, layer=model.get_layer("pool")).analyze(x, 1)
    np.testing.assert_array_equal(by_layer, named)


def test_pooling_to_one_place_makes_no_map():
    x = keras.Input((6, 6, 2))
    y = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(layers.Conv2D(3, 3, name="conv")(x))
    model = randomized(keras.Model(x, layers.Flatten()(layers.Conv2D(2, 1)(y))))
    assert set(create_analyzer("grad_cam", model).feature_maps.values()) == {"conv"}


def test_attention_weights_are_no_map():
    """They have as many axes as an image, and none of its places."""
    x = keras.Input((8, 8, 1))
    y = layers.Reshape((16, 4))(layers.Conv2D(4, 2, strides=2, name="patches")(x))
    y = layers.MultiHeadAttention(2, 2, name="attention")(y, y)
    model = randomized(keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y))))
    assert set(create_analyzer("grad_cam", model).feature_maps.values()) == {"patches"}


def test_a_network_of_logits_in_places():
    """What is explained is no feature map itself."""
    x = keras.Input((6, 6, 1))
    y = layers.Conv2D(3, 3, padding="same", activation="relu", name="features")(x)
    model = randomized(keras.Model(x, layers.Conv2D(2, 1, name="logits")(y)))
    analyzer = create_analyzer("grad_cam", model)
    assert set(analyzer.feature_maps.values()) == {"features"}
    assert analyzer.analyze(inputs_of(model), (2, 3, 1)).shape == (3, 6, 6, 1)


def test_each_input_has_its_own_map():
    model = make("two_inputs")
    x = inputs_of(model)
    relevance = create_analyzer("layer_cam", model).analyze(x, 1)
    assert relevance["image"].shape == x["image"].shape and relevance["image"].max() > 0
    assert relevance["table"].shape == x["table"].shape and not relevance["table"].any()
    one, two = keras.Input((6, 6, 1), name="one"), keras.Input((9, 2), name="two")
    features = [layers.Conv2D(2, 3, activation="relu", name="of_one")(one), layers.Conv1D(2, 3, name="of_two")(two)]
    y = layers.Concatenate()([layers.Flatten()(f) for f in features])
    twins = randomized(keras.Model([one, two], layers.Dense(2)(y)))
    analyzer = create_analyzer("grad_cam", twins, relu=False)
    assert analyzer.feature_maps == {"one": "of_one", "two": "of_two"}
    first, second = analyzer.analyze(inputs_of(twins), 0)
    assert np.abs(first).max() > 0 and np.abs(second).max() > 0
    only = create_analyzer("grad_cam", twins, layer="of_two", relu=False).analyze(inputs_of(twins), 0)
    np.testing.assert_array_equal(only[1], second)
    assert not only[0].any()


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_and_other_starts(name):
    model, x = captum.model(), captum.X
    analyzer = create_analyzer(name, model, layer="one")
    both = analyzer.analyze(x, np.array([[0, 1], [2, 1]]))
    for i, targets in enumerate(([0, 2], [1, 1])):
        np.testing.assert_allclose(both[:, i], analyzer.analyze(x, targets), atol=1e-12)
    contrast = analyzer.analyze(x, lambda y: y[:, 0] - y[:, 1])
    made, slopes = by_tape(model, "one", x, [0, 0])
    expected = formula(name, made, slopes - by_tape(model, "one", x, [1, 1])[1])
    np.testing.assert_allclose(contrast, spread(tf.constant(expected), tf.constant(x)), atol=1e-12)
    np.testing.assert_allclose(analyzer.analyze(x, batch_size=1), analyzer.analyze(x), atol=1e-12)
    np.testing.assert_allclose(analyzer.record(x).analyze(1), analyzer.analyze(x, 1), atol=1e-12)


def test_relevance_may_start_at_a_layer():
    model, x = captum.model(), captum.X
    found = create_analyzer("layer_cam", model).analyze(x, (1, 1, 2), layer="two")
    inner = keras.Model(model.inputs, [model.get_layer("one").output, model.get_layer("two").output])
    with tf.GradientTape() as tape:
        one, two = inner(tf.constant(x))
        value = tf.reduce_sum(two[:, 1, 1, 2])
    expected = formula("layer_cam", one.numpy(), tape.gradient(value, one).numpy())
    np.testing.assert_allclose(found, spread(tf.constant(expected), tf.constant(x)), atol=1e-12)


@pytest.mark.filterwarnings("ignore:The output of")
def test_exported_models_and_analyzers(tmp_path):
    model, x = captum.model("float32"), captum.X.astype("float32")
    expected = create_analyzer("grad_cam", model).analyze(x, captum.TARGETS)
    model.export(tmp_path / "model", verbose=False)
    read = create_analyzer("grad_cam", str(tmp_path / "model"))
    same(read.analyze(x, captum.TARGETS), expected, 1e-4)
    create_analyzer("grad_cam", model).export(tmp_path / "analyzer")
    serve = tf.saved_model.load(tmp_path / "analyzer").signatures["serving_default"]
    same(serve(image=tf.constant(x), neuron_selection=tf.constant(captum.TARGETS))["relevance"].numpy(), expected, 1e-4)


def test_mixed_precision():
    x = inputs_of(make("cnn"))
    for name in NAMES:
        mixed, plain = (create_analyzer(name, under(p, "cnn")).analyze(x, 1) for p in ("mixed_float16", "float32"))
        assert mixed.dtype == np.float32
        same(mixed, plain, 1e-4)


class Pixels(Subclassed):
    """Takes images of any size."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = layers.Conv2D(3, 3, activation="relu", name="conv"), layers.Dense(2)

    def call(self, x):
        return self.last(keras.ops.mean(self.conv(x), axis=(1, 2)))


def test_subclassed_models_of_any_size():
    model = Pixels()
    model(np.zeros((1, 6, 6, 1)))
    analyzer = create_analyzer("grad_cam", model)
    assert set(analyzer.feature_maps.values()) == {"conv"}
    for size in (6, 9):
        assert analyzer.analyze(np.ones((2, size, size, 1))).shape == (2, size, size, 1)


def test_models_without_a_feature_map():
    with pytest.raises(ValueError, match=r"needs a feature map.*'mlp' has none.*such as \"occlusion\"") as error:
        create_analyzer("grad_cam", make("mlp"))
    for name in ("occlusion", "input_t_gradient", "lrp.epsilon"):
        assert f'"{name}"' in str(error.value)
        create_analyzer(name, make("mlp")).analyze(inputs_of(make("mlp")))
    for layer in ("flatten", "logits"):
        with pytest.raises(ValueError, match=rf"{layer!r} of 'cnn' makes none.*layer=\.\.\."):
            create_analyzer("grad_cam", make("cnn"), layer=layer)
    with pytest.raises(KeyError, match="has no layer 'conv3'. Did you mean 'conv"):
        create_analyzer("grad_cam", make("cnn"), layer="conv3")
    analyzer = create_analyzer("grad_cam", make("cnn"), layer="conv2")
    with pytest.raises(ValueError, match="'conv2' of 'cnn' makes none"):
        analyzer.analyze(inputs_of(make("cnn")), layer="average")
    with pytest.raises(revgraph.analyzers.analyzer.Unsupported, match="'grad_cam' has no ledger"):
        analyzer.conservation(inputs_of(make("cnn")))


def test_channels_on_the_first_axis():
    x = keras.Input((2, 6, 6))
    y = layers.Conv2D(3, 3, data_format="channels_first", name="conv")(x)
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(y))))
    with pytest.raises(ValueError, match=r"channels on the last axis, and 'conv' has them on the first"):
        create_analyzer("grad_cam", model)


def series(*made):
    inner = [layers.Conv1D(5, 3, activation="relu", name="conv"), *made, layers.Dense(2)]
    return randomized(keras.Sequential([keras.Input((9, 3)), *inner]))


@pytest.mark.parametrize(
    "made, expected",
    [
        ([layers.LSTM(4, return_sequences=True, name="memory"), layers.GlobalMaxPooling1D()], "memory"),
        ([layers.LSTM(4, return_sequences=True, name="memory"), layers.GRU(3)], "memory"),
        ([layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both"), layers.Flatten()], "both"),
        ([layers.SimpleRNN(4, return_sequences=True), layers.Dense(3, name="each"), layers.Flatten()], "each"),
        # There the last step comes first, or is the only one.
        ([layers.LSTM(4, return_sequences=True, go_backwards=True), layers.GlobalMaxPooling1D()], "conv"),
        ([layers.LSTM(4)], "conv"),
        ([layers.Lambda(lambda x: keras.ops.flip(x, 1), name="flipped"), layers.LSTM(4)], "conv"),
    ],
)  # fmt: skip
def test_steps_of_recurrent_layers_are_places(made, expected):
    model = series(*made)
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype("float32")
    by_default = revgraph.create_analyzer("grad_cam", model, upsample=False, relu=False)
    assert list(by_default.feature_maps.values()) == [expected]
    named = revgraph.create_analyzer("grad_cam", model, layer=expected, upsample=False, relu=False)
    found = by_default.analyze(x, 1)
    assert found.shape == (2, 7) and np.abs(found).max() > 0
    np.testing.assert_array_equal(found, named.analyze(x, 1))
