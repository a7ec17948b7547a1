"""Computes a call of an affine operation under a plan: the forward pass, and the pullback."""

import copy
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from revgraph.fast import memory
from revgraph.fast.memory import MakesKernels, RecordedBlocks, RecordedLater, Remade, blocks_of, is_large, waiting
from revgraph.fast.plan import Plan, PlannedPart, growth
from revgraph.fast.signs import Known
from revgraph.graph.operations import ordered_sum
from revgraph.reverse_rules.engine import OutputsAndPullback, Pullback, SafeDivide, SiteCall, distinct
from revgraph.reverse_rules.terms import GateFunction, identity, magnitude, on, pos, times


def record(call: SiteCall, plan: Plan, known: Known, division: SafeDivide, remade: Remade) -> OutputsAndPullback:
    """Records a call under a plan.

    Args:
        call: The call.
        plan: How the parts of the rule are computed.
        known: What is known of the call.
        division: How the rule divides.
        remade: The cheap tensors of the walk, which are computed again instead of kept.

    Returns:
        The outputs and the pullback, as `Rule.record` returns them.
    """
    now = Execution(call, plan, known, remade)
    if now.is_cheap:
        remade.note(now.outputs[0], lambda relevance: now.after(relevance).outputs[0])
    # The pullback of a recorded pass is called later, when weights may have changed. So kernels are modified now.
    kept = now.parts() if call.frozen and tf.executing_eagerly() else None

    def pull(relevance):
        later = now.after(relevance)
        arriving: dict[RecordedLater | RecordedBlocks, list[tf.Tensor]] = {}
        parts = kept or later.parts()
        zs = tuple(part.z for part in parts)
        for part in parts:
            s = _divided(division, later.let_in(part.gate, relevance, zs), part)
            for factor, piece in part.pieces:
                arriving.setdefault(piece, []).append(times(part.weight * factor, s))
            for factor, piece in part.sided:
                towards = s if later.known.positive else tf.where(later.outputs[0] >= 0, s, -s)
                arriving.setdefault(piece, []).append(times(part.weight * factor, towards))
        gradients: dict[tuple[int, Any], list[tf.Tensor]] = {}
        before: list[tf.Tensor] = []
        for piece, shares in arriving.items():
            found = piece.transposed(waiting(ordered_sum(shares), before))
            for i, (x, gradient) in enumerate(zip(piece.inputs, found, strict=True)):
                if gradient is not None:
                    gradients.setdefault((i, x.ref()), []).append(gradient)
                    before = [gradient] if later.takes_turns else before
        handed: list[list[tf.Tensor]] = [[] for _ in call.inputs]
        for (i, x), each in gradients.items():
            handed[i].append(x.deref() * ordered_sum(each))
        return [ordered_sum(share) if share else None for share in handed]

    kind = MakesKernels if now.makes_kernels else Pullback
    return now.outputs, kind(pull, growth=growth(plan, known))


def _divided(division, r, part):
    """SafeDivide(r, z_p). Where the sign of z_p is known, the stabiliser takes no comparison."""
    if part.sign is None or division.zeros_only:
        return division(r, part.z)
    epsilon = tf.constant(division.epsilon, part.z.dtype)
    return tf.math.divide_no_nan(r, part.z + epsilon * (tf.sign(part.z) if part.sign == 0 else part.sign))


Pieces: TypeAlias = tuple[tuple[float, RecordedLater | RecordedBlocks], ...]
"""Pairs of a factor and a recorded call."""


class Part:
    """A part of a rule, computed.

    Args:
        planned: The planned part.
        z: Its denominator.
        pieces: Pairs (factor, recorded call), through which relevance goes back.
        sided: Such pairs through which relevance goes back with the sign of the site's own output.
        sign: The sign of z where relevance arrives: 1, -1, or 0 where it can be either, but z is not zero. None where
            nothing is known.
    """

    def __init__(
        self, planned: PlannedPart, z: tf.Tensor, pieces: Pieces, sign: int | None, sided: Pieces = ()
    ) -> None:
        self.weight, self.gate = planned.weight, planned.gate
        self.z, self.pieces, self.sign, self.sided = z, pieces, sign, sided


