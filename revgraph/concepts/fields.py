"""Receptive fields: which entries of the inputs a position of a layer depends on."""

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from revgraph.canonize.passes import prune, split_activations
from revgraph.graph.analysis import Facts
from revgraph.graph.graph import Graph
from revgraph.graph.loops import Loop
from revgraph.graph.operations import Affine, Embedding, Normalize, Opaque

_UNKNOWN = (TypeError, ValueError, LookupError, NotImplementedError, tf.errors.OpError)
"""What an operation raises that cannot be asked. Then all of its inputs count."""


class Fields:
    """The receptive fields of the positions of a tensor.

    Each operation between the inputs and the tensor is asked what it depends on, on the way back. Weights are replaced
    by ones, so that no weight that happens to be zero hides an entry. An operation whose slope depends on its input,
    such as a maximum, is asked on several inputs: ramps in all directions, so that every corner of a window has the
    maximum once, and noise. So the smallest box around the entries is the receptive field. Where an operation cannot be
    asked, all of its inputs count.

    Args:
        graph: The graph of the model.
        inputs: One sample as a flat list of inputs, (1, ...) each. Its sizes count, and what depends on no slope.
        slot: The tensor, (batch, ..., channels).
    """

    def __init__(self, graph: Graph, inputs: Sequence[np.ndarray], slot: int):
        graph = split_activations(graph)
        self.slot = slot
        self.graph = prune(graph.rewrite(graph.sites, outputs=[slot], output_names=("tensor",)))
        self._values = {s: v.numpy() for s, v in self.graph.run(inputs).items()}
        self._facts = Facts(self.graph)
        self._walk = tf.function(self._reached, autograph=False)

    def of(self, position: Sequence[int]) -> list[np.ndarray]:
        """Which entries of the inputs the channels of the tensor at a position depend on.

        Args:
            position: One int for each axis of the tensor between samples and channels.

        Returns:
            For each input a boolean array (1, ...), True at the entries.
        """
        start = np.zeros(self._values[self.slot].shape, bool)
        start[(0, *position)] = True
        return [mask.numpy() for mask in self._walk(tf.constant(start))]

    def _reached(self, start):
        reached = {self.slot: start}
        for site in reversed(self.graph.sites):
            masks = [reached.get(s) for s in site.outputs]
            for below, mask in zip(site.inputs, self._behind(site, masks), strict=True):
                reached[below] = reached[below] | mask if below in reached else mask
        return [reached.get(s, tf.zeros(self._values[s].shape, bool)) for s in self.graph.input_slots]

    def _behind(self, site, masks):
        """For each input of a site the entries on which the outputs depend where their masks are True."""
        facts, operation = self._facts, site.operation
        inputs = [self._values[s] for s in site.inputs]
        depends = [s in facts.dependent or s in facts.integers for s in site.inputs]
        some = tf.reduce_any([tf.reduce_any(mask) for mask in masks if mask is not None])
        everything = [tf.fill(x.shape, some & needed) for x, needed in zip(inputs, depends, strict=True)]
        if isinstance(operation, Loop | Opaque):
            return everything
        if operation.traits.pointwise:
            return [masks[0]]
        if isinstance(operation, Embedding):
            return [tf.reshape(tf.reduce_any(masks[0], axis=-1), inputs[0].shape), *everything[1:]]
        try:
            return _asked(operation, inputs, depends, masks, self.graph.dtype, some)
        except _UNKNOWN:
            return everything


def _asked(operation, inputs, depends, masks, dtype, some):
    """The entries with a slope on one of several inputs.

    Probes depend on `some`, so TensorFlow does not take them for constants, which it would compute when it compiles.
    """
    one = tf.cast(some, dtype)
    actual = [tf.cast(x, dtype) * one if needed else tf.constant(x) for x, needed in zip(inputs, depends, strict=True)]
    weights = operation.weights(dtype, actual)
    linear = getattr(operation, "fixed", isinstance(operation, Affine) and not isinstance(operation, Normalize))
    if linear:
        weights = {name: tf.ones_like(w) * one if w.dtype.is_floating else w for name, w in weights.items()}
    noise = _Noise(some, dtype)
    # The slopes of all entries have one sign, and noise keeps them from cancelling.
    seeds = [None if m is None else tf.cast(m, dtype) * (0.5 + noise.uniform(m.shape)) for m in masks]
    found = [tf.zeros(x.shape, bool) for x in inputs]
    for probe in [actual] if linear else _probes(actual, depends, noise):
        watched = [x for x, needed in zip(probe, depends, strict=True) if needed]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            pairs = zip(operation(probe, weights), seeds, strict=True)
            total = [tf.reduce_sum(y * seed) for y, seed in pairs if seed is not None and y.dtype.is_floating]
        slopes = iter(tape.gradient(total, watched))
        for i, needed in enumerate(depends):
            slope = next(slopes) if needed else None
            if slope is not None:
                found[i] = found[i] | (tf.convert_to_tensor(slope) != 0)
    return found


class _Noise:
    """Random numbers, the same in every run."""

    def __init__(self, some, dtype):
        self.some, self.dtype, self._drawn = some, dtype, itertools.count()

    def uniform(self, shape):
        """Numbers between 0 and 1."""
        return tf.random.stateless_uniform(shape, self._seed(), dtype=self.dtype)

    def normal(self, shape):
        """Numbers around 0."""
        return tf.random.stateless_normal(shape, self._seed(), dtype=self.dtype)

    def _seed(self):
        return tf.stack([next(self._drawn), tf.cast(self.some, tf.int32)])


def _probes(actual, depends, noise):
    """Inputs on which an operation is asked: ramps between 1 and 2 in all directions, and noise around 0."""

    def with_all(make):
        return [make(x.shape) if needed else x for x, needed in zip(actual, depends, strict=True)]

    axes = max((x.shape.rank - 2 for x, needed in zip(actual, depends, strict=True) if needed), default=0)
    for signs in itertools.product((1, -1), repeat=max(axes, 0)):

        def ramp(shape, signs=signs):
            # Entries that are equal would share, and only one of them might be found.
            values = 1 + 1e-3 * noise.uniform(shape) / max(shape)
            for axis, sign in zip(range(1, len(shape) - 1), signs, strict=False):
                along = np.linspace(0, 1, shape[axis])[::sign] / max(len(signs), 1)
                values += tf.constant(along.reshape(-1, *(1,) * (len(shape) - 1 - axis)), values.dtype)
            return values

        yield with_all(ramp)
    for _ in range(2):
        yield with_all(noise.normal)


def box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the True entries of a boolean array, one slice per axis; empty if there are none."""
    slices = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        slices.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, 0))
    return tuple(slices)
