"""Datasets in files: directories of images, `.npy`, `.npz`, HDF5, TFRecord, CSV."""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.analyzers import Analyzer
from revgraph.class_names import check_names, units_of
from revgraph.datasets import csv_tables
from revgraph.datasets.images import SUFFIXES, Images
from revgraph.datasets.streams import Samples, Unreadable, reason
from revgraph.graph import Graph
from revgraph.graph.types import PathLike

INPUTS = ("x", "data", "inputs", "input", "images", "image", "x_test", "image/encoded", "image_raw")
"""Common names of inputs in files."""

LABELS = ("y", "label", "labels", "y_test", "target", "targets", "image/class/label")
"""Common names of labels in files."""


def open_dataset(
    path: PathLike,
    analyzer: Analyzer | Graph,
    *,
    size: tuple[int, int] | None = None,
    preprocess: Callable[[np.ndarray], Any] | None = None,
    inputs: str | None = None,
    labels: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Any:
    """Opens a dataset in files, for `explain_dataset`. Samples are read when they are needed.

    Args:
        path: A directory of images, whose subdirectories are the classes; a `.npy`, `.npz`, HDF5 or CSV file; or a
            TFRecord file, or a directory of them.
        analyzer: The analyzer, or the graph of its model. It determines the shape of the inputs.
        size: (width, height) to which images are resized.
        preprocess: Function from float32 inputs (batch, ...) to the model's input. Images are between 0 and 255 before
            it.
        inputs: Name of the array or feature that has the inputs. Common names are found by default, such as `x`, `data`
            and `image/encoded`. For models with several inputs the arrays have the names of the inputs.
        labels: Name of the array or feature that has the labels. The names in `LABELS` are found by default. Of a CSV
            file the column has to be named.
        class_names: Names of the subdirectories of images, in the order of the model's outputs. Two names go with the
            single output of a binary classifier. By default the subdirectories stand for the outputs in alphabetical
            order.

    Returns:
        A dataset that `explain_dataset` takes.

    Raises:
        FileNotFoundError: There is no such file or directory.
        ValueError: It is no dataset, is damaged, or has no array, feature or class of a given name.

    Example:

        preprocess = keras.applications.vgg16.preprocess_input
        dataset = open_dataset("images/", analyzer, size=(224, 224), preprocess=preprocess)
        revgraph.explain_dataset(analyzer, dataset, "relevance.h5")
    """
    graph = analyzer.graph if isinstance(analyzer, Analyzer) else analyzer
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or directory {str(path)!r}.")
    if path.is_dir():
        records = sorted(p for p in path.iterdir() if _is_tfrecord(p))
        if records:
            return Records(records, graph, size, preprocess, inputs, labels)
        check_names(class_names, units_of(graph))
        return ImageFolder(path, Images.of(graph, size, preprocess), class_names)
    if _is_tfrecord(path):
        return Records([path], graph, size, preprocess, inputs, labels)
    if path.suffix.lower() == ".csv":
        if inputs is not None:
            raise ValueError(
                f"All columns of {str(path)!r} but that of the labels are inputs: leave out inputs={inputs!r}."
            )
        x, y = csv_tables.table(path, graph, labels)
        x = x if preprocess is None else preprocess(x)
        return x if y is None else (x, y)
    return _arrays(path, graph, preprocess, inputs, labels)


class ImageFolder(Samples):
    """The images in a directory. If it has subdirectories, these are the classes.

    Args:
        path: The directory.
        images: The reader of images.
        class_names: See `open_dataset`.

    Raises:
        ValueError: There are no images, or a subdirectory is no name of a class.
    """

    seekable: bool = True

    def __init__(self, path: PathLike, images: Images, class_names: Sequence[str] | None = None):
        self.images = images
        path = Path(path)
        found = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        self.files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))
        if not self.files:
            raise ValueError(f"There are no images ({', '.join(SUFFIXES)}) in the directory {str(path)!r}.")
        self.length = len(self.files)
        classes = [p.relative_to(path).parts[0] for p in self.files if p.parent != path]
        self.labels: list[int | None] = [None] * self.length
        if len(classes) == self.length:
            self.class_names = sorted(set(classes)) if class_names is None else list(class_names)
            unknown = sorted(set(classes).difference(self.class_names))
            if unknown:
                raise ValueError(
                    f"The directory {str(path)!r} has {unknown[0]!r} in it, which is no name of a class. The names are "
                    f"{', '.join(map(repr, self.class_names[:20]))}{', ...' if len(self.class_names) > 20 else ''}."
                )
            numbers = {name: i for i, name in enumerate(self.class_names)}
            self.labels = [numbers[name] for name in classes]

    def samples(self, start: int = 0) -> Iterator[tuple[Any, Any] | Unreadable]:
        for path, label in zip(self.files[start:], self.labels[start:], strict=True):
            try:
                yield self.images.prepared(self.images.read(path)), label
            except Unreadable as error:
                yield error


