r"""The engine: `SafeDivide`, `Term`, `Part`, `Rule` and `ReplacementLayer`.

One formula serves every rule:

    R_in = sum_p w_p sum_t s_t x_t * (dz_t/dx_t)^T SafeDivide(g_p * R, sum_t s_t z_t)

with x_t the modified input of term t, z_t the site called on x_t with modified weights, s_t a sign, w_p the weight of
part p and g_p its gate. A rule only says which modifications, combined how.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from revgraph.graph.operations import Affine, Operation, ordered_sum


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
            sign: 1 where z is known to be >= 0 and -1 where it is known to be <= 0, wherever r is not 0; None where
                nothing is known.
        """
        if self.zeros_only:
            return tf.math.divide_no_nan(r, tf.where(z == 0, tf.constant(self.epsilon, z.dtype), z))
        epsilon = tf.constant(self.epsilon, z.dtype)
        return tf.math.divide_no_nan(r, z + (tf.where(z >= 0, epsilon, -epsilon) if sign is None else sign * epsilon))


@dataclasses.dataclass(frozen=True)
class Signed:
    """positive * t^+ + negative * t^-, entry by entry.

    What is linear in t^+ and t^- the engine computes once for all modifiers of this kind.
    """

    positive: float
    negative: float

    def __call__(self, t):
        if self == identity:
            return t
        if self == pos:
            return tf.maximum(t, tf.zeros((), t.dtype))
        if self == neg:
            return tf.minimum(t, tf.zeros((), t.dtype))
        return tf.where(t >= 0, self.positive * t, self.negative * t)


identity, pos, neg = Signed(1.0, 1.0), Signed(1.0, 0.0), Signed(0.0, 1.0)
"""Modifiers: a tensor as it is, its positive part, its negative part."""


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

    def signed(self, names) -> "Signed | None":
        """The one `Signed` modifier that all weights of these names get, if that is so."""
        named = dict(self.by_name)
        modifiers = {named.get(name, self.modifier) for name in names} or {self.modifier}
        (first, *others) = modifiers
        return first if not others and isinstance(first, Signed) else None


def where_positive(z, zs):
    """Gate that is open where the site's own output is not negative."""
    return z >= 0


