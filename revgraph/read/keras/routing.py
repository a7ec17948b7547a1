"""Views of the layers that move entries from place to place: reshaping, padding, resizing, pooling.

`revgraph.graph.operations.Routing` explains the properties `copies`, `fixed`, `keeps_sign` and `fills`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from revgraph.graph import windows
from revgraph.graph.operations import AveragePool, Interpolation, Routing, ZeroPad, channels_first, channels_last
from revgraph.read.keras.template import Template, constants_in, known, slots_in

MOVES = {"copies": True, "fixed": True, "keeps_sign": True}
"""Properties of an operation that moves entries in a way that does not depend on values."""

FILLS = {**MOVES, "fills": True}
"""Properties of an operation that moves entries in such a way, and puts zeros between them."""

CHOICES = {"copies": True, "keeps_sign": True}
"""Properties of an operation that chooses entries by their values."""

MASKS = {**CHOICES, "fills": True}
"""Properties of an operation that replaces entries by zero, depending on values."""

AVERAGES = {"fixed": True, "keeps_sign": True}
"""Properties of sums and means over entries."""


def routing(
    function: Callable,
    template: Template,
    name: str,
    count: int = 1,
    data: Sequence[str] | None = None,
    others: Iterable = (),
    kind: type[Routing] = Routing,
    flags: Mapping[str, bool] = MOVES,
    **fields: Any,
) -> Routing | None:
    """A routing operation, whose properties take account of the constants among its arguments.

    Args:
        function: Computes the outputs.
        template: The arguments of the call.
        name: Name of the operation in printed graphs.
        count: Number of outputs.
        data: Names of the parameters whose entries are moved; by default the first parameter.
        others: Constants in the outputs that are no arguments, such as fill values.
        kind: Class of the operation.
        flags: Its properties where no constants take part.
        fields: Other arguments of the class.

    Returns:
        The operation; None where no tensor of the graph is moved.
    """
    named = template.named(function)
    moved = [named.get(parameter) for parameter in data or list(named)[:1]]
    if not slots_in(moved):
        return None
    constants = [*constants_in(moved), *others]
    # A tensor of the graph that is not moved must say where to move the others.
    chosen = len(slots_in(moved)) < len(template.slots())
    return kind(
        template.bind(function),
        name,
        count,
        **fields,
        **{
            **flags,
            "fixed": flags.get("fixed", False) and not chosen,
            "keeps_sign": flags.get("keeps_sign", False)
            and all(known(c, lambda values: values >= 0) for c in constants),
            "fills": flags.get("fills", False) or bool(constants),
        },
    )


# Padding, cropping and resizing.


def zero_padding(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> ZeroPad:
    """The view of the layers ZeroPadding1D to ZeroPadding3D."""
    widths = layer.padding if isinstance(layer.padding[0], tuple | list) else (layer.padding,)
    widths = tuple(tuple(pair) for pair in widths)
    ends = ((0, 0),)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    around = (*ends, *ends, *widths) if first else (*ends, *widths, *ends)
    return ZeroPad(template.bind(layer.call), type(layer).__name__, widths=around, **FILLS)


def resize(operation: keras.Operation, template: Template, outputs: Sequence[keras.KerasTensor]) -> Routing | None:
    """The view of the layers that resize images; None where revgraph has no operation for such a call."""
    kind = getattr(operation, "interpolation", "nearest")
    fill = [getattr(operation, "fill_value", 0)] if getattr(operation, "pad_to_aspect_ratio", False) else []
    # The nearest neighbour is a copy. Cubic splines have negative weights, so they may change signs.
    flags = {"copies": kind == "nearest", "fixed": True, "keeps_sign": kind in ("nearest", "bilinear", "area")}
    # A fill value other than zero takes part in the weighted means, so they are not means of entries alone.
    mean = kind != "nearest" and not any(fill)
    found = routing(
        operation.call,
        template,
        type(operation).__name__,
        others=fill,
        kind=Interpolation if mean else Routing,
        flags=flags,
    )
    if found is None or kind == "nearest":
        return found
    if kind == "area":
        return _by_area(operation, found, outputs)
    return dataclasses.replace(found, function=_in_float32(found.function, template.dtype))


def _by_area(operation, found, outputs):
    """Resizing by the means of areas; None where images are cropped or padded before."""
    if getattr(operation, "crop_to_aspect_ratio", False) or getattr(operation, "pad_to_aspect_ratio", False):
        return None
    first = (operation.data_format or keras.config.image_data_format()) == "channels_first"
    rows, columns = outputs[0].shape[2:] if first else outputs[0].shape[1:3]

    def function(x):
        z = windows.resized_by_area(channels_last(x) if first else x, rows, columns)
        return channels_first(z) if first else z

    return dataclasses.replace(found, function=function)


def _in_float32(function, dtype):
    """The function on float32 inputs, because TensorFlow interpolates in float32 and needs a float32 gradient."""

    def interpolated(x):
        z = function(tf.cast(x, tf.float32) if x.dtype.is_floating else x)
        return tf.cast(z, dtype) if z.dtype.is_floating else z

    return interpolated


def upsampling_2d(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> Routing | None:
    """The view of UpSampling2D."""
    found = resize(layer, template, outputs)
    if found is None or layer.interpolation == "nearest":
        return found
    return dataclasses.replace(found, function=_in_float32(functools.partial(upsampled, layer), template.dtype))


def upsampled(layer: layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Computes UpSampling2D for images of any size, because the code of Keras interpolates images of a known size only.

    Args:
        layer: The layer.
        x: Images, in the layer's data format.
    """
    first = layer.data_format == "channels_first"
    x = channels_last(x) if first else x
    _, height, width, _ = windows.sizes(x)
    z = tf.image.resize(x, (height * layer.size[0], width * layer.size[1]), layer.interpolation)
    return channels_first(z) if first else z


