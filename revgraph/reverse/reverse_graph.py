"""The reverse graph: a forward walk that records pullbacks, and backward walks over them."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from revgraph.composites.composite import Bound
from revgraph.fast import Speed
from revgraph.graph.graph import Graph
from revgraph.graph.operations import ordered_sum
from revgraph.reverse.ledger import Conservation, Entry, balanced, why_it_does_not_add_up
from revgraph.reverse_rules.engine import Pullback, ReplacementLayer


@dataclasses.dataclass(frozen=True, eq=False)
class Forward:
    """A forward walk: the tensor of every slot, and a pullback per site."""

    values: Mapping[int, tf.Tensor]
    pullbacks: tuple[Pullback, ...]


class ReverseGraph:
    """A graph whose sites are wrapped in `ReplacementLayer`s.

    Args:
        graph: The canonized graph.
        bound: The rule of each site.
        starts: Slots at which relevance starts; the graph's outputs by default.
        adjust: Function `(slot, relevance) -> relevance`, applied to the summed relevance of a slot before it is handed
            on; None to leave it as it is.
        fast: Whether the speed layer is used; without it every rule is computed as it is written.
        frozen: Take the weights as they are when a function is traced, for good.
    """

    def __init__(
        self,
        graph: Graph,
        bound: tuple[Bound, ...],
        starts=None,
        adjust: Callable | None = None,
        fast=True,
        frozen=False,
    ):
        self.graph = graph
        self.bound = bound
        self.adjust = adjust
        self.frozen = frozen
        self._speed = Speed(graph, bound, starts or graph.output_slots, adjusted=bool(adjust)) if fast else None
        self.replacements = tuple(
            ReplacementLayer(b.site, b.rule, graph.dtype, self._speed.recorder(b.site) if fast else None) for b in bound
        )

    def forward(self, inputs, frozen=False) -> Forward:
        """Walks forward from the flat inputs; with `frozen`, walks backward take the weights as they are now."""
        graph = self.graph
        values = {slot: graph.cast(slot, x) for slot, x in zip(graph.input_slots, inputs, strict=True)}
        pullbacks = []
        for site, replacement in zip(graph.sites, self.replacements, strict=True):
            outputs, pullback = replacement(*(values[slot] for slot in site.inputs), frozen=frozen or self.frozen)
            values.update(zip(site.outputs, outputs, strict=True))
            pullbacks.append(pullback)
        return Forward(values, tuple(pullbacks))

    def relevance(self, forward: Forward, seeds: Mapping[int, tf.Tensor]) -> dict[int, tf.Tensor]:
        """Walks backward from the relevance of the seeded slots to that of every slot they depend on.

        Relevance that arrives at a slot from several readers is summed before it is handed on.
        """
        return self._backward(forward.values, forward.pullbacks.__getitem__, seeds)

    def ledger(self, values, seeds) -> Conservation:
        """Where relevance went on one backward walk.

        The tensors of a sample have to stand beside each other: the first axis of every tensor is the batch, or batch
        times steps as where a layer is applied at every time step. A batch of one sample may have any axes.

        Every site is recorded by its formula, without the speed layer, when relevance comes to it; nothing is kept. The
        values are looked at, and so this is not for traced functions.

        Args:
            values: The tensor of every slot, as `Graph.run` gives them.
            seeds: The relevance that starts, by slot.
        """
        entries, found = [], {}
        batch = len(values[self.graph.input_slots[0]])

        def rows(tensor):
            return np.reshape(tensor, (batch, -1)).astype(np.float64)

        def sums(tensors):
            """Sum and sum of magnitudes, per sample; what one site hands on is what the next one gets."""
            for t in tensors:
                if t.ref() not in found:
                    each = rows(t)
                    found[t.ref()] = np.stack([each.sum(axis=1), np.abs(each).sum(axis=1)])
            return sum((found[t.ref()] for t in tensors), np.zeros((2, batch)))

        def literally(i):
            site = self.bound[i].site
            layer = ReplacementLayer(site, self.bound[i].rule, self.graph.dtype)
            _, pullback = layer(*(values[slot] for slot in site.inputs), frozen=self.frozen)
            return pullback

        def account(site, pullback, given, taken):
            above, below = sums(given), sums([r for r in taken if r is not None])
            absorbed = {
                name: rows(t).sum(axis=1) if np.ndim(t) else np.zeros(batch)
                for name, t in vars(pullback.absorbed(*given)).items()
            }
            growth = np.divide(below[1], above[1], out=np.zeros(batch), where=above[1] != 0)
            other = above[0] - below[0] - sum(absorbed.values())
            entries.append(Entry(site.path, above[0], below[0], **absorbed, other=other, growth=growth))

        relevance = self._backward(values, literally, seeds, account)
        start, magnitude = sums(list(seeds.values()))
        at_inputs, _ = sums([relevance[slot] for slot in self.graph.input_slots if slot in relevance])
        note = why_it_does_not_add_up(self.bound)
        return balanced(start, at_inputs, entries, magnitude, note=note)

    def _backward(self, values, pullback_of, seeds, account=lambda *_: None):
        """Walks backward over the sites; `pullback_of(i)` is the pullback of site i."""
        pull = self._speed.in_turn() if self._speed else lambda pullback, given: pullback(*given)
        arrived, relevance = {slot: [seed] for slot, seed in seeds.items()}, {}
        for i, site in reversed(list(enumerate(self.graph.sites))):
            if not any(slot in arrived for slot in site.outputs):
                continue
            relevance.update({slot: self._summed(slot, arrived) for slot in site.outputs if slot in arrived})
            given = [
                relevance[slot] if slot in relevance else tf.zeros(tf.shape(values[slot]), self.graph.dtype)
                for slot in site.outputs
            ]
            pullback = pullback_of(i)
            taken = pull(pullback, given)
            account(site, pullback, given, taken)
            for slot, r in zip(site.inputs, taken, strict=True):
                if r is not None:
                    arrived.setdefault(slot, []).append(r)
        return relevance | {slot: self._summed(slot, arrived) for slot in self.graph.input_slots if slot in arrived}

    def _summed(self, slot, arrived):
        relevance = ordered_sum(arrived[slot])
        return self.adjust(slot, relevance) if self.adjust else relevance


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """Keeps intermediate relevance in bounds, for networks in which it explodes.

    Args:
        graph: The graph that is walked.
        clip: (low, high), to which every relevance is clipped; False for no clipping.
        project: True or (low, high): at bottlenecks, the tensors through which all paths from input to output lead,
            relevance is divided by its largest absolute value, per sample, and mapped from [-1, 1] to that range.
            Tensors without axes besides batch and channel stay as they are. False for no projection.
    """

    graph: Graph
    clip: bool | tuple[float, float] = False
    project: bool | tuple[float, float] = False

    def __post_init__(self):
        if self.clip is not False:
            _check_range("reverse_clip_values", self.clip)
        if self.project not in (False, True):
            _check_range("reverse_project_bottleneck_layers", self.project)
        object.__setattr__(self, "_bottlenecks", bottlenecks(self.graph) if self.project else frozenset())

    def __call__(self, slot, relevance):
        if slot in self._bottlenecks and relevance.shape.rank > 2:
            axes = tuple(range(1, relevance.shape.rank))
            relevance = tf.math.divide_no_nan(relevance, tf.reduce_max(tf.abs(relevance), axes, keepdims=True))
            if self.project is not True:
                low, high = self.project
                relevance = low + (relevance + 1) / 2 * (high - low)
        return tf.clip_by_value(relevance, *self.clip) if self.clip else relevance

    def __bool__(self):
        return bool(self.clip or self.project)


def _check_range(name, value):
    if not isinstance(value, tuple | list) or len(value) != 2 or not value[0] < value[1]:
        raise ValueError(f"{name} is a pair (low, high) with low < high, or False. Received: {value!r}.")


def bottlenecks(graph: Graph) -> frozenset[int]:
    """The slots through which every path from an input to an output leads."""
    last = {slot: len(graph.sites) for slot in graph.output_slots}
    for position, site in reversed(list(enumerate(graph.sites))):
        for slot in site.inputs:
            last.setdefault(slot, position)
    live, found = {slot for slot in graph.input_slots if slot in last}, set()
    for position, site in enumerate(graph.sites):
        found.update(live if len(live) == 1 else ())
        live = {slot for slot in live.union(site.outputs) if last.get(slot, -1) > position}
    return frozenset(found | (live if len(live) == 1 else set()))
