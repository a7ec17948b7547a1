"""Files that hold arrays in groups: HDF5 files and Zarr groups are written and read by the same words."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from revgraph.datasets import hdf5
from revgraph.datasets.staging import sync_folder
from revgraph.graph.types import PathLike

CHUNK = 2**18
"""The smallest size of a chunk, in bytes."""


class Container(Protocol):
    """A file that is being written.

    Attributes:
        group: Its root, which has `require_group` and `attrs`.
    """

    group: Any

    def array(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        """A new array, whose rows can be assigned."""

    def note(self, origin: dict[str, Any]) -> None:
        """Writes where the content comes from as attributes."""

    def check(self) -> None:
        """Raises the OSError of a write that failed."""


def is_zarr(path: PathLike) -> bool:
    """Whether a path is that of a Zarr group: a directory, or a name that ends in `.zarr`."""
    return Path(path).suffix.lower() == ".zarr" or Path(path).is_dir()


@contextlib.contextmanager
def created(path: PathLike) -> Iterator[Container]:
    """A new file, HDF5 or Zarr by the ending of its name. It is on the disk when it is closed."""
    if is_zarr(path):
        yield _Zarr(zarr_package().open_group(path, mode="w"))
        sync(path)
    else:
        with hdf5.created(path) as (file, writer):
            yield _HDF5(file, writer)


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[Any]:
    """The root of a file, for reading."""
    if is_zarr(path):
        yield zarr_package().open_group(path, mode="r")
    else:
        import h5py

        with h5py.File(path, "r") as file:
            yield file


def noted(path: PathLike) -> dict[str, Any]:
    """What the attributes of a file say of the run that wrote it; empty if no run did."""
    if not is_zarr(path):
        return hdf5.noted(path)
    zarr = zarr_package()
    try:
        return hdf5.whole(dict(zarr.open_group(path, mode="r").attrs))
    # What a damaged file leads to depends on where the damage is.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


class _HDF5:
    def __init__(self, file: Any, writer: hdf5.SteadyWriter):
        self.group, self._writer = file, writer

    def array(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        return self.group.create_dataset(name, shape, dtype, chunks=True if math.prod(shape) else None)

    def note(self, origin: dict[str, Any]) -> None:
        hdf5.note(self.group, origin)

    def check(self) -> None:
        if self._writer.error:
            raise self._writer.error


class _Zarr:
    def __init__(self, group: Any):
        self.group = group

    def array(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        count, *others = shape
        rows = max(1, min(count, CHUNK // max(1, np.dtype(dtype).itemsize * math.prod(others))))
        chunks = (rows, *(max(1, n) for n in others))
        return self.group.create_array(name, shape=tuple(shape), chunks=chunks, dtype=dtype)

    def note(self, origin: dict[str, Any]) -> None:
        self.group.attrs.update(origin)

    def check(self) -> None:
        pass


def zarr_package() -> Any:
    """The module `zarr`.

    Raises:
        ImportError: It is missing, or too old.
    """
    try:
        import zarr
    except ImportError as error:
        raise ImportError('Zarr outputs need zarr, on Python 3.11 or newer: pip install "revgraph[zarr]".') from error
    if not hasattr(zarr.Group, "create_array"):
        raise ImportError(
            f'Zarr outputs need zarr 3 or newer: pip install "revgraph[zarr]". There is {zarr.__version__}.'
        )
    return zarr


def sync(folder: PathLike) -> None:
    """Makes the system write all files of a directory to the disk."""
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(path)
