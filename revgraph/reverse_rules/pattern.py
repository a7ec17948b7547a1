"""The rules of PatternNet and PatternAttribution: the way back leads through patterns in place of weights.

Reference:
    [KINDERMANS2018] Kindermans et al.: Learning how to explain neural networks: PatternNet and PatternAttribution.
        ICLR 2018.
"""

import dataclasses

import tensorflow as tf

from revgraph.reverse_rules.engine import Pullback, Rule


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern(Rule):
    """R_j = sum_k a_jk R_k, or with `times_weights` R_j = sum_k a_jk w_jk R_k.  [KINDERMANS2018, section 4]

    Args:
        pattern: a, an array of the kernel's shape.
        times_weights: PatternAttribution in place of PatternNet.
    """

    pattern: object
    times_weights: bool = False

    def record(self, call):
        kernel = call.weights["kernel"]
        pattern = tf.cast(self.pattern, kernel.dtype)
        recorded = call.record(call.inputs, {"kernel": pattern * kernel if self.times_weights else pattern})
        return call.outputs, Pullback(recorded.transposed)
