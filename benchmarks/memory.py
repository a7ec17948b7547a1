"""The peak of a process's memory."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Peak:
    """Megabytes by which the memory of this process grows at most, from the moment at which this is made."""

    def __init__(self):
        gc.collect()
        _give_back()
        self._exact = _reset()
        self._before = _status("VmRSS") if self._exact else _peak()

    def megabytes(self) -> float:
        peak = _status("VmHWM") if self._exact else _peak()
        return max(peak - self._before, 0.0)


def _give_back():
    """Returns freed memory to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _reset():
    """Whether the system's own record of the peak could be set back to what is in use now."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _status(name):
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _peak():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
