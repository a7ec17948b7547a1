"""The rules of Layer-wise Relevance Propagation (LRP), each as its formula.

LRP explains one output of a network. The value of that output is its *relevance*. It is shared out backwards, layer by
layer, until every entry of the input, such as a pixel, has its share. A *rule* says how one layer shares the relevance
of its outputs among its inputs. Each class below is one rule.

Notation for one layer, with j and i for its inputs and k for its outputs:

* x_j is an input, w_jk the weight from input j to output k, and b_k the bias of output k.
* x_j w_jk is the *contribution* of input j to output k. A positive one raises the output, a negative one lowers it.
* z_k = sum_j x_j w_jk + b_k is the output, before the activation function.
* R_k is the relevance of output k, which is known. R_j is that of input j, which the rule computes.
* t^+ = max(t, 0) and t^- = min(t, 0) are the positive and the negative part of a number.
* z_k^+ = sum_j (x_j w_jk)^+ + b_k^+ is the sum of what is positive in z_k, and z_k^- the sum of what is negative.

A denominator may be close to zero. So every division is *stabilised*, which means that a small epsilon of the sign of
the denominator is added to it. It is 1e-7 if nothing else is said, and is left out of the formulas of all rules but
`Epsilon`. Each rule takes it as a keyword, `epsilon=`.

A bias that stands in the denominator gets a share like an input. This share is *absorbed*: it stays at the layer, and
the inputs get less than the outputs had. A rule that leaves the bias out divides this share among the inputs, too.

References:
    [BACH2015] Bach et al.: On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
        Propagation. PLoS ONE 10(7), 2015.
    [MONTAVON2017] Montavon et al.: Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition.
        Pattern Recognition 65, 2017.
    [MONTAVON2019] Montavon et al.: Layer-Wise Relevance Propagation: An Overview. In: Explainable AI, LNCS 11700, 2019.
    [LAPUSCHKIN2019] Lapuschkin et al.: Unmasking Clever Hans predictors. Nature Communications 10, 2019.
    [ANDEOL2021] Andeol et al.: Learning Domain Invariant Representations by Joint Wasserstein Distance Minimization.
        arXiv 2106.04923, 2021.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph import Site
from revgraph.graph.analysis import Facts, is_padding
from revgraph.graph.arguments import check_number
from revgraph.graph.bounds import are_bounds
from revgraph.graph.operations import Routing, Truncation
from revgraph.graph.types import Bounds
from revgraph.reverse_rules.alpha_beta import alpha_and_beta, once_if_alone
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.folding import folded, lost
from revgraph.reverse_rules.integers import rule_of_integers
from revgraph.reverse_rules.terms import (
    Part,
    Signed,
    Term,
    identity,
    neg,
    on,
    ones,
    pos,
    where_negative,
    where_positive,
)


@dataclasses.dataclass(frozen=True)
class Z(Rule):
    """LRP-0: each input gets relevance in proportion to its contribution.  [BACH2015, eq. 56]

        R_j = sum_k x_j w_jk / z_k R_k

    Use it as a reference. Contributions against the sign of z_k get relevance of the opposite sign of R_k. Where
    contributions cancel, z_k is small, and relevance becomes large and noisy. In a network of ReLUs the result is input
    times gradient.

    Args:
        bias: Whether the bias stands in z_k, and absorbs its share.
    """

    bias: bool = True

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(bias=self.bias)),)),)


@dataclasses.dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-epsilon: LRP-0 with a stabiliser, which takes relevance from small outputs.  [BACH2015, eq. 58]

        R_j = sum_k x_j w_jk / (z_k + epsilon sgn(z_k)) R_k

    Use it for dense layers. The larger epsilon is, the less noise and the less relevance arrives. Contributions against
    the sign of z_k get relevance of the opposite sign of R_k.

    Args:
        epsilon: The stabiliser, non-negative, in the unit of z_k. Outputs that are small against it count little.
        bias: Whether the bias stands in z_k, and absorbs its share.
    """

    epsilon: float = 1e-7
    bias: bool = True

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(bias=self.bias)),)),)


@dataclasses.dataclass(frozen=True)
class ZPlus(Rule):
    """z+: positive contributions share the relevance, negative ones get none.  [MONTAVON2017]

        R_j = sum_k (x_j w_jk)^+ / z_k^+ R_k

    Use it for convolutions: relevance keeps its sign and never explodes, and the result is smooth. Inputs may have any
    sign. A negative weight counts where its input is negative, too. An output without positive contributions drops its
    relevance.

    Args:
        bias: Whether b_k^+ stands in z_k^+, and absorbs its share. Deep Taylor decomposition leaves it out.
    """

    bias: bool = True

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(pos, on(pos, bias=self.bias)), Term(neg, on(neg, bias=False)))),)


