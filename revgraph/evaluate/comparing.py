"""`compare`: several analyzers under several metrics, in one table and one figure."""

import csv
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.registry import create_analyzer
from revgraph.evaluate.explained import Channels, Explained, gathered
from revgraph.evaluate.functions import FunctionAnalyzer
from revgraph.evaluate.metric import Metric, named
from revgraph.evaluate.scores import Scores
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike, Tensors
from revgraph.read import load_model
from revgraph.saving.provenance import hash_of_weights, plain, versions

CAUTION = (
    "The ranks hold for this model and these samples. They do not say that the model is right, nor that an analyzer "
    "is best elsewhere. Differences within the intervals may be chance. Samples without some of their units are unlike "
    "those that the model was trained on."
)
"""What may not be concluded from a comparison."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Tabular):
    """Scores of analyzers under metrics. It prints as a table.

    Args:
        scores: For each analyzer a dict of `Scores` by metric.
    """

    scores: Mapping[str, Mapping[str, Scores]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return tuple(next(iter(self.scores.values())))

    @property
    def ranks(self) -> dict[str, dict[str, float]]:
        """The place of each analyzer under each metric: 1 is the best, equal means share the mean of their places."""
        places: dict[str, dict[str, float]] = {name: {} for name in self.scores}
        for metric in self.metrics:
            means = {name: row[metric].mean * (-1) ** row[metric].higher_is_better for name, row in self.scores.items()}
            for name, mean in means.items():
                better = sum(other < mean for other in means.values())
                equal = sum(other == mean for other in means.values())
                # A mean that is not defined has no place.
                places[name][metric] = float("nan") if np.isnan(mean) else better + (equal + 1) / 2
        return places

    @property
    def mean_ranks(self) -> dict[str, float]:
        """The mean place of each analyzer over the metrics under which it has one."""
        return {name: float(np.nanmean(list(row.values()))) for name, row in self.ranks.items()}

    def table(self) -> Table:
        """The mean of every analyzer under every metric with its 95 % interval, and the mean place."""
        places = self.mean_ranks
        ordered = sorted(self.scores, key=lambda name: places[name])
        header = ["analyzer", "mean place", *(_titled(self.scores[ordered[0]][m]) for m in self.metrics)]
        rows = [(name, places[name], *(_cell(self.scores[name][m]) for m in self.metrics)) for name in ordered]
        return Table(header, rows, footer=CAUTION)

    def plot(self) -> Any:
        """Draws analyzers by metrics. The colour is the place under the metric, the number is the mean.

        Returns:
            A `Picture`, a matplotlib figure.
        """
        from revgraph.reverse.pictures import Picture

        ranks, means = self.ranks, self.mean_ranks
        ordered = sorted(self.scores, key=lambda name: means[name])
        places = np.array([[ranks[name][metric] for metric in self.metrics] for name in ordered])
        picture = Picture(1.6 + 0.9 * len(self.metrics), 1.2 + 0.34 * len(ordered))
        axes = picture.subplots()
        axes.imshow(places, cmap="Blues_r", vmin=1, vmax=max(2, 1.4 * len(ordered)), aspect="auto")
        for i, name in enumerate(ordered):
            for j, metric in enumerate(self.metrics):
                dark = places[i, j] < 1 + 0.5 * len(ordered)
                mean = f"{self.scores[name][metric].mean:.2g}"
                axes.text(j, i, mean, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        arrows = [
            f"{m.replace('_', ' ')} {'↑' if self.scores[ordered[0]][m].higher_is_better else '↓'}" for m in self.metrics
        ]
        axes.set_xticks(range(len(arrows)), arrows, rotation=35, ha="right", fontsize=8)
        axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return picture

    def save(self, path: PathLike) -> None:
        """Writes the comparison to a file.

        Args:
            path: A name that ends in `.json` (everything) or `.csv` (one line per analyzer and metric).

        Raises:
            ValueError: It has another ending.
        """
        path = Path(path)
        if path.suffix == ".json":
            content = {name: {m: s.to_dict() for m, s in row.items()} for name, row in self.scores.items()}
            path.write_text(json.dumps({"scores": content, "versions": versions()}, indent=1))
        elif path.suffix == ".csv":
            ranks = self.ranks
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("analyzer", "metric", "mean", "from", "to", "place", "samples"))
                for name, row in self.scores.items():
                    for metric, s in row.items():
                        writer.writerow((name, metric, s.mean, *s.interval(), ranks[name][metric], len(s.values)))
        else:
            raise ValueError(f"A comparison is saved as .json or .csv. Received: {str(path)!r}.")

    @classmethod
    def load(cls, path: PathLike) -> "Comparison":
        """Reads a comparison that `save` wrote.

        Args:
            path: The JSON file.

        Raises:
            ValueError: It is no such file.
        """
        try:
            content = json.loads(Path(path).read_text())["scores"].items()
            return cls({name: {m: Scores.from_dict(s) for m, s in row.items()} for name, row in content})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} is no comparison that was saved as .json.") from error

    def __repr__(self) -> str:
        return f"<comparison of {len(self.scores)} analyzers under {len(self.metrics)} metrics>"


def _titled(scores):
    return f"{scores.metric.replace('_', ' ')} ({'higher' if scores.higher_is_better else 'lower'})"


def _cell(scores):
    low, high = scores.interval()
    return f"{scores.mean:.3g} [{low:.3g}, {high:.3g}]"


def compare(
    model: Any,
    x: Tensors,
    y: ArrayLike | None = None,
    *,
    analyzers: Sequence[str | Analyzer | Callable[..., Any]] | Mapping[str, str | Analyzer | Callable[..., Any]],
    metrics: Sequence[str | Metric] | Mapping[str, str | Metric] = (
        "relevance_gain",
        "parameter_randomisation",
        "entropy",
    ),
    truth: Any = None,
    batch_size: int = 32,
    channel_axis: Channels = -1,
    verbose: int = 0,
    inputs: Sequence[str] | None = None,
    out: PathLike | None = None,
) -> Comparison:
    """Measures several analyzers under several metrics.

    Args:
        model: A Keras model, or what else `create_analyzer` takes.
        x: Samples, in the structure in which the model takes them; texts for a model with a preprocessor; or a dataset
            or generator of batches, which is read into memory.
        y: The class that is explained: an int, or (samples,) ints. By default the labels of a dataset, unless they
            are floating numbers, or else the class with the largest output. A model with one output has the classes
            0 and 1, and without y its output is explained.
        analyzers: Names of analyzers, analyzers of the same model, or functions as `FunctionAnalyzer` takes them; or a
            dict of these by the names in the table.
        metrics: Names of metrics, or metrics; or a dict of these by the names in the table.
        truth: True at the entries that decide, (samples, ...), for metrics that compare with it. With several inputs
            a dict by their names.
        batch_size: Samples computed at once.
        channel_axis: The axis whose entries are one unit; see `Metric`.
        verbose: 1 shows progress.
        inputs: The names of the inputs that are changed and compared; see `Metric`.
        out: A JSON file in which scores are kept as they are found. If a run was interrupted, the same call goes on
            from there. Scores of another model, of other samples or of other options are not taken. Scores that depend
            on a function, such as a baseline, are computed again.

    Returns:
        A `Comparison`, which prints as a table and has `plot` and `save`.

    Raises:
        KeyError: There is no analyzer or no metric of a name.
        TypeError: An entry is neither a name nor an analyzer nor a function.
        ValueError: Two entries have the same name, an analyzer is one of another model, an argument does not fit the
            data, or `out` is no such file.

    Example:

        result = compare(model, x, y, analyzers=["gradient", "lrp.epsilon"], metrics=["deletion", "entropy"])
        print(result)
        result.plot().savefig("comparison.png")
    """
    model = load_model(model) if isinstance(model, str | os.PathLike) else model
    made = {
        label: _analyzer(each, model, label)
        for label, each in _labelled(analyzers, lambda each: getattr(each, "name", getattr(each, "__name__", each)))
    }
    weights = hash_of_weights(model)
    for label, each in made.items():
        if each.model is not model and hash_of_weights(each.model) != weights:
            raise ValueError(f"{label!r} is an analyzer of another model. Make it of the model that is compared on.")
    measures = {label: named(each) for label, each in _labelled(metrics, lambda each: named(each).name)}
    if truth is None and any(metric.compares_with_truth for metric in measures.values()):
        needing = ", ".join(repr(label) for label, metric in measures.items() if metric.compares_with_truth)
        raise ValueError(f"{needing} compare with the truth: pass truth=, True at the entries that decide.")
    x, y = gathered(x, y)
    kept = _Kept(out, _key(weights, x, y, truth, channel_axis, inputs))
    scores: dict[str, dict[str, Scores]] = {}
    for label, analyzer in made.items():
        explained = None
        scores[label] = {}
        for metric_label, metric in measures.items():
            asked = label, _options(analyzer), metric_label, _options(metric)
            found = kept.get(asked)
            if found is None:
                if verbose:
                    print(f"{label}: {metric_label}")
                explained = explained or Explained(
                    analyzer, x, y, truth, None, batch_size, channel_axis, verbose, inputs
                )
                found = dataclasses.replace(metric.of(explained), analyzer=label, metric=metric_label)
                kept.put(asked, found)
            scores[label][metric_label] = found
    return Comparison(scores)


def _analyzer(given, model, label):
    if isinstance(given, str):
        return create_analyzer(given, model)
    if isinstance(given, Analyzer):
        return given
    if callable(given) and not isinstance(given, keras.Model):
        return FunctionAnalyzer(model, given, label)
    raise TypeError(
        f"An analyzer is a name such as 'lrp.epsilon', an analyzer, or a function of the model, samples and classes "
        f"that returns relevance. Received: {given!r}."
    )


def _labelled(given, name_of):
    """Pairs of a name and what it stands for."""
    if isinstance(given, str) or not isinstance(given, Sequence | Mapping) or not given:
        raise ValueError(f"analyzers and metrics are lists, or dicts by name, of one or more. Received: {given!r}.")
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name_of(each), each) for each in given]
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice. Give the two names of their own, in a dict.")
    return pairs


def _options(value):
    """The options of an analyzer or of a metric as JSON has them; None where one of them cannot be written down."""
    if isinstance(value, Metric):
        options = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        options = value.config()
    inner = [_options(part) for part in options.values() if isinstance(part, Analyzer)]
    options = {n: v for n, v in options.items() if n != "model" and not isinstance(v, Analyzer)}
    if None in inner or any(callable(v) or isinstance(v, keras.Model) for v in options.values()):
        return None
    return [type(value).__name__, plain(options), inner]


def _key(weights, x, y, truth, channel_axis, inputs):
    """What says that samples and model are the same."""
    digest = hashlib.sha256(f"{weights}{channel_axis}{inputs}".encode())
    for part in (x, y, truth):
        digest.update(str(sorted(part) if isinstance(part, Mapping) else "").encode())
        for each in keras.tree.flatten(part):
            values = np.asarray(each)
            # Texts are hashed as such, because an array of objects holds addresses.
            values = values.astype(str) if values.dtype.kind in "OSU" else values
            digest.update(f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


class _Kept:
    """The scores that a file keeps."""

    def __init__(self, path, key):
        self.path, self.key = None if path is None else Path(path), key
        self.found: dict[str, Any] = {}
        if self.path is None or not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text())
            kept = content["key"], dict(content["found"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self.path)!r} does not keep scores of a comparison. Choose another out=."
            ) from error
        if kept[0] != key:
            raise ValueError(
                f"{str(self.path)!r} keeps scores of another model or of other samples. Choose another out=, or delete "
                f"the file."
            )
        self.found = kept[1]

    def get(self, asked):
        # Two functions may have one name, so scores that depend on a function are computed again.
        if None in asked:
            return None
        fields = self.found.get(json.dumps(asked))
        return None if fields is None else Scores.from_dict(fields)

    def put(self, asked, scores):
        if None in asked:
            return
        self.found[json.dumps(asked)] = scores.to_dict()
        if self.path is not None:
            beside = self.path.with_suffix(self.path.suffix + ".part")
            beside.write_text(json.dumps({"key": self.key, "found": self.found}))
            beside.replace(self.path)
