"""The rules of PatternNet and PatternAttribution, which go back along patterns instead of weights.

A pattern is the direction in the inputs of a neuron along which its signal varies. It is estimated from data, and has
the shape of the neuron's weights.

Reference:
    [KINDERMANS2018] Kindermans et al.: Learning how to explain neural networks: PatternNet and PatternAttribution.
        ICLR 2018.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from revgraph.reverse_rules.engine import OutputsAndPullback, Pullback, Rule, SiteCall


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern(Rule):
    """R_j = sum_k a_jk R_k, or with `times_weights` R_j = sum_k a_jk w_jk R_k.  [KINDERMANS2018, section 4]

    Args:
        pattern: a, an array of the kernel's shape.
        times_weights: False for PatternNet, True for PatternAttribution.
    """

    pattern: Any
    times_weights: bool = False

    def record(self, call: SiteCall) -> OutputsAndPullback:
        kernel = call.weights["kernel"]
        pattern = tf.cast(self.pattern, kernel.dtype)
        recorded = call.record(call.inputs, {"kernel": pattern * kernel if self.times_weights else pattern})
        return call.outputs, Pullback(recorded.transposed)
