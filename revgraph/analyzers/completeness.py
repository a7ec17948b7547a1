"""Completeness: contributions that add up to the difference of an output from a reference's."""

from typing import Any

import keras
import numpy as np

from revgraph.analyzers.analyzer import Analyzer
from revgraph.graph.types import Selection, Tensors
from revgraph.reverse.ledger import Conservation, completeness


def by_completeness(
    analyzer: Analyzer,
    X: Tensors,
    neuron_selection: Selection,
    batch_size: int | None,
    verbose: int,
    start: dict[str, Any],
) -> Conservation:
    """The ledger of an analyzer whose contributions add up to the output's difference from a reference's.

    Args:
        analyzer: The analyzer.
        X, neuron_selection, batch_size, verbose, start: See `ReverseAnalyzer.conservation`.
    """
    if "return_layers" in start or "return_convergence_delta" in start:
        raise TypeError("conservation does not take return_layers and return_convergence_delta, `analyze` does.")
    relevance, gap = analyzer.analyze(X, neuron_selection, batch_size, verbose, return_convergence_delta=True, **start)
    if gap.ndim > 1:
        raise ValueError(
            "conservation follows one target per sample, under one condition. Ask for several one by one, such as "
            "neuron_selection=targets[:, 0] or conditions=conditions[0]."
        )
    masked: np.ndarray | float = 0.0
    if start.get("conditions") is not None:
        open_ways = {name: value for name, value in start.items() if name not in ("conditions", "around")}
        _, rest = analyzer.analyze(X, neuron_selection, batch_size, return_convergence_delta=True, **open_ways)
        masked = gap - rest
    return completeness(keras.tree.flatten(relevance), gap, masked)
