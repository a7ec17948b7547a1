"""`explain`: the relevance of a dataset of Ray Data, as another dataset of Ray Data."""

import functools
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.analyzers import Analyzer, create_analyzer, load_analyzer
from revgraph.datasets.actors import connect
from revgraph.datasets.engines import packed_work, unpacked_work
from revgraph.datasets.explain import Explanations
from revgraph.datasets.rows import LABEL, Explainer, Output, Rows, fits
from revgraph.datasets.served import Served, is_explainer
from revgraph.datasets.work import Work
from revgraph.extras import needed
from revgraph.graph.arguments import check_count, check_number
from revgraph.graph.types import PathLike
from revgraph.reverse.sides import SIDES
from revgraph.reverse.walk import input_spec
from revgraph.saving.archives import is_archive
from revgraph.saving.provenance import hash_of_files, now, plain, provenance, versions

if TYPE_CHECKING:
    import ray.data

__all__ = ["explain"]


def explain(
    dataset: "ray.data.Dataset",
    analyzer: Analyzer | PathLike,
    *,
    columns: str | Mapping[str, str],
    id_column: str,
    concurrency: int | tuple[int, int],
    neuron_selection: int | str | Mapping[str, int | str | None] | None = None,
    label_column: str | None = None,
    batch_size: int = 32,
    num_cpus: float = 1,
    num_gpus: float = 0,
    on_error: str = "raise",
    ledger: bool = False,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> "ray.data.Dataset":
    """Explains a dataset of Ray Data. Nothing is computed before the result is read or written.

    The result has a row for each row of the dataset, in any order. Actors compute it, the processes of a Ray cluster;
    each loads the model once. One that dies is replaced by Ray, and its rows are computed again. The result has these
    columns:

    * the id column: the ids, as they were;
    * `relevance`: float32, in the shape of the sample; `relevance/NAME` for each of several inputs;
    * `prediction`: the model's output; `prediction/NAME` for each of several outputs;
    * `target`: the position in the flattened output that is explained; `target/NAME` for each of several outputs that
      are explained. For an output of one unit it is the class, 1 or with `"negative"` 0;
    * `ledger/start` and so on: with `ledger=True` the columns of `Analyzer.conservation`, in total;
    * `error`: with `on_error="record"` the reason why a sample failed; empty for others;
    * `provenance`: where the numbers come from, as JSON. It is the same text in each row, which a Parquet file holds
      once.

    A run that is killed goes on if Ray Data notes which ids are in files. Each row is then written once:

        config = ray.data.checkpoint.CheckpointConfig(id_column="id", checkpoint_path="/data/checkpoint")
        ray.data.DataContext.get_current().checkpoint_config = config

    The dataset must be read from files, and written to files. `checkpoint_path` must be on a disk that all machines
    see. Checkpoints hold one more core.

    Args:
        dataset: The dataset.
        analyzer: An analyzer; or the path of a file of `analyzer.save`, of a directory of `analyzer.export`, which
            workers run with TensorFlow alone, or of a model. Models of SavedModels, and what `analyzer.export` wrote,
            are read by each machine, so the path must lead to them everywhere.
        columns: The column that holds the input, or a dict from the name of each of several inputs to its column.
        id_column: The column that tells rows apart.
        concurrency: Number of actors, or the smallest and the largest number.
        neuron_selection: What to explain: None for the largest output, the index of a class, `"positive"` or
            `"negative"` for an output of one unit, `"label"` for the class in `label_column`; for several outputs a
            dict of these by output name.
        label_column: The column that has the class of each sample.
        batch_size: Number of samples that are computed at once.
        num_cpus: Number of cores of each actor. At least one core of the cluster must be left for reading and writing.
        num_gpus: Number of GPUs of each actor; several actors share one where it is less than 1.
        on_error: A sample fails if it cannot be used, or if its values or its relevance are not finite. `"raise"` ends
            the run with its id. `"record"` notes the reason; its relevance and its prediction are NaN and its target
            is -1.
        ledger: Also compute where the relevance of each sample went. It takes several times as long.
        method: The name of the method, as in `create_analyzer`, if a path is that of a model.
        options: The arguments of the method by name.

    Returns:
        The dataset of results, `ray.data.Dataset`.

    Raises:
        ImportError: Ray is not installed.
        TypeError: An argument is of a wrong type, or the analyzer cannot be sent to other processes.
        ValueError: An argument is out of range, or does not fit the others.
        KeyError: There is no such column, input, or output.
        FileNotFoundError: There is no such path.

    Example:

        from revgraph.datasets.ray import explain

        images = ray.data.read_parquet("images")  # columns id, image
        found = explain(images, analyzer, columns="image", id_column="id", concurrency=4, on_error="record")
        found.write_parquet("relevance")
    """
    data = needed("ray.data", "revgraph.datasets.ray")
    if not isinstance(dataset, data.Dataset):
        raise TypeError(
            f"dataset is a ray.data.Dataset, such as ray.data.read_parquet(...) makes. Received: "
            f"{type(dataset).__name__}. `revgraph.explain_dataset` takes other datasets."
        )
    sizes = _checked_numbers(concurrency, batch_size, num_cpus, num_gpus)
    if on_error not in ("raise", "record"):
        raise ValueError(f'on_error is "raise" or "record". Received: {on_error!r}.')
    work, load, origin = _work(analyzer, neuron_selection, ledger, method, options)
    inputs, outputs = _signature(work)
    _check_selection(neuron_selection, outputs, label_column, isinstance(work, Served))
    rows = Rows(
        _taken(columns, inputs), inputs, outputs, id_column, label_column, neuron_selection, on_error == "record",
        json.dumps({**origin, "neuron_selection": plain(neuron_selection)}),
    )  # fmt: skip
    ray = needed("ray", "revgraph.datasets.ray")
    connect(ray)
    _check_columns(dataset, rows, ledger)
    cores = ray.cluster_resources().get("CPU", 0)
    if sizes[0] * num_cpus > cores - 1:
        warnings.warn(
            f"{sizes[0]} actors with {num_cpus} cores each leave none of the cluster's {cores:g} cores for reading and "
            f"writing, which may then wait without end. Pass a lower concurrency= or num_cpus=, unless it grows.",
            stacklevel=2,
        )
    return dataset.map_batches(
        Explainer,
        fn_constructor_args=(load, rows, max(1, int(num_cpus))),
        batch_size=batch_size,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(min_size=sizes[0], max_size=sizes[1]),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def _checked_numbers(concurrency, batch_size, num_cpus, num_gpus):
    """The smallest and the largest number of actors."""
    sizes = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    for size in sizes:
        check_count("concurrency", size)
    if len(sizes) != 2 or sizes[0] > sizes[1]:
        raise ValueError(
            f"concurrency is the number of actors, or a tuple of the smallest and the largest number. Received: "
            f"{concurrency!r}."
        )
    check_count("batch_size", batch_size)
    check_number("num_cpus", num_cpus, above=0)
    check_number("num_gpus", num_gpus, least=0)
    return sizes


def _work(
    analyzer: Any, selection: Any, ledger: bool, method: str | None, options: Mapping[str, Any] | None
) -> tuple[Work, Callable[[], Work], dict[str, Any]]:
    """What is computed, what makes it in another process, and where its numbers come from."""
    is_path = isinstance(analyzer, str | os.PathLike)
    if not is_path and not isinstance(analyzer, Analyzer):
        raise TypeError(f"analyzer is an analyzer, or a path. Received: {analyzer!r}.")
    if is_path and not Path(analyzer).exists():
        raise FileNotFoundError(f"There is no file or directory {os.fspath(analyzer)!r}.")
    is_served = is_path and is_explainer(analyzer)
    is_model = is_path and not is_served and not is_archive(analyzer)
    if not is_model and not (method is None and options is None):
        raise ValueError(
            f"method= and options= are for the path of a model, and {analyzer!r} has a method already. Received: "
            f"{method!r}, {options!r}."
        )
    if is_served:
        if ledger:
            raise ValueError(f"An exported explainer has no ledger. Received ledger=True with {os.fspath(analyzer)!r}.")
        path = Path(analyzer).resolve()
        origin = {
            "explainer": str(path),
            "explainer_sha256": hash_of_files(path),
            "versions": versions(),
            "time": now(),
        }
        return Served(path, selection), functools.partial(Served, path, selection), origin
    if is_model:
        if method is None:
            raise ValueError(
                f"{os.fspath(analyzer)!r} is a model: pass the name of a method, such as "
                f'method="lrp.epsilon_plus_flat".'
            )
        analyzer = create_analyzer(method, analyzer, **(options or {}))
    elif is_path:
        analyzer = load_analyzer(analyzer)
    work = Explanations(analyzer, selection, inputs=False, ledger=ledger, class_names=None)
    # Classes of a script or a notebook cannot be imported elsewhere, so Ray's pickles hold their code.
    packed = packed_work(work, needed("ray", "revgraph.datasets.ray").cloudpickle.dumps)
    return work, functools.partial(unpacked_work, packed), provenance(analyzer)


def _signature(work: Work) -> tuple[dict[str, Any], dict[str, Output]]:
    """The specification of each input, and the shape of each output without the batch axis, by name."""
    if isinstance(work, Served):
        return work.inputs, {name: tuple(spec.shape[1:]) for name, spec in work.outputs.items()}
    graph = work.graph
    inputs = [input_spec(graph, slot) for slot in graph.input_slots]
    outputs = [graph.specs[slot].shape[1:] for slot in graph.output_slots]
    return dict(zip(graph.input_names, inputs, strict=True)), dict(zip(graph.output_names, outputs, strict=True))


def _check_selection(selection, outputs, label_column, is_served):
    several = len(outputs) > 1
    if several != isinstance(selection, Mapping):
        takes = "a dict by output name" if several else "no dict"
        raise ValueError(
            f"There {'are' if several else 'is'} {len(outputs)} output{'s' * several} "
            f"({', '.join(map(repr, outputs))}), so neuron_selection is {takes}. Received: {selection!r}."
        )
    if several and (not selection or not selection.keys() <= outputs.keys()):
        raise KeyError(f"The outputs are {', '.join(map(repr, outputs))}. Received: {selection!r}.")
    parts = [(selection[name] if several else selection, outputs[name]) for name in (selection if several else outputs)]
    for part, shape in parts:
        _check_part(part, shape, is_served)
    by_label = any(part == LABEL for part, _ in parts)
    if by_label != (label_column is not None):
        raise ValueError(
            f'neuron_selection="label" and label_column= go together. Received: {selection!r} and {label_column!r}.'
        )


def _check_part(part, shape, is_served):
    """Checks what is selected of one output."""
    units = None if None in shape else functools.reduce(lambda a, b: a * b, shape, 1)
    if part is None:
        return
    if np.ndim(part):
        raise TypeError(
            f"neuron_selection is one selection for all rows. Received: {type(part).__name__}. For a class for each "
            f'row put the classes into a column, and pass neuron_selection="label" and label_column= the name of it.'
        )
    is_position = isinstance(part, int | np.integer) and not isinstance(part, bool)
    if not (is_position or part in (*SIDES, LABEL)):
        raise ValueError(
            f'neuron_selection is None, an int, "positive", "negative", "label", or for several outputs a dict of '
            f"these. Received: {part!r}."
        )
    if is_position and (part < 0 or (units is not None and part >= units)):
        raise ValueError(f"neuron_selection is a position in the output, whose shape is {shape}. Received: {part}.")
    if part in SIDES and units != 1:
        raise ValueError(f"{part!r} is a class of an output of one unit, and the shape is {shape}. Pass an int.")
    if part == LABEL and len(shape) != 1:
        raise ValueError(f'"label" selects a class of an output (batch, classes), and the shape is (batch, *{shape}).')
    if is_served and (part in SIDES or (part == LABEL and units == 1)):
        raise ValueError(
            f"An exported explainer explains its only unit, and not the two classes that it tells apart. Received: "
            f"{part!r}. Pass an analyzer, or neuron_selection=0."
        )


def _taken(columns, inputs):
    """The column of each input, in the order of the inputs."""
    if isinstance(columns, str) and len(inputs) == 1:
        return [columns]
    names = ", ".join(map(repr, inputs))
    if not isinstance(columns, Mapping):
        raise TypeError(
            f"columns is the name of a column, or for several inputs a dict from input to column. The inputs are "
            f"{names}. Received: {columns!r}."
        )
    if columns.keys() != inputs.keys():
        raise KeyError(f"columns needs a column for each input, which are {names}. Received: {columns!r}.")
    return [columns[name] for name in inputs]


def _check_columns(dataset, rows, ledger):
    """Checks the columns of a dataset, as far as its schema says what they hold."""
    arrow = needed("pyarrow", "revgraph.datasets.ray")
    schema = dataset.schema()
    if schema is None:
        raise ValueError("The dataset is empty.")
    types = dict(zip(schema.names, schema.types, strict=True))
    labels = [] if rows.label_column is None else [rows.label_column]
    missing = [name for name in (rows.id_column, *rows.taken, *labels) if name not in types]
    if missing:
        raise KeyError(f"The dataset has no column {missing[0]!r}. Its columns are {', '.join(map(repr, types))}.")
    if rows.id_column in rows.names(ledger):
        raise ValueError(f"The result has a column {rows.id_column!r} of its own. Rename the id column.")
    for column, (name, spec) in zip(rows.taken, rows.inputs.items(), strict=True):
        is_number = isinstance(types[column], arrow.DataType) and arrow.types.is_primitive(types[column])
        shape = () if is_number else getattr(types[column], "shape", None)
        if shape is not None and not fits(shape, spec.shape[1:]):
            raise ValueError(
                f"The samples in the column {column!r} have the shape {tuple(shape)}, and the input {name!r} takes "
                f"{tuple(spec.shape[1:])}."
            )
