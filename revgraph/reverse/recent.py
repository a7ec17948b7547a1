"""A memory of bounded size for values that are expensive to make, such as compiled functions."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

QUESTIONS = 64
"""An analyzer keeps the compiled functions of so many questions."""


class Recent(OrderedDict[Hashable, Any]):
    """The values that were asked for last. A value is made when it is first asked for, and the oldest are dropped.

    Several threads may ask at once: one of them makes the value while the others wait.

    Args:
        size: The number of values that are kept.
    """

    def __init__(self, size: int = QUESTIONS):
        super().__init__()
        self.size = size
        self._lock = threading.RLock()

    def value(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key. If there is none, `make()` makes it."""
        with self._lock:
            if key not in self:
                self[key] = make()
            self.move_to_end(key)
            value = self[key]
            while len(self) > self.size:
                self.popitem(last=False)
            return value
