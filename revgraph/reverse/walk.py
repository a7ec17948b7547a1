"""Walks: a walk answers one question about a model, and is compiled once for all batch sizes.

A slot is the number of a tensor in a graph, and a site is one call of one layer.
"""

import contextlib
import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.graph.analysis import Facts
from revgraph.graph.graph import Graph
from revgraph.graph.log import timed
from revgraph.graph.types import Tensors
from revgraph.reverse import conditions, targets
from revgraph.reverse.dangers import GROWTH, growths, magnitudes
from revgraph.reverse.failures import failing_site_named
from revgraph.reverse.ledger import Conservation, merge
from revgraph.reverse.recent import Recent
from revgraph.reverse.reverse_graph import Forward, ReverseGraph
from revgraph.reverse_rules import Unreached
from revgraph.reverse_rules.folding import per_sample


@dataclasses.dataclass(frozen=True)
class Question:
    """Where relevance starts, and at which slots it is returned besides the inputs.

    Args:
        starts: Slots at which relevance starts.
        returned: For each layer that was asked for, the slots whose relevance is returned.
        values: Slots whose tensors are returned as they are on the way forward.
        inside: Pairs (path, at) of sites inside of loops whose relevance is returned, in every turn. `at` is `"input"`
            or `"output"`.
        masked: Slots at which conditions mask relevance.
        around: Whether relevance also passes around these slots.
    """

    starts: tuple[int, ...]
    returned: tuple[tuple[int, ...], ...] = ()
    values: tuple[int, ...] = ()
    inside: tuple[tuple[str, str], ...] = ()
    masked: tuple[int, ...] = ()
    around: bool = True

    @property
    def slots(self) -> frozenset[int]:
        """All slots of the question. Canonization must not remove them."""
        return frozenset((*self.starts, *self.values, *self.masked)).union(*self.returned)


