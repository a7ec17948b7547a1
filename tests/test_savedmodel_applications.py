"""Networks of keras.applications, and one written by hand: the exported SavedModel has the relevance of the model.

Random statistics and biases in every layer leave nothing that folding could get wrong unseen. Everything is float64:
relevance by LRP-0 of a deep network with random weights has digits left there, which it has not in float32.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from revgraph import create_analyzer
from revgraph.read.savedmodel.reader import read_savedmodel

METHODS = ("gradient", "lrp.z", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.epsilon_plus_flat")

# The smallest member of every family, and the smallest images that it takes.
FAMILIES = {
    "ConvNeXtTiny": 32, "DenseNet121": 32, "EfficientNetB0": 32, "EfficientNetV2B0": 32, "InceptionResNetV2": 75,
    "InceptionV3": 75, "MobileNet": 32, "MobileNetV2": 32, "MobileNetV3Small": 32, "NASNetMobile": 32, "ResNet50": 32,
    "ResNet50V2": 32, "VGG16": 32, "Xception": 71,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:The output of", "ignore:Relevance grows", "ignore:.*retracing")


def unsettled(model):
    """The model with random biases, scales and statistics, as training leaves them."""
    rng = np.random.default_rng(0)
    for v in model.variables:
        kind = v.path.rsplit("/", 1)[-1]
        if kind == "moving_variance" or (kind == "gamma" and "layer_scale" not in v.path):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif kind in ("moving_mean", "beta", "bias"):
            v.assign(rng.normal(0, 0.1, v.shape))
    return model


def assert_same_relevance(model, path, x, methods=METHODS):
    """The SavedModel at `path` gives the outputs and the relevance of the Keras model."""
    graph = read_savedmodel(path)
    assert graph.dtype == "float64"
    assert not [site for site in graph.sites if type(site.operation).__name__ == "TensorFlowOperation"]
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-6, atol=1e-9)
    for method in methods:
        expected = create_analyzer(method, model).analyze(x, 1)
        found = create_analyzer(method, graph).analyze(x, 1)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max(), err_msg=method)


@pytest.mark.applications
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path, float64):
    shape = (FAMILIES[family], FAMILIES[family], 3)
    model = unsettled(getattr(keras.applications, family)(weights=None, input_shape=shape, classes=5))
    model.export(tmp_path / "model")
    assert_same_relevance(model, tmp_path / "model", np.random.default_rng(0).uniform(0, 255, (2, *shape)))


@pytest.mark.parametrize(
    "family, options, methods",
    [
        ("MobileNet", {"alpha": 0.25}, ("lrp.epsilon_plus_flat",)),
        ("MobileNetV3Small", {"alpha": 0.25}, ("lrp.alpha_1_beta_0",)),
    ],
)
def test_narrow_members(family, options, methods, tmp_path, float64):
    model = getattr(keras.applications, family)(weights=None, input_shape=(32, 32, 3), classes=5, **options)
    unsettled(model).export(tmp_path / "model")
    x = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3))
    assert_same_relevance(model, tmp_path / "model", x, methods)


class Handwritten(tf.Module):
    """The Keras model of `test_a_module_written_by_hand`, in TensorFlow's own operations and on its weights."""

    def __init__(self, model):
        super().__init__()
        self.weights = {v.path: tf.Variable(v) for v in model.variables}

    @tf.function(input_signature=[tf.TensorSpec((None, 12, 12, 3), tf.float64, "image")])
    def __call__(self, image):
        w = self.weights
        x = tf.nn.conv2d(image / 255.0, w["conv/kernel"], 2, "SAME")
        scale = w["bn/gamma"] / tf.sqrt(w["bn/moving_variance"] + 1e-3)
        x = tf.nn.relu((x - w["bn/moving_mean"]) * scale + w["bn/beta"])
        y = tf.nn.depthwise_conv2d(x, w["depthwise/kernel"], [1, 1, 1, 1], "SAME") + w["depthwise/bias"]
        y = y * tf.sigmoid(y)
        x = tf.nn.avg_pool2d(x + y, 2, 2, "VALID")
        x = tf.reshape(x, [tf.shape(x)[0], -1]) @ w["dense/kernel"] + w["dense/bias"]
        return {"probability": tf.nn.softmax(x)}


def test_a_module_written_by_hand(tmp_path, float64):
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="conv")(layers.Rescaling(1 / 255)(inputs))
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", activation="silu", name="depthwise")(x)
    x = layers.Flatten()(layers.AveragePooling2D(2)(layers.Add()([x, y])))
    model = unsettled(keras.Model(inputs, layers.Dense(4, activation="softmax", name="dense")(x)))
    tf.saved_model.save(Handwritten(model), tmp_path / "module")
    assert_same_relevance(model, tmp_path / "module", np.random.default_rng(0).uniform(0, 255, (3, 12, 12, 3)))
