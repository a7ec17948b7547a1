"""The peak of the memory that TensorFlow holds."""

from collections.abc import Callable

import tensorflow as tf

_DEVICE = "CPU:0"


def peak(run: Callable[[], object]) -> float | None:
    """Megabytes by which TensorFlow's memory grows at most during a call; None where TensorFlow does not say.

    TensorFlow's own account is asked: its allocator keeps what is freed, so that the size of the process says less.
    Small tensors, up to a quarter of a megabyte, are not in it.
    """
    run()
    try:
        tf.config.experimental.reset_memory_stats(_DEVICE)
        before = tf.config.experimental.get_memory_info(_DEVICE)["current"]
    except ValueError:
        return None
    run()
    return (tf.config.experimental.get_memory_info(_DEVICE)["peak"] - before) / 2**20
