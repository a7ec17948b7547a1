"""How relevance goes back through a loop: turn by turn, from the states that were kept on the way forward.

One run of the body of a loop is a *turn*, such as one step of a recurrent layer. Nothing is unrolled, so the number of
turns costs time and no tracing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Site
from revgraph.graph.loops import Loop, Run, as_list
from revgraph.graph.operations import ordered_sum
from revgraph.graph.types import Weights
from revgraph.reverse.over_time import OverTime
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, SiteCall
from revgraph.reverse_rules.folding import per_sample

if TYPE_CHECKING:
    from revgraph.reverse.reverse_graph import ReverseGraph

EAGER_TURNS = 16
"""The ledger compiles a loop of more turns than this."""

ABSORBED = tuple(field.name for field in dataclasses.fields(Absorbed))


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
        self._account = tf.function(self._walk, autograph=False, reduce_retracing=True)

    def __call__(self, *inputs: tf.Tensor, frozen: bool = False, weights: Weights | None = None) -> OutputsAndPullback:
        """Runs the loop; see `ReplacementLayer`."""
        call = SiteCall(self.loop, map(tf.convert_to_tensor, inputs), self.inside.graph.dtype, frozen, weights)
        run = self.loop.run(call.inputs, call.weights, keep=True)
        back = _Backwards(self.inside, self.loop, call, run)

        def taken(*relevance):
            return back.walk(relevance).taken

        def absorbed(*relevance):
            return Absorbed(**back.walk(relevance, account=True).absorbed)

        def inside(slots, *relevance):
            return list(back.walk(relevance, asked=slots).asked)

        return run.outputs, PullbackOfLoop(taken, absorbed, growth=math.inf, inside=inside)

    def accounting(self, inputs: Sequence[tf.Tensor], frozen: bool) -> "PullbackOfLoop":
        """The pullback for the ledger. It knows what each turn does, and works eagerly only.

        Args:
            inputs: The inputs of the loop.
            frozen: See `ReplacementLayer`.
        """
        weights = SiteCall(self.loop, inputs, self.inside.graph.dtype, frozen).read()

        @functools.cache
        def of(*relevance):
            tensors = tuple(r.deref() for r in relevance)
            lists = [tensors[self.loop.states + i] for i in range(len(self.loop.lists))]
            # To compile a turn takes as long as to run some of them.
            many = any(len(stacked) > EAGER_TURNS for stacked in (*lists, *self._read_lists(inputs, weights)))
            return (self._account if many else self._walk)(tuple(inputs), weights, tensors)

        def walked(relevance):
            return of(*(tf.convert_to_tensor(r).ref() for r in relevance))

        def taken(*relevance):
            found = iter(walked(relevance)[0])
            inputs = zip(self.loop.hands_on(), self.loop.sources, strict=True)
            return [next(found) if handed else None for handed, source in inputs if source is None]

        def absorbed(*relevance):
            return Absorbed(**walked(relevance)[1])

        def over_time(*relevance):
            return OverTime(self.site.path, *(np.transpose(column) for column in walked(relevance)[2]))

        return PullbackOfLoop(taken, absorbed, growth=math.inf, over_time=over_time)

    def _read_lists(self, inputs, weights):
        given = self.loop.given(inputs, weights)[self.loop.outputs_count :]
        return [given[i] for i in self.loop.read_lists]

    def _walk(self, inputs, weights, relevance):
        call = SiteCall(self.loop, inputs, self.inside.graph.dtype, weights=weights)
        run = self.loop.run(call.inputs, call.weights, keep=True)
        found = _Backwards(self.inside, self.loop, call, run).walk(relevance, account=True)
        # A function of TensorFlow returns tensors only.
        return [r for r in found.taken if r is not None], found.absorbed, found.turns


@dataclasses.dataclass(frozen=True, eq=False)
class PullbackOfLoop(Pullback):
    """The pullback of a loop.

    Args:
        inside: Function of slots of the body and the relevance of the outputs, which returns the relevance of the slots
            in every turn, (batch, turns, ...). None in the ledger.
        over_time: Function of the relevance of the outputs, which returns what happened in each turn. None except in
            the ledger.
    """

    inside: Callable[..., list[tf.Tensor]] = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]
    over_time: Callable[..., OverTime] | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Walked:
    """A way back through all turns.

    Args:
        taken: Relevance of each input of the loop; None for those that carry none.
        absorbed: If it was asked for, what was absorbed, by the fields of `Absorbed`.
        turns: If it was asked for, of each turn the relevance that arrived, that it gave to its inputs, that it handed
            back, and that it absorbed: four tensors (turns, batch).
        asked: The relevance of the slots that were asked for, (batch, turns, ...).
    """

    taken: list[tf.Tensor | None]
    absorbed: dict[str, Any]
    turns: tuple[tf.Tensor, ...]
    asked: tuple[tf.Tensor, ...] = ()


class _Backwards:
    """The way back through a loop that was run.

    Args:
        inside: The sites of the body, with their rules.
        loop: The loop.
        call: The call of the loop.
        run: The run.
    """

    def __init__(self, inside: "ReverseGraph", loop: Loop, call: SiteCall, run: Run) -> None:
        self.inside, self.loop, self.run = inside, loop, run
        self.body = inside.graph
        self.constants = loop.given(call.inputs, call.weights)[loop.outputs_count :]
        self.weights = loop.weights_inside(call.weights)
        self.elements, self.writes = loop.elements(), loop.writes()
        self.signals = sorted(loop.signals)
        # A loop over samples, such as `tf.map_fn`, has no axis for samples inside.
        specs = [self.body.specs[slot] for site in self.body.sites for slot in site.outputs]
        specs += [self.body.specs[self.body.input_slots[i]] for i in self.signals]
        floats = [spec.shape for spec in specs if "float" in spec.dtype]
        self.turns_are_samples = not any(shape and shape[0] is None for shape in floats)
        self.floating, self.lists = loop.floating_constants(), loop.floating_lists()

    def walk(self, relevance: Sequence[tf.Tensor], account: bool = False, asked: Sequence[int] = ()) -> Walked:
        """Walks back through all turns.

        Args:
            relevance: Relevance of each output of the loop.
            account: Whether it is asked for where relevance went.
            asked: Slots of the body whose relevance is asked for.
        """
        loop = self.loop
        asked = [slot for slot in asked if "float" in self.body.specs[slot].dtype]
        states = [relevance[i] for i in self.signals]
        lists = [as_list(relevance[loop.states + i]) for i in self.lists]
        constants = [tf.zeros_like(self.constants[i]) for i in self.floating]
        # A list is handed to the turns as the list of its elements.
        constants = [as_list(r) if i in loop.read_lists else r for i, r in zip(self.floating, constants, strict=True)]
        # What each turn tells: the relevance of slots, and the sums of the ledger.
        told = [
            tf.TensorArray(self.body.dtype, self.run.turns + account, infer_shape=False)
            for _ in range(len(asked) + account)
        ]
        if account:
            # A loop may have no turn. TensorFlow stacks no empty list, so there is a row more.
            samples = tf.shape(states[0])[0] if states else tf.shape(relevance[loop.states + self.lists[0]])[1]
            samples = 1 if self.turns_are_samples else samples
            told[-1] = told[-1].write(self.run.turns, tf.zeros((3 + len(ABSORBED), samples), self.body.dtype))

        def turn(t, states, lists, constants, told):
            forward = self.inside.forward([*(k.read(t) for k in self.run.kept), *self.constants], weights=self.weights)
            seeds, lists = self._seeds(forward.values, states, lists)
            absorbed: dict[str, Any] = dict.fromkeys(ABSORBED, 0.0)

            def noted(step):
                for name, amount in vars(step.pullback.absorbed(*step.given)).items():
                    absorbed[name] += amount

            found = self.inside.relevance(forward, seeds, noted if account else None)
            before, given = self._before(found, states), self._given(forward.values, found)
            news = [found.get(slot, tf.zeros_like(forward.values[slot])) for slot in asked]
            if account:
                groups = [seeds.values(), [r for r, *_ in given], before]
                if self.turns_are_samples:
                    absorbed["constants"] += sum(tf.reduce_sum(r) for r, k, at in given if self._is_kept(k, at))
                    absorbed = {name: self._per_sample(tf.cast(a, self.body.dtype)) for name, a in absorbed.items()}
                amounts = [*(sum(map(self._per_sample, group)) for group in groups), *absorbed.values()]
                news.append(tf.stack([tf.zeros_like(amounts[0]) + a for a in amounts]))
            told = [array.write(t, one) for array, one in zip(told, news, strict=True)]
            constants = list(constants)
            for r, k, at in given:
                constants[k] = constants[k] + r if at is None else _set(constants[k], at, _get(constants[k], at, r) + r)
            return t - 1, before, lists, constants, told

        start = (self.run.turns - 1, states, lists, constants, told)
        shapes = (*tf.nest.map_structure(lambda r: r.shape, start[:-1]), [tf.TensorShape(None)] * len(told))
        _, states, lists, constants, told = tf.while_loop(lambda t, *_: t >= 0, turn, start, shapes)
        every = self._every(states, lists, constants)
        kept = [r if handed else None for r, handed in zip(every, loop.hands_on(), strict=True)]
        taken = [r for r, source in zip(kept, loop.sources, strict=True) if source is None]
        absorbed, turns = self._accounts(told[-1].stack()[:-1], every, kept) if account else ({}, ())
        return Walked(taken, absorbed, turns, tuple(map(self._turns_behind_samples, told[: len(asked)], asked)))

    def _turns_behind_samples(self, array, slot):
        """What the turns tell of a slot, as (batch, turns, ...)."""
        stacked = tf.ensure_shape(array.stack(), (None, *self.body.specs[slot].shape))
        if self.turns_are_samples:
            return stacked[:, None]
        return tf.transpose(stacked, (1, 0, *range(2, stacked.shape.rank))) if stacked.shape.rank > 1 else stacked

    def _seeds(self, values, states, lists):
        """The relevance that starts in a turn, by slot, and the lists without what the turn took from them."""
        seeds: dict[int, list[tf.Tensor]] = {}
        for i, r in zip(self.signals, states, strict=True):
            seeds.setdefault(self.body.output_slots[i], []).append(r)
        lists = list(lists)
        for k, i in enumerate(self.lists):
            for index, element in reversed(self.writes[i]):
                at, x = tf.cast(values[index], tf.int32), values[element]
                seeds.setdefault(element, []).append(_get(lists[k], at, x))
                # What an earlier turn wrote to this place is gone.
                lists[k] = _set(lists[k], at, tf.zeros_like(x))
        return {slot: ordered_sum(r) for slot, r in seeds.items()}, lists

    def _before(self, found, states):
        """The relevance of the states in front of a turn."""
        slots = (self.body.input_slots[i] for i in self.signals)
        before = [found.get(slot, tf.zeros_like(r)) for slot, r in zip(slots, states, strict=True)]
        return [tf.ensure_shape(tf.reshape(b, tf.shape(r)), r.shape) for b, r in zip(before, states, strict=True)]

    def _given(self, values, found):
        """What a turn gives to constants: relevance, place among the floating constants, and index of an element."""
        given = []
        for site, (place, index) in self.elements.items():
            if site.outputs[0] in found:
                at = tf.cast(values[index], tf.int32)
                given.append((found[site.outputs[0]], self.floating.index(place), at))
        for k, i in enumerate(self.floating):
            slot = self.body.input_slots[self.loop.states + i]
            if i not in self.loop.read_lists and slot in found:
                given.append((found[slot], k, None))
        return given

    def _every(self, states, lists, constants):
        """One tensor for each first state, start of a list, and constant; None for those that carry no relevance."""
        loop = self.loop
        of_states = dict(zip(self.signals, states, strict=True))
        of_lists = {i: loop.lists[i].stack(r) for i, r in zip(self.lists, lists, strict=True)}
        of_constants = {
            i: _stacked(r, self.constants[i]) if i in loop.read_lists else r
            for i, r in zip(self.floating, constants, strict=True)
        }
        return [
            *(of_states.get(i) for i in range(loop.states)),
            *(of_lists.get(i) for i in range(len(loop.lists))),
            *(of_constants.get(i) for i in range(len(self.constants))),
        ]

    def _per_sample(self, r):
        """The sums of a tensor of the body, (samples,)."""
        return tf.reshape(tf.reduce_sum(r), (1,)) if self.turns_are_samples else per_sample(r)

    def _is_kept(self, k, at):
        """Whether a floating constant that is no list keeps its relevance, because no input changes it."""
        return at is None and not self.loop.hands_on()[self.loop.outputs_count + self.floating[k]]

    def _per_sample_of_all(self, r, is_list, of_state):
        """The sums of a tensor outside of the body, (samples,). A list has the turns in front."""
        if not self.turns_are_samples:
            return per_sample(tf.reduce_sum(r, axis=0) if is_list else r)
        if is_list:
            return per_sample(r)
        # Each turn has said what it gives to constants. A first state belongs to the first turn.
        return tf.one_hot(0, self.run.turns, dtype=r.dtype) * tf.reduce_sum(r) if of_state else tf.zeros((), r.dtype)

    def _accounts(self, sums, every, kept):
        """What was absorbed in all turns together, and what happened in each turn, from the sums of the turns."""
        start, given, states, *columns = tf.unstack(tf.cast(sums, self.body.dtype), num=3 + len(ABSORBED), axis=1)
        if self.turns_are_samples:
            start, given, states, *columns = map(tf.transpose, (start, given, states, *columns))
        absorbed = {name: tf.reduce_sum(c, axis=0) for name, c in zip(ABSORBED, columns, strict=True)}
        # What ends in first states and constants that no input changes, and in places of lists that no turn wrote.
        lists = [*range(self.loop.states, self.loop.outputs_count)]
        lists += [self.loop.outputs_count + i for i in self.loop.read_lists]
        for i, (r, taken) in enumerate(zip(every, kept, strict=True)):
            if r is not None and taken is None:
                absorbed["constants"] += self._per_sample_of_all(r, i in lists, i < self.loop.states)
        return absorbed, (start, given, states, ordered_sum(columns))


def _get(items, index, like):
    return tf.raw_ops.TensorListGetItem(
        input_handle=items, index=index, element_shape=tf.shape(like), element_dtype=like.dtype
    )


def _set(items, index, item):
    return tf.raw_ops.TensorListSetItem(input_handle=items, index=index, item=item)


def _stacked(items, like):
    stacked = tf.raw_ops.TensorListStack(input_handle=items, element_shape=tf.shape(like)[1:], element_dtype=like.dtype)
    return tf.ensure_shape(stacked, like.shape)
