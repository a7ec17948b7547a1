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

A contribution with the sign of the denominator gets relevance with the sign of R_k. A contribution with the other sign
gets relevance with the opposite sign.

A denominator may be close to zero. So every division is *stabilised*: epsilon is added to a positive denominator and
subtracted from a negative one. Its default is 1e-7. Only the formula of `Epsilon` shows it, but each rule that divides
takes the keyword `epsilon=`.

A bias that stands in the denominator takes a share of R_k, like an input. This share is *absorbed*: it stays at the
layer, and the inputs get less than the outputs had. `bias=False` takes the bias out of the denominator, and its share
goes to the inputs. A rule *drops* the relevance of an output for which it has no denominator.

Where to begin: `Epsilon` for dense layers, `ZPlus` for convolutions, `Flat` or `ZBox` for the first layer. `Gamma` and
`AlphaBeta` stand in for `ZPlus` if one wants to see what speaks against the output.

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

    Use it to check other rules, and not for a picture: where contributions cancel, z_k is small, and relevance becomes
    large and noisy. If all layers of a network of ReLUs have it, the result is input times gradient.

    Args:
        bias: Whether the bias stands in z_k, and absorbs its share.
    """

    bias: bool = True

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(bias=self.bias)),)),)


@dataclasses.dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-epsilon: LRP-0 with a stabiliser that you choose.  [BACH2015, eq. 58]

        R_j = sum_k x_j w_jk / (z_k + epsilon sgn(z_k)) R_k

    Use it for dense layers. An output whose |z_k| is much smaller than epsilon hands on almost nothing. So the larger
    epsilon is, the less noise arrives, and the less relevance. Usual values are 1e-7, where it is LRP-0, up to about
    0.1, or a tenth of the typical |z_k|.

    Args:
        epsilon: The stabiliser, non-negative, in the unit of z_k.
        bias: Whether the bias stands in z_k, and absorbs its share.
    """

    epsilon: float = 1e-7
    bias: bool = True

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(bias=self.bias)),)),)


@dataclasses.dataclass(frozen=True)
class ZPlus(Rule):
    """z+: positive contributions share the relevance, and negative ones get none.  [MONTAVON2017]

        R_j = sum_k (x_j w_jk)^+ / z_k^+ R_k

    Use it for convolutions. Relevance keeps its sign and never explodes, so the picture is smooth. Inputs may have any
    sign: a negative weight counts where its input is negative, because their product is positive. An output without any
    positive contribution drops its relevance.

    Args:
        bias: Whether b_k^+ stands in z_k^+, and absorbs its share. The paper, which is about deep Taylor decomposition,
            leaves the bias out; LRP keeps it.
    """

    bias: bool = True

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(pos, on(pos, bias=self.bias)), Term(neg, on(neg, bias=False)))),)


