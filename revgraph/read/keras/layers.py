"""Which operation each Keras layer is: views over the layer's live weights."""

import inspect

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from revgraph.graph import normalization, windows
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    BatchNorm,
    Contraction,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    Fused,
    Interpolation,
    Operation,
    Product,
    Routing,
    SeparableConv,
    Sum,
    ZeroPad,
    constant,
    live,
    reading,
)
from revgraph.read.keras.ops import masked_softmax, relu_name, scaling


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

    Raises:
        ValueError: The layer is quantized.
    """
    cls = _extended(layer, VIEWS)
    if cls is None:
        return None
    if getattr(layer, "quantization_mode", None) is not None:
        raise ValueError(
            f"Layer {layer.name!r} is quantized ({layer.quantization_mode}), and its weights are not those of the "
            f"formulas. Explain the model as it was before `quantize`."
        )
    return VIEWS[cls](layer, template, outputs)


def _extended(layer, classes):
    """The class among these that a layer is, or extends without overriding `call`; None if there is none."""
    return next((cls for cls in type(layer).__mro__ if cls in classes and type(layer).call is cls.call), None)


def is_identity(layer) -> bool:
    """Whether a layer does nothing in inference."""
    if isinstance(layer, layers.Activation):
        return layer.activation is keras.activations.linear
    return _extended(layer, IDENTITIES) is not None


def sees_masks(layer) -> bool:
    """Whether what a layer computes in inference depends on the mask of its input."""
    if not any(name.endswith("mask") for name in inspect.signature(layer.call).parameters):
        return False
    if isinstance(layer, layers.TimeDistributed) or type(layer).call in (keras.Model.call, keras.Sequential.call):
        return False
    return not hasattr(layer, "_inputs_struct") and _extended(layer, VIEWS) in (None, *MASK_READERS)


def makes_mask(layer) -> bool:
    """Whether a layer gives its output a mask of its own."""
    if isinstance(layer, layers.Embedding):
        return layer.mask_zero
    return isinstance(layer, layers.Masking) or not type(layer).compute_mask.__module__.startswith("keras.")


def activation(function) -> Activation:
    """An activation function as an operation, named after the function."""
    if isinstance(function, layers.Layer):
        return Activation(function.call, activation_name(function), layer=function)
    return Activation(function, activation_name(function))


def activation_name(function) -> str:
    """The name by which analysis knows an activation; of what is not Keras's own it knows nothing."""
    if isinstance(function, layers.Activation):
        return activation_name(function.activation)
    if all(hasattr(function, name) for name in ("negative_slope", "max_value", "threshold")):
        return relu_name(function)
    for cls, name in LAYER_ACTIVATIONS.items():
        if isinstance(function, cls):
            return name
    name = getattr(function, "__name__", type(function).__name__)
    own = getattr(function, "__module__", "").startswith(("keras.", "tensorflow."))
    return name if own else f"custom_{name}"


def _fused(layer, affine):
    function = getattr(layer, "activation", None)
    if _changes_shape(function):
        return None
    return affine if function in (None, keras.activations.linear) else Fused(affine, activation(function))


def _changes_shape(function):
    return function is not None and function is getattr(keras.activations, "glu", None)


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
        if layer._reshape_required:
            return None
        count = len(keras.tree.flatten(template.argument(layer.call, "inputs")))
        return Sum(reading({"kernel": constant(weights(count))}))

    return view


def _product(layer, template, outputs):
    return None if layer._reshape_required else Product()


def _dot(layer, template, outputs):
    return None if layer.normalize else Contraction(template.bind(layer.call), "Dot")


def _routing(layer, template, outputs):
    return Routing(template.bind(layer.call), type(layer).__name__, len(outputs))


def _zero_padding(layer, template, outputs):
    widths = layer.padding if isinstance(layer.padding[0], tuple | list) else (layer.padding,)
    widths = tuple(tuple(pair) for pair in widths)
    ends = ((0, 0),)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    around = (*ends, *ends, *widths) if first else (*ends, *widths, *ends)
    return ZeroPad(template.bind(layer.call), type(layer).__name__, widths=around)


def _resizing(layer, template, outputs):
    # The nearest neighbour is a selection; splines have negative weights.
    kind = getattr(layer, "interpolation", "nearest")
    if kind == "nearest" or getattr(layer, "fill_value", 0) != 0:
        return _routing(layer, template, outputs)
    return Interpolation(template.bind(layer.call), type(layer).__name__, keeps_sign=kind == "bilinear")


def _max_pool(layer, template, outputs):
    function = template.bind(layer.call)
    if isinstance(layer, layers.MaxPooling3D):
        geometry = layer.pool_size, layer.strides, layer.padding, layer.data_format
        function = windows.pooling_3d(ops.max_pool, function, *geometry)
    return Routing(function, type(layer).__name__)


def _average_pool(layer, template, outputs):
    if template.kwargs.get("mask") is not None:
        return AveragePool(
            template.bind(layer.call), type(layer).__name__, count=windows.of_mask(len(outputs[0].shape))
        )
    if hasattr(layer, "pool_size"):
        count = windows.of_pooling(layer.pool_size, layer.strides, layer.padding, layer.data_format)
    elif hasattr(layer, "output_size"):
        count = windows.of_adaptive_pooling(layer.output_size, layer.data_format)
    else:
        count = windows.of_global_pooling(layer.data_format)
    function = template.bind(layer.call)
    if isinstance(layer, layers.AveragePooling3D):
        geometry = layer.pool_size, layer.strides, layer.padding, layer.data_format
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    return AveragePool(function, type(layer).__name__, count=count)


