"""What is known of relevance before it flows: where it must be zero."""

from revgraph.composites import Bound
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Activation, Routing
from revgraph.reverse_rules import Jacobian, Pass, Rule, identity, neg, pos

RECTIFIERS = frozenset({"relu", "relu6"})
"""Activations whose output is zero exactly where their input is not positive."""

SELECTIONS = frozenset(
    "Concatenate Cropping1D Cropping2D Cropping3D ExpandDims Flatten GetItem GlobalMaxPooling1D GlobalMaxPooling2D "
    "GlobalMaxPooling3D MaxPooling1D MaxPooling2D MaxPooling3D Permute Reshape Squeeze Transpose ZeroPadding1D "
    "ZeroPadding2D ZeroPadding3D".split()
)
"""Routings that copy entries and do not mix them."""


def where_relevance_arrives(graph: Graph, bound: tuple[Bound, ...], starts) -> tuple[frozenset[Site], frozenset[Site]]:
    """The sites whose relevance arrives only where their output is positive, and only where it is not zero.

    Rules that multiply by the input give no relevance to zeros. A rectifier has zeros where its input is not positive,
    so what it hands on to the site before it is zero there.

    Args:
        graph: The graph.
        bound: The rule of each of its sites.
        starts: Slots at which relevance starts, of which nothing is known.

    Returns:
        Both sets of sites.
    """
    readers = graph.consumers()
    rules = {b.site: b.rule for b in bound}
    unknown = set(starts)

    def gives_nothing_to_zeros(site):
        """Whether all that a site hands on to its inputs is zero where they are."""
        rule, operation = rules[site], site.operation
        if isinstance(operation, Routing) and isinstance(rule, Jacobian):
            return operation.name in SELECTIONS and all(quiet[slot] for slot in site.outputs)
        if _is_rectifier(operation) and isinstance(rule, Pass):
            return quiet[site.outputs[0]]
        return multiplies_by_input(rule)

    quiet = {}
    for slot in _backwards(graph):
        quiet[slot] = slot not in unknown and all(gives_nothing_to_zeros(site) for site in readers[slot])

    def is_rectified(slot):
        return all(_is_rectifier(r.operation) and isinstance(rules[r], Pass) for r in readers[slot])

    read = [site for site in graph.sites if len(site.outputs) == 1 and readers[site.outputs[0]]]
    nonzero = frozenset(site for site in read if quiet[site.outputs[0]])
    return frozenset(site for site in nonzero if is_rectified(site.outputs[0])), nonzero


def _is_rectifier(operation):
    return isinstance(operation, Activation) and operation.name in RECTIFIERS


def _backwards(graph):
    """Slots, each after the slots that are computed from it."""
    for site in reversed(graph.sites):
        yield from site.outputs
    yield from graph.input_slots


def multiplies_by_input(rule: Rule) -> bool:
    """Whether a rule's relevance is a multiple of the input, entry by entry."""
    if type(rule).record is not Rule.record:
        return False
    return all(term.inputs in (identity, pos, neg) for part in rule.parts() for term in part.terms)
