r"""The engine: `SafeDivide`, `Term`, `Part`, `Rule` and `ReplacementLayer`.

One formula serves every rule:

    R_in = sum_p w_p sum_t s_t x_t * (dz_t/dx_t)^T SafeDivide(g_p * R, sum_t s_t z_t)

with x_t the modified input of term t, z_t the site called on x_t with modified weights, s_t a sign, w_p the weight of
part p and g_p its gate. A rule only says which modifications, combined how.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf


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

    def __call__(self, r, z):
        if self.zeros_only:
            return tf.math.divide_no_nan(r, tf.where(z == 0, tf.cast(self.epsilon, z.dtype), z))
        return tf.math.divide_no_nan(r, z + self.epsilon * sign(z))


def sign(z):
    """The sign of z, +1 at zero."""
    return tf.where(z >= 0, tf.ones_like(z), -tf.ones_like(z))


def identity(t):
    """Leaves a tensor as it is."""
    return t


def pos(t):
    """The positive part."""
    return tf.maximum(t, tf.zeros((), t.dtype))


def neg(t):
    """The negative part."""
    return tf.minimum(t, tf.zeros((), t.dtype))


def ones(t):
    """One in every entry."""
    return tf.ones_like(t)


@dataclasses.dataclass(frozen=True)
class on:
    """Modified weights: `on(pos)` modifies all, `on(pos, bias=neg)` one by name, `on(pos, bias=False)` leaves one out.

    Args:
        modifier: Function of one weight tensor, applied to every weight.
        by_name: Function for the weight of that name, or False to leave it out.
    """

    modifier: Callable[[tf.Tensor], tf.Tensor]
    by_name: tuple[tuple[str, Any], ...]

    def __init__(self, modifier=identity, /, **by_name):
        object.__setattr__(self, "modifier", modifier)
        object.__setattr__(self, "by_name", tuple(by_name.items()))

    def __call__(self, weights):
        chosen = dict(self.by_name)
        chosen = {name: chosen.get(name, self.modifier) for name in weights}
        return {name: chosen[name](w) for name, w in weights.items() if chosen[name] is not False}


@dataclasses.dataclass(frozen=True)
class Term:
    """z_t: the site called on the modified input with modified weights.

    Args:
        inputs: Modifier of each input tensor: `identity`, `pos`, `neg`, `ones` or any function.
        weights: Modifier of the weights, an `on(...)`.
        sign: +1 or -1.
    """

    inputs: Callable[[tf.Tensor], tf.Tensor] = identity
    weights: on = dataclasses.field(default_factory=on)
    sign: float = 1.0


@dataclasses.dataclass(frozen=True)
class Part:
    """Terms that share one denominator, the weight of the part, and its gate.

    Args:
        terms: The terms whose signed sum is the denominator.
        weight: w_p.
        gate: Factor on the relevance that enters the part, as `gate(z, zs)` with z the site's own output and zs the
            denominators of all parts of the rule; None for 1.
    """

    terms: tuple[Term, ...]
    weight: float = 1.0
    gate: Callable | None = None


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
        given = (f for f in dataclasses.fields(self) if getattr(self, f.name) is not f.default)
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in given)
        return f"{type(self).__name__}({shown})"

    def parts(self) -> tuple[Part, ...]:
        """The parts of the formula."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `parts` nor `record`.")

    @property
    def divide(self) -> SafeDivide:
        """The division that this rule uses."""
        return SafeDivide(self.epsilon)

    def record(self, call: "SiteCall"):
        """Records the Zs of all terms: returns the site's outputs and the pullback of relevance."""
        return _record_parts(self, call)


@dataclasses.dataclass(frozen=True)
class Absorbed:
    """Relevance per sample that did not reach the inputs, and why."""

    bias: tf.Tensor
    stabiliser: tf.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Pullback:
    """Maps the relevance of a site's outputs to that of its inputs.

    Calling it gives one tensor per input. `absorbed` says how much went to the bias and to the stabiliser.
    """

    relevance: Callable[..., tuple]
    accounts: Callable[..., Absorbed] | None = None

    def __call__(self, *relevance) -> tuple[tf.Tensor | None, ...]:
        return tuple(self.relevance(*relevance))

    def absorbed(self, *relevance) -> Absorbed:
        if self.accounts is not None:
            return self.accounts(*relevance)
        zero = tf.zeros(tf.shape(relevance[0])[:1], relevance[0].dtype)
        return Absorbed(zero, zero)