@dataclasses.dataclass(frozen=True)
class ZPlusFast(Rule):
    """z+ for inputs that are not negative: only positive weights count, and never the bias.  [MONTAVON2017]

        R_j = sum_k x_j w_jk^+ / (sum_i x_i w_ik^+) R_k

    Behind a ReLU it equals `ZPlus(bias=False)`. Do not use it for inputs with negative entries.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(pos, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class AlphaBeta(Rule):
    """alpha-beta: positive and negative contributions are shared out apart, and weighted.  [BACH2015, eq. 60]

        R_j = sum_k (alpha (x_j w_jk)^+ / z_k^+ - beta (x_j w_jk)^- / z_k^-) R_k,  alpha - beta = 1

    Use it for convolutions, to see what speaks against the output, too. Negative contributions get relevance of the
    opposite sign of R_k, weighted by beta. `AlphaBeta(1, 0)` is `ZPlus`. If alpha and beta are both left out, they are
    2 and 1. If one is left out, it follows from alpha - beta = 1.

    Args:
        alpha: Weight of the positive contributions, at least 1.
        beta: Weight of the negative contributions, at least 0.
        bias: Whether b_k^+ stands in z_k^+ and b_k^- in z_k^-. Each absorbs its share.
        rare_neurons: Whether an output with contributions of one sign only hands on exactly its relevance. By default
            it hands on alpha times its relevance, or -beta times if its contributions are negative.
    """

    alpha: float | None = None
    beta: float | None = None
    bias: bool = True
    rare_neurons: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha, beta = alpha_and_beta(self.alpha, self.beta, type(self).__name__)
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "beta", beta)

    def parts(self) -> tuple[Part, ...]:
        alpha, beta = alpha_and_beta(self.alpha, self.beta)
        gain = Part((Term(pos, on(pos, bias=self.bias)), Term(neg, on(neg, bias=False))), alpha)
        loss = Part((Term(pos, on(neg, bias=self.bias)), Term(neg, on(pos, bias=False))), -beta)
        if not beta:
            return (gain,)
        return once_if_alone(gain, loss) if self.rare_neurons else (gain, loss)


@dataclasses.dataclass(frozen=True)
class Gamma(Rule):
    """LRP-gamma: positive contributions count 1 + gamma times.  [MONTAVON2019], for any sign [ANDEOL2021]

    Where z_k >= 0:

        R_j = sum_k (x_j w_jk + gamma (x_j w_jk)^+) / (z_k + gamma z_k^+) R_k

    Where z_k < 0, the formula has ^- for ^+, and so favours negative contributions. Use it for convolutions. It stands
    between `Z` (gamma 0) and `ZPlus` (gamma large): contributions against the sign of z_k get relevance of the opposite
    sign of R_k, but less than under `Z`.

    Args:
        gamma: How much contributions of the sign of z_k are favoured, non-negative.
        generalized: False for the form of [MONTAVON2019], for inputs that are not negative: the weights become
            w_jk + gamma w_jk^+, and the bias stays b_k.
        bias: Whether the bias stands in the denominator, and absorbs its share.
    """

    gamma: float = 0.25
    generalized: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Gamma: gamma", self.gamma, least=0)

    def parts(self) -> tuple[Part, ...]:
        more, less = Signed(1.0 + self.gamma, 1.0), Signed(1.0, 1.0 + self.gamma)
        if not self.generalized:
            return (Part((Term(identity, on(more, bias=identity if self.bias else False)),)),)
        return (
            Part((Term(pos, on(more, bias=self.bias)), Term(neg, on(less, bias=False))), gate=where_positive),
            Part((Term(pos, on(less, bias=self.bias)), Term(neg, on(more, bias=False))), gate=where_negative),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ZBox(Rule):
    """z^B, the box rule: inputs share by how far they are from their bounds l_j <= x_j <= h_j.  [MONTAVON2017]

        R_j = sum_k (x_j w_jk - l_j w_jk^+ - h_j w_jk^-) / sum_i (x_i w_ik - l_i w_ik^+ - h_i w_ik^-) R_k

    Use it for the first layer, if its inputs are bounded, such as pixels. A positive weight counts by the distance from
    the lower bound, a negative one by that from the upper bound. So relevance keeps its sign. The bias is left out.

    Args:
        low, high: Bounds of what the layer reads: numbers, or arrays that broadcast against it, such as one value per
            channel. None takes the bounds that were declared for the model's input (`input_bounds`), carried to here.
        carried: Set by the composite: a function that gives the carried bounds in a dtype.
    """

    low: Any = None
    high: Any = None
    carried: Callable[[tf.DType], Bounds] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise ValueError(f"ZBox: give both bounds or neither. Received: low={self.low!r}, high={self.high!r}.")
        if self.low is not None and not are_bounds(self.low, self.high):
            raise ValueError(
                f"ZBox: low and high must be numbers, or arrays of them, and low must not exceed high. Received: "
                f"low={self.low!r}, high={self.high!r}."
            )

    def bounds(self, dtype: tf.DType) -> Bounds:
        """(low, high) as tensors of a dtype."""
        if self.carried is not None:
            return self.carried(dtype)
        if self.low is None:
            raise ValueError("ZBox has no bounds. Give them, as in ZBox(low=0, high=1).")
        return tf.cast(np.asarray(self.low), dtype), tf.cast(np.asarray(self.high), dtype)

    def parts(self) -> tuple[Part, ...]:
        def bound(which):
            return lambda x: tf.broadcast_to(self.bounds(x.dtype)[which], tf.shape(x))

        at_input = Term(identity, on(bias=False))
        at_low = Term(bound(0), on(pos, bias=False), sign=-1.0)
        return (Part((at_input, at_low, Term(bound(1), on(neg, bias=False), sign=-1.0))),)


@dataclasses.dataclass(frozen=True)
class WSquare(Rule):
    """w^2: inputs share by their squared weights, whatever their values are.  [MONTAVON2017]

        R_j = sum_k w_jk^2 / (sum_i w_ik^2) R_k

    Use it for the first layer, if its inputs have no bounds. Negative weights count like positive ones. The bias is
    left out.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(ones, on(tf.square, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class Flat(Rule):
    """Flat: all inputs that are connected to an output get the same share.  [LAPUSCHKIN2019]

        R_j = sum_k 1 / (sum_i 1) R_k

    Use it for the first layer, to see the result at the resolution of the layers above. Weights and bias are left out.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(ones, on(ones, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class Norm(Rule):
    """Each summand gets relevance in proportion to its value, for sums and average pooling.

        R_j = sum_k x_j / (sum_i x_i) R_k

    Summands against the sign of the sum get relevance of the opposite sign of R_k. On a layer with weights the summands
    are x_j w_jk, and the sum is the layer's output, bias included: there it equals `Epsilon`, as zennit's `Norm` does.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(),)),)


