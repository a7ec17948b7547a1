"""`Collection`: the file that `collect` writes, with the samples on which each channel is relevant and active."""

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from revgraph.concepts.channels import shares as shares_of
from revgraph.concepts.ranking import Best, Ranking
from revgraph.datasets import containers
from revgraph.datasets.outputs import Sink
from revgraph.datasets.staging import Staging
from revgraph.graph.arguments import check_count
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike
from revgraph.saving.names import file_name
from revgraph.saving.provenance import hash_of_weights, rules

KINDS = ("relevance", "activation")
"""By what samples are ranked."""

FORMAT = 1
"""Version of the files."""

SUFFIXES = (".h5", ".hdf5", ".zarr")
"""Endings of the names of files."""

USUAL = 8
"""So many samples of a channel are shown by default."""

BLOCK = 4096
"""So many samples are read at once."""

Rows: TypeAlias = slice | np.ndarray
"""Samples: a slice, or an array of positions."""

ALL = slice(None)
"""All samples."""


@dataclasses.dataclass(frozen=True)
class ConceptFile(Sink):
    """The file of a `Collection`, HDF5 or Zarr.

    Args:
        path: The file.
        layers: The paths of the layers.
        n: How many samples are kept for each channel.
        over: How the positions of a channel become one value, `"sum"` or `"max"`.
        shares: Whether values are divided by the sum of the absolute values of all channels.
    """

    layers: tuple[str, ...] = ()
    n: int = 40
    over: str = "sum"
    shares: bool = False

    kind: ClassVar[str] = "concepts"

    def __post_init__(self) -> None:
        check_count("n", self.n)
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"out is a path that ends in .h5 or .zarr. Received: {self.path!r}.")
        if self.target.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"A collection is an HDF5 file or a Zarr group, so out ends in .h5 or .zarr. Received: "
                f"{str(self.target)!r}."
            )
        if containers.is_zarr(self.target):
            containers.zarr_package()
        if self.over not in ("sum", "max"):
            raise ValueError(f'over is "sum" or "max", for how positions become one value. Received: {self.over!r}.')

    def write(self, folder: Path, staging: Staging, origin: dict[str, Any], progress: Callable[[], Any]) -> None:
        specs = staging.specs()
        with containers.created(folder / self.target.name) as made:
            for name in ("index", "label", "class", "digest", "output"):
                if name in specs:
                    self._write_column(made, name, name, staging, specs[name])
            for number, layer in enumerate(self.layers):
                group = f"layers/{file_name(layer)}"
                made.group.require_group(group).attrs["layer"] = layer
                for kind in KINDS:
                    self._write_column(made, f"{group}/{kind}", f"{number}/{kind}", staging, specs[f"{number}/{kind}"])
                    for where, ranking in self._rankings(staging, f"{number}/{kind}"):
                        self._write_ranking(made, f"{group}/{where}/{kind}", ranking)
                    made.check()
            for _ in staging.records:
                progress()
            made.note({**origin, "concepts": FORMAT, "layers": list(self.layers)})
            made.note({"n": int(self.n), "over": self.over, "shares": str(self.shares)})

    @staticmethod
    def _write_column(made, name, staged, staging, spec):
        """Writes an array of all samples, batch by batch."""
        column = made.array(name, *spec)
        done = 0
        for batch in staging.batches(staged):
            rows = batch[staged]
            column[done : done + len(rows)] = rows
            done += len(rows)

    def _rankings(self, staging: Staging, kind: str) -> Iterator[tuple[str, Ranking]]:
        """The ranking of all samples, and of those of each class, under the names of their groups.

        One pass is made for each layer, so that memory holds the rankings of one layer.
        """
        value = kind if self.over == "sum" else f"{kind}/max"
        best: dict[str, Best] = {}
        for batch in staging.batches("index", "class", value, f"{kind}/position"):
            values = batch[value]
            if self.shares:
                values = shares_of(values)
            every = Ranking.of(batch["index"], values, batch[f"{kind}/position"])
            parts = {"best": np.ones(len(values), bool)}
            parts |= {f"classes/{c}": batch["class"] == c for c in np.unique(batch["class"]) if c >= 0}
            for where, rows in parts.items():
                new = Ranking(every.samples[rows], every.values[rows], every.positions[rows])
                best.setdefault(where, Best(self.n)).add(new)
        yield from ((where, each.ranking()) for where, each in best.items())

    @staticmethod
    def _write_ranking(made, where, ranking):
        for field in dataclasses.fields(ranking):
            values = getattr(ranking, field.name)
            made.array(f"{where}/{field.name}", values.shape, values.dtype)[:] = values

    def origin(self) -> dict[str, Any]:
        return containers.noted(self.target)


