"""What is measured, one function per measurement, each run in a process of its own."""

import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import revgraph
from benchmarks import programs
from benchmarks.memory import peak
from benchmarks.networks import network, samples
from benchmarks.peers.protocol import one_line, open_answers
from benchmarks.profiling import profile
from benchmarks.timing import Effort, against, interleaved, seconds, spread
from benchmarks.workers import dataset_workers, stub

GRADIENT = "plain gradient"


def ratios(name, batch, methods, effort, image_size=None, **options):
    """Seconds of `analyze` beside those of the plain gradient."""
    model = network(name, image_size)
    x = samples(model, batch)
    analyzers = {method: programs.make_analyzer(method, model, **options) for method in methods}
    explain = {method: programs.explain(analyzer, x) for method, analyzer in analyzers.items()}
    gradient = programs.gradient(model, x)
    references, times, found = against(gradient, explain, Effort(**effort))
    times, found = {GRADIENT: references, **times}, {GRADIENT: [1.0], **found}
    rows = [
        {
            "method": method,
            **spread(found[method], "ratio"),
            **spread(seconds, "seconds"),
            "rounds": len(seconds),
        }
        for method, seconds in times.items()
    ]
    return {"rows": rows}


def memory(name, batch, methods, image_size=None, **options):
    """Peak memory of `analyze` beside that of the plain gradient."""
    model = network(name, image_size)
    x = samples(model, batch)
    of_gradient = peak(programs.gradient(model, x))
    rows = [{"method": GRADIENT, "megabytes": of_gradient, "memory": 1.0}]
    for method in methods:
        taken = peak(programs.explain(programs.make_analyzer(method, model, **options), x))
        rows.append({"method": method, "megabytes": taken, "memory": taken / of_gradient})
    return {"rows": rows}


def first_call(name, method, image_size=None):
    """Seconds until the first result, by part."""
    model = network(name, image_size)
    x = samples(model, 1)
    if method == GRADIENT:
        return {"create": 0.0, "analyze": seconds(lambda: programs.gradient(model, x)()), "sites": None}
    start = time.perf_counter()
    analyzer = programs.make_analyzer(method, model)
    created = time.perf_counter()
    analyzer.analyze(x)
    sites = len(analyzer.graph.sites)
    return {"create": created - start, "analyze": time.perf_counter() - created, "sites": sites}


def overhead(name, method, effort, batch=1, image_size=None):
    """What `analyze` adds to the compiled function that it calls."""
    model = network(name, image_size)
    x = samples(model, batch)
    analyzer = programs.make_analyzer(method, model)
    functions = {"analyze": programs.explain(analyzer, x), "bare": programs.compiled(analyzer, x)}
    times = interleaved(functions, Effort(**effort))
    added = [a - b for a, b in zip(times["analyze"], times["bare"], strict=True)]
    return {**spread(added, "overhead"), **spread(times["analyze"], "seconds"), **spread(times["bare"], "bare")}


def targets(name, method, effort, count=10, batch=1, image_size=None):
    """Several targets in one call, as a share of one call each."""
    model = network(name, image_size)
    x = samples(model, batch)
    analyzer = programs.make_analyzer(method, model)
    together = np.tile(np.arange(count), (batch, 1))

    def one_by_one():
        for target in range(count):
            analyzer.analyze(x, neuron_selection=target)

    times = interleaved(
        {"together": lambda: analyzer.analyze(x, neuron_selection=together), "one by one": one_by_one}, Effort(**effort)
    )
    shares = [a / b for a, b in zip(times["together"], times["one by one"], strict=True)]
    return {
        **spread(shares, "share"),
        **spread(times["together"], "seconds"),
        **spread(times["one by one"], "one_by_one"),
    }


def conditions(name, method, effort, count=64, batch=1, image_size=None):
    """Relevance through each of some channels of the last convolution in one call, beside as many calls without."""
    model = network(name, image_size)
    x = samples(model, batch)
    analyzer = programs.make_analyzer(method, model)
    layer = [each.name for each in model.layers if len(each.output.shape) == 4 and hasattr(each, "activation")][-1]
    each = [{layer: [channel]} for channel in range(min(count, model.get_layer(layer).output.shape[-1]))]

    def one_by_one():
        for _ in each:
            analyzer.analyze(x, programs.TARGET)

    # A channel without relevance is warned of, and takes as long as others.
    warnings.filterwarnings("ignore", message="No relevance arrives")
    times = interleaved(
        {"together": lambda: analyzer.analyze(x, programs.TARGET, conditions=each), "one by one": one_by_one},
        Effort(**effort),
    )
    shares = [a / b for a, b in zip(times["together"], times["one by one"], strict=True)]
    return {
        "layer": layer,
        **spread(shares, "share"),
        **spread(times["together"], "seconds"),
        **spread(times["one by one"], "one_by_one"),
    }