class Records(Samples):
    """Records of `tf.train.Example` in TFRecord files.

    Args:
        files: The files.
        graph: The graph of the model.
        size, preprocess, inputs, labels: See `open_dataset`.

    Raises:
        ValueError: The model has several inputs.
    """

    def __init__(
        self,
        files: Sequence[Path],
        graph: Graph,
        size: tuple[int, int] | None = None,
        preprocess: Callable[[np.ndarray], Any] | None = None,
        inputs: str | None = None,
        labels: str | None = None,
    ):
        if len(graph.input_slots) > 1:
            raise ValueError(f"TFRecord is read for models with one input, and {graph.name!r} has several.")
        self.files, self.graph, self.inputs, self.labels = files, graph, inputs, labels
        self.size, self.preprocess = size, preprocess
        self.shape = graph.specs[graph.input_slots[0]].shape[1:]
        self._images: Images | None = None

    def samples(self, start: int = 0) -> Iterator[tuple[Any, Any] | Unreadable]:
        for path in self.files:
            packed = "GZIP" if path.suffix == ".gz" else ""
            number = 0
            try:
                for record in tf.data.TFRecordDataset(os.fspath(path), packed):
                    yield self._sample(record.numpy(), f"record {number} of {path.name}")
                    number += 1
            except tf.errors.DataLossError as error:
                raise ValueError(
                    f"The TFRecord file {str(path)!r} is damaged or cut short: {number} records can be read, and the "
                    f"next is: {reason(error)}"
                ) from error

    def _sample(self, record, where):
        try:
            features = tf.train.Example.FromString(record).features.feature
        except Exception as error:
            # The class of protobuf's error depends on how it was built.
            return Unreadable(f"{where} is no tf.train.Example: {reason(error)}")
        name = _chosen(self.inputs, features, INPUTS, "feature with the inputs", where)
        label = _chosen(self.labels, features, LABELS, "feature with the label", where, needed=False)
        try:
            return self._input(features[name], where), None if label is None else _numbers(features[label], where)[0]
        except Unreadable as error:
            return error

    def _input(self, feature, where):
        kind = feature.WhichOneof("kind")
        if kind != "bytes_list":
            values = _numbers(feature, where)
            if None in self.shape or values.size != np.prod(self.shape):  # type: ignore[arg-type]  # no None in it
                raise Unreadable(f"{where} has {values.size} values, which do not fit the model's input {self.shape}")
            values = values.reshape(self.shape)
            return values if self.preprocess is None else np.asarray(self.preprocess(values[None].copy()))[0]
        if self._images is None:
            self._images = Images.of(self.graph, self.size, self.preprocess)
        return self._images.prepared(self._images.decode(feature.bytes_list.value[0], where))


def _numbers(feature, where):
    kind = feature.WhichOneof("kind")
    if kind not in ("float_list", "int64_list"):
        raise Unreadable(f"{where} has no numbers where they are needed")
    values = getattr(feature, kind).value
    return np.array(values, np.float32 if kind == "float_list" else np.int64)


def _is_tfrecord(path):
    return path.is_file() and any(s in (".tfrecord", ".tfrecords") for s in _suffixes(path))


