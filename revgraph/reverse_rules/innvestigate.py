"""The rules as iNNvestigate 2.1.2 computes them, for comparing with old results.

They differ from those in `rules.py` in two ways. Divisions are stabilised only where the denominator is exactly zero.
And alpha-beta has the whole bias in both denominators, not its positive part in one and its negative part in the other.
"""

import dataclasses

from revgraph.reverse_rules.alpha_beta import alpha_and_beta
from revgraph.reverse_rules.engine import Rule, SafeDivide
from revgraph.reverse_rules.rules import AlphaBeta, Flat, Norm, WSquare, Z, ZBox, ZPlus, ZPlusFast
from revgraph.reverse_rules.terms import Part, Term, identity, neg, on, pos

_DIVIDE = SafeDivide(1e-7, zeros_only=True)


class _ZerosOnly:
    """Mixed into a rule: divides as iNNvestigate does."""

    @property
    def divide(self) -> SafeDivide:
        return _DIVIDE


class InnvestigateZ(_ZerosOnly, Z):
    """`Z`, stabilised only at exact zeros."""


class InnvestigateZPlusFast(_ZerosOnly, ZPlusFast):
    """`ZPlusFast`, stabilised only at exact zeros."""


class InnvestigateZBox(_ZerosOnly, ZBox):
    """`ZBox`, stabilised only at exact zeros."""


class InnvestigateWSquare(_ZerosOnly, WSquare):
    """`WSquare`, stabilised only at exact zeros."""


class InnvestigateFlat(_ZerosOnly, Flat):
    """`Flat`, stabilised only at exact zeros."""


class InnvestigateAlphaBeta(_ZerosOnly, AlphaBeta):
    """`AlphaBeta` with the whole bias b in both denominators, stabilised only at exact zeros.

    alpha (x^+ W^+ + x^- W^-) / (... + b) - beta (x^+ W^- + x^- W^+) / (... + b)
    """

    def parts(self) -> tuple[Part, ...]:
        alpha, beta = alpha_and_beta(self.alpha, self.beta)
        bias = identity if self.bias else False
        gain = Part((Term(pos, on(pos, bias=bias)), Term(neg, on(neg, bias=False))), alpha)
        loss = Part((Term(pos, on(neg, bias=bias)), Term(neg, on(pos, bias=False))), -beta)
        return (gain, loss) if beta else (gain,)


def as_innvestigate(rule: Rule) -> Rule:
    """The rule that computes what iNNvestigate 2.1.2 computes under the same name; other rules stay as they are."""
    if isinstance(rule, ZPlus):
        return InnvestigateAlphaBeta(1.0, 0.0, bias=False)
    if isinstance(rule, Norm):
        return InnvestigateZ(bias=False)
    for cls in (Z, ZPlusFast, ZBox, WSquare, Flat, AlphaBeta):
        if type(rule) is cls:
            twin = globals()[f"Innvestigate{cls.__name__}"]
            return twin(**{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)})
    return rule
