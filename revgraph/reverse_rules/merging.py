"""Rules for operations that merge several tensors: sums, products, gates.

A *signal* is a tensor that carries what the network has found. A *gate* is a tensor that says how much of a signal may
pass, such as a sigmoid or the weights of an attention. Notation: z is the output and R its relevance; R_i is the
relevance of input tensor i; n is how many input tensors there are.

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

from revgraph.graph import Site
from revgraph.graph.analysis import Facts
from revgraph.graph.operations import Contraction
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.folding import folded, per_sample
from revgraph.reverse_rules.rules import Epsilon


@dataclasses.dataclass(frozen=True)
class Only(Rule):
    """All relevance goes to one input, R_i = R, and none to the others.  [ARRAS2017]

    Use it for the signal of a product with a gate, for a dividend, or for one summand of a sum.

    Args:
        index: Position of that input, from 0.
    """

    index: int = 0

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return index == self.index

    def record(self, call: SiteCall) -> OutputsAndPullback:
        def pull(relevance):
            return [folded(relevance, x) if self.reaches(i) else None for i, x in enumerate(call.inputs)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Equal(Rule):
    """Each of n inputs gets the same relevance, R_i = R / n.  [ACHTIBAT2024, eq. 12: the uniform rule for products]

    Args:
        indices: Positions of the inputs that share, from 0; None for all.
    """

    indices: tuple[int, ...] | None = None

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return super().reaches(index, dtype) and (self.indices is None or index in self.indices)

    def record(self, call: SiteCall) -> OutputsAndPullback:
        count = len(call.inputs if self.indices is None else self.indices)

        def pull(relevance):
            return [folded(relevance / count, x) if self.reaches(i) else None for i, x in enumerate(call.inputs)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Bilinear(Rule):
    """For products of matrices, z_ij = sum_k a_ik b_kj: both operands share in proportion.  [ACHTIBAT2024, eq. 13]

        R_ik = 1/2 sum_j a_ik b_kj / z_ij R_ij,  and likewise for b

    Three operands get a third each, and so on. The denominator is stabilised by `epsilon`.

    Args:
        signal: Position of the operand that gets all relevance, or positions of several that share it. The others count
            as constants, as attention weights do in [ALI2022]. None for all operands.
    """

    signal: int | tuple[int, ...] | None = None

    @property
    def _signals(self) -> tuple[int, ...] | None:
        return (self.signal,) if isinstance(self.signal, int) else self.signal

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return self._signals is None or index in self._signals

    def record(self, call: SiteCall) -> OutputsAndPullback:
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
    """For products of signals and gates: the signals share all relevance equally.  [ARRAS2017, ARRAS2019]

    Use it for squeeze-and-excite, swish, gated linear units and attention. `revgraph.graph.analysis.Facts.signals`
    finds the signals in the graph. Where no factor is known to be a gate, all factors are signals [ACHTIBAT2024].
    """

    def at(self, site: Site, facts: Facts) -> Rule:
        return _shared(site, facts.signals(site), self.epsilon)


@dataclasses.dataclass(frozen=True)
class Uniform(Rule):
    """For products: all factors share relevance equally, gates like signals.  [ACHTIBAT2024, eq. 12 and 13]

    Factors that are constants or divisors get nothing: positions, masks, or the 1 / sqrt(mean x^2) of a normalization
    that is written as a product. `revgraph.graph.analysis.Facts.factors` finds the others.
    """

    def at(self, site: Site, facts: Facts) -> Rule:
        return _shared(site, facts.factors(site), self.epsilon)


def _shared(site, indices, epsilon):
    """The rule of a product that hands relevance to the factors at these positions."""
    some = None if len(indices) == len(site.inputs) else indices
    one = indices[0] if len(indices) == 1 else some
    if isinstance(site.operation, Contraction):
        return Bilinear(one, epsilon=epsilon)
    return Only(one) if isinstance(one, int) else Equal(some)


@dataclasses.dataclass(frozen=True)
class IdentityBranch(Rule):
    """For residual sums: all relevance goes to the shortcut, and none to the branch with the layers.

    `revgraph.graph.analysis.Facts.identity_branch` finds the shortcut in the graph. Where a sum has none, its summands
    share in proportion to their values, as under `Epsilon`.
    """

    def at(self, site: Site, facts: Facts) -> Rule:
        shortcut = facts.identity_branch(site)
        return Epsilon(self.epsilon) if shortcut is None else Only(shortcut)


@dataclasses.dataclass(frozen=True)
class Saturation(Rule):
    """For activations with a bound, such as ReLU6, and for steps: R_j = R_j where the slope f'(x_j) is not 0, else 0.

    Where the slope is 0, as at the bound of a ReLU6 and everywhere in a step function, the output does not depend on
    the input. It counts as a constant, and absorbs its relevance.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        (x,), (y,) = call.inputs, call.outputs

        def split(relevance):
            """The relevance of entries that have a slope, and that of entries that count as constants."""
            # A table of constants may broadcast the input. Each entry of the output needs its own slope.
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
    """For sites to which no relevance comes, such as those that compute gates, masks and divisors."""

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return False

    def record(self, call: SiteCall) -> OutputsAndPullback:
        return call.outputs, Pullback(lambda *relevance: (None,) * len(call.inputs))
