"""Every TensorFlow operation that the reader of SavedModels names: it is run, and what is claimed of it is tested.

Each entry of each table stands in a small function. The graph read from it gives what the function gives, and what
its routings claim of themselves holds on values.
"""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from revgraph import create_analyzer
from revgraph.fast.signs import nonnegative_slots
from revgraph.graph.operations import Routing
from revgraph.read.savedmodel.activations import DIRECT, POINTWISE
from revgraph.read.savedmodel.builder import ALIKE
from revgraph.read.savedmodel.loops import VIEWS as LISTS
from revgraph.read.savedmodel.moves import MOVES
from revgraph.read.savedmodel.nodes import CALLS, SPECIAL
from revgraph.read.savedmodel.reader import read_function
from revgraph.read.savedmodel.shapes import SHAPE_ARITHMETIC, SHAPES
from revgraph.read.savedmodel.views import IDENTITIES, POINTWISE_FUNCTIONS, VIEWS

pytestmark = pytest.mark.filterwarnings("ignore:.*retracing")

R = tf.raw_ops
RNG = np.random.default_rng(0)
SINGLE = "AvgPool3D FusedBatchNorm MaxPool3D ResizeArea ResizeBicubic ResizeBilinear ScaleAndTranslate".split()
"""Operations that TensorFlow computes on CPUs in float32 only."""


def values(*shape):
    return tf.constant(RNG.normal(size=shape))


W, ROW, POSITIVE = values(4, 3), values(4), tf.constant(RNG.uniform(0.5, 2, 4))
IMAGE, VOLUME, LINE = (6, 6, 2), (4, 4, 4, 2), (4,)
KERNEL, CUBE, DEPTHWISE = values(3, 3, 2, 3), values(2, 2, 2, 2, 3), values(3, 3, 2, 2)
KERNEL_BACK, CUBE_BACK = values(3, 3, 3, 2), values(2, 2, 2, 3, 2)
ONE = tf.constant(1.0, tf.float64)
VARIABLE = tf.Variable(RNG.normal(size=4))
TABLE = tf.Variable(RNG.normal(size=(5, 3)))


def unary(kind):
    function = getattr(R, kind)
    (name, *_) = inspect.signature(function).parameters
    return lambda x: function(**{name: x})


def binary(kind, other=ROW):
    function = getattr(R, kind)
    one, two, *_ = inspect.signature(function).parameters
    return lambda x: function(**{one: x, two: other})


def compared(kind):
    """What is made of a comparison: x where it is true, else 0."""
    function = binary(kind, tf.constant(0.3, tf.float64))
    return lambda x: R.Cast(x=function(x), DstT=tf.float64) + x


def alike(kind):
    return lambda x: x + unary(kind)(x)


def logical(kind):
    def function(x):
        given = {"x": x > 0.1, "y": x < 0.7}
        found = unary(kind)(given["x"]) if kind == "LogicalNot" else getattr(R, kind)(**given)
        return R.SelectV2(condition=found, t=x, e=2 * x)

    return function


def pooled(kind, window, image):
    def function(x):
        (name, *_) = inspect.signature(getattr(R, kind)).parameters
        return getattr(R, kind)(**{name: x}, ksize=window, strides=window, padding="SAME")

    return function, image


def resized(kind):
    return lambda x: getattr(R, kind)(images=x, size=[9, 4]), IMAGE


def normalized(kind):
    def function(x):
        given = {"scale": POSITIVE[:2], "offset": ROW[:2], "mean": ROW[2:], "variance": POSITIVE[2:]}
        given = {name: tf.cast(value, tf.float32) for name, value in given.items()}
        return getattr(R, kind)(x=tf.cast(x, tf.float32), **given, is_training=False)[0]

    return function, IMAGE


def convolved_back(kind, kernel, image, sizes):
    def function(x):
        shape = tf.concat([tf.shape(x)[:1], sizes], 0)
        ones = [1] * len(sizes) + [1]
        return getattr(R, kind)(input_sizes=shape, filter=kernel, out_backprop=x, strides=ones, padding="SAME")

    return function, image


def looked_up(x):
    return TABLE.sparse_read(x)


