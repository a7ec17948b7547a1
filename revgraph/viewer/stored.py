"""Files that an `Album` shows, and inputs that belong to them: rows are read when they are asked for."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revgraph.class_names import is_binary, predicted
from revgraph.datasets.results import Results, of_input, rows_of_virelay
from revgraph.graph.types import PathLike

BLOCK = 4096
"""Predictions of so many samples are read at once."""


class Stored:
    """The results of one file."""

    def __init__(self, path: PathLike):
        self.results = Results(path)
        self.path: Path = self.results.path
        self.origin = self.results.origin
        self.index = self.results.index
        self.labels = self.results.labels
        if self.labels is not None and self.labels.ndim == 2 and self.labels.shape[1] == 1:
            self.labels = self.labels[:, 0]
        some = self.results.predictions_of(np.arange(min(1, len(self.index))))
        self.units = some.shape[1] if some is not None and some.ndim == 2 else None

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of samples."""
        return np.searchsorted(self.index, np.asarray(indices, np.int64))

    def inputs(self, indices: Sequence[int] | np.ndarray) -> dict[str | None, np.ndarray] | None:
        """The inputs of samples, (samples, ...) by the name of the input; None if they were not written."""
        return self.results.inputs(self.rows(indices))

    def predicted(self, names: Sequence[str] | None) -> np.ndarray | None:
        """The predicted class of every sample, (samples,). None if outputs are no classes."""
        if self.units is None or (self.units == 1 and not is_binary(names, 1)):
            return None
        blocks = range(0, len(self.index), BLOCK)
        rows = [np.arange(first, min(first + BLOCK, len(self.index))) for first in blocks]
        if self.units > 1:
            return np.concatenate([self.outputs(block).argmax(axis=1) for block in rows])
        # Whether the unit gives a probability is decided by the outputs of all samples.
        return predicted(np.concatenate([self.outputs(block) for block in rows]), names)[0]

    def outputs(self, rows: np.ndarray) -> Any:
        """The outputs of the model, (samples, units), where `units` is a number."""
        return self.results.predictions_of(rows)


class Inputs:
    """The inputs of all samples of a dataset.

    Args:
        inputs: See `Album`.
        stored: Results that they belong to.
    """

    def __init__(self, inputs: Any, stored: Stored):
        names = stored.results.input_names
        # An HDF5 file has all inputs.
        given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(names if _is_hdf5(inputs) else (None,), inputs)
        if set(given) != set(names):
            one = "a single input: pass its array or file"
            several = f"the inputs {', '.join(map(repr, names))}: pass a dict with these names, or an HDF5 file"
            received = list(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(f"The model has {one if names == (None,) else several}. Received: {received}.")
        self._arrays = {name: _opened(value, name) for name, value in given.items()}
        relevance = stored.results.relevance(stored.rows(stored.index[:1]))
        for name, array in self._arrays.items():
            found = array[stored.index[:1]].shape if len(array) > stored.index[0] else ()
            if len(array) != stored.origin["samples"] or found != relevance[name].shape:
                raise ValueError(
                    f"The inputs are those of {len(array)} samples of shape {found[1:]}, and {str(stored.path)!r} "
                    f"explains {stored.origin['samples']} of shape {relevance[name].shape[1:]}. Name the inputs of all "
                    f"samples of the dataset, as the model takes them."
                )

    def inputs(self, indices: Sequence[int] | np.ndarray) -> dict[str | None, np.ndarray]:
        """The inputs of samples, (samples, ...) each."""
        return {name: array[np.asarray(indices, np.int64)] for name, array in self._arrays.items()}


class _InFile:
    """The rows of an array in an HDF5 file of ViRelAy."""

    def __init__(self, path: Path, name: str):
        import h5py

        self._path, self._name = path, name
        try:
            with h5py.File(path, "r") as file:
                self._count = len(file[name])
        # What a damaged file leads to depends on where the damage is.
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} has no inputs: it has no array {name!r}, as ViRelAy's files have."
            ) from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return rows_of_virelay(self._path, rows, self._name)


def _is_hdf5(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and Path(value).suffix.lower() in (".h5", ".hdf5")


def _opened(value: Any, name: str | None) -> Any:
    """The inputs of a name: what has a length, and gives rows."""
    if not isinstance(value, str | os.PathLike):
        return value if hasattr(value, "shape") else np.asarray(value)
    path = Path(value)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}. It should have the inputs that were explained.")
    if _is_hdf5(path):
        return _InFile(path, of_input("data", name))
    if path.suffix.lower() != ".npy":
        raise ValueError(f"Inputs come from a .npy file, or from 'data' in a .h5 file. Received: {str(path)!r}.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{str(path)!r} has no inputs: it is damaged, or no file of NumPy ({error}).") from error


def names_of(every: Sequence[Stored]) -> list[str]:
    """The names of the methods, with the name of the file where two are the same."""
    methods = [stored.origin["method"] for stored in every]
    named = [m if methods.count(m) == 1 else f"{m} ({s.path.name})" for m, s in zip(methods, every, strict=True)]
    return [n if named.count(n) == 1 else f"{m} ({s.path})" for n, m, s in zip(named, methods, every, strict=True)]


def check_same_dataset(first: Stored, other: Stored, common: np.ndarray) -> None:
    """Raises a ValueError if two results are not of one dataset."""
    both = f"{str(first.path)!r} and {str(other.path)!r} are not of one dataset"
    if first.origin["samples"] != other.origin["samples"]:
        raise ValueError(
            f"{both}: these have {first.origin['samples']} and {other.origin['samples']} samples. Results stand side "
            f"by side if they explain the same samples in the same order."
        )
    if not len(common):
        raise ValueError(f"{both}, or there is no sample that did not fail in one of them.")
    shapes = [
        {name: value.shape[1:] for name, value in stored.results.relevance(stored.rows(common[:1])).items()}
        for stored in (first, other)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{both}: relevance has other inputs or shapes, {shapes[0]} and {shapes[1]}.")
    if first.labels is not None and other.labels is not None:
        mine, its = first.labels[first.rows(common)], other.labels[other.rows(common)]
        if not np.array_equal(mine, its):
            raise ValueError(
                f"{both}: their labels differ. Where a dataset has no labels, the predicted classes take their place: "
                f"explain it with its labels to show several models."
            )
    if first.origin["model_sha256"] == other.origin["model_sha256"] and first.units is not None:
        mine, its = (stored.outputs(stored.rows(common[:BLOCK])) for stored in (first, other))
        if not np.allclose(mine, its, rtol=1e-2, atol=1e-3):
            raise ValueError(f"{both}: the same model has other outputs for the same samples. Their order may differ.")
