"""How many entries each window of an average pooling covers, and poolings that TensorFlow lacks.

The functions `of_...` return a function of the pooling's input. Its result says how many entries each window covers,
padding left out, and broadcasts against the pooling's output.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
from keras import ops

from revgraph.graph.operations import along

Count: TypeAlias = Callable[[tf.Tensor], tf.Tensor | int]
"""How many entries each window covers, as a function of the pooling's input."""

Pooling: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""A pooling, as a function of its input."""


def of_pooling(size: Sequence[int], strides: Sequence[int], padding: str, data_format: str) -> Count:
    """Windows of one size."""

    def count(x):
        if padding == "valid":
            return math.prod(size)
        return _count(x, data_format, lambda axis, length: _covered(length, size[axis], strides[axis]))

    return count


def _covered(length, size, stride):
    windows = -(-length // stride)
    before = tf.maximum((windows - 1) * stride + size - length, 0) // 2
    start = tf.range(windows) * stride - before
    return tf.minimum(start + size, length) - tf.maximum(start, 0)


def of_adaptive_pooling(windows: Sequence[int], data_format: str) -> Count:
    """A given number of windows. Window i goes from floor(i length / windows) to ceil((i + 1) length / windows)."""

    def covered(axis, length):
        i = tf.range(windows[axis])
        return -(-(i + 1) * length // windows[axis]) - i * length // windows[axis]

    return lambda x: _count(x, data_format, covered)


def _count(x, data_format, covered):
    """The product of how many entries windows cover along each spatial axis."""
    rank, shape = x.shape.rank, tf.shape(x)
    first = 1 if data_format == "channels_last" else 2
    counts = [along(covered(i, shape[first + i]), first + i, rank) for i in range(rank - 2)]
    return math.prod(counts[1:], start=counts[0])


def of_mean(axes: Sequence[int] | None) -> Count:
    """A mean over these axes; None for all."""

    def count(x):
        shape = tf.shape(x)
        return tf.size(x) if axes is None else math.prod(shape[axis] for axis in axes)

    return count


def of_global_pooling(data_format: str) -> Count:
    """A mean over all spatial axes."""

    def count(x):
        first = 1 if data_format == "channels_last" else 2
        return tf.reduce_prod(tf.shape(x)[first : first + x.shape.rank - 2])

    return count


def of_mask(rank: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A mean over the steps that a mask `(batch, steps)` leaves, for an output of that rank."""

    def count(x, mask):
        steps = tf.reduce_sum(tf.cast(mask, x.dtype), axis=1)
        return tf.reshape(steps, (-1,) + (1,) * (rank - 1))

    return count


def pooling_3d(
    pool: Callable[..., tf.Tensor],
    direct: Pooling,
    size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    data_format: str,
) -> Pooling:
    """Three-dimensional pooling, done as two poolings in two dimensions: of height and width, then of depth.

    TensorFlow's own kernel has two flaws. It does not exist for float64 on CPUs. And the gradient of its maximum counts
    each of several equal maxima in full, which would multiply relevance. In two dimensions one of them gets all.

    Args:
        pool: `keras.ops.max_pool` or `keras.ops.average_pool`.
        direct: The pooling as TensorFlow does it. It is used for averages in dtypes other than float64.
        size, strides, padding, data_format: As in Keras.
    """

    def plane(x):
        return pool(x, size[1:], strides[1:], padding, "channels_last")

    def depth(x):
        return pool(x, (size[0], 1), (strides[0], 1), padding, "channels_last")

    return _in_two_dimensions(plane, depth, data_format, direct if pool is ops.average_pool else None)


def adaptive_pooling(pool: Callable[..., tf.Tensor], direct: Pooling, size: Sequence[int], data_format: str) -> Pooling:
    """Adaptive pooling. In three dimensions it is done as two poolings, for the reasons that `pooling_3d` has.

    Args:
        pool: `keras.ops.adaptive_max_pool` or `keras.ops.adaptive_average_pool`.
        direct: The pooling as TensorFlow does it.
        size: How many windows there are along each axis.
        data_format: `"channels_last"` or `"channels_first"`.
    """

    def plane(x):
        return pool(x, size[1:], "channels_last")

    def depth(x):
        return pool(x, (size[0], x.shape[2]), "channels_last")

    volumes = _in_two_dimensions(plane, depth, data_format, direct if pool is ops.adaptive_average_pool else None)
    return lambda x: volumes(x) if x.shape.rank == 5 else direct(x)


def _in_two_dimensions(plane, depth, data_format, direct):
    """A pooling of volumes: height and width with `plane`, then depth with `depth`; or all at once with `direct`."""

    def pooling(x):
        if direct is not None and x.dtype != tf.float64:
            return direct(x)
        if data_format == "channels_first":
            x = tf.transpose(x, (0, 2, 3, 4, 1))
        _, steps, height, width, channels = sizes(x)
        x = plane(tf.reshape(x, (-1, height, width, channels)))
        _, height, width, _ = sizes(x)
        x = depth(tf.reshape(x, (-1, steps, height * width, channels)))
        x = tf.reshape(x, (-1, sizes(x)[1], height, width, channels))
        return tf.transpose(x, (0, 4, 1, 2, 3)) if data_format == "channels_first" else x

    return pooling


def sizes(x: tf.Tensor) -> list[int | tf.Tensor]:
    """The size of each axis of a tensor: a number where it is known, else a tensor."""
    return [tf.shape(x)[i] if n is None else n for i, n in enumerate(x.shape)]


def resized_by_area(x: tf.Tensor, rows: int | tf.Tensor, columns: int | tf.Tensor) -> tf.Tensor:
    """Images whose entries are means over areas of x.

    One matrix per axis computes them, because TensorFlow's own operation has no gradient.

    Args:
        x: Images `(batch, height, width, channels)`.
        rows, columns: Their new height and width.
    """
    down, across = _areas(tf.shape(x)[1], rows, x.dtype), _areas(tf.shape(x)[2], columns, x.dtype)
    return tf.einsum("bijc,ri,sj->brsc", x, down, across)


def _areas(length, size, dtype):
    """A matrix `(size, length)`: the share of each of `length` entries in each of `size` areas."""
    step = tf.cast(length, dtype) / tf.cast(size, dtype)
    low = tf.cast(tf.range(size), dtype)[:, None] * step
    entry = tf.cast(tf.range(length), dtype)
    return tf.maximum(tf.minimum(low + step, entry + 1) - tf.maximum(low, entry), 0) / step
