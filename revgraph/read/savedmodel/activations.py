"""Recognises activations that a model spells out in single operations, by their values.

TensorFlow spells out most activations: `x * sigmoid(x)` for SiLU, a product with `erfc` for GELU. Such a piece of
pointwise arithmetic is evaluated at some points, and its values are compared with those of the named activations.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from revgraph.graph.operations import Activation
from revgraph.read import old_files
from revgraph.read.savedmodel.nodes import Node, runner
from revgraph.read.savedmodel.weights import Weight, in_dtype

POINTS = np.concatenate(
    [
        np.linspace(-9.03, 9.01, 37),
        [-0.31, -0.07, 0.05, 0.27, 60.3, -60.7],
        # Only these points show a threshold close to zero, or a bound far from it.
        *([-x, x] for x in (1e-4, 1e-3, 0.011, 23.0, 150.0, 1e3, 1e5, 1e7)),
    ]
)
"""The points at which pieces are compared."""

SOURCES = 12
"""The largest number of tensors over which a piece of pointwise arithmetic is followed back."""

DIGITS = {tf.float16: 5e-3, tf.bfloat16: 3e-2}
"""By dtype, the error with which constants of half precision reproduce the values of an activation."""

CLOSE = 43
"""The number of points, the first ones, that are so close to zero that every activation is finite there."""

EXACT = 1e-12
"""The difference below which two functions compute the same numbers."""

NEGATIVE, POSITIVE, SMALL = 0, 36, 39
"""Positions of a negative, a positive, and a small positive point."""

POINTWISE = frozenset(
    "Abs Add AddV2 BiasAdd Cast ClipByValue Cos Div DivNoNan Elu Equal Erf Erfc Exp Expm1 Greater GreaterEqual Inv "
    "LeakyRelu Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mul Neg NotEqual OnesLike Pow "
    "RealDiv Reciprocal Relu Relu6 Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Softplus Softsign Sqrt Square "
    "SquaredDifference Sub Tanh ZerosLike".split()
)
"""Types of operations that compute each entry from the entries at the same place, and have their usual gradient."""

OF_INTEGERS = frozenset(
    "BitwiseAnd BitwiseOr BitwiseXor FloorDiv FloorMod Invert LeftShift Mod RightShift TruncateDiv TruncateMod".split()
)
"""Types of such operations on integers alone."""

DIRECT = {
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "LogSoftmax": "log_softmax",
    "Relu": "relu",
    "Relu6": "relu6",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
"""Types of operations that are an activation, and the name of the activation."""


def _gelu_by_tanh(x):
    return tf.nn.gelu(x, approximate=True)


def _named():
    names = (
        "relu relu6 elu selu celu silu gelu mish softplus softsign sigmoid log_sigmoid tanh hard_sigmoid hard_silu "
        "hard_tanh hard_shrink soft_shrink tanh_shrink sparse_plus sparse_sigmoid squareplus cbrt"
    )
    # Older versions of Keras have some of them in one place only.
    homes = (keras.activations, keras.ops)
    found = [(name, next(filter(None, (getattr(home, name, None) for home in homes)), None)) for name in names.split()]
    return [
        *((name, function) for name, function in found if function is not None),
        ("gelu", _gelu_by_tanh),
        ("hard_sigmoid", old_files.hard_sigmoid),
    ]


@functools.cache
def _table():
    return [(name, function, _values(function)) for name, function in _named()]


def _values(function):
    return np.asarray(function(tf.constant(POINTS, "float64")))


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Pointwise arithmetic as a function of one tensor.

    Args:
        values: The values of the function at `POINTS`.
        function: The function.
    """

    values: tf.Tensor
    function: Callable[[tf.Tensor], tf.Tensor]


def start() -> Piece:
    """The piece that is the tensor itself."""
    return Piece(tf.constant(POINTS), lambda x: x)


def node_piece(node: Node, pieces: Sequence[Piece]) -> Piece:
    """The piece of a pointwise node.

    Args:
        node: The node.
        pieces: The piece of each slot that it reads, as functions of the same tensor.
    """
    # BiasAdd needs an axis of channels, which points do not have.
    run = (lambda x, b: [x + b]) if node.type == "BiasAdd" else runner(node.operation, "float64")
    whole = node.function()
    given = iter(pieces)
    arguments = (
        in_dtype(tf.reshape(a.value, ()), "float64") if isinstance(a, Weight) else next(given).values
        for a in node.arguments
    )
    return Piece(run(*arguments)[0], lambda x: whole(*(piece.function(x) for piece in pieces)))


def recognise(values: np.ndarray, tolerance: float, function: Callable[[tf.Tensor], tf.Tensor]) -> Activation | None:
    """The activation that has these values at `POINTS`.

    Args:
        values: An array of the shape of `POINTS`.
        tolerance: The largest difference, relative to 1 and to the values, with which two functions count as equal.
        function: The piece itself. It is the function of the activation where its values differ in the last digits,
            because constants of a model are often rounded.

    Returns:
        An `Activation`; None where no activation has these values.
    """
    if values.shape != POINTS.shape or not np.isfinite(values[:CLOSE]).all() or _is_straight(values):
        return None
    best, error = None, tolerance
    for name, activation, expected in (*_table(), *_families(values)):
        both = np.isfinite(values) & np.isfinite(expected)
        difference = np.max(np.abs(values - expected)[both] / (1 + np.abs(expected[both])))
        # The name of an activation promises the sign of its values.
        if difference < error and not (expected[both].min() >= 0 > values[both].min()):
            best, error = Activation(activation if difference < EXACT else function, name), difference
    return best


def _is_straight(values):
    """Whether the values are those of a straight line, which is a scale and a shift and no activation."""
    slopes = np.diff(values[NEGATIVE : POSITIVE + 1])
    return np.ptp(slopes) <= 1e-9 * np.abs(slopes).max()


def _families(values):
    """Candidates from families of activations whose parameter, such as a slope, is fitted to one of the values."""
    at_minus, at_plus = values[NEGATIVE] / POINTS[NEGATIVE], values[POSITIVE] / POINTS[POSITIVE]
    candidates: list[tuple[str, Callable]] = []
    if 0 < at_minus < 1 and np.isclose(at_plus, 1, rtol=1e-6):
        slope = float(at_minus)
        candidates.append(("leaky_relu", lambda x: tf.maximum(x, slope * x)))
    values = values[np.isfinite(values)]
    lowest, top = float(values.min()), float(values.max())
    if POINTS.min() < lowest < top < POINTS.max():
        name = "bounded_relu" if lowest == 0 else "clip"
        candidates.append((name, lambda x: tf.clip_by_value(x, lowest, top)))
    if -9 < lowest < 0:
        candidates.append(("elu", lambda x: tf.where(x > 0, x, -lowest * tf.math.expm1(tf.minimum(x, 0)))))
        candidates.append(("celu", lambda x: tf.where(x > 0, x, -lowest * tf.math.expm1(tf.minimum(x, 0) / -lowest))))
    shrunk = float(POINTS[POSITIVE] - at_plus * POINTS[POSITIVE])
    if 0 < shrunk < POINTS[POSITIVE]:
        candidates.append(("soft_shrink", lambda x: tf.sign(x) * tf.maximum(tf.abs(x) - shrunk, 0)))
    share = values[SMALL] / POINTS[SMALL]
    if 0.5 < share < 1 and at_plus > 0.9:
        beta = float(np.log(share / (1 - share)) / POINTS[SMALL])
        candidates.append(("silu", lambda x: x * tf.sigmoid(beta * x)))
    return [(name, function, _values(function)) for name, function in candidates]
