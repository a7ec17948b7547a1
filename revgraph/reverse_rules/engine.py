r"""The engine: the one formula by which every rule with parts is computed.

A *site* is one call of a layer or operation in the graph of a model. A *rule* says how the relevance R of the outputs
of a site is shared out to its inputs:

    R_in = sum over parts p of  w_p * R_p
    R_p  = sum over terms t of p of  s_t * x_t * (dz_t/dx_t)^T SafeDivide(g_p * R, sum_t s_t z_t)

* x_t: the inputs, modified as term t says, for example only their positive part.
* z_t: the outputs of the site when it is called on x_t with weights that are modified as term t says.
* s_t: the sign of term t, +1 or -1.
* sum_t s_t z_t: the denominator of part p, which its terms share.
* w_p: the weight of part p, for example alpha.
* g_p: the gate of part p, a factor on the relevance that enters it; 1 for most rules.
* (dz_t/dx_t)^T: the transposed Jacobian. For a dense layer this is the product with the transposed weights.

A rule only names its parts, in `Rule.parts`. `Rule.record` computes the formula as it stands here. The speed layer
`revgraph.fast` computes the same numbers in less time, and can be left out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import tensorflow as tf

from revgraph.graph.analysis import Facts
from revgraph.graph.arguments import check_number
from revgraph.graph.graph import Site
from revgraph.graph.operations import Operation, ordered_sum
from revgraph.graph.types import Weights
from revgraph.reverse_rules.folding import per_sample
from revgraph.reverse_rules.terms import Part, Term

OutputsAndPullback: TypeAlias = "tuple[tuple[tf.Tensor, ...], Pullback]"
"""The outputs of a site, and the function that maps their relevance to that of the inputs."""


@dataclasses.dataclass(frozen=True)
class SafeDivide:
    r"""A division that a denominator near zero cannot spoil: r / (z + epsilon * sgn(z)), with sgn(0) = +1.

    epsilon is the *stabiliser*. It moves the denominator away from zero. With epsilon 0, a division by zero gives 0
    rather than infinity or NaN.

    Args:
        epsilon: The stabiliser, non-negative.
        zeros_only: Whether epsilon only replaces denominators that are exactly zero, as in iNNvestigate.

    Example:

        SafeDivide(1e-7)(relevance, z)
    """

    epsilon: float = 1e-7
    zeros_only: bool = False

    def __post_init__(self) -> None:
        check_number("SafeDivide: epsilon", self.epsilon, least=0)

    def __call__(self, r: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        epsilon = tf.constant(self.epsilon, z.dtype)
        if self.zeros_only:
            return tf.math.divide_no_nan(r, tf.where(z == 0, epsilon, z))
        return tf.math.divide_no_nan(r, z + tf.where(z >= 0, epsilon, -epsilon))


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the relevance of a site's outputs is shared out to its inputs.

    Your own rule is a frozen dataclass that extends this one. It defines `parts`; or it defines `record`, where it does
    not fit the formula.

    Args:
        epsilon: The stabiliser of the division, non-negative; see `SafeDivide`.

    Example:

        @dataclasses.dataclass(frozen=True)
        class PositiveWeights(Rule):
            def parts(self):
                return (Part((Term(identity, on(pos)),)),)
    """

    epsilon: float = dataclasses.field(default=1e-7, kw_only=True)

    def __post_init__(self) -> None:
        check_number(f"{type(self).__name__}: epsilon", self.epsilon, least=0)

    def __str__(self) -> str:
        given = (f for f in dataclasses.fields(self) if repr(getattr(self, f.name)) != repr(f.default))
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in given)
        return f"{type(self).__name__}({shown})"

    def parts(self) -> tuple[Part, ...]:
        """The parts of the formula: which modified inputs and weights, combined how."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `parts` nor `record`.")

    @property
    def divide(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """The division of the formula, a function of r and z."""
        return SafeDivide(self.epsilon)

    def at(self, site: Site, facts: Facts) -> "Rule | None":
        """The rule for one site, when a composite assigns it.

        Most rules return themselves. A rule that depends on where the site stands returns another one.

        Args:
            site: The site.
            facts: What is known of the graph around it.

        Returns:
            A rule; None where there is none for this site.
        """
        return self

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        """Whether an input gets relevance. By default floating inputs do, because integers have no gradient.

        Args:
            index: Position of the input among those of the site, from 0.
            dtype: Its dtype.
        """
        return tf.as_dtype(dtype).is_floating

    def record(self, call: "SiteCall") -> OutputsAndPullback:
        """Computes the formula: every z_t on a tape now, and the relevance when the pullback is called.

        Args:
            call: The call of the site.

        Returns:
            The outputs of the site, and the `Pullback` that maps their relevance to that of the inputs.
        """
        parts = self.parts()
        recorded = [[call.record_term(term) for term in part.terms] for part in parts]
        zs = [
            ordered_sum([term.sign * taped.outputs[0] for term, taped in zip(part.terms, terms, strict=True)])
            for part, terms in zip(parts, recorded, strict=True)
        ]

        def divided(relevance):
            """Of each part the relevance that enters, g_p * R, and its quotient SafeDivide(g_p * R, z_p)."""
            gates = [1.0 if p.gate is None else tf.cast(p.gate(call.outputs[0], zs), relevance.dtype) for p in parts]
            entering = [gate * relevance for gate in gates]
            return entering, [self.divide(r, z) for r, z in zip(entering, zs, strict=True)]

        def pull(relevance):
            shares: list[list[tf.Tensor]] = [[] for _ in call.inputs]
            for part, terms, s in zip(parts, recorded, divided(relevance)[1], strict=True):
                for term, taped in zip(part.terms, terms, strict=True):
                    gradients = taped.transposed(part.weight * term.sign * s)
                    for share, x, gradient in zip(shares, taped.inputs, gradients, strict=True):
                        # A mask of minus infinity that is added has no gradient, and no relevance.
                        share.extend([] if gradient is None else [tf.math.multiply_no_nan(x, gradient)])
            return [ordered_sum(share) if share else None for share in shares]

        def absorbed(relevance):
            return sum_absorbed(relevance, call, parts, zs, *divided(relevance))

        return call.outputs, Pullback(pull, absorbed, growth=math.inf)


@dataclasses.dataclass(frozen=True)
class Absorbed:
    """Relevance that a site did not hand on to its inputs, by where it went instead.

    The ledger (`analyzer.conservation`) shows these amounts. Each is a tensor of shape `(batch,)`, or 0 for nothing.

    Args:
        bias: The share of the site's own bias.
        constants: The share of constants: padding, fill values, tables, activations at their bound.
        rule: What the rule drops or adds by design. z+, for example, drops the relevance of outputs without any
            positive contribution.
        softmax: What the Taylor expansion of a softmax leaves out, or adds.
        stabiliser: What is lost because the stabiliser makes the denominators larger.
    """

    bias: tf.Tensor | float = 0.0
    constants: tf.Tensor | float = 0.0
    rule: tf.Tensor | float = 0.0
    softmax: tf.Tensor | float = 0.0
    stabiliser: tf.Tensor | float = 0.0


def sum_absorbed(
    relevance: tf.Tensor,
    call: "SiteCall",
    parts: Sequence[Part],
    zs: Sequence[tf.Tensor],
    entering: Sequence[tf.Tensor],
    shares: Sequence[tf.Tensor],
) -> Absorbed:
    """The relevance that a site under a rule with parts does not hand on.

    Args:
        relevance: Relevance of the output.
        call: The call of the site.
        parts: The parts of the rule.
        zs: The denominator z_p of each part.
        entering: The relevance that enters each part, g_p * R.
        shares: SafeDivide(g_p * R, z_p) of each part.
    """
    bias = stabiliser = 0.0
    rule = per_sample(relevance)
    for part, z, r, s in zip(parts, zs, entering, shares, strict=True):
        rule -= part.weight * per_sample(r)
        # An output without any contribution of the kind that the part favours has no input to hand relevance to.
        dropped = r * tf.cast(z == 0, r.dtype) if part.favours else tf.zeros_like(r)
        rule += part.weight * per_sample(dropped)
        # A mask may add minus infinity, where no relevance arrives.
        stabiliser += part.weight * per_sample(r - dropped - tf.math.multiply_no_nan(z, s))
        for term in part.terms:
            _, b = call.operation.split(term.weights(call.weights))
            if b is not None:
                b = call.operation.add_bias(tf.zeros_like(z), term.sign * b)
                bias += part.weight * per_sample(tf.math.multiply_no_nan(b, s))
    column = "constants" if call.operation.bias_is_table else "bias"
    return Absorbed(**{column: bias}, rule=rule, stabiliser=stabiliser)


@dataclasses.dataclass(frozen=True, eq=False)
class Pullback:
    """A function that maps the relevance of a site's outputs to that of its inputs.

    It returns one tensor per input, or None for an input that gets nothing. `absorbed` says how much went elsewhere.

    Args:
        relevance: Function of the relevance of each output. It returns the relevance of each input.
        accounts: Function of the relevance of each output. It returns what is `Absorbed`. None where nothing is.
        growth: The largest factor by which sum |R| can grow at this site. It is infinite where a division by a small
            number can make relevance explode.
    """

    relevance: Callable[..., Iterable[tf.Tensor | None]]
    accounts: Callable[..., Absorbed] | None = None
    growth: float = 1.0

    def __call__(self, *relevance: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        return tuple(self.relevance(*relevance))

    def absorbed(self, *relevance: tf.Tensor) -> Absorbed:
        """The relevance that does not reach the inputs."""
        return Absorbed() if self.accounts is None else self.accounts(*relevance)


class Recorded:
    """An operation, called on inputs under a `tf.GradientTape` that watches the inputs.

    Args:
        function: Computes the outputs from the inputs.
        inputs: The inputs x. Integers among them are not watched.
    """

    def __init__(
        self, function: Callable[[Sequence[tf.Tensor]], Iterable[tf.Tensor]], inputs: Iterable[tf.Tensor]
    ) -> None:
        self.inputs = tuple(inputs)
        self._watched = [x for x in self.inputs if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as self._tape:
            self._tape.watch(self._watched)
            self.outputs = tuple(function(self.inputs))

    def transposed(self, *relevance: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        """(dz/dx)^T R, one tensor per input; None for inputs that are integers."""
        gradients = iter(self._tape.gradient(self.outputs, self._watched, relevance, unconnected_gradients="zero"))
        return tuple(next(gradients) if x.dtype.is_floating else None for x in self.inputs)


class SiteCall:
    """One call of an operation, from which a rule computes what it needs.

    Args:
        operation: The operation of the site.
        inputs: Its input tensors.
        dtype: Dtype in which its weights are read.
        frozen: Whether the weights are copied now, so that later assignments are not seen.
        weights: The weights, where they have been read already.
    """

    def __init__(
        self,
        operation: Operation,
        inputs: Iterable[tf.Tensor],
        dtype: str | tf.DType,
        frozen: bool = False,
        weights: Weights | None = None,
    ) -> None:
        self.operation = operation
        self.inputs = distinct(inputs)
        self.dtype = dtype
        self.frozen = frozen
        self._given = weights

    @functools.cached_property
    def weights(self) -> dict[str, tf.Tensor]:
        """The operation's weights by name."""
        return self.read()

    def read(self) -> dict[str, tf.Tensor]:
        """Reads the weights by name, as they are at this moment."""
        return self.operation.completed(self._as_read(), self.dtype, self.inputs)

    def _as_read(self):
        if self._given is not None:
            return self._given
        if not self.frozen:
            return self.operation.read(self.dtype)
        with tf.init_scope():
            # A tensor read from a variable shares its memory, which the next assignment overwrites.
            return {name: tf.constant(w.numpy()) for name, w in self.operation.read(self.dtype).items()}

    @functools.cached_property
    def _plain(self):
        return self.record(self.inputs, self.weights)

    @property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """The outputs of the site."""
        return self._plain.outputs

    def transposed(self, *relevance: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        """(dz/dx)^T R of the site with its own inputs and weights, one tensor per input; None for integers."""
        return self._plain.transposed(*relevance)

    def record(self, inputs: Iterable[tf.Tensor], weights: Weights) -> Recorded:
        """The operation called on these inputs with these weights."""
        return Recorded(lambda x: self.operation(x, weights), inputs)

    def record_term(self, term: Term) -> Recorded:
        """z_t of a term: the operation called on modified inputs with modified weights."""
        inputs = distinct(term.inputs(x) if x.dtype.is_floating else x for x in self.inputs)
        return self.record(inputs, term.weights(self.weights))


def distinct(inputs: Iterable[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """The inputs, a tensor that occurs twice being copied, so that each occurrence has its own gradient."""
    seen, result = set(), []
    for x in inputs:
        result.append(tf.identity(x) if id(x) in seen else x)
        seen.add(id(x))
    return tuple(result)


class ReplacementLayer:
    """Stands in for one site under one rule.

    A call on the forward walk records what the rule needs on a `tf.GradientTape` and returns `(outputs, pullback)`. The
    pullback is called on the backward walk, and computes the relevance of the inputs. The layer itself keeps nothing,
    so it can be called again and traced.

    Args:
        site: The site, or its operation.
        rule: The rule.
        dtype: Dtype in which weights are read and relevance is computed.
        record: Function of the rule and the `SiteCall` that returns the outputs and the pullback. By default this is
            the formula, `Rule.record`. `revgraph.fast` has a faster one.

    Example:

        layer = ReplacementLayer(site, AlphaBeta(2, 1))
        (y,), pullback = layer(x)
        (relevance,) = pullback(y)
    """

    def __init__(
        self,
        site: Site | Operation,
        rule: Rule,
        dtype: str | tf.DType = "float32",
        record: Callable[[Rule, SiteCall], OutputsAndPullback] | None = None,
    ) -> None:
        self.site = site
        self.rule = rule
        self.dtype = tf.as_dtype(dtype)
        self._record = record or (lambda rule, call: rule.record(call))

    def __call__(self, *inputs: tf.Tensor, frozen: bool = False, weights: Weights | None = None) -> OutputsAndPullback:
        """Calls the site on these inputs.

        Args:
            *inputs: One tensor or array per input of the site.
            frozen: Whether the weights are copied now, so that later assignments are not seen.
            weights: The weights, where they have been read already.

        Returns:
            The outputs, and the `Pullback` that maps their relevance to that of the inputs.
        """
        operation = self.site.operation if isinstance(self.site, Site) else self.site
        call = SiteCall(operation, map(tf.convert_to_tensor, inputs), self.dtype, frozen, weights)
        return self._record(self.rule, call)

    def __repr__(self) -> str:
        return f"<ReplacementLayer {getattr(self.site, 'path', self.site)}: {self.rule}>"
