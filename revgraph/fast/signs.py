"""What is known of signs before anything is computed. What is not known counts as a no.

Three questions are answered here:

* Which tensors have no negative entry? (`nonnegative_slots`)
* Where can relevance arrive at all? (`where_relevance_arrives`)
* Which sign does a term of a rule have? (`Known`)

What is known of a single operation is an attribute of the operation: `Routing.keeps_sign` and `copies`,
`Affine.keeps_signs`, and `traits` of activations.
"""

import dataclasses
from collections.abc import Collection, Sequence

from revgraph.composites.composite import Bound
from revgraph.graph import Graph, Site
from revgraph.graph.operations import Affine, ChannelDiagonalConv, Contraction, Product, Quotient, Routing
from revgraph.reverse_rules.engine import Rule
from revgraph.reverse_rules.rules import Jacobian, Pass
from revgraph.reverse_rules.terms import (
    GateFunction,
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
class Known:
    """What is known of a call of an affine operation before it is made.

    Args:
        operation: The operation.
        kernels: Names of its kernels.
        biased: Whether it has a bias.
        nonnegative: Whether its inputs are known to have no negative entry.
        positive: Whether relevance is known to arrive only where the output is positive.
        nonzero: Whether relevance is known to arrive only where the output is not zero.
    """

    operation: Affine
    kernels: tuple[str, ...]
    biased: bool
    nonnegative: bool = False
    positive: bool = False
    nonzero: bool = False

    @property
    def additive(self) -> bool:
        """Whether the operation is linear in its kernel, and so the sum of its calls with W^+ and with W^-."""
        return len(self.kernels) == 1

    def has_bias(self, term: Term) -> bool:
        """Whether a term uses a bias."""
        return self.biased and term.weights.keeps("bias")

    def sign(self, term: Term) -> int | None:
        """The sign of s_t z_t, which is known where input, kernel and bias have one sign each; None otherwise."""
        if not self.operation.keeps_signs:
            return None
        signs: dict[object, int] = {pos: 1, neg: -1}
        x = signs.get(term.inputs, 1 if term.inputs == identity and self.nonnegative else None)
        kernel = signs.get(term.weights.signed(self.kernels))
        if x is None or kernel is None:
            return None
        if self.has_bias(term) and signs.get(term.weights.signed(["bias"])) != x * kernel:
            return None
        return int(x * kernel * term.sign)

    def favours_positive(self, term: Term) -> bool:
        """Whether z_t = p z^+ + n z^- with p > n >= 0, where z >= 0 is known; so z_t is not negative either."""
        if not (self.positive and self.nonnegative and self.additive and self.operation.keeps_signs):
            return False
        modifier = term.weights.signed([*self.kernels, "bias"] if self.biased else self.kernels)
        if modifier is None or term.inputs != identity or term.sign != 1:
            return False
        return modifier.positive > modifier.negative >= 0

    def sides(self, terms: Sequence[Term], gate: GateFunction | None) -> tuple[float, float] | None:
        """How much contributions count that have the sign of z, and how much the others do: (p, n) with p > n > 0.

        None where the terms of a part do not tell contributions apart by their sign alone, or where the gate lets
        relevance in at outputs of either sign.
        """
        positive = gate is where_positive or (gate is None and self.positive)
        if not (positive or gate is where_negative) or not (self.additive and self.operation.keeps_signs):
            return None
        by_inputs = {term.inputs: term.weights for term in terms if term.sign == 1}
        # Products of positive inputs, and those of negative ones.
        first, *second = [identity] if self.nonnegative and list(by_inputs) == [identity] else [pos, neg]
        if len(terms) != len(by_inputs) or set(by_inputs) != {first, *second}:
            return None
        modifier = by_inputs[first].signed([*self.kernels, "bias"] if self.biased else self.kernels)
        if modifier is None:
            return None
        mirrored = on(Signed(modifier.negative, modifier.positive), bias=False)
        if any(by_inputs[x] != mirrored for x in second):
            return None
        p, n = (modifier.positive, modifier.negative) if positive else (modifier.negative, modifier.positive)
        return (p, n) if p > n > 0 else None


def nonnegative_slots(graph: Graph, inputs: Collection[int] = ()) -> frozenset[int]:
    """The slots whose tensors are known to have no negative entry.

    Args:
        graph: The graph.
        inputs: Input slots without negative entries.
    """
    known = {*inputs, *(slot for slot, spec in graph.specs.items() if spec.dtype == "bool")}
    for site in graph.sites:
        operation, from_known = site.operation, all(slot in known for slot in site.inputs)
        if (
            operation.traits.nonnegative
            or (from_known and isinstance(operation, Routing) and operation.keeps_sign)
            or (from_known and isinstance(operation, ChannelDiagonalConv | Product | Quotient | Contraction))
        ):
            known.update(site.outputs)
    return frozenset(known)


def where_relevance_arrives(
    graph: Graph, bound: tuple[Bound, ...], starts: Collection[int]
) -> tuple[frozenset[Site], frozenset[Site]]:
    """The sites at which relevance arrives only where the output is positive, and only where it is not zero.

    Rules that multiply by the input give no relevance to entries that are zero. The output of a rectifier, such as a
    ReLU, is zero where its input is not positive. So the relevance that it hands to its input is zero there.

    Args:
        graph: The graph.
        bound: The rule of each of its sites.
        starts: Slots at which relevance starts. It may start at any entry.

    Returns:
        The sites where it arrives only at positive outputs, and those where it arrives only at outputs other than zero.
    """
    readers = graph.consumers()
    rules = {b.site: b.rule for b in bound}
    unknown = set(starts)

    def gives_nothing_to_zeros(site):
        """Whether the relevance that a site hands to its inputs is zero where the inputs are zero."""
        rule, operation = rules[site], site.operation
        if isinstance(operation, Routing) and isinstance(rule, Jacobian):
            return operation.copies and all(quiet[slot] for slot in site.outputs)
        if _is_rectifier(operation) and isinstance(rule, Pass):
            return quiet[site.outputs[0]]
        return multiplies_by_input(rule)

    quiet: dict[int, bool] = {}
    for slot in _backwards(graph):
        quiet[slot] = slot not in unknown and all(gives_nothing_to_zeros(site) for site in readers[slot])

    def is_rectified(slot):
        return all(_is_rectifier(r.operation) and isinstance(rules[r], Pass) for r in readers[slot])

    read = [site for site in graph.sites if len(site.outputs) == 1 and readers[site.outputs[0]]]
    nonzero = frozenset(site for site in read if quiet[site.outputs[0]])
    return frozenset(site for site in nonzero if is_rectified(site.outputs[0])), nonzero


def _is_rectifier(operation):
    return operation.traits.rectifier


def _backwards(graph):
    """Slots, each after the slots that are computed from it."""
    for site in reversed(graph.sites):
        yield from site.outputs
    yield from graph.input_slots


def multiplies_by_input(rule: Rule | None) -> bool:
    """Whether the relevance that a rule computes is a multiple of the input, entry by entry."""
    if rule is None or type(rule).record is not Rule.record:
        return False
    return all(term.inputs in (identity, pos, neg) for part in rule.parts() for term in part.terms)