def where_negative(z, zs):
    """Gate that is open where the site's own output is negative."""
    return z < 0


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
        given = (f for f in dataclasses.fields(self) if repr(getattr(self, f.name)) != repr(f.default))
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in given)
        return f"{type(self).__name__}({shown})"

    def parts(self) -> tuple[Part, ...]:
        """The parts of the formula."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `parts` nor `record`.")

    @property
    def divide(self) -> SafeDivide:
        """The division that this rule uses."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """The operation called on modified inputs, under a tape.

    Args:
        inputs: x, the modified inputs.
        outputs: What the operation gives for them, without bias where it is affine.
        transposed: R -> (dz/dx)^T R, one tensor per input, None for indices.
    """

    inputs: tuple
    outputs: tuple
    transposed: Callable

    @property
    def z(self):
        return self.outputs[0]


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedTerm:
    """A term on the forward walk.

    Args:
        z: z_t, the sum of factor * recorded z over the pieces, and the bias.
        pieces: Pairs (factor, recorded).
        bias: The bias in z_t, None if there is none.
        sign: s_t.
        known: The sign of s_t z_t: 1 or -1, where it is the same in every entry; None otherwise.
    """

    z: tf.Tensor
    pieces: tuple[tuple[float, Recorded], ...]
    bias: tf.Tensor | None
    sign: float
    known: int | None


class SiteCall:
    """One call of an operation on the forward walk; rules record their Zs from it.

    What is known to be zero is not computed, and nothing is computed twice: kernels and inputs as they are give the
    forward pass, and three or more kernels that are combinations of W^+ and W^- are had from these two. All of that
    is addition of what the forward pass adds up anyway; nothing is subtracted.

    Args:
        operation: The site's operation.
        inputs: Its input tensors.
        dtype: The dtype in which its weights are read.
        nonnegative: For each input, whether it is known to have no negative entry.
        positive: Whether relevance is known to arrive only where the output is positive.
        plain: Compute every term as it is written, without any of this.
        frozen: Take the weights as they are now for good, and what rules make of them, too.

    Attributes:
        weights: The operation's weights by name.
    """

    def __init__(self, operation, inputs, dtype, nonnegative=None, positive=False, plain=False, frozen=False):
        self.operation = operation
        self.inputs = distinct(inputs)
        # Weights that depend on the shape of the inputs are not constants.
        self.frozen = frozen and type(operation).weights is Operation.weights
        self.weights = self._constant(lambda: self._read(dtype))
        self.nonnegative = bool(nonnegative) and all(nonnegative) and not plain
        self.positive = positive and not plain
        self.plain = plain
        self._kernels, self._bias = operation.split(self.weights)
        self._recorded = {}

    @functools.cached_property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """What the site computes."""
        pieces = self._forward_pieces()
        if pieces is None:
            outputs = self._record(identity, on()).outputs
        else:
            outputs = (ordered_sum([piece.z for piece in pieces]),)
        return outputs if self._bias is None else (self.operation.add_bias(outputs[0], self._bias),)

    def _forward_pieces(self):
        """What was recorded already and adds up to the forward pass, if that is so."""
        if (identity, identity) in self._recorded or self.plain:
            return None
        for halves in ((identity,), (pos, neg)):
            keys = [(x, w) for x in halves for w in (pos, neg)]
            if all(key in self._recorded for key in keys):
                return [self._recorded[key] for key in keys]
        return None

    def transposed(self, *relevance):
        """(dz/dx)^T R of the site as it is."""
        return self._record(identity, on()).transposed(*relevance)

    def record(self, inputs, weights) -> Recorded:
        """Calls the operation under a tape that watches the inputs."""
        watched = [x for x in inputs if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(watched)
            outputs = self.operation(inputs, weights)

        def transposed(*relevance):
            gradients = iter(tape.gradient(outputs, watched, relevance, unconnected_gradients="zero"))
            return tuple(next(gradients) if x.dtype.is_floating else None for x in inputs)

        return Recorded(tuple(inputs), tuple(outputs), transposed)

    def _record(self, modify, weights: on) -> Recorded:
        """The linear part on modified inputs with modified kernels, recorded once."""
        key = (modify, weights.signed(self._kernels) or weights)
        if key not in self._recorded or self.plain:
            kernels, _ = self.operation.split(self._modified(weights))
            inputs = self.inputs
            if modify != identity:
                inputs = tuple(modify(x) if x.dtype.is_floating else x for x in inputs)
            self._recorded[key] = self.record(inputs, kernels)
        return self._recorded[key]

    def parts(self, parts) -> list[tuple["Part", list[RecordedTerm]]]:
        """The parts of a rule with their terms recorded; what is known to be zero is left out."""
        if self.positive:
            parts = [_opened(part) for part in parts if part.gate is not where_negative]
        known = [(part, [t for t in map(self._known, part.terms) if t is not None]) for part in parts]
        kernels = {}
        for _, terms in known:
            for term in terms:
                kernels.setdefault(term.inputs, set()).add(term.weights.signed(self._kernels))
        kernels.setdefault(identity, set()).add(identity)
        # Two kernels of the family cost as much as W^+ and W^-; from three on the two are cheaper.
        halved = {x for x, family in kernels.items() if len(family - {None}) > 2 and self._is_additive()}
        return [(part, [self._term(term, term.inputs in halved) for term in terms]) for part, terms in known]

    def _is_additive(self):
        """Whether the operation is linear in its kernel, and so the sum of its calls with W^+ and with W^-."""
        return isinstance(self.operation, Affine) and len(self._kernels) == 1 and not self.plain

    def _known(self, term) -> "Term | None":
        """The term as it is on inputs known not to be negative; None where it is zero."""
        if not self.nonnegative:
            return term
        if term.inputs == neg:
            return None if self._bias_of(term) is None else dataclasses.replace(term, inputs=tf.zeros_like)
        return dataclasses.replace(term, inputs=identity) if term.inputs == pos else term

    def _term(self, term, halved) -> RecordedTerm:
        modifier = term.weights.signed(self._kernels)
        if halved and modifier is not None:
            halves = ((modifier.positive, pos), (modifier.negative, neg))
            pieces = tuple((factor, self._record(term.inputs, on(w))) for factor, w in halves if factor)
        else:
            pieces = ((1.0, self._record(term.inputs, term.weights)),)
        bias = self._bias_of(term)
        if bias is self._bias and pieces == ((1.0, self._recorded.get((identity, identity))),):
            z = self.outputs[0]
        else:
            z = ordered_sum([piece.z if factor == 1 else factor * piece.z for factor, piece in pieces])
            z = z if bias is None else self.operation.add_bias(z, bias)
        return RecordedTerm(z, pieces, bias, term.sign, self._known_sign(term, z))

    def _bias_of(self, term):
        return self.operation.split(self._modified(term.weights))[1]

    def _known_sign(self, term, z):
        """The sign of s_t z_t, where input, kernel and bias have but one; None otherwise."""
        if self.plain or not isinstance(self.operation, Affine):
            return None
        if self.positive and z is self.outputs[0]:
            return 1
        signs = {pos: 1, neg: -1, identity: 1 if self.nonnegative else None}
        x, kernel = signs.get(term.inputs), {pos: 1, neg: -1}.get(term.weights.signed(self._kernels))
        if x is None or kernel is None:
            return None
        if self._bias_of(term) is not None and {pos: 1, neg: -1}.get(term.weights.signed(["bias"])) != x * kernel:
            return None
        return int(x * kernel * term.sign)

    def _read(self, dtype):
        weights = self.operation.weights(dtype, self.inputs)
        # A tensor read from a variable shares its memory, which the next assignment overwrites.
        return {name: tf.constant(w.numpy()) for name, w in weights.items()} if self.frozen else weights

    def _modified(self, weights: on):
        return self._constant(lambda: weights(self.weights))

    def _constant(self, make):
        """What `make` gives; worked out once, outside of what is being traced, where weights are frozen."""
        if not self.frozen:
            return make()
        with tf.init_scope():
            return make()


def _opened(part):
    return dataclasses.replace(part, gate=None) if part.gate is where_positive else part


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
        **known: `nonnegative`, `positive`, `plain`: what is known of inputs and relevance, see `SiteCall`.

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

    def __call__(self, *inputs) -> tuple[tuple[tf.Tensor, ...], Pullback]:
        operation = getattr(self.site, "operation", self.site)
        inputs = map(tf.convert_to_tensor, inputs)
        return self.rule.record(SiteCall(operation, inputs, self.dtype, **self.known))

    def __repr__(self):
        return f"<ReplacementLayer {getattr(self.site, 'path', self.site)}: {self.rule}>"


def _record_parts(rule, call):
    """The formula at the head of this file: outputs, and the pullback."""
    parts = call.parts(rule.parts())
    outputs = call.outputs
    z = outputs[0]
    zs = tuple(_signed_sum(terms, z) for _, terms in parts)

    def shares(relevance):
        for (part, terms), z_part in zip(parts, zs, strict=True):
            gated = relevance if part.gate is None else relevance * tf.cast(part.gate(z, zs), relevance.dtype)
            known = {term.known for term in terms}
            yield part, terms, z_part, gated, rule.divide(gated, z_part, known.pop() if len(known) == 1 else None)

    def pull(relevance):
        arriving = {}
        for part, terms, _, _, s in shares(relevance):
            for term in terms:
                for factor, piece in term.pieces:
                    factor = part.weight * term.sign * factor
                    arriving.setdefault(piece, []).append(s if factor == 1 else factor * s)
        shared = [[] for _ in call.inputs]
        for piece, s in arriving.items():
            for sofar, x, gradient in zip(shared, piece.inputs, piece.transposed(ordered_sum(s)), strict=True):
                if gradient is not None:
                    sofar.append(x * gradient)
        return [_total(sofar, x) for sofar, x in zip(shared, call.inputs, strict=True)]

    def absorbed(relevance):
        bias = stabiliser = tf.zeros(tf.shape(relevance)[:1], relevance.dtype)
        for part, terms, z_part, gated, s in shares(relevance):
            stabiliser += part.weight * per_sample(gated - s * z_part)
            for term in terms:
                if term.bias is not None:
                    z_bias = call.operation.add_bias(tf.zeros_like(z_part), term.bias)
                    bias += part.weight * term.sign * per_sample(s * z_bias)
        return Absorbed(bias, stabiliser)

    return outputs, Pullback(pull, absorbed)


def _total(shares, x):
    """The relevance of an input from all of its shares; None for indices."""
    if shares:
        return ordered_sum(shares)
    return tf.zeros_like(x) if x.dtype.is_floating else None


def _signed_sum(terms, z):
    if not terms:
        return tf.zeros_like(z)
    signed = [term.z if term.sign == 1 else term.sign * term.z for term in terms]
    return ordered_sum(signed)


def per_sample(t):
    """Sums a tensor over every axis but the batch axis."""
    return tf.reduce_sum(t, axis=tuple(range(1, t.shape.rank)))