@dataclasses.dataclass(frozen=True)
class Pass(Rule):
    """For activation functions: relevance passes unchanged, R_j = R_j.  [BACH2015]

    An input that is broadcast, such as a number to which a table is added, gets the sum over its copies.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        def pull(*relevance):
            return [folded(r, x) for r, x in zip(relevance, call.inputs, strict=True)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Jacobian(Rule):
    """The transposed Jacobian, which is the chain rule of gradients: R_j = sum_k dz_k/dx_j R_k.

    Use it where entries are only moved: reshape, concatenation, max pooling. Each entry gets the relevance of the
    places to which it was moved; in max pooling the winner takes all. Constants that were put in, such as padding,
    absorb their share. At every site of a network this rule makes the gradient.
    """

    def at(self, site: Site, facts: Facts) -> Rule | None:
        return Pass() if isinstance(site.operation, Truncation) else rule_of_integers(self, site, facts)

    def record(self, call: SiteCall) -> OutputsAndPullback:
        def absorbed(*relevance):
            return Absorbed(constants=lost(relevance, call.transposed(*relevance)))

        operation = call.operation
        moves = any(x.dtype.is_floating for x in call.inputs)
        # Integers that are computed from the input say where entries go, and count as constants.
        fills = isinstance(operation, Routing) and (operation.fills or is_padding(operation) or not moves)
        return call.outputs, Pullback(call.transposed, absorbed, growth=1.0) if fills else Pullback(call.transposed)


@dataclasses.dataclass(frozen=True)
class Padding(Jacobian):
    """For padding and masks: each entry gets its relevance back, and the zeros that were put in absorb theirs.

    A zero gets relevance where it is the largest entry of a max pooling's window, or under rules that do not multiply
    by the input.
    """


@dataclasses.dataclass(frozen=True)
class DeconvNet(Rule):
    """Deconvnet's rule for ReLUs: negative relevance is dropped, R_j = max(R_j, 0).  [Zeiler and Fergus, ECCV 2014]"""

    def record(self, call: SiteCall) -> OutputsAndPullback:
        return call.outputs, Pullback(lambda relevance: (pos(relevance),))


@dataclasses.dataclass(frozen=True)
class GuidedBackprop(Rule):
    """Guided backpropagation's rule for ReLUs: R_j = max(f'(x_j) R_j, 0).  [Springenberg et al., ICLR workshop 2015]

    Relevance passes where it is positive and the ReLU's input is, too.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        return call.outputs, Pullback(lambda relevance: tuple(pos(r) for r in call.transposed(relevance)))


@dataclasses.dataclass(frozen=True)
class ReLUBetaSmooth(Rule):
    """The gradient of a ReLU whose kink is smoothed: R_j = sigmoid(beta x_j) R_j.  [Dombrowski et al., NeurIPS 2019]

    Args:
        beta: Sharpness, positive. The larger it is, the closer the result is to the ReLU's own gradient.
    """

    beta: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ReLUBetaSmooth: beta", self.beta, above=0)

    def record(self, call: SiteCall) -> OutputsAndPullback:
        slope = tf.math.sigmoid(self.beta * call.inputs[0])
        return call.outputs, Pullback(lambda relevance: (slope * relevance,))
