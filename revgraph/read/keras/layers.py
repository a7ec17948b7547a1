"""Views of Keras layers: the operation that a layer computes, on the layer's live weights.

A view is a function `view(layer, template, outputs)`. It takes the layer, the `Template` of a call (its arguments) and
the symbolic outputs. It returns an operation, or None where it does not know such a call.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers, ops

from revgraph.graph.operations import (
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    Fused,
    Operation,
    Product,
    SeparableConv,
    Sum,
    constant,
    live,
    reading,
)
from revgraph.read.keras import private, routing, scaling
from revgraph.read.keras.activations import activation, changes_shape, layer_activation
from revgraph.read.keras.template import Template, constants_in


def _layers(*names):
    """The named Keras layer classes that this version of Keras has."""
    return tuple(getattr(layers, name) for name in names if hasattr(layers, name))


def layer_operation(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> Operation | None:
    """The operation of a call of a Keras layer; None where the layer has no view, or the view does not know the call.

    A subclass has the view of the layer that it extends, unless it overrides `call`.

    Args:
        layer: The layer.
        template: The arguments of the call.
        outputs: Symbolic outputs of the call.

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
    """The class among `classes` that a layer has, or extends without overriding `call`; None if there is none."""
    bases: Iterable[Any] = type(layer).__mro__
    return next((cls for cls in bases if cls in classes and type(layer).call is cls.call), None)


def has_view(layer: layers.Layer) -> bool:
    """Whether a layer has a view. The view may still return None for the arguments of a call."""
    return _extended(layer, VIEWS) is not None


def sees_mask(layer: layers.Layer) -> bool:
    """Whether the output of a layer in inference depends on the mask that it is given."""
    return _extended(layer, VIEWS) in (None, *MASK_READERS)


def _fused(layer, template, affine):
    function = getattr(layer, "activation", None)
    if changes_shape(function):
        return None
    if function in (None, keras.activations.linear):
        return affine
    return Fused(affine, activation(function, template.dtype, layer.compute_dtype))


def _weights(layer, shape=None, **names):
    """Reads the named weights, and the bias, if there is one, reshaped to `shape`."""
    sources = {name: live(lambda attribute=attribute: getattr(layer, attribute)) for name, attribute in names.items()}
    if getattr(layer, "bias", None) is not None:
        sources["bias"] = live(lambda: layer.bias if shape is None else ops.reshape(layer.bias, shape))
    return reading(sources)


def _dense(layer, template, outputs):
    return _fused(layer, template, Dense(_weights(layer, kernel="kernel")))


def _einsum_dense(layer, template, outputs):
    return _fused(layer, template, Einsum(_weights(layer, kernel="kernel"), layer.equation))


def _geometry(layer: layers.Layer) -> tuple[Any, Any, Any, str]:
    """Strides, padding, dilation and data format."""
    return layer.strides, layer.padding, layer.dilation_rate, layer.data_format


def _bias_shape(layer):
    return (-1,) + (1,) * layer.rank if layer.data_format == "channels_first" else None


def _convolution(operation, **names):
    def view(layer, template, outputs):
        return _fused(layer, template, operation(_weights(layer, _bias_shape(layer), **names), *_geometry(layer)))

    return view


def _conv_transpose(layer, template, outputs):
    weights = _weights(layer, _bias_shape(layer), kernel="kernel")
    return _fused(layer, template, ConvTranspose(weights, *_geometry(layer), layer.output_padding))


def _inputs(layer, template):
    return template.argument(layer.call, "inputs")


def _has_constants(layer, template):
    return bool(constants_in(_inputs(layer, template)))


def _sum(weights):
    def view(layer, template, outputs):
        if private.aligns_ranks(layer) or _has_constants(layer, template):
            return None
        return Sum(reading({"kernel": constant(weights(len(template.slots())))}))

    return view


def _product(layer, template, outputs):
    return None if private.aligns_ranks(layer) or _has_constants(layer, template) else Product()


def _routing(flags):
    def view(layer, template, outputs):
        return routing.routing(layer.call, template, type(layer).__name__, len(outputs), flags=flags)

    return view


def _embedding(layer, template, outputs):
    return Embedding(live(lambda: layer.embeddings))


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
    **_table(scaling.batch_normalization_layer, "BatchNormalization"),
    **_table(_sum(lambda n: [1.0] * n), "Add"),
    **_table(_sum(lambda n: [1.0, -1.0]), "Subtract"),
    **_table(_sum(lambda n: [1.0 / n] * n), "Average"),
    **_table(_product, "Multiply"),
    **_table(
        _routing(routing.MOVES),
        "Concatenate", "Cropping1D", "Cropping2D", "Cropping3D", "Flatten", "Permute", "RepeatVector", "Reshape",
    ),
    # Images that are smaller than the crop are interpolated, so the entries are not always copies.
    **_table(_routing({"fixed": True, "keeps_sign": True}), "CenterCrop", "RandomCrop"),
    **_table(
        _routing(routing.CHOICES),
        "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "Maximum", "Minimum",
    ),
    **_table(
        routing.adaptive_max_pool, "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D",
    ),
    **_table(_routing(routing.MASKS), "Masking"),
    **_table(routing.zero_padding, "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    **_table(routing.resize, "Resizing", "UpSampling1D", "UpSampling3D"),
    **_table(routing.upsampling_2d, "UpSampling2D"),
    **_table(routing.max_pool, "MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
    **_table(routing.average_pool, "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    **_table(
        routing.global_average_pool, "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    ),
    **_table(
        routing.adaptive_average_pool,
        "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D",
    ),
    **_table(layer_activation, "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    **_table(_embedding, "Embedding"),
    **_table(scaling.rescaling_layer, "Rescaling"),
    **_table(scaling.normalization_layer, "Normalization"),
    **_table(scaling.layer_normalization_layer, "LayerNormalization"),
    **_table(scaling.rms_normalization_layer, "RMSNormalization"),
    **_table(scaling.unit_normalization_layer, "UnitNormalization"),
    **_table(scaling.group_normalization_layer, "GroupNormalization"),
}  # fmt: skip
"""The view of each class of Keras layers."""

MASK_READERS = _layers("GlobalAveragePooling1D", "Softmax")
"""Layers with a view whose output depends on the mask of their input."""

MASKED = _layers("Multiply", "Maximum", "Minimum")
"""Layers whose own code leaves out masked entries, so it is read when a mask is given."""
