"""What several processes gain on a dataset: throughput, start-up, and what a batch costs besides its computation."""

import tempfile
import time
from pathlib import Path

import numpy as np

import revgraph
from benchmarks import programs
from benchmarks.networks import network, samples
from revgraph.datasets.engines import engine_of
from revgraph.datasets.runs import to_the_end
from revgraph.datasets.sinks import NpyShards
from revgraph.datasets.tasks import Task
from revgraph.datasets.work import Work

PAUSE = 0.05
"""Seconds that a batch takes in `stub`."""


class Sleeping(Work):
    """In the place of a model: a batch takes `PAUSE` seconds, and none of the processor's time."""

    def _compute(self, batch):
        time.sleep(PAUSE)
        return [np.zeros_like(batch.inputs[0])], []

    def _arrays(self, batch, relevance, outputs):
        return {"index": batch.index, "attribution": relevance[0]}


class Stamped:
    """The rows of an array so many times. It notes when each batch was read, which is when another one was finished."""

    def __init__(self, batch, count):
        self.batch, self.times = batch, []
        self.shape = (len(batch) * count, *batch.shape[1:])

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        self.times.append(time.perf_counter())
        return self.batch


def dataset_workers(name, method, batch, batches, workers, engine=None, image_size=None):
    """Samples per second of `explain_dataset`, and seconds until the first batch is finished."""
    model = network(name, image_size)
    analyzer = programs.make_analyzer(method, model)
    rows = Stamped(samples(model, batch), batches)
    options = {"batch_size": batch, "verbose": 0, "workers": workers, "engine": engine}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        revgraph.explain_dataset(analyzer, rows, Path(folder) / "out", **options)
    return _rates(rows, start, batch, engine_of(engine, workers).ahead)


def stub(name, method, batch, batches, workers, engine=None, image_size=None):
    """The same where a batch takes `PAUSE` seconds and no core: what is left is the cost of handing it around."""
    model = network(name, image_size)
    analyzer = programs.make_analyzer(method, model)
    rows = Stamped(samples(model, batch), batches)
    with tempfile.TemporaryDirectory() as folder:
        output = NpyShards(Path(folder) / "out")
        task = Task.of("stub", analyzer, rows, output, None, batch, None, "record", None)
        chosen, start = engine_of(engine, workers), time.perf_counter()
        to_the_end(task, output, None, False, 0, Sleeping(analyzer, None), chosen)
    found = _rates(rows, start, batch, chosen.ahead)
    per_batch = batch * workers / found["samples_per_second"]
    return {**found, "seconds": per_batch, "overhead": per_batch - PAUSE}


def _rates(rows, start, batch, ahead):
    """Samples per second over the second half of a run, when all workers are there."""
    half = len(rows.times) // 2
    seconds = (rows.times[-1] - rows.times[half]) / (len(rows.times) - 1 - half)
    return {"samples_per_second": batch / seconds, "startup": rows.times[ahead + 1] - start}
