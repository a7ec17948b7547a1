"""The two rules of TensorWatch's relevance inverter, the e-rule and the b-rule. Both leave the bias out.

`revgraph.reverse_rules.rules` has the notation.

Reference:
    [BACH2015] Bach et al.: On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
        Propagation. PLoS ONE 10(7), 2015.
"""

import dataclasses
import functools

import tensorflow as tf

from revgraph.graph.arguments import check_number
from revgraph.reverse_rules.alpha_beta import once_if_alone
from revgraph.reverse_rules.engine import Rule
from revgraph.reverse_rules.terms import Part, Term, identity, neg, on, pos


@dataclasses.dataclass(frozen=True)
class ERule(Rule):
    """e-rule: LRP-epsilon on the p-th powers of inputs and weights, without bias.  [BACH2015, eq. 58, for p = 1]

        R_j = sum_k x_j^p w_jk^p / (z_k + epsilon sgn(z_k)) R_k  with  z_k = sum_i x_i^p w_ik^p

    An output whose z_k is exactly zero drops its relevance. With an even p nothing is negative, and relevance keeps its
    sign.

    Args:
        exponent: p, a whole number from 1.
        epsilon: The stabiliser, non-negative.
    """

    exponent: int = 1
    epsilon: float = dataclasses.field(default=1e-6, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ERule: exponent", self.exponent)
        if not (self.exponent >= 1 and int(self.exponent) == self.exponent):
            raise ValueError(
                f"ERule: exponent must be a whole number from 1, because x^p of a negative x is not a number "
                f"otherwise. Received: {self.exponent!r}."
            )

    def parts(self) -> tuple[Part, ...]:
        power = identity if self.exponent == 1 else functools.partial(_power, self.exponent)
        return (Part((Term(power, on(power, bias=False)),), gate=lambda z, zs: zs[0] != 0),)


def _power(exponent, t):
    return tf.pow(t, tf.cast(exponent, t.dtype))


@dataclasses.dataclass(frozen=True)
class BRule(Rule):
    """b-rule: `AlphaBeta` with alpha = 1 + beta, without bias, and with relevance conserved.  [BACH2015, eq. 60]

        R_j = sum_k ((1 + beta) (x_j w_jk)^+ / z_k^+ - beta (x_j w_jk)^- / z_k^-) R_k

    An output without any contribution drops its relevance. So does an output that only has contributions of weight
    zero, which are the negative ones for beta = 0, and the positive ones for beta = -1.

    Args:
        beta: Weight of the negative contributions. That of the positive ones is 1 + beta.
        epsilon: The stabiliser, non-negative.
        rare_neurons: Whether an output that has only positive or only negative contributions hands exactly its
            relevance on, and not 1 + beta or -beta times of it.
    """

    beta: float = 0.5
    epsilon: float = dataclasses.field(default=1e-6, kw_only=True)
    rare_neurons: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("BRule: beta", self.beta)

    def parts(self) -> tuple[Part, ...]:
        gain = Part((Term(pos, on(pos, bias=False)), Term(neg, on(neg, bias=False))), 1.0 + self.beta)
        loss = Part((Term(pos, on(neg, bias=False)), Term(neg, on(pos, bias=False))), -self.beta)
        if not gain.weight or not loss.weight:
            return (gain,) if gain.weight else (loss,)
        return once_if_alone(gain, loss) if self.rare_neurons else (gain, loss)
