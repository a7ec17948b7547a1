"""What moves entries from place to place, and what is known of it: copies, fixed, keeps_sign, fills."""

import dataclasses

import keras
import numpy as np
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


def _known(flags, names):
    return dict.fromkeys(names.split(), flags)


ROUTINGS = {
    **_known(
        MOVES,
        "Append ArraySplit Concatenate CropImages DepthToSpace Diagonal Dsplit Dstack ExpandDims Flip Fliplr Flipud "
        "GetItem Hsplit Hstack Moveaxis Ravel Rearrange Repeat Roll Rot90 Select Slice SliceUpdate SpaceToDepth Split "
        "Squeeze Stack Swapaxes Take TakeAlongAxis Tile Transpose Unstack Vsplit Vstack Where",
    ),
    **_known(FILLS, "Diag Diagflat ExtractPatches OnesLike PadImages Tril Triu ZerosLike"),
    **_known({**FILLS, "keeps_sign": False}, "FullLike"),
    **_known(CHOICES, "Amax Amin Max Min Sort TopK"),
}
"""Name of the class of a Keras operation that moves entries -> what is known of it where no constants take part."""

DATA = {
    "Append": ("x1", "x2"),
    "Select": ("choicelist", "default"),
    "SliceUpdate": ("inputs", "updates"),
    "Where": ("x1", "x2"),
}
"""The parameters whose entries are moved, where that is not the first alone. Other parameters say where to."""


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


def moved(operation, template, outputs):
    """The view of a Keras operation in `ROUTINGS`."""
    name = type(operation).__name__
    # The maximum and the minimum have a first value to compare with.
    others = constants_in(getattr(operation, "initial", None))
    return routing(operation.call, template, name, len(outputs), DATA.get(name), others=others, flags=ROUTINGS[name])


def cast(operation, template, outputs):
    """A conversion to a floating type, or between integers. What is floating stays as it is, as relevance does."""
    (slot,) = template.slots()
    # Where floating numbers are rounded, entries are not copied.
    if "float" in slot.dtype and "float" not in keras.backend.standardize_dtype(outputs[0].dtype):
        return None
    function = template.bind(operation.call)
    return Routing(lambda x: x if x.dtype.is_floating else function(x), "Cast", **MOVES)


def view(operation, template, outputs):
    """The bytes of a tensor read as another type; as the same type it is the tensor itself."""
    (slot,) = template.slots()
    same = keras.backend.standardize_dtype(outputs[0].dtype) == slot.dtype
    return Routing(lambda x: x, "View", **MOVES) if same else None


def reshape(operation, template, outputs):
    """What symbolic calls leave unknown of the new shape is the size of the batch, or what is left over."""

    def function(x):
        sizes = [-1 if n is None else n for n in operation.newshape]
        if operation.newshape and operation.newshape[0] is None:
            sizes[0] = tf.shape(x)[0]
        return tf.reshape(x, sizes)

    return Routing(function if None in operation.newshape else template.bind(operation.call), "Reshape", **MOVES)


def broadcast(shape):
    """Broadcasting to a shape. What is unknown of it is the size that the tensor has there already."""

    def function(x):
        own = [None] * (len(shape) - x.shape.rank) + tf.unstack(tf.shape(x))
        return tf.broadcast_to(x, [m if n is None else n for n, m in zip(shape, own, strict=True)])

    return Routing(function, "BroadcastTo", **MOVES)


def broadcast_to(operation, template, outputs):
    """The view of `keras.ops.broadcast_to`."""
    return broadcast(operation.shape)


def where(operation, template, outputs):
    """The choice between two tensors; with the condition alone it gives the places where that is true."""
    return None if template.argument(operation.call, "x1") is None else moved(operation, template, outputs)


def slice_update(operation, template, outputs):
    """The view of `keras.ops.slice_update`, of whose own code TensorFlow has no gradient."""

    def function(inputs, start_indices, updates):
        updates = tf.cast(updates, inputs.dtype) if tf.is_tensor(inputs) else tf.convert_to_tensor(updates)
        inputs = tf.cast(inputs, updates.dtype)
        room = tf.shape(inputs) - tf.shape(updates)
        before = tf.clip_by_value(tf.cast(start_indices, tf.int32), 0, room)
        widths = tf.stack([before, room - before], axis=1)
        return tf.where(tf.pad(tf.ones_like(updates, tf.bool), widths), tf.pad(updates, widths), inputs)

    found = moved(operation, template, outputs)
    return None if found is None else dataclasses.replace(found, function=template.bind(function))


# Padding, cropping and resizing.


def pad(operation, template, outputs):
    """The view of `keras.ops.pad`."""
    if operation.mode != "constant":
        return routing(operation.call, template, "Pad")
    fill = template.argument(operation.call, "constant_values")
    if fill is not None and not known(fill, lambda values: values == 0):
        return routing(operation.call, template, "Pad", data=("x", "constant_values"))
    rank = len(outputs[0].shape)
    widths = np.broadcast_to(np.asarray(operation.pad_width), (rank, 2))
    return ZeroPad(template.bind(operation.call), "Pad", widths=tuple(map(tuple, widths.tolist())), **FILLS)


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
    return dataclasses.replace(found, function=_in_float32(found.function, template.dtype))


def _in_float32(function, dtype):
    """TensorFlow interpolates in float32, whatever it is given, and the gradient has to be float32, too."""

    def interpolated(x):
        z = function(tf.cast(x, tf.float32) if x.dtype.is_floating else x)
        return tf.cast(z, dtype) if z.dtype.is_floating else z

    return interpolated


def upsampling_2d(layer, template, outputs):
    """The view of UpSampling2D, whose own code interpolates images of a known size only."""
    found = resize(layer, template, outputs)
    if layer.interpolation == "nearest":
        return found

    def function(x):
        first = layer.data_format == "channels_first"
        x = channels_last(x) if first else x
        _, height, width, _ = windows.sizes(x)
        z = tf.image.resize(x, (height * layer.size[0], width * layer.size[1]), layer.interpolation)
        return channels_first(z) if first else z

    return dataclasses.replace(found, function=_in_float32(function, template.dtype))


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


def mean(operation, template, outputs):
    """The view of `keras.ops.mean`."""
    return AveragePool(template.bind(operation.call), "mean", count=windows.of_mean(operation.axis), **AVERAGES)


def total(operation, template, outputs):
    """The view of `keras.ops.sum`."""
    return AveragePool(template.bind(operation.call), "sum", **AVERAGES)
