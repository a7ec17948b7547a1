"""Sinks: the files to which the results of a run are written, as `.npy` shards, HDF5, Zarr or CSV."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from revgraph.class_names import check_names, units_of
from revgraph.datasets import containers, hdf5, virelay
from revgraph.datasets.csv_sink import CSV
from revgraph.datasets.outputs import PROVENANCE, Sink, noted
from revgraph.datasets.staging import Staging
from revgraph.graph import Graph
from revgraph.graph.arguments import check_count
from revgraph.graph.types import PathLike
from revgraph.saving.names import file_name

AXES = "axes"
"""The attribute of an HDF5 dataset that says how many axes its samples had before they were stored."""


OTHER_FORMATS = (
    ".arrow", ".feather", ".gz", ".json", ".mat", ".parquet", ".pickle", ".pkl", ".pt", ".tar", ".tfrecord", ".tsv",
    ".txt", ".xlsx", ".zip",
)  # fmt: skip
"""Endings of files in formats that runs do not write."""


def sink(where: PathLike | Sink) -> Sink:
    """The sink for a path: HDF5 for `.h5`, Zarr for `.zarr`, CSV for `.csv`, a directory of `.npy` shards for others.

    Raises:
        TypeError: It is neither a path nor a sink.
        ValueError: It is the path of a single `.npy` or `.npz` file, or of a file of another format.
    """
    if isinstance(where, Sink):
        return where
    if not isinstance(where, str | os.PathLike):
        raise TypeError(
            f"sink is a path, or HDF5(path), NpyShards(path), Zarr(path) or CSV(path). Received: {where!r}."
        )
    suffix = Path(where).suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return HDF5(where)
    if suffix == ".zarr":
        return Zarr(where)
    if suffix == ".csv":
        return CSV(where)
    if suffix in OTHER_FORMATS:
        raise ValueError(
            f"The output {str(where)!r} would be a directory of .npy shards, and no {suffix} file, which revgraph does "
            f"not write. Name a file that ends in .h5, .zarr or .csv, or for shards a directory."
        )
    if suffix in (".npy", ".npz"):
        raise ValueError(
            f"The output {str(where)!r} would be one {suffix} file. Shards of .npy go to a directory: name one, such "
            f"as {str(Path(where).with_suffix(''))!r}, or a file that ends in .h5 or .zarr."
        )
    return NpyShards(where)


@dataclasses.dataclass(frozen=True)
class NpyShards(Sink):
    """A directory with `attribution-00000.npy`, `prediction-00000.npy`, `label-00000.npy`, `index-00000.npy` and so on.

    Arrays have the shapes that the analyzer returns. With several inputs or outputs their names are part of the file
    names, such as `attribution.image-00000.npy`. Characters that Windows does not allow, such as `:`, are
    percent-encoded. `provenance.json` says where the arrays come from, and which samples failed.

    Args:
        path: The directory.
        shard_size: Samples per file.
        inputs: Write the inputs too.
    """

    shard_size: int = 1024
    inputs: bool = False

    kind: ClassVar[str] = "npy"

    def __post_init__(self) -> None:
        check_count("shard_size", self.shard_size)

    @property
    def with_inputs(self) -> bool:
        return self.inputs

    def write(self, folder: Path, staging: Staging, origin: dict[str, Any], progress: Callable[[], Any]) -> None:
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
        containers.sync(folder)

    def origin(self) -> dict[str, Any]:
        return noted(self.target / PROVENANCE)


def _in_files(name: str, separator: str) -> str:
    """The name of an array, such as `attribution/image`, as part of the name of a file."""
    return separator.join(map(file_name, name.split("/", 1)))


class _Shards:
    """The rows of one array, in files of equal length."""

    def __init__(self, folder, name, size, count, spec):
        (_, *self.shape), self.dtype = spec
        self.folder, self.name, self.size, self.rest = folder, _in_files(name, "."), size, count
        self.number = self.room = 0
        self.file: Any = None

    def append(self, rows: np.ndarray) -> None:
        """Writes rows, (rows, ...)."""
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

    def close(self) -> None:
        """Closes the last file."""
        if self.file:
            self.file.close()


@dataclasses.dataclass(frozen=True)
class HDF5(Sink):
    """An HDF5 file that ViRelAy and CoRelAy read.

    It has `attribution` float32 (samples, channels, height, width), `prediction` float32 (samples, classes), `label`
    uint16 (samples,) or bool (samples, classes), and `index` uint32 (samples,), the positions in the dataset of the
    samples that did not fail. With several inputs or outputs `attribution` and `prediction` are groups. Attributes say
    where the results come from, and which samples failed. Without labels in the dataset `label` is the predicted class.

    Args:
        path: The file.
        compression: `"gzip"`, `"lzf"`, or None.
        inputs: Also write `NAME.input.h5` with `data` and `label` of all samples.
        project: Also write `project.yaml`, which ViRelAy opens, `NAME.label-map.json` and `NAME.input.h5`.
        class_names: Names of the classes, for the label map: one for each output, or two for the single output of a
            binary classifier.
        data_format: Where samples have their channels: `"channels_last"` or `"channels_first"`; Keras's setting by
            default.

    Raises:
        ValueError: An option is illegal.
    """

    compression: str | None = "gzip"
    inputs: bool = False
    project: bool = False
    class_names: tuple[str, ...] | None = None
    data_format: str | None = None

    kind: ClassVar[str] = "hdf5"

    def __post_init__(self):
        if self.data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(f'data_format is "channels_last" or "channels_first". Received: {self.data_format!r}.')
        if self.compression not in (None, "gzip", "lzf"):
            raise ValueError(f'compression is "gzip", "lzf" or None. Received: {self.compression!r}.')

    @property
    def with_inputs(self) -> bool:
        return self.inputs or self.project

    @property
    def inputs_path(self) -> Path:
        """The file for the inputs."""
        return self.target.with_name(f"{self.target.stem}.input.h5")

    def outputs(self) -> list[Path]:
        stem, folder = self.target.stem, self.target.parent
        inputs = [self.inputs_path] if self.with_inputs else []
        project = [folder / f"{stem}.label-map.json", folder / "project.yaml"] if self.project else []
        return [*inputs, *project, self.target]

    def check(self, graph: Graph) -> None:
        check_names(self.class_names, units_of(graph))
        if self.project and len(graph.input_slots) > 1:
            raise ValueError(
                f"ViRelAy shows datasets with one input, and the model has {len(graph.input_slots)}: leave out "
                f"project=True."
            )

    def write(self, folder: Path, staging: Staging, origin: dict[str, Any], progress: Callable[[], Any]) -> None:
        specs = staging.specs()
        if "label" in specs:
            specs["label"] = specs["label"][0], virelay.label_dtype(staging)
        with contextlib.ExitStack() as opened:
            file, writer = opened.enter_context(hdf5.created(folder / self.target.name))
            columns = {}
            for name, ((count, *shape), dtype) in specs.items():
                if not name.startswith("input"):
                    columns[name] = self._column(file, name, count, shape, dtype)
            inputs = {}
            if self.with_inputs:
                second, _ = opened.enter_context(hdf5.created(folder / self.inputs_path.name))
                for name in (n for n in specs if n.startswith(("input", "label"))):
                    (_, *shape), dtype = specs[name]
                    new = name.replace("input", "data", 1)
                    inputs[name] = self._column(second, new, staging.samples, shape, dtype)
            done = 0
            for batch in staging.batches():
                rows = slice(done, done + len(batch["index"]))
                for name, column in columns.items():
                    column[rows] = self._rows(name, batch[name], column.dtype)
                for name, column in inputs.items():
                    column[selector(batch["index"])] = self._rows(name, batch[name], column.dtype)
                done = rows.stop
                if writer.error:
                    raise writer.error
                progress()
            hdf5.note(file, origin)
        if self.project:
            virelay.write_project(self, folder, specs, origin)

    def _column(self, file, name, count, shape, dtype):
        """A dataset for the rows of an array."""
        kind, axes = name.split("/")[0], len(shape)
        if kind in ("attribution", "data"):
            shape = virelay.three_axes(np.empty((0, *shape), bool), self._data_format()).shape[1:]
        dtype = {"index": np.dtype("uint32"), "label": dtype, "ledger": dtype}.get(kind, np.dtype("float32"))
        rows = max(1, min(count, containers.CHUNK // max(1, dtype.itemsize * math.prod(shape))))
        options = {"compression": self.compression, "shuffle": True} if self.compression else {}
        if self.compression == "gzip":
            # Relevance hardly gets smaller with more effort.
            options["compression_opts"] = 1
        column = file.create_dataset(name, (count, *shape), dtype, chunks=(rows, *shape), **options)
        # An image with one channel has the same shape as a time series, if this is not said.
        column.attrs[AXES] = axes
        return column

    def _rows(self, name, array, dtype):
        if name.split("/")[0] in ("attribution", "input"):
            array = virelay.three_axes(array, self._data_format())
        return array > 0 if dtype.kind == "b" else array.astype(dtype)

    def _data_format(self):
        return self.data_format or keras.config.image_data_format()

    def origin(self) -> dict[str, Any]:
        return hdf5.noted(self.target)


def selector(index: np.ndarray) -> slice | np.ndarray:
    """Rows of an HDF5 dataset, in ascending order. Successive ones are a slice, because that is faster."""
    if not len(index):
        return index
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index


@dataclasses.dataclass(frozen=True)
class Zarr(Sink):
    """A Zarr group with the arrays `attribution`, `prediction`, `label` and `index`.

    Arrays have the shapes that the analyzer returns. With several inputs or outputs `attribution` and `prediction` are
    groups. Characters of names that Windows does not allow, such as `:`, are percent-encoded. Attributes say where the
    results come from, and which samples failed. Needs zarr: `pip install "revgraph[zarr]"`.

    Args:
        path: The directory.
        inputs: Write the inputs too.
    """

    inputs: bool = False

    kind: ClassVar[str] = "zarr"

    def __post_init__(self):
        containers.zarr_package()

    @property
    def with_inputs(self) -> bool:
        return self.inputs

    def write(self, folder: Path, staging: Staging, origin: dict[str, Any], progress: Callable[[], Any]) -> None:
        with containers.created(folder / self.target.name) as made:
            columns = {
                name: made.array(_in_files(name, "/"), shape, dtype) for name, (shape, dtype) in staging.specs().items()
            }
            done = 0
            for batch in staging.batches():
                for name, array in batch.items():
                    columns[name][done : done + len(array)] = array
                done += len(batch["index"])
                progress()
            made.note(origin)

    def origin(self) -> dict[str, Any]:
        return containers.noted(self.target)