def partitioned(kind):
    inner = tf.function(lambda x: tf.tanh(x) * 2).get_concrete_function(tf.TensorSpec((None, 4), tf.float64))

    def function(x):
        given = {"args": [x], "Tout": [tf.float64], "f": inner}
        return tf.ensure_shape(getattr(R, kind)(**given)[0], (None, 4))

    return function


def branches(kind):
    yes, no = (
        tf.function(f).get_concrete_function(tf.TensorSpec((None, 4), tf.float64))
        for f in (lambda x: x * 2, lambda x: x - 1)
    )

    def function(x):
        given = {"cond": tf.reduce_sum(x) > 0, "input": [x], "Tout": [tf.float64], "output_shapes": [(None, 4)]}
        return getattr(R, kind)(**given, then_branch=yes, else_branch=no)[0]

    return function


def loop(kind):
    specs = (tf.TensorSpec((), tf.int32), tf.TensorSpec((None, 4), tf.float64))
    condition = tf.function(lambda i, x: i < 3).get_concrete_function(*specs)
    body = tf.function(lambda i, x: (i + 1, tf.tanh(x) * 2)).get_concrete_function(*specs)

    def function(x):
        return tf.ensure_shape(getattr(R, kind)(input=[0, x], cond=condition, body=body)[1], (None, 4))

    return function


def scattered(kind):
    function = getattr(R, kind)
    return lambda x: tf.transpose(function(tensor=tf.transpose(x), indices=[[2], [2]], updates=tf.transpose(x)[:2]))


def cases(kind):
    given = tf.TensorSpec((None, 4), tf.float64)
    branches = [tf.function(f).get_concrete_function(given) for f in (lambda x: x * 2, lambda x: x - 1)]

    def function(x):
        index = tf.cast(tf.reduce_sum(x) > 0, tf.int32)
        options = {"Tout": [tf.float64], "output_shapes": [(None, 4)], "branches": branches}
        return getattr(R, kind)(branch_index=index, input=[x], **options)[0]

    return function


def listed(x):
    """The rows of x twice over, through lists."""
    items = R.TensorListFromTensor(tensor=tf.transpose(x), element_shape=[-1])
    written = R.TensorListReserve(element_shape=[-1], num_elements=2, element_dtype=x.dtype)
    for i in range(2):
        item = R.TensorListGetItem(input_handle=items, index=i, element_shape=[-1], element_dtype=x.dtype)
        written = R.TensorListSetItem(input_handle=written, index=i, item=2 * item)
    stacked = R.TensorListStack(input_handle=written, element_shape=[-1], element_dtype=x.dtype)
    return tf.transpose(stacked) * tf.cast(R.TensorListLength(input_handle=items), x.dtype)


