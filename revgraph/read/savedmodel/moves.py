"""Views of the operations that move entries from place to place, and what is known of each of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph import windows
from revgraph.graph.operations import AveragePool, Embedding, Interpolation, LinearMap, Routing, ZeroPad, reading
from revgraph.read.savedmodel.weights import Weight

ALL = (0, None)


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Embedding):
    """An embedding whose indices are worked out first.

    Args:
        index: Gives the indices from the input.
    """

    index: Callable[[tf.Tensor], tf.Tensor]

    @property
    def label(self):
        return "Embedding"

    def __call__(self, inputs, weights):
        return super().__call__((self.index(inputs[0]),), weights)


@dataclasses.dataclass(frozen=True)
class Move:
    """What is known of a TensorFlow operation that moves entries.

    The arguments other than the data say where the entries go: sizes, axes, indices, conditions.

    Args:
        data: Which arguments have the entries that are moved, as the arguments of a `slice`.
        copies: Every entry of the output is an entry of the data, or a constant.
        chooses: It compares the entries themselves to choose where they go.
        keeps_sign: The output has no negative entry where the data have none.
        fills: It puts in constants that are no argument, such as zeros.
    """

    data: tuple = (0, 1)
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
    # What lies outside of the image is zero.
    "ScaleAndTranslate": Move(copies=False, keeps_sign=False, fills=True),
    "MatrixDiagV3": Move((0, None, 4)),
    "ScatterNd": Move((1, 2), fills=True),
    "Split": Move((1, None)),
    "TensorScatterUpdate": Move((0, None, 2)),
    "XlaDynamicUpdateSlice": Move((0, 2)),
}
"""Type of a TensorFlow operation that moves entries, or takes weighted means or sums of them -> what is known of it."""


def properties(reader, node) -> dict[str, bool]:
    """What is known of a node that moves entries, as the arguments of a `Routing`."""
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


def is_floating(node) -> bool:
    """Whether a node gives floating numbers."""
    return tf.as_dtype(node.specs[0].dtype).is_floating


def is_nonnegative(weight) -> bool:
    """Whether a weight never has a negative entry. Variables can change, so nothing is known of them."""
    return weight.value is not None and weight.value.dtype != object and bool(np.all(weight.value >= 0))


def routing(reader, node, function=None, shape=None, slots=None):
    """The node as a `Routing`.

    Args:
        reader: The reader.
        node: The node.
        function: Computes it, where that is not the TensorFlow operation itself.
        shape: The shape of its output, where more is known of it than TensorFlow knows.
        slots: The slots that the function takes, where these are not all of the node's.
    """
    known = properties(reader, node)
    operation = Routing(function or node.function(), node.type, len(node.specs), **known)
    return reader.site(node, operation, node.slots if slots is None else slots, shape=shape)


def cast(node) -> Routing:
    """Integers as numbers of another type. As relevance has it, they are floating already."""
    function = node.function()
    known = dict.fromkeys(("copies", "fixed", "keeps_sign"), True)
    return Routing(lambda x: x if x.dtype.is_floating else function(x), "Cast", **known)


def top_k(reader, node):
    """The largest entries; where they stood carries no relevance."""
    function = node.function()
    values = Routing(lambda *t: function(*t)[0], node.type, **properties(reader, node))
    positions = Routing(lambda *t: function(*t)[1], node.type, fills=True)
    (largest,) = reader.site(node, values, node.slots)
    (where,) = reader.site(node, positions, node.slots, spec=node.specs[1], inert=True)
    return largest, where


def scatter(reader, node):
    """Entries at places of their own, and zeros elsewhere; a linear map where several may come to one place."""
    indices = node.arguments[0]
    rows = None if not isinstance(indices, Weight) else indices.value
    rows = None if rows is None else rows.reshape(-1, rows.shape[-1])
    if rows is not None and len(np.unique(rows, axis=0)) == len(rows):
        return routing(reader, node)
    return reader.site(node, LinearMap(reading({}), node.function(), node.type), node.slots)


def scatter_into(reader, node):
    """A tensor to which entries of another are added."""
    x, _, updates = node.arguments
    if isinstance(updates, Weight):
        return None
    function, read = node.function(), reading({})
    if isinstance(x, Weight):
        zeros = x.map(tf.zeros_like, x.shape)
        function = dataclasses.replace(node, arguments=(zeros, *node.arguments[1:])).function()
        read = reading({"bias": x.read})
    return reader.site(node, LinearMap(read, function, node.type), node.slots)


def interpolation(reader, node):
    """Every entry a weighted mean of entries."""
    operation = Interpolation(node.function(), node.type, **properties(reader, node))
    return reader.site(node, operation, node.slots)


def resize_area(reader, node):
    """Every entry the mean of an area."""
    if node.attribute("align_corners"):
        return None
    size, known = node.arguments[1], properties(reader, node)
    if not isinstance(size, Weight):
        return None

    def resize(x):
        return windows.resized_by_area(x, *tf.unstack(size.read(x.dtype)))

    return reader.site(node, Interpolation(resize, node.type, **known), node.slots)


def scale_and_translate(reader, node):
    """Resizing with an offset, in float32: TensorFlow's gradient knows no other dtype."""
    function = dataclasses.replace(node, dtype="float32").function()

    def resize(x, *rest):
        return tf.cast(function(tf.cast(x, "float32"), *rest), x.dtype)

    return reader.site(node, Interpolation(resize, node.type, **properties(reader, node)), node.slots)


