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

from revgraph.graph import Site
from revgraph.graph.analysis import Facts
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.folding import per_sample

LEFT_OUT = -5e3
"""Behind a mask, smaller scores are left out. Masks are -1e4 or less, such as -1e9 and the least number of a dtype."""


@dataclasses.dataclass(frozen=True)
class SoftmaxTaylor(Rule):
    """For softmax: its Taylor expansion at the scores, x_i times the gradient.  [ACHTIBAT2024, proposition 3.1]

        R_i = x_i (R_i - y_i sum_j R_j)

    The sums over j and i differ, because the expansion has a constant term. The ledger shows the difference in its
    column *softmax*. Entries that a mask leaves out get nothing, even if it leaves out the whole row.

    Args:
        left_out: The score below which an entry counts as left out by a mask. None for -5000 where there is a mask in
            front of the softmax, and minus infinity elsewhere.
    """

    left_out: float | None = None

    def at(self, site: Site, facts: Facts) -> Rule:
        if self.left_out is not None:
            return self
        return dataclasses.replace(self, left_out=LEFT_OUT if facts.is_masked(site.inputs[0]) else -math.inf)

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return index == 0

    def record(self, call: SiteCall) -> OutputsAndPullback:
        (x, *masks), (y,) = call.inputs, call.outputs
        least = -math.inf if self.left_out is None else self.left_out

        def pull(relevance):
            # The formula is x times the transposed Jacobian of R / y. So it holds along whatever axis the softmax is.
            gradient = call.transposed(tf.math.divide_no_nan(relevance, y))[0]
            # A score of minus infinity times a gradient of zero would be NaN.
            return (tf.where(x > least, x * gradient, tf.zeros_like(x)), *(None for _ in masks))

        def absorbed(relevance):
            return Absorbed(softmax=per_sample(relevance) - per_sample(pull(relevance)[0]))

        return call.outputs, Pullback(pull, absorbed, growth=math.inf)
