"""Rules for operations that merge several tensors: sums, products, gates.

References:
    [ARRAS2017] Arras et al.: Explaining Recurrent Neural Network Predictions in Sentiment Analysis. WASSA, 2017.
    [ARRAS2019] Arras et al.: Explaining and Interpreting LSTMs. In: Explainable AI, LNCS 11700, 2019.
    [ALI2022] Ali et al.: XAI for Transformers: Better Explanations through Conservative Propagation. ICML, 2022.
    [ACHTIBAT2024] Achtibat et al.: AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers.
        ICML, 2024.
"""

import dataclasses
import math

import tensorflow as tf

from revgraph.graph.operations import Contraction
from revgraph.reverse_rules.engine import Absorbed, Pullback, Rule, per_sample
from revgraph.reverse_rules.folding import folded
from revgraph.reverse_rules.rules import Epsilon


@dataclasses.dataclass(frozen=True)
class Only(Rule):
    """All relevance to one input: R_i = R, and none to the others.  [ARRAS2017]

    For the signal of a gate, for a dividend, and for one summand of a sum.

    Args:
        index: Which input, from 0.
    """

    index: int = 0

    def reaches(self, index, dtype="float32"):
        return index == self.index

    def record(self, call):
        def pull(relevance):
            return [folded(relevance, x) if self.reaches(i) else None for i, x in enumerate(call.inputs)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Equal(Rule):
    """The same relevance to each of n inputs: R_i = R / n; for products the uniform rule.  [ACHTIBAT2024, eq. 12]

    Args:
        indices: Which inputs share, from 0; None for all.
    """

    indices: tuple[int, ...] | None = None

    def reaches(self, index, dtype="float32"):
        return super().reaches(index, dtype) and (self.indices is None or index in self.indices)

    def record(self, call):
        count = len(call.inputs if self.indices is None else self.indices)

        def pull(relevance):
            return [folded(relevance / count, x) if self.reaches(i) else None for i, x in enumerate(call.inputs)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Bilinear(Rule):
    """For z_ij = sum_k a_ik b_kj: R_ik = 1/2 sum_j a_ik b_kj / z_ij R_ij, and likewise for b.  [ACHTIBAT2024, eq. 13]

    Three operands get a third each, and so on.

    Args:
        signal: The operand that gets all relevance, or several that share it, while the others count as constants, as
            attention weights do in [ALI2022]; None for all operands.
    """

    signal: int | tuple[int, ...] | None = None

    @property
    def _signals(self):
        return (self.signal,) if isinstance(self.signal, int) else self.signal

    def reaches(self, index, dtype="float32"):
        return self._signals is None or index in self._signals

    def record(self, call):
        (z,) = call.outputs
        weight = 1.0 / len(self._signals or call.inputs)

        def pull(relevance):
            gradients = call.transposed(weight * self.divide(relevance, z))
            return [
                x * gradient if self.reaches(i) else None
                for i, (x, gradient) in enumerate(zip(call.inputs, gradients, strict=True))
            ]

        def absorbed(relevance):
            return Absorbed(stabiliser=per_sample(relevance - z * self.divide(relevance, z)))

        return call.outputs, Pullback(pull, absorbed, growth=math.inf)


@dataclasses.dataclass(frozen=True)
class Gate(Rule):
    """For products of signals and gates: all relevance to the signals, in equal shares.  [ARRAS2017, ARRAS2019]

    Squeeze-and-excite, swish, gated linear units, attention weights. Which factors are signals is read off the graph,
    see `revgraph.graph.analysis.Facts.signals`; where no factor is known to be a gate, all are [ACHTIBAT2024].
    """

    def at(self, site, facts):
        signals = facts.signals(site)
        some = None if len(signals) == len(site.inputs) else signals
        one = signals[0] if len(signals) == 1 else some
        if isinstance(site.operation, Contraction):
            return Bilinear(one, epsilon=self.epsilon)
        return Only(one) if isinstance(one, int) else Equal(some)


@dataclasses.dataclass(frozen=True)
class IdentityBranch(Rule):
    """For residual sums: all relevance to the shortcut, none to the branch with the layers.

    Which summand is the shortcut is read off the graph, see `revgraph.graph.analysis.Facts.identity_branch`; sums
    without one are shared out in proportion.
    """

    def at(self, site, facts):
        shortcut = facts.identity_branch(site)
        return Epsilon(self.epsilon) if shortcut is None else Only(shortcut)


@dataclasses.dataclass(frozen=True)
class Saturation(Rule):
    """LRP-0 for activations such as ReLU6 and sign: R_j = R_k where f'(x_j) is not 0, and 0 elsewhere.

    Where the slope is 0, as at the bound of a ReLU6 and everywhere in a step function, the output does not depend on
    the input. It is a constant, and absorbs its relevance.
    """

    def record(self, call):
        (x,), (y,) = call.inputs, call.outputs

        def split(relevance):
            """Relevance of the entries that have a slope, and of those that are constants."""
            # A table may make the input larger: of every entry of the output the slope is asked for by itself.
            wide = call.record((tf.broadcast_to(x, tf.shape(y)),), call.weights)
            (slope,) = wide.transposed(tf.ones_like(relevance))
            nothing = tf.zeros_like(relevance)
            return tf.where(slope == 0, nothing, relevance), tf.where(slope == 0, relevance, nothing)

        def pull(relevance):
            return (folded(split(relevance)[0], x),)

        def absorbed(relevance):
            return Absorbed(constants=per_sample(split(relevance)[1]))

        return call.outputs, Pullback(pull, absorbed, growth=1.0)


@dataclasses.dataclass(frozen=True)
class Unreached(Rule):
    """For sites to which no relevance comes: gates, masks, divisors."""

    def reaches(self, index, dtype="float32"):
        return False

    def record(self, call):
        return call.outputs, Pullback(lambda *relevance: (None,) * len(call.inputs))
