"""`references`: the samples that show what a channel stands for, each with its heat map and its crop."""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from revgraph.analyzers.inputs import packed
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.concepts.collecting import digests
from revgraph.concepts.collection import Collection, how_many, opened
from revgraph.concepts.fields import Fields, box
from revgraph.datasets.files import open_dataset
from revgraph.datasets.streams import BATCH_SIZE, source
from revgraph.graph import Graph
from revgraph.graph.callers import outside
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike, Relevance, Selection, Tensors

if TYPE_CHECKING:
    from revgraph.reverse.pictures import Picture


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """A sample on which a channel is relevant or active.

    Args:
        sample: Its index in the dataset.
        value: The relevance or activation of the channel.
        position: Where the channel has its largest entry; empty for a dense layer.
        x: The sample as the model takes it, without the axis for samples.
        relevance: Its heat map, of the shape of x.
        field: The smallest box around the entries on which the channel depends at that position: one slice for each
            axis of x. For several inputs x, relevance and field are nested as the inputs are.
    """

    sample: int
    value: float
    position: tuple[int, ...]
    x: Tensors
    relevance: Relevance
    field: Any


@dataclasses.dataclass(frozen=True, eq=False)
class References(Tabular):
    """The samples that show what channels stand for: `references[channel]` is a list of `Reference`s.

    Args:
        layer: The path of the layer.
        by: `"relevance"` or `"activation"`, by which the samples were ranked.
        channels: The samples of each channel, in order.
    """

    layer: str
    by: str
    channels: Mapping[int, Sequence[Reference]]

    def __getitem__(self, channel: int) -> Sequence[Reference]:
        return self.channels[channel]

    def plot(self, **options: Any) -> "Picture":
        """Draws a row for each channel; see `revgraph.visualize.plot_references`."""
        from revgraph.visualize import plot_references

        return plot_references(self, **options)

    def table(self) -> Table:
        """One row per channel and sample."""
        rows = [
            (channel, each.sample, each.value, ", ".join(map(str, each.position)))
            for channel, found in self.channels.items()
            for each in found
        ]
        return Table(("channel", "sample", self.by, "position"), rows, title=repr(self)[1:-1])

    def __repr__(self) -> str:
        return f"<references of {len(self.channels)} channels of {self.layer!r} by {self.by}>"


def references(
    found: PathLike | Collection,
    layer: str,
    channels: int | Sequence[int],
    analyzer: Any = None,
    dataset: Any = None,
    *,
    by: str = "relevance",
    of_class: int | None = None,
    n: int | None = None,
    unit: bool = True,
    start: str | None = None,
    neuron_selection: Selection = None,
) -> References:
    """The samples on which channels of a layer are most relevant or most active, with heat maps and crops.

    The heat map shows where in the sample the channel finds what it stands for.

    Args:
        found: What `collect` returned, or the path of its file.
        layer: The name or the path of a layer that was collected.
        channels: A channel, or several.
        analyzer: An analyzer of the model that was collected. If its method is another one, there is a warning. By
            default that with which `found` was collected; a file does not have it.
        dataset: The dataset that was collected; likewise.
        by: `"relevance"` (RelMax) or `"activation"` (ActMax).
        of_class: Only samples for which this class was explained.
        n: How many samples are taken of each channel, at most as many as were kept. By default 8.
        unit: Follow only the channel's largest entry, so that the heat map lies in its receptive field. False follows
            the channel at all positions.
        start: Where relevance starts. `"output"`: at the class that was explained, so the heat map is conditional on
            the channel. `"layer"`: at the channel itself, with what an analyzer starts with. By default at the output
            for relevance, and at the layer for activation.
        neuron_selection: What is explained where relevance starts at the output. By default the class that was
            explained for the sample.

    Returns:
        `References`, which print as a table and draw themselves with `plot`.

    Raises:
        IndexError: The layer has no such channel.
        KeyError: The layer was not collected, or no sample is of that class.
        TypeError: The analyzer does not walk backwards, or there is no analyzer or no dataset.
        ValueError: The file is no collection, or one of another model or of another dataset; or an argument is illegal.

    Example:

        found = revgraph.concepts.collect(analyzer, x, "conv3", "concepts.h5")
        revgraph.concepts.references(found, "conv3", [3, 12], analyzer, x).plot()
    """
    collection = opened(found)
    analyzer = collection.analyzer if analyzer is None else analyzer
    dataset = collection.dataset if dataset is None else dataset
    for what, given in (("analyzer", analyzer), ("dataset", dataset)):
        if given is None:
            raise TypeError(
                f"references needs the {what}, which the file {str(collection.path)!r} does not have: pass "
                f"references(found, layer, channels, analyzer, dataset), or what collect returned."
            )
    if not isinstance(analyzer, ReverseAnalyzer):
        raise TypeError(f"references takes an analyzer that walks backwards. Received: {analyzer!r}.")
    n = how_many(collection, n)
    if start not in (None, "output", "layer"):
        raise ValueError(f'start is "output", "layer" or None. Received: {start!r}.')
    start = start or ("output" if by == "relevance" else "layer")
    path, chosen = collection.path_of(layer), collection.channels(layer, channels)
    ranking = collection.ranking(path, by, of_class)
    collection.check_model(analyzer.model)
    if not collection.same_method(analyzer):
        warnings.warn(
            f"Samples were ranked by {collection.origin['method']!r}, and heat maps are made by {analyzer.name!r}"
            f"{' with other rules' if analyzer.name == collection.origin['method'] else ''}.",
            stacklevel=outside(),
        )
    places = {c: [(i, c) for i in range(min(n, len(ranking.samples))) if ranking.samples[i, c] >= 0] for c in chosen}
    wanted = {int(ranking.samples[place]) for each in places.values() for place in each}
    samples = samples_of(collection, dataset, analyzer.graph, wanted)
    maps = _Maps(collection, path, analyzer, start, unit, neuron_selection)
    rows = {}
    for channel, each in places.items():
        ids = [int(ranking.samples[place]) for place in each]
        positions = [tuple(ranking.positions[place].tolist()) for place in each]
        inputs = [np.stack([samples[i][k] for i in ids]) for k in range(len(analyzer.graph.input_slots))]
        relevance = keras.tree.flatten(maps.of(inputs, ids, channel, positions))
        rows[channel] = [
            Reference(
                ids[i],
                float(ranking.values[place]),
                positions[i],
                packed([x[i] for x in inputs], analyzer.graph),
                packed([r[i] for r in relevance], analyzer.graph),
                packed(maps.fields([x[i : i + 1] for x in inputs], positions[i]), analyzer.graph),
            )
            for i, place in enumerate(each)
        ]
    return References(path, by, rows)


