"""Two dangers on the way of relevance: it may explode or vanish. `analyze` watches for both and warns."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Graph, Site
from revgraph.reverse.reverse_graph import Forward
from revgraph.reverse_rules import Pullback

GROWTH = 1e3
"""`analyze` warns if the sum of |R| grows by more than this factor through one site."""

LEAST = 0.1
"""`analyze` warns if less than this share of sum |R| arrives at the inputs."""


def growths(
    graph: Graph,
    forward: Forward,
    relevance: Mapping[int, tf.Tensor],
    starts: Mapping[int, tf.Tensor],
    limit: float = GROWTH,
) -> dict[str, tf.Tensor]:
    """The factors by which sum |R| grows through the sites of a backward walk.

    A slot is the number of a tensor in a graph. The growth at a slot is sum |R| at the slot over sum |R| at the outputs
    of the sites that read the slot. It counts all relevance of these sites, even what they hand on to other inputs, so
    it is at most the growth through the worst of them.

    Each tensor is summed once. Sites are not measured if their rule cannot let relevance grow beyond the limit, such as
    rules that do not divide, and z+.

    Args:
        graph: The graph that was walked.
        forward: The forward walk.
        relevance: Relevance by slot, of every slot that was reached.
        starts: The relevance that started, by slot.
        limit: Growth up to this factor need not be measured.

    Returns:
        The largest growth in the batch, a scalar, by the paths of the sites that were measured.
    """
    readers: dict[int, list[tuple[Site, Pullback]]] = {}
    summed: dict[int, tf.Tensor] = {}
    batch = tf.shape(forward.values[graph.input_slots[0]])[0]
    for site, pullback in zip(graph.sites, forward.pullbacks, strict=True):
        if any(slot in relevance for slot in site.outputs):
            for slot in dict.fromkeys(site.inputs):
                readers.setdefault(slot, []).append((site, pullback))

    def magnitude(slot, r):
        """Sum of |R| per sample, or one sum if all samples share the tensor."""
        # The last axis is summed first, because TensorFlow takes longer for all axes at once.
        each = tf.reduce_sum(tf.abs(r), axis=-1) if r.shape.rank > 1 else tf.abs(r)
        if graph.specs[slot].shape[:1] != (None,):
            return tf.reduce_sum(each)
        # Where a layer is applied at every time step, the first axis is batch times steps. Other tensors may have no
        # axis for samples at all.
        rows = tf.where(tf.size(each) % batch == 0, batch, 1)
        return tf.reduce_sum(tf.reshape(each, (rows, -1)), axis=1)

    def total(slot):
        if slot not in summed:
            summed[slot] = magnitude(slot, relevance[slot])
        return summed[slot]

    found: dict[str, tf.Tensor] = {}
    for slot, sites in readers.items():
        measured = [repr(site.path) for site, pullback in sites if pullback.growth > limit]
        if measured and slot in relevance:
            above = sum(total(s) for site, _ in sites for s in site.outputs if s in relevance)
            below = magnitude(slot, relevance[slot] - starts[slot]) if slot in starts else total(slot)
            factor = tf.reduce_max(tf.math.divide_no_nan(below, above))
            path = " or ".join(measured)
            found[path] = tf.maximum(found[path], factor) if path in found else factor
    return found


def warn_of_growth(factors: Mapping[str, float], limit: float = GROWTH, stacklevel: int = 2) -> bool:
    """Warns of the site through which sum |R| grows most, if it grows by more than `limit`.

    Args:
        factors: Growth by site, as `growths` returns it.
        limit: The largest factor without a warning.
        stacklevel: The stack level of the warning.

    Returns:
        Whether it warned.
    """
    worst = max(factors, key=lambda path: factors[path], default=None)
    if worst is None or not factors[worst] > limit:
        return False
    warnings.warn(
        f"Relevance explodes at {worst}: the sum of |R| grows {factors[worst]:.3g}-fold there, because contributions "
        f"of opposite sign cancel. Give that site a larger epsilon or gamma, such as "
        f"revgraph.Composite(({worst.split(' or ')[0]}, Epsilon(1e-2)), ...) or Gamma(0.25), or ZPlus where it is an "
        f"Add. `conservation` shows the growth through every site.",
        stacklevel=stacklevel,
    )
    return True


def magnitudes(seeds: Iterable[tf.Tensor], found: Iterable[tf.Tensor]) -> tf.Tensor:
    """Sum |R| at the start and at the inputs, per sample.

    Args:
        seeds: Relevance at the start, tensors (batch, ...).
        found: Relevance at the inputs, tensors (batch, ...).

    Returns:
        Tensor (batch, 2).
    """

    def total(parts):
        return sum(tf.reduce_sum(tf.abs(tf.reshape(r, (tf.shape(r)[0], -1))), axis=1) for r in parts)

    return tf.stack([total(seeds), total(found)], axis=1)


def warn_of_vanishing(sums: np.ndarray, stacklevel: int = 2) -> bool:
    """Warns if less than a tenth of the relevance of the median sample arrives at the inputs.

    Args:
        sums: Sum |R| at the start and at the inputs, (samples, 2), as `magnitudes` returns it.
        stacklevel: The stack level of the warning.

    Returns:
        Whether it warned.
    """
    start, found = sums[sums[:, 0] > 0].T
    share = np.median(found / start) if len(start) else 1.0
    if not share < LEAST:
        return False
    warnings.warn(
        f"Relevance vanishes on its way: for the median sample the sum of |R| at the inputs is {share:.2g} of that at "
        f"the start. `conservation` shows which sites absorb it. Biases and constants do, and so does a stabiliser "
        f"(epsilon) that is large compared with the activations.",
        stacklevel=stacklevel,
    )
    return True
