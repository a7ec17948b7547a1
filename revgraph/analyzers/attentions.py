"""`Attentions`: what every attention of a model did, and the relevance of its heads and tokens."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.graph.attentions import attentions
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import Selection, Tensors
from revgraph.reverse.targets import single
from revgraph.reverse.walk import Question

if TYPE_CHECKING:
    from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer


@dataclasses.dataclass(frozen=True, eq=False)
class Attentions(Tabular):
    """The attentions of a model on some samples, by the path of their layer, in the order of execution.

    Attention weights say where a model looks. Relevance says what it used of that for the output that is explained.

    Args:
        maps: Attention weights, arrays (batch, heads, queries, keys). Each row sums to 1, but for sinks.
        heads: Relevance of every head at every query, arrays (batch, heads, queries): relevance in front of the output
            projection, summed over the features of a head.
        tokens: Relevance of every token that the layer reads, arrays (batch, tokens): all of it, that of the shortcut
            around the layer, too. It stands in front of the layer's normalization.

    Example:

        inside = analyzer.attentions(x, 3)
        print(inside)                                   # which layers there are, and their strongest heads
        inside.heads["block_0/attention"].sum(axis=-1)  # relevance of each head, (batch, heads)
        revgraph.visualize.plot_heads(inside)
    """

    maps: Mapping[str, np.ndarray]
    heads: Mapping[str, np.ndarray]
    tokens: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.heads.values())))

    def table(self) -> Table:
        """One row per attention: its sizes, its relevance, and the head that has most of it (means over samples)."""
        rows = []
        for path, heads in self.heads.items():
            each = heads.sum(axis=-1)
            strongest = int(np.abs(each).mean(axis=0).argmax())
            shown = (*self.maps[path].shape[1:], float(each.sum(axis=-1).mean()))
            rows.append((path, *shown, strongest, float(each[:, strongest].mean())))
        header = ("attention", "heads", "queries", "keys", "relevance", "strongest head", "its relevance")
        samples = "1 sample" if len(self) == 1 else f"{len(self)} samples, means"
        return Table(header, rows, title=f"{len(rows)} attentions of {samples}")

    def __repr__(self) -> str:
        return f"<Attentions: {', '.join(self.heads)}>"


def look_inside(
    analyzer: "ReverseAnalyzer",
    X: Tensors,
    neuron_selection: Selection,
    batch_size: int | None,
    verbose: int,
    start: dict[str, Any],
) -> Attentions:
    """The attentions of an analyzer's model; see `LRP.attentions`."""
    found = attentions(analyzer.traced)
    if not found:
        raise ValueError(
            f"The model {analyzer.graph.name!r} has no attention: no product of matrices in it has attention weights, "
            f"such as those of a softmax, as one factor. Weights that multiply entry by entry, before a sum, are found "
            f"if they are written as keras.layers.Dot(axes=1)([values, weights]). Attention in a loop is not found."
        )
    names, starts, initial = analyzer.started("attentions", start)
    question = Question(
        starts,
        returned=tuple((each.mixed, each.source) for each in found),
        values=tuple(each.weights for each in found),
    )
    walk = analyzer.walk(question)
    batches: list[list[tuple[np.ndarray, ...]]] = []
    for inputs, chosen, _ in analyzer.questions(walk, names, X, neuron_selection, initial, batch_size, verbose):
        result = walk.relevance(inputs, single(chosen, "attentions"))
        count = len(inputs[0])
        parts = zip(found, result["values"], result["layers"], strict=True)
        batches.append([_on_batch(each, weights, inside[0], inside[1], count) for each, weights, inside in parts])
    joined = [[np.concatenate(parts) for parts in zip(*each, strict=True)] for each in zip(*batches, strict=True)]
    paths = [each.path for each in found]
    return Attentions(*(dict(zip(paths, kind, strict=True)) for kind in zip(*joined, strict=True)))


def _on_batch(attention, weights, mixed, source, batch):
    """Maps, heads and tokens of one attention on one batch."""
    tokens = source.numpy().sum(axis=-1).reshape(batch, -1)
    maps = attention.maps(weights.numpy(), tokens.shape[1], batch)
    return maps, attention.of_heads(mixed.numpy(), maps.shape[-1], tokens.shape[1], batch), tokens
