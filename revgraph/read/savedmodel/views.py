"""Views of TensorFlow operations: what a node becomes in revgraph's graph, by its type.

A view takes the reader and a `Node`. It adds sites, and returns the values of the node's outputs, which are slots or
weights. It returns None where it does not know such arguments. `linear` has the views of linear layers, and `moves`
those of operations that move entries. This module has the views of arithmetic, and the table of all views.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from revgraph.graph.operations import (
    Activation,
    Conv,
    DepthwiseConv,
    LinearMap,
    Product,
    Quotient,
    Routing,
    Sum,
    constant,
    reading,
)
from revgraph.graph.types import Weights
from revgraph.read.savedmodel import linear, moves
from revgraph.read.savedmodel.activations import DIRECT
from revgraph.read.savedmodel.weights import ScaleAndShift, Weight, known

if TYPE_CHECKING:
    pass

IDENTITIES = frozenset(
    "CheckNumerics EnsureShape Identity IdentityN PlaceholderWithDefault PreventGradient Snapshot".split()
)
"""Types of operations that return their input."""

POINTWISE_FUNCTIONS = {
    "Abs": "absolute",
    "Asinh": "arcsinh",
    "Atan": "arctan",
    "Ceil": "ceil",
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
}
"""Types of other functions of one tensor, entry by entry, and their names in `keras.ops`."""


class QuotientOrZero(Quotient):
    """One input divided by the other, entry by entry. The result is 0 where the divisor is 0."""

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return (tf.math.divide_no_nan(*inputs),)


def _cast(reader, node):
    """A cast of integers is a move. One between floating dtypes adds no site, because a graph has one floating dtype.

    None for a cast that rounds.
    """
    (x,) = node.arguments
    before, after = (tf.as_dtype(spec.dtype) for spec in (reader.specs[x], *node.specs))
    if before.is_floating and after.is_floating:
        return (x,)
    if before.is_floating or not (after.is_integer or after.is_floating):
        return None
    # A number that was made from an id has the relevance of the id only if it is looked up.
    if after.is_floating and reader.ids.is_renumbered(x):
        slot = reader.ids.floating(node, x)
        return None if slot is None else (slot,)
    return reader.site(node, moves.cast(node), (x,))


def _bitcast(reader, node):
    """The bytes of a tensor, read as another type. The same type adds no site."""
    (x,) = node.arguments
    return (x,) if reader.specs[x].dtype == node.specs[0].dtype else None


def _one_hot(reader, node):
    """One-hot encoding is an embedding, in a table with one value on its diagonal and another value elsewhere."""
    indices, depth, *ends = node.arguments
    fixed = all(isinstance(a, Weight) and a.value is not None for a in (depth, *ends))
    if isinstance(indices, Weight) or not fixed or node.attribute("axis") != -1 or not moves.is_floating(node):
        return None
    size, (on, off) = int(depth.value), (float(end.value) for end in ends)
    source, index = reader.ids.looked_up(indices)
    if not reader.ids.is_entry(source):
        # An index that is computed from several integers belongs to none of them. What it chooses by is a constant.
        return reader.inert_site(node)
    # The last row is for an index outside of the table.
    table = np.where(np.eye(size + 1, size, dtype=bool), on, off)

    def row(x):
        i = index(x)
        return tf.where((i >= 0) & (i < size), i, size)

    return reader.site(node, moves.Lookup(constant(table), row), (source,))


def _linear_map(reader, node):
    if len(node.slots) > 1:
        return None
    return reader.site(node, LinearMap(reading({}), node.function(), node.type), node.slots)


def _activation(name):
    """The view of a function of one tensor; its other arguments are weights."""

    def view(reader, node):
        if len(node.slots) > 1:
            return None
        return reader.site(node, Activation(node.function(), name), node.slots)

    return view


def _power(reader, node):
    """The view of `x ** p`. A negative power divides."""
    _, exponent = node.arguments
    negative = isinstance(exponent, Weight) and exponent.value is not None and np.all(exponent.value < 0)
    return _activation("reciprocal" if negative else "power")(reader, node)


def _clip(reader, node):
    """Clipping is an activation if the bounds are weights, otherwise a choice between three tensors."""
    x, *bounds = node.arguments
    if not moves.is_floating(node) or isinstance(x, Weight) or not all(isinstance(bound, Weight) for bound in bounds):
        return moves.routing(reader, node)
    return reader.site(node, Activation(node.function(), "clip"), node.slots)


def _extremum(reader, node):
    if len(node.slots) == 1 and moves.is_floating(node):
        return reader.site(node, Activation(node.function(), node.type.lower()), node.slots)
    return moves.routing(reader, node)


def _sum_of(signs):
    """The view of `a + b` or `a - b`: a shift if one operand is a weight, otherwise a sum."""

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
    last = node.attribute("data_format") != "NCHW" or len(node.specs[0].shape) == 2
    # Keras adds a vector that it computes in this way, too.
    if not isinstance(bias, Weight) or isinstance(x, Weight):
        return _sum_of((1.0, 1.0))(reader, node) if last else None
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


def _quotient(divide, operation):
    """The view of `a / b`: a scale if b is a weight, and an activation if a is a weight."""

    def view(reader, node):
        left, right = node.arguments
        if isinstance(right, Weight):
            return reader.scale(node, left, right.map(lambda w: divide(tf.ones_like(w), w), right.shape))
        if isinstance(left, Weight):
            return reader.site(node, Activation(node.function(), "reciprocal"), node.slots)
        return reader.site(node, operation, node.slots)

    return view


def _negative(reader, node):
    (x,) = node.arguments
    return _turned(reader, node, x) or reader.scale(node, node.arguments[0], known(np.float64(-1)))


def _turned(reader, node, slot):
    """-f(-x), where f moves entries. TensorFlow sorts in ascending order by sorting the negative."""
    functions = []
    while (site := reader.made(slot)[0]) is not None and isinstance(site.operation, Routing) and len(site.inputs) == 1:
        if not site.operation.copies or site.operation.fills or len(site.outputs) != 1:
            return None
        functions.append(site.operation)
        (slot,) = site.inputs
    if not functions or site is None or not _is_stretch(site) or not site.operation.kernel.is_all(-1):
        return None

    def turned(x):
        x = -x
        for function in reversed(functions):
            (x,) = function((x,), {})
        return -x

    known = {"copies": True, "fixed": all(f.fixed for f in functions), "keeps_sign": True}
    return reader.site(node, Routing(turned, functions[0].name, **known), site.inputs)


def _prelu(reader, node):
    """PReLU that is spelt out as relu(x) + (-alpha) relu(-x); None for other sums."""
    positive, negative = (reader.made(slot)[0] for slot in node.arguments)
    if node.type == "Sub" or not _is(positive, "relu") or not _is_stretch(negative):
        return None
    flipped, _ = reader.made(negative.inputs[0])
    if not _is(flipped, "relu"):
        return None
    minus, _ = reader.made(flipped.inputs[0])
    slope = negative.operation.kernel
    if not _is_stretch(minus) or minus.inputs != positive.inputs or not minus.operation.kernel.is_all(-1):
        return None

    def prelu(x):
        return tf.nn.relu(x) + slope.read(x.dtype) * tf.nn.relu(-x)

    return reader.site(node, Activation(prelu, "prelu"), positive.inputs)


def _is(site, name):
    return site is not None and isinstance(site.operation, Activation) and site.operation.name == name


def _is_stretch(site):
    return site is not None and isinstance(site.operation, ScaleAndShift) and site.operation.bias is None


def _table(view, types):
    return dict.fromkeys(types.split() if isinstance(types, str) else types, view)


VIEWS = {
    **_table(moves.routing, moves.MOVES),
    **{kind: _activation(name) for kind, name in (DIRECT | POINTWISE_FUNCTIONS).items()},
    **_table(_linear_map, "Cumsum SegmentSum UnsortedSegmentSum"),
    **_table(moves.interpolation, "ResizeBicubic ResizeBilinear"),
    **_table(_sum_of((1.0, 1.0)), "Add AddV2"),
    **_table(_sum_of((1.0, -1.0)), "Sub"),
    **_table(_multiply, "Mul"),
    **_table(_quotient(tf.divide, Quotient()), "Div RealDiv"),
    **_table(_quotient(tf.math.divide_no_nan, QuotientOrZero()), "DivNoNan"),
    **_table(_extremum, "Maximum Minimum"),
    **_table(linear.matmul, "BatchMatMul BatchMatMulV2 BatchMatMulV3 MatMul"),
    **_table(linear.convolution(Conv), "Conv2D Conv3D"),
    **_table(linear.convolution(DepthwiseConv), "DepthwiseConv2dNative"),
    **_table(linear.conv_transpose, "Conv2DBackpropInput Conv3DBackpropInputV2"),
    **_table(linear.fused_batch_norm, "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3"),
    **_table(moves.average_pool, "AvgPool AvgPool3D"),
    **_table(moves.gather, "Gather GatherNd GatherV2 ResourceGather"),
    **_table(moves.pad, "Pad PadV2"),
    "AddN": _add_n,
    "BatchToSpaceND": linear.batch_to_space,
    "BiasAdd": _bias_add,
    "Bitcast": _bitcast,
    "Cast": _cast,
    "ClipByValue": _clip,
    "Einsum": linear.einsum,
    "MatrixDiagPartV3": moves.diagonal,
    "MaxPool3D": moves.max_pool_3d,
    "Mean": moves.mean,
    "Neg": _negative,
    "OneHot": _one_hot,
    "Pow": _power,
    "Reshape": linear.reshape,
    "ScatterNd": moves.scatter,
    "TensorScatterAdd": moves.scatter_into,
    "TensorScatterSub": moves.scatter_into,
    "ResizeArea": moves.resize_area,
    "ScaleAndTranslate": moves.scale_and_translate,
    "SquaredDifference": _squared_difference,
    "Squeeze": linear.squeeze,
    "Sum": moves.total,
    "TopKV2": moves.top_k,
    "Transpose": moves.transpose,
}
"""The view of each type of TensorFlow operations."""
