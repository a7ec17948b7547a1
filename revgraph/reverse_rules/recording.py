"""One call of a site: what rules record their Zs from, at the least cost in time and memory."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable

import tensorflow as tf

from revgraph.graph.operations import Affine, Operation, ordered_sum
from revgraph.reverse_rules.planning import Choice, Knowledge, Plan
from revgraph.reverse_rules.terms import Signed, identity, on, pos, times, where_negative, where_positive

BLOCK = 8 * 2**20
"""Bytes of a block of a large kernel. Smaller ones take less time to compute and more to trace."""

LANES = 2
"""Blocks at work at the same time: TensorFlow multiplies a single sample by a kernel on one core."""

CHEAP = 128
"""Multiplications per entry of the output up to which it is computed again on the backward walk rather than kept."""

LARGE = 2**20
"""Entries of a sample or of a kernel above which a site's kernels work one after the other: each keeps all cores busy
by itself, and TensorFlow's convolutions take up to ten times the memory of what they work on."""


class Recorded:
    """The operation called on modified inputs under a tape, when outputs or relevance are first asked for.

    Args:
        inputs: x, the modified inputs; where several calls are one, those of each.
        call: x -> what the operation gives for them, without bias where it is affine.
        outputs: What that is, where it is known already.
    """

    def __init__(self, inputs, call, outputs=None):
        self.inputs = tuple(inputs)
        self._call = call
        self._outputs = outputs

    @property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """What the operation gives."""
        return self._taped[0] if self._outputs is None else self._outputs

    @property
    def z(self) -> tf.Tensor:
        """The only output, or the first one."""
        return self.outputs[0]

    @functools.cached_property
    def _taped(self):
        watched = [x for x in self.inputs if x.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(watched)
            return tuple(self._call(self.inputs)), watched, tape

    def transposed(self, *relevance):
        """R -> (dz/dx)^T R, one tensor per input, None for indices."""
        with tf.control_dependencies(relevance):
            outputs, watched, tape = self._taped
        gradients = iter(tape.gradient(outputs, watched, relevance, unconnected_gradients="zero"))
        return tuple(next(gradients) if x.dtype.is_floating else None for x in self.inputs)


class RecordedBlocks(Recorded):
    """The same, the kernel being modified and used block by block, forward and backward.

    Args:
        inputs: x, the only input.
        blocks: Inputs and kernels of each block of the input channels.
        record: Records the operation on the inputs and kernels of a block.
    """

    def __init__(self, inputs, blocks, record):
        super().__init__(inputs, None)
        self._blocks = blocks
        self._record = record

    @functools.cached_property
    def outputs(self):
        z = self._from_blocks(lambda block: block.z, self.inputs[0])
        return (tf.reduce_sum(tf.stack(z), axis=0),)

    def transposed(self, relevance):
        return (tf.concat(self._from_blocks(lambda block: block.transposed(relevance)[0], relevance), axis=-1),)

    def _from_blocks(self, result, start):
        """The result of each block, `LANES` of them being worked on at a time, once `start` is there."""
        results = [start] * LANES
        for block in self._blocks:
            with tf.control_dependencies([results[-LANES]]):
                results.append(result(self._record(*block)))
        return results[LANES:]


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedTerm:
    """A term, or the sum of several, computed.

    Args:
        z: s_t z_t, the sum of factor * recorded z over the pieces, and the biases, in one way or another.
        pieces: Pairs (factor, recorded); a factor is a number or a `Choice`.
        biases: Pairs (factor, bias) of the biases in it.
        known: The sign of z: 1 or -1, where it is the same wherever relevance arrives; 0 where it can be both, but no
            relevance arrives at zeros; None otherwise.
    """

    z: tf.Tensor
    pieces: tuple[tuple[float | Choice, Recorded], ...]
    biases: tuple[tuple[float | Choice, tf.Tensor], ...]
    known: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedPart:
    """A part of a rule, computed.

    Args:
        weight, gate: Those of the part.
        total: The sum of its terms.
        scale: How many times the part's own terms these are.
    """

    weight: float
    gate: Callable | None
    total: RecordedTerm
    scale: float


def entries(t) -> float:
    """How many entries a tensor has per sample; not a number where that is not known."""
    return math.prod(t.shape[1:]) if t.shape[1:].is_fully_defined() else math.nan


def is_large(shape) -> bool:
    """Whether a tensor of this shape has more than `LARGE` entries."""
    return shape.is_fully_defined() and math.prod(shape) > LARGE


def waiting(t, others) -> tf.Tensor:
    """A tensor, once others are there."""
    if tf.executing_eagerly() or not others:
        return t
    with tf.control_dependencies(others):
        return tf.identity(t)


class SiteCall:
    """One call of an operation; rules record their Zs from it.

    What is known to be zero is not computed, and nothing is computed twice: kernels and inputs as they are give the
    forward pass, and three or more kernels that are combinations of W^+ and W^- are had from these two. Where the sign
    of z is known, z and one of z^+ and z^- give both, and what a gate chooses by it. Terms of one part on an input with
    few channels are one call. All of that is addition of numbers that the rule adds up anyway, or of numbers of one
    sign; no other difference is taken that could cancel. What the forward pass has no need of is recorded on the
    backward walk, where it is used at once and need not be kept; outputs that are cheap are computed again there.
    Kernels that are not the model's own variables are made when they are used, each time anew, and large ones block by
    block.

    Args:
        operation: The site's operation.
        inputs: Its input tensors.
        dtype: The dtype in which its weights are read.
        nonnegative: For each input, whether it is known to have no negative entry.
        positive: Whether relevance is known to arrive only where the output is positive.
        nonzero: Whether it is known to arrive only where the output is not zero.
        plain: Compute every term as it is written, without any of this.
        frozen: Take the weights as they are now for good, and what rules make of them, too.
        again: For each input that is computed again on the backward walk, what does that when given the relevance that
            it has to wait for; None for the others.

    Attributes:
        weights: The operation's weights by name.
        plan: What is recorded from it, once that is `planned`.
    """

    plan = Plan([], math.inf)

    _linear = None
    """The outputs without bias, where they are known from the forward walk."""

    def __init__(
        self,
        operation,
        inputs,
        dtype,
        nonnegative=None,
        positive=False,
        nonzero=False,
        plain=False,
        frozen=False,
        again=(),
    ):
        self.operation = operation
        self.inputs = distinct(inputs)
        self._again = again or [None] * len(self.inputs)
        self.dtype = dtype
        # Weights that depend on the shape of the inputs are not constants.
        self.frozen = frozen and type(operation).weights is Operation.weights
        self.weights = self._constant(self._read)
        self.nonnegative = bool(nonnegative) and all(nonnegative) and not plain
        self.positive = positive and not plain
        self.nonzero = nonzero and not plain
        self.plain = plain
        self._kernels, self._bias = operation.split(self.weights)
        self._recorded, self._later = {}, {}

    @functools.cached_property
    def outputs(self) -> tuple[tf.Tensor, ...]:
        """What the site computes."""
        outputs = self._record(identity, on()).outputs
        return outputs if self._bias is None else (self.operation.add_bias(outputs[0], self._bias),)

    def transposed(self, *relevance):
        """(dz/dx)^T R of the site as it is."""
        return self._record(identity, on()).transposed(*relevance)

    @property
    def makes_kernels(self) -> bool:
        """Whether other kernels than the operation's own are made on the backward walk."""
        pieces = [piece for part in self.plan.parts for term in part.terms for _, piece in term.pieces]
        return self._remakes and any(weights.signed(self._kernels) != identity for _, weights in pieces)

    @property
    def takes_turns(self) -> bool:
        """Whether its kernels work one after the other."""
        return any(is_large(x.shape[1:]) for x in self.inputs) or any(is_large(w.shape) for w in self._kernels.values())

    @functools.cached_property
    def is_cheap(self) -> bool:
        """Whether its outputs are computed again rather than kept."""
        if self.plain or self.positive or not isinstance(self.operation, Affine):
            return False
        return self.operation.multiplications(self._kernels) <= CHEAP

    def again(self, *relevance) -> tf.Tensor:
        """The output, computed again when this relevance is there."""
        return self.after(*relevance).outputs[0]

    def after(self, *relevance) -> "SiteCall":
        """The same call on the backward walk, when this relevance has arrived.

        What is recorded from it is not computed before, and so need not be kept from the forward walk. Outputs that
        were computed there are taken over unless they are cheap.
        """
        if tf.executing_eagerly() or self.plain:
            return self
        # What is made in the graph of a loop's body is not there outside of it.
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._later:
            self._later[graph] = self._after(relevance)
        return self._later[graph]

    def _after(self, relevance):
        def held(t):
            return waiting(t, relevance)

        later = copy.copy(self)
        later.inputs = distinct(
            held(x) if again is None else again(*relevance) for x, again in zip(self.inputs, self._again, strict=True)
        )
        if not self.frozen:
            with tf.control_dependencies(relevance):
                later.weights = later._read()
            if self._bias is not None:
                later.weights["bias"] = held(self._bias)
            later._kernels, later._bias = self.operation.split(later.weights)
        later._recorded = {}
        if self.is_cheap:
            later.__dict__.pop("outputs", None)
        else:
            # Where relevance arrives, z is positive. The ReLU behind makes the same tensor, and z need not be kept.
            outputs = tuple(map(tf.nn.relu, self.outputs)) if self.positive else self.outputs
            later.outputs = tuple(map(held, outputs))
            later._linear = tuple(map(held, self._record(identity, on()).outputs))
        return later

    def record(self, inputs, weights, outputs=None) -> Recorded:
        """The operation called on modified inputs with modified weights."""
        return Recorded(inputs, lambda x: self.operation(x, weights), outputs)

    def _record(self, modify, weights: on) -> Recorded:
        """The linear part on modified inputs with modified kernels, recorded once."""
        key = self._key(modify, weights)
        if key not in self._recorded or self.plain:
            outputs = self._linear if key == (identity, identity) else None
            self._recorded[key] = self._record_kernels(self._inputs(modify), weights, outputs)
        return self._recorded[key]

    def _inputs(self, modify):
        if modify == identity:
            return self.inputs
        return tuple(modify(x) if x.dtype.is_floating else x for x in self.inputs)

    def _record_kernels(self, inputs, weights: on, outputs) -> Recorded:
        """The linear part on these inputs with modified kernels, in the way that costs least; its outputs, if known."""
        signed = weights.signed(self._kernels)
        if not self._remakes:
            return self.record(inputs, self._modified(weights), outputs)
        if signed == identity and self.operation.multiple is not None:
            return Recorded(inputs, self._scaled, outputs)
        if signed == identity:
            return self.record(inputs, self._kernels, outputs)
        blocks = self.operation.blocks(inputs, self._kernels, BLOCK) if signed else []
        if blocks:
            return RecordedBlocks(inputs, blocks, lambda x, kernels: self.record(x, weights(kernels)))
        return Recorded(inputs, lambda x: self.operation(x, *self._made([weights], x)), outputs)

    @property
    def _remakes(self):
        """Whether kernels are made anew each time that they are used."""
        return isinstance(self.operation, Affine) and not (tf.executing_eagerly() or self.plain or self.frozen)

    def _scaled(self, inputs):
        """What the operation gives, the outputs being multiplied by a scale rather than the kernels."""
        operation, scale = self.operation.multiple
        kernels, _ = operation.split(operation.read(self.dtype))
        return (operation.linear(inputs, kernels) * scale(self.dtype),)

    def _key(self, modify, weights):
        return modify, weights.signed(self._kernels) or weights

    def planned(self, parts, scalable=False) -> "SiteCall":
        """The same call, with what is recorded for the parts of a rule; `scalable` see `Knowledge`."""
        call = copy.copy(self)
        call._later = {}
        known = Knowledge(
            self.operation,
            list(self._kernels),
            self._bias is not None,
            self.nonnegative,
            self.positive,
            self.plain,
            scalable,
        )
        call.plan = known.plan(parts)
        return call

    def parts(self) -> list[RecordedPart]:
        """The parts that were planned, recorded."""
        return [
            RecordedPart(planned.part.weight, planned.part.gate, self._sum(planned.terms), planned.scale)
            for planned in self.plan.parts
        ]

    def let_in(self, relevance, parts) -> list[tf.Tensor]:
        """What the gate of each part lets in."""
        zs = tuple(part.total.z for part in parts)
        told_apart = {}
        if not self.plain and any(part.gate in (where_positive, where_negative) for part in parts):
            # One pass, where a comparison, a cast and a product are three.
            below = tf.raw_ops.ReluGrad(gradients=relevance, features=self._turned)
            told_apart = {where_positive: relevance - below, where_negative: below}

        def through(gate):
            if gate is None:
                return relevance
            if gate in told_apart:
                return told_apart[gate]
            return relevance * tf.cast(gate(self.outputs[0], zs), relevance.dtype)

        return [through(part.gate) for part in parts]

    def chosen(self, factor, s) -> tuple[float, tf.Tensor]:
        """factor * s as a number and a tensor."""
        if not isinstance(factor, Choice):
            return factor, s
        if s.dtype == tf.float32 and factor.below:
            # One pass; in float64 it would not do, because TensorFlow keeps the slope in float32.
            slope = factor.above / factor.below
            return factor.below, tf.raw_ops.LeakyReluGrad(gradients=s, features=self._turned, alpha=slope)
        below = tf.raw_ops.ReluGrad(gradients=s, features=self._turned)
        return 1.0, factor.above * (s - below) + factor.below * below

    @functools.cached_property
    def _turned(self):
        """z times a negative number, by which ReLU's gradients tell where z is negative."""
        factor = self.plan.slopes[1] if self.plan.slopes else 1.0
        return -factor * self.outputs[0]

    def _sum(self, planned) -> RecordedTerm:
        terms = [self._beside(group) if len(group) > 1 else self._term(*group) for group in self._groups(planned)]
        if not terms:
            return RecordedTerm(tf.zeros_like(self.outputs[0]), (), (), None)
        if len(terms) == 1:
            return terms[0]
        pieces, biases = (sum((getattr(term, name) for term in terms), ()) for name in ("pieces", "biases"))
        return RecordedTerm(
            ordered_sum([term.z for term in terms]), pieces, biases, _common(term.known for term in terms)
        )

    def _groups(self, terms):
        """The terms of a part, those together whose calls can be one."""
        groups = {}
        for i, planned in enumerate(terms):
            (factor, piece), *more = planned.pieces
            calls = factor == 1 and not more and planned.half is None and self._key(*piece) != (identity, identity)
            groups.setdefault(planned.term.sign if calls and self._has_room else f"term {i}", []).append(planned)
        return groups.values()

    @functools.cached_property
    def _has_room(self):
        affine = isinstance(self.operation, Affine) and not self.plain
        return affine and self.operation.has_room(self.inputs, self._kernels)

    def _term(self, planned) -> RecordedTerm:
        term, known = planned.term, planned.known
        pieces = tuple((factor, self._record(*piece)) for factor, piece in planned.pieces)
        if self.plan.slopes is not None:
            kernels = planned.pieces if self._bias is not None else []
            biases = tuple((factor, weights.modifier(self._bias)) for factor, (_, weights) in kernels)
            return RecordedTerm(self._sloped(*self.plan.slopes), pieces, biases, known)
        bias = self._bias_of(term)
        if planned.half is not None:
            z = self._favoured(term, planned.half)
        elif bias is self._bias and pieces == ((1.0, self._recorded.get((identity, identity))),):
            z = self.outputs[0]
            known = int(term.sign) if self.positive else 0 if self.nonzero else None
        else:
            z = ordered_sum([times(factor, piece.z) for factor, piece in pieces])
            z = z if bias is None else self.operation.add_bias(z, bias)
        return _with_sign(term.sign, z, pieces, [bias], known)

    def _beside(self, group) -> RecordedTerm:
        """Terms of one sign, the calls of which are one, with inputs and kernels side by side."""
        pieces = [piece for planned in group for _, piece in planned.pieces]
        key = tuple(self._key(*piece) for piece in pieces)

        def call(inputs):
            return self.operation(*self.operation.beside(inputs, self._made([w for _, w in pieces], inputs)))

        if key not in self._recorded:
            inputs = distinct(x for modify, _ in pieces for x in self._inputs(modify))
            self._recorded[key] = Recorded(inputs, call)
        recorded = self._recorded[key]
        biases = [self._bias_of(planned.term) for planned in group]
        z = recorded.z
        for bias in biases:
            z = z if bias is None else self.operation.add_bias(z, bias)
        known = _common(planned.known for planned in group)
        return _with_sign(group[0].term.sign, z, ((1.0, recorded),), biases, known)

    def _made(self, modified, inputs):
        """Kernels, modified in several ways; made when these inputs are there, if they are not constants."""
        if not self._remakes:
            return [self._modified(weights) for weights in modified]
        with tf.control_dependencies(inputs):
            read = self._read()
            return [self.operation.split(weights(read))[0] for weights in modified]

    def _sloped(self, above, below):
        """z^+ + above * z where z >= 0, z^+ - below * z where z < 0."""
        return Signed(1.0, -above / below)(self._turned) + self._half(pos)

    def _half(self, half):
        """z^+ or z^-, the bias included."""
        z_half = self._record(identity, on(half)).z
        return z_half if self._bias is None else self.operation.add_bias(z_half, half(self._bias))

    def _favoured(self, term, half):
        """z_t = p z^+ + n z^- from z and a half of it, where nothing cancels in that; see `Knowledge._side`."""
        p, n = dataclasses.astuple(term.weights.signed(self._kernels))
        (z,), z_half = self.outputs, self._half(half)
        multiple, difference = (n, p - n) if half == pos else (p, n - p)
        # Of both gamma's denominators z_half gets the same factor, but for its sign, and is multiplied once.
        z, z_half = times(multiple, z), times(abs(difference), z_half)
        return z + z_half if difference > 0 else z - z_half

    def _bias_of(self, term):
        if self._bias is None:
            return None
        return self._constant(lambda: term.weights({"bias": self._bias})).get("bias")

    def _read(self):
        weights = self.operation.weights(self.dtype, self.inputs)
        # A tensor read from a variable shares its memory, which the next assignment overwrites.
        return {name: tf.constant(w.numpy()) for name, w in weights.items()} if self.frozen else weights

    def _modified(self, weights: on):
        return self._constant(lambda: self.operation.split(weights(self.weights))[0])

    def _constant(self, make):
        """What `make` gives; worked out once, outside of what is being traced, where weights are frozen."""
        if not self.frozen:
            return make()
        with tf.init_scope():
            return make()


def _with_sign(sign, z, pieces, biases, known) -> RecordedTerm:
    if sign != 1:
        z, pieces = sign * z, tuple((sign * factor, piece) for factor, piece in pieces)
    return RecordedTerm(z, pieces, tuple((sign, bias) for bias in biases if bias is not None), known)


def _common(signs) -> int | None:
    """The sign that all have; None if they differ."""
    signs = set(signs)
    return signs.pop() if len(signs) == 1 else None


def distinct(inputs) -> tuple[tf.Tensor, ...]:
    """The inputs, with copies of those that occur before: each occurrence has a gradient of its own."""
    seen, result = set(), []
    for x in inputs:
        result.append(tf.identity(x) if id(x) in seen else x)
        seen.add(id(x))
    return tuple(result)
