"""Views of the operations that move entries from place to place, or average them, and the properties of each.

`revgraph.graph.operations.Routing` explains the properties `copies`, `fixed`, `keeps_sign` and `fills`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph import windows
from revgraph.graph.operations import AveragePool, Embedding, Interpolation, LinearMap, Routing, ZeroPad, reading
from revgraph.read.savedmodel.nodes import Node
from revgraph.read.savedmodel.weights import Value, Weight

if TYPE_CHECKING:
    from revgraph.read.savedmodel.builder import Builder

ALL = (0, None)
"""All arguments have entries that are moved."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Embedding):
    """An embedding whose indices are computed from its input.

    Args:
        index: Computes the indices.
    """

    index: Callable[[tf.Tensor], tf.Tensor]

    @property
    def label(self) -> str:
        return "Embedding"

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        return super().rows(self.index(ids))


@dataclasses.dataclass(frozen=True)
class Move:
    """The properties of a TensorFlow operation that moves entries.

    Some of its arguments, the data, have the entries that are moved. The others say where these go: sizes, axes,
    indices, conditions.

    Args:
        data: The positions of the data among the arguments, as the arguments of a `slice`.
        copies: Every entry of the output is an entry of the data, or a constant.
        chooses: It compares the entries to choose where they go.
        keeps_sign: The output has no negative entry where the data have none.
        fills: It adds constants that are no argument, such as zeros.
    """

    data: tuple[int | None, ...] = (0, 1)
    copies: bool = True
    chooses: bool = False
    keeps_sign: bool = True
    fills: bool = False


MOVES = {
    **dict.fromkeys(
        "BatchToSpaceND BroadcastTo DepthToSpace ExpandDims Gather GatherNd GatherV2 MatrixDiagPartV3 MirrorPad "
        "Reshape ResizeNearestNeighbor Reverse ReverseV2 Roll Slice SpaceToDepth SplitV Squeeze StridedSlice Tile "
        "Transpose Unpack".split(),
        Move(),
    ),
    **dict.fromkeys("ExtractImagePatches MatrixBandPart Pad SpaceToBatchND".split(), Move(fills=True)),
    **dict.fromkeys("Max MaxPool MaxPool3D MaxPoolV2 Min TopKV2".split(), Move(chooses=True)),
    **dict.fromkeys("ClipByValue Maximum Minimum".split(), Move(ALL, chooses=True)),
    **dict.fromkeys("Select SelectV2".split(), Move((1, None))),
    **dict.fromkeys("ResizeArea ResizeBilinear Mean Sum AvgPool AvgPool3D".split(), Move(copies=False)),
    "Concat": Move((1, None)),
    "ConcatV2": Move((0, -1)),
    "Pack": Move(ALL),
    "PadV2": Move((0, None, 2)),
    "ResizeBicubic": Move(copies=False, keeps_sign=False),
    # Entries from outside of the image are zero.
    "ScaleAndTranslate": Move(copies=False, keeps_sign=False, fills=True),
    "MatrixDiagV3": Move((0, None, 4)),
    "ScatterNd": Move((1, 2), fills=True),
    "Split": Move((1, None)),
    "TensorScatterUpdate": Move((0, None, 2)),
    "XlaDynamicUpdateSlice": Move((0, 2)),
}
"""The properties of the operations that move entries, or take sums or weighted means of them, by type."""


def properties(reader: "Builder", node: Node) -> dict[str, bool]:
    """The properties of a node that moves entries, as named arguments for a `Routing`."""
    move, arguments = MOVES[node.type], node.arguments
    moved = range(len(arguments))[slice(*move.data)]
    data = [arguments[i] for i in moved]
    where = [a for i, a in enumerate(arguments) if i not in moved]
    constants = [a for a in data if isinstance(a, Weight)]
    return {
        "copies": move.copies,
        "fixed": not move.chooses and all(reader.is_fixed(a) for a in where),
        "keeps_sign": move.keeps_sign and all(map(is_nonnegative, constants)),
        "fills": move.fills or bool(constants),
    }


