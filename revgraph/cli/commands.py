"""The commands that need TensorFlow. Each takes the parsed options and may return an exit code."""

import contextlib
import importlib
import io
import json
import logging
import os
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np
import tensorflow as tf

import revgraph
from revgraph.analyzers.analyzer import Analyzer, Unsupported
from revgraph.analyzers.inputs import flat_inputs
from revgraph.class_names import gives_logits, is_binary, predicted, units_of, value_of_class
from revgraph.cli.answers import UsageError, tell, wrong
from revgraph.cli.inputs import (
    check_names,
    class_index,
    class_names,
    items,
    named_class,
    output_index,
    preprocessing,
    selection_of_class,
    targets,
)
from revgraph.cli.pictures import pictures
from revgraph.composites import NotAnalyzeableModelException
from revgraph.datasets import CSV, HDF5, NpyShards, Zarr, open_dataset
from revgraph.datasets.csv_tables import feature_names
from revgraph.datasets.explain import predictor
from revgraph.datasets.sinks import sink as sink_of
from revgraph.graph import Graph
from revgraph.graph.types import Selection
from revgraph.reverse.ledger import FIELDS
from revgraph.saving.names import file_name
from revgraph.saving.provenance import plain, provenance, rules

tf.get_logger().setLevel(logging.ERROR)


def explain(options: Namespace) -> None:
    """`revgraph explain`."""
    preprocess, names = preprocessing(options), class_names(options)
    analyzer = analyzer_of(options)
    output = output_index(analyzer.graph, options.output)
    check_names(options, names, analyzer.graph, output)
    samples = items(options.inputs, analyzer.graph, options.size, preprocess)
    out = Path(options.out)
    if not options.overwrite:
        _refuse_existing(out, samples)
    origin, predict = provenance(analyzer, options.model), predictor(analyzer)
    # Two names for more outputs than one are refused above.
    logits = gives_logits(analyzer.model, output) if names is not None and len(names) == 2 else None
    results = []
    for item in samples:
        y = predict(flat_inputs(item.x, analyzer.graph))[output][0]
        if not np.isfinite(y).all():
            raise ValueError(f"The output for {item.name!r} is not finite: its values, or the model's, are not.")
        chosen = targets(options.target, y, names)
        explained = []
        for index in chosen:
            stem = item.stem if len(chosen) == 1 else f"{item.stem}.{index}"
            target = {} if index is None else named_class(index, _value(y, index, names, logits), names)
            # A class of an output with more axes has no index.
            selected = selection_of_class(index, names, units_of(analyzer.graph, output))
            told = _explain_one(analyzer, item, selection_of(analyzer.graph, output, selected), options)
            files = told.pop("contents")
            told = {"target": target, **told, "files": [str(out / f"{stem}.{end}") for end in (*files, "json")]}
            record = {**origin, "input": item.name, **told}
            files["json"] = json.dumps(record, indent=1).encode()
            place({out / f"{stem}.{end}": content for end, content in files.items()}, options.overwrite)
            explained.append(told)
        prediction = None
        if y.ndim == 1:
            (chosen_class,), (value,) = predicted(y[None], names, logits)
            prediction = named_class(chosen_class, value, names)
        results.append({"input": item.name, "prediction": prediction, "explained": explained})
        if not options.json:
            _print_explained(results[-1])
    if options.json:
        tell(options, {"model": options.model, "method": analyzer.name, "results": results}, None)


def _value(y, index, names, logits):
    """The value of a class in the output y of a sample, (units,)."""
    if not is_binary(names, len(y)):
        return y[index]
    return value_of_class(y, np.array([index]), logits)[0]


def _explain_one(analyzer, item, selection, options):
    """The results for one target, with the contents of its files by the endings of their names."""
    relevance = analyzer.analyze(item.x, selection)
    names = analyzer.graph.input_names
    flat = dict(zip(names if len(names) > 1 else [""], keras.tree.flatten(relevance), strict=True))
    if not all(np.isfinite(array).all() for array in flat.values()):
        raise ValueError(f"The relevance of {item.name!r} is not finite: its values, or the model's, are not.")
    contents = {}
    for name, array in flat.items():
        contents[f"{name and f'{file_name(name)}.'}relevance.npy"] = _npy(array[0])
    if item.picture is not None:
        drawn = pictures(item.picture, flat[""][0], options.cmap, options.percentile)
        contents |= {f"{name}.png": png for name, png in drawn.items()}
    told: dict[str, Any] = {"relevance": float(sum(array.sum(dtype="float64") for array in flat.values()))}
    report = _ledger(analyzer, item.x, selection)
    if report is not None:
        told["conservation"] = {name: float(getattr(report, name)[0]) for name in FIELDS}
        told["adds_up"] = report.note is None
    return {**told, "contents": contents}


