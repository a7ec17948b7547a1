"""Which operation each TensorFlow operation is, by its type.

A view takes the reader and a `Node` and gives the values of the node's outputs, slots or weights; None where the
node's arguments do not fit a rule. Pieces that TensorFlow spells out (one-dimensional and dilated convolutions, a dense
layer over many axes, softmax, PReLU) are put together again by the view of the operation that ends them.
"""

import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph import windows
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    BatchNorm,
    Contraction,
    Conv,
    Convolutional,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    Interpolation,
    LinearMap,
    Product,
    Quotient,
    Routing,
    Sum,
    ZeroPad,
    constant,
    reading,
)
from revgraph.read.savedmodel.activations import DIRECT
from revgraph.read.savedmodel.nodes import ScaleAndShift, Weight, known
from revgraph.read.savedmodel.normalization import whole_normalization

IDENTITIES = frozenset(
    "CheckNumerics EnsureShape Identity IdentityN PlaceholderWithDefault PreventGradient Snapshot".split()
)
"""Operations that change nothing."""

ROUTINGS = frozenset(
    "BatchToSpaceND BroadcastTo Concat ConcatV2 DepthToSpace ExpandDims ExtractImagePatches GatherNd Max MaxPool "
    "MaxPoolV2 MatrixBandPart MatrixDiagPartV3 Min MirrorPad Pack Reverse ReverseV2 ResizeNearestNeighbor Roll Select "
    "SelectV2 Slice SpaceToBatchND SpaceToDepth Split SplitV StridedSlice Tile Unpack".split()
)
"""Operations that move entries from place to place."""

POINTWISE_FUNCTIONS = {
    "Abs": "absolute",
    "Ceil": "ceil",
    "ClipByValue": "clip",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Erfc": "erfc",
    "Exp": "exp",
    "Expm1": "expm1",
    "Floor": "floor",
    "Inv": "reciprocal",
    "Log": "log",
    "Log1p": "log1p",
    "Reciprocal": "reciprocal",
    "Rint": "round",
    "Round": "round",
    "Rsqrt": "rsqrt",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Square": "square",
    "StopGradient": "stop_gradient",
    "Tan": "tan",
    "Asinh": "arcsinh",
    "Atan": "arctan",
}
"""Other functions of one tensor, entry by entry, and their names in `keras.ops`."""

SHAPE_ARITHMETIC = frozenset(
    "Add AddV2 Cast Ceil ConcatV2 ExpandDims Floor FloorDiv FloorMod GatherV2 Max Maximum Min Minimum Mul Neg Pack "
    "Prod RealDiv Reshape Round Slice Split SplitV Squeeze StridedSlice Sub Sum Unpack".split()
)
"""Operations from which shapes are computed."""


def _cast(reader, node):
    (x,) = node.arguments
    (spec,) = node.specs
    source = reader.specs[x].dtype
    if tf.as_dtype(source).is_floating and tf.as_dtype(spec.dtype).is_floating:
        return (x,)
    if tf.as_dtype(source).is_integer and tf.as_dtype(spec.dtype).is_integer and x not in reader.inert:
        return (x,)
    return None


def _routing(reader, node):
    return reader.site(node, Routing(node.function(), node.type, len(node.specs)), node.slots)


def _top_k(reader, node):
    """The largest entries; where they stood carries no relevance."""
    values, positions = (Routing(lambda *t, i=i: node.function()(*t)[i], node.type) for i in (0, 1))
    (largest,) = reader.site(node, values, node.slots)
    (where,) = reader.site(node, positions, node.slots, spec=node.specs[1], inert=True)
    return largest, where


def _interpolation(keeps_sign):
    def view(reader, node):
        return reader.site(node, Interpolation(node.function(), node.type, keeps_sign=keeps_sign), node.slots)

    return view


def _linear_map(reader, node):
    return reader.site(node, LinearMap(reading({}), node.function(), node.type), node.slots)


def _transpose(reader, node):
    order = reader.integers(node.arguments[1])
    if order is not None and list(order) == list(range(len(order))):
        return (node.arguments[0],)
    return _routing(reader, node)