def is_floating(node: Node) -> bool:
    """Whether the output of a node is floating."""
    return tf.as_dtype(node.specs[0].dtype).is_floating


def is_nonnegative(weight: Weight) -> bool:
    """Whether a weight never has a negative entry. That is not known of variables, because they can change."""
    return weight.value is not None and weight.value.dtype != object and bool(np.all(weight.value >= 0))


def routing(
    reader: "Builder",
    node: Node,
    function: Callable | None = None,
    shape: tuple[int | None, ...] | None = None,
    slots: Sequence[int] | None = None,
) -> Sequence[Value]:
    """The view of a node that becomes a `Routing`.

    Args:
        reader: The reader.
        node: The node.
        function: The function that computes it; by default the TensorFlow operation.
        shape: The shape of its output; by default the one that TensorFlow infers.
        slots: The slots that the function takes; by default all slots of the node.
    """
    known = properties(reader, node)
    operation = Routing(function or node.function(), node.type, len(node.specs), **known)
    return reader.site(node, operation, node.slots if slots is None else slots, shape=shape)


def cast(node: Node) -> Routing:
    """The operation of a cast of integers. When relevance is computed they are floating already, and are not cast."""
    function = node.function()
    known = dict.fromkeys(("copies", "fixed", "keeps_sign"), True)
    return Routing(lambda x: x if x.dtype.is_floating else function(x), "Cast", **known)


