"""The rules by which relevance walks back through one site, and the engine that computes them."""

from revgraph.reverse_rules.engine import (
    Absorbed,
    Pullback,
    ReplacementLayer,
    Rule,
    SafeDivide,
    SiteCall,
    per_sample,
)
from revgraph.reverse_rules.merging import (
    Bilinear,
    Equal,
    Gate,
    IdentityBranch,
    Only,
    Saturation,
    Unreached,
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
    NormOverEmbedding,
    Padding,
    Pass,
    ReLUBetaSmooth,
    SumOverEmbedding,
    WSquare,
    Z,
    ZBox,
    ZPlus,
    ZPlusFast,
)
from revgraph.reverse_rules.tensorwatch import BRule, ERule
from revgraph.reverse_rules.terms import Part, Term, identity, neg, on, ones, pos

__all__ = [
    "Absorbed", "AlphaBeta", "BRule", "Bilinear", "DeconvNet", "ERule", "Epsilon", "Equal", "Flat", "Gamma", "Gate",
    "GuidedBackprop", "IdentityBranch", "Jacobian", "Norm", "NormOverEmbedding", "Only", "Padding", "Part", "Pass",
    "Pullback", "ReLUBetaSmooth", "ReplacementLayer", "Rule", "SafeDivide", "Saturation", "SiteCall",
    "SumOverEmbedding", "Term", "Unreached", "WSquare", "Z", "ZBox", "ZPlus", "ZPlusFast", "identity", "neg", "on",
    "ones", "per_sample", "pos",
]  # fmt: skip