def _ledger(analyzer, x, selection):
    """The ledger of one sample, which says where relevance went; None for methods that have none."""
    try:
        return analyzer.conservation(x, selection)
    except Unsupported:
        return None


def _print_explained(result):
    print(result["input"])
    if result["prediction"] is not None:
        print(f"  predicted: {_shown(result['prediction'])}")
    for told in result["explained"]:
        if told["target"]:
            print(f"  explained: {_shown(told['target'])}")
        ledger = told.get("conservation")
        if ledger and told["adds_up"]:
            share = f" ({ledger['input'] / ledger['start']:.1%})" if ledger["start"] else ""
            print(
                f"  conservation: {ledger['start']:.4g} at the start, {ledger['input']:.4g} found at the input{share}, "
                f"{', '.join(f'{name} {ledger[name]:.3g}' for name in FIELDS[2:])}"
            )
        elif ledger:
            print(f"  relevance: adds up to {told['relevance']:.4g}; this method gives no shares of the output")
        else:
            print(f"  conservation: not defined for this method; its values add up to {told['relevance']:.4g}")
        for path in told["files"]:
            print(f"  wrote {path}")


def _shown(target):
    name = f"{target['name']} ({target['index']})" if "name" in target else f"class {target['index']}"
    return f"{name}, output {target['value']:.4g}"