def throughput(name, method, effort, batch, batches, image_size=None):
    """Samples per second over a dataset, beside those of the bare compiled function."""
    model = network(name, image_size)
    analyzer = programs.make_analyzer(method, model)
    stored = (samples(model, batch * batches) * 255).astype("uint8")
    dataset = tf.data.Dataset.from_tensor_slices(stored).map(_scaled, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch).prefetch(2)
    bare = programs.compiled(analyzer, _scaled(stored[:batch]).numpy(), None)

    def run_bare():
        for _ in range(batches):
            bare()

    times = interleaved({"dataset": lambda: analyzer.analyze(dataset), "bare": run_bare}, Effort(**effort))
    shares = [b / a for a, b in zip(times["dataset"], times["bare"], strict=True)]
    rates = [batch * batches / t for t in times["dataset"]]
    return {**spread(shares, "share"), **spread(rates, "samples_per_second")}


def _scaled(image):
    return tf.cast(image, tf.float32) / 255


def collect(name, method, effort, batch, batches, image_size=None):
    """The time of `concepts.collect` over the last block, as a multiple of that of `explain_dataset`."""
    model = network(name, image_size)
    analyzer = programs.make_analyzer(method, model)
    x = samples(model, batch * batches)
    with tempfile.TemporaryDirectory() as folder:
        runs, short = (
            {what: run(analyzer, data, batch, Path(folder) / what) for what, run in RUNS.items()}
            for data in (x, x[:batch])
        )
        times = interleaved(runs, Effort(**effort), before=short)
    ratios = [a / b for a, b in zip(times["concepts"], times["relevance"], strict=True)]
    rates = [batch * batches / t for t in times["concepts"]]
    return {"samples": batch * batches, **spread(ratios, "ratio"), **spread(rates, "samples_per_second")}


def _relevance(analyzer, x, batch, out):
    return lambda: revgraph.explain_dataset(analyzer, x, f"{out}.h5", batch_size=batch, overwrite=True, verbose=0)


def _concepts(analyzer, x, batch, out):
    convolutions = [layer.name for layer in analyzer.model.layers if isinstance(layer, keras.layers.Conv2D)]
    options = {"batch_size": batch, "overwrite": True, "verbose": 0}
    return lambda: revgraph.concepts.collect(analyzer, x, convolutions[-3:], f"{out}.h5", **options)


RUNS = {"relevance": _relevance, "concepts": _concepts}
"""Runs over a dataset that are written to a file."""


def dataset_memory(name, method, batch, batches, what="relevance", image_size=None):
    """Megabytes by which the process grows while a dataset is explained, or concepts are collected, into a file."""
    model = network(name, image_size)
    analyzer = programs.make_analyzer(method, model)
    one = samples(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        RUNS[what](analyzer, one, None, Path(folder) / "first")()
        dataset = tf.data.Dataset.from_tensors(one).repeat(batches)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        RUNS[what](analyzer, dataset, None, Path(folder) / "second")()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"megabytes": grown / (2**20 if sys.platform == "darwin" else 2**10), "samples": batch * batches}


def xla(name, method, batch, effort, image_size=None):
    """The same analyzer compiled by XLA: how long that takes, how fast it is, and how far the results are apart."""
    model = network(name, image_size)
    x = samples(model, batch)
    plain = programs.make_analyzer(method, model)
    compiled = programs.make_analyzer(method, model, jit_compile=True)
    expected = plain.analyze(x, neuron_selection=programs.TARGET)
    start = time.perf_counter()
    found = compiled.analyze(x, neuron_selection=programs.TARGET)
    first = time.perf_counter() - start
    _, times, found_ratios = against(
        programs.explain(plain, x), {"xla": programs.explain(compiled, x)}, Effort(**effort)
    )
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {
        "first_call": first,
        "difference": difference,
        **spread(found_ratios["xla"], "ratio"),
        **spread(times["xla"], "seconds"),
    }


JOBS = {
    job.__name__: job
    for job in (
        ratios,
        memory,
        first_call,
        overhead,
        targets,
        conditions,
        throughput,
        collect,
        dataset_memory,
        xla,
        profile,
        dataset_workers,
        stub,
    )
}


def main():
    answer = open_answers()
    question = json.loads(sys.argv[1])
    try:
        answer(JOBS[question["job"]](**question["arguments"]))
    except Exception as error:
        answer({"error": one_line(error)})
        raise


if __name__ == "__main__":
    main()
