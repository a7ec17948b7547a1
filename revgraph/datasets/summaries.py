"""`summarize` and `to_dataframe`: relevance of many samples in a table."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.class_names import check_names, is_binary, predicted
from revgraph.datasets.results import Results
from revgraph.datasets.virelay import three_axes
from revgraph.extras import needed
from revgraph.graph.arguments import check_count
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike

if TYPE_CHECKING:
    from revgraph.reverse.pictures import Picture

ALL = "all"
"""The name of the only group, where samples are not told apart."""


@dataclasses.dataclass(frozen=True, eq=False)
class Summary(Tabular):
    """The mean relevance of each entry of the input over many samples, class by class.

    Args:
        classes: The name of each class that occurs; `"all"` where classes are not told apart.
        counts: How many samples each class has, (classes,).
        absolute: The mean absolute relevance: (classes, features) where a sample is a row of a table, otherwise
            (classes, channels, height, width), as in the files of ViRelAy. A series has one such channel.
        signed: The mean relevance, of the same shape.
        feature_names: Names of the entries, where a sample is a row of a table.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    absolute: np.ndarray
    signed: np.ndarray
    feature_names: tuple[str, ...] | None = None

    @property
    def is_tabular(self) -> bool:
        """Whether a sample is a row of a table."""
        return self.absolute.ndim == 2

    @property
    def overall(self) -> np.ndarray:
        """The mean absolute relevance of each entry over all samples."""
        return np.average(self.absolute, axis=0, weights=self.counts)

    def table(self) -> Table:
        """Features in the order of their mean absolute relevance; or classes, where samples are no rows of a table."""
        of = f"{int(self.counts.sum())} samples"
        if not self.is_tabular:
            axes = tuple(range(1, self.absolute.ndim))
            rows = zip(
                self.classes, map(int, self.counts), map(float, self.absolute.sum(axis=axes)),
                map(float, self.signed.sum(axis=axes)), strict=True,
            )  # fmt: skip
            return Table(("class", "samples", "mean sum of |relevance|", "mean sum"), rows, f"Relevance of {of}")
        order = np.argsort(-self.overall, kind="stable")
        several = self.classes if len(self.classes) > 1 else ()
        header = ("feature", "mean |relevance|", *several)
        rows_of_features = [
            (self._names[i], float(self.overall[i]), *map(float, self.absolute[:, i][: len(several)])) for i in order
        ]
        return Table(header, rows_of_features, f"Mean absolute relevance of {of}")

    @property
    def _names(self):
        return self.feature_names or tuple(f"feature {i}" for i in range(self.absolute.shape[1]))

    def to_dataframe(self) -> Any:
        """The mean absolute relevance as a table of pandas: a row for each feature, a column for each class.

        Raises:
            ImportError: pandas is missing.
            ValueError: Samples are no rows of a table.
        """
        if not self.is_tabular:
            raise ValueError(
                f"Only rows of a table have features by name. A sample has the shape {self.absolute.shape[1:]}: "
                f"`absolute` has the means."
            )
        pandas = needed("pandas", "to_dataframe")
        return pandas.DataFrame(self.absolute.T, index=list(self._names), columns=list(self.classes))

    def plot(self, top: int = 20, title: str | None = None) -> "Picture":
        """Draws the mean absolute relevance: bars of features, a map of features and classes, or a map of each class.

        Args:
            top: How many features are drawn at most, or how many classes where samples are no rows of a table.
            title: A title.

        Returns:
            A `Picture`, a matplotlib figure.
        """
        from revgraph.visualize import summaries

        check_count("top", top)
        return summaries.plot_summary(self, top, title)


def summarize(
    relevance: PathLike | Results | ArrayLike,
    by: Any = None,
    *,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 1024,
) -> Summary:
    """The mean relevance of each entry of the input over many samples.

    Args:
        relevance: The path of what `explain_dataset` wrote, which is read batch by batch; or an array (samples, ...).
        by: What tells samples apart: `"label"` or `"prediction"` of a file, or the class of each sample, (samples,)
            ints. By default all samples are taken together.
        feature_names: Names of the features, where a sample is a row of a table.
        class_names: Names of the classes. By default those in the file.
        batch_size: How many samples are read at once.

    Returns:
        A `Summary`, which prints as a table.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: The file has no labels, or no predictions.
        ValueError: Classes or names do not fit, there are no samples, or relevance is not finite.

    Example:

        revgraph.explain_dataset(analyzer, (x, y), "relevance.h5")
        print(revgraph.datasets.summarize("relevance.h5", by="label", feature_names=columns))
    """
    check_count("batch_size", batch_size)
    if isinstance(relevance, str | os.PathLike):
        relevance = Results(relevance)
    results = relevance if isinstance(relevance, Results) else None
    array = np.asarray(() if results else relevance)
    count = len(results.index) if results else len(array) if array.ndim > 1 else 0
    if not count:
        raise ValueError("There is nothing to summarize: pass relevance (samples, ...), or the path of a file with it.")
    if class_names is None and results is not None:
        class_names = _noted_names(by, results)
    groups = _groups(by, results, count, class_names)
    present = np.unique(groups)
    names = tuple(_named(int(g), class_names) for g in present) if by is not None else (ALL,)
    places = np.searchsorted(present, groups)
    counts = np.bincount(places)
    sums: Any = 0
    for first, batch in _batches(results, array, count, batch_size):
        batch = np.asarray(batch, np.float64)
        if not np.isfinite(batch).all():
            raise ValueError(f"Relevance is not finite in the samples {first} to {first + len(batch) - 1}.")
        found = np.zeros((2, len(present), *batch.shape[1:]))
        for total, values in zip(found, (np.abs(batch), batch), strict=True):
            np.add.at(total, places[first : first + len(batch)], values)
        sums = sums + found
    absolute, signed = (_rows(total / counts.reshape(-1, *(1,) * (total.ndim - 1))) for total in sums)
    if feature_names is not None and (absolute.ndim != 2 or len(feature_names) != absolute.shape[1]):
        raise ValueError(f"There are {len(feature_names)} feature names for samples of shape {absolute.shape[1:]}.")
    return Summary(names, counts, absolute, signed, None if feature_names is None else tuple(map(str, feature_names)))