def _pad(reader, node):
    x, widths, *fill = node.arguments
    widths = reader.integers(widths)
    if fill and (not isinstance(fill[0], Weight) or fill[0].value is None or np.any(fill[0].value)):
        return None
    if widths is None or any(n is None for n in np.ravel(widths)):
        return _routing(reader, node)
    widths = tuple((int(before), int(after)) for before, after in widths)
    return reader.site(node, ZeroPad(node.function(), "Pad", widths=widths), (x,))


def _activation(reader, node):
    return reader.site(node, Activation(node.function(), DIRECT[node.type]), node.slots)


def _function(reader, node):
    return reader.site(node, Activation(node.function(), POINTWISE_FUNCTIONS[node.type]), node.slots)


def _power(reader, node):
    return reader.site(node, Activation(node.function(), "power"), node.slots) if len(node.slots) == 1 else None


def _pooling(node):
    """Size, strides, padding and data format of a pooling; None where it pools over samples or channels."""
    data_format = _data_format(node)
    size, strides = node.attribute("ksize"), node.attribute("strides")
    spatial = _spatial(size, data_format)
    if np.prod(spatial) != np.prod(size):
        return None
    return spatial, _spatial(strides, data_format), node.attribute("padding").lower(), data_format


def _average_pool(reader, node):
    geometry = _pooling(node)
    if geometry is None:
        return None
    function = node.function()
    if node.type == "AvgPool3D":
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    return reader.site(node, AveragePool(function, "average_pool", count=windows.of_pooling(*geometry)), node.slots)


def _max_pool_3d(reader, node):
    geometry = _pooling(node)
    if geometry is None:
        return None
    return reader.site(
        node, Routing(windows.pooling_3d(ops.max_pool, node.function(), *geometry), "MaxPool"), node.slots
    )


def _mean(reader, node):
    axes = reader.integers(node.arguments[1])
    if axes is None:
        return None
    count = windows.of_mean([int(axis) for axis in np.ravel(axes)])
    return reader.site(node, AveragePool(node.function(), "mean", count=count), node.slots)


def _total(reader, node):
    return reader.site(node, AveragePool(node.function(), "sum"), node.slots)


def _extremum(reader, node):
    if len(node.slots) == 1:
        return reader.site(node, Activation(node.function(), node.type.lower()), node.slots)
    return _routing(reader, node)


def _sum_of(signs):
    """`a + b`, `a - b`, where one operand may be a weight."""

    def view(reader, node):
        left, right = node.arguments
        if isinstance(right, Weight):
            return reader.scale(node, left, bias=_times(right, signs[1]))
        if isinstance(left, Weight):
            kernel = None if signs[1] == 1 else known(np.float64(signs[1]))
            return reader.scale(node, right, kernel, left)
        return _prelu(reader, node) or reader.site(node, Sum(reading({"kernel": constant(signs)})), node.slots)

    return view


def _squared_difference(reader, node):
    (difference,) = _sum_of((1.0, -1.0))(reader, node)
    return reader.site(node, Activation(tf.square, "square"), (difference,))


def _times(weight, sign):
    return weight if sign == 1 else weight.map(lambda w: -w, weight.shape)


def _bias_add(reader, node):
    x, bias = node.arguments
    if not isinstance(bias, Weight) or isinstance(x, Weight):
        return None
    if node.attribute("data_format") == "NCHW":
        rank = len(reader.specs[x].shape)
        column = (*bias.shape, *(1,) * (rank - 2))
        bias = bias.map(lambda b: tf.reshape(b, column), column)
    return reader.scale(node, x, bias=bias)


def _add_n(reader, node):
    if len(node.slots) < len(node.arguments):
        return None
    return reader.site(node, Sum(reading({"kernel": constant([1.0] * len(node.slots))})), node.slots)


def _multiply(reader, node):
    left, right = node.arguments
    if isinstance(right, Weight):
        return reader.scale(node, left, right)
    if isinstance(left, Weight):
        return reader.scale(node, right, left)
    return reader.site(node, Product(), node.slots)