def _suffixes(path):
    # Shards are named train.tfrecord-00000-of-00010.
    return [suffix.split("-")[0].lower() for suffix in path.suffixes]


def _arrays(path, graph, preprocess, inputs, labels):
    """The arrays in a file: inputs, or a pair of inputs and labels."""
    try:
        stored = _stored(path)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} is no dataset, or is damaged ({reason(error)}). Datasets are directories of images, .npy, "
            f".npz, .h5, .csv and .tfrecord files."
        ) from error
    what, where = "array with the inputs", str(path)
    if len(graph.input_slots) == 1:
        (slot,) = graph.input_slots
        chosen = stored[_chosen(inputs, stored, INPUTS, what, where)]
        x: Any = _Rows(chosen, _preparation(chosen.shape, graph.specs[slot].shape, preprocess))
    else:
        x = {name: stored[_chosen(name, stored, (), what, where)] for name in graph.input_names}
    label = _chosen(labels, stored, LABELS, "array with the labels", where, needed=False)
    return (x, stored[label]) if label else x


def _chosen(name, names, known, what, where, needed=True):
    """The name that the user gives, or the first common one, or the only one."""
    names = list(names)
    if name is not None:
        if name not in names:
            raise ValueError(f"{where} has no {what} named {name!r}. It has {', '.join(map(repr, sorted(names)))}.")
        return name
    found = next((candidate for candidate in known if candidate in names), None)
    if found is None and needed and len(names) == 1:
        return names[0]
    if found is None and needed:
        raise ValueError(f"Which is the {what} in {where}? It has {', '.join(map(repr, sorted(names)))}.")
    return found


def _preparation(shape, expected, preprocess):
    """The functions that turn rows of arrays into the model's input."""
    steps: list[Callable[[np.ndarray], np.ndarray]] = []
    if len(shape) == len(expected) == 4 and not _fits(shape, expected):
        moved = (shape[0], *shape[2:], shape[1])
        if _fits(moved, expected):
            # HDF5 files for ViRelAy have their channels first.
            steps.append(lambda x: np.moveaxis(x, 1, -1))
    if preprocess is not None:
        steps.append(lambda x: np.asarray(preprocess(np.array(x, np.float32))))
    return steps


def _fits(shape, expected):
    return all(e in (None, s) for s, e in zip(shape[1:], expected[1:], strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of an array, each passed through functions when it is asked for."""

    array: Any
    steps: list[Callable[[np.ndarray], np.ndarray]]

    @property
    def shape(self):
        return self.array.shape

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        x = np.asarray(self.array[rows])
        for step in self.steps:
            x = step(x)
        return x


def _stored(path: Path) -> dict[str, Any]:
    """The arrays in a file by name. Rows are read when they are asked for."""
    if path.suffix == ".npy":
        return {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): ArchivedArray(path, name) for name in names}
    import h5py

    file = h5py.File(path, "r")
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


class ArchivedArray:
    """An array in a `.npz` file. Only the rows that are asked for are in memory.

    Args:
        path: The file.
        member: Name of the array in it, with the ending `.npy`.

    Raises:
        ValueError: It holds Python objects, or its rows are scattered.
    """

    def __init__(self, path: PathLike, member: str):
        self._archive = zipfile.ZipFile(path)
        self._file = self._archive.open(member)
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = read(self._file)
        if self.dtype.hasobject:
            raise ValueError(f"{member} holds Python objects, not numbers")
        if fortran and len(self.shape) > 1:
            raise ValueError(f"{member} has its rows scattered (Fortran order): save it with np.ascontiguousarray")
        self._start = self._file.tell()

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        with contextlib.suppress(zipfile.BadZipFile, zlib.error, EOFError):
            self._file.seek(self._start + start * row)
            data = self._file.read((stop - start) * row)
            if len(data) == (stop - start) * row:
                return np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])
        raise ValueError(f"{self._archive.filename!r} is damaged or cut short: rows {start} to {stop - 1} are missing.")
