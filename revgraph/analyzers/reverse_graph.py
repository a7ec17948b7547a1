"""The reverse graph: a forward walk that records pullbacks, and backward walks over them."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from revgraph.composites import Bound
from revgraph.graph.graph import Graph
from revgraph.reverse_rules import Pullback, ReplacementLayer, per_sample


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """A forward walk: the tensor of every slot, and a pullback per site."""

    values: Mapping[int, tf.Tensor]
    pullbacks: tuple[Pullback, ...]


class ReverseGraph:
    """A graph whose sites are wrapped in `ReplacementLayer`s.

    Args:
        graph: The canonized graph.
        bound: The rule of each site.
        nonnegative: Slots known to hold no negative entry.
    """

    def __init__(self, graph: Graph, bound: tuple[Bound, ...], nonnegative=frozenset()):
        self.graph = graph
        self.bound = bound
        self.replacements = tuple(
            ReplacementLayer(b.site, b.rule, graph.dtype, [slot in nonnegative for slot in b.site.inputs])
            for b in bound
        )

    def record(self, inputs) -> Recording:
        """Walks forward from the flat inputs."""
        graph = self.graph
        values = {slot: graph.cast(slot, x) for slot, x in zip(graph.input_slots, inputs, strict=True)}
        pullbacks = []
        for site, replacement in zip(graph.sites, self.replacements, strict=True):
            outputs, pullback = replacement(*(values[slot] for slot in site.inputs))
            values.update(zip(site.outputs, outputs, strict=True))
            pullbacks.append(pullback)
        return Recording(values, tuple(pullbacks))

    def relevance(self, recording: Recording, seeds: Mapping[int, tf.Tensor]) -> dict[int, tf.Tensor]:
        """Walks backward from the relevance of the seeded slots to that of every slot they depend on.

        Relevance that arrives at a slot from several readers is summed before it is handed on.
        """
        return self._walk(recording, seeds, lambda *_: None)

    def ledger(self, recording, seeds):
        """Relevance per slot, and per site (out, in, bias, stabiliser), each of shape (batch,)."""
        entries = []

        def account(site, pullback, given, taken):
            absorbed = pullback.absorbed(*given)
            arrived = [per_sample(r) for r in taken if r is not None]
            entries.append((sum(map(per_sample, given)), sum(arrived), absorbed.bias, absorbed.stabiliser))

        return self._walk(recording, seeds, account), entries

    def _walk(self, recording, seeds, account):
        relevance = dict(seeds)
        for site, pullback in zip(reversed(self.graph.sites), reversed(recording.pullbacks), strict=True):
            if not any(slot in relevance for slot in site.outputs):
                continue
            given = [
                relevance[slot] if slot in relevance else tf.zeros_like(recording.values[slot]) for slot in site.outputs
            ]
            taken = pullback(*given)
            account(site, pullback, given, taken)
            for slot, r in zip(site.inputs, taken, strict=True):
                if r is not None:
                    relevance[slot] = relevance[slot] + r if slot in relevance else r
        return relevance
