"""Views of linear layers. TensorFlow computes some of them in several operations.

One-dimensional and dilated convolutions, dense layers over several axes, and layer normalization end in an operation
that changes the shape. The view of that operation joins the operations to the layer that they compute.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from revgraph.graph.operations import (
    BatchNorm,
    Contraction,
    Conv,
    Convolutional,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Routing,
    reading,
    spelt_out,
)
from revgraph.read.savedmodel.moves import channels_at, routing, spatial
from revgraph.read.savedmodel.nodes import Node
from revgraph.read.savedmodel.normalization import whole_normalization
from revgraph.read.savedmodel.weights import Value, Weight

if TYPE_CHECKING:
    from revgraph.read.savedmodel.builder import Builder

View: TypeAlias = Callable[["Builder", Node], Sequence[Value] | None]
"""A view takes the reader and a node, and returns the values of the node's outputs, or None if it does not fit."""


def matmul(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of a matrix product: a dense layer or an einsum if one side is a weight, otherwise a contraction."""
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
        x, w = ("ji" if turned[0] else "ij"), ("kj" if turned[1] else "jk")
        return _contraction(reader, node, "matmul", f"...{x},...{w}->...ik")
    equation = f"...{x},...{w}->...{z}" if len(node.specs[0].shape) > 2 else f"{x},{w}->{z}"
    return reader.site(node, Einsum(reading({"kernel": kernel.read}), equation), (slot,))


def einsum(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of an einsum: an `Einsum` if one side is a weight, otherwise a contraction of two signals."""
    if len(node.slots) > 1:
        return _contraction(reader, node, "einsum", node.attribute("equation"))
    if len(node.arguments) != 2:
        return None
    inputs, output = node.attribute("equation").replace(" ", "").split("->")
    terms = inputs.split(",")
    if isinstance(node.arguments[0], Weight):
        terms.reverse()
    (kernel,) = (a for a in node.arguments if isinstance(a, Weight))
    return reader.site(node, Einsum(reading({"kernel": kernel.read}), f"{','.join(terms)}->{output}"), node.slots)


def _contraction(reader, node, name, equation):
    ranks = [len(reader.specs[slot].shape) for slot in node.slots]
    return reader.site(node, Contraction(node.function(), name, spelt_out(equation, ranks)), node.slots)


def _geometry(node: Node, rank: int) -> tuple[tuple, str, tuple, str]:
    """Strides, padding, dilation and data format of a convolution."""
    data_format = channels_at(node)
    strides = spatial(node.attribute("strides"), data_format)
    dilation = spatial(node.attribute("dilations", [1] * rank), data_format)
    return strides, node.attribute("padding").lower(), dilation, data_format


def _selects(kernel: Weight) -> bool:
    """Whether a convolution only copies entries, as the extraction of patches does."""
    if kernel.value is None:
        return False
    columns = kernel.value.reshape(-1, kernel.value.shape[-1])
    return bool(np.isin(columns, (0, 1)).all() and (columns.sum(0) == 1).all())


def convolution(kind: type[Conv] | type[DepthwiseConv]) -> View:
    """The view of convolutions.

    Args:
        kind: The class of the operation.
    """

    def view(reader, node):
        x, kernel = node.arguments
        if not isinstance(kernel, Weight) or isinstance(x, Weight):
            return None
        if kind is Conv and _selects(kernel):
            known = {"copies": True, "fixed": True, "keeps_sign": True, "fills": True}
            return reader.site(node, Routing(node.function(), "ExtractPatches", **known), (x,))
        strides, padding, dilation, data_format = _geometry(node, len(node.specs[0].shape))
        if padding == "explicit":
            around = np.reshape(node.attribute("explicit_paddings"), (-1, 2))
            x, padding = reader.pad(node, x, around), "valid"
        return reader.site(node, kind(reading({"kernel": kernel.read}), strides, padding, dilation, data_format), (x,))

    return view


def conv_transpose(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of a transposed convolution, which TensorFlow computes as the gradient of a convolution."""
    sizes, kernel, x = node.arguments
    if not isinstance(kernel, Weight) or isinstance(x, Weight):
        return None
    geometry = _geometry(node, len(node.specs[0].shape))
    strides, padding, dilation, data_format = geometry
    if padding == "explicit":
        return None
    before, after = (spatial(shape, data_format) for shape in (reader.specs[x].shape, node.specs[0].shape))
    sizes = zip(before, after, kernel.shape[:-2], strides, dilation, strict=True)
    extra = [_output_padding(*size, padding) for size in sizes]
    # Without it Keras infers the size of the output, as it does in a model whose size is not known.
    output_padding = None if None in extra else tuple(extra)
    operation = ConvTranspose(reading({"kernel": kernel.read}), *geometry, output_padding)
    return reader.site(node, operation, (x,))


def _output_padding(before, after, kernel, stride, dilation, padding):
    """The `output_padding` of Keras along one axis that leads to the size `after`; None where a size is not known."""
    if before is None or after is None:
        return None
    kernel = (kernel - 1) * dilation + 1
    return after - (before - 1) * stride - (kernel if padding == "valid" else kernel - 2 * (kernel // 2))


def squeeze(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of the last step of a one-dimensional convolution, which TensorFlow runs on an image of height 1."""
    (slot,) = node.slots
    conv, _ = reader.made(slot)
    if conv is None or not isinstance(conv.operation, Convolutional) or len(reader.specs[slot].shape) != 4:
        return routing(reader, node)
    expand, expanded = reader.made(conv.inputs[0])
    operation = conv.operation
    axis = 1 if operation.data_format == "channels_last" else 2
    squeezed = [a % 4 for a in node.attribute("squeeze_dims")]
    if expand is None or expanded is None or expanded.type != "ExpandDims" or squeezed != [axis]:
        return routing(reader, node)
    if reader.known_integers(expanded.arguments[1]) not in ([axis], [axis - 4]):
        return routing(reader, node)

    def kernel(dtype):
        return {"kernel": tf.squeeze(operation.read(dtype)["kernel"], 0)}

    extra: list[Any] = []
    if isinstance(operation, ConvTranspose):
        extra = [operation.output_padding[1:] if isinstance(operation.output_padding, tuple) else None]
    line = type(operation)(
        kernel, operation.strides[1:], operation.padding, operation.dilation[1:], operation.data_format, *extra
    )
    return reader.site(node, line, expand.inputs, path=conv.path)


def batch_to_space(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of the last step of a dilated convolution, which TensorFlow runs on interleaved parts of its input."""
    slot, block, crops = node.arguments
    conv, _ = reader.made(slot)
    if conv is None or not isinstance(conv.operation, Conv | DepthwiseConv) or conv.operation.padding != "valid":
        return routing(reader, node)
    split, interleaved = reader.made(conv.inputs[0])
    if split is None or interleaved is None or interleaved.type != "SpaceToBatchND":
        return routing(reader, node)
    if any(s != 1 for s in conv.operation.strides):
        return routing(reader, node)
    dilation, crops, paddings = (reader.integers(a) for a in (block, crops, interleaved.arguments[2]))
    if dilation is None or crops is None or paddings is None or len(dilation) != len(conv.operation.strides):
        return routing(reader, node)
    operation = conv.operation
    size = operation.read("float32")["kernel"].shape[: len(dilation)]
    around = [_around(*pair) for pair in zip(paddings, crops, strict=True)]
    same = [_same_padding((k - 1) * d) for k, d in zip(size, dilation, strict=True)]
    x, padding = split.inputs[0], "valid"
    if all(_fits(a, s) for a, s in zip(around, same, strict=True)):
        padding = "same"
    elif not all(_fits(a, (0, 0)) for a in around):
        if any(None in pair for pair in around):
            return routing(reader, node)
        x = reader.pad(node, x, [(0, 0), *around, (0, 0)])
    dilated = type(operation)(
        operation.reader, operation.strides, padding, tuple(int(d) for d in dilation), operation.data_format
    )
    return reader.site(node, dilated, (x,), path=conv.path)


def _around(padding, crop):
    """The padding before and after along one axis, less what is cropped; None for a width that is not known."""
    return tuple(None if p is None or c is None else int(p) - int(c) for p, c in zip(padding, crop, strict=True))


def _same_padding(total):
    return total // 2, total - total // 2


def _fits(around, wanted):
    return around[0] == wanted[0] and around[1] in (None, wanted[1])


def reshape(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of a reshape.

    It may be the last step of a dense layer or of a layer normalization. Otherwise it is a `Routing`, to a shape with
    at most one unknown size if that much is known.
    """
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
        return routing(reader, node, lambda t: tf.reshape(t, fixed), tuple(shape), (x,))
    return routing(reader, node, shape=tuple(shape))


def _dense_over_axes(reader, node, slot, shape):
    """A dense layer over more than two axes, which TensorFlow computes as x W on a matrix, between two reshapes."""
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
    """A layer normalization, which Keras 2 computes as batch normalization of an image with samples as its channels."""
    _, norm = reader.made(slot)
    if norm is None or not norm.type.startswith("FusedBatchNorm") or norm.attribute("data_format") != "NCHW":
        return None
    flat, flattened = reader.made(norm.arguments[0])
    ones, zeros = (reader.number(argument) for argument in norm.arguments[1:3])
    if flattened is None or flattened.type != "Reshape" or (ones, zeros) != (1, 0):
        return None
    (source,) = flat.inputs[:1]
    one, _, size, width = reader.specs[norm.arguments[0]].shape
    starts = [i for i in range(1, len(shape)) if None not in shape[i:] and np.prod(shape[i:]) == size]
    if reader.specs[source].shape != shape or (one, width) != (1, 1) or not starts:
        return None
    axes = tuple(range(starts[-1], len(shape)))
    return reader.normalize(node, whole_normalization(source, axes, norm.attribute("epsilon")))


def fused_batch_norm(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of batch normalization in inference; None in training, or where its moments depend on the inputs."""
    x, gamma, beta, mean, variance = node.arguments
    if node.attribute("is_training") or not all(isinstance(w, Weight) for w in (gamma, beta, mean, variance)):
        return None
    epsilon = node.attribute("epsilon")

    def weights(dtype):
        scale = tf.math.rsqrt(variance.read(dtype) + tf.cast(epsilon, dtype)) * gamma.read(dtype)
        return {"kernel": scale, "bias": beta.read(dtype) - mean.read(dtype) * scale}

    axis = 1 if channels_at(node) == "channels_first" else len(reader.specs[x].shape) - 1
    rest = [None] * (len(node.operation.outputs) - 1)
    return (*reader.site(node, BatchNorm(weights, axis), (x,)), *rest)
