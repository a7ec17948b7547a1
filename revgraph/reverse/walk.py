"""A walk: one question put to a model (where to start, what to return), compiled once for all batch sizes."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.graph.log import timed
from revgraph.reverse import targets
from revgraph.reverse.dangers import GROWTH, growths, magnitudes
from revgraph.reverse.ledger import Conservation, merge
from revgraph.reverse.recent import Recent
from revgraph.reverse.reverse_graph import Forward, ReverseGraph
from revgraph.reverse_rules import Unreached
from revgraph.reverse_rules.folding import per_sample


@dataclasses.dataclass(frozen=True)
class Question:
    """Where relevance starts, and the relevance of which slots is returned beside that of the inputs.

    Args:
        starts: Slots at which relevance starts.
        returned: For each layer asked for, the slots whose relevance is returned.
    """

    starts: tuple[int, ...]
    returned: tuple[tuple[int, ...], ...] = ()

    @property
    def slots(self) -> frozenset[int]:
        """Every slot that canonization has to leave in place."""
        return frozenset(self.starts).union(*self.returned)


class Walk:
    """Forward and backward walk for one question.

    Args:
        reverse: The reverse graph.
        question: The question that it answers.
        own: Function of an output that gives the analyzer's own start relevance.
        finish: Function of relevance, input and slot that gives what is returned for an input.
        limit: The growth of |R| through a site of which one wants to know.
        keep: Also return the relevance at the inputs of every site.
        jit_compile: Compile with XLA.
    """

    def __init__(
        self,
        reverse: ReverseGraph,
        question: Question,
        own: Callable,
        finish: Callable,
        limit=GROWTH,
        keep=False,
        jit_compile=False,
    ):
        self.reverse = reverse
        self.question = question
        self.own = own
        self.finish = finish
        self.limit = limit
        self.keep = keep
        self.jit_compile = jit_compile
        self._compiled = Recent()

    @property
    def graph(self) -> Graph:
        return self.reverse.graph

    def input_specs(self) -> list[tf.TensorSpec]:
        """The signature of the flat inputs, for any batch size."""
        return [input_spec(self.graph, slot) for slot in self.graph.input_slots]

    def outputs(self, inputs) -> list[tf.Tensor]:
        """The tensors at which relevance starts, computed forward."""
        return self._function("outputs", ())(self._arguments(inputs))

    def relevance(self, inputs, chosen) -> dict:
        """Relevance of flat inputs for one `Target` per start; see `pulled`."""
        return self._function("relevance", chosen)(self._arguments(inputs), self.tensors(chosen))

    def ledger(self, inputs, chosen) -> Conservation:
        """Where relevance of flat inputs went, for one `Target` per start.

        It is computed eagerly: who asks where relevance went does so once or twice, and compiling takes longer.
        """
        inputs = self._arguments(inputs)
        values = self.graph.run(inputs)
        count = len(inputs[0])
        if count > 1 and not self._samples_are_rows(inputs, values):
            rows = [slice(i, i + 1) for i in range(count)]
            return merge(self.ledger([x[row] for x in inputs], [t.part(row) for t in chosen]) for row in rows)
        return self.reverse.ledger(values, self.seeds(values, self.tensors(chosen)))

    def _samples_are_rows(self, inputs, values) -> bool:
        """Whether the tensors of a sample stand beside each other wherever relevance passes.

        That is so if the first axis is the batch, or batch times steps. It is tried out, because what an operation does
        with its axes cannot be told from shapes: the first sample alone has to give the first rows.
        """
        try:
            alone = self.graph.run([x[:1] for x in inputs])
        # A model of a fixed batch size runs on nothing smaller, so there is no other way to tell samples apart.
        except (tf.errors.OpError, ValueError):
            return True
        slots = {slot for b in self.reverse.bound if not isinstance(b.rule, Unreached) for slot in b.site.outputs}
        return all(_starts_with(values[slot], alone[slot], len(inputs[0])) for slot in slots)

    def tensors(self, chosen):
        """The targets as tensors."""
        return [target.tensors(self.graph.dtype) for target in chosen]

    def _arguments(self, inputs):
        return [tf.cast(x, spec.dtype) for x, spec in zip(inputs, self.input_specs(), strict=True)]

    def _function(self, what, chosen):
        """A concrete function, traced when first asked for: one for all batch sizes, classes and amounts."""
        ranks = [len(self.graph.specs[slot].shape) for slot in self.question.starts]
        specs = [t.specs(rank, self.graph.dtype) for t, rank in zip(chosen, ranks, strict=False)]
        key = (what, tuple(tuple((s.dtype, s.shape.rank) for s in spec) for spec in specs))
        arguments = (self.input_specs(), specs) if chosen else (self.input_specs(),)

        def compiled():
            program = tf.function(getattr(self, f"_trace_{what}"), autograph=False, jit_compile=self.jit_compile)
            with timed("compile", self.graph):
                return program.get_concrete_function(*arguments)

        return self._compiled.value(key, compiled)

    def _trace_outputs(self, inputs):
        values = self.graph.run(inputs)
        return [values[slot] for slot in self.question.starts]

    def _trace_relevance(self, inputs, tensors):
        return self.pulled(self.reverse.forward(inputs), tensors)

    def seeds(self, values, tensors) -> dict[int, tf.Tensor]:
        """Start relevance by slot, from the tensors of the slots."""
        seeds = {}
        for slot, chosen in zip(self.question.starts, tensors, strict=True):
            y = values[slot]
            started = targets.start(y, chosen, self.own(y))
            # A model may return one tensor under several names.
            seeds[slot] = seeds[slot] + started if slot in seeds else started
        return seeds

    def pulled(self, forward: Forward, tensors) -> dict:
        """Relevance on a forward walk.

        Args:
            forward: The forward walk.
            tensors: Per start, what `Target.tensors` gives. With an index of shape (batch, targets) the backward walk
                is vectorised over targets, and relevance has shape (batch, targets, ...).

        Returns:
            Dict of `relevance` (one tensor per input), `layers` (one list of tensors per layer asked for), `start`
            (relevance at the start, per sample), and for one target, if relevance is
            not kept in bounds, `growth` (by site, see `growths`) and `magnitudes` (sum |R| at the start and at the
            inputs, per sample).
        """
        several = [first.dtype == tf.int32 and first.shape.rank == 2 for first, *_ in tensors]
        if not any(several):
            return self._pulled_once(forward, tensors, watch=not self.reverse.adjust)

        def one(indices):
            indices = iter(indices)
            chosen = [
                (next(indices), *rest) if many else (first, *rest)
                for (first, *rest), many in zip(tensors, several, strict=True)
            ]
            return self._pulled_once(forward, chosen)

        stacked = [tf.transpose(first) for (first, *_), many in zip(tensors, several, strict=True) if many]
        if tf.executing_eagerly():
            each = [one([rows[t] for rows in stacked]) for t in range(stacked[0].shape[0])]
            return keras.tree.map_structure(lambda *parts: tf.stack(parts, axis=1), *each)
        result = tf.vectorized_map(one, stacked)
        return keras.tree.map_structure(lambda r: tf.experimental.numpy.swapaxes(r, 0, 1), result)

    def _pulled_once(self, forward, tensors, watch=False):
        seeds = self.seeds(forward.values, tensors)
        relevance = self.reverse.relevance(forward, seeds)

        def of(slot):
            return relevance[slot] if slot in relevance else no_relevance(forward.values[slot], self.graph.dtype)

        result = {
            "relevance": [self.finish(of(slot), forward.values[slot], slot) for slot in self.graph.input_slots],
            "layers": [[of(slot) for slot in slots] for slots in self.question.returned],
            "start": sum(map(per_sample, seeds.values())),
        }
        if watch:
            result["growth"] = growths(self.graph, forward, relevance, seeds, self.limit)
            result["magnitudes"] = magnitudes(list(seeds.values()), [of(slot) for slot in self.graph.input_slots])
        if self.keep:
            result["kept"] = {site.path: [of(slot) for slot in site.inputs] for site in self.graph.sites}
        return result


def _starts_with(batch, alone, count) -> bool:
    """Whether a tensor of several samples has rows in the order of the samples, the first of which are given."""
    batch, alone = np.asarray(batch), np.asarray(alone)
    if not alone.ndim or batch.shape != (count * len(alone), *alone.shape[1:]):
        return False
    batch, alone = batch[: len(alone)].astype("float64"), alone.astype("float64")
    largest = np.max(np.abs(alone), initial=0.0, where=np.isfinite(alone))
    return np.allclose(batch, alone, rtol=1e-3, atol=1e-5 * largest, equal_nan=True)


def no_relevance(value, dtype):
    """Zeros for a tensor that no relevance reaches."""
    return tf.zeros(tf.shape(value), dtype)


def input_spec(graph: Graph, slot) -> tf.TensorSpec:
    """Shape, with any batch size, and dtype in which the graph takes an input."""
    spec = graph.specs[slot]
    floating = spec.dtype.startswith(("float", "bfloat"))
    return tf.TensorSpec((None, *spec.shape[1:]), graph.dtype if floating else spec.dtype)
