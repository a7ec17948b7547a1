"""Which operation each raw `keras.ops` call or operator is, by the name of its class."""

import keras
import numpy as np
from keras import ops

from revgraph.graph.operations import (
    Activation,
    Contraction,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    LinearMap,
    Operation,
    Product,
    Quotient,
    Routing,
    SeparableConv,
    Sum,
    constant,
    reading,
)
from revgraph.read.keras import routing, scaling
from revgraph.read.keras.activations import ACTIVATIONS, operation_activation, relu_name, snake
from revgraph.read.keras.template import Slot, known


def tensor_operation(operation, template, outputs) -> Operation | None:
    """The operation of a raw Keras operation; None where there is none."""
    view = VIEWS.get(type(operation).__name__)
    found = None if view is None else view(operation, template, outputs)
    # Integers are moved; arithmetic with them makes counts and places, which have no relevance of their own.
    moves = isinstance(found, Routing) or "float" in keras.backend.standardize_dtype(outputs[0].dtype)
    return found if moves else None


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


EXPANSIONS = {"Glu": _glu, "Moments": _moments}
"""Name of the class of a Keras operation -> what it is made of."""


def _pair(template):
    """The two operands; None in place of the one that is a tensor of the graph."""
    values = [*template.args, *template.kwargs.values()][:2]
    return [None if isinstance(v, Slot) else v for v in values]


def _shape(value):
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def _relu(operation, template, outputs):
    return Activation(template.bind(operation.call), relu_name(operation))


def _linear_map(operation, template, outputs):
    return LinearMap(reading({}), template.bind(operation.call), type(operation).__name__)


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
        shape = _shape(value)
        if signs == (1.0, 1.0) and right is not None:
            shape = scaling.shape_of_summand(shape, outputs[0].shape)
        source = scaling.value_source(value, lambda v: ops.reshape(sign * v, shape))
        return scaling.scaling(outputs[0].shape, kernel, source, (), shape)

    return view


def _multiply(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Product()
    factor = right if left is None else left
    return scaling.scaling(outputs[0].shape, scaling.value_source(factor), kernel_shape=_shape(factor))


def _divide(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Quotient()
    if right is None:
        return Activation(template.bind(operation.call), "reciprocal")
    return scaling.scaling(outputs[0].shape, scaling.value_source(right, lambda v: 1.0 / v), kernel_shape=_shape(right))


def _negative(operation, template, outputs):
    return scaling.scaling(outputs[0].shape, constant(-1.0))


def _power(operation, template, outputs):
    left, right = _pair(template)
    return Activation(template.bind(operation.call), "power") if (left is None) != (right is None) else None


def _extremum(name):
    """The larger or smaller of two; with a constant an activation: the larger of x and 0 is the ReLU."""

    def view(operation, template, outputs):
        left, right = _pair(template)
        if left is None and right is None:
            return routing.routing(operation.call, template, name, data=("x1", "x2"), flags=routing.CHOICES)
        zero = known(right if left is None else left, lambda values: values == 0)
        return Activation(template.bind(operation.call), "relu" if zero and name == "Maximum" else name.lower())

    return view


def _matmul(operation, template, outputs):
    left, right = _pair(template)
    if left is None and right is None:
        return Contraction(template.bind(operation.call), snake(type(operation).__name__))
    if left is None and len(right.shape) == 2:
        return Dense(reading({"kernel": scaling.value_source(right)}))
    if right is None and len(left.shape) == 2 and len(outputs[0].shape) > 2 and type(operation).__name__ == "Matmul":
        return Einsum(reading({"kernel": scaling.value_source(left)}), "...jk,ij->...ik")
    return None


def _einsum(operation, template, outputs):
    subscripts = getattr(operation, "subscripts", None)
    operands = [a for a in template.args if not isinstance(a, str)]
    if len(template.slots()) == len(operands) and len(operands) > 1:
        return Contraction(template.bind(operation.call), "einsum")
    if len(operands) != 2 or "->" not in subscripts:
        return None
    left, output = subscripts.replace(" ", "").split("->")
    terms = left.split(",")
    x, kernel = (0, 1) if isinstance(operands[0], Slot) else (1, 0)
    return Einsum(reading({"kernel": scaling.value_source(operands[kernel])}), f"{terms[x]},{terms[kernel]}->{output}")


def _contraction(operation, template, outputs):
    if len(template.slots()) < 2:
        return None
    return Contraction(template.bind(operation.call), snake(type(operation).__name__))


def _take(operation, template, outputs):
    table, indices = _pair(template)
    if table is None:
        return routing.moved(operation, template, outputs)
    return Embedding(scaling.value_source(table)) if operation.axis == 0 else None


def _convolution(kind):
    def view(operation, template, outputs):
        rank = len(outputs[0].shape) - 2
        data_format = operation.data_format or keras.config.image_data_format()
        geometry = (
            routing.as_tuple(operation.strides, rank),
            operation.padding,
            routing.as_tuple(operation.dilation_rate, rank),
            data_format,
        )
        kernels = [*template.args[1:], *template.kwargs.values()]
        if kind is SeparableConv:
            sources = {
                "depthwise_kernel": scaling.value_source(kernels[0]),
                "pointwise_kernel": scaling.value_source(kernels[1]),
            }
        else:
            sources = {"kernel": scaling.value_source(kernels[0])}
        if len(template.slots()) > 1:
            return None
        return kind(reading(sources), *geometry, *((operation.output_padding,) if kind is ConvTranspose else ()))

    return view


VIEWS = {
    **dict.fromkeys(ACTIVATIONS, operation_activation),
    **dict.fromkeys(routing.ROUTINGS, routing.moved),
    **dict.fromkeys("Cumsum Diff Trace Trapezoid".split(), _linear_map),
    **dict.fromkeys("Cast SaturateCast ConvertToTensor Copy".split(), routing.cast),
    "ReLU": _relu,
    "Add": _linear_combination((1.0, 1.0)),
    "Subtract": _linear_combination((1.0, -1.0)),
    "Multiply": _multiply,
    "Divide": _divide,
    "TrueDivide": _divide,
    "Negative": _negative,
    "Power": _power,
    "Maximum": _extremum("Maximum"),
    "Minimum": _extremum("Minimum"),
    "Fmax": _extremum("Maximum"),
    "Fmin": _extremum("Minimum"),
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
    "Mean": routing.mean,
    "Sum": routing.total,
    "AveragePool": routing.average_pool,
    "AdaptiveMaxPool": routing.adaptive_max_pool,
    "AdaptiveAveragePool": routing.adaptive_average_pool,
    "MaxPool": routing.max_pool,
    "Pad": routing.pad,
    "Reshape": routing.reshape,
    "View": routing.view,
    "BroadcastTo": routing.broadcast_to,
    "Resize": routing.resize,
    "Take": _take,
    "SliceUpdate": routing.slice_update,
    "Where": routing.where,
    "BatchNorm": scaling.batch_normalization_operation,
    "LayerNorm": scaling.layer_normalization_operation,
    "RMSNorm": scaling.rms_normalization_operation,
    "Normalize": scaling.normalize_operation,
}
"""Name of the class of a Keras operation -> view, which gives None where the arguments do not fit a rule."""
