"""Plans of what to compute for the terms of a rule, and rewrites that make plans cheaper.

The first plan is the one that the rule writes. Each function of `REWRITES` takes a plan and what is known of the call.
It returns a plan that costs less and gives the same relevance. Any rewrite can be left out.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

import tensorflow as tf

from revgraph.fast.signs import Known
from revgraph.reverse_rules.terms import (
    GateFunction,
    Modifier,
    Part,
    Signed,
    Term,
    identity,
    neg,
    on,
    pos,
    where_negative,
    where_positive,
)


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedTerm:
    """How a term is computed.

    Args:
        term: The term.
        pieces: Triples (factor, modifier of the inputs, modifier of the weights). Each is a call of the linear part.
            z_t without its bias is the sum of the calls times their factors.
        sign: The sign of s_t z_t, 1 or -1, wherever relevance is let in; None where that is not known.
        half: `pos` or `neg` where z_t is computed from the site's own z and from z^+ or z^-. The pieces are then only
            used on the backward walk. None where z_t is computed from the pieces.
    """

    term: Term
    pieces: tuple[tuple[float, Modifier, on], ...]
    sign: int | None = None
    half: Signed | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedPart:
    """How a part is computed.

    Args:
        weight: The weight of the part.
        gate: Its gate, or None.
        terms: Its terms.
        sides: (p, n) where the part has no terms, because it is computed from z and from magnitudes: contributions of
            the sign of z count p times, and the others n times; see `use_magnitudes`.
    """

    weight: float
    gate: GateFunction | None
    terms: tuple[PlannedTerm, ...]
    sides: tuple[float, float] | None = None


Plan: TypeAlias = tuple[PlannedPart, ...]
"""How the parts of a rule are computed."""

BY_SIGN: tuple[GateFunction | None, ...] = (None, where_positive, where_negative)
"""The gates that rewrites understand: no gate, and the two that depend on the sign of z alone."""


def literal(parts: Iterable[Part]) -> Plan:
    """The plan that computes every term as the rule writes it."""
    return tuple(
        PlannedPart(
            part.weight,
            part.gate,
            tuple(PlannedTerm(term, ((1.0, term.inputs, term.weights),)) for term in part.terms),
        )
        for part in parts
    )


def plan_of(parts: Iterable[Part], known: Known, without: Collection[str] = ()) -> Plan:
    """The plan for the parts of a rule.

    Args:
        parts: The parts.
        known: What is known of the call.
        without: Names of rewrites that are left out.
    """
    plan = literal(parts)
    for rewrite in REWRITES:
        if rewrite.__name__ not in without:
            plan = rewrite(plan, known)
    return plan


def growth(plan: Plan, known: Known) -> float:
    """The largest factor by which sum |R| can grow under a plan; infinity where it is not known."""
    return sum(abs(part.weight) * _growth(part, known) for part in plan)


def _growth(part, known):
    if part.sides is not None:
        p, n = part.sides
        return (p + n) / (p - n)
    signs = {t.sign for t in part.terms}
    if part.gate not in BY_SIGN or len(signs) > 1 or None in signs:
        return math.inf
    if all(known.sign(t.term) == t.sign for t in part.terms):
        return 1.0
    p, n = dataclasses.astuple(part.terms[0].term.weights.signed(known.kernels))
    return (p + n) / abs(p - n)


def open_gates(plan: Plan, known: Known) -> Plan:
    """Where relevance arrives at positive outputs only, one gate lets all of it in, and the other one none."""
    # Other gates may use the denominators of all parts, by their places. So no part may be dropped.
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
    """Where the sign of z_t is known, so is that of the stabiliser, and needs not be computed for each entry."""
    return _each_term(plan, lambda part, t: dataclasses.replace(t, sign=known.sign(t.term)))


def use_magnitudes(plan: Plan, known: Known) -> Plan:
    """Where contributions of the sign of z count more, z_t is computed from z and from |x| |W|.

    Let contributions x_j w_j of the sign of z count p times, and the others n times, with p > n > 0. The sum of all
    contributions is z, and that of their magnitudes is a = |x| |W| + |b|. So z^+ = (z + a) / 2, z^- = (z - a) / 2, and

        z_t = sgn(z) ((p + n) / 2 |z| + (p - n) / 2 a)

    This is a sum of two numbers that are not negative, and so nothing cancels. It takes one kernel besides W, where the
    terms take two for z >= 0 and two for z < 0. Relevance goes back in the same two ways.
    """
    # In front of a ReLU the kernel p W^+ + n W^- is enough, if the inputs are not negative.
    if (known.positive and known.nonnegative) or any(part.gate not in BY_SIGN for part in plan):
        return plan
    sided = [_by_magnitudes(part, known) for part in plan]
    gates = [part.gate for part in sided]
    if gates == [where_positive, where_negative] and sided[0].sides is not None:
        above, below = sided
        if (above.sides, above.weight) == (below.sides, below.weight):
            return (dataclasses.replace(above, gate=None),)
    return tuple(sided)


def _by_magnitudes(part, known):
    sides = known.sides([t.term for t in part.terms], part.gate)
    return part if sides is None else PlannedPart(part.weight, part.gate, (), sides)


def share_halves(plan: Plan, known: Known) -> Plan:
    """Three or more calls with combinations of W^+ and W^-, such as W, are computed from the calls with these two."""
    if not known.additive:
        return plan
    kernels: dict[Modifier, set[Signed | None]] = {identity: {identity}}
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
    """Where z >= 0 is known, and z_t favours positive contributions, z_t is computed from z and from z^+ or z^-.

    For z_t = p z^+ + n z^- with p > n >= 0 it is

        z_t = n z + (p - n) z^+ = p z + (p - n) |z^-|

    Both are sums of two numbers that are not negative, and so nothing cancels. The kernel p W^+ + n W^- is then only
    used on the backward walk.
    """
    sided = {t for part in plan if len(part.terms) == 1 for t in part.terms if known.favours_positive(t.term)}
    rest = {t.term.weights.signed(known.kernels) for part in plan for t in part.terms if t not in sided}
    half = neg if rest == {neg} else pos
    on_inputs = [t.term.weights for part in plan for t in part.terms if t.term.inputs == identity]
    kernels = {identity, *(weights.signed(known.kernels) for weights in on_inputs)}

    def from_half(part, t):
        if t not in sided:
            return t
        if len(kernels - {None}) < 3 or t.term.weights.signed(known.kernels) == half:
            return dataclasses.replace(t, sign=1)
        return PlannedTerm(t.term, ((1.0, t.term.inputs, t.term.weights),), 1, half)

    return _each_term(plan, from_half)


def _each_term(plan: Plan, change: Callable[[PlannedPart, PlannedTerm], PlannedTerm]) -> Plan:
    return tuple(dataclasses.replace(part, terms=tuple(change(part, term) for term in part.terms)) for part in plan)


REWRITES = (open_gates, drop_zero_terms, use_magnitudes, note_signs, share_halves, take_sides)
"""The rewrites, in the order in which they are applied."""
