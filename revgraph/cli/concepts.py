"""`revgraph concepts`: its commands. Each takes the parsed options."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from revgraph import concepts
from revgraph.analyzers.inputs import flat_inputs
from revgraph.cli.answers import UsageError, tell, wrong
from revgraph.cli.commands import analyzer_of, place, progress, selection_of, target_of_all
from revgraph.cli.inputs import (
    check_names,
    class_names,
    items,
    output_index,
    preprocessing,
    selection_of_class,
    targets,
)
from revgraph.concepts.collection import how_many
from revgraph.datasets import open_dataset
from revgraph.datasets.explain import predictor
from revgraph.saving.names import file_name

SHOWN = 4
"""So many channels are shown where none are named."""


def collect(options: Namespace) -> None:
    """`revgraph concepts collect`."""
    preprocess, names = preprocessing(options), class_names(options)
    analyzer = analyzer_of(options)
    check_names(options, names, analyzer.graph, output_index(analyzer.graph, options.output))
    dataset = _dataset(options, options.data, analyzer, preprocess, names)
    try:
        with progress(options) as verbose:
            found = concepts.collect(
                analyzer,
                dataset,
                options.layers,
                options.out,
                target_of_all(options, analyzer.graph, names or getattr(dataset, "class_names", None)),
                options.batch_size,
                n=options.samples,
                over=options.over,
                shares=options.shares,
                # Without --resume an interrupted run is neither replaced nor continued by accident.
                resume=bool(options.resume),
                overwrite=options.overwrite,
                on_failure="raise" if options.stop_on_failure else "record",
                model_path=options.model,
                verbose=verbose,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; finished batches are kept: go on with --resume") from None
    failures = {str(index): why for index, why in found.failures.items()}
    told = {"out": options.out, "samples": len(found.index) + len(failures), "layers": found.layers}
    tell(options, {**told, "failures": failures}, found)


def show(options: Namespace) -> None:
    """`revgraph concepts show`."""
    found = concepts.Collection(options.file)
    if options.layer is None:
        if options.out or options.channels:
            raise UsageError(f"--layer is missing. There are {', '.join(found.layers)}.")
        channels = {layer: found.relevance(layer).shape[1] for layer in found.layers}
        tell(options, {"samples": len(found.index), "channels": channels}, found)
        return
    usual = _usual(found, options.layer)
    with wrong("--channels"):
        chosen = list(found.channels(options.layer, options.channels or usual))
    if options.out is not None:
        _draw(options, found, chosen)
        return
    ranking, samples = found.ranking(options.layer, options.by, options.of_class), how_many(found, options.samples)
    rows = []
    for channel in chosen:
        kept = ranking.samples[:samples, channel]
        values = ranking.values[:samples, channel]
        rows.append({"channel": channel, "samples": kept.tolist(), options.by: values.tolist()})
    lines = []
    for row in rows:
        pairs = zip(row["samples"], row[options.by], strict=True)
        shown = ", ".join(f"{sample} ({value:.3g})" for sample, value in pairs)
        lines.append(f"channel {row['channel']}: samples by {options.by}: {shown}")
    tell(options, {"layer": found.path_of(options.layer), "channels": rows}, "\n".join(lines))


def _usual(found, layer):
    """The channels with the largest mean share of relevance."""
    return np.argsort(-found.mean_shares(layer), kind="stable")[:SHOWN]


def _draw(options, found, channels):
    """Writes a picture of the samples of channels."""
    if options.model is None or options.data is None:
        raise UsageError("--out draws samples, which needs --model and --data.")
    _refuse(options.out, options.overwrite)
    options.method = options.method or found.origin["method"]
    analyzer = analyzer_of(options)
    dataset = _dataset(options, options.data, analyzer, preprocessing(options), class_names(options))
    drawn = concepts.references(
        found, options.layer, channels, analyzer, dataset, by=options.by, of_class=options.of_class, n=options.samples,
        unit=not options.whole,
    )  # fmt: skip
    picture = drawn.plot(heatmaps=options.heatmaps, **({"crop": None, "mask": None} if options.whole else {}))
    _save(picture, Path(options.out), options.overwrite)
    tell(options, {"out": options.out, "channels": channels}, f"wrote {options.out}")


def graph(options: Namespace) -> None:
    """`revgraph concepts graph`."""
    preprocess, names = preprocessing(options), class_names(options)
    if options.out is not None:
        _refuse(options.out, options.overwrite)
    analyzer = analyzer_of(options)
    output = output_index(analyzer.graph, options.output)
    check_names(options, names, analyzer.graph, output)
    samples = items(options.inputs, analyzer.graph, options.size, preprocess)
    if len(samples) != 1:
        raise UsageError(f"{options.inputs[0]!r} has {len(samples)} samples, and a graph is that of one.")
    (item,) = samples
    y = predictor(analyzer)(flat_inputs(item.x, analyzer.graph))[output][0]
    chosen = targets(options.target, y, names)
    if len(chosen) != 1:
        raise UsageError(f"--target {options.target}: a graph is that of one class, such as top1.")
    widths = options.widths if len(options.widths) > 1 else options.widths[0]
    selection = selection_of(analyzer.graph, output, selection_of_class(chosen[0], names, len(y)))
    found = concepts.graph(
        analyzer, item.x, options.layers, selection, concepts=options.concepts, widths=widths, around=options.around
    )
    if options.out is not None:
        _save(found.plot(), Path(options.out), options.overwrite)
    nodes = [{"layer": n.layer, "channel": n.channel, "relevance": float(n.relevance)} for n in found.nodes]
    edges = [{"from": e.lower, "to": e.upper, "relevance": float(e.relevance)} for e in found.edges]
    text = f"{found}" if options.out is None else f"{found}\nwrote {options.out}"
    tell(options, {"nodes": nodes, "edges": edges, "out": options.out}, text)


def clusters(options: Namespace) -> None:
    """`revgraph concepts clusters`."""
    asked = {"k": options.k} if options.k else {}
    found = concepts.clusters(
        options.file, options.out, variant=options.variant, by=None if options.by == "none" else options.by,
        classes=options.of_class, neighbors=options.neighbors, eigenvalues=options.eigenvalues,
        picture=None if options.picture == "none" else options.picture, input_name=options.input,
        overwrite=options.overwrite, **asked,
    )  # fmt: skip
    written = [str(found.path)]
    for label, each in found.strategies.items():
        if options.figures:
            path = Path(options.figures) / f"{file_name(each.name)}.png"
            _save(found.plot(label), path, options.overwrite)
            written.append(str(path))
    told = {each.name: {"samples": len(each.rows), "strategies": each.suggested, "clusters": list(each.clusters)}
            for each in found.strategies.values()}  # fmt: skip
    lines = [f"{found}", *(f"wrote {name}" for name in written)]
    if found.project is not None:
        lines.append(f"{found.project} names the analysis; ViRelAy shows it")
    tell(options, {"classes": told, "files": written}, "\n".join(lines))


def _dataset(options, data, analyzer, preprocess, names):
    return open_dataset(
        data, analyzer, size=options.size, preprocess=preprocess, inputs=options.inputs, labels=options.labels,
        class_names=names,
    )  # fmt: skip


def _refuse(path, overwrite):
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Pass overwrite=True to replace it, or another --out.")


def _save(picture, path, overwrite):
    """Writes a picture, which gets its name when it is whole."""
    place({path: picture._repr_png_()}, overwrite)