# Pooling.


def _geometry(operation, outputs):
    """Size, strides, padding and data format of a pooling layer or operation."""
    rank = len(outputs[0].shape) - 2
    size = as_tuple(operation.pool_size, rank)
    data_format = operation.data_format or keras.config.image_data_format()
    return size, as_tuple(operation.strides or size, rank), operation.padding, data_format


def as_tuple(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """A number repeated for each of `rank` dimensions; a tuple of numbers as it is."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def max_pool(operation: keras.Operation, template: Template, outputs: Sequence[keras.KerasTensor]) -> Routing:
    """The view of max pooling layers and operations."""
    function = template.bind(operation.call)
    if len(outputs[0].shape) == 5:
        function = windows.pooling_3d(ops.max_pool, function, *_geometry(operation, outputs))
    return Routing(function, type(operation).__name__, **CHOICES)


def average_pool(operation: keras.Operation, template: Template, outputs: Sequence[keras.KerasTensor]) -> AveragePool:
    """The view of average pooling layers and operations."""
    function, geometry = template.bind(operation.call), _geometry(operation, outputs)
    if len(outputs[0].shape) == 5:
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    return AveragePool(function, type(operation).__name__, count=windows.of_pooling(*geometry), **AVERAGES)


def _adaptive_geometry(operation):
    # Keras infers a wrong rank for the output, so the number of dimensions is taken from the input at run time.
    return as_tuple(operation.output_size, 3), operation.data_format or keras.config.image_data_format()


def adaptive_max_pool(operation: keras.Operation, template: Template, outputs: Sequence[keras.KerasTensor]) -> Routing:
    """The view of adaptive max pooling layers and operations, which are given the number of windows."""
    function = template.bind(operation.call)
    function = windows.adaptive_pooling(ops.adaptive_max_pool, function, *_adaptive_geometry(operation))
    return Routing(function, type(operation).__name__, **CHOICES)


def adaptive_average_pool(
    operation: keras.Operation, template: Template, outputs: Sequence[keras.KerasTensor]
) -> AveragePool:
    """The view of adaptive average pooling layers and operations, which are given the number of windows."""
    geometry = _adaptive_geometry(operation)
    function = windows.adaptive_pooling(ops.adaptive_average_pool, template.bind(operation.call), *geometry)
    count = windows.of_adaptive_pooling(*geometry)
    return AveragePool(function, type(operation).__name__, count=count, **AVERAGES)


def global_average_pool(layer: layers.Layer, template: Template, outputs: Sequence[keras.KerasTensor]) -> AveragePool:
    """The view of the layers GlobalAveragePooling1D to GlobalAveragePooling3D."""
    function, name = template.bind(layer.call), type(layer).__name__
    mask = template.argument(layer.call, "mask") if isinstance(layer, keras.layers.GlobalAveragePooling1D) else None
    if mask is None:
        return AveragePool(function, name, count=windows.of_global_pooling(layer.data_format), **AVERAGES)
    count = windows.of_mask(len(outputs[0].shape))
    if slots_in(mask):
        # A mask that depends on the inputs says which entries count, so the operation is not `fixed`.
        return AveragePool(function, name, count=count, keeps_sign=True)
    return AveragePool(function, name, count=lambda x: count(x, mask), **AVERAGES)
