"""Normalizations of each sample by its own statistics, as operations."""

import tensorflow as tf

from revgraph.graph.operations import Normalize, reading


def of_layer(weights, axes, epsilon, variance_only=False) -> Normalize:
    """Layer normalization over these axes; with `variance_only` nothing is subtracted."""

    def mean(x):
        return tf.reduce_mean(x, axes, keepdims=True)

    def factor(x):
        centred = x - mean(x) if variance_only else x
        return tf.math.rsqrt(mean(tf.square(centred)) + epsilon)

    return Normalize(weights, None if variance_only else mean, factor)


def of_root_mean_square(weights, axes, epsilon) -> Normalize:
    """Root mean square normalization over these axes."""
    return Normalize(
        weights, None, lambda x: tf.math.rsqrt(tf.reduce_mean(tf.square(x), axes, keepdims=True) + epsilon)
    )


def to_unit_norm(axes, epsilon) -> Normalize:
    """Division by the Euclidean norm over these axes, or by epsilon where it is smaller."""

    def factor(x):
        return tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axes, keepdims=True), epsilon**2))

    return Normalize(reading({}), None, factor)


def over_groups(weights, groups, axis, rank, epsilon) -> Normalize:
    """Normalization of groups of channels, each over all axes but the batch axis."""
    over = [i for i in range(1, rank + 1) if i != axis]

    def mean(x):
        """The mean of each group, for each of its channels."""
        shape = tf.unstack(tf.shape(x))
        channels = shape[axis] // groups
        means = tf.reduce_mean(tf.reshape(x, [*shape[:axis], groups, channels, *shape[axis + 1 :]]), over)
        means = tf.repeat(means, channels, axis=1)
        return tf.reshape(means, [shape[0], *[1] * (axis - 1), shape[axis], *[1] * (rank - axis - 1)])

    return Normalize(weights, mean, lambda x: tf.math.rsqrt(mean(tf.square(x)) + epsilon))
