"""How relevance goes back through a loop: turn by turn, from the states that were kept on the way forward.

One run of the body of a loop is a *turn*, such as one step of a recurrent layer. Nothing is unrolled, so the number of
turns costs time and no tracing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from revgraph.graph.graph import Site
from revgraph.graph.loops import Loop, as_list
from revgraph.graph.operations import ordered_sum
from revgraph.graph.types import Weights
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, SiteCall

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

    def __call__(self, *inputs: tf.Tensor, frozen: bool = False, weights: Weights | None = None) -> OutputsAndPullback:
        """Runs the loop; see `ReplacementLayer`."""
        loop: Loop = self.site.operation
        call = SiteCall(loop, map(tf.convert_to_tensor, inputs), self.inside.graph.dtype, frozen, weights)
        run = loop.run(call.inputs, call.weights, keep=True)
        back = _Backwards(self.inside, loop, call, run)
        return run.outputs, Pullback(back.pull, back.absorbed, growth=math.inf)


class _Backwards:
    """The way back through a loop that was run.

    Args:
        inside: The sites of the body, with their rules.
        loop: The loop.
        call: The call of the loop.
        run: The run.
    """

    def __init__(self, inside, loop, call, run):
        self.inside, self.loop, self.call, self.run = inside, loop, call, run
        self.constants = loop.given(call.inputs, call.weights)[loop.outputs_count :]
        self.signals = sorted(loop.signals)
        self.elements = loop.elements()
        dtypes = [inside.graph.specs[slot].dtype for slot in inside.graph.input_slots[loop.states :]]
        self.floating = [i for i, dtype in enumerate(dtypes) if "float" in dtype]
        self.lists = [i for i, written in enumerate(loop.lists) if "float" in written.dtype]
        self.weights = _weights_inside(loop, call.weights)

    def pull(self, *relevance: tf.Tensor) -> list[tf.Tensor | None]:
        """The relevance of the inputs of the loop."""
        return self._of_inputs(self._walk(relevance))

    def absorbed(self, *relevance: tf.Tensor) -> Absorbed:
        """What the sites inside absorb in all turns, and what ends in constants. It runs eagerly."""

    def _walk(self, relevance, account=None):
        """Relevance of the first states in `signals`, of the starts of lists, and of floating constants."""
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

    def _of_inputs(self, found):
        """One tensor for each input of the site; None for those that carry no relevance."""
        loop, (states, lists, constants) = self.loop, found
        every = [
            *(states.get(i) for i in range(loop.states)),
            *(None if written.reserved else lists.get(i) for i, written in enumerate(loop.lists)),
            *(constants.get(i) for i in range(len(self.constants))),
        ]
        return [r for r, source in zip(every, loop.sources, strict=True) if source is None]


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
