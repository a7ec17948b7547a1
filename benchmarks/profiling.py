"""Where the time goes, by kind of call site, and the floor that operations and bytes set.

Every site's part of the compiled function runs under a name of its own; TensorFlow's profiler says how long the
operations of each name took. Beside the time of a kind stands its floor, the larger of two: the multiplications of its
convolutions and matrix products at the speed of a large matrix product, and the bytes that it must touch (inputs,
weights and outputs once forward; relevance, z, x and weights once backward) at the speed of memory.
"""

import collections
import concurrent.futures
import dataclasses
import math
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import programs
from benchmarks.networks import network, samples
from benchmarks.timing import seconds
from revgraph.graph.operations import Activation, Affine
from revgraph.reverse.conditions import NOTHING_MASKED
from revgraph.reverse.targets import make_targets
from revgraph.reverse.walk import Question

SITE = re.compile(r"site_(\d+)_(forward|backward)")
ELSEWHERE = "outside of sites"
BYTES = 4
EXECUTOR = frozenset({"Run", "Process"})
"""What the profiler reports of the executor itself, beside the operations that it runs."""


class Named:
    """A replacement layer whose operations carry the number of its site in their names."""

    def __init__(self, replacement, number):
        self.replacement = replacement
        self.number = number

    def __call__(self, *inputs, **known):
        with tf.name_scope(f"site_{self.number}_forward"):
            outputs, pullback = self.replacement(*inputs, **known)

        def pull(*relevance):
            with tf.name_scope(f"site_{self.number}_backward"):
                return pullback(*relevance)

        return outputs, dataclasses.replace(pullback, relevance=pull)


def profile(name, method, batch, runs=5, image_size=None, **options):
    """Milliseconds, operations and floor of each kind of site under a method."""
    # With operations side by side their times would not add up to that of the whole.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = network(name, image_size)
    x = samples(model, batch)
    analyzer = programs.make_analyzer(method, model, **options)
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    walk.reverse.replacements = tuple(Named(layer, i) for i, layer in enumerate(walk.reverse.replacements))
    shapes = [walk.graph.specs[slot].shape[1:] for slot in walk.question.starts]
    tensors = walk.tensors(make_targets(programs.TARGET, None, batch, walk.graph.output_names, shapes))
    # Of known shape, so that operations can be counted.
    program = tf.function(walk._trace_relevance, autograph=False).get_concrete_function(
        [tf.TensorSpec(x.shape, tf.float32)],
        [tuple(tf.TensorSpec(t.shape, t.dtype) for t in c) for c in tensors],
        NOTHING_MASKED,
    )
    arguments = [tf.constant(x)], tensors, NOTHING_MASKED
    whole, events = traced(lambda: program(*arguments), runs)
    machine = speed()
    kinds = [kind(b) for b in walk.reverse.bound]
    flops = multiplications(program.graph)
    linear = linear_sites(walk.graph)
    rows = collections.defaultdict(lambda: collections.Counter(operations=collections.Counter()))
    for site_kind, found in _by_kind(kinds, linear, events).items():
        rows[site_kind].update({f"{side}_ms": found[side] for side in ("forward", "backward")})
        rows[site_kind]["operations"] = found["operations"]
    for i, b in enumerate(walk.reverse.bound):
        row = rows[kinds[i]]
        touched = moved(walk.graph, b.site, batch)
        row["sites"] += 1
        row["gflop"] += flops[i] / 1e9
        row["megabytes"] += touched / 1e6
        row["floor_ms"] += 1e3 * max(flops[i] / machine["flops"], touched / machine["bytes"])
    return {
        "whole_ms": 1e3 * whole,
        "gflops": machine["flops"] / 1e9,
        "gigabytes": machine["bytes"] / 1e9,
        "rows": sorted(map(_row, rows.items()), key=lambda row: -row["forward_ms"] - row["backward_ms"]),
    }


def _row(item):
    name, found = item
    slowest = found["operations"].most_common(6)
    return {
        "kind": name,
        "sites": found["sites"],
        "forward_ms": float(found["forward_ms"]),
        "backward_ms": float(found["backward_ms"]),
        "gflop": float(found["gflop"]),
        "megabytes": float(found["megabytes"]),
        "floor_ms": float(found["floor_ms"]),
        "operations": dict(slowest),
    }


def kind(bound) -> str:
    """What a site computes, and its rule."""
    operation = bound.site.operation
    label = operation.label
    if isinstance(operation, Affine):
        window = operation.read("float32").get("kernel")
        if window is not None and window.shape.rank > 2:
            label += " " + "x".join(str(n) for n in window.shape[:-2])
    return f"{label}, {type(bound.rule).__name__}"


