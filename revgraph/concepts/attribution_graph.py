"""`graph`: which concepts of lower layers feed which concepts of higher ones, for one prediction."""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import keras
import numpy as np

from revgraph.analyzers import Analyzer
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.concepts.channels import of_layers, shares
from revgraph.extras import needed
from revgraph.graph.analysis import depending
from revgraph.graph.arguments import check_count
from revgraph.graph.graph import Graph
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import Selection, Tensors

PREDICTION = "prediction"
"""The layer of the node that stands for what is explained."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A concept in an `AttributionGraph`.

    Args:
        layer: Its layer; `"prediction"` for what is explained.
        channel: Its channel; 0 for what is explained.
        relevance: Its relevance for the prediction, or for the concept at which the graph begins.
        share: The same over the sum of absolute relevance of all channels of its layer, for the prediction or that
            concept.
        heatmap: Relevance of the input under the condition that relevance passes the concept, of the input's shape. A
            list for several inputs.
    """

    layer: str
    channel: int
    relevance: float
    share: float
    heatmap: Any = None

    @property
    def key(self) -> tuple[str, int]:
        """(layer, channel)."""
        return self.layer, self.channel

    def __repr__(self) -> str:
        return f"<{self.layer}[{self.channel}]: {self.share:.1%}>"


@dataclasses.dataclass(frozen=True)
class Edge:
    """How much a lower concept feeds a higher one.

    Args:
        upper: (layer, channel) of the higher concept.
        lower: (layer, channel) of the lower one.
        relevance: Relevance of the lower concept under the condition that relevance passes the higher one, by all ways.
        share: The same over the sum of absolute relevance of all channels of the lower layer, under that condition.
    """

    upper: tuple[str, int]
    lower: tuple[str, int]
    relevance: float
    share: float


