"""Where the results of a run go: `.npy` shards, HDF5, Zarr."""

import contextlib
import dataclasses
import io
import json
import math
import os
from pathlib import Path

import keras
import numpy as np

from revgraph.datasets import virelay
from revgraph.datasets.staging import Staging, sync_folder
from revgraph.graph import Graph
from revgraph.saving.names import file_name

CHUNK = 2**18
"""Bytes that a chunk should have at least."""

PROVENANCE = "provenance.json"
"""The file among `.npy` shards that says where they come from."""


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where the results of a run go.

    Args:
        path: The output.
    """

    path: str | os.PathLike

    kind = "sink"
    with_inputs = False

    @property
    def target(self) -> Path:
        return Path(self.path)

    def outputs(self) -> list[Path]:
        """All that is written, the output itself at the end."""
        return [self.target]

    def check(self, graph: Graph):
        """Raises a ValueError if this cannot take the results for a model with that graph."""

    def write(self, folder: Path, staging: Staging, origin: dict, progress):
        """Writes everything from finished batches.

        Args:
            folder: Where to write, under the names of `outputs`.
            staging: The finished batches. Arrays are named `index`, `label`, and `attribution`, `prediction` and
                `input`, which are followed by `/name` where there are several.
            origin: Where the results come from, for JSON.
            progress: Called after each batch.
        """
        raise NotImplementedError

    def origin(self) -> dict:
        """Where the results in a finished output come from; empty for what is no output of a run."""
        raise NotImplementedError


def sink(where) -> Sink:
    """The sink that a path means: HDF5 for `.h5`, Zarr for `.zarr`, a directory of `.npy` shards otherwise."""
    if isinstance(where, Sink):
        return where
    if not isinstance(where, str | os.PathLike):
        raise TypeError(f"sink is a path, or HDF5(path), NpyShards(path) or Zarr(path). Received: {where!r}.")
    suffix = Path(where).suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return HDF5(where)
    if suffix == ".zarr":
        return Zarr(where)
    if suffix in (".npy", ".npz"):
        raise ValueError(
            f"The output {str(where)!r} would be one {suffix} file. Shards of .npy go to a directory: name one, such "
            f"as {str(Path(where).with_suffix(''))!r}, or a file that ends in .h5 or .zarr."
        )
    return NpyShards(where)


@dataclasses.dataclass(frozen=True)
class NpyShards(Sink):
    """A directory with `attribution-00000.npy`, `prediction-00000.npy`, `label-00000.npy`, `index-00000.npy` and so on.

    Arrays are as the analyzer gives them. With several inputs or outputs their names are part of the file names, such
    as `attribution.image-00000.npy`; `:` and other characters that Windows does not allow are percent-encoded.
    `provenance.json` says where they come from, and what failed.

    Args:
        path: The directory.
        shard_size: Samples per file.
        inputs: Write the inputs too.
    """

    shard_size: int = 1024
    inputs: bool = False

    kind = "npy"

    @property
    def with_inputs(self):
        return self.inputs

    def write(self, folder, staging, origin, progress):
        folder = folder / self.target.name
        folder.mkdir()
        rest = staging.explained
        with contextlib.ExitStack() as opened:
            shards = {
                name: _Shards(folder, name, self.shard_size, rest, spec) for name, spec in staging.specs().items()
            }
            for shard in shards.values():
                opened.callback(shard.close)
            for batch in staging.batches():
                for name, array in batch.items():
                    shards[name].append(array)
                progress()
        with open(folder / PROVENANCE, "w", encoding="utf-8") as file:
            json.dump(origin, file, indent=1)
        _sync(folder)

    def origin(self):
        try:
            return _whole(json.loads((self.target / PROVENANCE).read_bytes()))
        # RecursionError: JSON that is nested too deep.
        except (OSError, ValueError, RecursionError):
            return {}


def _in_files(name, separator) -> str:
    """The name of an array, such as `attribution/image`, as part of the name of a file."""
    return separator.join(map(file_name, name.split("/", 1)))


class _Shards:
    """Rows of one array, in files of equal length."""

    def __init__(self, folder, name, size, count, spec):
        (_, *self.shape), self.dtype = spec
        self.folder, self.name, self.size, self.rest = folder, _in_files(name, "."), size, count
        self.number = self.room = 0
        self.file = None

    def append(self, rows):
        while len(rows):
            if not self.room:
                self._next()
            part, rows = rows[: self.room], rows[self.room :]
            self.file.write(np.ascontiguousarray(part).tobytes())
            self.room -= len(part)

    def _next(self):
        self.close()
        self.room = min(self.size, self.rest)
        self.rest -= self.room
        self.file = open(self.folder / f"{self.name}-{self.number:05d}.npy", "wb")  # noqa: SIM115
        self.number += 1
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.room, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def close(self):
        if self.file:
            self.file.close()


@dataclasses.dataclass(frozen=True)
class HDF5(Sink):
    """An HDF5 file that ViRelAy and CoRelAy read.

    `attribution` float32 (samples, channels, height, width), `prediction` float32 (samples, classes), `label` uint16
    (samples,) or bool (samples, classes), `index` uint32 (samples,): the positions in the dataset of the samples that
    did not fail. With several inputs or outputs `attribution` and `prediction` are groups. Attributes say where the
    results come from, and what failed.

    Args:
        path: The file.
        compression: `"gzip"`, `"lzf"`, or None.
        inputs: Also write `NAME.input.h5` with `data` and `label` of all samples.
        project: Also write `project.yaml`, which ViRelAy opens, and `NAME.label-map.json`; this takes the inputs.
        class_names: Names of the classes, for the label map.
        data_format: Where samples have their channels: `"channels_last"` or `"channels_first"`; Keras's own by default.
    """

    compression: str | None = "gzip"
    inputs: bool = False
    project: bool = False
    class_names: tuple[str, ...] | None = None
    data_format: str | None = None

    kind = "hdf5"

    def __post_init__(self):
        if self.data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(f'data_format is "channels_last" or "channels_first". Received: {self.data_format!r}.')
        if self.compression not in (None, "gzip", "lzf"):
            raise ValueError(f'compression is "gzip", "lzf" or None. Received: {self.compression!r}.')

    @property
    def with_inputs(self):
        return self.inputs or self.project

    def outputs(self):
        stem, folder = self.target.stem, self.target.parent
        inputs = [folder / f"{stem}.input.h5"] if self.with_inputs else []
        project = [folder / f"{stem}.label-map.json", folder / "project.yaml"] if self.project else []
        return [*inputs, *project, self.target]

    def check(self, graph):
        if self.project and len(graph.input_slots) > 1:
            raise ValueError(
                f"ViRelAy shows datasets with one input, and the model has {len(graph.input_slots)}: leave out "
                f"project=True."
            )

    def write(self, folder, staging, origin, progress):
        specs = staging.specs()
        label = virelay.label_dtype(staging) if "label" in specs else None
        with contextlib.ExitStack() as opened:
            file, writer = opened.enter_context(_hdf5_file(folder / self.target.name))
            columns = {}
            for name, ((count, *shape), dtype) in specs.items():
                if not name.startswith("input"):
                    columns[name] = self._column(file, name, count, shape, label if name == "label" else dtype)
            inputs = {}
            if self.with_inputs:
                second, _ = opened.enter_context(_hdf5_file(folder / f"{self.target.stem}.input.h5"))
                for name in (n for n in specs if n.startswith(("input", "label"))):
                    (_, *shape), dtype = specs[name]
                    dtype, new = (label, "label") if name == "label" else (dtype, name.replace("input", "data", 1))
                    inputs[name] = self._column(second, new, staging.samples, shape, dtype)
            done = 0
            for batch in staging.batches():
                rows = slice(done, done + len(batch["index"]))
                for name, column in columns.items():
                    column[rows] = self._rows(name, batch[name], column.dtype)
                for name, column in inputs.items():
                    column[_selector(batch["index"])] = self._rows(name, batch[name], column.dtype)
                done = rows.stop
                if writer.error:
                    raise writer.error
                progress()
            for name, value in origin.items():
                file.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value)
        if self.project:
            virelay.write_project(self, folder, specs, origin)

    def _column(self, file, name, count, shape, dtype):
        """A dataset for the rows of an array."""
        kind = name.split("/")[0]
        if kind in ("attribution", "data"):
            shape = virelay.three_axes(np.empty((0, *shape), bool), self._data_format()).shape[1:]
        dtype = {"index": np.dtype("uint32"), "label": dtype}.get(kind, np.dtype("float32"))
        rows = max(1, min(count, CHUNK // max(1, dtype.itemsize * math.prod(shape))))
        options = {"compression": self.compression, "shuffle": True} if self.compression else {}
        if self.compression == "gzip":
            # Relevance hardly gets smaller with more effort.
            options["compression_opts"] = 1
        return file.create_dataset(name, (count, *shape), dtype, chunks=(rows, *shape), **options)

    def _rows(self, name, array, dtype):
        if name.split("/")[0] in ("attribution", "input"):
            array = virelay.three_axes(array, self._data_format())
        return array > 0 if dtype.kind == "b" else array.astype(dtype)

    def _data_format(self):
        return self.data_format or keras.config.image_data_format()

    def origin(self):
        import h5py

        try:
            with h5py.File(self.target, "r") as file:
                stored = {name: file.attrs[name] for name in file.attrs}
        # What a damaged file leads to depends on where the damage is.
        except (OSError, KeyError, RuntimeError, ValueError):
            return {}
        return _whole({name: _parsed(value) for name, value in stored.items()})


def _whole(origin) -> dict:
    """What an output says of its run; empty where it does not say what every run writes."""
    says = isinstance(origin, dict) and isinstance(origin.get("failures"), dict) and "samples" in origin
    return origin if says else {}


def _parsed(value):
    if isinstance(value, str) and value[:1] in "[{n":
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value


def _selector(index):
    """Rows of an HDF5 dataset: a slice where they are successive, which is faster."""
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index


@contextlib.contextmanager
def _hdf5_file(path):
    """A new HDF5 file on a disk that may run full, and the `_SteadyWriter` under it."""
    import h5py

    # This version of the format has no limit to the length of attributes.
    with _SteadyWriter(path) as writer, h5py.File(writer, "w", libver=("v108", "v108")) as file:
        yield file, writer


class _SteadyWriter(io.RawIOBase):
    """A binary file whose writes raise no errors before it is closed.

    HDF5 cannot close a file after a write to it has failed, and brings the process down in the end. So writes succeed
    as far as it can see. The `error` of the first one that did not is raised when the file is closed.
    """

    def __init__(self, path):
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self.error = None

    def readable(self):
        return True

    def writable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()

    def readinto(self, buffer):
        return self._file.readinto(buffer)

    def write(self, data):
        rest = memoryview(data).cast("B")
        while rest and not self.error:
            rest = rest[self._tried(self._file.write, rest) or 0 :]
        return len(memoryview(data).cast("B"))

    def truncate(self, size=None):
        self._tried(self._file.truncate, size)
        return size

    def _tried(self, function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            self.error = self.error or error

    def close(self):
        if not self.closed:
            super().close()
            self._tried(os.fsync, self._file.fileno())
            self._file.close()

    def __exit__(self, kind, error, trace):
        self.close()
        if self.error and kind is None:
            raise self.error


@dataclasses.dataclass(frozen=True)
class Zarr(Sink):
    """A Zarr group with the arrays `attribution`, `prediction`, `label` and `index`, as the analyzer gives them.

    With several inputs or outputs `attribution` and `prediction` are groups; `:` and other characters of names that
    Windows does not allow are percent-encoded. Attributes say where the results come from, and what failed. Needs
    zarr: `pip install "revgraph[zarr]"`.

    Args:
        path: The directory.
        inputs: Write the inputs too.
    """

    inputs: bool = False

    kind = "zarr"

    def __post_init__(self):
        _zarr()

    @property
    def with_inputs(self):
        return self.inputs

    def write(self, folder, staging, origin, progress):
        group = _zarr().open_group(folder / self.target.name, mode="w")
        columns = {}
        for name, ((count, *shape), dtype) in staging.specs().items():
            rows = max(1, min(count, CHUNK // max(1, dtype.itemsize * math.prod(shape))))
            columns[name] = group.create_array(
                _in_files(name, "/"), shape=(count, *shape), chunks=(rows, *(max(1, n) for n in shape)), dtype=dtype
            )
        done = 0
        for batch in staging.batches():
            for name, array in batch.items():
                columns[name][done : done + len(array)] = array
            done += len(batch["index"])
            progress()
        group.attrs.update(origin)
        _sync(folder / self.target.name)

    def origin(self):
        try:
            return _whole(dict(_zarr().open_group(self.target, mode="r").attrs))
        # What a damaged file leads to depends on where the damage is.
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def _zarr():
    try:
        import zarr
    except ImportError as error:
        raise ImportError('Zarr outputs need zarr, on Python 3.11 or newer: pip install "revgraph[zarr]".') from error
    if not hasattr(zarr.Group, "create_array"):
        raise ImportError(
            f'Zarr outputs need zarr 3 or newer: pip install "revgraph[zarr]". There is {zarr.__version__}.'
        )
    return zarr


def _sync(folder):
    """Has all files of a directory written to the disk."""
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(path)
