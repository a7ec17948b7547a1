"""`relevance`: how much each channel of a layer counts for a prediction."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from revgraph.analyzers import Analyzer
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import Selection, Tensors

TOP = 10
"""How many channels tables and pictures show."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelRelevance(Tabular):
    """How much relevance each channel of a layer has.

    It prints as a table of the channels that have most of it. `a - b` is the contrast of two of them, such as those of
    two classes. `found[3]` is that of one sample, `found[:8]` that of several.

    Args:
        layer: The layer.
        values: Relevance of every channel, summed over positions, an array (batch, channels). For several targets or
            conditions (batch, targets, channels).

    Example:

        found = revgraph.concepts.relevance(analyzer, x, "conv3", 3)
        print(found)
        found.plot()
        found.top(4)[0]  # the four channels that speak most for the class, of the first sample
    """

    layer: str
    values: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Relevance over the sum of its absolute values, of the shape of `values`. 0 where there is no relevance."""
        return shares(self.values)

    def ranking(self) -> np.ndarray:
        """The channels from the one of largest relevance to the one of least, ints of the shape of `values`."""
        return np.argsort(-self.values, axis=-1, kind="stable")

    def top(self, n: int = TOP) -> np.ndarray:
        """The n channels of largest relevance, ints (batch, n)."""
        return self.ranking()[..., :n]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, samples: int | slice | Sequence[int] | np.ndarray) -> "ChannelRelevance":
        return ChannelRelevance(
            self.layer, self.values[[samples] if isinstance(samples, int | np.integer) else samples]
        )

    def __sub__(self, other: "ChannelRelevance") -> "ChannelRelevance":
        if not isinstance(other, ChannelRelevance):
            return NotImplemented
        if self.layer != other.layer or self.values.shape != other.values.shape:
            raise ValueError(
                f"A contrast is between two results for the same layer and the same samples. Received: {self!r} and "
                f"{other!r}."
            )
        return ChannelRelevance(self.layer, self.values - other.values)

    def table(self, n: int = TOP) -> Table:
        """The n channels of largest absolute relevance, from the most positive one: means over the samples."""
        values, parts = (each.reshape(-1, each.shape[-1]).mean(axis=0) for each in (self.values, self.shares))
        rows = [(int(c), float(values[c]), 100 * float(parts[c])) for c in self._shown(values, n)]
        rest = len(values) - len(rows)
        count = int(np.prod(self.values.shape[:-1]))
        return Table(
            ("channel", "relevance", "share %"),
            rows,
            title=f"Relevance of the channels of {self.layer!r}, {self._of(count)}",
            footer=f"{rest} more channels have less." if rest else None,
        )

    def plot(self, n: int = TOP, sample: int | None = None) -> Any:
        """Draws the n channels of largest absolute relevance as bars.

        Args:
            n: How many channels.
            sample: Which sample; the mean of all by default.

        Returns:
            A `Picture`, a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from revgraph.reverse.pictures import Picture

        drawn = self if sample is None else self[sample]
        parts = 100 * drawn.shares.reshape(-1, drawn.values.shape[-1]).mean(axis=0)
        shown = drawn._shown(parts, n)
        rows = np.arange(len(shown))
        picture = Picture(5, 0.9 + 0.28 * max(len(shown), 3))
        axes = picture.subplots()
        axes.barh(rows, parts[shown], color=np.where(parts[shown] < 0, "#0072b2", "#d55e00"), height=0.75)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set(yticks=rows, ylim=(len(shown) - 0.4, -0.6))
        axes.set_yticklabels([str(c) for c in shown], fontsize=8)
        axes.set_ylabel("channel", fontsize=9)
        axes.set_xlabel("share of the absolute relevance, %", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        count = int(np.prod(drawn.values.shape[:-1]))
        axes.set_title(f"{self.layer}, {self._of(count)}", fontsize=10, loc="left")
        return picture

    def _shown(self, values, n):
        largest = np.argsort(-np.abs(values), kind="stable")[:n]
        return largest[np.argsort(-values[largest], kind="stable")]

    def _of(self, count):
        return "1 sample" if count == 1 else f"means of {count}"

    def __repr__(self) -> str:
        return f"<ChannelRelevance of {self.layer!r}: {' x '.join(map(str, self.values.shape))}>"


def shares(values: np.ndarray) -> np.ndarray:
    """Relevance over the sum of its absolute values along the last axis. 0 where there is no relevance."""
    total = np.abs(values).sum(axis=-1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)


def relevance(
    analyzer: Analyzer,
    x: Tensors,
    layer: str | keras.Layer,
    neuron_selection: Selection = None,
    batch_size: int | None = None,
    verbose: int = 0,
    **options: Any,
) -> ChannelRelevance:
    """The relevance of each channel of a layer, summed over positions.  [Achtibat et al., 2023]

        R_c = sum over positions p of R_{p, c}

    where R is the relevance at the output of the layer, and channels are its last axis. For the heads of an attention
    see `analyzer.attentions`.

    Args:
        analyzer: An analyzer that walks backwards, such as any LRP.
        x: Inputs; see `Analyzer.analyze`.
        layer: Name or path of the layer, or the layer.
        neuron_selection: What is explained; see `ReverseAnalyzer.analyze`. A function such as
            `lambda y: y[:, 3] - y[:, 5]` explains the contrast of two classes.
        batch_size, verbose: See `Analyzer.analyze`.
        **options: `initial_relevance`, `conditions` and `around` of `ReverseAnalyzer.analyze`.

    Returns:
        A `ChannelRelevance`, which prints as a table and has a `plot`.

    Raises:
        KeyError: Unknown or ambiguous layer.
        TypeError: The analyzer has no relevance of layers.
        ValueError: The layer has several outputs, or no channels; see `ReverseAnalyzer.analyze` for other reasons.

    Example:

        print(revgraph.concepts.relevance(analyzer, x, "block5_conv3", 3))
    """
    if not isinstance(layer, str | keras.Layer):
        raise TypeError(f"relevance is that of one layer: its name, its path, or the layer. Received: {layer!r}.")
    _, _, found = of_layers(analyzer, x, [layer], neuron_selection, batch_size, verbose, **options)
    ((name, values),) = found.items()
    return ChannelRelevance(name, values)


def of_layers(
    analyzer: Analyzer,
    x: Tensors,
    layers: Sequence[str | keras.Layer],
    neuron_selection: Selection = None,
    batch_size: int | None = None,
    verbose: int = 0,
    **options: Any,
) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    """Relevance of the inputs, at the start, and of the channels of several layers.

    Args:
        layers: The layers.
        analyzer, x, neuron_selection, batch_size, verbose, **options: See `relevance`.

    Returns:
        What `analyze` returns; the relevance that started, (batch,); and by layer an array (batch, channels). For
        several targets or conditions there is an axis for them behind the batch.
    """
    for name in ("return_layers", "layers_at", "return_convergence_delta"):
        if name in options:
            raise TypeError(f"The relevance of channels does not take {name!r}, which `analyze` does.")
    relevance, found, delta = analyzer.analyze(
        x,
        neuron_selection,
        batch_size,
        verbose,
        return_layers=list(layers),
        layers_at="output",
        return_convergence_delta=True,
        **options,
    )
    arrived = sum(r.sum(axis=tuple(range(delta.ndim, r.ndim))) for r in keras.tree.flatten(relevance))
    return relevance, delta + arrived, {name: _summed(name, r, delta.shape) for name, r in found.items()}


def _summed(layer, relevance, leading):
    """The sum over positions of an array (batch, targets, ..., channels), whose first axes are the leading ones."""
    if isinstance(relevance, list):
        raise ValueError(
            f"{layer!r} has {len(relevance)} outputs, and concepts are the channels of one: name the layer that makes "
            f"it."
        )
    if relevance.ndim <= len(leading):
        raise ValueError(f"{layer!r} has no channels: its output has no axis behind that of the samples.")
    # Where a layer is applied at every time step, the first axis is the batch times steps.
    batch, *others = leading
    rows = relevance.reshape(batch, -1, *others, int(np.prod(relevance.shape[len(leading) : -1])), relevance.shape[-1])
    return rows.sum(axis=(1, -2))