class SiteCall:
    """One call of an operation on the forward walk; rules record their Zs from it.

    Args:
        operation: The site's operation.
        inputs: Its input tensors.
        dtype: The dtype in which its weights are read.
        nonnegative: For each input, whether it is known to have no negative entry.

    Attributes:
        outputs: What the site computes.
        weights: Its weights by name.
    """

    def __init__(self, operation, inputs, dtype, nonnegative=None):
        self.operation = operation
        self.inputs = tuple(inputs)
        self.weights = operation.read(dtype)
        self.nonnegative = bool(nonnegative) and all(nonnegative)
        kernels, bias = operation.split(self.weights)
        self._unmodified = self.record(self.inputs, kernels)
        z, self.transposed = self._unmodified
        self.outputs = z if bias is None else (operation.add_bias(z[0], bias),)

    def record(self, inputs, weights):
        """Calls the operation under a tape.

        Returns:
            Its outputs, and the function R -> (dz/dx)^T R that gives one tensor per input, None for indices.
        """
        watched = [x for x in inputs if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False, persistent=tf.executing_eagerly()) as tape:
            tape.watch(watched)
            outputs = self.operation(inputs, weights)

        def transposed(*relevance):
            gradients = iter(tape.gradient(outputs, watched, relevance, unconnected_gradients="zero"))
            return tuple(next(gradients) if x.dtype.is_floating else None for x in inputs)

        return outputs, transposed

    def term(self, term) -> "Recorded | None":
        """Records one term; None where it is known to be zero.

        What is not modified is not computed again: kernels and inputs as they are give the forward pass.
        """
        modify, weights = term.inputs, term.weights(self.weights)
        kernels, bias = self.operation.split(weights)
        if self.nonnegative and modify is neg:
            if bias is None:
                return None
            modify = tf.zeros_like
        if self.nonnegative and modify is pos:
            modify = identity
        inputs = self.inputs if modify is identity else tuple(modify(x) for x in self.inputs)
        own, _ = self.operation.split(self.weights)
        if modify is identity and kernels.keys() == own.keys() and all(kernels[n] is own[n] for n in own):
            (z, *_), transposed = self._unmodified
        else:
            (z, *_), transposed = self.record(inputs, kernels)
        if bias is None:
            return Recorded(inputs, z, None, transposed, term.sign)
        z_bias = self.operation.add_bias(tf.zeros_like(z), bias)
        return Recorded(inputs, z + z_bias, z_bias, transposed, term.sign)


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """A term after the forward walk: x_t, z_t, the bias in z_t, (dz_t/dx_t)^T, s_t."""

    inputs: tuple
    z: tf.Tensor
    bias: tf.Tensor | None
    transposed: Callable
    sign: float


class ReplacementLayer:
    """Stands in for one site under one rule.

    Called on the forward walk it records its Zs on a `tf.GradientTape` and returns `(outputs, pullback)`; the
    pullback computes x * dz/dx * (R / z). Nothing is kept on the layer, so it can be called again, shared and traced.

    Args:
        site: The site, or its operation.
        rule: The rule.
        dtype: Dtype in which weights are read and relevance is computed.
        nonnegative: For each input, whether it is known to have no negative entry. Terms on the negative part of such
            an input are left out.

    Example:

        layer = ReplacementLayer(site, AlphaBeta(2, 1))
        (y,), pullback = layer(x)
        (relevance,) = pullback(y)
    """

    def __init__(self, site, rule, dtype="float32", nonnegative=None):
        self.site = site
        self.rule = rule
        self.dtype = tf.as_dtype(dtype)
        self.nonnegative = nonnegative

    def __call__(self, *inputs) -> tuple[tuple[tf.Tensor, ...], Pullback]:
        operation = getattr(self.site, "operation", self.site)
        return self.rule.record(SiteCall(operation, inputs, self.dtype, self.nonnegative))

    def __repr__(self):
        return f"<ReplacementLayer {getattr(self.site, 'path', self.site)}: {self.rule}>"


def _record_parts(rule, call):
    """The formula at the head of this file: outputs, and the pullback."""
    parts = rule.parts()
    terms = [[t for t in map(call.term, part.terms) if t is not None] for part in parts]
    z = call.outputs[0]
    zs = tuple(sum((t.z * t.sign if t.sign != 1 else t.z for t in ts[1:]), _first(ts, z)) for ts in terms)

    def shares(relevance):
        for part, ts, z_part in zip(parts, terms, zs, strict=True):
            gated = relevance if part.gate is None else relevance * tf.cast(part.gate(z, zs), relevance.dtype)
            yield part, ts, z_part, gated, rule.divide(gated, z_part)

    def pull(relevance):
        total = [tf.zeros_like(x) if x.dtype.is_floating else None for x in call.inputs]
        for part, ts, _, _, s in shares(relevance):
            for t in ts:
                factor = part.weight * t.sign
                gradients = t.transposed(s if factor == 1 else factor * s)
                total = [
                    sofar if gradient is None else sofar + x * gradient
                    for sofar, x, gradient in zip(total, t.inputs, gradients, strict=True)
                ]
        return total

    def absorbed(relevance):
        bias = stabiliser = tf.zeros(tf.shape(relevance)[:1], relevance.dtype)
        for part, ts, z_part, gated, s in shares(relevance):
            stabiliser += part.weight * per_sample(gated - s * z_part)
            for t in ts:
                if t.bias is not None:
                    bias += part.weight * t.sign * per_sample(s * t.bias)
        return Absorbed(bias, stabiliser)

    return call.outputs, Pullback(pull, absorbed)


def _first(terms, z):
    return terms[0].z * terms[0].sign if terms else tf.zeros_like(z)


def per_sample(t):
    """Sums a tensor over every axis but the batch axis."""
    return tf.reduce_sum(t, axis=tuple(range(1, t.shape.rank)))
