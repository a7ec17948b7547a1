"""What is known of activation functions, in one table by name. Of a name that is not in the table nothing is known."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Traits:
    """What is known of a function of one tensor. A trait is False where nothing is known.

    Args:
        pointwise: Every entry of the output depends only on the entry of the input at the same place.
        nonnegative: Its values are never negative.
        rectifier: It is zero wherever its input is not positive.
        relu: Deconvnet and guided backpropagation treat it as a ReLU.
        saturates: It is piecewise linear, and constant where its input is large, or small, or both.
        step: Its derivative is zero, or is defined to be zero.
        gate: It maps to an interval that starts at zero. In a product it is a gate for the other factor.
        squash: It maps to an interval around zero. In some networks such a function is a gate.
        self_gate: It is its input times a gate of its input, like SiLU.
        divisor: It is a number over a power of its input. In a product it divides the other factor.
        probability: It turns logits into probabilities, or into their logarithms.
    """

    pointwise: bool = False
    nonnegative: bool = False
    rectifier: bool = False
    relu: bool = False
    saturates: bool = False
    step: bool = False
    gate: bool = False
    squash: bool = False
    self_gate: bool = False
    divisor: bool = False
    probability: bool = False


UNKNOWN = Traits()
"""Nothing is known."""


def _pointwise(**known):
    return Traits(pointwise=True, **known)


_NONNEGATIVE = _pointwise(nonnegative=True)
_RELU = _pointwise(relu=True)
_SATURATES = _pointwise(saturates=True)
_STEP = _pointwise(step=True)
_SELF_GATE = _pointwise(self_gate=True)

TRAITS: Mapping[str, Traits] = {
    "relu": _pointwise(nonnegative=True, rectifier=True, relu=True),
    "relu6": _pointwise(nonnegative=True, rectifier=True, relu=True, saturates=True, gate=True),
    "bounded_relu": _pointwise(nonnegative=True, rectifier=True, relu=True, saturates=True),
    "sloped_relu": _RELU,
    "bounded_sloped_relu": _pointwise(relu=True, saturates=True),
    "sigmoid": _pointwise(nonnegative=True, gate=True, probability=True),
    "hard_sigmoid": _pointwise(nonnegative=True, saturates=True, gate=True),
    "sparse_sigmoid": _pointwise(nonnegative=True, saturates=True, gate=True),
    "softmax": Traits(nonnegative=True, gate=True, probability=True),
    "sparsemax": Traits(nonnegative=True, gate=True),
    "log_softmax": Traits(probability=True),
    "log_sigmoid": _pointwise(probability=True),
    "tanh": _pointwise(squash=True),
    "hard_tanh": _pointwise(saturates=True, squash=True),
    "softsign": _pointwise(squash=True),
    "erf": _pointwise(squash=True),
    "clip": _pointwise(saturates=True, squash=True),
    "maximum": _SATURATES,
    "minimum": _SATURATES,
    "silu": _SELF_GATE,
    "hard_silu": _SELF_GATE,
    "gelu": _SELF_GATE,
    "mish": _SELF_GATE,
    "softplus": _NONNEGATIVE,
    "sparse_plus": _NONNEGATIVE,
    "squareplus": _NONNEGATIVE,
    "exponential": _NONNEGATIVE,
    "exp": _NONNEGATIVE,
    "absolute": _NONNEGATIVE,
    "square": _NONNEGATIVE,
    "sqrt": _NONNEGATIVE,
    "rsqrt": _pointwise(nonnegative=True, divisor=True),
    "reciprocal": _pointwise(divisor=True),
    "power": _pointwise(),
    "sign": _STEP,
    "round": _STEP,
    "floor": _STEP,
    "ceil": _STEP,
    "stop_gradient": _STEP,
}
"""What is known of each activation, by the name that the readers of models give it."""
