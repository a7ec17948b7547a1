"""Which operation each Keras layer is: views over the layer's live weights."""

import keras
import tensorflow as tf
from keras import layers, ops

from revgraph.graph import windows
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    Fused,
    Operation,
    Product,
    Routing,
    Scale,
    SeparableConv,
    Sum,
    constant,
    live,
    reading,
)


def _layers(*names):
    """The named Keras layer classes that this version of Keras has."""
    return tuple(getattr(layers, name) for name in names if hasattr(layers, name))


IDENTITIES = _layers(
    "ActivityRegularization", "AlphaDropout", "AutoContrast", "Dropout", "GaussianDropout", "GaussianNoise", "Identity",
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation",
    "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip
"""Layers that do nothing in inference."""

OPAQUE = _layers("Lambda", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "MultiHeadAttention",
                 "GroupQueryAttention", "Attention", "AdditiveAttention", "TorchModuleWrapper", "TFSMLayer",
                 "JaxLayer", "FlaxLayer")  # fmt: skip
"""Layers that stay one site: their parts have no rule, or their code is not ours to run symbolically."""


def layer_operation(layer, template, outputs) -> Operation | None:
    """The operation of a Keras layer; None where there is no view of it.

    A subclass counts as the layer that it extends as long as it does not override `call`.
    """
    for cls in type(layer).__mro__:
        if cls in VIEWS and type(layer).call is cls.call:
            return VIEWS[cls](layer, template, outputs)
    return None


def activation(function) -> Activation:
    """An activation function as an operation, named after the function."""
    if isinstance(function, layers.Layer):
        return Activation(function.call, function.name, layer=function)
    name = getattr(function, "__name__", None) or type(function).__name__.lower()
    return Activation(function, name)


def _fused(layer, affine):
    function = getattr(layer, "activation", None)
    return affine if function in (None, keras.activations.linear) else Fused(affine, activation(function))


def _weights(layer, shape=None, **names):
    """Reader of the named weights, and of the bias, if any, reshaped by `shape`."""
    sources = {name: live(lambda attribute=attribute: getattr(layer, attribute)) for name, attribute in names.items()}
    if getattr(layer, "bias", None) is not None:
        sources["bias"] = live(lambda: layer.bias if shape is None else ops.reshape(layer.bias, shape))
    return reading(sources)


def _dense(layer, template, outputs):
    return _fused(layer, Dense(_weights(layer, kernel="kernel")))


def _einsum_dense(layer, template, outputs):
    return _fused(layer, Einsum(_weights(layer, kernel="kernel"), layer.equation))


def _geometry(layer):
    return layer.strides, layer.padding, layer.dilation_rate, layer.data_format


def _bias_shape(layer):
    return (-1,) + (1,) * layer.rank if layer.data_format == "channels_first" else None


def _convolution(operation, **names):
    def view(layer, template, outputs):
        return _fused(layer, operation(_weights(layer, _bias_shape(layer), **names), *_geometry(layer)))

    return view


def _conv_transpose(layer, template, outputs):
    weights = _weights(layer, _bias_shape(layer), kernel="kernel")
    return _fused(layer, ConvTranspose(weights, *_geometry(layer), layer.output_padding))


def _batch_normalization(layer, template, outputs):
    def weights(dtype):
        scale = tf.math.rsqrt(live(lambda: layer.moving_variance)(dtype) + layer.epsilon)
        if layer.scale:
            scale *= live(lambda: layer.gamma)(dtype)
        shift = -live(lambda: layer.moving_mean)(dtype) * scale
        if layer.center:
            shift += live(lambda: layer.beta)(dtype)
        return {"kernel": scale, "bias": shift}

    return BatchNorm(weights, layer.axis % len(outputs[0].shape))


def _sum(weights):
    def view(layer, template, outputs):
        return Sum(reading({"kernel": constant(weights(_count(template)))}))

    return view


def _count(template):
    return len(keras.tree.flatten(template.args[0]))


def _product(layer, template, outputs):
    return Product()


def _routing(layer, template, outputs):
    return Routing(template.bind(layer.call), type(layer).__name__, len(outputs))


def _average_pool(layer, template, outputs):
    if hasattr(layer, "pool_size"):
        count = windows.of_pooling(layer.pool_size, layer.strides, layer.padding, layer.data_format)
    elif hasattr(layer, "output_size"):
        count = windows.of_adaptive_pooling(layer.output_size, layer.data_format)
    else:
        count = windows.of_global_pooling(layer.data_format)
    return AveragePool(average_pooling(layer, template), type(layer).__name__, count=count)


def average_pooling(layer, template):
    """The layer's average pooling, with a float64 form of the 3D one, for which TensorFlow has no CPU kernel."""
    if not isinstance(layer, layers.AveragePooling3D):
        return template.bind(layer.call)

    def pool(x):
        first = layer.data_format == "channels_first"
        if first:
            x = ops.transpose(x, (0, 2, 3, 4, 1))
        (d, h, w), (sd, sh, sw), padding = layer.pool_size, layer.strides, layer.padding
        batch, depth, height, width, channels = ops.shape(x)
        x = ops.reshape(x, (-1, height, width, channels))
        x = ops.average_pool(x, (h, w), (sh, sw), padding, "channels_last")
        height, width = ops.shape(x)[1:3]
        x = ops.reshape(x, (-1, depth, height * width * channels))
        x = ops.average_pool(x, d, sd, padding, "channels_last")
        x = ops.reshape(x, (-1, ops.shape(x)[1], height, width, channels))
        return ops.transpose(x, (0, 4, 1, 2, 3)) if first else x

    return pool


def _activation_layer(layer, template, outputs):
    function = getattr(layer, "activation", None)
    name = getattr(function, "__name__", None) if isinstance(layer, layers.Activation) else None
    return Activation(template.bind(layer.call), name or type(layer).__name__.lower())


def _embedding(layer, template, outputs):
    return Embedding(live(lambda: layer.embeddings))


def _rescaling(layer, template, outputs):
    return Scale(reading({"kernel": live(lambda: layer.scale), "bias": live(lambda: layer.offset)}))


def _normalization(layer, template, outputs):
    if getattr(layer, "mean", None) is None:
        return None

    def weights(dtype):
        mean, variance = live(lambda: layer.mean)(dtype), live(lambda: layer.variance)(dtype)
        deviation = tf.maximum(tf.sqrt(variance), keras.config.epsilon())
        if layer.invert:
            return {"kernel": deviation, "bias": mean}
        return {"kernel": 1.0 / deviation, "bias": -mean / deviation}

    return Scale(weights)


def _table(view, *names):
    return dict.fromkeys(_layers(*names), view)


VIEWS = {
    **_table(_dense, "Dense"),
    **_table(_einsum_dense, "EinsumDense"),
    **_table(_convolution(Conv, kernel="kernel"), "Conv1D", "Conv2D", "Conv3D"),
    **_table(_convolution(DepthwiseConv, kernel="kernel"), "DepthwiseConv1D", "DepthwiseConv2D"),
    **_table(
        _convolution(SeparableConv, depthwise_kernel="depthwise_kernel", pointwise_kernel="pointwise_kernel"),
        "SeparableConv1D",
        "SeparableConv2D",
    ),
    **_table(_conv_transpose, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    **_table(_batch_normalization, "BatchNormalization"),
    **_table(_sum(lambda n: [1.0] * n), "Add"),
    **_table(_sum(lambda n: [1.0, -1.0]), "Subtract"),
    **_table(_sum(lambda n: [1.0 / n] * n), "Average"),
    **_table(_product, "Multiply"),
    **_table(
        _routing,
        "Concatenate", "CenterCrop", "Cropping1D", "Cropping2D", "Cropping3D", "Flatten", "GlobalMaxPooling1D",
        "GlobalMaxPooling2D", "GlobalMaxPooling3D", "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D",
        "AdaptiveMaxPooling3D", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "Maximum", "Minimum", "Permute",
        "RandomCrop", "RepeatVector", "Reshape", "Resizing", "UpSampling1D", "UpSampling2D", "UpSampling3D",
        "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
    ),
    **_table(
        _average_pool,
        "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "GlobalAveragePooling1D",
        "GlobalAveragePooling2D", "GlobalAveragePooling3D", "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D",
        "AdaptiveAveragePooling3D",
    ),
    **_table(_activation_layer, "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    **_table(_embedding, "Embedding"),
    **_table(_rescaling, "Rescaling"),
    **_table(_normalization, "Normalization"),
}  # fmt: skip
"""Keras layer class -> view(layer, template of the call, symbolic outputs) -> operation."""