class _Maps:
    """Heat maps and receptive fields of a layer's channels.

    Args:
        collection: Has the classes that were explained.
        path: The path of the layer.
        analyzer, start, unit, neuron_selection: See `references`.
    """

    def __init__(self, collection, path, analyzer, start, unit, neuron_selection):
        self.path, self.analyzer, self.start, self.unit = path, analyzer, start, unit
        self.classes = dict(zip(collection.index.tolist(), collection.classes.tolist(), strict=True))
        self.selection = neuron_selection
        self._fields: dict[Any, Fields] = {}
        self._boxes: dict[Any, Any] = {}

    def of(self, inputs, ids, channel, positions):
        """The relevance of the inputs, (samples, ...)."""
        x = packed(inputs, self.analyzer.graph)
        units = [(*p, channel) if self.unit else (*(slice(None) for _ in p), channel) for p in positions]
        if self.start == "layer":
            each = [
                self.analyzer.analyze(
                    packed([a[i : i + 1] for a in inputs], self.analyzer.graph), unit, layer=self.path
                )
                for i, unit in enumerate(units)
            ]
            return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *each)
        with warnings.catch_warnings():
            # A sample may have been ranked by a method under which the channel has relevance, and have none here.
            warnings.filterwarnings("ignore", message="No relevance arrives")
            conditions = [[{self.path: [unit]}] for unit in units]
            relevance = self.analyzer.analyze(x, self._selected(ids), conditions=conditions)
        return keras.tree.map_structure(lambda r: r[:, 0], relevance)

    def _selected(self, ids):
        """The classes that were explained, as a selection."""
        if self.selection is not None:
            return self.selection
        classes = [self.classes[i] for i in ids]
        if -1 in classes:
            raise ValueError(
                "No single class was explained for these samples, so the explanation has to be named again: pass "
                'neuron_selection=..., or start="layer".'
            )
        graph = self.analyzer.graph
        units = graph.specs[graph.output_slots[0]].shape[-1]
        return None if units == 1 else classes

    def fields(self, inputs, position):
        """The boxes of the receptive field of a position, one for each input."""
        sizes = tuple(x.shape for x in inputs)
        if sizes not in self._fields:
            analyzer = self.analyzer
            analyzer = analyzer.at(packed(inputs, analyzer.graph)) if hasattr(analyzer, "at") else analyzer
            (slot,) = analyzer.traced.find(self.path).outputs
            self._fields[sizes] = Fields(analyzer.traced, inputs, slot)
        if (sizes, position) not in self._boxes:
            self._boxes[sizes, position] = [box(mask)[1:] for mask in self._fields[sizes].of(position)]
        return self._boxes[sizes, position]


def samples_of(
    collection: Collection, dataset: Any, graph: Graph, wanted: Iterable[int]
) -> dict[int, list[np.ndarray]]:
    """Some samples of the dataset that was collected, as flat lists of inputs, by index.

    Args:
        collection: The collection.
        dataset: The dataset, as `collect` takes it.
        graph: The graph of the model.
        wanted: Indices of the samples.

    Raises:
        ValueError: The dataset is not the one that was collected.
    """
    if isinstance(dataset, str | os.PathLike):
        dataset = open_dataset(dataset, graph)
    known = dict(zip(collection.index.tolist(), collection.digests.tolist(), strict=True))
    rest, found = set(wanted), dict[int, list[np.ndarray]]()
    for batch in source(dataset, graph, BATCH_SIZE).batches():
        for row in np.flatnonzero(np.isin(batch.index, list(rest))):
            index, sample = int(batch.index[row]), [x[row] for x in batch.inputs]
            if digests([x[None] for x in sample], graph)[0] != known[index]:
                raise ValueError(
                    f"The dataset is not the one that was collected in {str(collection.path)!r}: sample {index} "
                    f"differs. It has to give the same samples in the same order, prepared in the same way."
                )
            found[index] = sample
            rest.discard(index)
        if not rest:
            return found
    raise ValueError(
        f"The dataset is not the one that was collected in {str(collection.path)!r}: it ends before sample {min(rest)}."
        f" A generator has to be made anew."
    )
