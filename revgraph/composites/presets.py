"""Presets, which are composites that have a name.

The presets `epsilon_*` follow a guideline of [MONTAVON2019]: epsilon for the dense layers near the output, z+,
alpha-beta or gamma for convolutions, and flat or the box rule for the first layer. Their names are those of zennit.
`revgraph.reverse_rules.rules` explains the rules. Arguments `epsilon` are stabilisers.

References:
    [MONTAVON2019] Montavon et al.: Layer-Wise Relevance Propagation: An Overview. In: Explainable AI, LNCS 11700, 2019.
    [ZHANG2018] Zhang et al.: Top-Down Neural Attention by Excitation Backprop. International Journal of Computer
        Vision 126(10), 2018.
"""

from typing import Any

from revgraph.composites.composite import Composite
from revgraph.composites.matchers import (
    ANY,
    CONTRACTION,
    CONVOLUTION,
    DENSE,
    EMBEDDING,
    FIRST,
    INTERPOLATION,
    LINEAR,
    LINEAR_MAP,
    NORMALIZATION,
    POOLING,
    PROJECTION,
    RELU,
    SATURATION,
    SCALE,
    STATES,
    SUM,
    Entry,
)
from revgraph.composites.structure import STRUCTURE
from revgraph.graph.arguments import check_number
from revgraph.reverse_rules import (
    AlphaBeta,
    DeconvNet,
    Epsilon,
    Flat,
    Gamma,
    Gate,
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
"""The gradient. At every site relevance goes back through the transposed Jacobian."""

INPUT_TIMES_GRADIENT = Composite(
    (EMBEDDING, SumOverEmbedding(times_row=True)), (ANY, Jacobian()), name="input_t_gradient"
)
"""The gradient, with that of an embedding multiplied by the embedding. The analyzer multiplies by the input."""

DECONVNET = Composite((EMBEDDING, SumOverEmbedding()), (RELU, DeconvNet()), (ANY, Jacobian()), name="deconvnet")
"""Deconvnet: the gradient, but ReLUs let positive relevance pass, and drop negative relevance."""

GUIDED_BACKPROP = Composite(
    (EMBEDDING, SumOverEmbedding()), (RELU, GuidedBackprop()), (ANY, Jacobian()), name="guided_backprop"
)
"""Guided backpropagation: the gradient, but ReLUs drop negative relevance."""


def beta_smooth(beta: float = 10.0) -> Composite:
    """The gradient of the network with smoothed ReLUs.

    Args:
        beta: Sharpness of the smoothed ReLU, see `ReLUBetaSmooth`.
    """
    return Composite(
        (EMBEDDING, SumOverEmbedding()), (RELU, ReLUBetaSmooth(beta)), (ANY, Jacobian()), name="beta_smooth"
    )


def everywhere(rule: Rule) -> Composite:
    """One rule for every linear layer, which means every dense layer and convolution.

    Some rules get other sites, too:

    * `Z` and `Epsilon` also apply to scale and shift, normalizations, linear maps and interpolations. Other rules let
      relevance pass there unchanged.
    * `Flat`, `WSquare` and `ZBox` also apply to average pooling. For other rules the entries of a window share in
      proportion to their values.

    Args:
        rule: The rule.
    """
    if isinstance(rule, Z | Epsilon):
        defaults = (*_affine(rule), *STRUCTURE)
        return Composite((LINEAR, rule), (SCALE, rule), defaults=defaults, name=type(rule).__name__)
    pooling = [(POOLING, rule)] if isinstance(rule, Flat | WSquare | ZBox) else []
    return Composite((LINEAR, rule), *pooling, name=type(rule).__name__)


def _affine(rule):
    """Entries for everything that is affine, or affine in pieces: the rule, or one that conserves as precisely."""
    tight = min(rule.epsilon, Epsilon().epsilon)
    return (
        (STATES, Epsilon(rule.epsilon)),
        (SUM, Epsilon(tight)),
        (POOLING, Norm(epsilon=tight)),
        (NORMALIZATION, rule),
        (LINEAR_MAP, rule),
        (CONTRACTION, Gate(epsilon=tight)),
        (INTERPOLATION, rule),
        (SATURATION, Saturation()),
    )


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """z+ for convolutions, epsilon for dense layers."""
    return Composite((CONVOLUTION, ZPlus()), (DENSE, Epsilon(epsilon)), name="epsilon_plus")


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """z+ for convolutions, epsilon for dense layers, flat for the first linear layer."""
    return Composite((FIRST, Flat()), *epsilon_plus(epsilon).entries, name="epsilon_plus_flat")


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """alpha 2 beta 1 for convolutions, epsilon for dense layers."""
    return Composite((CONVOLUTION, AlphaBeta(2, 1)), (DENSE, Epsilon(epsilon)), name="epsilon_alpha2_beta1")


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """alpha 2 beta 1 for convolutions, epsilon for dense layers, flat for the first linear layer."""
    return Composite((FIRST, Flat()), *epsilon_alpha2_beta1(epsilon).entries, name="epsilon_alpha2_beta1_flat")


def epsilon_gamma_box(low: Any = None, high: Any = None, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """gamma for convolutions, epsilon for dense layers, the box rule for the first layer if it is a convolution.

    Args:
        low, high: Bounds of what the first layer reads: numbers, or arrays such as one value per channel. None takes
            those that were declared for the model's input (`input_bounds`).
        gamma: How much `Gamma` favours positive contributions.
        epsilon: The stabiliser of dense layers.
    """
    return Composite(
        (FIRST & CONVOLUTION, ZBox(low, high)),
        (CONVOLUTION, Gamma(gamma)),
        (DENSE, Epsilon(epsilon)),
        name="epsilon_gamma_box",
    )


def excitation_backprop() -> Composite:
    """Excitation backprop: z+ without bias on every linear layer.  [ZHANG2018]

    The paper has no bias in its denominators. zennit's preset of this name keeps the bias, which then absorbs its
    share. `everywhere(ZPlus())` keeps it, too.
    """
    return Composite((LINEAR, ZPlus(bias=False)), name="excitation_backprop")


def vit(epsilon: float = 1e-6, gamma: float = 0.05, patch_gamma: float = 0.25) -> Composite:
    """For vision transformers: gamma for patches, feed-forward layers and the head, epsilon for everything else.

    Attention hands all relevance to its values (CP), unless the analyzer says otherwise.  [ACHTIBAT2024, appendix]

    Args:
        epsilon: The stabiliser of the layers that make queries, keys and values, or read what attention gives.
        gamma: gamma of the feed-forward layers and the head.
        patch_gamma: gamma of the convolution that reads the patches.
    """
    check_number("patch_gamma", patch_gamma, least=0)
    return Composite(
        (FIRST & CONVOLUTION, Gamma(patch_gamma)),
        (PROJECTION, Epsilon(epsilon)),
        (DENSE, Gamma(gamma)),
        *everywhere(Epsilon(epsilon)).entries,
        defaults=everywhere(Epsilon(epsilon)).defaults,
        name="vit",
    )


def sequential_preset(alpha: float, beta: float, epsilon: float = 0.1, first: Rule | None = None) -> Composite:
    """iNNvestigate's preset: alpha-beta for convolutions, epsilon for dense layers.

    Args:
        alpha, beta: Weights of the positive and of the negative contributions, alpha - beta = 1.
        epsilon: The stabiliser of dense layers.
        first: The rule of the first linear layer. None for none of its own.
    """
    entries: list[Entry] = [(CONVOLUTION, AlphaBeta(alpha, beta)), (DENSE, Epsilon(epsilon))]
    if first is not None:
        entries.insert(0, (FIRST, first))
    return Composite(*entries, name="sequential_preset")
