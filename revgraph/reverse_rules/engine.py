r"""The formula of LRP, and how a site is replaced by it.

One formula serves every rule:

    R_in = sum_p w_p sum_t s_t x_t * (dz_t/dx_t)^T SafeDivide(g_p * R, sum_t s_t z_t)

with x_t the modified input of term t, z_t the site called on x_t with modified weights, s_t a sign, w_p the weight of
part p and g_p its gate. A rule only says which modifications, combined how. `Rule.record` is the formula as it stands
here. The speed layer, `revgraph.fast`, computes the same numbers in less time, and can be left out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import tensorflow as tf

from revgraph.graph.arguments import check_number
from revgraph.graph.operations import Operation, ordered_sum
from revgraph.reverse_rules.terms import Part


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
        epsilon = tf.constant(self.epsilon, z.dtype)
        if self.zeros_only:
            return tf.math.divide_no_nan(r, tf.where(z == 0, epsilon, z))
        return tf.math.divide_no_nan(r, z + tf.where(z >= 0, epsilon, -epsilon))


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the relevance of a site's outputs is shared out to its inputs.

    A rule of one's own is a frozen dataclass that extends this one and says its `parts`.

    Args:
        epsilon: The stabiliser of `SafeDivide`.
    """

    epsilon: float = dataclasses.field(default=1e-7, kw_only=True)

    def __post_init__(self):
        check_number(f"{type(self).__name__}: epsilon", self.epsilon, least=0)

    def __str__(self):
        given = (f for f in dataclasses.fields(self) if repr(getattr(self, f.name)) != repr(f.default))
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in given)
        return f"{type(self).__name__}({shown})"

    def parts(self) -> tuple[Part, ...]:
        """The parts of the formula."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `parts` nor `record`.")

    @property
    def divide(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """The division that this rule uses, a function of r and z."""
        return SafeDivide(self.epsilon)

    def at(self, site, facts) -> "Rule":
        """The rule for one site: itself, unless it depends on `facts`, those of revgraph.graph.analysis."""
        return self

    def reaches(self, index, dtype="float32") -> bool:
        """Whether the input of that index and dtype gets relevance; what is not floating has no gradient."""
        return tf.as_dtype(dtype).is_floating

    def record(self, call: "SiteCall") -> tuple[tuple[tf.Tensor, ...], "Pullback"]:
        """The formula: records the Zs of all terms on the tape, and returns the outputs and the pullback.

        Args:
            call: The call of the site.

        Returns:
            The outputs of the site, and a `Pullback` of their relevance.
        """
        parts = self.parts()
        recorded = [[call.record_term(term) for term in part.terms] for part in parts]
        zs = [
            ordered_sum([term.sign * taped.outputs[0] for term, taped in zip(part.terms, terms, strict=True)])
            for part, terms in zip(parts, recorded, strict=True)
        ]

        def divided(relevance):
            """For each part the relevance that its gate lets in, and SafeDivide(g_p * R, z_p)."""
            gates = [1.0 if p.gate is None else tf.cast(p.gate(call.outputs[0], zs), relevance.dtype) for p in parts]
            entering = [gate * relevance for gate in gates]
            return entering, [self.divide(r, z) for r, z in zip(entering, zs, strict=True)]

        def pull(relevance):
            shares = [[] for _ in call.inputs]
            for part, terms, s in zip(parts, recorded, divided(relevance)[1], strict=True):
                for term, taped in zip(part.terms, terms, strict=True):
                    gradients = taped.transposed(part.weight * term.sign * s)
                    for share, x, gradient in zip(shares, taped.inputs, gradients, strict=True):
                        share.extend([] if gradient is None else [x * gradient])
            return [ordered_sum(share) if share else None for share in shares]

        def absorbed(relevance):
            return sum_absorbed(relevance, call, parts, zs, *divided(relevance))

        return call.outputs, Pullback(pull, absorbed, growth=math.inf)


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


def sum_absorbed(relevance, call, parts, zs, entering, shares) -> Absorbed:
    """What a site under a rule with parts does not hand on.

    Args:
        relevance: That of the output.
        call: The call of the site.
        parts: The parts of the rule.
        zs: The denominator z_p of each.
        entering: What the gate of each lets in, g_p * R.
        shares: SafeDivide(g_p * R, z_p) of each.
    """
    bias = stabiliser = 0.0
    rule = per_sample(relevance)
    for part, z, r, s in zip(parts, zs, entering, shares, strict=True):
        rule -= part.weight * per_sample(r)
        # A unit to which nothing contributes in the way that the part favours has no one to hand its relevance to.
        dropped = r * tf.cast(z == 0, r.dtype) if part.favours else tf.zeros_like(r)
        rule += part.weight * per_sample(dropped)
        stabiliser += part.weight * per_sample(r - dropped - s * z)
        for term in part.terms:
            _, b = call.operation.split(term.weights(call.weights))
            if b is not None:
                bias += part.weight * per_sample(s * call.operation.add_bias(tf.zeros_like(z), term.sign * b))
    column = "constants" if call.operation.bias_is_table else "bias"
    return Absorbed(**{column: bias}, rule=rule, stabiliser=stabiliser)


@dataclasses.dataclass(frozen=True, eq=False)
class Pullback:
    """Maps the relevance of a site's outputs to that of its inputs.

    Calling it gives one tensor per input, or None for an input that gets nothing. `absorbed` says how much went
    elsewhere.

    Args:
        relevance: Function of the relevance of the outputs.
        accounts: Function of the same that gives what is `Absorbed`; None where nothing is.
        growth: The largest factor by which sum |R| can grow, infinity where a division can let it explode. Rules that
            do not divide do not explode.
    """

    relevance: Callable[..., tuple]
    accounts: Callable[..., Absorbed] | None = None
    growth: float = 1.0

    def __call__(self, *relevance) -> tuple[tf.Tensor | None, ...]:
        return tuple(self.relevance(*relevance))

    def absorbed(self, *relevance) -> Absorbed:
        """What does not reach the inputs."""
        return Absorbed() if self.accounts is None else self.accounts(*relevance)


class Recorded:
    """An operation called on inputs under a `tf.GradientTape` that watches them.

    Args:
        function: inputs -> outputs.
        inputs: x, a tuple of tensors.
    """

    def __init__(self, function, inputs):
        self.inputs = tuple(inputs)
        self._watched = [x for x in self.inputs if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as self._tape:
            self._tape.watch(self._watched)
            self.outputs = tuple(function(self.inputs))

    def transposed(self, *relevance) -> tuple[tf.Tensor | None, ...]:
        """(dz/dx)^T R, one tensor per input; None for inputs that are indices."""
        gradients = iter(self._tape.gradient(self.outputs, self._watched, relevance, unconnected_gradients="zero"))
        return tuple(next(gradients) if x.dtype.is_floating else None for x in self.inputs)


class SiteCall:
    """One call of an operation; rules record their Zs from it.

    Args:
        operation: The site's operation.
        inputs: Its input tensors.
        dtype: Dtype in which its weights are read.
        frozen: Take the weights as they are now for good; those that depend on the inputs are no constants.
    """

    def __init__(self, operation, inputs, dtype, frozen=False):
        self.operation = operation
        self.inputs = distinct(inputs)
        self.dtype = dtype
        self.frozen = frozen and type(operation).weights is Operation.weights

    @functools.cached_property
    def weights(self) -> dict[str, tf.Tensor]:
        """The operation's weights by name."""
        return self.read()

    def read(self) -> dict[str, tf.Tensor]:
        """Reads the weights by name, as they are at this moment."""
        if not self.frozen:
            return self.operation.weights(self.dtype, self.inputs)
        with tf.init_scope():
            # A tensor read from a variable shares its memory, which the next assignment overwrites.
            return {name: tf.constant(w.numpy()) for name, w in self.operation.read(self.dtype).items()}

    @functools.cached_property
    def _plain(self):
        return self.record(self.inputs, self.weights)

    @property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """What the site computes."""
        return self._plain.outputs

    def transposed(self, *relevance) -> tuple[tf.Tensor | None, ...]:
        """(dz/dx)^T R of the site as it is."""
        return self._plain.transposed(*relevance)

    def record(self, inputs, weights) -> Recorded:
        """The operation called on these inputs with these weights."""
        return Recorded(lambda x: self.operation(x, weights), inputs)

    def record_term(self, term) -> Recorded:
        """z_t of a `Term`: the operation called on modified inputs with modified weights."""
        inputs = distinct(term.inputs(x) if x.dtype.is_floating else x for x in self.inputs)
        return self.record(inputs, term.weights(self.weights))


