"""The rules as iNNvestigate 2.1.2 computes them, for comparing with old results.

Differences: divisions are stabilised at exact zeros only, and alpha-beta has the full bias in both denominators.
"""

import dataclasses

from revgraph.reverse_rules.engine import SafeDivide
from revgraph.reverse_rules.rules import AlphaBeta, Flat, Norm, WSquare, Z, ZBox, ZPlus, ZPlusFast
from revgraph.reverse_rules.terms import Part, Term, identity, neg, on, pos

_DIVIDE = SafeDivide(1e-7, zeros_only=True)


class _ZerosOnly:
    """Mixed into a rule: divides as iNNvestigate does."""

    @property
    def divide(self):
        return _DIVIDE


class InnvestigateZ(_ZerosOnly, Z):
    """Z, with exact zeros stabilised only."""


class InnvestigateZPlusFast(_ZerosOnly, ZPlusFast):
    """ZPlusFast, with exact zeros stabilised only."""


class InnvestigateZBox(_ZerosOnly, ZBox):
    """ZBox, with exact zeros stabilised only."""


class InnvestigateWSquare(_ZerosOnly, WSquare):
    """WSquare, with exact zeros stabilised only."""


class InnvestigateFlat(_ZerosOnly, Flat):
    """Flat, with exact zeros stabilised only."""


class InnvestigateAlphaBeta(_ZerosOnly, AlphaBeta):
    """alpha (x^+ W^+ + x^- W^-) / (... + b) - beta (x^+ W^- + x^- W^+) / (... + b), b unsplit in both."""

    def parts(self):
        bias = identity if self.bias else False
        gain = Part((Term(pos, on(pos, bias=bias)), Term(neg, on(neg, bias=False))), self.alpha)
        loss = Part((Term(pos, on(neg, bias=bias)), Term(neg, on(pos, bias=False))), -self.beta)
        return (gain, loss) if self.beta else (gain,)


def as_innvestigate(rule):
    """The rule that computes what iNNvestigate 2.1.2 computes under the same name; others stay as they are."""
    if isinstance(rule, ZPlus):
        return InnvestigateAlphaBeta(1.0, 0.0, bias=False)
    if isinstance(rule, Norm):
        return InnvestigateZ(bias=False)
    for cls in (Z, ZPlusFast, ZBox, WSquare, Flat, AlphaBeta):
        if type(rule) is cls:
            twin = globals()[f"Innvestigate{cls.__name__}"]
            return twin(**{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)})
    return rule
