"""The reverse graph: a forward walk that records a pullback for each site, and backward walks that call them.

A site is one call of one layer. A slot is the number of a tensor that sites read and write. A pullback is the function
that maps the relevance of a site's outputs to that of its inputs.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from revgraph.composites.composite import Bound
from revgraph.fast import Speed
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import ordered_sum
from revgraph.graph.types import Weights
from revgraph.reverse.conditions import OPEN, Gates
from revgraph.reverse.ledger import Conservation, Entry, balanced, no_way, why_it_does_not_add_up
from revgraph.reverse.loops import LoopLayer, PullbackOfLoop
from revgraph.reverse_rules import Turns
from revgraph.reverse_rules.engine import Pullback, ReplacementLayer, Rule


@dataclasses.dataclass(frozen=True, eq=False)
class Forward:
    """The result of a forward walk.

    Args:
        values: The tensor of every slot.
        pullbacks: The pullback of every site.
    """

    values: Mapping[int, tf.Tensor]
    pullbacks: tuple[Pullback, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What happened at one site on a backward walk.

    Args:
        site: The site.
        pullback: Its pullback.
        arrived: Relevance that arrived at its outputs.
        given: What of it passed the conditions, and was given to the pullback.
        taken: Relevance that the pullback returned for its inputs; None for inputs that get nothing.
        handed_on: What of it passed the conditions.
    """

    site: Site
    pullback: Pullback
    arrived: Sequence[tf.Tensor]
    given: Sequence[tf.Tensor]
    taken: Sequence[tf.Tensor | None]
    handed_on: Sequence[tf.Tensor | None]