def diagonal(reader, node):
    """One diagonal of each matrix, as a selection, because TensorFlow's gradient wants to know all sizes in advance."""
    which = reader.integers(node.arguments[1])
    if which is None or np.size(which) != 1:
        return None
    right, down = max(int(np.ravel(which)[0]), 0), max(-int(np.ravel(which)[0]), 0)

    def diagonal(x):
        *others, rows, columns = tf.unstack(tf.shape(x))
        steps = tf.range(tf.minimum(rows - down, columns - right))
        flat = tf.reshape(x, [*others, rows * columns])
        return tf.gather(flat, (down + steps) * columns + right + steps, axis=-1)

    return routing(reader, node, diagonal, slots=node.slots[:1])


def transpose(reader, node):
    """Nothing where the axes stay in their order."""
    order = reader.integers(node.arguments[1])
    if order is not None and list(order) == list(range(len(order))):
        return (node.arguments[0],)
    return routing(reader, node)


def pad(reader, node):
    """Padding with zeros, whose widths are known, or with anything else."""
    x, widths, *fill = node.arguments
    widths = reader.integers(widths)
    zeros = not fill or (isinstance(fill[0], Weight) and fill[0].value is not None and not np.any(fill[0].value))
    if isinstance(x, Weight) or not zeros or widths is None or any(n is None for n in np.ravel(widths)):
        return routing(reader, node)
    widths = tuple((int(before), int(after)) for before, after in widths)
    return reader.site(node, ZeroPad(node.function(), "Pad", widths=widths, **properties(reader, node)), (x,))


def pooling(node):
    """Size, strides, padding and data format of a pooling; None where it pools over samples or channels."""
    data_format = channels_at(node)
    size, strides = node.attribute("ksize"), node.attribute("strides")
    inner = spatial(size, data_format)
    if np.prod(inner) != np.prod(size):
        return None
    return inner, spatial(strides, data_format), node.attribute("padding").lower(), data_format


def channels_at(node) -> str:
    """The data format of a node, in Keras's words."""
    return "channels_first" if node.attribute("data_format", "NHWC").startswith("NC") else "channels_last"


def spatial(values, data_format):
    """Those of one value per axis that belong to the spatial axes."""
    return tuple(values[1:-1] if data_format == "channels_last" else values[2:])


def average_pool(reader, node):
    """Average pooling over windows."""
    geometry = pooling(node)
    if geometry is None:
        return None
    function = node.function()
    if node.type == "AvgPool3D":
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    count = windows.of_pooling(*geometry)
    operation = AveragePool(function, "average_pool", count=count, **properties(reader, node))
    return reader.site(node, operation, node.slots)


def max_pool_3d(reader, node):
    """Max pooling over windows of three dimensions."""
    geometry = pooling(node)
    if geometry is None:
        return None
    return routing(reader, node, windows.pooling_3d(ops.max_pool, node.function(), *geometry))


def mean(reader, node):
    """The mean over axes."""
    axes = reader.integers(node.arguments[1])
    if axes is None:
        return None
    count = windows.of_mean([int(axis) for axis in np.ravel(axes)])
    return reader.site(node, AveragePool(node.function(), "mean", count=count, **properties(reader, node)), node.slots)


def total(reader, node):
    """The sum over axes."""
    return reader.site(node, AveragePool(node.function(), "sum", **properties(reader, node)), node.slots)


def gather(reader, node):
    """An embedding where the table is a weight; a selection of entries where the indices are."""
    table, indices, *axis = node.arguments
    if isinstance(table, Weight):
        plain = not axis or (reader.integers(axis[0]) is not None and int(reader.integers(axis[0])) == 0)
        if node.type == "GatherNd" or not plain or node.attribute("batch_dims", 0):
            return None
        source, index = reader.looked_up(indices)
        return reader.site(node, Lookup(table.content().read, index), (source,))
    function = node.function()

    def gathered(x, *rest):
        # Behind a reshape the gradient is a tensor, not the slices that a gather has of its own.
        return function(tf.reshape(x, tf.shape(x)), *rest)

    return routing(reader, node, gathered)