@dataclasses.dataclass(frozen=True)
class ZPlusFast(Rule):
    """z+ for inputs that are not negative: only positive weights count, and never the bias.  [MONTAVON2017]

        R_j = sum_k x_j w_jk^+ / (sum_i x_i w_ik^+) R_k

    It equals `ZPlus(bias=False)` if the inputs come from a ReLU. It is here because iNNvestigate has it. It does not
    check its inputs, and has no meaning for negative ones.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(pos, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class AlphaBeta(Rule):
    """alpha-beta: positive and negative contributions share the relevance separately.  [BACH2015, eq. 60]

        R_j = sum_k (alpha (x_j w_jk)^+ / z_k^+ - beta (x_j w_jk)^- / z_k^-) R_k,  alpha - beta = 1

    Use it for convolutions, to see what speaks against the output, too. Positive contributions get alpha R_k together,
    negative ones -beta R_k. `AlphaBeta(1, 0)` is `ZPlus`. If alpha and beta are both left out, they are 2 and 1. If one
    is left out, it follows from alpha - beta = 1.

    Args:
        alpha: Weight of the positive contributions, at least 1.
        beta: Weight of the negative contributions, at least 0. Other values of alpha - beta than 1 are an error.
        bias: Whether b_k^+ stands in z_k^+ and b_k^- in z_k^-. Each absorbs its share.
        rare_neurons: What an output hands on if its contributions, bias included, all have the same sign. True: exactly
            R_k. False, as in the paper: alpha R_k or -beta R_k, and the ledger books the difference under *rule*.
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
    """LRP-gamma: contributions of the sign of z_k count 1 + gamma times.  [MONTAVON2019; any sign ANDEOL2021]

        R_j = sum_k (x_j w_jk + gamma (x_j w_jk)^+) / (z_k + gamma z_k^+) R_k,  where z_k >= 0
        R_j = sum_k (x_j w_jk + gamma (x_j w_jk)^-) / (z_k + gamma z_k^-) R_k,  where z_k < 0

    Use it for convolutions. It stands between `Z` (gamma 0) and `ZPlus` (gamma large): contributions against the sign
    of z_k get less relevance than under `Z`, and more than none.

    Args:
        gamma: How much contributions of the sign of z_k are favoured, non-negative.
        generalized: Whether inputs and outputs may have any sign, as in the formula above. False is the form of
            [MONTAVON2019], for inputs that are not negative: the weights become w_jk + gamma w_jk^+ for every z_k, and
            the bias stays b_k.
        bias: Whether the bias stands in the denominator, and absorbs its share. The sign of z_k is always that of the
            layer's output, bias included.
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
            channel. If they are left out, they follow from those of the model's input:
            `create_analyzer(..., input_bounds=(0, 255))`.
        carried: Internal: the composite sets it to a function that gives those bounds in a dtype.
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
                f"ZBox: low and high must be finite numbers, or arrays of them, and low must not exceed high. "
                f"Received: low={self.low!r}, high={self.high!r}."
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

    Use it for the first layer. The picture becomes coarser and calmer, because the pixels in the window of a
    convolution are not told apart. Weights and bias are left out.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(ones, on(ones, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class Norm(Rule):
    """Each summand gets relevance in proportion to its value, for sums and average pooling.

        R_j = sum_k x_j / (sum_i x_i) R_k

    On a layer with weights the summands are x_j w_jk and the bias, so it is `Epsilon`, as zennit's `Norm` is.
    """

    def parts(self) -> tuple[Part, ...]:
        return (Part((Term(identity, on(bias=True)),)),)


@dataclasses.dataclass(frozen=True)
class Pass(Rule):
    """Relevance passes unchanged, R_j = R_k with k = j, for activation functions.  [BACH2015]

    An operation may also copy an input to a larger shape, such as a column that is added to a table of constants. Such
    an input gets the sum of the relevance of its copies.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        def pull(*relevance):
            return [folded(r, x) for r, x in zip(relevance, call.inputs, strict=True)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Jacobian(Rule):
    """The transposed Jacobian, which is the chain rule of gradients: R_j = sum_k dz_k/dx_j R_k.

    Use it where entries are only moved: reshape, concatenation, max pooling. Each entry gets the relevance of the
    places to which it was moved. In max pooling the largest entry of a window gets all of it. Constants that were put
    in, such as padding, absorb their share. On a layer with weights it is the gradient: R_k times the weight, with its
    sign, and without the input and the bias. If every site has this rule, the result is the gradient.
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
class TransposedJacobian(Rule):
    """`Jacobian` for a site without a rule of LRP, with an account of it: R_j = sum_k dz_k/dx_j R_k.

    What this does not conserve counts as dropped by the rule, or as added where it is negative. `LRP` gives this rule
    to sites that no entry of its composite matches, if it is made with `unsupported="gradient"`.
    """

    def at(self, site: Site, facts: Facts) -> Rule | None:
        return rule_of_integers(self, site, facts)

    def record(self, call: SiteCall) -> OutputsAndPullback:
        def absorbed(*relevance):
            return Absorbed(rule=lost(relevance, call.transposed(*relevance)))

        return call.outputs, Pullback(call.transposed, absorbed)


@dataclasses.dataclass(frozen=True)
class Padding(Jacobian):
    """`Jacobian` for padding and masks, as an entry of its own in summaries: R_j = R_k where entry j went.

    The zeros that were put in absorb the relevance of their places. They get some where a zero is the largest entry of
    a max pooling's window, and under `Flat`, `WSquare` and `ZBox`, which do not multiply by the input.
    """
