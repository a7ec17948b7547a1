r"""The engine: `SafeDivide`, `Rule` and `ReplacementLayer`.

One formula serves every rule:

    R_in = sum_p w_p sum_t s_t x_t * (dz_t/dx_t)^T SafeDivide(g_p * R, sum_t s_t z_t)

with x_t the modified input of term t, z_t the site called on x_t with modified weights, s_t a sign, w_p the weight of
part p and g_p its gate. A rule only says which modifications, combined how.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import tensorflow as tf

from revgraph.graph.operations import ordered_sum
from revgraph.reverse_rules.recording import SiteCall, entries, waiting
from revgraph.reverse_rules.terms import Part, times


@dataclasses.dataclass(frozen=True)
class SafeDivide:
    r"""r / (z + epsilon * sgn(z)), with sgn(0) = +1; 0 where r is 0 and the denominator is 0, never NaN.

    Args:
        epsilon: The stabiliser, non-negative.
        zeros_only: Stabilise only denominators that are exactly zero, without sign, as iNNvestigate does.

    Example:

        SafeDivide(1e-7)(relevance, z)
    """

    epsilon: float = 1e-7
    zeros_only: bool = False

    def __call__(self, r, z, sign=None):
        """r / z, stabilised.

        Args:
            r, z: Tensors of one shape.
            sign: 1 where z is known to be >= 0 and -1 where it is known to be <= 0, wherever r is not 0; 0 where z can
                have both signs, but is known not to be 0 wherever r is not; None where nothing is known.
        """
        if self.zeros_only:
            return tf.math.divide_no_nan(r, tf.where(z == 0, tf.constant(self.epsilon, z.dtype), z))
        epsilon = tf.constant(self.epsilon, z.dtype)
        if sign is None:
            return tf.math.divide_no_nan(r, z + tf.where(z >= 0, epsilon, -epsilon))
        # The sign of a tensor takes less time than a choice.
        return tf.math.divide_no_nan(r, z + epsilon * (tf.sign(z) if sign == 0 else sign))

    def scaled(self, factor) -> "SafeDivide":
        """The division by factor * z that gives 1 / factor of this one's quotients, for a positive factor."""
        return self if factor == 1 else dataclasses.replace(self, epsilon=factor * self.epsilon)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the relevance of a site's outputs is shared out to its inputs.

    A rule of one's own is a frozen dataclass that extends this one and says its `parts`.

    Args:
        epsilon: The stabiliser of `SafeDivide`.
    """

    epsilon: float = dataclasses.field(default=1e-7, kw_only=True)

    def __post_init__(self):
        if not self.epsilon >= 0:
            raise ValueError(f"{type(self).__name__}: epsilon must be a number >= 0. Received: {self.epsilon!r}.")

    def __str__(self):
        given = (f for f in dataclasses.fields(self) if repr(getattr(self, f.name)) != repr(f.default))
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in given)
        return f"{type(self).__name__}({shown})"

    def parts(self) -> tuple[Part, ...]:
        """The parts of the formula."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `parts` nor `record`.")

    @property
    def divide(self) -> SafeDivide:
        """The division that this rule uses; a function of r, z and sign as `SafeDivide` is."""
        return SafeDivide(self.epsilon)

    def at(self, site, facts) -> "Rule":
        """The rule for one site: itself, unless it depends on `facts`, those of revgraph.graph.analysis."""
        return self

    def reaches(self, index, dtype="float32") -> bool:
        """Whether the input of that index and dtype gets relevance; what is not floating has no gradient."""
        return tf.as_dtype(dtype).is_floating

    def record(self, call: "SiteCall"):
        """Records the Zs of all terms: returns the site's outputs and the pullback of relevance."""
        return _record_parts(self, call)


@dataclasses.dataclass(frozen=True)
class Absorbed:
    """Relevance that a site did not hand on to its inputs, by where it went.

    Each is a tensor of shape (batch,), or 0 for nothing.

    Args:
        bias: The share of the site's own bias.
        constants: The share of constants that take part: padding, fill values, tables, saturated units.
        rule: What the rule drops or adds by design, such as units without positive contributions under z+.
        stabiliser: What the stabiliser of a division takes.
    """

    bias: tf.Tensor | float = 0.0
    constants: tf.Tensor | float = 0.0
    rule: tf.Tensor | float = 0.0
    stabiliser: tf.Tensor | float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Pullback:
    """Maps the relevance of a site's outputs to that of its inputs.

    Calling it gives one tensor per input. `absorbed` says how much went to the bias and to the stabiliser.

    Args:
        relevance: Function of the relevance of the outputs.
        accounts: The same for what is absorbed; None where nothing is.
        growth: The largest factor by which sum |R| can grow.
        makes_kernels: Whether it makes kernels, which take memory while it works.
        again: Computes the site's output again when given the relevance that this has to wait for; None where it is
            kept.
    """

    relevance: Callable[..., tuple]
    accounts: Callable[..., Absorbed] | None = None
    growth: float = math.inf
    makes_kernels: bool = False
    again: Callable[..., tf.Tensor] | None = None

    def __call__(self, *relevance) -> tuple[tf.Tensor | None, ...]:
        return tuple(self.relevance(*relevance))

    def absorbed(self, *relevance) -> Absorbed:
        return Absorbed() if self.accounts is None else self.accounts(*relevance)


