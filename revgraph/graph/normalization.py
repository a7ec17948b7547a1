"""Operations that normalize each sample by its own statistics.

Each function here makes one. Arguments `weights` read `"kernel"` and `"bias"`, the scale and shift behind the
normalization. Arguments `epsilon` are the small numbers that are added to variances.
"""

from collections.abc import Sequence

import tensorflow as tf

from revgraph.graph.operations import Normalize, Reader, reading


def of_layer(weights: Reader, axes: int | Sequence[int], epsilon: float, variance_only: bool = False) -> Normalize:
    """Layer normalization over these axes. With `variance_only` the mean is not subtracted."""

    def mean(x):
        return tf.reduce_mean(x, axes, keepdims=True)

    def factor(x):
        centred = x - mean(x) if variance_only else x
        return tf.math.rsqrt(mean(tf.square(centred)) + epsilon)

    return Normalize(weights, None if variance_only else mean, factor)


def of_root_mean_square(weights: Reader, axes: int | Sequence[int], epsilon: float) -> Normalize:
    """Division by the root of the mean square over these axes."""
    return Normalize(
        weights, None, lambda x: tf.math.rsqrt(tf.reduce_mean(tf.square(x), axes, keepdims=True) + epsilon)
    )


def to_unit_norm(axes: int | Sequence[int], epsilon: float) -> Normalize:
    """Division by the Euclidean norm over these axes, or by epsilon where the norm is smaller."""

    def factor(x):
        return tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axes, keepdims=True), epsilon**2))

    return Normalize(reading({}), None, factor)


def over_groups(weights: Reader, groups: int, axis: int, rank: int, epsilon: float) -> Normalize:
    """Group normalization: groups of channels, each normalized over all axes but the batch axis.

    Args:
        weights: Reads scale and shift.
        groups: How many groups there are.
        axis: The axis of the channels.
        rank: How many axes the input has.
        epsilon: Added to the variance.
    """
    over = [i for i in range(1, rank + 1) if i != axis]

    def mean(x):
        """The mean of each group, repeated for each of its channels."""
        shape = tf.unstack(tf.shape(x))
        channels = shape[axis] // groups
        means = tf.reduce_mean(tf.reshape(x, [*shape[:axis], groups, channels, *shape[axis + 1 :]]), over)
        means = tf.repeat(means, channels, axis=1)
        return tf.reshape(means, [shape[0], *[1] * (axis - 1), shape[axis], *[1] * (rank - axis - 1)])

    return Normalize(weights, mean, lambda x: tf.math.rsqrt(mean(tf.square(x)) + epsilon))
