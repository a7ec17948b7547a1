"""What is recorded for the terms of a rule: a plan, and rewrites that make it cheaper by what is known of the call.

A plan starts as the rule writes it. Each function of `REWRITES` takes a plan and what is known, and gives a plan of the
same relevance that costs less. Any of them can be left out.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from revgraph.fast.signs import Known
from revgraph.reverse_rules.terms import Signed, Term, identity, neg, on, pos, where_negative, where_positive


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedTerm:
    """What a term is made of.

    Args:
        term: The term.
        pieces: Triples (factor, modifier of the inputs, modifier of the weights): calls of the linear part, the sum of
            which gives z_t less its bias.
        sign: The sign of s_t z_t, 1 or -1, wherever relevance is let in; None where that is not known.
        half: `pos` or `neg` where z_t is made of the site's own z and z^+ or z^-; the pieces then only serve the way
            back. None where z_t is made of the pieces.
    """

    term: Term
    pieces: tuple[tuple[float, Callable, on], ...]
    sign: int | None = None
    half: Signed | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedPart:
    """What is recorded for a part: its weight, its gate, and its terms."""

    weight: float
    gate: Callable | None
    terms: tuple[PlannedTerm, ...]


Plan = tuple[PlannedPart, ...]

BY_SIGN = (None, where_positive, where_negative)
"""The gates that are known: no gate, and the two that ask z for its sign."""


def literal(parts) -> Plan:
    """The plan that records what a rule writes."""
    return tuple(
        PlannedPart(
            part.weight,
            part.gate,
            tuple(PlannedTerm(term, ((1.0, term.inputs, term.weights),)) for term in part.terms),
        )
        for part in parts
    )


def plan_of(parts, known: Known, without=()) -> Plan:
    """The plan for the parts of a rule.

    Args:
        parts: The parts.
        known: What is known of the call.
        without: Names of rewrites to leave out.
    """
    plan = literal(parts)
    for rewrite in REWRITES:
        if rewrite.__name__ not in without:
            plan = rewrite(plan, known)
    return plan


def growth(plan: Plan, known: Known) -> float:
    """The most by which sum |R| can grow under a plan; infinity where that is not known."""
    return sum(abs(part.weight) * _growth(part, known) for part in plan)


def _growth(part, known):
    signs = {t.sign for t in part.terms}
    if part.gate not in BY_SIGN or len(signs) > 1 or None in signs:
        return math.inf
    if all(known.sign(t.term) == t.sign for t in part.terms):
        return 1.0
    p, n = dataclasses.astuple(part.terms[0].term.weights.signed(known.kernels))
    return (p + n) / abs(p - n)


def open_gates(plan: Plan, known: Known) -> Plan:
    """Where relevance arrives at positive outputs only, one gate lets all of it in, and the other one none."""
    # Gates of one's own may look at the denominators of all parts, by their places.
    if not known.positive or any(part.gate not in BY_SIGN for part in plan):
        return plan
    parts = [part for part in plan if part.gate is not where_negative]
    return tuple(dataclasses.replace(p, gate=None) if p.gate is where_positive else p for p in parts)


def drop_zero_terms(plan: Plan, known: Known) -> Plan:
    """Inputs without negative entries have no negative part, and are their own positive part."""
    if not known.nonnegative:
        return plan

    def simpler(planned):
        term = planned.term
        if term.inputs == neg:
            if not known.has_bias(term):
                return None
            term = dataclasses.replace(term, inputs=tf.zeros_like)
        elif term.inputs == pos:
            term = dataclasses.replace(term, inputs=identity)
        return PlannedTerm(term, ((1.0, term.inputs, term.weights),))

    return tuple(
        dataclasses.replace(part, terms=tuple(t for t in map(simpler, part.terms) if t is not None)) for part in plan
    )


def note_signs(plan: Plan, known: Known) -> Plan:
    """Where z_t has one sign the stabiliser is a constant, not a choice."""
    return _each_term(plan, lambda part, t: dataclasses.replace(t, sign=known.sign(t.term)))


def share_halves(plan: Plan, known: Known) -> Plan:
    """Three kernels or more that are combinations of W^+ and W^-, W among them, are made of the calls with the two."""
    if not known.additive:
        return plan
    kernels = {identity: {identity}}
    for part in plan:
        for t in part.terms:
            kernels.setdefault(t.term.inputs, set()).add(t.term.weights.signed(known.kernels))
    shared = {inputs for inputs, family in kernels.items() if len(family - {None}) > 2}

    def halved(part, t):
        modifier = t.term.weights.signed(known.kernels)
        if t.term.inputs not in shared or modifier is None:
            return t
        halves = ((modifier.positive, pos), (modifier.negative, neg))
        pieces = tuple((factor, t.term.inputs, on(half)) for factor, half in halves if factor)
        return dataclasses.replace(t, pieces=pieces or t.pieces)

    return _each_term(plan, halved)


def take_sides(plan: Plan, known: Known) -> Plan:
    """Where a gate asks z for its sign, and z_t favours that side, z and one of its halves give z_t.

    For z = z^+ + z^- >= 0 and z_t = p z^+ + n z^- with p > n >= 0 both sums

        z_t = n z + (p - n) z^+ = p z + (p - n) |z^-|

    are of two numbers that are not negative; likewise on the other side. Nothing cancels. The kernel p W^+ + n W^- is
    then only used on the way back.
    """
    sides = {t: known.side(t.term, part.gate) for part in plan if len(part.terms) == 1 for t in part.terms}
    rest = {t.term.weights.signed(known.kernels) for part in plan for t in part.terms if sides.get(t) is None}
    half = neg if rest == {neg} else pos
    on_inputs = [t.term.weights for part in plan for t in part.terms if t.term.inputs == identity]
    kernels = {identity, *(weights.signed(known.kernels) for weights in on_inputs)}

    def sided(part, t):
        side, modifier = sides.get(t), t.term.weights.signed(known.kernels)
        if side is None:
            return t
        if len(kernels - {None}) < 3 or modifier == half:
            return dataclasses.replace(t, sign=side)
        return PlannedTerm(t.term, ((1.0, t.term.inputs, t.term.weights),), side, half)

    return _each_term(plan, sided)


def _each_term(plan, change) -> Plan:
    return tuple(dataclasses.replace(part, terms=tuple(change(part, term) for term in part.terms)) for part in plan)


REWRITES = (open_gates, drop_zero_terms, note_signs, share_halves, take_sides)
"""The rewrites, in their order."""