def _divide(reader, node):
    left, right = node.arguments
    if isinstance(right, Weight):
        return reader.scale(node, left, right.map(lambda w: 1 / w, right.shape))
    if isinstance(left, Weight):
        return reader.site(node, Activation(node.function(), "reciprocal"), node.slots)
    return _softmax(reader, node) or reader.site(node, Quotient(), (left, right))


def _negative(reader, node):
    return reader.scale(node, node.arguments[0], known(np.float64(-1)))


def _matmul(reader, node):
    left, right = node.arguments
    turned = [
        bool(node.attribute(a, False) or node.attribute(b, False))
        for a, b in (("transpose_a", "adj_x"), ("transpose_b", "adj_y"))
    ]
    if isinstance(right, Weight):
        if len(right.shape) == 2 and not turned[0]:
            kernel = right.map(tf.transpose, right.shape[::-1]) if turned[1] else right
            return reader.site(node, Dense(reading({"kernel": kernel.read})), (left,))
        x, w, z = ("ji" if turned[0] else "ij"), ("kj" if turned[1] else "jk"), "ik"
        slot, kernel = left, right
    elif isinstance(left, Weight):
        w, x, z = ("ji" if turned[0] else "ij"), ("kj" if turned[1] else "jk"), "ik"
        slot, kernel = right, left
    else:
        return reader.site(node, Contraction(node.function(), "matmul"), node.slots)
    equation = f"...{x},...{w}->...{z}" if len(node.specs[0].shape) > 2 else f"{x},{w}->{z}"
    return reader.site(node, Einsum(reading({"kernel": kernel.read}), equation), (slot,))


def _einsum(reader, node):
    if len(node.slots) > 1:
        return reader.site(node, Contraction(node.function(), "einsum"), node.slots)
    if len(node.arguments) != 2:
        return None
    inputs, output = node.attribute("equation").replace(" ", "").split("->")
    terms = inputs.split(",")
    if isinstance(node.arguments[0], Weight):
        terms.reverse()
    (kernel,) = (a for a in node.arguments if isinstance(a, Weight))
    return reader.site(node, Einsum(reading({"kernel": kernel.read}), f"{','.join(terms)}->{output}"), node.slots)


def _data_format(node):
    return "channels_first" if node.attribute("data_format", "NHWC").startswith("NC") else "channels_last"


def _spatial(values, data_format):
    return tuple(values[1:-1] if data_format == "channels_last" else values[2:])


def _geometry(node, rank):
    """Strides, padding, dilation and data format of a convolution."""
    data_format = _data_format(node)
    strides = _spatial(node.attribute("strides"), data_format)
    dilation = _spatial(node.attribute("dilations", [1] * rank), data_format)
    return strides, node.attribute("padding").lower(), dilation, data_format


def _convolution(kind):
    def view(reader, node):
        x, kernel = node.arguments
        if not isinstance(kernel, Weight) or isinstance(x, Weight):
            return None
        strides, padding, dilation, data_format = _geometry(node, len(node.specs[0].shape))
        if padding == "explicit":
            around = np.reshape(node.attribute("explicit_paddings"), (-1, 2))
            x, padding = reader.pad(node, x, around), "valid"
        return reader.site(node, kind(reading({"kernel": kernel.read}), strides, padding, dilation, data_format), (x,))

    return view


def _conv_transpose(reader, node):
    sizes, kernel, x = node.arguments
    if not isinstance(kernel, Weight) or isinstance(x, Weight):
        return None
    geometry = _geometry(node, len(node.specs[0].shape))
    strides, padding, dilation, data_format = geometry
    if padding == "explicit":
        return None
    before, after = (_spatial(shape, data_format) for shape in (reader.specs[x].shape, node.specs[0].shape))
    sizes = zip(before, after, kernel.shape[:-2], strides, dilation, strict=True)
    extra = [_output_padding(*size, padding) for size in sizes]
    # Where the size is not known in advance, Keras's own is what models have.
    output_padding = None if None in extra else tuple(extra)
    operation = ConvTranspose(reading({"kernel": kernel.read}), *geometry, output_padding)
    return reader.site(node, operation, (x,))