class Collection(Tabular):
    """What `collect` found. Arrays are read from the file when they are asked for.

    Args:
        path: The file.
        analyzer: The analyzer with which it was collected, where that is at hand: `references` takes it by default.
        dataset: The dataset that was collected, likewise.

    Attributes:
        origin: Where the results come from: the model, the method, versions, and the samples that failed.
        layers: The paths of the layers.
        n: How many samples are kept for each channel.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file of `collect`.

    Example:

        found = revgraph.concepts.Collection("concepts.h5")
        found.ranking("conv3").samples[:8, 12]  # the 8 samples on which channel 12 has most relevance
    """

    def __init__(self, path: PathLike, *, analyzer: Any = None, dataset: Any = None):
        self.path, self.analyzer, self.dataset = Path(path), analyzer, dataset
        if not self.path.exists():
            raise FileNotFoundError(f"There is no file {str(self.path)!r}. revgraph.concepts.collect writes it.")
        self.origin = containers.noted(self.path)
        if "concepts" not in self.origin:
            what = "relevance that explain_dataset wrote" if self.origin else "no file of revgraph, or damaged"
            raise ValueError(
                f"{str(self.path)!r} is not a collection of concepts: it is {what}. Write one with "
                f"revgraph.concepts.collect(analyzer, dataset, layers, out)."
            )
        if self.origin["concepts"] != FORMAT:
            raise ValueError(
                f"{str(self.path)!r} is of format {self.origin['concepts']!r}, and this revgraph reads format "
                f"{FORMAT}. Read it with the version that wrote it, {self.origin.get('versions', {}).get('revgraph')}."
            )
        self.layers: tuple[str, ...] = tuple(self.origin["layers"])
        self.n: int = self.origin["n"]

    @property
    def failures(self) -> dict[int, str]:
        """The reasons why samples failed, by index."""
        return {int(index): why for index, why in self.origin["failures"].items()}

    @functools.cached_property
    def index(self) -> np.ndarray:
        """Indices in the dataset of the samples that did not fail, int64 (samples,)."""
        return self._read("index")

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """The class that was explained for each sample, int64 (samples,). It is -1 where no single class was."""
        return self._read("class")

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The labels of the dataset, (samples, ...). None if it has none."""
        return self._read("label", needed=False)

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """A hash of each sample, uint64 (samples,)."""
        return self._read("digest")

    def relevance(self, layer: str, rows: Rows = ALL) -> np.ndarray:
        """Relevance of each channel, summed over positions, (samples, channels).

        Args:
            layer: The name or the path of a layer.
            rows: Which samples: a slice, or their positions in `index` in ascending order.
        """
        return self._read(f"{self._group(layer)}/relevance", rows)

    def activation(self, layer: str, rows: Rows = ALL) -> np.ndarray:
        """Activation of each channel, summed over positions, (samples, channels). See `relevance`."""
        return self._read(f"{self._group(layer)}/activation", rows)

    def mean_shares(self, layer: str) -> np.ndarray:
        """The share of each channel in the absolute relevance of a sample, as a mean over samples, (channels,)."""
        total: Any = 0
        for first in range(0, len(self.index), BLOCK):
            total = total + np.abs(shares_of(self.relevance(layer, slice(first, first + BLOCK)))).sum(axis=0)
        mean: np.ndarray = total / len(self.index)
        return mean

    def ranking(self, layer: str, by: str = "relevance", of_class: int | None = None) -> Ranking:
        """The samples with the largest values, for each channel of a layer.

        Args:
            layer: The name or the path of a layer.
            by: `"relevance"` (RelMax) or `"activation"` (ActMax).
            of_class: Only samples for which this class was explained.

        Returns:
            A `Ranking` of at most `n` samples.

        Raises:
            KeyError: The layer was not collected, or no sample is of that class.
            ValueError: There is no such kind of ranking.
        """
        if by not in KINDS:
            raise ValueError(f"by is {' or '.join(map(repr, KINDS))}. Received: {by!r}.")
        group = self._group(layer)
        where = f"{group}/best/{by}" if of_class is None else f"{group}/classes/{of_class}/{by}"
        if of_class is not None and of_class not in self.classes:
            there = ", ".join(str(c) for c in np.unique(self.classes) if c >= 0)
            raise KeyError(f"No sample in {str(self.path)!r} is of class {of_class!r}. There are: {there or 'none'}.")
        return Ranking(*(self._read(f"{where}/{field.name}") for field in dataclasses.fields(Ranking)))

    def path_of(self, layer: str) -> str:
        """The path of a layer that was collected, from its name or path.

        Raises:
            KeyError: It was not collected.
        """
        found = [path for path in self.layers if path == layer]
        found = found or [path for path in self.layers if path.rsplit("/", 1)[-1] == layer]
        if len(found) == 1:
            return found[0]
        near = difflib.get_close_matches(str(layer), self.layers, n=3, cutoff=0.4) or self.layers[:10]
        raise KeyError(
            f"The layer {layer!r} was not collected in {str(self.path)!r}. Did you mean "
            f"{' or '.join(map(repr, found or near))}? Other layers need another run of collect."
        )

    def channels(self, layer: str, channels: int | Sequence[int]) -> tuple[int, ...]:
        """Channels of a layer as a tuple.

        Raises:
            IndexError: The layer has no such channel.
        """
        chosen = np.atleast_1d(np.asarray(channels))
        count = self.ranking(layer).values.shape[1]
        wrong = chosen.dtype.kind not in "iu" or not chosen.size or bool(np.any((chosen < 0) | (chosen >= count)))
        if wrong or chosen.ndim > 1:
            raise IndexError(
                f"The layer {self.path_of(layer)!r} has the channels 0 to {count - 1}. Received: {channels!r}."
            )
        return tuple(chosen.tolist())

    def same_method(self, analyzer: Any) -> bool:
        """Whether an analyzer has the method and the rules with which concepts were collected."""
        return analyzer.name == self.origin["method"] and rules(analyzer) == self.origin["rules"]

    def check_model(self, model: Any) -> None:
        """Refuses a model that is not the one of the file.

        Raises:
            ValueError: The weights of the model have another hash.
        """
        if hash_of_weights(model) != self.origin["model_sha256"]:
            raise ValueError(
                f"{str(self.path)!r} was collected from another model, {self.origin['model']!r}: the hash of its "
                f"weights is another one. Load the model that was collected, or collect this one."
            )

    def table(self) -> Table:
        """One row per layer: its channels, and the channels that are relevant on most samples."""
        rows = []
        for layer in self.layers:
            mean = self.mean_shares(layer)
            top = np.argsort(-mean, kind="stable")[:3]
            rows.append((layer, len(mean), ", ".join(f"{c} ({mean[c]:.1%})" for c in top)))
        header = ("layer", "channels", "largest mean share of |relevance|")
        return Table(header, rows, title=repr(self)[1:-1])

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<{self.path}: concepts of {self.origin['model']!r} on {len(self.index)} samples{failed}>"

    def _group(self, layer):
        return f"layers/{file_name(self.path_of(layer))}"

    def _read(self, name, rows=ALL, needed=True):
        try:
            with containers.opened(self.path) as file:
                return file[name][rows] if needed or name in file else None
        # What a damaged file leads to depends on where the damage is.
        except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
            raise ValueError(f"{str(self.path)!r} is damaged: {name!r} cannot be read ({error}).") from error


def opened(where: "PathLike | Collection") -> Collection:
    """A collection, from itself or from its path."""
    return where if isinstance(where, Collection) else Collection(where)


def how_many(found: Collection, n: int | None) -> int:
    """How many samples of a channel are shown: `n`, or by default 8 if so many were kept.

    Raises:
        ValueError: More are asked for than were kept.
    """
    if n is None:
        return min(USUAL, found.n)
    check_count("n", n)
    if n > found.n:
        raise ValueError(
            f"n={n} samples of each channel, and {str(found.path)!r} keeps {found.n}: collect it with n={n}."
        )
    return n
