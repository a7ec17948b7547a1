"""What goes wrong with relevance on its way: it explodes, or it vanishes. `analyze` watches for both."""

import warnings

import numpy as np
import tensorflow as tf

GROWTH = 1e3
"""The factor of growth of |R| through one site from which on `analyze` warns."""

LEAST = 0.1
"""The share of sum |R| that has to arrive at the inputs, or `analyze` warns."""


def growths(graph, forward, relevance, starts, limit=GROWTH) -> dict[str, tf.Tensor]:
    """By how much |R| grows on a backward walk: what arrives at a slot over what arrived at the sites that read it.

    Each tensor is summed once, and only if one of these sites divides: nothing else can make relevance explode. What
    its rule keeps within the limit by itself, as z+ does, is not measured either. All that arrived at a reader counts,
    whatever it handed on to its other inputs: growth is never more than through the worst of the readers.

    Args:
        graph: The graph that was walked.
        forward: The forward walk.
        relevance: Of every slot that was reached.
        starts: The relevance that started, by slot.
        limit: The factor of which one wants to know.

    Returns:
        Growth, the largest of the batch, by the paths of the sites that were measured; scalars.
    """
    readers, summed = {}, {}
    batch = tf.shape(forward.values[graph.input_slots[0]])[0]
    for site, pullback in zip(graph.sites, forward.pullbacks, strict=True):
        if any(slot in relevance for slot in site.outputs):
            for slot in dict.fromkeys(site.inputs):
                readers.setdefault(slot, []).append((site, pullback))

    def magnitude(slot, r):
        """Sum of |R| per sample; over all samples, where they share a tensor."""
        # Over the last axis first: TensorFlow takes longer over all at once.
        each = tf.reduce_sum(tf.abs(r), axis=-1) if r.shape.rank > 1 else tf.abs(r)
        if graph.specs[slot].shape[:1] != (None,):
            return tf.reduce_sum(each)
        # A layer applied at every time step has steps for samples. Other tensors may have no axis for samples at all.
        rows = tf.where(tf.size(each) % batch == 0, batch, 1)
        return tf.reduce_sum(tf.reshape(each, (rows, -1)), axis=1)

    def total(slot):
        if slot not in summed:
            summed[slot] = magnitude(slot, relevance[slot])
        return summed[slot]

    found = {}
    for slot, sites in readers.items():
        measured = [repr(site.path) for site, pullback in sites if pullback.growth > limit]
        if measured and slot in relevance:
            above = sum(total(s) for site, _ in sites for s in site.outputs if s in relevance)
            below = magnitude(slot, relevance[slot] - starts[slot]) if slot in starts else total(slot)
            factor = tf.reduce_max(tf.math.divide_no_nan(below, above))
            path = " or ".join(measured)
            found[path] = tf.maximum(found[path], factor) if path in found else factor
    return found


def warn_of_growth(factors, limit=GROWTH, stacklevel=2) -> bool:
    """Warns of where |R| grows most, if by more than `limit`.

    Args:
        factors: Growth by site, as `growths` found it.
        limit: Factor that is still let pass.
        stacklevel: Of the warning.

    Returns:
        Whether it warned.
    """
    worst = max(factors, key=factors.get, default=None)
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


def magnitudes(seeds, found) -> tf.Tensor:
    """sum |R| at the start and at the inputs, per sample.

    Args:
        seeds, found: Relevance at the start and at the inputs: lists of tensors, (batch, ...) each.

    Returns:
        Tensor (batch, 2).
    """

    def total(parts):
        return sum(tf.reduce_sum(tf.abs(tf.reshape(r, (tf.shape(r)[0], -1))), axis=1) for r in parts)

    return tf.stack([total(seeds), total(found)], axis=1)


def warn_of_vanishing(sums, stacklevel=2) -> bool:
    """Warns if of the relevance of the median sample less than a tenth arrives at the inputs.

    Args:
        sums: sum |R| at the start and at the inputs, (samples, 2).
        stacklevel: Of the warning.

    Returns:
        Whether it warned.
    """
    start, found = sums[sums[:, 0] > 0].T
    share = np.median(found / start) if len(start) else 1.0
    if not share < LEAST:
        return False
    warnings.warn(
        f"Relevance vanishes on its way: for the median sample the sum of |R| at the inputs is {share:.2g} of that at "
        f"the start. `conservation` shows which sites absorb it: biases, constants, or a stabiliser that is large "
        f"beside the activations.",
        stacklevel=stacklevel,
    )
    return True
