"""A bounded memory of what was made for the last questions."""

import threading
from collections import OrderedDict
from collections.abc import Callable

QUESTIONS = 64
"""How many questions an analyzer keeps the compiled functions of."""


class Recent(OrderedDict):
    """The values that were last asked for, made when they are first asked for; the oldest are forgotten.

    Threads may ask at once: a value is made once, while the others wait.

    Args:
        size: How many values are kept.
    """

    def __init__(self, size=QUESTIONS):
        super().__init__()
        self.size = size
        self._lock = threading.RLock()

    def value(self, key, make: Callable):
        """The value of a key, made by `make()` if it is not there."""
        with self._lock:
            if key not in self:
                self[key] = make()
            self.move_to_end(key)
            value = self[key]
            while len(self) > self.size:
                self.popitem(last=False)
            return value
