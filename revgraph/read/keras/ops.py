"""Which operation each raw `keras.ops` call or operator is, by the name of its class."""

import re

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph import normalization, windows
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    BatchNorm,
    Contraction,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    Interpolation,
    LinearMap,
    Operation,
    Product,
    Quotient,
    Routing,
    Scale,
    SeparableConv,
    Sum,
    ZeroPad,
    constant,
    live,
    reading,
)

ACTIVATIONS = frozenset(
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu "
    "HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Softmax LogSoftmax Sparsemax "
    "Tanh Clip Absolute Arctan Arcsinh Cbrt Ceil Cos Cosh Erf Erfc Exp Exp2 Expm1 Fabs Floor Log Log10 Log1p Log2 "
    "NanToNum Reciprocal Round Rsqrt Sign Sin Sinc Sinh Sqrt Square StopGradient Tan Trunc".split()
)
"""Operations that change every entry by itself, or rescale those along an axis."""

ROUTINGS = frozenset(
    "AdaptiveMaxPool Amax Amin BroadcastTo Concatenate CropImages DepthToSpace Diagonal Dsplit Dstack ExpandDims Flip "
    "Fliplr Flipud Fmax Fmin GetItem Hsplit Hstack Max MaxPool Maximum Min Minimum Moveaxis PadImages Ravel Rearrange "
    "Repeat Reshape Roll Rot90 Select Slice SliceUpdate Sort SpaceToDepth Split Squeeze Stack Swapaxes Take "
    "TakeAlongAxis Tile TopK Transpose Tril Triu Unstack View Vsplit Vstack Where".split()
)
"""Operations that move entries from place to place."""

LINEAR_MAPS = frozenset("Cumsum Diff FFT IFFT Trace Trapezoid".split())
"""Linear maps without weights."""

COPIES = frozenset("Cast SaturateCast ConvertToTensor Copy".split())
"""Operations that change the type of entries at most."""


def tensor_operation(operation, template, outputs) -> Operation | None:
    """The operation of a raw Keras operation; None where there is none."""
    name = type(operation).__name__
    function = template.bind(operation.call)
    if name in COPIES:
        return _copy(function, outputs)
    if name in ARITHMETIC:
        return ARITHMETIC[name](operation, template, outputs)
    if name == "ReLU":
        return Activation(function, relu_name(operation))
    if name in ACTIVATIONS and not _constants(template, skip=1):
        return Activation(function, _snake(name))
    if name in ROUTINGS:
        return Routing(function, name, len(outputs))
    if name in LINEAR_MAPS:
        return LinearMap(reading({}), function, name)
    return None


def _copy(function, outputs):
    """Relevance has one dtype everywhere: what is floating is not converted."""
    if "float" not in keras.backend.standardize_dtype(outputs[0].dtype):
        return None
    return Routing(lambda x: x if x.dtype.is_floating else function(x), "Cast")


def _snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def relu_name(relu) -> str:
    """Which ReLU this is, by its `negative_slope`, `max_value` and `threshold`."""
    if relu.negative_slope:
        return "sloped_relu"
    if relu.threshold < 0:
        return "shifted_relu"
    if relu.max_value is None:
        return "relu"
    return "relu6" if relu.max_value == 6 and not relu.threshold else "bounded_relu"


def expansion(operation, template):
    """A function of the operation's arguments that computes the same with operations that have rules; or None."""
    return EXPANSIONS.get(type(operation).__name__, lambda operation: None)(operation)


def _glu(operation):
    def glu(x):
        signal, gate = ops.split(x, 2, axis=operation.axis)
        return signal * ops.sigmoid(gate)

    return glu


def _moments(operation):
    def moments(x):
        axes, keepdims = operation.axes, operation.keepdims
        return ops.mean(x, axes, keepdims=keepdims), ops.var(x, axes, keepdims=keepdims)

    return moments


def masked_softmax(axis):
    """Softmax over the entries that a mask leaves."""

    def softmax(x, mask):
        # Far below every score, so that nothing is left of it, and not so far that a row without scores overflows.
        return ops.where(mask, ops.softmax(ops.where(mask, x, -1e9), axis=axis), 0.0)

    return softmax


