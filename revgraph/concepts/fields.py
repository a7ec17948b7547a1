"""Receptive fields: which entries of the inputs a position of a layer depends on."""

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from revgraph.graph.analysis import Facts
from revgraph.graph.graph import Graph
from revgraph.graph.loops import Loop
from revgraph.graph.operations import Affine, Embedding, Normalize, Opaque

_UNKNOWN = (TypeError, ValueError, LookupError, NotImplementedError, tf.errors.OpError)
"""What an operation raises that cannot be probed. Then all of its inputs count."""


def receptive_field(graph: Graph, inputs: Sequence[np.ndarray], slot: int, position: Sequence[int]) -> list[np.ndarray]:
    """Which entries of the inputs the channels of a tensor at one position depend on.

    Each operation between is asked: weights are replaced by ones, so that no weight that happens to be zero hides an
    entry. An operation whose slope depends on its input, such as a maximum, is asked on several inputs: ramps in all
    directions, so that every corner of a window has the maximum once, and noise. So the smallest box around the entries
    is the receptive field. Where an operation cannot be asked, all of its inputs count.

    Args:
        graph: The graph of the model.
        inputs: One sample as a flat list of inputs, (1, ...) each. Only sizes and what depends on no slope count.
        slot: The tensor, (batch, ..., channels).
        position: The position, one int for each axis between.

    Returns:
        For each input a boolean array (1, ...), True at the entries.
    """
    values = {s: v.numpy() for s, v in graph.run(inputs).items()}
    start = np.zeros(values[slot].shape, bool)
    start[(0, *position)] = True
    reached, facts = {slot: start}, Facts(graph)
    for site in reversed(graph.sites):
        behind = [reached.get(s) for s in site.outputs]
        if all(mask is None or not mask.any() for mask in behind):
            continue
        for below, mask in zip(site.inputs, _behind(graph, site, values, behind, facts), strict=True):
            reached[below] = reached[below] | mask if below in reached else mask
    return [reached.get(s, np.zeros(values[s].shape, bool)) for s in graph.input_slots]


def box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the True entries of a boolean array, one slice per axis; empty if there are none."""
    slices = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        slices.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, 0))
    return tuple(slices)


def _behind(graph, site, values, masks, facts):
    """For each input of a site the entries on which the outputs depend where their masks are True."""
    inputs = [values[s] for s in site.inputs]
    depends = [s in facts.dependent or s in facts.integers for s in site.inputs]
    everything = [np.full(x.shape, needed) for x, needed in zip(inputs, depends, strict=True)]
    operation = site.operation
    if isinstance(operation, Loop | Opaque):
        return everything
    if isinstance(operation, Embedding):
        (mask,) = masks
        return [mask.any(axis=-1).reshape(inputs[0].shape), *everything[1:]]
    try:
        return _probed(operation, inputs, depends, masks, graph.dtype)
    except _UNKNOWN:
        return everything


def _probed(operation, inputs, depends, masks, dtype):
    """The entries with a slope on one of several inputs."""
    found = [np.zeros(x.shape, bool) for x in inputs]
    actual = [
        tf.cast(x, dtype) if needed else tf.convert_to_tensor(x) for x, needed in zip(inputs, depends, strict=True)
    ]
    weights = operation.weights(dtype, actual)
    linear = isinstance(operation, Affine) and not isinstance(operation, Normalize)
    if linear:
        weights = {name: tf.ones_like(w) if w.dtype.is_floating else w for name, w in weights.items()}
    rng = np.random.default_rng(0)
    # The slopes of all entries have one sign, and noise keeps them from cancelling.
    seeds = [None if m is None else tf.cast(m * rng.uniform(0.5, 1.5, m.shape), dtype) for m in masks]
    for probe in [actual] if linear else _probes(actual, depends, rng, dtype):
        watched = [x for x, needed in zip(probe, depends, strict=True) if needed]
        with tf.GradientTape(persistent=False) as tape:
            tape.watch(watched)
            pairs = zip(operation(probe, weights), seeds, strict=True)
            total = [tf.reduce_sum(y * seed) for y, seed in pairs if seed is not None and y.dtype.is_floating]
        slopes = iter(tape.gradient(total, watched))
        for mask, needed in zip(found, depends, strict=True):
            slope = next(slopes) if needed else None
            if slope is not None:
                mask |= tf.convert_to_tensor(slope).numpy() != 0
    return found


def _probes(actual, depends, rng, dtype):
    """Inputs on which an operation is asked: ramps between 1 and 2 in all directions, and noise around 0."""

    def with_all(make):
        return [tf.cast(make(x.shape), dtype) if needed else x for x, needed in zip(actual, depends, strict=True)]

    axes = max((x.shape.rank - 2 for x, needed in zip(actual, depends, strict=True) if needed), default=0)
    for signs in itertools.product((1, -1), repeat=max(axes, 0)):

        def ramp(shape, signs=signs):
            ramps = np.zeros(shape)
            for axis, sign in zip(range(1, len(shape) - 1), signs, strict=False):
                along = np.linspace(0, 1, shape[axis])[::sign]
                ramps = ramps + along.reshape(-1, *(1,) * (len(shape) - 1 - axis))
            # Entries that are equal would share, and only one of them might be found.
            return 1 + ramps / max(len(signs), 1) + 1e-3 * rng.uniform(size=shape) / max(shape)

        yield with_all(ramp)
    for _ in range(2):
        yield with_all(lambda shape: rng.normal(size=shape))
