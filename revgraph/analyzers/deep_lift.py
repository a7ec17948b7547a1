"""DeepLIFT: contributions of differences from a reference input."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.background import Background, background_of, one_reference
from revgraph.analyzers.inputs import Batch, flat_inputs, refuse_mixed_ids
from revgraph.analyzers.recorded import RecordedPass
from revgraph.analyzers.reference import FROM_ZERO, SAME, check_references, flat_references, references_of
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.canonize.pairs import WithReference, with_reference
from revgraph.canonize.passes import prune
from revgraph.composites import LOOP, Composite, Matcher
from revgraph.graph import Graph
from revgraph.graph.loops import Loop
from revgraph.graph.operations import (
    Activation,
    Contraction,
    Embedding,
    Normalize,
    Operation,
    Product,
    Quotient,
    Routing,
)
from revgraph.graph.types import Tensors
from revgraph.reverse.ledger import completeness
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse.walk import Question, Walk
from revgraph.reverse_rules import Jacobian, Turns
from revgraph.reverse_rules.deep_lift import (
    EmbeddingDifference,
    MeanGradient,
    Rescale,
    RescaleChoice,
    RescaleNormalization,
    RescaleProduct,
    RescaleQuotient,
    TimesDifference,
)
from revgraph.reverse_rules.folding import per_sample


def beside(kind: type[Operation], text: str, word: str = "") -> Matcher:
    """Matches sites that see a reference by the kind of their operation, and a word in its name."""

    def test(site, facts):
        operation = getattr(site.operation, "operation", None)
        named = word in getattr(operation, "name", "").lower()
        return isinstance(site.operation, WithReference) and isinstance(operation, kind) and named

    return Matcher(test, text)


DEEP_LIFT = Composite(
    (
        Matcher(lambda site, facts: not isinstance(site.operation, WithReference | Loop), "linear operations"),
        Jacobian(),
    ),
    (beside(Routing, "inputs", "input"), TimesDifference()),
    (beside(Activation, "softmax", "softmax"), MeanGradient()),
    (beside(Activation, "activations"), Rescale()),
    (beside(Routing, "maxima", "max"), RescaleChoice(tf.maximum)),
    (beside(Routing, "minima", "min"), RescaleChoice(tf.minimum)),
    (beside(Product, "products"), RescaleProduct()),
    (beside(Contraction, "contractions"), RescaleProduct()),
    (beside(Quotient, "quotients"), RescaleQuotient()),
    (beside(Normalize, "normalizations"), RescaleNormalization()),
    (beside(Embedding, "embeddings"), EmbeddingDifference()),
    (LOOP, Turns()),
    defaults=(),
    name="deep_lift",
)


class DeepLIFT(Background, ReverseAnalyzer):
    """DeepLIFT with the rescale rule: contributions add up to the output's difference from the reference's.

    [Shrikumar et al., 2017]

    Args:
        model: A built Keras model.
        reference_inputs: What inputs are compared with; see `revgraph.analyzers.reference`. By default zeros, and for
            ids rows of zeros in the place of those that they look up.
        background: Several references in place of one: an array (references, ...), such as some samples of the
            training data, or the structure of such arrays that the model takes. The relevance is the mean over them,
            as in DeepLiftShap of Captum and DeepExplainer of SHAP.
        **options: See `ReverseAnalyzer`.

    Example:

        analyzer = revgraph.create_analyzer("deep_lift", model, reference_inputs=x_train.mean(axis=0))
        contributions = analyzer.analyze(x, neuron_selection=3)  # sums to y[3] - y_reference[3], sample by sample
    """

    name = "deep_lift"

    def __init__(
        self,
        model: keras.Model | Graph,
        reference_inputs: Tensors = FROM_ZERO,
        background: Tensors | None = None,
        **options: Any,
    ) -> None:
        reference_inputs = one_reference(background, reference_inputs)
        check_references(reference_inputs)
        self.reference_inputs = reference_inputs
        super().__init__(model, DEEP_LIFT, **options)
        refuse_mixed_ids(self.name, self.graph)
        if background is not None:
            self.background = background_of(background, self.graph)

    def _canonize(self, graph, keep):
        return prune(graph, keep)

    def _own_start(self, y):
        return tf.ones_like(y)

    def _new_walk(self, graph, question):
        told = references_of(self.reference_inputs, self.graph)
        graph, beside = with_reference(graph, told.names(FROM_ZERO), told.names(SAME))
        walk = super()._new_walk(graph, question)
        return DifferenceWalk(
            beside, walk.reverse, question, walk.own, walk.finish, keep=walk.keep, jit_compile=walk.jit_compile
        )

    def batches(self, x: Tensors, batch_size: int | None = None, verbose: int = 0) -> Iterator[Batch]:
        for inputs, samples, count in super().batches(x, batch_size, verbose):
            yield inputs + self._references(inputs, samples, count), samples, count

    def _references(self, inputs, samples=slice(None), count=None):
        return flat_references(self.reference_inputs, inputs, self.graph, samples, count)

    def _on_outputs(self, walk, inputs, chosen):
        values = self._values(walk, inputs)
        outputs = [values[slot] for slot in walk.question.starts]
        return [t.on(y, r) for t, y, r in zip(chosen, outputs, walk.references(values), strict=True)]

    def _packed(self, flat):
        return super()._packed(flat[: len(self.graph.input_slots)])

    def record(self, X: Tensors) -> RecordedPass:
        self._refuse_background("record")
        inputs = flat_inputs(X, self.graph)
        return self._recorded(inputs + self._references(inputs))

    def _ledger(self, question, inputs, chosen, masks):
        # What is passed back are multipliers, of which there is no account: contributions are, and there at the inputs.
        def contributions(masks):
            result = self._on_precise(lambda analyzer: analyzer.walk(question).relevance(inputs, chosen, masks))
            found = [np.asarray(r) for r in result["relevance"][: len(self.graph.input_slots)]]
            return found, sum(c.sum(axis=tuple(range(1, c.ndim))) for c in found), np.asarray(result["start"])

        passed, found, start = contributions(masks)
        condition = 0.0 if masks is None else contributions(masks.opened())[1] - found
        return completeness(passed, start - found, condition)


class DifferenceWalk(Walk):
    """A walk over a graph beside its reference, whose start relevance is the output's difference.

    Args:
        beside: The slot of the reference, for each slot of the graph.
        reverse, question, own, finish, **options: See `Walk`.
    """

    def __init__(
        self,
        beside: dict[int, int],
        reverse: ReverseGraph,
        question: Question,
        own: Callable[..., tf.Tensor],
        finish: Callable[..., tf.Tensor],
        **options: Any,
    ) -> None:
        super().__init__(reverse, question, own, finish, **options)
        self.beside = beside

    def references(self, values: Mapping[int, tf.Tensor]) -> list[tf.Tensor | None]:
        return [values[self.beside[slot]] for slot in self.question.starts]

    def _pulled_once(self, forward, tensors, masks, watch=False):
        result = super()._pulled_once(forward, tensors, masks, watch)
        differences = [
            per_sample(seed * (forward.values[slot] - forward.values[self.beside[slot]]))
            for slot, seed in self.seeds(forward.values, tensors).items()
        ]
        references = {*self.beside.values(), *self.graph.input_slots[len(self.graph.input_slots) // 2 :]}
        if self.keep:
            result["kept"] = {
                site.path: [
                    r for r, slot in zip(result["kept"][site.path], site.inputs, strict=True) if slot not in references
                ]
                for site in self.graph.sites
                if not references.issuperset(site.inputs)
            }
        return {**result, "start": sum(differences)}
