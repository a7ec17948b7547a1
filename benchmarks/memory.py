"""The peak of the memory that a call takes."""

from collections.abc import Callable

import tensorflow as tf

_DEVICE = "CPU:0"


def peak(run: Callable[[], object]) -> float:
    """Megabytes by which the tensors in memory grow at most during a call, by TensorFlow's account.

    It keeps one where `processes.ACCOUNTED` is set when it starts.
    """
    run()
    tf.config.experimental.reset_memory_stats(_DEVICE)
    before = tf.config.experimental.get_memory_info(_DEVICE)["current"]
    run()
    return (tf.config.experimental.get_memory_info(_DEVICE)["peak"] - before) / 2**20
