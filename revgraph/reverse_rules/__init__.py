"""The rules by which relevance goes back through one site of a graph, and what your own rule is made of.

`rules.py` explains the rules and their notation. Import what is not listed here, such as the engine's internals, from
its own module.
"""

from revgraph.reverse_rules.attention import SoftmaxTaylor
from revgraph.reverse_rules.embedding import NormOverEmbedding, SumOverEmbedding
from revgraph.reverse_rules.engine import Absorbed, Pullback, Rule, SafeDivide, SiteCall
from revgraph.reverse_rules.engine import ReplacementLayer as ReplacementLayer
from revgraph.reverse_rules.loops import Turns
from revgraph.reverse_rules.merging import Bilinear, Equal, Gate, IdentityBranch, Only, Saturation, Uniform, Unreached
from revgraph.reverse_rules.relus import DeconvNet, GuidedBackprop, ReLUBetaSmooth
from revgraph.reverse_rules.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Jacobian,
    Norm,
    Padding,
    Pass,
    TransposedJacobian,
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
    "Pullback", "ReLUBetaSmooth", "Rule", "SafeDivide", "Saturation", "SiteCall", "SoftmaxTaylor", "SumOverEmbedding",
    "Term", "TransposedJacobian", "Turns", "Uniform", "Unreached", "WSquare", "Z", "ZBox", "ZPlus", "ZPlusFast",
    "identity", "neg", "on", "ones", "pos",
]  # fmt: skip
