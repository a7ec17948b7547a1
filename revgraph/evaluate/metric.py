"""`Metric`: a number per sample that says how good an explanation is."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.evaluate.explained import Explained
from revgraph.evaluate.scores import Scores

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
        x: ArrayLike,
        y: ArrayLike | None = None,
        *,
        truth: ArrayLike | None = None,
        relevance: ArrayLike | None = None,
        batch_size: int = 32,
        channel_axis: int | None = -1,
        verbose: int = 0,
    ) -> Scores:
        """Computes the score of every sample.

        Args:
            analyzer: The analyzer whose explanations are measured.
            x: The samples, (samples, ...).
            y: The class that is explained: an int, or (samples,) ints. By default the class with the largest output.
            truth: True at the entries that decide, (samples, ...), for metrics that compare with it.
            relevance: Relevance of x, if it is known already, of the shape of x or without its channels.
            batch_size: Samples computed at once.
            channel_axis: The axis whose entries are one unit, such as the colours of a pixel; None if each entry is a
                unit of its own.
            verbose: 1 shows a progress bar.

        Returns:
            `Scores`, which print as a table.

        Raises:
            TypeError: No analyzer, or a model of several inputs.
            ValueError: A shape does not fit, a label is out of range, or the metric does not fit the data.
        """
        return self.of(Explained(analyzer, x, y, truth, relevance, batch_size, channel_axis, verbose))

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