EXPANSIONS = {"Glu": _glu, "Moments": _moments}
"""Name of the class of a Keras operation -> what it is made of."""


def _is_slot(value):
    return type(value).__name__ == "Slot"


def _tensors(template):
    return [a for a in keras.tree.flatten((template.args, template.kwargs)) if _is_slot(a)]


def _constants(template, skip=0):
    return [a for a in template.args[skip:] if isinstance(a, keras.Variable | tf.Tensor | np.ndarray)]


def _pair(template):
    """The two operands; None in place of the one that is a tensor of the graph."""
    values = [*template.args, *template.kwargs.values()][:2]
    return [None if _is_slot(v) else v for v in values]


def _reading(value, f=lambda v: v):
    source = live(lambda: value)
    return lambda dtype: f(source(dtype))


def _shape(value):
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def scaling(output, kernel=None, bias=None, kernel_shape=(), bias_shape=()) -> Scale:
    """Multiplication and addition of constants: vectors along the axis along which they vary, where that is one.

    Args:
        output: Shape of the output.
        kernel, bias: Sources of the factor and of the summand, if any.
        kernel_shape, bias_shape: Their shapes, which broadcast against the output.
    """
    varying = _varying(kernel_shape, output) | _varying(bias_shape, output)
    axis = None
    if len(varying) == 1 and 0 not in varying:
        (axis,) = varying
    sources = {"kernel": constant(1.0) if kernel is None else _vector(kernel, kernel_shape, output, axis)}
    if bias is not None:
        sources["bias"] = _vector(bias, bias_shape, output, axis)
    return Scale(reading(sources), axis)


def _varying(shape, output):
    """The axes of the output along which a constant of this shape has several entries."""
    offset = len(output) - len(shape)
    return {offset + i for i, n in enumerate(shape) if n != 1}


def _vector(source, shape, output, axis):
    varying = _varying(shape, output)
    if not varying:
        shape = ()
    elif varying == {axis}:
        shape = (-1,)
    return lambda dtype: tf.reshape(source(dtype), shape)


def _linear_combination(signs):
    """`a + b`, `a - b`, where one operand may be a constant."""

    def view(operation, template, outputs):
        left, right = _pair(template)
        if left is None and right is None:
            return Sum(reading({"kernel": constant(signs)}))
        if right is not None:
            kernel, sign, value = None, signs[1], right
        else:
            kernel, sign, value = constant(signs[1]), signs[0], left
        return scaling(outputs[0].shape, kernel, _reading(value, lambda v: sign * v), (), _shape(value))

    return view


