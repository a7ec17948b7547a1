"""Which activation a piece of pointwise arithmetic is, told by its values.

TensorFlow spells most activations out: `x * sigmoid(x)` for SiLU, a product with `erfc` for GELU. What such a piece
computes is seen best from what it computes: its values at some points are compared with those of the activations that
have a name.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from revgraph.graph.operations import Activation
from revgraph.read.savedmodel.nodes import Node, runner
from revgraph.read.savedmodel.weights import Weight, in_dtype

POINTS = np.concatenate(
    [
        np.linspace(-9.03, 9.01, 37),
        [-0.31, -0.07, 0.05, 0.27, 60.3, -60.7],
        # A threshold close to zero and a bound far from it show here only.
        *([-x, x] for x in (1e-4, 1e-3, 0.011, 23.0, 150.0, 1e3, 1e5, 1e7)),
    ]
)
"""Where pieces are compared."""

CLOSE = 43
"""How many of the points are close enough to zero for every activation to be finite there."""

EXACT = 1e-12
"""Difference up to which two functions compute the same numbers."""

NEGATIVE, POSITIVE, SMALL = 0, 36, 39
"""Positions of a negative, a positive, and a small positive point."""

POINTWISE = frozenset(
    "Abs Add AddV2 BiasAdd Cast ClipByValue Cos Div DivNoNan Elu Equal Erf Erfc Exp Expm1 Greater GreaterEqual Inv "
    "LeakyRelu Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mul Neg NotEqual OnesLike Pow "
    "RealDiv Reciprocal Relu Relu6 Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Softplus Softsign Sqrt Square "
    "SquaredDifference Sub Tanh ZerosLike".split()
)
"""Operations that compute each entry from the entries at the same place, and are what they are to a gradient, too."""

OF_INTEGERS = frozenset(
    "BitwiseAnd BitwiseOr BitwiseXor FloorDiv FloorMod Invert LeftShift Mod RightShift TruncateDiv TruncateMod".split()
)
"""The same of integers alone."""

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
"""TensorFlow operations that are an activation by themselves, and its name."""


def _hard_sigmoid_of_keras_2(x):
    return tf.clip_by_value(0.2 * x + 0.5, 0.0, 1.0)


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
        ("hard_sigmoid", _hard_sigmoid_of_keras_2),
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
        values: What it gives at `POINTS`.
        function: The function.
    """

    values: tf.Tensor
    function: Callable[[tf.Tensor], tf.Tensor]


def start() -> Piece:
    """The tensor itself."""
    return Piece(tf.constant(POINTS), lambda x: x)


def node_piece(node: Node, pieces) -> Piece:
    """A pointwise node as a piece, from the pieces of the slots that it reads."""
    # A bias wants an axis of channels, which points have not.
    run = (lambda x, b: [x + b]) if node.type == "BiasAdd" else runner(node.operation, "float64")
    whole = node.function()
    given = iter(pieces)
    arguments = (
        in_dtype(tf.reshape(a.value, ()), "float64") if isinstance(a, Weight) else next(given).values
        for a in node.arguments
    )
    return Piece(run(*arguments)[0], lambda x: whole(*(piece.function(x) for piece in pieces)))


def recognise(values, tolerance, function) -> Activation | None:
    """The activation that has these values at `POINTS`.

    Args:
        values: Array like `POINTS`.
        tolerance: Largest difference, relative to 1 and to the values, at which two functions are the same.
        function: The piece itself, which stays in use where the activation differs in the last digits, as constants
            of a model often make it do.

    Returns:
        An `Activation`; None where no activation has them.
    """
    if values.shape != POINTS.shape or not np.isfinite(values[:CLOSE]).all() or _is_straight(values):
        return None
    best, error = None, tolerance
    for name, activation, expected in (*_table(), *_families(values)):
        both = np.isfinite(values) & np.isfinite(expected)
        difference = np.max(np.abs(values - expected)[both] / (1 + np.abs(expected[both])))
        # Whoever is told the name may count on the sign.
        if difference < error and not (expected[both].min() >= 0 > values[both].min()):
            best, error = Activation(activation if difference < EXACT else function, name), difference
    return best


def _is_straight(values):
    """Whether the values are those of a straight line, which is a scale and a shift."""
    slopes = np.diff(values[NEGATIVE : POSITIVE + 1])
    return np.ptp(slopes) <= 1e-9 * np.abs(slopes).max()


def _families(values):
    """The members of families of activations that agree with the values at one point: they may be those."""
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
