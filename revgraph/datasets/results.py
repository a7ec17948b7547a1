"""What `explain_dataset` wrote, read again: HDF5, Zarr and `.npy` shards alike."""

import re
from pathlib import Path
from urllib.parse import unquote

import keras
import numpy as np

from revgraph.datasets import containers
from revgraph.datasets.sinks import AXES, CSV, HDF5, NpyShards, selector, sink
from revgraph.datasets.virelay import as_given, three_axes
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
        input_names: The names of the inputs; only None for a single one, which has no name here.

    Raises:
        FileNotFoundError: There is nothing at that path.
        KeyError: There is no such input.
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
        names = self._inputs()
        if input_name is not None and input_name not in names:
            there = ", ".join(map(repr, names)) or "a single one, without a name"
            raise KeyError(f"{str(path)!r} has no input {input_name!r}. It has {there}.")
        self.input_names: tuple[str | None, ...] = tuple(names) or (None,)
        self._chosen = input_name

    def attributions(self, rows: np.ndarray) -> np.ndarray:
        """Relevance of some samples, with the channels first, (samples, channels, height, width).

        Args:
            rows: Positions of the samples among those that did not fail, in ascending order.

        Raises:
            KeyError: There are several inputs, and none is named.
        """
        name = self._chosen
        if name is None and self.input_names != (None,):
            names = ", ".join(map(repr, self.input_names))
            raise KeyError(f"Which input is meant? {str(self.path)!r} has {names}: input_name=...")
        found = self._read(of_input("attribution", name), rows)
        # Other formats have the shapes that the analyzer returns.
        return found if isinstance(self._format, HDF5) else three_axes(found, keras.config.image_data_format())

    def relevance(self, rows: np.ndarray) -> dict[str | None, np.ndarray]:
        """Relevance of some samples, by the name of the input.

        Args:
            rows: See `attributions`.

        Returns:
            Arrays (samples, ...) with the axes that the inputs have, and the channels last.
        """
        return {name: self._as_given(of_input("attribution", name), rows) for name in self.input_names}

    def inputs(self, rows: np.ndarray) -> dict[str | None, np.ndarray] | None:
        """The inputs of some samples, as `relevance` gives their relevance; None if there are none.

        Args:
            rows: See `attributions`.
        """
        if not self.origin.get("inputs"):
            return None
        if isinstance(self._format, HDF5):
            path, index = self._format.inputs_path, self.index[rows]
            if not path.exists():
                return None
            return {name: rows_of_virelay(path, index, of_input("data", name)) for name in self.input_names}
        return {name: self._as_given(of_input("input", name), rows) for name in self.input_names}

    def ledger(self, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        """Where the relevance of some samples went, (samples,) by column; None if it was not written.

        Args:
            rows: See `attributions`.
        """
        if not self.origin.get("ledger"):
            return None
        return dict(zip(self.origin["ledger"], self._read("ledger", rows).T, strict=True))

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

    def predictions_of(self, rows: np.ndarray) -> np.ndarray | None:
        """The model's output for some samples; see `predictions`.

        Args:
            rows: See `attributions`.
        """
        return self._read("prediction", rows) if self._has("prediction") else None

    def _as_given(self, name, rows):
        """Rows of an array with the axes that samples had, and the channels last."""
        if isinstance(self._format, HDF5):
            return rows_of_virelay(self.path, rows, name)
        found = self._read(name, rows)
        first = found.ndim > 3 and keras.config.image_data_format() == "channels_first"
        return np.moveaxis(found, 1, -1) if first else found

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
                return np.asarray(array[:] if rows is None else array[selector(rows)])
        # What a damaged file leads to depends on where the damage is.
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{str(self.path)!r} is damaged: {name!r} cannot be read ({error}).") from error

    def _shards(self, name):
        """The files of an array, in order."""
        escaped = ".".join(map(file_name, name.split("/", 1)))
        return sorted(
            path for path in self.path.iterdir() if re.fullmatch(rf"{re.escape(escaped)}-\d+\.npy", path.name)
        )


def rows_of_virelay(path: PathLike, rows: np.ndarray, name: str) -> np.ndarray:
    """Rows of an HDF5 file of ViRelAy, with the axes that samples had, and the channels last.

    Files that other programs wrote do not say how many axes samples had. They are images then.

    Args:
        path: The file.
        rows: Positions, in ascending order.
        name: The name of the array.

    Raises:
        ValueError: There is no such file or array, or it is damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            array = file[name]
            return as_given(array[selector(rows)], array.attrs.get(AXES, array.ndim - 1))
    # What a damaged file leads to depends on where the damage is.
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is missing or damaged: {name!r} cannot be read ({error}).") from error


def of_input(what: str, name: str | None) -> str:
    """The name of the array of an input, such as `attribution/image`, or `attribution` for the only one."""
    return what if name is None else f"{what}/{name}"


def _rows_of(paths, rows):
    """Rows of an array that is cut into files."""
    parts, first = [], 0
    for path in paths:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
        last = first + len(shard)
        parts.append(shard[:] if rows is None else shard[rows[(rows >= first) & (rows < last)] - first])
        first = last
    return np.concatenate(parts)