@dataclasses.dataclass(frozen=True, eq=False)
class AttributionGraph(Tabular):
    """Which concepts feed which, for one prediction. It prints as a table of its edges.

    Args:
        layers: The layers, from the highest to the lowest.
        nodes: The concepts, from the highest layer to the lowest.
        edges: What feeds what.
        sample: The input that is explained.

    Example:

        found = revgraph.concepts.graph(analyzer, x, ["block5_conv3", "block4_conv3"], 3)
        print(found)
        found.plot().savefig("concepts.png")
        networkx.pagerank(found.to_networkx())
    """

    layers: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    sample: Any = None

    def node(self, layer: str, channel: int) -> Node:
        """The node of a concept.

        Raises:
            KeyError: There is none.
        """
        for node in self.nodes:
            if node.key == (layer, channel):
                return node
        raise KeyError(f"The graph has no node {layer!r}, {channel!r}.")

    def feeding(self, layer: str, channel: int) -> list[Edge]:
        """The edges to a concept from those that feed it, from the one of largest relevance."""
        return sorted((e for e in self.edges if e.upper == (layer, channel)), key=lambda e: -e.relevance)

    def to_networkx(self) -> Any:
        """The graph as a `networkx.DiGraph`, from lower concepts to higher ones.

        Nodes are (layer, channel), with the attributes `relevance` and `share`; edges have them, too.

        Raises:
            ImportError: networkx is not installed.
        """
        made = needed("networkx", "to_networkx").DiGraph()
        for node in self.nodes:
            made.add_node(node.key, relevance=node.relevance, share=node.share)
        for edge in self.edges:
            made.add_edge(edge.lower, edge.upper, relevance=edge.relevance, share=edge.share)
        return made

    def table(self) -> Table:
        """One row per edge."""
        # A prediction has no channels.
        rows = [
            (layer, "" if layer == PREDICTION else channel, *edge.lower, edge.relevance, 100 * edge.share)
            for edge in self.edges
            for layer, channel in [edge.upper]
        ]
        header = ("layer", "channel", "fed by", "its channel", "relevance", "share %")
        title = f"{len(self.nodes)} nodes and {len(self.edges)} edges, from output to input"
        return Table(header, rows, title=title, footer="Shares are of the absolute relevance of the feeding layer.")

    def plot(self, **options: Any) -> Any:
        """Draws the graph, with the conditional heat map of each concept on its node.

        Args:
            **options: Of `revgraph.visualize.heatmap`, such as `cmap_type`, `percentile`, `gamma`.

        Returns:
            A `Picture`, a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from revgraph.concepts.drawing import draw_graph

        return draw_graph(self, **options)

    def __repr__(self) -> str:
        return f"<AttributionGraph: {len(self.nodes)} nodes, {len(self.edges)} edges>"


def graph(
    analyzer: Analyzer,
    x: Tensors,
    layers: Sequence[str | keras.Layer],
    neuron_selection: Selection = None,
    *,
    concepts: int | Sequence[int] | None = None,
    widths: int | Sequence[int] = 3,
    around: bool = False,
    batch_size: int | None = None,
    **options: Any,
) -> AttributionGraph:
    """Which concepts of lower layers feed which concepts of higher ones, for one prediction.  [Achtibat et al., 2023]

    It begins with the channels of largest relevance in the highest layer. Under the condition that relevance passes one
    of them, the channels of largest relevance in the next lower layer are those that feed it, and so on. Channels are
    ranked by their relevance with its sign.

    Args:
        analyzer: An analyzer that walks backwards, such as any LRP.
        x: One sample with its batch axis, such as `x[:1]`.
        layers: Names or paths of the layers, or the layers, in any order. A layer is fed by those from which a way
            leads to it with none of the others between. So layers may lie beside each other, and shortcuts are ways.
        neuron_selection: What is explained; see `ReverseAnalyzer.analyze`.
        concepts: Channels of the highest layer. The graph begins with them in place of the prediction, and all
            relevance in it passes them.
        widths: How many channels of each layer feed one node: one number, or one for each step down from the
            prediction, or from `concepts`. There are as many steps as the longest way has layers.
        around: Also count relevance that passes around a concept on a shortcut, as zennit-crp does. By default an edge
            has only what passes the concept that it feeds.
        batch_size: See `Analyzer.analyze`.
        **options: `initial_relevance` of `ReverseAnalyzer.analyze`.

    Returns:
        An `AttributionGraph`, which prints as a table, and has a `plot` and `to_networkx`.

    Raises:
        KeyError: Unknown or ambiguous layer.
        TypeError: The analyzer has no relevance of layers.
        ValueError: More than one sample, no layer, a layer that is called "prediction", or widths that do not fit.

    Example:

        found = revgraph.concepts.graph(analyzer, x[:1], ["block5_conv3", "block4_conv3", "block3_conv3"], 3)
        found.plot()
    """
    layers = [layers] if isinstance(layers, str | keras.Layer) else list(layers)
    if not layers:
        raise ValueError("layers is empty: name at least one layer.")
    if "conditions" in options:
        raise TypeError("graph makes conditions of its own: name channels of the highest layer with concepts=...")
    options["batch_size"] = batch_size
    heatmap, start, found = of_layers(analyzer, x, layers, neuron_selection, **options)
    for values in found.values():
        if values.ndim != 2 or len(values) != 1:
            raise ValueError(
                f"A graph is of one sample and one target, and there are {' x '.join(map(str, values.shape[:-1]))}. "
                f"Pass one sample with its batch axis, such as x[:1]."
            )
    # An analyzer of a model whose sizes only data have has a graph by now.
    order = _Order(cast(ReverseAnalyzer, analyzer.innermost).traced, layers)
    if PREDICTION in order.layers:
        raise ValueError(
            f"{PREDICTION!r} stands for what is explained in a graph, so the layer of that name cannot be in it: leave "
            f"it out, or rename it. neuron_selection says which of its neurons are explained."
        )
    begin = _beginning(concepts, order)
    limits = _checked_widths(widths, order.depth - len(begin), begin)
    growing = _Growing(analyzer, x, neuron_selection, {"around": around, **options}, order, begin, limits)
    prediction = Node(PREDICTION, 0, float(start[0]), 1.0, keras.tree.map_structure(lambda r: r[0], heatmap))
    growing.grow(prediction, {order.path(name): values[0] for name, values in found.items()})
    # A shortcut leads to a low layer before the layers beside it are reached.
    rank = {layer: number for number, layer in enumerate((PREDICTION, *order.layers))}
    nodes = sorted(growing.nodes.values(), key=lambda node: rank[node.layer])
    edges = sorted(growing.edges, key=lambda edge: (rank[edge.upper[0]], rank[edge.lower[0]]))
    return AttributionGraph(order.layers, tuple(nodes), tuple(edges), x)


def _beginning(concepts, order):
    """The condition that names the concepts with which a graph begins; an empty one for the prediction."""
    if concepts is None:
        return {}
    highest = order.highest()
    if len(highest) > 1:
        raise ValueError(
            f"concepts names channels of the highest layer, and {' and '.join(map(repr, highest))} lie beside each "
            f"other: leave out all but one."
        )
    chosen = [concepts] if isinstance(concepts, int | np.integer) else list(concepts)
    if not chosen or not all(isinstance(c, int | np.integer) and not isinstance(c, bool) for c in chosen):
        raise TypeError(f"concepts is a channel or a list of channels. Received: {concepts!r}.")
    return {highest[0]: [int(c) for c in chosen]}


def _checked_widths(widths, levels, begin):
    each = list(widths) if isinstance(widths, list | tuple | np.ndarray) else [widths] * levels
    for width in each:
        check_count("widths", width)
    if len(each) != levels:
        which = "from the highest concepts" if begin else "from the prediction"
        raise ValueError(f"widths is one number, or {levels}, one for each step down {which}. Received: {widths!r}.")
    return iter(each)


class _Order:
    """Which of some layers are below which.

    Args:
        graph: The graph of the model.
        layers: The layers.
    """

    def __init__(self, graph: Graph, layers: Sequence[str | keras.Layer]) -> None:
        self._graph, self._producers = graph, graph.producers()
        slots = self._slots = {self.path(layer): graph.find(layer).outputs[0] for layer in layers}
        behind = {path: depending(graph, slot) for path, slot in slots.items()}
        above = {path: [o for o in slots if o != path and slots[o] in behind[path]] for path in slots}
        levels: dict[str, int] = {}
        for path in sorted(slots, key=lambda path: len(above[path])):
            levels[path] = max((1 + levels[other] for other in above[path]), default=0)
        self.above, self.levels = above, levels
        self.layers = tuple(sorted(slots, key=lambda path: levels[path]))
        self.depth = 1 + max(levels.values())

    def path(self, layer: Any) -> str:
        """The path of a layer."""
        return self._graph.find(layer).path

    def highest(self) -> list[str]:
        """The layers above which there is none."""
        return [path for path in self.layers if not self.above[path]]

    def below(self, path: str) -> list[str]:
        """The layers from which a way leads to a layer, or to the prediction, with none of the others between."""
        named = {slot: other for other, slot in self._slots.items()}
        stack = list(self._graph.output_slots if path == PREDICTION else self._inputs(self._slots[path]))
        seen = set(stack)
        while stack:
            slot = stack.pop()
            new = set() if slot in named else self._inputs(slot) - seen
            seen |= new
            stack += new
        return [other for other in self.layers if self._slots[other] in seen]

    def _inputs(self, slot):
        """What a slot is computed from."""
        site = self._producers.get(slot)
        return set(site.inputs) if site else set()


@dataclasses.dataclass
class _Growing:
    """A graph that grows from the output to the input.

    Args:
        analyzer, x, selection, options: What is explained, and how.
        order: The order of the layers.
        begin: The condition with which it begins.
        widths: How many channels of a layer feed one node, step by step.
    """

    analyzer: Analyzer
    x: Any
    selection: Any
    options: dict[str, Any]
    order: _Order
    begin: dict[str, list[int]]
    widths: Iterator[int]
    nodes: dict[tuple[str, int], Node] = dataclasses.field(default_factory=dict)
    edges: list[Edge] = dataclasses.field(default_factory=list)

    def grow(self, prediction: Node, whole: dict[str, np.ndarray]) -> None:
        """Finds nodes and edges.

        Args:
            prediction: The node of the prediction.
            whole: Relevance of the channels of all layers.
        """
        if self.begin:
            ((layer, channels),) = self.begin.items()
            ((_, lower),) = self._under([self.begin], self.order.layers)
            size = len(whole[layer])
            keys = [(layer, c % size) for c in channels]
            whole = lower
        else:
            self.nodes[prediction.key] = prediction
            keys = self._feed(prediction.key, whole, next(self.widths))
        while keys:
            lower = list(dict.fromkeys(name for layer, _ in keys for name in self.order.below(layer)))
            found = self._under([{**self.begin, layer: [channel]} for layer, channel in keys], lower)
            width = next(self.widths) if lower else 0
            fed = []
            for key, (seen, values) in zip(keys, found, strict=True):
                layer, channel = key
                of_layer = whole[layer]
                self.nodes[key] = Node(*key, float(of_layer[channel]), float(shares(of_layer)[channel]), seen)
                fed += self._feed(key, values, width)
            keys = [key for key in dict.fromkeys(fed) if key not in self.nodes]

    def _under(self, conditions, layers):
        """Relevance of the input, and of the channels of layers, under each condition."""
        with warnings.catch_warnings():
            # A concept that no relevance passes has no edges, which says the same.
            warnings.filterwarnings("ignore", message="No relevance arrives")
            maps, _, found = of_layers(
                self.analyzer, self.x, layers, self.selection, conditions=conditions, **self.options
            )
        return [
            (keras.tree.map_structure(lambda r, i=i: r[0, i], maps), {name: v[0, i] for name, v in found.items()})
            for i in range(len(conditions))
        ]

    def _feed(self, key, values, width):
        """Adds the edges to a node, and returns the nodes that feed it."""
        fed = []
        for layer in self.order.below(key[0]):
            parts = shares(values[layer])
            # A channel without relevance must not take the place of one whose relevance is negative.
            some = np.where(values[layer] == 0, -np.inf, values[layer])
            for channel in np.argsort(-some, kind="stable")[:width]:
                if values[layer][channel] != 0:
                    lower = (layer, int(channel))
                    self.edges.append(Edge(key, lower, float(values[layer][channel]), float(parts[channel])))
                    fed.append(lower)
        return fed