class ReverseGraph:
    """A graph whose sites are wrapped in `ReplacementLayer`s.

    Args:
        graph: The canonized graph.
        bound: The sites with their rules.
        starts: Slots at which relevance starts; the outputs of the graph by default.
        adjust: Function `(slot, relevance) -> relevance` that changes the relevance of a slot before it is handed on,
            such as an `Adjustment`. By default nothing is changed.
        fast: Whether the speed layer is used. Without it every rule is computed as its formula is written.
        frozen: Whether compiled functions keep the weights that the model had when they were traced.
    """

    def __init__(
        self,
        graph: Graph,
        bound: tuple[Bound, ...],
        starts: Collection[int] | None = None,
        adjust: Callable[[int, tf.Tensor], tf.Tensor] | None = None,
        fast: bool = True,
        frozen: bool = False,
    ):
        self.graph = graph
        self.bound = bound
        self.adjust = adjust
        self.frozen = frozen
        speed = Speed(graph, bound, starts or graph.output_slots, adjusted=bool(adjust)) if fast else None
        self._speed = speed
        self.replacements = tuple(self._replacement(b, speed) for b in bound)

    def _replacement(self, bound, speed):
        if isinstance(bound.rule, Turns):
            body = bound.site.operation.body
            return LoopLayer(bound.site, ReverseGraph(body, bound.inside, fast=speed is not None, frozen=self.frozen))
        # `Composite.bind` raises an error for a site without a rule.
        rule = cast(Rule, bound.rule)
        return ReplacementLayer(bound.site, rule, self.graph.dtype, speed.recorder(bound.site) if speed else None)

    @functools.cached_property
    def _literal(self):
        """What stands in for each site where every rule is computed as its formula is written."""
        return [self._replacement(bound, None) for bound in self.bound]

    def forward(
        self, inputs: Sequence[tf.Tensor], frozen: bool = False, weights: Mapping[Site, Weights] | None = None
    ) -> Forward:
        """Walks forward.

        Args:
            inputs: One tensor per input of the graph.
            frozen: Whether backward walks use the weights that the model has now, even if it has others by then.
            weights: The weights of sites whose weights have been read already.
        """
        graph, known = self.graph, weights or {}
        values = {slot: graph.cast(slot, x) for slot, x in zip(graph.input_slots, inputs, strict=True)}
        pullbacks = []
        for site, replacement in zip(graph.sites, self.replacements, strict=True):
            outputs, pullback = replacement(
                *(values[slot] for slot in site.inputs), frozen=frozen or self.frozen, weights=known.get(site)
            )
            values.update(zip(site.outputs, outputs, strict=True))
            pullbacks.append(pullback)
        return Forward(values, tuple(pullbacks))

    def relevance(
        self,
        forward: Forward,
        seeds: Mapping[int, tf.Tensor],
        account: Callable[[Step], None] | None = None,
        gates: Gates = OPEN,
    ) -> dict[int, tf.Tensor]:
        """Walks backward.

        If several sites read a slot, the relevance that they hand to it is summed before it is handed on.

        Args:
            forward: The forward walk.
            seeds: The relevance that starts, by slot.
            account: Called for each site with what happened there.
            gates: What relevance may pass.

        Returns:
            Relevance by slot, of every slot that was reached, as it arrived there.
        """
        return self._backward(forward.values, forward.pullbacks.__getitem__, seeds, account or _no_account, gates)

    def inside(
        self, forward: Forward, relevance: Mapping[int, tf.Tensor], path: str, at: str, gates: Gates = OPEN
    ) -> list[tf.Tensor]:
        """The relevance of a site inside of a loop, in every turn.

        Args:
            forward: The forward walk.
            relevance: Relevance by slot, as `relevance` returns it.
            path: The path of the site.
            at: `"input"` or `"output"` of the site.
            gates: What relevance may pass.

        Returns:
            A tensor (batch, turns, ...) for each floating input, or output, of the site.
        """
        for bound, pullback in zip(self.bound, forward.pullbacks, strict=True):
            site = next((each.site for each in bound.inside if each.site.path == path), None)
            if site is not None and isinstance(pullback, PullbackOfLoop):
                outputs = bound.site.outputs
                arrived = [relevance.get(slot, tf.zeros_like(forward.values[slot])) for slot in outputs]
                given = [gates.at(slot, r) for slot, r in zip(outputs, arrived, strict=True)]
                return pullback.inside(site.inputs if at == "input" else site.outputs, *given)
        raise KeyError(f"No loop has a site {path!r}.")

    def ledger(
        self,
        values: Mapping[int, tf.Tensor],
        seeds: Mapping[int, tf.Tensor],
        gates: Gates = OPEN,
        together: bool = False,
    ) -> Conservation:
        """An account of where relevance went on one backward walk.

        The first axis of every tensor must be the batch, or batch times steps where a layer is applied at every time
        step, because the account is given per sample. A batch of one sample may have any axes.

        Every site is computed by the formula of its rule, without the speed layer, when relevance arrives there.
        Nothing of a site is kept, which saves memory. This works eagerly only, because the account is made of NumPy
        arrays.

        Args:
            values: The tensor of every slot, as `Graph.run` returns them.
            seeds: The relevance that starts, by slot.
            gates: What relevance may pass.
            together: Whether the samples have one account, because each has a part in the outputs of the others.
        """
        entries: list[Entry] = []
        found: dict[Any, np.ndarray] = {}
        batch = 1 if together else len(values[self.graph.input_slots[0]])

        def rows(tensor):
            return np.reshape(tensor, (batch, -1)).astype(np.float64)

        def sums(tensors):
            """Sum R and sum |R| of tensors, per sample: (2, batch)."""
            for t in tensors:
                # What one site hands on is what the next one gets, so most tensors are asked for twice.
                if t.ref() not in found:
                    each = rows(t)
                    found[t.ref()] = np.stack([each.sum(axis=1), np.abs(each).sum(axis=1)])
            return sum((found[t.ref()] for t in tensors), np.zeros((2, batch)))

        def literally(i):
            inputs = [values[slot] for slot in self.bound[i].site.inputs]
            layer = self._literal[i]
            if isinstance(layer, LoopLayer):
                return layer.accounting(inputs, self.frozen)
            _, pullback = layer(*inputs, frozen=self.frozen)
            return pullback

        def account(step):
            pullback, given = step.pullback, step.given
            taken, handed_on = ([r for r in each if r is not None] for each in (step.taken, step.handed_on))
            arrived, above, below = sums(step.arrived), sums(given), sums(handed_on)
            condition = arrived[0] - above[0] + sums(taken)[0] - below[0]
            absorbed = {
                name: rows(t).sum(axis=1) if np.ndim(t) else np.zeros(batch)
                for name, t in vars(pullback.absorbed(*given)).items()
            }
            growth = np.divide(below[1], above[1], out=np.zeros(batch), where=above[1] != 0)
            other = arrived[0] - below[0] - condition - sum(absorbed.values())
            loop = isinstance(pullback, PullbackOfLoop) and pullback.over_time is not None
            turns = pullback.over_time(*given).of(batch) if loop else None
            found = {**absorbed, "condition": condition, "other": other, "growth": growth}
            entries.append(Entry(step.site.path, arrived[0], below[0], **found, turns=turns))

        start, magnitude = sums(list(seeds.values()))
        if gates.stop_starts:
            started, _ = sums([gates.along(None, slot, seed) for slot, seed in seeds.items()])
            entries.append(no_way(start - started))
        relevance = self._backward(values, literally, seeds, account, gates)
        at_inputs, _ = sums([relevance[slot] for slot in self.graph.input_slots if slot in relevance])
        notes = [why_it_does_not_add_up(self.bound), MIXED if together else None]
        note = " ".join(filter(None, notes)) or None
        return balanced(start, at_inputs, entries, magnitude, note=note)

    def _backward(self, values, pullback_of, seeds, account, gates):
        """Walks backward over the sites.

        Args:
            values: The tensor of every slot.
            pullback_of: Function from the position of a site to its pullback.
            seeds: The relevance that starts, by slot.
            account: Called for each site with a `Step`.
            gates: What relevance may pass.
        """
        pull = self._speed.in_turn() if self._speed else lambda pullback, given: pullback(*given)
        arrived = {slot: [gates.along(None, slot, seed)] for slot, seed in seeds.items()}
        relevance: dict[int, tf.Tensor] = {}
        for i, site in reversed(list(enumerate(self.graph.sites))):
            if not any(slot in arrived for slot in site.outputs):
                continue
            relevance.update({slot: self._summed(slot, arrived) for slot in site.outputs if slot in arrived})
            outputs = [
                relevance[slot] if slot in relevance else tf.zeros(tf.shape(values[slot]), self.graph.dtype)
                for slot in site.outputs
            ]
            given = [gates.at(slot, r) for slot, r in zip(site.outputs, outputs, strict=True)]
            pullback = pullback_of(i)
            taken = pull(pullback, given)
            pairs = zip(site.inputs, taken, strict=True)
            handed_on = [None if r is None else gates.along(i, slot, r) for slot, r in pairs]
            account(Step(site, pullback, outputs, given, taken, handed_on))
            for slot, r in zip(site.inputs, handed_on, strict=True):
                if r is not None:
                    arrived.setdefault(slot, []).append(r)
        return relevance | {slot: self._summed(slot, arrived) for slot in self.graph.input_slots if slot in arrived}

    def _summed(self, slot, arrived):
        relevance = ordered_sum(arrived[slot])
        return self.adjust(slot, relevance) if self.adjust else relevance


