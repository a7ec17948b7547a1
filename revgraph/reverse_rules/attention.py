"""The rule for the softmax of attention. The products of attention are `Bilinear` in `merging.py`.

Notation: x is a row of scores, y = softmax(x) are the weights of the attention, R_j is the relevance of y_j, which is
known, and R_i that of x_i, which the rule computes.

References:
    [ACHTIBAT2024] Achtibat et al.: AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers.
        ICML, 2024.
"""

import dataclasses
import math

import tensorflow as tf

from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.folding import per_sample

LEFT_OUT = -1e8
"""Masks add such a number to a score, or put one in its place, and so leave an entry out. No score is that small."""


@dataclasses.dataclass(frozen=True)
class SoftmaxTaylor(Rule):
    """For softmax: its Taylor expansion at the scores, x_i times the gradient.  [ACHTIBAT2024, proposition 3.1]

        R_i = x_i (R_i - y_i sum_j R_j)

    The sums over j and i differ, because the expansion has a constant term. The ledger shows the difference in its
    column *softmax*. Entries that a mask leaves out get nothing, even if it leaves out the whole row.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        (x,), (y,) = call.inputs, call.outputs

        def pull(relevance):
            # The formula is x times the transposed Jacobian of R / y. So it holds along whatever axis the softmax is.
            (gradient,) = call.transposed(tf.math.divide_no_nan(relevance, y))
            return (tf.where(x > LEFT_OUT, x * gradient, tf.zeros_like(x)),)

        def absorbed(relevance):
            return Absorbed(softmax=per_sample(relevance) - per_sample(pull(relevance)[0]))

        return call.outputs, Pullback(pull, absorbed, growth=math.inf)
