"""`Scores`: what a metric returns."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from revgraph.graph.arguments import check_count, check_seed
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scores(Tabular):
    """The scores of samples under one metric. It prints as a table.

    Args:
        metric: The name of the metric.
        analyzer: The name of the analyzer.
        values: The score of each sample, (samples,). NaN where the metric is not defined for the sample.
        higher_is_better: Whether a better explanation has a higher score.
        curve: What the scores were computed from, (samples, points); None where there is no curve.
        positions: The places of the points, (points,): numbers or names.
        xlabel: What the positions are.
    """

    metric: str
    analyzer: str
    values: np.ndarray
    higher_is_better: bool
    curve: np.ndarray | None = None
    positions: tuple[Any, ...] = ()
    xlabel: str = ""

    @property
    def mean(self) -> float:
        """The mean over the samples for which the metric is defined; NaN where there is none."""
        defined = self.values[np.isfinite(self.values)]
        return float(defined.mean()) if len(defined) else float("nan")

    def interval(self, level: float = 0.95, rounds: int = 1000, seed: int | None = 0) -> tuple[float, float]:
        """A bootstrap interval of the mean: samples are drawn again, with replacement.

        Args:
            level: The share of the means of drawn samples that lie inside.
            rounds: How often samples are drawn.
            seed: Seed of the draws.

        Returns:
            The lower and the upper end.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is a share between 0 and 1. Received: {level!r}.")
        check_count("rounds", rounds)
        check_seed(seed)
        defined = self.values[np.isfinite(self.values)]
        if not len(defined):
            return float("nan"), float("nan")
        drawn = np.random.default_rng(seed).integers(0, len(defined), (rounds, len(defined)))
        low, high = np.quantile(defined[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def table(self) -> Table:
        """The mean, its 95 % interval and the number of samples."""
        low, high = self.interval()
        better = "higher is better" if self.higher_is_better else "lower is better"
        undefined = int(np.sum(~np.isfinite(self.values)))
        note = f"; not defined for {undefined} of them" if undefined else ""
        row = (self.analyzer, self.mean, low, high)
        footer = f"{len(self.values)} samples{note}; {better}; the interval is a bootstrap over samples"
        return Table(("analyzer", self.metric, "from", "to"), [row], footer=footer)

    def plot(self) -> Any:
        """Draws the mean curve, or how scores are spread where there is no curve.

        Returns:
            A `Picture`, a matplotlib figure.
        """
        from revgraph.reverse.pictures import Picture

        picture = Picture(5, 3.2)
        axes = picture.subplots()
        if self.curve is None:
            axes.hist(self.values[np.isfinite(self.values)], bins=20, color="0.4")
            axes.set(xlabel=self.metric, ylabel="samples")
        else:
            places = np.arange(len(self.positions)) if isinstance(self.positions[0], str) else self.positions
            axes.plot(places, np.nanmean(self.curve, axis=0), color="tab:red")
            if isinstance(self.positions[0], str):
                axes.set_xticks(places, self.positions, rotation=90, fontsize="small")
            axes.set(xlabel=self.xlabel, ylabel=self.metric)
        axes.set_title(f"{self.analyzer}: {self.metric} {self.mean:.3g}")
        axes.spines[["top", "right"]].set_visible(False)
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Everything as lists, numbers and text, as JSON has them. What is not defined is None."""
        fields = dataclasses.asdict(self)
        fields.update(values=_plain(self.values), mean=_plain(self.mean), interval=_plain(self.interval()))
        fields["curve"] = None if self.curve is None else _plain(self.curve)
        fields["positions"] = [p.item() if isinstance(p, np.generic) else p for p in self.positions]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Scores":
        """The scores that `to_dict` wrote down.

        Args:
            fields: What `to_dict` returned.
        """
        fields = {f.name: fields[f.name] for f in dataclasses.fields(cls)}
        curve = None if fields["curve"] is None else np.asarray(fields["curve"], float)
        values = np.asarray(fields["values"], float)
        return cls(**{**fields, "values": values, "curve": curve, "positions": tuple(fields["positions"])})

    def save(self, path: PathLike) -> None:
        """Writes the scores to a file.

        Args:
            path: A name that ends in `.json` (everything) or `.csv` (one line per sample).

        Raises:
            ValueError: It has another ending.
        """
        path = Path(path)
        if path.suffix == ".json":
            path.write_text(json.dumps(self.to_dict(), indent=1))
        elif path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("sample", "analyzer", self.metric))
                writer.writerows((i, self.analyzer, float(value)) for i, value in enumerate(self.values))
        else:
            raise ValueError(f"Scores are saved as .json or .csv. Received: {str(path)!r}.")

    def __repr__(self) -> str:
        return f"<{self.metric} of {self.analyzer}: {self.mean:.4g} over {len(self.values)} samples>"


def _plain(values):
    """Numbers as lists, with None in place of those that are not finite, which JSON does not have."""
    found = np.asarray(values, float)
    plain = found.astype(object)
    plain[~np.isfinite(found)] = None
    return plain.tolist()