def explain_dataset(options: Namespace) -> None:
    """`revgraph explain-dataset`."""
    preprocess, names = preprocessing(options), class_names(options)
    where = _sink(options, names)
    analyzer = analyzer_of(options)
    if isinstance(where, CSV) and Path(options.data).suffix.lower() == ".csv" and Path(options.data).is_file():
        where = CSV(options.out, feature_names(Path(options.data), analyzer.graph, options.labels))
    check_names(options, names, analyzer.graph, output_index(analyzer.graph, options.output))
    dataset = open_dataset(
        options.data, analyzer, size=options.size, preprocess=preprocess, inputs=options.inputs, labels=options.labels,
        class_names=names,
    )  # fmt: skip
    try:
        with progress(options) as verbose:
            report = revgraph.explain_dataset(
                analyzer,
                dataset,
                where,
                target_of_all(options, analyzer.graph, names or getattr(dataset, "class_names", None)),
                options.batch_size,
                # Without --resume an interrupted run is neither replaced nor continued by accident.
                resume=bool(options.resume),
                overwrite=options.overwrite,
                on_failure="raise" if options.stop_on_failure else "record",
                ledger=options.ledger,
                model_path=options.model,
                verbose=verbose,
                workers=options.workers,
                engine=options.engine,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; finished batches are kept: go on with --resume") from None
    failures = {str(index): why for index, why in report.failures.items()}
    told = {"out": options.out, "samples": report.samples, "explained": report.explained, "failures": failures}
    text = report if failures else f"{report.path}: all {report.samples} samples explained"
    tell(options, {**told, "resumed": report.resumed}, text)


def _sink(options, names):
    if Path(options.out).suffix.lower() in (".h5", ".hdf5"):
        classes = None if names is None else tuple(names)
        return HDF5(options.out, inputs=options.with_inputs, project=options.project, class_names=classes)
    if options.project:
        raise UsageError("--project goes with an HDF5 output: --out FILE.h5.")
    where = sink_of(options.out)
    if isinstance(where, CSV):
        if options.with_inputs:
            raise UsageError("--with-inputs goes with other outputs: --out FILE.h5, NAME.zarr or a directory.")
        return where
    return {Zarr: Zarr, NpyShards: NpyShards}[type(where)](options.out, inputs=options.with_inputs)


def target_of_all(options: Namespace, graph: Graph, names: Sequence[str] | None) -> Selection:
    """The selection for a whole dataset."""
    output = output_index(graph, options.output)
    if options.target in ("top1", "label"):
        chosen: int | str | None = None if options.target == "top1" else "label"
    elif re.fullmatch(r"top\d+", options.target):
        raise UsageError(f"--target {options.target}: a dataset is explained for one class per sample, such as top1.")
    else:
        count = units_of(graph, output)
        # Directories name the classes if there is one for each.
        fit = names and (len(names) == count or is_binary(names, count))
        chosen = class_index(options.target, names if fit else None, count)
        chosen = selection_of_class(chosen, names, count)
    return selection_of(graph, output, chosen)


def selection_of(graph: Graph, output: int, chosen: Any) -> Selection:
    """What is explained, for one of the outputs."""
    return chosen if len(graph.output_names) == 1 else {graph.output_names[output]: chosen}


@contextlib.contextmanager
def progress(options: Namespace) -> Iterator[int]:
    """Shows Keras's progress bar on stderr: in colour if that is wanted, and updated only on terminals."""
    if options.json:
        yield 0
    else:
        with _bars_on(sys.stderr) as verbose:
            yield verbose


@contextlib.contextmanager
def _bars_on(stream):
    """Prints Keras's progress bars to a stream, with the verbosity that fits it."""
    plain_text = "NO_COLOR" in os.environ or not stream.isatty()
    with contextlib.redirect_stdout(_Uncoloured(stream) if plain_text else stream):
        yield 1 if stream.isatty() else 2


class _Uncoloured(io.TextIOBase):
    """A stream of text without the sequences that colour it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(re.sub(r"\x1b\[[0-9;]*m", "", text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def check(options: Namespace) -> int:
    """`revgraph check`."""
    model = model_of(options)
    with _wrong_parameters(options):
        report = revgraph.check(model, options.method, **dict(options.param))
    tell(options, report.to_dict(), report)
    return 0 if report.supported else 1


def summary(options: Namespace) -> None:
    """`revgraph summary`."""
    analyzer = analyzer_of(options)
    told = {"model": options.model, "method": analyzer.name, "rules": rules(analyzer)}
    tell(options, told, analyzer.summary())


def export(options: Namespace) -> None:
    """`revgraph export`."""
    analyzer = analyzer_of(options)
    path = analyzer.export(options.out, version=options.serving_version, overwrite=options.overwrite)
    told = {"out": str(path), "method": analyzer.name}
    tell(options, told, f"{path}: {analyzer.name} of {analyzer.graph.name!r}")


def demo(options: Namespace) -> None:
    """`revgraph demo`."""
    from revgraph import demo as digits

    with _bars_on(sys.stderr if options.json else sys.stdout) as verbose:
        results = digits.run(Path(options.out), options.epochs or digits.EPOCHS, verbose)
    if options.json:
        fields = ("name", "milliseconds", "found", "error")
        told = [{name: plain(getattr(result, name)) for name in fields} for result in results]
        tell(options, {"out": options.out, "results": told}, None)


def model_of(options: Namespace) -> Any:
    """The model that the options name."""
    return revgraph.load_model(options.model, options.signature, not options.unsafe, _custom_objects(options))


def _custom_objects(options):
    """The classes and functions of the module that `--custom-objects` names, by name."""
    name = options.custom_objects
    if name is None:
        return None
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"--custom-objects {name}: it cannot be imported: {error}") from error
    return {key: value for key, value in vars(module).items() if callable(value)}


def analyzer_of(options: Namespace) -> Analyzer:
    """The analyzer that the options ask for."""
    model = model_of(options)
    with _wrong_parameters(options):
        return revgraph.create_analyzer(options.method, model, **dict(options.param))


@contextlib.contextmanager
def _wrong_parameters(options):
    """Turns errors of a method's parameters into errors of the command line."""
    try:
        yield
    except NotAnalyzeableModelException:
        raise
    except (TypeError, KeyError, ValueError):
        if not options.param:
            raise
        with wrong("--param"):
            raise


def _npy(array):
    """The content of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _refuse_existing(out, samples):
    """Raises an error, before anything is computed, if there are files of these samples."""
    for item in samples:
        for path in out.glob("*.relevance.npy"):
            if path.name.startswith(f"{item.stem}."):
                raise FileExistsError(f"{str(path)!r} exists. Pass overwrite=True to replace it, or another --out.")


def place(files: dict[Path, bytes], overwrite: bool) -> None:
    """Writes files that get their names when all of them are whole."""
    existing = [path for path in files if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{str(existing[0])!r} exists. Pass overwrite=True to replace it, or another --out.")
    out = next(iter(files)).parent
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".revgraph-") as folder:
        for path, content in files.items():
            try:
                Path(folder, path.name).write_bytes(content)
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}; nothing of it is kept", str(path)) from error
        for path in files:
            os.replace(Path(folder, path.name), path)