def to_dataframe(
    relevance: ArrayLike, feature_names: Sequence[str] | None = None, index: Sequence[Any] | None = None
) -> Any:
    """Relevance of a table as a table of pandas: a row for each sample, a column for each feature.

    Args:
        relevance: Relevance (samples, features).
        feature_names: Names of the features.
        index: Names of the samples, such as the index of the table that was explained.

    Returns:
        A `pandas.DataFrame`.

    Raises:
        ImportError: pandas is missing.
        ValueError: Shapes do not fit.

    Example:

        revgraph.datasets.to_dataframe(analyzer.analyze(table.to_numpy(), 0), table.columns, table.index)
    """
    values = np.asarray(relevance)
    if values.ndim != 2:
        raise ValueError(f"Relevance of a table has the shape (samples, features). Received shape {values.shape}.")
    for name, given, length in (("feature_names", feature_names, values.shape[1]), ("index", index, len(values))):
        if given is not None and len(given) != length:
            raise ValueError(f"{name} has {len(given)} entries for {length}.")
    columns = feature_names if feature_names is not None else [f"feature {i}" for i in range(values.shape[1])]
    return needed("pandas", "to_dataframe").DataFrame(values, index=index, columns=list(columns))


def _noted_names(by, results):
    """The names of classes in a file. Those of directories need not be those of the outputs."""
    names, outputs = results.origin.get("class_names"), results.predictions
    if not (isinstance(by, str) and by == "prediction") or names is None or outputs is None:
        return names
    return names if len(names) == outputs.shape[1] or is_binary(names, outputs.shape[1]) else None


def _groups(by, results, count, class_names):
    """The class of each sample, (samples,); zeros where samples are not told apart."""
    if by is None:
        return np.zeros(count, np.int64)
    if isinstance(by, str):
        if by not in ("label", "prediction"):
            raise ValueError(f'by is "label", "prediction", the class of each sample, or None. Received: {by!r}.')
        if results is None:
            raise ValueError(f"by={by!r} is read from a file. For an array pass the class of each sample, (samples,).")
        found = results.labels if by == "label" else results.predictions
        if found is None:
            raise KeyError(f"{str(results.path)!r} has no {by}s. Pass the class of each sample, (samples,).")
        if by == "prediction":
            check_names(class_names, found.shape[1])
            if found.shape[1] == 1 and not is_binary(class_names, 1):
                raise ValueError(
                    "The model has one output, so its predictions are no classes. If it tells two classes apart, name "
                    "both: class_names=[...]."
                )
            by, _ = predicted(found, class_names)
        else:
            by = found if found.ndim == 1 else found.argmax(axis=1) if found.shape[1] > 1 else found[:, 0]
    groups = np.asarray(by)
    if groups.shape != (count,) or groups.dtype.kind not in "iub":
        raise ValueError(
            f"by has one whole number per sample, ({count},). Received: {groups.dtype}, shape {groups.shape}."
        )
    return groups.astype(np.int64)


def _named(group, class_names):
    if class_names is None:
        return f"class {group}"
    if not 0 <= group < len(class_names):
        raise ValueError(f"There are {len(class_names)} class names, and a sample of class {group}.")
    return str(class_names[group])


def _batches(results: Results | None, array: Any, count: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, count, size):
        rows = np.arange(first, min(first + size, count))
        if results is not None:
            yield first, results.attributions(rows)
        else:
            yield first, array[rows] if array.ndim == 2 else three_axes(array[rows], keras.config.image_data_format())


def _rows(means):
    """Means with the features of a table on one axis. Files have three axes for them."""
    return means.reshape(len(means), -1) if means.ndim == 4 and means.shape[1:3] == (1, 1) else means
