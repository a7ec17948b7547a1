"""What is known of a call before it is made, and what is recorded for the terms of a rule because of it."""

import dataclasses
import math

import tensorflow as tf

from revgraph.graph.operations import Affine, Operation
from revgraph.reverse_rules.terms import Part, Signed, Term, identity, neg, on, pos, where_negative, where_positive


@dataclasses.dataclass(frozen=True)
class Choice:
    """A factor by the sign of the site's own output: `above` where z >= 0, `below` where z < 0."""

    above: float
    below: float

    def __rmul__(self, factor):
        return Choice(factor * self.above, factor * self.below)


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedTerm:
    """What a term will be made of.

    Args:
        term: The term.
        pieces: Pairs (factor, (modifier of the inputs, modifiers of the weights)), the sum of which it is; a factor is
            a number or a `Choice`.
        known: The sign of s_t z_t: 1 or -1, where it is the same in every entry; None otherwise.
        half: `pos` or `neg`, where its z is had from the site's own z and z^+ or z^-, and the pieces only serve the way
            back; see `Knowledge._side`. Else None.
    """

    term: Term
    pieces: list
    known: int | None
    half: Signed | None


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedPart:
    """What is recorded for a part of a rule.

    Args:
        part: The part.
        terms: Its terms.
        scale: How many times the part's own terms these are. The relevance of a part is the same with all its weights
            and the stabiliser multiplied by a number.
    """

    part: Part
    terms: list[PlannedTerm]
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is recorded for the parts of a rule.

    Args:
        parts: The parts.
        growth: The most by which sum |R| can grow under them.
        slopes: (a, b) where one part, of a single term, stands for two that z chooses between: its z_t is z^+ + a z
            where z >= 0 and z^+ - b z where z < 0. Else None.
    """

    parts: list[PlannedPart]
    growth: float
    slopes: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Knowledge:
    """What is known of a call without making it.

    Args:
        operation: The operation.
        kernels: Names of its kernels.
        biased: Whether it has a bias.
        nonnegative: Whether its inputs are known to have no negative entry.
        positive: Whether relevance is known to arrive only where the output is positive.
        plain: Whether nothing of this is to be used.
        scalable: Whether the rule's division gives 1 / c of its quotients for c times z and c times epsilon.
    """

    operation: Operation
    kernels: list[str]
    biased: bool
    nonnegative: bool
    positive: bool
    plain: bool
    scalable: bool

    def plan(self, parts) -> Plan:
        """What is recorded for the parts of a rule; what is known to be zero is left out."""
        if self.positive:
            parts = [_opened(part) for part in parts if part.gate is not where_negative]
        known = [(part, [t for t in map(self._known, part.terms) if t is not None]) for part in parts]
        kernels = {}
        for _, terms in known:
            for term in terms:
                kernels.setdefault(term.inputs, set()).add(term.weights.signed(self.kernels))
        kernels.setdefault(identity, set()).add(identity)
        # Two kernels of the family cost as much as W^+ and W^-; from three on the two are cheaper.
        halved = {x for x, family in kernels.items() if len(family - {None}) > 2 and self._is_additive()}
        sided = [(part, [(term, self._side(part, terms)) for term in terms]) for part, terms in known]
        other = {term.weights.signed(self.kernels) for _, terms in sided for term, side in terms if side is None}
        half = neg if other == {neg} else pos
        planned = [
            PlannedPart(
                part, [self._planned(term, side, half if term.inputs in halved else None) for term, side in terms]
            )
            for part, terms in sided
        ]
        growth = sum(self._growth(part, terms) for part, terms in known)
        # Other gates look at the denominators, which then have to be those of the rule.
        if self.scalable and all(part.gate in (None, where_positive, where_negative) for part in parts):
            return self._as_one(planned, growth) or Plan([self._reduced(part) for part in planned], growth)
        return Plan(planned, growth)

    def _as_one(self, parts, growth) -> Plan | None:
        """The plan of two parts that z chooses between, as one.

        Where z >= 0 it is z_t = p z^+ + n z^- = n z + (p - n) z^+, and where z < 0 it is one of which the negative is
        -z_t = -p' z^+ - n' z^- = -n' z + (n' - p') z^+. For p - n = n' - p' these are the slopes of one function.
        """
        if [planned.part.gate for planned in parts] != [where_positive, where_negative]:
            return None
        terms = [term for planned in parts for term in planned.terms]
        if len(terms) != 2 or any(term.half != pos for term in terms) or parts[0].part.weight != parts[1].part.weight:
            return None
        above, below = (self._modifier(term.term) for term in terms)
        d = above.positive - above.negative
        if below.negative - below.positive != d:
            return None
        pieces = [
            (Choice(above.positive / d, -below.positive / d), (identity, on(pos))),
            (Choice(above.negative / d, -below.negative / d), (identity, on(neg))),
        ]
        term = PlannedTerm(Term(identity, on(above)), pieces, 1, pos)
        part = Part((term.term,), parts[0].part.weight)
        return Plan([PlannedPart(part, [term], 1 / d)], growth, (above.negative / d, below.negative / d))

    def _reduced(self, part) -> PlannedPart:
        """A part of a single kernel p W^+ + n W^- as W^+ + n / p W^-, which takes one pass over the kernel less."""
        if len(part.terms) != 1 or not self._is_additive():
            return part
        (planned,) = part.terms
        term, modifier = planned.term, self._modifier(planned.term)
        if modifier is None or modifier.positive == 1 or len(planned.pieces) != 1 or planned.half is not None:
            return part
        p, n = dataclasses.astuple(modifier)
        if p <= 0:
            # Turned round, a denominator of zero would be stabilised on the other side.
            return part
        weights = on(Signed(1.0, n / p), **({} if term.weights.keeps("bias") else {"bias": False}))
        term = dataclasses.replace(term, weights=weights)
        return PlannedPart(part.part, [PlannedTerm(term, [(1.0, (term.inputs, weights))], planned.known, None)], 1 / p)

    def _modifier(self, term) -> Signed | None:
        """What the term does to all weights that it uses, if that is so and `Signed`."""
        return term.weights.signed([*self.kernels, "bias"] if self._keeps_bias(term) else self.kernels)

    def _planned(self, term, side, half) -> PlannedTerm:
        """A term whose sign is `side`, if not None; z and the `half` of it, if not None, can then give z_t."""
        modifier = term.weights.signed(self.kernels)
        pieces = [(1.0, (term.inputs, term.weights))]
        from_z = side is not None and half is not None and modifier != half
        if half is not None and modifier is not None and not from_z:
            halves = ((modifier.positive, pos), (modifier.negative, neg))
            pieces = [(factor, (term.inputs, on(w))) for factor, w in halves if factor] or pieces
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
        modifier = term.weights.signed([*self.kernels, "bias"] if self.biased else self.kernels)
        if modifier is None or term.inputs != identity or term.sign != 1 or not self.operation.keeps_signs:
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
            p, n = dataclasses.astuple(terms[0].weights.signed(self.kernels))
            return abs(part.weight) * (p + n) / abs(p - n)
        return abs(part.weight) if len(known) < 2 and None not in known else math.inf

    def _is_additive(self):
        """Whether the operation is linear in its kernel, and so the sum of its calls with W^+ and with W^-."""
        return isinstance(self.operation, Affine) and len(self.kernels) == 1 and not self.plain

    def _known(self, term) -> Term | None:
        """The term as it is on inputs known not to be negative; None where it is zero."""
        if not self.nonnegative:
            return term
        if term.inputs == neg:
            return dataclasses.replace(term, inputs=tf.zeros_like) if self._keeps_bias(term) else None
        return dataclasses.replace(term, inputs=identity) if term.inputs == pos else term

    def _known_sign(self, term):
        """The sign of s_t z_t, where input, kernel and bias have but one; None otherwise."""
        if self.plain or not (isinstance(self.operation, Affine) and self.operation.keeps_signs):
            return None
        signs = {pos: 1, neg: -1, identity: 1 if self.nonnegative else None}
        x, kernel = signs.get(term.inputs), {pos: 1, neg: -1}.get(term.weights.signed(self.kernels))
        if x is None or kernel is None:
            return None
        if self._keeps_bias(term) and {pos: 1, neg: -1}.get(term.weights.signed(["bias"])) != x * kernel:
            return None
        return int(x * kernel * term.sign)

    def _keeps_bias(self, term):
        return self.biased and term.weights.keeps("bias")


def _opened(part):
    return dataclasses.replace(part, gate=None) if part.gate is where_positive else part