def _multiply(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Product()
    factor = right if left is None else left
    return scaling(outputs[0].shape, _reading(factor), kernel_shape=_shape(factor))


def _divide(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Quotient()
    if right is None:
        return Activation(template.bind(operation.call), "reciprocal")
    return scaling(outputs[0].shape, _reading(right, lambda v: 1.0 / v), kernel_shape=_shape(right))


def _negative(operation, template, outputs):
    return scaling(outputs[0].shape, constant(-1.0))


def _power(operation, template, outputs):
    left, right = _pair(template)
    return Activation(template.bind(operation.call), "power") if (left is None) != (right is None) else None


def _extremum(operation, template, outputs):
    """The larger or smaller of two; with a constant an activation: the larger of x and 0 is the ReLU."""
    left, right = _pair(template)
    name, function = type(operation).__name__, template.bind(operation.call)
    if left is None and right is None:
        return Routing(function, name)
    value = right if left is None else left
    if name == "Maximum" and isinstance(value, int | float) and value == 0:
        return Activation(function, "relu")
    return Activation(function, name.lower())


def _matmul(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Contraction(template.bind(operation.call), _snake(type(operation).__name__))
    if left is None and len(right.shape) == 2:
        return Dense(reading({"kernel": _reading(right)}))
    if right is None and len(left.shape) == 2 and len(outputs[0].shape) > 2 and type(operation).__name__ == "Matmul":
        return Einsum(reading({"kernel": _reading(left)}), "...jk,ij->...ik")
    return None


def _einsum(operation, template, outputs):
    subscripts = getattr(operation, "subscripts", None)
    operands = [a for a in template.args if not isinstance(a, str)]
    if all(map(_is_slot, operands)) and len(operands) > 1:
        return Contraction(template.bind(operation.call), "einsum")
    if len(operands) != 2 or "->" not in subscripts:
        return None
    left, output = subscripts.replace(" ", "").split("->")
    terms = left.split(",")
    x, kernel = (0, 1) if _is_slot(operands[0]) else (1, 0)
    return Einsum(reading({"kernel": _reading(operands[kernel])}), f"{terms[x]},{terms[kernel]}->{output}")


def _contraction(operation, template, outputs):
    if len(_tensors(template)) < 2:
        return None
    return Contraction(template.bind(operation.call), _snake(type(operation).__name__))


def _resize(operation, template, outputs):
    kind, function = operation.interpolation, template.bind(operation.call)
    if kind == "nearest" or getattr(operation, "fill_value", 0):
        return Routing(function, "Resize")
    return Interpolation(function, "Resize", keeps_sign=kind == "bilinear")


def _reshape(operation, template, outputs):
    """What symbolic calls leave unknown of the new shape is the size of the batch, or what is left over."""

    def reshape(x):
        sizes = [-1 if n is None else n for n in operation.newshape]
        if operation.newshape and operation.newshape[0] is None:
            sizes[0] = tf.shape(x)[0]
        return tf.reshape(x, sizes)

    known = None not in operation.newshape
    return Routing(template.bind(operation.call) if known else reshape, "Reshape")


def _broadcast_to(operation, template, outputs):
    """What symbolic calls leave unknown of the new shape is the size that the tensor has there already."""

    def broadcast(x):
        own = [None] * (len(operation.shape) - x.shape.rank) + tf.unstack(tf.shape(x))
        return tf.broadcast_to(x, [m if n is None else n for n, m in zip(operation.shape, own, strict=True)])

    known = None not in operation.shape
    return Routing(template.bind(operation.call) if known else broadcast, "BroadcastTo")


def _take(operation, template, outputs):
    table, indices = _pair(template)
    if table is not None and operation.axis == 0:
        return Embedding(_reading(table))
    return Routing(template.bind(operation.call), "Take")


def _batch_normalization(operation, template, outputs):
    given = template.named(operation.call)
    if any(_is_slot(value) for name, value in given.items() if name != "x"):
        return None
    sources = {name: _reading(value) for name, value in given.items() if name != "x" and value is not None}

    def weights(dtype):
        values = {name: source(dtype) for name, source in sources.items()}
        kernel = tf.math.rsqrt(values["variance"] + operation.epsilon) * values.get("scale", 1)
        return {"kernel": kernel, "bias": values.get("offset", 0) - values["mean"] * kernel}

    return BatchNorm(weights, operation.axis % len(outputs[0].shape))


def _own_affine(given, kernel, bias, shape=None):
    """Reader of a normalization's scale and shift, from the arguments that were given."""
    names = {"kernel": kernel, "bias": bias}
    given = {name: given.get(argument) for name, argument in names.items()}
    return reading(
        {
            name: _reading(value, lambda v: v if shape is None else tf.reshape(v, shape))
            for name, value in given.items()
            if value is not None
        }
    )


def _axes(operation, outputs):
    return [axis % len(outputs[0].shape) for axis in keras.tree.flatten(operation.axis)]


def _layer_normalization(operation, template, outputs):
    given, axes = template.named(operation.call), _axes(operation, outputs)
    if len(_tensors(template)) > 1:
        return None
    shape = [n if i in axes else 1 for i, n in enumerate(outputs[0].shape)]
    weights = _own_affine(given, "gamma", "beta", shape)
    return normalization.of_layer(weights, axes, _epsilon(operation), operation.rms_scaling)


def _rms_normalization(operation, template, outputs):
    if len(_tensors(template)) > 1:
        return None
    weights = _own_affine(template.named(operation.call), "scale", None)
    return normalization.of_root_mean_square(weights, _axes(operation, outputs), _epsilon(operation))


def _normalize(operation, template, outputs):
    if operation.order != 2:
        return None
    return normalization.to_unit_norm(_axes(operation, outputs), _epsilon(operation))


def _epsilon(operation):
    return keras.config.epsilon() if operation.epsilon is None else operation.epsilon


def _convolution(kind):
    def view(operation, template, outputs):
        rank = len(outputs[0].shape) - 2
        data_format = operation.data_format or keras.config.image_data_format()
        geometry = (
            _tuple(operation.strides, rank),
            operation.padding,
            _tuple(operation.dilation_rate, rank),
            data_format,
        )
        kernels = [*template.args[1:], *template.kwargs.values()]
        if kind is SeparableConv:
            sources = {"depthwise_kernel": _reading(kernels[0]), "pointwise_kernel": _reading(kernels[1])}
        else:
            sources = {"kernel": _reading(kernels[0])}
        if any(map(_is_slot, kernels)):
            return None
        return kind(reading(sources), *geometry, *((operation.output_padding,) if kind is ConvTranspose else ()))

    return view


def _tuple(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _mean(operation, template, outputs):
    return AveragePool(template.bind(operation.call), "mean", count=windows.of_mean(operation.axis))


def _total(operation, template, outputs):
    def average(x):
        return operation.call(x)

    return AveragePool(average, "sum")


def _pooling(operation, template, outputs):
    """Size, strides, padding and data format of a pooling, and whether it has three dimensions."""
    rank = len(outputs[0].shape) - 2
    size = _tuple(operation.pool_size, rank)
    data_format = operation.data_format or keras.config.image_data_format()
    return size, _tuple(operation.strides or size, rank), operation.padding, data_format


def _average_pool(operation, template, outputs):
    function, geometry = template.bind(operation.call), _pooling(operation, template, outputs)
    if len(outputs[0].shape) == 5:
        function = windows.pooling_3d(ops.average_pool, function, *geometry)
    return AveragePool(function, "average_pool", count=windows.of_pooling(*geometry))


def _max_pool(operation, template, outputs):
    function = template.bind(operation.call)
    if len(outputs[0].shape) == 5:
        function = windows.pooling_3d(ops.max_pool, function, *_pooling(operation, template, outputs))
    return Routing(function, "MaxPool")


def _pad(operation, template, outputs):
    function, mode = template.bind(operation.call), operation.mode
    if mode != "constant":
        return Routing(function, "Pad")
    fill = template.argument(operation.call, "constant_values")
    if fill is not None and np.any(np.asarray(ops.convert_to_numpy(fill))):
        return None
    rank = len(outputs[0].shape)
    widths = np.broadcast_to(np.asarray(operation.pad_width), (rank, 2))
    return ZeroPad(function, "Pad", widths=tuple(map(tuple, widths.tolist())))


ARITHMETIC = {
    "Add": _linear_combination((1.0, 1.0)),
    "Subtract": _linear_combination((1.0, -1.0)),
    "Multiply": _multiply,
    "Divide": _divide,
    "TrueDivide": _divide,
    "Negative": _negative,
    "Power": _power,
    "Maximum": _extremum,
    "Minimum": _extremum,
    "Matmul": _matmul,
    "Dot": _matmul,
    "Tensordot": _contraction,
    "Inner": _contraction,
    "Vdot": _contraction,
    "Outer": _contraction,
    "Einsum": _einsum,
    "Conv": _convolution(Conv),
    "DepthwiseConv": _convolution(DepthwiseConv),
    "SeparableConv": _convolution(SeparableConv),
    "ConvTranspose": _convolution(ConvTranspose),
    "Mean": _mean,
    "Sum": _total,
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Reshape": _reshape,
    "BroadcastTo": _broadcast_to,
    "Resize": _resize,
    "Take": _take,
    "BatchNorm": _batch_normalization,
    "LayerNorm": _layer_normalization,
    "RMSNorm": _rms_normalization,
    "Normalize": _normalize,
}
"""Name of the class of a Keras operation -> view, None where the arguments do not fit a rule."""
