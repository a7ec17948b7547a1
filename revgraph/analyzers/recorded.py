"""A recorded forward pass, on which relevance can start again and again."""

from typing import TYPE_CHECKING, Any

from revgraph.graph.types import Relevance, Selection
from revgraph.reverse.targets import make_targets
from revgraph.reverse.walk import Walk

if TYPE_CHECKING:
    from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer


class RecordedPass:
    """A forward pass on which relevance can start again and again, with the weights of when it was recorded.

    Args:
        analyzer: The `ReverseAnalyzer` whose answers it gives.
        walk: Its walk.
        inputs: Flat inputs, as tensors.
    """

    def __init__(self, analyzer: "ReverseAnalyzer", walk: Walk, inputs: list[Any]) -> None:
        self._analyzer = analyzer
        self._walk = walk
        self._inputs = inputs
        self._forward = walk.recorded(inputs)

    def analyze(self, neuron_selection: Selection = None, initial_relevance: Any = None) -> Relevance:
        """Relevance of the recorded inputs; see `ReverseAnalyzer.analyze`."""
        graph, starts = self._walk.graph, self._walk.question.starts
        selection = self._analyzer.selected(neuron_selection)
        shapes = [graph.specs[slot].shape[1:] for slot in starts]
        chosen = make_targets(selection, initial_relevance, int(self._inputs[0].shape[0]), graph.output_names, shapes)
        values = self._forward.values
        references = self._walk.references(values)
        chosen = [t.on(values[slot], r) for t, slot, r in zip(chosen, starts, references, strict=True)]
        result = self._walk.pulled(self._forward, self._walk.tensors(chosen))
        return self._analyzer.answer([result], {}, False, False)