def _activation_layer(layer, template, outputs):
    if _changes_shape(getattr(layer, "activation", None)) or template.kwargs.get("mask") is not None:
        return None
    return Activation(template.bind(layer.call), activation_name(layer))


def layer_expansion(layer, template):
    """A function of the layer's arguments that computes the same with operations that have rules; or None."""
    if _extended(layer, (layers.Softmax,)) and template.kwargs.get("mask") is not None:
        return masked_softmax(layer.axis)
    if getattr(layer, "_reshape_required", False) and hasattr(layer, "_merge_function"):
        return _merge_of_ranks(layer)
    return None


def _merge_of_ranks(layer):
    """What a merging layer does with tensors of different rank: axes are missing behind the batch axis."""

    def merge(inputs):
        rank = max(len(x.shape) for x in inputs)
        return layer._merge_function([_with_axes(x, rank - len(x.shape)) for x in inputs])

    return merge


def _with_axes(x, count):
    for _ in range(count):
        x = ops.expand_dims(x, axis=1)
    return x


def _embedding(layer, template, outputs):
    return Embedding(live(lambda: layer.embeddings))


def _rescaling(layer, template, outputs):
    # Keras, too, makes tensors of Python numbers before it casts them.
    sources = [live(lambda n=n: tf.convert_to_tensor(getattr(layer, n))) for n in ("scale", "offset")]
    shapes = [np.shape(layer.scale), np.shape(layer.offset)]
    if keras.config.image_data_format() == "channels_first" and shapes[0]:
        shapes[0] += (1,) * (3 - len(shapes[0]))
    return scaling(outputs[0].shape, *sources, *shapes)


def _normalization(layer, template, outputs):
    if getattr(layer, "mean", None) is None:
        return None

    def deviation(dtype):
        return tf.maximum(tf.sqrt(live(lambda: layer.variance)(dtype)), keras.config.epsilon())

    def kernel(dtype):
        return deviation(dtype) if layer.invert else 1 / deviation(dtype)

    def bias(dtype):
        mean = live(lambda: layer.mean)(dtype)
        return mean if layer.invert else -mean / deviation(dtype)

    shape = tuple(layer.mean.shape)
    return scaling(outputs[0].shape, kernel, bias, shape, shape)


def _layer_normalization(layer, template, outputs):
    shape = outputs[0].shape
    axes = [axis % len(shape) for axis in keras.tree.flatten(layer.axis)]
    weights = _affine(layer, "gamma", "beta", [n if i in axes else 1 for i, n in enumerate(shape)])
    return normalization.of_layer(weights, axes, layer.epsilon, layer.rms_scaling)


def _rms_normalization(layer, template, outputs):
    shape = outputs[0].shape
    axes = [axis % len(shape) for axis in keras.tree.flatten(layer.axis)]
    return normalization.of_root_mean_square(_affine(layer, "scale", None, None), axes, layer.epsilon)


def _unit_normalization(layer, template, outputs):
    return normalization.to_unit_norm(layer.axis, 1e-12)


def _group_normalization(layer, template, outputs):
    rank = len(outputs[0].shape)
    axis = layer.axis % rank
    weights = _affine(layer, "gamma", "beta", [-1 if i == axis else 1 for i in range(rank)])
    return normalization.over_groups(weights, layer.groups, axis, rank, layer.epsilon)


def _affine(layer, kernel, bias, shape):
    """Reader of a normalization's own scale and shift, those that it has."""
    sources = {}
    for name, attribute in (("kernel", kernel), ("bias", bias)):
        if attribute is not None and getattr(layer, attribute, None) is not None:
            sources[name] = live(
                lambda a=attribute: getattr(layer, a) if shape is None else ops.reshape(getattr(layer, a), shape)
            )
    return reading(sources)


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
    **_table(_dot, "Dot"),
    **_table(
        _routing,
        "Concatenate", "CenterCrop", "Cropping1D", "Cropping2D", "Cropping3D", "Flatten", "GlobalMaxPooling1D",
        "GlobalMaxPooling2D", "GlobalMaxPooling3D", "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D",
        "AdaptiveMaxPooling3D", "Masking", "Maximum", "Minimum", "Permute", "RandomCrop", "RepeatVector", "Reshape",
    ),
    **_table(_zero_padding, "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    **_table(_resizing, "Resizing", "UpSampling1D", "UpSampling2D", "UpSampling3D"),
    **_table(_max_pool, "MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
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
    **_table(_layer_normalization, "LayerNormalization"),
    **_table(_rms_normalization, "RMSNormalization"),
    **_table(_unit_normalization, "UnitNormalization"),
    **_table(_group_normalization, "GroupNormalization"),
}  # fmt: skip
"""Keras layer class -> view(layer, template of the call, symbolic outputs) -> operation."""

LAYER_ACTIVATIONS = {
    layers.LeakyReLU: "leaky_relu",
    layers.PReLU: "prelu",
    layers.ELU: "elu",
    layers.Softmax: "softmax",
}
"""Activation layers and the names of their functions."""

MASK_READERS = _layers("GlobalAveragePooling1D", "Softmax")
"""Layers with a view whose result depends on the mask of their input."""

MASKED = _layers("Multiply", "Maximum", "Minimum")
"""Layers that leave out masked entries by themselves, which only their own code shows."""