class ReplacementLayer:
    """Stands in for one site under one rule.

    Called on the forward walk it records its Zs on a `tf.GradientTape` and returns `(outputs, pullback)`; the
    pullback computes x * dz/dx * (R / z). Nothing is kept on the layer, so it can be called again, shared and traced.

    Args:
        site: The site, or its operation.
        rule: The rule.
        dtype: Dtype in which weights are read and relevance is computed.
        **known: `nonnegative`, `positive`, `nonzero`, `plain`: what is known of inputs and relevance, see `SiteCall`,
            which also says what else a call can be given.

    Example:

        layer = ReplacementLayer(site, AlphaBeta(2, 1))
        (y,), pullback = layer(x)
        (relevance,) = pullback(y)
    """

    def __init__(self, site, rule, dtype="float32", **known):
        self.site = site
        self.rule = rule
        self.dtype = tf.as_dtype(dtype)
        self.known = known

    def __call__(self, *inputs, **known) -> tuple[tuple[tf.Tensor, ...], Pullback]:
        operation = getattr(self.site, "operation", self.site)
        inputs = map(tf.convert_to_tensor, inputs)
        return self.rule.record(SiteCall(operation, inputs, self.dtype, **self.known, **known))

    def __repr__(self):
        return f"<ReplacementLayer {getattr(self.site, 'path', self.site)}: {self.rule}>"


def _record_parts(rule, call):
    """The formula at the head of this file: outputs, and the pullback."""
    # Of another division it is not known what it makes of multiples, and of zeros.
    usual = type(rule.divide) is SafeDivide
    call = call.planned(rule.parts(), scalable=usual)
    outputs = call.outputs
    # A recorded pass is pulled later, when weights may be others: what the rule makes of them is made now.
    recorded = call.parts() if call.frozen and tf.executing_eagerly() else None

    def shares(relevance):
        later = call.after(relevance)
        parts = recorded or later.parts()
        for part, entering in zip(parts, later.let_in(relevance, parts), strict=True):
            divide = rule.divide.scaled(part.scale) if usual else rule.divide
            known = part.total.known if usual else part.total.known or None
            yield part, entering, divide(entering, part.total.z, known)

    def pull(relevance):
        later, arriving = call.after(relevance), {}
        for part, _, s in shares(relevance):
            for factor, piece in part.total.pieces:
                arriving.setdefault(piece, []).append(later.chosen(part.weight * factor, s))
        shared = [{} for _ in call.inputs]
        before = []
        for piece, weighted in arriving.items():
            gradients = _transposed(piece, weighted, before)
            # Where several calls are one, its inputs are several times those of the site.
            pairs = zip(piece.inputs, gradients, strict=True)
            for sofar, (x, gradient) in zip(itertools.cycle(shared), pairs, strict=False):
                if gradient is not None:
                    sofar.setdefault(x.ref(), []).append(gradient)
                    before = [gradient] if call.takes_turns else before
        return [_total(sofar, x) for sofar, x in zip(shared, call.inputs, strict=True)]

    def absorbed(relevance):
        later = call.after(relevance)
        bias = stabiliser = tf.zeros(tf.shape(relevance)[:1], relevance.dtype)
        for part, entering, s in shares(relevance):
            stabiliser += part.weight * per_sample(entering - s * part.total.z)
            for factor, b in part.total.biases:
                z_bias = call.operation.add_bias(tf.zeros_like(part.total.z), b)
                bias += per_sample(times(*later.chosen(part.weight * factor, s)) * z_bias)
        return Absorbed(bias=bias, stabiliser=stabiliser)

    return outputs, Pullback(
        pull, absorbed, call.plan.growth, call.makes_kernels, call.again if call.is_cheap else None
    )


def _transposed(piece, weighted, before):
    """The gradients of a recorded call for the sum of factor * s, when `before` is there."""
    (factor, s), *more = weighted
    # Of what is linear the factor goes where it meets fewer numbers.
    x = piece.inputs[0]
    if not more and len(piece.inputs) == 1 and x.dtype.is_floating and entries(x) < entries(s):
        (gradient,) = piece.transposed(waiting(s, before))
        return (times(factor, gradient),)
    return piece.transposed(waiting(ordered_sum([times(*each) for each in weighted]), before))


def _total(gradients, x):
    """The relevance of an input from the gradients of each of its modified forms; None for indices."""
    if gradients:
        return ordered_sum([modified.deref() * ordered_sum(each) for modified, each in gradients.items()])
    return tf.zeros_like(x) if x.dtype.is_floating else None


def per_sample(t):
    """Sums a tensor over every axis but the batch axis."""
    return tf.reduce_sum(t, axis=tuple(range(1, t.shape.rank)))
