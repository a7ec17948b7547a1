"""One call of a site: what rules record their Zs from, at the least cost in time and memory."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable

import tensorflow as tf

from revgraph.graph.operations import Affine, Operation, ordered_sum, plus
from revgraph.reverse_rules.terms import Part, Signed, Term, identity, neg, on, pos, where_negative, where_positive


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
    """A term, computed.

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


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedTerm:
    """What a term will be made of.

    Args:
        term: The term.
        pieces: Pairs (factor, (modifier of the inputs, modifiers of the weights)) of which it is the sum.
        known: Its sign, as in `RecordedTerm`.
        half: `pos` or `neg`, where its z is had from the site's own z and z^+ or z^-; see `SiteCall`. Else None.
    """

    term: Term
    pieces: list
    known: int | None
    half: Signed | None


BLOCK = 16 * 2**20
"""Bytes of a block of a large kernel. Smaller ones take less time to compute and more to trace."""


class SiteCall:
    """One call of an operation; rules record their Zs from it.

    What is known to be zero is not computed, and nothing is computed twice: kernels and inputs as they are give the
    forward pass, and three or more kernels that are combinations of W^+ and W^- are had from these two. Where the sign
    of z is known, z and one of z^+ and z^- give the other. All of that is addition of numbers of one sign; no
    difference is taken that could cancel. What the forward pass has no need of is recorded on the backward walk, where
    it is used at once and need not be kept. Kernels that are not the model's own variables are made again there rather
    than kept, too, and large ones are made and used block by block.

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
        growth: The most by which sum |R| can grow under the parts that are planned.
    """

    def __init__(self, operation, inputs, dtype, nonnegative=None, positive=False, plain=False, frozen=False):
        self.operation = operation
        self.inputs = distinct(inputs)
        self.dtype = dtype
        # Weights that depend on the shape of the inputs are not constants.
        self.frozen = frozen and type(operation).weights is Operation.weights
        self.weights = self._constant(self._read)
        self.nonnegative = bool(nonnegative) and all(nonnegative) and not plain
        self.positive = positive and not plain
        self.plain = plain
        self._kernels, self._bias = operation.split(self.weights)
        self.growth = math.inf
        self._recorded, self._forward, self._plan = {}, {}, ()

    @functools.cached_property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """What the site computes."""
        outputs = self._record(identity, on()).outputs
        return outputs if self._bias is None else (self.operation.add_bias(outputs[0], self._bias),)

    def transposed(self, *relevance):
        """(dz/dx)^T R of the site as it is."""
        return self._record(identity, on()).transposed(*relevance)

    def after(self, *relevance) -> "SiteCall":
        """The same call on the backward walk, when this relevance has arrived.

        What is recorded from it is not computed before, and so need not be kept from the forward walk. Outputs that
        were computed there are taken over; their kernels are made again.
        """
        if tf.executing_eagerly() or self.plain:
            return self

        def held(t):
            with tf.control_dependencies(relevance):
                return tf.identity(t)

        # Where relevance arrives, z is positive. The ReLU behind makes the same tensor, and z need not be kept.
        outputs = tuple(map(tf.nn.relu, self.outputs)) if self.positive else self.outputs
        later = copy.copy(self)
        later.inputs, later.outputs = tuple(map(held, self.inputs)), tuple(map(held, outputs))
        if not self.frozen:
            with tf.control_dependencies(relevance):
                later.weights = later._read()
            if self._bias is not None:
                later.weights["bias"] = held(self._bias)
            later._kernels, later._bias = self.operation.split(later.weights)
            later._at_hand = later.weights
        later._recorded = {}
        later._forward = {key: tuple(map(held, recorded.outputs)) for key, recorded in self._recorded.items()}
        return later

    def record(self, inputs, weights, operation=None) -> Recorded:
        """Calls the operation, or another one in its place, under a tape that watches the inputs."""
        watched = [x for x in inputs if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(watched)
            outputs = (operation or self.operation)(inputs, weights)

        def transposed(*relevance):
            gradients = iter(tape.gradient(outputs, watched, relevance, unconnected_gradients="zero"))
            return tuple(next(gradients) if x.dtype.is_floating else None for x in inputs)

        return Recorded(tuple(inputs), tuple(outputs), transposed)

    def _record(self, modify, weights: on) -> Recorded:
        """The linear part on modified inputs with modified kernels, recorded once."""
        key = self._key(modify, weights)
        if key not in self._recorded or self.plain:
            inputs = self.inputs
            if modify != identity:
                inputs = tuple(modify(x) if x.dtype.is_floating else x for x in inputs)
            outputs = self._forward.get(key)
            recorded = self._record_kernels(inputs, weights, outputs)
            if outputs is not None:
                recorded = dataclasses.replace(recorded, outputs=outputs)
            self._recorded[key] = recorded
        return self._recorded[key]

    def _record_kernels(self, inputs, weights: on, outputs=None) -> Recorded:
        """The linear part on these inputs with modified kernels, in the way that costs least; its outputs, if known."""
        signed = weights.signed(self._kernels)
        if isinstance(self.operation, Affine) and signed and not (tf.executing_eagerly() or self.plain or self.frozen):
            if signed == identity and self.operation.multiple is not None:
                return self.record(inputs, *self._unscaled())
            blocks = self.operation.blocks(self._kernels, BLOCK)
            if signed != identity and len(blocks) > 1:
                return self._record_blocks(inputs, weights, blocks, outputs)
            if signed != identity:
                with tf.control_dependencies(inputs):
                    kernels, _ = self.operation.split(weights(self._at_hand))
                return self.record(inputs, kernels)
        kernels, _ = self.operation.split(self._modified(weights))
        return self.record(inputs, kernels)

    @functools.cached_property
    def _at_hand(self):
        """The weights, read when the inputs are there: else all that is made of kernels would be made first of all."""
        with tf.control_dependencies(self.inputs):
            return self._read()

    def _unscaled(self):
        """Kernels, and an operation that multiplies what it makes of them by a scale rather than the kernels."""
        operation, scale = self.operation.multiple
        kernels, _ = operation.split(operation.read(self.dtype))
        return kernels, lambda inputs, kernels: (operation.linear(inputs, kernels) * scale(self.dtype),)

    def _record_blocks(self, inputs, weights, blocks, outputs) -> Recorded:
        """The same, the kernel being modified and used block by block, forward and backward, one after the other."""

        def recorded(block, after):
            # Else all blocks would be made at once, as soon as the kernel is there.
            with tf.control_dependencies(after):
                x, kernels = block(inputs, self._kernels)
                return self.record(x, weights(kernels))

        if outputs is None:
            z = recorded(blocks[0], []).z
            for block in blocks[1:]:
                z = plus(z, recorded(block, [z]).z)
            outputs = (z,)

        def transposed(relevance):
            gradients, after = [], [relevance]
            for block in blocks:
                (gradient,) = recorded(block, after).transposed(relevance)
                gradients.append(gradient)
                after = [gradient]
            return (tf.concat(gradients, axis=-1),)

        return Recorded(inputs, outputs, transposed)

    def _key(self, modify, weights):
        return modify, weights.signed(self._kernels) or weights

    def plan(self, parts):
        """Settles what is recorded for the parts of a rule; what is known to be zero is left out."""
        if self.positive:
            parts = [_opened(part) for part in parts if part.gate is not where_negative]
        known = [(part, [t for t in map(self._known, part.terms) if t is not None]) for part in parts]
        self.growth = sum(self._growth(part, terms) for part, terms in known)
        kernels = {}
        for _, terms in known:
            for term in terms:
                kernels.setdefault(term.inputs, set()).add(term.weights.signed(self._kernels))
        kernels.setdefault(identity, set()).add(identity)
        # Two kernels of the family cost as much as W^+ and W^-; from three on the two are cheaper.
        halved = {x for x, family in kernels.items() if len(family - {None}) > 2 and self._is_additive()}
        sided = [(part, [(term, self._side(part, terms)) for term in terms]) for part, terms in known]
        other = {term.weights.signed(self._kernels) for _, terms in sided for term, side in terms if side is None}
        half = neg if other == {neg} else pos
        self._plan = [
            (part, [self._planned(term, side, half if term.inputs in halved else None) for term, side in terms])
            for part, terms in sided
        ]

    def _planned(self, term, side, half) -> "PlannedTerm":
        """A term of which the sign is `side`, if not None; `half` of the kernel is recorded anyway, if not None."""
        modifier = term.weights.signed(self._kernels)
        pieces = [(1.0, (term.inputs, term.weights))]
        if half is not None and modifier is not None:
            halves = ((modifier.positive, pos), (modifier.negative, neg))
            pieces = [(factor, (term.inputs, on(w))) for factor, w in halves if factor]
        from_z = side is not None and half is not None and modifier != half
        return PlannedTerm(term, pieces, side or self._known_sign(term), half if from_z else None)

    def _side(self, part, terms):
        """The sign that z_t has wherever relevance is let in, because the gate asks z for it and z_t favours it.

        Where z = z^+ + z^- >= 0 and z_t = p z^+ + n z^- with p > n >= 0, both sums

            z_t = n z + (p - n) z^+ = p z + (p - n) |z^-|

        are of two numbers that are not negative; likewise on the other side. So z and either half give z_t, and
        nothing cancels.
        """
        if len(terms) != 1 or not (self.nonnegative and self._is_additive()):
            return None
        (term,) = terms
        modifier = term.weights.signed(["bias", *self._kernels])
        if modifier is None or term.inputs != identity or term.sign != 1:
            return None
        if self._bias is not None and self._bias_of(term) is None:
            return None
        if (self.positive or part.gate is where_positive) and modifier.positive > modifier.negative >= 0:
            return 1
        return -1 if part.gate is where_negative and modifier.negative > modifier.positive >= 0 else None

    def _growth(self, part, terms):
        """The most by which sum |R| can grow through a part."""
        known, side = {self._known_sign(term) for term in terms}, self._side(part, terms)
        if part.gate not in (None, where_positive, where_negative):
            return math.inf
        if side is not None:
            p, n = dataclasses.astuple(terms[0].weights.signed(self._kernels))
            return abs(part.weight) * (p + n) / abs(p - n)
        return abs(part.weight) if len(known) < 2 and None not in known else math.inf

    def parts(self) -> list[tuple["Part", list[RecordedTerm]]]:
        """The parts that were planned, with their terms recorded."""
        return [(part, [self._term(term) for term in terms]) for part, terms in self._plan]

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

    def _term(self, planned) -> RecordedTerm:
        term, known = planned.term, planned.known
        pieces = tuple((factor, self._record(*piece)) for factor, piece in planned.pieces)
        bias = self._bias_of(term)
        if planned.half is not None:
            return RecordedTerm(self._favoured(term, planned.half), pieces, bias, term.sign, known)
        if bias is self._bias and pieces == ((1.0, self._recorded.get((identity, identity))),):
            return RecordedTerm(self.outputs[0], pieces, bias, term.sign, 1 if self.positive else None)
        z = ordered_sum([piece.z if factor == 1 else factor * piece.z for factor, piece in pieces])
        z = z if bias is None else self.operation.add_bias(z, bias)
        return RecordedTerm(z, pieces, bias, term.sign, known)

    def _favoured(self, term, half):
        """z_t = p z^+ + n z^- from z and a half of it, where nothing cancels in that; see `_side`."""
        p, n = dataclasses.astuple(term.weights.signed(self._kernels))
        (z,), z_half = self.outputs, self._record(identity, on(half)).z
        if self._bias is not None:
            z_half = self.operation.add_bias(z_half, half(self._bias))
        multiple, difference = (n, p - n) if half == pos else (p, n - p)
        return ordered_sum([z if multiple == 1 else multiple * z, difference * z_half])

    def _bias_of(self, term):
        if self._bias is None:
            return None
        return self._constant(lambda: term.weights({"bias": self._bias})).get("bias")

    def _known_sign(self, term):
        """The sign of s_t z_t, where input, kernel and bias have but one; None otherwise."""
        if self.plain or not isinstance(self.operation, Affine):
            return None
        signs = {pos: 1, neg: -1, identity: 1 if self.nonnegative else None}
        x, kernel = signs.get(term.inputs), {pos: 1, neg: -1}.get(term.weights.signed(self._kernels))
        if x is None or kernel is None:
            return None
        if self._bias_of(term) is not None and {pos: 1, neg: -1}.get(term.weights.signed(["bias"])) != x * kernel:
            return None
        return int(x * kernel * term.sign)

    def _read(self):
        weights = self.operation.weights(self.dtype, self.inputs)
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
