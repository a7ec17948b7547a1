"""What moves entries from place to place, and what is known of it: copies, fixed, keeps_sign, fills."""

import dataclasses
import functools

import keras
import tensorflow as tf
from keras import ops

from revgraph.graph import windows
from revgraph.graph.operations import AveragePool, Interpolation, Routing, ZeroPad, channels_first, channels_last
from revgraph.read.keras.template import constants_in, known, slots_in

MOVES = {"copies": True, "fixed": True, "keeps_sign": True}
"""Known of what moves entries in a way that does not depend on their values."""

FILLS = {**MOVES, "fills": True}
"""Known of what moves entries so and puts zeros between them."""

CHOICES = {"copies": True, "keeps_sign": True}
"""Known of what chooses entries by their values."""

MASKS = {**CHOICES, "fills": True}
"""Known of what replaces entries by zero, depending on their values."""

AVERAGES = {"fixed": True, "keeps_sign": True}
"""Known of sums and means over entries."""


def routing(function, template, name, count=1, data=None, others=(), kind=Routing, flags=MOVES, **fields):
    """A routing operation, and what is known of it once the constants that take part are seen.

    Args:
        function: Computes the outputs.
        template: Its arguments.
        name: What it is called in printed graphs.
        count: How many outputs it has.
        data: The parameters whose entries are moved; by default the first.
        others: Constants besides the arguments that stand in the outputs.
        kind: The class of the operation.
        flags: What is known of it where no constants take part.
        fields: Other arguments of the class.

    Returns:
        The operation; None where no tensor of the graph is among the data.
    """
    named = template.named(function)
    moved = [named.get(parameter) for parameter in data or list(named)[:1]]
    if not slots_in(moved):
        return None
    constants = [*constants_in(moved), *others]
    # A tensor of the graph that is not moved says where to move the others.
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


def zero_padding(layer, template, outputs):
    """The view of the layers ZeroPadding1D to ZeroPadding3D."""
    widths = layer.padding if isinstance(layer.padding[0], tuple | list) else (layer.padding,)
    widths = tuple(tuple(pair) for pair in widths)
    ends = ((0, 0),)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    around = (*ends, *ends, *widths) if first else (*ends, *widths, *ends)
    return ZeroPad(template.bind(layer.call), type(layer).__name__, widths=around, **FILLS)


def resize(operation, template, outputs):
    """The view of what resizes images: layers, and `keras.ops.image.resize`."""
    kind = getattr(operation, "interpolation", "nearest")
    fill = [getattr(operation, "fill_value", 0)] if getattr(operation, "pad_to_aspect_ratio", False) else []
    # The nearest neighbour is a copy; splines have negative weights.
    flags = {"copies": kind == "nearest", "fixed": True, "keeps_sign": kind in ("nearest", "bilinear", "area")}
    # Filling in other numbers than zeros makes a weighted mean of the entries one of entries and constants.
    mean = kind != "nearest" and not any(fill)
    found = routing(
        operation.call,
        template,
        type(operation).__name__,
        others=fill,
        kind=Interpolation if mean else Routing,
        flags=flags,
    )
    if kind == "nearest":
        return found
    if kind == "area":
        return _by_area(operation, found, outputs)
    return dataclasses.replace(found, function=_in_float32(found.function, template.dtype))


def _by_area(operation, found, outputs):
    """Resizing by the means of areas, of images as they are; None where they are cropped or padded first."""
    if getattr(operation, "crop_to_aspect_ratio", False) or getattr(operation, "pad_to_aspect_ratio", False):
        return None
    first = (operation.data_format or keras.config.image_data_format()) == "channels_first"
    rows, columns = outputs[0].shape[2:] if first else outputs[0].shape[1:3]

    def function(x):
        z = windows.resized_by_area(channels_last(x) if first else x, rows, columns)
        return channels_first(z) if first else z

    return dataclasses.replace(found, function=function)


def _in_float32(function, dtype):
    """TensorFlow interpolates in float32, whatever it is given, and the gradient has to be float32, too."""

    def interpolated(x):
        z = function(tf.cast(x, tf.float32) if x.dtype.is_floating else x)
        return tf.cast(z, dtype) if z.dtype.is_floating else z

    return interpolated


def upsampling_2d(layer, template, outputs):
    """The view of UpSampling2D."""
    found = resize(layer, template, outputs)
    if layer.interpolation == "nearest":
        return found
    return dataclasses.replace(found, function=_in_float32(functools.partial(upsampled, layer), template.dtype))


def upsampled(layer, x):
    """What UpSampling2D computes; its own code interpolates images of a known size only."""
    first = layer.data_format == "channels_first"
    x = channels_last(x) if first else x
    _, height, width, _ = windows.sizes(x)
    z = tf.image.resize(x, (height * layer.size[0], width * layer.size[1]), layer.interpolation)
    return channels_first(z) if first else z


# Pooling.


def _geometry(operation, outputs):
    """Size, strides, padding and data format of a pooling, of a layer or of an operation."""
    rank = len(outputs[0].shape) - 2
    size = as_tuple(operation.pool_size, rank)
    data_format = operation.data_format or keras.config.image_data_format()
    return size, as_tuple(operation.strides or size, rank), operation.padding, data_format


def as_tuple(value, rank):
    """A number once for every dimension, or as many numbers as there are."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def max_pool(operation, template, outputs):
    """The view of max pooling with windows, layer or operation."""
    function = template.bind(operation.call)
    if len(outputs[0].shape) == 5:
        function = windows.pooling_3d(ops.max_pool, function, *_geometry(operation, outputs))
    return Routing(function, type(operation).__name__, **CHOICES)


def average_pool(operation, template, outputs):
    """The view of average pooling with windows, layer or operation."""
    function, geometry = template.bind(operation.call), _geometry(operation, outputs)
    if len(outputs[0].shape) == 5:
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    return AveragePool(function, type(operation).__name__, count=windows.of_pooling(*geometry), **AVERAGES)


def _adaptive_geometry(operation):
    # Keras says a wrong rank of the output, so that the number of dimensions is seen when there is an input.
    return as_tuple(operation.output_size, 3), operation.data_format or keras.config.image_data_format()


def adaptive_max_pool(operation, template, outputs):
    """The view of max pooling with a given number of windows, layer or operation."""
    function = template.bind(operation.call)
    function = windows.adaptive_pooling(ops.adaptive_max_pool, function, *_adaptive_geometry(operation))
    return Routing(function, type(operation).__name__, **CHOICES)


def adaptive_average_pool(operation, template, outputs):
    """The view of average pooling with a given number of windows, layer or operation."""
    geometry = _adaptive_geometry(operation)
    function = windows.adaptive_pooling(ops.adaptive_average_pool, template.bind(operation.call), *geometry)
    count = windows.of_adaptive_pooling(*geometry)
    return AveragePool(function, type(operation).__name__, count=count, **AVERAGES)


def global_average_pool(layer, template, outputs):
    """The view of the layers GlobalAveragePooling1D to GlobalAveragePooling3D, with a mask or without."""
    function, name = template.bind(layer.call), type(layer).__name__
    mask = template.argument(layer.call, "mask") if isinstance(layer, keras.layers.GlobalAveragePooling1D) else None
    if mask is None:
        return AveragePool(function, name, count=windows.of_global_pooling(layer.data_format), **AVERAGES)
    count = windows.of_mask(len(outputs[0].shape))
    if slots_in(mask):
        # Which entries count depends on the mask, and so on values.
        return AveragePool(function, name, count=count, keeps_sign=True)
    return AveragePool(function, name, count=lambda x: count(x, mask), **AVERAGES)