def distinct(inputs) -> tuple[tf.Tensor, ...]:
    """The inputs, with copies of those that occur before: each occurrence has a gradient of its own."""
    seen, result = set(), []
    for x in inputs:
        result.append(tf.identity(x) if id(x) in seen else x)
        seen.add(id(x))
    return tuple(result)


class ReplacementLayer:
    """Stands in for one site under one rule.

    Called on the forward walk it records its Zs on a `tf.GradientTape` and returns `(outputs, pullback)`; the
    pullback computes x * dz/dx * (R / z). Nothing is kept on the layer, so it can be called again, shared and traced.

    Args:
        site: The site, or its operation.
        rule: The rule.
        dtype: Dtype in which weights are read and relevance is computed.
        record: Function of the rule and the `SiteCall` that gives the outputs and the pullback: the formula by default,
            or what `revgraph.fast` has for the site.

    Example:

        layer = ReplacementLayer(site, AlphaBeta(2, 1))
        (y,), pullback = layer(x)
        (relevance,) = pullback(y)
    """

    def __init__(self, site, rule, dtype="float32", record=None):
        self.site = site
        self.rule = rule
        self.dtype = tf.as_dtype(dtype)
        self._record = record or (lambda rule, call: rule.record(call))

    def __call__(self, *inputs, frozen=False) -> tuple[tuple[tf.Tensor, ...], Pullback]:
        """Records the site on these inputs; with `frozen` the weights are those of now, for good."""
        operation = getattr(self.site, "operation", self.site)
        call = SiteCall(operation, map(tf.convert_to_tensor, inputs), self.dtype, frozen)
        return self._record(self.rule, call)

    def __repr__(self):
        return f"<ReplacementLayer {getattr(self.site, 'path', self.site)}: {self.rule}>"


def per_sample(t):
    """Sums a tensor over every axis but the batch axis."""
    return tf.reduce_sum(t, axis=tuple(range(1, len(t.shape))))
