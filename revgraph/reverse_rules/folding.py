"""Sums of relevance: over the copies of an entry, over a sample, over a site."""

from collections.abc import Iterable

import tensorflow as tf


def per_sample(t: tf.Tensor) -> tf.Tensor:
    """The sum of each sample: a tensor `(batch, ...)` summed over every axis but the first."""
    return tf.reduce_sum(t, axis=tuple(range(1, len(t.shape))))


def folded(relevance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The relevance of an input that was broadcast: the sum over all copies of each entry.

    Args:
        relevance: The relevance of the broadcast tensor.
        x: The input before it was broadcast.

    Returns:
        A tensor of the shape of x.
    """
    relevance = tf.convert_to_tensor(relevance)
    if not (x.shape[1:].is_fully_defined() and relevance.shape[1:].is_fully_defined()):
        axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(x), s1=tf.shape(relevance))
        return tf.ensure_shape(tf.reshape(tf.reduce_sum(relevance, axes), tf.shape(x)), x.shape)
    extra = relevance.shape.rank - x.shape.rank
    axes = [*range(extra), *(extra + i for i, n in enumerate(x.shape) if n == 1 and relevance.shape[extra + i] != 1)]
    if axes:
        relevance = tf.reduce_sum(relevance, axes, keepdims=True)
    return tf.squeeze(relevance, list(range(extra))) if extra else relevance


def lost(given: Iterable[tf.Tensor], taken: Iterable[tf.Tensor | None]) -> tf.Tensor:
    """How much of the relevance of a site's outputs its inputs did not get, per sample.

    Args:
        given: Relevance of each output.
        taken: Relevance of each input; None for indices.

    Returns:
        A tensor of shape `(batch,)`. Where a site turns the steps of a sequence into samples, or samples into steps,
        `batch` is the smaller of the two numbers of samples.
    """
    outputs, inputs = list(given), [r for r in taken if r is not None]
    batch = tf.reduce_min([tf.shape(r)[0] for r in (*outputs, *inputs)])
    out, into = (sum(_sums(r, batch) for r in side) for side in (outputs, inputs))
    return out - into


def _sums(t, batch):
    """The sum of each of `batch` equal parts of a tensor, split along its first axis."""
    return tf.reduce_sum(tf.reshape(t, (batch, -1)), axis=1)