class Walk:
    """The forward and backward walk for one question.

    Args:
        reverse: The reverse graph.
        question: The question that the walk answers.
        own: Function from an output to the analyzer's own start relevance, of the same shape.
        finish: Function from relevance, input and slot to the tensor that is returned for an input.
        limit: Growth of sum |R| through a site up to this factor need not be measured; see `growths`.
        keep: Also return the relevance at the inputs of every site.
        jit_compile: Compile with XLA.
    """

    def __init__(
        self,
        reverse: ReverseGraph,
        question: Question,
        own: Callable[[tf.Tensor], tf.Tensor],
        finish: Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor],
        limit: float = GROWTH,
        keep: bool = False,
        jit_compile: bool = False,
    ):
        self.reverse = reverse
        self.question = question
        self.own = own
        self.finish = finish
        self.limit = limit
        self.keep = keep
        self.jit_compile = jit_compile
        self._compiled = Recent()
        self._rows_known: set[int] = set()
        ways = () if question.around else question.masked
        self._shortcuts = conditions.shortcuts(reverse.graph, ways, question.starts)

    @property
    def graph(self) -> Graph:
        """The graph that is walked."""
        return self.reverse.graph

    def input_specs(self) -> list[tf.TensorSpec]:
        """The signature of the flat inputs, for any batch size."""
        return [input_spec(self.graph, slot) for slot in self.graph.input_slots]

    def outputs(self, inputs: Sequence[Tensors]) -> list[tf.Tensor]:
        """The values of the tensors at which relevance starts.

        Args:
            inputs: One array or tensor (batch, ...) per input.
        """
        with self.failures(inputs):
            return self._function("outputs", ())(self._arguments(inputs))

    def references(self, values: Mapping[int, tf.Tensor]) -> list[tf.Tensor | None]:
        """The tensors with which those at which relevance starts are compared; None where nothing is compared.

        Args:
            values: The value of each slot.
        """
        return [None for _ in self.question.starts]

    def relevance(
        self,
        inputs: Sequence[Tensors],
        chosen: Sequence[targets.Target],
        masks: conditions.Masks | None = None,
        reduce: Callable[[dict[str, Any]], Any] | None = None,
    ) -> Any:
        """The relevance of inputs.

        Args:
            inputs: One array or tensor (batch, ...) per input.
            chosen: One target per start.
            masks: What relevance may pass, if conditions are part of the question.
            reduce: Function of the result that makes less of it, with TensorFlow's operations. It is compiled together
                with the walk, and so nothing is computed that it does not use.

        Returns:
            See `pulled`; or what `reduce` returns.
        """
        masked = conditions.NOTHING_MASKED if masks is None else masks.tensors()
        with self.failures(inputs):
            if masks is not None:
                self._check_rows(self._arguments(inputs), masks)
            program = self._function("relevance", chosen, masks, reduce)
            return program(self._arguments(inputs), self.tensors(chosen), masked)

    def _check_rows(self, inputs, masks):
        """Refuses masks that differ between samples where a tensor has no rows for samples."""
        slots = {slot for slot, mask in zip(self.question.masked, masks.masks, strict=True) if mask.shape[1] > 1}
        if slots <= self._rows_known:
            return
        if not self._keeps_rows(inputs, self.graph.run(inputs), slots):
            raise ValueError(
                "Conditions of each sample need layers whose outputs have the samples on their first axis. Explain the "
                "samples one by one."
            )
        self._rows_known |= slots

    def recorded(self, inputs: Sequence[Tensors]) -> Forward:
        """A forward walk that keeps the weights that the model has now.

        Args:
            inputs: One array or tensor (batch, ...) per input.
        """
        with self.failures(inputs):
            return self.reverse.forward(inputs, frozen=True)

    def failures(self, inputs: Sequence[Tensors]) -> contextlib.AbstractContextManager[None]:
        """Within this context, a model that does not take the inputs is an error that names the failing site."""
        return failing_site_named(self.graph, lambda: self._arguments(inputs))

    def ledger(
        self, inputs: Sequence[Tensors], chosen: Sequence[targets.Target], masks: conditions.Masks | None = None
    ) -> Conservation:
        """An account of where relevance went.

        It is computed eagerly, because it is asked for once or twice, and compiling takes longer.

        Args:
            inputs: One array or tensor (batch, ...) per input.
            chosen: One target per start.
            masks: What relevance may pass, one condition per sample.
        """
        inputs = self._arguments(inputs)
        with self.failures(inputs):
            values = self.graph.run(inputs)
        keeps_rows = self._keeps_rows(inputs, values, self._passed())
        alone = self._alone(inputs) is not None
        if not keeps_rows and alone and self._keeps_rows(inputs, values, self.question.starts):
            rows = [slice(i, i + 1) for i in range(len(inputs[0]))]
            return merge(
                self.ledger([x[row] for x in inputs], [t.part(row) for t in chosen], masks and masks.part(row))
                for row in rows
            )
        gates = self._gates(values, masks.tensors()) if masks else conditions.OPEN
        seeds = self.seeds(values, self.tensors(chosen))
        return self.reverse.ledger(values, seeds, gates, together=not keeps_rows)

    def _gates(self, values, tensors):
        """What relevance may pass under one condition."""
        batch = tf.shape(values[self.graph.input_slots[0]])[0]
        return conditions.Gates(self.question.masked, self._shortcuts, tensors, batch)

    def _alone(self, inputs):
        """The tensors of every slot for the first sample alone; None for a model of a fixed batch size."""
        try:
            return self.graph.run([x[:1] for x in inputs])
        except (tf.errors.OpError, ValueError):
            return None

    def _keeps_rows(self, inputs, values, slots):
        """Whether samples keep to their rows: those of the first sample come first, then those of the second.

        That is so if the first axis is the batch, or batch times steps. Shapes do not say whether an operation keeps
        that order, or whether a sample has a part in the tensors of another one. So the first sample must have the same
        rows alone, and the first and the last must keep theirs between other samples.
        """
        count = len(inputs[0])
        if count == 1:
            return True
        alone = self._alone(inputs)
        if alone is not None and not all(_same_rows(values[slot], alone[slot], 0, count, 1) for slot in slots):
            return False
        for place in (0, count - 1):
            between = self.graph.run([_between_others(x, place, count) for x in inputs])
            if not all(_same_rows(values[slot], between[slot], place, count, count) for slot in slots):
                return False
        return True

    def _passed(self):
        """The slots that relevance passes."""
        return {slot for b in self.reverse.bound if not isinstance(b.rule, Unreached) for slot in b.site.outputs}

    def tensors(self, chosen: Sequence[targets.Target]) -> list[tuple[tf.Tensor, ...]]:
        """The targets as tensors; see `Target.tensors`."""
        return [target.tensors(self.graph.dtype) for target in chosen]

    def _arguments(self, inputs):
        return [tf.cast(x, spec.dtype) for x, spec in zip(inputs, self.input_specs(), strict=True)]

    def _function(self, what, chosen, masks=None, reduce=None):
        """A concrete function for all batch sizes, classes, amounts and masks, traced when it is first asked for."""
        ranks = [len(self.graph.specs[slot].shape) for slot in self.question.starts]
        specs = [t.specs(rank, self.graph.dtype) for t, rank in zip(chosen, ranks, strict=False)]
        masked = conditions.NOTHING_MASKED if masks is None else masks.specs()
        key = (what, tuple(tuple((s.dtype, s.shape.rank) for s in spec) for spec in specs), masked, reduce)
        arguments = (self.input_specs(), specs, masked) if chosen else (self.input_specs(),)

        def traced(*arguments):
            result = getattr(self, f"_trace_{what}")(*arguments)
            return result if reduce is None else reduce(result)

        def compiled():
            program = tf.function(traced, autograph=False, jit_compile=self.jit_compile)
            with timed("compile", self.graph):
                return program.get_concrete_function(*arguments)

        return self._compiled.value(key, compiled)

    def _trace_outputs(self, inputs):
        values = self.graph.run(inputs)
        return [values[slot] for slot in self.question.starts]

    def _trace_relevance(self, inputs, tensors, masks):
        return self.pulled(self.reverse.forward(inputs), tensors, masks)

    def seeds(self, values: Mapping[int, tf.Tensor], tensors: Sequence[tuple[tf.Tensor, ...]]) -> dict[int, tf.Tensor]:
        """The relevance that starts, by slot.

        Args:
            values: The tensor of every slot.
            tensors: The targets as tensors, one per start.
        """
        seeds: dict[int, tf.Tensor] = {}
        for slot, chosen in zip(self.question.starts, tensors, strict=True):
            y = values[slot]
            started = targets.start(y, chosen, self.own(y))
            # A model may return one tensor under several names.
            seeds[slot] = seeds[slot] + started if slot in seeds else started
        return seeds

    def pulled(
        self,
        forward: Forward,
        tensors: Sequence[tuple[tf.Tensor, ...]],
        masks: conditions.Tensors = conditions.NOTHING_MASKED,
    ) -> dict[str, Any]:
        """Walks backward after a forward walk.

        Args:
            forward: The forward walk.
            tensors: The targets as tensors, one per start. For an index of shape (batch, targets) the backward walk is
                vectorised over the targets, and relevance has shape (batch, targets, ...).
            masks: What relevance may pass. With an axis for conditions in front the backward walk is vectorised over
                them, and relevance has shape (batch, conditions, ...), or (batch, targets, conditions, ...).

        Returns:
            Dict of

            * `relevance`: one tensor (batch, ...) per input;
            * `layers`: one list of tensors per layer that was asked for;
            * `values`: the tensors that were asked for;
            * `inside`: one list of tensors (batch, turns, ...) per site inside of a loop that was asked for;
            * `start`: relevance at the start, (batch,);
            * `kept`, if it was asked for: the relevance at the inputs of every site, by its path;
            * `growth` (see `growths`) and `magnitudes` (sum |R| at the start and at the inputs, (batch, 2)), if there
              is one target, no condition, and no adjustment that keeps relevance in bounds.
        """
        several = [first.dtype == tf.int32 and first.shape.rank == 2 for first, *_ in tensors]

        def one(indices, masks):
            indices = iter(indices)
            chosen = [
                (next(indices), *rest) if many else (first, *rest)
                for (first, *rest), many in zip(tensors, several, strict=True)
            ]
            watch = not (any(several) or masks[0] or self.reverse.adjust)
            return self._pulled_once(forward, chosen, masks, watch)

        def under(indices):
            if any(len(named.shape) > 1 for named in masks[1]):
                return _each(lambda of_one: one(indices, of_one), masks)
            return one(indices, masks)

        if any(several):
            indices = [tf.transpose(first) for (first, *_), many in zip(tensors, several, strict=True) if many]
            return _each(under, indices)
        return under([])

    def _pulled_once(self, forward, tensors, masks, watch=False):
        seeds = self.seeds(forward.values, tensors)
        gates = self._gates(forward.values, masks)
        relevance = self.reverse.relevance(forward, seeds, gates=gates)

        def of(slot):
            return relevance[slot] if slot in relevance else no_relevance(forward.values[slot], self.graph.dtype)

        result: dict[str, Any] = {
            "relevance": [self.finish(of(slot), forward.values[slot], slot) for slot in self.graph.input_slots],
            "layers": [[of(slot) for slot in slots] for slots in self.question.returned],
            "values": [forward.values[slot] for slot in self.question.values],
            "inside": [self.reverse.inside(forward, relevance, *asked, gates) for asked in self.question.inside],
            "start": sum(map(per_sample, seeds.values())),
        }
        if watch:
            result["growth"] = growths(self.graph, forward, relevance, seeds, self.limit)
            result["magnitudes"] = magnitudes(list(seeds.values()), [of(slot) for slot in self.graph.input_slots])
        if self.keep:
            # Shapes and counters have no samples, and no relevance.
            known = Facts(self.graph)
            kept = {site.path: known.of_samples(site.inputs) for site in self.graph.sites}
            result["kept"] = {path: [of(slot) for slot in slots] for path, slots in kept.items() if slots}
        return result


