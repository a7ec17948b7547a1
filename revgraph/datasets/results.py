"""What `explain_dataset` wrote, read again: HDF5, Zarr and `.npy` shards alike."""

import re
from pathlib import Path
from urllib.parse import unquote

import keras
import numpy as np

from revgraph.datasets import containers
from revgraph.datasets.sinks import CSV, HDF5, NpyShards, sink
from revgraph.datasets.virelay import three_axes
from revgraph.graph.types import PathLike
from revgraph.saving.names import file_name


class Results:
    """Relevance that `explain_dataset` wrote. Arrays are read when they are asked for.

    Args:
        path: The output of `explain_dataset`.
        input_name: Which input, if the model has several.

    Attributes:
        path: The output.
        origin: Where the results come from; see `revgraph.saving.provenance`.

    Raises:
        FileNotFoundError: There is nothing at that path.
        KeyError: There is no such input, or there are several and none is named.
        ValueError: It is no output of `explain_dataset`.
    """

    def __init__(self, path: PathLike, input_name: str | None = None):
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"There is no file or directory {str(path)!r}. explain_dataset writes it.")
        where = sink(path)
        self.origin = where.origin()
        if not self.origin or "concepts" in self.origin:
            what = "a collection of concepts" if self.origin else "no file of revgraph, or damaged"
            raise ValueError(
                f"{str(path)!r} has no attributions: it is {what}. Write them with "
                f"revgraph.explain_dataset(analyzer, dataset, path)."
            )
        if isinstance(where, CSV):
            raise ValueError(
                f"{str(path)!r} is a CSV file, which pandas.read_csv reads. What reads results in parts needs an .h5 "
                f'file, a .zarr group or a directory of shards: explain_dataset(analyzer, dataset, "relevance.h5").'
            )
        self._format = where
        name = "attribution"
        names = self._inputs()
        if names and input_name is None:
            raise KeyError(f"Which input is meant? {str(path)!r} has {', '.join(map(repr, names))}: input_name=...")
        if input_name is not None:
            if input_name not in names:
                there = ", ".join(map(repr, names)) or "a single one, without a name"
                raise KeyError(f"{str(path)!r} has no input {input_name!r}. It has {there}.")
            name = f"attribution/{input_name}"
        self._name = name

    def attributions(self, rows: np.ndarray) -> np.ndarray:
        """Relevance of some samples, with the channels first, (samples, channels, height, width).

        Args:
            rows: Positions of the samples among those that did not fail, in ascending order.
        """
        found = self._read(self._name, rows)
        # Other formats have the shapes that the analyzer returns.
        return found if isinstance(self._format, HDF5) else three_axes(found, keras.config.image_data_format())

    @property
    def index(self) -> np.ndarray:
        """Indices in the dataset of the samples that did not fail, (samples,)."""
        return self._read("index").astype(np.int64)

    @property
    def labels(self) -> np.ndarray | None:
        """Labels, (samples,) or (samples, classes): those of the dataset, or else the predicted classes."""
        return self._read("label") if self._has("label") else None

    @property
    def predictions(self) -> np.ndarray | None:
        """The model's output, (samples, classes). None if it has several outputs."""
        return self._read("prediction") if self._has("prediction") else None

    def _inputs(self):
        """The names of the inputs; none for a single one."""
        if isinstance(self._format, NpyShards):
            found = (re.fullmatch(r"attribution\.(.*)-00000\.npy", path.name) for path in self.path.iterdir())
            return sorted(unquote(name[1]) for name in found if name)
        with containers.opened(self.path) as file:
            found = file["attribution"]
            return sorted(map(unquote, found)) if hasattr(found, "keys") else []

    def _has(self, name):
        if isinstance(self._format, NpyShards):
            return bool(self._shards(name))
        with containers.opened(self.path) as file:
            return name in file and not hasattr(file[name], "keys")

    def _read(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows of an array, all of them by default."""
        try:
            if isinstance(self._format, NpyShards):
                return _rows_of(self._shards(name), rows)
            with containers.opened(self.path) as file:
                array = file[name if isinstance(self._format, HDF5) else "/".join(map(file_name, name.split("/", 1)))]
                return np.asarray(array[:] if rows is None else array[rows])
        # What a damaged file leads to depends on where the damage is.
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{str(self.path)!r} is damaged: {name!r} cannot be read ({error}).") from error

    def _shards(self, name):
        """The files of an array, in order."""
        escaped = ".".join(map(file_name, name.split("/", 1)))
        return sorted(
            path for path in self.path.iterdir() if re.fullmatch(rf"{re.escape(escaped)}-\d+\.npy", path.name)
        )


def _rows_of(paths, rows):
    """Rows of an array that is cut into files."""
    parts, first = [], 0
    for path in paths:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
        last = first + len(shard)
        parts.append(shard[:] if rows is None else shard[rows[(rows >= first) & (rows < last)] - first])
        first = last
    return np.concatenate(parts)