class Execution:
    """A call of an affine operation, with everything that is computed for its terms.

    The forward walk calls the operation with its own inputs and kernels. Calls with modified ones are made on the
    backward walk, where they are used at once and are not kept. Modified kernels are computed every time that they are
    used, large ones block by block.

    Args:
        call: The call.
        plan: How the parts of the rule are computed.
        known: What is known of the call.
        remade: The cheap tensors of the walk, which are computed again instead of kept.
    """

    _linear: tuple[tf.Tensor, ...] | None = None
    """The outputs without bias, where the forward walk has computed them."""

    def __init__(self, call: SiteCall, plan: Plan, known: Known, remade: Remade) -> None:
        self.operation, self.inputs = known.operation, call.inputs
        self.plan, self.known = plan, known
        self._read, self._frozen, self._dtype, self._remade = call.read, call.frozen, call.dtype, remade
        self._kernels, self._bias = self.operation.split(call.weights)
        self._taped: dict[Any, RecordedLater | RecordedBlocks] = {}
        self._later: dict[Any, Execution] = {}

    @functools.cached_property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """The outputs of the site."""
        z = self._tape(identity, on()).z
        return (z if self._bias is None else self.operation.add_bias(z, self._bias),)

    @property
    def makes_kernels(self) -> bool:
        """Whether the backward walk computes kernels other than the operation's own."""
        if self._remakes and any(part.sides for part in self.plan):
            return True
        weights = [weights for part in self.plan for term in part.terms for _, _, weights in term.pieces]
        return self._remakes and any(w.signed(self._kernels) != identity for w in weights)

    @functools.cached_property
    def is_cheap(self) -> bool:
        """Whether its output is computed again on the backward walk instead of kept."""
        if tf.executing_eagerly() or self.known.positive:
            return False
        return self.operation.multiplications(self._kernels) <= memory.CHEAP

    @property
    def takes_turns(self) -> bool:
        """Whether its kernels are used one after the other, because they are large."""
        return any(is_large(x.shape[1:]) for x in self.inputs) or any(is_large(w.shape) for w in self._kernels.values())

    @property
    def _remakes(self):
        """Whether modified kernels are computed every time that they are used."""
        return not (tf.executing_eagerly() or self._frozen)

    def after(self, relevance: tf.Tensor) -> "Execution":
        """The same call on the backward walk, where everything is computed after this relevance."""
        if tf.executing_eagerly():
            return self
        # Tensors in the graph of a loop's body cannot be used outside of it.
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._later:
            self._later[graph] = self._after(relevance)
        return self._later[graph]

    def _after(self, relevance):
        later = copy.copy(self)
        later.inputs = distinct(self._remade(x, relevance) for x in self.inputs)
        if not self._frozen:
            with tf.control_dependencies([relevance]):
                weights = self._read()
            if self._bias is not None:
                weights["bias"] = waiting(self._bias, [relevance])
            later._kernels, later._bias = self.operation.split(weights)
        later._taped = {}
        if self.is_cheap:
            del later.outputs
            return later
        # z is positive where relevance arrives. The ReLU behind computes the same tensor, and so z is not kept.
        outputs = tuple(map(tf.nn.relu, self.outputs)) if self.known.positive else self.outputs
        later.outputs = tuple(waiting(z, [relevance]) for z in outputs)
        later._linear = (waiting(self._tape(identity, on()).z, [relevance]),)
        return later

    def let_in(self, gate: GateFunction | None, relevance: tf.Tensor, zs: Sequence[tf.Tensor]) -> tf.Tensor:
        """The relevance that the gate of a part lets in."""
        return relevance if gate is None else relevance * tf.cast(gate(self.outputs[0], zs), relevance.dtype)

    def parts(self) -> list[Part]:
        """The parts of the plan, computed."""
        return [self._part(planned) for planned in self.plan]

    def _part(self, planned):
        if planned.sides is not None:
            return self._from_magnitudes(planned)
        terms = [self._term(term) for term in planned.terms]
        if not terms:
            return Part(planned, tf.zeros_like(self.outputs[0]), (), None)
        signs = {sign for _, _, sign in terms}
        z = ordered_sum([z for z, _, _ in terms])
        return Part(planned, z, sum((pieces for _, pieces, _ in terms), ()), signs.pop() if len(signs) == 1 else None)

    def _from_magnitudes(self, planned):
        """sgn(z) z_p = (p + n) / 2 |z| + (p - n) / 2 |x| |W|, see `plan.use_magnitudes`."""
        p, n = planned.sides
        of_sum, of_magnitudes = (p + n) / 2, (p - n) / 2
        straight = self._tape(identity, on())
        both = self._tape(identity if self.known.nonnegative else magnitude, on(magnitude))
        a = both.z if self._bias is None else self.operation.add_bias(both.z, self._made(lambda: tf.abs(self._bias)))
        z = times(of_sum, tf.abs(self.outputs[0])) + times(of_magnitudes, a)
        return Part(planned, z, ((of_magnitudes, both),), 1, sided=((of_sum, straight),))

    def _term(self, planned):
        """s_t z_t, the `Pieces` through which relevance goes back, and the sign."""
        term, sign = planned.term, planned.sign
        pieces = tuple((factor, self._tape(modify, weights)) for factor, modify, weights in planned.pieces)
        bias = None if self._bias is None else self._made(lambda: term.weights({"bias": self._bias}).get("bias"))
        if planned.half is not None:
            z = self._from_half(term, planned.half)
        elif bias is self._bias and term.inputs == identity and self._key(identity, term.weights)[1] == identity:
            z = self.outputs[0]
            sign = int(term.sign) if self.known.positive else 0 if self.known.nonzero else sign
        else:
            z = ordered_sum([times(factor, piece.z) for factor, piece in pieces])
            z = z if bias is None else self.operation.add_bias(z, bias)
        if term.sign == 1:
            return z, pieces, sign
        return term.sign * z, tuple((term.sign * factor, piece) for factor, piece in pieces), sign

    def _from_half(self, term, half):
        """z_t = p z^+ + n z^-, computed from z and one half of it; see `plan.take_sides`."""
        modifier = term.weights.signed(self._kernels)
        p, n = modifier.positive, modifier.negative
        z_half = self._tape(identity, on(half)).z
        z_half = z_half if self._bias is None else self.operation.add_bias(z_half, half(self._bias))
        multiple, difference = (n, p - n) if half == pos else (p, n - p)
        return times(multiple, self.outputs[0]) + times(difference, z_half)

    def _tape(self, modify, weights):
        """The linear part on modified inputs with modified kernels. The same call is recorded once."""
        key = self._key(modify, weights)
        if key not in self._taped:
            inputs = self.inputs if modify == identity else distinct(map(_floating(modify), self.inputs))
            self._taped[key] = self._new_tape(inputs, weights, self._linear if key == (identity, identity) else None)
        return self._taped[key]

    def _key(self, modify, weights):
        return modify, weights.signed(self._kernels) or weights

    def _new_tape(self, inputs, weights, outputs):
        signed, multiple = weights.signed(self._kernels), self.operation.multiple
        if signed == identity and self._remakes and multiple is not None:
            return RecordedLater(functools.partial(self._call_and_scale, *multiple), inputs, outputs)
        if signed == identity:
            return self._call(inputs, self._kernels, outputs)
        if not self._remakes:
            return self._call(inputs, self._made(lambda: self._modified(weights, self._kernels)))
        blocks = blocks_of(self.operation, inputs, self._kernels) if signed else []
        if blocks:
            return RecordedBlocks(inputs, blocks, lambda x, kernels: self._call(x, weights(kernels)))

        def call_with_new_kernels(x):
            with tf.control_dependencies(x):
                kernels, _ = self.operation.split(self._read())
            return self.operation(x, self._modified(weights, kernels))

        return RecordedLater(call_with_new_kernels, inputs)

    def _call(self, inputs, kernels, outputs=None):
        return RecordedLater(lambda x: self.operation(x, kernels), inputs, outputs)

    def _call_and_scale(self, operation, scale, inputs):
        """The linear part as a multiple of another operation's, see `Affine.multiple`."""
        kernels, _ = operation.split(operation.read(self._dtype))
        return (operation.linear(inputs, kernels) * scale(self._dtype),)

    def _modified(self, weights, kernels):
        return self.operation.split(weights(kernels))[0]

    def _made(self, make):
        """The result of `make`. Where weights are frozen it is a constant, computed outside of what is being traced."""
        if not self._frozen:
            return make()
        with tf.init_scope():
            return make()


def _floating(modify):
    return lambda x: modify(x) if x.dtype.is_floating else x