def _output_padding(before, after, kernel, stride, dilation, padding):
    """Keras's `output_padding` along one axis, that gives the size `after`; None where a size is not known."""
    if before is None or after is None:
        return None
    kernel = (kernel - 1) * dilation + 1
    return after - (before - 1) * stride - (kernel if padding == "valid" else kernel - 2 * (kernel // 2))


def _squeeze(reader, node):
    """Ends a one-dimensional convolution, which TensorFlow computes as one over an image of height 1."""
    (slot,) = node.slots
    conv, _ = reader.made(slot)
    if conv is None or not isinstance(conv.operation, Convolutional) or len(reader.specs[slot].shape) != 4:
        return _routing(reader, node)
    expand, expanded = reader.made(conv.inputs[0])
    operation = conv.operation
    axis = 1 if operation.data_format == "channels_last" else 2
    squeezed = [a % 4 for a in node.attribute("squeeze_dims")]
    if expanded is None or expanded.type != "ExpandDims" or squeezed != [axis]:
        return _routing(reader, node)
    if int(reader.integers(expanded.arguments[1])) not in (axis, axis - 4):
        return _routing(reader, node)

    def kernel(dtype):
        return {"kernel": tf.squeeze(operation.read(dtype)["kernel"], 0)}

    extra = ()
    if isinstance(operation, ConvTranspose):
        extra = (None if operation.output_padding is None else operation.output_padding[1:],)
    line = type(operation)(
        kernel, operation.strides[1:], operation.padding, operation.dilation[1:], operation.data_format, *extra
    )
    return reader.site(node, line, expand.inputs, path=conv.path)


def _batch_to_space(reader, node):
    """Ends a dilated convolution, which TensorFlow computes as one on the interleaved parts of its input."""
    slot, block, crops = node.arguments
    conv, _ = reader.made(slot)
    if conv is None or not isinstance(conv.operation, Conv | DepthwiseConv) or conv.operation.padding != "valid":
        return _routing(reader, node)
    split, interleaved = reader.made(conv.inputs[0])
    if interleaved is None or interleaved.type != "SpaceToBatchND" or any(s != 1 for s in conv.operation.strides):
        return _routing(reader, node)
    dilation, crops, paddings = (reader.integers(a) for a in (block, crops, interleaved.arguments[2]))
    if dilation is None or crops is None or paddings is None or len(dilation) != len(conv.operation.strides):
        return _routing(reader, node)
    operation = conv.operation
    size = operation.read("float32")["kernel"].shape[: len(dilation)]
    around = [_around(*pair) for pair in zip(paddings, crops, strict=True)]
    same = [_same_padding((k - 1) * d) for k, d in zip(size, dilation, strict=True)]
    x, padding = split.inputs[0], "valid"
    if all(_fits(a, s) for a, s in zip(around, same, strict=True)):
        padding = "same"
    elif not all(_fits(a, (0, 0)) for a in around):
        if any(None in pair for pair in around):
            return _routing(reader, node)
        x = reader.pad(node, x, [(0, 0), *around, (0, 0)])
    dilated = type(operation)(
        operation.reader, operation.strides, padding, tuple(int(d) for d in dilation), operation.data_format
    )
    return reader.site(node, dilated, (x,), path=conv.path)


def _around(padding, crop):
    """Padding before and after along one axis, of which a part is cropped again; None for what is not known."""
    return tuple(None if p is None or c is None else int(p) - int(c) for p, c in zip(padding, crop, strict=True))


def _same_padding(total):
    return total // 2, total - total // 2


def _fits(around, wanted):
    return around[0] == wanted[0] and around[1] in (None, wanted[1])


def _reshape(reader, node):
    """Reshape, to a shape that is known but for one axis where that is so; or the end of a dense layer."""
    x, target = node.arguments
    (spec,) = node.specs
    wanted = reader.integers(target)
    shape = [None] * len(spec.shape) if wanted is None else list(wanted)
    shape = [n if s is None else int(s) for n, s in zip(spec.shape, shape, strict=True)]
    negative = [i for i, n in enumerate(shape) if n == -1]
    if negative:
        shape[negative[0]] = spec.shape[negative[0]]
    if tuple(shape) == reader.specs[x].shape and shape.count(None) <= 1:
        return (x,)
    whole = _dense_over_axes(reader, node, x, tuple(shape)) or _layer_normalization(reader, node, x, tuple(shape))
    if whole is not None:
        return whole
    if shape.count(None) <= 1:
        fixed = [-1 if n is None else n for n in shape]
        return reader.site(node, Routing(lambda t: tf.reshape(t, fixed), "Reshape"), (x,), shape=tuple(shape))
    return reader.site(node, Routing(node.function(), "Reshape"), node.slots, shape=tuple(shape))


def _dense_over_axes(reader, node, slot, shape):
    """A dense layer over more axes than two, which TensorFlow computes on a matrix: x W between two reshapes."""
    dense, _ = reader.made(slot)
    if dense is None or not isinstance(dense.operation, Dense) or len(reader.specs[slot].shape) != 2:
        return None
    flat, flattened = reader.made(dense.inputs[0])
    if flattened is None or flattened.type != "Reshape":
        return None
    before = reader.specs[flat.inputs[0]].shape
    units = reader.specs[slot].shape[-1]
    if len(before) < 3 or before[:-1] != shape[:-1] or shape[-1] != units:
        return None
    if before[-1] is None or before[-1] != reader.specs[dense.inputs[0]].shape[-1]:
        return None
    return reader.site(node, dense.operation, flat.inputs[:1], path=dense.path, shape=shape)


def _layer_normalization(reader, node, slot, shape):
    """A layer normalization as Keras 2 computes it: batch normalization of one image with samples for channels."""
    _, norm = reader.made(slot)
    if norm is None or not norm.type.startswith("FusedBatchNorm") or norm.attribute("data_format") != "NCHW":
        return None
    flat, flattened = reader.made(norm.arguments[0])
    ones, zeros = (reader.number(argument) for argument in norm.arguments[1:3])
    if flattened is None or flattened.type != "Reshape" or (ones, zeros) != (1, 0):
        return None
    (source,) = flat.inputs[:1]
    one, _, size, width = reader.specs[norm.arguments[0]].shape
    axes = [i for i in range(1, len(shape)) if None not in shape[i:] and np.prod(shape[i:]) == size]
    if reader.specs[source].shape != shape or (one, width) != (1, 1) or not axes:
        return None
    axes = tuple(range(axes[-1], len(shape)))
    return reader.normalize(node, whole_normalization(source, axes, norm.attribute("epsilon")))


def _softmax(reader, node):
    """Softmax spelt out: exp(x - max x) / sum exp(x - max x)."""
    top, bottom = node.arguments
    _, total = reader.made(bottom)
    exponential, _ = reader.made(top)
    if total is None or total.type != "Sum" or total.arguments[0] != top or not total.attribute("keep_dims"):
        return None
    if not _is(exponential, "exp"):
        return None
    difference, _ = reader.made(exponential.inputs[0])
    if difference is None or not isinstance(difference.operation, Sum) or len(difference.inputs) != 2:
        return None
    x, largest = difference.inputs
    _, maximum = reader.made(largest)
    if maximum is None or maximum.type != "Max" or maximum.arguments[0] != x:
        return None
    axes = reader.integers(total.arguments[1])
    if axes is None or np.size(axes) != 1:
        return None
    axis = int(np.ravel(axes)[0])
    return reader.site(node, Activation(lambda t: tf.nn.softmax(t, axis), "softmax"), (x,))


def _prelu(reader, node):
    """PReLU spelt out: relu(x) + (-alpha) relu(-x)."""
    positive, negative = (reader.made(slot)[0] for slot in node.arguments)
    if not _is(positive, "relu") or not _is_stretch(negative):
        return None
    flipped, _ = reader.made(negative.inputs[0])
    if not _is(flipped, "relu"):
        return None
    minus, _ = reader.made(flipped.inputs[0])
    slope = negative.operation.kernel
    if not _is_stretch(minus) or minus.inputs != positive.inputs or np.any(minus.operation.kernel.value != -1):
        return None

    def prelu(x):
        return tf.nn.relu(x) + slope.read(x.dtype) * tf.nn.relu(-x)

    return reader.site(node, Activation(prelu, "prelu"), positive.inputs)


def _is(site, name):
    return site is not None and isinstance(site.operation, Activation) and site.operation.name == name


def _is_stretch(site):
    return site is not None and isinstance(site.operation, ScaleAndShift) and site.operation.bias is None


def _fused_batch_norm(reader, node):
    x, gamma, beta, mean, variance = node.arguments
    if node.attribute("is_training") or not all(isinstance(w, Weight) for w in (gamma, beta, mean, variance)):
        return None
    epsilon = node.attribute("epsilon")

    def weights(dtype):
        scale = tf.math.rsqrt(variance.read(dtype) + tf.cast(epsilon, dtype)) * gamma.read(dtype)
        return {"kernel": scale, "bias": beta.read(dtype) - mean.read(dtype) * scale}

    axis = 1 if _data_format(node) == "channels_first" else len(reader.specs[x].shape) - 1
    rest = [None] * (len(node.operation.outputs) - 1)
    return (*reader.site(node, BatchNorm(weights, axis), (x,)), *rest)


def _gather(reader, node):
    """An embedding where the table is a weight; a selection of entries where the indices are."""
    table, indices, *axis = node.arguments
    plain = not axis or (reader.integers(axis[0]) is not None and int(reader.integers(axis[0])) == 0)
    if isinstance(table, Weight):
        if not plain or node.attribute("batch_dims", 0) or indices in reader.inert:
            return None
        return reader.site(node, Embedding(table.content().read), (reader.uncast(indices),))
    function = node.function()

    def gather(x, *rest):
        # Behind a reshape the gradient is a tensor, not the slices that a gather has of its own.
        return function(tf.reshape(x, tf.shape(x)), *rest)

    return reader.site(node, Routing(gather, node.type), node.slots)


def _table(view, types):
    return dict.fromkeys(types.split() if isinstance(types, str) else types, view)


VIEWS = {
    **_table(_routing, ROUTINGS),
    **_table(_activation, DIRECT),
    **_table(_function, POINTWISE_FUNCTIONS),
    **_table(_linear_map, "Cumsum"),
    **_table(_interpolation(True), "ResizeArea ResizeBilinear"),
    **_table(_interpolation(False), "ResizeBicubic ScaleAndTranslate"),
    **_table(_sum_of((1.0, 1.0)), "Add AddV2"),
    **_table(_sum_of((1.0, -1.0)), "Sub"),
    **_table(_multiply, "Mul"),
    **_table(_divide, "Div RealDiv"),
    **_table(_extremum, "Maximum Minimum"),
    **_table(_matmul, "BatchMatMul BatchMatMulV2 BatchMatMulV3 MatMul"),
    **_table(_convolution(Conv), "Conv2D Conv3D"),
    **_table(_convolution(DepthwiseConv), "DepthwiseConv2dNative"),
    **_table(_conv_transpose, "Conv2DBackpropInput Conv3DBackpropInputV2"),
    **_table(_average_pool, "AvgPool AvgPool3D"),
    **_table(_fused_batch_norm, "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3"),
    **_table(_gather, "Gather GatherV2 ResourceGather"),
    "AddN": _add_n,
    "BatchToSpaceND": _batch_to_space,
    "BiasAdd": _bias_add,
    "Cast": _cast,
    "Einsum": _einsum,
    "Neg": _negative,
    "MaxPool3D": _max_pool_3d,
    "Mean": _mean,
    "Pad": _pad,
    "PadV2": _pad,
    "Pow": _power,
    "Reshape": _reshape,
    "SquaredDifference": _squared_difference,
    "Squeeze": _squeeze,
    "Sum": _total,
    "TopKV2": _top_k,
    "Transpose": _transpose,
}
"""Type of a TensorFlow operation -> view(reader, node) -> values of its outputs, None where no rule fits."""
