"""The rules by which relevance walks back through one site, and the engine that computes them."""

from revgraph.reverse_rules.engine import (
    Absorbed,
    Part,
    Pullback,
    ReplacementLayer,
    Rule,
    SafeDivide,
    SiteCall,
    Term,
    identity,
    neg,
    on,
    ones,
    per_sample,
    pos,
)
from revgraph.reverse_rules.rules import (
    AlphaBeta,
    DeconvNet,
    Epsilon,
    Flat,
    Gamma,
    GuidedBackprop,
    Jacobian,
    Norm,
    Pass,
    SumOverEmbedding,
    WSquare,
    Z,
    ZBox,
    ZPlus,
    ZPlusFast,
)

__all__ = [
    "Absorbed", "AlphaBeta", "DeconvNet", "Epsilon", "Flat", "Gamma", "GuidedBackprop", "Jacobian", "Norm", "Part",
    "Pass", "Pullback", "ReplacementLayer", "Rule", "SafeDivide", "SiteCall", "SumOverEmbedding", "Term", "WSquare",
    "Z", "ZBox", "ZPlus", "ZPlusFast", "identity", "neg", "on", "ones", "per_sample", "pos",
]  # fmt: skip
