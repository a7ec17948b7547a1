"""A background: several references for each input, and the mean relevance beside all of them."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from revgraph.analyzers.analyzer import Analyzer, Unsupported
from revgraph.analyzers.completeness import by_completeness
from revgraph.analyzers.inputs import flat_inputs
from revgraph.analyzers.recorded import RecordedPass
from revgraph.analyzers.reference import FROM_ZERO, SAME
from revgraph.analyzers.wrappers import AugmentReduceBase
from revgraph.graph import Graph
from revgraph.graph.lookups import held
from revgraph.graph.types import PathLike, Relevance, Selection, Tensors
from revgraph.reverse.ledger import Conservation

Compared = TypeVar("Compared", bound=Analyzer)


class Background(Analyzer):
    """What analyzers have in common that compare with a reference, or with each sample of a background.

    Relevance beside a background is the mean of the relevance beside each of its samples, and adds up to f(x) less the
    mean output of the background.
    """

    reference_inputs: Tensors
    background: list[np.ndarray] | None = None

    def analyze(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> Relevance:
        """See `ReverseAnalyzer.analyze`. With a background the mean over its samples."""
        if self.background is None:
            return super().analyze(X, neuron_selection, batch_size, verbose, **options)
        return MeanOverBackground(self, self.background).analyze(X, neuron_selection, batch_size, verbose, **options)

    def conservation(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> Conservation:
        """Completeness: how far contributions are from adding up to the output's difference from the reference's."""
        if self.background is None:
            return super().conservation(X, neuron_selection, batch_size, verbose, **start)
        return by_completeness(self, X, neuron_selection, batch_size, verbose, start)

    def record(self, X: Tensors) -> RecordedPass:
        """See `ReverseAnalyzer.record`; not with a background."""
        self._refuse_background("record")
        return super().record(X)

    def export(self, path: PathLike, version: int | None = None, overwrite: bool = False) -> Path:
        """See `Analyzer.export`; not with a background."""
        self._refuse_background("export")
        return super().export(path, version, overwrite)

    def _refuse_background(self, asked):
        if self.background is not None:
            raise Unsupported(
                f"{asked} takes one reference, and {self.name!r} was made with a background of "
                f"{len(self.background[0])}. Make it with reference_inputs= for that, or call analyze."
            )


class MeanOverBackground(AugmentReduceBase):
    """The mean relevance beside each sample of a background.

    Args:
        subanalyzer: The analyzer that compares with a reference.
        background: Flat list of arrays (references, ...).
    """

    name = "mean_over_background"

    def __init__(self, subanalyzer: Background, background: list[np.ndarray]) -> None:
        super().__init__(subanalyzer, len(background[0]))
        self.background = background

    def _analyzer_of(self, steps, count):
        return beside(
            self.subanalyzer, [np.repeat(part[steps.start : steps.stop], count, 0) for part in self.background]
        )


def beside(analyzer: Compared, rows: list[np.ndarray]) -> Compared:
    """The same analyzer with other references, which are arrays (batch, ...) in flat order, and no background."""
    twin: Any = copy.copy(analyzer)
    masks = held(analyzer.graph)
    named = zip(analyzer.graph.input_names, rows, strict=True)
    twin.reference_inputs = {name: SAME if name in masks else part for name, part in named}
    twin.background = None
    return twin


def background_of(background: Tensors, graph: Graph) -> list[np.ndarray]:
    """A background as flat arrays (references, ...), checked.

    Args:
        background: Array (references, ...), or the structure of them that the model takes.
        graph: The model's graph.

    Raises:
        TypeError: Not numbers.
        ValueError: Wrong number of inputs, wrong shape, or no samples.
    """
    return [np.asarray(part) for part in flat_inputs(background, graph)]


def one_reference(background: Tensors | None, reference_inputs: Tensors) -> Tensors:
    """The reference with which an analyzer is built, whatever it is compared with later.

    Raises:
        TypeError: There are a reference and a background.
    """
    if background is None:
        return reference_inputs
    if not (isinstance(reference_inputs, str) and reference_inputs == FROM_ZERO):
        raise TypeError(
            "reference_inputs and background exclude each other. reference_inputs has one reference for each sample. "
            "background has several, and every sample is compared with each of them."
        )
    return 0
