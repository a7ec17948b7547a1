"""The peak of the memory that a call takes."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

_DEVICE = "CPU:0"


def peak(run: Callable[[], object]) -> float | None:
    """Megabytes by which the memory in use grows at most during a call; None where nothing tells.

    TensorFlow's own account is asked, which it keeps where its oneDNN kernels are on. Small tensors, up to a quarter of
    a megabyte, are not in it. Elsewhere Linux is asked by how much the process grows.
    """
    run()
    by_tensorflow = _by_tensorflow(run)
    return _by_linux(run) if by_tensorflow is None else by_tensorflow


def _by_tensorflow(run):
    try:
        tf.config.experimental.reset_memory_stats(_DEVICE)
        before = tf.config.experimental.get_memory_info(_DEVICE)["current"]
    except ValueError:
        return None
    run()
    return (tf.config.experimental.get_memory_info(_DEVICE)["peak"] - before) / 2**20


def _by_linux(run):
    process = Path("/proc/self")
    try:
        # What was freed before is given back first, and the peak of before is forgotten.
        ctypes.CDLL(None).malloc_trim(0)
        (process / "clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _status(process, "VmRSS")
    run()
    return (_status(process, "VmHWM") - before) / 2**10


def _status(process, field):
    return int(re.search(rf"{field}:\s+(\d+) kB", (process / "status").read_text())[1])
