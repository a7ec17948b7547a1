"""How relevance goes back through a loop: turn by turn, from the states that were kept on the way forward.

One run of the body of a loop is a *turn*, such as one step of a recurrent layer. Nothing is unrolled, so the number of
turns costs time and no tracing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Site
from revgraph.graph.loops import Loop, as_list
from revgraph.graph.operations import ordered_sum
from revgraph.graph.types import Weights
from revgraph.reverse.over_time import OverTime
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, SiteCall
from revgraph.reverse_rules.folding import per_sample

if TYPE_CHECKING:
    from revgraph.reverse.reverse_graph import ReverseGraph


class LoopLayer:
    """Stands in for a loop whose rule is `Turns`, as a `ReplacementLayer` does for any other site.

    The forward walk keeps the states in front of each turn, and nothing else. The pullback runs the turns in reverse
    order. In each it computes the body again, and walks back over the sites inside.

    Args:
        site: The loop.
        inside: The sites of its body, with their rules.
    """

    def __init__(self, site: Site, inside: "ReverseGraph") -> None:
        self.site = site
        self.inside = inside
        self.loop = cast(Loop, site.operation)

    def __call__(self, *inputs: tf.Tensor, frozen: bool = False, weights: Weights | None = None) -> OutputsAndPullback:
        """Runs the loop; see `ReplacementLayer`."""
        loop = self.loop
        call = SiteCall(loop, map(tf.convert_to_tensor, inputs), self.inside.graph.dtype, frozen, weights)
        run = loop.run(call.inputs, call.weights, keep=True)
        back = _Backwards(self.site.path, self.inside, loop, call, run)
        return run.outputs, PullbackOfLoop(back.pull, back.absorbed, growth=math.inf, over_time=back.over_time)


@dataclasses.dataclass(frozen=True, eq=False)
class PullbackOfLoop(Pullback):
    """The pullback of a loop.

    Args:
        over_time: Function of the relevance of the outputs, which returns what happened in each turn. It works eagerly
            only.
    """

    over_time: Callable[..., OverTime] = dataclasses.field(kw_only=True)


class _Backwards:
    """The way back through a loop that was run.

    Args:
        path: The path of the loop.
        inside: The sites of the body, with their rules.
        loop: The loop.
        call: The call of the loop.
        run: The run.
    """

    def __init__(self, path, inside, loop, call, run):
        self.path, self.inside, self.loop, self.call, self.run = path, inside, loop, call, run
        self.constants = loop.given(call.inputs, call.weights)[loop.outputs_count :]
        self.signals = sorted(loop.signals)
        self.elements = loop.elements()
        dtypes = [inside.graph.specs[slot].dtype for slot in inside.graph.input_slots[loop.states :]]
        self.floating = [i for i, dtype in enumerate(dtypes) if "float" in dtype]
        self.lists = [i for i, written in enumerate(loop.lists) if "float" in written.dtype]
        self.weights = _weights_inside(loop, call.weights)

    def pull(self, *relevance: tf.Tensor) -> list[tf.Tensor | None]:
        """The relevance of the inputs of the loop."""
        every, sources = self._every(*self._walk(relevance)), self.loop.sources
        reserved = [False] * self.loop.states + [written.reserved for written in self.loop.lists]
        reserved += [False] * len(self.constants)
        # A list that starts empty is given its length, which has no relevance.
        every = [None if empty else r for r, empty in zip(every, reserved, strict=True)]
        return [r for r, source in zip(every, sources, strict=True) if source is None]

    def absorbed(self, *relevance: tf.Tensor) -> Absorbed:
        """What the sites inside absorb in all turns, and what ends in constants. It works eagerly only."""
        totals: dict[str, Any] = {field.name: 0.0 for field in dataclasses.fields(Absorbed)}

        def account(site, pullback, given, taken):
            for name, amount in vars(pullback.absorbed(*given)).items():
                totals[name] += amount

        states, lists, constants = self._walk(relevance, account)
        # What ends in first states and constants that no input of the model changes, or in places of a list that no
        # turn wrote.
        every = self._every(states, lists, constants)
        for i, (r, source) in enumerate(zip(every, self.loop.sources, strict=True)):
            reserved = (
                self.loop.states <= i < self.loop.outputs_count and self.loop.lists[i - self.loop.states].reserved
            )
            if r is not None and (source is not None or reserved):
                totals["constants"] += _per_sample(r, reserved or i - self.loop.outputs_count in self.loop.read_lists)
        return Absorbed(**totals)

    def over_time(self, *relevance: tf.Tensor) -> OverTime:
        """What happened in each turn, from the first to the last. It works eagerly only."""
        turns: list[tuple[Any, ...]] = []
        absorbed = [0.0]

        def account(site, pullback, given, taken):
            absorbed[0] += sum(vars(pullback.absorbed(*given)).values())

        def told(seeds, before, inputs):
            sums = [sum((per_sample(r) for r in group), tf.zeros((), tf.float64)) for group in (seeds, inputs, before)]
            turns.append((*sums, absorbed[0]))
            absorbed[0] = 0.0

        self._walk(relevance, account, told)
        columns = [np.stack([np.atleast_1d(t) for t in column[::-1]], axis=-1) for column in zip(*turns, strict=True)]
        return OverTime(self.path, *columns)

    def _walk(self, relevance, account=None, told=None):
        """Relevance of the first states in `signals`, of the starts of lists, and of floating constants.

        Args:
            relevance: Relevance of the outputs.
            account: Called for each site in each turn; see `ReverseGraph.relevance`.
            told: Called for each turn with lists of tensors: the relevance that arrives, that goes to the turn before,
                and that goes to the inputs of the turn.
        """
        loop, body = self.loop, self.inside.graph
        states = [relevance[i] for i in self.signals]
        lists = [as_list(relevance[loop.states + i]) for i in self.lists]
        # A list is handed to the turns as the list of its elements.
        constants = [
            as_list(tf.zeros_like(self.constants[i])) if i in loop.read_lists else tf.zeros_like(self.constants[i])
            for i in self.floating
        ]
        writes = loop.writes()

        def turn(t, states, lists, constants):
            forward = self.inside.forward([*(k.read(t) for k in self.run.kept), *self.constants], weights=self.weights)
            values = forward.values
            seeds: dict[int, list[tf.Tensor]] = {}
            for i, r in zip(self.signals, states, strict=True):
                seeds.setdefault(body.output_slots[i], []).append(r)
            lists = list(lists)
            for k, i in enumerate(self.lists):
                for index, element in reversed(writes[i]):
                    at, x = tf.cast(values[index], tf.int32), values[element]
                    seeds.setdefault(element, []).append(_get(lists[k], at, x))
                    # What an earlier turn wrote to this place is gone.
                    lists[k] = _set(lists[k], at, tf.zeros_like(x))
            found = self.inside.relevance(forward, {slot: ordered_sum(r) for slot, r in seeds.items()}, account)
            before = [
                found.get(body.input_slots[i], tf.zeros_like(r)) for i, r in zip(self.signals, states, strict=True)
            ]
            before = [tf.ensure_shape(tf.reshape(b, tf.shape(r)), r.shape) for b, r in zip(before, states, strict=True)]
            if told is not None:
                inputs = [
                    *(s.outputs[0] for s in self.elements),
                    *(body.input_slots[loop.states + i] for i in self.floating),
                ]
                told([r for each in seeds.values() for r in each], before, [found[s] for s in inputs if s in found])
            constants = list(constants)
            for site, (place, index) in self.elements.items():
                slot = site.outputs[0]
                if slot in found:
                    k, at = self.floating.index(place), tf.cast(values[index], tf.int32)
                    constants[k] = _set(constants[k], at, _get(constants[k], at, values[slot]) + found[slot])
            for k, i in enumerate(self.floating):
                slot = body.input_slots[loop.states + i]
                if i not in loop.read_lists and slot in found:
                    constants[k] += found[slot]
            return t - 1, before, lists, constants

        start = (self.run.turns - 1, states, lists, constants)
        shapes = tf.nest.map_structure(lambda r: r.shape, start)
        _, states, lists, constants = tf.while_loop(lambda t, *_: t >= 0, turn, start, shapes)
        lists = [loop.lists[i].stack(r) for i, r in zip(self.lists, lists, strict=True)]
        constants = [
            _stacked(r, self.constants[i]) if i in loop.read_lists else r
            for i, r in zip(self.floating, constants, strict=True)
        ]
        return (
            dict(zip(self.signals, states, strict=True)),
            dict(zip(self.lists, lists, strict=True)),
            dict(zip(self.floating, constants, strict=True)),
        )

    def _every(self, states, lists, constants):
        """One tensor for each first state, start of a list, and constant; None for those that carry no relevance."""
        return [
            *(states.get(i) for i in range(self.loop.states)),
            *(lists.get(i) for i in range(len(self.loop.lists))),
            *(constants.get(i) for i in range(len(self.constants))),
        ]


def _per_sample(r, is_list):
    """The sum of each sample. A list has the turns in front of the samples."""
    return per_sample(tf.reduce_sum(r, axis=0)) if is_list else per_sample(r)


def _weights_inside(loop: Loop, weights: Weights) -> Mapping[Site, Weights]:
    """The weights of the sites of the body, which are read once for all turns."""
    first = len(loop.condition.sites)
    found: dict[Site, dict[str, Any]] = {site: {} for site in loop.body.sites}
    for name, weight in weights.items():
        place, _, own = name.partition(":")
        if place != "given" and int(place) >= first:
            found[loop.body.sites[int(place) - first]][own] = weight
    return found


def _get(items, index, like):
    return tf.raw_ops.TensorListGetItem(
        input_handle=items, index=index, element_shape=tf.shape(like), element_dtype=like.dtype
    )


def _set(items, index, item):
    return tf.raw_ops.TensorListSetItem(input_handle=items, index=index, item=item)


def _stacked(items, like):
    stacked = tf.raw_ops.TensorListStack(input_handle=items, element_shape=tf.shape(like)[1:], element_dtype=like.dtype)
    return tf.ensure_shape(stacked, like.shape)
