"""HDF5 files of runs: a full disk is an error and no crash, and attributes say where a file comes from."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from revgraph.graph.types import PathLike


@contextlib.contextmanager
def created(path: PathLike) -> Iterator[tuple[Any, "SteadyWriter"]]:
    """A new HDF5 file, and the `SteadyWriter` under it, because the disk may run full."""
    import h5py

    # This version of the format has no limit to the length of attributes.
    with SteadyWriter(path) as writer, h5py.File(writer, "w", libver=("v108", "v108")) as file:
        yield file, writer


class SteadyWriter(io.RawIOBase):
    """A binary file whose writes raise no errors before it is closed.

    HDF5 cannot close a file after a write to it has failed, and crashes the process in the end. So it is told that all
    writes succeed. The first `error` of a write is raised when the file is closed.
    """

    def __init__(self, path):
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int | None:
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while rest and not self.error:
            rest = rest[self._tried(self._file.write, rest) or 0 :]
        return len(memoryview(data).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        self._tried(self._file.truncate, size)
        return self.tell() if size is None else size

    def _tried(self, function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            self.error = self.error or error

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._tried(os.fsync, self._file.fileno())
            self._file.close()

    def __exit__(self, kind, error, trace):
        self.close()
        if self.error and kind is None:
            raise self.error


def note(file: Any, origin: dict[str, Any]) -> None:
    """Writes where results come from as attributes of a file that is open."""
    for name, value in origin.items():
        file.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value)


def noted(path: PathLike) -> dict[str, Any]:
    """What the attributes of a file say of the run that wrote it; empty if no run did."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = {name: file.attrs[name] for name in file.attrs}
    # What a damaged file leads to depends on where the damage is.
    except (OSError, KeyError, RuntimeError, ValueError):
        return {}
    return whole({name: _parsed(value) for name, value in stored.items()})


def whole(origin: Any) -> dict[str, Any]:
    """What an output says of its run; empty where it does not say what every run writes."""
    says = isinstance(origin, dict) and isinstance(origin.get("failures"), dict) and "samples" in origin
    return origin if says else {}


def _parsed(value):
    if isinstance(value, str) and value[:1] in "[{n":
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value