FUNCTIONS = {
    **dict.fromkeys((kind for kind in LISTS if "While" not in kind), listed),
    **{kind: cases(kind) for kind in ("Case", "StatelessCase")},
    **{kind: unary(kind) for kind in (*DIRECT, *POINTWISE_FUNCTIONS)},
    **{kind: unary(kind) for kind in "EnsureShape Identity PreventGradient Snapshot Neg".split()},
    **{kind: binary(kind) for kind in "Add AddV2 Sub Mul Div DivNoNan RealDiv Maximum Minimum Pow".split()},
    **{kind: binary(kind) for kind in "SquaredDifference BiasAdd".split()},
    **{kind: compared(kind) for kind in "Equal NotEqual Greater GreaterEqual Less LessEqual".split()},
    **{kind: logical(kind) for kind in "LogicalAnd LogicalNot LogicalOr".split()},
    **{kind: alike(kind) for kind in "OnesLike ZerosLike".split()},
    **{kind: partitioned(kind) for kind in CALLS},
    **{kind: branches(kind) for kind in ("If", "StatelessIf")},
    **{kind: loop(kind) for kind in ("While", "StatelessWhile")},
    **{kind: resized(kind) for kind in "ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor".split()},
    **{kind: normalized(kind) for kind in "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3".split()},
    "AddN": lambda x: R.AddN(inputs=[x, 2 * x, x @ W @ tf.transpose(W)]),
    "AvgPool": pooled("AvgPool", [1, 2, 2, 1], IMAGE),
    "AvgPool3D": (*pooled("AvgPool3D", [1, 2, 2, 2, 1], VOLUME), tf.float32),
    "BatchMatMul": (lambda x: R.BatchMatMul(x=x, y=x, adj_y=True), (2, 4)),
    "BatchMatMulV2": (lambda x: R.BatchMatMulV2(x=x, y=W), (2, 4)),
    "BatchMatMulV3": (lambda x: R.BatchMatMulV3(x=x, y=x, Tout=tf.float64, adj_y=True), (2, 4)),
    "BatchToSpaceND": (
        lambda x: R.BatchToSpaceND(input=tf.tile(x, [4, 1, 1, 1]), block_shape=[2, 2], crops=[[0, 1], [0, 0]]), IMAGE
    ),
    "BroadcastTo": (lambda x: R.BroadcastTo(input=x, shape=tf.stack([tf.shape(x)[0], 3, 4])), (1, 4)),
    "Cast": lambda x: R.Cast(x=x > 0.2, DstT=tf.float64) * 2 + x,
    "CheckNumerics": lambda x: R.CheckNumerics(tensor=x, message="no number"),
    "ClipByValue": lambda x: R.ClipByValue(t=x, clip_value_min=-0.5, clip_value_max=tf.constant(0.4, tf.float64)),
    "Concat": lambda x: R.Concat(concat_dim=1, values=[x, 2 * x]),
    "ConcatV2": lambda x: R.ConcatV2(values=[x, -x], axis=-1),
    "MatrixDiagV3": lambda x: R.MatrixDiagV3(diagonal=x, k=0, num_rows=-1, num_cols=-1, padding_value=ONE - ONE),
    "ScatterNd": lambda x: tf.transpose(
        R.ScatterNd(indices=[[2], [0]], updates=tf.transpose(x)[:2], shape=tf.stack([4, tf.shape(x)[0]]))
    ),
    "SegmentSum": lambda x: tf.transpose(R.SegmentSum(data=tf.transpose(x), segment_ids=[0, 0, 1, 2])),
    "TensorScatterAdd": scattered("TensorScatterAdd"),
    "TensorScatterSub": scattered("TensorScatterSub"),
    "UnsortedSegmentSum": lambda x: tf.transpose(
        R.UnsortedSegmentSum(data=tf.transpose(x), segment_ids=[2, 0, 2, 0], num_segments=3)
    ),
    "XlaDynamicUpdateSlice": lambda x: ops.slice_update(x, (0, 1), x[:, 2:]),
    "Bitcast": lambda x: x + R.Cast(x=R.Bitcast(input=x, type=tf.int64) < 0, DstT=tf.float64),
    "Const": lambda x: x + tf.constant(2.0, tf.float64),
    "Conv2D": (lambda x: R.Conv2D(input=x, filter=KERNEL, strides=[1, 2, 2, 1], padding="SAME"), IMAGE),
    "Conv2DBackpropInput": convolved_back("Conv2DBackpropInput", KERNEL_BACK, IMAGE, [6, 6, 3]),
    "Conv3D": (lambda x: R.Conv3D(input=x, filter=CUBE, strides=[1] * 5, padding="VALID"), VOLUME),
    "Conv3DBackpropInputV2": convolved_back("Conv3DBackpropInputV2", CUBE_BACK, VOLUME, [4, 4, 4, 3]),
    "Cumsum": lambda x: R.Cumsum(x=x, axis=1, exclusive=True),
    "DepthToSpace": (lambda x: R.DepthToSpace(input=x, block_size=2), (3, 3, 4)),
    "DepthwiseConv2dNative": (
        lambda x: R.DepthwiseConv2dNative(input=x, filter=DEPTHWISE, strides=[1] * 4, padding="VALID"), IMAGE
    ),
    "Einsum": (lambda x: R.Einsum(inputs=[x, W], equation="bsi,io->bos"), (2, 4)),
    "EnsureShape": lambda x: R.EnsureShape(input=x, shape=(None, 4)),
    "ExpandDims": lambda x: R.ExpandDims(input=x, axis=1),
    "ExtractImagePatches": (
        lambda x: R.ExtractImagePatches(
            images=x, ksizes=[1, 3, 3, 1], strides=[1, 2, 2, 1], rates=[1] * 4, padding="SAME"
        ),
        IMAGE,
    ),
    "Gather": lambda x: tf.transpose(R.Gather(params=tf.transpose(x), indices=[2, 0])),
    "GatherNd": lambda x: tf.transpose(R.GatherNd(params=tf.transpose(x), indices=[[2], [0]])),
    "GatherV2": lambda x: R.GatherV2(params=x, indices=[3, 0], axis=1),
    "IdentityN": lambda x: R.IdentityN(input=[2 * x, x])[0],
    "MatMul": lambda x: R.MatMul(a=x, b=W),
    "MatrixBandPart": (lambda x: R.MatrixBandPart(input=x, num_lower=0, num_upper=1), (4, 4)),
    "MatrixDiagPartV3": (
        lambda x: R.MatrixDiagPartV3(input=x, k=1, padding_value=tf.constant(-0.5, tf.float64)), (4, 4)
    ),
    "Max": lambda x: R.Max(input=x, axis=1, keep_dims=True),
    "MaxPool": pooled("MaxPool", [1, 2, 2, 1], IMAGE),
    "MaxPool3D": (*pooled("MaxPool3D", [1, 2, 2, 2, 1], VOLUME), tf.float32),
    "MaxPoolV2": pooled("MaxPoolV2", [1, 2, 2, 1], IMAGE),
    "Mean": (lambda x: R.Mean(input=x, axis=[1, 2]), IMAGE),
    "Min": lambda x: R.Min(input=x, axis=1),
    "MirrorPad": (lambda x: R.MirrorPad(input=x, paddings=[[0, 0], [1, 1], [2, 0], [0, 0]], mode="REFLECT"), IMAGE),
    "Pack": lambda x: R.Pack(values=[x, 2 * x, tf.broadcast_to(ROW, tf.shape(x))], axis=1),
    "Pad": lambda x: R.Pad(input=x, paddings=[[0, 0], [1, 2]]),
    "PadV2": lambda x: R.PadV2(input=x, paddings=[[0, 0], [1, 2]], constant_values=tf.constant(-2.0, tf.float64)),
    "PlaceholderWithDefault": lambda x: R.PlaceholderWithDefault(input=x, shape=(None, 4)),
    "ReadVariableOp": lambda x: x * R.ReadVariableOp(resource=VARIABLE.handle, dtype=tf.float64),
    "Reshape": lambda x: R.Reshape(tensor=x, shape=[-1, 2, 2]),
    "ResourceGather": (looked_up, (4,), tf.int32),
    "OneHot": (lambda x: R.OneHot(indices=x, depth=3, on_value=ONE, off_value=-ONE), (4,), tf.int32),
    "Reverse": lambda x: R.Reverse(tensor=x, dims=[False, True]),
    "ReverseV2": lambda x: R.ReverseV2(tensor=x, axis=[1]),
    "Roll": lambda x: R.Roll(input=x, shift=[1], axis=[1]),
    "ScaleAndTranslate": (
        lambda x: R.ScaleAndTranslate(
            images=x, size=[9, 4], scale=[1.5, 0.5], translation=[1.0, 0.5], kernel_type="triangle", antialias=False
        ),
        IMAGE,
    ),
    "Select": lambda x: R.Select(condition=x > 0.2, x=x, y=-3 * x * x),
    "SelectV2": lambda x: R.SelectV2(condition=x > 0.2, t=x, e=ROW),
    "Slice": lambda x: R.Slice(input=x, begin=[0, 1], size=[-1, 2]),
    "SpaceToBatchND": (
        lambda x: tf.reshape(
            R.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=[[1, 1], [0, 0]]), [-1, 4 * 4 * 3 * 2]
        ), IMAGE
    ),
    "SpaceToDepth": (lambda x: R.SpaceToDepth(input=x, block_size=2), IMAGE),
    "Split": lambda x: R.Split(axis=1, value=x, num_split=2)[1],
    "SplitV": lambda x: R.SplitV(value=x, size_splits=[1, 3], axis=1, num_split=2)[1],
    "Squeeze": (lambda x: R.Squeeze(input=x, axis=[1]), (1, 4)),
    "StridedSlice": lambda x: x[:, ::-2],
    "Sum": lambda x: R.Sum(input=x, axis=1),
    "TensorScatterUpdate": (
        lambda x: tf.transpose(
            R.TensorScatterUpdate(tensor=tf.transpose(x), indices=[[0], [2]], updates=tf.transpose(2 * x[:, :2]))
        )
    ),
    "Tile": lambda x: R.Tile(input=x, multiples=[1, 3]),
    "TopKV2": lambda x: R.TopKV2(input=x, k=3)[0],
    "Transpose": (lambda x: R.Transpose(x=x, perm=[0, 2, 1]), (2, 4)),
    "Unpack": (lambda x: R.Unpack(value=x, num=2, axis=1)[1], (2, 4)),
}  # fmt: skip
"""Type of a TensorFlow operation -> a function in which it stands; where it is not (4,) with the shape of a sample."""


