"""Recognises softmax that a model spells out, by what its operations compute.

Attention weights are exponentials, or a softmax behind a mask, divided by their sum. Models write this in many ways:

    exp(x) / sum(exp(x))            exp(x - max(x)) * mask / (sum(exp(x - max(x)) * mask) + 1e-7)
    exp(x - log(sum(exp(x))))       exp(x) / (1 + sum(exp(x)))
    exp(log_softmax(x))             softmax(x) * mask / sum(softmax(x) * mask)

All operations from the scores x to the weights become one activation `softmax`. It computes what they computed, so its
rules need not know how it was written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import tensorflow as tf

from revgraph.graph.analysis import is_linear_layer
from revgraph.graph.gates import is_mask
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Activation, AveragePool, Product, Quotient, Routing, Scale, Sum

NEAR = 60
"""The largest number of sites between scores and weights."""


def join_softmax(graph: Graph, held: Iterable[int] = frozenset()) -> Graph:
    """Makes the operations of a softmax that is spelt out one activation.

    Args:
        graph: The graph, as it was read.
        held: Slots that must survive, because a layer of the user's model reads or writes them.

    Returns:
        A graph with the same outputs.
    """
    seeker = _Seeker(graph, frozenset(held))
    return graph.rewrite(seeker.joined(site) or site for site in graph.sites)


class _Seeker:
    """Finds the softmaxes of one graph."""

    def __init__(self, graph: Graph, held: Set[int]) -> None:
        self._graph = graph
        self._held = held
        self._producers = graph.producers()
        self._order = {site: i for i, site in enumerate(graph.sites)}

    def joined(self, site: Site) -> Site | None:
        """The site of the whole softmax whose weights a site writes; None where it writes none."""
        scores = self._scores(site)
        inside = [] if scores is None else self._cone(site.outputs[0], scores)
        if scores is None or not inside:
            return None
        specs = self._graph.specs
        made = {slot for other in inside for slot in other.outputs}
        masks = sorted({slot for other in inside for slot in other.inputs} - made - {scores})
        hidden = made.difference(site.outputs)
        if not all(is_mask(slot, self._producers, specs) for slot in masks) or hidden & self._held:
            return None
        if specs[scores].shape != specs[site.outputs[0]].shape:
            return None
        inputs = (scores, *masks)
        softmax = Activation(_function(inside, inputs, site.outputs[0]), "softmax")
        return Site(site.path, softmax, inputs, site.outputs, site.layer)

    def _scores(self, site):
        """The slot of the scores, if a site writes their softmax; None otherwise."""
        if isinstance(site.operation, Quotient):
            return self._divided(*site.inputs)
        if isinstance(site.operation, Product) and len(site.inputs) == 2:
            for top, factor in (site.inputs, site.inputs[::-1]):
                divisor = self._producer(self._unmoved(factor))
                if _is(divisor, "reciprocal"):
                    return self._divided(top, divisor.inputs[0])
        if _is(site, "exp", "exponential"):
            logarithm = self._producer(site.inputs[0])
            if _is(logarithm, "log_softmax"):
                return logarithm.inputs[0]
            if self._is_difference(logarithm) and self._sums(logarithm.inputs[1], logarithm.inputs[0]):
                return logarithm.inputs[0]
        return None

    def _divided(self, top, bottom):
        """The scores, if the dividend is made of their exponentials and the divisor of the sum of these."""
        scores = self._behind_exponential(top)
        return scores if scores is not None and self._sums(bottom, scores) else None

    def _sums(self, slot, scores):
        """Whether a slot is computed from a sum of exponentials of the scores, and from nothing else."""
        return any(
            isinstance(site.operation, AveragePool)
            and site.operation.name == "sum"
            and self._has_samples(site)
            and self._behind_exponential(site.inputs[0]) == scores
            for site in self._cone(slot, scores)
        )

    def _has_samples(self, site):
        """Whether a sum keeps the axis of samples."""
        before, after = (self._graph.specs[slot].shape for slot in (site.inputs[0], site.outputs[0]))
        return len(after) > 0 and before[0] == after[0]

    def _behind_exponential(self, slot):
        """The scores whose exponential or softmax a slot has, perhaps masked and scaled; None where it has none."""
        while (site := self._producer(slot)) is not None:
            if _is(site, "softmax"):
                return site.inputs[0]
            if _is(site, "exp", "exponential"):
                return self._unshifted(site.inputs[0])
            signals = [s for s in site.inputs if not is_mask(s, self._producers, self._graph.specs)]
            masked = isinstance(site.operation, Product) or _chooses(site.operation)
            scaled = isinstance(site.operation, Scale) and "bias" not in site.operation.read("float32")
            if not (masked or scaled) or len(signals) != 1:
                return None
            (slot,) = signals
        return None

    def _unshifted(self, slot):
        """The scores from which something that is the same for a whole row, such as their maximum, was subtracted."""
        site = self._producer(slot)
        if not self._is_difference(site):
            return slot
        scores, shift = site.inputs
        shapes = [self._graph.specs[s].shape for s in (slot, scores, shift)]
        return scores if shapes[0] == shapes[1] != shapes[2] and self._cone(shift, scores) else slot

    def _is_difference(self, site):
        if site is None or not isinstance(site.operation, Sum) or len(site.inputs) != 2:
            return False
        return list(site.operation.read("float64")["kernel"].numpy()) == [1.0, -1.0]

    def _unmoved(self, slot):
        """The slot from which only moves lead to a slot."""
        while (site := self._producer(slot)) is not None and _only_moves(site):
            (slot,) = site.inputs
        return slot

    def _producer(self, slot):
        return self._producers.get(slot)

    def _cone(self, slot, scores):
        """The sites that compute a slot from the scores and masks alone, in order; none where it has other sources."""
        found: set[Site] = set()
        stack, from_scores = [slot], False
        while stack:
            slot = stack.pop()
            from_scores |= slot == scores
            if slot == scores or is_mask(slot, self._producers, self._graph.specs):
                continue
            site = self._producer(slot)
            if site is None or is_linear_layer(site.operation) or len(found) > NEAR:
                return []
            if site not in found:
                found.add(site)
                stack += site.inputs
        return sorted(found, key=self._order.__getitem__) if from_scores else []


def _is(site, *names):
    return site is not None and isinstance(site.operation, Activation) and site.operation.name in names


def _only_moves(site):
    operation = site.operation
    return isinstance(operation, Routing) and operation.fixed and operation.copies and len(site.inputs) == 1


def _chooses(operation):
    """Whether an operation puts constants in the place of some entries."""
    return isinstance(operation, Routing) and operation.copies and operation.fills and not operation.fixed


def _function(sites: Sequence[Site], inputs: Sequence[int], output: int) -> Callable[..., tf.Tensor]:
    """What sites compute, as a function of the tensors in the slots `inputs`."""

    def softmax(*tensors):
        values: Mapping[int, tf.Tensor] = dict(zip(inputs, tensors, strict=True))
        for site in sites:
            given = [values[slot] for slot in site.inputs]
            weights = site.operation.weights(tensors[0].dtype, given)
            values = {**values, **dict(zip(site.outputs, site.operation(given, weights), strict=True))}
        return values[output]

    return softmax
