"""How many elements each window of an average pooling covers; padding does not count.

Each function gives a function of the pooling's input, whose result broadcasts against the pooling's output.
"""

import math

import tensorflow as tf
from keras import ops

from revgraph.graph.operations import along


def of_pooling(size, strides, padding, data_format):
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


def of_adaptive_pooling(windows, data_format):
    """Windows as many as asked for: the i-th goes from floor(i length / windows) to ceil((i + 1) length / windows)."""

    def covered(axis, length):
        i = tf.range(windows[axis])
        return -(-(i + 1) * length // windows[axis]) - i * length // windows[axis]

    return lambda x: _count(x, data_format, covered)


def _count(x, data_format, covered):
    """The product over the spatial axes of what windows cover along each."""
    rank, shape = x.shape.rank, tf.shape(x)
    first = 1 if data_format == "channels_last" else 2
    counts = [along(covered(i, shape[first + i]), first + i, rank) for i in range(rank - 2)]
    return math.prod(counts[1:], start=counts[0])


def of_mean(axes):
    """A mean over these axes; None for all."""

    def count(x):
        shape = tf.shape(x)
        return tf.size(x) if axes is None else math.prod(shape[axis] for axis in axes)

    return count


def of_global_pooling(data_format):
    """A mean over all spatial axes."""

    def count(x):
        first = 1 if data_format == "channels_last" else 2
        return tf.reduce_prod(tf.shape(x)[first : first + x.shape.rank - 2])

    return count


def of_mask(rank):
    """A mean over the steps that a mask (batch, steps) leaves, for an output of that rank."""

    def count(x, mask):
        steps = tf.reduce_sum(tf.cast(mask, x.dtype), axis=1)
        return tf.reshape(steps, (-1,) + (1,) * (rank - 1))

    return count


def pooling_3d(pool, direct, size, strides, padding, data_format):
    """Three-dimensional pooling as pooling in two dimensions: of height and width, then of depth.

    TensorFlow's own kernel does not do for two reasons. It does not exist for float64 on CPUs. And the gradient of its
    maximum counts every one of several equal maxima in full, so that relevance would be multiplied; in two dimensions
    one of them gets all.

    Args:
        pool: `keras.ops.max_pool` or `keras.ops.average_pool`.
        direct: The pooling as TensorFlow does it, which is used for averages in dtypes other than float64.
        size, strides, padding, data_format: Its geometry.
    """

    def plane(x):
        return pool(x, size[1:], strides[1:], padding, "channels_last")

    def depth(x):
        return pool(x, (size[0], 1), (strides[0], 1), padding, "channels_last")

    return _in_two_dimensions(plane, depth, data_format, direct if pool is ops.average_pool else None)


def adaptive_pooling(pool, direct, size, data_format):
    """Adaptive pooling, that in three dimensions as pooling in two for the same reasons as `pooling_3d`.

    Args:
        pool: `keras.ops.adaptive_max_pool` or `keras.ops.adaptive_average_pool`.
        direct: The pooling as TensorFlow does it.
        size: How many windows there are along each axis.
        data_format: Where the channels are.
    """

    def plane(x):
        return pool(x, size[1:], "channels_last")

    def depth(x):
        return pool(x, (size[0], x.shape[2]), "channels_last")

    volumes = _in_two_dimensions(plane, depth, data_format, direct if pool is ops.adaptive_average_pool else None)
    return lambda x: volumes(x) if x.shape.rank == 5 else direct(x)


def _in_two_dimensions(plane, depth, data_format, direct):
    """Pools height and width with `plane`, then depth, the first of two axes, with `depth`; or all at once."""

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


def sizes(x) -> list:
    """The sizes of a tensor as numbers where they are known, as tensors where not."""
    return [tf.shape(x)[i] if n is None else n for i, n in enumerate(x.shape)]


def resized_by_area(x, rows, columns):
    """An image whose entries are means of areas: one matrix per axis, because TensorFlow has no gradient of its own.

    Args:
        x: Images, (batch, height, width, channels).
        rows, columns: Their new height and width.
    """
    down, across = _areas(tf.shape(x)[1], rows, x.dtype), _areas(tf.shape(x)[2], columns, x.dtype)
    return tf.einsum("bijc,ri,sj->brsc", x, down, across)


def _areas(length, size, dtype):
    """The share of each of `length` entries in each of `size` areas."""
    step = tf.cast(length, dtype) / tf.cast(size, dtype)
    low = tf.cast(tf.range(size), dtype)[:, None] * step
    entry = tf.cast(tf.range(length), dtype)
    return tf.maximum(tf.minimum(low + step, entry + 1) - tf.maximum(low, entry), 0) / step