def shaped(make):
    """A reshape to a size that shape arithmetic gives: 3 of (None, 6, 2)."""
    return lambda x: tf.reshape(x, tf.stack([-1, make(x)]))


def size(x):
    return tf.shape(x)[1]


def scalar(kind, other):
    function = binary(kind, tf.constant(other, tf.int32))
    return shaped(lambda x: function(size(x)))


def rounded(kind):
    return shaped(lambda x: tf.cast(unary(kind)(tf.cast(size(x), tf.float64) / 2), tf.int32))


def reduced(kind):
    return shaped(lambda x: getattr(R, kind)(input=tf.shape(x)[1:], axis=0))


SIZES = {
    **{kind: scalar(kind, other) for kind, other in (("Add", 6), ("AddV2", 6), ("FloorDiv", 2), ("FloorMod", 4))},
    **{kind: scalar(kind, other) for kind, other in (("Maximum", 3), ("Minimum", 3), ("Mul", 2), ("Sub", 4))},
    **{kind: rounded(kind) for kind in ("Ceil", "Floor", "Round")},
    **{kind: reduced(kind) for kind in ("Max", "Min", "Prod")},
    "Cast": shaped(lambda x: tf.cast(tf.cast(size(x), tf.int64), tf.int32)),
    "ConcatV2": lambda x: tf.reshape(x, R.ConcatV2(values=[tf.shape(x)[:1], [3, 4]], axis=0)),
    "ExpandDims": lambda x: tf.reshape(x, tf.concat([[-1], R.ExpandDims(input=size(x), axis=0)], 0)),
    "GatherV2": shaped(lambda x: R.GatherV2(params=tf.shape(x), indices=2, axis=0)),
    "Neg": shaped(lambda x: -R.Neg(x=size(x))),
    "Pack": lambda x: tf.reshape(x, R.Pack(values=[tf.shape(x)[0], 12], axis=0)),
    "RealDiv": shaped(lambda x: tf.cast(R.RealDiv(x=tf.cast(size(x), tf.float64), y=2.0), tf.int32)),
    "Reshape": shaped(lambda x: R.Reshape(tensor=tf.shape(x)[1:2], shape=[])),
    "Slice": shaped(lambda x: R.Slice(input=tf.shape(x), begin=[1], size=[1])[0]),
    "Split": shaped(lambda x: R.Split(axis=0, value=tf.shape(x), num_split=3)[1][0]),
    "SplitV": shaped(lambda x: R.SplitV(value=tf.shape(x), size_splits=[1, 2], axis=0, num_split=2)[1][0]),
    "Squeeze": shaped(lambda x: R.Squeeze(input=tf.shape(x)[1:2])),
    "StridedSlice": shaped(size),
    "Sum": shaped(lambda x: R.Sum(input=tf.shape(x)[2:], axis=0)),
    "Unpack": shaped(lambda x: R.Unpack(value=tf.shape(x), num=3)[1]),
    "Rank": shaped(lambda x: R.Rank(input=x)),
    "Shape": shaped(size),
    "ShapeN": shaped(lambda x: R.ShapeN(input=[x, x])[1][1]),
    "Size": lambda x: tf.reshape(x, tf.stack([R.Size(input=x) // 4, 4])),
}
"""Type of a TensorFlow operation -> a reshape of (None, 6, 2) to a shape that is worked out by it."""


def test_every_entry_of_every_table_is_run():
    assert set(FUNCTIONS) == {*IDENTITIES, *VIEWS, *POINTWISE, *CALLS, *SPECIAL, *ALIKE, *LISTS}
    assert set(SIZES) == {*SHAPE_ARITHMETIC, *SHAPES}
    assert set(MOVES) <= set(VIEWS) and set(DIRECT) | set(POINTWISE_FUNCTIONS) <= set(VIEWS)


def read(function, shape, dtype=tf.float64):
    concrete = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((None, *shape), dtype, "x"))
    return concrete, read_function(concrete)


def draw(shape, dtype=tf.float64, rng=RNG):
    return rng.normal(size=shape) if dtype.is_floating else rng.integers(0, 4, size=shape)


def close(single):
    return {"rtol": 1e-5, "atol": 1e-5} if single else {"rtol": 1e-11, "atol": 1e-11}


@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
def test_an_operation_by_itself(kind):
    function, shape, dtype, *_ = (*FUNCTIONS[kind], tf.float64) if isinstance(FUNCTIONS[kind], tuple) else (
        FUNCTIONS[kind], LINE, tf.float64
    )  # fmt: skip
    concrete, graph = read(function, shape, dtype)
    assert kind in {operation.type for operation in concrete.graph.get_operations()}
    x = draw((3, *shape), dtype)
    x = x.astype(dtype.as_numpy_dtype)
    single = kind in SINGLE or kind.startswith("FusedBatchNorm")
    np.testing.assert_allclose(graph(x), concrete(tf.constant(x)), **close(single), err_msg=str(graph))
    opaque = [s for s in graph.sites if type(s.operation).__name__ in ("Loop", "TensorFlowOperation")]
    assert not opaque or kind in {*SPECIAL, *CALLS} - {"Const", "ReadVariableOp", *CALLS}
    if dtype.is_floating:
        assert_claims(graph, x, single)
    if not opaque:
        relevance = (
            create_analyzer("lrp.z", graph).record(x).analyze(initial_relevance=np.asarray(concrete(tf.constant(x))))
        )
        assert relevance.shape == x.shape


def assert_claims(graph, x, single):
    """What routings claim of themselves, and where nothing negative is said to be."""
    seen = graph.run([x])
    for given in (x, np.abs(x)):
        inputs = graph.input_slots if (given >= 0).all() else ()
        found = graph.run([given])
        for slot in nonnegative_slots(graph, inputs):
            assert not (np.asarray(found[slot]) < 0).any(), f"slot {slot} of {graph} has negative entries"
    for site in graph.sites:
        if isinstance(site.operation, Routing) and site.operation.name != "Const":
            assert_claims_of_routing(site.operation, [seen[slot] for slot in site.inputs], single)


def assert_claims_of_routing(operation, inputs, single=False):
    """`copies`, `fixed`, `keeps_sign` and `fills` hold on values."""

    def floating(make):
        return [tf.constant(make(t), t.dtype) if t.dtype.is_floating else t for t in inputs]

    def run(given):
        return [np.asarray(t) for t in operation(given, {})]

    shapes = [tuple(t.shape) for t in inputs]
    one, two = (floating(lambda t: RNG.normal(size=t.shape)) for _ in range(2))
    none = floating(lambda t: np.zeros(t.shape))
    both = [a + b if a.dtype.is_floating else a for a, b in zip(one, two, strict=True)]
    of_one, of_two, of_none, of_both = (run(given) for given in (one, two, none, both))
    moving = [t for t in inputs if t.dtype.is_floating]
    if operation.copies:
        entries = np.concatenate([np.ravel(t) for t in one])
        for a, b in zip(of_one, of_two, strict=True):
            assert (np.isin(a, entries) | (a == b)).all(), f"{operation.name} {shapes} mixes"
    if operation.fixed:
        for a, b, zero, ab in zip(of_one, of_two, of_none, of_both, strict=True):
            np.testing.assert_allclose(a + b - zero, ab, **close(single), err_msg=f"{operation.name} is not fixed")
    if operation.keeps_sign:
        positive = run(floating(lambda t: np.abs(RNG.normal(size=t.shape))))
        assert all((t >= 0).all() for t in positive), f"{operation.name} does not keep signs"
    if not operation.fills and moving:
        assert all((t == 0).all() for t in of_none), f"{operation.name} fills"
    if operation.copies and not operation.fills and moving:
        # Equal entries, too: no relevance is multiplied.
        for given in (one, floating(lambda t: np.ones(t.shape))):
            with tf.GradientTape() as tape:
                tape.watch(given)
                outputs = [t for t in operation(given, {}) if t.dtype.is_floating]
            relevance = [tf.constant(RNG.normal(size=t.shape), t.dtype) for t in outputs]
            handed = [g for g in tape.gradient(outputs, given, relevance) if g is not None]
            np.testing.assert_allclose(
                sum(np.sum(g) for g in handed), sum(np.sum(r) for r in relevance), **close(single),
                err_msg=f"{operation.name} multiplies relevance",
            )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_a_size_is_worked_out_in_advance(kind):
    concrete, graph = read(SIZES[kind], (6, 2))
    assert kind in {operation.type for operation in concrete.graph.get_operations()}
    x = draw((3, 6, 2))
    np.testing.assert_array_equal(graph(x), concrete(tf.constant(x)))
    (reshape,) = (s for s in graph.sites if s.operation.label == "Reshape")
    assert reshape.operation.fixed
    if kind != "Size":
        assert reshape.inputs == graph.input_slots and None not in graph.specs[reshape.outputs[0]].shape[1:]


CHOOSE = set("ClipByValue Max MaxPool MaxPool3D MaxPoolV2 Maximum Min Minimum Select SelectV2 TopKV2".split())
FILL = {"ExtractImagePatches", "MatrixBandPart", "MatrixDiagV3", "Pad", "PadV2"} | {
    "ScaleAndTranslate", "ScatterNd", "SelectV2", "SpaceToBatchND"
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(MOVES.keys() - {"ClipByValue", "Maximum", "Minimum"}))
def test_what_is_known_of_moves(kind):
    function, shape, dtype, *_ = (*given, tf.float64) if isinstance(given := FUNCTIONS[kind], tuple) else (
        given, LINE, tf.float64
    )  # fmt: skip
    _, graph = read(function, shape, dtype)
    labels = {kind, kind.removesuffix("V2"), {"AvgPool": "average_pool", "AvgPool3D": "average_pool"}.get(kind, kind)}
    operation = next(s.operation for s in graph.sites if s.operation.label in labels | {kind.lower()})
    assert isinstance(operation, Routing)
    assert operation.fixed == (kind not in CHOOSE)
    assert operation.fills == (kind in FILL)
    assert operation.copies == (kind not in {"AvgPool", "AvgPool3D", "Mean", "Sum"} and "Resize" not in kind
                                and kind != "ScaleAndTranslate" or kind == "ResizeNearestNeighbor")  # fmt: skip


CONSTANTS = {
    "concatenate": lambda x, c: tf.concat([x, tf.broadcast_to(c, [3, 4])], 0),
    "stack": lambda x, c: tf.stack([x, tf.broadcast_to(c, [3, 4])], 1),
    "where": lambda x, c: tf.where(x > 0.2, x, c),
    "where, a mask known in advance": lambda x, c: tf.where([True, False, True, False], x, c),
    "pad": lambda x, c: tf.pad(x, [[0, 0], [1, 0]], constant_values=c),
    "scatter": lambda x, c: tf.tensor_scatter_nd_update(x, [[0]], tf.broadcast_to(c, [1, 4])),
}


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("value, keeps", [(0.5, True), (-0.5, False), ("variable", False)])
def test_constants_that_take_part_are_seen(name, value, keeps):
    constant = tf.Variable(0.5, dtype=tf.float64) if value == "variable" else tf.constant(value, tf.float64)
    function = tf.function(lambda x: CONSTANTS[name](x, constant), autograph=False)
    graph = read_function(function.get_concrete_function(tf.TensorSpec((3, 4), tf.float64, "x")))
    x = draw((3, 4))
    np.testing.assert_array_equal(graph(x), function(tf.constant(x)))
    site = graph.sites[-1]
    assert site.operation.keeps_sign == keeps and site.operation.fills and site.operation.copies
    assert site.operation.fixed == (name != "where")
    assert_claims(graph, x, single=False)