def top_k(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of the k largest entries. Their positions carry no relevance."""
    function = node.function()
    values = Routing(lambda *t: function(*t)[0], node.type, **properties(reader, node))
    positions = Routing(lambda *t: function(*t)[1], node.type, fills=True)
    (largest,) = reader.site(node, values, node.slots)
    (where,) = reader.site(node, positions, node.slots, spec=node.specs[1], inert=True)
    return largest, where


def scatter(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of entries that are put at given places among zeros. It is a linear map if places may repeat."""
    indices = node.arguments[0]
    rows = None if not isinstance(indices, Weight) else indices.value
    rows = None if rows is None else rows.reshape(-1, rows.shape[-1])
    if rows is not None and len(np.unique(rows, axis=0)) == len(rows):
        return routing(reader, node)
    return reader.site(node, LinearMap(reading({}), node.function(), node.type), node.slots)


def scatter_into(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of a tensor to which entries of another tensor are added."""
    x, _, updates = node.arguments
    if isinstance(updates, Weight):
        return None
    function, read = node.function(), reading({})
    if isinstance(x, Weight):
        zeros = x.map(tf.zeros_like, x.shape)
        function = dataclasses.replace(node, arguments=(zeros, *node.arguments[1:])).function()
        read = reading({"bias": x.read})
    return reader.site(node, LinearMap(read, function, node.type), node.slots)


def interpolation(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of interpolation: each entry is a weighted mean of input entries."""
    operation = Interpolation(node.function(), node.type, **properties(reader, node))
    return reader.site(node, operation, node.slots)


def resize_area(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of resizing by the means of areas."""
    if node.attribute("align_corners"):
        return None
    size, known = node.arguments[1], properties(reader, node)
    if not isinstance(size, Weight):
        return None

    def resize(x):
        return windows.resized_by_area(x, *tf.unstack(size.read(x.dtype)))

    return reader.site(node, Interpolation(resize, node.type, **known), node.slots)


def scale_and_translate(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of resizing with an offset, in float32, because TensorFlow has no gradient for other dtypes."""
    function = dataclasses.replace(node, dtype="float32").function()

    def resize(x, *rest):
        return tf.cast(function(tf.cast(x, "float32"), *rest), x.dtype)

    return reader.site(node, Interpolation(resize, node.type, **properties(reader, node)), node.slots)


def diagonal(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of one diagonal of each matrix, as a selection, because TensorFlow's gradient needs all sizes."""
    which = reader.known_integers(node.arguments[1])
    if which is None or len(which) != 1:
        return None
    right, down = max(which[0], 0), max(-which[0], 0)

    def diagonal(x):
        *others, rows, columns = tf.unstack(tf.shape(x))
        steps = tf.range(tf.minimum(rows - down, columns - right))
        flat = tf.reshape(x, [*others, rows * columns])
        return tf.gather(flat, (down + steps) * columns + right + steps, axis=-1)

    return routing(reader, node, diagonal, slots=node.slots[:1])


def transpose(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of a transposition. It adds no site where the axes keep their order."""
    order = reader.known_integers(node.arguments[1])
    if order is not None and order == list(range(len(order))):
        return (node.arguments[0],)
    return routing(reader, node)


def pad(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of padding: a `ZeroPad` for zeros and known widths, otherwise a `Routing`."""
    x, around, *fill = node.arguments
    widths = reader.integers(around)
    zeros = not fill or (isinstance(fill[0], Weight) and fill[0].value is not None and not np.any(fill[0].value))
    if isinstance(x, Weight) or not zeros or widths is None or any(n is None for n in np.ravel(widths)):
        return routing(reader, node)
    pairs = tuple((int(before), int(after)) for before, after in widths)
    return reader.site(node, ZeroPad(node.function(), "Pad", widths=pairs, **properties(reader, node)), (x,))


def pooling(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], str, str] | None:
    """Size, strides, padding and data format of a pooling node; None where it pools over samples or channels."""
    data_format = channels_at(node)
    size, strides = node.attribute("ksize"), node.attribute("strides")
    inner = spatial(size, data_format)
    if np.prod(inner) != np.prod(size):
        return None
    return inner, spatial(strides, data_format), node.attribute("padding").lower(), data_format


def channels_at(node: Node) -> str:
    """The data format of a node: `"channels_first"` or `"channels_last"`."""
    return "channels_first" if node.attribute("data_format", "NHWC").startswith("NC") else "channels_last"


def spatial(values: Sequence, data_format: str) -> tuple:
    """The values of the spatial axes, from one value per axis."""
    return tuple(values[1:-1] if data_format == "channels_last" else values[2:])


def average_pool(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of average pooling over windows."""
    geometry = pooling(node)
    if geometry is None:
        return None
    function = node.function()
    if node.type == "AvgPool3D":
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    count = windows.of_pooling(*geometry)
    operation = AveragePool(function, "average_pool", count=count, **properties(reader, node))
    return reader.site(node, operation, node.slots)


def max_pool_3d(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of max pooling over windows of three dimensions."""
    geometry = pooling(node)
    if geometry is None:
        return None
    return routing(reader, node, windows.pooling_3d(ops.max_pool, node.function(), *geometry))


def mean(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of a mean over axes; None where the axes are not known."""
    axes = reader.known_integers(node.arguments[1])
    if axes is None:
        return None
    count = windows.of_mean(axes)
    return reader.site(node, AveragePool(node.function(), "mean", count=count, **properties(reader, node)), node.slots)


def total(reader: "Builder", node: Node) -> Sequence[Value]:
    """The view of a sum over axes, which is average pooling that divides by one."""
    pool = AveragePool(node.function(), "sum", count=lambda x: 1, **properties(reader, node))
    return reader.site(node, pool, node.slots)


def gather(reader: "Builder", node: Node) -> Sequence[Value] | None:
    """The view of a look-up: an embedding if the table is a weight, otherwise a selection of entries."""
    table, indices, *axis = node.arguments
    if isinstance(table, Weight):
        plain = not axis or reader.known_integers(axis[0]) == [0]
        if node.type == "GatherNd" or not plain or node.attribute("batch_dims", 0):
            return None
        source, index = reader.ids.looked_up(indices)
        return reader.site(node, Lookup(table.content().read, index), (source,))
    function = node.function()

    def gathered(x, *rest):
        # The reshape makes the gradient a tensor. Without it TensorFlow returns the gradient of a gather as slices.
        return function(tf.reshape(x, tf.shape(x)), *rest)

    return routing(reader, node, gathered)