def traced(run, runs):
    """Seconds of a run, and seconds by name and kind of operation as the profiler sees them."""
    # Only this module of TensorFlow's reads what its profiler writes.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    run()
    run()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3, python_tracer_level=0)
        with tf.profiler.experimental.Profile(folder, options):
            whole = sorted(seconds(run) for _ in range(runs))[runs // 2]
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    events = collections.Counter()
    for plane in space.planes:
        names = {i: metadata.name for i, metadata in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            name, colon, operation = names[event.metadata_id].rpartition(":")
            if colon and re.fullmatch(r"_?[A-Z]\w*", operation) and operation not in EXECUTOR:
                events[name, operation] += event.duration_ps / 1e12 / runs
    return whole, events


def linear_sites(graph) -> dict[int, int]:
    """For each activation the site before it, with which TensorFlow fuses it under the activation's name."""
    number = {site: i for i, site in enumerate(graph.sites)}
    producers = graph.producers()
    return {
        number[site]: number[producers[site.inputs[0]]]
        for site in graph.sites
        if isinstance(site.operation, Activation) and site.inputs[0] in producers
    }


def _by_kind(kinds, linear, events):
    found = collections.defaultdict(lambda: {"forward": 0.0, "backward": 0.0, "operations": collections.Counter()})
    for (name, operation), duration in events.items():
        match = SITE.search(name)
        number = int(match[1]) if match else None
        if "Fused" in operation:
            number = linear.get(number, number)
        entry = found[kinds[number] if match else ELSEWHERE]
        # What the tape makes is named after what it differentiates.
        entry["backward" if not match or "gradient_tape" in name else match[2]] += 1e3 * duration
        entry["operations"][operation] += 1e3 * duration
    return found


def multiplications(graph) -> collections.Counter:
    """Floating-point operations of convolutions and matrix products by the number of their site."""
    flops = collections.Counter()
    outputs = [t.op.name for t in graph.outputs]
    used = {node.name for node in tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), outputs).node}
    for operation in graph.get_operations():
        match = SITE.search(operation.name)
        if match and operation.name in used:
            flops[int(match[1])] += _flops(operation)
    return flops


def _flops(operation):
    if operation.type in ("Conv2D", "DepthwiseConv2dNative"):
        image, kernel = operation.outputs[0], operation.inputs[1]
    elif operation.type in ("Conv2DBackpropInput", "DepthwiseConv2dNativeBackpropInput"):
        image, kernel = operation.inputs[2], operation.inputs[1]
    elif operation.type in ("MatMul", "BatchMatMulV2"):
        inner = operation.inputs[0].shape[-2 if operation.get_attr(_transposed(operation)) else -1]
        return 2 * _size(operation.outputs[0].shape) * (inner or 0)
    else:
        return 0
    height, width, channels, _ = kernel.shape
    return 2 * _size(image.shape) * height * width * (channels if operation.type.startswith("Conv") else 1)


def _transposed(operation):
    return "transpose_a" if operation.type == "MatMul" else "adj_x"


def _size(shape):
    return math.prod(n or 1 for n in shape)


def moved(graph, site, batch) -> int:
    """Bytes that a site must touch: everything once on each walk."""
    inputs, outputs = (
        sum(math.prod(n or batch for n in graph.specs[slot].shape) for slot in slots)
        for slots in (site.inputs, site.outputs)
    )
    weights = sum(_size(w.shape) for w in site.operation.weights("float32", _placeholders(graph, site)).values())
    forward = inputs + weights + outputs
    backward = 2 * inputs + weights + 2 * outputs
    return BYTES * (forward + backward)


def _placeholders(graph, site):
    return [tf.zeros([n or 1 for n in graph.specs[slot].shape]) for slot in site.inputs]


def speed() -> dict:
    """Floating-point operations per second of a large matrix product, and bytes per second of a large copy."""
    n = 3000
    a = tf.random.normal((n, n))
    product = min(seconds(lambda: tf.matmul(a, a).numpy()) for _ in range(6))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    source = np.ones((cores, 2**26), "float32")
    target = np.zeros_like(source)
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:

        def copy():
            list(pool.map(np.copyto, target, source))

        copied = min(seconds(copy) for _ in range(6))
    return {"flops": 2 * n**3 / product, "bytes": 2 * source.nbytes / copied}
