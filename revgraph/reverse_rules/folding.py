"""Sums of relevance: over copies of an entry, and over a site."""

import tensorflow as tf


def folded(relevance, x):
    """Relevance of a result summed over the axes along which x was broadcast."""
    relevance = tf.convert_to_tensor(relevance)
    if not (x.shape[1:].is_fully_defined() and relevance.shape[1:].is_fully_defined()):
        axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(x), s1=tf.shape(relevance))
        return tf.ensure_shape(tf.reshape(tf.reduce_sum(relevance, axes), tf.shape(x)), x.shape)
    extra = relevance.shape.rank - x.shape.rank
    axes = [*range(extra), *(extra + i for i, n in enumerate(x.shape) if n == 1 and relevance.shape[extra + i] != 1)]
    if axes:
        relevance = tf.reduce_sum(relevance, axes, keepdims=True)
    return tf.squeeze(relevance, list(range(extra))) if extra else relevance


def lost(given, taken) -> tf.Tensor:
    """How much of the relevance of a site's outputs its inputs did not get, per sample.

    Args:
        given: Relevance of each output.
        taken: Relevance of each input; None for indices.

    Returns:
        Tensor of shape (batch,). Where a site makes steps samples, or samples steps, the smaller of the two counts.
    """
    given, taken = list(given), [r for r in taken if r is not None]
    batch = tf.reduce_min([tf.shape(r)[0] for r in (*given, *taken)])
    total = [sum(_sums(r, batch) for r in side) for side in (given, taken)]
    return total[0] - total[1]


def _sums(t, batch):
    """Sums of the parts of a tensor, of which each sample has one after the other."""
    return tf.reduce_sum(tf.reshape(t, (batch, -1)), axis=1)
