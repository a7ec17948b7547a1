"""Composites with a name of their own."""

from typing import Any

from revgraph.composites.composite import Composite
from revgraph.composites.matchers import (
    ANY,
    CONVOLUTION,
    DENSE,
    EMBEDDING,
    FIRST,
    INTERPOLATION,
    LINEAR,
    LINEAR_MAP,
    NORMALIZATION,
    POOLING,
    RELU,
    SATURATION,
    SCALE,
    SUM,
)
from revgraph.composites.structure import STRUCTURE
from revgraph.reverse_rules import (
    AlphaBeta,
    DeconvNet,
    Epsilon,
    Flat,
    Gamma,
    GuidedBackprop,
    Jacobian,
    Norm,
    ReLUBetaSmooth,
    Rule,
    Saturation,
    SumOverEmbedding,
    WSquare,
    Z,
    ZBox,
    ZPlus,
)

GRADIENT = Composite((EMBEDDING, SumOverEmbedding()), (ANY, Jacobian()), name="gradient")
INPUT_TIMES_GRADIENT = Composite(
    (EMBEDDING, SumOverEmbedding(times_row=True)), (ANY, Jacobian()), name="input_t_gradient"
)
DECONVNET = Composite((EMBEDDING, SumOverEmbedding()), (RELU, DeconvNet()), (ANY, Jacobian()), name="deconvnet")
GUIDED_BACKPROP = Composite(
    (EMBEDDING, SumOverEmbedding()), (RELU, GuidedBackprop()), (ANY, Jacobian()), name="guided_backprop"
)


def beta_smooth(beta=10.0) -> Composite:
    """The gradient with smoothed ReLUs."""
    return Composite(
        (EMBEDDING, SumOverEmbedding()), (RELU, ReLUBetaSmooth(beta)), (ANY, Jacobian()), name="beta_smooth"
    )


def everywhere(rule: Rule) -> Composite:
    """One rule for every linear layer.

    Scale and shift take part in Z and Epsilon, through which other rules pass; Flat, WSquare and ZBox apply to average
    pooling as they are, where other rules share out in proportion.
    """
    if isinstance(rule, Z | Epsilon):
        defaults = (*_affine(rule), *STRUCTURE)
        return Composite((LINEAR, rule), (SCALE, rule), defaults=defaults, name=type(rule).__name__)
    pooling = [(POOLING, rule)] if isinstance(rule, Flat | WSquare | ZBox) else []
    return Composite((LINEAR, rule), *pooling, name=type(rule).__name__)


def _affine(rule):
    """Entries by which everything affine, or affine in pieces, gets Z or Epsilon, or what conserves as precisely."""
    tight = min(rule.epsilon, Epsilon().epsilon)
    return (
        (SUM, Epsilon(tight)),
        (POOLING, Norm(epsilon=tight)),
        (NORMALIZATION, rule),
        (LINEAR_MAP, rule),
        (INTERPOLATION, rule),
        (SATURATION, Saturation()),
    )


def epsilon_plus(epsilon=1e-6) -> Composite:
    """Convolutions z+, dense layers epsilon."""
    return Composite((CONVOLUTION, ZPlus()), (DENSE, Epsilon(epsilon)), name="epsilon_plus")


def epsilon_plus_flat(epsilon=1e-6) -> Composite:
    """Convolutions z+, dense layers epsilon, the first linear layer flat."""
    return Composite((FIRST, Flat()), *epsilon_plus(epsilon).entries, name="epsilon_plus_flat")


def epsilon_alpha2_beta1(epsilon=1e-6) -> Composite:
    """Convolutions alpha 2 beta 1, dense layers epsilon."""
    return Composite((CONVOLUTION, AlphaBeta(2, 1)), (DENSE, Epsilon(epsilon)), name="epsilon_alpha2_beta1")


def epsilon_alpha2_beta1_flat(epsilon=1e-6) -> Composite:
    """Convolutions alpha 2 beta 1, dense layers epsilon, the first linear layer flat."""
    return Composite((FIRST, Flat()), *epsilon_alpha2_beta1(epsilon).entries, name="epsilon_alpha2_beta1_flat")


def epsilon_gamma_box(low=None, high=None, gamma=0.25, epsilon=1e-6) -> Composite:
    """Convolutions gamma, dense layers epsilon, the first convolution z^B with the bounds of the input."""
    return Composite(
        (FIRST & CONVOLUTION, ZBox(low, high)),
        (CONVOLUTION, Gamma(gamma)),
        (DENSE, Epsilon(epsilon)),
        name="epsilon_gamma_box",
    )


def excitation_backprop() -> Composite:
    """z+ without bias on every linear layer."""
    return Composite((LINEAR, ZPlus(bias=False)), name="excitation_backprop")


def sequential_preset(alpha, beta, epsilon=0.1, first: Any = None) -> Composite:
    """Dense layers epsilon, convolutions alpha-beta; `first` is the first layer's own rule, if any."""
    entries = [(CONVOLUTION, AlphaBeta(alpha, beta)), (DENSE, Epsilon(epsilon))]
    if first is not None:
        entries.insert(0, (FIRST, first))
    return Composite(*entries, name="sequential_preset")