def _each(function, stacked):
    """The results of a function for every entry of the first axis of some tensors, stacked behind the samples."""
    if tf.executing_eagerly():
        count = tf.nest.flatten(stacked)[0].shape[0]
        each = [function(tf.nest.map_structure(operator.itemgetter(i), stacked)) for i in range(count)]
        return keras.tree.map_structure(lambda *parts: tf.stack(parts, axis=1), *each)
    result = tf.vectorized_map(function, stacked)
    return keras.tree.map_structure(lambda r: tf.experimental.numpy.swapaxes(r, 0, 1), result)


def _between_others(x, place, count):
    """A batch in which one sample is as it is, and all others are copies of it, with half the numbers."""
    here = tf.reshape(tf.range(count) == place, (count, *(1,) * (x.shape.rank - 1)))
    x = x[place : place + 1]
    return tf.where(here, x, x / 2 if x.dtype.is_floating else x)


def _same_rows(batch, other, place, count, others):
    """Whether tensors of `count` samples and of `others` have the same rows for the sample at a place."""
    batch, other = np.asarray(batch), np.asarray(other)
    if not batch.ndim or len(batch) % count:
        return False
    each = len(batch) // count
    if other.shape != (others * each, *batch.shape[1:]):
        return False
    batch, other = (t[place * each : (place + 1) * each].astype("float64") for t in (batch, other))
    largest = np.max(np.abs(other), initial=0.0, where=np.isfinite(other))
    return np.allclose(batch, other, rtol=1e-3, atol=1e-5 * largest, equal_nan=True)


def no_relevance(value: tf.Tensor, dtype: str) -> tf.Tensor:
    """Zeros of the shape of a tensor that no relevance reaches."""
    return tf.zeros(tf.shape(value), dtype)


def input_spec(graph: Graph, slot: int) -> tf.TensorSpec:
    """The shape, with a free batch size, and the dtype in which a graph takes an input."""
    spec = graph.specs[slot]
    floating = spec.dtype.startswith(("float", "bfloat"))
    return tf.TensorSpec((None, *spec.shape[1:]), graph.dtype if floating else spec.dtype)
