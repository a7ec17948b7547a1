"""`Album`: results of one dataset, side by side. It says what a page shows, and knows nothing of widgets."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.class_names import check_names, is_binary
from revgraph.concepts.collection import Collection, opened
from revgraph.concepts.reference_samples import Reference, References
from revgraph.graph.tables import Table
from revgraph.graph.types import PathLike
from revgraph.reverse.pictures import Picture
from revgraph.viewer.look import Look
from revgraph.viewer.stored import Inputs, Stored, check_same_dataset, names_of
from revgraph.visualize import plot, plot_grid, plot_references, text
from revgraph.visualize.heatmaps import reduced
from revgraph.visualize.kinds import KINDS
from revgraph.visualize.shapes import check_batch
from revgraph.visualize.volumes import most_relevant

SLICES = 8
"""So many slices of a volume are drawn at most: of each of so many equal parts the one with most relevance."""

TOKENS = "tokens"
"""The kind of samples that are ids of tokens. No number of axes says it: a table has as many."""

CHANNELS, REFERENCES = 4, 6
"""How many channels are shown of a layer, and how many samples of each."""


class Album:
    """Results of one dataset, side by side: which samples there are, and what is shown of each.

    Of relevance and inputs, only the samples that are shown are read. Predictions are read once, in blocks.

    Args:
        paths: What `explain_dataset` wrote, of one dataset: a path, or several.
        inputs: The inputs of all samples of the dataset, where they were not written with the results: an array, the
            path of a `.npy` file, or of an HDF5 file with `data` as ViRelAy has it. Of a model with several inputs, a
            dict by their names.
        concepts: What `revgraph.concepts.collect` wrote of the same model and dataset, or its path.
        class_names: Names of the classes; see `revgraph.visualize.plot`. By default those that were noted with the
            results.
        kind: `"images"`, `"series"` or `"tokens"`, where the number of axes does not say what samples are; see `plot`.
            Tokens are ids, (tokens,), which stand in their order and not in that of their relevance.

    Attributes:
        index: Indices in the dataset of the samples that all results have, int64 (samples,).
        methods: The names of the results.
        class_names: Names of the classes, or None.
        notes: Sentences on what cannot be shown, and why.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The files are no results, or not of one dataset; or the inputs, names or concepts do not fit.
    """

    def __init__(
        self,
        paths: PathLike | Sequence[PathLike],
        inputs: Any = None,
        concepts: PathLike | Collection | None = None,
        class_names: Sequence[str] | None = None,
        kind: str | None = None,
    ):
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not paths:
            raise ValueError("There is nothing to show: name at least one output of explain_dataset.")
        every = [Stored(path) for path in paths]
        self._stored = dict(zip(names_of(every), every, strict=True))
        self._first = every[0]
        self.methods = tuple(self._stored)
        self.index = functools.reduce(np.intersect1d, (stored.index for stored in every))
        for other in every[1:]:
            check_same_dataset(self._first, other, self.index)
        self._kind = kind
        self._check_kind()
        # Inputs that were written are taken from the first results that have them.
        having = [stored for stored in every if stored.inputs([]) is not None]
        self._inputs: Any = Inputs(inputs, self._first) if inputs is not None else next(iter(having), None)
        self.concepts = None if concepts is None else opened(concepts)
        if self.concepts is not None and self.concepts.origin["model_sha256"] != self._first.origin["model_sha256"]:
            raise ValueError(
                f"{str(self.concepts.path)!r} was collected from another model than {str(self._first.path)!r} has: "
                f"the hash of its weights is another one. Collect concepts of the model that is explained."
            )
        self.notes: list[str] = []
        self._read_classes(class_names)
        left_out = len(functools.reduce(np.union1d, (stored.index for stored in every))) - len(self.index)
        if left_out:
            self.notes.append(f"Left out are {left_out} samples that some of the results do not have.")
        if self._inputs is None:
            self.notes.append(
                "The inputs were not written, so relevance is shown alone. Write them (--with-inputs of "
                "explain-dataset, inputs=True of HDF5 and the other sinks), or name them (--inputs)."
            )

    def _read_classes(self, class_names):
        """Labels and predicted classes of all samples, and their names."""
        first = self._first
        rows = first.rows(self.index)
        noted = first.origin.get("class_names", [])
        self.class_names = list(class_names or noted) or None
        units = first.units
        if class_names is not None:
            check_names(class_names, units)
        # Directories may have names that are not those of the outputs.
        comparable = class_names is not None or len(noted) in (0, units) or is_binary(noted, units)
        self._output_names = self.class_names if comparable else None
        self._labels = None if first.labels is None else first.labels[rows]
        chosen = first.predicted(self._output_names)
        self._predicted = None if chosen is None else chosen[rows]
        self._wrong = _wrong(self._labels, self._predicted) if comparable else None
        if not comparable:
            self.notes.append(
                f"The {len(noted)} directories of the dataset are not the {units} outputs of the model, so labels are "
                f"not compared with predictions. Name the outputs (--classes)."
            )
        elif self._predicted is None and units == 1:
            self.notes.append("The model has one output. If it tells two classes apart, name both (--classes).")
        elif self._wrong is not None and not self._wrong.any():
            self.notes.append(
                "No label differs from its prediction: the model is right on all samples, or the dataset has no labels."
            )

    def _check_kind(self):
        found = self._first.results.relevance(self._first.rows([]))
        shapes = {name: (len(self.index), *value.shape[1:]) for name, value in found.items()}
        if self._kind not in (None, "images", "series", TOKENS):
            raise ValueError(f'kind is "images", "series" or None, or "tokens" for ids. Received: {self._kind!r}.')
        if self._kind is not None and self._kind not in [self._kind_of(len(shape)) for shape in shapes.values()]:
            raise ValueError(f"kind={self._kind!r} does not fit relevance of the shapes {list(shapes.values())}.")
        for name, shape in shapes.items():
            if len(shape) not in (2, 3, 4, 5):
                raise ValueError(
                    f"Images, series, tables and volumes can be shown. The relevance of {name or 'the input'} in "
                    f"{str(self._first.path)!r} has the shape {shape}."
                )
            if len(shape) < 5 and self._kind_of(len(shape)) != TOKENS:
                check_batch(shape, self._kind_of(len(shape)) if self._kind or len(shape) != 3 else None, True)

    def _kind_of(self, axes):
        """The kind of samples whose batches have so many axes."""
        ranks: tuple[int, ...] = ()
        if self._kind is not None:
            ranks = (2,) if self._kind == TOKENS else (KINDS[self._kind].rank, KINDS[self._kind].rank - 1)
        return self._kind if axes in ranks else {made.rank: name for name, made in KINDS.items()}.get(axes)

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that samples have as labels; none if labels are no classes."""
        return _classes(self._labels)

    @property
    def predictions(self) -> tuple[int, ...]:
        """The classes that are predicted; none if that is not known."""
        return _classes(self._predicted)

    @property
    def knows_wrong(self) -> bool:
        """Whether predictions can be compared with labels."""
        return self._wrong is not None

    def name_of(self, number: int) -> str:
        """The name of a class, or its number."""
        names = self.class_names
        return f"{names[number]} ({number})" if names is not None and number < len(names) else str(number)

    def find(self, label: int | None = None, prediction: int | None = None, wrong: bool = False) -> np.ndarray:
        """Samples that fit.

        Args:
            label: Only samples of this class. A sample may be of several.
            prediction: Only samples for which this class is predicted.
            wrong: Only samples whose prediction is not their label.

        Returns:
            Their indices in the dataset, in ascending order.

        Raises:
            ValueError: There are no labels or predictions to compare.
        """
        found = np.ones(len(self.index), bool)
        for name, asked, known in (("label", label, self.labels), ("prediction", prediction, self.predictions)):
            if asked is not None and asked not in known:
                raise ValueError(
                    f"No sample has the {name} {asked!r}. There are: {', '.join(map(str, known)) or 'none'}."
                )
        if label is not None and self._labels is not None:
            found &= self._labels == label if self._labels.ndim == 1 else self._labels[:, label] > 0
        if prediction is not None:
            found &= self._predicted == prediction
        if wrong:
            if self._wrong is None:
                raise ValueError("Predictions cannot be compared with labels: the results do not have both.")
            found &= self._wrong
        return self.index[found]

    def about(self, index: int) -> str:
        """What a sample is, and what the model takes it for, in a line."""
        place = self._place(index)
        parts = [f"Sample {index}"]
        if self._labels is not None:
            parts.append(f"label {self._label_of(self._labels[place])}")
        if self._predicted is not None:
            wrong = " (wrong)" if self._wrong is not None and self._wrong[place] else ""
            parts.append(f"prediction {self.name_of(int(self._predicted[place]))}{wrong}")
        return ", ".join(parts)

    def _label_of(self, label):
        if np.ndim(label) == 1:
            return ", ".join(self.name_of(int(i)) for i in np.flatnonzero(label)) or "none"
        return self.name_of(int(label)) if self.labels else f"{label:.4g}"

    def table(self, index: int) -> Table:
        """What each method says of a sample: the output, what is explained, and the sum of relevance."""
        told: list[dict[str, Any]] = []
        for method, stored in self._stored.items():
            rows = stored.rows([index])
            sums = [value.sum(dtype=np.float64) for value in stored.results.relevance(rows).values()]
            row: dict[str, Any] = {"method": method}
            if stored.units is not None:
                names = self._output_names if stored.units == self._first.units else None
                value = stored.outputs(rows)[0]
                best = stored.predicted(names)
                if best is None:
                    row["output"] = f"{value[0]:.4g}"
                else:
                    chosen = int(best[rows[0]])
                    row["predicted"] = self.name_of(chosen)
                    row["output"] = value[0 if is_binary(names, len(value)) else chosen]
            explained = stored.origin["neuron_selection"]
            row["explained"] = "largest output" if explained is None else str(explained)
            row["sum of relevance"] = float(sum(sums))
            told.append(row)
        return _table(told, "Outputs and sums")

    def ledger(self, index: int) -> Table | None:
        """Where the relevance of a sample went, by method; None if that was not written. Zeros are left out."""
        told: list[dict[str, Any]] = []
        for method, stored in self._stored.items():
            found = stored.results.ledger(stored.rows([index]))
            if found is not None:
                told.append(
                    {"method": method, **{name: float(values[0]) for name, values in found.items() if values[0]}}
                )
        return _table(told, "Where relevance went") if told else None

    def pictures(
        self, index: int, look: Look | None = None, methods: Sequence[str] | None = None
    ) -> dict[str | None, Picture]:
        """Pictures of a sample by the name of the input: the input, if it is known, and its relevance by each method.

        Args:
            index: The index of the sample in the dataset.
            look: How relevance is drawn.
            methods: Which of `methods`, by default all.
        """
        look = look or Look()
        chosen = {name: self._stored[name] for name in methods or self.methods}
        relevance = {name: stored.results.relevance(stored.rows([index])) for name, stored in chosen.items()}
        inputs = None if self._inputs is None else self._inputs.inputs([index])
        return {
            name: self._picture(
                None if inputs is None else inputs[name], {m: found[name] for m, found in relevance.items()}, look
            )
            for name in self._first.results.input_names
        }

    def _picture(self, x, relevances, look):
        # Strings have no relevance: it is of their tokens.
        x = None if x is not None and x.dtype.kind not in "fiub" else x
        axes = next(iter(relevances.values())).ndim
        titles = [""]
        if axes == 5:
            slices = most_relevant(np.sum([np.abs(reduced(r)[0]) for r in relevances.values()], axis=0), SLICES)
            x = None if x is None else x[0, slices]
            relevances = {name: relevance[0, slices] for name, relevance in relevances.items()}
            titles, axes = [f"slice {i}" for i in slices], 4
        kind = self._kind_of(axes)
        if kind == "images":
            relevances = {n: r if r.ndim == 3 else reduced(r) for n, r in relevances.items()}
        drawn = {name: look.kept(relevance) for name, relevance in relevances.items()}
        if kind == TOKENS:
            # Ids that were written as inputs are floating numbers.
            words = [f"{v:.12g}" for v in (range(next(iter(drawn.values())).shape[1]) if x is None else x[0])]
            return text(
                [words] * len(drawn), np.concatenate(list(drawn.values())), titles=list(drawn),
                scale="image" if look.own_scales else "batch", percentile=look.percentile,
            ).picture()  # fmt: skip
        options: dict[str, Any] = {"kind": kind, "titles": titles, "percentile": look.percentile, "samples": SLICES}
        if len(drawn) == 1 and x is not None:
            return plot(x, *drawn.values(), scale="batch", **options)
        return plot_grid(x, drawn, scale="column" if look.own_scales else "all", **options)

    def origins(self) -> dict[str, dict[str, Any]]:
        """Where the results of each method come from."""
        return {f"{name}, {stored.path}": stored.origin for name, stored in self._stored.items()}

    def concepts_of(self, index: int, layer: str, by: str = "relevance") -> tuple[str, Table, Picture | None]:
        """What the channels of a layer stand for that have most relevance in a sample.

        Args:
            index: The index of the sample in the dataset.
            layer: The path of a layer that was collected.
            by: `"relevance"` or `"activation"`, by which reference samples were ranked.

        Returns:
            A sentence that names the class; a table of the channels and of their reference samples; and a picture of
            these samples, if they are images and known.

        Raises:
            KeyError: The layer was not collected.
            ValueError: There are no concepts.
        """
        collection = self.concepts
        if collection is None:
            raise ValueError("There are no concepts: pass concepts=, what revgraph.concepts.collect wrote.")
        place = np.searchsorted(collection.index, index)
        if place == len(collection.index) or collection.index[place] != index:
            return f"Sample {index} was not collected.", Table(("channel",), []), None
        (values,) = collection.relevance(layer, np.array([place]))
        number = int(collection.classes[place])
        of_class = None if number < 0 else number
        ranking = collection.ranking(layer, by, of_class)
        channels = [int(c) for c in np.argsort(-np.abs(values), kind="stable")[:CHANNELS]]
        kept = {c: [int(s) for s in ranking.samples[:REFERENCES, c] if s >= 0] for c in channels}
        total = np.abs(values).sum() or 1
        rows = [(c, f"{values[c] / total:.1%}", ", ".join(map(str, kept[c]))) for c in channels]
        table = Table(("channel", "share of |relevance|", f"samples by {by}"), rows, title=f"Channels of {layer}")
        what = "all samples" if of_class is None else f"the class {self.name_of(of_class)}"
        said = (
            f"The channels of {layer} with the largest absolute relevance in sample {index}, and the samples of {what} "
            f"on which they have the largest {by}."
        )
        return said, table, self._references(layer, by, ranking, kept)

    def _references(self, layer, by, ranking, kept):
        """A picture of reference samples, whole and as they are; None if they are no images or not known."""
        wanted = sorted({i for samples in kept.values() for i in samples if i in self.index})
        inputs = self._inputs.inputs(wanted) if wanted and self._inputs is not None else {}
        if list(inputs) != [None] or self._kind_of(inputs[None].ndim) != "images":
            return None
        shown = {i: x if x.ndim == 3 else x[..., None] for i, x in zip(wanted, inputs[None], strict=True)}
        found = {
            channel: [
                Reference(i, float(ranking.values[place, channel]), (), shown[i], np.zeros_like(shown[i], float), ())
                for place, i in enumerate(samples)
                if i in shown
            ]
            for channel, samples in kept.items()
        }
        found = {channel: each for channel, each in found.items() if each}
        return plot_references(References(layer, by, found), crop=None, mask=None)

    def _place(self, index):
        place = int(np.searchsorted(self.index, index))
        if place == len(self.index) or self.index[place] != index:
            raise KeyError(f"There is no sample {index!r}. There are {len(self.index)}, from {self.index[0]} on.")
        return place


def _table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """A table of rows that need not have all columns."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return Table(header, [[row.get(name, "") for name in header] for row in rows], title=title)


def _classes(numbers: np.ndarray | None) -> tuple[int, ...]:
    """The classes that there are; none if the numbers are no classes."""
    if numbers is None:
        return ()
    if numbers.ndim == 2:
        return tuple(np.flatnonzero(np.any(numbers > 0, axis=0)).tolist())
    found = np.unique(numbers)
    return tuple(found.astype(int).tolist()) if np.all((found == np.floor(found)) & (found >= 0)) else ()


def _wrong(labels: np.ndarray | None, predictions: np.ndarray | None) -> np.ndarray | None:
    """Whether predictions are not their labels, (samples,); None if that cannot be said."""
    if labels is None or predictions is None or not _classes(labels):
        return None
    if labels.ndim == 1:
        return labels != predictions
    inside = predictions < labels.shape[1]
    taken = np.take_along_axis(labels, np.minimum(predictions, labels.shape[1] - 1)[:, None], axis=1)[:, 0] > 0
    return ~(inside & taken)
