"""Which operation each raw `keras.ops` call or operator is, by the name of its class."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph import windows
from revgraph.graph.operations import (
    Activation,
    AveragePool,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Operation,
    Product,
    Routing,
    Scale,
    SeparableConv,
    Sum,
    constant,
    live,
    reading,
)

ACTIVATIONS = frozenset(
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu "
    "HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Softmax LogSoftmax Sparsemax "
    "Tanh Clip".split()
)

ROUTINGS = frozenset(
    "AdaptiveMaxPool Amax Amin BroadcastTo Concatenate CropImages DepthToSpace Diagonal Dstack ExpandDims Flip Fliplr "
    "Flipud GetItem Hsplit Hstack Max MaxPool Maximum Min Minimum Moveaxis PadImages Ravel Rearrange Repeat Reshape "
    "Resize Roll Rot90 Slice SpaceToDepth Split Squeeze Stack Swapaxes Take TakeAlongAxis Tile Transpose Tril Triu "
    "Unstack View Vsplit Vstack".split()
)

IDENTITY_OPS = frozenset("Cast SaturateCast ConvertToTensor StopGradient Copy NanToNum".split())


def tensor_operation(operation, template, outputs) -> Operation | None:
    """The operation of a raw Keras operation; None where there is none."""
    name = type(operation).__name__
    function = template.bind(operation.call)
    if name in IDENTITY_OPS:
        return Routing(lambda x: x, name)
    if name in ACTIVATIONS and not _constants(template, skip=1):
        return Activation(function, name.lower())
    if name in ROUTINGS:
        if name in ("Maximum", "Minimum") and len(_tensors(template)) == 1:
            return Activation(function, name.lower())
        return Routing(function, name, len(outputs))
    if name in ARITHMETIC:
        return ARITHMETIC[name](operation, template, outputs)
    return None


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


def _linear_combination(signs):
    """`a + b`, `a - b`, where one operand may be a constant."""

    def view(operation, template, outputs):
        left, right = _pair(template)
        if left is None and right is None:
            return Sum(reading({"kernel": constant(signs)}))
        if right is not None:
            sign, kernel, value = signs[1], 1.0, right
        else:
            sign, kernel, value = signs[0], signs[1], left
        return _scaled_like(outputs, kernel, _reading(value, lambda v: sign * v))

    return view


def _scaled_like(outputs, kernel, bias=None):
    kernel = kernel if callable(kernel) else _reading(kernel)
    sources = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    return Scale(reading(sources))


def _multiply(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Product()
    return _scaled_like(outputs, _reading(right if left is None else left))


def _divide(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is not None:
        return _scaled_like(outputs, _reading(right, lambda v: 1.0 / v))
    return None


def _negative(operation, template, outputs):
    return Scale(reading({"kernel": constant(-1.0)}))


def _matmul(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is not None and len(right.shape) == 2:
        return Dense(reading({"kernel": _reading(right)}))
    return None


def _einsum(operation, template, outputs):
    subscripts = getattr(operation, "subscripts", None)
    operands = [a for a in template.args if not isinstance(a, str)]
    if len(operands) != 2 or not _is_slot(operands[0]) or _is_slot(operands[1]) or "->" not in subscripts:
        return None
    return Einsum(reading({"kernel": _reading(operands[1])}), subscripts)


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


def _average_pool(operation, template, outputs):
    rank = len(outputs[0].shape) - 2
    data_format = operation.data_format or keras.config.image_data_format()
    size = _tuple(operation.pool_size, rank)
    count = windows.of_pooling(size, _tuple(operation.strides or size, rank), operation.padding, data_format)
    return AveragePool(template.bind(operation.call), "average_pool", count=count)


def _pad(operation, template, outputs):
    value = operation.call.__defaults__ and template.kwargs.get("constant_values")
    positional = template.args[1] if len(template.args) > 1 else None
    fill = value if value is not None else positional
    if fill is not None and np.any(np.asarray(ops.convert_to_numpy(fill)) != 0):
        return None
    return Routing(template.bind(operation.call), "pad")


ARITHMETIC = {
    "Add": _linear_combination((1.0, 1.0)),
    "Subtract": _linear_combination((1.0, -1.0)),
    "Multiply": _multiply,
    "Divide": _divide,
    "TrueDivide": _divide,
    "Negative": _negative,
    "Matmul": _matmul,
    "Dot": _matmul,
    "Einsum": _einsum,
    "Conv": _convolution(Conv),
    "DepthwiseConv": _convolution(DepthwiseConv),
    "SeparableConv": _convolution(SeparableConv),
    "ConvTranspose": _convolution(ConvTranspose),
    "Mean": _mean,
    "Sum": _total,
    "AveragePool": _average_pool,
    "Pad": _pad,
}
"""Name of the class of a Keras operation -> view, None where the arguments do not fit a rule."""
