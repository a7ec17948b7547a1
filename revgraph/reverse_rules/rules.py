"""The rules of Layer-wise Relevance Propagation, each as its formula.

Notation: x input, W weights, b bias, z = W x + b, R relevance, ^+ and ^- positive and negative parts; j runs over
inputs, k over outputs.

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

from revgraph.graph.analysis import is_padding
from revgraph.graph.arguments import check_number
from revgraph.graph.bounds import are_bounds
from revgraph.graph.loops import Loop
from revgraph.graph.operations import Routing, Truncation
from revgraph.reverse_rules.engine import Absorbed, Pullback, Rule
from revgraph.reverse_rules.folding import folded, lost
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


def _bias(included):
    """Keyword of `on` that leaves the bias out."""
    return {} if included else {"bias": False}


@dataclasses.dataclass(frozen=True)
class Z(Rule):
    """LRP-0: R_j = sum_k x_j w_jk / z_k R_k.  [BACH2015, eq. 56]

    Args:
        bias: Whether the bias takes part in z and so absorbs its share.
    """

    bias: bool = True

    def parts(self):
        return (Part((Term(identity, on(**_bias(self.bias))),)),)


@dataclasses.dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-epsilon: R_j = sum_k x_j w_jk / (z_k + epsilon sgn(z_k)) R_k.  [BACH2015, eq. 58]

    Args:
        epsilon: Stabiliser, non-negative.
        bias: Whether the bias takes part in z and so absorbs its share.
    """

    epsilon: float = 1e-7
    bias: bool = True

    def parts(self):
        return (Part((Term(identity, on(**_bias(self.bias))),)),)


@dataclasses.dataclass(frozen=True)
class ZPlus(Rule):
    """z+: R_j = sum_k (x_j w_jk)^+ / (sum_i (x_i w_ik)^+ + b_k^+) R_k, for inputs of any sign.  [MONTAVON2017]

    Args:
        bias: Whether the positive part of the bias takes part.
    """

    bias: bool = True

    def parts(self):
        return (Part((Term(pos, on(pos, **_bias(self.bias))), Term(neg, on(neg, bias=False)))),)