MIXED = "This is one account of all samples together, because each of them has a part in the tensors of the others."
"""What the ledger says of such models."""


def _no_account(step):
    """Nobody asks where relevance went."""


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """Keeps intermediate relevance in bounds, for networks in which it explodes.

    Args:
        graph: The graph that is walked.
        clip: (low, high): all relevance is clipped to this range. False for no clipping.
        project: (low, high): at bottlenecks relevance is divided by its largest absolute value, per sample, and mapped
            from [-1, 1] to this range. True leaves it in [-1, 1]. Bottlenecks are the tensors through which all paths
            from input to output lead; those with no axes besides batch and channel stay as they are. False for no
            projection.

    Raises:
        ValueError: An option is neither a pair (low, high) nor False.
    """

    graph: Graph
    clip: bool | tuple[float, float] = False
    project: bool | tuple[float, float] = False

    def __post_init__(self):
        if self.clip is not False:
            _check_range("reverse_clip_values", self.clip)
        if self.project not in (False, True):
            _check_range("reverse_project_bottleneck_layers", self.project)

    @functools.cached_property
    def _bottlenecks(self):
        return bottlenecks(self.graph) if self.project else frozenset()

    def __call__(self, slot: int, relevance: tf.Tensor) -> tf.Tensor:
        """The relevance of a slot, adjusted."""
        if slot in self._bottlenecks and relevance.shape.rank > 2:
            axes = tuple(range(1, relevance.shape.rank))
            relevance = tf.math.divide_no_nan(relevance, tf.reduce_max(tf.abs(relevance), axes, keepdims=True))
            if isinstance(self.project, tuple | list):
                low, high = self.project
                relevance = low + (relevance + 1) / 2 * (high - low)
        return tf.clip_by_value(relevance, *self.clip) if isinstance(self.clip, tuple | list) else relevance

    def __bool__(self) -> bool:
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
    live = {slot for slot in graph.input_slots if slot in last}
    found: set[int] = set()
    for position, site in enumerate(graph.sites):
        found.update(live if len(live) == 1 else ())
        live = {slot for slot in live.union(site.outputs) if last.get(slot, -1) > position}
    return frozenset(found | (live if len(live) == 1 else set()))
