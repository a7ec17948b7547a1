"""`Metric`: a number per sample that says how good an explanation is."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.evaluate.explained import Channels, Explained
from revgraph.evaluate.scores import Scores
from revgraph.graph.types import Tensors

METRICS: dict[str, type["Metric"]] = {}
"""All metrics by their names."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number per sample that says how good an explanation is. A subclass has one formula, `values`.

    Example:

        scores = evaluate.Deletion(steps=10)(analyzer, x, y)
        print(scores, scores.mean)
    """

    name: ClassVar[str] = "metric"
    higher_is_better: ClassVar[bool] = True
    compares_with_truth: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            METRICS[cls.name] = cls

    def __call__(
        self,
        analyzer: Analyzer,
        x: Tensors,
        y: ArrayLike | None = None,
        *,
        truth: Any = None,
        relevance: Any = None,
        batch_size: int = 32,
        channel_axis: Channels = -1,
        verbose: int = 0,
        inputs: Sequence[str] | None = None,
    ) -> Scores:
        """Computes the score of every sample.

        Args:
            analyzer: The analyzer whose explanations are measured.
            x: The samples, (samples, ...), in the structure in which the model takes them; texts for a model with a
                preprocessor; or a dataset or generator of batches, which is read into memory.
            y: The class that is explained: an int, or (samples,) ints. By default the labels of a dataset, unless
                they are floating numbers, or else the class with the largest output. A model with one output has
                the classes 0 and 1, and without y its output is explained.
            truth: True at the entries that decide, (samples, ...), for metrics that compare with it. With several
                inputs a dict by their names.
            relevance: Relevance of x, if it is known already, of the shape of x or without its channels.
            batch_size: Samples computed at once.
            channel_axis: The axis whose entries are one unit, such as the colours of a pixel; None if each entry is a
                unit of its own. With several inputs it may be a dict by their names.
            verbose: 1 shows a progress bar.
            inputs: The names of the inputs that are changed and compared. By default these are all but masks, and for
                a model with a tokenizer those that hold tokens. The other inputs stay as they are.

        Returns:
            `Scores`, which print as a table.

        Raises:
            TypeError: No analyzer, or a model of several outputs.
            ValueError: A shape does not fit, a label is out of range, or the metric does not fit the data.
        """
        return self.of(Explained(analyzer, x, y, truth, relevance, batch_size, channel_axis, verbose, inputs))

    def of(self, explained: Explained) -> Scores:
        """The scores of samples that are explained already."""
        found = self.values(explained)
        values, curve, positions, label = found if isinstance(found, tuple) else (found, None, (), "")
        return Scores(
            self.name,
            explained.analyzer.name,
            np.asarray(values, float),
            self.higher_is_better,
            curve,
            positions,
            label,
        )

    def values(self, explained: Explained) -> Any:
        """The score of every sample, (samples,), or a tuple of them, a curve, its positions and what these are."""
        raise NotImplementedError


def named(metric: "str | Metric | type[Metric]") -> Metric:
    """A metric by its name, or as it is.

    Raises:
        KeyError: There is no metric of this name.
        TypeError: It is no metric.
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise KeyError(f"There is no metric {metric!r}. The metrics are {', '.join(map(repr, METRICS))}.")
        return METRICS[metric]()
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if not isinstance(metric, Metric):
        raise TypeError(f"A metric is a name such as 'deletion', or a value such as Deletion(). Received: {metric!r}.")
    return metric
