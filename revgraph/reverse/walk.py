"""A walk: one question put to a model (where to start, what to return), compiled once for all batch sizes."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.reverse import targets
from revgraph.reverse.ledger import GROWTH, growths
from revgraph.reverse.reverse_graph import Forward, ReverseGraph
from revgraph.reverse_rules import per_sample


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
        self._compiled = {}

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

    def ledger(self, inputs, chosen):
        """Relevance at the start, at the inputs, and per site, per sample; see `ReverseGraph.ledger`.

        It is computed eagerly: who asks where relevance went does so once or twice, and compiling takes longer.
        """
        values = self.graph.run(self._arguments(inputs))
        seeds = self.seeds(values, self.tensors(chosen))
        relevance, entries = self.reverse.ledger(values, seeds)
        zero = tf.zeros(tf.shape(inputs[0])[:1], self.graph.dtype)
        found = [per_sample(relevance[slot]) for slot in self.graph.input_slots if slot in relevance]
        return sum(map(per_sample, seeds.values())).numpy(), sum(found, zero).numpy(), entries

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
        if key not in self._compiled:
            program = tf.function(getattr(self, f"_trace_{what}"), autograph=False, jit_compile=self.jit_compile)
            arguments = (self.input_specs(), specs) if chosen else (self.input_specs(),)
            self._compiled[key] = program.get_concrete_function(*arguments)
        return self._compiled[key]

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
            seeds[slot] = targets.start(y, chosen, self.own(y))
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
            not kept in bounds, `growth` (by site, see `growths`).
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
        if self.keep:
            result["kept"] = {site.path: [of(slot) for slot in site.inputs] for site in self.graph.sites}
        return result


def no_relevance(value, dtype):
    """Zeros for a tensor that no relevance reaches."""
    return tf.zeros(tf.shape(value), dtype)


def input_spec(graph: Graph, slot) -> tf.TensorSpec:
    """Shape, with any batch size, and dtype in which the graph takes an input."""
    spec = graph.specs[slot]
    floating = spec.dtype.startswith(("float", "bfloat"))
    return tf.TensorSpec((None, *spec.shape[1:]), graph.dtype if floating else spec.dtype)