@dataclasses.dataclass(frozen=True)
class ZPlusFast(Rule):
    """z+ for inputs that are not negative: R_j = sum_k x_j w_jk^+ / sum_i x_i w_ik^+ R_k.  [MONTAVON2017]"""

    def parts(self):
        return (Part((Term(identity, on(pos, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class AlphaBeta(Rule):
    r"""R_j = sum_k (alpha (x_j w_jk)^+ / z_k^+ - beta (x_j w_jk)^- / z_k^-) R_k.  [BACH2015, eq. 60]

    Args:
        alpha, beta: Weights of gain and loss, alpha - beta = 1; either may be left to be inferred.
        bias: Whether b^+ is part of z^+ and b^- of z^-.
        rare_neurons: A unit that has only one of the two parts passes its relevance through that part once.
    """

    alpha: float | None = None
    beta: float | None = None
    bias: bool = True
    rare_neurons: bool = False

    def __post_init__(self):
        super().__post_init__()
        _infer_alpha_beta(self)

    def parts(self):
        gain = Part((Term(pos, on(pos, **_bias(self.bias))), Term(neg, on(neg, bias=False))), self.alpha)
        loss = Part((Term(pos, on(neg, **_bias(self.bias))), Term(neg, on(pos, bias=False))), -self.beta)
        if not self.beta:
            return (gain,)
        return once_if_alone(gain, loss) if self.rare_neurons else (gain, loss)


def _infer_alpha_beta(rule):
    """Fills in the one of alpha and beta that was not given; 2 and 1 if neither was."""
    alpha, beta = rule.alpha, rule.beta
    for name, value in (("alpha", alpha), ("beta", beta)):
        if value is not None:
            check_number(f"{type(rule).__name__}: {name}", value)
    if alpha is None:
        alpha = 2.0 if beta is None else beta + 1.0
    if beta is None:
        beta = alpha - 1.0
    if not (abs(alpha - beta - 1) <= 1e-6 and alpha >= 1 and beta >= 0):
        raise ValueError(
            f"{type(rule).__name__}: alpha - beta must be 1 with alpha >= 1 and beta >= 0, so that relevance is "
            f"conserved. Received: alpha={rule.alpha}, beta={rule.beta}."
        )
    object.__setattr__(rule, "alpha", float(alpha))
    object.__setattr__(rule, "beta", float(beta))


def once_if_alone(gain, loss):
    """Gates by which, where one part is absent, the other has weight 1, and the absent one none."""

    def gated(part, own, other):
        def gate(z, zs):
            absent, alone = (zs[own] == 0) & (zs[other] != 0), (zs[own] != 0) & (zs[other] == 0)
            share = tf.where(alone, tf.constant(1.0 / part.weight, z.dtype), tf.ones_like(z))
            return tf.where(absent, tf.zeros_like(z), share)

        return dataclasses.replace(part, gate=gate)

    return gated(gain, 0, 1), gated(loss, 1, 0)


@dataclasses.dataclass(frozen=True)
class Gamma(Rule):
    """LRP-gamma: favours positive contributions by the factor 1 + gamma.  [MONTAVON2019], generalised in [ANDEOL2021]

    The generalised form takes inputs and outputs of any sign. Where z_k >= 0,

        R_j = sum_k (x_j w_jk + gamma (x_j w_jk)^+) / (sum_i x_i w_ik + gamma (x_i w_ik)^+ + b_k + gamma b_k^+) R_k,

    and where z_k < 0 the negative contributions are favoured instead. The simple form is
    x_j (w_jk + gamma w_jk^+) / sum_i x_i (w_ik + gamma w_ik^+) + b_k, for inputs that are not negative.

    Args:
        gamma: Non-negative.
        generalized: Which form.
        bias: Whether the bias takes part.
    """

    gamma: float = 0.25
    generalized: bool = True
    bias: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_number("Gamma: gamma", self.gamma, least=0)

    def parts(self):
        more, less = Signed(1.0 + self.gamma, 1.0), Signed(1.0, 1.0 + self.gamma)
        bias = _bias(self.bias)
        if not self.generalized:
            return (Part((Term(identity, on(more, **(bias or {"bias": identity}))),)),)
        return (
            Part((Term(pos, on(more, **bias)), Term(neg, on(less, bias=False))), gate=where_positive),
            Part((Term(pos, on(less, **bias)), Term(neg, on(more, bias=False))), gate=where_negative),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ZBox(Rule):
    """z^B, for inputs in a box: R_j = sum_k (x_j w_jk - l_j w_jk^+ - h_j w_jk^-) / sum_i (...) R_k.  [MONTAVON2017]

    Args:
        low, high: Bounds of the input: numbers, or arrays that broadcast against it, such as one value per channel.
            None takes the bounds that were declared for the model's input (`input_bounds`), carried to this layer.
        carried: Function of a dtype that gives those; a composite fills it in.
    """

    low: Any = None
    high: Any = None
    carried: Callable | None = None

    def __post_init__(self):
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise ValueError(f"ZBox: give both bounds or neither. Received: low={self.low!r}, high={self.high!r}.")
        if self.low is not None and not are_bounds(self.low, self.high):
            raise ValueError(
                f"ZBox: low and high must be numbers, or arrays of them, and low must not exceed high. Received: "
                f"low={self.low!r}, high={self.high!r}."
            )

    def bounds(self, dtype):
        """(low, high) as tensors."""
        if self.carried is not None:
            return self.carried(dtype)
        if self.low is None:
            raise ValueError("ZBox has no bounds: give low and high.")
        return tf.cast(np.asarray(self.low), dtype), tf.cast(np.asarray(self.high), dtype)

    def parts(self):
        def bound(which):
            return lambda x: tf.broadcast_to(self.bounds(x.dtype)[which], tf.shape(x))

        return (
            Part(
                (
                    Term(identity, on(bias=False)),
                    Term(bound(0), on(pos, bias=False), sign=-1.0),
                    Term(bound(1), on(neg, bias=False), sign=-1.0),
                )
            ),
        )


@dataclasses.dataclass(frozen=True)
class WSquare(Rule):
    """w^2: R_j = sum_k w_jk^2 / sum_i w_ik^2 R_k.  [MONTAVON2017]"""

    def parts(self):
        return (Part((Term(ones, on(tf.square, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class Flat(Rule):
    """Equal shares along every connection that exists: R_j = sum_k 1 / (sum_i 1) R_k.  [LAPUSCHKIN2019]"""

    def parts(self):
        return (Part((Term(ones, on(ones, bias=False)),)),)


@dataclasses.dataclass(frozen=True)
class Norm(Rule):
    """In proportion to the summands: R_j = sum_k x_j / (sum_i x_i) R_k, for sums and average pooling.

    On a layer with weights the summands are x_j w_jk, and the sum is the layer's output, bias included. It is zennit's
    rule of the same name, and equals `Epsilon`.
    """

    def parts(self):
        return (Part((Term(),)),)


@dataclasses.dataclass(frozen=True)
class Pass(Rule):
    """R_j = R_j: relevance passes unchanged, as through activations.  [BACH2015]

    Where the operation makes its input larger, as adding a table does, the relevance of all copies of an entry is
    summed.
    """

    def record(self, call):
        def pull(*relevance):
            return [folded(r, x) for r, x in zip(relevance, call.inputs, strict=True)]

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class Jacobian(Rule):
    """R_j = sum_k dz_k/dx_j R_k: the transposed Jacobian.

    For selections of entries (reshape, padding, concatenation, max pooling: winner takes all) it routes relevance
    back to where the entries came from, all of it but what constants among the entries get. For every site it is the
    chain rule, which makes a gradient.
    """

    def at(self, site, facts):
        """`MovedIntegers` for integers of the input; None, no rule, where it is not known how these are moved."""
        if isinstance(site.operation, Truncation):
            return Pass()
        if getattr(site.operation, "refusal", None):
            return None
        if facts.from_integers.isdisjoint(site.inputs):
            return self
        if facts.moves_integers(site):
            return MovedIntegers(tuple(i for i, slot in enumerate(site.inputs) if slot in facts.from_integers))
        # A loop may look them up in each of its turns.
        if isinstance(site.operation, Loop):
            return None
        # Beside floating numbers integers say what becomes of those. Alone they have relevance, which would be lost.
        alone = not any("float" in facts.graph.specs[slot].dtype for slot in site.inputs)
        lost_on_the_way = isinstance(site.operation, Routing) and any(
            "int" in facts.graph.specs[slot].dtype for slot in site.outputs
        )
        return None if alone or lost_on_the_way else self

    def record(self, call):
        def absorbed(*relevance):
            return Absorbed(constants=lost(relevance, call.transposed(*relevance)))

        operation = call.operation
        moves = any(x.dtype.is_floating for x in call.inputs)
        # Integers that are computed from the input are steps, and so constants.
        fills = isinstance(operation, Routing) and (operation.fills or is_padding(operation) or not moves)
        return call.outputs, Pullback(call.transposed, absorbed, growth=1.0) if fills else Pullback(call.transposed)


@dataclasses.dataclass(frozen=True)
class MovedIntegers(Rule):
    """R_j = sum of R_k over the places k to which entry j is moved, for integers such as token ids and pixels.

    Integers have no gradient. Where entries are only moved, it is that of the same moves of floating numbers.

    Args:
        moved: The positions of the inputs whose entries are moved. Other integers say where to.
    """

    moved: tuple[int, ...] = (0,)

    def reaches(self, index, dtype="float32"):
        return index in self.moved

    def record(self, call):
        def pull(*relevance):
            floating = [tf.cast(x, call.dtype) if i in self.moved else x for i, x in enumerate(call.inputs)]
            return call.record(floating, call.weights).transposed(*relevance)

        return call.outputs, Pullback(pull, lambda *given: Absorbed(constants=lost(given, pull(*given))))


@dataclasses.dataclass(frozen=True)
class Padding(Jacobian):
    """R_j = R_k where entry k is entry j of the input; what was put in is a constant, and absorbs its share.

    A padded zero gets relevance where it is the largest of a max pooling's window, or under rules that do not multiply
    by the input.
    """


@dataclasses.dataclass(frozen=True)
class SumOverEmbedding(Rule):
    """The relevance of a token is the sum over its embedding: R_j = sum_d R_jd.

    Args:
        times_row: Multiply by the embedding first, R_j = sum_d e_jd R_jd: input times gradient of a token.
    """

    times_row: bool = False

    def reaches(self, index, dtype="float32"):
        return True

    def record(self, call):
        (row,) = call.outputs
        return call.outputs, Pullback(lambda r: (tf.reduce_sum(row * r if self.times_row else r, axis=-1),))


@dataclasses.dataclass(frozen=True)
class NormOverEmbedding(Rule):
    """The sensitivity to a token is the length of the gradient of its embedding: R_j = sqrt(sum_d R_jd^2).

    The sum over an embedding says nothing where a normalization follows, because it is zero there but for rounding. A
    token that is looked up several times gets the sum of the lengths.  [Li et al., NAACL 2016]
    """

    def reaches(self, index, dtype="float32"):
        return True

    def record(self, call):
        return call.outputs, Pullback(lambda r: (tf.norm(r, axis=-1),))


@dataclasses.dataclass(frozen=True)
class DeconvNet(Rule):
    """Deconvnet's ReLU: R_j = max(R_j, 0).  [Zeiler and Fergus, ECCV 2014]"""

    def record(self, call):
        return call.outputs, Pullback(lambda relevance: (pos(relevance),))


@dataclasses.dataclass(frozen=True)
class GuidedBackprop(Rule):
    """Guided backpropagation's ReLU: R_j = max(f'(x_j) R_j, 0).  [Springenberg et al., ICLR workshop 2015]"""

    def record(self, call):
        return call.outputs, Pullback(lambda relevance: tuple(pos(r) for r in call.transposed(relevance)))


@dataclasses.dataclass(frozen=True)
class ReLUBetaSmooth(Rule):
    """The gradient of a smoothed ReLU: R_j = sigmoid(beta x_j) R_j.  [Dombrowski et al., NeurIPS 2019]

    Args:
        beta: Sharpness, positive; the larger, the closer to the ReLU's own gradient.
    """

    beta: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        check_number("ReLUBetaSmooth: beta", self.beta, above=0)

    def record(self, call):
        slope = tf.math.sigmoid(self.beta * call.inputs[0])
        return call.outputs, Pullback(lambda relevance: (slope * relevance,))
